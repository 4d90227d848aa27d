"""Our SASRec beside RecBole's on the same files, order, split, catalogue and metrics: one CSV row per model and seed.

    python benchmarks/recbole_side_by_side.py                                      # RecBole's and ours on ml-100k, 3 seeds -> benchmarks/results/recbole_side_by_side.csv
    python benchmarks/recbole_side_by_side.py --variants recbole ids --seeds 5
    python benchmarks/recbole_side_by_side.py --set epochs=30 patience=5 batch=2000     # a field of SAME: for both sides
    python benchmarks/recbole_side_by_side.py --variants ids --set schedule=cosine      # any other field: for ours alone
    python benchmarks/recbole_side_by_side.py --table                              # what is in the CSV: is ours within two standard errors of RecBole's?

RecBole needs older packages (PINS): the first run makes an environment for it in .cache/recbole (0.5 GB; `--env` puts it elsewhere), which borrows the torch of this one. Ray, which only its
tuning and `run_recbole` import, is left out: its data set, model and training loop are called as they are; the processes exchange JSON and RecBole's own files in a temporary folder.

The same on both sides: every rating is a positive; time order, equal times in the order of the file; the last behaviour is test, the one before validation; the whole catalogue is scored, what
the user has had (all of it, not only what the model reads) is filtered, ties count against the model; weights of the best NDCG@10 on validation, then one look at the test; Adam at a constant
rate; the fields of SAME. Behind the standard error of a mean over users, test items of all users, and their whole histories, are compared one by one: a difference ends the run.
 - RecBole keeps times as float32 shares of the log's span (here in steps of up to 1.2 s), and sorts stably: its copy of the log is sorted beforehand, and then its order is ours. That copy has
   another name, since RecBole reads a copy of its own for the name ml-100k.
 - RecBole does not filter what was seen for sequential models (`repeatable`): the run here does, in its training loop's evaluation, too. Test metrics without the filter are `..._kept`.
 - RecBole makes a sample of every prefix of a history, with up to `max_len` items before its target. Ours cuts histories into windows of `max_len` and asks at every position at once: a target
   reads `max_len`/2 items on average, and an epoch computes about `max_len` times less. In both an epoch asks for each training target once, and `batch` is the number of targets of a step
   (ours: batch/max_len windows).
 - RecBole's blocks normalise after the residual, read GELU, drop attention weights, too, and score by dot products. Ours normalises before, reads ReLU, and scores cosines over a learned
   temperature (`ids`), or dot products (`ids-dot`). `content` reads the films' features, too; RecBole's SASRec cannot.
 - RecBole's tables start at a standard deviation of 0.02, and so do ours here (`table_scale`); `ids-start` starts at 1/sqrt(d), six times as much at width 64: Adam, whose steps are of the size
   of the rate, needs long to forget it.
RecBole's import of another model switches on autograd's search for anomalies, a third of the time; it is switched off again, which changes no number. Minutes are those of the CPU.
Reads $HETTRANS_DATA (default data/, then ../shared/data). Rows that are in the table already are not run again, so a broken study goes on where it stopped.
"""
import argparse, json, math, os, resource, shutil, subprocess, sys, tempfile
from pathlib import Path
from results_table import add_rows, data_at, fields_of, machine, rows_of

ROOT = Path(__file__).parents[1]
PEER, LOG = 'recbole==1.2.1', 'sorted'
PINS = ['numpy==1.23.5', 'scipy==1.10.1', 'pandas==1.5.3', 'python-dateutil==4.0.0', 'scikit-learn==1.2.2', 'colorlog==4.7.2', 'colorama==0.4.4', 'texttable==1.7.0', 'pyyaml==6.0.2', 'tqdm==4.67.1', 'tensorboard==2.15.2', 'protobuf==7.36.2']   # what it imports
SAME = dict(max_len=50, d=64, layers=2, heads=2, ffn=1, dropout=.2, lr=1e-3, epochs=8, patience=2, batch=100)   # ffn in multiples of d and dropout: Kang and McAuley 2018 on MovieLens
FIXED = dict(preset='paper', loss='softmax', schedule='constant', warmup=0., weight_decay=0., metric='ndcg@10', bar=False)
START = .16    # length of a row at the start: a standard deviation of 0.02 at width 64
VARIANTS = {   # ours: fields of `fit`
    'recbole': None, 'ids': dict(content=False, normalise=True, table_scale=START), 'content': dict(content=True, normalise=True, table_scale=START),
    'ids-dot': dict(content=False, normalise=False, table_scale=START), 'ids-start': dict(content=False, normalise=True, table_scale=1.)}
