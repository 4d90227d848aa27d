"""DCNv2 and DIN of the zoo beside FuxiCTR's, on the same rows, features, split and batches: one CSV row per model, data set and seed.

    python benchmarks/fuxictr_side_by_side.py                               # both models, both data sets, 3 seeds -> benchmarks/results/fuxictr_side_by_side.csv
    python benchmarks/fuxictr_side_by_side.py ml-100k --models dcnv2 --seeds 1
    python benchmarks/fuxictr_side_by_side.py marketplace --models din --users 2700 --set epochs=6     # three times the shop
    for r in 3e-4 1e-3 2e-3; do python benchmarks/fuxictr_side_by_side.py ml-100k --models din --set lr=$r; done     # other rates; --table then says what validation prefers
    python benchmarks/fuxictr_side_by_side.py --set epochs=12 lr=1e-3       # other fields than those below; epochs, rate, batch, dropout and clipping hold for both sides
    python benchmarks/fuxictr_side_by_side.py --table                       # what is in the CSV: AUC, mean difference, its interval over the seeds

FuxiCTR needs its own packages (PINS): the first run makes an environment for it in .cache/fuxictr (1.7 GB; `--env` puts it elsewhere, `--pip-flags` is handed to pip: on Linux
the plain torch brings CUDA with it). Its models DIN and DCNv2, its feature map and its training loop are called as they are; the processes exchange npz and JSON in a temporary folder.

Both sides read what our encoder makes: the codes of all features of the exposed candidate, its user and its request, and of each of the last ten clicks as they were recorded, with their place,
recency and action (a candidate has none of the three: 0, the padding). FuxiCTR's sequence is a row of such behaviours, and its target a row like them.
DIN: our din-dcn-moe without cross layers and with one expert, activation unit of 16, the weighted sum not divided. DCNv2: two full cross layers, then two hidden ones; FuxiCTR's reads the mean
of the past, so ours does, too (`interest=false`). What stays different is the design: ours brings behaviours and candidate to `d` numbers first, FuxiCTR keeps all features.
Size: embeddings of 8 on both sides; FuxiCTR's hidden layers are as wide as brings its parameters outside the tables nearest to ours (`width_fuxictr` in the CSV).
Training: the same batches in the same order, Adam, the same rate at each step (half a cosine down to zero over all epochs), dropout, clipping; every epoch is run, and the weights are those with the
best AUC on validation (`curve_*` has it after each epoch). Each side draws its parameters its own way: ours torch's, tables at table_scale; FuxiCTR's Xavier's, tables of almost zero.
The rate (of 3e-4, 1e-3 and 3e-3), the epochs and the start of the tables (FuxiCTR's: its own or one like ours) were chosen on validation with seed 0, those of the marketplace's rate and tables in a smaller shop.
Marketplace: the dense pages of the quickstart (every candidate is shown; seed 1 for all trainings). ml-100k: the constructed requests of `hettrans data import movielens-requests`, read from $HETTRANS_DATA/ml-100k
(default data/, then ../shared/data). Test AUC over exposed candidates; the interval of a difference is a paired bootstrap by request, the one of a mean Student's over seeds. Rows that are in the table are
not run again.
"""
import argparse, json, os, resource, shutil, subprocess, sys, tempfile
from pathlib import Path
import numpy as np
from results_table import add_rows, data_at, fields_of, machine, rows_of, seed_mean

