"Properties of the full-catalogue metrics over random cases"
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from hettrans.data.schema import InputError
from hettrans.engine.metrics import (AT, bootstrap_interval, bootstrap_means, case_values, count_at_least, paired_difference, ranks_loop,
                                     retrieval_metrics, target_ranks)

fast = settings(max_examples=60, deadline=None)

@st.composite
def cases(draw, single=False):
    "Scores with many ties, targets (none to five, distinct), histories with repeats"
    c, v, seed = draw(st.integers(1, 12)), draw(st.integers(2, 15)), draw(st.integers(0, 2**31))
    rng, levels = np.random.default_rng(seed), draw(st.sampled_from([1, 2, 4, 1000]))
    scores = rng.integers(0, levels, (c, v)).astype(draw(st.sampled_from([np.float32, np.float64])))
    if draw(st.booleans()): scores[rng.random((c, v)) < .1] = -np.inf
    if draw(st.booleans()): scores[rng.random((c, v)) < .05] = np.inf
    t = [rng.permutation(v)[:1 if single else rng.integers(0, 6)] for _ in range(c)]
    h = [rng.integers(0, v, rng.integers(0, 6)) for _ in range(c)]
    return scores, t, h

def flat(t, h):
    off = lambda x: np.concatenate([[0], np.cumsum([len(a) for a in x])]).astype(int)
    return np.concatenate(t).astype(int), off(t), np.concatenate(h).astype(int), off(h)[:-1], off(h)[1:]

@fast
@given(cases(), st.booleans())
def test_fast_is_the_loop(x, keep):
    scores, t, h = x
    want = [ranks_loop(s, list(a), [] if keep else list(b)) for s, a, b in zip(scores, t, h)]
    ranks, owner, dropped = target_ranks(scores, *flat(t, h), keep_seen=keep)
    assert ranks.tolist() == sum(want, [])
    assert owner.tolist() == [c for c, w in enumerate(want) for _ in w]
    assert dropped == sum(not w for w in want)

@fast
@given(cases(single=True))
def test_one_target_is_one_plus_others_at_least_as_good(x):
    scores, t, h = x
    ranks, owner, _ = target_ranks(scores, *flat(t, h))
    for r, c in zip(ranks, owner):
        others = [v for v in range(scores.shape[1]) if v not in set(h[c]) | set(t[c])]
        assert r == 1 + sum(scores[c, v] >= scores[c, t[c][0]] for v in others)

@fast
@given(cases())
def test_ranks_of_a_case_are_distinct_and_inside_the_list(x):
    scores, t, h = x
    ranks, owner, _ = target_ranks(scores, *flat(t, h))
    for c in np.unique(owner):
        mine = ranks[owner == c]
        assert len(set(mine)) == len(mine) and mine.min() >= 1 and mine.max() <= scores.shape[1] - len(set(h[c]))

@fast
@given(cases())
def test_input_is_left_alone_and_order_preserving_maps_change_nothing(x):
    scores, t, h = x
    before = scores.copy()
    a = target_ranks(scores, *flat(t, h))
    np.testing.assert_array_equal(scores, before)
    b = target_ranks(np.where(np.isfinite(scores), 3*scores - 7, scores), *flat(t, h))
    np.testing.assert_array_equal(a[0], b[0])

@fast
@given(cases(), st.integers(0, 2**31))
def test_the_order_of_the_catalogue_changes_no_metric(x, seed):
    scores, t, h = x
    p = np.random.default_rng(seed).permutation(scores.shape[1])      # item v moves to p[v]
    moved = np.empty_like(scores); moved[:, p] = scores
    a, b = target_ranks(scores, *flat(t, h)), target_ranks(moved, *flat([p[i] for i in t], [p[i] for i in h]))
    if not len(a[0]): assert not len(b[0]); return
    for k, v in case_values(*a[:2])[1].items(): np.testing.assert_allclose(v, case_values(*b[:2])[1][k])

@fast
@given(cases())
def test_seen_items_do_not_matter(x):
    scores, t, h = x
    other = scores.copy()
    for c, s in enumerate(h): other[c, s] = 1e9
    np.testing.assert_array_equal(target_ranks(scores, *flat(t, h))[0], target_ranks(other, *flat(t, h))[0])

@fast
@given(cases())
def test_metrics_lie_between_0_and_1_and_grow(x):
    scores, t, h = x
    ranks, owner, _ = target_ranks(scores, *flat(t, h))
    if not len(ranks): return
    _, v = case_values(ranks, owner)
    for kind in ('recall', 'ndcg'):
        assert all((0 <= v[f'{kind}@{n}']).all() and (v[f'{kind}@{n}'] <= 1 + 1e-12).all() for n in AT)
    assert all((v[f'recall@{a}'] <= v[f'recall@{b}']).all() for a, b in zip(AT, AT[1:]))
    assert ((0 < v['mrr']) & (v['mrr'] <= 1)).all()

