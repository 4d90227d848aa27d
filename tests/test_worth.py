"What a component is worth: the table is the loop, seeds are paired, one seed has no interval, and a bad table is one line"
import math, subprocess, sys
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from hettrans.data.schema import InputError
from hettrans.viz.worth import draw_worth, paired_worth, read_worth, say_worth, t_factor, worth_loop

fast = settings(max_examples=40, deadline=None)
COLUMNS = ['n', 'base', 'variant', 'difference', 'lo', 'hi', 'seeds']

def rows(variant, reason, values, n=10):
    return [dict(variant=variant, seed=s, reason=reason, n=n, **{'recall@10': v, 'ndcg@10': v/2}) for s, v in enumerate(values)]

def hand():
    "Three seeds, two variants, two reasons: differences 4, 3, 5 and 0, -1, 1"
    return pd.DataFrame(rows('full', 'conjunction', [12, 18, 30]) + rows('full', 'taste', [40, 50, 62], 30)
                        + rows('off', 'conjunction', [8, 15, 25]) + rows('off', 'taste', [40, 51, 61], 30))

def test_by_hand():
    w, half = paired_worth(hand(), 'off'), .95/math.sqrt(2*.975*.025)/math.sqrt(3)      # the quantile of t with two degrees of freedom
    assert list(w.columns) == COLUMNS and list(w.index) == ['conjunction', 'taste']
    np.testing.assert_allclose(w.loc['conjunction'].to_numpy(float), [30, 20, 16, 4, 4 - half, 4 + half, 3])
    np.testing.assert_allclose(w.loc['taste'].to_numpy(float), [90, 152/3, 152/3, 0, -half, half, 3], atol=1e-12)
    assert say_worth(w, 'conjunction', 'taste').split('\n') == ['conjunction: +4.0000 [+1.5159, +6.4841], 3 seeds, 30 cases: above zero',
                                                                'taste: +0.0000 [-2.4841, +2.4841], 3 seeds, 90 cases: not told apart from zero']

def test_the_other_metric_and_the_other_sign():
    a, b = paired_worth(hand(), 'off', metric='ndcg@10'), paired_worth(hand(), 'full', base='off')
    assert a.loc['conjunction', 'difference'] == 2
    assert b.loc['conjunction', 'difference'] == -4 and 'below zero' in say_worth(b, 'conjunction')

def test_pairs_are_seeds_and_not_rows():
    mixed = hand().sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(paired_worth(mixed, 'off').sort_index(), paired_worth(hand(), 'off').sort_index())
    lost = hand()[lambda t: (t['variant'] != 'full') | (t['seed'] != 1)]     # the base lacks a seed: the variant's row of it is left out
    w = paired_worth(lost, 'off')
    assert (w['seeds'] == 2).all() and w.loc['conjunction', 'difference'] == 4.5 and w.loc['conjunction', 'n'] == 20
    assert w.loc['conjunction', 'hi'] == pytest.approx(4.5 + math.tan(math.pi*.475)*.5)

def test_one_seed_has_no_interval():
    w = paired_worth(hand()[lambda t: t['seed'] == 2], 'off')
    assert w.loc['conjunction', 'difference'] == 5 and w[['lo', 'hi']].isna().all(None) and (w['seeds'] == 1).all()
    assert say_worth(w, 'conjunction') == 'conjunction: +5.0000, 1 seed, 10 cases: one seed has no interval'
    assert math.isnan(t_factor(1)) and math.isnan(t_factor(0))

@fast
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**31))
def test_table_is_loop(seeds, reasons, seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 50, (reasons, seeds))
    table = pd.DataFrame([dict(variant=v, seed=s, reason=f'r{r}', n=n[r, s], x=rng.random()) for v in ('full', 'off', 'other') for r in range(reasons) for s in range(seeds)
                          if v == 'full' or s < max(1, seeds - 1)])     # the last seed has only one side
    got, want = paired_worth(table, 'off', metric='x'), worth_loop(table.to_dict('records'), 'off', metric='x')
    assert list(got.index) == list(want)
    np.testing.assert_allclose(got.to_numpy(float), list(want.values()), atol=1e-12)

