"The ranking log of the marketplace: reproducible, its dials exact, its probabilities true, its past strictly earlier, its tables sound"
from dataclasses import fields, replace
from functools import lru_cache
from itertools import permutations
import numpy as np, pandas as pd, pytest
from hypothesis import assume, given, settings, strategies as st
from hettrans.data.dataset import check_dataset, from_frames, open_dataset, save_dataset
from hettrans.data.marketplace import MarketConfig, simulate
from hettrans.data.schema import InputError
from hettrans.data.pages import (DOMAINS, EFFECTS, TERMS, PageConfig, auc, before_the_page, best_pointwise, ceilings, click_model, fill_pages, log_loss,
                                 marketplace_with_requests, past_effects_loop, relative_price, set_effects, set_effects_loop, sigmoid, simulate_requests)

quick = settings(max_examples=60, deadline=None)
PAST, RELEVANCE = ('habit', 'situation', 'bargain', 'occasion'), ('taste', 'budget', 'fame', 'query')
BASE = PageConfig(requests=7.)

@lru_cache(None)
def market(): return simulate(MarketConfig(users=250, items=400, behaviours=12, seed=3))

@lru_cache(None)
def world(**dials): return simulate_requests(market(), replace(BASE, **dials))

def own_requests(log): return [rows.to_numpy() for _, rows in log.requests.groupby('user_id').apply(lambda q: q.sort_values('timestamp').index.to_series(), include_groups=False).groupby(level=0)]
def clicks_of(log, r): return log.sets.clicked_j[log.offsets[r]:log.offsets[r + 1]]

def same_past(a, b):
    "Requests before which their user has clicked the same in both worlds, and those before which he has not"
    same, other = [], []
    for rows in own_requests(a):
        alike = True
        for r in rows:
            (same if alike else other).append(r)
            alike &= np.array_equal(clicks_of(a, r), clicks_of(b, r))
    return np.sort(same), np.sort(other)

# Bits

def test_the_same_numbers_give_the_same_bits():
    a, b = world(), simulate_requests(simulate(market().config), BASE)
    for name in ('requests', 'candidates', 'truth'): assert getattr(a, name).equals(getattr(b, name)), name
    for f in fields(a.sets): np.testing.assert_array_equal(getattr(a.sets, f.name), getattr(b.sets, f.name))
    np.testing.assert_array_equal(a.click_probabilities(), b.click_probabilities())

def test_another_seed_gives_another_log():
    assert not world().requests.equals(world(seed=1).requests)
    other = simulate_requests(simulate(replace(market().config, seed=4)), BASE)
    assert not world().requests.timestamp.equals(other.requests.timestamp)

def test_the_stored_probability_is_the_recomputed_one():
    log, some = world(), np.array([5, 1, 900])
    np.testing.assert_allclose(log.click_probabilities(), log.truth.click, rtol=1e-12)
    j = log.flat(some)[0]
    np.testing.assert_allclose(log.click_probabilities(some), log.truth.click.to_numpy()[j], rtol=1e-12)
    for r in some:
        shown = log.flat([r])[2][0]
        np.testing.assert_allclose(log.click_probabilities([r], page=shown[shown >= 0], price=log.sets.price_j[log.flat([r])[0]]), log.click_probabilities([r]), rtol=1e-6)

# Dials at zero

@pytest.mark.parametrize('dial', ['setting', 'attention', *EFFECTS])
def test_a_dial_at_zero_is_the_oracle_that_ignores_it(dial):
    "With no past in the way nothing but the click changes, in all of the log"
    no_past = dict.fromkeys((*PAST, 'fatigue'), 0.)
    on, off = world(**no_past), world(**no_past, **{dial: 0.})
    np.testing.assert_array_equal(on.sets.item_j, off.sets.item_j); np.testing.assert_array_equal(on.sets.place_j, off.sets.place_j)
    np.testing.assert_array_equal(on.click_probabilities(without=dial), off.click_probabilities())
    assert not np.array_equal(on.click_probabilities(), off.click_probabilities())

@pytest.mark.parametrize('dial', [*PAST, 'fatigue'])
def test_a_dial_of_the_past_at_zero_is_the_oracle_that_ignores_it(dial):
    "As long as the clicks before it are the same in both worlds"
    on, off = world(), world(**{dial: 0.})
    same, _ = same_past(on, off)
    ignored = (dial, 'situation') if dial == 'habit' else dial
    p, q = on.click_probabilities(same, without=ignored), off.click_probabilities(same)
    np.testing.assert_array_equal(p, q)
    assert len(same) > 500 and (on.click_probabilities(same) != p).mean() > .05

