"Properties of sorted logs, splits, batches, neighbours, token embeddings and their evaluation over random logs"
from collections import Counter
from dataclasses import replace
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hettrans.data.batches import SequenceData, length_batches, next_items, shuffled_ties, train_batch, windows
from hettrans.data.dataset import Dataset, open_dataset, tie_share
from hettrans.data.encode import TokenSpec
from hettrans.data.neighbours import NeighbourConfig, item_neighbours, leave_own_out, neighbour_token
from hettrans.data.schema import InputError, Schema
from hettrans.data.sequences import gather_ranges, sort_behaviours, split_behaviours
from hettrans.engine.evaluate import Scorer, case_ranks
from hettrans.engine.metrics import ranks_loop
from hettrans.engine.run import epoch_batches, fit, load_run
from hettrans.nn.embed import WEIGHT, TokenEmbedding

quick = settings(max_examples=40, deadline=None)
HOWS = ['leave-last-out', 'time:0.1', 'time:0.3', 'time:0.45']
seeds = st.integers(0, 2**31)

def schema(order):
    roles = dict(user='user', item='item', time='time') | (dict(order='pos') if order else {})
    return Schema.from_dict(dict(name='random', items=dict(key='item'), interactions=roles))

def shop(rng, users=8, items=9, rows=60, spread=12, order=False):
    "A log with repeats and many equal times, in a random order; a catalogue in another"
    n = int(rng.integers(1, rows))
    log = pd.DataFrame(dict(user=rng.integers(0, users, n), item=rng.integers(0, items, n), time=rng.integers(0, spread, n)))
    if order: log['pos'] = rng.permutation(n)
    return Dataset(schema(order), dict(items=pd.DataFrame(dict(item=rng.permutation(items))), interactions=log))

@st.composite
def logs(draw, **kw):
    rng = np.random.default_rng(draw(seeds))
    ds = shop(rng, spread=draw(st.sampled_from([2, 12, 1000])), **kw)
    return sort_behaviours(ds, draw(st.sampled_from(['file', 'shuffle'])), int(rng.integers(99)))

@st.composite
def splits(draw):
    "A random split of a random log that can be split"
    for k in range(20):
        rng = np.random.default_rng([draw(seeds), k])
        log = sort_behaviours(shop(rng, users=int(rng.integers(1, 9)), rows=90, spread=int(rng.choice([5, 30, 1000]))))
        try: return split_behaviours(log, draw(st.sampled_from(HOWS)))
        except InputError: pass        # nobody can be asked: another log
    raise AssertionError('no split in twenty logs')

def user_of(log): return np.repeat(np.arange(len(log)), log.lengths)
def rows_of(start, end): return [r for s, e in zip(start, end) for r in range(s, e)]
def answers(cases): return [cases.targets[a:b].tolist() for a, b in zip(cases.target_offsets[:-1], cases.target_offsets[1:])]

# The sorted log

@quick
@given(seeds, st.booleans(), st.sampled_from(['file', 'shuffle']), st.sampled_from([1, 3, 1000]))
def test_sorted_log_is_sorted_and_holds_every_row_once(seed, order, ties, spread):
    ds = shop(np.random.default_rng(seed), order=order, spread=spread)
    log, df = sort_behaviours(ds, ties, seed % 7), ds.interactions
    assert sorted(log.row_j) == list(range(len(df))) and len(set(log.user_keys)) == len(log) and log.lengths.min() >= 1
    assert (log.user_keys[user_of(log)] == df.user.to_numpy()[log.row_j]).all()
    assert (ds.items.item.to_numpy()[log.item_j] == df.item.to_numpy()[log.row_j]).all()
    assert (log.time_j == df.time.to_numpy()[log.row_j]).all()
    inside = np.diff(user_of(log)) == 0
    assert (np.diff(log.time_j)[inside] >= 0).all()
    if ties == 'file':
        key, tied = (df.pos.to_numpy() if order else np.arange(len(df)))[log.row_j], inside & (np.diff(log.time_j) == 0)
        assert (np.diff(key)[tied] > 0).all()

