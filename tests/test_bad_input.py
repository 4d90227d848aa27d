"What is wrong with the input gives one line that says where, exit code 2, and leaves nothing half-done behind"
import json, shutil
import numpy as np, pandas as pd, pytest
from hettrans.engine.loop import read_tensors, write_tensors
from tiny import RETRIEVAL, WORDS, copy, fails, ok, scratch, shop, trained, write

def toy():
    "Tables of 12 users and 8 items, sound until a test spoils them"
    rng = np.random.default_rng(0)
    items = pd.DataFrame(dict(item_id=[f'i{i}' for i in range(8)], title=[f'thing {i}' for i in range(8)], brand=['x', 'y']*4, price=np.arange(8.), image='[1, 0.5]'))
    log = pd.DataFrame([(f'u{u}', f'i{i}', 100*n + u, n, 'buy') for u in range(12) for n, i in enumerate(rng.permutation(8)[:5])], columns=['user_id', 'item_id', 'timestamp', 'position', 'action'])
    return dict(items=items, users=pd.DataFrame(dict(user_id=[f'u{u}' for u in range(12)], age='30')), interactions=log)

def folder_of(folder, tables, schema=RETRIEVAL): return write(folder, {'schema.toml': schema} | {f'{name}.csv': t for name, t in tables.items()})

def must_say(line, words, tmp_path):
    "The words, and not in the name of the folder, which pytest makes from the name of the case"
    line = line.replace(str(tmp_path), 'FOLDER').replace(str(scratch()), 'SCRATCH')
    for w in words: assert w in line, line

def put(table, row, column, value):
    "Spoil one cell"
    def spoil(t): t[table] = t[table].astype({column: object}); t[table].loc[row, column] = value
    return spoil

def change(table, f):
    def spoil(t): t[table] = f(t[table])
    return spoil

DATA = {   # how the tables are spoilt, and what the line must say
    'a missing column':             (change('items', lambda d: d.drop(columns='price')), ['items.csv', 'price']),
    'a column that changed its name': (change('interactions', lambda d: d.rename(columns={'timestamp': 'time'})), ['interactions.csv', 'timestamp']),
    'a key twice':                  (put('items', 3, 'item_id', 'i2'), ['items.csv', 'item_id', 'i2']),
    'a user twice':                 (put('users', 3, 'user_id', 'u2'), ['users.csv', 'user_id', 'u2']),
    'a number that is none':        (put('items', 3, 'price', 'cheap'), ['items.csv', 'price', 'cheap']),
    'an infinite number':           (put('items', 3, 'price', 'inf'), ['items.csv', 'price', 'inf']),
    'a time that is none':          (put('interactions', 3, 'timestamp', 'soon'), ['interactions.csv', 'timestamp', 'soon']),
    'an infinite time':             (put('interactions', 3, 'timestamp', 'inf'), ['interactions.csv', 'timestamp']),
    'a missing time':               (put('interactions', 3, 'timestamp', None), ['interactions.csv', 'timestamp']),
    'a missing key of an item':     (put('items', 3, 'item_id', None), ['items.csv', 'item_id']),
    'a missing key of a user':      (put('interactions', 3, 'user_id', None), ['interactions.csv', 'user_id']),
    'a missing item of a behaviour': (put('interactions', 3, 'item_id', None), ['interactions.csv', 'item_id']),
    'an item that is not in items': (put('interactions', 3, 'item_id', 'i99'), ['interactions.csv', 'item_id', 'i99']),
    'a user that is not in users':  (put('interactions', 3, 'user_id', 'u99'), ['interactions.csv', 'user_id', 'u99']),
    'a vector of another width':    (put('items', 3, 'image', '[1]'), ['items.csv', 'image']),
    'a vector that is none':        (put('items', 3, 'image', 'red'), ['items.csv', 'image', 'red']),
    'no items':                     (change('items', lambda d: d.iloc[:0]), ['items.csv', 'empty']),
    'no behaviours':                (change('interactions', lambda d: d.iloc[:0]), ['interactions.csv', 'empty']),
    'no users':                     (change('users', lambda d: d.iloc[:0]), ['users.csv', 'empty']),
    'no table':                     (lambda t: t.pop('items'), ['[items]', 'items.csv']),
    'all users with one behaviour': (change('interactions', lambda d: d.drop_duplicates('user_id')), ['leave-last-out']),
    'all users with two':           (change('interactions', lambda d: d.groupby('user_id').head(2)), ['leave-last-out', '0 test cases']),
}
SCHEMAS = {   # a text, what stands there instead, and what the line must say
    'an unknown kind':      ('kind = "numerical"', 'kind = "numeric"', ['price', "did you mean 'numerical'"]),
    'an unknown role':      ('time = ', 'when = ', ['[interactions]', 'time']),
    'an unknown table':     ('[users]', '[people]', ['people']),
    'broken toml':          ('[items]', '[items', ['schema.toml', 'toml']),
}

