"Exact search is the sorted list of the specification, with ties in the order of the catalogue, whatever the block"
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hettrans.engine.index import as_pairs, build_index, first_top, top_of_blocks

quick = settings(max_examples=100, deadline=None)

def specification(items_vd, query_d, k, seen):
    "Rows by score, the smaller row first among equals; -1 where nothing is left"
    rows = sorted(set(range(len(items_vd))) - set(seen), key=lambda v: (-float(items_vd[v] @ query_d), v))
    return (rows + [-1]*k)[:k]

@given(st.integers(1, 40), st.integers(0, 4), st.integers(0, 45), st.integers(1, 45), st.integers(0, 2), st.floats(0, 1), st.integers(0, 10**6))
@quick
def test_tied_rows_come_in_the_order_of_the_catalogue(v, b, k, block, most, share, seed):
    r = torch.Generator().manual_seed(seed)
    whole = lambda n: torch.randint(-most, most + 1, (n, 2), generator=r).float()       # few different scores, exact in float32
    items_vd, query_bd = whole(v), whole(b)
    seen = [torch.randperm(v, generator=r)[:round(share*v)].tolist() for _ in range(b)]
    best, at = top_of_blocks(query_bd, items_vd, k, *as_pairs(seen, b), block)
    assert at.tolist() == [specification(items_vd, q, k, s) for q, s in zip(query_bd, seen)]
    assert_close(best, torch.where(at < 0, -torch.inf, (query_bd[:, None]*items_vd[at.clamp_min(0)]).sum(2)))

@pytest.mark.parametrize('v, k', [(50, 5), (1000, 10), (5000, 10), (40_000, 100)])
def test_items_that_are_all_equal_come_from_the_front(v, k):
    items_vd, query_bd = torch.ones(v, 4), torch.ones(2, 4)
    assert torch.equal(build_index(items_vd).search(query_bd, k)[1], torch.arange(k).expand(2, k))
    items_vd[v//2] = 2
    assert torch.equal(build_index(items_vd).search(query_bd, k)[1], torch.tensor([v//2, *range(k - 1)]).expand(2, k))

@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 10**6))
@quick
def test_first_top_takes_what_a_stable_sort_takes(v, k, seed):
    s_bv = torch.randint(0, 4, (5, v), generator=torch.Generator().manual_seed(seed)).float()
    s_bv[s_bv == 0] = -torch.inf
    s, i = first_top(s_bv, k)
    if k >= v: assert torch.equal(s, s_bv)
    keep = s > -torch.inf                                   # which of the rows that may not be returned fill up does not matter
    want = s_bv.sort(dim=1, descending=True, stable=True)
    for b in range(5): assert i[b][keep[b]].tolist() == sorted(j for x, j in zip(want.values[b, :k].tolist(), want.indices[b, :k].tolist()) if x > -torch.inf)
    assert_close(s, s_bv.gather(1, i))

@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 20), st.floats(0, 1), st.booleans(), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_all_cells_and_exclusions_give_what_exact_search_gives(v, b, k, share, packed, seed):
    pytest.importorskip('faiss')
    r = torch.Generator().manual_seed(seed)
    whole = lambda n: torch.randint(-99, 100, (n, 5), generator=r).float()              # scores exact in float32
    items_vd, query_bd = whole(v), whole(b)
    best_first = (query_bd @ items_vd.T).argsort(dim=1, descending=True)
    seen = [best_first[i, :round(share*v*(i + 1)/b)].tolist() for i in range(b)]        # the best ones are excluded, for each query another number
    exclude = (torch.tensor([0, *map(len, seen)]).cumsum(0), torch.tensor(sum(seen, []), dtype=torch.long)) if packed else seen
    lists = max(1, v//8)
    index, exact = build_index(items_vd, 'ivf', lists=lists, probes=lists), build_index(items_vd)
    (best, at), (want, rows) = index.search(query_bd, k, exclude), exact.search(query_bd, k, exclude)
    assert torch.equal(best, want) and torch.equal(at < 0, rows < 0)
    for i in range(b):
        found = at[i][at[i] >= 0]
        assert not set(found.tolist()) & set(seen[i]) and len(found.unique()) == len(found) == min(k, v - len(seen[i]))
        assert torch.equal(items_vd[found] @ query_bd[i], best[i][:len(found)])             # rows of equal scores may change places
