"Sequential baselines over random histories: no bit of the future, batch-mates change nothing, losses are their loops, PinnerFormer with window 1 is the next item, HSTU with four switches is a plain block, every model by name"
from dataclasses import replace
import math
import numpy as np, pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hettrans.data.batches import SequenceBatch
from hettrans.data.encode import TokenSpec
from hettrans.data.schema import InputError
from hettrans.engine.loop import read_tensors, write_tensors
from hettrans.engine.registry import model_entry
from hettrans.engine.run import fit, load_run
from hettrans.nn.blocks import CausalBlock, layout_buckets
from hettrans.nn.jagged import Layout, sequence_of_row
from hettrans.nn.masks import allow_token
from hettrans.nn.silu import Pairs, attend_silu
from hettrans.zoo.bert4rec import append_row, draw_hidden, random_rank
from hettrans.zoo.hstu import HSTUConfig, HSTULayer, WEIGH, hstu_attention
from hettrans.zoo.pinnerformer import OBJECTIVES, ahead_in_window, ask, clock_numbers
from hettrans.zoo.sasrec import LOSSES, SASRec, SASRecConfig, rival_loss, sasrec_loss
from test_sequences import seeds
from tiny import TINY

some = settings(max_examples=20, deadline=None)
V, NAMES = 9, ('sasrec', 'bert4rec', 'pinnerformer', 'hstu')
LENGTHS = st.lists(st.integers(1, 8), min_size=1, max_size=4)
ITEM = [TokenSpec('item_id', 'table', V + 2, 1, 0), TokenSpec('brand', 'table', 5, 1, 0)]
ACTION = TokenSpec('action', 'table', 4, 1, 0, 'behaviour')
SWITCHES = dict(sasrec=[{}], bert4rec=[{}, dict(bidirectional=False), dict(norm='post', content=False)],
    pinnerformer=[{}, dict(actions=False, time_features=False, item_mlp=False), dict(layers=0), dict(content=False)],
    hstu=[{}, dict(time_bias=False), dict(time_bias=False, position_bias=False), dict(weigh='softmax', shared_bias=False), dict(gate=False, feed_forward=True), dict(layers=2)])
CASES = [(name, fields) for name in NAMES for fields in SWITCHES[name]]
each_case = pytest.mark.parametrize('name,fields', CASES, ids=[f'{n} {" ".join(map(str, f.items()))}' for n, f in CASES])

def build(name, seed=0, **fields):
    "A model whose every parameter is random, those that start at zero too, and the codes of a catalogue"
    torch.manual_seed(seed)
    entry = model_entry(name)
    model = entry.load()(entry.load('config')(**dict(d=8, heads=2, layers=1, max_len=9) | fields), [*ITEM, ACTION])
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim: p.copy_(.5*torch.randn_like(p))
    return model.eval(), dict(item_id=torch.arange(V)[:, None] + 2, brand=torch.randint(5, (V, 1))) | {'.count': torch.randint(9, (V,)).float()}

def histories(rng, lengths, known=True, spread=2*86400):
    "Packed histories with some equal times, an action each, and the next item as the target of each"
    whole = [np.cumsum(rng.integers(0, 2, n + 1)*rng.integers(1, spread, n + 1)) for n in lengths]
    items = [rng.integers(0, V, n + 1) for n in lengths]
    flat = lambda xs: torch.from_numpy(np.concatenate(xs))
    times, ask = flat([t[:-1] for t in whole]), flat([t[1:] for t in whole])
    return SequenceBatch(torch.tensor([0, *np.cumsum(lengths)]), flat([i[:-1] for i in items]), times, ask if known else times,
                         dict(action=torch.from_numpy(rng.integers(0, 4, (len(times), 1)))), flat([i[1:] for i in items])[:, None])

def part(batch, b):
    "One history of a batch, alone"
    a, e = batch.offsets[b:b + 2].tolist()
    one = batch.map(lambda x: x[a:e])
    return replace(one, offsets=torch.tensor([0, e - a]))