@pytest.mark.parametrize('kind', DATA)
def test_bad_tables(kind, tmp_path):
    spoil, says = DATA[kind]
    tables = toy(); spoil(tables)
    folder = folder_of(tmp_path/'data', tables)
    line = fails('train', 'sasrec', '--data', folder, '--out', tmp_path/'run', '--set', *WORDS)
    must_say(line, says, tmp_path)
    assert not (tmp_path/'run').exists() or not any((tmp_path/'run').iterdir())

@pytest.mark.parametrize('kind', SCHEMAS)
def test_bad_schemas(kind, tmp_path):
    old, new, says = SCHEMAS[kind]
    assert old in RETRIEVAL
    line = fails('train', 'popularity', '--data', folder_of(tmp_path/'data', toy(), RETRIEVAL.replace(old, new)), '--out', tmp_path/'run')
    must_say(line, says, tmp_path)

def test_the_toy_is_sound_until_it_is_spoilt(tmp_path):
    "Otherwise the tests above would pass for the wrong reason"
    folder_of(tmp_path/'data', toy())
    ok('data', 'check', tmp_path/'data'); ok('train', 'sasrec', '--data', tmp_path/'data', '--out', tmp_path/'run', '--set', *but(WORDS, ['text_dim=4']))

def but(words, more):
    "Words of `--set` without those that `more` says otherwise, and `more`"
    return [w for w in words if w.split('=')[0] not in {m.split('=')[0] for m in more}] + list(more)

SETTINGS = {   # words of `--set`, and what the line must say
    'no such field':            ('droput=0.5', ["did you mean 'dropout'"]),
    'no value':                 ('dropout', ['field=value']),
    'a word for a number':      ('lr=fast', ['lr', 'a number']),
    'half an epoch':            ('epochs=1.5', ['epochs', 'a whole number']),
    'no epochs':                ('epochs=0', ['epochs']),
    'an empty batch':           ('batch=0', ['batch']),
    'a rate below zero':        ('lr=-0.1', ['lr']),
    'a rate that is no number': ('lr=nan', ['lr']),
    'patience below zero':      ('patience=-1', ['patience']),
    'a seed below zero':        ('seed=-1', ['seed']),
    'an unknown schedule':      ('schedule=cosin', ['cosine']),
    'an unknown metric':        ('metric=auc@10', ['metric']),
    'maybe':                    ('keep_seen=maybe', ['true or false']),
    'an unknown split':         ('split=random', ['split', 'leave-last-out']),
    'a split of everything':    ('split=time:0.9', ['split']),
    'a split that is no number': ('split=time:all', ['split']),
    'unknown ties':             ('ties=alphabetical', ['ties', 'shuffle']),
    'an unknown device':        ('device=abacus', ['device', 'cpu']),
    'a device that is not there': ('device=cuda:99', ['device']),
    'heads that do not divide d': ('d=8 heads=3', ['heads']),
    'no heads':                 ('heads=0', ['heads']),
    'no width':                 ('d=0', ['d']),
    'a width below zero':       ('d=-8', ['d']),
    'a negative dropout':       ('dropout=-0.5', ['dropout']),
    'dropout of everything':    ('dropout=1.5', ['dropout']),
    'no history':               ('max_len=0', ['max_len']),
    'an unknown norm':          ('norm=past', ['norm']),
    'a temperature of zero':    ('tau=0', ['tau']),
    'pieces that do not divide pca': ('pca=16 pieces=5', ['pieces']),
    'an unknown way of numbers': ('numerical=quantiles', ['quantile']),
    'an unknown way of vectors': ('multimodal=raw_', ['raw']),
    'an unknown text model':    ('text_model=./nowhere', ['nowhere']),
    'no text':                  ('text_dim=0', ['text_dim']),
    'too many table rows':      ('multimodal=quantile pca=64 pieces=2 q=4', ['max_rows']),
}
REPEAT = {
    'a share above one':        ('decay=1.5', ['decay', '0 to 1']),
    'no share at all':          ('decay=nan', ['decay', '0 to 1']),
    'a gap below zero':         ('gap=-1', ['gap = -1']),
    'a half-life below zero':   ('half_life=-2', ['half_life = -2']),
    'no history to repeat':     ('max_len=0', ['max_len']),
    'a gap in days':            ('gap=0.5', ['gap', 'a whole number']),
}
HETERREC = {
    'an unknown mask':          ('mask=item_blok', ['mask', 'item_block']),
    'unknown negatives':        ('negatives=catalog', ['negatives', 'catalogue']),
    'an unknown fuse':          ('fuse=max', ['fuse']),
    'an unknown position':      ('position=learnt', ['position']),
    'no steps':                 ('steps=0', ['steps']),
    'no layers':                ('token_layers=-1', ['token_layers']),
    'no draws':                 ('negatives=sampled n_sampled=0', ['n_sampled']),
}