@pytest.mark.parametrize('dial', [*TERMS, *EFFECTS])
def test_a_dial_at_zero_leaves_nothing_behind(dial):
    log = world(**{dial: 0.})
    np.testing.assert_array_equal(log.click_probabilities(without=dial), log.click_probabilities())
    assert dial in EFFECTS or (log.sets.terms_jk[:, TERMS.index(dial)] == 0).all()
    assert dial in EFFECTS or np.abs(world().sets.terms_jk[:, TERMS.index(dial)]).max() > .01

def test_everything_off_is_one_number():
    log = world(**dict.fromkeys((*TERMS, *EFFECTS, 'attention', 'noise'), 0.))
    np.testing.assert_array_equal(log.click_probabilities(), sigmoid(np.full(len(log.candidates), BASE.base)))
    assert (log.sets.score_j == 0).all()

def test_sources_of_chance_at_zero():
    calm = world(noise=0., swing=0., explore=0)
    s, v = calm.sets, calm.sets.item_j
    np.testing.assert_array_equal(s.price_j, market().items.price.to_numpy()[v])
    np.testing.assert_allclose(s.score_j, s.terms_jk[:, :4].sum(1), atol=1e-5)                     # the score is relevance and nothing else
    assert np.isin(s.exposure_j, (0, 1)).all() and ((s.exposure_j == 1) == (s.place_j >= 0)).all()
    for r in range(0, len(calm.requests), 97):
        j, _, page = calm.flat([r]); page = page[0][page[0] >= 0]
        assert (np.diff(s.score_j[j][page]) <= 0).all() and s.score_j[j][page].min() >= np.delete(s.score_j[j], page).max()
    assert (world().sets.score_j - world().sets.terms_jk[:, :4].sum(1)).std() > .2
    reverse, whole = calm.flat([8])[2][0], world(attention=0.)
    page = whole.flat([8])[2][0]; page = page[page >= 0]
    np.testing.assert_allclose(whole.click_probabilities([8], page=page[::-1]), whole.click_probabilities([8], page=page), rtol=1e-12)

# True probabilities

def z_of(yes, p): return (yes - p).sum() / np.sqrt((p * (1 - p)).sum())

def test_clicks_agree_with_their_probabilities():
    log = world(); on = log.sets.place_j >= 0; p, y = log.sets.click_j[on], log.sets.clicked_j[on]
    groups = {f'p {k}': g for k, g in enumerate(np.array_split(np.argsort(p), 10))} | {f'place {k}': np.flatnonzero(log.sets.place_j[on] == k) for k in range(12)}
    groups |= {f'request {k}': g for k, g in enumerate(np.array_split(np.arange(len(p)), 5))}
    z = {k: z_of(y[g], p[g]) for k, g in groups.items()}
    assert max(map(abs, z.values())) < 4, z
    wrong = log.click_probabilities(without=EFFECTS)[on]
    assert abs(z_of(y, wrong)) > 10                                                                # and the test can see a wrong oracle
    assert not log.sets.clicked_j[~on].any() and .05 < y.mean() < .2

def test_exposures_agree_with_their_probabilities():
    for dials in ({}, dict(explore=3)):
        log = world(**dials); p, on = log.truth.exposure.to_numpy(), log.sets.place_j >= 0
        lot = (p > 0) & (p < 1)
        assert on[p == 1].all() and not on[p == 0].any() and abs(z_of(on[lot], p[lot])) < 4 and lot.any()
        np.testing.assert_allclose(np.bincount(log.sets.row_j, p), np.bincount(log.sets.row_j, on))          # a page has as many places as its probabilities add up to

@quick
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.integers(0, 2**31))
def test_pages_are_filled(n, m, x, seed):
    place, p = fill_pages(np.full(50, n), np.full(50, m), x, n + 2, np.random.default_rng(seed))
    m, x = min(m, n), min(x, m, n)
    assert ((place >= 0).sum(1) == m).all() and (place[:, n:] == -1).all() and (p[:, n:] == 0).all()
    assert (np.sort(place, 1)[:, n + 2 - m:] == np.arange(m)).all()
    assert (place[:, :m - x] >= 0).all() and (np.diff(place[:, :m - x], axis=1) > 0).all()         # the best are there, in their order
    np.testing.assert_allclose(p.sum(1), m)

