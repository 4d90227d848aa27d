"Training curves show what metrics.jsonl holds, live and afterwards; a resumed run goes on in its picture; a damaged or absent file is an InputError"
import json, math, subprocess, sys
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
from hettrans import fit, open_dataset
from hettrans.data.schema import InputError
from hettrans.engine.loop import Progress
from hettrans.viz.curves import StepLosses, TrainingCurves, curve_data, kept_epoch, read_epochs
from tiny import TINY, shop

class Killed(Exception): pass

def lines(folder): return [json.loads(l) for l in (Path(folder)/'metrics.jsonl').read_text().splitlines()]

def agrees(shown, folder):
    "Does the picture say what the folder says, to six digits?"
    want = lines(folder)
    assert shown['epochs'] == len(want) > 0 and set(shown['columns']) == {k for l in want for k in l} - {'epoch'}
    for k, column in shown['columns'].items(): assert column == [None if l[k] is None else pytest.approx(l[k], rel=1e-5) for l in want], k
    assert shown['kept'] == json.loads((Path(folder)/'training.json').read_text())['best_epoch']
    json.dumps(shown, allow_nan=False)                  # a browser reads no NaN

def timeless(r): return r | dict(columns={k: v for k, v in r['columns'].items() if k != 'seconds'})

@pytest.fixture(scope='module')
def ds(): return open_dataset(shop())

@pytest.mark.parametrize('model, fields', [('sasrec', TINY), ('pointwise-homer', dict(d=8, d_embed=8, decoder_layers=1, batch=16, epochs=3, metric='logloss', lr=.02))])
def test_live_and_afterwards_it_shows_what_the_folder_holds(ds, tmp_path, model, fields):
    curves, heard = TrainingCurves(every=0), []
    def watch(kind, facts): heard.append(kind); curves(kind, facts)
    if model != 'sasrec': ds = open_dataset('marketplace', users=60, items=150, requests=3)
    run = fit(model, ds, tmp_path/'first', bar=False, watch=watch, **fields)
    live, = curves.data['runs']; later, = TrainingCurves.of(run).data['runs']
    agrees(live, run.path); agrees(later, run.path)
    assert live['name'] == 'first' and live['planned'] == 0 and len(live['steps']['loss']) == heard.count('step') > 0
    assert {k: v for k, v in later.items() if k not in ('steps', 'now')} == {k: v for k, v in live.items() if k not in ('steps', 'now')}
    assert live['metric'] == ('-logloss' if 'metric' in fields else 'ndcg@10')
    mean = math.fsum(live['steps']['loss'])/heard.count('step')
    assert mean == pytest.approx(math.fsum(live['columns']['loss'])/len(live['columns']['loss']), rel=.2)          # the means of epochs are means of those steps

@pytest.mark.parametrize('die', [3, 7])
def test_a_resumed_run_goes_on_in_its_picture(ds, tmp_path, die):
    same, fields = TrainingCurves(every=0), TINY | dict(epochs=3, save_every=2)
    def until(kind, facts):
        same(kind, facts)
        if kind == 'step': until.n += 1
        if until.n == die: raise Killed
    until.n = 0
    with pytest.raises(Killed): fit('sasrec', ds, tmp_path/'run', bar=False, watch=until, **fields)
    assert len(same.data['runs'][0]['steps']['x']) == die
    new = TrainingCurves(every=0)                        # as after a restart of the kernel
    def both(kind, facts): same(kind, facts); new(kind, facts)
    broken = fit('sasrec', ds, tmp_path/'run', bar=False, resume=True, watch=both, **fields)
    whole = TrainingCurves(every=0); fit('sasrec', ds, tmp_path/'other'/'run', bar=False, watch=whole, **fields)
    a, b, c = (timeless(w.data['runs'][0]) for w in (same, whole, new))
    assert a == b and len(same.data['runs']) == 1        # nothing twice, nothing lost
    assert {k: v for k, v in c.items() if k != 'steps'} == {k: v for k, v in b.items() if k != 'steps'} and c['steps']['x'] == b['steps']['x'][-len(c['steps']['x']):]
    agrees(same.data['runs'][0], broken.path)

def test_a_finished_run_resumed_is_shown_as_it_is(ds, tmp_path):
    run, curves = fit('sasrec', ds, tmp_path/'run', bar=False, **TINY), TrainingCurves()
    fit('sasrec', ds, tmp_path/'run', bar=False, resume=True, watch=curves, **TINY)
    agrees(curves.data['runs'][0], run.path)

GOOD = '{"epoch": 0, "loss": 2.5, "lr": 0.1, "seconds": 1.0, "ndcg@10": 0.2}\n'

@pytest.mark.parametrize('text, said', [(None, 'there is no such file'), ('{"epoch": 0\n', 'line 1: damaged'), (GOOD + GOOD, 'line 2: damaged, epoch 1'), (GOOD + '\n', 'line 2: damaged'), ('[1]\n', 'line 1'), ('7\n', 'line 1'), ('{"epoch": 0, "loss": 1}\n', 'loss and lr'),
    (GOOD.replace('2.5', '"2.5"'), 'loss is no number'), (GOOD.replace('0.2', 'true'), 'ndcg@10 is no number'), ('['*200_000 + '\n', 'line 1: damaged'), (b'\xff\xfe\n', 'cannot be read'), ('epoch,loss\n0,1\n', 'line 1: damaged')])