KEEP = {'MALLOC_MMAP_THRESHOLD_': str(1 << 32), 'MALLOC_TRIM_THRESHOLD_': str(1 << 33)}    # glibc keeps the memory of large temporary arrays: three quarters of RecBole's time
METRICS = ['recall@10', 'ndcg@10']
FIELDS = ['dataset', 'variant', 'set', 'seed', 'n', *(f'{m}{k}{e}' for k in ('', '_kept') for m in METRICS for e in ('', '_se')), 'valid_ndcg@10', 'best_epoch', 'epochs_run', 'params', 'minutes', 'versions', 'machine']

def cpu_minutes(): return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))/60

def settings(variant, words):
    "Fields of both sides, fields of ours alone, and how the CSV calls them"
    chosen = fields_of(words)
    same = {k: type(v)(chosen.get(k, v)) for k, v in SAME.items()}
    own = {k: v for k, v in chosen.items() if k not in SAME} if VARIANTS[variant] is not None else {}
    return same, own, ' '.join(f'{k}={v}' for k, v in sorted((same | own).items()))

def judged(ranks, kept):
    "Means over users and their standard errors, with seen items filtered and kept"
    import numpy as np
    from hettrans.engine.metrics import case_values
    out = {}
    for name, r in (('', ranks), ('_kept', kept)):
        values = case_values(np.array(r), np.arange(len(r)), [10])[1]
        for m in METRICS: out |= {f'{m}{name}': values[m].mean(), f'{m}{name}_se': values[m].std(ddof=1)/math.sqrt(len(r))}
    return out | dict(n=len(ranks))

# ---- our side -----------------------------------------------------------------------------------------------------------------------------------------------------------------------------------

def run_ours(ds, variant, seed, a):
    "Train ours through the public `fit`, judge it once"
    import torch, hettrans
    from hettrans.engine.evaluate import case_ranks
    from hettrans.engine.run import count_params
    same, own, _ = settings(variant, a.set)
    out, began = Path(tempfile.mkdtemp(prefix='ours-')), cpu_minutes()
    windows = max(1, round(same['batch']/same['max_len']))
    run = hettrans.fit('sasrec', ds, out/'run', **FIXED | same | dict(batch=windows, seed=seed) | VARIANTS[variant] | own)
    cases = run.split.test
    ranks, kept = (case_ranks(run.scorer(cases), cases, run.split.log.item_j, k)[0].tolist() for k in (False, True))
    done = json.loads((out/'run'/'training.json').read_text())
    shutil.rmtree(out)
    return judged(ranks, kept) | {'valid_ndcg@10': done['best'], 'best_epoch': done['best_epoch'] + 1, 'epochs_run': done['epoch'], 'params': count_params(run.model), 'minutes': cpu_minutes() - began,
                                  'versions': f'hettrans {hettrans.__version__}, torch {torch.__version__}'}

def run_theirs(ds, log, seed, a):
    "Hand RecBole its own files in order of time, compare what it asks with what we ask, judge its ranks by our metrics"
    import numpy as np
    from hettrans.data.sequences import sort_behaviours
    out, (same, _, _), began = Path(tempfile.mkdtemp(prefix='recbole-')), settings('recbole', a.set), cpu_minutes()
    (out/LOG).mkdir()
    head, *lines = log.read_text(encoding='utf-8').splitlines()
    names = [h.split(':')[0] for h in head.split('\t')]
    lines.sort(key=lambda line: float(line.split('\t')[names.index('timestamp')]))     # stable
    (out/LOG/f'{LOG}.inter').write_text('\n'.join([head, *lines]) + '\n', encoding='utf-8')
    (out/'told.json').write_text(json.dumps(dict(seed=seed, **same)))
    subprocess.run([a.env/'bin'/'python', '-W', 'ignore', Path(__file__).resolve(), '--peer', out], check=True, cwd=out, env=os.environ | KEEP)
    said = json.loads((out/'said.json').read_text())
    ours, keys = sort_behaviours(ds), ds.items[ds.schema.tables['items'].roles['key']].to_numpy()
    order = {u: keys[ours.item_j[i:j]].tolist() for u, i, j in zip(ours.user_keys, ours.offsets, ours.offsets[1:])}
    if (odd := [u for u in order if order[u] != said['order'].get(u)]) or len(order) != len(said['order']): raise SystemExit(f'RecBole and hettrans order the histories of {len(odd)} users differently, e.g. {odd[:3]}')
    if (odd := [u for u in order if order[u][-1] != said['test'].get(u)]) or said['items'] != len(keys): raise SystemExit(f'{len(odd)} users have another test item, catalogues of {said["items"]} and {len(keys)} items')
    if abs(said['own'] - (mine := judged(said['valid'], said['valid'])['ndcg@10'])) > 1e-4: raise SystemExit(f'validation NDCG@10 is {said["own"]} by RecBole and {mine} by hettrans')
    shutil.rmtree(out)
    print(f"recbole: {len(order)} histories, validation and test items are those of hettrans; its validation NDCG@10 {said['own']:.4f} is ours ({mine:.4f})", flush=True)
    return judged(said['ranks'], said['kept']) | {'valid_ndcg@10': said['own'], 'minutes': cpu_minutes() - began} | {k: said[k] for k in ('best_epoch', 'epochs_run', 'params', 'versions')}

