"Ranking baselines over random shapes in float64: one by one, in any order, in any company; each pinned to its equation; each trained by name from the command line"
import json, math
from dataclasses import fields
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hettrans.data.dataset import save_dataset
from hettrans.data.encode import TokenSpec
from hettrans.data.schema import InputError
from hettrans.engine.registry import configure, model_entry, preset_fields
from hettrans.engine.run import load_run
from hettrans.homer.count import counted_params
from hettrans.homer.loss import click_loss
from hettrans.homer.model import HoMer, homer_loss
from hettrans.nn.jagged import Layout
from hettrans.nn.masks import allow_all
from hettrans.nn.silu import Pairs
from hettrans.zoo.cim import Aware, allow_others
from hettrans.zoo.dcnv2 import CrossLayer, CrossMixture, past_means
from hettrans.zoo.din_dcn_moe import ActivationUnit, CrossVector, Experts, Interest
from hettrans.zoo.rank_parts import RankConfig, by_request, page_world, request_cost
from hettrans.zoo.wukong import FactorBlock, WukongLayer
from test_homer import CATALOGUE, SEEDS, TOKENS, TWO, catalogue_of, choose, offsets_of, requests
from test_ranking import tiny_ds
from tiny import ok

quick, fast = settings(max_examples=8, deadline=None), settings(max_examples=30, deadline=None)
NAMES = ('din-dcn-moe', 'dcnv2', 'wukong', 'sasrec-ctr', 'cim')
VARIANTS = [('din-dcn-moe', {}), ('din-dcn-moe', dict(scale='1/n', cross_layers=0, experts=2)), ('dcnv2', {}), ('dcnv2', dict(rank=2, interest=False)), ('dcnv2', dict(rank=2, experts=3)),
            ('dcnv2', dict(structure='parallel', deep_layers=1)), ('wukong', {}), ('wukong', dict(layers=1, products=2, sums=1, past_tokens=1, interest=False)), ('sasrec-ctr', {}), ('sasrec-ctr', dict(norm='post', age_rows=9)),
            ('cim', dict(awareness=False))]
SETWISE = [('cim', {}), ('cim', dict(itself=True, set_layers=0)), ('cim', dict(set_layers=2, impression=0., interest=False))]
POINT, SET, ALL = st.sampled_from(VARIANTS), st.sampled_from(SETWISE), st.sampled_from(VARIANTS + SETWISE)

def fill(m, seed):
    "Random parameters throughout, none of them 0"
    r = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in m.parameters(): p.copy_(torch.randn(p.shape, generator=r, dtype=p.dtype)/math.sqrt(max(1, p.shape[-1] if p.dim() else 1)) + (p.dim() < 2)*.1)
    return m

def model_of(kind, seed, tokens=TOKENS):
    name, more = kind
    wide = dict(heads=2) if name in ('sasrec-ctr', 'cim') else {}
    entry = model_entry(name)
    return fill(entry.load()(entry.load('config')(**(dict(d=8, d_embed=4, recency_rows=5, table_scale=1.) | wide | more)), tokens).double().eval(), seed)

def scores(m, batch, **kw):
    o = m.decode(m.encode(batch, CATALOGUE), batch, CATALOGUE, **kw)
    return o.click_n[:, None] if o.exposure_n is None else torch.stack([o.click_n, o.exposure_n], 1)

# What a candidate's score may depend on

@given(POINT, TWO, SEEDS, st.integers(1, 4))
@quick
def test_pointwise_scores_one_by_one_are_the_same(kind, sizes, seed, shard):
    batch, m = requests(seed, sizes), model_of(kind, seed); whole = scores(m, batch)
    one = [scores(m, choose(batch, [b], [i])) for b, (n, _) in enumerate(sizes) for i in range(n)]
    if one: assert_close(whole, torch.cat(one))
    assert_close(scores(m, batch, shard=shard), whole)

