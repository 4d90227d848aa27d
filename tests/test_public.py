"Importers of public datasets on small files in the true format, and on the real ones where they are there"
import gzip, json, os, random
from pathlib import Path
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from hettrans.data.dataset import check_dataset, describe, open_dataset, tie_share
from hettrans.data.public import _price, import_public, k_core, parse_line, PUBLIC
from hettrans.data.schema import InputError

DATA = Path(os.environ.get('HETTRANS_DATA', Path(__file__).parents[2] / 'shared' / 'data'))
def real(name):
    "A folder of real data; the only reason for which tests other than those of the browser are skipped"
    if not (DATA / name).is_dir(): pytest.skip(f'data not found: {DATA / name} (HETTRANS_DATA names another place)')
    return DATA / name

def put(path, text, encoding='utf-8'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(encoding)) if path.suffix == '.gz' else text.encode(encoding))

def run(name, src, dst, **kw):
    "Import, and check what must hold for every import"
    report = import_public(name, src, dst, progress=False, **kw)
    assert check_dataset(dst) == []
    ds = open_dataset(dst)
    log = ds.interactions
    assert report.read == len(log) + sum(report.dropped.values()), 'a behaviour was dropped without being counted'
    assert set(ds.items.item_id) == set(log.item_id), 'the catalogue is the items with a behaviour'
    assert (log.groupby('user_id').timestamp.diff().dropna() >= 0).all() and (log.groupby('user_id').position.diff().dropna() == 1).all()
    assert (Path(dst) / 'import.txt').read_text() == f'{report}\n'
    return ds, report

# Amazon -----------------------------------------------------------------------------------------
N_USERS, N_ITEMS = 12, 9
def reviews(year, seed=0):
    "A log of one generation: lines, and the (user, item, seconds, stars) they stand for"
    r = random.Random(seed); rows = [(f'U{r.randrange(N_USERS)}', f'B{r.randrange(N_ITEMS)}', 86400 * r.randrange(15000, 15100), float(r.randrange(1, 6))) for _ in range(150)]
    rows = list(dict(((u, i, t), (u, i, t, s)) for u, i, t, s in reversed(rows)).values())[::-1]
    if year == 2023: lines = [dict(rating=s, title='t', text='x', images=[], asin=i + 'v', parent_asin=i, user_id=u, timestamp=t * 1000, helpful_vote=0, verified_purchase=True) for u, i, t, s in rows]
    else: lines = [dict(reviewerID=u, asin=i, reviewerName='n', helpful=[0, 0], reviewText='\u00e9 "x"', overall=s, summary='s', unixReviewTime=t, reviewTime='x') for u, i, t, s in rows]
    return '\n'.join(map(json.dumps, lines)) + '\n', rows

def metadata(year):
    items = [dict(asin=f'B{i}', title=f"Item {i}'s \u00e9", brand=f'b{i % 3}', price=1.5 + i, path=['Beauty', f'top{i % 2}', f'leaf{i}']) for i in range(N_ITEMS + 3)]
    if year == 2014: return '\n'.join(repr(dict(asin=d['asin'], title=d['title'], price=d['price'], brand=d['brand'], salesRank={'Beauty': 3}, categories=[d['path'], ['Beauty']])) for d in items)
    if year == 2018: return '\n'.join(json.dumps(dict(category=d['path'], title=d['title'], brand=d['brand'], price=f"${d['price']:.2f}", asin=d['asin'], details={}, feature=[])) for d in items)
    return '\n'.join(json.dumps(dict(main_category='All Beauty', title=d['title'], store=d['brand'], price=d['price'], categories=d['path'], details={'Size': '1'}, parent_asin=d['asin'], average_rating=4.9, rating_number=7)) for d in items)

FILES = {2014: ('reviews_Beauty_5.json.gz', 'meta_Beauty.json.gz'), 2018: ('All_Beauty_5.json.gz', 'meta_All_Beauty.json.gz'), 2023: ('All_Beauty.jsonl', 'meta_All_Beauty.jsonl.gz')}
def amazon(folder, year, text=None, meta=True):
    put(folder / FILES[year][0], reviews(year)[0] if text is None else text)
    if meta: put(folder / FILES[year][1], metadata(year))
    return folder

