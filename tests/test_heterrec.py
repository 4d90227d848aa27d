"HeterRec whole: no bit comes from the future, batch-mates change nothing, every switch trains, saved = loaded, unseen items are read from their features"
import itertools, math
from collections import defaultdict
from dataclasses import replace
import pytest, torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings, strategies as st
from torch.testing import assert_close
from hettrans.data.batches import SequenceBatch
from hettrans.data.encode import TokenSpec
from hettrans.data.schema import InputError
from hettrans.engine.loop import read_tensors, write_tensors
from hettrans.heterrec import model as heterrec_module
from hettrans.heterrec.model import PRESETS, UNKNOWN, HeterRec, HeterRecConfig, heterrec_loss, hide_ids, make_hct, mask_name, negative_log_q
from hettrans.nn.masks import MASKS as PREDICATES

V = 9
ITEM = [TokenSpec('item_id', 'table', V + 2, 1, 0), TokenSpec('brand', 'table', 5, 1, 0), TokenSpec('title', 'pieces', 6, 2, 0), TokenSpec('image', 'vector', 0, 1, 3)]
BAG, ACTION = TokenSpec('neighbours', 'bag', V + 2, 4, 0), TokenSpec('action', 'table', 4, 1, 0, 'behaviour')
SMALL = HeterRecConfig(d=8, heads=2, token_layers=1, item_layers=1, steps=2, gap_buckets=40, n_sampled=6)
MASKS, BACKENDS = ('item_block', 'token', 'past_items'), ('sdpa', 'chunked', 'einsum')
fast = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SEED = st.integers(0, 10**6)

def catalogue(g, n=V):
    "Random codes of `n` items"
    r = lambda high, *shape: torch.randint(high, (n, *shape), generator=g)
    return {'item_id': torch.arange(n)[:, None] + 2, 'brand': r(5, 1), 'title': r(6, 2), 'image': torch.randn(n, 3, generator=g),
            'neighbours': r(V + 2, 4), 'neighbours.weight': torch.rand(n, 4, generator=g), '.count': r(20).float()}

def histories(g, lengths, steps=2):
    "Packed random histories with rising times; the last rows have fewer targets"
    off = torch.tensor([0, *lengths]).cumsum(0)
    j, last = int(off[-1]), torch.repeat_interleave(off[1:], off.diff())
    items = torch.randint(V, (j,), generator=g)
    times = torch.cat([torch.randint(1, 10**6, (n,), generator=g).cumsum(0) for n in lengths])
    at = torch.arange(j)[:, None] + torch.arange(1, steps + 1)
    targets = torch.where(at < last[:, None], items[at.clamp_max(j - 1)], -1)
    return SequenceBatch(off, items, times, times + torch.randint(10**6, (j,), generator=g), dict(action=torch.randint(4, (j, 1), generator=g)), targets)

def build(config=SMALL, tokens=(*ITEM, BAG, ACTION), seed=0):
    "A model whose every parameter is random, those that start at zero too"
    torch.manual_seed(seed)
    model = HeterRec(config, list(tokens))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim and not p.any(): p.normal_(std=.3)
    return model.eval()

@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('mask', MASKS)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), SEED, st.sampled_from([{}, dict(norm='pre', position='rotary'), dict(hct=False, slot=True), dict(htfl=False, position='learned', max_len=6)]))
@fast
def test_no_bit_of_the_future(mask, backend, monkeypatch, lengths, seed, switch):
    monkeypatch.setenv('HETTRANS_ATTENTION', backend)
    g = torch.Generator().manual_seed(seed)
    codes, batch, model = catalogue(g), histories(g, lengths), build(replace(SMALL, mask=mask, **switch), seed=seed)
    now = int(torch.randint(1, max(lengths) + 1, (), generator=g))                     # rows before this place in their history stay
    here = torch.cat([torch.arange(n) for n in lengths]) < now
    new = histories(g, lengths)
    keep = lambda a, b: torch.where(here.view(-1, *[1]*(a.ndim - 1)), a, b)
    other = SequenceBatch(batch.offsets, keep(batch.items, new.items), keep(batch.times, new.times + 10**7), keep(batch.query_times, new.query_times + 10**7),
                          dict(action=keep(batch.extra['action'], new.extra['action'])))
    codes_2 = {k: v.clone() for k, v in codes.items()}                                 # items that only the future has change their features
    gone = torch.ones(V, dtype=torch.bool); gone[batch.items[here]] = False
    for k, v in catalogue(g).items(): codes_2[k][gone] = v[gone]
    with torch.inference_mode(): a, b = model(batch, codes), model(other, codes_2)
    assert torch.equal(a.user_jd[here], b.user_jd[here]) and torch.equal(a.token_jfd[here], b.token_jfd[here])
    if (~here).any() and not torch.equal(batch.items[~here], other.items[~here]): assert not torch.equal(a.user_jd[~here], b.user_jd[~here])

