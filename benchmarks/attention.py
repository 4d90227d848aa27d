"""Time and peak memory of one attention layer, forward + backward, on one thread: writes results/attention.csv

    OMP_NUM_THREADS=1 python benchmarks/attention.py

Backends are interleaved in one process; `ms` is the median of the process's CPU time, `mb` the growth of the peak
resident memory over one call in a fresh process. Read ratios: the milliseconds belong to the machine of the day.
"""
import argparse, csv, statistics, subprocess, sys, time
from pathlib import Path
import torch
from hettrans.nn.backends import BACKENDS
from hettrans.nn.masks import allow_item_block

CASES = {  # name -> sequences, heads, items, tokens of an item, width of a head
    'S=1536: b2 h4 t256 f6 e32': (2, 4, 256, 6, 32), 'b16 h4 t128 f1 e32': (16, 4, 128, 1, 32), 'b64 h2 t50 f1 e32': (64, 2, 50, 1, 32),
    'b64 h4 t32 f4 e32': (64, 4, 32, 4, 32), 'b128 h4 t32 f1 e32': (128, 4, 32, 1, 32), 'b128 h4 t8 f4 e32': (128, 4, 8, 4, 32), 'b128 h2 t8 f1 e32': (128, 2, 8, 1, 32)}
BIG = 'S=2048: b32 h4 t256 f8 e64'   # memory of the chunked backend only: dense needs far more than most machines have

def make(b, h, t, f, e, g=32):
    r = torch.Generator().manual_seed(0)
    qkv = [torch.randn(b, h, t, f, e, generator=r).requires_grad_() for _ in range(3)]
    return (*qkv, allow_item_block, torch.full((b,), t), torch.randint(0, g, (b, t, t), generator=r), torch.randn(h, g, generator=r).requires_grad_())

def step(backend, case):
    o = BACKENDS[backend](*case)
    torch.autograd.grad(o, [case[i] for i in (0, 1, 2, 6)], torch.ones_like(o))

def peak_mb(backend, name):
    "Growth of the peak resident memory over one forward and backward, inputs and their gradients included in neither side twice"
    run = subprocess.run([sys.executable, __file__, '--peak', backend, name], capture_output=True, text=True, check=True)
    return float(run.stdout)

def print_peak(backend, name):
    status = lambda key: next(int(l.split()[1]) / 1024 for l in open('/proc/self/status') if l.startswith(key))
    step(backend, make(2, 2, 4, 2, 8)); case = make(*({**CASES, BIG: (32, 4, 256, 8, 64)}[name]))
    before = status('VmRSS'); Path('/proc/self/clear_refs').write_text('5')
    step(backend, case); print(status('VmHWM') - before)

def main(out, rounds=5):
    rows = []
    for name, dims in CASES.items():
        case, names = make(*dims), ('sdpa', 'chunked'); times = {b: [] for b in names}
        for r in range(rounds + 1):
            for b in names:
                t0, n = time.process_time(), 0
                while n == 0 or time.process_time() - t0 < .15: step(b, case); n += 1
                if r: times[b].append((time.process_time() - t0) / n)
        rows += [dict(case=name, backend=b, ms=round(1e3*statistics.median(times[b]), 2), mb=round(peak_mb(b, name), 1)) for b in names]
        print(*rows[-2:], sep='\n', flush=True)
    rows.append(dict(case=BIG, backend='chunked', ms='', mb=round(peak_mb('chunked', BIG), 1))); print(rows[-1])
    with open(out, 'w', newline='') as f: w = csv.DictWriter(f, list(rows[0])); w.writeheader(); w.writerows(rows)

if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0]); ap.add_argument('--peak', nargs=2)
    ap.add_argument('--out', default=Path(__file__).parent/'results'/'attention.csv'); a = ap.parse_args()
    torch.set_num_threads(1)
    print_peak(*a.peak) if a.peak else main(a.out)