@given(SET, SEEDS)
@quick
def test_cim_reads_the_others(kind, seed):
    batch, m = requests(seed, [(5, 3)]), model_of(kind, seed)
    assert not torch.allclose(scores(m, batch)[:, 0], torch.cat([scores(m, choose(batch, [0], [i]))[:, 0] for i in range(5)]), atol=1e-6)

@given(SET, st.integers(1, 9), st.integers(0, 5), SEEDS, st.integers(1, 10))
@quick
def test_a_shard_of_cim_is_a_request_with_part_of_the_set(kind, n, j, seed, size):
    from hettrans.homer.decoder import shard_offsets
    batch, m = requests(seed, [(n, j)]), model_of(kind, seed)
    cuts = shard_offsets(batch.offsets, size).tolist()
    assert_close(scores(m, batch, shard=size), torch.cat([scores(m, choose(batch, [0], list(range(a, b)))) for a, b in zip(cuts, cuts[1:])]))

@given(ALL, st.integers(1, 8), st.integers(0, 6), SEEDS, st.randoms(use_true_random=False))
@fast
def test_permuting_the_set_permutes_the_scores(kind, n, j, seed, rnd):
    batch, m, order = requests(seed, [(n, j)]), model_of(kind, seed), list(range(n)); rnd.shuffle(order)
    assert_close(scores(m, choose(batch, [0], order)), scores(m, batch)[order])

@given(ALL, TWO, TWO, SEEDS)
@fast
def test_batch_mates_change_nothing(kind, sizes, mates, seed):
    m, both = model_of(kind, seed), requests(seed, [*sizes, *mates]); n = sum(a for a, _ in sizes)
    assert_close(scores(m, both)[:n], scores(m, choose(both, range(len(sizes)))))
    turned = choose(both, list(range(len(sizes) + len(mates)))[::-1])
    back = torch.cat([torch.arange(int(turned.offsets[i]), int(turned.offsets[i + 1])) for i in reversed(range(len(turned)))]) if len(turned.items) else turned.items
    assert_close(scores(m, turned)[back], scores(m, both))

@pytest.mark.parametrize('kind', VARIANTS + SETWISE, ids=str)
def test_every_part_of_a_request_matters(kind):
    "The past, its actions, and all sides of the candidate reach the scores: nothing is forgotten"
    batch, other, m = requests(0, [(5, 6), (4, 3)]), requests(1, [(5, 6), (4, 3)]), model_of(kind, 3)
    for f in ('items', 'cross', 'user', 'context', 'past_items', 'past_cross', 'past_user', 'past_context', 'past_position', 'past_action'):
        changed = type(batch)(**(vars(batch) | {f: getattr(other, f)}))
        assert not torch.allclose(scores(m, changed), scores(m, batch), atol=1e-9), f

@pytest.mark.parametrize('kind', VARIANTS + SETWISE, ids=str)
def test_every_parameter_learns_and_the_loss_is_homers(kind):
    batch, m = requests(5, [(6, 4), (3, 0), (0, 3), (8, 9)]), model_of(kind, 5).train()
    o = m(batch, CATALOGUE); loss = homer_loss(m, o, batch, CATALOGUE); loss.backward()
    assert [n for n, p in m.named_parameters() if p.numel() and (p.grad is None or not p.grad.abs().sum() > 0)] == []
    assert all(p.grad.isfinite().all() for p in m.parameters() if p.numel())
    if o.exposure_n is None: assert_close(loss, click_loss(o.click_n, batch.exposed, batch.clicked))

@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('sides', [('item',), ('cross',), ('item', 'user'), ('cross', 'user', 'context')])
def test_schemas_with_few_sides(name, sides):
    tokens = [t for t in TOKENS if t.side in sides]; m, batch = model_of((name, {}), 0, tokens), requests(0, [(3, 2), (2, 0), (0, 0)], tokens)
    assert m(batch, catalogue_of(tokens)).click_n.isfinite().all()
    assert m(requests(0, [(0, 0)], tokens), catalogue_of(tokens)).click_n.shape == (0,)

