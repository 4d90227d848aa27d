"Ranking: metrics against their loops and scikit-learn, intervals, and runs that are resumed, loaded and asked in every form"
import functools, json, os
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
import pyarrow as pa, pyarrow.parquet as pq
from hypothesis import assume, given, settings, strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from torch.testing import assert_close
import hettrans.engine.loop as loop
from hettrans.data.dataset import from_frames, open_dataset, save_dataset
from hettrans.data.schema import InputError
from hettrans.engine.rank_run import RankRun, blocks, past_of, set_logits
from hettrans.engine.ranking import NAMES, Judged, Sorted, auc, auc_loop, log_losses, middle, probabilities, ranking_difference, ranking_metrics, request_aucs
from hettrans.engine.registry import configure
from hettrans.engine.run import fit, load_run
from tiny import copy, fails, ok, scratch

quick, seeds = settings(max_examples=40, deadline=None), st.integers(0, 2**31)

# metrics

def scores(seed, n=None):
    "Logits with ties, labels (-1 = none) and requests, some of them without a label"
    r = np.random.default_rng(seed)
    n = n or int(r.integers(2, 80))
    return np.round(r.normal(size=n), int(r.integers(0, 3)))*3, r.integers(-1, 2, n), r.integers(0, max(1, n//4), n)*7 - 3

@quick
@given(seeds)
def test_auc_is_the_loop_and_sklearns(seed):
    x, y, _ = scores(seed); known = y >= 0
    x, y = x[known], y[known]
    assert_close(auc(x, y), auc_loop(x, y), equal_nan=True)
    if 0 < y.sum() < len(y): assert_close(auc(x, y), float(roc_auc_score(y, x))); assert_close(auc(-x, y), 1 - auc(x, y))

@quick
@given(seeds)
def test_metrics_are_those_of_sklearn(seed):
    x, y, q = scores(seed); known = y >= 0
    assume(known.any())
    m = ranking_metrics(x, y, q, intervals=False)
    x, y, q = x[known], y[known], q[known]
    each = [roc_auc_score(y[q == k], x[q == k]) for k in np.unique(q) if 0 < y[q == k].sum() < (q == k).sum()]
    assert m['n'] == len(y) and m['requests'] == len(np.unique(q)) and m['requests_both'] == len(each)
    if each: assert_close(m['gauc'], float(np.mean(each)))
    else: assert m['gauc'] is None
    assert_close(m['logloss'], float(log_loss(y, 1/(1 + np.exp(-x)), labels=[0, 1])))
    if y.any(): assert_close(m['calibration'], float((1/(1 + np.exp(-x))).mean()/y.mean()))
    else: assert m['calibration'] is None
    json.dumps(m, allow_nan=False)

@quick
@given(seeds)
def test_neither_the_order_nor_what_has_no_label_matters(seed):
    x, y, q = scores(seed); assume((y >= 0).any())
    m, order = ranking_metrics(x, y, q, resamples=20), np.random.default_rng(seed).permutation(len(x))
    again = ranking_metrics(np.where(y < 0, 99., x)[order], np.where(y < 0, np.nan, y)[order], q[order], resamples=20)
    assert m.keys() == again.keys()
    for k in m: assert (m[k] is None) == (again[k] is None) and (m[k] is None or abs(m[k] - again[k]) < 1e-9), k

@quick
@given(seeds)
def test_weights_are_copies(seed):
    x, y, q = scores(seed); x, y, q = x[y >= 0], y[y >= 0], q[y >= 0]
    assume(len(x))
    judged = Judged(x, y, q); w = np.random.default_rng(seed).integers(0, 3, len(judged.requests))
    assume(w.any())
    twins = [(np.flatnonzero(q == k), 100*i + c) for i, k in enumerate(judged.requests) for c in range(w[i])]
    rows = np.concatenate([t for t, _ in twins])
    copies = Judged(x[rows], y[rows], np.concatenate([np.full(len(t), name) for t, name in twins]))
    assert_close(judged.weighed(w[None].astype(float)), copies.weighed(), equal_nan=True)

def test_logits_of_any_size():
    big = np.array([-1e308, -800., 0., 800., 1e308])
    assert np.isfinite(log_losses(big, [1, 1, 1, 0, 0])).all() and log_losses(big, [1, 1, 1, 0, 0]).max() < 20.73
    assert probabilities(big).tolist() == [0, 0, .5, 1, 1]
    assert ranking_metrics(big, [0, 0, 1, 1, 1], np.zeros(5))['auc'] == 1

@pytest.mark.parametrize('args, words', [(([1.], [1], [0, 0]), '1 logits, 1 labels and 2 requests'), (([1.], [-1], [0]), 'no exposed candidate'), (([1., np.nan, np.nan], [0, 1, 1], [0]*3), r'candidate 1 is not a number \(2 such')])
def test_bad_scores(args, words):
    with pytest.raises(InputError, match=words): ranking_metrics(*args)

def temper(seed, requests=100):
    "Requests that differ much: what is drawn must be requests, not candidates"
    r = np.random.default_rng(seed)
    u, i = np.repeat(r.normal(size=requests)*3, 6), r.normal(size=requests*6)
    return .5*u + i + .2, r.random(requests*6) < probabilities(u + i), np.repeat(np.arange(requests), 6)

def test_the_bootstrap_is_as_wide_as_luck():
    "Spread over many independent logs against what one log guesses, for all four metrics"
    width = lambda s: np.subtract(*np.quantile(s, [.975, .025], axis=0))
    logs = [temper(k) for k in range(200)]
    true = width(np.concatenate([Judged(*l).weighed() for l in logs]))
    guess = np.mean([width(Judged(*l).resampled(200)) for l in logs[:15]], 0)
    careless = np.mean([width(Judged(l[0], l[1], np.arange(len(l[1]))).resampled(200)) for l in logs[:5]], 0)
    assert (abs(guess/true - 1) < .25).all(), guess/true
    assert careless[0] < .95*true[0] and careless[2] < .9*true[2], careless/true

def test_the_interval_covers():
    truth = Judged(*temper(999, 50_000)).weighed()[0]
    inside = np.array([[lo <= t <= hi for t, (lo, hi) in zip(truth, middle(Judged(*temper(k)).resampled(200)))] for k in range(40)]).mean(0)
    assert (inside >= .8).all(), dict(zip(NAMES, inside))

def test_a_difference_is_sharper_than_two_intervals():
    x, y, q = temper(1, 300)
    a, b = Judged(x, y, q), Judged(x + np.random.default_rng(0).normal(size=len(x))*.5, y, q)
    d, m = ranking_difference(a, b), ranking_metrics(x, y, q)
    assert d['auc_lo'] <= d['auc'] <= d['auc_hi'] and d['auc_hi'] - d['auc_lo'] < m['auc_hi'] - m['auc_lo']
    assert all(ranking_difference(a, a)[k] == 0 for k in (*NAMES, 'auc_lo', 'gauc_hi'))
    with pytest.raises(InputError, match='different candidates'): ranking_difference(a, Judged(x, ~y, q))

@quick
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 12))
def test_blocks_are_bounded_and_complete(sizes, rows):
    got = list(blocks(np.array(sizes), rows))
    assert np.concatenate(got).tolist() == list(range(len(sizes)))
    for b in got: assert len(b) == 1 or sum(sizes[i] for i in b) <= rows

