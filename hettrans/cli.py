"""The `hettrans` command"""
from __future__ import annotations
import argparse, dataclasses, json, os, re, sys, textwrap, warnings
from pathlib import Path
from hettrans.data.schema import InputError

def say(*a): print(*a, flush=True)

def given(**fields)->dict:
    "The fields that were given; 0 is given, too"
    return {k: v for k, v in fields.items() if v is not None}

def alike(a, b)->bool:
    "The same word, or the same number"
    try: return str(a) == str(b) or float(a) == float(b)
    except ValueError: return False

def key_values(pairs:list[str]|None, **options)->dict:
    "What options say and `field=value` words as one dictionary; `InputError` where a field gets two values"
    out = given(**options)
    for p in pairs or []:
        if '=' not in p: raise InputError(f'--set {p}: field=value expected')
        k, v = (x.strip() for x in p.split('=', 1))
        if not alike(out.setdefault(k, v), v): raise InputError(f'--set {p}: {k} is {out[k]} already' + f' (--{k})'*(options.get(k) is not None) + '; one field, one value')
    return out

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

def card(row, features:dict[str, str], key:str='')->str:
    "An item as two readable lines; without a text, its key is its name (of the column `key`, or of the row)"
    import pandas as pd
    text = next((f for f, kind in features.items() if kind == 'text'), None)
    missing = lambda v: v is None or (not isinstance(v, (list, tuple)) and pd.api.types.is_scalar(v) and pd.isna(v))
    facts = [f'{f} {row[f]:.2f}' if kind == 'numerical' else f'{f} {row[f]}' for f, kind in features.items() if f != text and kind != 'vector' and not missing(row[f])]
    return f'{row[text] if text and not missing(row[text]) else row[key] if key in row else row.name}\n     ' + ' | '.join(facts)

def cards(run, table)->str:
    key, features = shown_columns(run)
    return '\n'.join(f"{r['rank']:3}. {card(r, features, key)}" + f"   ({key} {r[key]}, score {r['score']:.3f})" for _, r in table.iterrows())

def shown_columns(run)->tuple[str, dict[str, str]]:
    "The key and the features of items, as `recommend` calls their columns"
    from hettrans.engine.run import shown_names
    t, names = run.ds.schema.tables['items'], shown_names(run.ds.items)
    return names.get(k := t.roles['key'], k), {names.get(f, f): kind for f, kind in t.features.items()}

