"Every attention backend against the loop: value, all gradients, causality bit for bit, padding and batch-mates"
import math
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hettrans.nn.attention import allowed_items, allowed_pairs, attend_einsum, attend_loop, attend_sdpa, random_case, value_and_grads
from hettrans.nn import backends
from hettrans.nn.backends import BACKENDS, attend, attend_chunked, attend_flex, choose_backend
from hettrans.nn.masks import MASKS, Mask, leaks, pattern, patterns_read

torch.set_num_threads(1)
CAUSAL = [m for n, m in MASKS.items() if n != 'all']
STRANGE = [Mask(lambda qi, qf, ki, kf: qi > ki), Mask(lambda qi, qf, ki, kf: qi < ki), Mask(lambda qi, qf, ki, kf: (qi >= ki) & (qi - ki <= 1)),
           Mask(lambda qi, qf, ki, kf: (qi*3 + ki*5 + qf + 2*kf) % 3 == 0), Mask(lambda qi, qf, ki, kf: qi != qi)]

def chunked(rows, budget): return lambda *a: attend_chunked(*a, rows=rows, budget=budget)
def flex_forward(*a):
    with torch.no_grad(): return attend_flex(*a)

FAST = {'einsum': attend_einsum, 'sdpa': attend_sdpa, 'chunked': attend_chunked, 'chunked-small': chunked(2, 1), 'chunked-groups': chunked(5, 60), 'auto': attend}
sizes = st.fixed_dictionaries(dict(seed=st.integers(0, 10**6), b=st.integers(1, 4), h=st.sampled_from([1, 2, 3, 4]), t=st.integers(1, 6),
                                   f=st.integers(1, 3), e=st.integers(1, 5), g=st.integers(1, 5)))
few = settings(max_examples=12, deadline=None, derandomize=True)

@pytest.mark.parametrize('name', FAST)
@given(dims=sizes, allow=st.sampled_from([*MASKS.values(), *STRANGE]), bias=st.sampled_from(['none', 'heads', 'shared']), fewer=st.integers(0, 5))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_value_and_gradients_equal_the_loop(name, dims, allow, bias, fewer):
    qkv, length_b, bucket, table = random_case(**dims, tq=max(1, dims['t'] - fewer), table_rows=1 if bias == 'shared' else None)
    if bias == 'none': bucket = table = None
    got, want = (value_and_grads(f, allow, qkv, length_b, bucket, table) for f in (FAST[name], attend_loop))
    for a, b in zip(got, want, strict=True): assert_close(a, b)

@given(dims=sizes, allow=st.sampled_from([*MASKS.values(), *STRANGE]), bias=st.booleans(), fewer=st.integers(0, 3))
@few
def test_flex_forward_equals_the_loop(dims, allow, bias, fewer):
    qkv, length_b, bucket, table = random_case(**dims, tq=max(1, dims['t'] - fewer))
    args = (allow, length_b, *((bucket, table) if bias else ()))
    assert_close(flex_forward(*qkv, *args), attend_loop(*qkv, *args).detach())

def big_case(seed, t, f, dtype=torch.float32): return random_case(seed, b=3, h=2, t=t, f=f, e=8, dtype=dtype)

ALL = {**FAST, 'loop': attend_loop, 'flex': flex_forward}

@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('allow', CAUSAL, ids=repr)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from([(5, 2), (33, 1), (40, 3), (150, 1)]), cut=st.floats(0, 1), ragged=st.booleans(), bias=st.booleans(),
       fill=st.sampled_from(['noise', 'huge', 'nan', 'inf']))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_later_items_change_no_earlier_bit(name, allow, seed, shape, cut, ragged, bias, fill):
    t, f = (5, 2) if name == 'loop' else shape
    if name == 'flex' and fill in ('nan', 'inf'): fill = 'huge'
    first = 1 + int(cut*(t - 2)); qkv, length_b, bucket, table = big_case(seed, t, f)
    if not ragged: length_b = torch.full_like(length_b, t)
    r = torch.Generator().manual_seed(seed + 1)
    new = lambda x: {'noise': torch.randn(x.shape, generator=r), 'huge': x*1e18, 'nan': x*math.nan, 'inf': x*math.inf}[fill]
    changed = [torch.cat([x[:, :, :first], new(x[:, :, first:])], 2).detach() for x in qkv]
    times = bucket.clone(); times[:, first:] = torch.randint(0, 5, times[:, first:].shape, generator=r)
    times[:, :, first:] = torch.randint(0, 5, times[:, :, first:].shape, generator=r)
    a, b = (ALL[name](*x, allow, length_b, *((g, table) if bias else ()))[:, :, :first] for x, g in ((qkv, bucket), (changed, times)))
    assert torch.equal(a, b)

