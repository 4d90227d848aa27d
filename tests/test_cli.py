"Every command of the command line does what its help says"
import io, json, os, re, subprocess, sys
import numpy as np, pandas as pd, pytest
from hettrans.cli import main, parser
from hettrans.data.dataset import check_dataset, open_dataset
from hettrans.engine.metrics import AT
from hettrans.engine.run import fit, load_run
from tiny import TINY, WORDS, cli, copy, fails, ok, scratch, shop, trained

COMMANDS = [[], ['quickstart'], ['data'], ['data', 'ls'], ['data', 'check'], ['data', 'make'], ['data', 'import'], ['train'], ['evaluate'], ['recommend'], ['score'], ['models']]

@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
def test_help_teaches(command):
    text = ok(*command, '--help')
    assert text.startswith('usage: hettrans ' + ' '.join(command))
    after = text[text.index('--help'):]
    assert len(after.split()) > 15, text    # more than a list of flags

def test_help_names_every_command():
    listed = lambda *words: re.findall(r'^    (\w+)', ok(*words, '--help').split('positional arguments:')[1].split('options:')[0], re.M)
    assert listed() == list(dict.fromkeys(c[0] for c in COMMANDS if c))
    assert listed('data') == [c[1] for c in COMMANDS if len(c) == 2]

def examples():
    "Every example that a help text gives"
    for command in COMMANDS:
        for line in ok(*command, '--help').splitlines():
            line = line.strip()
            if line.startswith('hettrans '): yield line.split('  ')[0].split()[1:]
            elif '| hettrans ' in line: yield line.split('| hettrans ')[1].split()

def test_examples_of_the_help_are_words_that_the_parser_knows():
    found = list(examples())
    assert len(found) > 10
    for words in found: parser().parse_args(words)

@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
def test_texts_of_the_help_begin_at_the_edge(command):
    "Paragraphs at the left edge, examples two further"
    after = ok(*command, '--help').split('\n\n')[-1]
    assert all(re.match(r'(  )?\S', l) for l in after.splitlines()), after
    assert all(l.startswith('  ') for l in after.splitlines() if 'hettrans recommend' in l)

def test_an_example_to_paste():
    assert "\n  printf 'i000012\\ni000044\\n' | hettrans recommend runs/first --history -\n" in ok('recommend', '--help')

def test_version():
    import hettrans
    assert ok('--version') == f'hettrans {hettrans.__version__}\n'

def test_as_a_process():
    "The installed entry and its exit codes, with nothing on standard error that does not belong there"
    def run(*words, **kw): return subprocess.run([sys.executable, '-m', 'hettrans.cli', *map(str, words)], capture_output=True, text=True, env=os.environ | {'OMP_NUM_THREADS': '1'}, **kw)
    r = run('train', 'sasrec', '--epochs', 'three')
    assert r.returncode == 2 and r.stderr.startswith('hettrans: argument --epochs') and r.stderr.count('\n') == 1 and not r.stdout
    r = run('train', 'sasrec', '--data', shop(), '--out', scratch()/'process', '--epochs', 1, '--set', 'd=8', 'text_dim=8')
    assert (r.returncode, r.stderr) == (0, ''), r.stderr                  # no bar where nobody watches
    assert r.stdout.startswith('epoch   1  loss') and '\r' not in r.stdout