# runs

cat, num = dict(kind='categorical'), dict(kind='numerical')
SCHEMA = dict(name='tiny', items=dict(key='item', features=dict(kind=cat, size=num)), users=dict(key='who', features=dict(age=num)),
              requests=dict(key='request', user='user', time='when', features=dict(device=cat)),
              candidates=dict(request='request', item='item', clicked='clicked', exposed='shown', position='place', features=dict(price=num)))

@functools.cache
def frames():
    "90 requests of 9 users; cheap items are clicked"
    r, rows, asked = np.random.default_rng(0), [], []
    for k in range(90):
        n = int(r.integers(3, 7)); page = r.permutation(20)[:n]; price = r.random(n)
        asked.append((f'q{k}', f'u{k % 9}', 1000 + 60*k, f'd{k % 2}'))
        rows += [(f'q{k}', f'i{i}', j < n - 1, float(r.random() < .8*(price[j] < .4) + .1) if j < n - 1 else np.nan, float(j), price[j]) for j, i in enumerate(page)]
    return dict(items=pd.DataFrame(dict(item=[f'i{i}' for i in range(20)], kind=[f'k{i % 3}' for i in range(20)], size=np.arange(20.))), users=pd.DataFrame(dict(who=[f'u{i}' for i in range(9)], age=20. + np.arange(9))),
                requests=pd.DataFrame(asked, columns=['request', 'user', 'when', 'device']), candidates=pd.DataFrame(rows, columns=['request', 'item', 'shown', 'clicked', 'place', 'price']))

