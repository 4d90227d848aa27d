"Baselines over random histories: the last basket again is its loop, and popularity where seen items are filtered; SASRec sees no future and no batch-mate"
from dataclasses import replace
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hettrans.data.batches import SequenceBatch, SequenceData
from hettrans.data.encode import TokenSpec
from hettrans.engine.evaluate import Scorer, case_ranks
from hettrans.engine.loop import read_tensors, write_tensors
from hettrans.zoo.popularity import Popularity, PopularityConfig
from hettrans.zoo.repeat import RepeatLast, RepeatLastConfig, basket_ages
from hettrans.zoo.sasrec import SASRec, SASRecConfig, sasrec_loss
from test_sequences import quick, seeds, splits

V = 9
LENGTHS = st.lists(st.integers(0, 8), min_size=1, max_size=5)
CONFIGS = st.builds(RepeatLastConfig, gap=st.integers(0, 4), decay=st.sampled_from([0., .25, .5, .8, 1.]), half_life=st.sampled_from([0., 3.]))

def batch_of(rng, lengths, spread=12):
    "Packed histories with many equal times, `lengths` behaviours long"
    off = torch.tensor([0, *np.cumsum(lengths)])
    times = np.concatenate([np.zeros(0, int), *(np.sort(rng.integers(0, spread, n)) for n in lengths)])
    times = torch.from_numpy(times)
    return SequenceBatch(off, torch.from_numpy(rng.integers(0, V, len(times))), times, times, {})

def part(batch, b):
    "One history of a batch, alone"
    a, e = batch.offsets[b:b + 2].tolist()
    return SequenceBatch(torch.tensor([0, e - a]), batch.items[a:e], batch.times[a:e], batch.times[a:e], {})

# The last basket again

def repeat_model(rng, config):
    "Counts with many ties in the place of a fit"
    model = RepeatLast(config)
    model.popularity.weight_v = rng.integers(0, 5, V).astype(np.float32)
    return model

def order_loop(items, times, taken_v, c):
    "Sort keys of all items of the catalogue: own ones first by weight, then by popularity; the others by popularity"
    baskets = []
    for n, (item, time) in enumerate(zip(items, times)):
        if n == 0 or time - times[n - 1] > c.gap: baskets.insert(0, set())
        baskets[0].add(item)
    return [(any(v in b for b in baskets), round(sum(c.decay**age for age, b in enumerate(baskets) if v in b), 9), taken_v[v]) for v in range(V)]

def dense_rank(keys):
    place = {k: i for i, k in enumerate(sorted(set(keys)))}
    return [place[k] for k in keys]

@quick
@given(seeds, LENGTHS, CONFIGS)
def test_repeat_is_its_loop_and_knows_no_batch_mates(seed, lengths, config):
    rng = np.random.default_rng(seed)
    batch, model = batch_of(rng, lengths), repeat_model(rng, config)
    scores, taken_v = model.scores(batch), model.popularity.weight_v
    assert scores.shape == (len(lengths), V) and scores.dtype == np.float32
    for b, n in enumerate(lengths):
        one = part(batch, b)
        want = order_loop(one.items.tolist(), one.times.tolist(), taken_v.tolist(), config)
        assert dense_rank(scores[b].tolist()) == dense_rank(want)
        np.testing.assert_array_equal(model.scores(one)[0], scores[b])
        if not n: np.testing.assert_array_equal(scores[b], taken_v)

@quick
@given(seeds, LENGTHS, st.integers(0, 3))
def test_ages_count_baskets_from_the_end(seed, lengths, gap):
    batch = batch_of(np.random.default_rng(seed), lengths, 40)
    ages = basket_ages(batch.offsets.numpy(), batch.times.numpy(), gap)
    for b, n in enumerate(lengths):
        a, e = batch.offsets[b:b + 2].tolist()
        t = batch.times[a:e].tolist()
        assert ages[a:e].tolist() == [sum(y - x > gap for x, y in zip(t[i:], t[i + 1:])) for i in range(n)]

@quick
@given(splits(), CONFIGS)
def test_repeat_is_popularity_where_seen_items_are_filtered(split, config):
    cases, items, data = split.test, split.log.item_j, SequenceData(split.log)
    popularity, repeat = Popularity(PopularityConfig(config.half_life)).fit(split, range(V)), RepeatLast(config).fit(split, range(V))
    ranks = lambda m, keep_seen: case_ranks(Scorer(m, None, data, 3)(cases), cases, items, keep_seen)
    for a, b in zip(ranks(popularity, False), ranks(repeat, False)): np.testing.assert_array_equal(a, b)
    own = [set(items[s:e]) for s, e in zip(cases.start_c, cases.end_c)]
    rank, case, _ = ranks(repeat, True)
    assert len(rank) == len(cases.targets)
    for r, c, t in zip(rank, case, cases.targets): assert (r <= len(own[c])) == (t in own[c])      # among the first exactly if it is one's own

