"HoMer over random shapes in float64: jagged = loop, a set has no order, one by one, batch-mates, shards, gradients, counts"
import math
from dataclasses import replace
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hettrans.data.encode import TokenSpec
from hettrans.data.requests import RequestBatch
from hettrans.data.schema import InputError
from hettrans.homer.count import counted_params, dense_params, pointwise_twin, request_flops
from hettrans.homer.decoder import shard_offsets
from hettrans.homer.encoder import SIDES, SiluBlock
from hettrans.homer.loss import click_loss, impression_loss
from hettrans.homer.model import PRESETS, HoMer, HoMerConfig, attention_maps, homer_loss
from hettrans.nn import timegap
from hettrans.nn.silu import SILU_BACKENDS, Pairs, attend_silu, group_pairs, rectangles, silu_rectangles, silu_weights, tiles

fast, quick = settings(max_examples=25, deadline=None), settings(max_examples=12, deadline=None)
SEEDS, SIZES = st.integers(0, 10**6), st.lists(st.integers(0, 6), min_size=1, max_size=5)
TWO = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=6)
POWERS, FAST = st.sampled_from([1., .5, 0.]), st.sampled_from([b for b in SILU_BACKENDS if b != 'loop'])
TOKENS = [TokenSpec('id', 'table', 9, 1, 0, 'item'), TokenSpec('title', 'pieces', 4, 2, 0, 'item'), TokenSpec('picture', 'vector', 0, 1, 3, 'item'), TokenSpec('affinity', 'table', 5, 1, 0, 'cross'),
          TokenSpec('paid', 'vector', 0, 1, 2, 'cross'), TokenSpec('age', 'table', 4, 1, 0, 'user'), TokenSpec('hour', 'table', 3, 1, 0, 'context')]

def offsets_of(lengths): return torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.long)

# SiLU attention

def rows(seed, pairs, h, e):
    r = torch.Generator().manual_seed(seed)
    return [torch.randn(int(o[-1]), h, e, generator=r, dtype=torch.float64).requires_grad_() for o in (*pairs.offsets, pairs.offsets[1])]

def value_and_grads(f, qkv, seed=1):
    o = f(*qkv); up = torch.randn(o.shape, generator=torch.Generator().manual_seed(seed), dtype=o.dtype)
    if not o.requires_grad: return [o, *map(torch.zeros_like, qkv)]     # nobody reads anything
    return [o.detach(), *torch.autograd.grad(o, qkv, up, allow_unused=True, materialize_grads=True)]

@given(TWO, SEEDS, st.integers(1, 3), st.integers(1, 4), st.sampled_from(['cross', 'self', 'causal']), POWERS, FAST, st.sampled_from([0, 30, 2**13]))
@settings(max_examples=60, deadline=None)
def test_every_backend_is_the_loop(sizes, seed, h, e, kind, power, backend, threshold):
    n, m = zip(*sizes)
    pairs = Pairs(offsets_of(n), offsets_of(m) if kind == 'cross' else None, kind == 'causal')
    tiles(pairs, h, small=threshold, budget=40)                       # alone, in groups, in groups of few
    f = (lambda *x: silu_rectangles(*x, pairs, power, threshold)) if backend == 'rectangles' else lambda *x: attend_silu(*x, pairs, power, backend)
    qkv = rows(seed, pairs, h, e)
    for a, b in zip(value_and_grads(f, qkv), value_and_grads(lambda *x: attend_silu(*x, pairs, power, 'loop'), qkv)): assert_close(a, b)

@given(TWO, SEEDS, FAST)
@fast
def test_nothing_to_read_is_zero_and_nobody_reads_a_neighbour(sizes, seed, backend):
    n, m = zip(*sizes); pairs = Pairs(offsets_of(n), offsets_of(m))
    q, k, v = rows(seed, pairs, 2, 3); o = attend_silu(q, k, v, pairs, backend=backend)
    for i, (a, b) in enumerate(sizes):
        here, keys = (slice(int(x[i]), int(x[i + 1])) for x in pairs.offsets)
        if not b: assert (o[here] == 0).all()
        with torch.no_grad(): k2, v2 = k.clone(), v.clone(); k2[keys] = math.nan; v2[keys] = math.inf
        o2 = attend_silu(q, k2, v2, pairs, backend=backend)
        assert_close(torch.cat([o2[:here.start], o2[here.stop:]]), torch.cat([o[:here.start], o[here.stop:]]))

