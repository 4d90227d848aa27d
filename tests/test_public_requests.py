"Importers of request logs on small files in the true format, and on the real ones where they are there"
import gzip, json
from pathlib import Path
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest
from hypothesis import given, settings, strategies as st
from hettrans.cli import main
from hettrans.data.dataset import check_dataset, open_dataset
from hettrans.data.panorama import read_pieces
from hettrans.data.public import PUBLIC
from hettrans.data.public_requests import (AGAIN, EMPTY, LOST, REQUESTS, UNTIMED, FolderWriter, RequestReport, days, import_ebnerd, import_kuairand, import_mind,
                                           import_movielens_requests, import_public, kinds, popular_unseen, request_runs, seen_before)
from hettrans.data.schema import InputError
from test_public import put, real

def run(name, src, dst, **kw):
    "Import, and check what must hold for every import of requests"
    report = REQUESTS[name][0](name, src, dst, progress=False, **kw)
    assert check_dataset(dst) == [] and {f.suffix for f in Path(dst).iterdir()} == {'.parquet', '.toml'}
    ds = open_dataset(dst)
    shown = ds.candidates if 'exposed' not in ds.candidates else ds.candidates[ds.candidates.exposed == True]
    assert report.read == len(shown) + sum(report.dropped.values()), 'a candidate was dropped without being counted'
    assert report.counts == {t: len(d) for t, d in ds.tables.items()}
    known = set(ds.candidates.item_id) | (set(ds.interactions.item_id) if ds.interactions is not None else set())
    assert set(ds.items.item_id) == known and len(ds.items) == len(known), 'the catalogue is what occurs'
    return ds, report

def same(a, b):
    "Two datasets, whatever the order of the rows of their tables"
    assert a.schema.tables == b.schema.tables and set(a.tables) == set(b.tables)
    for t in a.tables:
        x, y = (d.tables[t].sort_values([c for c in ('request_id', 'user_id', 'item_id', 'timestamp', 'position') if c in d.tables[t]]).reset_index(drop=True) for d in (a, b))
        pd.testing.assert_frame_equal(x, y)

def refused(call, *must):
    with pytest.raises(InputError) as e: call()
    assert all(m in str(e.value) for m in must), str(e.value)
    assert '\n' not in str(e.value)

# Runs -------------------------------------------------------------------------------------------
LOG = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(0, 1)), max_size=40).map(sorted)

@settings(max_examples=80, deadline=None)
@given(LOG, st.integers(0, 10))
def test_runs(log, gap):
    user, time, scene = (np.array([r[k] for r in log], int) for k in range(3))
    got = request_runs(user, time, gap, scene).tolist()
    want, q = [], -1
    for k, r in enumerate(log):
        if not k or r[0] != log[k - 1][0] or r[2] != log[k - 1][2] or r[1] - log[k - 1][1] > gap: q += 1
        want.append(q)
    assert got == want
    spans = [(log[got.index(k)], [r for r, g in zip(log, got) if g == k][-1]) for k in range(q + 1)]
    for (a, b), (c, d) in zip(spans, spans[1:]): assert a[0] != c[0] or b[1] <= c[1], 'two requests of a user overlap'

# Popularity so far ------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(0, 6), st.integers(0, 15), st.integers(1, 5))
def test_unseen_films(seed, m, k, d, n):
    r = np.random.default_rng(seed)
    user_r, item_r, time_r = r.integers(0, 5, m), r.integers(0, 9, m), r.integers(0, 30, m)
    u_qd, time_q, user_q = r.random((k, d)), r.integers(0, 35, k), r.integers(0, 6, k)
    want = []
    for q in range(k):
        earlier = [i for t, i in sorted(zip(time_r.tolist(), item_r.tolist()), key=lambda x: x[0]) if t < time_q[q]]
        own, drawn = set(item_r[user_r == user_q[q]].tolist()), []
        for u in u_qd[q]:
            if not earlier or len(drawn) == n: break
            film = earlier[int(u * len(earlier))]
            if film not in own and film not in drawn: drawn.append(film)
        want += [(q, i) for i in drawn]
    assert list(zip(*(x.tolist() for x in popular_unseen(u_qd, time_q, user_q, user_r, item_r, time_r, n)))) == want

def test_unseen_films_are_as_popular_as_they_were():
    item_r, time_r = np.repeat([0, 1, 2, 3], [10, 5, 1, 50]), np.repeat([0, 1, 2, 9], [10, 5, 1, 50])
    q, film = popular_unseen(np.random.default_rng(0).random((20_000, 1)), np.full(20_000, 5), np.full(20_000, 1), np.zeros(66, int), item_r, time_r, 1)
    np.testing.assert_allclose(np.bincount(film, minlength=4) / len(film), [10/16, 5/16, 1/16, 0], atol=.015)

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.integers(0, 20))
def test_what_was_known_of_a_film(seed, m, n):
    r = np.random.default_rng(seed)
    item_r, time_r, value_r, item_n, time_n = r.integers(0, 6, m), r.integers(-20, 20, m), r.integers(1, 6, m).astype(float), r.integers(0, 8, n), r.integers(-25, 25, n)
    count, mean = seen_before(item_n, time_n, item_r, time_r, value_r)
    for k in range(n):
        v = value_r[(item_r == item_n[k]) & (time_r < time_n[k])]
        assert count[k] == len(v) and (np.isnan(mean[k]) if not len(v) else np.isclose(mean[k], v.mean()))

