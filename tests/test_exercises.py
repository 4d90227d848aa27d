"Exercises are found in every notebook, each checker belongs to one of them, and only a reader's own cell that ran makes one done"
import json, re, subprocess, sys
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
from hettrans.exercises import STATES, Progress, called, exercises_of, find_book, heads_in, main, own_cells, progress

ROOT = Path(__file__).parents[1]
BOOK = {f.relative_to(ROOT/'nbs').with_suffix('').as_posix(): json.loads(f.read_text(encoding='utf-8'))['cells'] for f in sorted((ROOT/'nbs').glob('*/[0-9]*.ipynb'))}
ALL = progress(folder=ROOT)

def prose(s): return dict(cell_type='markdown', source=s.splitlines(True))
def code(s, count=None, outputs=()): return dict(cell_type='code', source=s.splitlines(True), execution_count=count, outputs=[dict(output_type=o) for o in outputs])

# -- the book ---------------------------------------------------------------------------------------------------------------

def test_every_notebook_has_exercises_with_level_and_minutes():
    assert {e.notebook for e in ALL} == set(BOOK)
    for name in BOOK:
        es = [e for e in ALL if e.notebook == name]
        assert 2 <= len(es) <= 4 and [e.number for e in es] == [*range(1, len(es) + 1)], name
    assert not [e for e in ALL if not (e.level and e.minutes and e.title)]

def test_every_checker_belongs_to_one_exercise():
    for name, cells in BOOK.items():
        made = [n for c in cells if c['cell_type'] == 'code' for n in re.findall(r'^def (check_\w+)\(f\)', ''.join(c['source']), re.M)]
        mine = [e.checker for e in ALL if e.notebook == name and e.checker]
        assert len(set(mine)) == len(mine) and set(made) <= set(mine), (name, set(made) - set(mine))
        for e in ALL:
            if e.notebook == name and not e.checker: assert e.state == 'by eye'

def test_the_books_own_cells_never_count():
    "Neither as they are stored nor after every cell has run"
    for name, cells in BOOK.items():
        ran = [c | dict(execution_count=1) if c['cell_type'] == 'code' else c for c in cells]
        checkers = {e.checker for e in exercises_of(cells) if e.checker}
        assert not [c for c in own_cells(ran) if called(''.join(c['source'])) & checkers], name
        assert {e.state for e in exercises_of(ran)} <= {'open', 'by eye'}, name

@pytest.mark.parametrize('name', BOOK)
def test_a_cell_of_ones_own_is_seen_in_every_notebook(name):
    cells, es = BOOK[name], [e for e in ALL if e.notebook == name and e.checker]
    last = max(i for i, c in enumerate(cells) if c['cell_type'] == 'code' and 'def check_' in ''.join(c['source'])) + 1
    for at in {last, len(cells)}:
        for mine in es:
            new = exercises_of([*cells[:at], code(f'def mine(*a): return a\n{mine.checker}(mine)', 9), *cells[at:]])
            assert [e.checker for e in new if e.state == 'done'] == [mine.checker], (at, mine)

# -- cells ------------------------------------------------------------------------------------------------------------------

ONE = [prose('# T\n\ntext\n\n## Exercises\n\n**1. Twice** (easy, 5 minutes). Write `twice(x)`.'), code('def check_twice(f): assert f(2) == 4\nwith expect_fail(): check_twice(lambda x: x)'),
       prose('<details><summary>Solution</summary>Twice.</details>'), code('check_twice(lambda x: 2*x)')]

@pytest.mark.parametrize('cell, state', [(code('check_twice(mine)', 1), 'done'), (code('check_twice(mine)', 1, ['stream']), 'done'), (code('check_twice(mine)', None, ['execute_result']), 'done'),
    (code('check_twice(mine)', 1, ['stream', 'error']), 'tried'), (code('check_twice(mine)'), 'written'), (code('def f():\n    check_twice(mine)', 1), 'open'), (code('# check_twice(mine)', 1), 'open'),
    (code('with expect_fail(): check_twice(mine)', 1), 'open'), (code('test_fail(lambda: check_twice(mine))', 1), 'open'), (code('check_twice(mine', 1, ['error']), 'tried'),
    (code('%time\ncheck_twice(my_solution)', 1), 'done'), (code('assert check_twice(mine) is None', 1), 'done'), (code('check_thrice(mine)', 1), 'open')])
