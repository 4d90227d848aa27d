"""What each component of HeterRec is worth on the marketplace: one switch at a time, several seeds.

    python benchmarks/ablations.py                    # the default shop, all variants, 3 seeds -> benchmarks/results/ablations.csv
    python benchmarks/ablations.py --variants full no-htfl --seeds 1
    python benchmarks/ablations.py --worlds conjunction clock plans cold      # worlds of one effect each, the variants that belong to them
    python benchmarks/ablations.py --worlds conjunction --variants full --set lr=3e-3 slot=yes --dials conjunction=10    # rows of their own: the words stand beside the names

In the default shop seven reasons compete at every moment, so a component can fail there for lack of data alone. In a world of its own one effect is planted,
with taste and need as the background, items have only the features that the effect needs, and two bars stand beside the variants: the untrained item graph and
the oracle. The seed is that of the simulated shop and of the training. Recall@10 and NDCG@10 on the test split (leave-last-out, full catalogue, seen items
filtered), over all cases and over the cases whose answer the simulator drew for a given reason: a component should pay where its effect was planted.
Rows that are in the table already are not run again.
"""
import argparse, json, shutil, tempfile, time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
import numpy as np
from torch import nn
from hettrans.cli import oracle_scorer
from hettrans.data.dataset import from_frames, open_dataset
from hettrans.engine.evaluate import case_ranks
from hettrans.engine.metrics import case_values
from hettrans.engine.run import fit
from results_table import add_rows, fields_of, rows_of

ROOT = Path(__file__).parents[1]
VARIANTS = {   # name -> (what changes, reasons where it should pay)
    'full': ({}, ()),
    'no-htfl': (dict(htfl=False), ('conjunction', 'complements')),
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
    'near-steps': (dict(steps=3, step_weight=.3), ('plans',)),   # later steps weigh 0.3 and 0.09
}
BARS = ('item-graph', 'oracle')   # not HeterRec: transitions and content, untrained, and the simulator's own probabilities

@dataclass(frozen=True)
class World:
    "A marketplace and the training in it, the same for all variants"
    variants: tuple                 # the ones that belong here
    dials: dict                     # of the marketplace, its size among them
    fields: dict                    # of HeterRec
    drop: tuple = ()                # features of the items that nobody gets
    beside: tuple = ()              # rows beside those of the reasons: 'ahead', 'unmet'

CALM = dict(conjunction=0., complements=0., replenishment=0., plans=0., cold=0., cold_share=0., again=0.)   # taste and need alone
ONE = dict(htfl=False)              # one vector a behaviour: four times as fast, and no matter here
WORLDS = {
    'shop': World(tuple(VARIANTS), dict(users=3000, items=2000), dict(epochs=5)),   # a fixed budget: the schedule of the rate ends after five passes for everybody
    'conjunction': World(('full', 'no-htfl', *BARS), CALM | dict(users=1500, items=1200, brands=10, need=0., conjunction=30.),
        dict(epochs=15, batch=8, lr=1e-3, slot=False, use_id=False, neighbours=0, dropout=0., input_dropout=0.), ('title', 'image', 'category_top', 'category_leaf', 'price')),
    'clock': World(('full', 'no-time-gap', *BARS), CALM | dict(users=1200, items=2000, complements=30., replenishment=30.),
        dict(epochs=5) | ONE, ('title', 'image', 'category_top', 'price')),
    'plans': World(('full', 'three-steps', 'near-steps', *BARS), CALM | dict(users=1200, items=2000, plans=4., plan_start=.3),
        dict(epochs=5) | ONE, ('title', 'image', 'category_top', 'price'), ('ahead',)),
    'cold': World(('full', 'no-content', *BARS), CALM | dict(users=1200, items=2000, cold=5., cold_share=.4), dict(epochs=5) | ONE, ('brand', 'category_top', 'price'), ('unmet',)),
}
FIELDS = ['world', 'variant', 'seed', 'reason', 'n', 'recall@10', 'ndcg@10', 'valid_ndcg@10', 'epochs', 'minutes', 'users', 'items']

def without(ds, features):
    "The dataset without some features of its items"
    if not features: return ds
    items = ds.schema.tables['items']
    table = replace(items, features={k: v for k, v in items.features.items() if k not in features})
    return from_frames(replace(ds.schema, tables=ds.schema.tables | {'items': table}), {k: v for k, v in ds.tables.items()}, ds.truth)

def measured(ranks, owner, keep):
    "Number of cases, Recall@10 and NDCG@10 of the cases to keep"
    keep = keep[owner]
    _, values = case_values(ranks[keep], owner[keep])
    return int(keep.sum()), *(float(values[k].mean()) for k in ('recall@10', 'ndcg@10'))

