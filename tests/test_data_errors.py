"Every kind of bad dataset folder gives one line that says where, from `open_dataset` and from `check_dataset`"
import gzip, os, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest
import pyarrow as pa, pyarrow.parquet as pq
from hypothesis import example, given, settings, strategies as st
from hettrans.data.dataset import NO_KEY, Dataset, check_dataset, describe, from_frames, open_dataset, save_dataset
from hettrans.data.schema import InputError, Schema
from hettrans.data.sequences import sort_behaviours
from tiny import RANKING, RETRIEVAL, write

SCHEMA = RETRIEVAL + RANKING
ITEMS = 'item_id,title,brand,price,image\n1,red shirt,acme,10,"[1, 0]"\n2,hat,,12.5,"[0, 1]"\n3,lamp,NA,,\n'
USERS = 'user_id,age\na,30\nb,\n'
INTERACTIONS = 'user_id,item_id,timestamp,position,action\na,1,1000,0,buy\na,2,1000,1,view\nb,3,2024-03-01T12:00:00Z,0,\n'
REQUESTS = 'request_id,user_id,timestamp\nr1,a,3000\nr2,b,4000\n'
CANDIDATES = 'request_id,item_id,exposed,clicked,position,affinity\nr1,1,1,1,0,0.5\nr1,2,0,,,0.25\nr2,3,true,false,0,\n'
FILES = {'schema.toml': SCHEMA, 'items.csv': ITEMS, 'users.csv': USERS, 'interactions.csv': INTERACTIONS, 'requests.csv': REQUESTS, 'candidates.csv': CANDIDATES}

def sub(name, old, new):
    "A change of one file: replace a text that must be there"
    assert old in FILES[name], (name, old)
    return {name: FILES[name].replace(old, new)}

def parquet(df):
    import io; b = io.BytesIO(); df.to_parquet(b); return b.getvalue()

ITEMS_FRAME = pd.DataFrame(dict(item_id=[1, 2, 3], title=['a', 'b', 'c'], brand=['x', None, 'y'], price=[1., 2., np.nan], image=[[1., 0.], [0., 1.], None]))
def items(**columns): return {'items.csv': None, 'items.parquet': parquet(ITEMS_FRAME.assign(**columns))}

def twins(table, column='title'):
    "A Parquet file in which a column stands twice"
    import io; b, df = io.BytesIO(), pd.read_csv(io.StringIO(FILES[f'{table}.csv']))
    pq.write_table(pa.Table.from_pandas(df).append_column(column, pa.array(df[column])), b); return b.getvalue()