# The writer -------------------------------------------------------------------------------------
SCHEMA = dict(name='t', items=dict(key='item_id'), requests=dict(key='request_id', user='user_id', time='timestamp'), candidates=dict(request='request_id', item='item_id', clicked='clicked'))
def part(k, items, **more): return dict(requests=pd.DataFrame(dict(request_id=[k], user_id='u', timestamp=k)), candidates=pd.DataFrame(dict(request_id=k, item_id=list(items), clicked=0, **more)))
def write(folder, *parts):
    with FolderWriter(folder, SCHEMA, dict(candidates=dict(watch='numerical'))) as w:
        for p in parts: w.add(**p)
        w.describe('items', [], r := RequestReport('t')); return w.close(r, 'log')

def test_writer_refuses_and_cleans_up(tmp_path):
    write(tmp_path / 'good', part(1, 'ab', watch=np.nan), part(2, 'bc', watch=[1., 2]))
    assert open_dataset(tmp_path / 'good').candidates.watch.fillna(-1).tolist() == [-1, -1, 1, 2]
    for k, (parts, must) in enumerate([((part(1, 'ab', watch=0), part(1, 'c', watch=0)), "request 2: '1' is there already (1 requests)"), ((part(1, 'aa', watch=0),), "item 'a' is twice in one request"),
                                       ((part(1, 'a', watch=0), part(2, ['b', None], watch=0)), "candidates, rows from 2 on, column 'item_id', row 2: missing key (1 row)"), ((), 'no request is left')]):
        refused(lambda: write(tmp_path / str(k), *parts), must)
        assert list((tmp_path / str(k)).iterdir()) == []
    put(tmp_path / 'old' / 'users.csv', 'user_id\n1\n')
    refused(lambda: write(tmp_path / 'old', part(1, 'a', watch=0)), 'already holds users.csv')
    write(tmp_path / 'good', part(3, 'a', watch=0)); assert open_dataset(tmp_path / 'good').requests.request_id.tolist() == ['3']   # what it wrote, it writes again
    write(mine := tmp_path / 'mine', part(1, 'a', watch=0)); (mine / 'schema.toml').unlink(); before = (mine / 'requests.parquet').read_bytes()
    refused(lambda: write(mine, part(2, 'a', watch=0)), 'already holds candidates.parquet'); assert (mine / 'requests.parquet').read_bytes() == before
    put(tmp_path / 'file', 'x'); refused(lambda: write(tmp_path / 'file' / 'x', part(1, 'a', watch=0)), 'cannot be made')

def test_a_folder_with_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); write('exp:1', part(1, 'a', watch=0))
    assert len(open_dataset('exp:1').requests) == 1 and len(next(read_pieces(Path('exp:1/requests.parquet'), ['user_id'], 10))) == 1

def test_more_than_64_parts_keep_every_key(tmp_path):
    write(tmp_path / 'a', *(part(k, [f'i{k}', f'i{k % 7}'] if k > 6 else [f'i{k}'], watch=0) for k in range(200)))
    assert sorted(open_dataset(tmp_path / 'a').items.item_id, key=lambda i: int(i[1:])) == [f'i{k}' for k in range(200)]

# MIND -------------------------------------------------------------------------------------------
BEHAVIORS = ('1\tU1\t11/15/2019 10:22:32 AM\tN1 N7 N8\tN1-0 N2-1 N3-0\n'
             '2\tU2\t11/9/2019 6:42:51 PM\t\tN2-0 N2-1 N4-0\n'
             '3\tU1\t11/15/2019 12:00:00 AM\tN1 N7 N8\t\n'
             '\n'
             '5\tU3\t11/14/2019 12:00:05 PM\tN9\tN4-1\n')
NEWS = 'N1\tsports\tgolf\tIt\'s "quoted\tAbout\thttps://a\t[]\t[]\nN2\tnews\tworld\t\u00dcber\t\thttps://b\t[]\t[]\nN7\tnews\tx\tseen\tonly in histories\thttps://c\t[]\t[]\nN2\tnews\tagain\tTwo\tx\ty\t[]\t[]\n'

@pytest.mark.parametrize('size, gz', [(1, ''), (2, '.gz'), (100, '')])
def test_mind(tmp_path, size, gz):
    put(tmp_path / f'behaviors.tsv{gz}', BEHAVIORS); put(tmp_path / f'news.tsv{gz}', NEWS)
    ds, report = run('mind', tmp_path, tmp_path / 'dst', size=size)
    assert ds.requests.request_id.tolist() == ['1', '2', '5'] and ds.requests.timestamp.tolist() == [1573813352, 1573324971, 1573732805]
    assert ds.requests.hour.tolist() == ['10', '18', '12'] and ds.requests.weekday.tolist() == ['4', '5', '3']
    assert list(zip(ds.candidates.request_id, ds.candidates.item_id, ds.candidates.clicked)) == [('1', 'N1', False), ('1', 'N2', True), ('1', 'N3', False), ('2', 'N2', True), ('2', 'N4', False), ('5', 'N4', True)]
    items = ds.items.set_index('item_id')
    assert items.title.fillna('-').to_dict() == {'N1': 'It\'s "quoted', 'N2': '\u00dcber', 'N3': '-', 'N4': '-'} and items.abstract['N1'] == 'About' and 'abstract' not in ds.schema.tables['items'].features
    assert ds.users is None and ds.interactions is None and set(ds.schema.tables['candidates'].roles) == {'request', 'item', 'clicked'}, 'the order was shuffled: no position'
    assert report.aside == {UNTIMED: 7, EMPTY: 1} and report.dropped == {AGAIN: 1} and '1 item descriptions are repetitions' in str(report) and '1 items that never occur left out, 2 items without a description' in str(report)