def ahead(run, cases, steps):
    "Ranks of the same answers seen from some behaviours before, with the head of that step, or the first where there is no other"
    heads, end_c = run.model.step_heads, cases.end_c - (steps - 1)
    run.model.step_heads = nn.ModuleList([heads[min(steps, len(heads)) - 1]])
    cases = replace(cases, end_c=end_c, time_c=run.split.log.time_j[end_c])
    try: return case_ranks(run.scorer(cases), cases, run.split.log.item_j)[:2]
    finally: run.model.step_heads = heads

def by_reason(ranks, cases, split, reasons):
    "Metrics of all cases, and of the cases drawn for each reason that are judged (nobody is asked for items seen before)"
    why = reasons[split.log.row_j[cases.end_c]]
    for reason in ('all', *np.unique(why[ranks[1]])): yield reason, *measured(*ranks, (why == reason) | (reason == 'all'))

def beside(run, ranks, reasons, asked):
    "What a world is asked beside: plans seen from afar, and answers that training has never met"
    cases, log = run.split.test, run.split.log
    if 'ahead' in asked and hasattr(run.model, 'step_heads'):
        for steps in (2, 3): yield f'plans, {steps} ahead', *measured(*ahead(run, cases, steps), reasons[log.row_j[cases.end_c]] == 'plans')
    if 'unmet' in asked: yield 'never met', *measured(*ranks, ~np.isin(cases.targets, log.item_j[run.split.train_rows]))

def make_run(w, variant, ds, seed, out, bar):
    "The trained run of a variant (the counted one of a bar) and what its training says of itself"
    if variant in BARS: return fit('item-graph', ds, out), {}
    fields = w.fields | VARIANTS[variant][0]
    run = fit('heterrec', without(ds, (*w.drop, *fields.pop('drop', ()))), out, preset='shop', bar=bar, seed=seed, **fields)
    done = json.loads((out/'training.json').read_text())
    return run, {'valid_ndcg@10': round(done['best'], 5), 'epochs': done['epoch']}

def label(name, pairs): return ' '.join([name, *sorted(pairs)])

def run_one(world, variant, seed, a):
    w, began, out = WORLDS[world], time.time(), Path(tempfile.mkdtemp(prefix='ablation-'))
    w = replace(w, fields=w.fields | fields_of(a.set), dials=w.dials | {k: float(v) for k, v in fields_of(a.dials).items()})
    dials = w.dials | {k: v for k, v in dict(users=a.users, items=a.items).items() if v}
    ds = open_dataset('marketplace', seed=seed, **dials)
    run, said = make_run(w, variant, ds, seed, out/'run', a.bar)
    shutil.rmtree(out)
    reasons, cases = ds.truth.truth['reason'].to_numpy().astype(str), run.split.test
    ranks = case_ranks(oracle_scorer(ds, run.split) if variant == 'oracle' else run.scorer(cases), cases, run.split.log.item_j)[:2]
    for reason, n, recall, ndcg in (*by_reason(ranks, cases, run.split, reasons), *beside(run, ranks, reasons, w.beside)):
        yield dict(reason=reason, n=n, minutes=round((time.time() - began)/60, 1), users=dials['users'], items=dials['items'], **said) | {'recall@10': round(recall, 5), 'ndcg@10': round(ndcg, 5)}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--worlds', nargs='+', default=['shop'], choices=list(WORLDS)); p.add_argument('--variants', nargs='+', choices=[*VARIANTS, *BARS], help='those that belong to the world, if none is named')
    p.add_argument('--set', nargs='*', default=[], metavar='FIELD=VALUE', help='of HeterRec'); p.add_argument('--dials', nargs='*', default=[], metavar='DIAL=VALUE', help='of the shop')
    p.add_argument('--seeds', type=int, default=3); p.add_argument('--first-seed', type=int, default=0); p.add_argument('--bar', action='store_true')
    p.add_argument('--users', type=int, help="the world's, if none is given"); p.add_argument('--items', type=int)
    p.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'ablations.csv')
    a = p.parse_args()
    done = {(r['world'], r['variant'], r['seed'], r['users'], r['items']) for r in rows_of(a.out)}
    for seed, world in product(range(a.first_seed, a.first_seed + a.seeds), a.worlds):
        size = [str(getattr(a, k) or WORLDS[world].dials[k]) for k in ('users', 'items')]
        for variant in a.variants or WORLDS[world].variants:
            names = dict(world=label(world, a.dials), variant=label(variant, a.set), seed=seed)
            if (*map(str, names.values()), *size) in done: continue
            rows = [names | r for r in run_one(world, variant, seed, a)]
            add_rows(a.out, FIELDS, rows)
            print(*names.values(), ' '.join(f"{r['reason']} {r['recall@10']:.3f}" for r in rows), f"{rows[0]['minutes']} min", flush=True)

if __name__ == '__main__': main()