def test_the_check_sees_a_leak():
    from hettrans.nn.masks import MASKS as PREDICATES
    g = torch.Generator().manual_seed(0)
    codes, batch, model = catalogue(g), histories(g, [4]), build()
    other = replace(batch, items=torch.cat([batch.items[:3], (batch.items[3:] + 1) % V]))
    model.hct.allow = PREDICATES['all']
    assert not torch.equal(model(batch, codes).user_jd[:3], model(other, codes).user_jd[:3])

@given(st.lists(st.integers(1, 7), min_size=2, max_size=4), SEED, st.sampled_from(MASKS), st.sampled_from(BACKENDS))
@fast
def test_padding_and_batch_mates(monkeypatch, lengths, seed, mask, backend):
    monkeypatch.setenv('HETTRANS_ATTENTION', backend)
    g = torch.Generator().manual_seed(seed)
    codes, batch, model = catalogue(g), histories(g, lengths), build(replace(SMALL, mask=mask), seed=seed)
    with torch.inference_mode():
        whole, users = model(batch, codes).user_jd, model.user_vectors(batch, codes)
        for i, (a, b) in enumerate(zip(batch.offsets, batch.offsets[1:])):
            alone = SequenceBatch(torch.tensor([0, b - a]), batch.items[a:b], batch.times[a:b], batch.query_times[a:b], {k: v[a:b] for k, v in batch.extra.items()})
            assert_close(model(alone, codes).user_jd, whole[a:b], atol=1e-5, rtol=1e-5)
            assert_close(model.user_vectors(alone, codes)[0], users[i], atol=1e-5, rtol=1e-5)

ABLATIONS = dict(paper={}, no_htfl=dict(htfl=False), no_hct=dict(hct=False), no_lmp=dict(indicator=False), no_token_loss=dict(token_weight=0.), pre=dict(norm='pre'), slot=dict(slot=True),
    learned=dict(position='learned', max_len=8), rotary=dict(position='rotary'), no_gap=dict(time_gap=False), shared=dict(shared_gap=True), sums=dict(fuse='sum', tower_fuse='sum', tower_mlp=False),
    means=dict(fuse='mean', tower_fuse='mean'), dots=dict(normalise=False), one_step=dict(steps=1), weighted=dict(step_weight=.5, margin=0.), no_zero=dict(zero_logit=False),
    cross=dict(cross_position=True), in_batch_logq=dict(logq=True), catalogue=dict(negatives='catalogue'), mixed=dict(negatives='mixed'), uniform=dict(negatives='sampled'),
    uniform_logq=dict(negatives='sampled', logq=True), popular=dict(negatives='sampled', sample_power=.7), popular_logq=dict(negatives='sampled', sample_power=.7, logq=True),
    hidden=dict(id_dropout=.5), dropout=dict(dropout=.5, input_dropout=.5), shrunk=dict(out_scale=.1, table_scale=.5), no_item_layers=dict(item_layers=0), token_mask=dict(mask='token'), past=dict(mask='past-items'))

@pytest.mark.parametrize('name', ABLATIONS)
def test_every_switch_trains(name):
    "Every parameter gets a finite gradient, and over a few starts every matrix moves (one start may have the second step switched off everywhere)"
    moved, matrices = set(), None
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        codes, batch, model = catalogue(g), histories(g, [6]*6), build(replace(SMALL, **ABLATIONS[name]), seed=seed).train()
        before = {k: p.detach().clone() for k, p in model.named_parameters()}
        loss = heterrec_loss(model, model(batch, codes), batch, codes)
        loss.backward()
        assert loss.isfinite() and loss > 0
        silent = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not silent, silent
        torch.optim.SGD(model.parameters(), .01).step()
        matrices = {k for k, p in model.named_parameters() if p.ndim > 1}
        moved |= {k for k, p in model.named_parameters() if not torch.equal(p, before[k])}
        if matrices <= moved: return
    assert matrices <= moved, matrices - moved