@quick
@given(seeds, st.integers(0, 99))
def test_ties_move_only_inside_ties(seed, shuffle):
    ds = shop(np.random.default_rng(seed), spread=4)
    a, b, again = sort_behaviours(ds), sort_behaviours(ds, 'shuffle', shuffle), sort_behaviours(ds, 'shuffle', shuffle)
    assert (a.time_j == b.time_j).all() and (a.offsets == b.offsets).all() and (a.user_keys == b.user_keys).all()
    assert (again.row_j == b.row_j).all()
    group = lambda log: Counter(zip(user_of(log), log.time_j, log.row_j))
    assert group(a) == group(b)
    with pytest.raises(InputError): sort_behaviours(ds, 'random')

def test_shuffled_ties_come_in_every_order():
    log = pd.DataFrame(dict(user=0, item=[0, 1, 2], time=5))
    ds = Dataset(schema(False), dict(items=pd.DataFrame(dict(item=[0, 1, 2])), interactions=log))
    assert len({tuple(sort_behaviours(ds, 'shuffle', s).item_j) for s in range(60)}) == 6

@quick
@given(seeds, st.sampled_from([2, 5, 1000]))
def test_tie_share_is_a_count(seed, spread):
    ds = shop(np.random.default_rng(seed), spread=spread)
    times = [sorted(t) for _, t in ds.interactions.groupby('user').time if len(t) > 1]
    want = np.mean([t[-1] == t[-2] for t in times]) if times else np.nan
    np.testing.assert_equal(tie_share(ds), want)

# Splits

@quick
@given(splits())
def test_training_ends_before_the_question(split):
    log = split.log
    assert (split.train_start_u == log.offsets[:-1]).all() and (split.train_end_u <= log.offsets[1:]).all()
    assert split.train_rows.tolist() == rows_of(split.train_start_u, split.train_end_u)
    for cases in (split.valid, split.test):
        assert len(np.unique(cases.user_c)) == len(cases)
        assert (cases.start_c == log.offsets[cases.user_c]).all() and (cases.end_c > cases.start_c).all()
        assert (split.train_end_u[cases.user_c] <= cases.end_c).all()
        assert (log.time_j[cases.end_c] == cases.time_c).all() and (log.time_j[cases.end_c - 1] <= cases.time_c).all()
    both = dict(zip(split.valid.user_c, split.valid.end_c))
    assert all(both[u] < e for u, e in zip(split.test.user_c, split.test.end_c) if u in both)

@quick
@given(splits())
def test_answers_come_after_their_history(split):
    log, last = split.log, split.how == 'leave-last-out'
    for cases, stop in ((split.valid, dict(zip(split.test.user_c, split.test.end_c))), (split.test, {})):
        for u, e, got in zip(cases.user_c, cases.end_c, answers(cases)):
            after = log.item_j[e:stop.get(u, log.offsets[u + 1])].tolist()
            assert got == list(dict.fromkeys(after))[:len(got)] and len(got) == (1 if last else len(set(after)))

@quick
@given(splits())
def test_a_time_split_is_one_moment_for_all_users(split):
    if split.how == 'leave-last-out': return
    log, fraction = split.log, float(split.how[5:])
    asked = lambda cases: np.minimum.reduce(cases.time_c)
    train = np.zeros(len(log.time_j), bool); train[split.train_rows] = True
    assert log.time_j[train].max() < log.time_j[~train].min() <= asked(split.valid)
    assert (~train).sum() >= int(2*fraction*len(train))                          # ties at the cut all go to the later side
    held = set(rows_of(split.test.end_c, log.offsets[1:][split.test.user_c]))
    assert all(log.time_j[r] >= asked(split.test) for r in held) and log.time_j[split.valid.end_c].max() < asked(split.test)
    for u, e in zip(split.test.user_c, split.test.end_c): assert log.time_j[e - 1] < asked(split.test)