BAD = {   # name: (files to change, what the line must contain)
    'no schema':               ({'schema.toml': None}, ['schema.toml']),
    'schema is no text':       ({'schema.toml': b'\xff\xfe\x00'}, ['schema.toml', 'UTF-8']),
    'schema syntax':           (sub('schema.toml', 'key = "user_id"', 'key = '), ['schema.toml', 'line 9']),
    'schema, feature twice':   (sub('schema.toml', 'features.brand', 'features.title'), ['schema.toml', 'line 5']),
    'unknown kind':            (sub('schema.toml', '"numerical" }\nfeatures.image', '"numeric" }\nfeatures.image'), ['schema.toml', '[items]', 'features.price', "did you mean 'numerical'"]),
    'kind is a list':          (sub('schema.toml', '"vector"', '["vector"]'), ['schema.toml', 'features.image.kind']),
    'feature without kind':    (sub('schema.toml', 'features.age = { kind = "categorical" }', 'features.age = {}'), ['schema.toml', '[users]', 'features.age', 'kind']),
    'feature as text':         (sub('schema.toml', 'features.age = { kind = "categorical" }', 'features.age = "categorical"'), ['schema.toml', '[users]', 'features.age']),
    'unknown key of a feature': (sub('schema.toml', '{ kind = "vector" }', '{ kind = "vector", width = 2 }'), ['schema.toml', 'features.image', 'width']),
    'unknown side':            (sub('schema.toml', '[candidates]', 'features.hour = { kind = "categorical", side = "usr" }\n[candidates]'), ['schema.toml', '[requests]', 'features.hour.side', "did you mean 'user'"]),
    'side of a profile':       (sub('schema.toml', 'features.age = { kind = "categorical" }', 'features.age = { kind = "categorical", side = "user" }'), ['schema.toml', '[users]', 'features.age', "'side'"]),
    'missing role':            (sub('schema.toml', 'order = "position"\n', '') | sub('schema.toml', 'time = "timestamp"\norder', 'order'), ['schema.toml', '[interactions]', "'time'"]),
    'role is a number':        (sub('schema.toml', 'key = "request_id"', 'key = 5'), ['schema.toml', '[requests]', 'key']),
    'unknown key':             (sub('schema.toml', 'order = "position"', 'ordre = "position"'), ['schema.toml', '[interactions]', "'ordre'", "did you mean 'order'"]),
    'unknown table':           (sub('schema.toml', '[users]', '[user]'), ['schema.toml', "'user'", "did you mean 'users'"]),
    'table is a value':        ({'schema.toml': 'items = 5\n'}, ['schema.toml', '[items]']),
    'no items':                ({'schema.toml': SCHEMA[SCHEMA.index('[users]'):]}, ['schema.toml', '[items]']),
    'requests alone':          ({'schema.toml': SCHEMA[:SCHEMA.index('[candidates]')]}, ['schema.toml', '[candidates]']),
    'items alone':             ({'schema.toml': SCHEMA[:SCHEMA.index('[users]')]}, ['schema.toml', '[interactions]']),
    'feature is the key':      (sub('schema.toml', 'features.title', 'features.item_id'), ['schema.toml', '[items]', 'features.item_id', "'key'"]),
    'two roles, one column':   (sub('schema.toml', 'item = "item_id"\ntime', 'item = "user_id"\ntime'), ['schema.toml', '[interactions]', 'item', "'user_id'"]),
    'use_id is a text':        (sub('schema.toml', '[users]', 'use_id = "no"\n[users]'), ['schema.toml', '[items]', 'use_id']),
    'missing table':           ({'users.csv': None}, ['users', 'users.parquet']),
    'two files of one table':  ({'users.csv.gz': gzip.compress(USERS.encode())}, ['users.csv', 'users.csv.gz']),
    'missing column':          (sub('items.csv', 'price', 'prize'), ['items.csv', "'price'", "did you mean 'prize'"]),
    'column twice':            (sub('items.csv', 'title', 'brand'), ['items.csv', "'brand'", 'two columns']),
    'parquet, column twice':   ({'items.csv': None, 'items.parquet': twins('items')}, ['items.parquet', "'title'", 'two columns']),
    'parquet, key twice':      ({'candidates.csv': None, 'candidates.parquet': twins('candidates', 'request_id')}, ['candidates.parquet', "'request_id'", 'two columns']),
    'row too short':           (sub('users.csv', 'b,\n', 'b\n'), ['users.csv', 'row 2', 'Expected 2 columns, got 1']),
    'row too long':            (sub('users.csv', 'b,\n', 'b,1,2\n'), ['users.csv', 'row 2', 'Expected 2 columns, got 3']),
    'csv is not UTF-8':        ({'users.csv': b'user_id,age\na,30\nb,\xe9\n'}, ['users.csv', 'row 2', 'UTF-8']),
    'empty file':              ({'users.csv': ''}, ['users.csv', 'mpty']),
    'empty table':             ({'users.csv': 'user_id,age\n'}, ['users.csv', 'empty table']),
    'damaged gzip':            ({'users.csv': None, 'users.csv.gz': gzip.compress(USERS.encode() * 50)[:-20]}, ['users.csv.gz', 'cannot be read']),
    'damaged parquet':         ({'users.csv': None, 'users.parquet': parquet(pd.DataFrame(dict(user_id=['a', 'b'], age=[1, 2])))[:-30]}, ['users.parquet', 'cannot be read']),
    'csv named parquet':       ({'users.csv': None, 'users.parquet': USERS}, ['users.parquet', 'cannot be read']),
    'duplicate key':           (sub('items.csv', '2,hat', '1,hat'), ['items.csv', "'item_id'", 'row 2', "'1'", '(1 row)']),
    'duplicate user':          (sub('users.csv', 'b,', 'a,'), ['users.csv', "'user_id'", 'row 2', 'duplicate']),
    'missing key':             (sub('items.csv', '3,lamp', ',lamp'), ['items.csv', "'item_id'", 'row 3', 'missing key']),
    'NaN in a float key':      (items(item_id=[1., np.nan, np.nan]), ['items.parquet', "'item_id'", 'row 2', 'missing key', '(2 rows)']),
    'fraction in a key':       (items(item_id=[1., 2.5, 3.]), ['items.parquet', "'item_id'", 'row 2', '2.5']),
    'list in a category':      (items(brand=[['x'], ['y', 'z'], None]), ['items.parquet', "'brand'", 'row 1', 'list', '(2 rows)']),
    'unknown item':            (sub('interactions.csv', 'a,2', 'a,22'), ['interactions.csv', "'item_id'", 'row 2', "'22'", 'items.csv']),
    'unknown user':            (sub('interactions.csv', 'b,3', 'z,3'), ['interactions.csv', "'user_id'", 'row 3', "'z'", 'users.csv']),
    'missing user':            (sub('interactions.csv', 'b,3', ',3'), ['interactions.csv', "'user_id'", 'row 3', 'missing key']),
    'unparseable time':        (sub('interactions.csv', '2024-03-01T12:00:00Z', '1/3/2024'), ['interactions.csv', "'timestamp'", 'row 3', '1/3/2024']),
    'impossible date':         (sub('interactions.csv', '2024-03-01', '2024-02-31'), ['interactions.csv', "'timestamp'", 'row 3', '2024-02-31']),
    'missing time':            (sub('requests.csv', 'r2,b,4000', 'r2,b,'), ['requests.csv', "'timestamp'", 'row 2', 'missing time']),
    'infinite time':           (sub('requests.csv', '3000', 'inf'), ['requests.csv', "'timestamp'", 'row 1', 'infinite']),
    'milliseconds':            (sub('requests.csv', '3000', '1700000000000'), ['requests.csv', "'timestamp'", 'row 1', 'milliseconds']),
    'text in a number':        (sub('items.csv', '12.5', '"12,5"'), ['items.csv', "'price'", 'row 2', "'12,5'"]),
    'infinite number':         (sub('items.csv', '12.5', '-inf'), ['items.csv', "'price'", 'row 2', 'infinite']),
    'number beyond float':     (sub('items.csv', '12.5', '1e400'), ['items.csv', "'price'", 'row 2', 'infinite']),
    'infinite in parquet':     (items(price=[1., np.inf, np.nan]), ['items.parquet', "'price'", 'row 2', 'infinite']),
    'text in the order':       (sub('interactions.csv', '1000,1', '1000,first'), ['interactions.csv', "'position'", 'row 2', 'first']),
    'missing order':           (sub('interactions.csv', '1000,1', '1000,'), ['interactions.csv', "'position'", 'row 2', 'missing order']),
    'order is nan':            (sub('interactions.csv', '1000,1', '1000, NaN'), ['interactions.csv', "'position'", 'row 2', 'missing order', '(1 row)']),
    'order beyond 64 bits':    (sub('interactions.csv', '1000,1', '1000,9223372036854775808'), ['interactions.csv', "'position'", 'row 2', "'9223372036854775808'", '64 bits', '(1 row)']),
    'keys that differ by blanks': (sub('interactions.csv', 'a,2', 'a,2 ') | sub('items.csv', '3,lamp', '2 ,lamp'), ['items.csv', "'item_id'", 'row 3', "'2 '", 'blanks', '(1 row)']),
    'vector of another width': (sub('items.csv', '[0, 1]', '[0, 1, 2]') | {}, ['items.csv', "'image'", 'width']),
    'vector in parquet':       (items(image=[[1., 0.], [0., 1.], [1.]]), ['items.parquet', "'image'", 'row 3', 'width than 2']),
    'vector is a word':        (sub('items.csv', '"[0, 1]"', 'blue'), ['items.csv', "'image'", 'row 2', "'blue'"]),
    'vector is a number':      (sub('items.csv', '"[0, 1]"', '7'), ['items.csv', "'image'", 'row 2', 'list']),
    'vector of texts':         (sub('items.csv', '[0, 1]', '[0, ""1""]'), ['items.csv', "'image'", 'row 2', 'list']),
    'vector with NaN':         (sub('items.csv', '[0, 1]', '[0, NaN]'), ['items.csv', "'image'", 'row 2', 'missing or infinite']),
    'vector beyond float32':   (sub('items.csv', '[0, 1]', '[0, 1e300]'), ['items.csv', "'image'", 'row 2', 'infinite']),
    'nested vector':           (sub('items.csv', '[0, 1]', '[[0], [1]]'), ['items.csv', "'image'", 'row 2', 'list']),
    'unknown request':         (sub('candidates.csv', 'r1,2', 'r9,2'), ['candidates.csv', "'request_id'", 'row 2', "'r9'", 'requests.csv']),
    'unknown candidate':       (sub('candidates.csv', 'r1,2', 'r1,9'), ['candidates.csv', "'item_id'", 'row 2', "'9'"]),
    'candidate twice':         (sub('candidates.csv', 'r1,2', 'r1,1'), ['candidates.csv', "'item_id'", 'row 2', 'twice']),
    'clicked, not exposed':    (sub('candidates.csv', 'r1,2,0,,', 'r1,2,0,1,'), ['candidates.csv', "'clicked'", 'row 2', 'not exposed']),
    'exposed, no answer':      (sub('candidates.csv', 'true,false', 'true,'), ['candidates.csv', "'clicked'", 'row 3', 'not known']),
    'exposed missing':         (sub('candidates.csv', 'r1,2,0', 'r1,2,'), ['candidates.csv', "'exposed'", 'row 2', 'missing']),
    'click is a rating':       (sub('candidates.csv', 'r1,1,1,1', 'r1,1,1,4'), ['candidates.csv', "'clicked'", 'row 1', "'4'"]),
    'request without items':   (sub('candidates.csv', 'r2,3', 'r1,3'), ['requests.csv', "'request_id'", 'row 2', "'r2'", 'no candidates']),
}