def test_fixed_temperature_and_bf16():
    g = torch.Generator().manual_seed(1)
    codes, batch, model = catalogue(g), histories(g, [5, 6]), build(replace(SMALL, learn_tau=False))
    with torch.autocast('cpu', torch.bfloat16): loss = heterrec_loss(model, model(batch, codes), batch, codes)
    loss.backward()
    assert loss.isfinite() and model.log_inv_tau.grad is None and model.inv_tau.dtype == torch.float32
    assert_close(build(replace(SMALL, tau=.02)).inv_tau.item(), 50., atol=1e-4, rtol=0)

def test_bags_have_no_token_loss_and_nothing_to_predict_gives_zero():
    g = torch.Generator().manual_seed(1)
    codes, batch, model = catalogue(g), histories(g, [5, 6]), build()
    t = {k: v.clone() for k, v in codes.items()}
    loss = heterrec_loss(model, model(batch, codes), batch, codes)
    one = build(tokens=(*ITEM, ACTION))
    assert model.htfl.item.bags == [False]*4 + [True] and one.htfl.item.bags == [False]*4
    empty = replace(batch, targets=torch.full_like(batch.targets, -1))
    for negatives in ('in_batch', 'catalogue', 'sampled', 'mixed'):
        m = build(replace(SMALL, negatives=negatives))
        assert heterrec_loss(m, m(empty, codes), empty, codes) == 0
    assert loss.isfinite() and all(torch.equal(t[k], codes[k]) for k in t)

@given(SEED)
@fast
def test_saved_is_loaded(tmp_path_factory, seed):
    g = torch.Generator().manual_seed(seed)
    codes, batch, a, b = catalogue(g), histories(g, [3, 5]), build(seed=seed), build(seed=seed + 1)
    file = tmp_path_factory.mktemp('run')/'weights.safetensors'
    write_tensors(file, a.state_dict(), {})
    with torch.inference_mode():
        assert not torch.equal(a.user_vectors(batch, codes), b.user_vectors(batch, codes))
        b.load_state_dict(read_tensors(file)[0])
        assert torch.equal(a.user_vectors(batch, codes), b.user_vectors(batch, codes)) and torch.equal(a.item_vectors(codes), b.item_vectors(codes))

@given(st.lists(st.integers(2, 6), min_size=1, max_size=4), SEED)
@fast
def test_one_step_is_cross_entropy(lengths, seed):
    g = torch.Generator().manual_seed(seed)
    codes, batch = catalogue(g), histories(g, lengths, 1)
    model = build(replace(SMALL, steps=1, margin=0., zero_logit=False, negatives='catalogue', token_weight=0.), seed=seed)
    out = model(batch, codes)
    logits = F.normalize(model.step_heads[0](out.user_jd), dim=-1) @ model.item_vectors(codes).T * model.inv_tau
    plain, got = F.cross_entropy(logits, batch.targets[:, 0], ignore_index=-1), heterrec_loss(model, out, batch, codes)
    assert_close(got, plain)
    ps = [p for p in model.parameters() if p.requires_grad]
    grads = lambda loss: torch.autograd.grad(loss, ps, retain_graph=True, allow_unused=True, materialize_grads=True)
    for x, y in zip(grads(got), grads(plain)): assert_close(x, y, atol=1e-4, rtol=1e-4)

@given(SEED, st.integers(1, 5))
@fast
def test_unseen_items_are_their_features(seed, n):
    g = torch.Generator().manual_seed(seed)
    codes, model = catalogue(g), build(seed=seed)
    new = catalogue(g, n)
    new['item_id'] = torch.ones(n, 1, dtype=torch.long)                                # 1 = unknown id
    with torch.inference_mode():
        alone, beside = model.item_vectors(new), model.item_vectors({k: torch.cat([codes[k], new[k]]) for k in codes})
        assert_close(beside[V:], alone, atol=1e-6, rtol=1e-5)
        assert_close(beside[:V], model.item_vectors(codes), atol=1e-6, rtol=1e-5)
        twin = {k: v[:1].repeat(3, *[1]*(v.ndim - 1)) for k, v in new.items()}         # equal features, equal vectors; the count is none
        twin['.count'] = torch.tensor([0., 5., 50.])
        twins = model.item_vectors(twin)
        assert torch.equal(twins[0], twins[1]) and torch.equal(twins[0], twins[2])
        twin['brand'][2] = (twin['brand'][2] + 1) % 5
        assert not torch.equal(model.item_vectors(twin)[0], model.item_vectors(twin)[2])