@quick
@given(splits())
def test_leave_last_out_asks_everyone_of_three_behaviours(split):
    split = split_behaviours(split.log) if (split.log.lengths >= 3).any() else split
    if split.how != 'leave-last-out': return
    n = split.log.lengths
    assert (split.test.user_c == np.flatnonzero(n >= 3)).all() and (split.valid.user_c == split.test.user_c).all()
    assert (split.train_end_u - split.train_start_u == np.where(n >= 3, n - 2, n)).all()

@quick
@given(splits(), seeds)
def test_take_is_a_list_comprehension(split, seed):
    c, rng = split.test, np.random.default_rng(seed)
    index = rng.integers(0, len(c), rng.integers(0, 7))
    got = c.take(index)
    assert len(got) == len(index) and answers(got) == [answers(c)[i] for i in index]
    for name in ('user_c', 'start_c', 'end_c', 'time_c'): assert (getattr(got, name) == getattr(c, name)[index]).all()

@quick
@given(logs())
def test_a_wrong_split_is_refused(log):
    for how in ('time:0', 'time:0.5', 'time:x', 'time:nan', 'last', ''):
        with pytest.raises(InputError): split_behaviours(log, how)

@quick
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=8))
def test_gather_ranges_is_a_loop(ranges):
    start, n = (np.array([r[k] for r in ranges], dtype=np.int64) for k in (0, 1))
    got, off = gather_ranges(start, start + n)
    assert got.tolist() == rows_of(start, start + n) and np.diff(off).tolist() == n.tolist()

# Batches

@quick
@given(splits(), st.integers(1, 12))
def test_every_behaviour_but_the_first_is_a_target_once(split, max_len):
    s, e = windows(split.train_start_u, split.train_end_u, max_len)
    assert ((e - s >= 2) & (e - s <= max_len + 1)).all()
    assert sorted(rows_of(s + 1, e)) == rows_of(split.train_start_u + 1, np.maximum(split.train_end_u, split.train_start_u + 1))
    user = user_of(split.log)
    assert all(user[a] == user[b - 1] for a, b in zip(s, e))

@quick
@given(splits(), st.integers(1, 5), st.integers(1, 6))
def test_next_items_is_a_loop(split, max_len, steps):
    item_j, (s, e) = split.log.item_j, windows(split.train_start_u, split.train_end_u, max_len)
    want = [[item_j[r + k] if r + k < b else -1 for k in range(1, steps + 1)] for a, b in zip(s, e) for r in range(a, b - 1)]
    assert next_items(item_j, s, e, steps).tolist() == want

@quick
@given(splits(), st.integers(1, 5), st.integers(1, 3), seeds)
def test_targets_that_are_not_wanted_are_hidden_and_nothing_else(split, max_len, steps, seed):
    data, wanted_r = SequenceData(split.log), np.random.default_rng(seed).random(len(split.log.item_j)) < .5       # of a behaviour, wherever it stands
    data = shuffled_ties(data, split.train_start_u, split.train_end_u, np.random.default_rng(seed))
    s, e = windows(split.train_start_u, split.train_end_u, max_len)
    all_, some = (train_batch(data, s, e, steps, w) for w in (None, wanted_r[data.log.row_j]))
    row = train_batch(SequenceData(replace(data.log, item_j=data.log.row_j)), s, e, steps).targets.numpy()       # which behaviour each target is
    assert some.targets.tolist() == np.where((row >= 0) & wanted_r[row], all_.targets.numpy(), -1).tolist()
    assert torch.equal(some.items, all_.items) and torch.equal(some.query_times, all_.query_times)

@quick
@given(splits(), st.integers(1, 6), st.booleans())
def test_query_times(split, max_len, known):
    log = split.log
    data = SequenceData(log, {'row': torch.from_numpy(log.row_j)}, max_len, 'known' if known else 'unknown')
    s, e = windows(split.train_start_u, split.train_end_u, max_len)
    if len(s):
        batch, rows = train_batch(data, s, e), np.array(rows_of(s, e - 1))
        assert batch.query_times.tolist() == log.time_j[rows + known].tolist() and batch.times.tolist() == log.time_j[rows].tolist()
        assert batch.items.tolist() == log.item_j[rows].tolist() and batch.extra['row'].tolist() == log.row_j[rows].tolist()
        assert batch.targets[:, 0].tolist() == log.item_j[rows + 1].tolist()
    cases = replace(split.test, time_c=split.test.time_c + 7)      # asked at a moment of its own
    batch = data.cases(cases)
    rows = np.array(rows_of(np.maximum(cases.start_c, cases.end_c - max_len), cases.end_c))
    last = (batch.offsets[1:] - 1).tolist()
    assert batch.items.tolist() == log.item_j[rows].tolist() and batch.targets is None
    assert batch.query_times[last].tolist() == (cases.time_c if known else log.time_j[cases.end_c - 1]).tolist()
    assert (batch.query_times >= batch.times).all()

