"Properties of requests over random logs: panoramic pasts, leaks, growth, streaming, splits, codes and batches; and bad input"
import warnings
from dataclasses import fields, replace
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hettrans.data.dataset import check_dataset, from_frames, open_dataset, save_dataset
from hettrans.data.encode import EncodeConfig, Encoder, Vocabulary, Feature
from hettrans.data.panorama import Complaints, Panorama, RequestLog, find_leaks, panorama, make_log, past_loop, place_in_time, read_log, stream_log
from hettrans.data.requests import (RequestBatch, RequestData, RequestSplit, check_batch, encode_pieces, fit_request_encoder, request_batches,
                                    request_data, split_requests, stream_data, user_parts)
from hettrans.data.schema import InputError, Schema

quick, slow = settings(max_examples=15, deadline=None), settings(max_examples=6, deadline=None)
seeds = st.integers(0, 2**31)
cat, num = dict(kind='categorical'), dict(kind='numerical')

def schema(exposed=True, position=True, users=True, recorded=False):
    "All four domains; `kind` is a feature of items and of users, so that one name is taken twice"
    out = dict(name='random', items=dict(key='item', features=dict(kind=cat, size=num)), users=dict(key='user', features=dict(kind=cat, age=num)),
               requests=dict(key='request', user='user', time='when', features=dict(device=cat | (dict(side='user') if recorded else {}))),
               candidates=dict(request='request', item='item', clicked='clicked', exposed='exposed', position='place', features=dict(price=num, shelf=cat)))
    if not users: out.pop('users')
    if not exposed: out['candidates'].pop('exposed')
    if not position: out['candidates'].pop('position')
    return out

def gaps(rng, x, share=.2): return np.where(rng.random(len(x)) < share, np.nan, x)

def shop(seed, most=6, grouped=False, **roles):
    "A dataset of random size: equal seconds, late requests, mixed files, unknown places, users without a profile, missing values"
    rng = np.random.default_rng(seed)
    r, u, v = int(rng.integers(1, 30)), int(rng.integers(1, 6)), int(rng.integers(most, 12))
    n_r = rng.integers(1, most, r)
    n, spread = n_r.sum(), int(rng.choice([1, 5, 1000]))
    exposed = rng.random(n) < .7 if roles.get('exposed', True) else np.ones(n, bool)
    users = np.unique(np.append(0, rng.integers(0, u, u)))
    owner = rng.integers(0, u, r); owner[0] = 0
    cand = pd.DataFrame(dict(request=np.repeat(np.arange(r), n_r), item=np.concatenate([rng.permutation(v)[:k] for k in n_r]), exposed=exposed,
        clicked=np.where(exposed, rng.integers(0, 2, n), rng.choice([0., np.nan], n)), place=gaps(rng, rng.integers(0, 4, n)), price=gaps(rng, rng.random(n)), shelf=rng.integers(0, 4, n)))
    tables = dict(items=pd.DataFrame(dict(item=rng.permutation(v), kind=gaps(rng, rng.integers(0, 3, v)), size=rng.random(v))), users=pd.DataFrame(dict(user=users, kind=gaps(rng, rng.integers(0, 3, len(users))), age=rng.random(len(users)))),
        requests=pd.DataFrame(dict(request=rng.permutation(r), user=owner, when=rng.integers(0, spread, r), device=gaps(rng, rng.integers(0, 3, r)))))
    tables['candidates'] = cand.sort_values('request', kind='stable', key=lambda k: pd.Series(np.argsort(tables['requests'].request.to_numpy())[k])) if grouped else cand.iloc[rng.permutation(n)]
    s = schema(**roles)
    return from_frames(s, {t: d for t, d in tables.items() if t in s})

@st.composite
def shops(draw, **kw): return shop(draw(seeds), **dict(exposed=draw(st.booleans()), position=draw(st.booleans()), users=draw(st.booleans()), recorded=draw(st.booleans())) | kw)

def everything(log): return RequestSplit(log, np.arange(len(log)), np.arange(0), np.arange(0), 'all')
def pasts(past):
    rows, offsets = past.rows(np.arange(len(past.log)))
    return [rows[a:b].tolist() for a, b in zip(offsets, offsets[1:])]
def with_ties(past): return replace(past, end_r=place_in_time(past, past.log.user_r, past.log.time_r, right=True))
def same_log(a, b):
    for f in fields(a): assert np.array_equal(getattr(a, f.name), getattr(b, f.name)), f.name
def same_store(a, b):
    same_log(a.log, b.log)
    for x in ('which', 'keep', 'row_j', 'request_j', 'offsets', 'end_r'): assert np.array_equal(getattr(a, x), getattr(b, x)), x
def same_batch(a, b):
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if not isinstance(x, dict): x, y = {'': x}, {'': y}
        assert list(x) == list(y)
        for k in x: assert_close(x[k], y[k], equal_nan=True, msg=lambda m: f'{f.name} {k}: {m}')
