"Blocks, jagged batches and time gaps over random shapes: jagged = padded = each alone, causal bit for bit, batch-mates and order do not matter"
import math
from types import SimpleNamespace
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hettrans.nn.attention import attend_loop
from hettrans.nn.blocks import CausalBlock, CausalStack, layout_buckets
from hettrans.nn.jagged import Layout, attend_jagged, group_lengths, last_rows, positions, sequence_of_row, to_jagged, to_padded
from hettrans.nn import timegap
from hettrans.nn.masks import MASKS, allow_all, allow_item_block
from hettrans.nn.timegap import TimeGapBias, bit_buckets, gap_buckets, search_buckets

fast = settings(max_examples=20, deadline=None)
LENGTHS = st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any)
OVERHEADS = st.sampled_from([0, 5, 30, math.inf])
CAUSAL = st.sampled_from([a for a in MASKS.values() if a is not allow_all])
ANY = st.sampled_from(list(MASKS.values()))
BACKENDS = st.sampled_from(['einsum', 'sdpa', 'chunked', 'auto'])
NORMS, SEEDS, G = st.sampled_from(['post', 'pre']), st.integers(0, 10**6), 12

def offsets_of(lengths): return torch.tensor([0, *np.cumsum(lengths).tolist()])

def case(lengths, seed, f=2, d=4):
    "Offsets, inputs in float64, times that never decrease within a sequence"
    r, off = torch.Generator().manual_seed(seed), offsets_of(lengths)
    j = int(off[-1])
    x = torch.randn(j, f, d, generator=r, dtype=torch.float64).requires_grad_()
    times = torch.randint(0, 2**torch.randint(1, 12, (1,), generator=r).item(), (j,), generator=r).cumsum(0)
    return off, x, times

def stack_of(seed, d=4, n=2, **kw):
    "A stack whose every parameter is random, in float64"
    torch.manual_seed(seed); s = CausalStack(n, d, 2, n_buckets=G, **kw).double()
    with torch.no_grad():
        for p in s.parameters(): p.copy_(torch.randn_like(p)/math.sqrt(p.shape[-1]) + (p.dim() == 1))
    return s

def run(stack, x, off, times, allow, overhead=30, backend='auto', query_times=None):
    lay = Layout.make(off, overhead)
    return stack(x, lay, allow, layout_buckets(lay, times if query_times is None else query_times, times, G), backend)

def value_and_grads(stack, y, x, up): return [y, *torch.autograd.grad(y, [x, *stack.parameters()], up)]

@given(LENGTHS, SEEDS, st.integers(1, 3), OVERHEADS, ANY, NORMS, st.booleans(), BACKENDS)
@settings(max_examples=15, deadline=None)
def test_jagged_is_each_sequence_alone(lengths, seed, f, overhead, allow, norm, rotary, backend):
    off, x, times = case(lengths, seed, f)
    stack, up = stack_of(seed, norm=norm, rotary=rotary, shared_bias=bool(seed % 2)), torch.randn_like(x)
    alone = torch.cat([run(stack, x[a:b], torch.tensor([0, b - a]), times[a:b], allow, backend='loop') for a, b in zip(off.tolist(), off[1:].tolist()) if b > a])
    for got, want in zip(value_and_grads(stack, run(stack, x, off, times, allow, overhead, backend), x, up), value_and_grads(stack, alone, x, up)): assert_close(got, want)