# Each model pinned to its equation

def noise(seed, *shape): return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), SEEDS)
@fast
def test_activation_unit_is_its_loop(n, j, d, hidden, seed):
    unit, q, k = fill(ActivationUnit(d, hidden).double(), seed), noise(seed, n, d), noise(seed + 1, j, d).requires_grad_()
    loop = torch.stack([torch.stack([unit.out(unit.act(unit.first(torch.cat([a, b, a - b, a*b]))))[0] for b in k]) for a in q])
    assert_close(unit(q[None], k[None])[0], loop)
    grads = lambda w: torch.autograd.grad((w*noise(seed + 2, n, j)).sum(), [k, *unit.parameters()])
    for a, b in zip(grads(unit(q[None], k[None])[0]), grads(loop)): assert_close(a, b)

@given(TWO, SEEDS, st.sampled_from([0., .5, 1.]), st.sampled_from([0, 3, 2**15]))
@fast
def test_interest_is_the_sum_over_the_own_past(sizes, seed, power, overhead):
    n, j = zip(*sizes); pairs = Pairs(offsets_of(n), offsets_of(j)); m = fill(Interest(3, 2, power).double(), seed)
    q, k = noise(seed, sum(n), 3), noise(seed + 1, sum(j), 3)
    want = [sum((m.unit(x[None, None], y[None, None])[0, 0, 0]*y for y in k[c:d]), torch.zeros(3, dtype=torch.float64))/max(1, int(d - c))**power
            for a, b, c, d in zip(pairs.offsets[0], pairs.offsets[0][1:], pairs.offsets[1], pairs.offsets[1][1:]) for x in q[a:b]]
    if want:
        assert_close(m(q, k, pairs), torch.stack(want))
        if not power: assert_close(by_request(m.read, q, k, pairs, overhead), torch.stack(want))

@given(st.integers(1, 5), st.integers(0, 3), SEEDS)
@fast
def test_cross_vector_is_its_loop(w, layers, seed):
    net, x0 = fill(CrossVector(w, layers).double(), seed), noise(seed, 3, w); x = x0
    for w_d, b_d in zip(net.w_ld, net.b_ld): x = torch.stack([torch.stack([a[i]*sum(b[k]*w_d[k] for k in range(w)) + b_d[i] + b[i] for i in range(w)]) for a, b in zip(x0, x)])
    assert_close(net(x0), x)

@given(SEEDS)
@fast
def test_cross_layer_on_three_features_is_the_written_polynomial(seed):
    layer, x = fill(CrossLayer(3).double(), seed), noise(seed, 4, 3); w, b = layer.w.weight, layer.w.bias
    for r, got in zip(x, layer(x, x)):
        x1, x2, x3 = r
        assert_close(got, torch.stack([x1 + b[0]*x1 + w[0, 0]*x1*x1 + w[0, 1]*x1*x2 + w[0, 2]*x1*x3, x2 + b[1]*x2 + w[1, 0]*x2*x1 + w[1, 1]*x2*x2 + w[1, 2]*x2*x3,
                                       x3 + b[2]*x3 + w[2, 0]*x3*x1 + w[2, 1]*x3*x2 + w[2, 2]*x3*x3]))

@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), SEEDS)
@fast
def test_low_rank_and_mixture_are_their_loops(w, rank, experts, seed):
    x0, x = noise(seed, 4, w), noise(seed + 1, 4, w)
    thin, full = fill(CrossLayer(w, rank).double(), seed), CrossLayer(w).double()
    full.w.weight.data, full.w.bias.data = thin.w[1].weight.data @ thin.w[0].weight.data, thin.w[1].bias.data
    assert_close(thin(x0, x), full(x0, x))
    m = fill(CrossMixture(w, rank, experts).double(), seed); v, u = m.v.weight.view(experts, rank, w), m.u.weight.view(w, experts, rank)
    for a, b, got in zip(x0, x, m(x0, x)):
        g = torch.softmax(m.gate.weight @ b, 0)
        assert_close(got, a*(sum(g[k]*(u[:, k] @ torch.tanh(m.c_krs[k] @ torch.tanh(v[k] @ b))) for k in range(experts)) + m.u.bias) + b)