@pytest.mark.parametrize('kind', REPEAT)
def test_bad_settings_of_a_counted_model(kind, tmp_path):
    words, says = REPEAT[kind]
    must_say(fails('train', 'repeat-last', '--data', shop(), '--out', tmp_path/'run', '--set', words), says, tmp_path)
    assert not (tmp_path/'run').exists() or not any((tmp_path/'run').iterdir())

@pytest.mark.parametrize('model,kind', [*(('sasrec', k) for k in SETTINGS), *(('heterrec', k) for k in [*HETERREC, 'an unknown norm', 'heads that do not divide d', 'dropout of everything', 'a temperature of zero', 'no width', 'no history'])])
def test_bad_settings(model, kind, tmp_path):
    words, says = (SETTINGS | HETERREC)[kind]
    line = fails('train', model, '--data', shop(), '--out', tmp_path/'run', '--set', *but(WORDS, words.split()))
    must_say(line, says, tmp_path)
    assert not (tmp_path/'run').exists() or not any((tmp_path/'run').iterdir())       # nothing half-done

WORDS_OF = {   # whole commands; {run} is a sound run, {shop} a sound dataset, {new} a path where nothing is
    'an unknown command':       ('recomend {run}', ['recommend']),
    'no command':               ('', ['COMMAND']),
    'an unknown option':        ('evaluate {run} --jsn', ['--jsn']),
    'an unknown split':         ('evaluate {run} --split dev', ['test', 'valid']),
    'an unknown model':         ('train heterec --data {shop} --out {new}', ["did you mean 'heterrec'"]),
    'an unknown preset':        ('train sasrec --data {shop} --out {new} --preset smal', ["did you mean 'small'"]),
    'an unknown model, listed': ('models bert', ['bert']),
    'no such data':             ('train popularity --data {new} --out {new}', ['nothing-here']),
    'no epochs':                ('train sasrec --data {shop} --out {new} --epochs 0', ['epochs']),
    'epochs in words':          ('train sasrec --data {shop} --out {new} --epochs three', ['--epochs']),
    'a device that is none':    ('evaluate {run} --device gpu', ['device']),
    'no such run':              ('evaluate {new}', ['config.json']),
    'a dataset is no run':      ('evaluate {shop}', ['config.json']),
    'a run is no dataset':      ('train popularity --data {run} --out {new}', ['schema.toml']),
    'neither user nor history': ('recommend {run}', ['--user', '--history']),
    'both user and history':    ('recommend {run} --user u000001 --history x', ['not allowed']),
    'one field, two values':    ('train sasrec --data {shop} --out {new} --set d=16 d=32', ['--set d=32', 'd is 16 already', 'one field, one value']),
    'two values, two options':  ('train sasrec --data {shop} --out {new} --set d=16 --set heads=2 d=32', ['--set d=32', 'd is 16 already']),
    'two numbers of epochs':    ('train sasrec --data {shop} --out {new} --epochs 3 --set epochs=5', ['--set epochs=5', 'epochs is 3 already (--epochs)']),
    'two seeds':                ('train sasrec --data {shop} --out {new} --seed 3 --set seed=5', ['--set seed=5', 'seed is 3 already (--seed)']),
    'two devices':              ('train sasrec --data {shop} --out {new} --set device=cuda --device cpu', ['device is cpu already (--device)']),
    'two sizes of a shop':      ('data make marketplace {new} --users 60 --set users=70', ['--set users=70', 'users is 60 already (--users)']),
    'two seeds of a shop':      ('data make marketplace {new} --seed 1 --set seed=2', ['seed is 1 already (--seed)']),
    'two values, quickstart':   ('quickstart --users 60 --out {new} --epochs 2 --set epochs=1', ['epochs is 2 already (--epochs)']),
    'an unknown user':          ('recommend {run} --user nobody', ['nobody']),
    'no items asked for':       ('recommend {run} --user u000001 -k 0', ['k = 0']),
    'fewer than none':          ('recommend {run} --user u000001 -k -3', ['k = -3']),
    'a request in the past':    ('recommend {run} --user u000001 --at 5', ['at = 5', 'before the last']),
    'a request beyond time':    ('recommend {run} --user u000001 --at 99999999999999999999', ['at = ']),
    'no such history':          ('recommend {run} --history {new}', ['nothing-here']),
    'a folder as history':      ('recommend {run} --history {shop}', ['cannot be read']),
    'no such dataset folder':   ('data check {new}', ['problem']),
    'an unknown built-in':      ('data make supermarket {new}', ['marketplace']),
    'an unknown dial':          ('data make marketplace {new} --set user=7', ['users']),
    'no users':                 ('data make marketplace {new} --users 0', ['a user']),
    'a shop without items':     ('data make marketplace {new} --items 0', ['items']),
    'an unknown importer':      ('data import netflix {shop} {new}', ['netflix']),
    'an import of nothing':     ('data import recbole {new} {new}', ['no such file']),
    'an import of other files': ('data import movielens {shop} {new}', ['ratings.dat']),
    'a quickstart for nobody':  ('quickstart --users 0 --out {new}', ['a user']),
}