@given(LENGTHS, SEEDS, OVERHEADS, ANY, st.booleans())
@fast
def test_attend_jagged_is_the_padded_loop(lengths, seed, overhead, allow, bias):
    off, _, times = case(lengths, seed); r = torch.Generator().manual_seed(seed)
    q, k, v, up = (torch.randn(int(off[-1]), 2, 2, 3, generator=r, dtype=torch.float64).requires_grad_() for _ in range(4))
    table = torch.randn(2, G, generator=r, dtype=torch.float64).requires_grad_() if bias else None
    wrt = [q, k, v, *([table] if bias else [])]
    pad = lambda x: to_padded(x, off).permute(0, 3, 1, 2, 4)
    t = to_padded(times, off)
    padded = to_jagged(attend_loop(pad(q), pad(k), pad(v), allow, off.diff(), gap_buckets(t, t, G), table).permute(0, 2, 3, 1, 4), off.diff())
    lay = Layout.make(off, overhead)
    jagged = attend_jagged(q, k, v, lay, allow, layout_buckets(lay, times, times, G), table)
    for got, want in zip([jagged, *torch.autograd.grad(jagged, wrt, up)], [padded, *torch.autograd.grad(padded, wrt, up)]): assert_close(got, want)

@given(LENGTHS, SEEDS, NORMS, st.randoms(use_true_random=False))
@fast
def test_shuffling_the_batch_permutes_the_output(lengths, seed, norm, rnd):
    off, x, times = case(lengths, seed); order = list(range(len(lengths))); rnd.shuffle(order)
    rows = torch.cat([torch.arange(off[i], off[i+1]) for i in order])
    stack = stack_of(seed, norm=norm)
    assert_close(run(stack, x[rows], offsets_of([lengths[i] for i in order]), times[rows], allow_item_block), run(stack, x, off, times, allow_item_block)[rows])

@given(LENGTHS, LENGTHS, SEEDS, ANY, OVERHEADS, BACKENDS)
@fast
def test_batch_mates_change_nothing(lengths, mates, seed, allow, overhead, backend):
    off, x, times = case(lengths, seed); _, x2, times2 = case(mates, seed + 1); stack = stack_of(seed)
    both = run(stack, torch.cat([x, 1e3*x2]), offsets_of([*lengths, *mates]), torch.cat([times, times2]), allow, overhead, backend)
    assert_close(both[:len(x)], run(stack, x, off, times, allow, overhead, backend))
    if sum(mates): assert torch.isfinite(run(stack, torch.cat([x, x2*math.nan]), offsets_of([*lengths, *mates]), torch.cat([times, times2]), allow, overhead, backend)[:len(x)]).all()

@given(LENGTHS, SEEDS, CAUSAL, NORMS, OVERHEADS, BACKENDS, st.booleans(), st.integers(0, 6), st.booleans())
@settings(max_examples=40, deadline=None)
def test_causal_bit_for_bit(lengths, seed, allow, norm, overhead, backend, known, cut, double):
    "Behaviours from index `cut` on change, features and times: the outputs before them are the same bits"
    off, x, times = case(lengths, seed); stack = stack_of(seed, norm=norm, rotary=True)
    if not double: x, stack = x.float(), stack.float()
    later = positions(off) >= cut
    x2, times2 = torch.where(later[:, None, None], 5 - 7*x, x), times + later*(1 + positions(off)*100)
    ask = lambda t: t if not known else torch.where(torch.isin(torch.arange(len(t)), off[1:] - 1), t, t.roll(-1))
    out = lambda x, t: run(stack, x, off, t, allow, overhead, backend, ask(t))
    safe = positions(off) < cut - known           # a known request time is that of the next behaviour
    assert out(x, times)[safe].equal(out(x2, times2)[safe])

def test_the_causal_test_can_fail():
    off, x, times = case([5, 3], 0); stack = stack_of(0)
    x2 = torch.where((positions(off) == 2)[:, None, None], -x, x)
    first = positions(off) < 2
    assert not run(stack, x, off, times, allow_all)[first].equal(run(stack, x2, off, times, allow_all)[first])

