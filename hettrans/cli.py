"""The `hettrans` command"""
from __future__ import annotations
import argparse, dataclasses, json, os, sys, textwrap
from pathlib import Path
from hettrans.data.schema import InputError

def say(*a): print(*a, flush=True)

def key_values(pairs:list[str]|None)->dict:
    "`field=value` words as a dictionary"
    out = {}
    for p in pairs or []:
        if '=' not in p: raise InputError(f'--set {p}: field=value expected')
        k, v = p.split('=', 1); out[k.strip()] = v.strip()
    return out

def given(**fields)->dict:
    "The fields that were given; 0 is given, too"
    return {k: v for k, v in fields.items() if v is not None}

RETRIEVAL, RANKING = ('recall@10', 'ndcg@10', 'recall@50', 'recall@100'), ('auc', 'gauc', 'logloss', 'calibration')

def metric_table(rows:dict[str, dict], names=None)->str:
    "One line per model: each metric with its 95% interval"
    names = names or (RANKING if 'auc' in next(iter(rows.values())) else RETRIEVAL)
    head = ['', *names]
    def cell(m, k):
        if m[k] is None: return '-'     # it does not exist: no click, say
        return f'{m[k]:.4f} [{m[f"{k}_lo"]:.4f}, {m[f"{k}_hi"]:.4f}]' if m.get(f'{k}_lo') is not None else f'{m[k]:.4f}'
    body = [[name, *(cell(m, k) for k in names)] for name, m in rows.items()]
    width = [max(len(r[i]) for r in [head, *body]) for i in range(len(head))]
    return '\n'.join('  '.join(c.ljust(w) for c, w in zip(r, width)).rstrip() for r in [head, *body])

def card(row, features:dict[str, str])->str:
    "An item as two readable lines"
    import pandas as pd
    text = next((f for f, kind in features.items() if kind == 'text'), None)
    missing = lambda v: v is None or (not isinstance(v, (list, tuple)) and pd.api.types.is_scalar(v) and pd.isna(v))
    facts = [f'{f} {row[f]:.2f}' if kind == 'numerical' else f'{f} {row[f]}' for f, kind in features.items() if f != text and kind != 'vector' and not missing(row[f])]
    return f'{row[text] if text and not missing(row[text]) else row.iloc[2]}\n     ' + ' | '.join(facts)

def cards(run, table)->str:
    t = run.ds.schema.tables['items']
    return '\n'.join(f"{r['rank']:3}. {card(r, t.features)}" + f"   ({t.roles['key']} {r[t.roles['key']]}, score {r['score']:.3f})" for _, r in table.iterrows())

