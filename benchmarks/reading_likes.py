"""When does HoMer find out that near-duplicates matter? Weights at the start, heads and scale, by steps of training.

    python benchmarks/reading_likes.py                 # all variants, 3 seeds -> benchmarks/results/reading_likes.csv (about 15 minutes on one thread)
    python benchmarks/reading_likes.py --variants apart likes --seeds 1

A shop of 72 categories and 6 styles. Each request has 40 candidates, six in ten of the three categories that were asked for. The logit of a click is
-0.5, less 1.5 for each other candidate of the same category and style, two at the most; everything is shown. Price, tier and six further features mean nothing.
There is no past: what a candidate can be told by is the set alone. Measured is the squared correlation of logit and truth on 200 fresh requests (0 = the set
is not read, 1 = the rule). A request of the marketplace shows ten candidates, not forty: a step here has four times the labels of a step there.
"""
import argparse, time
from dataclasses import replace
from pathlib import Path
import numpy as np, torch
from hettrans.data.encode import TokenSpec
from hettrans.data.requests import RequestBatch
from hettrans.homer.model import HoMer, HoMerConfig, homer_loss
from results_table import add_rows, rows_of

ROOT = Path(__file__).parents[1]
N, SIZES = 40, dict(category=72, style=6, tier=3, price=32, **{f'other{k}': 50 for k in range(6)})
TOKENS = [TokenSpec(name, 'table', rows, 1, 0, 'cross') for name, rows in SIZES.items()] + [TokenSpec('group', 'table', 24, 1, 0, 'context')]
BASE = HoMerConfig(heads=4, encoder_layers=0, decoder_layers=2, user_layers=0, impression=0., scale='1/sqrt(n)', max_past=0)
VARIANTS = dict(apart=BASE, one_head=replace(BASE, heads=1), eight_heads=replace(BASE, heads=8), mean=replace(BASE, scale='1/n'),
                likes=replace(BASE, alike=3.), likes_short=replace(BASE, alike=1.), likes_mean=replace(BASE, alike=3., scale='1/n'), likes_one_head=replace(BASE, alike=3., heads=1))
FIELDS = ['variant', 'seed', 'step', 'r2', 'loss', 'seconds']

def requests(b, r):
    "A batch of requests, and the number of near-duplicates of each candidate, at most two"
    draw = lambda top, *size: torch.randint(top, size, generator=r)
    group = draw(24, b, 1)
    codes = {name: draw(rows, b, N) for name, rows in SIZES.items()}
    codes['category'] = torch.where(torch.rand(b, N, generator=r) < .6, group*3 + draw(3, b, N), codes['category'])
    kind = codes['category']*6 + codes['style']
    twins = ((kind[:, :, None] == kind[:, None]).sum(-1) - 1).clamp(max=2)
    clicked = (torch.rand(b, N, generator=r) < torch.sigmoid(-.5 - 1.5*twins)).float().flatten()
    none, no_past = torch.zeros(0, dtype=torch.long), torch.zeros(b + 1, dtype=torch.long)
    return RequestBatch(torch.arange(b + 1)*N, torch.zeros(b*N, dtype=torch.long), {k: c.reshape(-1, 1) for k, c in codes.items()}, {}, dict(group=group), torch.ones(b, dtype=torch.long),
        no_past, none, {k: none[:, None] for k in SIZES}, {}, dict(group=none[:, None]), none, none, none, torch.ones(b*N), clicked), twins.flatten()

def r2_of(model, seed=77):
    "Squared correlation of logits and truth on fresh requests"
    batch, twins = requests(200, torch.Generator().manual_seed(seed))
    with torch.no_grad(): return float(torch.corrcoef(torch.stack([model.eval()(batch, {}).click_n, twins.float()]))[0, 1]**2)

def train(config, seed, steps, lr=3e-3, checks=8):
    "Yield step, correlation and loss"
    torch.manual_seed(seed); model, r, losses = HoMer(config, TOKENS), torch.Generator().manual_seed(seed), []
    opt = torch.optim.AdamW(model.parameters(), lr)
    for step in range(1, steps + 1):
        batch, _ = requests(64, r); model.train()
        loss = homer_loss(model, model(batch, {}), batch, {}); losses.append(loss.item())
        opt.param_groups[0]['lr'] = lr*min(1, step/50)*.5*(1 + np.cos(np.pi*step/steps))
        opt.zero_grad(); loss.backward(); torch.nn.utils.clip_grad_norm_(model.parameters(), 1.); opt.step()
        if step % (steps//checks) == 0: yield step, r2_of(model), np.mean(losses[-50:])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--variants', nargs='+', default=list(VARIANTS), choices=list(VARIANTS)); p.add_argument('--seeds', type=int, default=3); p.add_argument('--steps', type=int, default=600)
    p.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'reading_likes.csv')
    a = p.parse_args(); torch.set_num_threads(1)
    done = {(row['variant'], row['seed']) for row in rows_of(a.out)}
    for seed in range(a.seeds):
        for name in a.variants:
            if (name, str(seed)) in done: continue
            began, rows = time.time(), []
            for step, r2, loss in train(VARIANTS[name], seed, a.steps): rows.append(dict(zip(FIELDS, (name, seed, step, round(r2, 4), round(loss, 5), round(time.time() - began, 1)))))
            add_rows(a.out, FIELDS, rows)
            print(f'{name:15s} seed {seed}: R2', ' '.join(f"{row['r2']:.2f}" for row in rows), f"{rows[-1]['seconds']:.0f} s", flush=True)

if __name__ == '__main__': main()
