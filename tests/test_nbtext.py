"tools/nbtext.py: notebook to text and back"
import json, runpy
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st

ROOT = Path(__file__).parents[1]
nbtext = runpy.run_path(str(ROOT/'tools'/'nbtext.py'))
NOTEBOOKS = sorted((ROOT/'nbs').glob('[!_.]*/[!_.]*.ipynb'))

lines = st.sampled_from(['x = 1', '', '  y', '```', '````', '+++', '# head', 'a `b` c', '    indented', '```python', '~~~', '"""', '$x_{td}$'])
code = st.lists(lines, max_size=6).map('\n'.join)
prose = st.lists(st.sampled_from(['# Head', 'text', '', '- item', '$$x$$', '| a |', '    indented']), min_size=1, max_size=6).map('\n'.join).map(lambda s: s.strip('\n')).filter(str.strip)
fenced = st.sampled_from(['text\n\n```toml\n+++\nname = 1\n```\nmore', '````markdown\n```python\nx\n```\n````', '~~~\n```python\n~~~'])
cells = st.lists(st.tuples(st.just('code'), code) | st.tuples(st.just('markdown'), prose | fenced), max_size=8)

@settings(deadline=None, max_examples=200)
@given(cells)
def test_text_gives_the_cells_back(cs):
    assert nbtext['parse'](nbtext['render'](cs)) == cs

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_survives(nb, tmp_path):
    text, copy = tmp_path/'a.md', tmp_path/nb.name
    nbtext['pull'](nb, text)
    copy.write_bytes(nb.read_bytes())
    nbtext['push'](text, copy)
    old, new = json.loads(nb.read_text()), json.loads(copy.read_text())
    for c in old['cells']:          # only blank lines around Markdown may go, and cells without text
        if c['cell_type'] == 'markdown': c['source'] = ''.join(c['source']).strip('\n').splitlines(True)
    assert new == old | dict(cells=[c for c in old['cells'] if c['source'] or c['cell_type'] == 'code'])

def test_an_edit_keeps_the_outputs_of_the_other_cells(tmp_path):
    nb, text = tmp_path/'a.ipynb', tmp_path/'a.md'
    text.write_text('# Title\n\n```python\n1+1\n```\n\n```python\n2+2\n```\n')
    nbtext['push'](text, nb)
    d = json.loads(nb.read_text())
    for c, out in zip(d['cells'][1:], '24'): c['outputs'] = [dict(output_type='execute_result', data={'text/plain': [out]}, metadata={}, execution_count=None)]
    nb.write_text(json.dumps(d))
    text.write_text(text.read_text().replace('1+1', '1+2'))
    nbtext['push'](text, nb)
    new = json.loads(nb.read_text())['cells']
    assert new[1]['outputs'] == [] and new[2] == d['cells'][2] and new[0] == d['cells'][0] and new[1]['id'] != d['cells'][1]['id']

def test_equal_cells_get_distinct_ids(tmp_path):
    nb, text = tmp_path/'a.ipynb', tmp_path/'a.md'
    text.write_text('```python\nx\n```\n' * 3)
    assert nbtext['push'](text, nb) == 3 and len({c['id'] for c in json.loads(nb.read_text())['cells']}) == 3

@pytest.mark.parametrize('md', ['a\n+++\nb', '```python\nx\n```', '```\nopen'])
def test_pull_refuses_what_it_could_not_give_back(tmp_path, md, capsys):
    nb = tmp_path/'a.ipynb'
    nb.write_text(json.dumps(dict(cells=[dict(cell_type='markdown', source=md), dict(cell_type='code', source='1')])))
    assert nbtext['main'](['pull', str(nb), str(tmp_path/'a.md')]) == 2 and not (tmp_path/'a.md').exists()
    assert capsys.readouterr().err.startswith('nbtext: ')

def test_an_open_code_fence_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='never closed'): nbtext['parse']('text\n```python\nx = 1\n')