def test_before_the_page_is_the_mean_over_all_pages():
    "Against the enumeration of every lot and every place"
    log = simulate_requests(simulate(MarketConfig(users=3, items=300, behaviours=12)), PageConfig(requests=3., candidates=7., smallest=6, largest=9, page_min=4, page_max=4))
    for r in (0, 4):
        j, _, page = log.flat([r]); order = np.argsort(-log.sets.score_j[j], kind='stable'); m = (page >= 0).sum()
        firm, rest = order[:m - 1], order[m - 1:]
        exact, n = np.zeros(len(j)), np.zeros(len(j))
        for i in rest:
            for k in range(m):
                page = [*firm[:k], i, *firm[k:]]; p = log.click_probabilities([r], page=page)
                exact[page] += p[page]; n[page] += 1
        np.testing.assert_allclose(before_the_page(log, [r], draws=1500), exact / n, rtol=.05, atol=2e-3)

# What the set does

@st.composite
def sets(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**31))); n = draw(st.integers(1, 14)); m = draw(st.integers(0, min(n, 12)))
    kinds = rng.integers(0, 2, (n, 3)); price = rng.integers(1, 5, n) * 1.
    return [tuple(k) for k in kinds.tolist()], price.tolist(), rng.random(n).tolist(), rng.permutation(n)[:m].tolist()

def fast(kinds, price, appeal, page, config=BASE):
    return set_effects(np.array(kinds).T, np.array(price), np.array(appeal), np.zeros(len(price), int), np.array([[*page, -1]]), config)

@quick
@given(sets())
def test_set_effects_follow_the_loop(case): np.testing.assert_allclose(fast(*case), set_effects_loop(*case, BASE), atol=1e-12)

@quick
@given(st.lists(sets(), min_size=2, max_size=4))
def test_sets_do_not_touch_each_other(cases):
    size = np.array([len(c[0]) for c in cases]); start = np.cumsum(size) - size
    page = np.full((len(cases), 12), -1)
    for k, c in enumerate(cases): page[k, :len(c[3])] = np.array(c[3], int) + start[k]
    kinds, price, appeal = (np.concatenate([np.array(c[i]) for c in cases]) for i in range(3))
    got = set_effects(kinds.T, price, appeal, np.repeat(np.arange(len(cases)), size), page, BASE)
    for k, c in enumerate(cases): np.testing.assert_allclose(got[start[k]:start[k] + size[k]], fast(*c), atol=1e-12)

@quick
@given(sets(), st.integers(0, 2**31))
def test_the_order_of_the_set_does_not_matter(case, seed):
    kinds, price, appeal, page = case; order = np.random.default_rng(seed).permutation(len(kinds)); where = np.argsort(order)
    got = fast([kinds[i] for i in order], [price[i] for i in order], [appeal[i] for i in order], [where[i] for i in page])
    np.testing.assert_allclose(got, fast(*case)[order], atol=1e-12)

@quick
@given(sets())
def test_a_near_duplicate_costs_its_twins_and_nobody_is_glad(case):
    kinds, price, appeal, page = case
    assume(len(page) < len(kinds))
    new = next(i for i in range(len(kinds)) if i not in page)
    a, b = fast(*case), fast(kinds, price, appeal, [*page, new])
    assert (b[:, 0] <= a[:, 0]).all() and (b[:, 2] <= a[:, 2] + 1e-12).all()
    for i in page:
        twin = kinds[i][:2] == kinds[new][:2]
        assert (b[i, 0] < a[i, 0]) == (twin and a[i, 0] > -2 * BASE.duplicates) and b[i, 2] < a[i, 2] + 1e-12

@quick
@given(sets(), st.floats(.1, 1.5))
def test_a_lower_price_never_hurts_oneself_and_never_helps_an_equal(case, factor):
    kinds, price, appeal, page = case
    assume(page)
    i = page[0]; lower = [p * min(factor, 1) if k == i else p for k, p in enumerate(price)]
    a, b = fast(*case)[:, 1], fast(kinds, lower, appeal, page)[:, 1]
    assert b[i] >= a[i]
    for k in range(len(kinds)):
        if k == i: continue
        if (kinds[k][0], kinds[k][2]) == (kinds[i][0], kinds[i][2]): assert b[k] <= a[k]
        else: assert b[k] == a[k]

