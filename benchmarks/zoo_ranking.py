"""Every row of HoMer's Table 1 on one data path, several seeds: one CSV row per run.

    python benchmarks/zoo_ranking.py marketplace                       # all models, 3 seeds -> benchmarks/results/zoo_ranking.csv
    python benchmarks/zoo_ranking.py ml-100k --models dcnv2 cim --seeds 5
    python benchmarks/zoo_ranking.py marketplace --models cim homer --set epochs=20 cim:set_layers=2
    python benchmarks/zoo_ranking.py marketplace --models oracle pointwise-oracle

The marketplace is simulated with pages, and its seed is that of the training; `oracle` knows everything but the page, `pointwise-oracle` is the best guess
from one item at a time. ml-100k are the constructed requests of `hettrans data import movielens-requests`, read from $HETTRANS_DATA (default data/, then ../shared/data),
one log for all seeds. Test part of the split, AUC over exposed candidates with its interval by request; dense parameters and FLOPs of one request
with 300 candidates and a full past. On the marketplace also what the ranking would gain by being told each planted effect (notebook 62b).
`--set FIELD=VALUE` is for all models that are run, `--set MODEL:FIELD=VALUE` for one. Rows that are in the table already are not run again.
"""
import argparse, functools, json, shutil, tempfile, time
from pathlib import Path
import numpy as np
from hettrans.data.dataset import open_dataset
from hettrans.data.pages import before_the_page, best_pointwise
from hettrans.data.panorama import read_log
from hettrans.data.public_requests import import_movielens_requests
from hettrans.data.requests import split_requests
from hettrans.engine.rank_run import set_logits
from hettrans.engine.ranking import ranking_metrics
from hettrans.engine.run import fit
from hettrans.zoo.rank_parts import blind_spots, page_world, request_cost
from results_table import add_rows, data_at, fields_of, machine, rows_of

ROOT = Path(__file__).parents[1]
MODELS = ['din-dcn-moe', 'dcnv2', 'wukong', 'sasrec-ctr', 'cim', 'pointwise-homer', 'homer']
ORACLES = ['oracle', 'pointwise-oracle']
SPLIT = {'marketplace': 'time:0.1', 'ml-100k': 'user-time:0.1'}
METRICS, SPOTS = ['auc', 'gauc', 'logloss', 'calibration'], ['habit', 'bargain', 'occasion', 'duplicates', 'cheaper']
KEY = ['dataset', 'model', 'preset', 'set', 'seed', 'split', 'users', 'requests']
FIELDS = [*KEY, 'n', *(f'{m}{e}' for m in METRICS for e in ('', '_lo', '_hi')), 'dense_params', 'flops_300', *(f'told_{e}' for e in SPOTS), 'valid_best', 'best_epoch', 'epochs', 'minutes', 'machine']

def settings(words, model):
    "The fields of one model, and how they are written into the table"
    mine = [w.split(':', 1)[1] if w.startswith(f'{model}:') else w for w in words if ':' not in w.split('=')[0] or w.startswith(f'{model}:')]
    return fields_of(mine), ' '.join(sorted(mine))

@functools.lru_cache(1)
def data(name, users, requests, seed):
    "A dataset and, of the marketplace, its pages"
    if name == 'marketplace': return page_world(users, requests, seed)
    folder = Path(tempfile.mkdtemp(prefix='films-'))
    import_movielens_requests(name, data_at(name), folder, progress=False)
    ds = open_dataset(folder); shutil.rmtree(folder)
    return ds, None

def told(logit_n, pages, rows): return {f'told_{e}': round(x, 5) for e, x in blind_spots(logit_n, pages, rows, SPOTS).items() if e != 'auc'}

def run_oracle(model, pages, ds, split):
    "The metrics of a guess that knows the truth, on the clicks that came"
    s = split_requests(read_log(ds), split); rows = s.test
    fit_on = np.random.default_rng(0).permutation(s.train)[:6000]
    guess = before_the_page(pages, rows) if model == 'oracle' else best_pointwise(pages, rows, fit_on)
    j, row, _ = pages.flat(rows); p = np.clip(guess, 1e-6, 1 - 1e-6); logit = np.log(p) - np.log1p(-p)
    label = np.where(pages.sets.place_j[j] >= 0, pages.sets.clicked_j[j].astype(float), np.nan)
    return ranking_metrics(logit, label, row) | told(logit, pages, rows)

def run_model(model, ds, pages, seed, a, fields):
    "Train one model, judge it, count what it costs"
    out = Path(tempfile.mkdtemp(prefix='rank-'))
    r = fit(model, ds, out/'run', preset=a.preset, bar=a.bar, **(dict(seed=seed, split=a.split) | fields))
    done, cost = json.loads((out/'run'/'training.json').read_text()), request_cost(r.model, r.encoder.tokens, 300, r.config['model'].max_past)
    row = dict(r.metrics) | dict(dense_params=cost['params'], flops_300=cost['flops'], valid_best=round(done['best'], 5), best_epoch=done['best_epoch'], epochs=done['epoch'])
    if pages is not None: row |= told(set_logits(r, lambda q: r.data.batch(r.split.test[q]), r.data.sizes[r.split.test], r.catalogue)[0], pages, r.split.test)
    shutil.rmtree(out)
    return row

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('dataset', choices=list(SPLIT)); p.add_argument('--models', nargs='+', default=MODELS, choices=MODELS + ORACLES)
    p.add_argument('--seeds', type=int, default=3); p.add_argument('--first-seed', type=int, default=0)
    p.add_argument('--users', type=int, default=2000, help='of the marketplace'); p.add_argument('--requests', type=float, default=10., help='of each, on average')
    p.add_argument('--preset', default='small'); p.add_argument('--split'); p.add_argument('--set', nargs='*', default=[], metavar='[MODEL:]FIELD=VALUE'); p.add_argument('--bar', action='store_true')
    p.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'zoo_ranking.csv')
    a = p.parse_args(); a.split = a.split or SPLIT[a.dataset]
    world = dict(users=a.users, requests=a.requests) if a.dataset == 'marketplace' else dict(users='', requests='')
    if a.dataset != 'marketplace' and set(a.models) & set(ORACLES): p.error(f'{a.dataset} has no oracle')
    for seed in range(a.first_seed, a.first_seed + a.seeds):
        for model in a.models:
            fields, words = settings(a.set if model in MODELS else [], model)
            key = dict(dataset=a.dataset, model=model, preset=a.preset, set=words, seed=seed, split=a.split, **world)
            if any(all(r[k] == str(key[k]) for k in KEY) for r in rows_of(a.out)): continue
            ds, pages = data(a.dataset, a.users, a.requests, seed if a.dataset == 'marketplace' else 0)
            began = time.time()
            got = run_oracle(model, pages, ds, a.split) if model in ORACLES else run_model(model, ds, pages, seed, a, fields)
            row = {k: round(v, 5) if isinstance(v, float) else v for k, v in (got | key).items() if k in FIELDS} | dict(minutes=round((time.time() - began)/60, 2), machine=machine())
            add_rows(a.out, FIELDS, [row])
            print(f"{a.dataset} {model} {words} seed {seed}: auc {row['auc']:.4f} [{row['auc_lo']:.4f}, {row['auc_hi']:.4f}] gauc {row['gauc']:.4f} logloss {row['logloss']:.4f} "
                  f"params {row.get('dense_params', '-')} flops {row.get('flops_300', '-')} {row['minutes']} min", flush=True)

if __name__ == '__main__': main()