def every_state(model, batch, codes):
    "The vector that answers after each behaviour; BERT4Rec is asked once for each prefix"
    if hasattr(model, 'mask_d'):
        prefixes = [batch.items[a:a + k] for a, e in zip(batch.offsets.tolist(), batch.offsets.tolist()[1:]) for k in range(1, e - a + 1)]
        off = torch.tensor([0, *np.cumsum([len(p) for p in prefixes])])
        return model.user_vectors(SequenceBatch(off, torch.cat(prefixes), *[torch.zeros(int(off[-1]), dtype=torch.int64)]*2, {}), codes)
    return model.unit(model(batch, codes))

@each_case
@given(seeds, LENGTHS)
@some
def test_no_bit_of_the_future_and_no_batch_mates(name, fields, seed, lengths):
    (model, codes), rng = build(name, seed, **fields), np.random.default_rng(seed)
    batch, other, now = histories(rng, lengths), histories(rng, lengths), int(rng.integers(1, 9))
    past = torch.cat([torch.arange(n) for n in lengths]) < now
    changed = replace(batch, items=torch.where(past, batch.items, other.items), extra={k: torch.where(past[:, None], x, other.extra[k]) for k, x in batch.extra.items()})
    with torch.inference_mode():
        a, b = every_state(model, batch, codes), every_state(model, changed, codes)
        assert torch.equal(a[past], b[past])
        moved = (batch.items != changed.items)
        if 'layers' not in fields: assert not any(torch.equal(x, y) for x, y in zip(a[moved], b[moved]))
        users = model.user_vectors(batch, codes)
        assert_close(users, a[[*(np.cumsum(lengths) - 1)]], atol=1e-5, rtol=1e-4)
        for i in range(len(lengths)): assert_close(model.user_vectors(part(batch, i), codes)[0], users[i], atol=1e-5, rtol=1e-4)
        shown = replace(batch, targets=None)
        assert torch.equal(model.user_vectors(shown, codes), users)        # an answer is never read to answer

@pytest.mark.parametrize('name', NAMES)
def test_what_cannot_be_read_is_refused(name):
    (model, codes), rng = build(name), np.random.default_rng(0)
    none = replace(histories(rng, [3, 2]), offsets=torch.tensor([0, 3, 3, 5]))
    with pytest.raises(ValueError, match='sequence 1'): model.user_vectors(none, codes)
    with pytest.raises(ValueError, match='max_len = 9'): model.user_vectors(histories(rng, [10]), codes)
    for field, value in dict(loss='nothing', negatives=-1).items():
        with pytest.raises(InputError, match=field): model_entry(name).load('config')(**{field: value})

# The four losses, shared by all

def pool_loop(scores_jv, target_j, sample_j, share_v, inv_tau, loss, drawn):
    "In-batch and mixed softmax, term by term"
    rows, terms = [j for j, t in enumerate(target_j) if t >= 0], []
    for j in rows:
        t = target_j[j]
        pool = [target_j[k] for k in rows if loss == 'mixed' or sample_j[k] != sample_j[j]] + drawn
        own = len(pool) - len(drawn)
        rivals = [math.exp(scores_jv[j][v]*inv_tau)/(own*share_v[v] + len(drawn)/V) for v in pool if v != t]
        terms.append(math.log(math.exp(scores_jv[j][t]*inv_tau) + sum(rivals)) - scores_jv[j][t]*inv_tau)
    return sum(terms)/len(terms)

