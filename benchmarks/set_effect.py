"""What reading the candidates together is worth, and what each domain of the past: HoMer against point-wise HoMer of the same cost, and without a domain.

    python benchmarks/set_effect.py                                  # all worlds, 3 seeds -> benchmarks/results/set_effect.csv (one thread; the docs' log has the minutes)
    python benchmarks/set_effect.py --worlds on --seeds 1
    python benchmarks/set_effect.py --worlds habit bargain
    python benchmarks/set_effect.py --table                          # trains nothing: the gap that is closed, and paired differences with 95% t-intervals over the seeds

The marketplace with *dense pages*: each request has 30 candidates and shows them all, three in ten are clicked, the set effects are strong (`on`), or not there (`off`). The seed is that of
the shop, of the log and of the training. Test: the last tenth of the requests; weights chosen on the tenth before it. `oracle` is the true click probability.
`pointwise-homer` has nine user-item blocks, so that a request of 300 candidates costs it as much as HoMer's two pairs of blocks; `pointwise-short` has two. An epoch takes the nine blocks about
twice as long as HoMer, so they get half as many. Their validation AUC by epoch is in the table, too.
The other worlds have pages of ten, no effect of the set (so the model is the point-wise HoMer), and one effect of the past each: of the items that were clicked (`habit`), of the user's situation at that time (`situation`: a click in
another one does not count; the column is declared as the user's, as recorded at the request), of the price beside the rest of its set (`bargain`), of part of the day, weekend and device (`occasion`: one column of the request; items
are known by style and price). Taken out of the sequence is the domain that holds the effect. `--set` changes fields of all trainings. Rows that exist are not run again.
"""
import argparse, json, shutil, tempfile, time
from pathlib import Path
import numpy as np, pandas as pd
from hettrans.cli import Quickstart, judge_guess, true_clicks
from hettrans.data.dataset import from_frames
from hettrans.data.marketplace import STYLES, MarketConfig, simulate
from hettrans.data.pages import DEVICES, PageConfig, marketplace_with_requests, occasion_of
from hettrans.engine.run import fit
from hettrans.zoo.rank_parts import request_cost
from results_table import add_rows, fields_of, rows_of, seed_mean

ROOT = Path(__file__).parents[1]
DENSE = {k: v for k, v in Quickstart().dials().items() if k not in ('users', 'requests')}     # the pages of the quickstart, at the sizes of the study
NO_SET = dict(duplicates=0., cheaper=0., crowding=0.)
SHORT = NO_SET | dict(candidates=10., smallest=10, largest=10, page_min=10, page_max=10, explore=0, taste=0., budget=0., fame=0., setting=0., fatigue=0., query=.3, memory=.95, habit=0., situation=0., bargain=0., occasion=0.)
PAST = dict(alike_past=1., epochs=5, lr=1e-3, past='clicked')   # where the past is all there is
WORLDS = {   # name -> (its dials, users, requests of each, variants, fields of the training)
    'on': ({}, 10_000, 10., ('homer', 'pointwise-homer'), {}),
    'off': (NO_SET | dict(base=-1.), 3000, 10., ('homer', 'pointwise-short'), {}),     # without what the set takes away, a lower base gives about as many clicks
    'habit': (SHORT | dict(habit=25., base=-2.5), 1200, 30., ('pointwise-short', 'no-item', 'apart-past'), PAST),
    'situation': (SHORT | dict(habit=25., situation=1., base=-2.5), 1200, 30., ('pointwise-short', 'no-user'), PAST | dict(epochs=10)),     # two conditions at once: still rising after five
    'bargain': (SHORT | dict(bargain=3., base=-1., swing=1.5, query=2.), 1200, 30., ('pointwise-short', 'no-cross'), PAST),        # today's price, not what an item usually costs
    'occasion': (SHORT | dict(occasion=20., base=-2.), 1200, 30., ('pointwise-short', 'no-context'), PAST)}
TRAIN = dict(preset='shop')
VARIANTS = {'homer': ('homer', {}), 'pointwise-homer': ('pointwise-homer', dict(decoder_layers=9, epochs=4)), 'pointwise-short': ('pointwise-homer', {}), 'apart': ('homer', dict(alike=0.)), 'apart-past': ('pointwise-homer', dict(alike_past=0.)),
            **{f'no-{d}': ('pointwise-homer', {f'domain_{d}': False}) for d in ('user', 'item', 'cross', 'context')}}
METRICS = [f'{m}{e}' for m in ('auc', 'gauc', 'logloss') for e in ('', '_lo', '_hi')]
KEY = ['world', 'variant', 'seed', 'users', 'set']
FIELDS = ['world', 'variant', 'seed', 'set', *METRICS, 'oracle_auc', 'flops_300', 'dense_params', 'best_epoch', 'valid_auc', 'minutes', 'users', 'requests']