@pytest.mark.parametrize('spoil, said', [
    (lambda t: (t, 'of'), "no rows of variant 'of'; did you mean 'off'?"),
    (lambda t: (t[t['variant'] == 'off'], 'off'), "no rows of variant 'full'"),
    (lambda t: (pd.concat([t, t.tail(1)]), 'off'), "variant 'off': 1 rows repeat a seed and a reason"),
    (lambda t: (t[(t['variant'] == 'off') ^ (t['seed'] == 0)], 'off'), "'full' and 'off' have no seed in common"),
    (lambda t: (t.drop(index=11), 'off'), "different cases in 1 rows, first: seed 2, reason 'taste'"),
    (lambda t: (t.assign(n=t['n'] + (t.index == 0)), 'off'), "different cases in 1 rows, first: seed 0, reason 'conjunction'"),
    (lambda t: (t.drop(columns='reason'), 'off'), "no column 'reason'"),
])
def test_unfair_comparisons_are_one_line(spoil, said):
    with pytest.raises(InputError) as e: paired_worth(*spoil(hand()))
    assert said in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('spoil, said', [
    (lambda s: None, 'there is no such file'),
    (lambda s: '', 'cannot be read as CSV'),
    (lambda s: s.split('\n')[0] + '\n', 'the table has no rows'),
    (lambda s: s.replace('variant', 'kind', 1), "column 'variant' is missing"),
    (lambda s: s.rstrip().rsplit(',', 1)[0], "column 'ndcg@10', row 12: not a number (1 rows)"),    # killed in the middle of a line
    (lambda s: s.replace('full,1,taste', 'full,1,'), "column 'reason', row 5: not a text (1 rows)"),
    (lambda s: s.replace(',12,', ',inf,'), "column 'recall@10', row 1: not a number (1 rows)"),
    (lambda s: s + 'a,b,c,d,e,f,g,h\n', 'cannot be read as CSV'),
    (lambda s: s.replace('full,1,taste', 'full,1.5,taste'), "column 'seed', row 5: not a whole number (1 rows)"),
])
def test_bad_files_are_one_line(tmp_path, spoil, said):
    path, text = tmp_path/'table.csv', spoil(hand().to_csv(index=False))
    if text is not None: path.write_text(text)
    with pytest.raises(InputError) as e: read_worth(path)
    assert said in str(e.value) and str(path) in str(e.value) and '\n' not in str(e.value)

def test_a_written_table_comes_back(tmp_path):
    hand().to_csv(tmp_path/'table.csv', index=False)
    pd.testing.assert_frame_equal(read_worth(tmp_path/'table.csv'), hand(), check_dtype=False)

def test_one_world_at_a_time(tmp_path):
    other = hand().assign(**{'recall@10': 1.})
    pd.concat([hand().assign(world='shop'), other.assign(world='calm')]).sample(frac=1, random_state=0).to_csv(tmp_path/'table.csv', index=False)
    for world, want in (('shop', hand()), ('calm', other)):
        got = read_worth(tmp_path/'table.csv', world)
        assert set(got['world']) == {world} and list(got.index) == list(range(len(want)))
        pd.testing.assert_frame_equal(paired_worth(got, 'off').sort_index(), paired_worth(want, 'off').sort_index())
    assert set(read_worth(tmp_path/'table.csv')['world']) == {'shop'}
    with pytest.raises(InputError) as e: read_worth(tmp_path/'table.csv', 'clam')
    assert "no rows of world 'clam'; did you mean 'calm'?" in str(e.value) and str(tmp_path) in str(e.value)

@pytest.mark.parametrize('seeds', [1, 2, 3])
def test_the_picture_shows_the_table(seeds):
    plt = pytest.importorskip('matplotlib.pyplot'); plt.switch_backend('agg')
    w = paired_worth(hand()[lambda t: t['seed'] < seeds], 'off')
    ax = draw_worth(w, 'worth', ['conjunction'])
    assert [b.get_width() for b in ax.patches] == w['difference'].tolist()
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor() and ax.get_xlabel() == 'recall@10: full - off'
    ends = [seg[:, 0].tolist() for c in ax.collections for seg in c.get_segments()]
    np.testing.assert_allclose(ends, w[['lo', 'hi']].dropna().to_numpy().tolist() if seeds > 1 else [])
    with pytest.raises(InputError, match="did you mean 'taste'"): draw_worth(w, '', ['tast'])
    plt.close('all')

def test_reading_needs_no_figures():
    r = subprocess.run([sys.executable, '-c', 'import sys, hettrans.viz.worth; print("matplotlib" in sys.modules)'], capture_output=True, text=True)
    assert r.stdout.strip() == 'False', r.stderr