@pytest.mark.parametrize('year', FILES)
def test_amazon_keeps_every_review(tmp_path, year):
    ds, report = run('amazon-beauty', amazon(tmp_path / 'src', year), tmp_path / 'dst')
    rows = reviews(year)[1]
    got = sorted(zip(ds.interactions.user_id, ds.interactions.item_id, ds.interactions.timestamp, ds.interactions.rating))
    assert got == sorted(rows) and ds.name == 'amazon-beauty'
    b0 = ds.items.set_index('item_id').loc['B1']
    assert (b0.title, b0.brand, b0.price, b0.category_top, b0.category_leaf) == ("Item 1's \u00e9", 'b1', 2.5, 'top1', 'top1 > leaf1')
    assert not {'average_rating', 'rating_number'} & set(ds.items.columns)

def test_amazon_generations_agree(tmp_path):
    a, b, c = (run('amazon', amazon(tmp_path / str(y), y), tmp_path / f'd{y}')[0] for y in FILES)
    for other in (b, c):
        for t in a.tables: pd.testing.assert_frame_equal(a.tables[t], other.tables[t])

def test_amazon_counts_what_it_drops(tmp_path):
    text, rows = reviews(2018)
    text += text.splitlines()[0] + '\n' + '{"reviewerID": "U1"\n' + '{"asin": "B1", "overall": 1.0, "unixReviewTime": 5}\n' + '{"reviewerID": "U1", "asin": "B1", "unixReviewTime": "soon"}\n'
    ds, report = run('amazon', amazon(tmp_path / 'src', 2018, text), tmp_path / 'dst')
    assert sorted(report.dropped.values()) == [1, 3] and len(ds.interactions) == len(rows)
    assert f'the first unreadable line of All_Beauty_5.json.gz is {len(rows) + 2}' in str(report)

def test_amazon_without_metadata(tmp_path):
    ds, report = run('amazon', amazon(tmp_path / 'src', 2023, meta=False), tmp_path / 'dst')
    assert ds.schema.tables['items'].features == {} and 'no metadata' in str(report)

def test_metadata_is_never_run(tmp_path):
    flag = tmp_path / 'owned'
    src = amazon(tmp_path / 'src', 2014, meta=False)
    put(src / 'meta_Beauty.json.gz', metadata(2014) + f"\n__import__('pathlib').Path({str(flag)!r}).touch()\n{{'asin': __import__('pathlib').Path({str(flag)!r}).touch()}}\n" + '(' * 5000 + '\n')
    ds, report = run('amazon', src, tmp_path / 'dst')
    assert not flag.exists() and '3 unreadable lines' in str(report)

@pytest.mark.parametrize('bad, must', dict(two='reviews_Toys.json.gz', none='found none', cut='cannot be read', zip='unpack', absent='no such file', latin='line 1: not utf-8').items())
def test_amazon_bad_source(tmp_path, bad, must):
    src = amazon(tmp_path / 'src', 2014)
    f = src / FILES[2014][0]
    if bad == 'two': put(src / 'reviews_Toys.json.gz', 'x')
    if bad == 'none': f.unlink()
    if bad == 'cut': f.write_bytes(f.read_bytes()[:-30])
    if bad == 'latin': put(f, '{"reviewerID": "\u00e9"}\n', 'latin-1')
    if bad == 'zip': src = tmp_path / 'a.zip'; src.write_bytes(b'x')
    if bad == 'absent': src = tmp_path / 'nowhere'
    with pytest.raises(InputError) as e: import_public('amazon', src, tmp_path / 'dst', progress=False)
    said = str(e.value).replace(str(tmp_path), '')
    assert must in said and '\n' not in said and not (tmp_path / 'dst' / 'schema.toml').exists()

PRICES = {'$5.99': 5.99, '$1,299.00 - $2,000': 1299, ' from  14.99 ': 14.99, 'US$ 3': 3, '7.50\u00a0\u20ac': 7.5, 'USD 12': 12, '.99': .99, '$.99 to $2': .99, '1,234,567': 1234567, '3.': 3, 4: 4, 4.5: 4.5, '\u2014': None, '5,99': None,
          '.a-box-inner{background-color:#fff}#alohaBuyBoxWidget .selected{background-color:#fffbf3;border-color:#e77600': None, 'Only 3 left': None, '#fffbf3': None, '5.99.1': None, '$5 - ': None, '3 for $5': None, '1,2345': None,
          '9' * 400: None, 10 ** 400: None, True: None}