@pytest.mark.parametrize('old, new, must', [
    ('N4-1', 'N4', ["behaviors.tsv, column 'impressions', row 5: 'N4' does not end with -0 or -1", '(1 of rows 1 to 5)']), ('N1-0', 'N1-2', ["row 1: 'N1-2'"]), ('N1-0', '-1', ["row 1: '-1'"]),
    ('11/9/2019 6:42:51 PM', '2019-11-09', ["column 'time', row 2: '2019-11-09' is no time"]), ('11/9/2019', '13/9/2019', ["column 'time', row 2"]),
    ('2\tU2\t', '2\t', ['behaviors.tsv, line 2: 5 fields expected, found 4 (1 of lines 1 to 5)']), ('2\tU2', '2\t ', ["column 'user_id', row 2: empty (1 of rows 1 to 5)"]), ('2\tU2', '\tU2', ["column 'request_id', row 2"]),
    ('5\tU3', '1\tU3', ["column 'request_id', row 3: duplicate key '1' (1 row)"]), (BEHAVIORS, '', ['no request is left']), (BEHAVIORS, '3\tU1\t11/15/2019 12:00:00 AM\t\t\n', ['no request is left', '0 candidates read'])])
def test_mind_bad(tmp_path, old, new, must):
    put(tmp_path / 'behaviors.tsv', BEHAVIORS.replace(old, new)); put(tmp_path / 'news.tsv', NEWS)
    refused(lambda: import_mind('mind', tmp_path, tmp_path / 'dst', progress=False), *must)
    assert list((tmp_path / 'dst').iterdir()) == []

@pytest.mark.parametrize('text, must', [(None, 'no news of MIND found'), ('N1\tsports\n', 'news.tsv, line 1: 8 fields expected, found 2')])
def test_mind_bad_news(tmp_path, text, must):
    put(tmp_path / 'behaviors.tsv', BEHAVIORS)
    if text: put(tmp_path / 'news.tsv', text)
    refused(lambda: import_mind('mind', tmp_path, tmp_path / 'dst', progress=False), must)

def test_mind_not_text(tmp_path):
    put(tmp_path / 'news.tsv', NEWS); (tmp_path / 'behaviors.tsv').write_bytes(BEHAVIORS.encode() + b'6\tU\xff\n')
    refused(lambda: import_mind('mind', tmp_path, tmp_path / 'dst', progress=False), 'behaviors.tsv, line 6: not utf-8 text')
    assert not list((tmp_path / 'dst').glob('*'))

# EB-NeRD ----------------------------------------------------------------------------------------
def when(*seconds): return pa.array([None if s is None else 1_677_000_000_000_000 + 1_000_000 * s + 250_000 for s in seconds], pa.timestamp('us'))
def lists(*rows, of=pa.int32()): return pa.array(rows, pa.large_list(of))
def behaviors(**change):
    t = dict(impression_id=pa.array([9, 71, 151, 160], pa.uint32()), article_id=pa.array([None, 300, None, None], pa.int32()), impression_time=when(7200, 3600, 9000, 9100), read_time=pa.array([17, 82, 22, 1], pa.float32()),
             scroll_percentage=pa.array([None, 50, None, None], pa.float32()), device_type=pa.array([2, 3, 1, 1], pa.int8()), article_ids_inview=lists([100, 200], [100, 200, 300, 200], [300], []),
             article_ids_clicked=lists([200], [100, 300, 999], [], None), user_id=pa.array([5, 5, 6, 6], pa.uint32()), is_sso_user=[True, True, False, False], gender=pa.array([0, 0, None, None], pa.int8()),
             postcode=pa.array([None] * 4, pa.int8()), age=pa.array([40, 40, None, None], pa.int8()), is_subscriber=[True, True, False, False], session_id=pa.array([70, 70, 8, 8], pa.uint32()),
             next_read_time=pa.array([8, 4, None, None], pa.float32()), next_scroll_percentage=pa.array([30, 20, None, None], pa.float32())) | change
    return pa.table({k: v for k, v in t.items() if v is not None})
def history(**change):
    t = dict(user_id=pa.array([5, 7], pa.uint32()), impression_time_fixed=lists(when(20, 10).to_pylist(), when(30).to_pylist(), of=pa.timestamp('us')), scroll_percentage_fixed=lists([None, 1], [2], of=pa.float32()),
             article_id_fixed=lists([400, 100], [400]), read_time_fixed=lists([11, 12], [13], of=pa.float32())) | change
    return pa.table({k: v for k, v in t.items() if v is not None})
def articles(**change):
    return pa.table(dict(article_id=pa.array([100, 300, 888, 300], pa.int32()), title=['A', 'C', 'never shown', 'twice'], subtitle=['a', None, 'x', 'x'], published_time=when(0, 3600, 0, 0), last_modified_time=when(0, 0, 0, 0),
                         topics=pa.array([['war', 'sport'], None, [], []], pa.list_(pa.string())), category_str=['news', 'sport', 'x', 'x'], premium=[True, False, False, False], sentiment_score=pa.array([.5, None, 0, 0], pa.float32()),
                         total_inviews=[5., 6, 7, 8], body=['x'] * 4) | change)
def ebnerd(src, log=behaviors(), past=history(), news=articles(), up=False):
    src.mkdir(parents=True, exist_ok=True); pq.write_table(log, src / 'behaviors.parquet')
    if past is not None: pq.write_table(past, src / 'history.parquet')
    if news is not None: pq.write_table(news, (src.parent if up else src) / 'articles.parquet')
    return src