def pick(ds, rows):
    "Some requests of a dataset with their candidates, as a dataset"
    r = ds.requests.iloc[rows]
    return from_frames(ds.schema, ds.tables | dict(requests=r, candidates=ds.candidates[ds.candidates.request.isin(r.request)]))

# the log and the store

@quick
@given(shops())
def test_the_log_holds_the_tables(ds):
    log, c, roles = read_log(ds), ds.candidates, ds.schema.tables['candidates'].roles
    assert sorted(log.row_n) == list(range(len(c))) and log.offsets[-1] == len(c)
    for r, key in enumerate(ds.requests.request):
        rows = log.row_n[log.offsets[r]:log.offsets[r + 1]]
        assert rows.tolist() == np.flatnonzero(c.request == key).tolist()          # file order within a request
    got = c.iloc[log.row_n]
    assert ds.items.item.to_numpy()[log.item_n].tolist() == got.item.tolist()
    shown = (got.exposed == True).to_numpy() if 'exposed' in roles else np.ones(len(c), bool)
    assert log.exposed_n.tolist() == shown.tolist()
    assert log.clicked_n.tolist() == [int(v) if s else -1 for v, s in zip(got.clicked, shown)]
    assert log.position_n.tolist() == ([-1 if np.isnan(p) else int(p) for p in got.place] if 'position' in roles else [-1] * len(c))

@quick
@given(shops(), st.sampled_from(['exposed', 'clicked']), st.sampled_from([1, 3, 1000]))
def test_pasts_equal_the_loop(ds, which, keep):
    log = read_log(ds)
    past = panorama(log, which, keep)
    assert pasts(past) == past_loop(log, which, keep)
    assert np.array_equal(place_in_time(past, log.user_r, log.time_r), past.end_r)

@quick
@given(shops(exposed=True))
def test_leaks_are_found_and_ours_has_none(ds):
    past = panorama(read_log(ds), keep=10**6)
    assert not len(find_leaks(past))
    leaks, log = find_leaks(with_ties(past), chunk=3), past.log
    assert (leaks.why == 'its own candidate').sum() == log.exposed_n.sum()
    ties = sum(int(log.exposed_n[log.request_n == q].sum()) for r in range(len(log)) for q in range(len(log)) if q != r and log.user_r[q] == log.user_r[r] and log.time_r[q] == log.time_r[r])
    assert (leaks.why == 'the same second').sum() == ties and len(leaks) == ties + log.exposed_n.sum()

def test_leaks_of_other_builders():
    "Anything with a log and rows(): another user's behaviour, and one from later"
    log = read_log(pick_first_two_users())
    class Foreign:
        def rows(self, r): return np.repeat(np.arange(len(self.log.item_n))[None], len(r), 0).ravel(), np.arange(len(r) + 1) * len(self.log.item_n)
    Foreign.log = log
    found = find_leaks(Foreign())
    assert set(found.why) == {'its own candidate', 'another user', 'later'}
    assert set(found.columns) == {'request', 'behaviour_of', 'row', 'why'} and len(find_leaks(Foreign(), requests=[0])) < len(found)

def pick_first_two_users():
    return from_frames(schema(users=False), dict(items=pd.DataFrame(dict(item=[1, 2], kind='x', size=1.)), requests=pd.DataFrame(dict(request=['a', 'b', 'c'], user=['u', 'u', 'v'], when=[1, 2, 3], device='d')),
        candidates=pd.DataFrame(dict(request=['a', 'b', 'c'], item=1, exposed=True, clicked=[1, 0, 1], place=0, price=1., shelf=1))))

@quick
@given(shops(), seeds, st.sampled_from(['exposed', 'clicked']))
def test_growth_equals_a_rebuild(ds, seed, which):
    rng = np.random.default_rng(seed)
    r = len(ds.requests)
    ds = from_frames(ds.schema, ds.tables | dict(candidates=ds.candidates.iloc[np.argsort(ds.requests.reset_index().set_index('request')['index'][ds.candidates.request].to_numpy(), kind='stable')]))
    cuts = [0, *sorted({int(c) for c in rng.integers(1, max(r, 2), 3) if c < r}), r]
    grown = panorama(read_log(pick(ds, range(*cuts[:2]))), which, 4)
    for a, b in zip(cuts[1:], cuts[2:]): grown = grown.append(read_log(pick(ds, range(a, b))))
    same_store(grown, panorama(read_log(ds), which, 4))
    with pytest.raises(InputError, match='already in the log'): grown.append(read_log(pick(ds, [0])))

@slow
@given(shops(), st.sampled_from([5, 1000]))
def test_streaming_equals_opening(tmp_path_factory, ds, rows):
    folder = tmp_path_factory.mktemp('stream')
    save_dataset(ds, folder)
    same_log(stream_log(folder, rows), read_log(open_dataset(folder)))

def test_streaming_reads_csv_too(tmp_path):
    ds = shop(3)
    (tmp_path / 'schema.toml').write_text(ds.schema.to_toml())
    for t, d in ds.tables.items(): d.to_csv(tmp_path / f'{t}.csv.gz', index=False)
    same_log(stream_log(tmp_path), read_log(open_dataset(tmp_path)))
    (tmp_path / 'users.csv.gz').unlink(); (tmp_path / 'schema.toml').write_text(Schema.from_dict(schema(users=False)).to_toml())
    same_log(stream_log(tmp_path), read_log(ds))