@fast
@given(st.integers(1, 30), st.integers(1, 250))
def test_the_best_list_has_ndcg_one(m, n):
    _, v = case_values(np.arange(1, m + 1), np.zeros(m, int), (n,))
    assert np.isclose(v[f'ndcg@{n}'], 1) and np.isclose(v[f'recall@{n}'], min(m, n)/m)

@fast
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 7))
def test_bootstrap_means_are_weighted_means(seed, n, m):
    values = np.random.default_rng(seed).random((n, m))
    means = bootstrap_means(values, 50, seed)
    assert means.shape == (50, m)
    assert (means >= values.min(0) - 1e-12).all() and (means <= values.max(0) + 1e-12).all()
    np.testing.assert_array_equal(means, bootstrap_means(values, 50, seed))
    lo, hi = bootstrap_interval(values, 50, seed)
    assert (lo <= hi).all()
    drawn = np.random.default_rng(seed).integers(n, size=(50, n))     # the same draws, gathered
    np.testing.assert_allclose(means, values[drawn].mean(1))

def test_a_model_without_opinion_is_at_the_bottom():
    ranks, owner, _ = target_ranks(np.zeros((3, 1000), np.float32), np.array([0, 500, 999]), np.array([0, 1, 2, 3]))
    assert ranks.tolist() == [1000]*3

def test_blocks_change_nothing():
    rng = np.random.default_rng(0)
    s, given_n, owner = rng.integers(0, 50, (40, 90_000)).astype(np.float32), rng.integers(0, 50, 400), np.sort(rng.integers(0, 40, 400))
    got = count_at_least(s, given_n.astype(np.float32), owner)       # two blocks and more
    assert got.tolist() == [int((s[o] >= g).sum()) for o, g in zip(owner, given_n)]

def test_a_difference_to_oneself_is_nothing():
    r, who = np.arange(1, 101), np.arange(100)
    d = paired_difference((r, who), (r, who))
    assert all(v == 0 for k, v in d.items() if k != 'n') and d['n'] == 100

@fast
@given(st.integers(0, 2**31), st.integers(1, 60))
def test_a_difference_is_that_of_the_means_and_its_interval_is_paired(seed, n):
    rng, who = np.random.default_rng(seed), np.arange(n)
    a, b = rng.integers(1, 30, n), rng.integers(1, 30, n)
    d, back = (paired_difference((x, who), (y, who), seed=3) for x, y in ((a, b), (b, a)))
    va, vb = case_values(a, who)[1], case_values(b, who)[1]
    assert d['n'] == n and {k for k in d if '_' not in k} == {'n', *va}
    for k in va:
        lo, hi = bootstrap_interval((va[k] - vb[k])[:, None], 1000, 3)
        np.testing.assert_allclose([d[k], d[f'{k}_lo'], d[f'{k}_hi']], [va[k].mean() - vb[k].mean(), lo[0], hi[0]], atol=1e-12)
        np.testing.assert_allclose([back[k], back[f'{k}_lo'], back[f'{k}_hi']], [-d[k], -d[f'{k}_hi'], -d[f'{k}_lo']], atol=1e-12)

def test_a_dictionary_for_json():
    m = retrieval_metrics(np.array([1, 4, 30]), np.array([0, 0, 5]))
    assert m['n'] == 2 and all(type(v) in (int, float) for v in m.values())
    assert {f'{k}@{n}{e}' for k in ('recall', 'ndcg') for n in AT for e in ('', '_lo', '_hi')} | {'mrr', 'mrr_lo', 'mrr_hi', 'n'} == set(m)
    assert m['recall@5'] == .5 and m['mrr'] == pytest.approx((1 + 1/30)/2)

@pytest.mark.parametrize('bad, says', [
    (lambda: target_ranks(np.array([[1., np.nan]]), np.array([0]), np.array([0, 1])), 'item 1 for case 0 is not a number'),
    (lambda: target_ranks(np.zeros((1, 2)), np.array([2]), np.array([0, 1])), 'catalogue rows 0 to 1'),
    (lambda: target_ranks(np.zeros((1, 2)), np.array([-1]), np.array([0, 1])), 'catalogue rows 0 to 1'),
    (lambda: target_ranks(np.zeros((1, 3)), np.array([1, 1]), np.array([0, 2])), 'occur twice'),
    (lambda: target_ranks(np.zeros((2, 3)), np.array([1]), np.array([0, 1])), '2 rows of scores'),
    (lambda: retrieval_metrics(np.zeros(0, int), np.zeros(0, int)), 'no cases'),
    (lambda: paired_difference((np.ones(1), np.zeros(1)), (np.ones(1), np.ones(1))), 'different cases')])
def test_what_is_wrong_is_said(bad, says):
    with pytest.raises(InputError, match=says): bad()