def test_the_cheapest_of_two_equals_wins_and_a_tie_is_a_tie():
    equal = [(0, 0, 0), (0, 1, 0)]
    for prices, wins in (([1., 2.], [1, -1]), ([2., 1.], [-1, 1]), ([1., 1.], [0, 0])):
        np.testing.assert_array_equal(fast(equal, prices, [.1, .1], [0, 1])[:, 1], np.array(wins) * BASE.cheaper)

def test_in_a_real_page_a_twin_costs_probability():
    log, seen, logit = world(attention=0.), 0, lambda p: np.log(p / (1 - p))
    for r in range(0, len(log.requests), 5):
        j, _, page = log.flat([r]); page = page[0][page[0] >= 0]; v = log.sets.item_j[j]
        twin, equal = (log.shop.leaf_v[v] * 10 + x[v] for x in (log.shop.style_v, log.shop.tier_v))
        for new in set(range(len(j))) - set(page.tolist()):
            if (twin[page] == twin[new]).sum() != 1 or equal[new] in equal[page]: continue
            loss = (logit(log.click_probabilities([r])) - logit(log.click_probabilities([r], page=[*page, new])))[page]
            hit = twin[page] == twin[new]
            assert (loss > 0).all() and (loss[hit] > BASE.duplicates).all() and (loss[~hit] < BASE.crowding).all(); seen += 1
    assert seen > 10

# The past is strictly earlier