def world(name, seed, users):
    "A shop with its ranking log as a dataset, and its pages"
    dials, n, requests, *_ = WORLDS[name]
    market = simulate(MarketConfig(users=users or n, seed=seed))
    tables, schema, pages = marketplace_with_requests(market, PageConfig(requests=requests, **DENSE | dials))
    if name == 'occasion':
        tables['items'] = tables['items'].assign(style=np.array(list(STYLES))[market.world[0]['style']])
        tables['requests'] = tables['requests'].assign(occasion=lambda q: occasion_of(q.timestamp.to_numpy(), q.device.map(DEVICES.index).to_numpy()))
        schema = schema | {'items': schema['items'] | dict(use_id=False, features=dict(style=dict(kind='categorical'), price=dict(kind='numerical'))),
                           'requests': schema['requests'] | dict(features=dict(occasion=dict(kind='categorical')))}
    if name == 'situation':
        features = schema['requests']['features']
        schema = schema | {'requests': schema['requests'] | dict(features=features | dict(situation=features['situation'] | dict(side='user')))}
    return from_frames(schema, tables, truth=pages), pages

def run_one(name, variant, seed, a, ds, pages):
    "Train one variant in one world, judge it on the test"
    began, out, (model, fields) = time.time(), Path(tempfile.mkdtemp(prefix='set-effect-')), VARIANTS[variant]
    run = fit(model, ds, out/'run', bar=a.bar, seed=seed, **(TRAIN | WORLDS[name][4] | fields | fields_of(a.set)))
    done, cost = json.loads((out/'run'/'training.json').read_text()), request_cost(run.model, run.encoder.tokens, 300, run.config['model'].max_past)
    valid = ' '.join(f"{json.loads(line)['auc']:.4f}" for line in (out/'run'/'metrics.jsonl').read_text().splitlines())
    shutil.rmtree(out)
    return dict(world=name, variant=variant, seed=seed, set=' '.join(sorted(a.set)), **{k: round(run.metrics[k], 5) for k in METRICS}, oracle_auc=round(judge_guess(run, true_clicks(ds, run))['auc'], 5), flops_300=cost['flops'],
                dense_params=cost['params'], best_epoch=done['best_epoch'], valid_auc=valid, minutes=round((time.time() - began)/60, 1), users=len(ds.users), requests=len(pages.requests))

def print_table(path):
    "For each world the mean AUC over seeds, and the first variant against the others: paired differences, and the share of the gap to the oracle that is closed"
    rows = pd.DataFrame(rows_of(path)).astype(dict(auc=float, oracle_auc=float))
    for (name, more), of in rows.groupby(['world', 'set'], sort=False):
        base = WORLDS[name][3][0]
        auc = of.pivot(index='seed', columns='variant', values='auc').assign(oracle=of.groupby('seed').oracle_auc.first())
        print(f"\n{name} {more}, {len(auc)} seeds: " + ', '.join(f'{k} {x:.4f}' for k, x in auc.mean().items()))
        for other in auc.columns.drop([base, 'oracle']):
            mean, half = seed_mean((auc[base] - auc[other]).dropna())
            share = ((auc[base] - auc[other])/(auc.oracle - auc[other])).dropna()
            print(f"  {base} - {other}: {mean:.4f} [{mean - half:.4f}, {mean + half:.4f}]; of the gap from {other} to the oracle it closes {share.mean():.0%} (" + ', '.join(f'{x:.0%}' for x in share) + ')')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--worlds', nargs='+', default=list(WORLDS), choices=list(WORLDS)); p.add_argument('--variants', nargs='+', choices=list(VARIANTS), help='none: those of the world')
    p.add_argument('--seeds', type=int, default=3); p.add_argument('--first-seed', type=int, default=0); p.add_argument('--bar', action='store_true')
    p.add_argument('--set', nargs='*', default=[], metavar='FIELD=VALUE', help='other fields of the training than those of the world')
    p.add_argument('--users', type=int, default=0, help='0: as the world has them'); p.add_argument('--table', action='store_true', help='train nothing, print what is there')
    p.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'set_effect.csv')
    a = p.parse_args()
    done = {tuple(r[k] for k in KEY) for r in rows_of(a.out)}
    for seed in [] if a.table else range(a.first_seed, a.first_seed + a.seeds):
        for name in a.worlds:
            todo = [v for v in a.variants or WORLDS[name][3] if (name, v, str(seed), str(a.users or WORLDS[name][1]), ' '.join(sorted(a.set))) not in done]
            if not todo: continue
            ds, pages = world(name, seed, a.users)
            for variant in todo:
                row = run_one(name, variant, seed, a, ds, pages)
                add_rows(a.out, FIELDS, [row])
                print(name, variant, seed, f"auc {row['auc']:.4f} [{row['auc_lo']:.4f}, {row['auc_hi']:.4f}], oracle {row['oracle_auc']:.4f}, {row['flops_300']/1e6:.0f} MFLOP, {row['minutes']} min", flush=True)
    print_table(a.out)

if __name__ == '__main__': main()