ROOT = Path(__file__).parents[1]
PINS = ['torch==2.13.0', 'numpy==2.4.6', 'pandas==3.1.1', 'scikit-learn==1.9.1', 'pyyaml==6.0.3', 'tqdm==4.70.1', 'pyarrow==26.0.1', 'polars==2.1.0', 'h5py==3.16.0', 'ray==2.60.0']    # what fuxictr.pytorch imports
PEER = 'fuxictr==2.3.10'
DATA = {'marketplace': 'time:0.1', 'ml-100k': 'user-time:0.2'}
CHOSEN = {'marketplace': dict(d=96, epochs=8, table_scale=.1), 'ml-100k': dict(d=64, epochs=3, table_scale=.01, use_id=False, min_count=10)}    # ml-100k: with ids of films and zip codes all models are past their best within the first epoch
TRAIN = dict(batch=64, lr=3e-3, warmup=0., schedule='cosine', weight_decay=0., clip=10., patience=0, metric='auc', dropout=.1, d_embed=8, past='clicked')
OURS = {'din': ('din-dcn-moe', TRAIN | dict(cross_layers=0, experts=1, unit=16, scale='none')),
        'dcnv2': ('dcnv2', TRAIN | dict(cross_layers=2, deep_layers=2, structure='stacked', interest=False))}
THEIRS = {'din': ('DIN', lambda m, width: dict(dnn_hidden_units=[width], attention_hidden_units=[m['unit']], attention_hidden_activations='prelu', din_use_softmax=False)),
          'dcnv2': ('DCNv2', lambda m, width: dict(model_structure='stacked', num_cross_layers=m['cross_layers'], stacked_dnn_hidden_units=[width]*m['deep_layers']))}
SIDES = ['hettrans', 'fuxictr']
KEEP = {'MALLOC_MMAP_THRESHOLD_': str(1 << 32), 'MALLOC_TRIM_THRESHOLD_': str(1 << 33)}    # glibc keeps the memory of large temporary arrays: less than half the time of FuxiCTR's DIN
KEY = ['dataset', 'model', 'set', 'seed', 'split', 'users', 'requests', 'max_past']
FIELDS = [*KEY, 'n', 'clicks', *(f'auc_{s}{e}' for s in SIDES for e in ('', '_lo', '_hi')), 'difference', 'difference_lo', 'difference_hi', *(f'{k}_{s}' for k in ('valid', 'best_epoch', 'curve', 'width', 'params', 'dense_params', 'minutes') for s in SIDES),
          'versions', 'machine']

def cpu_minutes(): return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))/60
def curve(aucs): return ' '.join(f'{x:.4f}' for x in aucs)

# ---- our side -----------------------------------------------------------------------------------------------------------------------------------------------------------------------------------

def data(a):
    "The dataset of a name"
    if a.dataset == 'marketplace':
        from hettrans.cli import Quickstart
        from hettrans.zoo.rank_parts import page_world
        return page_world(a.users, a.requests, 1, **{k: v for k, v in Quickstart().dials().items() if k not in ('users', 'requests')})[0]
    from hettrans.data.dataset import open_dataset
    from hettrans.data.public_requests import import_movielens_requests
    folder = Path(tempfile.mkdtemp(prefix='films-'))
    import_movielens_requests(a.dataset, data_at(a.dataset), folder, progress=False, unexposed=1)   # nobody reads more of them here
    ds = open_dataset(folder); shutil.rmtree(folder)
    return ds