@some
@given(seeds, LENGTHS, st.sampled_from([('in_batch', 0), ('mixed', 0), ('mixed', 4)]))
def test_losses_of_a_pool_are_their_loop(seed, lengths, case):
    loss, n = case
    (model, codes), rng = build('sasrec', seed, loss=loss, negatives=n), np.random.default_rng(seed)
    batch = histories(rng, lengths)
    batch.targets[torch.from_numpy(rng.random(len(batch.targets)) < .2)] = -1
    if (batch.targets < 0).all(): batch.targets[0] = 3
    with torch.no_grad():
        user_jd = model(batch, codes)
        scores, target, sample = (model.unit(user_jd) @ model.item_vectors(codes).T).tolist(), batch.targets[:, 0].tolist(), sequence_of_row(batch.offsets).tolist()
        sold = codes['.count'].clamp_min(1)
        torch.manual_seed(seed); drawn = torch.randint(V, (n,)).tolist()
        want = pool_loop(scores, target, sample, (sold/sold.sum()).tolist(), float(model.inv_tau), loss, drawn)
        torch.manual_seed(seed); assert_close(float(sasrec_loss(model, user_jd, batch, codes)), want, rtol=1e-4, atol=1e-5)

def test_binary_and_drawn_losses_agree_with_their_expectations():
    (model, codes), rng = build('sasrec', loss='binary', normalise=False), np.random.default_rng(0)
    batch = histories(rng, [4, 2])
    with torch.no_grad():
        user_jd = model(batch, codes)
        s, target, sample = user_jd @ model.item_vectors(codes).T, batch.targets[:, 0], sequence_of_row(batch.offsets)
        own = [set(target[sample == b].tolist()) for b in range(2)]
        no = sum(sum(float(F.softplus(s[j, v])) for v in range(V) if v not in own[sample[j]])/V for j in range(6))
        want = (float(F.softplus(-s[range(6), target]).sum()) + no)/6
        torch.manual_seed(0)
        found = np.mean([float(sasrec_loss(model, user_jd, batch, codes)) for _ in range(3000)])
        assert abs(found/want - 1) < .03
        model.config = replace(model.config, negatives=4)                  # four questions with the answer no
        found = np.mean([float(sasrec_loss(model, user_jd, batch, codes)) for _ in range(2000)])
        assert abs(found/(want + 3*no/6) - 1) < .03
        full = float(F.cross_entropy(s, target))
        for loss in ('softmax', 'mixed'):
            model.config = replace(model.config, loss=loss, negatives=20_000)
            assert abs(float(sasrec_loss(model, user_jd, batch, codes))/full - 1) < .03, loss

