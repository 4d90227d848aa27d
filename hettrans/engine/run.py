"""From a dataset to a run folder and back: fit, evaluate, recommend, load"""
from __future__ import annotations
import dataclasses, json, math, time
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from hettrans import __version__
from hettrans.data.batches import SequenceBatch, SequenceData, length_batches, shuffled_ties, train_batch, windows
from hettrans.data.dataset import Dataset, open_dataset, save_dataset
from hettrans.data.encode import EncodeConfig, Encoder
from hettrans.data.neighbours import NeighbourConfig, neighbour_token
from hettrans.data.schema import InputError
from hettrans.data.sequences import Cases, Split, sort_behaviours, split_behaviours, tied_share
from hettrans.engine.loop import TrainConfig, choose_device, read_tensors, seed_everything, train
from hettrans.engine.metrics import retrieval_metrics, target_ranks

FORMAT = 1  # of a run folder

@dataclass(frozen=True)
class Protocol:
    "How a log is sorted, split and judged; stored with the run"
    split: str = 'leave-last-out'  # or 'time:F'
    ties: str = 'file'             # equal times: 'file' (the order column, then file order) or 'shuffle'
    tie_seed: int = 0              # of the shuffle
    request_time: str = 'known'    # is the time of the request known to the model: 'known' or 'unknown'
    keep_seen: bool = False        # may items of the history be recommended and count as right
    histories: str = 'slide'       # training windows of long histories: 'slide' cuts them so that every behaviour is a target once
    shuffle_ties: bool = False     # training only: a new random order of equal times in every epoch

@dataclass(frozen=True)
class Entry:
    "A model that can be trained by name"
    module: str           # where it lives
    cls: str              # its class
    config: str           # its configuration class
    paper: str            # where it comes from
    loss: str = ''        # its loss function; '' = counted, not trained
    presets: str = ''     # name of the dictionary of presets in the module

MODELS = {
    'popularity': Entry('hettrans.zoo.popularity', 'Popularity', 'PopularityConfig', 'how often an item occurs in training'),
    'item-graph': Entry('hettrans.zoo.item_graph', 'ItemGraph', 'ItemGraphConfig', 'item transitions and content similarity, untrained'),
    'sasrec': Entry('hettrans.zoo.sasrec', 'SASRec', 'SASRecConfig', 'Kang and McAuley 2018, with full cross-entropy', 'sasrec_loss', 'PRESETS'),
    'heterrec': Entry('hettrans.heterrec.model', 'HeterRec', 'HeterRecConfig', 'Deng et al. 2025 (HeterRec)', 'heterrec_loss', 'PRESETS'),
}

def model_entry(name:str)->Entry:
    "The entry of a model name"
    import difflib
    if name in MODELS: return MODELS[name]
    near = difflib.get_close_matches(name, MODELS, 1)
    raise InputError(f"model {name!r} is not known" + (f'; did you mean {near[0]!r}?' if near else '') + f" (there are {', '.join(MODELS)})")

def load_class(entry:Entry, what:str='cls'): return getattr(import_module(entry.module), getattr(entry, what))

def cast_field(cls, name:str, value):
    "A value from the command line or a file as the type of a configuration field"
    kind = type(next(f.default for f in dataclasses.fields(cls) if f.name == name))
    if isinstance(value, str) and kind is not str:
        try:
            if kind is bool: return dict(true=True, false=False)[value.lower()] if value.lower() in ('true', 'false') else bool(int(value))
            return kind(value)
        except ValueError: raise InputError(f'{name} = {value!r}: {kind.__name__} expected') from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool): return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)): raise InputError(f'{name} = {value!r}: {kind.__name__} expected')
    return value

def configure(name:str, fields:dict)->dict:
    "Sort `field=value` pairs into the configurations that own them: model, train, encode, protocol"
    import difflib
    classes = dict(model=load_class(model_entry(name), 'config'), train=TrainConfig, encode=EncodeConfig, neighbours=NeighbourConfig, protocol=Protocol)
    owner = {f.name: part for part, cls in classes.items() for f in dataclasses.fields(cls)}
    chosen = {part: {} for part in classes}
    for k, v in fields.items():
        if k not in owner:
            near = difflib.get_close_matches(k, owner, 1)
            raise InputError(f'{name} has no field {k!r}' + (f'; did you mean {near[0]!r}?' if near else f'; hettrans models {name} lists them'))
        chosen[owner[k]][k] = cast_field(classes[owner[k]], k, v)
    return {part: cls(**chosen[part]) for part, cls in classes.items()}