def test_drawing_probabilities():
    count = torch.tensor([0., 1., 3., 16.])
    codes = {'item_id': torch.arange(4)[:, None], '.count': count}
    q = lambda **kw: negative_log_q(codes, 4, replace(SMALL, **kw))
    assert_close(q(negatives='sampled', sample_power=.5).exp(), torch.tensor([1., 1, 3**.5, 4])/(6 + 3**.5))
    assert_close(q(negatives='sampled', logq=True).exp(), torch.full((4,), .25))
    assert_close(q(logq=True).exp()[1:], count[1:]/20)
    assert q() is None and q(negatives='catalogue') is None and q(negatives='sampled') is None
    assert_close(negative_log_q({'item_id': codes['item_id']}, 4, replace(SMALL, logq=True)).exp(), torch.full((4,), .25))

@pytest.mark.parametrize('bad', [dict(mask='all'), dict(mask='x'), dict(norm='x'), dict(position='x'), dict(fuse='x'), dict(tower_fuse='x'), dict(negatives='x'), dict(d=0), dict(d=9), dict(tau=0.), dict(tau=1e-4),
    dict(dropout=1.), dict(input_dropout=-.1), dict(id_dropout=1.), dict(steps=0), dict(margin=-1.), dict(n_sampled=0), dict(token_weight=-1.), dict(token_weight=float('nan')), dict(sample_power=float('inf')), dict(logq=True, negatives='mixed')])
def test_refused_configurations(bad):
    with pytest.raises(InputError) as e: replace(SMALL, **bad)
    assert '\n' not in str(e.value) and list(bad)[0] in str(e.value)

def test_presets_are_configurations():
    fields = HeterRecConfig.__dataclass_fields__
    for preset in PRESETS.values(): HeterRecConfig(**{k: v for k, v in preset.items() if k in fields})
    literal = HeterRecConfig(**{k: v for k, v in PRESETS['paper'].items() if k in fields})
    assert (literal.negatives, literal.steps, literal.margin, literal.norm, literal.mask, literal.zero_logit, literal.logq) == ('in_batch', 3, 1., 'post', 'item_block', True, False)

def test_only_ids_are_hidden():
    "Without an id the first feature belongs to many items: it stays, whatever `id_dropout` is"
    g = torch.Generator().manual_seed(0)
    codes, model = catalogue(g), build(replace(SMALL, id_dropout=.5)).train()
    hidden = hide_ids(model, codes, codes)['item_id']
    assert 0 < int((hidden == UNKNOWN).sum()) < len(hidden) and torch.equal(hidden[hidden != UNKNOWN], codes['item_id'][hidden != UNKNOWN])
    assert hide_ids(model.eval(), codes, codes) is codes
    model = build(replace(SMALL, id_dropout=.5), (*ITEM[1:], ACTION)).train()
    assert model.htfl.item.names[0] == 'brand' and hide_ids(model, codes, codes) is codes

# Every switch is wired: the same weights, as far as their shapes allow, and random histories, and something else comes out

def pair(base, switch):
    "A model without and one with a switch, from the same seed; parameters of the same name and shape are equal"
    a, b = build(base), build(replace(base, **switch))
    known = {k: v for k, v in a.state_dict().items() if k in b.state_dict() and b.state_dict()[k].shape == v.shape}
    if not {'out_scale', 'gap_slope', 'table_scale', 'tau'} & switch.keys(): b.load_state_dict(known, strict=False)
    return a, b

NETWORK = dict(token_mask=dict(mask='token'), past_items=dict(mask='past_items'), pre=dict(norm='pre'), slot=dict(slot=True), learned=dict(position='learned'), rotary=dict(position='rotary'), no_gap=dict(time_gap=False),
    shared=dict(shared_gap=True), slope=dict(gap_slope=1.), no_htfl=dict(htfl=False), no_hct=dict(hct=False), mean=dict(fuse='mean'), total=dict(fuse='sum'), shrunk=dict(out_scale=.1), short=dict(table_scale=.5), heads=dict(heads=4),
    token_layers=dict(token_layers=2), item_layers=dict(item_layers=2), narrow=dict(ffn=1), buckets=dict(gap_buckets=8))

@pytest.mark.parametrize('name', NETWORK)
def test_every_switch_of_the_network_is_heard(name):
    g = torch.Generator().manual_seed(2)
    codes, batch, (a, b) = catalogue(g), histories(g, [6, 5, 1, 4]), pair(SMALL, NETWORK[name])
    with torch.inference_mode(): a, b = a(batch, codes).user_jd, b(batch, codes).user_jd
    assert (a - b).abs().max() > 1e-3