def test_streaming_reads_only_columns_with_roles(tmp_path):
    "A folder whose features are damaged still gives its log"
    ds = shop(4); save_dataset(ds, tmp_path)
    ds.candidates.assign(price='much').drop(columns='shelf').to_parquet(tmp_path / 'candidates.parquet')
    same_log(stream_log(tmp_path), read_log(ds))

# splits

@quick
@given(shops(), st.sampled_from(['time', 'user-time']), st.sampled_from([.1, .25, .45]))
def test_splits_keep_their_promises(ds, kind, fraction):
    log = read_log(ds)
    try: split = split_requests(log, f'{kind}:{fraction}')
    except InputError as e: assert 'too short' in str(e); return
    assert sorted([*split.train, *split.valid, *split.test]) == list(range(len(log)))
    groups = [np.arange(len(log))] if kind == 'time' else [np.flatnonzero(log.user_r == u) for u in range(len(log.users))]
    for g in groups:
        parts = [log.time_r[np.intersect1d(g, p)] for p in (split.train, split.valid, split.test)]
        if kind == 'user-time': assert len(parts[0])
        for a, b in ((0, 1), (0, 2), (1, 2)): assert not len(parts[a]) or not len(parts[b]) or parts[a].max() < parts[b].min()
    request_n, past = log.request_n, panorama(log)
    assert set(request_n[past.rows(split.train)[0]]) <= set(split.train)
    assert set(split.train_items) == set(log.item_n[np.isin(request_n, split.train)]) and set(split.train_rows) == set(np.flatnonzero(np.isin(request_n, split.train)))