# ---- RecBole's side: runs in its own environment, without hettrans ---------------------------------------------------------------------------------------------------------------------------

def histories(parts, config, item_of):
    "Items of every user in the order in which RecBole's splits ask for them"
    user, item, length = config['USER_ID_FIELD'], config['ITEM_ID_FIELD'], config['ITEM_LIST_LENGTH_FIELD']
    order = {}
    for part in parts:
        f = part.inter_feat
        for u, i, n, past in zip(f[user].tolist(), f[item].tolist(), f[length].tolist(), f[item + config['LIST_SUFFIX']][:, 0].tolist()):
            if u not in order: assert n == 1; order[u] = [past]
            order[u].append(i)
    return order

def peer(folder):
    "Train RecBole's SASRec and say the ranks of the test items"
    import torch, recbole
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer
    from recbole.utils import init_seed
    t, sys.argv = json.loads((folder/'told.json').read_text()), sys.argv[:1]      # RecBole reads the command line, too
    torch.autograd.set_detect_anomaly(False); torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', os.cpu_count())))
    sizes = dict(MAX_ITEM_LIST_LENGTH=t['max_len'], hidden_size=t['d'], n_layers=t['layers'], n_heads=t['heads'], inner_size=t['ffn']*t['d'], hidden_dropout_prob=t['dropout'], attn_dropout_prob=t['dropout'])
    learn = dict(loss_type='CE', train_neg_sample_args=None, learning_rate=t['lr'], epochs=t['epochs'], stopping_step=t['patience'] - 1 if t['patience'] else t['epochs'], train_batch_size=t['batch'], seed=t['seed'])
    judge = dict(eval_args=dict(split=dict(LS='valid_and_test'), order='TO', mode='full', group_by='user'), metrics=['Recall', 'NDCG'], topk=[10], valid_metric='NDCG@10', metric_decimal_place=8)
    where = dict(data_path=str(folder), checkpoint_dir=str(folder/'saved'), use_gpu=False, show_progress=False, load_col=dict(inter=['user_id', 'item_id', 'timestamp']))
    config = Config('SASRec', LOG, config_dict=sizes | learn | judge | where)
    init_seed(t['seed'], True)
    data = create_dataset(config)
    loads = data_preparation(config, data)
    user, item = config['USER_ID_FIELD'], config['ITEM_ID_FIELD']
    order = histories([x.dataset for x in loads], config, data.iid_field)

    class Filtered(Trainer):
        back, keep = 2, False     # the target of validation stands 2 places before the end of a history, that of test 1
        def _full_sort_batch_eval(self, batched):
            interaction, scores, rows, right = super()._full_sort_batch_eval(batched)
            for row, u in enumerate([] if self.keep else interaction[user].tolist()): scores[row, order[u][:-self.back]] = -torch.inf
            return interaction, scores, rows, right

    init_seed(t['seed'], True)
    model = SASRec(config, loads[0].dataset); trainer = Filtered(config, model)
    seen = []
    trainer.fit(loads[0], loads[1], verbose=False, callback_fn=lambda e, v: (seen.append(v), print(f'recbole seed {t["seed"]} epoch {e + 1}: validation ndcg@10 {v:.4f}, {cpu_minutes():.1f} min', flush=True)))
    model.load_state_dict(torch.load(trainer.saved_model_file, weights_only=False)['state_dict']); model.eval()

    @torch.no_grad()
    def ranks(load, back, keep):
        "Place of the right item of every case, ties against the model"
        trainer.back, trainer.keep, out = back, keep, []
        for batched in load:
            _, s, rows, right = trainer._full_sort_batch_eval(batched)
            out += (s >= s[rows, right][:, None]).sum(1).tolist()
        return out

    name = lambda field, x: str(data.id2token(field, x))
    test = loads[2].dataset.inter_feat
    (folder/'said.json').write_text(json.dumps(dict(
        order={name(user, u): [name(item, i) for i in x] for u, x in order.items()}, test={name(user, u): name(item, i) for u, i in zip(test[user].tolist(), test[item].tolist())}, items=data.item_num - 1,
        valid=ranks(loads[1], 2, False), ranks=ranks(loads[2], 1, False), kept=ranks(loads[2], 1, True), own=float(trainer.best_valid_score), best_epoch=max(range(len(seen)), key=lambda e: (seen[e], e)) + 1, epochs_run=len(seen),
        params=sum(p.numel() for p in model.parameters()), versions=f'recbole {recbole.__version__}, torch {torch.__version__}')))