def test_output_into_a_closed_pipe():
    read, write = os.pipe(); os.close(read)                                # as when `head` has left
    r = subprocess.run([sys.executable, '-m', 'hettrans.cli', 'data', 'ls'], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (r.returncode, r.stderr) == (0, '')

def test_stopped_by_hand(monkeypatch):
    import hettrans.engine.run as run
    sound = trained()
    def stop(*a, **kw): raise KeyboardInterrupt
    monkeypatch.setattr(run, 'fit', stop); monkeypatch.setattr(run, 'load_run', stop)
    code, _, err = cli('train', 'sasrec', '--data', shop(), '--out', scratch()/'never')
    assert (code, err) == (130, 'hettrans: stopped; the same command with --resume goes on\n')
    assert cli('evaluate', sound)[::2] == (130, 'hettrans: stopped\n')

QUICK = ['quickstart', '--users', 70, '--items', 220, '--requests', 5, '--epochs', 1, '--set', 'd=8', 'text_dim=8', 'heads=2']

def table_of(text, intervals): return {l.split('  ')[0]: l.split('  ') for l in text.splitlines() if l.count('[') == intervals}
def told(text): return [l for l in text.splitlines() if not l.startswith('epoch') and 'training into' not in l and 'read from' not in l]

def test_quickstart(tmp_path):
    text = ok(*QUICK, '--out', tmp_path/'q')
    assert '70 users, 220 items' in text and '70 users, 3' in text            # 5 requests of a user
    table, ranks = table_of(text, 4), table_of(text, 3)
    assert list(table) == ['popularity', 'item-graph', 'sasrec', 'heterrec', 'oracle']
    assert list(ranks) == ['click rate', 'pointwise-homer', 'homer', 'oracle']
    first = lambda cells: float([c for c in cells if c][1].split()[0])
    for t in (table, ranks): assert max(t, key=lambda k: first(t[k])) == 'oracle'      # recall@10 and auc
    assert text.count('HeterRec recommends:') == 3 and text.count('  5. ') == 4 and 'price ' in text
    page = text[text.index('\nRequest r'):]
    assert page.count('p(click): ') == 8 and page.count('truth ') == 8 and ', clicked)' in page
    again = ok(*QUICK, '--out', tmp_path/'q')                                 # trains nothing: reads the six runs
    assert again.count('read from') == 6 and 'epoch' not in again
    assert told(again) == told(text)
    half = ok(*QUICK, '--out', tmp_path/'q', '--only', 'homer')
    assert half.count('read from') == 2 and 'HeterRec recommends' not in half and table_of(half, 3) == ranks
    half = ok(*QUICK, '--out', tmp_path/'q', '--only', 'heterrec')
    assert half.count('read from') == 4 and 'Request r' not in half and table_of(half, 4) == table
    assert 'begun on other data' in fails(*QUICK, '--out', tmp_path/'q', '--seed', 1, '--only', 'homer')
    assert "did you mean 'text_dim'" in fails('quickstart', '--set', 'txt_dim=8', '--out', tmp_path/'n', '--users', 70, '--items', 220)

def test_click_rate_and_truth_by_hand(tmp_path):
    "The anchors of the ranking table, from the tables of the data"
    from hettrans.cli import click_rate, judge_guess, true_clicks
    ds = open_dataset('marketplace', users=40, items=200, requests=5, candidates=12, smallest=10, largest=16)
    run = fit('homer', ds, tmp_path/'r', bar=False, **{k: v for k, v in TINY.items() if k != 'epochs'}, epochs=1, d_embed=8)
    log, c = run.split.log, ds.candidates
    old = c[c.request_id.isin(ds.requests.request_id.iloc[run.split.train]) & c.exposed]
    mean, by = old.clicked.mean(), old.groupby('item_id').clicked.agg(['sum', 'size'])
    rows = np.arange(0, len(log.item_n), 37)
    want = [(by['sum'].get(i, 0) + 10*mean)/(by['size'].get(i, 0) + 10) for i in c.item_id.iloc[log.row_n[rows]]]
    np.testing.assert_allclose(click_rate(run)(rows), want)
    np.testing.assert_allclose(true_clicks(ds, run)(rows), ds.truth.click_probabilities()[log.row_n[rows]])
    m, known = judge_guess(run, true_clicks(ds, run)), judge_guess(run, lambda n: (log.clicked_n[n] == 1)*1.)
    assert known['auc'] == 1 and known['logloss'] < 1e-6 and m['n'] == run.metrics['n'] and m['auc'] > run.metrics['auc']

def test_a_ranking_model_on_the_built_in_shop(monkeypatch):
    import hettrans.data.dataset as dataset
    from hettrans.cli import REQUESTS, open_for
    monkeypatch.setattr(dataset, 'open_dataset', lambda name, **dials: (name, dials))
    assert open_for('homer', 'marketplace') == ('marketplace', dict(requests=REQUESTS)) and open_for('pointwise-homer', 'shop') == ('shop', {})
    assert open_for('heterrec', 'marketplace') == ('marketplace', {})

def test_threads_leave_room(monkeypatch):
    import torch
    from hettrans.cli import use_threads
    now = torch.get_num_threads()
    try:
        monkeypatch.delenv('OMP_NUM_THREADS', raising=False); monkeypatch.setattr(os, 'sched_getaffinity', lambda p: set(range(16)), raising=False); monkeypatch.setattr(torch, 'get_num_threads', lambda: 8)
        chosen = []; monkeypatch.setattr(torch, 'set_num_threads', chosen.append)
        for load in (0, 13.2, 15, 40): monkeypatch.setattr(os, 'getloadavg', lambda: (load, 0, 0), raising=False); use_threads()
        assert chosen == [4, 3, 1, 1]
        monkeypatch.setenv('OMP_NUM_THREADS', '2'); use_threads(); assert len(chosen) == 4
    finally: monkeypatch.undo(); assert torch.get_num_threads() == now

def test_data_ls():
    text = ok('data', 'ls')
    for name in ('marketplace', 'amazon', 'movielens', 'recbole', 'online-retail'): assert name in text

def test_data_make_and_check(tmp_path):
    text = ok('data', 'make', 'marketplace', tmp_path/'a', '--users', 60, '--items', 220, '--seed', 3, '--set', 'behaviours=8')
    assert '60 users, 220 items' in text
    ok('data', 'make', 'marketplace', tmp_path/'b', '--users', 60, '--items', 220, '--seed', 3, '--set', 'behaviours=8')
    a, b = open_dataset(tmp_path/'a'), open_dataset(tmp_path/'b')
    pd.testing.assert_frame_equal(a.interactions, b.interactions)          # same seed, same shop
    assert a.requests is None and (tmp_path/'a/truth.toml').read_text().count('[') == 0
    text = ok('data', 'make', 'marketplace', tmp_path/'c', '--users', 60, '--items', 220, '--seed', 3, '--requests', 4, '--set', 'behaviours=8', 'candidates=12', 'smallest=10')
    c, d = open_dataset(tmp_path/'c'), open_dataset('marketplace', users=60, items=220, seed=3, behaviours=8, requests=4, candidates=12, smallest=10)
    assert f'{len(c.requests):,} requests, {len(c.candidates):,} candidates' in text and len(c.requests) > 150
    for t in d.tables: pd.testing.assert_frame_equal(c.tables[t], d.tables[t])
    pd.testing.assert_frame_equal(c.interactions, a.interactions); pd.testing.assert_frame_equal(c.truth.truth, d.truth.truth)
    assert 'only with requests' in fails('data', 'make', 'marketplace', tmp_path/'d', '--set', 'candidates=12') and 'must be 3 to' in fails('data', 'make', 'marketplace', tmp_path/'d', '--requests', 2)
    text = ok('data', 'check', tmp_path/'a')
    assert '220 items, 60 users' in text and 'sound dataset folder' in text and 'price' in text
    log = pd.read_parquet(tmp_path/'a/interactions.parquet')
    log.assign(item_id=log.item_id.where(log.index > 1, 'nothing'), timestamp=log.timestamp.where(log.index != 5)).to_parquet(tmp_path/'a/interactions.parquet')
    code, out, err = cli('data', 'check', tmp_path/'a')
    assert code == 2 and err == f"hettrans: {tmp_path/'a'}: {len(out.splitlines())} problems\n"
    assert out.splitlines() == check_dataset(tmp_path/'a') and all('interactions' in l for l in out.splitlines())

def recbole(folder):
    "RecBole atomic files of 40 users, 12 items"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = [(f'u{u}', f'i{i}', 3 + u % 3, 1000*n + u) for u in range(40) for n, i in enumerate(rng.permutation(12)[:6])]
    (folder/'toy.inter').write_text('user_id:token\titem_id:token\trating:float\ttimestamp:float\n' + ''.join('\t'.join(map(str, r)) + '\n' for r in rows))
    (folder/'toy.item').write_text('item_id:token\ttitle:token_seq\tprice:float\n' + ''.join(f'i{i}\tthing number {i}\t{i}.5\n' for i in range(12)))
    return folder

def test_data_import_then_train(tmp_path):
    src = recbole(tmp_path/'src')
    before = {p.name: p.read_bytes() for p in src.iterdir()}
    assert 'written' in ok('data', 'import', 'recbole', src, tmp_path/'toy')
    assert {p.name: p.read_bytes() for p in src.iterdir()} == before        # the source is never changed
    ds = open_dataset(tmp_path/'toy')
    assert (len(ds.items), len(ds.interactions)) == (12, 240)
    ok('train', 'popularity', '--data', tmp_path/'toy', '--out', tmp_path/'run')
    assert json.loads((tmp_path/'run/metrics.json').read_text())['n'] == 40

@pytest.mark.parametrize('model', ['popularity', 'repeat-last', 'item-graph', 'sasrec', 'heterrec'])
def test_train_evaluate_recommend(model):
    run = trained(model)
    m = json.loads(ok('evaluate', run, '--json'))
    names = [f'{k}@{n}' for k in ('recall', 'ndcg') for n in AT]
    assert tuple(AT) == (5, 10, 20, 50, 100, 200)
    for k in names: assert 0 <= m[f'{k}_lo'] <= m[k] <= m[f'{k}_hi'] <= 1, k
    assert all(m[f'recall@{a}'] <= m[f'recall@{b}'] for a, b in zip(AT, AT[1:]))
    assert {'n', 'seed', 'split', 'seconds', 'params'} <= set(m) and m['split'] == 'test' and m['seed'] == 0
    assert (m['params'] > 0) == (model in ('sasrec', 'heterrec'))
    saved = json.loads((run/'metrics.json').read_text())
    assert {k: v for k, v in saved.items() if k != 'seconds'} == {k: v for k, v in m.items() if k != 'seconds'}
    v = json.loads(ok('evaluate', run, '--split', 'valid', '--json'))
    assert v['split'] == 'valid' and {k: v[k] for k in names} != {k: m[k] for k in names}
    text = ok('evaluate', run)
    assert text.splitlines()[1].startswith(f'{model}  {m["recall@10"]:.4f} [') and f"{m['n']:,} cases" in text
    user, ds = load_run(run).split.log.user_keys[0], open_dataset(shop())
    best = json.loads(ok('recommend', run, '--user', user, '-k', 7, '--json'))
    assert [b['rank'] for b in best] == list(range(1, 8)) and [b['score'] for b in best] == sorted((b['score'] for b in best), reverse=True)
    seen = set(ds.interactions[ds.interactions.user_id == user].item_id)
    assert not seen & {b['item_id'] for b in best} and {'title', 'price'} <= set(best[0]) and 'image' not in best[0]
    text = ok('recommend', run, '--user', user, '-k', 2)
    assert all(b['item_id'] in text and b['title'] in text for b in best[:2]) and '  3. ' not in text
    kept = json.loads(ok('recommend', run, '--user', user, '-k', 240, '--keep-seen', '--json'))
    assert seen <= {b['item_id'] for b in kept} and len(kept) > len(json.loads(ok('recommend', run, '--user', user, '-k', 240, '--json')))

def test_keep_seen_counts_what_was_seen():
    a, b = (json.loads(ok('evaluate', trained(), '--json', *more)) for more in ([], ['--keep-seen']))
    assert b['n'] >= a['n'] and {k: a[k] for k in a if k != 'seconds'} != {k: b[k] for k in b if k != 'seconds'}

def asked(file, *more): return [b['item_id'] for b in json.loads(ok('recommend', trained('heterrec'), '--history', file, '-k', 9, '--json', *more))]

def piped(data:bytes): return io.TextIOWrapper(io.BytesIO(data), encoding='ascii', errors='surrogateescape')     # standard input, as Python opens it

@pytest.mark.parametrize('data', [b'\xff', b'item_id\ni000001\n\xe9', '["é"]'.encode('latin-1'), 'i000001'.encode('utf-16')])
def test_piped_bytes_that_are_no_text(data, monkeypatch, tmp_path):
    (tmp_path/'h').write_bytes(data)
    monkeypatch.setattr(sys, 'stdin', piped(data))
    for path in ('-', tmp_path/'h'): assert f'{path}: not UTF-8 text' in fails('recommend', trained(), '--history', path)

@pytest.mark.parametrize('odd', [['NaN'], ['Infinity'], ['null'], ['-Infinity', 'NaN']])
def test_a_vector_with_a_gap(odd, tmp_path):
    "Is what a dataset folder may not hold either"
    width = len(open_dataset(shop()).items.image.iloc[0])
    gap = f"[{', '.join(['1']*(width - len(odd)) + odd)}]"
    (tmp_path/'h.json').write_text(f'[{{"item_id": "i000001"}}, {{"item_id": "new", "brand": "Bale", "image": {gap}}}]')
    (tmp_path/'h.csv').write_text(f'item_id,brand,image\ni000001,,\nnew,Bale,"{gap}"\n')
    for name in ('h.json', 'h.csv'): assert f"{tmp_path/name}, row 2, column 'image': vector with a missing or infinite number (1 row)" in fails('recommend', trained('heterrec'), '--history', tmp_path/name)

def test_a_history_in_every_spelling(tmp_path, monkeypatch):
    "The same behaviours get the same answer, from whatever kind of file"
    ds = open_dataset(shop())
    log = ds.interactions[ds.interactions.user_id == ds.interactions.user_id.iloc[0]].sort_values('timestamp', kind='stable')
    rows = log[['item_id', 'timestamp', 'action']]
    user = [b['item_id'] for b in json.loads(ok('recommend', trained('heterrec'), '--user', log.user_id.iloc[0], '-k', 9, '--json'))]
    rows.to_csv(tmp_path/'h.csv', index=False)
    (tmp_path/'bom.csv').write_bytes(b'\xef\xbb\xbf' + rows.to_csv(index=False).replace('\n', '\r\n').encode())
    rows.to_json(tmp_path/'h.json', orient='records')
    rows.to_json(tmp_path/'h.jsonl', orient='records', lines=True)
    rows.assign(timestamp=pd.to_datetime(rows.timestamp, unit='s', utc=True).dt.strftime('%Y-%m-%dT%H:%M:%SZ')).to_csv(tmp_path/'dates.csv', index=False)
    for name in ('h.csv', 'bom.csv', 'h.json', 'h.jsonl', 'dates.csv'): assert asked(tmp_path/name) == user, name
    monkeypatch.setattr(sys, 'stdin', io.StringIO((tmp_path/'h.csv').read_text()))
    assert asked('-') == user
    for name in ('h.csv', 'bom.csv', 'h.json'): monkeypatch.setattr(sys, 'stdin', piped((tmp_path/name).read_bytes())); assert asked('-') == user, name
    plain = '\n'.join(rows.item_id)
    (tmp_path/'plain').write_text(plain + '\n\n'); (tmp_path/'one.csv').write_text('item_id\n' + plain); (tmp_path/'ids.json').write_text(json.dumps(list(rows.item_id)))
    assert asked(tmp_path/'plain') == asked(tmp_path/'one.csv') == asked(tmp_path/'ids.json')

def test_a_new_item_is_read_by_its_features(tmp_path):
    "CSV and JSON rows of an item that the catalogue lacks, numbers and vectors included"
    ds = open_dataset(shop())
    row = ds.items.iloc[[5]].assign(item_id='brand new')
    features = list(ds.schema.tables['items'].features)
    record = {f: (np.asarray(v).tolist() if isinstance(v := row[f].iloc[0], (np.ndarray, list)) else v) for f in ['item_id', *features]}
    (tmp_path/'new.json').write_text(json.dumps([record], default=float))
    pd.DataFrame([{k: json.dumps(v) if isinstance(v, list) else v for k, v in record.items()}]).to_csv(tmp_path/'new.csv', index=False)
    a, b = asked(tmp_path/'new.json'), asked(tmp_path/'new.csv')
    assert a == b and len(a) == 9
    (tmp_path/'poor.csv').write_text(f"item_id,brand\nbrand new,{record['brand']}\n")
    assert len(asked(tmp_path/'poor.csv')) == 9

def test_the_time_of_the_request(tmp_path):
    "Is read by a model with a time-gap bias, if the protocol says that it is known"
    user = load_run(trained('heterrec')).split.log.user_keys[0]
    last = int(open_dataset(shop()).interactions.query('user_id == @user').timestamp.max())
    def scores(run, *at): return {b['item_id']: b['score'] for b in json.loads(ok('recommend', run, '--user', user, '-k', 240, '--json', *at))}
    for name, time_gap, known in (('reads', 'yes', 'known'), ('no-bias', 'no', 'known'), ('not-told', 'yes', 'unknown')):
        run = tmp_path/name
        ok('train', 'heterrec', '--data', shop(), '--out', run, '--epochs', 1, '--set', *[w for w in WORDS if 'epochs' not in w], f'time_gap={time_gap}', f'request_time={known}')
        soon, late = scores(run, '--at', last + 60), scores(run, '--at', last + 40*86400)
        assert soon.keys() == late.keys() and (soon != late) == (name == 'reads'), name
        assert scores(run, '--at', last + 1) == scores(run), name          # the second after the last behaviour, where nothing is said

def test_models_lists_every_field():
    import dataclasses
    from hettrans.engine.registry import MODELS, owners
    text = ok('models')
    for name in MODELS: assert f'\n{name} ' in '\n' + text
    for name, e in MODELS.items():
        text = ok('models', name)
        for part, cls in owners(name).items():
            for f in dataclasses.fields(cls): assert (f'\n  {f.name} ' in text) == (bool(e.loss) or part in ('model', 'protocol')), (name, f.name)
        assert ('preset paper: ' in text) == bool(e.loss)
    assert 'peak learning rate' in ok('models', 'heterrec')                # the meaning, not only the name

def test_set_reaches_the_configuration(tmp_path):
    ok('train', 'sasrec', '--data', shop(), '--out', tmp_path/'r', '--epochs', 1, '--seed', 7, '--preset', 'paper', '--set', 'd=8', 'text_dim=8', 'ties=shuffle', 'content=yes')
    c = json.loads((tmp_path/'r/config.json').read_text())['config']
    assert (c['train']['epochs'], c['train']['seed'], c['model']['d'], c['protocol']['ties'], c['model']['content'], c['model']['normalise']) == (1, 7, 8, 'shuffle', True, False)
    assert json.loads(ok('evaluate', tmp_path/'r', '--json'))['seed'] == 7

def test_words_add_up(tmp_path):
    "A second --set is read like the first; the same said twice is said once"
    ok('train', 'sasrec', '--data', shop(), '--out', tmp_path/'r', '--epochs', 1, '--set', 'd=8', 'text_dim=8', '--set', 'heads=1', 'epochs=1', '--set', 'd=8.0')
    c = json.loads((tmp_path/'r/config.json').read_text())['config']
    assert (c['model']['d'], c['model']['heads'], c['encode']['text_dim'], c['train']['epochs'], c['train']['seed']) == (8, 1, 8, 1, 0)
    make = lambda name, *words: ok('data', 'make', 'marketplace', tmp_path/name, '--users', 60, *words)
    make('a', '--set', 'items=220', '--set', 'behaviours=8', 'seed=3', '--set', 'users=60'); make('b', '--items', 220, '--seed', 3, '--set', 'behaviours=8')
    pd.testing.assert_frame_equal(open_dataset(tmp_path/'a').interactions, open_dataset(tmp_path/'b').interactions)

def test_quickstart_takes_every_word(monkeypatch, tmp_path):
    import hettrans.engine.run as run
    from hettrans.cli import trained_or_read, wanted
    got = {}
    monkeypatch.setattr(run, 'fit', lambda name, *a, **fields: got.update(fields))
    a = parser().parse_args(['quickstart', '--out', str(tmp_path), '--epochs', '1', '--set', 'd=16', '--set', 'seed=4', 'max_past=5'])
    trained_or_read(a, 'sasrec', None, **wanted(a, 'sasrec'))
    assert got | dict(resume=True) == dict(d='16', seed='4', epochs=1, device='auto', resume=True)
    assert wanted(a, 'homer') == dict(d='16', seed='4', epochs=1, max_past='5')

def test_a_warning_is_one_line(tmp_path):
    import warnings
    folder = copy(shop(), tmp_path/'shop')
    pd.DataFrame(dict(request_id=['r'])).to_csv(folder/'requests.csv')
    warned = f'hettrans: warning: {folder}: schema.toml has no [requests], its file is not read\n'
    assert cli('data', 'check', folder)[::2] == (0, warned) and cli('train', 'popularity', '--data', folder, '--out', tmp_path/'r')[::2] == (0, warned)
    before = warnings.showwarning
    with pytest.warns(UserWarning, match='is not read'): open_dataset(folder)            # Python's own way, outside of the command
    assert warnings.showwarning is before
    r = subprocess.run([sys.executable, '-m', 'hettrans.cli', 'data', 'check', str(folder)], capture_output=True, text=True, env=os.environ | {'OMP_NUM_THREADS': '1'})
    assert (r.returncode, r.stderr) == (0, warned)

def test_same_seed_same_bits_other_seed_other_bits(tmp_path):
    train = lambda name, seed: ok('train', 'sasrec', '--data', shop(), '--out', tmp_path/name, '--seed', seed, '--set', *WORDS)
    train('a', 0); train('b', 1)
    weights = lambda p: (p/'weights.safetensors').read_bytes()
    assert weights(tmp_path/'a') == weights(trained()) and weights(tmp_path/'b') != weights(trained())

def test_evaluate_a_run_without_metrics(tmp_path):
    run = copy(trained(), tmp_path/'run')
    (run/'metrics.json').unlink(); (run/'training.json').unlink()
    a, b = (json.loads(ok('evaluate', r, '--json')) for r in (run, trained()))
    assert a['recall@10'] == b['recall@10'] and not (run/'metrics.json').exists()

def test_resume_of_a_finished_run_trains_nothing(tmp_path, monkeypatch):
    import hettrans.engine.loop as loop
    run = copy(trained(), tmp_path/'run')
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    (run/'metrics.json').unlink()
    monkeypatch.setattr(loop, 'train_step', lambda *a: pytest.fail('a finished run was trained'))
    ok('train', 'sasrec', '--data', shop(), '--out', run, '--resume', '--set', *WORDS)
    after = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    assert set(after) == set(before)
    assert {k for k in after if after[k] != before[k]} <= {'metrics.json'}   # judged again; only the seconds may differ
    a, b = (json.loads(x['metrics.json']) for x in (before, after)); a.pop('seconds'); b.pop('seconds')
    assert a == b

def test_resume_on_other_data_is_refused(tmp_path):
    ok('data', 'make', 'marketplace', tmp_path/'other', '--users', 80, '--items', 240, '--seed', 9, '--set', 'behaviours=10')
    assert 'begun on other data' in fails('train', 'sasrec', '--data', tmp_path/'other', '--out', copy(trained(), tmp_path/'run'), '--resume', '--set', *WORDS)