def test_good_folder(tmp_path):
    write(tmp_path, FILES)
    assert check_dataset(tmp_path) == []
    ds = open_dataset(tmp_path)
    assert ds.items.item_id.tolist() == ['1', '2', '3'] and ds.items.brand.tolist()[2] == 'NA' and ds.items.brand.isna().tolist() == [False, True, False]
    assert ds.interactions.timestamp.tolist() == [1000, 1000, 1709294400] and ds.interactions.timestamp.dtype == np.int64
    assert ds.items.image[1].tolist() == [0, 1] and ds.items.image[2] is None
    assert ds.candidates.exposed.tolist() == [True, False, True]

@pytest.mark.parametrize('kind', BAD)
def test_bad_folder(tmp_path, kind):
    change, must_say = BAD[kind]
    write(tmp_path, FILES | change)
    for name, text in change.items():
        if text is None: assert not (tmp_path / name).exists()
    with pytest.raises(InputError) as e: open_dataset(tmp_path)
    message, listed = str(e.value), check_dataset(tmp_path)
    assert '\n' not in message and message.startswith(listed[0])
    assert message == listed[0] or f'(and {len(listed) - 1} more; run hettrans data check {tmp_path})' in message
    assert any(all(w in line for w in must_say) for line in listed), listed
    assert all('\n' not in line and line.strip() for line in listed)

