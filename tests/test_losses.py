"Fused losses = plain autograd = Python loop, in value and in every gradient; listwise multi-step loss = its formula"
import math
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hettrans.heterrec.lmp import LMPConfig, active_steps, lmp_loop, lmp_loss
from hettrans.nn.losses import allow_in_batch, catalogue_loss, draws, in_batch_loss, infonce_loop, infonce_plain, sampled_loss

fast = settings(max_examples=40, deadline=None)
CHUNKS = st.sampled_from([1, 7, 64, None])

def close(fused, plain, *inputs):
    "Equal values and equal gradients of all inputs"
    assert_close(fused, plain)
    got, want = (torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True, retain_graph=True) for loss in (fused, plain))
    for a, b in zip(got, want): assert_close(a, b)

def tensors(j, v, d, seed):
    "Random user vectors, item vectors, 1/tau, targets with gaps, weights with zeros"
    g = torch.Generator().manual_seed(seed)
    u, x = (torch.randn(n, d, generator=g, dtype=torch.float64).requires_grad_() for n in (j, v))
    inv_tau = (.2 + 2*torch.rand((), generator=g, dtype=torch.float64)).requires_grad_()
    target = torch.randint(-1, v, (j,), generator=g)
    weight = torch.rand(j, generator=g, dtype=torch.float64) * (torch.rand(j, generator=g) < .8)
    return u, x, inv_tau, target, weight, g

@given(st.integers(0, 12), st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**6), st.booleans(), st.booleans(), CHUNKS)
@fast
def test_catalogue(j, v, d, seed, zero, values, chunk):
    u, x, inv_tau, target, weight, g = tensors(j, v, d, seed)
    value = torch.randint(0, 3, (v,), generator=g) if values else torch.arange(v)
    allow = value[None] != value[target.clamp_min(0)][:, None]
    plain = infonce_plain(u, x, target, allow, weight, inv_tau, zero_logit=zero)
    assert_close(plain.item(), infonce_loop(u, x, target, allow, weight, inv_tau.item(), zero_logit=zero))
    close(catalogue_loss(u, x, target, weight, inv_tau, zero, value if values else None, chunk), plain, u, x, inv_tau)

@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 5), st.integers(1, 9), st.integers(0, 10**6), st.booleans(), st.booleans(), CHUNKS)
@fast
def test_sampled(j, v, d, n, seed, zero, corrected, chunk):
    u, x, inv_tau, target, weight, g = tensors(j, v, d, seed)
    drawn, log_q = torch.randint(v, (n,), generator=g), torch.randn(v, generator=g, dtype=torch.float64).log_softmax(0)
    c = torch.cat([drawn, target.clamp_min(0)])
    allow = (torch.arange(n + j) < n)[None] & (c[None] != target.clamp_min(0)[:, None])
    at = torch.where(target >= 0, n + torch.arange(j), -1)
    q = (log_q[c], torch.full((j,), math.log(n), dtype=torch.float64)) if corrected else (None, None)
    plain = infonce_plain(u, x[c], at, allow, weight, inv_tau, *q, zero_logit=zero)
    assert_close(plain.item(), infonce_loop(u, x[c], at, allow, weight, inv_tau.item(), *q, zero_logit=zero))
    close(sampled_loss(u, x, target, weight, inv_tau, drawn, log_q if corrected else None, zero, chunk=chunk), plain, u, x, inv_tau)