@pytest.mark.parametrize('kind', WORDS_OF)
def test_bad_commands(kind, tmp_path):
    words, says = WORDS_OF[kind]
    line = fails(*words.format(run=trained(), shop=shop(), new=tmp_path/'nothing-here').split())
    must_say(line, says, tmp_path)
    assert not (tmp_path/'nothing-here').exists() or not any(p.is_file() for p in (tmp_path/'nothing-here').rglob('*'))

HISTORIES = {   # bytes of a file, and what the line must say
    'nothing':                      (b'', ['empty']),
    'blank lines':                  (b'\n \n', ['empty']),
    'an empty list':                (b'[]', ['empty']),
    'a header only':                (b'item_id,timestamp\n', ['empty']),
    'bytes that are no text':       (b'\x89PNG\r\n\x1a\n\xff\xfe', ['not UTF-8']),
    'zero bytes':                   (b'i000001\x00\x00', ['zero byte']),
    'an unknown item':              (b'i000001\nnonsense\n', ['row 2', 'nonsense']),
    'an unknown item, no features': (b'item_id,timestamp\nnonsense,5\n', ['row 1', 'no features']),
    'an unknown item, empty features': (b'item_id,brand,price\nnonsense,,\n', ['row 1', 'no features']),
    'a price that is none':         (b'item_id,brand,price\nnew,Bale,cheap\n', ['price', 'cheap']),
    'an image of another width':    (b'[{"item_id": "new", "image": [1, 2]}]', ['image', 'width']),
    'an image that is none':        (b'item_id,image\nnew,red\n', ['image']),
    'no item column':               (b'item,timestamp\ni000001,5\n', ['item_id']),
    'a missing item':               (b'item_id,timestamp\ni000001,5\n,6\n', ['row 2', 'item_id']),
    'times out of order':           (b'item_id,timestamp\ni000001,500\ni000002,400\n', ['row 2', 'earlier']),
    'a time that is none':          (b'item_id,timestamp\ni000001,500\ni000002,soon\n', ['row 2', 'timestamp', 'soon']),
    'an infinite time':             (b'item_id,timestamp\ni000001,inf\n', ['row 1', 'timestamp']),
    'a time beyond counting':       (b'item_id,timestamp\ni000001,1e300\n', ['row 1', 'timestamp']),
    'a missing time':               (b'item_id,timestamp\ni000001,5\ni000002,\n', ['row 2', 'timestamp']),
    'half a list':                  (b'["i000001", ', ['JSON']),
    'half a row':                   (b'{"item_id": "i000001"\n', ['JSON']),
    'rows of uneven length':        (b'item_id,timestamp\ni000001,5,6,7\n\ni000002,1,2,3,4,5\n', ['CSV']),
}

