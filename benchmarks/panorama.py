"""Time and peak memory of building panoramic sequences from files: the past of every request, at most 50 behaviours.

    python benchmarks/panorama.py                 # a million behaviours, each way in a process of its own -> benchmarks/results/panorama.csv
    python benchmarks/panorama.py one stream DIR  # one way over a written folder, prints one line

`seconds` is wall time from the files to the result (for the last two rows: from the log in memory), `cpu_s` processor time, `peak_mb` the resident set of
the process at its highest, `base_mb` what it was after the imports. `check` is one number over all pasts: the ways must agree. One thread.
"""
import csv, os, resource, subprocess, sys, tempfile, time
from pathlib import Path
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, pandas as pd, torch
import pyarrow as pa, pyarrow.parquet as pq
from hettrans.data.dataset import open_dataset
from hettrans.data.panorama import make_log, panorama, read_log, stream_log
from hettrans.data.schema import Schema

FIELDS = ['way', 'behaviours', 'candidates', 'requests', 'seconds', 'cpu_s', 'peak_mb', 'base_mb', 'check', 'torch', 'pandas']
REQUESTS, PER, SHOWN, USERS, ITEMS, KEEP, NEW = 100_000, 12, 10, 20_000, 50_000, 50, 1_000
WAYS = {'pandas': 'pandas: merge, sort, groupby, a slice per request', 'open': 'open_dataset, read_log, panorama', 'stream': 'stream_log, panorama',
        'pointers': 'panorama alone', 'append': f'append of {NEW:,} requests'}
SCHEMA = dict(name='pages', items=dict(key='item_id'), requests=dict(key='request_id', user='user_id', time='time'),
              candidates=dict(request='request_id', item='item_id', exposed='exposed', clicked='clicked', position='position'))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)

def write(folder):
    "Requests at different times in random order, each with 12 candidates of which 10 were shown; keys are texts"
    rng = np.random.default_rng(0)
    text = lambda c, x: pa.array(np.char.add(c, x.astype(str)))
    request, n = np.arange(REQUESTS), REQUESTS * PER
    shown = np.tile(np.arange(PER) < SHOWN, REQUESTS)
    pq.write_table(pa.table(dict(item_id=text('i', np.arange(ITEMS)))), folder/'items.parquet')
    pq.write_table(pa.table(dict(request_id=text('r', request), user_id=text('u', rng.integers(0, USERS, REQUESTS)), time=1_600_000_000 + 600*rng.permutation(REQUESTS))), folder/'requests.parquet')
    item = (rng.integers(0, ITEMS, REQUESTS)[:, None] + 37*np.arange(PER)).ravel() % ITEMS
    pq.write_table(pa.table(dict(request_id=text('r', np.repeat(request, PER)), item_id=text('i', item), exposed=shown, clicked=shown & (rng.random(n) < .1),
                                 position=np.tile(np.arange(PER), REQUESTS), price=rng.random(n), shelf=rng.integers(0, 99, n))), folder/'candidates.parquet')
    (folder/'schema.toml').write_text(Schema.from_dict(SCHEMA).to_toml())

def by_pandas(folder):
    "Request -> items of its past: what one writes first"
    requests = pd.read_parquet(folder/'requests.parquet')
    shown = pd.read_parquet(folder/'candidates.parquet', columns=['request_id', 'item_id', 'exposed', 'clicked', 'position']).query('exposed')
    df, out = shown.merge(requests, on='request_id').sort_values(['user_id', 'time', 'position']), {}
    for _, g in df.groupby('user_id', sort=False):
        item, request = g['item_id'].to_numpy(), g['request_id'].to_numpy()
        for i in np.flatnonzero(np.append(True, request[1:] != request[:-1])): out[request[i]] = item[max(0, i - KEEP):i]
    return out

def check(x):
    "The sum over requests of request number times the sum of item numbers"
    if isinstance(x, dict): return sum((int(r[1:]) + 1)*sum(int(i[1:]) for i in past) for r, past in x.items())
    rows, offsets = x.rows(np.arange(len(x.log)))
    total = np.concatenate([[0], np.cumsum(x.log.item_n[rows], dtype=np.int64)])
    return int(((np.arange(len(x.log)) + 1)*(total[offsets[1:]] - total[offsets[:-1]])).sum())

def measure(way, folder):
    "One row of the table"
    torch.set_num_threads(1)
    base, log = peak(), None
    if way in ('pointers', 'append'): log = stream_log(folder)
    if way == 'append':
        n = log.offsets[REQUESTS - NEW]
        known = panorama(part(log, slice(0, REQUESTS - NEW), slice(0, n), 0), keep=KEEP)
        fresh = part(log, slice(REQUESTS - NEW, None), slice(n, None), REQUESTS - NEW)
    start, cpu = time.perf_counter(), time.process_time()
    if way == 'pandas': out = by_pandas(folder)
    elif way == 'open': out = panorama(read_log(open_dataset(folder)), keep=KEEP)
    elif way == 'stream': out = panorama(stream_log(folder), keep=KEEP)
    elif way == 'pointers': out = panorama(log, keep=KEEP)
    else: out = known.append(fresh)
    seconds, cpu, high = time.perf_counter() - start, time.process_time() - cpu, peak()
    return dict(way=WAYS[way], behaviours=REQUESTS*SHOWN, candidates=REQUESTS*PER, requests=REQUESTS, seconds=round(seconds, 3), cpu_s=round(cpu, 3), peak_mb=round(high), base_mb=round(base),
                check=check(out), torch=torch.__version__, pandas=pd.__version__)

def part(log, r, n, first):
    "Some requests of a log and their candidates, as a log that comes from a file of its own"
    return make_log(log.key_r[r], log.users[log.user_r[r]], log.time_r[r], log.request_n[n] - first, *(x[n] for x in log.columns[:-1]))

if __name__ == '__main__':
    if sys.argv[1:2] == ['write']: write(Path(sys.argv[2]))
    elif len(sys.argv) > 1: csv.DictWriter(sys.stdout, FIELDS).writerow(measure(sys.argv[2], Path(sys.argv[3])))
    else:
        out = Path(__file__).parent/'results/panorama.csv'
        out.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, __file__, 'write', folder], check=True)
            rows = []
            for way in WAYS:
                rows.append(subprocess.run([sys.executable, __file__, 'one', way, folder], check=True, capture_output=True, text=True).stdout.strip())
                row = dict(zip(FIELDS, next(csv.reader([rows[-1]]))))
                print(f"{row['way']}: {row['seconds']} s ({row['cpu_s']} s of one core), peak {row['peak_mb']} MB", flush=True)
        assert len({next(csv.reader([r]))[FIELDS.index('check')] for r in rows}) == 1, 'the ways disagree'
        out.write_text('\n'.join([','.join(FIELDS), *rows]) + '\n')