def make_environment(folder):
    "An environment with RecBole and this one's torch, unless it is there"
    import torch
    stamp, python, borrowed = folder/'pins.txt', folder/'bin'/'python', str(Path(torch.__file__).parents[1])
    pins = '\n'.join([*PINS, PEER, borrowed])
    if stamp.exists() and stamp.read_text() == pins: return
    print(f'making an environment for {PEER} in {folder} (a minute, once)', flush=True)
    subprocess.run([sys.executable, '-m', 'venv', '--clear', folder], check=True)
    for more in (PINS, ['--no-deps', PEER]): subprocess.run([python, '-m', 'pip', '--disable-pip-version-check', 'install', '-q', *more], check=True)
    place = subprocess.run([python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'], check=True, capture_output=True, text=True).stdout.strip()
    (Path(place)/'borrowed.pth').write_text(borrowed + '\n')       # read after the environment's own packages
    stamp.write_text(pins)

# ---- both -------------------------------------------------------------------------------------------------------------------------------------------------------------------------------------

def print_table(a):
    "Means of the seeds beside RecBole's, with the standard error over users"
    groups = {}
    for r in rows_of(a.out):
        if r['dataset'] == a.dataset: groups.setdefault((r['variant'], r['set']), []).append(r)
    def mean(rows, k): return sum(float(r[k]) for r in rows)/len(rows)
    for (variant, words), rows in groups.items():
        print(f"\n{a.dataset} {variant}: {len(rows)} seeds, {rows[0]['n']} users, {rows[0]['params']} parameters, best epochs {' '.join(r['best_epoch'] for r in rows)}, {mean(rows, 'minutes'):.1f} CPU min each; {rows[0]['versions']}\n  {words}")
        print(f"  validation ndcg@10 {mean(rows, 'valid_ndcg@10'):.4f}")
        shared = {w for w in words.split() if w.split('=')[0] in SAME}
        theirs = next((r for (v, w), r in groups.items() if v == 'recbole' and set(w.split()) == shared), None) if variant != 'recbole' else None
        for m in [m + k for k in ('', '_kept') for m in METRICS]:
            line = f"  {m:15} {mean(rows, m):.4f}, se {mean(rows, m + '_se'):.4f} over users; seeds {' '.join(format(float(r[m]), '.4f') for r in rows)}"
            if theirs:
                d, se = mean(rows, m) - mean(theirs, m), mean(theirs, m + '_se')
                line += f"; {d:+.4f} to RecBole's {mean(theirs, m):.4f} = {d/se:+.1f} of its standard errors: {'level or better' if d >= 0 else 'within two' if d >= -2*se else 'LOWER'}"
            print(line)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('dataset', nargs='?', default='ml-100k', help="a folder of RecBole's files under $HETTRANS_DATA"); p.add_argument('--variants', nargs='+', default=list(VARIANTS), choices=list(VARIANTS))
    p.add_argument('--seeds', type=int, default=3); p.add_argument('--first-seed', type=int, default=0); p.add_argument('--set', nargs='*', default=[], metavar='FIELD=VALUE', help=f'of both: {", ".join(SAME)}; any other: of ours')
    p.add_argument('--env', type=Path, default=ROOT/'.cache'/'recbole', help="RecBole's environment"); p.add_argument('--table', action='store_true', help='print the comparison, run nothing'); p.add_argument('--peer', type=Path, help=argparse.SUPPRESS)
    p.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'recbole_side_by_side.csv')
    a = p.parse_args(); a.env = a.env.absolute()
    if a.peer: return peer(a.peer)
    log = ds = None
    for seed in [] if a.table else range(a.first_seed, a.first_seed + a.seeds):      # all variants of a seed first, so that a broken study compares all
        for variant in a.variants:
            key = dict(dataset=a.dataset, variant=variant, set=settings(variant, a.set)[2], seed=seed)
            if any(all(r[k] == str(v) for k, v in key.items()) for r in rows_of(a.out)): continue
            if ds is None: from zoo_sequential import dataset; log, ds = data_at(a.dataset)/f'{a.dataset}.inter', dataset(a.dataset)
            if VARIANTS[variant] is None: make_environment(a.env); row = run_theirs(ds, log, seed, a)
            else: row = run_ours(ds, variant, seed, a)
            add_rows(a.out, FIELDS, [{k: round(v, 5) if isinstance(v, float) else v for k, v in (key | row | dict(machine=machine())).items()}])
            print(f"{a.dataset} {variant} seed {seed}: recall@10 {row['recall@10']:.4f} (se {row['recall@10_se']:.4f}), ndcg@10 {row['ndcg@10']:.4f} (se {row['ndcg@10_se']:.4f}), validation {row['valid_ndcg@10']:.4f} in epoch {row['best_epoch']}, {row['minutes']:.1f} min", flush=True)
    print_table(a)

if __name__ == '__main__': main()