def test_a_damaged_or_absent_file_is_said_in_one_line(tmp_path, text, said):
    if text is not None: (tmp_path/'metrics.jsonl').write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as e: TrainingCurves.of(tmp_path)
    assert said in str(e.value) and 'metrics.jsonl' in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 400

@pytest.mark.parametrize('config', ['', '{', '[]', '{"config": {"train": {}}}', '{"config": 1}'])
def test_a_damaged_config_is_said_in_one_line(tmp_path, config):
    (tmp_path/'metrics.jsonl').write_text(GOOD); (tmp_path/'config.json').write_text(config)
    with pytest.raises(InputError, match='config.json: damaged'): TrainingCurves.of(tmp_path)
    assert TrainingCurves.of(tmp_path, metric='ndcg@10').data['runs'][0]['kept'] == 0

def test_a_line_that_is_being_written_is_no_line(tmp_path):
    for end in ('', '{', GOOD[:-1]):
        (tmp_path/'metrics.jsonl').write_text(GOOD + end)
        assert len(read_epochs(tmp_path)) == 1

def test_folders_of_one_name_are_told_apart(tmp_path):
    for part in 'ab': (tmp_path/part/'run').mkdir(parents=True); (tmp_path/part/'run'/'metrics.jsonl').write_text(GOOD)
    assert [r['name'] for r in TrainingCurves.of(tmp_path/'a'/'run', tmp_path/'b'/'run').data['runs']] == [str(tmp_path/p/'run') for p in 'ab']
    assert [r['name'] for r in TrainingCurves.of(str(tmp_path/'a'/'run')).data['runs']] == ['run']

def test_a_watcher_that_is_no_function_is_refused_at_once(ds, tmp_path):
    with pytest.raises(InputError, match='watch = .yes.: a function'): fit('sasrec', ds, tmp_path/'run', watch='yes')
    assert not (tmp_path/'run').exists()
    run = fit('popularity', ds, tmp_path/'counted', watch=lambda *a: 1/0)                # counts, so there is nothing to tell
    with pytest.raises(InputError, match='a model that only counts has none'): TrainingCurves.of(run)

@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), max_size=300), st.sampled_from((2, 4, 10, 64)), st.integers(0, 300))
def test_thinned_losses_are_means_of_neighbours(losses, most, at):
    few = StepLosses(most)
    for k, x in enumerate(losses): few.add(k + 1., x, .1)
    each = 1
    while len(losses)//each >= most: each *= 2
    assert few.each == each and len(few.points) < most and [p[0] for p in few.points] == [*range(each, len(losses) + 1, each)]
    assert [p[1] for p in few.points] == [pytest.approx(sum(losses[i:i + each])/each, abs=1e-6) for i in range(0, len(losses) - each + 1, each)]
    few.cut(at); assert all(p[0] <= at for p in few.points) and few.open == []

@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.sampled_from((.1, .2, .3)), st.floats(0, 1), st.just(math.nan)), max_size=20))
def test_the_kept_epoch_is_that_of_the_loop(values):
    p = Progress()
    for v in values: p.validated(v)
    assert kept_epoch(values) == p.best_epoch

def test_a_long_run_fits_into_a_notebook():
    epochs = [dict(epoch=e, loss=1/(e + 3), lr=1e-3/(e + 1), seconds=e*1.1, **{f'recall@{k}': (e*k % 97)/97 for k in range(12)}) for e in range(1000)]
    curves = TrainingCurves(every=1e9); curves('run', dict(out='runs/long', metric='recall@3', epochs=1000, epoch=0, step=0, kept=[]))
    for n in range(20_000): curves('step', dict(epoch=n//20, step=n % 20 + 1, steps=20, loss=1/(n + 1), lr=1e-3))
    curves.runs['long']['epochs'] = epochs; curves('end', {})
    assert len(curves.data['runs'][0]['steps']['x']) < 200 and curves.size < 300_000

def test_numbers_that_are_none_leave_gaps():
    shown = curve_data('x', [dict(epoch=0, loss=math.inf, lr=.1, gauc=None), dict(epoch=1, loss=1., lr=.1, gauc=.5, extra=1)], 'gauc')
    assert shown['columns'] == dict(loss=[None, 1.], lr=[.1, .1], gauc=[None, .5], extra=[None, 1.]) and shown['kept'] == 1

def test_in_a_script_nothing_is_shown_and_nothing_loaded_for_nothing(tmp_path):
    code = f'''import sys
from hettrans import fit, open_dataset
n = [0]
def watch(kind, facts): n[0] += kind == "step"
fit("sasrec", open_dataset({str(shop())!r}), {str(tmp_path/"a")!r}, bar=False, watch=watch, **{TINY})
print(n[0] > 0, [m for m in ("anywidget", "ipywidgets", "IPython") if m in sys.modules])
from hettrans.viz.curves import TrainingCurves
curves = TrainingCurves()
fit("sasrec", open_dataset({str(shop())!r}), {str(tmp_path/"b")!r}, bar=False, watch=curves, **{TINY})
print(curves.data["runs"][0]["epochs"])'''
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)
    assert (r.returncode, r.stdout.splitlines()) == (0, ['True []', '2']), r.stdout + r.stderr