def preset_fields(name:str, preset:str, n_items:int)->dict:
    "Fields of a named preset; 'auto' takes 'small' for catalogues of up to 100,000 items where there is one"
    entry = model_entry(name)
    presets = load_class(entry, 'presets') if entry.presets else {}
    if preset == 'auto': preset = 'small' if n_items <= 100_000 and 'small' in presets else 'paper'
    if preset == 'paper': return presets.get('paper', {})
    if preset not in presets: raise InputError(f"preset {preset!r} of {name} is not known (there are {', '.join(['auto', 'paper', *presets])})")
    return presets[preset]

def make_split(ds:Dataset, protocol:Protocol)->Split:
    "The split of a dataset that a protocol asks for"
    if ds.interactions is None: raise InputError(f'{ds.name}: no interactions table, and retrieval needs one')
    return split_behaviours(sort_behaviours(ds, protocol.ties, protocol.tie_seed), protocol.split)

def fit_encoder(ds:Dataset, split:Split, config:EncodeConfig)->Encoder:
    "Vocabularies, bins and quantiles from the training rows only"
    t = ds.schema.tables
    return Encoder.fit(ds.items, t['items'], split.train_items, ds.interactions.iloc[split.log.row_j[split.train_rows]], t['interactions'], config)

def catalogue_codes(encoder:Encoder, ds:Dataset, split:Split, config:dict)->tuple[list, dict]:
    "Tokens of the model and codes of the whole catalogue: the encoder's, and the neighbours of training when asked for"
    tokens, codes = list(encoder.tokens), encoder.encode_items(ds.items)
    codes['.count'] = torch.from_numpy(np.bincount(split.log.item_j[split.train_rows], minlength=len(ds.items)).astype(np.float32))
    if not config['neighbours'].neighbours: return tokens, codes
    if tokens[0].name != ds.schema.tables['items'].roles['key']: raise InputError('neighbours need the item id as a feature (use_id)')
    spec, more = neighbour_token(split, codes[tokens[0].name], tokens[0].rows, config['neighbours'])
    items = sum(t.side == 'item' for t in tokens)
    return tokens[:items] + [spec] + tokens[items:], codes | more

class Scorer:
    "Scores of the whole catalogue for histories, from any model"
    def __init__(self, model, catalogue:dict|None, data:SequenceData, batch:int=256):
        self.model, self.catalogue, self.data, self.batch = model, catalogue, data, batch
    def __call__(self, cases:Cases):
        "Yield (indices of cases, scores `[b, V]`), cases of similar length together"
        order = np.argsort(cases.end_c - cases.start_c, kind='stable')
        for i in range(0, len(order), self.batch):
            c = order[i:i + self.batch]
            yield c, self.scores(self.data.cases(cases.take(c)))
    def scores(self, batch)->np.ndarray:
        if self.catalogue is None: return self.model.scores(batch)
        with torch.inference_mode():
            u_bd = self.model.user_vectors(batch.to(self.device), self.catalogue)
            return (u_bd.float() @ self.items_vd.T).cpu().numpy()
    @property
    def device(self): return next(self.model.parameters()).device
    @property
    def items_vd(self)->torch.Tensor:
        if getattr(self, '_items', None) is None:
            with torch.inference_mode(): self._items = torch.cat([self.model.item_vectors({k: v[i:i + 4096] for k, v in self.catalogue.items()}) for i in range(0, len(self.catalogue['.count']), 4096)]).float()
        return self._items

def judge(scorer:Scorer, cases:Cases, keep_seen:bool=False, intervals:bool=True)->dict:
    "Full-catalogue metrics of a scorer on cases"
    log = scorer.data.log
    ranks, owner, dropped = [], [], 0
    for c, s in scorer(cases):
        part = cases.take(c)
        r, o, d = target_ranks(s, part.targets, part.target_offsets, log.item_j, part.start_c, part.end_c, keep_seen)
        ranks.append(r); owner.append(c[o]); dropped += d
    return retrieval_metrics(np.concatenate(ranks), np.concatenate(owner), intervals=intervals) | dict(not_counted=dropped)

