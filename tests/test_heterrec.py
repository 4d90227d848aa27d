"HeterRec whole: no bit comes from the future, batch-mates change nothing, every switch trains, saved = loaded, unseen items are read from their features"
from dataclasses import replace
import pytest, torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings, strategies as st
from torch.testing import assert_close
from hettrans.data.batches import SequenceBatch
from hettrans.data.encode import TokenSpec
from hettrans.data.schema import InputError
from hettrans.engine.loop import read_tensors, write_tensors
from hettrans.heterrec.model import PRESETS, UNKNOWN, HeterRec, HeterRecConfig, heterrec_loss, hide_ids, negative_log_q

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