@pytest.mark.parametrize('size, up', [(1, True), (3, False), (100, False)])
def test_ebnerd(tmp_path, size, up):
    ds, report = run('ebnerd', ebnerd(tmp_path / 'bundle' / 'train', up=up), tmp_path / 'dst', size=size)
    c = ds.candidates.set_index(['request_id', 'item_id'])
    assert c.clicked.to_dict() == {('9', '100'): False, ('9', '200'): True, ('71', '100'): True, ('71', '200'): False, ('71', '300'): True, ('151', '300'): False}
    assert report.dropped == {AGAIN: 1} and report.aside == {LOST: 1, EMPTY: 1}
    assert c.read_time.dropna().to_dict() == {('9', '200'): 8} and c.scroll_percentage.dropna().to_dict() == {('9', '200'): 30}, 'known only where one article was clicked'
    assert c.age_hours.fillna(-1).to_dict() == {('9', '100'): 2, ('9', '200'): -1, ('71', '100'): 1, ('71', '200'): -1, ('71', '300'): 0, ('151', '300'): 1.5}
    r = ds.requests.set_index('request_id')
    assert r.timestamp.tolist() == [1677007200, 1677003600, 1677009000] and r.page.fillna('front').tolist() == ['front', '300', 'front'] and r.page_read_time.tolist() == [17, 82, 22] and r.session_id.tolist() == ['70', '70', '8']
    assert ds.schema.tables['requests'].features == dict.fromkeys(['device_type', 'is_sso_user', 'is_subscriber', 'page', 'hour', 'weekday'], 'categorical')
    assert list(zip(ds.interactions.user_id, ds.interactions.item_id, ds.interactions.timestamp, ds.interactions.position, ds.interactions.read_time)) == [('5', '100', 1677000010, 0, 12), ('5', '400', 1677000020, 1, 11), ('7', '400', 1677000030, 0, 13)]
    assert ds.users.set_index('user_id').age.fillna('-').to_dict() == {'5': '40', '6': '-', '7': '-'}
    items = ds.items.set_index('item_id')
    assert items.title.fillna('-').to_dict() == {'100': 'A', '200': '-', '300': 'C', '400': '-'} and items.topics['100'] == 'war sport' and not {'total_inviews', 'body', 'last_modified_time'} & set(items)
    assert 'the histories end 3,570 seconds before the first request' in str(report) and '1 item descriptions are repetitions' in str(report)

def test_ebnerd_with_less(tmp_path):
    "No histories, no articles, only the columns that must be there"
    log = behaviors().select('impression_id user_id impression_time article_ids_inview article_ids_clicked'.split())
    ds, report = run('ebnerd', ebnerd(tmp_path / 'src', log, None, None), tmp_path / 'dst')
    assert ds.interactions is None and ds.schema.tables['items'].features == {} and list(ds.schema.tables['requests'].features) == ['hour', 'weekday'] and ds.schema.tables['candidates'].features == {}
    assert 'no history.parquet' in str(report) and 'no articles.parquet' in str(report)

def test_ebnerd_history_that_reaches_too_far_is_said(tmp_path):
    _, report = run('ebnerd', ebnerd(tmp_path / 'src', past=history(impression_time_fixed=lists(when(20, 4000).to_pylist(), when(30).to_pylist(), of=pa.timestamp('us')))), tmp_path / 'dst')
    assert 'the histories reach 400 seconds into the time of the requests' in str(report)

@pytest.mark.parametrize('what, must', [
    (dict(log=behaviors(article_ids_clicked=None)), "behaviors.parquet: missing column 'article_ids_clicked'"), (dict(log=behaviors(impression_time=pa.array([1, 2, 3, 4]))), "column 'impression_time': times expected, found int64"),
    (dict(log=behaviors(impression_time=when(1, None, 3, None))), "behaviors.parquet, column 'impression_time', row 2: missing time (2 of rows 1 to 4)"), (dict(log=behaviors(user_id=pa.array([5, 5, None, 6]))), "column 'user_id', row 3: missing (1 of"),
    (dict(log=behaviors(article_ids_inview=pa.array(['a'] * 4))), "column 'article_ids_inview': lists expected, found string"), (dict(log=behaviors(impression_id=pa.array([9, 9, 1, 2]))), "column 'request_id', row 2: duplicate key '9' (1 row)"),
    (dict(log=behaviors(article_ids_inview=lists([100, None], [1], [2], [3]))), "column 'item_id', row 2: missing key"), (dict(past=history(article_id_fixed=None)), "history.parquet: missing column 'article_id_fixed'"),
    (dict(past=history(article_id_fixed=lists([400, 100], [400, 5]))), "history.parquet, column 'impression_time_fixed', row 2: list of '1' values"), (dict(past=history(read_time_fixed=lists([np.inf, 1], [2], of=pa.float32()))), "column 'read_time', row 2: infinite number (1 row)"),
    (dict(past=history(impression_time_fixed=lists(when(20, None).to_pylist(), when(30).to_pylist(), of=pa.timestamp('us')))), "column 'impression_time_fixed', row 1: missing time"), (dict(past=history().slice(0, 0)), 'no row of interactions was found'),
    (dict(log=behaviors().slice(0, 0)), 'no request is left')])
def test_ebnerd_bad(tmp_path, what, must):
    refused(lambda: import_ebnerd('ebnerd', ebnerd(tmp_path / 'src', **what), tmp_path / 'dst', progress=False), must)
    assert not list((tmp_path / 'dst').glob('*')) if (tmp_path / 'dst').exists() else True

