"""The real samples of MIND and EB-NeRD from their files to a HoMer of one epoch, by the same calls: one CSV row per run.

    python benchmarks/news_requests.py                                    # both samples, homer, 3 seeds -> benchmarks/results/news_requests.csv
    python benchmarks/news_requests.py mind --models homer pointwise-homer --set epochs=3

The files are read from $HETTRANS_DATA (default data/, then ../shared/data). These samples are for loaders and raggedness, not for quality: most users of the MIND
sample ask once, and its click histories have no times, so nearly every past is empty; `pasts` says what share of the test requests has one. Test part of the
split `time:0.1`, AUC over the exposed candidates and per request, with 95% intervals by request. Rows that are in the table already are not run again.
"""
import argparse, json, shutil, tempfile, time
from pathlib import Path
import numpy as np
from hettrans.data.public_requests import import_public
from hettrans.engine.run import fit
from results_table import add_rows, data_at, fields_of, machine, rows_of

ROOT = Path(__file__).parents[1]
SAMPLES, METRICS, KEY = dict(mind='mind_sample', ebnerd='ebnerd_sample'), ['auc', 'gauc', 'logloss', 'calibration'], ['dataset', 'model', 'preset', 'set', 'seed', 'split']
FIELDS = [*KEY, 'n', 'requests', 'requests_both', 'pasts', 'past_mean', *(f'{m}{e}' for m in METRICS for e in ('', '_lo', '_hi')), 'params', 'epochs', 'import_seconds', 'train_seconds', 'machine']

def one(name, model, seed, a):
    "Import, train, judge"
    out, began = Path(tempfile.mkdtemp(prefix='news-')), time.time()
    import_public(name, a.data/SAMPLES[name] if a.data else data_at(SAMPLES[name]), out/'data', progress=False)
    read, began = time.time() - began, time.time()
    r = fit(model, out/'data', out/'run', preset=a.preset, bar=a.bar, **dict(epochs=1, seed=seed, split=a.split) | fields_of(a.set))
    start, end = r.data.past.spans(r.split.test)
    row = {k: v for k, v in r.metrics.items() if k in FIELDS and k not in ('seed', 'split')}
    row |= dict(pasts=float(np.mean(end > start)), past_mean=float(np.mean(end - start)), epochs=json.loads((out/'run'/'training.json').read_text())['epoch'], import_seconds=round(read, 1), train_seconds=round(time.time() - began, 1))
    shutil.rmtree(out)
    return row

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('datasets', nargs='*', default=list(SAMPLES), metavar='{mind,ebnerd}'); p.add_argument('--models', nargs='+', default=['homer']); p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--preset', default='small'); p.add_argument('--split', default='time:0.1'); p.add_argument('--set', nargs='*', default=[], metavar='FIELD=VALUE'); p.add_argument('--bar', action='store_true')
    p.add_argument('--data', type=Path, help='the folder that holds both, if not $HETTRANS_DATA'); p.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'news_requests.csv')
    a = p.parse_args()
    if wrong := set(a.datasets) - set(SAMPLES): p.error(f'unknown sample {sorted(wrong)[0]!r}: choose from {", ".join(SAMPLES)}')
    for name in a.datasets:
        for model in a.models:
            for seed in range(a.seeds):
                key = dict(dataset=SAMPLES[name], model=model, preset=a.preset, set=' '.join(sorted(a.set)), seed=seed, split=a.split)
                if any(all(r[k] == str(key[k]) for k in KEY) for r in rows_of(a.out)): continue
                row = {k: round(v, 5) if isinstance(v, float) else v for k, v in (one(name, model, seed, a) | key).items()} | dict(machine=machine())
                add_rows(a.out, FIELDS, [row])
                print(f"{name} {model} seed {seed}: auc {row['auc']:.4f} [{row['auc_lo']:.4f}, {row['auc_hi']:.4f}] gauc {row['gauc']:.4f} [{row['gauc_lo']:.4f}, {row['gauc_hi']:.4f}] pasts {row['pasts']:.2f} {row['train_seconds']} s", flush=True)

if __name__ == '__main__': main()