def test_without_token_norm_and_in_training():
    g = torch.Generator().manual_seed(2)
    codes, batch, base = catalogue(g), histories(g, [6, 5]), replace(SMALL, norm='pre', dropout=0., input_dropout=0.)
    def read(model): torch.manual_seed(0); return model.train()(batch, codes).user_jd
    for switch in (dict(token_norm=False), dict(dropout=.5), dict(input_dropout=.5)):
        a, b = pair(base, switch)
        assert torch.equal(read(a), read(a)) and (read(a) - read(b)).abs().max() > 1e-3, switch

@pytest.mark.parametrize('mask', [*MASKS, 'item-block', 'past-items'])
def test_the_mask_is_the_one_that_was_asked_for(mask):
    for hct in (True, False): assert make_hct(replace(SMALL, mask=mask, hct=hct), 3).allow is PREDICATES[mask_name(mask)]
    assert build(replace(SMALL, mask=mask)).hct.allow is PREDICATES[mask.replace('-', '_')]

def test_the_transformer_is_the_one_that_was_asked_for():
    wide = make_hct(replace(SMALL, token_layers=2, item_layers=3, shared_gap=True, norm='pre', position='rotary', dropout=.3, gap_buckets=7), 3)
    assert (len(wide.token_stack.blocks), len(wide.item_stack.blocks)) == (2, 3)
    assert [len(s.blocks) for h in [make_hct(replace(SMALL, hct=False, token_layers=2, item_layers=3), 3)] for s in (h.token_stack, h.item_stack)] == [5, 0]
    plain = make_hct(SMALL, 3)
    for b in (*wide.token_stack.blocks, *wide.item_stack.blocks): assert b.gap().shape[-1] == 7 and b.attention.rotary is not None and b.dropout.p == .3 and (b.gap()[0] == b.gap()[1]).all() and sum(p.numel() for p in b.gap.parameters()) == 7
    for b in (*plain.token_stack.blocks, *plain.item_stack.blocks): assert b.attention.rotary is None and sum(p.numel() for p in b.gap.parameters()) == 2*40 and b.residual is not wide.token_stack.blocks[0].residual

LOSS = replace(SMALL, steps=3, dropout=0., input_dropout=0.)
IN, OUT = dict(negatives='in_batch'), dict(negatives='sampled')
TRAINED_FOR = dict(cross_position=(IN, dict(cross_position=True)), indicator=(IN, dict(indicator=False)), margin=(IN, dict(margin=1e6)), zero_logit=(IN, dict(zero_logit=False)), step_weight=(IN, dict(step_weight=.5)),
    steps=(IN, dict(steps=2)), in_batch_logq=(IN, dict(logq=True)), sampled_logq=(OUT | dict(sample_power=.7), dict(logq=True)), uniform_logq=(OUT, dict(logq=True)), sample_power=(OUT, dict(sample_power=2.)), n_sampled=(OUT, dict(n_sampled=30)),
    sampled=(IN, OUT), catalogue=(IN, dict(negatives='catalogue')), mixed=(dict(negatives='catalogue'), dict(negatives='mixed', n_sampled=1)), sampled_margin=(OUT, dict(margin=1e6)), sampled_zero=(OUT, dict(zero_logit=False)),
    token_weight=(IN, dict(token_weight=.5)), no_tokens=(IN, dict(token_weight=0.)), tau=(IN, dict(tau=.1)), dots=(IN, dict(normalise=False)), id_dropout=(IN, dict(id_dropout=.9)), tower=(IN, dict(tower_mlp=False)), tower_fuse=(IN, dict(tower_fuse='mean')))

@pytest.mark.parametrize('name', TRAINED_FOR)
def test_every_switch_of_the_loss_is_heard(name):
    base, switch = TRAINED_FOR[name]
    g = torch.Generator().manual_seed(3)
    codes, batch, models = catalogue(g), histories(g, [4, 5, 6, 3], 3), pair(replace(LOSS, **base), switch)
    def loss(m): torch.manual_seed(0); return heterrec_loss(m, m.train()(batch, codes), batch, codes).item()
    a, b = map(loss, models)
    assert a == loss(models[0]) and abs(a - b) > 1e-3

@pytest.mark.parametrize('field, value', [('steps', 2), ('margin', .3), ('indicator', False), ('zero_logit', False), ('cross_position', True), ('n_sampled', 7), ('logq', True), ('step_weight', .5), ('negatives', 'sampled')])
def test_the_loss_is_told(field, value):
    assert getattr(LOSS.lmp, field) != value == getattr(replace(LOSS, **{field: value}).lmp, field)