def test_ebnerd_broken_file(tmp_path):
    src = ebnerd(tmp_path / 'src'); data = (src / 'behaviors.parquet').read_bytes()
    (src / 'behaviors.parquet').write_bytes(data[:200])
    refused(lambda: import_ebnerd('ebnerd', src, tmp_path / 'dst', progress=False), 'behaviors.parquet: cannot be read as Parquet')
    (src / 'behaviors.parquet').unlink()
    refused(lambda: import_ebnerd('ebnerd', src, tmp_path / 'dst', progress=False), 'no log of one split of EB-NeRD found')

# KuaiRand ---------------------------------------------------------------------------------------
HEAD = 'user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n'
def row(user, video, second, click, tab): return f'{user},{video},20220409,900,{1649467980000 + 1000 * second + 289},{click},0,0,0,0,0,{click},{9000 * click},11000,0,0,0,0,{tab}\n'
def kuairand(src, rows, files=2, gz='', features=True):
    for k in range(files): put(src / f'log_standard_{k}_pure.csv{gz}', HEAD + ''.join(row(*r) for r in rows[k::files]))
    if features:
        put(src / 'user_features_pure.csv', 'user_id,user_active_degree,is_lowactive_period,follow_user_num,follow_user_num_range,onehot_feat0\n1,full_active,0,5,"(0,10]",\n9,UNKNOWN,0,1,0,1\n')
        put(src / 'video_features_basic_pure.csv', 'video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,music_id,music_type,tag\n'
            + ''.join(f'{v},{v + 5},NORMAL,{"2022-04-0" + str(v) if v < 6 else ""},Web,1,11000.0,720,1280,9,4.0,"12,65"\n' for v in (1, 2, 3, 6)))
    return src
ROWS = [(1, 1, 0, 0, 1), (1, 2, 20, 1, 1), (1, 3, 40, 0, 1), (1, 4, 50, 0, 0), (1, 2, 60, 1, 0), (1, 6, 75, 1, 1), (1, 2, 90, 0, 1), (1, 5, 150, 0, 1), (1, 6, 160, 0, 1), (1, 6, 170, 1, 1), (2, 1, 0, 1, 1), (1, 7, 231, 1, 1)]

@pytest.mark.parametrize('bucket, files, gz', [(1 << 20, 1, ''), (100, 2, ''), (300, 3, '.gz')])
def test_kuairand(tmp_path, bucket, files, gz):
    ds, report = run('kuairand', kuairand(tmp_path / 'KuaiRand-Pure' / 'data', ROWS, files, gz).parent, tmp_path / 'dst', bucket=bucket)
    got = ds.candidates.groupby('request_id').item_id.agg(''.join).to_dict()
    assert got == {'1-0': '123', '1-1': '42', '1-2': '6256'[:3], '1-3': '7', '2-0': '1'}, 'a change of the tab, or more than 60 s'
    c = ds.candidates.set_index(['request_id', 'item_id'])
    assert c.clicked['1-2'].to_dict() == {'6': True, '2': False, '5': False} and c.position['1-2'].to_dict() == {'6': 0, '2': 1, '5': 2} and report.dropped == {AGAIN: 2}
    assert c.age_days['1-0'].tolist() == [8, 7, 6] and c.age_days[['1-1', '1-2']].isna().tolist() == [True, False, True, False, True] and c.duration_s.eq(11).all()
    r = ds.requests.set_index('request_id'); assert r.timestamp['1-1'] == 1649468030 and set(r.hour) == {'9'} and set(r.weekday) == {'5'} and r.tab['1-1'] == '0'
    assert set(ds.schema.tables['candidates'].features) == {'duration_s', 'age_days'} and c.play_time_ms['1-0', '2'] == 9000
    assert ds.items.set_index('item_id').tag.fillna('-').to_dict() == {'1': '12,65', '2': '12,65', '3': '12,65', '6': '12,65', '4': '-', '5': '-', '7': '-'} and 'visible_status' not in ds.items
    assert ds.users.set_index('user_id').follow_user_num_range.fillna('-').to_dict() == {'1': '(0,10]', '2': '-'}
    assert 'constructed' in str(report) and 'the largest has 3 candidates' in str(report)

def test_kuairand_without_features(tmp_path):
    put(tmp_path / 'src' / 'log_random_4.csv', HEAD)
    ds, report = run('kuairand', kuairand(tmp_path / 'src', ROWS, features=False), tmp_path / 'dst', gap=1000)
    assert ds.candidates.groupby('request_id').size().to_dict() == {'1-0': 3, '1-1': 2, '1-2': 4, '2-0': 1} and 'not read: log_random_4.csv' in str(report)
    assert ds.schema.tables['items'].features == {} and set(ds.schema.tables['candidates'].features) == {'duration_s'}
    same(ds, run('kuairand', kuairand(tmp_path / 'one', ROWS, 1, features=False) / 'log_standard_0_pure.csv', tmp_path / 'dst1', gap=1000)[0])