@given(st.integers(1, 12), SEEDS, st.integers(0, 11), POWERS, FAST)
@fast
def test_causal_rows_do_not_know_what_follows(n, seed, cut, power, backend):
    whole = Pairs(offsets_of([n]), causal=True); qkv = rows(seed, whole, 2, 3); cut = min(cut, n)
    assert_close(attend_silu(*(x[:cut] for x in qkv), Pairs(offsets_of([cut]), causal=True), power, backend), attend_silu(*qkv, whole, power, backend)[:cut])

def test_the_causal_test_can_fail():
    qkv = rows(0, Pairs(offsets_of([6])), 1, 3)
    assert not torch.allclose(attend_silu(*(x[:3] for x in qkv), Pairs(offsets_of([3]))), attend_silu(*qkv, Pairs(offsets_of([6])))[:3])

@given(TWO, SEEDS, st.booleans(), POWERS)
@fast
def test_weights_times_values(sizes, seed, causal, power):
    n, _ = zip(*sizes); pairs = Pairs(offsets_of(n), causal=causal); q, k, v = rows(seed, pairs, 2, 3)
    o = attend_silu(q, k, v, pairs, power)
    for b, (s, t) in enumerate(zip(pairs.offsets[0], pairs.offsets[0][1:])): assert_close(silu_weights(q, k, pairs, b, power) @ v[s:t].transpose(0, 1), o[s:t].transpose(0, 1))

@given(TWO, st.floats(0, 1000))
@fast
def test_rectangles_hold_every_request_with_pairs_once(sizes, overhead):
    n, m = map(np.array, zip(*sizes)); groups = group_pairs(n, m, overhead)
    cost = lambda gs: sum(len(g)*n[g].max()*m[g].max() + overhead for g in gs)
    full = np.flatnonzero(n*m)
    assert sorted(i for g in groups for i in g) == full.tolist()
    if len(full): assert cost(groups) <= min(cost([full]), cost([[i] for i in full])) + 1e-6
    if (n == m).all() and len(full) < 7:
        ways = [cost(np.split(full[np.argsort(n[full])], c)) for k in range(len(full)) for c in __import__('itertools').combinations(range(1, len(full)), k)]
        assert not ways or cost(groups) <= min(ways) + 1e-6

def test_pairs_refuse_what_makes_no_sense():
    for bad, words in ((lambda: Pairs(offsets_of([2]), offsets_of([3]), True), 'same rows'), (lambda: Pairs(offsets_of([2]), offsets_of([3, 1])), '1 sequences of queries, but 2'),
                       (lambda: Pairs(torch.tensor([0, 3, 2])), 'never decrease'), (lambda: Pairs(torch.tensor([1, 2])), 'begin with 0')):
        with pytest.raises(ValueError, match=words): bad()
    pairs = Pairs(offsets_of([2])); q = torch.zeros(2, 1, 2)
    with pytest.raises(ValueError, match="unknown backend 'flash'"): attend_silu(q, q, q, pairs, backend='flash')
    assert rectangles(Pairs(offsets_of([0, 0])), 0) == [] and attend_silu(q[:0], q[:0], q[:0], Pairs(offsets_of([0, 0]))).shape == (0, 1, 2)

