"Runs in Python: whole histories count as seen, times and keys of every kind, columns of any name, presets without ids"
import functools, json
from datetime import date, datetime, timezone
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from hettrans.data.dataset import from_frames, open_dataset
from hettrans.data.neighbours import leave_own_out
from hettrans.data.schema import InputError
from hettrans.engine.evaluate import judge
from hettrans.engine.loop import TrainConfig, place, read_tensors, train, train_step
from hettrans.engine.run import LATEST, asked_catalogue, asking_times, check_cases, epoch_batches, fit, load_run, read_history, seconds_of, shown_names
from hettrans.heterrec.model import UNKNOWN
from hettrans.zoo.item_graph import ALPHAS
from tiny import copy, fails, ok, scratch

quick = settings(max_examples=25, deadline=None)
N = 40    # items
SCHEMA = dict(name='stall', items=dict(key='sku', features=dict(price=dict(kind='numerical'), title=dict(kind='text'), brand=dict(kind='categorical'), score=dict(kind='numerical'))),
              users=dict(key='uid'), interactions=dict(user='uid', item='sku', time='when', features=dict(stars=dict(kind='numerical'))))
SMALL = dict(d=8, heads=2, text_dim=4, epochs=1, batch=8, device='cpu', bar=False)

def frames():
    "Forty items with a score and a rank of their own, the key in the third column; 20 users of 12 behaviours, user 99 has none"
    rng = np.random.default_rng(0)
    items = pd.DataFrame(dict(price=np.arange(N)*1.5, title=[f'thing {i % 7}' if i % 3 else None for i in range(N)], sku=np.arange(100, 100 + N), brand=['a', 'b']*(N//2), score=rng.random(N).round(2), rank='gold', photo=[b'\xff\xd8']*N))
    log = pd.DataFrame([(u, 100 + i, 86400*(k + 1) + u, float(k % 5)) for u in range(20) for k, i in enumerate(rng.permutation(N)[:12])], columns=['uid', 'sku', 'when', 'stars'])
    return dict(items=items, users=pd.DataFrame(dict(uid=[*range(20), 99])), interactions=log)

def stall(schema=SCHEMA, **tables): return from_frames(schema, frames() | tables)

@functools.cache
def train_once(name): return fit(name, stall(), scratch()/f'runs-{name}', **(SMALL if name == 'sasrec' else dict(bar=False)), **(dict(max_len=4) if name != 'popularity' else {}))

def trained(name='sasrec'):
    "A run whose window is shorter than its histories; do not change it"
    return train_once(name)

def met(run, user): return set(run.ds.interactions[run.ds.interactions.uid == str(user)].sku)

# 1. What was met before the window is seen, too

@pytest.mark.parametrize('name', ['sasrec', 'repeat-last'])
def test_a_user_is_not_offered_what_lies_before_the_window(name):
    run = trained(name)
    for user in range(20):
        best = run.recommend(str(user), N)
        assert len(met(run, user)) == 12 and not met(run, user) & set(best.sku) and len(best) == N - 12

@quick
@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=30), st.booleans())
def test_nor_is_who_typed_a_history(items, new):
    run, keys = trained(), [str(100 + i) for i in items]
    rows = [dict(sku='new', brand='a')]*new + [dict(sku=k) for k in keys]
    best = run.recommend(rows, N)
    assert set(best.sku) == set(run.keys) - set(keys)
    window = run.recommend(rows[-4:], N, keep_seen=True).set_index('sku').score        # only the window is read
    pd.testing.assert_series_equal(best.set_index('sku').score, window[best.sku], check_exact=True)

def test_rows_before_the_window_are_not_read():
    assert len(trained().recommend([dict(sku='nothing'), *[dict(sku='101')]*4], 3)) == 3    # as before: only what is read must be readable

# 2. Times

STAMP = [1704067200, 1704153600]
DAYS = pd.to_datetime(pd.Series(STAMP), unit='s')
TIMES = dict(seconds=pd.Series(STAMP), floats=pd.Series(STAMP, dtype=float), words=pd.Series(['2024-01-01', '2024-01-02T00:00:00Z']), nanoseconds=DAYS.astype('datetime64[ns]'), microseconds=DAYS.astype('datetime64[us]'),
             whole_seconds=DAYS.astype('datetime64[s]'), utc=DAYS.dt.tz_localize('UTC'), berlin=DAYS.dt.tz_localize('UTC').dt.tz_convert('Europe/Berlin'), objects=pd.Series([datetime(2024, 1, 1), datetime(2024, 1, 2, tzinfo=timezone.utc)], dtype=object),
             days=pd.Series([date(2024, 1, 1), date(2024, 1, 2)]), mixed=pd.Series([STAMP[0], np.datetime64('2024-01-02')], dtype=object), digits=pd.Series([' 1704067200', '1704153600']), category=pd.Series(['2024-01-01', '2024-01-02'], dtype='category'))

@pytest.mark.parametrize('kind', TIMES)
def test_times_of_every_kind(kind):
    assert seconds_of(TIMES[kind]).tolist() == STAMP
    assert read_history(trained(), pd.DataFrame(dict(sku=['101', '102'], when=TIMES[kind])))[1].tolist() == STAMP

@quick
@given(st.lists(st.datetimes(datetime(1700, 1, 1), datetime(5000, 1, 1)), min_size=1, max_size=5), st.sampled_from(['us', 'ms', 's']))
def test_a_column_of_dates_in_any_unit(when, unit):
    column = pd.Series(np.array(when, f'datetime64[{unit}]'))
    want = column.astype('datetime64[us]').astype('int64')/1e6
    np.testing.assert_allclose(seconds_of(column), want, rtol=0, atol=1e-4)
    np.testing.assert_allclose(seconds_of(column.dt.tz_localize('UTC')), want, rtol=0, atol=1e-4)

def test_the_order_of_dates_is_checked_in_seconds():
    with pytest.raises(InputError, match='row 2: earlier'): read_history(trained(), pd.DataFrame(dict(sku=['101', '102'], when=DAYS[::-1].reset_index(drop=True))))

@pytest.mark.parametrize('value,says', [(1704067200000, 'milliseconds'), (-1704067200000, 'milliseconds'), ('9999-12-31', 'milliseconds'), (np.inf, 'not a time'), ('soon', "'soon' is not a time"), (pd.NaT, 'not a time'), ([1], 'not a time'), (None, 'not a time')])
def test_what_is_no_time(value, says):
    with pytest.raises(InputError, match=f'history, row 2: when = .*{says}.*1 such row'): read_history(trained(), [dict(sku='101', when=5), dict(sku='102', when=value)])

def test_the_bound_is_that_of_datasets():
    log = lambda t: stall(interactions=frames()['interactions'].assign(when=int(t)))
    read = lambda t: read_history(trained(), [dict(sku='101', when=int(t))])
    log(LATEST), read(LATEST)
    for f in (log, read):
        with pytest.raises(InputError, match='milliseconds'): f(LATEST + 1)

# 3, 10, 12. Columns of any name

def test_columns_that_are_called_like_ours():
    best = trained().recommend('3', 5)
    assert list(best) == ['rank', 'score', 'price', 'title', 'sku', 'brand', 'item_score', 'item_rank', 'photo'] and best['rank'].tolist() == [1, 2, 3, 4, 5] and (best.item_rank == 'gold').all()
    assert best.score.is_monotonic_decreasing and set(best.item_score) <= set(trained().ds.items.score)

@quick
@given(st.sets(st.sampled_from(['rank', 'score', 'item_rank', 'item_score', 'item_item_rank', 'title'])))
def test_no_name_is_taken_twice(columns):
    names = shown_names(columns)
    shown = [names.get(c, c) for c in columns] + ['rank', 'score']
    assert len(set(shown)) == len(shown) and names.keys() == columns & {'rank', 'score'}

@pytest.mark.parametrize('key', ['rank', 'score', 'sku'])
def test_cards_and_json_of_such_columns(key, tmp_path):
    t = frames()
    items = t['items'].drop(columns=['rank', 'score']).rename(columns=dict(sku=key)).assign(**({'rank': 7.} if key != 'rank' else {'score': 7.}))
    other = 'rank' if key != 'rank' else 'score'
    schema = SCHEMA | dict(items=dict(key=key, features=dict(price=dict(kind='numerical'), title=dict(kind='text'), brand=dict(kind='categorical')) | {other: dict(kind='numerical')}))
    fit('popularity', from_frames(schema, t | dict(items=items)), tmp_path/'r', bar=False)
    best = json.loads(ok('recommend', tmp_path/'r', '--user', '3', '--json', '-k', 30))
    shown, feature = (key if key == 'sku' else f'item_{key}'), f'item_{other}'
    assert set(best[0]) == {'rank', 'score', 'price', 'title', 'brand', shown, feature} and best[0][feature] == 7 and all(100 <= int(b[shown]) < 140 for b in best)   # and no photo
    lines = ok('recommend', tmp_path/'r', '--user', '3', '-k', 30).splitlines()
    for b, name, facts in zip(best, lines[::2], lines[1::2]):
        assert name == f"{b['rank']:3}. {b['title'] or b[shown]}"                      # the key where there is no title
        assert f'({shown} {b[shown]}, score {b["score"]:.3f})' in facts and f'{feature} 7.00' in facts and 'photo' not in facts
    assert any(b['title'] is None for b in best)

# 4. Presets of catalogues whose ids are no features

@pytest.mark.parametrize('how', ['schema', 'field', 'word'])
def test_a_preset_without_ids_has_no_neighbours(how, tmp_path):
    schema = SCHEMA | dict(items=SCHEMA['items'] | dict(use_id=False)) if how == 'schema' else SCHEMA
    more = {} if how == 'schema' else dict(use_id=False if how == 'field' else 'no')
    run = fit('heterrec', stall(schema), tmp_path/'r', **SMALL, **more)
    assert run.config['neighbours'].neighbours == 0 and 'sku' not in run.catalogue
    assert len(load_run(tmp_path/'r').recommend('3', 5)) == 5
    fit('heterrec', stall(schema), tmp_path/'r', resume=True, **SMALL, **more)
    with pytest.raises(InputError, match='neighbours need the item id'): fit('heterrec', stall(schema), tmp_path/'s', neighbours=5, **SMALL, **more)
    assert fit('heterrec', stall(), tmp_path/'t', **SMALL).config['neighbours'].neighbours > 0

# 6. The protocol says whether seen items come back

def test_keep_seen_is_as_the_protocol_says(tmp_path):
    kept = fit('popularity', stall(), tmp_path/'r', bar=False, keep_seen=True)
    everything, others = set(kept.keys), set(kept.keys) - met(kept, 3)
    for run in (kept, load_run(tmp_path/'r')):
        assert set(run.recommend('3', N).sku) == everything and set(run.recommend('3', N, keep_seen=False).sku) == others
    assert set(trained('popularity').recommend('3', N).sku) == others and set(trained('popularity').recommend('3', N, keep_seen=True).sku) == everything
    skus = lambda *words: {b['sku'] for b in json.loads(ok('recommend', *words, '--user', 3, '-k', N, '--json'))}
    assert skus(tmp_path/'r') == everything and skus(trained('popularity').path) == others and skus(trained('popularity').path, '--keep-seen') == everything

# 7. Histories as files

def answer(tmp_path, text, name='popularity'):
    (tmp_path/'h.csv').write_text(text)
    return ok('recommend', trained(name).path, '--history', tmp_path/'h.csv', '--json')

def refusal(tmp_path, text, name='sasrec'):
    (tmp_path/'h.csv').write_text(text)
    return fails('recommend', trained(name).path, '--history', tmp_path/'h.csv')

@pytest.mark.parametrize('word', ['NA', 'none', 'NULL', 'nil', 'N/A'])
def test_words_that_are_no_gaps(word, tmp_path):
    items = frames()['items'].assign(sku=[word, *range(101, 100 + N)])
    log = frames()['interactions']
    fit('popularity', stall(items=items, interactions=log.assign(sku=log.sku.where(log.sku != 100, word).astype(str))), tmp_path/'r', bar=False)
    (tmp_path/'h.csv').write_text(f'sku,when\n{word},5\n101,6\n')
    best = json.loads(ok('recommend', tmp_path/'r', '--history', tmp_path/'h.csv', '--json', '-k', N))
    assert len(best) == N - 2 and word not in {b['sku'] for b in best}

FILES = {   # a history, and what the line must say
    'a comma too much in every row':  ('sku,when\n101,5,\n102,6,\n', ['not valid CSV', 'line 2']),
    'a comma too much in one row':    ('sku,when\n101,5\n102,6,\n', ['not valid CSV', 'line 3']),
    'a price in words':               ('sku,price\n101,2\nnew,3\nnewer,cheap\n', ['h.csv, row 3', 'price', 'cheap']),
    'an infinite price':              ('sku,price\n101,2\nnew,-inf\n', ['h.csv, row 2', 'price', 'infinite']),
    'stars in words':                 ('sku,stars\n101,2\n102,many\n', ['h.csv, row 2', 'stars', 'many']),
    'infinite stars':                 ('sku,stars\n101,inf\n102,3\n', ['h.csv, row 1', 'stars', 'infinite']),
    'stars in words, before them many rows': ('sku,stars\n' + '101,2\n'*20 + '102,many\n', ['h.csv, row 21', 'stars']),
    'an unknown item after many rows': ('sku,when\n' + '101,2\n'*20 + 'nothing,2\n', ['h.csv, row 21', 'nothing']),
    'a time that is none, later':     ('sku,when\n' + '101,2\n'*20 + '101,soon\n', ['h.csv, row 21', 'when', 'soon']),
    'backwards, later':               ('sku,when\n' + '101,2\n'*20 + '101,1\n', ['h.csv, row 21', 'earlier']),
    'no such column':                 ('item,when\n101,2\n', ['h.csv: there is no column', 'sku']),
    'a header alone':                 ('101,102,103\n', ['h.csv', 'the history is empty', "'101,102,103'", 'header', 'one per line']),
    'a name for two columns':         ('sku,when,when\n101,5,6\n', ["h.csv, column 'when'", 'two columns']),
    'two columns of items':           ('sku,sku\n101,102\n', ["h.csv, column 'sku'", 'two columns']),
    'half a pair':                    ('["101", "\\ud800"]', ['h.csv, row 2', 'no text']),
    'half a pair in a word':          ('[{"sku": "101"}, {"sku": "new", "title": "a \\udc00 b"}]', ['h.csv, row 2', 'no text']),
    'half a pair in a time':          ('[{"sku": "101", "when": "\\ud8ff"}]', ['h.csv, row 1', 'no text']),
    'half a pair in a name':          ('{"sku": "101", "\\ud800": 2}', ['h.csv, row 1', 'no text']),
    'a deep list':                    ('['*100_000, ['h.csv', 'not valid JSON']),
    'a deep row':                     ('{"sku":'*100_000, ['h.csv', 'not valid JSON']),
    'a number beyond all':            ('[{"sku": "new", "price": 1' + '0'*400 + '}]', ['h.csv', 'too large']),
    'milliseconds':                   ('sku,when\n101,1704067200000\n', ['h.csv, row 1', 'when = ', 'milliseconds']),
}

@pytest.mark.parametrize('kind', FILES)
def test_files_that_cannot_be_read(kind, tmp_path):
    text, says = FILES[kind]
    line = refusal(tmp_path, text)
    for w in says: assert w in line, line

def test_files_that_can(tmp_path):
    want = answer(tmp_path, 'sku,when\n101,5\n102,6\n')
    for text in ('sku,when,\n101,5,\n102,6,\n', 'sku,when,,\n101,5,,\n102,6,,\n', 'sku, when\n\n101, 5\n102, 6\n', '"sku","when"\n"101","5"\n"102","6"', 'when,sku\n5,101\n6,102\n', 'sku,when,stars\n101,5\n102,6\n'): assert answer(tmp_path, text) == want, text

# 8, 9. Arguments of other kinds

def test_a_user_by_a_number():
    want = trained().recommend('3', 5)
    for user in (3, np.int64(3), 3., np.float32(3), np.str_('3')): pd.testing.assert_frame_equal(trained().recommend(user, 5), want)
    for user in (77, 2.5, float('nan')):
        with pytest.raises(InputError, match='is not in stall'): trained().recommend(user)

def test_items_by_numbers():
    want = trained().recommend(['101', '102'], 5)
    for items in ([101, 102], [101., 102.], np.array([101, 102]), pd.Series([101., 102.]), (101, '102'), (i for i in (101, 102)), [np.float32(101), 102], pd.DataFrame(dict(sku=[101., 102.])), pd.DataFrame(dict(sku=pd.Categorical([101, 102])))):
        pd.testing.assert_frame_equal(trained().recommend(items, 5), want)

@pytest.mark.parametrize('history', [None, object(), [None], [], pd.DataFrame(), [2.5], [(101, 5)], {'sku': ['101']}, True, [dict(sku='101', stars=[1])], [dict(sku='new', brand=['a'])], [dict(sku='new', price='cheap')]], ids=lambda h: type(h).__name__ + str(h)[:12])
def test_histories_that_are_none(history):
    with pytest.raises(InputError) as e: trained().recommend(history)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('at', [90, 90., np.int64(90), '90', '1970-01-01T00:01:30Z', '1970-01-01 00:01:30', pd.Timestamp(90, unit='s'), datetime(1970, 1, 1, 0, 1, 30), np.datetime64(90, 's'), torch.tensor(90), pd.Timestamp(90, unit='s', tz='UTC').tz_convert('Asia/Tokyo')], ids=repr)
def test_when_it_is_asked(at):
    assert asking_times(trained(), torch.tensor([10, 20]), at).tolist() == [20, 90]

@pytest.mark.parametrize('at', [float('nan'), float('inf'), 10**30, 1704067200000, 'soon', pd.NaT, [5], 19, '1970-01-01'], ids=repr)
def test_when_it_cannot_be_asked(at):
    with pytest.raises(InputError, match='^at = [^\n]*$'): asking_times(trained(), torch.tensor([10, 20]), at)

@pytest.mark.parametrize('k', [0, -1, '3', 2.5, None])
def test_how_many(k):
    with pytest.raises(InputError, match='k = '): trained().recommend('3', k)

@pytest.mark.parametrize('name', ['popularity', 'sasrec'])
def test_a_user_who_is_no_text(name):
    for user in ('\udcff', 'u\ud800'):
        with pytest.raises(InputError, match='^user: .* is no text'): trained(name).recommend(user)
        assert 'user: ' in fails('recommend', trained(name).path, '--user', user)

def test_settings_that_are_nested_too_deep(tmp_path):
    run = copy(trained('popularity').path, tmp_path/'r'); (run/'config.json').write_text('['*100_000)
    assert 'config.json: not valid JSON' in fails('evaluate', run)

def test_a_counted_model_does_not_ask_for_features():
    row, why = dict(sku='new', title='thing 3', price=2.), "row 1: item 'new' is not in the catalogue and "
    for history in ([row], ['new']):
        with pytest.raises(InputError, match=why + 'popularity reads no features'): trained('popularity').recommend(history)
    with pytest.raises(InputError, match=why + 'brings no features'): trained().recommend(['new'])
    assert len(trained().recommend([row], 5)) == 5

def test_a_user_without_behaviours():
    for user in ('99', 99):
        with pytest.raises(InputError, match="user '99' has no behaviours in stall yet"): trained().recommend(user)
    assert "user '99' has no behaviours" in fails('recommend', trained().path, '--user', 99)
    with pytest.raises(InputError, match="user '98' is not in stall"): trained().recommend('98')

# Scores that are none, and nothing left to recommend

@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_damaged_weight_is_said(value):
    run, said = load_run(trained().path), 0
    want = len(run.recommend('3', N))
    for p in run.model.parameters():
        for i in (0, -1):
            sound = p.data.reshape(-1)[i].item()
            p.data.view(-1)[i] = value; run.scorer.forget()
            try: assert len(run.recommend('3', N)) == want                                 # a row that nobody reads
            except InputError as e: said += 1; assert str(e).startswith(f"{run.path}: the score of item '") and 'damaged weights' in str(e)
            p.data.view(-1)[i] = sound; run.scorer.forget()
    assert said > 5 and len(run.recommend('3', N)) == want

def test_forty_bytes_of_the_weights(tmp_path):
    run = copy(trained().path, tmp_path/'r'); file = run/'weights.safetensors'
    b = file.read_bytes(); m = len(b)//2
    file.write_bytes(b[:m] + b'\xff'*40 + b[m + 40:])
    for more in ([], ['--json']): assert f'{run}: the score of item' in fails('recommend', run, '--user', 3, *more)
    assert 'not a number' in fails('evaluate', run)

@pytest.mark.parametrize('name', ['popularity', 'sasrec'])
def test_who_has_seen_everything(name, tmp_path):
    (tmp_path/'all').write_text('\n'.join(map(str, range(100, 100 + N))))
    ask = ['recommend', trained(name).path, '--history', tmp_path/'all']
    text = ok(*ask)
    assert f'no item is left: the history holds all {N} items' in text and '--keep-seen' in text and text.count('\n') == 1
    assert json.loads(ok(*ask, '--json')) == [] and len(json.loads(ok(*ask, '--json', '--keep-seen', '-k', N))) == N and '  1. ' in ok(*ask, '--keep-seen')
    assert len(trained(name).recommend([*range(100, 100 + N)])) == 0

# Tables of a run that are not what it was trained on

def change(run, table, f):
    file = run/f'data/{table}.parquet'; f(pd.read_parquet(file)).to_parquet(file, index=False)

OTHER = {   # a table of the run, what is done to it, and whether the run is another one then
    'items upside down':   ('items', lambda t: t[::-1], True),
    'two items exchanged': ('items', lambda t: t.assign(sku=[*t.sku[:2][::-1], *t.sku[2:]]), True),
    'one more item':       ('items', lambda t: pd.concat([t, t[:1].assign(sku='new')]), True),
    'a second later':      ('interactions', lambda t: t.assign(when=t.when + (t.index == 7)), True),
    'a behaviour less':    ('interactions', lambda t: t[1:], True),
    'behaviours upside down': ('interactions', lambda t: t[::-1], True),
    'other prices':        ('items', lambda t: t.assign(price=t.price + 1), False),
    'another user':        ('users', lambda t: pd.concat([t, t[:1].assign(uid='1000')]), False),
}

@pytest.mark.parametrize('kind', OTHER)
@pytest.mark.parametrize('name', ['popularity', 'sasrec'])
def test_a_run_with_other_tables(name, kind, tmp_path):
    table, f, other = OTHER[kind]
    run = copy(trained(name).path, tmp_path/'r'); change(run, table, f)
    if other: assert f"{run/'data'}: other items or behaviours" in fails('recommend', run, '--user', 3)
    else: assert len(load_run(run).recommend('3', 5)) == 5

def test_a_run_without_a_digest(tmp_path):
    run = copy(trained('popularity').path, tmp_path/'r'); change(run, *OTHER['a second later'][:2])
    saved = json.loads((run/'config.json').read_text()); del saved['log']; (run/'config.json').write_text(json.dumps(saved))
    load_run(run)                                                                          # as versions before the digest wrote it

@pytest.mark.parametrize('fields', [dict(ties='shuffle'), dict(ties='file'), dict(split='time:0.2')], ids=str)
def test_a_run_is_what_it_was_trained_on(fields, tmp_path):
    t = frames(); log = t['interactions']
    for n, when in enumerate((log.when, log.when//86400, log.when + .5*(log.sku % 2))):   # also tied and between seconds
        fit('popularity', stall(interactions=log.assign(when=when).sample(frac=1, random_state=n)), tmp_path/str(n), bar=False, **fields)
        load_run(tmp_path/str(n))
    ds = open_dataset('marketplace', users=40, items=200, requests=5, candidates=12, smallest=10, largest=16)      # with requests
    assert load_run(fit('popularity', ds, tmp_path/'m', bar=False, **fields).path).ds.requests is not None

# 13. Nothing left to judge

@pytest.mark.parametrize('rows', [3, 4])
def test_too_short_to_learn_from(rows, tmp_path):
    ds = stall(interactions=frames()['interactions'].groupby('uid').head(rows))
    if rows == 3:
        with pytest.raises(InputError, match='stall: no user has two training behaviours'): fit('sasrec', ds, tmp_path/'r', **SMALL)
        assert not (tmp_path/'r').exists()
    else: assert fit('sasrec', ds, tmp_path/'r', **SMALL).metrics['n'] == 20
    assert fit('popularity', ds, bar=False).metrics['n'] == 20

def repeats(last=5):
    "Everybody buys one thing again and again; `last` is what user 0 buys last"
    log = pd.DataFrame([(u, 100 + (last if (u, k) == (0, 5) else 5), 10*k + u, 1.) for u in range(8) for k in range(6)], columns=['uid', 'sku', 'when', 'stars'])
    return stall(interactions=log)

@pytest.mark.parametrize('model', ['popularity', 'sasrec'])
def test_a_log_of_repeats(model, tmp_path):
    more = SMALL if model == 'sasrec' else dict(bar=False)
    with pytest.raises(InputError, match='stall: .*no cases are left to judge; keep_seen=true'): fit(model, repeats(), tmp_path/'r', **more)
    assert not (tmp_path/'r').exists()                                             # said before anything is trained
    run = fit(model, repeats(), tmp_path/'s', keep_seen=True, **more)
    assert run.metrics['n'] == 8
    with pytest.raises(InputError, match='stall: .*no cases are left'): run.evaluate(keep_seen=False)

def test_one_new_item_is_enough(tmp_path):
    run = fit('popularity', repeats(last=6), tmp_path/'r', bar=False)              # validation is not judged, and has no cases
    assert run.metrics['n'] == 1 and run.metrics['not_counted'] == 7
    with pytest.raises(InputError, match='every valid case'): fit('sasrec', repeats(last=6), tmp_path/'s', **SMALL)
    with pytest.raises(InputError, match='every valid case'): run.evaluate('valid')

@quick
@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=8), min_size=1, max_size=6))
def test_the_look_agrees_with_the_judge(histories):
    log = pd.DataFrame([(u, 100 + i, k, 1.) for u, h in enumerate(histories) for k, i in enumerate(h)], columns=['uid', 'sku', 'when', 'stars'])
    from hettrans.data.sequences import sort_behaviours, split_behaviours
    split = split_behaviours(sort_behaviours(stall(interactions=log)))
    for part, back in (('test', 1), ('valid', 2)):
        left = any(h[-back] not in h[:-back] for h in histories)
        check_cases('x', split, part, True)
        if left: check_cases('x', split, part, False)
        else:
            with pytest.raises(InputError, match=f'x: in every {part} case'): check_cases('x', split, part, False)