@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(0, 200), st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=25), st.integers(0, 80))
def test_no_click_of_an_earlier_request_lies_after_the_next_one(tmp_path_factory, rows, gap):
    tmp = tmp_path_factory.mktemp('k')
    ds, _ = run('kuairand', kuairand(tmp / 'src', rows, features=False), tmp / 'dst', gap=gap, bucket=200)
    start = dict(zip(ds.requests.request_id, ds.requests.timestamp))
    for user, g in ds.requests.groupby('user_id'):
        mine = sorted((int(k.split('-')[1]), start[k]) for k in g.request_id)
        assert [t for _, t in mine] == sorted(t for _, t in mine)
        for (k, _), (_, t) in zip(mine, mine[1:]):       # every showing of request k is not later than the start of the next
            shown = set(ds.candidates[ds.candidates.request_id == f'{user}-{k}'].item_id)
            assert shown <= {str(v) for u, v, s, *_ in rows if str(u) == user and 1649467980 + s <= t}
    clicks = {(str(u), str(v)) for u, v, _, c, _ in rows if c}
    c = ds.candidates[ds.candidates.clicked == True]
    assert {(k.split('-')[0], i) for k, i in zip(c.request_id, c.item_id)} == clicks

@pytest.mark.parametrize('old, new, must', [
    ('is_click', 'click', "log_standard_0_pure.csv: missing column 'is_click'"), ('1,4,20220409', '1,4,20221399', "column 'date', row 4: '20221399' is no date (1 of rows 1 to 12)"), ('1,4,20220409,900,', '1,4,20220409,900,x', "column 'time_ms', row 4: 'x1649468030289' is no whole number"),
    ('289,1,0,0,0,0,0,1,9000,11000,0,0,0,0,0', '289,7,0,0,0,0,0,1,9000,11000,0,0,0,0,0', "column 'is_click', row 5: '7' where 0 or 1 belongs (1 of"), ('1,4,20220409', ',4,20220409', "column 'user_id', row 4: missing (1 of"),
    (',0,0,0,0,0,0,0,0,11000,0,0,0,0,0\n', ',0\n', 'log_standard_0_pure.csv: cannot be read as CSV (CSV parse error: row 4: Expected 19 columns'), ('1,4,20220409,900', '1,4,20220409,', "column 'hourmin', row 4: 'None' is no whole number")])
def test_kuairand_bad(tmp_path, old, new, must):
    src = kuairand(tmp_path / 'src', ROWS, 1); f = src / 'log_standard_0_pure.csv'
    assert old in f.read_text(); put(f, f.read_text().replace(old, new))
    refused(lambda: import_kuairand('kuairand', src, tmp_path / 'dst', progress=False), must)
    assert list((tmp_path / 'dst').iterdir()) == [] if (tmp_path / 'dst').exists() else True