def test_amazon_price_is_a_price_from_end_to_end(tmp_path):
    put(tmp_path / 'r.json', ''.join(json.dumps(dict(user_id='U', asin=f'B{n}', rating=1, timestamp=n)) + '\n' for n in range(len(PRICES) + 2)))
    put(tmp_path / 'meta_r.json', ''.join(json.dumps(dict(asin=f'B{n}', title='x') | ({} if p is None else dict(price=p))) + '\n' for n, p in enumerate([*PRICES, '', None])))
    ds, report = run('amazon', tmp_path, tmp_path / 'dst')
    got = dict(zip([*PRICES, '', None], ds.items.set_index('item_id').price.loc[[f'B{n}' for n in range(len(PRICES) + 2)]]))
    assert {p: None if np.isnan(x) else x for p, x in got.items()} == PRICES | {'': None, None: None}
    assert f"{sum(x is None for x in PRICES.values())} prices cannot be read and are left out, the first is that of item 'B12'" in str(report)

@given(st.integers(0, 10 ** 9), st.sampled_from(['', '$', 'CDN$ ', '\u00a3', 'EUR ', 'from $']), st.sampled_from(['', ' - ', '-', ' to ']), st.text(st.characters(blacklist_categories=['Cs', 'Z', 'Cc']), min_size=4))
def test_price_round_trip(cents, sign, to, word):
    text = f'{sign}{cents / 100:,.2f}' + (f'{to}{sign.removeprefix("from ")}{cents / 50:,.2f}' if to else '')
    assert _price(text) == cents / 100 and (word.lower() == 'from' or np.isnan(_price(f'{word} x {text}'))) and np.isnan(_price(f'{text} {word}x'))

ODD = [None, True, -1, 10 ** 400, 1e300, 13e14, -1e13, float('inf'), float('nan'), '1e300', 'x', '', ' ', 'nan', '\ud83d', 'a \ude00\ud83d b', ['B1'], {'a': 1}, [[]], [None], [['\ud83d']], [['a', 3]]]
@pytest.mark.parametrize('say', [json.dumps, repr])
@pytest.mark.parametrize('odd', ODD, ids=lambda v: json.dumps(v)[:20])
def test_amazon_odd_values_stop_nothing(tmp_path, odd, say):
    good, spoilt = dict(reviewerID='U', asin='B', overall=5.0, unixReviewTime=1369699200), ('reviewerID', 'user_id', 'asin', 'parent_asin', 'overall', 'rating', 'unixReviewTime', 'timestamp')
    fields = ('asin', 'parent_asin', 'title', 'brand', 'store', 'price', 'categories', 'category', 'details')
    lines = [good, *(good | {f: odd} for f in spoilt), *(good | dict(asin=f'M{f}') for f in fields)]
    put(tmp_path / 'r.json', '\n'.join(map(say, lines)))
    put(tmp_path / 'meta_r.json', '\n'.join(map(say, [dict(asin='B', title='one'), *(dict(asin=f'M{f}', title='two') | {f: odd} for f in fields)])))
    ds, report = run('amazon', tmp_path, tmp_path / 'dst')
    assert report.read == len(lines) and {'B', *(f'M{f}' for f in fields)} <= set(ds.items.item_id) and ds.interactions.timestamp.abs().max() <= 1e11
    titles = ds.items.set_index('item_id').title
    assert titles['B'] == 'one' and (titles[[f'M{f}' for f in fields[3:]]].fillna('two') == 'two').all()

@pytest.mark.parametrize('change', [dict(unixReviewTime=1e300), dict(unixReviewTime=1369699200000000), dict(unixReviewTime=10 ** 400), dict(overall=10 ** 400), dict(overall=float('inf')), dict(overall='good'),
    dict(asin=['B1']), dict(reviewerID={'a': 1}), dict(reviewerID=float('nan')), dict(asin='null'), dict(reviewerID=None)])
def test_amazon_absurd_number_is_counted(tmp_path, recwarn, change):
    text, rows = reviews(2018)
    ds, report = run('amazon', amazon(tmp_path / 'src', 2018, text + json.dumps(dict(reviewerID='U1', asin='B1', overall=1.0, unixReviewTime=5) | change)), tmp_path / 'dst')
    assert report.dropped['unreadable, or without user, item or time'] == 1 and len(ds.interactions) == len(rows) and not recwarn.list