def test_user_time_counts():
    "Users of 1 to 12 requests at different times: the last floor(n F) test, the same before validate"
    n = np.arange(1, 13)
    user = np.repeat(n, n)
    ds = from_frames(schema(users=False), dict(items=pd.DataFrame(dict(item=[1], kind='x', size=1.)), requests=pd.DataFrame(dict(request=np.arange(78), user=user, when=np.arange(78), device='d')),
        candidates=pd.DataFrame(dict(request=np.arange(78), item=1, exposed=True, clicked=True, place=0, price=1., shelf=1))))
    split = split_requests(read_log(ds), 'user-time:0.2')
    for part in (split.test, split.valid): assert [int((user[part] == k).sum()) for k in n] == [k // 5 for k in n]
    assert len(split.train) + len(split.valid) + len(split.test) == 78

def small_log(user, when):
    "Requests of one candidate"
    n = len(user); none = np.zeros(n, np.int32)
    return make_log(np.arange(n), user, when, np.arange(n), none, np.ones(n, bool), none.astype(np.int8), none)

@quick
@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=9), min_size=1, max_size=5), st.sampled_from([.1, .25, .34, .4, .49]), seeds)
def test_every_user_trains(times, fraction, seed):
    "Whatever seconds are equal: a user whose first second reaches into the held-out part is not held out at all, everybody else as counted by hand"
    user, when = np.repeat(np.arange(len(times)), [len(t) for t in times]), np.concatenate(times)
    order = np.random.default_rng(seed).permutation(len(user)); user, when = user[order], when[order]
    part = user_parts(small_log(user, when), fraction)
    for u in range(len(times)):
        mine, t = part[user == u], np.sort(when[user == u]); k = min(int(len(t)*fraction + 1e-9), (len(t) - 1)//2)
        if k == 0 or t[-2*k] == t[0]: assert not mine.any()
        else: assert mine.tolist() == ((when[user == u] >= t[-2*k]).astype(int) + (when[user == u] >= t[-k])).tolist() and (mine == 0).any()

@pytest.mark.parametrize('when, want', [([5, 5, 5], [0, 0, 0]), ([5, 5, 6], [0, 0, 0]), ([5, 6, 6], [0, 2, 2]), ([5, 6, 7], [0, 1, 2])])
def test_three_requests_of_one_user(when, want):
    assert user_parts(small_log(np.zeros(3), when), .4).tolist() == want

@pytest.mark.parametrize('how', ['time', 'time:', 'time:x', 'time:0', 'time:0.5', 'time:nan', 'leave-last-out', 'user-time', 'user:0.1', ''])
def test_odd_splits(how):
    with pytest.raises(InputError, match="choose 'time:F' or 'user-time:F'"): split_requests(read_log(shop(0)), how)

# codes

@quick
@given(shops(grouped=False), seeds)
def test_the_encoder_knows_only_training(ds, seed):
    "Whatever stands in other requests, the fitted encoder is the same"
    log, rng = read_log(ds), np.random.default_rng(seed)
    train = np.sort(rng.choice(len(log), int(rng.integers(1, len(log) + 1)), replace=False))
    split = replace(everything(log), train=train)
    other, rows = np.setdiff1d(np.arange(len(log)), train), np.setdiff1d(np.arange(len(log.row_n)), split.train_rows)
    r, c = ds.requests.copy(), ds.candidates.copy()
    r.loc[r.index[other], 'device'] = 'new'
    c.loc[c.index[log.row_n[rows]], ['price', 'shelf']] = 77., 'new'
    changed = from_frames(ds.schema, ds.tables | dict(requests=r, candidates=c))
    a, b = fit_request_encoder(ds, split), fit_request_encoder(changed, split)
    where = 'recorded' if ds.schema.tables['requests'].of_user else 'context'
    for side, t in ((where, r), ('cross', c)):
        x, y = a.encode(t, side), b.encode(t, side)
        for k in x: assert_close(x[k], y[k])
    if len(other): assert (a.encode(r, where)['device'][other] == 1).all()
    assert [(t.name, t.side) for t in a.tokens] == [('item', 'item'), ('kind', 'item'), ('size', 'item'), *([('user_kind', 'user'), ('age', 'user')] if ds.users is not None else []),
                                                    ('device', 'context' if where == 'context' else 'user'), ('price', 'cross'), ('shelf', 'cross')]

@quick
@given(seeds, st.booleans())
def test_what_a_request_records_of_its_user_moves_to_the_user(seed, users):
    "`side = 'user'` changes whose feature it is, and not one code; a behaviour keeps what was recorded at its own request"
    a, b = (shop(seed, users=users, recorded=recorded) for recorded in (False, True))
    x, y = (request_data(ds, fit_request_encoder(ds, everything(read_log(ds)))) for ds in (a, b))
    every = np.arange(len(x)); x, y = x.batch(every), y.batch(every)
    same_batch(y, replace(x, user=x.user | x.context, context={}, past_user=x.past_user | x.past_context, past_context={}))
    assert 'device' in y.user and 'device' in y.past_user

@pytest.mark.parametrize('recorded', [False, True])
def test_the_encoder_is_saved_and_loaded(tmp_path, recorded):
    ds = shop(5, recorded=recorded)
    a = fit_request_encoder(ds, everything(read_log(ds)), EncodeConfig(bins=3), user_id=True)
    a.save(tmp_path)
    b = Encoder.load(tmp_path)
    assert a.tokens == b.tokens
    x, y = request_data(ds, a), request_data(ds, b)
    same_batch(x.batch(np.arange(len(x))), y.batch(np.arange(len(y))))

def test_user_id_is_there_without_a_profile():
    for users in (True, False):
        ds = shop(6, users=users)
        data = request_data(ds, fit_request_encoder(ds, everything(read_log(ds)), user_id=True))
        token = [k for k in data.codes['user'] if k.startswith('user') and k != 'user_kind'][0]
        code = data.codes['user'][token].ravel()
        assert len(set(code.tolist())) == len(data.log.users) and code.min() >= 2

def test_small_integers_hold_large_vocabularies():
    for n, kind in ((30_000, torch.int16), (40_000, torch.int32)):
        e = Encoder([Feature('x', 'x', 'cross', Vocabulary([f'{i:05}' for i in range(n)]))], EncodeConfig())
        df = pd.DataFrame(dict(x=[f'{n - 1:05}', None, 'new']))
        codes = encode_pieces(e, 'cross', [df.iloc[:1], df.iloc[1:]])['x']
        assert codes.dtype == kind and codes.ravel().tolist() == [n + 1, 0, 1]

# batches

def batch_loop(ds, encoder, which, keep, positions, requests):
    "A batch from the data frames, one behaviour at a time: the specification"
    log, roles = read_log(ds), ds.schema.tables['candidates'].roles
    spec, c = past_loop(log, which, keep), ds.candidates
    codes = lambda side, table, rows: {k: torch.cat([v, torch.zeros(0, *v.shape[1:], dtype=v.dtype)]) for k, v in encoder.encode(table.iloc[rows], side).items()}
    users = None if ds.users is None else ds.users.set_index('user').reindex(ds.requests.user).reset_index()
    user = lambda rows: ({} if users is None else codes('user', users, rows)) | codes('recorded', ds.requests, rows)
    n = [i for r in requests for i in range(log.offsets[r], log.offsets[r + 1])]
    j = [i for r in requests for i in spec[r]]
    q = [int(log.request_n[i]) for i in j]
    file, old = log.row_n[n], log.row_n[j]
    place = c['place'].to_numpy()[old] if 'position' in roles else np.full(len(j), np.nan)
    item = lambda rows: torch.tensor(pd.Index(ds.items.item).get_indexer(c.item.iloc[rows]), dtype=torch.long)
    when = torch.tensor(ds.requests.when.to_numpy())
    shown = (c.exposed == True).to_numpy()[file] if 'exposed' in roles else np.ones(len(n), bool)
    ends = lambda count: torch.tensor(np.cumsum([0, *count]), dtype=torch.long)
    return RequestBatch(ends([log.offsets[r + 1] - log.offsets[r] for r in requests]), item(file), codes('cross', c, file), user(requests), codes('context', ds.requests, requests), when[requests],
        ends([len(spec[r]) for r in requests]), item(old), codes('cross', c, old), user(q), codes('context', ds.requests, q),
        torch.tensor([0 if np.isnan(p) else min(int(p) + 1, positions - 1) for p in place], dtype=torch.long), torch.tensor([int(v) for v in c.clicked.iloc[old]], dtype=torch.long), when[q],
        torch.tensor(shown, dtype=torch.float32), torch.tensor([float(v) if s else np.nan for v, s in zip(c.clicked.iloc[file], shown)], dtype=torch.float32))

@quick
@given(shops(), seeds, st.sampled_from(['exposed', 'clicked']), st.sampled_from([1, 4, 50]))
def test_batches_equal_the_loop(ds, seed, which, keep):
    log, rng = read_log(ds), np.random.default_rng(seed)
    encoder = fit_request_encoder(ds, everything(log))
    data = request_data(ds, encoder, which, keep, positions=3)
    some = rng.integers(0, len(log), int(rng.integers(1, 8))).tolist()          # the same request may come twice
    got = data.batch(some)
    same_batch(got, batch_loop(ds, encoder, which, keep, 3, some))
    assert check_batch(got) is got and len(got) == len(some)
    assert data.sizes[some].tolist() == (got.offsets.diff() + got.past_offsets.diff()).tolist()
    assert len(data.batch([])) == 0 and len(data.batch([]).past_items) == 0

@quick
@given(shops(), seeds)
def test_a_past_never_depends_on_what_is_not_earlier(ds, seed):
    "Flip every click and change every feature at or after the second of a request: its past stays, bit for bit"
    log = read_log(ds)
    r = int(np.random.default_rng(seed).integers(len(log)))
    late = ds.requests[ds.requests.when >= ds.requests.when.iloc[r]].request
    hit, c = ds.candidates.request.isin(late), ds.candidates.copy()
    c['clicked'] = c.clicked.where(~hit | c.clicked.isna(), c.clicked == False)
    if 'exposed' in c and 'exposed' in ds.schema.tables['candidates'].roles: c['clicked'] = c.clicked.where(c.exposed == True, np.nan)
    c['price'] = c.price.where(~hit, 5.); c['place'] = c.place.where(~hit, 2.)
    changed = from_frames(ds.schema, ds.tables | dict(candidates=c, requests=ds.requests.assign(device=ds.requests.device.where(~ds.requests.request.isin(late), '1'))))
    encoder = fit_request_encoder(ds, everything(log))
    a, b = (request_data(d, encoder).batch([r]) for d in (ds, changed))
    for f in fields(a):
        if not f.name.startswith('past'): continue
        x, y = getattr(a, f.name), getattr(b, f.name)
        for k in x if isinstance(x, dict) else ['']: assert torch.equal(x[k], y[k]) if k else torch.equal(x, y), f.name

@quick
@given(shops(exposed=True))
def test_a_planted_label_is_not_reachable(ds):
    "A feature that names request, item and click: no such code of a request is in its own sequence, and with <= all exposed ones are"
    c = ds.candidates
    s = schema(users=ds.users is not None, position='position' in ds.schema.tables['candidates'].roles)
    s['candidates']['features']['shelf'] = cat
    ds = from_frames(s, ds.tables | dict(candidates=c.assign(shelf=c.request + ':' + c.item + ':' + c.clicked.astype(str))))
    data = request_data(ds, fit_request_encoder(ds, everything(read_log(ds))), keep=10**6)
    leaky = RequestData(with_ties(data.past), data.codes)
    def reached(d):
        batches = [d.batch([r]) for r in range(len(d))]
        return sum(len({*b.cross['shelf'].ravel().tolist()} & {*b.past_cross['shelf'].ravel().tolist()}) for b in batches)
    assert reached(data) == 0 and not len(find_leaks(data.past))
    own = find_leaks(leaky.past)
    assert reached(leaky) == (own.why == 'its own candidate').sum()
    if len(own):
        with pytest.raises(InputError, match='is not earlier than the request'): check_batch(leaky.batch(np.arange(len(data))))

@slow
@given(shops(grouped=True), st.sampled_from([9, 1000]))
def test_streamed_and_grown_batches(tmp_path_factory, ds, rows):
    encoder = fit_request_encoder(ds, everything(read_log(ds)), user_id=True)
    whole, folder, every = request_data(ds, encoder, keep=3), tmp_path_factory.mktemp('data'), np.arange(len(ds.requests))
    save_dataset(ds, folder)
    same_batch(stream_data(folder, encoder, keep=3, rows=rows).batch(every), whole.batch(every))
    if len(every) > 1:
        half = len(every) // 2
        grown = request_data(pick(ds, every[:half]), encoder, keep=3).append(pick(ds, every[half:]), encoder)
        same_batch(grown.batch(every), whole.batch(every))

@quick
@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(1, 9), st.sampled_from([None, 1, 50, 200]), seeds)
def test_every_request_is_in_one_batch(sizes, batch, most, seed):
    sizes = np.array(sizes)
    some = np.random.default_rng(seed).permutation(len(sizes))[:max(1, len(sizes) // 2)]
    out = request_batches(sizes, some, batch, np.random.default_rng(seed), most=most)
    assert sorted(np.concatenate(out).tolist()) == sorted(some.tolist()) and all(1 <= len(b) <= batch for b in out)
    if most is not None: assert all(sizes[b].sum() <= most or len(b) == 1 for b in out)

def test_map_touches_every_tensor():
    ds = shop(7)
    b = request_data(ds, fit_request_encoder(ds, everything(read_log(ds)))).batch([0])
    seen = []
    out = b.map(lambda x: seen.append(id(x)) or x)
    tensors = [id(v) for f in fields(b) for x in [getattr(b, f.name)] for v in (x.values() if isinstance(x, dict) else [x])]
    assert sorted(seen) == sorted(tensors) and len(tensors) > 15
    same_batch(b.to('cpu'), b); assert replace(b, exposed=None, clicked=None).map(lambda x: x).clicked is None

BROKEN = {   # name: (change of a good batch, what the line must say)
    'offsets from 1':       (lambda b: replace(b, offsets=b.offsets + 1), 'offsets of candidates'),
    'offsets fall':         (lambda b: replace(b, past_offsets=b.past_offsets.flip(0)), 'offsets of past behaviours'),
    'offsets end early':    (lambda b: replace(b, items=b.items[:-1]), 'offsets of candidates'),
    'too few offsets':      (lambda b: replace(b, past_offsets=b.past_offsets[[0, -1]]), 'offsets of past behaviours'),
    'past of now':          (lambda b: replace(b, past_times=b.past_times + 1), 'request 2: a past behaviour at second 2 is not earlier than the request at second 2'),
    'past of the future':   (lambda b: replace(b, past_times=b.past_times + 9), 'second 10'),
    'clicked, not exposed': (lambda b: replace(b, exposed=torch.zeros_like(b.exposed)), 'clicked but not exposed'),
}
@pytest.mark.parametrize('kind', BROKEN)
def test_broken_batches(kind):
    change, must = BROKEN[kind]
    ds = pick_first_two_users()
    b = check_batch(request_data(ds, fit_request_encoder(ds, everything(read_log(ds)))).batch([0, 1, 2]))
    with pytest.raises(InputError, match=must) as e: check_batch(change(b))
    assert '\n' not in str(e.value)

# tables from outside

TOML = Schema.from_dict(schema()).to_toml()
ITEMS = 'item,kind,size\n1,a,1\n2,b,2\n3,,3\n'
USERS = 'user,kind,age\nann,x,30\nbo,,\n'
REQUESTS = 'request,user,when,device\nr1,ann,100,phone\nr2,bo,200,desk\nr3,ann,300,\n'
CANDIDATES = 'request,item,clicked,exposed,place,price,shelf\nr1,1,1,1,0,2.5,a\nr1,2,,0,,3,b\nr2,3,0,1,1,,\nr3,1,0,1,0,2,a\nr3,2,1,1,1,2,a\n'
GOOD = {'schema.toml': TOML, 'items.csv': ITEMS, 'users.csv': USERS, 'requests.csv': REQUESTS, 'candidates.csv': CANDIDATES}
def sub(name, old, new):
    assert old in GOOD[name], (name, old)
    return {name: GOOD[name].replace(old, new)}
def write(folder, files):
    for name, text in files.items():
        if text is not None: (folder / name).write_text(text)

BAD = {   # name: (files to change, what the first line must say, does a stream of the log see it?)
    'clicked but not exposed':    (sub('candidates.csv', 'r1,2,,0', 'r1,2,1,0'), ["candidates.csv, column 'clicked', row 2: clicked but not exposed (1 row)"], True),
    'exposed without an answer':  (sub('candidates.csv', 'r2,3,0,1', 'r2,3,,1'), ["'clicked', row 3", 'not known whether clicked'], True),
    'exposed missing':            (sub('candidates.csv', 'r2,3,0,1', 'r2,3,0,'), ["'exposed', row 3", 'missing flag'], True),
    'exposed is a share':         (sub('candidates.csv', 'r2,3,0,1', 'r2,3,0,0.5'), ["'exposed', row 3", "'0.5' where 0 or 1 belongs"], True),
    'click is a rating':          (sub('candidates.csv', 'r3,1,0', 'r3,1,5'), ["'clicked', row 4", "'5' where 0 or 1 belongs"], True),
    'candidate of no request':    (sub('candidates.csv', 'r2,3', 'r9,3'), ["'request', row 3", "unknown request 'r9', not in requests.csv"], True),
    'candidate without a request': (sub('candidates.csv', 'r2,3', ',3'), ["'request', row 3", 'missing key'], True),
    'candidate of no item':       (sub('candidates.csv', 'r2,3', 'r2,33'), ["'item', row 3", "unknown item '33', not in items.csv"], True),
    'item missing':               (sub('candidates.csv', 'r2,3', 'r2,'), ["'item', row 3", 'missing key'], True),
    'item twice in a request':    (sub('candidates.csv', 'r3,2', 'r3,1'), ["'item', row 5", "item '1' is twice in one request"], True),
    'request without candidates': (sub('candidates.csv', 'r2,3', 'r1,3'), ["requests.csv, column 'request', row 2", "request 'r2' has no candidates"], True),
    'request twice':              (sub('requests.csv', 'r2,bo', 'r1,bo'), ["requests.csv, column 'request', row 2: duplicate key 'r1' (1 row)"], True),
    'request without a user':     (sub('requests.csv', 'r2,bo', 'r2,'), ["'user', row 2", 'missing key'], True),
    'request without a time':     (sub('requests.csv', 'bo,200', 'bo,'), ["'when', row 2", 'missing time'], True),
    'time is no time':            (sub('requests.csv', 'bo,200', 'bo,noon'), ["'when', row 2", "unparseable time 'noon'"], True),
    'infinite time':              (sub('requests.csv', 'bo,200', 'bo,inf'), ["'when', row 2", 'infinite time'], True),
    'time in the far future':     (sub('requests.csv', 'bo,200', 'bo,1700000000000'), ["'when', row 2", 'after the year 5000'], True),
    'place is negative':          (sub('candidates.csv', 'r2,3,0,1,1', 'r2,3,0,1,-1'), ["'place', row 3", "position '-1.0' is not a whole number from 0"], True),
    'place is a fraction':        (sub('candidates.csv', 'r2,3,0,1,1', 'r2,3,0,1,1.5'), ["'place', row 3", "position '1.5' is not a whole number from 0"], True),
    'place is a word':            (sub('candidates.csv', 'r2,3,0,1,1', 'r2,3,0,1,top'), ["'place', row 3", "text 'top' in a numerical column"], True),
    'place is infinite':          (sub('candidates.csv', 'r2,3,0,1,1', 'r2,3,0,1,inf'), ["'place', row 3", 'infinite number'], True),
    'infinite feature':           (sub('candidates.csv', '2.5,a', 'inf,a'), ["'price', row 1", 'infinite number'], False),
    'feature is a word':          (sub('candidates.csv', '2.5,a', 'cheap,a'), ["'price', row 1", "text 'cheap'"], False),
    'infinite feature of a user': (sub('users.csv', 'x,30', 'x,-inf'), ["users.csv, column 'age', row 1", 'infinite number'], False),
    'missing column':             (sub('candidates.csv', 'clicked', 'click'), ["candidates.csv: missing column 'clicked'; did you mean 'click'?"], True),
    'no candidates':              ({'candidates.csv': CANDIDATES.split('\n')[0] + '\n'}, ['candidates.csv: empty table'], True),
    'no requests':                ({'requests.csv': REQUESTS.split('\n')[0] + '\n'}, ['requests.csv: empty table'], True),
    'candidates without a file':  ({'candidates.csv': None}, ['candidates: schema.toml has [candidates]'], True),
    'requests without a table':   (sub('schema.toml', TOML[TOML.index('[candidates]'):], ''), ['[requests] needs [candidates]'], True),
    'clicked has no role':        (sub('schema.toml', 'clicked = "clicked"\n', ''), ["[candidates]: missing key 'clicked'"], True),
}
@pytest.mark.parametrize('kind', BAD)
def test_bad_requests_and_candidates(tmp_path, kind):
    change, must, streamed = BAD[kind]
    write(tmp_path, GOOD | change)
    with pytest.raises(InputError) as e: open_dataset(tmp_path)
    said, listed = str(e.value), check_dataset(tmp_path)
    assert '\n' not in said and all(m in listed[0] for m in must), listed
    if not streamed: return
    with pytest.raises(InputError) as e: stream_log(tmp_path)
    assert str(e.value).split(' (and ')[0] in listed, (str(e.value), listed)

@pytest.mark.parametrize('rows', [3, 1000])
def test_streams_count_over_pieces(tmp_path, rows):
    "First row of the file and number of rows over all pieces, as for the whole table"
    ds = shop(8); save_dataset(ds, tmp_path)
    c = ds.candidates.assign(clicked=np.where(ds.candidates.exposed == False, True, ds.candidates.clicked == True), item=ds.candidates.item.where(np.arange(len(ds.candidates)) % 5 != 3, 'no'))
    c.to_parquet(tmp_path / 'candidates.parquet')
    with pytest.raises(InputError) as e: stream_log(tmp_path, rows)
    listed = [l for l in check_dataset(tmp_path) if 'twice' not in l]
    assert str(e.value) in {f'{l} (and 1 more)' for l in listed} and len(listed) == 2

LEGAL = {   # name: what to change
    'as it is':                   {},
    'nothing exposed':            sub('candidates.csv', 'r2,3,0,1', 'r2,3,,0'),
    'nothing exposed anywhere':   {'candidates.csv': 'request,item,clicked,exposed,place,price,shelf\nr1,1,,0,,1,a\nr2,1,,0,,1,a\nr3,2,0,0,,1,a\n'},
    'a set of one':               sub('candidates.csv', 'r1,2,,0,,3,b\n', ''),
    'an unknown user':            sub('requests.csv', 'r2,bo', 'r2,zoe'),
    'no profile at all':          {'users.csv': USERS.replace('ann', 'Ann').replace('bo', 'Bo')},
    'an empty profile':           sub('users.csv', 'x,30', ','),
    'no users table':             {'users.csv': None, 'schema.toml': Schema.from_dict(schema(users=False)).to_toml()},
    'NaN in a feature':           sub('candidates.csv', '2.5,a', 'nan,a'),
    'all context missing':        {'requests.csv': REQUESTS.replace('phone', '').replace('desk', '')},
    'equal times':                {'requests.csv': REQUESTS.replace('300', '100')},
    'an earlier request below':   sub('requests.csv', 'ann,300', 'ann,50'),
    'unknown place':              sub('candidates.csv', 'r2,3,0,1,1', 'r2,3,0,1,'),
    'one place twice':            sub('candidates.csv', 'r3,2,1,1,1', 'r3,2,1,1,0'),
    'a place far down':           sub('candidates.csv', 'r2,3,0,1,1', 'r2,3,0,1,99999999999'),
    'a date for a time':          {'requests.csv': REQUESTS.replace('300', '2024-03-01T12:00:00Z')},
    'mixed order':                {'candidates.csv': '\n'.join([(l := CANDIDATES.strip().split('\n'))[0], *l[:0:-1]]) + '\n'},
    'nothing clicked':            {'candidates.csv': CANDIDATES.replace('r1,1,1', 'r1,1,0').replace('r3,2,1', 'r3,2,0')},
    'no position':                {'schema.toml': TOML.replace('position = "place"\n', '')},
    'clicked = 0, not exposed':   sub('candidates.csv', 'r1,2,,0', 'r1,2,0,0'),
}
@pytest.mark.parametrize('kind', LEGAL)
def test_legal_requests_and_candidates(tmp_path, kind):
    write(tmp_path, GOOD | LEGAL[kind])
    assert check_dataset(tmp_path) == []
    ds = open_dataset(tmp_path)
    encoder = fit_request_encoder(ds, everything(read_log(ds)))
    data = request_data(ds, encoder)
    b = check_batch(data.batch(np.arange(3)))
    same_batch(b, batch_loop(ds, encoder, 'exposed', 50, 64, [0, 1, 2])); assert len(b) == 3 and not len(find_leaks(data.past))
    same_batch(stream_data(tmp_path, encoder).batch(np.arange(3)), b)
    assert (b.clicked.isnan() | (b.exposed == 1)).all()

def test_many_users_without_any_profile_are_worth_a_warning():
    tables = dict(items=pd.DataFrame(dict(item=[1], kind='a', size=1.)), users=pd.DataFrame(dict(user=['U1'], kind='a', age=1.)))
    for n, warns in ((10, False), (11, True)):
        r = np.arange(n)
        more = dict(requests=pd.DataFrame(dict(request=r, user=[f'u{i}' for i in r], when=r, device='d')), candidates=pd.DataFrame(dict(request=r, item=1, exposed=True, clicked=True, place=0, price=1., shelf='a')))
        with warnings.catch_warnings(record=True) as heard: warnings.simplefilter('always'); from_frames(schema(), tables | more)
        assert [str(w.message) for w in heard] == [f"requests, column 'user': none of 11 users is in users; are the keys the same?"] * warns

def test_a_set_of_5000():
    n = 5000
    ds = from_frames(schema(users=False), dict(items=pd.DataFrame(dict(item=np.arange(n), kind='a', size=1.)), requests=pd.DataFrame(dict(request=[1, 2], user='u', when=[1, 2], device='d')),
        candidates=pd.DataFrame(dict(request=[1] * n + [2], item=[*range(n), 0], exposed=True, clicked=False, place=np.arange(n + 1), price=1., shelf='a'))))
    data = request_data(ds, fit_request_encoder(ds, everything(read_log(ds))), keep=10**6)
    b = data.batch([1, 0])
    assert b.offsets.tolist() == [0, 1, n + 1] and b.past_offsets.tolist() == [0, n, n]
    assert b.past_position.max() == 63 and b.past_items.tolist() == list(range(n))

def test_what_is_not_there_is_said():
    ds = from_frames(dict(name='retrieval', items=dict(key='i'), interactions=dict(user='u', item='i', time='t')), dict(items=pd.DataFrame(dict(i=[1])), interactions=pd.DataFrame(dict(u=[1], i=[1], t=[1]))))
    with pytest.raises(InputError, match='retrieval: no .requests. and .candidates.'): read_log(ds)
    log = read_log(shop(1))
    for call, must in ((lambda: panorama(log, 'bought'), 'which = '), (lambda: panorama(log, keep=-1), 'keep = -1')):
        with pytest.raises(InputError, match=must): call()
    huge = replace(log, user_r=np.arange(len(log)) * 2**40, time_r=np.arange(len(log)) * 2**40)
    with pytest.raises(InputError, match='64-bit'): panorama(huge)