# What a model by name is told of the protocol and of its neighbours

@pytest.mark.parametrize('own', [True, False])
def test_a_batch_reads_the_catalogue_with_or_without_its_own_pairs(own):
    run = fit('sasrec', stall(), **SMALL, neighbours=3, own_pairs=own)
    batch, key = epoch_batches(run, 0)[0](), run.encoder.tokens[0]
    told, want = asked_catalogue(run, batch), leave_own_out(run.catalogue, batch, key.name, key.rows, 5)
    assert torch.equal(told['neighbours.weight'], want['neighbours.weight']) != own and (told is run.catalogue) == own

@pytest.mark.parametrize('name,least', [('neighbours', 1), ('neighbours.weight', 1), ('.count', 0)])
@pytest.mark.parametrize('model', ['sasrec', 'heterrec'])
def test_a_feature_is_not_called_like_ours(model, name, least, tmp_path):
    schema = SCHEMA | dict(items=dict(key='sku', features={name: dict(kind='numerical')}))
    ds = stall(schema, items=frames()['items'].rename(columns=dict(price=name)))
    for n in (0, 3):
        if n < least: fit(model, ds, tmp_path/str(n), **SMALL, neighbours=n)
        else:
            with pytest.raises(InputError, match=f'items: a feature is called {name!r}, .*rename it'): fit(model, ds, tmp_path/str(n), **SMALL, neighbours=n)
            assert not any((tmp_path/str(n)).iterdir())
    fit('popularity', ds, bar=False)
    behaviours = SCHEMA | dict(interactions=SCHEMA['interactions'] | dict(features={name: dict(kind='numerical')}))
    run = fit(model, stall(behaviours, interactions=frames()['interactions'].rename(columns=dict(stars=name))), **SMALL, neighbours=3)   # of a behaviour it may be
    assert len(run.recommend('3', 5)) == 5