def test_kuairand_bad_files(tmp_path):
    load = lambda: import_kuairand('kuairand', tmp_path / 'src', tmp_path / 'dst', progress=False)
    refused(load, 'no log of KuaiRand found')
    src = kuairand(tmp_path / 'src', ROWS, 1)
    put(src / 'video_features_basic_pure.csv', 'video_id,upload_dt\n1,2022-04-01\n2,soon\n'); refused(load, "video_features_basic_pure.csv, column 'upload_dt', row 2: 'soon' is no date (1 of rows 1 to 2)")
    put(src / 'video_features_basic_pure.csv', 'video_id,video_duration\n1,long\n'); refused(load, "items, rows from 1 on, column 'video_duration', row 1: text 'long' in a numerical column (1 row)")
    (src / 'video_features_basic_pure.csv').unlink(); put(src / 'log_standard_0_pure.csv', HEAD); refused(load, 'no request is left')
    packed = gzip.compress((HEAD + ''.join(row(*r) for r in ROWS * 50)).encode()); (src / 'log_standard_0_pure.csv').unlink(); (src / 'log_standard_0_pure.csv.gz').write_bytes(packed[:len(packed) // 2])
    refused(load, 'log_standard_0_pure.csv.gz: cannot be read as CSV')

def test_days():
    assert days(pa.chunked_array([pa.array(['1970-01-01', None, '2022-04-09'])]), 'f', 'c', [1, 2, 3], '%Y-%m-%d').fillna(-1).tolist() == [0, -1, 19091]

# MovieLens --------------------------------------------------------------------------------------
RATINGS = [(1, 10, 5, 1000), (1, 11, 3, 1030), (1, 12, 4, 1090), (1, 13, 1, 1151), (2, 13, 4, 1151), (2, 14, 2, 1151), (3, 10, 1, 9000), (3, 14, 5, 9000), (2, 12, 5, 99000)]
def movielens(src, form, ratings=RATINGS):
    users, films = sorted({u for u, *_ in ratings}), sorted({i for _, i, *_ in ratings})
    flags = '|'.join('1' if k == 8 else '0' for k in range(19))
    lines = lambda sep, rows: ''.join(sep.join(map(str, r)) + '\n' for r in rows)
    if form == '100k': put(src / 'u.data', lines('\t', ratings)); put(src / 'u.item', lines('|', [(i, f'F{i} (1990)', 'x', '', 'u', flags) for i in films])); put(src / 'u.user', lines('|', [(u, 20, 'M', 'writer', 0) for u in users]))
    if form == '1m': put(src / 'ratings.dat', lines('::', ratings)); put(src / 'movies.dat', lines('::', [(i, f'F{i} (1990)', 'Drama') for i in films])); put(src / 'users.dat', lines('::', [(u, 'M', 20, 'writer', 0) for u in users]))
    if form == 'recbole':
        put(src / 'ml.inter', 'user_id:token\titem_id:token\trating:float\ttimestamp:float\n' + lines('\t', ratings))
        put(src / 'ml.item', 'item_id:token\ttitle:token_seq\tyear:token\tgenres:token_seq\n' + lines('\t', [(i, f'F{i}', 1990, 'Drama') for i in films]))
        put(src / 'ml.user', 'user_id:token\tage:token\tgender:token\toccupation:token\n' + lines('\t', [(u, 20, 'M', 'writer') for u in users]))
    return src

def test_movielens_forms_agree(tmp_path):
    a, b, c = (run('movielens-requests', movielens(tmp_path / f, f), tmp_path / f'd{f}')[0] for f in ('100k', '1m', 'recbole'))
    same(a, b); same(a, c)
    assert a.schema.tables['items'].features == dict(title='text', year='categorical', genres='text') and a.schema.tables['users'].features == dict(age='categorical', gender='categorical', occupation='categorical')

def test_movielens_requests(tmp_path):
    ds, report = run('movielens-requests', movielens(tmp_path / 'src', '100k'), tmp_path / 'dst', unexposed=2)
    assert dict(zip(ds.requests.request_id, ds.requests.timestamp)) == {'1-0': 1000, '1-1': 1151, '2-0': 1151, '2-1': 99000, '3-0': 9000}, 'a pause of 60 s is none, one of 61 s is'
    c = ds.candidates.set_index(['request_id', 'item_id'])
    shown = c[c.exposed == True]
    assert shown.clicked.astype(bool).to_dict() == {('1-0', '10'): True, ('1-0', '11'): False, ('1-0', '12'): True, ('1-1', '13'): False, ('2-0', '13'): True, ('2-0', '14'): False, ('2-1', '12'): True, ('3-0', '10'): False, ('3-0', '14'): True}
    drawn = c[c.exposed == False]
    assert drawn.clicked.isna().all() and drawn.rating.isna().all() and (drawn.ratings_before > 0).all()
    assert set(drawn.loc['2-0'].index) < {'10', '11', '12'} | {'x'} and set(drawn.loc['2-1'].index) == {'10', '11'} and len(drawn.loc['3-0']) == 2 and not {'1-0', '1-1'} & set(drawn.index.get_level_values(0))
    assert c.mean_before['2-1', '10'] == 3 and c.ratings_before['2-1', '10'] == 2 and c.ratings_before['2-0', '13'] == 0 and np.isnan(c.mean_before['2-0', '13']), 'of equal time is not before'
    assert all((g.index == g.sort_index().index).all() for _, g in ds.candidates.groupby('request_id')) and set(ds.schema.tables['candidates'].features) == {'ratings_before', 'mean_before'}
    assert 'constructed' in str(report) and 'dropped: rated again' in str(report)

def many(seed, users=12, films=40, n=400):
    r = np.random.default_rng(seed); pairs = r.permutation(users * films)[:n]
    return [(int(p // films) + 1, int(p % films) + 1, int(r.integers(1, 6)), 1_000_000 + int(r.integers(0, 20)) * 5000 + int(r.integers(0, 200))) for p in pairs]

def test_movielens_candidates(tmp_path):
    rated = many(0); src = movielens(tmp_path / 'src', '100k', rated)
    ds, _ = run('movielens-requests', src, tmp_path / 'a', unexposed=6)
    own, first = pd.DataFrame(rated, columns=['u', 'i', 'r', 't']).astype({'u': str, 'i': str}), {}
    for _, i, _, t in rated: first[str(i)] = min(t, first.get(str(i), t))
    r = ds.requests.set_index('request_id'); drawn = ds.candidates[ds.candidates.exposed == False]
    mine = set(zip(own.u, own.i))
    for k, i in zip(drawn.request_id, drawn.item_id): assert (r.user_id[k], i) not in mine and first[i] < r.timestamp[k]
    assert drawn.groupby('request_id').size().max() == 6 and len(drawn) > 200
    same(ds, run('movielens-requests', src, tmp_path / 'b', unexposed=6, size=7)[0])                    # parts change nothing
    other = run('movielens-requests', src, tmp_path / 'c', unexposed=6, seed=1)[0]
    assert set(zip(drawn.request_id, drawn.item_id)) != {(k, i) for k, i, e in zip(other.candidates.request_id, other.candidates.item_id, other.candidates.exposed) if e == False}
    none = run('movielens-requests', src, tmp_path / 'd', unexposed=0)[0]
    assert (none.candidates.exposed == True).all() and len(none.candidates) == len(rated)
    core, report = run('movielens-requests', src, tmp_path / 'e', core=10)
    assert core.candidates[core.candidates.exposed == True].item_id.value_counts().min() >= 10 and any('10-core' in why for why in report.dropped)

def test_a_later_rating_changes_nothing_before(tmp_path):
    "The planted leak: ratings from a moment on are turned around; what was known before that moment stays"
    rated, cut = many(1), 1_050_000
    a, b = (run('movielens-requests', movielens(tmp_path / n, '100k', rows), tmp_path / f'd{n}')[0].candidates.set_index(['request_id', 'item_id']) for n, rows in
            (('a', rated), ('b', [(u, i, r if t < cut else 6 - r, t) for u, i, r, t in rated])))
    old = set(open_dataset(tmp_path / 'da').requests.query(f'timestamp <= {cut}').request_id)
    k = a.index.get_level_values(0).isin(old)
    assert 0 < k.sum() < len(k)
    pd.testing.assert_frame_equal(a[k][['exposed', 'ratings_before', 'mean_before']], b[k][['exposed', 'ratings_before', 'mean_before']])
    assert not np.allclose(a[~k].mean_before.fillna(0), b[~k].mean_before.fillna(0))

def test_recbole_ratings(tmp_path):
    put(tmp_path / 'a' / 'x.inter', 'user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t5\t4\t10\n1\t5\t2\t20\n1\t6\t\t20\n1\t5\t2\t200\n')
    ds, report = run('movielens-requests', tmp_path / 'a', tmp_path / 'da')
    assert report.dropped['without a rating'] == 1 and report.dropped['rated again in the same request (the first rating counts)'] == 1 and ds.candidates.clicked.tolist() == [True, False]
    for k, (text, must) in enumerate([('user_id:token\titem_id:token\ttimestamp:float\n1\t5\t10\n', "no column 'rating' of numbers"), ('user_id:token\titem_id:token\trating:token\ttimestamp:float\n1\t5\t4\t10\n', "no column 'rating' of numbers"),
                                      ('user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t5\t\t10\n', 'no rating is left (1 read)'), ('user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t5\t3\tsoon\n', "row 1: unparseable time 'soon'")]):
        put(tmp_path / f'b{k}' / 'x.inter', text)
        refused(lambda: import_movielens_requests('m', tmp_path / f'b{k}', tmp_path / f'o{k}', progress=False), must)
    refused(lambda: import_movielens_requests('m', tmp_path / 'nowhere', tmp_path / 'o', progress=False), 'neither u.data (100K) nor ratings.dat (1M) is there')

# The door ---------------------------------------------------------------------------------------
def test_the_command_knows_them(tmp_path, capsys):
    assert main(['data', 'ls']) == 0
    said = capsys.readouterr().out
    assert all(any(l.split()[1:2] == [k] for l in said.splitlines()) for k in PUBLIC) and set(REQUESTS) < set(PUBLIC)
    put(tmp_path / 'behaviors.tsv', BEHAVIORS); put(tmp_path / 'news.tsv', NEWS)
    assert main(['data', 'import', 'mind-small', str(tmp_path), str(tmp_path / 'dst')]) == 0
    assert 'mind-small: 7 candidates read' in capsys.readouterr().out and main(['data', 'check', str(tmp_path / 'dst')]) == 0 and open_dataset(tmp_path / 'dst').name == 'mind-small'
    capsys.readouterr()
    assert main(['data', 'import', 'mind', str(tmp_path), str(tmp_path / 'dst2'), '--core', '5']) == 2
    assert capsys.readouterr().err == 'hettrans: mind: --core filters a log of behaviours; a request keeps the list that was shown\n'

def test_names_are_not_mixed_up(tmp_path):
    for name, unit in (('movielens-requests-100k', 'requests'), ('ml-requests', 'requests'), ('ml-100k', 'interactions')):
        import_public(name, movielens(tmp_path / 'src', '100k'), tmp_path / name, progress=False)
        assert unit in open_dataset(tmp_path / name).tables
    for k in ('ebnerd', 'kuairand'): refused(lambda: import_public(k, movielens(tmp_path / 'src', '100k'), tmp_path / 'x', core=2), '--core')

# Real files -------------------------------------------------------------------------------------
def test_real_mind(tmp_path):
    ds, report = run('mind', real('mind_sample'), tmp_path)
    assert (len(ds.requests), len(ds.candidates), len(ds.items), ds.requests.user_id.nunique()) == (5000, 189_359, 7457, 4637) and ds.items.title.notna().sum() == 284

def test_real_ebnerd(tmp_path):
    ds, report = run('ebnerd', real('ebnerd_sample'), tmp_path)
    assert (len(ds.requests), len(ds.candidates), len(ds.interactions), ds.requests.user_id.nunique()) == (1046, 10_848, 8303, 38) and report.aside == {LOST: 0, EMPTY: 0}
    assert 'the histories end 4,256 seconds before the first request' in str(report)

def auc(score, label):
    "Share of (clicked, not clicked) pairs in the right order, half for ties"
    d = np.subtract.outer(score[label], score[~label])
    return ((d > 0) + (d == 0) / 2).mean()

def test_real_movielens(tmp_path):
    "The facts that the data folder states: 14,846 requests, 865 test requests with both labels, and what the mean rating of a film reaches there"
    ds, report = run('movielens-requests', real('ml-100k'), tmp_path, unexposed=4)
    n = ds.candidates[ds.candidates.exposed == False].groupby('request_id').size()
    assert len(ds.requests) == 14_846 and (ds.candidates.exposed == True).sum() == 100_000 and (n == 4).sum() == 14_837
    number, of = ds.requests.groupby('user_id').cumcount(), ds.requests.groupby('user_id').user_id.transform('size')
    late = set(ds.requests.request_id[number >= np.ceil(.8 * of)])
    shown = ds.candidates[ds.candidates.exposed == True]
    test = shown.request_id.isin(late)
    train, all_mean = shown[~test].groupby('item_id').rating.agg(['sum', 'size']), shown[~test].rating.mean()
    total, count = (shown[test].item_id.map(train[c]).fillna(0) for c in ('sum', 'size'))
    for more, want in ((0, .678), (3, .686)):                     # ratings of the overall mean added to every film
        score = ((total + more * all_mean) / (count + more)).fillna(all_mean)
        per = [auc(g.score.to_numpy(), g.clicked.to_numpy(bool)) for _, g in shown[test].assign(score=score).groupby('request_id') if g.clicked.nunique() == 2]
        assert len(per) == 865 and round(float(np.mean(per)), 3) == want, (more, np.mean(per))

def test_a_name_of_requests_never_imports_ratings_alone(tmp_path):
    "ml-100k is matched by its beginning; ml-100k-requests must not be"
    with pytest.raises(InputError, match='no importer'): import_public('ml-100k-requests', tmp_path, tmp_path/'out')
    with pytest.raises(InputError, match='no such file'): import_public('ml-requests-100k', tmp_path/'nothing', tmp_path/'out')