@pytest.mark.parametrize('kind', HISTORIES)
def test_bad_histories(kind, tmp_path):
    text, says = HISTORIES[kind]
    (tmp_path/'history').write_bytes(text)
    line = fails('recommend', trained(), '--history', tmp_path/'history')
    must_say(line, says, tmp_path)

COUNTED = {'popularity': 'popularity.safetensors', 'repeat-last': 'popularity.safetensors', 'item-graph': 'item_graph.safetensors'}   # and the file of what was counted

@pytest.mark.parametrize('model', COUNTED)
def test_counted_models_read_no_features(model, tmp_path):
    (tmp_path/'h.csv').write_text('item_id,brand\nnew,Bale\n')
    must_say(fails('recommend', trained(model), '--history', tmp_path/'h.csv'), ['row 1', 'no features'], tmp_path)

@pytest.mark.parametrize('model', COUNTED)
def test_bad_runs_of_counted_models(model, tmp_path):
    for how, spoil in dict(cut=lambda f: f.write_bytes(f.read_bytes()[:-1]), empty=lambda f: f.write_bytes(b''), none=lambda f: f.unlink(), other=lambda f: write_tensors(f, {}, {})).items():
        run = copy(trained(model), tmp_path/how); spoil(run/COUNTED[model])
        must_say(fails('evaluate', run), [COUNTED[model]], tmp_path)

def edit_json(name, f):
    def spoil(run): d = json.loads((run/name).read_text()); d = f(d) or d; (run/name).write_text(json.dumps(d))
    return spoil

def cut(name, n):
    def spoil(run): b = (run/name).read_bytes(); (run/name).write_bytes(b[:n])
    return spoil

def other_width(run):
    t, meta = read_tensors(run/'weights.safetensors')
    write_tensors(run/'weights.safetensors', {k: v.repeat_interleave(2, -1) if v.dim() else v for k, v in t.items()}, meta)

def fewer_tensors(run):
    t, meta = read_tensors(run/'weights.safetensors'); t.pop(sorted(t)[0]); write_tensors(run/'weights.safetensors', t, meta)