def tiny_ds(**more): return from_frames(SCHEMA, frames() | more)
FIELDS = dict(split='time:0.2', d=8, d_embed=4, encoder_layers=1, decoder_layers=1, epochs=3, batch=8, lr=1e-2, dropout=.2, save_every=3, patience=0, device='cpu')

def trained(name='homer'):
    "A run; do not change it"
    return train_once(name)

@functools.cache
def train_once(name): return fit(name, tiny_ds(), scratch()/f'rank-{name}', bar=False, **FIELDS)

bits = lambda p: (Path(p)/'weights.safetensors').read_bytes()
still = lambda m: {k: v for k, v in m.items() if k != 'seconds'}

def test_a_run_is_a_folder_like_any_other():
    run = trained(); names = {p.name for p in run.path.iterdir()}
    assert names == {'config.json', 'data', 'encoder.json', 'encoder.safetensors', 'weights.safetensors', 'last.safetensors', 'metrics.json', 'metrics.jsonl', 'training.json'}
    saved = json.loads((run.path/'config.json').read_text())
    assert saved['name'] == 'homer' and saved['format'] == 1 and len(saved['log']) == 16 and saved['config']['train']['metric'] == 'auc' and 'neighbours' not in saved['config']
    lines = [json.loads(l) for l in (run.path/'metrics.jsonl').open()]
    best = max(lines, key=lambda l: l['auc'])
    assert len(lines) == 3 and json.loads((run.path/'training.json').read_text())['best_epoch'] == best['epoch']
    assert {'auc', 'auc_lo', 'auc_hi', 'gauc', 'gauc_lo', 'logloss', 'calibration', 'n', 'requests', 'seed', 'split', 'seconds', 'params'} <= set(run.metrics)
    assert abs(run.evaluate('valid')['auc'] - best['auc']) < 1e-9       # the best weights, not the last ones

@pytest.mark.parametrize('name', ['homer', 'pointwise-homer'])
def test_load_is_the_same_run(name):
    run = trained(name); again = load_run(run.path)
    assert isinstance(again, RankRun) and still(again.evaluate()) == still(run.metrics) == still(again.metrics)
    assert again.model.config.cross_item == (name == 'homer') and (again.model.exposure_head is None) == (name != 'homer')

def test_evaluation_counts_the_labelled_candidates_of_the_part():
    run = trained(); r = frames()['requests'].request.iloc[72:]
    c = frames()['candidates']; c = c[c.request.isin(r) & c.shown]
    assert run.metrics['n'] == len(c) and run.metrics['requests'] == c.request.nunique()
    p = run.score(frames()['candidates'].merge(frames()['requests'])).p_click.to_numpy()[c.index]
    assert_close(run.metrics['auc'], float(roc_auc_score(c.clicked, p)), atol=1e-6, rtol=0)
    assert_close(run.metrics['logloss'], float(log_loss(c.clicked, p)), atol=1e-5, rtol=0)

@pytest.mark.parametrize('steps', [2, 4, 9, 14])
def test_resumed_equals_unbroken(tmp_path, monkeypatch, steps):
    "A training that fails at a step and is resumed ends at the same bits"
    torch.set_num_threads(1)
    whole = trained()
    real, count = loop.train_step, [0]
    def failing(*a):
        count[0] += 1
        if count[0] > steps: raise KeyboardInterrupt
        return real(*a)
    monkeypatch.setattr(loop, 'train_step', failing)
    with pytest.raises(KeyboardInterrupt): fit('homer', tiny_ds(), tmp_path/'r', bar=False, **FIELDS)
    monkeypatch.setattr(loop, 'train_step', real)
    run = fit('homer', tiny_ds(), tmp_path/'r', resume=True, bar=False, **FIELDS)
    assert bits(tmp_path/'r') == bits(whole.path) and still(run.metrics) == still(whole.metrics)

def test_resume_refuses_other_data_and_other_settings():
    run = trained(); c = frames()['candidates']
    other = tiny_ds(candidates=c.assign(clicked=np.where(np.arange(len(c)) == c.clicked.first_valid_index(), 1 - c.clicked, c.clicked)))
    with pytest.raises(InputError, match='other data'): fit('homer', other, run.path, resume=True, bar=False, **FIELDS)
    with pytest.raises(InputError, match='lr was'): fit('homer', tiny_ds(), run.path, resume=True, bar=False, **(FIELDS | dict(lr=.5)))
    with pytest.raises(InputError, match='not of pointwise-homer'): fit('pointwise-homer', tiny_ds(), run.path, resume=True, bar=False, **FIELDS)