class Run:
    "A trained model with everything that serving needs: encoder, catalogue, histories, protocol"
    def __init__(self, path:Path, name:str, model, ds:Dataset, split:Split, config:dict, encoder:Encoder|None=None, codes:dict|None=None, metrics:dict|None=None, device='cpu'):
        self.path, self.name, self.model, self.encoder, self.ds, self.split, self.config, self.metrics = path, name, model, encoder, ds, split, config, metrics or {}
        self.trained = isinstance(model, torch.nn.Module)
        move = lambda codes: {k: v.to(device) for k, v in codes.items()}
        self.catalogue = move(codes) if self.trained else None
        extra = encoder.encode_behaviours(ds.interactions.iloc[split.log.row_j]) if self.trained else {}
        p, m = config['protocol'], config['model']
        self.data = SequenceData(split.log, extra, getattr(m, 'max_len', 256), p.request_time)
        self.scorer = Scorer(model, self.catalogue, self.data)
        self.keys = ds.items[ds.schema.tables['items'].roles['key']].to_numpy()
        self.place = pd.Index(self.keys)

    def __repr__(self): return f"Run({self.name} on {self.ds.name}: " + ', '.join(f'{k} {self.metrics[k]:.4f}' for k in ('recall@10', 'ndcg@10') if k in self.metrics) + f', {self.path})'

    def evaluate(self, split:str='test', keep_seen:bool|None=None, intervals:bool=True)->dict:
        "Metrics on 'test' or 'valid', over the full catalogue"
        if split not in ('test', 'valid'): raise InputError(f"split = {split!r}: choose 'test' or 'valid'")
        began, p = time.time(), self.config['protocol']
        cases = getattr(self.split, split)
        m = judge(self.scorer, cases, p.keep_seen if keep_seen is None else keep_seen, intervals)
        return m | dict(seed=self.config['train'].seed, split=split, seconds=round(time.time() - began, 2), params=count_params(self.model))

    def recommend(self,
        history,                  # a user id; or item ids, oldest first; or a DataFrame (or list of dicts) with item, time and, for new items, features
        k:int=10,                 # how many
        at:int|None=None,         # time of the request in seconds; None: now is one second after the last behaviour
        keep_seen:bool=False,     # may items of the history come back
    )->pd.DataFrame:
        "The `k` best items of the catalogue for one history, best first"
        if isinstance(history, str): return self._recommend(*self._user_rows(history), k, at, keep_seen)
        return self._recommend(*self._typed_rows(history), k, at, keep_seen)

    def _user_rows(self, user:str):
        "Catalogue rows, times and extra codes of a user of the dataset: all behaviours"
        u = np.flatnonzero(self.split.log.user_keys == user)
        if not len(u): raise InputError(f'user {user!r} is not in {self.ds.name}; give a history instead')
        a, b = self.split.log.offsets[u[0]:u[0] + 2]
        a = max(a, b - self.data.max_len)
        return torch.from_numpy(self.split.log.item_j[a:b]), torch.from_numpy(self.split.log.time_j[a:b]), {k: v[a:b] for k, v in self.data.extra.items()}, None

    def _typed_rows(self, history):
        "The same for a history typed by hand; items that the catalogue lacks are read from their features"
        t, key = self.ds.schema.tables['interactions'].roles, self.ds.schema.tables['items'].roles['key']
        df = history if isinstance(history, pd.DataFrame) else pd.DataFrame([h if isinstance(h, dict) else {t['item']: h} for h in history])
        if not len(df): raise InputError('the history is empty: give at least one item')
        if t['item'] not in df: raise InputError(f"history: column {t['item']!r} is missing (there are {', '.join(map(str, df))})")
        df = df.tail(self.data.max_len).reset_index(drop=True)
        rows, new = self._place_items(df[t['item']].astype(str), df, key)
        times = self._times(df, t['time'])
        extra = self.encoder.encode_behaviours(df.reindex(columns=list(self.ds.schema.tables['interactions'].features))) if self.trained else {}
        return torch.from_numpy(rows), torch.from_numpy(times), extra, new

    def _place_items(self, keys:pd.Series, df:pd.DataFrame, key:str):
        "Catalogue row of each item; unknown ones that bring features get rows after the catalogue's"
        rows = self.place.get_indexer(keys).astype(np.int64)
        lost = np.flatnonzero(rows < 0)
        if not len(lost): return rows, None
        features = [f for f in self.ds.schema.tables['items'].features if f in df]
        bare = [i for i in lost if not features or df.loc[i, features].isna().all()]
        if bare or not self.trained:
            i = (bare or lost)[0]
            raise InputError(f"history row {i + 1}: item {keys[i]!r} is not in the catalogue and brings no features to read it by" + (f' ({len(bare)} such rows)' if len(bare) > 1 else ''))
        new = df.loc[lost].reindex(columns=[key, *self.ds.schema.tables['items'].features]).assign(**{key: keys[lost].to_numpy()})
        rows[lost] = len(self.keys) + np.arange(len(lost))
        new = self.encoder.encode_items(new)
        return rows, {k: new[k] if k in new else v.new_zeros(len(lost), *v.shape[1:]) for k, v in self.catalogue.items()}

    def _times(self, df:pd.DataFrame, column:str)->np.ndarray:
        "Seconds of each behaviour; without a time column they follow each other by a day, the last at the end of the log"
        from hettrans.data.dataset import to_seconds
        if column in df: return to_seconds(df[column], 'history', column)
        return int(self.split.log.time_j.max()) - 86400*np.arange(len(df))[::-1].astype(np.int64)

    def _recommend(self, items, times, extra, new, k, at, keep_seen)->pd.DataFrame:
        query = torch.cat([times[1:], torch.tensor([int(times[-1]) + 1 if at is None else at])]) if self.data.known else times
        batch = SequenceBatch(torch.tensor([0, len(items)]), items, times, query, extra)
        scorer = self.scorer
        if new is not None:
            scorer = Scorer(self.model, {c: torch.cat([v, new[c].to(v)]) for c, v in self.catalogue.items()}, self.data)
            scorer._items = self.scorer.items_vd
        s = scorer.scores(batch)[0].copy()
        if not keep_seen: s[items[items < len(s)].numpy()] = -np.inf
        best = np.argsort(-s, kind='stable')[:k]
        best = best[np.isfinite(s[best])]
        shown = self.ds.items.iloc[best].reset_index(drop=True)
        shown.insert(0, 'score', s[best]); shown.insert(0, 'rank', np.arange(1, len(best) + 1))
        return shown