@pytest.mark.parametrize('keep', [True, False])
def test_the_graph_chooses_its_alpha_by_the_protocol(keep):
    rng = np.random.default_rng(0)
    log = pd.DataFrame([(u, 100 + i, 86400*(k + 1) + u, 1.) for u in range(20) for k, i in enumerate(rng.integers(0, 6, 12) + u)], columns=['uid', 'sku', 'when', 'stars'])
    items = frames()['items'].assign(title=[f'word{i//6} thing{i % 5}' for i in range(N)])
    run = fit('item-graph', stall(items=items, interactions=log), keep_seen=keep, common=.9, bar=False)
    chosen, value = run.model.alpha, {}
    for run.model.alpha in ALPHAS: value[run.model.alpha] = judge(run.scorer(run.split.valid), run.split.valid, run.split.log.item_j, keep, intervals=False)['ndcg@10']
    assert value[chosen] == max(value.values()) > min(value.values())

# What is not known while training does not reach it

def with_answers(n):
    "Twenty users of eight training behaviours and one for validation; their last one, item, stars and time, depends on `n`. Items 30 to 39 and their brands are only answers"
    rng = np.random.default_rng(5)
    items = frames()['items'].assign(brand=['a', 'b']*15 + ['c']*5 + ['d']*5)
    log = pd.DataFrame([(u, 100 + i, 86400*(k + 1) + u, float(k % 5)) for u in range(20) for k, i in enumerate(rng.permutation(30)[:9])], columns=['uid', 'sku', 'when', 'stars'])
    last = pd.DataFrame([(u, 100 + ((7*u + 11*n) % 30 if u % 2 else 30 + 5*n + u//2 % 5), 86400*(12 + 5*n) + u, 50. + 20*n) for u in range(20)], columns=log.columns)
    return stall(items=items, interactions=pd.concat([log, last]))

NOT_SEEN = dict(sasrec=('sasrec', {}), heterrec=('heterrec', dict(preset='paper', neighbours=3)), by_counts=('heterrec', dict(preset='paper', negatives='sampled', n_sampled=20, sample_power=1., logq=True, token_weight=0.)),
                in_batch=('heterrec', dict(preset='paper', logq=True)))

@pytest.mark.parametrize('kind', NOT_SEEN)
def test_the_answers_of_the_test_reach_nothing_that_is_trained(kind, tmp_path):
    name, fields = NOT_SEEN[kind]
    a, b = (fit(name, with_answers(n), tmp_path/str(n), keep_seen=True, **SMALL | dict(epochs=2), **fields) for n in (0, 1))
    told = lambda run: {f.name: f.read_bytes() for f in run.path.iterdir() if f.is_file() and f.name not in ('config.json', 'metrics.json', 'metrics.jsonl', 'training.json', 'last.safetensors')}
    lines = lambda run: [json.loads(l) | dict(seconds=0) for l in (run.path/'metrics.jsonl').read_text().splitlines()]
    assert 'weights.safetensors' in told(a) and len(told(a)) > 1 and told(a) == told(b)          # with the encoder's files
    assert lines(a) == lines(b) and len(lines(a)) == 2
    assert all(torch.equal(a.catalogue[k], b.catalogue[k]) for k in a.catalogue)
    assert a.catalogue['.count'].sum() == 20*8 and (a.catalogue['.count'][30:] == 0).all()
    assert (a.catalogue['brand'][:30] > UNKNOWN).all() and (a.catalogue['brand'][30:] == UNKNOWN).all()   # the brands of items that training never met
    drop = lambda m: {k: v for k, v in m.items() if k not in ('seconds', 'seed', 'split', 'params')}
    assert drop(a.metrics) != drop(b.metrics)

def test_the_answers_of_the_validation_choose_the_weights(tmp_path):
    run = fit('sasrec', with_answers(0), tmp_path/'r', **SMALL | dict(epochs=3))
    valid, test = run.evaluate('valid', intervals=False), run.evaluate('test', intervals=False)
    noted = [json.loads(l) for l in (run.path/'metrics.jsonl').read_text().splitlines()]
    assert valid['ndcg@10'] == max(l['ndcg@10'] for l in noted) and valid['ndcg@10'] != test['ndcg@10'] == run.metrics['ndcg@10']

# Items beyond the catalogue are read by their features

@pytest.mark.parametrize('feature, one, other', [('title', 'red hat', 'blue shoe'), ('brand', 'a', 'b'), ('price', 3., 45.), ('score', .1, .9)])
@pytest.mark.parametrize('name', ['sasrec', 'heterrec'])
def test_other_features_of_a_new_item_give_other_scores(name, feature, one, other):
    run, same = features_run(name), dict(sku='new', title='green hat', brand='a', price=15., score=.5)
    score = lambda row: run.recommend(['101', row], N, keep_seen=True).set_index('sku').score.sort_index()
    a, again, b = score(same | {feature: one}), score(same | {feature: one}), score(same | {feature: other})
    assert a.equals(again) and len(a) == N and (a - b).abs().max() > 1e-6
    alone = lambda value: run.recommend([{'sku': 'new', feature: value}], N, keep_seen=True).set_index('sku').score.sort_index()
    assert (alone(one) - alone(other)).abs().max() > 1e-6

@functools.cache
def features_run(name):
    titles = [f'{colour} {kind}' for colour in ('red', 'green', 'blue', 'white') for kind in ('hat', 'shoe')]*(N//8)
    return fit(name, stall(items=frames()['items'].assign(title=titles)), scratch()/f'features-{name}', **SMALL, **(dict(preset='paper') if name == 'heterrec' else {}))

# The loop: the best weights, patience, and the largest gradient

def go(out, values, loss_of=lambda model, x: model(x).square().sum(), **fields):
    "Train one number per epoch with the validation metrics `values`; the model, the progress and the weights after every epoch"
    model, left, after = torch.nn.Linear(3, 1), iter(values), []
    def validate(m): after.append({k: v.clone() for k, v in m.state_dict().items()}); return {'ndcg@10': next(left)}
    out.mkdir()
    return model, train(model, lambda epoch: [lambda: torch.ones(2, 3)]*2, loss_of, validate, TrainConfig(**dict(device='cpu', epochs=len(values), lr=.05, schedule='constant') | fields), out, bar=False), after

same_weights = lambda a, b: a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.parametrize('values, best', [([.1, .2, .3], 2), ([.3, .2, .1], 0), ([.1, .5, .2, .4], 1), ([.2, .2, .2], 0)])
def test_the_best_weights_end_in_the_model_and_in_the_file(values, best, tmp_path):
    model, p, after = go(tmp_path/'r', values)
    assert p.best_epoch == best and p.best == values[best] and len(after) == len(values)
    assert [same_weights(model.state_dict(), w) for w in after] == [k == best for k in range(len(values))]
    assert same_weights(read_tensors(tmp_path/'r/weights.safetensors')[0], after[best]) and not model.training

@pytest.mark.parametrize('patience, epochs', [(1, 2), (2, 5), (3, 6), (0, 8), (9, 8)])
def test_patience_counts_epochs_without_a_better_one(patience, epochs, tmp_path):
    values = [.3, .2, .4, .4, .1, .1, .1, .1]
    _, p, after = go(tmp_path/'r', values, patience=patience)
    assert p.epoch == len(after) == epochs == len((tmp_path/'r/metrics.jsonl').read_text().splitlines())

norm = lambda model: float(torch.stack([p.grad.norm() for p in model.parameters()]).norm())

def test_no_gradient_is_longer_than_clip(tmp_path):
    plain, loss_of = torch.nn.Linear(3, 1), lambda model, x: model(x).square().sum()
    state = {k: v.clone() for k, v in plain.state_dict().items()}
    acc, model, *opts = place(plain, TrainConfig(device='cpu'))
    def step(clip): model.load_state_dict(state); train_step(acc, model, opts, loss_of, torch.ones(2, 3), 0., clip); return norm(model)
    free = step(1e6)
    assert free > .1 and step(2*free) == pytest.approx(free) and step(free/3) == pytest.approx(free/3, rel=1e-4)
    assert norm(go(tmp_path/'r', [.1], clip=1e-3)[0]) == pytest.approx(1e-3, rel=1e-2) and norm(go(tmp_path/'s', [.1], clip=1e6)[0]) > .1