@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), SEEDS)
@fast
def test_experts_are_their_loop(w, d, experts, seed):
    m, x = fill(Experts(w, d, experts).double(), seed), noise(seed, 3, w); net, bias = m.all.weight.view(experts, d, w), m.all.bias.view(experts, d)
    for r, got in zip(x, m(x)): assert_close(got, sum(torch.softmax(m.gate.weight @ r, 0)[k]*torch.relu(net[k] @ r + bias[k]) for k in range(experts)))

@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), SEEDS)
@fast
def test_factor_block_is_explicit_pairs(f, e, out, k, seed):
    m, x = fill(FactorBlock(f, e, out, k, 5, 1).double(), seed), noise(seed, 3, f, e)
    pairs = torch.stack([torch.stack([torch.stack([sum((r[i] @ r[j])*m.y_fk[j, c] for j in range(f)) for c in range(k)]) for i in range(f)]) for r in x])
    assert_close(m.pairs(x), pairs)
    assert_close(m(x), m.net(m.norm(pairs.flatten(1))).view(3, out, e))
    layer = fill(WukongLayer(f, e, out, k, k, 5, 1).double(), seed)
    residual = x if f == out + k else torch.stack([layer.residual.weight @ r for r in x])
    assert_close(layer(x), layer.norm(torch.cat([layer.factor(x), torch.stack([layer.compress.weight @ r for r in x])], 1) + residual))

@given(TWO, SEEDS, st.integers(1, 2), st.booleans())
@fast
def test_awareness_is_its_loop(sizes, seed, heads, itself):
    n = [a for a, _ in sizes]; off = offsets_of(n); m = fill(Aware(4, heads).double(), seed); q, x, p = noise(seed, sum(n), 4), noise(seed + 1, sum(n), 4), noise(seed + 2, sum(n)).sigmoid()
    got = m(q, x, p, Layout.make(off), allow_all if itself else allow_others); e = 4//heads
    Q, (K, V) = m.w_q(q), m.w_kv(x).chunk(2, -1)
    for a, b in zip(off.tolist(), off[1:].tolist()):
        for i in range(a, b):
            read, o = [j for j in range(a, b) if itself or j != i], torch.zeros(4, dtype=torch.float64)
            for h in range(heads):
                s = slice(h*e, (h + 1)*e)
                if read: o[s] = sum(w*p[j]*V[j, s] for w, j in zip(torch.softmax(torch.stack([Q[i, s] @ K[j, s] for j in read])/e**.5, 0), read))
            assert_close(got[i], m.w_o(o))

@given(SET, st.lists(st.integers(0, 6), min_size=1, max_size=5), SEEDS)
@quick
def test_cim_without_candidates_is_its_base(kind, pasts, seed):
    "Sets of one, and sets of which nobody is seen; not so where a candidate reads itself"
    name, more = kind
    m = model_of(kind, seed); base = model_of((name, {k: v for k, v in more.items() if k != 'impression'} | dict(awareness=False)), seed)
    base.load_state_dict({k: v for k, v in m.state_dict().items() if k in base.state_dict()})
    lonely, company = requests(seed, [(1, j) for j in pasts]), requests(seed, [(4, j) for j in pasts])
    same = lambda batch: torch.allclose(m(batch, CATALOGUE).click_n, base(batch, CATALOGUE).click_n, atol=1e-9)
    assert same(lonely) == (not more.get('itself', False)) and not same(company)
    if m.select is not None: m.select[2].weight.data.zero_(); m.select[2].bias.data.fill_(-1e4); assert same(company)

