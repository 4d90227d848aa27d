"""What reading the candidates together is worth: HoMer against point-wise HoMer of the same cost, with and without effects of the set.

    python benchmarks/set_effect.py                   # 3 seeds -> benchmarks/results/set_effect.csv (about 3 minutes a run, one thread)
    python benchmarks/set_effect.py --variants homer no-item --seeds 1 --worlds on

The marketplace with *dense pages*: each request has 30 candidates and shows them all, three in ten are clicked, the set effects are strong. The default log shows ten
of forty and has one click in eight; 30,000 such requests do not tell enough about the set (docs/log.md), a log of millions would. The seed is that of the shop,
of the log and of the training. Test: the last tenth of the requests; weights chosen on the tenth before it. `oracle` is the true click probability.
`pointwise-homer` has nine user-item blocks, so that a request of 300 candidates costs it as much as HoMer's two pairs of blocks; `pointwise-short` has two. Rows that exist are not run again.
"""
import argparse, json, shutil, tempfile, time
from pathlib import Path
from hettrans.cli import Quickstart, judge_guess, true_clicks
from hettrans.data.dataset import from_frames
from hettrans.data.marketplace import MarketConfig, simulate
from hettrans.data.pages import PageConfig, marketplace_with_requests
from hettrans.engine.run import fit
from hettrans.zoo.rank_parts import request_cost
from results_table import add_rows, rows_of

ROOT = Path(__file__).parents[1]
DENSE = {k: v for k, v in Quickstart().dials().items() if k not in ('users', 'requests')}     # the pages of the quickstart, at the sizes of the study
WORLDS = dict(on={}, off=dict(duplicates=0., cheaper=0., crowding=0., base=-1.))     # without what the set takes away, a lower base gives about as many clicks
TRAIN = dict(preset='shop')
VARIANTS = {'homer': ('homer', {}), 'pointwise-homer': ('pointwise-homer', dict(decoder_layers=9)), 'pointwise-short': ('pointwise-homer', {}), 'apart': ('homer', dict(alike=0.)),
            **{f'no-{d}': ('homer', {f'domain_{d}': False}) for d in ('user', 'item', 'cross', 'context')}}
METRICS = [f'{m}{e}' for m in ('auc', 'gauc', 'logloss') for e in ('', '_lo', '_hi')]
FIELDS = ['world', 'variant', 'seed', *METRICS, 'oracle_auc', 'flops_300', 'dense_params', 'best_epoch', 'minutes', 'users', 'requests']

def world(name, seed, users, requests):
    "A shop with dense pages as a dataset, and its pages"
    pages_of = PageConfig(requests=requests, **DENSE | WORLDS[name])
    tables, schema, pages = marketplace_with_requests(simulate(MarketConfig(users=users, seed=seed)), pages_of)
    return from_frames(schema, tables, truth=pages), pages

def run_one(name, variant, seed, a, ds, pages):
    began, out, (model, fields) = time.time(), Path(tempfile.mkdtemp(prefix='set-effect-')), VARIANTS[variant]
    run = fit(model, ds, out/'run', bar=a.bar, seed=seed, **(TRAIN | fields))
    done, cost = json.loads((out/'run'/'training.json').read_text()), request_cost(run.model, run.encoder.tokens, 300, run.config['model'].max_past)
    shutil.rmtree(out)
    return dict(world=name, variant=variant, seed=seed, **{k: round(run.metrics[k], 5) for k in METRICS}, oracle_auc=round(judge_guess(run, true_clicks(ds, run))['auc'], 5), flops_300=cost['flops'],
                dense_params=cost['params'], best_epoch=done['best_epoch'], minutes=round((time.time() - began)/60, 1), users=a.users, requests=len(pages.requests))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--variants', nargs='+', default=list(VARIANTS), choices=list(VARIANTS)); p.add_argument('--worlds', nargs='+', default=list(WORLDS), choices=list(WORLDS))
    p.add_argument('--seeds', type=int, default=3); p.add_argument('--first-seed', type=int, default=0); p.add_argument('--bar', action='store_true')
    p.add_argument('--users', type=int, default=3000); p.add_argument('--requests', type=float, default=10.)
    p.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'set_effect.csv')
    a = p.parse_args()
    done = {(r['world'], r['variant'], r['seed'], r['users']) for r in rows_of(a.out)}
    for seed in range(a.first_seed, a.first_seed + a.seeds):
        for name in a.worlds:
            todo = [v for v in a.variants if (name, v, str(seed), str(a.users)) not in done]
            if not todo: continue
            ds, pages = world(name, seed, a.users, a.requests)
            for variant in todo:
                row = run_one(name, variant, seed, a, ds, pages)
                add_rows(a.out, FIELDS, [row])
                print(name, variant, seed, f"auc {row['auc']:.4f} [{row['auc_lo']:.4f}, {row['auc_hi']:.4f}], oracle {row['oracle_auc']:.4f}, {row['flops_300']/1e6:.0f} MFLOP, {row['minutes']} min", flush=True)

if __name__ == '__main__': main()