@pytest.mark.parametrize('fields, words', [(dict(metric='ndcg@10'), 'metric'), (dict(metric='loglos'), 'did you mean .logloss.'), (dict(split='leave-last-out'), "split = 'leave-last-out'"), (dict(past='seen'), 'past'), (dict(rows=0), 'rows = 0'),
                                           (dict(ties='file'), 'no field'), (dict(neighbours=3), 'no field'), (dict(d=10, heads=3), 'heads'), (dict(max_past=-1), 'max_past = -1')])
def test_bad_settings(tmp_path, fields, words):
    with pytest.raises(InputError, match=words): fit('homer', tiny_ds(), tmp_path/'r', bar=False, **(FIELDS | fields))
    with pytest.raises(InputError, match='cross_item is always False'): configure('pointwise-homer', dict(cross_item='yes'))

@pytest.mark.parametrize('clicks, words', [(0, '0 were clicked'), (1, '0 were not')])
def test_without_both_labels_there_is_nothing_to_train(tmp_path, clicks, words):
    ds = tiny_ds(candidates=frames()['candidates'].assign(clicked=lambda c: c.clicked.where(c.clicked.isna(), clicks)))
    with pytest.raises(InputError, match=words): fit('homer', ds, tmp_path/'r', bar=False, **FIELDS)
    assert not (tmp_path/'r').exists()

def test_a_test_part_without_labels_is_said_before_the_training(tmp_path):
    late = lambda c: c.assign(shown=c.shown & c.request.isin([f'q{k}' for k in range(72)]), clicked=lambda c: c.clicked.where(c.shown))
    n = int(frames()['candidates'].request.isin([f'q{k}' for k in range(72, 90)]).sum())
    with pytest.raises(InputError, match=f'none of the {n} candidates in test .time:0.2. was exposed'): fit('homer', tiny_ds(candidates=late(frames()['candidates'])), tmp_path/'r', bar=False, **FIELDS)
    assert not (tmp_path/'r').exists()

def test_an_odd_column_does_not_stop_a_training(tmp_path):
    "A column that the schema does not name and that Parquet cannot hold: the run is made, and the folder is open to nobody's second try"
    odd = tiny_ds(items=frames()['items'].assign(odd=[1, 'a']*10))
    with pytest.warns(UserWarning, match="items, column 'odd'"): run = fit('homer', odd, tmp_path/'r', bar=False, **(FIELDS | dict(epochs=1)))
    assert still(load_run(tmp_path/'r').evaluate()) == still(run.metrics) and not (tmp_path/'r/unfinished').exists()

@pytest.mark.parametrize('fields', [dict(split='user-time:0.3'), dict(user_id=True, past='clicked', max_past=2), dict(metric='gauc', rows=20), dict(use_id=False), dict(max_past=0), dict(metric='logloss')])
def test_other_protocols_train_and_load(tmp_path, fields):
    run = fit('homer', tiny_ds(), tmp_path/'r', bar=False, **(FIELDS | dict(epochs=1) | fields))
    assert still(load_run(tmp_path/'r').evaluate()) == still(run.metrics)

# score

def question(k=85):
    "One request in every form: dict, table, tables"
    q, c = frames()['requests'].iloc[[k]], frames()['candidates'][lambda c: c.request == f'q{k}']
    return q.iloc[0].to_dict() | dict(candidates=c[['item', 'price']].to_dict('records')), c.merge(q), dict(requests=q, candidates=c)