def test_all_problems_are_listed(tmp_path):
    "Independent mistakes are all found in one go"
    items = ITEMS.replace('12.5', 'cheap').replace('[0, 1]', '[0, NaN]').replace('3,lamp', '1,lamp')
    write(tmp_path, FILES | {'items.csv': items, 'interactions.csv': INTERACTIONS.replace('a,2,1000', 'a,2,soon').replace('b,3', 'b,77')})
    text = '\n'.join(check_dataset(tmp_path))
    for must in ("'price', row 2", "'image', row 2", "duplicate key '1'", "'soon'", "unknown item '77'"): assert must in text, text

def test_first_row_and_count(tmp_path):
    n, bad = 1000, [17, 500, 999]
    rows = [f'a,{999 if i in bad else 1},1000,{i},buy' for i in range(n)]
    write(tmp_path, FILES | {'interactions.csv': 'user_id,item_id,timestamp,position,action\n' + '\n'.join(rows)})
    assert check_dataset(tmp_path) == ["interactions.csv, column 'item_id', row 18: unknown item '999', not in items.csv (3 rows)"]

def test_number_and_text_keys_agree():
    schema = {'items': {'key': 'i'}, 'interactions': {'user': 'u', 'item': 'i', 'time': 't'}}
    log = pd.DataFrame(dict(u=[7., 8.], i=['1', '2'], t=[1.9, 2.0]))
    for keys in ([1, 2], ['1', '2'], [1., 2.], pd.Categorical([1, 2]), pd.array([1, 2], dtype='Int64')):
        ds = from_frames(schema, dict(items=pd.DataFrame(dict(i=keys)), interactions=log))
        assert ds.items.i.tolist() == ['1', '2'] and ds.interactions.u.tolist() == ['7', '8'] and ds.interactions.t.tolist() == [1, 2]

@pytest.mark.parametrize('column', ['i', 't', 'extra'])
def test_frames_with_a_column_twice(column):
    "Key, time or nobody's column: one line, and the other problems with it"
    schema = {'items': {'key': 'i'}, 'interactions': {'user': 'u', 'item': 'i', 'time': 't'}}
    log = pd.DataFrame(dict(u=['a', None], i=['1', '1'], t=[1, 2], extra=0))
    with pytest.raises(InputError) as e: from_frames(schema, dict(items=pd.DataFrame(dict(i=['1'])), interactions=pd.concat([log, log[[column]]], axis=1)))
    assert str(e.value) == f"interactions, column '{column}': two columns have this name (and 1 more)"

def test_csv_gz_and_parquet_agree(tmp_path):
    a, b = tmp_path / 'a', tmp_path / 'b'; a.mkdir(); b.mkdir()
    write(a, {n + '.gz' * n.endswith('.csv'): gzip.compress(t.encode()) if n.endswith('.csv') else t for n, t in FILES.items()})
    ds = open_dataset(a); save_dataset(ds, b); again = open_dataset(b)
    for t in ds.tables: pd.testing.assert_frame_equal(ds.tables[t], again.tables[t])
    assert again.schema == ds.schema

def test_a_schema_cannot_name_files(tmp_path):
    "A name that looks like a path is only a name, and no key of a schema is a path"
    write(tmp_path, FILES | {'schema.toml': SCHEMA.replace('"shop"', '"../../etc/passwd"')})
    assert open_dataset(tmp_path).name == '../../etc/passwd'
    write(tmp_path, {'schema.toml': SCHEMA.replace('[users]', 'file = "/etc/passwd"\n[users]')})
    with pytest.raises(InputError, match="unknown key 'file'"): open_dataset(tmp_path)

def test_names_and_dials(tmp_path):
    write(tmp_path, FILES)
    for call, must in [(lambda: open_dataset('marketplce'), "did you mean 'marketplace'"), (lambda: open_dataset(tmp_path, users=5), 'users'),
                       (lambda: open_dataset('marketplace', item=5), "did you mean 'items'"), (lambda: open_dataset('marketplace', users='many'), "'many'"),
                       (lambda: open_dataset('marketplace', users=-1), 'marketplace:')]:
        with pytest.raises(InputError, match=must) as e: call()
        assert '\n' not in str(e.value)

