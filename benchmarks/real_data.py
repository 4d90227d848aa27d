"""Every retrieval model on real data, several seeds, equal times in file order and shuffled: one CSV row per run.

    python benchmarks/real_data.py amazon_beauty --models popularity item-graph sasrec heterrec --seeds 3
    python benchmarks/real_data.py online_retail --split time:0.1 --keep-seen both --models popularity repeat-last item-graph sasrec heterrec
    python benchmarks/real_data.py online_retail --split time:0.1 --keep-seen both --models repeat-last --set decay=0.9
    python benchmarks/real_data.py marketplace --keep-seen both --models popularity repeat-last item-graph

`repeat-last` recommends what the user has had before, so its row with seen items filtered is that of popularity.
Reads the dataset folders of $HETTRANS_DATA (default data/, then ../shared/data). Rows that are in the table already are not run again,
so a broken study goes on where it stopped. Every row carries its settings, its interval and the seconds that it took.
"""
import argparse, json, shutil, tempfile, time
from pathlib import Path
from hettrans.data.dataset import BUILT_IN, open_dataset
from hettrans.engine.run import fit
from results_table import add_rows, data_at, fields_of, machine, rows_of

ROOT = Path(__file__).parents[1]
METRICS = ['recall@10', 'ndcg@10', 'recall@50', 'recall@100']
FIELDS = ['dataset', 'model', 'preset', 'set', 'seed', 'split', 'ties', 'request_time', 'keep_seen', 'n',
          *(f'{m}{e}' for m in METRICS for e in ('', '_lo', '_hi')), 'valid_ndcg@10', 'best_epoch', 'params', 'minutes', 'machine']

def key(row): return tuple(str(row[k]) for k in ('dataset', 'model', 'preset', 'set', 'seed', 'split', 'ties', 'request_time', 'keep_seen'))

def run(ds, a, model, seed, ties, keeps):
    "Train one model once, judge it for every way of treating seen items"
    began, out = time.time(), Path(tempfile.mkdtemp(prefix='study-'))
    sets = fields_of(a.set)
    protocol = dict(split=a.split, ties=ties, tie_seed=seed, request_time=a.request_time, seed=seed)
    r = fit(model, ds, out/'run', preset=a.preset, bar=a.bar, **protocol, **sets)
    minutes = round((time.time() - began)/60, 1)
    trained = json.loads((out/'run'/'training.json').read_text()) if (out/'run'/'training.json').exists() else {}
    for keep in keeps:
        m = r.evaluate('test', keep_seen=keep)
        row = dict(dataset=ds.name, model=model, preset=a.preset, set=' '.join(sorted(a.set)), seed=seed, split=a.split, ties=ties, request_time=a.request_time, keep_seen=keep, n=m['n'], params=m['params'], minutes=minutes, machine=machine())
        row |= {f'{k}{e}': round(m[f'{k}{e}'], 5) for k in METRICS for e in ('', '_lo', '_hi')}
        row |= {'valid_ndcg@10': round(trained.get('best', 0), 5) or '', 'best_epoch': trained.get('best_epoch', '')}
        add_rows(a.out, FIELDS, [row])
        print(f"{ds.name} {model} {a.preset} seed {seed} ties {ties} keep {keep}: recall@10 {m['recall@10']:.4f} [{m['recall@10_lo']:.4f}, {m['recall@10_hi']:.4f}] ndcg@10 {m['ndcg@10']:.4f} recall@100 {m['recall@100']:.4f}, {minutes} min", flush=True)
    shutil.rmtree(out)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('dataset', help="a dataset folder, or its name under $HETTRANS_DATA, or 'marketplace'")
    p.add_argument('--models', nargs='+', default=['popularity', 'item-graph', 'sasrec', 'heterrec'])
    p.add_argument('--preset', default='auto'); p.add_argument('--set', nargs='*', default=[], metavar='FIELD=VALUE')
    p.add_argument('--seeds', type=int, default=3); p.add_argument('--first-seed', type=int, default=0)
    p.add_argument('--ties', nargs='+', default=['file', 'shuffle']); p.add_argument('--split', default='leave-last-out')
    p.add_argument('--request-time', default='unknown', help="'unknown' (as in published results) or 'known'")
    p.add_argument('--keep-seen', default='no', choices=['no', 'yes', 'both']); p.add_argument('--bar', action='store_true')
    p.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'real_data.csv')
    a = p.parse_args()
    ds = open_dataset(a.dataset if a.dataset in BUILT_IN or Path(a.dataset).is_dir() else data_at(a.dataset))
    keeps = dict(no=[False], yes=[True], both=[False, True])[a.keep_seen]
    for model in a.models:
        for ties in a.ties:
            for seed in range(a.first_seed, a.first_seed + a.seeds):
                done = {key(r) for r in rows_of(a.out)}
                want = [dict(dataset=ds.name, model=model, preset=a.preset, set=' '.join(sorted(a.set)), seed=seed, split=a.split, ties=ties, request_time=a.request_time, keep_seen=k) for k in keeps]
                if not all(key(w) in done for w in want): run(ds, a, model, seed, ties, keeps)

if __name__ == '__main__': main()