def test_every_form_is_the_same_question(tmp_path):
    run = trained(); typed, table, parts = question()
    for name, how in (('csv', lambda d, f: d.to_csv(f'{f}.csv', index=False)), ('parquet', lambda d, f: d.to_parquet(f'{f}.parquet'))):
        (tmp_path/name).mkdir(); [how(d.drop(columns=['clicked', 'shown', 'place'], errors='ignore'), tmp_path/name/t) for t, d in parts.items()]
    save_dataset(tiny_ds(**parts), tmp_path/'dataset'); table.to_csv(tmp_path/'one.csv', index=False)
    forms = [typed, table, tiny_ds(**parts), *(tmp_path/n for n in ('csv', 'parquet', 'dataset', 'one.csv')), str(tmp_path/'csv'), {k: v for k, v in typed.items() if k != 'request'}, typed | dict(when='1970-01-01T01:41:40Z')]
    want = run.score(typed)
    assert typed['when'] == 6100 and want.item.tolist() == table.item.tolist() and list(want) == ['request', 'item', 'p_click', 'p_exposed']
    for f in forms: pd.testing.assert_frame_equal(run.score(f).assign(request='q85'), want.assign(request='q85'), rtol=1e-6)
    assert list(trained('pointwise-homer').score(typed)) == ['request', 'item', 'p_click']

@functools.cache
def by_own_name():
    "A run whose requests call their key `id`, and whose candidates call it `request`"
    f = frames(); schema = SCHEMA | dict(requests=SCHEMA['requests'] | dict(key='id'))
    return fit('homer', from_frames(schema, f | dict(requests=f['requests'].rename(columns={'request': 'id'}))), scratch()/'rank-own', bar=False, **FIELDS)

def test_the_key_of_a_request_under_its_own_name(tmp_path):
    "The same answers, whichever name the key has in a table, a file or a dict; another column of that name is no key"
    run, f = by_own_name(), frames(); q = f['requests'].rename(columns={'request': 'id'})
    want = run.score(f['candidates'].merge(f['requests']))
    assert len(want.request.unique()) == 90
    both = f['candidates'].merge(q, left_on='request', right_on='id'); both.to_csv(tmp_path/'both.csv', index=False)
    for form in (both, both.drop(columns='request'), both.sample(frac=1, random_state=0).sort_index(), tmp_path/'both.csv', from_frames(run.ds.schema, f | dict(requests=q))):
        pd.testing.assert_frame_equal(run.score(form), want, rtol=1e-6)
    one = f['candidates'].query("request == 'q85'")[['item', 'price']]; typed = q.iloc[85].to_dict() | dict(candidates=one.to_dict('records'))
    mine = want[want.request == 'q85'].reset_index(drop=True)
    for form in (typed, typed | dict(candidates=one), typed | dict(request='q85')): pd.testing.assert_frame_equal(run.score(form), mine, rtol=1e-5)
    bare = {k: v for k, v in typed.items() if k != 'id'}
    for form in (bare, bare | dict(candidates=one.assign(id=range(len(one))))): pd.testing.assert_frame_equal(run.score(form).assign(request='q85'), mine, rtol=1e-5)

def test_score_is_what_evaluation_saw():
    run = trained(); r = np.arange(90)
    p = probabilities(set_logits(run, lambda b: run.data.batch(r[b]), run.data.sizes, run.catalogue)[0])
    got = run.score(run.ds)
    assert_close(got.p_click.to_numpy(), p, rtol=1e-5, atol=1e-6)
    assert got.item.tolist() == frames()['candidates'].item.tolist()

@settings(max_examples=8, deadline=None)
@given(seeds)
def test_the_order_of_the_input_is_kept_and_does_not_matter(seed):
    run, table = trained(), frames()['candidates'].merge(frames()['requests'])
    some = table[table.request.isin(np.random.default_rng(seed).choice(table.request.unique(), 7, replace=False))]
    mixed = some.sample(frac=1, random_state=seed)
    a, b = run.score(some), run.score(mixed)
    assert b.request.tolist() == mixed.request.tolist() and b.item.tolist() == mixed.item.tolist()
    key = ['request', 'item']
    pd.testing.assert_frame_equal(a.sort_values(key).reset_index(drop=True), b.sort_values(key).reset_index(drop=True), rtol=1e-5)

def test_labels_and_places_are_never_read():
    run, table = trained(), question()[1]
    pd.testing.assert_frame_equal(run.score(table), run.score(table.assign(clicked='?', shown=False, place=-5)))

def test_shards_are_balanced_and_exact_without_cross_item_blocks():
    page = dict(user='u1', when=9000, device='d0', candidates=[dict(item=f'n{i}', kind=f'k{i % 3}', size=float(i % 20), price=(i % 10)/10) for i in range(650)])
    point, run = trained('pointwise-homer'), trained()
    assert_close(point.score(page).p_click.to_numpy(), point.score(page, shard=10**6).p_click.to_numpy(), rtol=1e-5, atol=1e-6)
    whole = run.score(page)
    assert whole.item.tolist() == [f'n{i}' for i in range(650)]
    third = run.score(page | dict(candidates=page['candidates'][:216]))       # 650 -> 216, 217, 217
    assert_close(third.p_click.to_numpy(), whole.p_click.to_numpy()[:216], rtol=1e-4, atol=1e-5)