def test_table_without_schema_is_mentioned(tmp_path):
    write(tmp_path, FILES | {'schema.toml': SCHEMA[:SCHEMA.index('[requests]')]})
    with pytest.warns(UserWarning, match=r'\[requests\]'): open_dataset(tmp_path)

@pytest.mark.parametrize('text', NO_KEY)
def test_a_missing_value_written_out_is_no_key(tmp_path, text):
    "Where no users table tells, too; NA is a name, and stays one"
    plain = SCHEMA[:SCHEMA.index('[users]')] + SCHEMA[SCHEMA.index('[interactions]'):SCHEMA.index('[requests]')]
    files = {'schema.toml': plain, 'items.csv': ITEMS, 'interactions.csv': INTERACTIONS.replace('a,2', f'{text},2')}
    write(tmp_path, files)
    assert check_dataset(tmp_path) == [f"interactions.csv, column 'user_id', row 2: key '{text}' is a missing value, written out (1 row)"]
    write(tmp_path, {'interactions.csv': INTERACTIONS.replace('a,2', 'NA,2')})
    assert open_dataset(tmp_path).interactions.user_id.tolist() == ['a', 'NA', 'b']

def test_blanks_around_a_key_are_said_where_they_make_two_of_one(tmp_path):
    plain = SCHEMA[:SCHEMA.index('[users]')] + SCHEMA[SCHEMA.index('[interactions]'):SCHEMA.index('[requests]')]
    log = 'user_id,item_id,timestamp,position,action\n{},1,1000,0,\n{},2,1000,1,\n{},3,2000,2,\n'
    write(tmp_path, {'schema.toml': plain, 'items.csv': ITEMS, 'interactions.csv': log.format('u1', ' u1', 'u1 ')})
    assert check_dataset(tmp_path) == ["interactions.csv, column 'user_id', row 2: key ' u1' and another one differ only by blanks around them (2 rows)"]
    write(tmp_path, {'interactions.csv': log.format('u1 ', 'u2 ', ' u3')})
    assert open_dataset(tmp_path).interactions.user_id.tolist() == ['u1 ', 'u2 ', ' u3']

# Numbers and times that are finer than a float64, or than a second

def kiosk(log, order=True): return from_frames({'items': {'key': 'i'}, 'interactions': dict(user='u', item='i', time='t') | (dict(order='o') if order else {})},
                                               dict(items=pd.DataFrame(dict(i=log.i.unique())), interactions=log))

whole = st.integers(-2**63, 2**63 - 1)
@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(whole, st.integers(2**60, 2**60 + 9)), min_size=1, max_size=6), st.booleans())
@example([1700000000000000002, 1700000000000000001], False)
def test_an_order_keeps_all_its_digits(orders, blanks):
    "Text, as CSV gives it, and int64, as Parquet gives it, are the same numbers"
    log = pd.DataFrame(dict(u='a', i=[f'i{k}' for k in range(len(orders))], t=5, o=orders))
    text = log.assign(o=[f' {o} ' if blanks else str(o) for o in orders])
    assert kiosk(text).interactions.o.tolist() == kiosk(log).interactions.o.tolist() == orders and kiosk(text).interactions.o.dtype == np.int64
    assert (sort_behaviours(kiosk(text)).row_j == sort_behaviours(kiosk(log)).row_j).all()

@pytest.mark.parametrize('kind', ['int8', 'uint8', 'uint64', 'Int64', 'object'])
def test_an_order_of_any_whole_type(kind):
    log = pd.DataFrame(dict(u='a', i=['x', 'y'], t=5, o=pd.Series([7, 3], dtype=kind)))
    assert kiosk(log).interactions.o.tolist() == [7, 3] and kiosk(log).interactions.o.dtype == np.int64

@pytest.mark.parametrize('orders, must', [(pd.Series([1, 2**63], dtype='uint64'), "'9223372036854775808' needs more than 64 bits"), (pd.Series([1, None], dtype='Int64'), 'missing order'),
                                          (pd.Series([1, np.nan]), 'missing order'), (pd.Series([0, -2**63 - 1], dtype=object), 'needs more than 64 bits')])
def test_an_order_that_cannot_be_kept_is_refused(orders, must):
    with pytest.raises(InputError, match=must) as e: kiosk(pd.DataFrame(dict(u='a', i=['x', 'y'], t=5, o=orders)))
    assert str(e.value).startswith("interactions, column 'o', row 2: ") and str(e.value).endswith('(1 row)')

