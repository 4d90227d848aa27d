"Serving a set: opened once, any set in any order, cut evenly; and the widgets that ask it"
import functools, json
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hettrans.data.dataset import from_frames, save_dataset
from hettrans.data.schema import InputError
from hettrans.engine.rank_run import read_request
from hettrans.engine.run import fit, load_run
from hettrans.engine.set_scoring import OpenRequest, cost_curve, one_by_one
from hettrans.homer.decoder import shard_offsets
from hettrans.viz.sets import AttentionMap, SetExplorer, ago, all_pages, behaviour_names, pack, page_table, series, unpack
from tiny import scratch

cat, num = dict(kind='categorical'), dict(kind='numerical')
SCHEMA = dict(name='stall', items=dict(key='item', features=dict(title=dict(kind='text'), size=num)), users=dict(key='who', features=dict(age=num)),
              requests=dict(key='request', user='user', time='when', features=dict(device=cat)),
              candidates=dict(request='request', item='item', clicked='clicked', exposed='shown', position='place', features=dict(price=num)))

@functools.cache
def frames():
    "80 requests of 8 users, 24 items"
    r, rows, asked = np.random.default_rng(0), [], []
    for k in range(80):
        n = int(r.integers(3, 9)); page, price = r.permutation(24)[:n], r.random(n).round(2)
        asked.append((f'q{k}', f'u{k % 8}', 10_000 + 3600*k, f'd{k % 2}'))
        rows += [(f'q{k}', f'i{i}', j < n - 1, float(r.random() < .3) if j < n - 1 else np.nan, float(j), price[j]) for j, i in enumerate(page)]
    return dict(items=pd.DataFrame(dict(item=[f'i{i}' for i in range(24)], title=[f'thing number {i}' for i in range(24)], size=np.arange(24.))), users=pd.DataFrame(dict(who=[f'u{i}' for i in range(8)], age=20. + np.arange(8))),
                requests=pd.DataFrame(asked, columns=['request', 'user', 'when', 'device']), candidates=pd.DataFrame(rows, columns=['request', 'item', 'shown', 'clicked', 'place', 'price']))

def stall(**more): return from_frames(SCHEMA, frames() | more)

@functools.cache
def trained(name='homer'):
    "A run; do not change it"
    return fit(name, stall(), scratch()/f'serve-{name}', bar=False, split='time:0.2', d=8, d_embed=8, encoder_layers=1, decoder_layers=2, epochs=1, batch=8, lr=1e-2, device='cpu', text_dim=4, max_past=6)

def ask(items, user='u3', prices=None):
    return dict(user=user, when=400_000, device='d1', candidates=[dict(item=f'i{i}', price=.1 + .03*i if prices is None else prices[k]) for k, i in enumerate(items)])

def close(a, b): assert_close(np.array(a), np.array(b), rtol=1e-5, atol=1e-6)
sets = st.lists(st.integers(0, 23), min_size=1, max_size=24, unique=True)
quick = settings(max_examples=15, deadline=None)