def test_the_user_is_encoded_once(monkeypatch):
    run, calls, real = trained(), [], trained().model.encode
    monkeypatch.setattr(run.model, 'encode', lambda batch, catalogue: calls.append(len(batch)) or real(batch, catalogue), raising=False)
    run.score(question()[0])
    assert calls == [1]

def test_the_past_is_the_users_own_and_strictly_earlier():
    run = trained(); typed = question()[0]
    def at(**kw): return run.score(typed | kw).p_click.to_numpy()
    user, when = typed['user'], typed['when']
    later = frames()['requests'].query('user == @user and when > @when').when
    assert_close(at(), at(when=when)); assert len(past_of(run.data, np.array([run.data.log.users.get_loc(user)]), np.array([1000]))['past_items']) in (0,)
    for u in range(9):
        for t in (1000, 3000, 6100):
            p = past_of(run.data, np.array([u]), np.array([t]))
            assert (p['past_times'] < t).all()
            own = run.data.log.user_r == u
            assert len(p['past_items']) == min(run.data.past.keep, sum(int(run.data.log.exposed_n[run.data.log.offsets[r]:run.data.log.offsets[r + 1]].sum()) for r in np.flatnonzero(own & (run.data.log.time_r < t))))
    assert np.abs(at(user='u0') - at()).max() > 1e-6 and np.isfinite(at(user='stranger')).all()

def test_new_users_and_items_are_read_by_their_features(tmp_path):
    run = trained(); typed = question()[0]; item = frames()['items'].iloc[4]
    twin = dict(item='twin', kind=item.kind, size=item['size'], price=.5)
    parts = question()[2]; folder = tmp_path/'q'; folder.mkdir()
    parts['requests'].assign(user='new').to_csv(folder/'requests.csv', index=False); parts['candidates'].to_csv(folder/'candidates.csv', index=False)
    pd.DataFrame(dict(who=['new'], age=[28.])).to_csv(folder/'users.csv', index=False)
    profile, nobody = run.score(folder), run.score(typed | dict(user='other'))
    as_columns = run.score(typed | dict(user='new', age=28.))
    assert_close(profile.p_click.to_numpy(), as_columns.p_click.to_numpy()); assert (profile.p_click != nobody.p_click).any()
    got = run.score(typed | dict(candidates=[*typed['candidates'], twin]))
    assert got.item.iloc[-1] == 'twin' and np.isfinite(got.p_click).all()
    assert (run.score(typed | dict(candidates=[*typed['candidates'], twin | dict(kind='k2', size=19.)])).p_click.iloc[-1]) != got.p_click.iloc[-1]

BAD = {
    'no candidates':            (lambda q: q | dict(candidates=[]), 'nothing to score'),
    'no key for candidates':    (lambda q: {k: v for k, v in q.items() if k != 'candidates'}, "'candidates' is missing"),
    'candidates is a text':     (lambda q: q | dict(candidates='i1'), 'not str'),
    'no time':                  (lambda q: {k: v for k, v in q.items() if k != 'when'}, "missing column 'when'"),
    'no user':                  (lambda q: {k: v for k, v in q.items() if k != 'user'}, "missing column 'user'"),
    'no context':               (lambda q: {k: v for k, v in q.items() if k != 'device'}, "missing column 'device'"),
    'no cross feature':         (lambda q: q | dict(candidates=['i1', 'i2']), "missing column 'price'"),
    'time is a word':           (lambda q: q | dict(when='soon'), "unparseable time 'soon'"),
    'time is infinite':         (lambda q: q | dict(when=float('inf')), 'infinite time'),
    'milliseconds':             (lambda q: q | dict(when=1.7e12), 'milliseconds'),
    'user is missing':          (lambda q: q | dict(user=None), 'missing key'),
    'item twice':               (lambda q: q | dict(candidates=[dict(item='i1', price=1)]*2), "'i1' is twice"),
    'unknown item':             (lambda q: q | dict(candidates=[dict(item='i1', price=1), dict(item='zz', price=1)]), "row 2: item 'zz' is not in the catalogue"),
    'item is missing':          (lambda q: q | dict(candidates=[dict(item=None, price=1)]), 'missing key'),
    'infinite price':           (lambda q: q | dict(candidates=[dict(item='i1', price=float('inf'))]), 'infinite number'),
    'price is a word':          (lambda q: q | dict(candidates=[dict(item='i1', price='much')]), "'much' in a numerical column"),
    'not a request':            (lambda q: 7, 'not int'),
    'no such file':             (lambda q: 'nowhere.csv', 'neither a folder nor a file'),
    'two times in a request':   (lambda q: pd.DataFrame(dict(request='a', user='u1', when=[1, 2], device='d0', item=['i1', 'i2'], price=1.)), "column 'when', row 2"),
    'retrieval only':           (lambda q: from_frames(dict(name='x', items=dict(key='item'), interactions=dict(user='u', item='item', time='t')), dict(items=frames()['items'], interactions=pd.DataFrame(dict(u=['a'], item=['i1'], t=[1])))), 'no requests and candidates'),
}
@pytest.mark.parametrize('kind', BAD)
def test_bad_questions_get_one_line(kind):
    make, words = BAD[kind]
    with pytest.raises(InputError, match=words) as e: trained().score(make(question()[0]))
    assert '\n' not in str(e.value) and len(str(e.value)) < 300