@given(LENGTHS, SEEDS, NORMS)
@fast
def test_block_is_eq_7(lengths, seed, norm):
    off, x, times = case(lengths, seed); lay = Layout.make(off, 5); buckets = layout_buckets(lay, times, times, G)
    b = stack_of(seed, n=1, norm=norm).blocks[0]; (w1, b1, w2, b2), (n1, n2) = b.feed_forward.parameters(), b.norms
    def ln(x, n): return (x - x.mean(-1, keepdim=True))/(x.var(-1, keepdim=True, unbiased=False) + n.eps).sqrt()*n.weight + n.bias
    def at(x):
        q, k, v = ((x @ w.T).unflatten(-1, (2, 2)) for w in b.attention.w_qkv.weight.chunk(3))
        return attend_jagged(q, k, v, lay, allow_item_block, buckets, b.gap.table_hg, 'loop').flatten(2) @ b.attention.w_o.weight.T
    def ff(x): return (x @ w1.T + b1).clamp_min(0) @ w2.T + b2
    if norm == 'post': h = ln(x + at(x), n1); want = ln(h + ff(h), n2)
    else: h = x + at(ln(x, n1)); want = h + ff(ln(h, n2))
    assert_close(b(x, lay, allow_item_block, buckets), want)

def test_rotary_keeps_the_dtype_of_autocast():
    off, x, times = case([4, 2], 0); lay = Layout.make(off); b = CausalBlock(4, 2, time_gap=False, rotary=True)
    want = b(x.float(), lay, allow_item_block)
    with torch.autocast('cpu', dtype=torch.bfloat16): got = b(x.float(), lay, allow_item_block)
    assert_close(got.float(), want, atol=.1, rtol=.1)

def test_a_table_needs_buckets():
    off, x, _ = case([3], 0); q = x.unflatten(-1, (2, 2))
    with pytest.raises(ValueError, match='gap buckets'): attend_jagged(q, q, q, Layout.make(off), allow_item_block, None, torch.zeros(2, G))

def test_dropout_only_on_block_outputs():
    off, x, times = case([4, 2], 0); lay = Layout.make(off); buckets = layout_buckets(lay, times, times, G)
    b = CausalBlock(4, 2, dropout=.5, n_buckets=G, norm='pre').double()
    torch.manual_seed(0); y = b(x, lay, allow_item_block, buckets)
    torch.manual_seed(0)
    h = x + b.dropout(b.attention(b.norms[0](x), lay, allow_item_block, buckets, b.gap())); assert_close(y, h + b.dropout(b.feed_forward(b.norms[1](h))))
    b.eval(); assert b(x, lay, allow_item_block, buckets).equal(b(x, lay, allow_item_block, buckets))

@given(st.integers(1, 6), st.integers(0, 50), SEEDS)
@fast
def test_rotary_scores_depend_on_the_difference(n, shift, seed):
    "Prepending rows that the sequence may not read leaves every output as it was"
    off, x, times = case([n], seed); stack = stack_of(seed, rotary=True, time_gap=False)
    class Late(Layout):
        def __init__(self, *a): super().__init__(*a); self.positions = self.positions + shift; self.longest += shift
    assert_close(stack(x, Late.make(off), allow_item_block), stack(x, Layout.make(off), allow_item_block))

@given(LENGTHS, OVERHEADS, SEEDS)
@fast
def test_pad_and_unpad(lengths, overhead, seed):
    off, x, _ = case(lengths, seed); lay = Layout.make(off, overhead)
    assert lay.unpad(lay.pad(x)).equal(x)
    assert to_jagged(to_padded(x, off), off.diff()).equal(x)
    for r, z in zip(lay.rectangles, lay.pad(x)):
        for s, n, line in zip(r.sequence_n.tolist(), r.length_n.tolist(), z):
            assert line[:n].equal(x[off[s]:off[s+1]]) and (line[n:] == 0).all()
    assert sorted(s for r in lay.rectangles for s in r.sequence_n.tolist()) == [i for i, n in enumerate(lengths) if n]
    f = lambda x: lay.unpad([z*z.sin() for z in lay.pad(x)])
    assert_close(torch.autograd.grad(f(x).sum(), x)[0], torch.autograd.grad((x*x.sin()).sum(), x)[0])
    assert [positions(off).tolist(), sequence_of_row(off).tolist()] == [[i for n in lengths for i in range(n)], [b for b, n in enumerate(lengths) for _ in range(n)]]