def test_what_a_cell_says(cell, state):
    assert [e.state for e in exercises_of([*ONE, cell])] == [state]
    assert [e.state for e in exercises_of([*ONE[:2], cell, *ONE[2:]])] == [state]

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STATES[1:]), st.booleans()), max_size=5))
def test_the_best_attempt_counts(attempts):
    "In whatever order, before or behind the book's solution"
    make = dict(written=code('check_twice(mine)'), tried=code('check_twice(mine)', 1, ['error']), done=code('check_twice(mine)', 1))
    cells = [*ONE[:2], *(make[s] for s, early in attempts if early), *ONE[2:], *(make[s] for s, early in attempts if not early)]
    assert exercises_of(cells)[0].state == max((s for s, _ in attempts), key=STATES.index, default='open')

@pytest.mark.parametrize('head, found', [('**1. A b?** (easy, 5 minutes). Write `f(x)`', (1, 'A b?', 'easy', 5, 'f')), ('**2.** *(medium, 10 minutes)* Write `g_h(x)`', (2, 'g_h', 'medium', 10, 'g_h')),
    ('**3** (hard, 15 minutes). Why?', (3, 'exercise 3', 'hard', 15, '')), ('**1. X.** *(harder, 1 minute)* Write `y`', (1, 'X', 'hard', 1, 'y')), ('**1. X** (5 minutes, easy) Y', (1, 'X', 'easy', 5, '')), ('**1. X** (by hand). Y', (1, 'X', '', 0, ''))])
def test_heads(head, found): assert heads_in('Text.\n\n' + head) == [found]

# -- a copy -----------------------------------------------------------------------------------------------------------------

@pytest.fixture
def copy(tmp_path):
    for name, cells in (('01_a', ONE), ('01b_b', [*ONE, code('check_twice(mine)', 1)])):
        f = tmp_path/'nbs'/'0_x'/f'{name}.ipynb'; f.parent.mkdir(parents=True, exist_ok=True); f.write_text(json.dumps(dict(cells=cells)))
    return tmp_path

def test_a_copy_is_read_and_shown(copy):
    es = progress(folder=copy)
    assert isinstance(es, Progress) and [e.state for e in es] == ['open', 'done'] and progress(folder=copy/'nbs') == es and progress('0_x', copy) == es
    assert [e.notebook for e in progress('01', copy)] == ['0_x/01_a'] and [e.notebook for e in progress('01b', copy)] == ['0_x/01b_b']
    assert repr(es).splitlines()[-1].split() == ['all', '2', '1', '0', '1', '0', '5'] and 'Twice' in repr(progress('01', copy)) and es._repr_html_().count('<tr>') == 4

def test_names_in_html_are_escaped(copy):
    f = copy/'nbs'/'0_x'/'01_a.ipynb'; f.write_text(f.read_text().replace('Twice*', '<b>&*'))
    assert '<b>' not in progress('01', copy)._repr_html_() and '&lt;b&gt;&amp;' in progress('01', copy)._repr_html_()

def test_the_command_needs_nothing_heavy(copy):
    run = lambda *a: subprocess.run([sys.executable, *a], capture_output=True, text=True, cwd=copy)
    r = run('-m', 'hettrans.exercises'); assert r.returncode == 0 and r.stdout.splitlines()[-1].startswith('all'), r.stderr
    r = run('-c', 'import sys, hettrans.exercises as e; e.main([]); print([m for m in ("torch", "numpy", "pandas") if m in sys.modules])'); assert r.stdout.splitlines()[-1] == '[]', r.stdout + r.stderr

@pytest.mark.parametrize('args, said', [(['99'], "no notebook '99'"), (['--folder', 'nowhere'], 'no notebooks in nowhere')])
def test_errors_are_one_line(copy, capsys, args, said):
    assert main(args if '--folder' in args else [*args, '--folder', str(copy)]) == 2
    err = capsys.readouterr().err; assert said in err and err.count('\n') == 1

def test_a_file_that_is_no_notebook_is_named(copy, capsys):
    (copy/'nbs'/'0_x'/'02_c.ipynb').write_text('{'); assert main(['--folder', str(copy)]) == 2 and '02_c.ipynb' in capsys.readouterr().err

def test_the_folder_is_found_from_below(copy, monkeypatch):
    monkeypatch.chdir(copy/'nbs'/'0_x'); assert find_book() == copy/'nbs'