HALVES = [(r'a \ud83d b', 'a \ufffd b'), (r'\ud83d\ude00', '\U0001f600'), (r'\ude00\ud83d', '\ufffd\ufffd'), (r'\\ud83d', r'\ud83d'), (r'\U0000d83d', '\ufffd')]
@pytest.mark.parametrize('text, is_', HALVES)
def test_half_of_a_character(tmp_path, text, is_):
    line = f"{{'asin': '{text}', 'x': ['{text}', {{'y': '{text}'}}]}}"
    for l in [line] + [line.replace("'", '"')] * (r'\U' not in text): assert parse_line(l) == dict(asin=is_, x=[is_, dict(y=is_)])
    for deep in (300, 700, 950, 99_999): parse_line('{"x": ' * deep + r'"\ud83d"' + '}' * deep)      # no traceback

# k-core -----------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=60), st.integers(1, 5))
def test_k_core_is_the_largest_fixed_point(pairs, k):
    users, items = [u for u, _ in pairs], [i for _, i in pairs]
    keep = k_core(users, items, k)
    alive = list(range(len(pairs)))
    while True:
        now = [r for r in alive if sum(users[s] == users[r] for s in alive) >= k and sum(items[s] == items[r] for s in alive) >= k]
        if now == alive: break
        alive = now
    assert np.flatnonzero(keep).tolist() == alive

def test_core_is_applied_and_counted(tmp_path):
    ds, report = run('amazon', amazon(tmp_path / 'src', 2014), tmp_path / 'dst', core=10)
    assert 0 < len(ds.interactions) < len(reviews(2014)[1])
    for c in ('user_id', 'item_id'): assert ds.interactions[c].value_counts().min() >= 10
    assert any('10-core' in why and n > 0 for why, n in report.dropped.items())

# MovieLens --------------------------------------------------------------------------------------
def ml100k(src):
    put(src / 'u.data', ''.join(f'{u}\t{i}\t{1 + (u + i) % 5}\t{881250000 + 7 * u - i}\n' for u in range(1, 6) for i in range(1, 5)))
    flags = lambda *on: '|'.join('1' if g in on else '0' for g in range(19))
    put(src / 'u.item', f'1|Toy Story (1995)|01-Jan-1995||http://a|{flags(3, 4, 5)}\n2|Mis\u00e9rables, Les (1995)|x||http://b|{flags(8)}\n3|unknown||||{flags(0)}\n4|Die xueren (1990) (1991)|||u|{flags()}\n', 'latin-1')
    put(src / 'u.user', ''.join(f'{u}|{20 + u}|M|writer|0{u}\n' for u in range(1, 6)))
    return src

def test_movielens_100k(tmp_path):
    ds, report = run('ml-100k', ml100k(tmp_path / 'src'), tmp_path / 'dst')
    items = ds.items.set_index('item_id').sort_index()
    assert items.title.tolist() == ['Toy Story', 'Mis\u00e9rables, Les', 'unknown', 'Die xueren (1990)'] and items.year.fillna('-').tolist() == ['1995', '1995', '-', '1991']
    assert items.genres.fillna('-').tolist() == ["Animation Children's Comedy", 'Drama', 'unknown', '-']
    assert ds.interactions[ds.interactions.user_id == '2'].item_id.tolist() == ['4', '3', '2', '1']
    assert ds.users.age.tolist() == ['21', '22', '23', '24', '25']

def test_movielens_1m(tmp_path):
    src = tmp_path / 'src'
    put(src / 'ratings.dat', '1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n')
    put(src / 'movies.dat', "1193::One Flew Over the Cuckoo's Nest (1975)::Drama\n661::James and the Giant Peach (1996)::Animation|Children's|Musical\n7::Never (2000)::War\n", 'latin-1')
    put(src / 'users.dat', '1::F::1::10::48067\n2::M::56::16::70072\n')
    ds, report = run('movielens', src, tmp_path / 'dst')
    assert ds.interactions.item_id.tolist() == ['1193', '661', '1193'] and ds.users.occupation.tolist() == ['10', '16']
    assert ds.items.genres.tolist() == ['Drama', "Animation Children's Musical"] and '1 items without a behaviour left out' in str(report)