@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('name', NAMES)
def test_every_model_has_every_loss(name, loss):
    "With a gradient for every parameter that is read, none for nothing, and nothing where nobody has an answer"
    (model, codes), rng = build(name, loss=loss, negatives=5), np.random.default_rng(0)
    batch, fn = histories(rng, [5, 3, 7]), model_entry(name).load('loss')
    model.train()
    value = fn(model, model(batch, codes), batch, codes)
    value.backward()
    assert value > 0 and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    still = {k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert still <= {'item_mlp.w2.bias'}, still
    nobody = rival_loss(model, torch.randn(4, 8, requires_grad=True), torch.full((4,), -1), torch.tensor([0, 0, 1, 1]), codes)
    assert float(nobody.detach()) == 0

@some
@given(seeds, LENGTHS, st.sampled_from(CASES))
def test_a_saved_model_is_the_model(tmp_path_factory, seed, lengths, case):
    (model, codes), batch = build(case[0], seed, **case[1]), histories(np.random.default_rng(seed), lengths)
    file, again = tmp_path_factory.mktemp('run')/'weights.safetensors', build(case[0], seed + 1, **case[1])[0]
    write_tensors(file, model.state_dict(), {})
    again.load_state_dict(read_tensors(file)[0])
    with torch.inference_mode(): assert torch.equal(again.user_vectors(batch, codes), model.user_vectors(batch, codes))

@pytest.mark.parametrize('name', NAMES)
def test_an_unseen_item_is_known_by_its_features(name):
    "Two items that training has not seen differ by their brand alone; without content they do not differ"
    model, codes = build(name)
    new = dict(item_id=torch.tensor([[1], [1], [1]]), brand=torch.tensor([[2], [3], [2]]))
    a, b, c = model.item_vectors(new)
    assert torch.equal(a, c) and not torch.allclose(a, b)
    model, _ = build(name, content=False)
    a, b, _ = model.item_vectors(new)
    assert torch.equal(a, b)

# BERT4Rec

@some
@given(seeds, LENGTHS, st.floats(0, 1), st.floats(0, 1))
def test_windows_and_blanks(seed, lengths, share, last_only):
    batch = histories(np.random.default_rng(seed), lengths)
    items, off = append_row(batch.items, batch.targets[batch.offsets[1:] - 1, 0], batch.offsets)
    for b, (a, e) in enumerate(zip(off, off[1:])):
        x, y = batch.offsets[b:b + 2]
        assert items[a:e].tolist() == [*batch.items[x:y].tolist(), int(batch.targets[y - 1, 0])]
    torch.manual_seed(seed)
    hidden, rank = draw_hidden(off, share, last_only), random_rank(off)
    for a, e in zip(off, off[1:]):
        k, n = int(hidden[a:e].sum()), int(e - a)
        assert sorted(rank[a:e].tolist()) == list(range(n))
        want = int((share*torch.tensor([n])).round().clamp_min(1))
        assert k == want or (k == 1 and hidden[e - 1])
    assert draw_hidden(off, share, 1.).nonzero()[:, 0].tolist() == (off[1:] - 1).tolist()

@some
@given(seeds, LENGTHS)
def test_a_blank_never_reads_its_item(seed, lengths):
    (model, codes), rng = build('bert4rec', seed), np.random.default_rng(seed)
    off = torch.tensor([0, *np.cumsum(lengths)])
    items, other = (torch.from_numpy(rng.integers(0, V, int(off[-1]))) for _ in range(2))
    torch.manual_seed(seed); hidden = draw_hidden(off, .4, .3)
    with torch.inference_mode(): assert torch.equal(model.states(items, hidden, off, codes), model.states(torch.where(hidden, other, items), hidden, off, codes))

def test_blanks_read_both_sides_unless_told_not_to():
    off, hidden = torch.tensor([0, 3]), torch.tensor([False, True, False])
    for both in (True, False):
        model, codes = build('bert4rec', bidirectional=both)
        a, b = (model.states(torch.tensor([1, 2, last]), hidden, off, codes)[1] for last in (3, 4))
        assert torch.equal(a, b) != both

# PinnerFormer

@some
@given(seeds, LENGTHS, st.booleans(), st.booleans(), st.integers(1, 9), st.sampled_from([1, 30_000]), st.integers(1, 4))
def test_windows_are_counted_and_answers_lie_in_them(seed, lengths, known, in_items, width, unit, n):
    batch = histories(np.random.default_rng(seed), lengths, known, 4*unit)
    width = width if in_items else width*unit          # with gaps of a few seconds many times lie at the very end of a window
    ahead = ahead_in_window(batch, width, in_items)
    items, off = append_row(batch.items, batch.targets[batch.offsets[1:] - 1, 0], batch.offsets)
    times, _ = append_row(batch.times, batch.query_times[batch.offsets[1:] - 1], batch.offsets)
    where = (torch.arange(len(ahead)) + sequence_of_row(batch.offsets)).tolist()
    stop = off[1:][sequence_of_row(batch.offsets)].tolist()
    inside = [[s for s in range(j + 1, e) if (s - j <= width if in_items else times[s] - times[j] <= width)] for j, e in zip(where, stop)]
    assert ahead.tolist() == [len(x) for x in inside]
    model, _ = build('pinnerformer', window=width, window_in='items' if in_items else 'seconds', targets=n)
    torch.manual_seed(seed)
    for objective in OBJECTIVES:
        rows, targets = ask(batch, replace(model.config, objective=objective))
        near = [[j + 1] for j in where] if objective.endswith('next') else inside
        for row, target in zip(rows.tolist(), targets.tolist()): assert target in [int(items[s]) for s in near[row]] or (target == -1 and not near[row])
        per = torch.bincount(sequence_of_row(batch.offsets)[rows], minlength=len(lengths))
        assert per.tolist() == [n*(k if objective.startswith('dense') else 1) for k in lengths]
        if objective == 'all':                                              # the place that is asked has something to be asked for, if there is one
            for b, (a, e) in enumerate(zip(batch.offsets.tolist(), batch.offsets.tolist()[1:])):
                if any(inside[a:e]): assert all(targets[sequence_of_row(batch.offsets)[rows] == b] >= 0)

@some
@given(seeds, LENGTHS, st.sampled_from(['softmax', 'in_batch']), st.sampled_from([dict(window=1, window_in='items'), dict(objective='dense_next')]))
def test_window_one_is_the_next_item_loss(seed, lengths, loss, fields):
    (model, codes), batch = build('pinnerformer', seed, loss=loss, negatives=0, **fields), histories(np.random.default_rng(seed), lengths)
    states = model(batch, codes)
    rows, targets = ask(batch, model.config)
    assert rows.tolist() == list(range(len(batch.items))) and targets.tolist() == batch.targets[:, 0].tolist()
    a, b = model_entry('pinnerformer').load('loss')(model, states, batch, codes), sasrec_loss(model, states, batch, codes)
    assert_close(a, b, rtol=0, atol=0)

def test_a_new_pinnerformer_without_its_inputs_is_sasrec():
    batch = histories(np.random.default_rng(0), [5, 3])
    new = model_entry('pinnerformer').load()(model_entry('pinnerformer').load('config')(d=8, time_features=False, actions=False), [*ITEM, ACTION]).eval()
    old, codes = SASRec(SASRecConfig(d=8), ITEM).eval(), build('sasrec')[1]
    old.load_state_dict({k: v for k, v in new.state_dict().items() if k in old.state_dict()})
    assert_close(new(batch, codes), old(batch, codes), rtol=0, atol=0)

@some
@given(seeds, LENGTHS)
def test_clock_numbers(seed, lengths):
    batch = histories(np.random.default_rng(seed), lengths)
    x = clock_numbers(batch)
    assert x.shape == (len(batch.items), 10)
    assert_close(x[:, :4]**2 + x[:, 4:8]**2, torch.ones(len(x), 4), rtol=1e-4, atol=1e-4)
    assert not x[batch.offsets[:-1], 8].any() and (x[:, 8:] >= 0).all()
    assert not clock_numbers(histories(np.random.default_rng(seed), lengths, known=False))[:, 9].any()     # an unknown question has no gap

# HSTU

def layer_case(seed, lengths, **fields):
    c = HSTUConfig(**dict(d=8, heads=2, max_len=9, dropout=0.) | fields)
    torch.manual_seed(seed)
    layer, batch = HSTULayer(c).eval(), histories(np.random.default_rng(seed), lengths)
    with torch.no_grad():
        for p in layer.parameters(): p.normal_(std=.5)
    layout = Layout.make(batch.offsets, overhead=seed % 3)
    return c, layer, torch.randn(len(batch.items), c.d), layout, layout_buckets(layout, batch.query_times, batch.times, c.gap_buckets)

@some
@given(seeds, LENGTHS, st.booleans(), st.booleans(), st.integers(1, 3))
def test_four_switches_make_a_plain_block(seed, lengths, time_bias, shared, ffn):
    c, layer, x, layout, buckets = layer_case(seed, lengths, weigh='softmax', gate=False, feed_forward=True, position_bias=False, time_bias=time_bias, shared_bias=shared, ffn=ffn)
    block = CausalBlock(c.d, c.heads, ffn=ffn, norm='pre', time_gap=time_bias, shared_bias=shared).eval()
    for a, b in ((block.attention.w_qkv, layer.w_in), (block.attention.w_o, layer.w_o), (block.norms[0], layer.norm), (block.norms[1], layer.feed_forward[0]), (block.feed_forward, layer.feed_forward[1])): a.load_state_dict(b.state_dict())
    if time_bias: block.gap.load_state_dict(layer.bias.gap.state_dict())
    assert_close(layer(x, layout, buckets), block(x[:, None], layout, allow_token, buckets)[:, 0], rtol=1e-3, atol=1e-4)
    for other in (dict(weigh='silu'), dict(gate=True)):                     # and one switch less does not
        d, _, _, _, _ = layer_case(seed, lengths, **vars(c) | other)
        more = HSTULayer(d).eval()
        if other.get('gate') is None: more.load_state_dict(layer.state_dict())
        assert not torch.allclose(more(x, layout, buckets), block(x[:, None], layout, allow_token, buckets)[:, 0], atol=1e-3)

@some
@given(seeds, LENGTHS)
def test_silu_without_bias_is_the_path_without_padding(seed, lengths):
    g, off = torch.Generator().manual_seed(seed), torch.tensor([0, *np.cumsum(lengths)])
    qkv = [torch.randn(int(off[-1]), 2, 3, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    layout, up = Layout.make(off, overhead=seed % 3), torch.randn(int(off[-1]), 2, 3, generator=g, dtype=torch.float64)
    a, b = hstu_attention(*qkv, layout, [None]*len(layout.rectangles), WEIGH['silu']), attend_silu(*qkv, Pairs(off, causal=True))
    assert_close(a, b)
    for x, y in zip(*(torch.autograd.grad(o, qkv, up) for o in (a, b))): assert_close(x, y)

@some
@given(seeds, LENGTHS)
def test_the_clock_reads_gaps_and_no_dates(seed, lengths):
    (model, codes), batch = build('hstu', seed), histories(np.random.default_rng(seed), lengths)
    shift = lambda s, q: replace(batch, times=batch.times + s, query_times=batch.query_times + q)
    with torch.inference_mode():
        now = model(batch, codes)
        assert torch.equal(now, model(shift(-10**6, -10**6), codes))
        moved = model(shift(0, 40*86400), codes)
        assert not torch.equal(now, moved)
        assert torch.equal(*(build('hstu', seed, time_bias=False)[0](x, codes) for x in (batch, shift(0, 40*86400))))

# By name

@pytest.fixture(scope='module')
def shop():
    from hettrans.data.dataset import open_dataset
    return open_dataset('marketplace', users=60, items=240, behaviours=10)

@pytest.mark.parametrize('request_time', ['known', 'unknown'])
@pytest.mark.parametrize('name', NAMES)
def test_by_name_trains_loads_and_recommends(name, request_time, shop, tmp_path):
    run = fit(name, shop, tmp_path/'run', bar=False, device='cpu', request_time=request_time, **TINY)
    again = load_run(tmp_path/'run')
    user = run.split.log.user_keys[0]
    a, b = run.recommend(user, 5), again.recommend(user, 5)
    assert list(a.item_id) == list(b.item_id) and list(a['rank']) == [1, 2, 3, 4, 5]
    assert again.evaluate('test', intervals=False)['recall@10'] == run.metrics['recall@10']
    new = shop.items.iloc[[5]].assign(item_id='brand new').to_dict('records')
    assert len(run.recommend(new, 5)) == 5                                  # an item that the catalogue lacks, by its features

@pytest.mark.parametrize('fields', [dict(objective='nothing'), dict(window=0), dict(mask_share=2), dict(weigh='nothing'), dict(gap_buckets=99)], ids=str)
def test_a_wrong_field_is_named(fields, shop):
    name = next(n for n in NAMES if next(iter(fields)) in model_entry(n).load('config').__dataclass_fields__)
    with pytest.raises(InputError, match=next(iter(fields))): fit(name, shop, bar=False, **fields)