def count_params(model)->int: return sum(p.numel() for p in model.parameters()) if isinstance(model, torch.nn.Module) else 0

def flat_config(config:dict)->dict: return {part: asdict(c) for part, c in config.items()}

def save_run(run:Run):
    "Everything but the weights, which the training loop has written"
    (run.path/'config.json').write_text(json.dumps(dict(format=FORMAT, hettrans=__version__, name=run.name, config=flat_config(run.config)), indent=1))
    save_dataset(run.ds, run.path/'data')
    if run.encoder: run.encoder.save(run.path)

def fit(
    model:str,             # a model name: `hettrans models` lists them
    ds,                    # a `Dataset`, a folder or a built-in name
    out=None,              # folder of the run; None: a temporary one
    preset:str='auto',     # 'paper', 'small' or 'auto': 'small' for catalogues of up to 100,000 items
    resume:bool=False,     # go on where a broken training in `out` stopped
    bar:bool=True,         # show progress
    **fields,              # any field of the model's, the training's, the encoder's or the protocol's configuration
)->Run:
    "Train a model by name and judge it on the test split"
    import tempfile
    ds = ds if isinstance(ds, Dataset) else open_dataset(ds)
    entry = model_entry(model)
    config = configure(model, {**preset_fields(model, preset, len(ds.items)), **fields})
    out = Path(out or tempfile.mkdtemp(prefix='hettrans-'))
    prepare_folder(out, model, config, resume)
    split = make_split(ds, config['protocol'])
    seed_everything(config['train'].seed)
    if entry.loss: run = fit_trained(entry, model, ds, out, split, config, resume, bar)
    else: run = fit_counted(entry, model, ds, out, split, config)
    run.metrics = run.evaluate('test')
    (out/'metrics.json').write_text(json.dumps(run.metrics, indent=1))
    return run