@pytest.mark.parametrize('file, text, must', [('u.data', '1\t2\t3\n', ['u.data', 'line 1', '4 fields']), ('u.data', '1\t1\t3\t5\n1\t1\t3\tsoon\n', ["u.data, column 'timestamp', row 2", 'soon']),
    *[('u.data', f'1\t1\t3\t5\n1\t1\t{r}\t5\n', [f"u.data, column 'rating', row 2: unparseable rating '{r}' (1 rows)"]) for r in ('', 'good', 'inf', '1e400')],
    *[('u.data', f'1\t1\t3\t5\n1\t1\t3\t{t}\n', [f"u.data, column 'timestamp', row 2: unparseable time '{t}' (1 rows)"]) for t in ('1e300', '881250949000000', '')],
    ('u.item', '1|Toy Story (1995)|a||b|0\n', ['u.item', 'line 1', '24 fields']), ('u.user', None, ['u.user'])])
def test_movielens_bad(tmp_path, file, text, must):
    src = ml100k(tmp_path / 'src')
    if text is None: (src / file).unlink()
    else: put(src / file, text)
    with pytest.raises(InputError) as e: import_public('ml-100k', src, tmp_path / 'dst', progress=False)
    assert all(m in str(e.value) for m in must) and '\n' not in str(e.value)

# RecBole ----------------------------------------------------------------------------------------
def test_recbole(tmp_path):
    src = tmp_path / 'src'
    put(src / 'x.inter', 'user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t5\t3\t881250949.7\n2\t5\t\t891717742000\n')
    put(src / 'x.item', 'item_id:token\tname:token_seq\tyear:token\tvec:float_seq\n5\tA B\t\t0.5 1\n6\tC\t1990\t1 2\n')
    ds, report = run('recbole', src, tmp_path / 'dst')
    assert ds.schema.tables['items'].features == dict(name='text', year='categorical', vec='vector') and ds.items.vec[0].tolist() == [0.5, 1]
    assert ds.interactions.timestamp.tolist() == [881250949, 891717742] and np.isnan(ds.interactions.rating[1]) and ds.items.year.isna().all()

@pytest.mark.parametrize('text, must', [('', 'empty'), ('user_id:token\titem_id:token\n1\t2\n', 'no column of the time'), ('user_id\titem_id:token\n', 'NAME:TYPE'),
    ('user_id:token\titem_id:token\ttimestamp:float\n1\t2\n', 'line 2'), ('user_id:token\titem_id:token\ttimestamp:float\n1\t2\tx\n', 'row 1'),
    ('user_id:token\titem_id:token\ttimestamp:float\n', 'no behaviour'), ('user_id:token\titem_id:token\ttimestamp:float\n1\t2\t1e300\n', "x.inter, column 'timestamp', row 1: unparseable time '1e300'"),
    ('user_id:token\titem_id:token\tb:float\tb:token\ttimestamp:float\n1\t2\t1\t2\t3\n', "x.inter, line 1: there are several columns 'b'")])
def test_recbole_bad(tmp_path, text, must):
    put(tmp_path / 'x.inter', text)
    with pytest.raises(InputError, match=must) as e: import_public('recbole', tmp_path, tmp_path / 'dst', progress=False)
    assert '\n' not in str(e.value)

def test_recbole_says_that_position_is_left_out(tmp_path):
    put(tmp_path / 'x.inter', 'user_id:token\titem_id:token\ttimestamp:float\tposition:float\n1\t2\t3\t9\n1\t3\t3\t8\n')
    ds, report = run('recbole', tmp_path, tmp_path / 'dst')
    assert "x.inter: column 'position' is left out" in str(report) and ds.interactions.position.tolist() == [0, 1]