def oracle_scorer(ds, split):
    "The simulator's own probabilities of all items on the test cases, some cases at a time"
    import numpy as np
    import pandas as pd
    market = getattr(ds.truth, 'market', ds.truth)    # of a shop with a ranking log
    users = pd.Index(market.users[ds.schema.tables['users'].roles['key']].astype(str))
    cases, log = split.test, split.log
    user_c, position_c = users.get_indexer(log.user_keys[cases.user_c]), cases.end_c - log.offsets[cases.user_c]
    parts = np.array_split(np.arange(len(cases)), max(1, len(cases)//256))
    return ((c, market.oracle_scores(user_c[c], position_c[c])) for c in parts)

def oracle_metrics(ds, split, keep_seen:bool=False)->dict:
    "What the simulator's own probabilities reach on the test cases"
    from hettrans.engine.evaluate import judge
    return judge(oracle_scorer(ds, split), split.test, split.log.item_j, keep_seen)

def judge_guess(run, guess)->dict:
    "Metrics of any guess on the test candidates of a ranking run; `guess`: rows of the log's candidates -> probabilities of a click"
    import numpy as np
    from hettrans.engine.rank_run import rows_of
    from hettrans.engine.ranking import ranking_metrics
    n, offsets = rows_of(run.split.log, run.split.test)
    p = np.clip(guess(n), 1e-9, 1 - 1e-9)
    return ranking_metrics(np.log(p) - np.log1p(-p), run.split.log.clicked_n[n], np.repeat(run.split.test, np.diff(offsets)))

def click_rate(run, prior:float=10.):
    "The popularity of ranking: an item's share of clicks among its exposures in training, drawn to the mean as by `prior` more exposures"
    import numpy as np
    from hettrans.engine.rank_run import rows_of
    log, n = run.split.log, rows_of(run.split.log, run.split.train)[0]
    n = n[log.clicked_n[n] >= 0]
    shown, hits = (np.bincount(log.item_n[n], w, len(run.keys)) for w in (None, log.clicked_n[n] == 1))
    share = (hits + prior*hits.sum()/max(1, shown.sum()))/(shown + prior)
    return lambda rows: share[log.item_n[rows]]

def true_clicks(ds, run): return lambda rows: ds.truth.truth['click'].to_numpy()[run.split.log.row_n[rows]]

def page_cards(runs:dict, ds, key:str, most:int=8)->str:
    "The candidates of a request of the marketplace as cards, best first by the last of the runs, with every run's p(click) and the truth"
    t = ds.schema.tables
    ask = ds.requests[ds.requests[t['requests'].roles['key']] == key].iloc[0]
    c = ds.candidates[ds.candidates[t['candidates'].roles['request']] == key]
    c = c.assign(**{f'p {name}': run.score(c.merge(ask.to_frame().T)).p_click.to_numpy() for name, run in runs.items()}, **ds.truth.truth.loc[c.index, ['click', 'price']].add_prefix('true '))
    lines = [f"Request {key} of user {ask[t['requests'].roles['user']]}: " + ', '.join(f'{f} {ask[f]}' for f in t['requests'].features) + f'. {len(c)} candidates' + f', the first {most}'*(len(c) > most) + ':']
    items = ds.items.set_index(t['items'].roles['key'])
    for rank, (_, r) in enumerate(c.nlargest(most, list(c.filter(like='p '))[-1:]).iterrows(), 1):
        fate = f"shown at place {r.position + 1:.0f}" + ', clicked'*bool(r.clicked) if r.exposed else 'not shown'
        chances = '   '.join([f"{name} {r[f'p {name}']:.1%}" for name in runs] + [f"truth {r['true click']:.1%}"])
        lines += [f"{rank:3}. {card(items.loc[r.item_id].copy(), t['items'].features)} (today {r['true price']:.2f})", f'     p(click): {chances}   ({fate})']
    return '\n'.join(lines)

@dataclasses.dataclass(frozen=True)
class Quickstart:
    "Sizes of HoMer's half; HeterRec's half takes the shop as it is"
    users: int = 1500          # of the shop whose requests are ranked
    requests: float = 10.      # mean number of requests of a user
    candidates: float = 30.    # mean size of a candidate set: dense pages, on which every candidate is shown
    smallest: int = 30         # fewest candidates
    largest: int = 30          # most candidates
    page_min: int = 30         # fewest places of a page
    page_max: int = 30         # most places
    base: float = .3           # three in ten are clicked
    duplicates: float = 3.     # what a near-duplicate on the page costs
    cheaper: float = 2.5       # what a cheaper equal costs
    crowding: float = .05      # what the attractiveness of the others costs
    attention: float = .1      # how fast attention falls from place to place
    max_past: int = 30         # behaviours that a request reads

    def dials(self)->dict: return {k: v for k, v in vars(self).items() if k != 'max_past'}

TRAINED = dict(heterrec=('sasrec', 'heterrec'), homer=('pointwise-homer', 'homer'))    # the halves of the quickstart, and what learns in them

def wanted(a, name:str)->dict:
    "Of the words of `--set`, those that are fields of a model; `InputError` for one that no model of the quickstart has"
    from hettrans.engine.registry import near, owners
    known = {m: {f.name for c in owners(m).values() for f in dataclasses.fields(c)} for half in TRAINED.values() for m in half}
    for k in (fields := key_values(a.set, epochs=a.epochs)):
        if not any(k in x for x in known.values()): raise InputError(f'--set {k}: no model of the quickstart has this field{near(k, set().union(*known.values()))}')
    return {k: v for k, v in fields.items() if k in known[name]}

def trained_or_read(a, name:str, ds, preset:str='auto', **fields):
    "A run of the quickstart: read where it is there, trained where it is not"
    import shutil
    from hettrans.engine.rank_run import make_request_split, request_digest
    from hettrans.engine.run import fit, load_run, make_split, same_log
    folder = Path(a.out)/name
    done = (folder/'metrics.json').exists() and not a.fresh
    if a.fresh and (folder/'config.json').exists(): shutil.rmtree(folder)
    say(f'\n{name}: ' + (f'read from {folder} (--fresh trains it again)' if done else f'training into {folder}'))
    if not done: return fit(name, ds, folder, preset, resume=True, **dict(seed=a.seed, device=a.device) | fields)
    run = load_run(folder)
    if hasattr(run, 'recommend'): same_log(folder, ds, make_split(ds, run.config['protocol']))
    else: same_log(folder, ds, split := make_request_split(ds, run.config['protocol']), request_digest(ds, split))
    return run

def quickstart(a):
    wanted(a, 'homer')   # words that are wrong are said before anything is trained
    if a.only != 'homer': quickstart_heterrec(a)
    if a.only is None: say()
    if a.only != 'heterrec': quickstart_homer(a)
    say('\nNext: `make lab` opens the book.')

def quickstart_heterrec(a):
    "Find items: four models and the oracle, and what HeterRec recommends to three users"
    from hettrans.data.dataset import open_dataset
    ds = open_dataset('marketplace', seed=a.seed, **given(users=a.users, items=a.items))
    say(f'Finding items. The marketplace: {len(ds.users):,} users, {len(ds.items):,} items, {len(ds.interactions):,} behaviours (seed {a.seed}).')
    rows = {}
    for name in ('popularity', 'item-graph', 'sasrec', 'heterrec'):
        run = trained_or_read(a, name, ds, 'shop' if name == 'heterrec' else 'auto', **(wanted(a, name) if name in TRAINED['heterrec'] else {}))
        rows[name] = run.metrics
    rows['oracle'] = oracle_metrics(ds, run.split)
    say(f"\nNext behaviour of {run.metrics['n']:,} users, ranked among all {len(ds.items):,} items (test, leave-last-out, 95% intervals over users):\n")
    say(metric_table(rows))
    say('\nThe oracle ranks by the true probabilities of the simulator: nobody can do better on average.')
    for user in run.split.log.user_keys[run.split.test.user_c[[0, len(run.split.test)//2, -1]]]:
        history = ds.interactions[ds.interactions[ds.schema.tables['interactions'].roles['user']] == user].tail(3)
        shown = ds.items.set_index(run.keys).loc[history[ds.schema.tables['interactions'].roles['item']]]
        say(f'\nUser {user}, the last three behaviours:')
        for _, r in shown.iterrows(): say('   - ' + card(r, ds.schema.tables['items'].features))
        say('HeterRec recommends:'); say(cards(run, run.recommend(user, 5)))
    say(f"\n`hettrans recommend {Path(a.out)/'heterrec'} --user {user}` asks again.")

def quickstart_homer(a):
    "Rank a set of them: click rates, point-wise HoMer, HoMer and the oracle, and one page of candidates"
    import numpy as np
    from hettrans.data.dataset import open_dataset
    size = Quickstart()
    ds = open_dataset('marketplace', seed=a.seed, **(size.dials() | given(users=a.users, items=a.items, requests=a.requests)))
    say(f'Ranking a set. The ranking log of a marketplace: {len(ds.users):,} users, {len(ds.requests):,} requests, {len(ds.candidates):,} candidates, {ds.candidates.exposed.sum():,} shown, {ds.candidates.clicked.sum():,} clicked (seed {a.seed}).')
    runs = {name: trained_or_read(a, name, ds, 'shop', **(dict(max_past=size.max_past) | wanted(a, name))) for name in TRAINED['homer']}
    run = runs['homer']
    rows = {'click rate': judge_guess(run, click_rate(run))} | {name: r.metrics for name, r in runs.items()} | {'oracle': judge_guess(run, true_clicks(ds, run))}
    say(f"\n{cases(run.metrics, 'shown ')} (test, the last tenth of the log; auc: over all, gauc: within a request; 95% intervals over requests):\n")
    say(metric_table(rows, RANKING[:3]))
    say('\nClick rate is the popularity of ranking. Point-wise HoMer reads one candidate at a time, HoMer the whole set. The oracle knows the true\nprobability of every click, the page included.\n')
    test = ds.requests.iloc[run.split.test]
    asked = test[test.request_id.isin(ds.candidates.request_id[ds.candidates.clicked.astype(bool)])].request_id
    say(page_cards(runs, ds, asked.iloc[len(asked)//2]))

def data_ls(a):
    from hettrans.data.public_requests import PUBLIC   # both lists of importers: this module adds its own
    say('built in:  marketplace         a simulated shop whose truth is known (hettrans data make marketplace DIR; with a ranking log: --requests 10)')
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
    ds = open_dataset('marketplace', **(dict(seed=0) | key_values(a.set, seed=a.seed, users=a.users, items=a.items, requests=a.requests)))
    save_dataset(ds, a.folder)
    log = '' if ds.requests is None else f', {len(ds.requests):,} requests, {len(ds.candidates):,} candidates'
    say(f'{a.folder}: {len(ds.users):,} users, {len(ds.items):,} items, {len(ds.interactions):,} behaviours{log}')

def data_import(a):
    from hettrans.data.public_requests import import_public
    say(import_public(a.name, a.source, a.folder, core=a.core, progress=sys.stderr.isatty()))
    say(f'{a.folder}: written; hettrans data check {a.folder} describes it')

REQUESTS = 10   # of a user, where a ranking model is trained on the built-in shop

def open_for(model:str, data:str):
    "The data that a model is trained on; the built-in shop has a ranking log where the model ranks"
    from hettrans.data.dataset import BUILT_IN, open_dataset
    from hettrans.engine.registry import model_entry
    return open_dataset(data, **(dict(requests=REQUESTS) if model_entry(model).kind == 'ranking' and data in BUILT_IN else {}))

def train(a):
    from hettrans.engine.run import fit
    fields = key_values(a.set, epochs=a.epochs, seed=a.seed, device=a.device)
    run = fit(a.model, open_for(a.model, a.data), a.out, preset=a.preset, resume=a.resume, **fields)
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
    try: out = run.recommend(history, a.k, a.at, a.keep_seen or None)
    except InputError as e: raise InputError(re.sub('^history(?=[,:])', lambda m: a.history if a.history not in (None, '-') else m[0], str(e))) from None
    if not len(out) and not a.json: return say(f'no item is left: the history holds all {len(run.keys):,} items of the catalogue; --keep-seen lets them come back')
    if not a.json: return say(cards(run, out))
    key, features = shown_columns(run)
    told = {'rank', 'score', key, *(f for f, kind in features.items() if kind != 'vector')}
    say(out[[c for c in out if c in told]].to_json(orient='records', indent=1, force_ascii=False))

def score(a):
    from hettrans.engine.run import load_run
    out = Path(a.out)
    if not out.name.endswith(('.parquet', '.csv', '.csv.gz')): raise InputError(f'{out}: a name that ends in .parquet, .csv or .csv.gz expected')
    if not out.parent.is_dir(): raise InputError(f'{out.parent}: no such folder')
    run = load_run(a.run, a.device)
    if not hasattr(run, 'score'): raise InputError(f'{a.run}: {run.name} finds items of the catalogue; ask it with hettrans recommend')
    table = run.score(a.requests, a.shard)
    if out.suffix == '.parquet': table.to_parquet(out.absolute(), index=False)   # a relative a:b would be taken for an address
    else: table.to_csv(out, index=False)
    say(f'{out}: {len(table):,} candidates of {table.request.nunique():,} requests')

def read_history(path:str, item:str='item_id', vectors=()):
    "A history from a file: CSV with a header, a JSON list, JSON lines, or one item id per line; - reads standard input"
    import io
    import pandas as pd
    try:
        data = getattr(sys.stdin, 'buffer', sys.stdin).read() if path == '-' else Path(path).read_bytes()   # a `StringIO` in the place of standard input has no bytes
        text = (data if isinstance(data, str) else data.decode('utf-8')).removeprefix('\ufeff')
    except OSError as e: raise InputError(f'{path}: cannot be read ({e.strerror})') from None
    except UnicodeDecodeError as e: raise InputError(f'{path}: not UTF-8 text (byte {e.start})') from None
    if '\0' in text: raise InputError(f'{path}: not text (it holds a zero byte)')
    lines = [l.strip() for l in text.splitlines() if l.strip()]
    if not lines: raise InputError(f'{path}: the history is empty: give at least one item')
    try:
        if lines[0][0] == '[': return json.loads(text)
        if lines[0][0] == '{': return [json.loads(l) for l in lines]
    except (ValueError, RecursionError) as e: raise InputError(f'{path}: not valid JSON ({e})') from None
    if ',' not in lines[0] and lines[0] != item: return lines
    try: rows = pd.read_csv(io.StringIO(text), dtype=str, skipinitialspace=True, header=None, keep_default_na=False, na_values=[''])   # 'NA' is a text, and no column an index
    except ValueError as e: raise InputError(f'{path}: not valid CSV ({str(e).splitlines()[0]})') from None
    rows = rows[1:].set_axis(rows.iloc[0].fillna(''), axis=1).reset_index(drop=True)
    if not len(rows): raise InputError(f'{path}: the history is empty: its first line, {lines[0][:60]!r}, is read as the header of a CSV file, and no row follows; item ids come one per line')
    if len(twice := rows.columns[rows.columns.duplicated() & (rows.columns != '')]): raise InputError(f'{path}, column {twice[0]!r}: two columns have this name')
    rows = rows.loc[:, ~rows.columns.duplicated()]
    for f in set(vectors) & set(rows):   # "[0.5, 1]" is a vector where the schema says so
        for i, v in enumerate(cells := rows[f].tolist()):
            try: cells[i] = v if pd.isna(v) else json.loads(v)
            except ValueError: raise InputError(f'{path}, row {i + 1}, column {f!r}: a vector is written as "[0.5, 1, 2]"') from None
        rows[f] = pd.Series(cells, dtype=object)
    return rows

def use_threads():
    "As many threads as cores are free, four at the most: on busy cores a second thread mostly waits. OMP_NUM_THREADS has the last word"
    if 'OMP_NUM_THREADS' in os.environ: return
    import torch
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    busy = os.getloadavg()[0] if hasattr(os, 'getloadavg') else 0
    torch.set_num_threads(max(1, min(4, torch.get_num_threads(), round(cores - busy))))

def models(a):
    import inspect
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
          hettrans quickstart                                   train both models on the built-in shop, look at what they say
          hettrans data make marketplace shop                   write that shop as a dataset folder
          hettrans train heterrec --data shop --out runs/first  train on any dataset folder
          hettrans recommend runs/first --user u000017 -k 5     ask the trained model
          hettrans train homer --data marketplace --out runs/r  train a model that ranks the candidates of a request""",
    'quickstart': """
        Two halves, five to eight minutes on an ordinary computer; what was trained is kept, and read again next time.

        HeterRec finds items (about four minutes). Four models are judged on the last behaviour of every user: what sells (popularity),
        what follows what (item-graph), a transformer over items (sasrec) and one over their features (heterrec).
        HoMer ranks a set (about two minutes). On the requests of a smaller shop: how often an item was clicked (click rate), HoMer without
        and with the other candidates in view (pointwise-homer, homer), then one page of candidates as cards with their p(click).
        The simulator knows the true probabilities, so the last row of either table (oracle) is the ceiling.

        one half only, or a small one of both in a minute:
          hettrans quickstart --only homer
          hettrans quickstart --users 300 --items 300 --epochs 2 --out runs/small""",
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
          hettrans data make marketplace shop --users 500 --requests 10 --set candidates=20 smallest=15 duplicates=0

        With --requests the shop has a ranking log: requests, candidate sets, what was shown, what was clicked. The dials of the shop
        (MarketConfig) are explained in nbs/1_data/02_marketplace.ipynb, those of the log (PageConfig) in nbs/5_homer/50a_pages.ipynb.""",
    'data import': """
          hettrans data import movielens ml-100k movies --core 5
          hettrans data check movies

        The source is read as it was published, and never changed; what is dropped is counted and said.""",
    'train': """
          hettrans train popularity --data shop --out runs/popular          counted in a second: the bar to beat
          hettrans train homer --data marketplace --out runs/ranker         the built-in shop; for models that rank, with requests
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
          printf 'i000012\\ni000044\\n' | hettrans recommend runs/first --history -
          hettrans recommend runs/first --history basket.csv --at 1735689600

        A history is item ids, one per line, oldest first; or CSV (with a header), a JSON list or JSON lines with the columns of
        the data: item, time (seconds or a date) and features. An item that the catalogue lacks is read by its features.
        Without times, behaviours are taken to lie a day apart. An id with a comma, or one that begins with { or [, needs CSV
        or JSON: a first line with a comma is read as a header, one that begins so as JSON.""",
    'score': """
          hettrans train homer --data logs --out runs/ranker --set split=time:0.1
          hettrans score runs/ranker --requests tonight --out tonight.csv

        DIR holds requests and candidates as a dataset folder does (users and items only for new ones), with the column names of
        the data that the run was trained on; one table of candidates with the columns of their request does as well. Labels are
        not needed, and never read. Sets of more than 300 candidates are cut into equal parts (--shard). Pasts are those of the run's own data. One row per candidate: request, item, p_click, p_exposed.""",
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
    q = add(sub, 'quickstart', quickstart, 'train both models on the built-in marketplace, print two tables, recommendations and a page')
    q.add_argument('--out', default='runs/quickstart', help='folder of the runs (default runs/quickstart)'); q.add_argument('--seed', type=int, default=0); q.add_argument('--epochs', type=int, help='at most so many passes over the data')
    q.add_argument('--only', choices=list(TRAINED), help='one half'); q.add_argument('--users', type=int, help='of the shop'); q.add_argument('--items', type=int, help='of the shop'); q.add_argument('--requests', type=float, metavar='N', help='of a user, on average (default 10)')
    q.add_argument('--set', nargs='+', action='extend', metavar='FIELD=VALUE', help='fields of the trained models, d=32 for example; each takes those that it has'); q.add_argument('--fresh', action='store_true', help='train again even where a run is there'); device(q)
    d = add(sub, 'data', None, 'list, check, make and import dataset folders').add_subparsers(dest='action', required=True, metavar='ACTION'); d.named = 'data '
    add(d, 'ls', data_ls, 'list the built-in data and the importers')
    q = add(d, 'check', data_check, 'check a dataset folder: every problem with file, column, row and count'); q.add_argument('folder')
    q = add(d, 'make', data_make, 'write the built-in marketplace as a dataset folder'); q.add_argument('name', help='marketplace'); q.add_argument('folder')
    q.add_argument('--users', type=int); q.add_argument('--items', type=int); q.add_argument('--seed', type=int)
    q.add_argument('--requests', type=float, metavar='N', help='with a ranking log, of N requests of a user on average (default: none)'); q.add_argument('--set', nargs='+', action='extend', metavar='DIAL=VALUE', help='dials of the simulator')
    q = add(d, 'import', data_import, 'turn a public dataset into a dataset folder'); q.add_argument('name', help='one of `hettrans data ls`'); q.add_argument('source', help='folder or file with the original data'); q.add_argument('folder'); q.add_argument('--core', type=int, default=0, metavar='K', help='keep users and items with at least K behaviours each')
    q = add(sub, 'train', train, 'train a model by name and judge it on the test split')
    q.add_argument('model', help='one of `hettrans models`'); q.add_argument('--data', required=True, help="a dataset folder, or 'marketplace' (with requests, where the model ranks)"); q.add_argument('--out', required=True, help='folder of the run')
    q.add_argument('--epochs', type=int, help='at most so many passes over the data'); q.add_argument('--preset', default='auto', help="one that hettrans models MODEL lists, or 'auto': small for catalogues of up to 100,000 items"); q.add_argument('--seed', type=int)
    q.add_argument('--set', nargs='+', action='extend', metavar='FIELD=VALUE', help='any field that `hettrans models MODEL` lists'); q.add_argument('--resume', action='store_true', help='go on where a broken training stopped'); device(q); q.set_defaults(device=None)
    q = add(sub, 'evaluate', evaluate, 'judge a run on the test or validation split'); q.add_argument('run'); q.add_argument('--split', default='test', choices=['test', 'valid']); q.add_argument('--keep-seen', action='store_true', help='items of the history may be recommended and count'); q.add_argument('--json', action='store_true'); device(q)
    q = add(sub, 'recommend', recommend, 'recommend items to a user of the data, or for a history typed by hand'); q.add_argument('run'); g = q.add_mutually_exclusive_group(required=True)
    g.add_argument('--user', help='id of a user of the data'); g.add_argument('--history', metavar='FILE', help='item ids, one per line, oldest first; or CSV/JSON rows with item, time and features; - for standard input')
    q.add_argument('-k', type=int, default=20); q.add_argument('--at', type=int, help='time of the request, seconds since 1970'); q.add_argument('--keep-seen', action='store_true', help='items of the history may come back (without it: as the run was trained, keep_seen)'); q.add_argument('--json', action='store_true')
    q = add(sub, 'score', score, 'give every candidate of some requests its probability of a click'); q.add_argument('run')
    q.add_argument('--requests', required=True, metavar='DIR', help='requests.* and candidates.*, or one table of candidates'); q.add_argument('--out', required=True, metavar='FILE', help='.parquet, .csv or .csv.gz'); q.add_argument('--shard', type=int, default=300, help='candidates that are scored as one set, at the most (default 300)'); device(q)
    q = add(sub, 'models', models, 'list models, or the fields and presets of one'); q.add_argument('model', nargs='?')
    return p

def warn(before):
    "A `showwarning` that says our own warnings in one line; those of others go to the one `before`"
    def show(message, category, filename, *a, **kw):
        if Path(filename).is_relative_to(Path(__file__).parent): print(f'hettrans: warning: {" ".join(str(message).split())}', file=sys.stderr)
        else: before(message, category, filename, *a, **kw)
    return show

def main(argv:list[str]|None=None)->int:
    "Run a command; what is wrong with the input becomes one line and exit code 2, a warning one line"
    with warnings.catch_warnings():
        warnings.showwarning = warn(warnings.showwarning)
        return obey(parser().parse_args(argv))

def obey(a)->int:
    "The exit code of a command"
    def wrong(e, code): print(f'hettrans: {" ".join(str(e).split())}', file=sys.stderr); return code
    try:
        if a.command in ('quickstart', 'train', 'evaluate', 'recommend', 'score'): use_threads()
        code = a.fn(a) or 0; sys.stdout.flush(); return code
    except InputError as e: return wrong(e, 2)
    except BrokenPipeError:   # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()); return 0
    except OSError as e:
        if not e.filename: raise
        return wrong(f'{e.filename}: {e.strerror}', 2)
    except KeyboardInterrupt: return wrong({'train': 'stopped; the same command with --resume goes on', 'quickstart': 'stopped; the same command goes on'}.get(a.command, 'stopped'), 130)

if __name__ == '__main__': sys.exit(main())