@quick
@given(splits(), seeds)
def test_shuffled_ties_move_training_rows_of_equal_time_only(split, seed):
    log = split.log
    data = SequenceData(log, {'row': torch.from_numpy(log.row_j)}, 5, 'unknown')
    new = shuffled_ties(data, split.train_start_u, split.train_end_u, np.random.default_rng(seed))
    held = np.setdiff1d(np.arange(len(log.item_j)), split.train_rows)
    assert (new.log.row_j[held] == log.row_j[held]).all() and (new.log.time_j == log.time_j).all()
    old = dict(zip(log.row_j, zip(user_of(log), log.time_j, log.item_j)))
    assert [old[r] for r in new.log.row_j] == list(zip(user_of(log), log.time_j, new.log.item_j)) and len(set(new.log.row_j)) == len(old)
    assert new.extra['row'].tolist() == new.log.row_j.tolist() and (new.max_len, new.known) == (5, False)

@quick
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 4), seeds)
def test_length_batches_are_a_partition(lengths, batch, pool, seed):
    lengths = np.array(lengths)
    got = length_batches(lengths, batch, np.random.default_rng(seed), pool)
    assert sorted(np.concatenate(got)) == list(range(len(lengths))) and max(map(len, got)) <= batch
    assert sum(len(b) < batch for b in got) <= 1                # only the last pool may end short
    if batch*pool >= len(lengths) and pool > 1:                 # one pool: lengths of two batches do not interleave
        ends = sorted((lengths[b].min(), lengths[b].max()) for b in got)
        assert all(a[1] <= b[0] for a, b in zip(ends, ends[1:]))

# Neighbours

def counted(split, steps, leave=()):
    "Weight of every ordered pair of items that meet in training, user by user"
    w = Counter()
    for u in set(range(len(split.log))) - set(leave):
        items = split.log.item_j[split.train_start_u[u]:split.train_end_u[u]].tolist()
        for i in range(len(items)):
            for k in range(i + 1, min(i + steps, len(items) - 1) + 1):
                if items[i] != items[k]:
                    for pair in ((items[i], items[k]), (items[k], items[i])): w[pair] += 1/(k - i)
    return w

def as_counts(rows_vn, weight_vn):
    return {(x, int(y)): float(w) for x, (r, ws) in enumerate(zip(rows_vn, weight_vn)) for y, w in zip(r, ws) if y >= 0 and w > 0}

@quick
@given(splits(), st.integers(1, 4), st.integers(1, 9))
def test_neighbours_are_recounted_pairs(split, steps, n):
    rows_vn, weight_vn = item_neighbours(split, 9, n, steps)
    want = counted(split, steps)
    assert rows_vn.shape == weight_vn.shape == (9, n) and ((rows_vn >= 0) == (weight_vn > 0)).all()
    for x in range(9):
        best = sorted((-w, y) for (a, y), w in want.items() if a == x)
        assert np.allclose(weight_vn[x, :len(best)], [-w for w, _ in best[:n]]) and (rows_vn[x, len(best):] == -1).all()
        assert all(np.isclose(want[x, y], w) for y, w in zip(rows_vn[x], weight_vn[x]) if y >= 0)
        assert len(set(rows_vn[x][rows_vn[x] >= 0])) == min(n, len(best))