@given(st.integers(1, 16), st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans(), CHUNKS)
@fast
def test_in_batch(j, v, d, groups, seed, zero, cross, corrected, chunk):
    u, x, inv_tau, target, weight, g = tensors(j, v, d, seed)
    group, sample = torch.randint(groups, (j,), generator=g), torch.randint(1 + j//2, (j,), generator=g)
    log_q = torch.randn(v, generator=g, dtype=torch.float64).log_softmax(0) if corrected else None
    allow = allow_in_batch(target, group, sample, cross)
    at = torch.where(target >= 0, torch.arange(j), -1)
    valid, pool = target >= 0, torch.zeros_like(group) if cross else group
    n = torch.tensor([max(1, sum(bool(valid[k]) and pool[k] == pool[i] and sample[k] != sample[i] for k in range(j))) for i in range(j)])
    q = (log_q[target.clamp_min(0)], n.double().log()) if corrected else (None, None)
    plain = infonce_plain(u, x[target.clamp_min(0)], at, allow, weight, inv_tau, *q, zero_logit=zero)
    assert_close(plain.item(), infonce_loop(u, x[target.clamp_min(0)], at, allow, weight, inv_tau.item(), *q, zero_logit=zero))
    close(in_batch_loss(u, x, target, group, sample, weight, inv_tau, target, cross, zero, log_q, chunk), plain, u, x, inv_tau)
    own = in_batch_loss(u, x[target.clamp_min(0)], target, group, sample, weight, inv_tau, None, cross, zero, chunk=chunk)
    if not corrected: close(own, plain, u, x, inv_tau)

def lmp_case(b, t, p, v, d, seed, scale=1.):
    "Packed sequences of random lengths: user vectors, item vectors, targets, positions, samples, 1/tau"
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, t + 1, (b,), generator=g)
    sample = torch.repeat_interleave(torch.arange(b), lengths)
    position = torch.cat([torch.arange(n) for n in lengths.tolist()])
    item = torch.randint(v, (len(sample),), generator=g)
    targets = torch.full((len(sample), p), -1)
    for j in range(len(sample)):
        for i in range(p):
            if j + i + 1 < len(sample) and sample[j + i + 1] == sample[j]: targets[j, i] = item[j + i + 1]
    u, x = torch.randn(p, len(sample), d, generator=g, dtype=torch.float64)*scale, torch.randn(v, d, generator=g, dtype=torch.float64)
    return u.requires_grad_(), x.requires_grad_(), targets, position, sample, torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

SHAPE = (st.integers(1, 5), st.integers(2, 6), st.integers(1, 3), st.integers(1, 7), st.integers(1, 4), st.integers(0, 10**6))

@given(*SHAPE, st.sampled_from([0., .5, 1., 20.]), st.booleans(), st.booleans(), st.booleans())
@fast
def test_lmp_is_its_formula(b, t, p, v, d, seed, margin, indicator, zero, cross):
    u, x, targets, position, sample, inv_tau = lmp_case(b, t, p, v, d, seed)
    loss, stats = lmp_loss(u, x, targets, position, sample, inv_tau, LMPConfig(p, margin, indicator, zero, cross_position=cross))
    assert_close(loss.item(), lmp_loop(u, x, targets, position, sample, inv_tau.item(), LMPConfig(p, margin, indicator, zero, cross_position=cross)))
    want = 0
    for i in range(p):
        has = targets[:, i] >= 0
        pos = lambda k: (u[k]*x[targets[:, k].clamp_min(0)]).sum(-1)*inv_tau
        on = (pos(i - 1).exp() > pos(i).exp() + margin) & has if i and indicator else has
        allow = allow_in_batch(targets[:, i], position, sample, cross)
        at = torch.where(has, torch.arange(len(has)), -1)
        mean = infonce_plain(u[i], x[targets[:, i].clamp_min(0)], at, allow, on.double(), inv_tau, zero_logit=zero)
        want = want + mean * on.sum() / has.sum().clamp_min(1)
        assert_close(stats['active'][i].item(), float(on.sum() / has.sum().clamp_min(1)))
    close(loss, want, u, x, inv_tau)

@given(*SHAPE)
@fast
def test_one_step_without_margin_is_cross_entropy(b, t, p, v, d, seed):
    u, x, targets, position, sample, inv_tau = lmp_case(b, t, p, v, d, seed)
    if not (targets[:, 0] >= 0).any(): return
    loss, _ = lmp_loss(u, x, targets, position, sample, inv_tau, LMPConfig(1, 0., zero_logit=False, negatives='catalogue'))
    close(loss, F.cross_entropy(u[0] @ x.T * inv_tau, targets[:, 0], ignore_index=-1), u, x, inv_tau)