def oracle_metrics(ds, split, keep_seen:bool=False)->dict:
    "What the simulator's own probabilities reach on the test cases"
    import numpy as np
    import pandas as pd
    from hettrans.engine.evaluate import judge
    users = pd.Index(ds.truth.users[ds.schema.tables['users'].roles['key']].astype(str))
    cases, log = split.test, split.log
    user_c, position_c = users.get_indexer(log.user_keys[cases.user_c]), cases.end_c - log.offsets[cases.user_c]
    parts = np.array_split(np.arange(len(cases)), max(1, len(cases)//256))
    return judge(((c, ds.truth.oracle_scores(user_c[c], position_c[c])) for c in parts), cases, log.item_j, keep_seen)

def quickstart(a):
    from hettrans.data.dataset import open_dataset
    from hettrans.engine.run import fit, load_run
    ds = open_dataset('marketplace', seed=a.seed, **given(users=a.users, items=a.items))
    say(f'The marketplace: {len(ds.users):,} users, {len(ds.items):,} items, {len(ds.interactions):,} behaviours (seed {a.seed}).')
    rows = {}
    for name in ('popularity', 'item-graph', 'sasrec', 'heterrec'):
        folder = Path(a.out)/name
        done = (folder/'metrics.json').exists() and not a.fresh
        if a.fresh and (folder/'config.json').exists():
            import shutil; shutil.rmtree(folder)
        say(f'\n{name}: ' + (f'read from {folder} (--fresh trains it again)' if done else f'training into {folder}'))
        fields = given(epochs=a.epochs) | key_values(a.set) if name in ('sasrec', 'heterrec') else {}
        preset = 'shop' if name == 'heterrec' else 'auto'
        run = load_run(folder) if done else fit(name, ds, folder, preset, resume=True, seed=a.seed, device=a.device, **fields)
        rows[name] = run.metrics
    rows['oracle'] = oracle_metrics(ds, run.split)
    say(f"\nNext behaviour of {run.metrics['n']:,} users, ranked among all {len(ds.items):,} items (test, leave-last-out, 95% intervals over users):\n")
    say(metric_table(rows))
    say('\nThe oracle ranks by the true probabilities of the simulator: nobody can do better on average.')
    for user in run.split.log.user_keys[run.split.test.user_c[[0, len(run.split.test)//2, -1]]]:
        history = ds.interactions[ds.interactions[ds.schema.tables['interactions'].roles['user']] == user].tail(3)
        shown = ds.items.set_index(run.keys).loc[history[ds.schema.tables['interactions'].roles['item']]]
        say(f'\nUser {user}, the last three behaviours:')
        for _, r in shown.reset_index(drop=True).assign(rank=0, score=0).iterrows(): say('   - ' + card(r, ds.schema.tables['items'].features))
        say('HeterRec recommends:'); say(cards(run, run.recommend(user, 5)))
    say(f"\nNext: `make lab` opens the book; `hettrans recommend {Path(a.out)/'heterrec'} --user {user}` asks again.")

def data_ls(a):
    from hettrans.data.public_requests import PUBLIC   # both lists of importers: this module adds its own
    say('built in:  marketplace         a simulated shop whose truth is known (hettrans data make marketplace DIR)')
    for k, (_, what) in PUBLIC.items(): say(f'import:    {k:<19} {what}')

def data_check(a):
    from hettrans.data.dataset import check_dataset, describe, open_dataset
    problems = check_dataset(a.folder)
    for p in problems: say(p)
    if problems: raise InputError(f'{a.folder}: {len(problems)} problem' + 's'*(len(problems) > 1))
    ds = open_dataset(a.folder)
    say(describe(ds))
    say(f'{a.folder}: a sound dataset folder')

def data_make(a):
    from hettrans.data.dataset import open_dataset, save_dataset
    if a.name != 'marketplace': raise InputError(f'{a.name!r} is not built in (there is marketplace)')
    ds = open_dataset('marketplace', seed=a.seed, **(given(users=a.users, items=a.items) | key_values(a.set)))
    save_dataset(ds, a.folder)
    say(f'{a.folder}: {len(ds.users):,} users, {len(ds.items):,} items, {len(ds.interactions):,} behaviours')

def data_import(a):
    from hettrans.data.public_requests import import_public
    say(import_public(a.name, a.source, a.folder, core=a.core, progress=sys.stderr.isatty()))
    say(f'{a.folder}: written; hettrans data check {a.folder} describes it')

def train(a):
    from hettrans.engine.run import fit
    fields = dict(seed=a.seed, device=a.device) | given(epochs=a.epochs) | key_values(a.set)
    run = fit(a.model, a.data, a.out, preset=a.preset, resume=a.resume, **fields)
    say('\n' + metric_table({run.name: run.metrics})); say(f"{cases(run.metrics, 'test ')}, {run.metrics['params']:,} parameters; {run.path} holds the run")

def cases(m:dict, of:str='')->str: return f"{m['n']:,} {of}candidates of {m['requests']:,} requests" if 'requests' in m else f"{m['n']:,} {of}cases"

def evaluate(a):
    from hettrans.engine.run import load_run
    run = load_run(a.run, a.device)
    if a.keep_seen and not hasattr(run, 'recommend'): raise InputError(f'{a.run}: --keep-seen is for retrieval, and {run.name} ranks the candidates of a request')
    m = run.evaluate(a.split, *[True]*a.keep_seen)
    say(json.dumps(m, indent=1) if a.json else metric_table({run.name: m}) + f"\n{cases(m)}, split {m['split']}, seed {m['seed']}, {m['seconds']} s")

def recommend(a):
    from hettrans.engine.run import load_run
    run = load_run(a.run)
    if not hasattr(run, 'recommend'): raise InputError(f'{a.run}: {run.name} ranks the candidates of a request; ask it with hettrans score')
    t = run.ds.schema.tables
    history = a.user if a.history is None else read_history(a.history, t['interactions'].roles['item'], t['items'].of_kind('vector'))
    out = run.recommend(history, a.k, a.at, a.keep_seen)
    if a.json: say(out.drop(columns=[f for f, kind in run.ds.schema.tables['items'].features.items() if kind == 'vector' and f in out]).to_json(orient='records', indent=1, force_ascii=False))
    else: say(cards(run, out))

def score(a):
    from hettrans.engine.run import load_run
    out = Path(a.out)
    if not out.name.endswith(('.parquet', '.csv', '.csv.gz')): raise InputError(f'{out}: a name that ends in .parquet, .csv or .csv.gz expected')
    if not out.parent.is_dir(): raise InputError(f'{out.parent}: no such folder')
    run = load_run(a.run, a.device)
    if not hasattr(run, 'score'): raise InputError(f'{a.run}: {run.name} finds items of the catalogue; ask it with hettrans recommend')
    table = run.score(a.requests)
    if out.suffix == '.parquet': table.to_parquet(out, index=False)
    else: table.to_csv(out, index=False)
    say(f'{out}: {len(table):,} candidates of {table.request.nunique():,} requests')

def read_history(path:str, item:str='item_id', vectors=()):
    "A history from a file: CSV with a header, a JSON list, JSON lines, or one item id per line; - reads standard input"
    import io
    import pandas as pd
    try: text = (sys.stdin.read() if path == '-' else Path(path).read_bytes().decode('utf-8')).removeprefix('\ufeff')
    except OSError as e: raise InputError(f'{path}: cannot be read ({e.strerror})') from None
    except UnicodeDecodeError as e: raise InputError(f'{path}: not UTF-8 text (byte {e.start})') from None
    if '\0' in text: raise InputError(f'{path}: not text (it holds a zero byte)')
    lines = [l.strip() for l in text.splitlines() if l.strip()]
    if not lines: raise InputError(f'{path}: the history is empty: give at least one item')
    try:
        if lines[0][0] == '[': return json.loads(text)
        if lines[0][0] == '{': return [json.loads(l) for l in lines]
    except ValueError as e: raise InputError(f'{path}: not valid JSON ({e})') from None
    if ',' not in lines[0] and lines[0] != item: return lines
    try: rows = pd.read_csv(io.StringIO(text), dtype=str, skipinitialspace=True)
    except ValueError as e: raise InputError(f'{path}: not valid CSV ({str(e).splitlines()[0]})') from None
    for f in set(vectors) & set(rows):   # "[0.5, 1]" is a vector where the schema says so
        try: rows[f] = [v if pd.isna(v) else json.loads(v) for v in rows[f]]
        except ValueError: raise InputError(f'{path}, column {f!r}: a vector is written as "[0.5, 1, 2]"') from None
    return rows

def models(a):
    import inspect, re
    from hettrans.engine.registry import MODELS, model_entry, owners
    if not a.model:
        for k, e in MODELS.items(): say(f'{k:<15} {e.kind:<9}  {e.paper}')
        return say('\nhettrans models NAME lists the fields of its configuration')
    entry = model_entry(a.model)
    for part, cls in owners(a.model).items():
        if not entry.loss and part in ('train', 'encode', 'neighbours'): continue
        notes = {k: v for c in reversed(cls.__mro__[:-1]) for k, v in re.findall(r'^\s+(\w+)\s*:[^#\n]*#\s*(.*)$', inspect.getsource(c), re.M)}
        say(f'{part}:')
        for f in dataclasses.fields(cls): say(f'  {f.name:<16} {entry.fixed.get(f.name, f.default)!r:<16} {notes.get(f.name, "")}')
    for k, v in entry.load('presets').items(): say(f'preset {k}: ' + (', '.join(f'{x}={y}' for x, y in v.items()) or 'the defaults'))

class Parser(argparse.ArgumentParser):
    "What is wrong with the words of a command is said in one line, too"
    def __init__(self, *a, **kw): super().__init__(*a, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kw)
    def error(self, message): self.exit(2, f'hettrans: {" ".join(message.split())} ({self.prog} --help)\n')

TEACH = {   # what `--help` of a command says below its options
    '': """
        first steps:
          hettrans quickstart                                   train on the built-in shop and look at recommendations
          hettrans data make marketplace shop                   write that shop as a dataset folder
          hettrans train heterrec --data shop --out runs/first  train on any dataset folder
          hettrans recommend runs/first --user u000017 -k 5     ask the trained model""",
    'quickstart': """
        Four models are trained on one simulated shop and judged on the last behaviour of every user: what sells (popularity),
        what follows what (item-graph), a transformer over items (sasrec) and one over their features (heterrec). The simulator
        knows the true probabilities, so the last row (oracle) is the ceiling. What was trained is kept and read again next time.

        a small one, in a minute:
          hettrans quickstart --users 300 --items 300 --epochs 3 --out runs/small""",
    'data': """
        A dataset folder holds schema.toml (which column means what) and one Parquet or CSV file per table: items, users,
        interactions, requests, candidates. `hettrans data make marketplace shop` writes one to look at.""",
    'data ls': """
        Nothing is downloaded: data/README.md of the repository says where each public dataset is to be had, and its licence.""",
    'data check': """
        Every problem is one line with file, column, row and number of rows; the exit code is 2 when there is one. A sound
        folder is described: sizes, kinds of features, times, and how many users' last two behaviours share their time.""",
    'data make': """
          hettrans data make marketplace shop --users 500 --items 300 --seed 1
          hettrans data make marketplace shop --set cold_share=0.2

        The dials of the simulator (MarketConfig) are explained in the notebook nbs/1_data/02_marketplace.ipynb.""",
    'data import': """
          hettrans data import movielens ml-100k movies --core 5
          hettrans data check movies

        The source is read as it was published, and never changed; what is dropped is counted and said.""",
    'train': """
          hettrans train popularity --data shop --out runs/popular          counted in a second: the bar to beat
          hettrans train heterrec --data shop --out runs/wide --set d=128 dropout=0.3 ties=shuffle
          hettrans train heterrec --data shop --out runs/wide --set d=128 dropout=0.3 ties=shuffle --resume

        After every epoch the model is judged on the validation split, the best weights are kept (weights.safetensors), and the
        training stops when validation has not improved for `patience` epochs. The test split is used once, at the end. A killed
        training goes on with --resume and the same settings, from the last epoch or the last `save_every` steps.""",
    'evaluate': """
        Retrieval: every target is ranked among all items of the catalogue, ties against the model. recall@N: share of targets among the
        first N. ndcg@N: the same, where early places count more. [low, high] is the 95% bootstrap interval over users; two
        models whose intervals overlap widely have not been told apart. --json prints all N. Ranking: auc over all exposed candidates,
        gauc within each request (plain mean), logloss, and calibration (clicks promised by clicks that came); intervals over requests.""",
    'recommend': """
          hettrans recommend runs/first --user u000017 -k 5
          printf 'i000012\ni000044\n' | hettrans recommend runs/first --history -
          hettrans recommend runs/first --history basket.csv --at 1735689600

        A history is item ids, one per line, oldest first; or CSV (with a header), a JSON list or JSON lines with the columns of
        the data: item, time (seconds or a date) and features. An item that the catalogue lacks is read by its features.
        Without times, behaviours are taken to lie a day apart.""",
    'score': """
          hettrans train homer --data logs --out runs/ranker --set split=time:0.1
          hettrans score runs/ranker --requests tonight --out tonight.csv

        DIR holds requests and candidates as a dataset folder does (users and items only for new ones), with the column names of
        the data that the run was trained on; one table of candidates with the columns of their request does as well. Labels are
        not needed, and never read. Pasts are those of the run's own data. One row per candidate: request, item, p_click, p_exposed.""",
    'models': """
          hettrans models                  every model
          hettrans models heterrec         every field that `train --set field=value` takes, its default and its meaning""",
}

def parser()->argparse.ArgumentParser:
    "All commands with their help"
    def teach(name): return textwrap.dedent(TEACH[name]).strip('\n')
    p = Parser('hettrans', description='Learn, train and serve transformers for recommendation over heterogeneous data.', epilog=teach(''))
    from hettrans import __version__
    p.add_argument('--version', action='version', version=f'hettrans {__version__}')
    sub = p.add_subparsers(dest='command', required=True, metavar='COMMAND'); sub.named = ''
    def add(parent, name, fn, help, **kw):
        q = parent.add_parser(name, help=help, description=help[0].upper() + help[1:] + '.', epilog=teach(parent.named + name), **kw); q.set_defaults(fn=fn); return q
    def device(q): q.add_argument('--device', default='auto', help="'auto' (a GPU when there is one), 'cpu', 'cuda' or 'mps'")
    q = add(sub, 'quickstart', quickstart, 'train on the built-in marketplace, print the table and recommendations')
    q.add_argument('--out', default='runs/quickstart', help='folder of the runs (default runs/quickstart)'); q.add_argument('--seed', type=int, default=0); q.add_argument('--epochs', type=int, help='at most so many passes over the data')
    q.add_argument('--users', type=int, help='of the shop'); q.add_argument('--items', type=int, help='of the shop'); q.add_argument('--set', nargs='+', metavar='FIELD=VALUE', help='fields that both trained models have, d=32 for example'); q.add_argument('--fresh', action='store_true', help='train again even where a run is there'); device(q)
    d = add(sub, 'data', None, 'list, check, make and import dataset folders').add_subparsers(dest='action', required=True, metavar='ACTION'); d.named = 'data '
    add(d, 'ls', data_ls, 'list the built-in data and the importers')
    q = add(d, 'check', data_check, 'check a dataset folder: every problem with file, column, row and count'); q.add_argument('folder')
    q = add(d, 'make', data_make, 'write the built-in marketplace as a dataset folder'); q.add_argument('name', help='marketplace'); q.add_argument('folder')
    q.add_argument('--users', type=int); q.add_argument('--items', type=int); q.add_argument('--seed', type=int, default=0); q.add_argument('--set', nargs='+', metavar='DIAL=VALUE', help='dials of the simulator')
    q = add(d, 'import', data_import, 'turn a public dataset into a dataset folder'); q.add_argument('name', help='one of `hettrans data ls`'); q.add_argument('source', help='folder or file with the original data'); q.add_argument('folder'); q.add_argument('--core', type=int, default=0, metavar='K', help='keep users and items with at least K behaviours each')
    q = add(sub, 'train', train, 'train a model by name and judge it on the test split')
    q.add_argument('model', help='one of `hettrans models`'); q.add_argument('--data', required=True, help="a dataset folder, or 'marketplace'"); q.add_argument('--out', required=True, help='folder of the run')
    q.add_argument('--epochs', type=int, help='at most so many passes over the data'); q.add_argument('--preset', default='auto', help="'paper', 'small', or 'auto': small for catalogues of up to 100,000 items"); q.add_argument('--seed', type=int, default=0)
    q.add_argument('--set', nargs='+', metavar='FIELD=VALUE', help='any field that `hettrans models MODEL` lists'); q.add_argument('--resume', action='store_true', help='go on where a broken training stopped'); device(q)
    q = add(sub, 'evaluate', evaluate, 'judge a run on the test or validation split'); q.add_argument('run'); q.add_argument('--split', default='test', choices=['test', 'valid']); q.add_argument('--keep-seen', action='store_true', help='items of the history may be recommended and count'); q.add_argument('--json', action='store_true'); device(q)
    q = add(sub, 'recommend', recommend, 'recommend items to a user of the data, or for a history typed by hand'); q.add_argument('run'); g = q.add_mutually_exclusive_group(required=True)
    g.add_argument('--user', help='id of a user of the data'); g.add_argument('--history', metavar='FILE', help='item ids, one per line, oldest first; or CSV/JSON rows with item, time and features; - for standard input')
    q.add_argument('-k', type=int, default=20); q.add_argument('--at', type=int, help='time of the request, seconds since 1970'); q.add_argument('--keep-seen', action='store_true'); q.add_argument('--json', action='store_true')
    q = add(sub, 'score', score, 'give every candidate of some requests its probability of a click'); q.add_argument('run')
    q.add_argument('--requests', required=True, metavar='DIR', help='requests.* and candidates.*, or one table of candidates'); q.add_argument('--out', required=True, metavar='FILE', help='.parquet, .csv or .csv.gz'); device(q)
    q = add(sub, 'models', models, 'list models, or the fields and presets of one'); q.add_argument('model', nargs='?')
    return p

def main(argv:list[str]|None=None)->int:
    "Run a command; what is wrong with the input becomes one line and exit code 2"
    a = parser().parse_args(argv)
    def wrong(e, code): print(f'hettrans: {" ".join(str(e).split())}', file=sys.stderr); return code
    try: code = a.fn(a) or 0; sys.stdout.flush(); return code
    except InputError as e: return wrong(e, 2)
    except BrokenPipeError:   # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()); return 0
    except OSError as e:
        if not e.filename: raise
        return wrong(f'{e.filename}: {e.strerror}', 2)
    except KeyboardInterrupt: return wrong({'train': 'stopped; the same command with --resume goes on', 'quickstart': 'stopped; the same command goes on'}.get(a.command, 'stopped'), 130)

if __name__ == '__main__': sys.exit(main())