@given(st.integers(1, 6), st.integers(1, 5), SEEDS)
@quick
def test_sasrec_state_is_that_of_the_past_so_far(j, n, seed):
    "A causal state does not move when behaviours come after it (recency, which counts from the end, is taken out); no past is no row of a neighbour"
    m, batch = model_of(('sasrec-ctr', {}), seed), requests(seed, [(n, j), (n, 0)])
    m.behaviours.recency.table.weight.data[:] = m.behaviours.recency.table.weight.data[0].clone()
    whole = m.encode(batch, CATALOGUE).memory_jd
    past = ('past_items', 'past_cross', 'past_user', 'past_context', 'past_position', 'past_action', 'past_times')
    cut = {f: {k: v[:j - 1] for k, v in x.items()} if isinstance(x, dict) else x[:j - 1] for f in past for x in [getattr(batch, f)]}
    shorter = type(batch)(**(vars(batch) | cut | dict(past_offsets=torch.tensor([0, j - 1, j - 1]))))
    assert_close(m.encode(shorter, CATALOGUE).memory_jd, whole[:j - 1])
    assert_close(m.states(whole, batch.past_offsets), torch.stack([whole[j - 1], m.nobody_d]))

@given(TWO, SEEDS)
@quick
def test_means_of_the_past_are_loops(sizes, seed):
    m, batch = model_of(('dcnv2', dict(interest=False)), seed), requests(seed, sizes); memory = m.encode(batch, CATALOGUE).memory_jd
    for b, (a, c) in enumerate(zip(batch.past_offsets.tolist(), batch.past_offsets[1:].tolist())):
        rows = [memory[i] for i in range(a, c)]; clicked = [memory[i] for i in range(a, c) if batch.past_action[i]]
        mean = lambda xs: sum(xs)/len(xs) if xs else torch.zeros(8, dtype=torch.float64)
        assert_close(past_means(memory, batch)[b], torch.cat([mean(clicked), mean(rows)]))

@pytest.mark.parametrize('n', [3, 255, 300, 1000])
def test_means_of_a_long_past_in_half_precision_are_means(n):
    r, d = torch.Generator().manual_seed(n), 4
    class Past: past_offsets, past_action = torch.tensor([0, n, n, n + 1]), torch.randint(2, (n + 1,), generator=r)
    x, project = torch.rand(n + 1, d, generator=r), torch.nn.Linear(d, d, bias=False); torch.nn.init.eye_(project.weight)
    want = past_means(x.bfloat16().double(), Past)
    with torch.autocast('cpu', torch.bfloat16): got = past_means(project(x), Past)
    assert got.dtype == torch.bfloat16; assert_close(got, want.bfloat16(), atol=4e-3, rtol=1e-2)
    assert past_means(x, Past).dtype == torch.float32 and past_means(x.half(), Past).dtype == torch.float16

# Cost, configuration, names

@pytest.mark.parametrize('kind', VARIANTS + SETWISE, ids=str)
def test_cost(kind):
    "A straight line in the candidates for a point-wise model, more than that for a set-wise one; parameters without tables"
    m = model_of(kind, 0); tables = sum(x.weight.numel() for x in m.modules() if isinstance(x, torch.nn.Embedding))
    cost = {n: request_cost(m, TOKENS, n, 7) for n in (1, 11, 21, 300)}
    assert cost[300]['params'] == sum(p.numel() for p in m.parameters()) - tables == counted_params(m)
    a, b = cost[21]['flops'] - cost[11]['flops'], cost[11]['flops'] - cost[1]['flops']
    assert (a == b) == (kind in VARIANTS) and a >= b > 0 and cost[300]['flops'] > cost[21]['flops']

def test_cost_is_homers_own_count():
    from hettrans.homer.count import dense_params, request_flops
    from hettrans.homer.model import HoMerConfig
    c = HoMerConfig(d=8, d_embed=4)
    assert request_cost(HoMer(c, TOKENS), TOKENS, 30, 9) == dict(params=dense_params(c, TOKENS), flops=request_flops(c, TOKENS, 30, 9))