# The loss is the sum that the paper writes: items, and each feature whose values stand for the items that have them

def step_by_hand(c, i, score, target, where, who, value, q, drawn):
    "Step `i` in Python numbers; `score(i, j, item)` is a logit over tau, `value` names what collides, `q` its probability"
    rows, total = [j for j in range(len(target)) if target[j][i] >= 0], 0.
    for j in rows:
        own, pos = target[j][i], score(i, j, target[j][i])
        if c.indicator and i and not math.exp(score(i - 1, j, target[j][i - 1])) > math.exp(pos) + c.margin: continue
        if c.negatives == 'in_batch': offered = [target[k][i] for k in rows if who[k] != who[j] and (c.cross_position or where[k] == where[j])]
        elif c.negatives == 'sampled': offered = drawn
        else: offered = {value[k]: k for k in (range(V) if c.negatives == 'catalogue' else [*drawn, *(k for t in target for k in t if k >= 0)])}.values()
        share = lambda k: max(1, len(offered))*q[value[k]] if c.logq else 1.
        total += math.log((c.zero_logit + math.exp(pos) + sum(math.exp(score(i, j, k))/share(k) for k in offered if value[k] != value[own]))/math.exp(pos))/len(rows)
    return total

def loss_by_hand(model, out, batch, codes, drawn):
    "Vectors of the whole catalogue, one term for the items and one for each feature that is no bag"
    c, target, where, who = model.config, batch.targets.tolist(), out.layout.positions.tolist(), out.layout.sequence.tolist()
    count = codes['.count'].tolist()
    weight = [max(1., n)**(c.sample_power if c.negatives == 'sampled' else 1.) for n in count]
    whole = sum(weight) if c.negatives == 'sampled' else sum(count)
    v_vd, t_vfd = model.towers(codes)
    def term(heads, x_jd, items_vd, value):
        u, items_vd, q = [F.normalize(head(x_jd), dim=-1) for head in heads], F.normalize(items_vd, dim=-1), defaultdict(float)
        for v, w in zip(value, weight): q[v] += w/whole
        score_ijv = torch.stack([x @ items_vd.T for x in u]).double()/c.tau
        return sum(c.step_weight**i*step_by_hand(c, i, lambda *at: float(score_ijv[at]), target, where, who, value, q, drawn) for i in range(c.steps))
    named = [range(V), [x[0] for x in codes['brand'].tolist()], [tuple(x) for x in codes['title'].tolist()], range(V)]   # what collides in ITEM: ids and raw vectors never
    return term(model.step_heads, out.user_jd, v_vd, range(V)) + c.token_weight*sum(term(model.token_heads, out.token_jfd[:, s], t_vfd[:, s], value) for s, value in enumerate(named))

HAND = [dict(steps=s, logq=q, cross_position=x) for s, q, x in itertools.product((1, 3), (False, True), (False, True))]
HAND += [dict(steps=s, logq=q, negatives='sampled', sample_power=.7) for s, q in itertools.product((1, 3), (False, True))]
HAND += [dict(negatives='sampled', logq=True, zero_logit=False), dict(negatives='catalogue', steps=3), dict(negatives='mixed', steps=3), dict(steps=3, indicator=False, margin=0., zero_logit=False)]

@pytest.mark.parametrize('fields', HAND, ids=str)
@torch.no_grad()
def test_the_loss_is_the_sum_by_hand(fields, monkeypatch):
    monkeypatch.setattr(heterrec_module, 'draw_rows', lambda *a, **kw: torch.tensor([8, 2, 8, 5]))
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        codes, batch = catalogue(g), histories(g, [4, 1, 5, 4], 3)
        low = batch.targets == 0                                                           # item 0 is never asked for: places among the candidates are not rows of the catalogue
        batch = replace(batch, targets=batch.targets.masked_fill(low, 3))
        codes['brand'][:, 0] = torch.tensor([4, 1, 1, 3, 3, 4, 0, 1, 4])
        codes['title'][4] = codes['title'][3]
        model = build(replace(SMALL, **dict(tau=.3, token_weight=.5, step_weight=.7, margin=.2) | fields), seed=seed)
        out = model(batch, codes)
        assert_close(float(heterrec_loss(model, out, batch, codes)), loss_by_hand(model, out, batch, codes, [8, 2, 8, 5]), atol=1e-4, rtol=1e-5)