RUNS = {   # how a run folder is spoilt, and what the line must say
    'another format':           (edit_json('config.json', lambda d: d.update(format=9)), ['format 9']),
    'another version':          (edit_json('config.json', lambda d: d.update(format=2, hettrans='9.9')), ['9.9']),
    'a field of another version': (edit_json('config.json', lambda d: d['config']['model'].update(wings=2)), ['wings']),
    'a field of another kind':  (edit_json('config.json', lambda d: d['config']['model'].update(d='wide')), ['d = ']),
    'a model of another version': (edit_json('config.json', lambda d: d.update(name='homer2')), ['homer2']),
    'settings that are missing': (edit_json('config.json', lambda d: {'format': 1}), ['config.json', 'damaged']),
    'config.json is a list':    (edit_json('config.json', lambda d: [1]), ['config.json']),
    'config.json is cut':       (cut('config.json', 50), ['config.json', 'JSON']),
    'no config.json':           (lambda run: (run/'config.json').unlink(), ['config.json']),
    'weights that are cut':     (cut('weights.safetensors', 500), ['weights.safetensors']),
    'the last byte is missing': (cut('weights.safetensors', -1), ['weights.safetensors']),
    'empty weights':            (cut('weights.safetensors', 0), ['weights.safetensors']),
    'weights of another width': (other_width, ['weights.safetensors', 'does not fit']),
    'a weight is missing':      (fewer_tensors, ['weights.safetensors', 'does not fit']),
    'no weights':               (lambda run: (run/'weights.safetensors').unlink(), ['weights.safetensors']),
    'no encoder.json':          (lambda run: (run/'encoder.json').unlink(), ['encoder.json']),
    'encoder.json is cut':      (cut('encoder.json', 40), ['encoder.json']),
    'no encoder.safetensors':   (lambda run: (run/'encoder.safetensors').unlink(), ['encoder.safetensors']),
    'encoder.safetensors is cut': (cut('encoder.safetensors', -8), ['encoder.safetensors']),
    'metrics.json is cut':      (cut('metrics.json', 30), ['metrics.json']),
    'metrics.json is a list':   (edit_json('metrics.json', lambda d: [1]), ['metrics.json']),
    'no data':                  (lambda run: shutil.rmtree(run/'data'), ['data']),
    'a table is missing':       (lambda run: (run/'data/items.parquet').unlink(), ['items']),
    'a table is cut':           (cut('data/interactions.parquet', 400), ['interactions.parquet']),
}

@pytest.mark.parametrize('kind', RUNS)
def test_bad_runs(kind, tmp_path):
    spoil, says = RUNS[kind]
    run = copy(trained(), tmp_path/'run'); spoil(run)
    line = fails('evaluate', run)
    must_say(line, says, tmp_path)

RESUMES = {   # how a run is spoilt before it is resumed, more settings, and what the line must say
    'another setting':          (lambda run: None, ['d=16'], ['d was 8 and is now 16']),
    'another seed':             (lambda run: None, ['seed=5'], ['seed was 0 and is now 5']),
    'a checkpoint that is cut': (cut('last.safetensors', 900), [], ['last.safetensors']),
    'a checkpoint of something else': (lambda run: shutil.copy(run/'weights.safetensors', run/'last.safetensors'), [], ['not a checkpoint']),
    'an epoch log of something else': (lambda run: (run/'metrics.jsonl').write_text('hello\n'), [], ['metrics.jsonl']),
}

@pytest.mark.parametrize('kind', RESUMES)
def test_bad_resumes(kind, tmp_path):
    spoil, more, says = RESUMES[kind]
    run = copy(trained(), tmp_path/'run'); spoil(run)
    line = fails('train', 'sasrec', '--data', shop(), '--out', run, '--resume', '--set', *but(WORDS, more))
    must_say(line, says, tmp_path)

def test_bad_out_folders(tmp_path):
    train = ['train', 'popularity', '--data', shop(), '--out']
    (tmp_path/'file').write_text('mine')
    assert 'is not a folder' in fails(*train, tmp_path/'file')
    assert 'file' in fails(*train, tmp_path/'file/below') and (tmp_path/'file').read_text() == 'mine'
    (tmp_path/'full').mkdir(); (tmp_path/'full/thesis.txt').write_text('mine')
    for more in ([], ['--resume']): assert 'neither empty nor a run' in fails(*train, tmp_path/'full', *more)
    run = copy(trained(), tmp_path/'run')
    before = {p: p.read_bytes() for p in run.rglob('*') if p.is_file()}
    assert 'holds a run already' in fails(*train, run) and 'holds a run of sasrec' in fails(*train, run, '--resume')
    assert {p: p.read_bytes() for p in run.rglob('*') if p.is_file()} == before
    assert 'file' in fails('data', 'make', 'marketplace', tmp_path/'file', '--users', 60, '--items', 220)

def test_there_are_many_kinds():
    assert len(DATA) + len(SCHEMAS) + len(SETTINGS) + len(REPEAT) + len(HETERREC) + len(WORDS_OF) + len(HISTORIES) + len(RUNS) + len(RESUMES) >= 100