def test_half_precision_and_strided_inputs():
    pairs = Pairs(offsets_of([5, 3, 3, 3])); x = torch.randn(14, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    want = attend_silu(*x.double().unbind(1), pairs, backend='loop')
    for dtype, tol in ((torch.float32, 1e-5), (torch.bfloat16, .05)):
        for backend in ('tiles', 'rectangles'):
            got = attend_silu(*x.to(dtype).unbind(1), pairs, backend=backend)
            assert got.dtype == dtype; assert_close(got.double(), want, atol=tol, rtol=tol)
    block = SiluBlock(8, 2); y = torch.randn(14, 8)
    with torch.autocast('cpu', dtype=torch.bfloat16): got = block(y, pairs)
    assert_close(got.float(), block(y, pairs), atol=.1, rtol=.1)

# the model

def codes(r, side, n, tokens=TOKENS):
    return {t.name: torch.randn(n, t.width, generator=r, dtype=torch.float64) if t.kind == 'vector' else torch.randint(t.rows, (n, t.pieces), generator=r) for t in tokens if t.side == side}

def catalogue_of(tokens=TOKENS, items=12): return codes(torch.Generator().manual_seed(77), 'item', items, tokens)
CATALOGUE = catalogue_of()

def requests(seed, sizes, tokens=TOKENS, items=12):
    "Requests with these (candidates, behaviours), labels included"
    r = torch.Generator().manual_seed(seed); sets, pasts = zip(*sizes); b, n, j = len(sets), sum(sets), sum(pasts)
    pick = lambda top, n: torch.randint(top, (n,), generator=r)
    exposed = pick(2, n).float(); clicked = torch.where((exposed > 0) & (pick(8, n) > 0), pick(2, n).float(), torch.nan)
    c = [codes(r, s, m, tokens) for s, m in (('cross', n), ('user', b), ('context', b), ('cross', j), ('user', j), ('context', j))]
    return RequestBatch(offsets_of(sets), pick(items, n), *c[:3], torch.full((b,), 10**6), offsets_of(pasts), pick(items, j), *c[3:], pick(70, j), pick(2, j), pick(10**6, j), exposed, clicked)

PER = dict(offsets=('items', 'cross', 'exposed', 'clicked'), past_offsets=('past_items', 'past_cross', 'past_user', 'past_context', 'past_position', 'past_action', 'past_times'), b=('user', 'context', 'times'))
def choose(batch, ids, candidates=None):
    "The requests `ids` of a batch in this order, or one of them with some of its candidates in this order"
    def rows_of(name):
        if name == 'b': return torch.tensor(ids, dtype=torch.long)
        o = getattr(batch, name).tolist()
        return torch.cat([torch.arange(o[i], o[i + 1]) if candidates is None or name != 'offsets' else o[i] + torch.tensor(candidates, dtype=torch.long) for i in ids] or [torch.zeros(0, dtype=torch.long)])
    new = {}
    for name, fields in PER.items():
        at = rows_of(name)
        for f in fields:
            x = getattr(batch, f)
            new[f] = {k: v[at] for k, v in x.items()} if isinstance(x, dict) else x[at]
        if name != 'b': new[name] = offsets_of([len(candidates)] if candidates is not None and name == 'offsets' else [int(getattr(batch, name).diff()[i]) for i in ids])
    return RequestBatch(**new)

def model_of(seed, tokens=TOKENS, **fields):
    "A model with random parameters throughout, in float64"
    c = dict(d=8, d_embed=4, heads=2, encoder_layers=2, decoder_layers=2, recency_rows=5, position_rows=64, age_rows=12) | fields
    torch.manual_seed(seed); m = HoMer(HoMerConfig(**c), tokens).double().eval()
    with torch.no_grad():
        for p in m.parameters(): p.copy_(torch.randn_like(p)/math.sqrt(p.shape[-1])*(1.5 if p.dim() > 1 else .5) + (p.dim() == 1)*.1)
    return m

def scores(m, batch):
    o = m(batch, CATALOGUE)
    return torch.stack([o.click_n, o.exposure_n], 1) if o.exposure_n is not None else o.click_n[:, None]

SCALE = st.sampled_from(['1/n', '1/sqrt(n)', 'none'])

@given(st.integers(1, 8), st.integers(0, 6), SEEDS, SCALE, st.booleans(), st.randoms(use_true_random=False))
@fast
def test_permuting_the_set_permutes_the_scores(n, j, seed, scale, cross, rnd):
    batch, m, order = requests(seed, [(n, j)]), model_of(seed, scale=scale, cross_item=cross), list(range(n)); rnd.shuffle(order)
    assert_close(scores(m, choose(batch, [0], order)), scores(m, batch)[order])

def test_the_order_test_can_fail():
    batch, m = requests(0, [(5, 3)]), model_of(0); order = [1, 0, 2, 3, 4]
    m.set_tokens.register_forward_hook(lambda mod, a, x: x + torch.arange(len(x))[:, None])
    assert not torch.allclose(scores(m, choose(batch, [0], order)), scores(m, batch)[order])

@given(TWO, SEEDS, SCALE, st.booleans())
@quick
def test_without_cross_item_blocks_one_by_one_is_the_same(sizes, seed, scale, causal):
    batch, m = requests(seed, sizes), model_of(seed, scale=scale, cross_item=False, impression=0., causal=causal)
    one = [scores(m, choose(batch, [b], [i])) for b, (n, _) in enumerate(sizes) for i in range(n)]
    if one: assert_close(scores(m, batch), torch.cat(one))

def test_with_cross_item_blocks_it_is_not():
    batch, m = requests(3, [(4, 3)]), model_of(3)
    assert not torch.allclose(scores(m, batch), torch.cat([scores(m, choose(batch, [0], [i])) for i in range(4)]), atol=1e-3)

@given(TWO, TWO, SEEDS, st.booleans(), SCALE)
@quick
def test_batch_mates_change_nothing(sizes, mates, seed, causal, scale):
    m = model_of(seed, causal=causal, scale=scale); both = requests(seed, [*sizes, *mates])
    n = sum(a for a, _ in sizes)
    assert_close(scores(m, both)[:n], scores(m, choose(both, range(len(sizes)))))
    turned = choose(both, list(range(len(sizes) + len(mates)))[::-1])
    back = torch.cat([torch.arange(int(turned.offsets[i]), int(turned.offsets[i + 1])) for i in reversed(range(len(turned)))]) if len(turned.items) else turned.items
    assert_close(scores(m, turned)[back], scores(m, both))

@given(TWO, SEEDS, st.sampled_from(['items', 'cross', 'user', 'context', 'past_items', 'past_cross', 'past_user', 'past_context', 'past_position', 'past_action', 'past_times']), st.data())
@fast
def test_other_requests_never_matter(sizes, seed, field, data):
    "One field of all other requests changes; the scores of this one are the same, and so are the gradients of its inputs' model"
    me = data.draw(st.integers(0, len(sizes) - 1)); batch, other, m = requests(seed, sizes), requests(seed + 1, sizes), model_of(seed)
    name = next(k for k, fs in PER.items() if field in fs)
    o = torch.arange(len(sizes) + 1) if name == 'b' else getattr(batch, name)
    mine = slice(int(o[me]), int(o[me + 1])); old, new = getattr(batch, field), getattr(other, field)
    for k in (new if isinstance(new, dict) else [None]): (new if k is None else new[k])[mine] = (old if k is None else old[k])[mine]
    a, b = (slice(int(batch.offsets[me]), int(batch.offsets[me + 1])),)*2
    changed = RequestBatch(**(vars(batch) | {field: new}))
    assert_close(scores(m, changed)[b], scores(m, batch)[a])

@given(TWO, SEEDS)
@quick
def test_jagged_is_padded_forward_and_backward(sizes, seed):
    "The whole model with every attention on one padded rectangle, on rectangles and as a loop: same loss, same gradients"
    import hettrans.homer.encoder as enc
    batch, m, kept = requests(seed, sizes), model_of(seed), enc.attend_silu
    def grads(backend):
        enc.attend_silu = lambda q, k, v, pairs, power, _: kept(q, k, v, pairs, power, backend)
        try: loss = homer_loss(m, m(batch, CATALOGUE), batch, CATALOGUE)
        finally: enc.attend_silu = kept
        return [loss, *torch.autograd.grad(loss, list(m.parameters()), allow_unused=True, materialize_grads=True)]
    want = grads('loop')
    for backend in ('tiles', 'padded', 'rectangles'):
        for a, b in zip(grads(backend), want): assert_close(a, b, atol=1e-6, rtol=1e-5)   # the loss is computed in float32

def test_ages_come_from_the_buckets_that_the_device_can_compute(monkeypatch):
    "Whatever `buckets_of` chooses, and no doubles behind its back"
    m, batch, asked = model_of(0), requests(0, [(2, 3)]), []
    want = scores(m, batch)
    monkeypatch.setattr(timegap, 'bit_buckets', lambda gap, n: asked.append(n) or timegap.search_buckets(gap, n))
    assert_close(scores(m, batch), want); assert asked == [12]

@given(TWO, SEEDS, st.integers(1, 8), SCALE)
@quick
def test_shards_are_exact_without_cross_item_blocks(sizes, seed, size, scale):
    batch, m = requests(seed, sizes), model_of(seed, cross_item=False, scale=scale)
    o = m.decode(m.encode(batch, CATALOGUE), batch, CATALOGUE, shard=size)
    assert_close(torch.stack([o.click_n, o.exposure_n], 1), scores(m, batch))

@given(st.integers(1, 9), st.integers(0, 5), SEEDS, st.integers(1, 10))
@quick
def test_a_shard_is_a_request_with_part_of_the_set(n, j, seed, size):
    batch, m = requests(seed, [(n, j)]), model_of(seed)
    cuts = shard_offsets(batch.offsets, size).tolist()
    parts = torch.cat([scores(m, choose(batch, [0], list(range(a, b)))) for a, b in zip(cuts, cuts[1:])])
    o = m.decode(m.encode(batch, CATALOGUE), batch, CATALOGUE, shard=size)
    assert_close(torch.stack([o.click_n, o.exposure_n], 1), parts)
    if size >= n: assert_close(parts, scores(m, batch))

@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 12))
@fast
def test_shards_are_few_balanced_and_in_order(sets, size):
    offsets = offsets_of(sets); cuts = shard_offsets(offsets, size).tolist()
    assert set(offsets.tolist()) <= set(cuts) and cuts == sorted(cuts)
    for a, b in zip(offsets.tolist(), offsets.tolist()[1:]):
        inside = [c for c in cuts if a <= c <= b]; lengths = np.diff(sorted(set(inside)))
        if b > a: assert len(lengths) == -(-(b - a)//size) and lengths.max() <= size and lengths.max() - lengths.min() <= 1

@given(st.integers(1, 5), st.integers(1, 5), SEEDS)
@quick
def test_a_doubled_set_reads_the_same_mean(n, j, seed):
    batch = requests(seed, [(n, j)]); twice = choose(batch, [0], list(range(n))*2)
    assert_close(scores(model_of(seed), twice), scores(model_of(seed), batch).repeat(2, 1))

@pytest.mark.parametrize('side', SIDES)
def test_a_domain_that_is_out_does_not_reach_the_scores(side):
    batch, other = requests(0, [(4, 5), (3, 2)]), requests(1, [(4, 5), (3, 2)])
    field = 'past_items' if side == 'item' else f'past_{side}'
    changed = RequestBatch(**(vars(batch) | {field: getattr(other, field)}))
    out, whole = model_of(0, **{f'domain_{side}': False}), model_of(0)
    assert scores(out, changed).equal(scores(out, batch))
    assert not torch.allclose(scores(whole, changed), scores(whole, batch))

@given(st.integers(1, 5), st.integers(1, 9), SEEDS)
@quick
def test_a_cut_past_keeps_recency(n, j, seed):
    "With no block in the encoder the last behaviours have the same vectors however long the past is"
    batch, m = requests(seed, [(n, j)]), model_of(seed, encoder_layers=0)
    keep = {f: ({k: v[1:] for k, v in x.items()} if isinstance(x, dict) else x[1:]) for f in PER['past_offsets'] for x in [getattr(batch, f)]}
    cut = RequestBatch(**(vars(batch) | keep | dict(past_offsets=offsets_of([j - 1]))))
    assert_close(m.encode(cut, CATALOGUE).memory_jd, m.encode(batch, CATALOGUE).memory_jd[1:])

def test_every_parameter_learns_and_dropout_only_in_training():
    batch, m = requests(5, [(6, 4), (1, 0), (0, 3), (8, 9)]), model_of(5, dropout=.3, input_dropout=.3)
    homer_loss(m, m(batch, CATALOGUE), batch, CATALOGUE).backward()
    assert [n for n, p in m.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert scores(m, batch).equal(scores(m, batch)); m.train(); assert not scores(m, batch).equal(scores(m, batch))

@given(TWO, SEEDS)
@fast
def test_loss_is_the_loop(sizes, seed):
    batch = requests(seed, sizes); r = torch.Generator().manual_seed(seed); n = len(batch.items)
    click, expo = (5*torch.randn(n, generator=r, dtype=torch.float64).requires_grad_() for _ in range(2))
    bce = lambda x, y: math.log1p(math.exp(-x if y else x))
    c = [bce(x, y) for x, e, y in zip(click.tolist(), batch.exposed.tolist(), batch.clicked.tolist()) if e and not math.isnan(y)]
    e = [bce(x, y) for x, y in zip(expo.tolist(), batch.exposed.tolist())]
    a, b = click_loss(click, batch.exposed, batch.clicked), impression_loss(expo, batch.exposed)
    assert_close(a.item(), sum(c)/max(1, len(c)), atol=1e-5, rtol=1e-5); assert_close(b.item(), sum(e)/max(1, len(e)), atol=1e-5, rtol=1e-5)
    grads = torch.autograd.grad(a + b, [click, expo], allow_unused=True, materialize_grads=True)
    assert all(g.isfinite().all() for g in grads)

def test_a_request_with_nothing_exposed_is_in_the_impression_loss_only():
    m, batch = model_of(0, impression=1.), requests(0, [(5, 2), (4, 3)])
    batch.exposed[5:] = 0; batch.clicked[5:] = math.nan; batch.exposed[0] = 1; batch.clicked[0] = 1
    o = m(batch, CATALOGUE)
    g = torch.autograd.grad(homer_loss(m, o, batch, CATALOGUE), [o.click_n, o.exposure_n])
    assert (g[0][5:] == 0).all() and (g[1] != 0).all()
    point = model_of(0, impression=0.); out = point(batch, CATALOGUE)
    assert out.exposure_n is None and homer_loss(point, out, batch, CATALOGUE).isfinite()

def test_huge_logits_have_finite_gradients():
    x = torch.tensor([1e4, -1e4, 300.], requires_grad=True); y = torch.tensor([0., 1, 0])
    assert torch.autograd.grad(click_loss(x, None, y) + impression_loss(x, y), x)[0].isfinite().all()

@pytest.mark.parametrize('sides', [('item',), ('cross',), ('item', 'user'), ('item', 'context'), ('cross', 'user', 'context')])
def test_schemas_with_few_sides(sides):
    tokens = [t for t in TOKENS if t.side in sides]; m = model_of(0, tokens); batch = requests(0, [(3, 2), (2, 0)], tokens)
    assert m(batch, catalogue_of(tokens)).click_n.isfinite().all()

def test_wrong_schemas_and_configurations():
    with pytest.raises(InputError, match="needs one"): HoMer(HoMerConfig(), [t for t in TOKENS if t.side in ('user', 'context')])
    with pytest.raises(InputError, match="side = 'behaviour'"): HoMer(HoMerConfig(), [*TOKENS, TokenSpec('x', 'table', 3, 1, 0, 'behaviour')])
    for wrong in (dict(scale='n'), dict(d=0), dict(d=6, heads=4), dict(dropout=1.), dict(impression=-1.), dict(impression=math.nan), dict(encoder_layers=-1), dict(cross_layers=-2), dict(age_rows=55), dict(recency_rows=0)):
        with pytest.raises(InputError) as e: HoMerConfig(**wrong)
        assert '\n' not in str(e.value) and next(iter(wrong)) in str(e.value)
    for preset in PRESETS.values(): HoMerConfig(**{k: v for k, v in preset.items() if k in HoMerConfig.__dataclass_fields__})

CONFIGS = st.builds(dict, d=st.sampled_from([4, 8]), heads=st.sampled_from([1, 2]), encoder_layers=st.integers(0, 2), decoder_layers=st.integers(0, 3), cross_item=st.booleans(), cross_layers=st.integers(-1, 2), user_layers=st.integers(-1, 2),
                    impression=st.sampled_from([0., 1.]), age_rows=st.sampled_from([0, 7]), domain_user=st.booleans(), domain_item=st.booleans(), domain_cross=st.booleans(), domain_context=st.booleans())

@given(CONFIGS, st.integers(1, 7), st.integers(1, 7), st.sampled_from([SIDES, ('item',), ('cross', 'user')]))
@fast
def test_counts_are_those_of_the_model(fields, n, j, sides):
    from torch.utils.flop_counter import FlopCounterMode
    tokens = [t for t in TOKENS if t.side in sides]; c = HoMerConfig(d_embed=4, **fields); m = HoMer(c, tokens).double().eval(); counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter: m(requests(0, [(n, j)], tokens), catalogue_of(tokens))
    assert (dense_params(c, tokens), request_flops(c, tokens, n, j)) == (counted_params(m), counter.get_total_flops())

def test_the_pointwise_twin_costs_as_much():
    c = HoMerConfig(encoder_layers=3, decoder_layers=3); t = pointwise_twin(c, TOKENS, 100, 60)
    assert t.depths[0] == 0 and t.impression == 0 and t.encoder_layers >= 3 and t.decoder_layers >= 3
    assert abs(request_flops(t, TOKENS, 100, 60)/request_flops(c, TOKENS, 100, 60) - 1) < .1
    assert replace(t, encoder_layers=3, decoder_layers=3, cross_item=True, impression=1.) == c

def test_attention_maps_are_what_the_blocks_read():
    batch, m = requests(1, [(3, 2), (5, 4)]), model_of(1)
    maps = attention_maps(m, batch, CATALOGUE, 1)
    assert {k: tuple(v.shape) for k, v in maps.items()} == {**{f'encoder {i}': (2, 4, 4) for i in (1, 2)}, **{f'cross-item {i}': (2, 5, 5) for i in (1, 2)}, **{f'user-item {i}': (2, 5, 4) for i in (1, 2)}}
    alone = attention_maps(m, choose(batch, [1]), CATALOGUE)
    for k in maps: assert_close(maps[k], alone[k])

def test_alike_starts_with_keys_that_are_queries():
    "`alike` makes keys of the first cross-item block its queries, and changes nothing where there is no such block"
    tokens = [TokenSpec('kind', 'table', 9, 1, 0, 'cross'), TokenSpec('hour', 'table', 4, 1, 0, 'context')]
    def make(**fields): torch.manual_seed(0); return HoMer(HoMerConfig(d=16, heads=2, **fields), tokens)
    block, plain = make(alike=2.).decoder.cross_item, make().decoder.cross_item
    torch.testing.assert_close(block[0].w_kv.weight[:16], block[0].w_q.weight); torch.testing.assert_close(block[0].w_q.weight, 2*plain[0].w_q.weight)
    assert not torch.equal(block[1].w_kv.weight[:16], block[1].w_q.weight)
    a, b = make(alike=2., cross_item=False).state_dict(), make(cross_item=False).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in b)
    with pytest.raises(InputError, match='alike = -1'): HoMerConfig(alike=-1)

@pytest.mark.parametrize('fields', [{}, dict(domain_item=False), dict(domain_user=False, domain_context=False), dict(cross_item=False), dict(age_rows=20)], ids=str)
def test_alike_past_starts_with_behaviours_that_look_like_candidates(fields):
    "With `alike_past` a feature has the same columns in a behaviour and in a candidate, keys of the first user-item block are its queries, and nothing else differs from the plain start"
    def make(**more): torch.manual_seed(0); return HoMer(HoMerConfig(d=16, d_embed=4, heads=2, **fields, **more), TOKENS)
    m, plain = make(alike_past=.5), make()
    past, width = m.encoder.tokens, lambda *sides: m.tables.width(sides)
    at, columns = 0, dict(item=m.set_tokens.of_candidate.weight[:, :width('item')], cross=m.set_tokens.of_candidate.weight[:, width('item'):],
                          user=m.set_tokens.of_request.weight[:, :width('user')], context=m.set_tokens.of_request.weight[:, width('user'):])
    for side in past.sides:
        assert width(side) and torch.equal(past.of_features.weight[:, at:at + width(side)], columns[side]); at += width(side)
    block = m.decoder.user_item[0]
    assert torch.equal(block.w_kv.weight[:16], block.w_q.weight) and torch.equal(block.w_q.weight, .5*plain.decoder.user_item[0].w_q.weight)
    changed = {k for k, v in m.state_dict().items() if not torch.equal(v, plain.state_dict()[k])}
    assert changed == {'encoder.tokens.of_features.weight', *(f'decoder.user_item.0.{k}' for k in ('w_q.weight', 'w_kv.weight', 'w_kv.bias'))}

def test_alike_past_without_a_past_to_read():
    "Where nothing of a behaviour enters, or no block reads it, `alike_past` has nothing to start"
    HoMer(HoMerConfig(d=16, heads=2, alike_past=1., **{f'domain_{s}': False for s in SIDES}), TOKENS)
    assert not HoMer(HoMerConfig(d=16, heads=2, alike_past=1., user_layers=0), TOKENS).decoder.user_item
    with pytest.raises(InputError, match='alike_past = -1'): HoMerConfig(alike_past=-1)