SPELL = dict(float=lambda ms: ms / 1000, datetime=lambda ms: pd.to_datetime(ms, unit='ms'), number=lambda ms: (ms / 1000).map('{:.3f}'.format), iso=lambda ms: pd.to_datetime(ms, unit='ms').map(lambda t: t.isoformat()))
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4000)), min_size=1, max_size=12), st.sampled_from(list(SPELL)))
@example([(0, 900), (0, 500), (1, 700), (0, 100)], 'float')
def test_the_order_within_a_second_is_kept(rows, spelling):
    "However time is spelt: histories come by exact time, equal exact times in file order; only rows of one user and one second change places"
    ms, user = np.array([r[1] for r in rows]) + 10**12, [f'u{r[0]}' for r in rows]
    ds = kiosk(pd.DataFrame(dict(u=user, i=[f'i{k}' for k in range(len(rows))], t=SPELL[spelling](pd.Series(ms)), n=range(len(rows)))), order=False)
    log, n = sort_behaviours(ds), ds.interactions.n.to_numpy()
    for u, key in enumerate(log.user_keys):
        mine = [k for k in range(len(rows)) if user[k] == key]
        assert n[log.row_j[log.offsets[u]:log.offsets[u + 1]]].tolist() == sorted(mine, key=lambda k: ms[k])
    assert ds.interactions.u.tolist() == user and ds.interactions.t.tolist() == (ms // 1000).tolist() and ds.interactions.index.tolist() == list(range(len(rows)))

def test_a_column_of_orders_has_the_word_within_a_second():
    log = pd.DataFrame(dict(u='a', i=['x', 'y', 'z'], t=[5.9, 5.5, 5.1], o=[1, 2, 3]))
    assert kiosk(log).interactions.i.tolist() == ['x', 'y', 'z'] and kiosk(log.drop(columns='o'), order=False).interactions.i.tolist() == ['z', 'y', 'x']

def test_lines_count_the_rows_of_the_file():
    "Rows change places only after every check"
    log = pd.DataFrame(dict(u='a', i=['x', 'x', 'q'], t=[5.9, 5.5, 5.1]))
    with pytest.raises(InputError, match="column 'i', row 3: unknown item 'q'"): from_frames({'items': {'key': 'i'}, 'interactions': dict(user='u', item='i', time='t')}, dict(items=pd.DataFrame(dict(i=['x'])), interactions=log))

# What `describe` says of times

@pytest.mark.parametrize('time, want', [('20240102', 'interactions from 1970-08-23 to 1970-08-23'), ('2024-01-02', 'interactions from 2024-01-02 to 2024-01-02'), (-1, 'interactions from 1969-12-31 to 1969-12-31')])
def test_describe_says_the_days_of_a_log(time, want):
    assert want in str(describe(kiosk(pd.DataFrame(dict(u='a', i=['x', 'y'], t=time)), order=False))).splitlines()

def test_describe_without_two_behaviours_of_anybody(tmp_path):
    text = str(describe(kiosk(pd.DataFrame(dict(u=['a', 'b'], i='x', t=[0, 10**5])), order=False)))
    assert 'no user has two behaviours' in text and 'nan' not in text and 'from 1970-01-01 to 1970-01-02' in text
    write(tmp_path, FILES); assert 'requests from 1970-01-01 to 1970-01-01' in str(describe(open_dataset(tmp_path)))

# Folders: what may be written over, and what they may be called

def test_save_refuses_a_foreign_folder(tmp_path):
    write(tmp_path, FILES); ds = open_dataset(tmp_path)
    with pytest.raises(InputError, match='already holds candidates.csv'): save_dataset(ds, tmp_path)

def bytes_of(folder): return {p.name: p.read_bytes() for p in folder.iterdir()}
def somebodys(folder, name='shop'):
    "A folder of three Parquet tables that somebody made"
    plain = SCHEMA[:SCHEMA.index('[requests]')].replace('"shop"', f'"{name}"')
    write(folder, {k: v for k, v in FILES.items() if 'requests' not in k and 'candidates' not in k} | {'schema.toml': plain})
    for t in ('items', 'users', 'interactions'): pd.read_csv(folder / f'{t}.csv').to_parquet(folder / f'{t}.parquet'); (folder / f'{t}.csv').unlink()
    (folder / 'items.parquet').write_bytes(parquet(pd.DataFrame(dict(item_id=['1', '2', '3'], title='t', brand='b', price=1., image=[[1., 0.]] * 3))))
    return folder

FOREIGN = {   # what lies in the folder of Parquet tables that somebody made
    'as it is': {}, 'called marketplace': {}, 'without a schema': {'schema.toml': None}, 'the schema is damaged': {'schema.toml': '[items'}, 'the schema alone': {f'{t}.parquet': None for t in ('items', 'users', 'interactions')}}
@pytest.mark.parametrize('kind', FOREIGN)
def test_nobodys_tables_are_written_over(tmp_path, kind):
    "Not by the simulated shop, and not by another dataset of the same tables"
    mine = somebodys(tmp_path / 'mine', 'marketplace' if 'called' in kind else 'shop')
    for name, text in FOREIGN[kind].items(): (mine / name).unlink() if text is None else (mine / name).write_text(text)
    before, market = bytes_of(mine), open_dataset('marketplace', users=20, items=200)
    for ds in (market, Dataset(market.schema, market.tables)):
        with pytest.raises(InputError, match='mine: already holds .*, which is no part of this dataset; choose another folder, or empty this one'): save_dataset(ds, mine)
        assert bytes_of(mine) == before

def test_what_we_wrote_may_be_written_again(tmp_path):
    "A simulated shop by another one, with or without requests; any other dataset by one of the same schema, and an import of the same name"
    market = lambda **kw: open_dataset('marketplace', users=20, items=200, **kw)
    for ds in (market(), market(seed=1), market(requests=4, candidates=12, smallest=10), market(requests=4, candidates=12, smallest=10)):
        save_dataset(ds, tmp_path / 'market'); pd.testing.assert_frame_equal(open_dataset(tmp_path / 'market').interactions, ds.interactions)
    ds = open_dataset(somebodys(tmp_path / 'mine'))
    fewer = Dataset(ds.schema, ds.tables | dict(interactions=ds.interactions[:2]))
    save_dataset(fewer, tmp_path / 'mine'); assert len(open_dataset(tmp_path / 'mine').interactions) == 2
    bare = from_frames({'name': 'shop', 'items': {'key': 'item_id'}, 'users': {'key': 'user_id'}, 'interactions': dict(user='user_id', item='item_id', time='timestamp')}, ds.tables)
    with pytest.raises(InputError, match='already holds interactions.parquet'): save_dataset(bare, tmp_path / 'mine')
    (tmp_path / 'mine/import.txt').write_text('shop: 3 rows\n'); save_dataset(bare, tmp_path / 'mine')
    with pytest.raises(InputError, match='already holds interactions.parquet'): save_dataset(Dataset(Schema('bazaar', bare.schema.tables), bare.tables), tmp_path / 'mine')

@pytest.mark.parametrize('after', range(4))
def test_an_interrupted_writing_can_be_repeated(tmp_path, monkeypatch, after):
    "Killed after any number of files: no dataset yet, and the next try makes it one"
    from hettrans.data import dataset
    ds, real, done = open_dataset('marketplace', users=20, items=200), os.replace, []
    def replace(*a):
        if len(done) == after: raise KeyboardInterrupt
        done.append(a); real(*a)
    with monkeypatch.context() as m:
        m.setattr(dataset.os, 'replace', replace)
        with pytest.raises(KeyboardInterrupt): save_dataset(ds, tmp_path / 'shop')
    assert 'has no schema.toml' in check_dataset(tmp_path / 'shop')[0]
    save_dataset(ds, tmp_path / 'shop')
    assert check_dataset(tmp_path / 'shop') == [] and not list((tmp_path / 'shop').glob('*.part'))

def test_a_relative_folder_with_a_colon(tmp_path, monkeypatch):
    "`exp:1` is a folder, whatever Arrow takes it for"
    monkeypatch.chdir(tmp_path); write(tmp_path / 'a', FILES); ds = open_dataset('a')
    for folder in ('exp:1', 'runs:2/x', 's3:bucket'): save_dataset(ds, folder); assert check_dataset(folder) == [] and (tmp_path / folder / 'items.parquet').is_file()
    write(Path('csv:1'), FILES); assert check_dataset('csv:1') == []
    odd = from_frames(ds.schema, ds.tables | dict(items=ds.items.assign(odd=pd.Series([1j, 'x', None], dtype=object))))
    with pytest.warns(UserWarning, match='saved as text'): save_dataset(odd, 'odd:1')
    assert check_dataset('odd:1') == []

def test_a_folder_whose_name_is_no_text(tmp_path):
    write(tmp_path / 'a', FILES); folder = tmp_path / os.fsdecode(b'\xff')
    with pytest.raises(InputError, match='not a UTF-8 name') as e: save_dataset(open_dataset(tmp_path / 'a'), folder)
    assert str(e.value).isascii() and not folder.exists()

def test_truth_belongs_to_its_folder(tmp_path):
    ds = open_dataset('marketplace', users=20, items=200, seed=3); save_dataset(ds, tmp_path)
    again = open_dataset(tmp_path)
    pd.testing.assert_frame_equal(again.truth.interactions, ds.truth.interactions)
    old = pd.read_parquet(tmp_path / 'interactions.parquet'); old.iloc[1:].to_parquet(tmp_path / 'interactions.parquet')
    with pytest.raises(InputError, match='does not belong to these tables'): open_dataset(tmp_path).truth
    (tmp_path / 'truth.toml').write_text('users = 5\n')
    with pytest.raises(InputError, match='truth.toml'): open_dataset(tmp_path).truth

def test_a_copy_does_not_ask_for_the_truth(tmp_path, monkeypatch):
    "An edited marketplace is saved with its truth.toml as it is, and no world is made for that; a truth in memory is written as before"
    ds = open_dataset('marketplace', users=20, items=200, seed=3); save_dataset(ds, tmp_path / 'a')
    log = pd.read_parquet(tmp_path / 'a/interactions.parquet'); log.iloc[:-50].to_parquet(tmp_path / 'a/interactions.parquet')
    (tmp_path / 'a/truth.toml').write_bytes(text := (tmp_path / 'a/truth.toml').read_bytes() + b'# by hand\n')
    with monkeypatch.context() as m:
        m.setattr('hettrans.data.marketplace.simulate', lambda *a: pytest.fail('the shop was simulated'))
        for to in ('b', 'c', 'c'): save_dataset(open_dataset(tmp_path / 'a'), tmp_path / to)
    assert (tmp_path / 'b/truth.toml').read_bytes() == (tmp_path / 'c/truth.toml').read_bytes() == text and check_dataset(tmp_path / 'b') == []
    with pytest.raises(InputError, match='does not belong to these tables'): open_dataset(tmp_path / 'b').truth
    save_dataset(Dataset(ds.schema, ds.tables, None, lambda: ds.truth), tmp_path / 'd'); save_dataset(ds, tmp_path / 'e')
    assert (tmp_path / 'd/truth.toml').read_bytes() == (tmp_path / 'e/truth.toml').read_bytes() == text[:-len(b'# by hand\n')]

ODD = {   # a column of three rows that the schema does not name, and what comes back
    'a map':         (pa.array([[('a', 1)], None, []], pa.map_(pa.string(), pa.int64())).to_pandas(), ["[('a', 1)]", None, '[]']),
    'mixed':         ([1, 'two', None], ['1', 'two', None]),
    'complex':       ([1j, 2., None], ['1j', '2.0', None]),
    'empty structs': ([{}, {}, None], ['{}', '{}', None]),
    'huge integers': ([2**70, -2**70, None], [str(2**70), str(-2**70), None]),
    'surrogates':    (['a', '\ud800', None], ['a', '?', None]),
    'lists of all':  ([[1, 'a'], [None], None], ["[1, 'a']", '[None]', None]),
}
@pytest.mark.parametrize('kind', ODD)
def test_what_parquet_cannot_hold_is_saved_as_text(tmp_path, kind):
    values, want = ODD[kind]; write(tmp_path / 'a', FILES); ds = open_dataset(tmp_path / 'a')
    ds = from_frames(ds.schema, ds.tables | dict(items=ds.items.assign(odd=pd.Series(values, dtype=object), plain=[1, 2, 3])))
    with pytest.warns(UserWarning) as heard: save_dataset(ds, tmp_path / 'b')
    assert [str(w.message) for w in heard] == ["items, column 'odd': Parquet cannot hold its values; they are saved as text"]
    again = open_dataset(tmp_path / 'b')
    assert [None if pd.isna(x) else x for x in again.items.odd] == want
    pd.testing.assert_frame_equal(again.items.drop(columns='odd'), ds.items.drop(columns='odd'))
    with warnings.catch_warnings(): warnings.simplefilter('error'); save_dataset(again, tmp_path / 'c')     # text it stays, and nothing is said again

def test_extra_columns_that_parquet_holds_stay_what_they_are(tmp_path):
    write(tmp_path / 'a', FILES); ds = open_dataset(tmp_path / 'a')
    ds = from_frames(ds.schema, ds.tables | dict(items=ds.items.assign(day=pd.to_datetime(['2024-01-01', None, '2024-01-02']), sizes=[[1, 2], None, [3]], facts=[dict(a=1), dict(a=2), None])))
    with warnings.catch_warnings(): warnings.simplefilter('error'); save_dataset(ds, tmp_path / 'b')
    again = open_dataset(tmp_path / 'b').items
    assert again.day.tolist()[::2] == ds.items.day.tolist()[::2] and again.sizes[0].tolist() == [1, 2] and again.facts[1] == dict(a=2)

@pytest.mark.parametrize('text', ['', 'name = "x"\nname = "y"\n', '[items]\nkey = "a\n', 'items = [1, 2]\n', '[[items]]\nkey = "i"\n', '"" = 3\n', '[items]\nfeatures = 3\nkey = "i"\n'])
def test_odd_toml(tmp_path, text):
    write(tmp_path, {'schema.toml': text})
    with pytest.raises(InputError) as e: Schema.load(tmp_path / 'schema.toml')
    assert 'schema.toml' in str(e.value) and '\n' not in str(e.value)

JUNK = [b'', b',', b'"', b'\n', b'\xff', b'\x00', b'nan', b'inf', b'-1', b'1e999', b'[', b']]', b'{', b'=', b'#', b'true', b'9' * 400, b"''", b'\r', b'\xef\xbb\xbf', b'[' * 3000]
@pytest.mark.parametrize('seed', range(60))
def test_random_damage_never_escapes(tmp_path, seed):
    "Whatever is cut out of or written into a folder: it opens, or it is an InputError of one line"
    rng = np.random.default_rng(seed)
    write(tmp_path, FILES)
    for _ in range(rng.integers(1, 4)):
        f = tmp_path / list(FILES)[rng.integers(len(FILES))]; b = f.read_bytes()
        i = rng.integers(len(b) + 1); j = min(len(b), i + rng.integers(0, 6))
        f.write_bytes(b[:i] + JUNK[rng.integers(len(JUNK))] + b[j:])
    try:
        with warnings.catch_warnings(): warnings.simplefilter('ignore'); open_dataset(tmp_path)
    except InputError as e: assert '\n' not in str(e) and check_dataset(tmp_path)
    else: assert check_dataset(tmp_path) == []
