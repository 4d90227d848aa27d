"""What each component of HeterRec is worth on the marketplace: one switch at a time, several seeds.

    python benchmarks/ablations.py                    # all variants, 3 seeds -> benchmarks/results/ablations.csv
    python benchmarks/ablations.py --variants full no-htfl --seeds 1

The seed is that of the simulated shop and of the training. Recall@10 and NDCG@10 on the test split (leave-last-out, full catalogue,
seen items filtered), over all cases and over the cases whose answer the simulator drew for a given reason: a component should pay
where its effect was planted. Rows that are in the table already are not run again.
"""
import argparse, json, shutil, tempfile, time
from dataclasses import replace
from pathlib import Path
import numpy as np
from hettrans.data.dataset import from_frames, open_dataset
from hettrans.engine.evaluate import case_ranks
from hettrans.engine.metrics import case_values
from hettrans.engine.run import fit
from results_table import add_rows, rows_of

ROOT = Path(__file__).parents[1]
BASE = dict(preset='shop', epochs=5)   # a fixed budget: the schedule of the rate ends after five passes for everybody
VARIANTS = {   # name -> (what changes, reasons where it should pay)
    'full': ({}, ()),
    'no-htfl': (dict(htfl=False), ('conjunction',)),
    'no-time-gap': (dict(time_gap=False), ('complements', 'replenishment')),
    'three-steps': (dict(steps=3), ('plans',)),
    'token-loss': (dict(token_weight=.1), ('conjunction',)),
    'no-content': (dict(drop=('title', 'image')), ('cold', 'taste')),
    'no-hct': (dict(hct=False), ('conjunction',)),
    'time-unknown': (dict(request_time='unknown'), ('complements', 'replenishment')),
    'no-slope': (dict(gap_slope=0.), ()),
    'no-neighbours': (dict(neighbours=0), ()),
    'no-indicator': (dict(steps=3, indicator=False), ('plans',)),
    'quantile-tokens': (dict(multimodal='quantile'), ('cold',)),
    'past-items': (dict(mask='past_items'), ()),
    'token-mask': (dict(mask='token'), ()),
}
FIELDS = ['variant', 'seed', 'reason', 'n', 'recall@10', 'ndcg@10', 'valid_ndcg@10', 'epochs', 'minutes', 'users', 'items']

def without(ds, features):
    "The dataset without some features of its items"
    if not features: return ds
    items = ds.schema.tables['items']
    table = replace(items, features={k: v for k, v in items.features.items() if k not in features})
    return from_frames(replace(ds.schema, tables=ds.schema.tables | {'items': table}), {k: v for k, v in ds.tables.items()}, ds.truth)

def by_reason(run, reasons):
    "Metrics of all cases, and of the cases drawn for each reason"
    cases, log = run.split.test, run.split.log
    ranks, owner, _ = case_ranks(run.scorer(cases), cases, log.item_j)
    why = reasons[log.row_j[cases.end_c]][owner]
    for reason in ('all', *np.unique(why)):
        keep = np.ones(len(why), bool) if reason == 'all' else why == reason
        _, values = case_values(ranks[keep], owner[keep])
        yield reason, int(keep.sum()), *(float(values[k].mean()) for k in ('recall@10', 'ndcg@10'))

def run_one(variant, seed, a):
    began, out = time.time(), Path(tempfile.mkdtemp(prefix='ablation-'))
    ds = open_dataset('marketplace', users=a.users, items=a.items, seed=seed)
    fields = BASE | VARIANTS[variant][0]
    run = fit('heterrec', without(ds, fields.pop('drop', ())), out/'run', bar=a.bar, seed=seed, **fields)
    done = json.loads((out/'run'/'training.json').read_text())
    shutil.rmtree(out)
    for reason, n, recall, ndcg in by_reason(run, ds.truth.truth['reason'].to_numpy().astype(str)):
        yield dict(zip(FIELDS, (variant, seed, reason, n, round(recall, 5), round(ndcg, 5), round(done['best'], 5), done['epoch'], round((time.time() - began)/60, 1), a.users, a.items)))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--variants', nargs='+', default=list(VARIANTS), choices=list(VARIANTS)); p.add_argument('--seeds', type=int, default=3); p.add_argument('--first-seed', type=int, default=0)
    p.add_argument('--users', type=int, default=3000); p.add_argument('--items', type=int, default=2000); p.add_argument('--bar', action='store_true')
    p.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'ablations.csv')
    a = p.parse_args()
    done = {(r['variant'], r['seed'], r['users'], r['items']) for r in rows_of(a.out)}
    for seed in range(a.first_seed, a.first_seed + a.seeds):
        for variant in a.variants:
            if (variant, str(seed), str(a.users), str(a.items)) in done: continue
            rows = list(run_one(variant, seed, a))
            add_rows(a.out, FIELDS, rows)
            print(variant, seed, ' '.join(f"{r['reason']} {r['recall@10']:.3f}" for r in rows), f"{rows[0]['minutes']} min", flush=True)

if __name__ == '__main__': main()