@quick
@given(splits(), st.integers(1, 4), seeds)
def test_own_pairs_left_out_is_counting_without_the_batch(split, steps, seed):
    s, e = windows(split.train_start_u, split.train_end_u, 1000)     # whole histories
    if not len(s): return
    rng = np.random.default_rng(seed)
    some = rng.permutation(len(s))[:rng.integers(1, len(s) + 1)]
    id_v1 = torch.from_numpy(rng.permutation(9)[:, None] + 2)        # bags of 8 hold every possible neighbour
    token, codes = neighbour_token(split, id_v1, 11, NeighbourConfig(8, steps))
    catalogue = codes | {'id': id_v1}
    before = {k: v.clone() for k, v in catalogue.items()}
    left = leave_own_out(catalogue, train_batch(SequenceData(split.log, max_len=1000), s[some], e[some]), 'id', 11, steps)
    item_of = np.full(11, -1); item_of[id_v1[:, 0]] = np.arange(9)
    got = as_counts(item_of[left['neighbours']], left['neighbours.weight'])
    want = counted(split, steps, leave=user_of(split.log)[s[some]])
    assert got.keys() == want.keys() and all(abs(got[p] - want[p]) < 1e-4 for p in want)
    assert all(torch.equal(before[k], catalogue[k]) for k in before) and token.pieces == 8

@quick
@given(splits(), seeds)
def test_held_out_rows_never_matter(split, seed):
    rng, log = np.random.default_rng(seed), split.log
    held = np.setdiff1d(np.arange(len(log.item_j)), split.train_rows)
    item_j = log.item_j.copy(); item_j[held] = rng.integers(0, 9, len(held))
    for a, b in zip(item_neighbours(split, 9), item_neighbours(replace(split, log=replace(log, item_j=item_j)), 9)): np.testing.assert_array_equal(a, b)

# Token embeddings

@st.composite
def embeddings(draw):
    "An embedding of an id, pieces, a vector and a bag in which every parameter is random, and codes for it"
    rng = np.random.default_rng(draw(seeds))
    n, rows, z, m, w, d = draw(st.integers(1, 6)), draw(st.integers(2, 7)), draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 5)), draw(st.integers(1, 5)), 8
    tokens = [TokenSpec('id', 'table', rows, 1, 0, 'item'), TokenSpec('image', 'pieces', rows, z, 0, 'item'),
              TokenSpec('raw', 'vector', 0, 1, w, 'item'), TokenSpec('near', 'bag', rows, m, 0, 'item')]
    whole = lambda *s: torch.from_numpy(rng.integers(0, rows, s))
    real = lambda *s: torch.from_numpy(rng.normal(size=s).astype(np.float32))
    weight = real(n, m).abs()*torch.from_numpy(rng.random((n, m)) < .7)
    codes = {'id': whole(n, 1), 'image': whole(n, z), 'raw': real(n, w), 'near': whole(n, m), 'near' + WEIGHT: weight, 'other': whole(n, 1)}
    embed = TokenEmbedding(tokens, d, slot=draw(st.booleans()), sparse_rows=draw(st.sampled_from([1, 1000])))
    for p in embed.parameters(): p.data = real(*p.shape)
    return embed, tokens, codes, n, d

@quick
@given(embeddings())
def test_tokens_are_loops_over_the_tables(x):
    embed, tokens, codes, n, d = x
    got = embed(codes)
    assert got.shape == (n, 4, d) and got.dtype == torch.float32
    slot = embed.slot_fd if embed.slot_fd is not None else torch.zeros(4, d)
    ids, image, raw, near = embed.features
    z, rows = tokens[1].pieces, tokens[1].rows
    for i in range(n):
        assert_close(got[i, 0], ids.table.weight[codes['id'][i, 0]] + slot[0])
        assert_close(got[i, 1], torch.cat([image.table.weight[k*rows + codes['image'][i, k]] for k in range(z)]) + slot[1])
        assert_close(got[i, 2], raw.project.weight @ codes['raw'][i] + raw.project.bias + slot[2])
        w = codes['near' + WEIGHT][i]
        mean = sum(w[k]*ids.table.weight[codes['near'][i, k]] for k in range(len(w)))/(w.sum() + 1)
        assert_close(got[i, 3], near.gain_d*mean + slot[3])