# Online Retail ----------------------------------------------------------------------------------
HEAD = 'InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n'
ROWS = '''536365,85123A,WHITE \u00a3 HOLDER,6,12/1/2010 8:26,2.55,17850,United Kingdom
536365,71053,"LANTERN, WHITE",6,12/1/2010 8:26,3.39,17850,United Kingdom
C536379,71053,"LANTERN, WHITE",-1,12/1/2010 9:41,3.39,17850,United Kingdom
536370,POST,POSTAGE,3,12/1/2010 8:45,18,12583,France
536371,71053,"LANTERN, WHITE",2,12/13/2010 8:45,3.75,12583,France
536372,85123a,WHITE \u00a3 HOLDER,2,1/2/2011 8:45,9,12583,France
536414,22139,,56,12/1/2010 11:52,0,,United Kingdom
536415,22139,X,56,12/1/2010 11:52,0,17850,United Kingdom
'''
@pytest.mark.parametrize('encoding, iso', [('utf-8', False), ('cp1252', False), ('utf-8-sig', True)])
def test_online_retail(tmp_path, encoding, iso):
    text = HEAD + ROWS
    if iso:
        import re
        text = re.sub(r'(\d+)/(\d+)/(\d{4}) (\d+):(\d+)', lambda m: f'{m[3]}-{int(m[1]):02}-{int(m[2]):02} {int(m[4]):02}:{m[5]}:00', text).replace('17850,', '17850.0,')
    put(tmp_path / 'src' / 'Online Retail.csv', text, encoding)
    ds, report = run('online-retail', tmp_path / 'src', tmp_path / 'dst')
    assert list(report.dropped.values()) == [1, 1, 0, 1, 1] and '1 dropped: cancelled invoices' in str(report) and '1 dropped: without a customer' in str(report)
    assert ds.items.set_index('item_id').price.to_dict() == {'71053': 3.39, '85123A': 2.55}
    assert ds.items.set_index('item_id').title['85123A'] == 'WHITE \u00a3 HOLDER'
    assert ds.interactions[ds.interactions.user_id == '12583'].timestamp.tolist() == [1292229900, 1293957900]
    assert ds.interactions.price_paid.tolist() == [3.75, 9, 2.55, 3.39] and set(ds.users.user_id) == {'17850', '12583'}

@pytest.mark.parametrize('change, must', [(('InvoiceDate', 'Date'), "missing column 'InvoiceDate'"), (('12/13/2010 8:45', 'soon'), "row 5: unparseable date 'soon'"), (('12/13/2010', '13/13/2010'), 'row 5: unparseable'),
    (('Country\n', 'Country,Price\n'), r"several columns mean 'UnitPrice' \(UnitPrice, Price\)"), (('Country\n', 'Country, StockCode\n'), r"several columns mean 'StockCode' \(StockCode,  ?StockCode\)")])
def test_online_retail_bad(tmp_path, change, must):
    put(tmp_path / 'r.csv', (HEAD + ROWS).replace(*change))
    with pytest.raises(InputError, match=must): import_public('online-retail', tmp_path, tmp_path / 'dst', progress=False)

def test_unknown_name(tmp_path):
    with pytest.raises(InputError, match="did you mean 'recbole'"): import_public('recbol', tmp_path, tmp_path / 'dst')
    assert all(callable(f) and text for f, text in PUBLIC.values())

@pytest.mark.parametrize('name', PUBLIC)
def test_negative_core(tmp_path, name):
    with pytest.raises(InputError, match='core must be 0 or more, found -3'): import_public(name, tmp_path, tmp_path / 'dst', core=-3, progress=False)

# Real files -------------------------------------------------------------------------------------
def test_real_ml100k(tmp_path):
    ds, report = run('recbole', real('ml-100k'), tmp_path)
    assert len(ds.interactions) == 100_000 and len(ds.items) == 1682 and len(ds.users) == 943
    assert ds.schema.tables['items'].features == {'movie_title': 'text', 'release_year': 'categorical', 'class': 'text'}
    with pytest.raises(InputError, match='import them as recbole'): import_public('ml-100k', real('ml-100k'), tmp_path / 'x')

def test_real_amazon_beauty():
    ds = open_dataset(real('amazon_beauty'))
    assert (len(ds.items), len(ds.interactions), ds.interactions.user_id.nunique()) == (12_101, 198_502, 22_363)
    assert 0.43 <= tie_share(ds) < 0.44 and describe(ds).ties == tie_share(ds)
    assert k_core(ds.interactions.user_id, ds.interactions.item_id, 5).all()

def test_real_online_retail():
    ds = open_dataset(real('online_retail'))
    assert (len(ds.items), len(ds.users), len(ds.interactions)) == (3_852, 4_334, 396_261) and ds.items.item_id[0] == '1'