def test_cost_knows_bags_and_counts_attention():
    tokens = [*TOKENS, TokenSpec('near', 'bag', 9, 1, 0, 'item')]
    assert all(request_cost(model_of((n, {}), 0, tokens), tokens, 5, 3)['flops'] > 0 for n in NAMES)
    m = model_of(('sasrec-ctr', dict(layers=1)), 0)
    per = lambda j: request_cost(m, TOKENS, 1, j)['flops']
    assert per(40) - 2*per(20) + per(0) == 4*8*(40**2 - 2*20**2)          # scores and values, all pairs; the rest is linear

WRONG = [('din-dcn-moe', dict(scale='n'), 'scale'), ('din-dcn-moe', dict(experts=0), 'experts = 0'), ('din-dcn-moe', dict(unit=0), 'unit = 0'), ('dcnv2', dict(experts=2), 'needs rank'), ('dcnv2', dict(structure='both'), 'structure'),
         ('dcnv2', dict(rank=-1), 'rank = -1'), ('wukong', dict(products=0), 'products = 0'), ('wukong', dict(layers=0), 'layers = 0'), ('sasrec-ctr', dict(d=9, heads=2), 'heads = 2'), ('sasrec-ctr', dict(norm='no'), 'norm'),
         ('cim', dict(impression=-1.), 'impression'), ('cim', dict(d=9), 'heads = 2'), ('cim', dict(dropout=1.), 'dropout'), ('wukong', dict(age_rows=60), 'age_rows'), ('dcnv2', dict(table_scale=math.nan), 'table_scale'),
         ('dcnv2', dict(impression=1.), 'no field'), ('dcnv2', dict(max_past=-1), 'max_past')]
@pytest.mark.parametrize('name, wrong, words', WRONG)
def test_wrong_numbers_are_refused_in_one_line(name, wrong, words):
    with pytest.raises(InputError, match=words) as e: configure(name, wrong)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('name', NAMES)
def test_every_field_has_a_meaning_and_presets_fit(name):
    shared = {f.name for f in fields(RankConfig)}
    assert shared <= {f.name for f in fields(model_entry(name).load('config'))}
    for preset in ('small', 'paper'): configure(name, preset_fields(name, preset, 10))
    text = ok('models', name)
    for f in fields(model_entry(name).load('config')): assert any(l.split()[0] == f.name and len(l.split()) > 2 for l in text.splitlines() if l.startswith('  ')), f.name

@pytest.mark.parametrize('name', NAMES)
def test_trained_saved_loaded_and_scored_by_name(name, tmp_path):
    save_dataset(tiny_ds(), tmp_path/'shop')
    ok('train', name, '--data', tmp_path/'shop', '--out', tmp_path/'run', '--epochs', 3, '--set', 'split=time:0.2', 'd=8', 'd_embed=4', 'batch=8', 'lr=0.01', 'dropout=0.1', 'patience=0', 'device=cpu')
    run = load_run(tmp_path/'run'); losses = pd.read_json(tmp_path/'run'/'metrics.jsonl', lines=True).loss
    assert losses.iloc[-1] < losses.iloc[0] and 0 <= run.metrics['auc'] <= 1 and run.metrics['n'] > 0
    assert json.loads(ok('evaluate', tmp_path/'run', '--json'))['auc'] == run.metrics['auc']
    ok('score', tmp_path/'run', '--requests', tmp_path/'shop', '--out', tmp_path/'scores.csv')
    got = pd.read_csv(tmp_path/'scores.csv'); p = run.score(tmp_path/'shop')
    assert len(got) == len(tiny_ds().candidates) and ('p_exposed' in got) == (name == 'cim')
    np.testing.assert_allclose(got.p_click, p.p_click, atol=1e-5); assert got.p_click.between(0, 1).all() and got.p_click.nunique() > 20

def test_a_world_of_pages_is_the_same_every_time():
    (a, p), (b, q) = (page_world(users=20, requests=3., seed=5) for _ in range(2))
    assert a.candidates.equals(b.candidates) and p.truth.equals(q.truth)