def prepare_folder(out:Path, model:str, config:dict, resume:bool):
    "Make the folder of a run; refuse to write over a run or to resume another one"
    file = out/'config.json'
    if out.exists() and not out.is_dir(): raise InputError(f'{out}: not a folder')
    if resume and file.exists():
        saved = read_config(out); old = saved['config']
        if saved['name'] != model: raise InputError(f"{file}: holds a {saved['name']} run, not {model}")
        new = json.loads(json.dumps(flat_config(config)))
        for part, fields in new.items():
            for k, v in fields.items():
                if k not in ('device',) and old.get(part, {}).get(k) != v: raise InputError(f'{file}: {k} was {old.get(part, {}).get(k)!r} and is now {v!r}; resume with the same settings, or choose another folder')
    elif file.exists(): raise InputError(f'{out}: holds a run already; choose another folder, or --resume')
    elif out.exists() and any(out.iterdir()): raise InputError(f'{out}: is not empty and not a run')
    out.mkdir(parents=True, exist_ok=True)

def fit_counted(entry:Entry, name:str, ds:Dataset, out:Path, split:Split, config:dict)->Run:
    "A model that only counts"
    model = load_class(entry)(config['model']).fit(split, ds.items, ds.schema)
    run = Run(out, name, model, ds, split, config)
    save_run(run); model.save(out)
    return run

def fit_trained(entry:Entry, name:str, ds:Dataset, out:Path, split:Split, config:dict, resume:bool, bar:bool)->Run:
    "A model with a gradient"
    t, p = config['train'], config['protocol']
    encoder = fit_encoder(ds, split, config['encode'])
    tokens, codes = catalogue_codes(encoder, ds, split, config)
    model, device = load_class(entry)(config['model'], tokens), choose_device(t.device)
    run = Run(out, name, model.to(device), ds, split, config, encoder, codes, device=device)
    save_run(run)
    loss = load_class(entry, 'loss')
    steps = getattr(config['model'], 'steps', 1)
    def epoch_batches(epoch:int):
        rng = np.random.default_rng([t.seed, epoch])
        data = shuffled_ties(run.data, split.train_start_u, split.train_end_u, rng) if p.shuffle_ties else run.data
        start, end = windows(split.train_start_u, split.train_end_u, run.data.max_len)
        return [lambda i=i: train_batch(data, start[i], end[i], steps) for i in length_batches(end - start, t.batch, rng)]
    def loss_of(wrapped, batch): return loss(model, wrapped(batch, run.catalogue), batch, run.catalogue)
    def validate(m):
        run.scorer._items = None
        return judge(run.scorer, split.valid, p.keep_seen, intervals=False)
    summary = train(model, epoch_batches, loss_of, validate, t, out, resume, bar, dict(model=name))
    run.scorer._items = None
    (out/'training.json').write_text(json.dumps(vars(summary), indent=1))
    return run

def read_config(path:Path)->dict:
    "config.json of a run folder"
    file = path/'config.json'
    if not file.exists(): raise InputError(f'{path}: not a run folder (config.json is missing)')
    try: saved = json.loads(file.read_text())
    except ValueError as e: raise InputError(f'{file}: not valid JSON ({e})') from None
    if not isinstance(saved, dict) or saved.get('format') != FORMAT:
        made = saved if isinstance(saved, dict) else {}
        raise InputError(f"{file}: written in format {made.get('format')} by hettrans {made.get('hettrans')}, and this is {__version__} with format {FORMAT}")
    return saved

def load_run(path, device:str='cpu')->Run:
    "Open a run folder: config, data, encoder, weights, metrics"
    path = Path(path)
    saved = read_config(path)
    name = saved['name']
    config = configure(name, {k: v for fields in saved['config'].values() for k, v in fields.items()})
    ds = open_dataset(path/'data')
    split = make_split(ds, config['protocol'])
    entry, metrics = model_entry(name), json.loads((path/'metrics.json').read_text()) if (path/'metrics.json').exists() else {}
    if not entry.loss: return Run(path, name, load_class(entry).load(path, config['model']), ds, split, config, metrics=metrics)
    encoder = Encoder.load(path)
    tokens, codes = catalogue_codes(encoder, ds, split, config)
    model = load_class(entry)(config['model'], tokens)
    weights, _ = read_tensors(path/'weights.safetensors')
    try: model.load_state_dict(weights)
    except RuntimeError as e: raise InputError(f"{path/'weights.safetensors'}: does not fit the configuration ({str(e).splitlines()[-1].strip()})") from None
    dev = choose_device(device)
    return Run(path, name, model.to(dev).eval(), ds, split, config, encoder, codes, metrics, dev)
