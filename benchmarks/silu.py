"""Time and peak memory of SiLU attention on jagged lengths, forward + backward, on one thread: writes results/silu.csv

    OMP_NUM_THREADS=1 python benchmarks/silu.py

`padded` gets its inputs padded already and is plain autograd; `softmax` is torch's own softmax attention on the same padded
inputs, for its cost only; `one rectangle`, `rectangles` and `tiles` start and end with packed rows. Variants are interleaved in
one process; `ms` is the median of the process's CPU time, `mb` the growth of the peak resident memory over one call in
a fresh process. Read ratios: the milliseconds belong to the machine of the day.
"""
import argparse, csv, ctypes, gc, statistics, subprocess, sys, time
from pathlib import Path
import numpy as np
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from hettrans.nn.jagged import to_jagged, to_padded
from hettrans.nn.silu import SILU_BACKENDS, Pairs, silu_padded

VARIANTS = {'padded': None, 'softmax': None, 'one rectangle': 'padded', 'rectangles': 'rectangles', 'tiles': 'tiles'}

def lognormal(r, b, mean, longest, spread=.8): return np.exp(r.normal(np.log(mean) - spread**2/2, spread, b)).clip(1, longest).astype(int)

def lengths(case):
    "Queries and keys of each sequence, heads, width of a head"
    r = np.random.default_rng(0)
    if case == 'self': n = lognormal(r, 64, 60, 256); n[0] = 256; return n, None, 4, 64
    if case == 'cross': n, m = lognormal(r, 64, 100, 300), lognormal(r, 64, 60, 256); n[0], m[0] = 300, 256; return n, m, 4, 64
    n = r.integers(5, 41, 256); return n, None, 1, 64      # 'short': many small sets

def make(case):
    "For each variant a function of nothing that gives packed output and packed gradients"
    n, m, h, e = lengths(case)
    off = [torch.from_numpy(np.concatenate([[0], x.cumsum()])) for x in (n, n if m is None else m)]
    pairs, g = Pairs(off[0], None if m is None else off[1]), torch.Generator().manual_seed(0)
    packed = [torch.randn(int(o[-1]), h, e, generator=g).requires_grad_() for o in (off[0], off[1], off[1])]
    up = torch.randn(packed[0].shape, generator=g)
    square = [to_padded(x.detach(), o).transpose(1, 2).contiguous().requires_grad_() for x, o in zip(packed, (off[0], off[1], off[1]))]
    up_square, here = to_padded(up, off[0]).transpose(1, 2).contiguous(), torch.arange(square[1].shape[2]) < off[1].diff()[:, None]
    allow = here[:, None].expand(-1, square[0].shape[2], -1)
    def step(f, xs, up):
        o = f(*xs); return [o, *torch.autograd.grad(o, xs, up)]
    def dense(q, k, v): return silu_padded(q, k, v, allow)
    def softmax(q, k, v): return F.scaled_dot_product_attention(q, k, v, attn_mask=allow[:, None])
    fns = {name: lambda b=b: step(lambda *x: SILU_BACKENDS[b](*x, pairs), packed, up) for name, b in VARIANTS.items() if b}
    fns |= {'padded': lambda: step(dense, square, up_square), 'softmax': lambda: step(softmax, square, up_square)}
    def unpad(xs): return [to_jagged(x.transpose(1, 2), o.diff()) for x, o in zip(xs, (off[0], off[0], off[1], off[1]))]
    return fns, unpad, sum(x*y for x, y in zip(*pairs.lengths)), allow.numel()

def check(fns, unpad):
    "All SiLU variants give the same output and gradients"
    want = unpad(fns['padded']())
    for name in ('one rectangle', 'rectangles', 'tiles'):
        for a, b in zip(fns[name](), want): assert_close(a, b, atol=1e-3, rtol=1e-3)

def print_peak(case, variant):
    status = lambda key: next(int(l.split()[1])/1024 for l in open('/proc/self/status') if l.startswith(key))
    make('short')[0][variant](); fn = make(case)[0][variant]
    gc.collect()
    if sys.platform == 'linux': ctypes.CDLL(None).malloc_trim(0)     # what building the case has freed goes back first
    before = status('VmRSS'); Path('/proc/self/clear_refs').write_text('5')
    fn(); print(status('VmHWM') - before)

def peak_mb(case, variant): return float(subprocess.run([sys.executable, __file__, '--peak', case, variant], capture_output=True, text=True, check=True).stdout)

def main(out, rounds=5):
    rows = []
    for case in ('self', 'cross', 'short'):
        fns, unpad, real, padded = make(case); check(fns, unpad)
        times = {v: [] for v in VARIANTS}
        for r in range(rounds + 1):
            for v in VARIANTS:
                t0, n = time.process_time(), 0
                while n == 0 or time.process_time() - t0 < .2: fns[v](); n += 1
                if r: times[v].append((time.process_time() - t0)/n)
        for v in VARIANTS:
            rows.append(dict(case=case, variant=v, ms=round(1e3*statistics.median(times[v]), 2), mb=round(peak_mb(case, v), 1), padded_per_pair=round(padded/real, 2)))
            print(rows[-1], flush=True)
    with open(out, 'w', newline='') as f: w = csv.DictWriter(f, list(rows[0])); w.writeheader(); w.writerows(rows)

if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0]); ap.add_argument('--peak', nargs=2)
    ap.add_argument('--out', default=Path(__file__).parent/'results'/'silu.csv'); a = ap.parse_args()
    torch.set_num_threads(1)
    print_peak(*a.peak) if a.peak else main(a.out)