def hand_over(run, folder, seed, model):
    "Write what our model has read for FuxiCTR: codes from 1 on, 0 = padding"
    from hettrans.data.requests import request_batches
    from hettrans.engine.loop import rate
    from hettrans.homer.count import counted_params
    from hettrans.homer.encoder import recency
    m, t, tokens, s = run.config['model'], run.config['train'], run.encoder.tokens, run.split
    if odd := [x.name for x in tokens if x.kind not in ('table', 'pieces')]: raise SystemExit(f'{odd}: only features with codes can be handed over')
    parts = [s.train, s.valid, s.test]; requests = np.concatenate(parts)
    batch = run.data.batch(requests)
    rows = lambda side, items: {**{k: v[items] for k, v in run.catalogue.items()}, **side}
    codes = lambda of: np.concatenate([of[x.name].reshape(len(of[x.name]), -1).numpy() + 1 for x in tokens], 1)
    of_n, of_j = (np.repeat(np.arange(len(batch)), o.diff()) for o in (batch.offsets, batch.past_offsets))
    spread = lambda side, at: {k: v[at] for k, v in side.items()}
    cand = codes(rows(batch.cross | spread(batch.user, of_n) | spread(batch.context, of_n), batch.items))
    own = [x.clamp(0, n - 1)[:, None].numpy() + 1 for x, n in ((batch.past_position, m.position_rows), (recency(batch.past_offsets), m.recency_rows), (batch.past_action, 2))]
    lived = np.concatenate([codes(rows(batch.past_cross | batch.past_user | batch.past_context, batch.past_items)), *own], 1)
    past = np.zeros((len(batch), m.max_past, lived.shape[1]), np.int32)
    past[of_j, np.arange(len(of_j)) - batch.past_offsets.numpy()[of_j]] = lived
    known = (~batch.clicked.isnan() & (batch.exposed > 0)).numpy()
    first = np.concatenate([[0], np.bincount(of_n[known], minlength=len(batch)).cumsum()]); place = np.zeros(len(run.split.log), int); place[requests] = np.arange(len(batch))
    of_requests = lambda r: np.concatenate([np.arange(first[i], first[i + 1]) for i in place[r]])
    arrays = dict(cand=np.pad(cand[known], ((0, 0), (0, 3))).astype(np.int32), of=of_n[known], label=batch.clicked.numpy()[known].astype(np.float32), past=past, length=batch.past_offsets.diff().numpy(),
                  valid=of_requests(s.valid), test=of_requests(s.test))
    for e in range(t.epochs):
        parts = [x for r in request_batches(run.data.sizes, s.train, t.batch, np.random.default_rng([t.seed, e]), most=run.config['protocol'].rows) if len(x := of_requests(r))]
        arrays |= {f'rows{e}': np.concatenate(parts), f'ends{e}': np.cumsum([len(x) for x in parts])}
    steps = sum(len(arrays[f'ends{e}']) for e in range(t.epochs))
    arrays['rates'] = np.array([t.lr*rate(i, steps, t) for i in range(steps)])
    np.savez(folder/'data.npz', **arrays)
    columns = [(f'{x.name}_{i}', x.rows, m.d_embed//max(1, x.pieces)) for x in tokens for i in range(max(1, x.pieces))] + [(n, r, m.d_embed) for n, r in (('place', m.position_rows), ('recency', m.recency_rows), ('action', 2))]
    features = [{n: dict(source='item', type='categorical', vocab_size=r + 1, padding_idx=0, embedding_dim=d)} for n, r, d in columns]
    (folder/'feature_map.json').write_text(json.dumps(dict(dataset_id='rows', num_fields=len(columns), total_features=0, input_length=len(columns), labels=['label'], features=features)))
    (folder/'peer.json').write_text(json.dumps(dict(model=model, config=vars(m), dense=counted_params(run.model), seed=seed, epochs=t.epochs, clip=t.clip,
                                                    fields=dict(learning_rate=t.lr, embedding_dim=m.d_embed, net_dropout=m.dropout, early_stop_patience=t.patience or t.epochs))))
    return arrays['label'][arrays['test']], requests[arrays['of'][arrays['test']]]

def run_one(ds, model, seed, a):
    "Train ours, hand over, train FuxiCTR's, judge both on the same rows"
    from hettrans.engine.rank_run import set_logits
    from hettrans.engine.ranking import Judged, ranking_difference, ranking_metrics
    from hettrans.engine.run import count_params, fit
    from hettrans.homer.count import counted_params
    out, began, (name, fields) = Path(tempfile.mkdtemp(prefix='fuxictr-')), cpu_minutes(), OURS[model]
    run = fit(name, ds, out/'run', preset='paper', bar=a.bar, **(fields | CHOSEN[a.dataset] | dict(seed=seed, split=a.split, max_past=a.max_past, recency_rows=a.max_past) | fields_of(a.set)))
    minutes, done = cpu_minutes() - began, json.loads((out/'run'/'training.json').read_text())
    label, request = hand_over(run, out, seed, model)
    logit, _ = set_logits(run, lambda r: run.data.batch(run.split.test[r]), run.data.sizes[run.split.test], run.catalogue)
    batch = run.data.batch(run.split.test)
    known = (~batch.clicked.isnan() & (batch.exposed > 0)).numpy()
    assert np.array_equal(batch.clicked.numpy()[known], label), 'the two sides judge different rows'
    began = cpu_minutes()
    subprocess.run([a.env/'bin'/'python', '-W', 'ignore', __file__, '--peer', out], check=True, env=os.environ | KEEP)
    theirs, said = np.load(out/'said.npz')['p'], json.loads((out/'said.json').read_text())
    judged = dict(hettrans=logit[known], fuxictr=np.log(theirs) - np.log1p(-theirs))
    diff = ranking_difference(*(Judged(x, label, request) for x in judged.values()))
    row = dict(n=len(label), clicks=int(label.sum()), difference=diff['auc'], difference_lo=diff['auc_lo'], difference_hi=diff['auc_hi'], valid_hettrans=done['best'], best_epoch_hettrans=done['best_epoch'],
               curve_hettrans=curve(json.loads(x)['auc'] for x in (out/'run'/'metrics.jsonl').read_text().splitlines()), width_hettrans=run.config['model'].d, params_hettrans=count_params(run.model),
               dense_params_hettrans=counted_params(run.model), minutes_hettrans=minutes, minutes_fuxictr=cpu_minutes() - began, machine=machine())
    for s, x in judged.items(): row |= {f'auc_{s}{e}': v for e, v in zip(('', '_lo', '_hi'), map(ranking_metrics(x, label, request).get, ('auc', 'auc_lo', 'auc_hi')))}
    shutil.rmtree(out)
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in (row | said).items()}

# ---- FuxiCTR's side: runs in its own environment, without hettrans ---------------------------------------------------------------------------------------------------------------------------

class Batches:
    "Batches of rows as FuxiCTR's sequence models take them: labels, features of past and target, which places of the past are there; epoch by epoch where rows come in epochs"
    def __init__(self, z, names, epochs): self.z, self.names, self.epochs, self.epoch = z, names, epochs, 0
    def __len__(self): return len(self.epochs[0])
    def __iter__(self):
        import torch
        rows_of_batches = self.epochs[self.epoch % len(self.epochs)]; self.epoch += 1
        for rows in rows_of_batches:
            of = self.z['of'][rows]; width = max(1, int(self.z['length'][of].max()))
            items = np.concatenate([self.z['past'][of, :width], self.z['cand'][rows][:, None]], 1)
            mask = np.arange(width) < self.z['length'][of][:, None]
            yield dict(label=torch.from_numpy(self.z['label'][rows])), {n: torch.from_numpy(items[:, :, i].reshape(-1)) for i, n in enumerate(self.names)}, torch.from_numpy(mask).float()

def dense_params(model):
    "Parameters outside the tables"
    import torch
    return sum(x.numel() for x in model.parameters()) - sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))