def test_the_past_is_what_the_tables_say():
    log = world(); rows = np.concatenate([q[[-1, len(q) // 2]] for q in own_requests(log)[:15]])
    for r in rows:
        np.testing.assert_allclose(log.sets.terms_jk[log.offsets[r]:log.offsets[r + 1], -4:], past_effects_loop(log, r), atol=2e-3)
    assert np.abs(log.sets.terms_jk[:, -4:]).max(0).min() > .3

@pytest.mark.parametrize('gate', [0., .5, 1.])
def test_a_click_in_another_situation_counts_less(gate):
    log = world(situation=gate)
    for r in own_requests(log)[3][-2:]: np.testing.assert_allclose(log.sets.terms_jk[log.offsets[r]:log.offsets[r + 1], -4:], past_effects_loop(log, r), atol=2e-3)

def test_first_requests_have_no_past():
    log = world(); first = np.concatenate([q[:1] for q in own_requests(log)]); j = log.flat(first)[0]
    assert (log.sets.terms_jk[j][:, [TERMS.index(t) for t in (*PAST, 'fatigue')]] == 0).all()
    assert log.candidates.days_since_seen[j].isna().all() and (log.candidates.affinity[j] == .1).all()

def test_only_strictly_earlier_clicks_are_remembered():
    "Two worlds with other clicks: until a user's first difference all that is recorded about the past agrees, after it no more"
    a, b = world(), world(cheaper=0.)
    same, other = same_past(a, b)
    ja, jo = a.flat(same)[0], a.flat(other)[0]
    np.testing.assert_array_equal(a.sets.terms_jk[ja], b.sets.terms_jk[ja]); np.testing.assert_array_equal(a.sets.affinity_j[ja], b.sets.affinity_j[ja])
    assert any(not np.array_equal(clicks_of(a, r), clicks_of(b, r)) for r in same)                 # the request of the difference itself is among the same
    assert len(other) > 100 and not np.array_equal(a.sets.terms_jk[jo], b.sets.terms_jk[jo])

def test_days_and_affinity_from_the_tables():
    log = world(); q, c = log.requests, log.candidates.assign(user=log.requests.user_id.to_numpy()[log.sets.row_j], time=log.requests.timestamp.to_numpy()[log.sets.row_j])
    leaf = log.shop.leaf_v[log.sets.item_j]
    for k in np.random.default_rng(0).integers(0, len(c), 60):
        before = (c.user == c.user[k]) & (c.time < c.time[k]) & c.exposed
        seen = c.time[before & (c.item_id == c.item_id[k])]
        assert (c.days_since_seen.isna()[k] if not len(seen) else np.isclose(c.days_since_seen[k], (c.time[k] - seen.max()) / 86400, atol=1e-3))
        mine = before & (leaf == leaf[k])
        assert np.isclose(c.affinity[k], (c.clicked[mine].sum() + .3) / (mine.sum() + 3), atol=1e-4)

# Tables

def test_the_log_is_a_sound_dataset(tmp_path):
    tables, schema, log = marketplace_with_requests(market(), BASE)
    ds = from_frames(schema, tables, log)
    assert len(ds.requests) == len(log.requests) and len(ds.candidates) == len(log.candidates) and ds.candidates.clicked.sum() == log.sets.clicked_j.sum()
    save_dataset(from_frames(schema, tables), tmp_path / 'log')
    assert check_dataset(tmp_path / 'log') == [] and len(open_dataset(tmp_path / 'log').candidates) == len(log.candidates)
    named = [f for domain in DOMAINS.values() for f in domain]
    assert sorted(named) == sorted(['item_id', *(f for t in ('items', 'users', 'requests', 'candidates') for f in schema[t]['features'])])
    assert marketplace_with_requests(from_frames(schema, tables, market()), BASE)[2].candidates.equals(log.candidates)
    with pytest.raises(InputError, match='for a marketplace only'): marketplace_with_requests(ds)

def test_the_built_in_shop_with_requests(tmp_path):
    dials = dict(users=60, items=200, behaviours=8, seed=5)
    plain, ds = (open_dataset('marketplace', **dials, **more) for more in ({}, dict(requests='5', candidates=12, smallest=10, page_min=5)))
    assert plain.requests is None and open_dataset('marketplace', **dials, requests=0).requests is None
    for t in plain.tables: pd.testing.assert_frame_equal(plain.tables[t], ds.tables[t])
    _, _, log = marketplace_with_requests(plain, PageConfig(requests=5., candidates=12., smallest=10, page_min=5))
    assert ds.truth.candidates.equals(log.candidates) and ds.truth.config == log.config and ds.truth.market.config == plain.truth.config
    assert not open_dataset('marketplace', **dials | dict(seed=6), requests=5).requests.equals(ds.requests)
    save_dataset(ds, tmp_path / 'log'); again = open_dataset(tmp_path / 'log')
    for t in ds.tables: pd.testing.assert_frame_equal(again.tables[t], ds.tables[t])
    assert again.truth.truth.equals(ds.truth.truth)
    c = pd.read_parquet(tmp_path / 'log/candidates.parquet')
    c.assign(clicked=c.clicked.where(~c.exposed | (c.index != c.index[c.exposed][0]), ~c.clicked)).to_parquet(tmp_path / 'log/candidates.parquet')
    with pytest.raises(InputError, match="column 'clicked' of candidates differs"): open_dataset(tmp_path / 'log').truth
    (tmp_path / 'log/truth.toml').write_text((tmp_path / 'log/truth.toml').read_text() + 'colour = 1\n')
    with pytest.raises(InputError, match='truth.toml cannot be used'): open_dataset(tmp_path / 'log').truth

@pytest.mark.parametrize('dials, words', [(dict(candidates=12), 'only with requests'), (dict(requests=0, noise=1), "'noise' is of the ranking log"), (dict(requests=2), 'requests = 2.0: must be 3'), (dict(requests='many'), "'requests' must be a number"),
                                          (dict(requests=5, candidate=3), "did you mean 'candidates'"), (dict(requests=5, smallest=50, candidates=40), 'must rise'), (dict(requests=float('nan')), 'requests = nan')])
def test_dials_of_the_log_that_make_no_sense(dials, words):
    with pytest.raises(InputError, match=words): open_dataset('marketplace', users=20, items=150, behaviours=6, **dials)

def test_the_log_keeps_its_promises():
    log, c = world(), world().candidates
    size = np.diff(log.offsets); shown = np.bincount(log.sets.row_j, c.exposed)
    assert size.min() >= BASE.smallest and size.max() <= BASE.largest and abs(size.mean() - BASE.candidates) < 3 and len(set(size)) > 20
    assert shown.min() >= BASE.page_min and shown.max() <= BASE.page_max and abs(len(log.requests) / len(market().users) - BASE.requests) < 1
    assert c.position.notna().equals(c.exposed) and not (c.clicked & ~c.exposed).any() and not c.duplicated(['request_id', 'item_id']).any()
    t = log.requests.timestamp
    assert t.is_monotonic_increasing and t.max() <= market().config.end and not log.requests.duplicated(['user_id', 'timestamp']).any()
    when = pd.to_datetime(t, unit='s')
    assert (when.dt.hour == log.requests.hour).all() and (when.dt.strftime('%a') == log.requests.weekday).all()
    released = np.append(0, market().waves)[market().world[0]['wave'][log.sets.item_j]]
    assert (released <= t.to_numpy()[log.sets.row_j]).all()
    assert np.abs(np.bincount(log.sets.row_j, log.sets.relative_j)).max() < 1e-9
    assert all((np.diff(log.sets.item_j[a:b]) > 0).all() for a, b in zip(log.offsets[:-1], log.offsets[1:]))   # rows tell nothing about scores

def test_a_shop_smaller_than_a_set():
    log = simulate_requests(simulate(MarketConfig(users=4, items=144, behaviours=6, cold_share=.5)), PageConfig(requests=3., candidates=200., smallest=150))
    assert np.diff(log.offsets).max() <= 144 and len(log.candidates) == log.offsets[-1]

@pytest.mark.parametrize('bad, says', [(dict(cheaper=-1.), 'cheaper'), (dict(situation=1.5), 'situation'), (dict(memory=2.), 'memory'), (dict(requests=2.), 'requests'), (dict(candidates=10.), 'must rise'),
    (dict(page_min=13), 'must rise'), (dict(page_min=0), 'must rise'), (dict(explore=.5), 'whole number'), (dict(base=float('nan')), 'base')])
def test_wrong_dials_are_refused(bad, says):
    with pytest.raises(InputError, match=says): PageConfig(**bad)

def test_wrong_questions_are_refused():
    for what in (dict(without='luck'), dict(page=[0, 0]), dict(page=[0, 1000]), dict(page=[-1])):
        with pytest.raises(InputError): world().click_probabilities([0], **what)
    with pytest.raises(InputError, match='one request'): world().click_probabilities([0, 1], page=[0])

# The best possible

@quick
@given(st.integers(1, 30), st.integers(0, 2**31), st.booleans())
def test_auc_counts_pairs(n, seed, labels):
    rng = np.random.default_rng(seed); s, p = rng.integers(0, 6, n), rng.random(n)
    if labels: p = np.round(p)
    pairs = [(a * (1 - b), (x > y) + .5 * (x == y)) for x, a in zip(s, p) for y, b in zip(s, p)]
    total = sum(w for w, _ in pairs)
    assume(total > 0)
    assert np.isclose(auc(s, p), sum(w * x for w, x in pairs) / total)
    assert np.isclose(auc(s, p), auc(np.tile(s, 2), np.tile(p, 2), np.repeat([5, 2], n)))

def test_per_request_auc_is_the_mean_over_requests_with_both_labels():
    from sklearn.metrics import roc_auc_score
    rng = np.random.default_rng(0); row = np.sort(rng.integers(0, 30, 200)); s, y = rng.random(200), rng.random(200) < .2
    each = [roc_auc_score(y[row == r], s[row == r]) for r in range(30) if 0 < y[row == r].sum() < (row == r).sum()]
    assert np.isclose(auc(s, y, row), np.mean(each)) and np.isclose(auc(s, y), roc_auc_score(y, s)) and len(each) < 30

def test_no_guess_beats_the_truth():
    log = world(); n = len(log.requests); rows, fit = np.arange(n // 2, n), np.arange(n // 2)
    table = ceilings(log, rows, fit)
    assert (table['log loss'] >= table['log loss'].iloc[0]).all() and (table.auc <= table.auc.iloc[0]).all()
    best, blind, point = (table.auc[k] for k in ('true probability', 'page not known', 'best point-wise'))
    assert best > blind > point + .02
    off = world(**dict.fromkeys((*EFFECTS, 'attention'), 0.)); j = off.flat(rows)[0]; on = off.sets.place_j[j] >= 0; p = off.sets.click_j[j][on]
    assert auc(p, p) - auc(best_pointwise(off, rows, fit)[on], p) < .005                           # with no set there is nothing that one item does not tell
    np.testing.assert_array_equal(off.click_probabilities(rows, without=EFFECTS), off.click_probabilities(rows))
    assert log_loss(np.clip(p + .05, 0, 1), p) > log_loss(p, p)