@pytest.mark.parametrize('column', ['request', 'item', 'price', 'when', 'nobody'])
def test_a_column_twice_in_a_table_of_candidates(tmp_path, column):
    table = question()[1].assign(nobody=1); table = pd.concat([table, table[[column]]], axis=1)
    for form in (table, dict(user='u1', when=9000, device='d0', candidates=table)):
        with pytest.raises(InputError) as e: trained().score(form)
        assert str(e.value) == f"candidates, column '{column}': two columns have this name"
    pq.write_table(pa.Table.from_arrays([pa.array(table.iloc[:, i]) for i in range(table.shape[1])], names=list(table)), tmp_path/'ask.parquet')
    with pytest.raises(InputError, match=f"ask.parquet, column '{column}': two columns"): trained().score(tmp_path/'ask.parquet')

TOLD = {   # users and items of a folder that is scored, and the line
    'wrong key':         (dict(users=dict(user=['new'], age=[28.])), "users.csv: missing column 'who'"),
    'misspelt feature':  (dict(users=dict(who=['new'], aeg=[28.])), "users.csv: missing column 'age'; did you mean 'aeg'?"),
    'user twice':        (dict(users=dict(who=['new', 'new'], age=[28., 29.])), "users.csv, column 'who', row 2: duplicate key 'new' (1 row)"),
    'user without key':  (dict(users=dict(who=['new', None], age=[28., 29.])), "users.csv, column 'who', row 2: missing key (1 row)"),
    'age is a word':     (dict(users=dict(who=['old', 'new'], age=['28', 'young'])), "users.csv, column 'age', row 2: text 'young' in a numerical column (1 row)"),
    'no rows':           (dict(users=dict(who=[], age=[])), 'users.csv: empty table'),
    'item without kind': (dict(items=dict(item=['i1'], size=[3.])), "items.csv: missing column 'kind'"),
    'item twice':        (dict(items=dict(item=['n1', 'n2', 'n1'], kind='k1', size=3.)), "items.csv, column 'item', row 3: duplicate key 'n1' (1 row)"),
    'size of an old one': (dict(items=dict(item=['i1', 'i2', 'n1'], kind='k1', size=['3', 'big', '4'])), "items.csv, column 'size', row 2: text 'big' in a numerical column (1 row)"),
    'both':              (dict(users=dict(who=['new'], aeg=[28.]), items=dict(item=['n1', 'n1'], kind='k1', size='big')), "(and 2 more)"),
}
@pytest.mark.parametrize('kind', TOLD)
def test_users_and_items_of_a_folder_are_checked(tmp_path, monkeypatch, kind):
    "Before anything is scored, with the name of the file"
    told, words = TOLD[kind]; run, parts = trained(), question()[2]
    for t, d in (parts | {t: pd.DataFrame(c) for t, c in told.items()}).items(): d.to_csv(tmp_path/f'{t}.csv', index=False)
    monkeypatch.setattr(run.model, 'encode', lambda *a: pytest.fail('something was scored'), raising=False)
    with pytest.raises(InputError) as e: run.score(tmp_path)
    assert words in str(e.value) and '\n' not in str(e.value)