@quick
@given(n=st.integers(1, 3000), limit=st.integers(1, 400))
def test_shards_are_few_balanced_and_in_order(n, limit):
    ends = shard_offsets(torch.tensor([0, n]), limit)
    sizes = ends.diff()
    assert ends[0] == 0 and ends[-1] == n and len(sizes) == -(-n//limit) and sizes.max() <= limit and sizes.max() - sizes.min() <= 1

@quick
@given(items=sets, limit=st.integers(1, 8), seed=st.integers(0, 99))
def test_pointwise_does_not_notice_shards_sets_or_order(items, limit, seed):
    run, order = trained('pointwise-homer'), np.random.default_rng(seed).permutation(len(items))
    whole = run.score(ask(items))
    assert whole.item.tolist() == [f'i{i}' for i in items]
    close(run.score(ask(items), shard=limit).p_click, whole.p_click)
    close(one_by_one(run, ask(items)).p_click, whole.p_click)
    close(OpenRequest(run, ask(items), shard=limit).score(order).p_click, whole.p_click.to_numpy()[order])

@quick
@given(items=sets, limit=st.integers(1, 30), seed=st.integers(0, 99))
def test_an_open_request_answers_like_the_run(items, limit, seed):
    run, rng = trained(), np.random.default_rng(seed)
    o = OpenRequest(run, ask(items), shard=limit)
    pd.testing.assert_frame_equal(o.score(), run.score(ask(items), shard=limit), rtol=1e-5, atol=1e-6)
    asked = [rng.permutation(len(items))[:rng.integers(0, len(items) + 1)] for _ in range(7)]
    for rows, got in zip(asked, o.sets(asked)):
        if len(rows): close(got, run.score(ask([items[i] for i in rows]), shard=limit).p_click); close(o.score(rows).p_click, got)
        else: assert len(got) == 0

def test_a_set_wise_shard_is_a_smaller_set():
    run, items = trained(), [3, 9, 4, 17, 22, 0, 8]
    parts = [items[0:2], items[2:4], items[4:7]]          # 7 in shards of 3: 2, 2 and 3
    close(run.score(ask(items), shard=3).p_click, np.concatenate([run.score(ask(p)).p_click for p in parts]))
    assert np.abs(run.score(ask(items), shard=3).p_click - run.score(ask(items)).p_click).max() > 1e-5

def test_the_user_is_encoded_once():
    run, passes = trained(), []
    hook = run.model.encoder.register_forward_hook(lambda *a: passes.append(1))
    try:
        run.score(ask(range(20)), shard=3); assert len(passes) == 1
        o = OpenRequest(run, ask(range(20))); o.score([1, 2]); o.sets([[1], [2, 3], [4, 5]]); assert len(passes) == 2
        one_by_one(run, ask(range(5))); assert len(passes) == 7
    finally: hook.remove()

def test_every_form_of_a_request(tmp_path):
    run, f = trained(), frames()
    q, c = f['requests'].iloc[[77]], f['candidates'][f['candidates'].request == 'q77']
    want = run.score(c.merge(q)).p_click
    save_dataset(stall(requests=q, candidates=c), tmp_path/'one')
    typed = q.drop(columns='request').iloc[0].to_dict() | dict(candidates=c[['item', 'price']].to_dict('records'))
    for form in (typed, c.merge(q), c.merge(q).sample(frac=1, random_state=1), tmp_path/'one', stall(requests=q, candidates=c)):
        got = OpenRequest(run, form).score().set_index('item').p_click
        close(got[c.item], want); close(one_by_one(run, form).set_index('item').p_click[c.item], [run.score(typed | dict(candidates=[r])).p_click[0] for r in typed['candidates']])

def test_what_a_request_records_of_its_user_is_read(tmp_path):
    "A device that is the user's, not the moment's: read from a dict, for people in the log and new ones, and again from the saved run"
    owned = SCHEMA | dict(requests=SCHEMA['requests'] | dict(features=dict(device=cat | dict(side='user'))))
    run = fit('homer', from_frames(owned, frames()), tmp_path/'run', bar=False, split='time:0.2', d=8, d_embed=8, encoder_layers=1, decoder_layers=2, epochs=1, batch=8, lr=1e-2, device='cpu', text_dim=4, max_past=6)
    again = load_run(tmp_path/'run')
    for user in ('u3', 'nobody'):
        said = {d: run.score(ask([1, 2, 3], user) | dict(device=d)).p_click for d in ('d0', 'd1')}
        assert (said['d0'] - said['d1']).abs().min() > 1e-6
        asked, _, _ = read_request(run, ask([1, 2, 3], user))
        assert list(asked.user) == ['age', 'device'] and not asked.context
        close(again.score(ask([1, 2, 3], user)).p_click, said['d1'])

def test_versions_share_the_user():
    run, prices = trained(), [[.1, .2, .3], [.9, .8, .7]]
    o = OpenRequest(run, [ask([1, 2, 3], prices=p) for p in prices])
    for rows in ([0, 4, 2], [3, 1], [5]):
        want = run.score(ask([(1, 2, 3)[r % 3] for r in rows], prices=[prices[r//3][r % 3] for r in rows]))
        close(o.score(rows).p_click, want.p_click)
    with pytest.raises(InputError, match='differ in user'): OpenRequest(run, [ask([1]), ask([1], user='u4')])
    with pytest.raises(InputError, match='differ in user'): OpenRequest(run, [ask([1]), ask([1]) | dict(when=1)])
    with pytest.raises(InputError, match='differ in user'): OpenRequest(run, frames()['candidates'].tail(20).merge(frames()['requests']))
    with pytest.raises(InputError, match='shard = 0'): OpenRequest(run, ask([1]), shard=0)
    with pytest.raises(InputError, match='empty set'): o.score([])

def test_the_cost_curve_measures():
    t = cost_curve(OpenRequest(trained(), ask([1, 2, 3]), shard=4), (1, 20, 40), patience=20)
    assert t.index.tolist() == [1, 20, 40] and t.columns.tolist() == ['one by one', 'user once', 'a set, shards of 4', 'a set, no limit']
    assert t.iloc[2, :2].isna().all() and (t.iloc[:2] > 0).all().all() and t['one by one'][20] > 2*t['a set, no limit'][20]

def test_a_model_without_a_past(tmp_path):
    run = fit('homer', stall(), tmp_path/'r', bar=False, split='time:0.2', d=8, d_embed=8, encoder_layers=1, decoder_layers=1, epochs=2, batch=8, max_past=0, metric='logloss', device='cpu', text_dim=4)
    close(OpenRequest(run, ask([1, 2])).score().p_click, load_run(tmp_path/'r').score(ask([1, 2])).p_click)
    close(run.score(ask([1, 2], user='u1')).p_click, run.score(ask([1, 2], user='u1') | dict(when=20_000)).p_click)     # no past, so no difference
    lines = [json.loads(l) for l in (tmp_path/'r/metrics.jsonl').read_text().splitlines()]
    assert json.loads((tmp_path/'r/training.json').read_text())['best_epoch'] == int(np.argmin([l['logloss'] for l in lines]))
    assert abs(run.evaluate('valid', False)['logloss'] - min(l['logloss'] for l in lines)) < 1e-5

# widgets

@quick
@given(st.integers(1, 4), st.integers(1, 3))
def test_pages_are_counted_like_numbers(cards, options):
    pages = all_pages(cards, options)
    for row in range(0, len(pages), 5):
        number = 0
        for o in pages[row]: number = number*(options + 1) + int(o)
        assert number == row
    assert len(pages) == (options + 1)**cards == len({tuple(p) for p in pages.tolist()})

@quick
@given(st.lists(st.floats(0, 1), max_size=40))
def test_two_bytes_are_enough(p):
    text = pack(p)
    assert len(unpack(text)) == len(p) and all(abs(unpack(text) - p) < 1e-5) and len(text) <= 4*-(-2*len(p)//3)

def explorer(**more):
    versions = [ask([1, 2, 3, 4], prices=[p]*4) for p in (.1, .5, .9)]
    return versions, SetExplorer(dict(set=trained(), point=trained('pointwise-homer'), half=lambda lists: [[.5/len(x)]*len(x) for x in lists]), versions, **more)

def test_the_explorer_holds_what_the_models_say():
    versions, e = explorer(start=[1, 0, 3, 2])
    assert [s['alone'] for s in e.data['series']] == [False, True, False] and e.size < 300_000
    for page in all_pages(4, 3)[1::7]:
        on = np.flatnonzero(page)
        x = ask([on_ + 1 for on_ in on], prices=[(.1, .5, .9)[o - 1] for o in page[on]])
        for name, run in (('set', trained()), ('point', trained('pointwise-homer'))): assert_close(e.chances(name, page)[on], run.score(x).p_click.to_numpy().copy(), atol=3e-5, rtol=0)
        assert_close(e.chances('half', page)[on], np.full(len(on), .5/len(on)), atol=1e-5, rtol=0) if len(on) else None
        assert np.isnan(e.chances('set', page)[page == 0]).all()
    assert e.at == dict(options=[1, 0, 3, 2], before=[1, 0, 3, 2], card=-1)
    assert e.data['cards'][0] == dict(name='thing number 1', facts='size 1.0', prices=['0.10', '0.50', '0.90'])
    json.dumps(e.data)                                                  # goes into a page as it is

def test_the_explorer_refuses_what_it_cannot_hold():
    v = [ask([1, 2, 3, 4], prices=[p]*4) for p in (.1, .5, .9)]
    with pytest.raises(InputError, match='the same candidates'): SetExplorer(dict(a=trained()), [v[0], ask([2, 1, 3, 4])])
    with pytest.raises(InputError, match='at most 5,000'): SetExplorer(dict(a=trained()), [ask(range(8)), ask(range(8)), ask(range(8))])

def test_the_attention_map_has_names():
    m = AttentionMap(trained(), ask([5, 6]), facts=['price'])
    assert [x['name'] for x in m.data['maps']] == ['encoder 1', 'cross-item 1', 'user-item 1', 'cross-item 2', 'user-item 2']
    cross = m.data['maps'][1]
    assert cross['rows'] == cross['cols'] == ['thing number 5, price 0.25', 'thing number 6, price 0.28'] and np.shape(cross['w'])[1:] == (2, 2)
    asked = read_request(trained(), ask([5, 6]))[0].batch(np.array([0]))
    assert m.data['maps'][2]['cols'] == behaviour_names(trained(), asked) and len(m.data['maps'][2]['cols']) == 6
    assert all(' before' in x and ('clicked' in x or 'seen' in x) for x in m.data['maps'][2]['cols'])
    assert [x['name'] for x in AttentionMap(trained(), ask([5], user='stranger')).data['maps']] == ['cross-item 1', 'cross-item 2']   # nothing to read
    assert [ago(x) for x in (0, 59, 3600, 200_000)] == ['0 seconds', '59 seconds', '1 hour', '2 days']

def test_page_table_and_series_by_hand():
    crowd = page_table(lambda lists: [[1/len(x)]*len(x) for x in lists], 2, 1)
    assert crowd.tolist() == [[0, 0], [0, 1], [1, 0], [.5, .5]] and not series('', crowd, 1)['alone']
    own = page_table(lambda lists: [[.1*(r + 1) for r in x] for x in lists], 2, 2)
    np.testing.assert_allclose(unpack(series('', own, 2)['table']), [.1, .3, .2, .4], atol=1e-5)
