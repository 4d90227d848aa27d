"""The sequential baselines of HeterRec's Table 1 on real data, with one change at a time, so that a gain can be told apart from a loss.

    python benchmarks/zoo_sequential.py ml-100k                                   # every variant, 3 seeds
    python benchmarks/zoo_sequential.py amazon_beauty --variants sasrec hstu hstu-no-time --seeds 5
    python benchmarks/zoo_sequential.py ml-100k --variants bert4rec --set epochs=200 patience=20
    python benchmarks/zoo_sequential.py ml-100k --table                           # trains nothing: means, intervals, paired differences

All variants share splits, features, negatives, evaluation (leave-last-out, full catalogue, seen items filtered, ties in the order of the file)
and the loss, the softmax over the catalogue, unless their name says otherwise. The time of the request is unknown to the model, as in published
results, but for `hstu-known`. Reads $HETTRANS_DATA (default data/, then ../shared/data); `ml-100k` is imported from RecBole's files into a temporary folder.
One CSV row per run; rows that are in the table already are not run again, so a broken study goes on where it stopped.
"""
import argparse, tempfile
from pathlib import Path
import pandas as pd
from hettrans.data.dataset import BUILT_IN, open_dataset
from hettrans.data.public import import_public
from real_data import ROOT, key, rows_of, run
from results_table import data_at, fields_of, seed_mean

VARIANTS = {   # name -> (model, its preset, fields that differ, time of the request)
    'popularity': ('popularity', 'auto', {}, 'unknown'),
    'item-graph': ('item-graph', 'auto', {}, 'unknown'),
    'sasrec': ('sasrec', 'small', {}, 'unknown'),
    'sasrec-binary': ('sasrec', 'small', dict(loss='binary'), 'unknown'),
    'sasrec-drawn': ('sasrec', 'small', dict(negatives=1000), 'unknown'),
    'sasrec-mixed': ('sasrec', 'small', dict(loss='mixed', negatives=1000), 'unknown'),
    'sasrec-ids': ('sasrec', 'small', dict(content='no'), 'unknown'),
    'sasrec-2018': ('sasrec', 'binary', {}, 'unknown'),
    'bert4rec': ('bert4rec', 'small', {}, 'unknown'),
    'bert4rec-causal': ('bert4rec', 'small', dict(bidirectional='no'), 'unknown'),
    'bert4rec-ids': ('bert4rec', 'small', dict(content='no'), 'unknown'),
    'bert4rec-2019': ('bert4rec', 'paper', {}, 'unknown'),
    'pinnerformer': ('pinnerformer', 'small', {}, 'unknown'),
    'pinnerformer-next': ('pinnerformer', 'small', dict(objective='dense_next'), 'unknown'),
    'pinnerformer-4-items': ('pinnerformer', 'small', dict(window=4, window_in='items'), 'unknown'),
    'pinnerformer-2022': ('pinnerformer', 'paper', {}, 'unknown'),
    'hstu': ('hstu', 'small', {}, 'unknown'),
    'hstu-no-time': ('hstu', 'small', dict(time_bias='no'), 'unknown'),
    'hstu-known': ('hstu', 'small', {}, 'known'),
    'hstu-softmax': ('hstu', 'small', dict(weigh='softmax'), 'unknown'),
    'hstu-ids': ('hstu', 'small', dict(content='no'), 'unknown'),
    'hstu-2024': ('hstu', 'paper', {}, 'unknown'),
}

def dataset(name):
    "A dataset folder of $HETTRANS_DATA, or RecBole's files there, or a folder, or the marketplace"
    if name in BUILT_IN: return open_dataset(name)
    folder = Path(name) if Path(name).is_dir() else data_at(name)
    if (folder/'schema.toml').exists(): return open_dataset(folder)
    out = Path(tempfile.mkdtemp(prefix='zoo-'))/name
    import_public('recbole', folder, out, progress=False)
    ds = open_dataset(out)
    ds.schema = type(ds.schema)(**vars(ds.schema) | dict(name=name))
    return ds

def settings(variant, a):
    "What `run` of real_data.py reads"
    model, preset, fields, request_time = VARIANTS[variant]
    words = {**({} if model in ('popularity', 'item-graph') else fields_of(a.set)), **fields}
    return model, argparse.Namespace(**vars(a) | dict(preset=preset, request_time=request_time, set=[f'{k}={v}' for k, v in words.items()]))

def wanted(ds, variant, seed, a):
    "The key of the row of a run"
    model, s = settings(variant, a)
    return key(dict(dataset=ds, model=model, preset=s.preset, set=' '.join(sorted(s.set)), seed=seed, split=s.split, ties=a.ties, request_time=s.request_time, keep_seen=False))

def table(ds, a, metric):
    "Mean of the seeds and its 95% t-interval; the same for the paired difference to the first variant"
    found = {key(r): float(r[metric]) for r in rows_of(a.out)}
    value = {v: {s: found[k] for s in range(a.first_seed, a.first_seed + a.seeds) if (k := wanted(ds, v, s, a)) in found} for v in a.variants}
    def about(x): return dict(zip(('mean', 'half'), seed_mean(x)))
    rows = {}
    for v, by_seed in value.items():
        if not by_seed: continue
        pairs = [x - value[a.base][s] for s, x in by_seed.items() if s in value.get(a.base, {})]
        rows[v] = dict(seeds=len(by_seed), **about(list(by_seed.values())), **({f'{k} - {a.base}': x for k, x in about(pairs).items()} if pairs else {}))
    return pd.DataFrame(rows).T

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('dataset', help="amazon_beauty, ml-100k, a dataset folder, or 'marketplace'")
    p.add_argument('--variants', nargs='+', default=list(VARIANTS), choices=list(VARIANTS)); p.add_argument('--base', default='sasrec', choices=list(VARIANTS))
    p.add_argument('--set', nargs='*', default=[], metavar='FIELD=VALUE', help='fields of all trained variants'); p.add_argument('--seeds', type=int, default=3); p.add_argument('--first-seed', type=int, default=0)
    p.add_argument('--split', default='leave-last-out'); p.add_argument('--ties', default='file', choices=['file', 'shuffle']); p.add_argument('--bar', action='store_true')
    p.add_argument('--table', action='store_true', help='train nothing, print what is there')
    p.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'zoo_sequential.csv')
    a = p.parse_args()
    ds = dataset(a.dataset)
    for seed in range(a.first_seed, a.first_seed + a.seeds):      # all variants of a seed first, so that a broken study compares all
        for variant in [] if a.table else a.variants:
            if wanted(ds.name, variant, seed, a) in {key(r) for r in rows_of(a.out)}: continue
            model, s = settings(variant, a)
            run(ds, s, model, seed, a.ties, [False])
    for metric in ('recall@10', 'ndcg@10'): print(f'\n{ds.name}, {metric}\n', table(ds.name, a, metric).round(4), sep='')

if __name__ == '__main__': main()