def test_the_causality_test_can_fail():
    qkv, length_b, bucket, table = big_case(0, 6, 2); full = torch.full_like(length_b, 6)
    v = qkv[2].detach().clone(); v[:, :, 4:] += 1
    assert not torch.equal(attend(*qkv, MASKS['all'], full)[:, :, :4], attend(*qkv[:2], v, MASKS['all'], full)[:, :, :4])

@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('allow', MASKS.values(), ids=repr)
def test_padding_and_batch_mates_change_nothing_beyond_rounding(name, allow):
    t = 7; qkv, length_b, bucket, table = random_case(3, b=4, t=t, f=2, e=8, dtype=torch.float64)
    out = ALL[name](*qkv, allow, length_b, bucket, table).detach()
    for b, n in enumerate(length_b.tolist()):
        assert (out[b, :, n:] == 0).all()
        if n == 0: continue
        alone = ALL[name](*(x[b:b+1, :, :n] for x in qkv), allow, torch.tensor([n]), bucket[b:b+1, :n, :n], table).detach()
        assert_close(out[b, :, :n], alone[0])

@pytest.mark.parametrize('name', FAST)
@pytest.mark.parametrize('allow', MASKS.values(), ids=repr)
def test_rubbish_in_padding_leaks_neither_into_values_nor_gradients(name, allow):
    qkv, length_b, bucket, table = random_case(4, b=4, t=6, f=2, e=4)
    pad = torch.arange(6) >= length_b[:, None]; assert pad.any()
    dirty = [x.detach().masked_fill(pad[:, None, :, None, None], math.nan).requires_grad_() for x in qkv]
    clean, got = (value_and_grads(FAST[name], allow, x, length_b, bucket, table) for x in (qkv, dirty))
    for a, b in zip(got, clean, strict=True): assert_close(a, b)

@pytest.mark.parametrize('name', FAST)
@pytest.mark.parametrize('which', [1, 2])
def test_a_broken_token_reaches_exactly_its_readers(name, which):
    allow = MASKS['past_items']; qkv, length_b, bucket, table = random_case(5, b=2, t=5, f=2, e=4); length_b[:] = 5
    qkv[which].data[0, 0, 3, 1] = math.nan
    bad = torch.isnan(FAST[name](*qkv, allow, length_b, bucket, table)).any(-1)
    reads = allowed_pairs(allow, length_b, 5, 5, 2)[0, :, :, 3, 1]
    assert torch.equal(bad[0, 0], reads) and not bad[1].any() and not bad[0, 1].any()

@pytest.mark.parametrize('name', FAST)
def test_masks_do_not_leak_through_any_backend(name):
    attend_bare = lambda q, k, v, allow, n: FAST[name](q, k, v, allow, n)
    for m in CAUSAL: assert leaks(m, attend=attend_bare, layers=2) == []
    assert leaks(lambda qi, qf, ki, kf: qf*4 + qi >= kf*4 + ki, attend=attend_bare) != []

@given(dims=sizes)
@few
def test_shared_table_is_a_table_of_equal_rows(dims):
    qkv, length_b, bucket, table = random_case(**dims, table_rows=1); h = dims['h']
    a = value_and_grads(attend, MASKS['item_block'], qkv, length_b, bucket, table)
    b = value_and_grads(attend, MASKS['item_block'], qkv, length_b, bucket, table.detach().repeat(h, 1).requires_grad_())
    assert a[4].shape == (1, dims['g']) and b[4].shape == (h, dims['g'])
    assert_close(a[4], b[4].sum(0, keepdim=True)); assert_close(a[0], b[0])

def test_the_bias_is_inside_the_scale_and_reaches_only_its_head():
    q = torch.zeros(1, 2, 2, 1, 4); v = torch.eye(2).view(1, 1, 2, 1, 2).repeat(1, 2, 1, 1, 2)
    bucket = torch.tensor([[[0, 0], [1, 0]]]); table = torch.tensor([[0., 2.], [0., 0.]])
    for f in FAST.values():
        w = f(q, q, v, MASKS['item_block'], torch.tensor([2]), bucket, table)[0, :, 1, 0, 0]
        assert_close(w, torch.tensor([1/(1 + math.exp(-2/2)), .5]))

def test_nothing_of_the_size_of_all_pairs_is_kept():
    qkv, length_b, bucket, table = random_case(0, b=2, t=64, f=4, e=4, dtype=torch.float32); kept = [0]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x): attend_chunked(*qkv, MASKS['item_block'], length_b, bucket, table)
    assert len(kept) > 3 and max(kept) <= max(bucket.numel(), qkv[0].numel())        # something is kept, or nothing was watched

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_goes_in_and_comes_out(dtype):
    qkv, length_b, bucket, table = random_case(0, t=9, e=8, dtype=dtype)
    got = value_and_grads(attend_chunked, MASKS['item_block'], qkv, length_b, bucket, table)
    assert all(x.dtype == dtype for x in got)
    wide = [x.detach().float().requires_grad_() for x in (*qkv, table)]
    assert_close(got[0].float(), attend_chunked(*wide[:3], MASKS['item_block'], length_b, bucket, wide[3]), rtol=2e-2, atol=2e-2)

