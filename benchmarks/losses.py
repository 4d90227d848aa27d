"""Time and peak memory of one loss with its gradients: plain autograd against the fused form.

    python benchmarks/losses.py            # every case, each in a process of its own -> benchmarks/results/losses.csv
    python benchmarks/losses.py in_batch fused 128 64 64   # one case, prints one line

`cpu_ms` is processor time, the best of a few repeats; `peak_mb` is the growth of the resident set over the inputs, at its highest. float32, one thread.
"""
import csv, math, resource, subprocess, sys, time
from pathlib import Path
import torch
import torch.nn.functional as F
from hettrans.heterrec.lmp import LMPConfig, lmp_loss
from hettrans.nn.losses import catalogue_loss, in_batch_loss, sampled_loss

CASES = [('in_batch', 128, 64, 64), ('in_batch_ragged', 128, 64, 64), ('in_batch', 256, 128, 64), ('lmp', 128, 64, 64), ('lmp', 256, 128, 64), ('catalogue', 32, 64, 64), ('sampled', 128, 64, 64)]
FIELDS = ['case', 'variant', 'b', 't', 'd', 'rows', 'cpu_ms', 'peak_mb', 'loss', 'torch']
ITEMS, DRAWS, REPEATS = 12_000, 1024, 7

def inputs(case, b, t, d):
    "Packed rows of `b` sequences, their positions, and the vectors of a catalogue"
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(t//4, t + 1, (b,), generator=g) if case == 'in_batch_ragged' else torch.full((b,), t)
    sample_j = torch.repeat_interleave(torch.arange(b), lengths)
    position_j = torch.cat([torch.arange(n) for n in lengths.tolist()])
    unit = lambda n: F.normalize(torch.randn(n, d, generator=g), dim=-1).requires_grad_()
    target_j = (ITEMS * torch.rand(len(sample_j), generator=g)**2).long()   # popular items collide
    return unit(len(sample_j)), unit(ITEMS), target_j, position_j, sample_j, torch.tensor(20., requires_grad=True), torch.randint(ITEMS, (DRAWS,), generator=g)

def ahead(target_j, sample_j, steps=3):
    "Targets of steps 1 to `steps`: those of the following rows of the same sequence, else -1"
    shifted = [F.pad(target_j[i:], (0, i)).where(F.pad(sample_j[i:], (0, i), value=-1) == sample_j, -1) for i in range(steps)]
    return torch.stack(shifted, 1)

def plain_lmp(u_jd, v_vd, target_j, position_j, sample_j, inv_tau, b, t):
    "Three steps with zero logit and indicator, over padded matrices of logits"
    pad = lambda x, fill=0: x.new_full((t, b, *x.shape[1:]), fill).index_put((position_j, sample_j), x)
    total, before, u_tbd = 0, None, pad(u_jd)
    for target in ahead(target_j, sample_j).T:
        item_tb, v_tbd = pad(target, -1), pad(v_vd[target.clamp_min(0)])
        bad = (item_tb[:, :, None] == item_tb[:, None]) | (item_tb < 0)[:, None]
        x_tbb = u_tbd @ v_tbd.transpose(1, 2) * inv_tau
        pos_tb = x_tbb.diagonal(dim1=1, dim2=2)
        rivals = x_tbb.masked_fill(bad, -math.inf).logsumexp(-1)
        loss_tb = torch.logaddexp(torch.logaddexp(rivals, pos_tb), torch.zeros_like(pos_tb)) - pos_tb
        valid = item_tb >= 0
        on = valid if before is None else valid & (before > torch.logaddexp(pos_tb, torch.zeros_like(pos_tb)))
        total, before = total + loss_tb[on].sum() / valid.sum(), pos_tb.detach()
    return total

def plain(case, u_jd, v_vd, target_j, position_j, sample_j, inv_tau, drawn_n, b, t):
    "What one writes first: all logits, a mask, cross_entropy, autograd"
    if case == 'lmp': return plain_lmp(u_jd, v_vd, target_j, position_j, sample_j, inv_tau, b, t)
    if case == 'catalogue': return F.cross_entropy(u_jd @ v_vd.T * inv_tau, target_j)
    if case == 'sampled':
        x_jn = (u_jd @ v_vd[drawn_n].T * inv_tau).masked_fill(drawn_n[None] == target_j[:, None], -math.inf)
        return F.cross_entropy(torch.cat([(u_jd * v_vd[target_j]).sum(-1, True) * inv_tau, x_jn], 1), torch.zeros_like(target_j))
    pad = lambda x, fill=0: x.new_full((t, b, *x.shape[1:]), fill).index_put((position_j, sample_j), x)
    item_tb = pad(target_j, -1)
    bad = ((item_tb[:, :, None] == item_tb[:, None]) | (item_tb < 0)[:, None]) & ~torch.eye(b, dtype=torch.bool)
    x_tbb = (pad(u_jd) @ pad(v_vd[target_j]).transpose(1, 2) * inv_tau).masked_fill(bad, -math.inf)
    at = torch.where(item_tb >= 0, torch.arange(b), -100)
    return F.cross_entropy(x_tbb.masked_fill((item_tb < 0)[..., None], 0).flatten(0, 1), at.flatten())

def fused(case, u_jd, v_vd, target_j, position_j, sample_j, inv_tau, drawn_n, b, t):
    "The same by hettrans.nn.losses"
    one_j = torch.ones_like(u_jd[:, 0])
    if case == 'lmp': return lmp_loss(u_jd.expand(3, -1, -1), v_vd, ahead(target_j, sample_j), position_j, sample_j, inv_tau, LMPConfig())[0]
    if case == 'catalogue': return catalogue_loss(u_jd, v_vd, target_j, one_j, inv_tau)
    if case == 'sampled': return sampled_loss(u_jd, v_vd, target_j, one_j, inv_tau, drawn_n)
    return in_batch_loss(u_jd, v_vd, target_j, position_j, sample_j, one_j, inv_tau, target_j)

def measure(case, variant, b, t, d):
    "One row of the table"
    torch.set_num_threads(1)
    args, f = inputs(case, b, t, d), dict(plain=plain, fused=fused)[variant]
    tiny = inputs('in_batch', 4, 4, d)
    f(case, *tiny, 4, 4).backward()   # what torch allocates once is not ours
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)
    before, times = peak(), []
    for _ in range(REPEATS):
        start = time.process_time()
        loss = f(case, *args, b, t); loss.backward()
        times.append(time.process_time() - start)
        for x in args:
            if x.is_floating_point(): x.grad = None
    return dict(case=case, variant=variant, b=b, t=t, d=d, rows=len(args[0]), cpu_ms=round(1e3*min(times), 1), peak_mb=round(peak() - before), loss=f'{loss.item():.4f}', torch=torch.__version__)

if __name__ == '__main__':
    if len(sys.argv) > 1:
        row = measure(*sys.argv[1:3], *map(int, sys.argv[3:]))
        csv.DictWriter(sys.stdout, FIELDS).writerow(row)
    else:
        out = Path(__file__).parent / 'results/losses.csv'
        out.parent.mkdir(exist_ok=True)
        lines = [subprocess.run([sys.executable, __file__, case, variant, *map(str, shape)], check=True, capture_output=True, text=True).stdout.strip()
                 for case, *shape in CASES for variant in ('plain', 'fused')]
        out.write_text('\n'.join([','.join(FIELDS), *lines]) + '\n')
        print(out.read_text())
