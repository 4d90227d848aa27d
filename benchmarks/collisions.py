"""What a token-level loss loses when a category may be a negative of itself.

    python benchmarks/collisions.py        # -> benchmarks/results/collisions.csv

A world of 12 categories with Zipf popularity; the next category depends on the current one, so the best guess is known.
Two small tables are trained with in-batch negatives. `hits` is the hit rate of the favourite guess over that of the
oracle, `own_share` the share of negatives that equal the row's own positive.
"""
import csv
from pathlib import Path
import torch
from hettrans.nn.losses import in_batch_loss

WAYS = {'masked': (True, False), 'not masked': (False, False), 'not masked, corrected': (False, True)}

def train(seed, masked, corrected, c=12, b=64, t=4, d=8, steps=100):
    "Share of the oracle's hits after training, and how often a negative is the own positive"
    g = torch.Generator().manual_seed(seed)
    next_cc = (2*torch.randn(c, c, generator=g) - torch.arange(1, c + 1).log()).softmax(1)
    how_often_c = torch.matrix_power(next_cc, 50)[0]
    user_cd, value_cd = ((.1*torch.randn(c, d, generator=g)).requires_grad_() for _ in range(2))
    opt = torch.optim.Adam([user_cd, value_cd], lr=.05)
    place = dict(group_j=torch.arange(t).repeat(b), sample_j=torch.arange(b).repeat_interleave(t), weight_j=torch.ones(b*t), inv_tau=1.)
    for _ in range(steps):
        now_j = torch.multinomial(how_often_c, b*t, replacement=True, generator=g)
        next_j = torch.multinomial(next_cc[now_j], 1, generator=g)[:, 0]
        loss = in_batch_loss(user_cd[now_j], value_cd, next_j if masked else torch.arange(b*t), **place, target_j=next_j, zero_logit=True,
                             log_q_v=how_often_c.log() if corrected else None)
        opt.zero_grad(); loss.backward(); opt.step()
    hits = lambda guess_c: (how_often_c * next_cc[torch.arange(c), guess_c]).sum()
    return (hits((user_cd @ value_cd.T).argmax(1)) / hits(next_cc.argmax(1))).item(), how_often_c.square().sum().item()

if __name__ == '__main__':
    torch.set_num_threads(1)
    out = Path(__file__).parent / 'results/collisions.csv'
    out.parent.mkdir(exist_ok=True)
    with out.open('w', newline='') as f:
        w = csv.writer(f, lineterminator='\n'); w.writerow(['way', 'seed', 'hits', 'own_share'])
        for way, how in WAYS.items():
            for seed in range(5): w.writerow([way, seed, *(f'{x:.4f}' for x in train(seed, *how))])
    print(out.read_text())