@quick
@given(splits(), seeds, CONFIGS)
def test_counted_models_never_see_held_out_rows(split, seed, config):
    rng, log = np.random.default_rng(seed), split.log
    held = np.setdiff1d(np.arange(len(log.item_j)), split.train_rows)
    other = replace(split, log=replace(log, item_j=log.item_j.copy()))
    other.log.item_j[held] = rng.integers(0, V, len(held))
    for cls, c in ((Popularity, PopularityConfig(config.half_life)), (RepeatLast, config)):
        a, b = (cls(c).fit(s, range(V)) for s in (split, other))
        batch = SequenceData(log).cases(split.valid)                 # histories up to the first held-out row
        np.testing.assert_array_equal(a.scores(batch), b.scores(batch))

def test_repeat_is_saved_with_its_settings(tmp_path):
    rng, c = np.random.default_rng(0), RepeatLastConfig(gap=3, decay=.8)
    a, batch = repeat_model(rng, c), batch_of(rng, [5, 8, 3])
    a.save(tmp_path)
    np.testing.assert_array_equal(RepeatLast.load(tmp_path, c).scores(batch), a.scores(batch))
    assert (RepeatLast.load(tmp_path).scores(batch) != a.scores(batch)).any()                     # the settings are the caller's to keep

# SASRec

some = settings(max_examples=20, deadline=None)
ITEM = [TokenSpec('item_id', 'table', V + 2, 1, 0), TokenSpec('brand', 'table', 5, 1, 0)]
SWITCHES = st.sampled_from([{}, dict(norm='post'), dict(content=False), dict(normalise=False), dict(layers=0)])

def sasrec(seed, **fields):
    "A model whose every parameter is random"
    torch.manual_seed(seed)
    model = SASRec(SASRecConfig(**dict(d=8, heads=2, max_len=9) | fields), ITEM)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim: p.copy_(.5*torch.randn_like(p))
    return model.eval(), dict(item_id=torch.arange(V)[:, None] + 2, brand=torch.randint(5, (V, 1)))

@some
@given(seeds, st.lists(st.integers(1, 8), min_size=1, max_size=4), SWITCHES)
def test_sasrec_sees_no_future_and_no_batch_mates(seed, lengths, fields):
    (model, codes), rng = sasrec(seed, **fields), np.random.default_rng(seed)
    batch, other, now = batch_of(rng, lengths), batch_of(rng, lengths), int(rng.integers(1, 9))
    past = torch.cat([torch.arange(n) for n in lengths]) < now
    changed = replace(batch, items=torch.where(past, batch.items, other.items))
    with torch.inference_mode():
        a, b = model(batch, codes), model(changed, codes)
        assert torch.equal(a[past], b[past])
        for j in (batch.items != changed.items).nonzero().flatten(): assert not torch.equal(a[j], b[j])
        users = model.user_vectors(batch, codes)
        for i in range(len(lengths)): assert_close(model.user_vectors(part(batch, i), codes)[0], users[i], atol=1e-5, rtol=1e-5)
        assert_close(users, model.unit(a)[[*(np.cumsum(lengths) - 1)]])

def test_sasrec_refuses_what_it_cannot_read():
    model, codes = sasrec(0)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match='sequence 1'): model.user_vectors(batch_of(rng, [3, 0, 2]), codes)
    with pytest.raises(ValueError, match='max_len = 9'): model.user_vectors(batch_of(rng, [10]), codes)

@some
@given(seeds, st.lists(st.integers(2, 8), min_size=1, max_size=4), SWITCHES)
def test_sasrec_loss_is_cross_entropy_and_a_saved_model_is_the_model(tmp_path_factory, seed, lengths, fields):
    (model, codes), rng = sasrec(seed, **fields), np.random.default_rng(seed)
    batch = batch_of(rng, lengths)
    batch.targets = torch.from_numpy(rng.integers(0, V, (len(batch.items), 1)))
    batch.targets[batch.offsets[1:] - 1] = -1
    user_jd = model(batch, codes)
    logits = model.unit(user_jd) @ model.item_vectors(codes).T * model.inv_tau
    assert_close(sasrec_loss(model, user_jd, batch, codes), torch.nn.functional.cross_entropy(logits, batch.targets[:, 0], ignore_index=-1))
    file, again = tmp_path_factory.mktemp('run')/'weights.safetensors', sasrec(seed + 1, **fields)[0]
    write_tensors(file, model.state_dict(), {})
    again.load_state_dict(read_tensors(file)[0])
    with torch.inference_mode(): assert torch.equal(again.user_vectors(batch, codes), model.user_vectors(batch, codes))