@given(st.integers(2, 8), st.integers(1, 4), st.integers(0, 10**6))
@fast
def test_in_batch_is_cross_entropy_when_items_differ(b, d, seed):
    u, x, *_, inv_tau = lmp_case(b, 2, 1, b, d, seed)
    u, target = u[:, :1].detach().expand(1, b, d) + torch.arange(b)[:, None], torch.randperm(b)
    loss, _ = lmp_loss(u, x, target[:, None], torch.zeros(b, dtype=torch.long), torch.arange(b), inv_tau, LMPConfig(1, 0., zero_logit=False))
    close(loss, F.cross_entropy(u[0] @ x[target].T * inv_tau, torch.arange(b)), x, inv_tau)

@given(st.lists(st.floats(-300, 300), min_size=1, max_size=6), st.floats(-300, 300), st.one_of(st.just(0.), st.floats(1e-3, 1e3)))
@fast
def test_indicator_in_log_space(first, second, margin):
    pos = torch.tensor([first, [second]*len(first)], dtype=torch.float64)
    literal, gap = pos[0].exp() > pos[1].exp() + margin, (pos[0] - torch.logaddexp(pos[1], torch.tensor(margin, dtype=torch.float64).log())).abs()
    keep = gap > 1e-9   # nearer than rounding, either answer is right
    assert torch.equal(active_steps(pos, margin)[1][keep], literal[keep])

@pytest.mark.parametrize('negatives', ['in_batch', 'catalogue', 'sampled'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('margin', [0., 1.])
def test_finite_at_logits_of_ten_thousand(negatives, dtype, margin):
    u, x, targets, position, sample, _ = lmp_case(6, 5, 3, 9, 4, 0, 1e4)
    u, x, inv_tau = (a.detach().to(dtype).requires_grad_() for a in (u, x, torch.tensor(1.)))
    loss, _ = lmp_loss(u, x, targets, position, sample, inv_tau, LMPConfig(margin=margin, negatives=negatives, n_sampled=5))
    loss.backward()
    assert loss.isfinite() and loss > 100 and all(a.grad.isfinite().all() and a.grad.dtype == dtype for a in (u, x, inv_tau))

def test_nothing_to_predict_gives_zero():
    for negatives in ('in_batch', 'catalogue', 'sampled'):
        u, x, targets, position, sample, inv_tau = lmp_case(3, 4, 3, 5, 2, 0)
        loss, _ = lmp_loss(u, x, torch.full_like(targets, -1), position, sample, inv_tau, LMPConfig(negatives=negatives))
        loss.backward()
        assert loss == 0 and not any(a.grad.any() for a in (u, x, inv_tau))

def test_values_collide_and_draws_repeat():
    u, x, targets, position, sample, inv_tau = lmp_case(5, 6, 2, 8, 3, 1)
    value, first = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]), torch.tensor([0, 1, 2])
    y = x[first][value]   # rows of one value carry one vector
    a, _ = lmp_loss(u, y, targets, position, sample, inv_tau, LMPConfig(2), value_v=value)
    b, _ = lmp_loss(u, x[first], torch.where(targets >= 0, value[targets.clamp_min(0)], -1), position, sample, inv_tau, LMPConfig(2))
    close(a, b, u, x, inv_tau)
    sampled = lambda seed: lmp_loss(u, x, targets, position, sample, inv_tau, LMPConfig(2, negatives='sampled', n_sampled=4), generator=torch.Generator().manual_seed(seed))[0]
    assert sampled(0) == sampled(0) != sampled(1)

def test_corrected_draws_estimate_the_full_denominator():
    u, x, inv_tau, target, weight, g = tensors(3, 20, 2, 0)
    log_q = torch.randn(20, generator=g, dtype=torch.float64).log_softmax(0)
    target, one = torch.tensor([3, 5, 7]), torch.ones(3, dtype=torch.float64)
    drawn = torch.multinomial(log_q.exp(), 200_000, replacement=True, generator=g)
    full, biased, fair = catalogue_loss(u, x, target, one, inv_tau), sampled_loss(u, x, target, one, inv_tau, drawn), sampled_loss(u, x, target, one, inv_tau, drawn, log_q)
    assert abs(fair - full) < .02 < 5 < abs(biased - full)

@pytest.mark.parametrize('bad', [dict(negatives='some'), dict(steps=0), dict(margin=-1.), dict(n_sampled=0)])
def test_refused_configurations(bad):
    with pytest.raises(ValueError): LMPConfig(**bad)