def peer(folder):
    "Train a model of FuxiCTR on handed-over rows and say its test probabilities"
    import importlib.metadata, torch
    import model_zoo.LongCTR as zoo
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.torch_utils import seed_everything
    told, features = json.loads((folder/'peer.json').read_text()), FeatureMap('rows', str(folder))
    features.load(str(folder/'feature_map.json'), dict(embedding_dim=told['fields']['embedding_dim']))
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', os.cpu_count())))
    seed_everything(told['seed']); (folder/'rows').mkdir()
    name, more = THEIRS[told['model']]
    make = lambda width: getattr(zoo, name)(features, model_id=name, optimizer='adam', loss='binary_crossentropy', metrics=['AUC'], monitor='AUC', monitor_mode='max', reduce_lr_on_plateau=False, verbose=0,
                                            model_root=str(folder), **told['fields'], **more(told['config'], width))
    width = min(range(8, 513, 4), key=lambda w: abs(dense_params(make(w)) - told['dense']))
    seed_everything(told['seed'])
    model = make(width)
    with np.load(folder/'data.npz') as f: z = dict(f)
    chunks = lambda rows: [np.array_split(rows, -(-len(rows)//2048))]
    train = Batches(z, list(features.features), [np.split(z[f'rows{e}'], z[f'ends{e}'][:-1]) for e in range(told['epochs'])])
    valid, test = (Batches(z, list(features.features), chunks(z[k])) for k in ('valid', 'test'))
    seen = []; judge = model.checkpoint_and_earlystop
    model.checkpoint_and_earlystop = lambda logs, **kw: (seen.append(logs['AUC']), judge(logs, **kw))     # listens only
    step, rates = model.train_step, z['rates']
    def at_rate(batch):
        for group in model.optimizer.param_groups: group['lr'] = rates[model._total_steps - 1]
        return step(batch)
    model.train_step = at_rate
    model.fit(train, epochs=told['epochs'], validation_data=valid, max_gradient_norm=told['clip'])
    p = model.predict(test)
    np.savez(folder/'said.npz', p=p)
    (folder/'said.json').write_text(json.dumps(dict(valid_fuxictr=max(seen), best_epoch_fuxictr=int(np.argmax(seen)), params_fuxictr=sum(x.numel() for x in model.parameters()), dense_params_fuxictr=dense_params(model), width_fuxictr=width, curve_fuxictr=curve(seen),
                                                    versions=', '.join(f'{n} {importlib.metadata.version(n)}' for n in ('fuxictr', 'torch')))))

def make_environment(folder, flags):
    "An environment with FuxiCTR, unless it is there"
    python, stamp = folder/'bin'/'python', folder/'pins.txt'
    pins = '\n'.join([*PINS, PEER])
    if stamp.exists() and stamp.read_text() == pins: return
    print(f'making an environment for {PEER} in {folder} (minutes, once)', flush=True)
    subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
    install = [python, '-m', 'pip', '--disable-pip-version-check', 'install', '-q', *flags]
    subprocess.run([*install, *PINS], check=True)
    subprocess.run([*install, '--no-deps', PEER], check=True)
    stamp.write_text(pins)

# ---- both -------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------

def best_by_validation(groups):
    "Where several settings were run: each side with the one that its own validation prefers, mean of the seeds"
    worlds, mean = {}, lambda rows, column: np.mean([float(r[column]) for r in rows])
    for key, rows in groups.items(): worlds.setdefault((*key[:2], *key[3:]), {})[key[2]] = sorted(rows, key=lambda r: int(r['seed']))
    for (dataset, model, *_), settings in worlds.items():
        full = {k: rows for k, rows in settings.items() if len(rows) == max(map(len, settings.values()))}
        if len(full) < 2: continue
        best = {s: max(full, key=lambda k: mean(full[k], f'valid_{s}')) for s in SIDES}
        d, half = seed_mean([float(x['auc_hettrans']) - float(y['auc_fuxictr']) for x, y in zip(full[best['hettrans']], full[best['fuxictr']])])
        print(f"\n{dataset} {model}, each side as its own validation prefers (ours {best['hettrans'] or 'as above'}, FuxiCTR {best['fuxictr'] or 'as above'}; of {len(full)} settings): "
              f"ours {mean(full[best['hettrans']], 'auc_hettrans'):.4f}, FuxiCTR {mean(full[best['fuxictr']], 'auc_fuxictr'):.4f}, difference {d:+.4f} [{d - half:+.4f}, {d + half:+.4f}] over seeds")

def print_table(path):
    "Every run of the CSV, then the mean of the seeds"
    groups = {}
    for r in rows_of(path): groups.setdefault(tuple(r[k] for k in KEY if k != 'seed'), []).append(r)
    for (dataset, model, *more), rows in groups.items():
        print(f"\n{dataset} {model} ({' '.join(x for x in more if x)}; {rows[0]['n']} test rows; parameters ours {rows[0]['params_hettrans']} ({rows[0]['dense_params_hettrans']} without tables), FuxiCTR's {rows[0]['params_fuxictr']} ({rows[0]['dense_params_fuxictr']}); {rows[0]['versions']})")
        for r in rows: print(f"  seed {r['seed']}: ours {float(r['auc_hettrans']):.4f}, FuxiCTR {float(r['auc_fuxictr']):.4f}, difference {float(r['difference']):+.4f} [{float(r['difference_lo']):+.4f}, {float(r['difference_hi']):+.4f}] by request, {r['minutes_hettrans']} and {r['minutes_fuxictr']} min")
        mean, (d, half) = {s: np.mean([float(r[f'auc_{s}']) for r in rows]) for s in SIDES}, seed_mean([float(r['difference']) for r in rows])
        print(f"  mean of {len(rows)}: ours {mean['hettrans']:.4f}, FuxiCTR {mean['fuxictr']:.4f}, difference {d:+.4f} [{d - half:+.4f}, {d + half:+.4f}] over seeds")
    best_by_validation(groups)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('datasets', nargs='*', metavar='dataset', help=f'any of {", ".join(DATA)}; none: both'); p.add_argument('--models', nargs='+', default=list(OURS), choices=list(OURS)); p.add_argument('--seeds', type=int, default=3); p.add_argument('--first-seed', type=int, default=0)
    p.add_argument('--users', type=int, default=900, help='of the marketplace'); p.add_argument('--requests', type=float, default=10., help='of each, on average'); p.add_argument('--max-past', type=int, default=10, help='behaviours that a request reads')
    p.add_argument('--set', nargs='*', default=[], metavar='FIELD=VALUE', help='other fields; those of the training hold for both sides'); p.add_argument('--table', action='store_true', help='print the comparison, run nothing'); p.add_argument('--bar', action='store_true')
    p.add_argument('--env', type=Path, default=ROOT/'.cache'/'fuxictr', help="FuxiCTR's environment"); p.add_argument('--pip-flags', default='', help='for pip, in one word'); p.add_argument('--peer', type=Path, help=argparse.SUPPRESS)
    p.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'fuxictr_side_by_side.csv')
    a = p.parse_args()
    if a.peer: return peer(a.peer)
    if a.table: return print_table(a.out)
    if odd := set(a.datasets) - set(DATA): p.error(f'{", ".join(odd)}: choose from {", ".join(DATA)}')
    make_environment(a.env, a.pip_flags.split())
    for a.dataset in a.datasets or DATA:
        a.split, ds = DATA[a.dataset], None
        world = dict(users=a.users, requests=a.requests) if a.dataset == 'marketplace' else dict(users='', requests='')
        for model in a.models:
            for seed in range(a.first_seed, a.first_seed + a.seeds):
                key = dict(dataset=a.dataset, model=model, set=' '.join(sorted(a.set)), seed=seed, split=a.split, max_past=a.max_past, **world)
                if any(all(r[k] == str(key[k]) for k in KEY) for r in rows_of(a.out)): continue
                ds = ds or data(a)
                add_rows(a.out, FIELDS, [row := run_one(ds, model, seed, a) | key])
                print(f"{a.dataset} {model} seed {seed}: ours {row['auc_hettrans']:.4f} (epoch {row['best_epoch_hettrans']}, {row['minutes_hettrans']:.1f} min), FuxiCTR {row['auc_fuxictr']:.4f} (epoch {row['best_epoch_fuxictr']}, "
                      f"{row['minutes_fuxictr']:.1f} min), difference {row['difference']:+.4f} [{row['difference_lo']:+.4f}, {row['difference_hi']:+.4f}]", flush=True)
    print_table(a.out)

if __name__ == '__main__': main()