def test_legal_but_odd_questions():
    run, typed = trained(), question()[0]
    many = [dict(item=f'i{k}', price=.1*k) for k in range(20)]
    for q in (typed | dict(candidates=many[:1]), typed | dict(candidates=many), typed | dict(when=0), typed | dict(when=10**10), typed | dict(device='never seen'), typed | dict(device=None),
              typed | dict(candidates=[dict(item='i1', price=None)]), typed | dict(candidates=pd.DataFrame(many)), typed | dict(extra='not a column')):
        got = run.score(q)
        assert len(got) == len(q['candidates']) and got.p_click.between(0, 1).all()

def test_append_makes_a_day_known(tmp_path):
    run = load_run(trained().path); typed = question()[0] | dict(when=20_000)
    before = run.score(typed).p_click.to_numpy()
    day = dict(requests=pd.DataFrame(dict(request=['n'], user=[typed['user']], when=[15_000], device=['d0'])), candidates=pd.DataFrame(dict(request='n', item=['i1', 'i2'], shown=True, clicked=[1, 0], place=[0, 1], price=.2)))
    run.append(tiny_ds(**day))
    assert np.abs(run.score(typed).p_click.to_numpy() - before).max() > 1e-7
    assert_close(run.score(typed | dict(when=15_000)).p_click.to_numpy(), trained().score(typed | dict(when=15_000)).p_click.to_numpy())
    assert still(run.evaluate()) == still(trained().metrics)
    with pytest.raises(InputError, match='already in the log'): run.append(tiny_ds(**day))
    with pytest.raises(InputError, match='same 20 items'): run.append(tiny_ds(items=frames()['items'].iloc[::-1], **day))

# the command line

def test_train_evaluate_and_score_by_command(tmp_path):
    save_dataset(tiny_ds(), tmp_path/'data'); words = [f'{k}={v}' for k, v in FIELDS.items() if k != 'device']
    text = ok('train', 'homer', '--data', tmp_path/'data', '--out', tmp_path/'run', '--set', *words)
    assert ' auc ' in text and 'gauc' in text and 'test candidates of 18 requests' in text
    m = json.loads(ok('evaluate', tmp_path/'run', '--json'))
    assert still(m) == still(trained().metrics) and 'candidates of 18 requests, split valid' in ok('evaluate', tmp_path/'run', '--split', 'valid')
    for name, read in (('a.csv', pd.read_csv), ('b.parquet', pd.read_parquet), ('c.csv.gz', pd.read_csv)):
        assert f'{len(frames()["candidates"])} candidates of 90 requests' in ok('score', tmp_path/'run', '--requests', tmp_path/'data', '--out', tmp_path/name)
        pd.testing.assert_frame_equal(read(tmp_path/name), trained().score(tmp_path/'data'), check_dtype=False, rtol=1e-6)
    assert 'ends in' in fails('score', tmp_path/'run', '--requests', tmp_path/'data', '--out', tmp_path/'a.txt')
    assert 'no such folder' in fails('score', tmp_path/'run', '--requests', tmp_path/'data', '--out', tmp_path/'x/a.csv')
    assert 'neither a folder' in fails('score', tmp_path/'run', '--requests', tmp_path/'no', '--out', tmp_path/'a.csv')
    assert 'hettrans score' in fails('recommend', tmp_path/'run', '--user', 'u1')
    assert 'for retrieval' in fails('evaluate', tmp_path/'run', '--keep-seen')

def test_public_names_include_the_ranking_half():
    import hettrans
    from hettrans.homer.model import HoMer
    assert hettrans.HoMer is HoMer and hettrans.fit is fit

DATA = Path(os.environ.get('HETTRANS_DATA', Path(__file__).parents[2]/'shared'/'data'))/'ml-100k'

@pytest.mark.skipif(not DATA.exists(), reason='data not found')
def test_real_requests_train(tmp_path):
    "The smallest model that can be: one epoch beats the coin"
    from hettrans.data.public import import_public
    import hettrans.data.public_requests
    import_public('movielens-requests', DATA, tmp_path/'ml', core=0, progress=False)
    run = fit('homer', tmp_path/'ml', tmp_path/'run', bar=False, split='user-time:0.2', epochs=1, d=8, d_embed=8, encoder_layers=0, decoder_layers=1, max_past=5, lr=1e-2)
    assert run.metrics['gauc_lo'] > .55 and run.metrics['requests_both'] > 500