def test_choice_force_and_override(monkeypatch):
    qkv, length_b, bucket, table = random_case(0); args = (*qkv, MASKS['token'], length_b, bucket, table)
    assert all(choose_backend('cpu', 8, 2, t, f, g) in ('chunked', 'sdpa') for t in (1, 32, 256) for f in (1, 8) for g in (True, False))
    used = []
    for name in list(BACKENDS): monkeypatch.setitem(BACKENDS, name, lambda *a, name=name: used.append(name))
    attend(*args); attend(*args, backend='loop')
    monkeypatch.setenv('HETTRANS_ATTENTION', 'einsum'); attend(*args); attend(*args, backend='sdpa')
    assert used == ['chunked', 'loop', 'einsum', 'sdpa']
    monkeypatch.setenv('HETTRANS_ATTENTION', 'quick')
    with pytest.raises(ValueError, match='quick'): attend(*args)

@given(tk=st.integers(1, 140), f=st.integers(1, 3), fewer=st.integers(0, 139), allow=st.sampled_from([*MASKS.values(), *STRANGE]))
@few
def test_looking_ahead_is_told_by_all_pairs(tk, f, fewer, allow):
    tq = max(1, tk - fewer)
    pairs = allowed_items(allow, tq, tk, f).any(3).any(1)
    assert backends._looks_ahead(allow, tq, tk, f) == bool(pairs.triu(tk - tq + 1).any())

@pytest.mark.parametrize('allow', MASKS.values(), ids=repr)
def test_flex_keeps_no_mask_of_all_pairs(allow):
    backends.plan_chunks.cache_clear()
    for t in (20, 33, 47):
        qkv, length_b, bucket, table = big_case(t, t, 4)
        flex_forward(*qkv, allow, length_b)
    assert backends.plan_chunks.cache_info().currsize == 0
    asked = backends._looks_ahead.cache_info().misses; flex_forward(*qkv, allow, length_b)
    assert backends._looks_ahead.cache_info().misses == asked       # only the answer is kept, and it is

def test_flex_refuses_gradients_on_a_cpu():
    qkv, length_b, bucket, table = random_case(0)
    with pytest.raises(NotImplementedError, match='CPU'): attend_flex(*qkv, MASKS['token'], length_b, bucket, table)

DEVICES = ['cpu', *['cuda']*torch.cuda.is_available()]      # those that are here: what cannot run is not collected, rather than skipped

@pytest.mark.parametrize('device,name', [(d, n) for d in DEVICES for n in ('einsum', 'sdpa', 'chunked', 'flex') if (d, n) != ('cpu', 'flex')])   # flex has no gradients on a CPU
@pytest.mark.parametrize('allow', MASKS.values(), ids=repr)
def test_float32_on_every_device_is_float64_of_the_einsum(device, name, allow):
    torch.backends.cuda.matmul.allow_tf32 = False
    qkv, length_b, bucket, table = random_case(0, b=3, t=40, f=4, e=16, dtype=torch.float32)
    exact = lambda q, k, v, allow, n, g, table: attend_einsum(q.double(), k.double(), v.double(), allow, n, g, table.double()).float()   # one weighting for both: that of float32
    want = value_and_grads(exact, allow, qkv, length_b, bucket, table)
    there = [x.detach().to(device).requires_grad_() for x in (*qkv, table)]
    got = value_and_grads(BACKENDS[name], allow, there[:3], length_b.to(device), bucket.to(device), there[3])
    for a, b in zip(got, want, strict=True):
        assert a.device.type == device
        assert_close(a.cpu(), b, rtol=1e-3, atol=1e-3)

@given(st.tuples(*[st.integers(0, 5)]*4))
@few
def test_pattern_is_one_of_three(p):
    qi, qf, ki, kf = p
    assert pattern(*p) == (1 if qi == ki else 2 if qf == kf else 3) == int(pattern(*map(torch.tensor, p)))
    assert pattern(*p) == pattern(ki, kf, qi, qf)

def test_masks_survive_pickling_and_copying():
    import copy, pickle
    for m in MASKS.values(): assert pickle.loads(pickle.dumps(m)) is m and copy.deepcopy(m) is m

def test_patterns_read_knows_lengths():
    assert (patterns_read(MASKS['all'], 4, 2, 2)[4:] == 0).all() and (patterns_read(MASKS['all'], 4, 2, 2)[:, 4:] == 0).all()
    assert (patterns_read(MASKS['all'], 4, 2, 2)[:4, :4] > 0).all()