@quick
@given(embeddings(), seeds)
def test_take_and_embed_commute(x, seed):
    embed, _, codes, n, _ = x
    rows = torch.from_numpy(np.random.default_rng(seed).integers(0, n, 5))
    some = embed.take(codes, rows)
    assert list(some) == embed.keys and 'other' not in some
    assert_close(embed(some), embed(codes)[rows])

# Evaluation

class Sums:
    "A counted model with many ties: an item's score is how often the history holds an item of the same remainder"
    def __init__(self, v, levels): self.v, self.levels = v, levels
    def scores(self, batch):
        out = np.zeros((len(batch), self.v), np.float32)
        for b in range(len(batch)):
            h = batch.items[batch.offsets[b]:batch.offsets[b + 1]].numpy() % self.levels
            out[b] = np.bincount(h, minlength=self.levels)[np.arange(self.v) % self.levels]
        return out

@quick
@given(splits(), st.integers(1, 4), st.integers(1, 5), st.booleans(), seeds)
def test_case_ranks_are_the_loop_for_any_batch_and_order(split, levels, batch, keep, seed):
    cases, items = split.test, split.log.item_j
    data, model = SequenceData(split.log), Sums(9, levels)
    ranks, owner, lost = case_ranks(Scorer(model, None, data, batch)(cases), cases, items, keep)
    scores_cv = model.scores(data.cases(cases))
    want = [ranks_loop(s, t, [] if keep else items[a:b].tolist()) for s, t, a, b in zip(scores_cv, answers(cases), cases.start_c, cases.end_c)]
    assert ranks.tolist() == sum(want, []) and owner.tolist() == [c for c, w in enumerate(want) for _ in w] and lost == sum(not w for w in want)
    order = np.random.default_rng(seed).permutation(len(cases))
    parts = [order[i:i + batch] for i in range(0, len(order), batch)]
    again = case_ranks(((c, scores_cv[c]) for c in parts), cases, items, keep)
    assert again[0].tolist() == ranks.tolist() and again[1].tolist() == owner.tolist() and again[2] == lost

@pytest.mark.parametrize('bad', [dict(neighbours=-1), dict(neighbour_reach=0)])
def test_refused_numbers_of_neighbours(bad):
    with pytest.raises(InputError, match=next(iter(bad))): NeighbourConfig(**bad)

# What training asks for ---------------------------------------------------------------------------
def test_learn_from_reaches_the_loss(tmp_path):
    ds, fields = open_dataset('marketplace', users=40, items=200), dict(epochs=1, batch=8, bar=False)
    asked = {}
    for words in ('', 'action=buy', 'action=view,cart,buy'):
        run = fit('sasrec', ds, tmp_path / str(len(asked)), learn_from=words, **fields)
        asked[words] = sum(int((make().targets >= 0).sum()) for make in epoch_batches(run, 0)), (run.path / 'weights.safetensors').read_bytes()
        assert load_run(run.path).config['protocol'].learn_from == words
    rows = ds.interactions.iloc[np.setdiff1d(run.split.train_rows, run.split.train_start_u)]
    assert asked['action=buy'][0] == (rows.action == 'buy').sum() > 0 and asked[''] == asked['action=view,cart,buy'] != asked['action=buy']

@pytest.mark.parametrize('model,words,must', [('sasrec', 'buy', "as in 'action=cart,buy'"), ('sasrec', 'action=', "as in 'action=cart,buy'"), ('heterrec', 'acton=buy', "did you mean 'action'?"),
    ('heterrec', 'action=buy,bye', "no behaviour has action 'bye'; did you mean 'buy'?"), ('bert4rec', 'action=buy', "learn_from is always ''"), ('popularity', 'action=buy', "learn_from is always ''")])
def test_learn_from_what_is_not_there(tmp_path, model, words, must):
    with pytest.raises(InputError) as e: fit(model, open_dataset('marketplace', users=20, items=200), tmp_path / 'run', learn_from=words)
    assert must in str(e.value) and not (tmp_path / 'run').exists()