@given(st.lists(st.integers(0, 300), min_size=1, max_size=60), st.floats(0, 1e6))
@fast
def test_groups_hold_every_sequence_once_and_beat_simple_rules(lengths, overhead):
    n = np.array(lengths); groups = group_lengths(n, overhead)
    cost = lambda gs: sum(len(g)*max(n[i] for i in g)**2 + overhead for g in gs)
    assert sorted(i for g in groups for i in g) == [i for i in range(len(n)) if n[i]]
    full = [i for i in np.argsort(n) if n[i]]
    rules = [[full], [[i] for i in full], *[[g for g in np.array_split(full, k) if len(g)] for k in (2, 3, 8)]] if full else [[]]
    assert all(cost(groups) <= cost(r)*(1 + 1e-9) for r in rules)

def test_empty_batches_and_bad_offsets():
    for off in (torch.tensor([0]), torch.tensor([0, 0, 0])):
        lay = Layout.make(off); x = torch.zeros(0, 2, 4)
        assert CausalBlock(4, 2, time_gap=False)(x, lay, allow_item_block).shape == x.shape
        assert CausalBlock(4, 2)(x, lay, allow_item_block, layout_buckets(lay, lay.positions, lay.positions, 40)).shape == x.shape
    for bad in ([1, 2], [0, 3, 2]):
        with pytest.raises(ValueError, match='offsets'): Layout.make(torch.tensor(bad))
    with pytest.raises(ValueError, match='sequence 1'): last_rows(torch.tensor([0, 1, 1]))
    assert last_rows(torch.tensor([0, 1, 4])).tolist() == [0, 3]

@given(st.lists(st.integers(-2**62, 2**62), min_size=1, max_size=20), st.integers(1, 54))
@settings(max_examples=200, deadline=None)
def test_gap_buckets_are_integer_logarithms(gaps, n):
    want = [min(n - 1, max(0, g).bit_length()) for g in gaps]
    assert bit_buckets(torch.tensor(gaps), n).tolist() == want == search_buckets(torch.tensor(gaps), n).tolist()

def test_every_device_gets_the_buckets_that_it_can_compute(monkeypatch):
    "Apple GPUs have no doubles"
    asked = []
    for name in ('search_buckets', 'bit_buckets'):
        monkeypatch.setattr(timegap, name, lambda gap, n, name=name: asked.append((gap.device.type, name)))
    for device in ('cpu', 'cuda:1', 'mps', 'mps:0'): timegap.buckets_of(SimpleNamespace(device=torch.device(device)), 12)
    assert asked == [('cpu', 'bit_buckets'), ('cuda', 'bit_buckets'), ('mps', 'search_buckets'), ('mps', 'search_buckets')]
    monkeypatch.setattr(timegap, 'buckets_of', lambda gap, n: (gap, n))
    gap, n = gap_buckets(torch.tensor([[5, 7]]), torch.tensor([[1, 5]]), 12)
    assert (gap.tolist(), n) == ([[[4, 0], [6, 2]]], 12)

def test_gap_buckets_at_every_power_of_two():
    gaps = [2**k + e for k in range(41) for e in (-1, 0, 1)]
    got = gap_buckets(torch.tensor([gaps]), torch.zeros(1, 1, dtype=torch.long), 50)
    assert got.dtype == torch.int64 and got[0, :, 0].tolist() == [g.bit_length() for g in gaps]

def test_shared_table_has_one_row():
    assert TimeGapBias(4, 7, shared=True).table_hg.shape == (1, 7) and TimeGapBias(4, 7, shared=True)().shape == (4, 7)
    assert all((TimeGapBias(4, 7, s)() == 0).all() for s in (False, True))
