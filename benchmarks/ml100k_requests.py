"""Per-request AUC on constructed requests of ml-100k: HoMer, point-wise HoMer, gradient boosting and the mean rating of a film.

    python benchmarks/ml100k_requests.py                                  # all, 3 seeds -> benchmarks/results/ml100k_requests.csv
    python benchmarks/ml100k_requests.py --models homer --part valid --set lr=2e-3 --seeds 1
    python benchmarks/ml100k_requests.py --data data/ml-100k    # default: ml-100k under $HETTRANS_DATA, data/ or ../shared/data

The requests are those of `hettrans data import movielens-requests` (four unexposed films each), split `user-time:0.2`. Columns are constructed on top, for all models alike
(`with_history`): the mean rating of the film in the part that is known, shrunk, without the ratings of the user's own tenth of the users where the request is in that part itself; and,
strictly earlier than the request, the user's share of clicks and the ratings behind it, and the same on the film's genres, against the share. HoMer reads four of them as plain
numbers, too (`numbers`), where trees need no such help. Titles, zip codes and the ids of films and users are left out: the mean of a film without one tenth of its
ratings and its id together tell a little of the label.

`--part valid`: known and trained on are the training requests, judged are the validation requests; every setting was chosen there. `--part test`: the settings stand, known and
trained on are training and validation requests, for the number of epochs (or trees) that was chosen, and the test requests are judged once.
"""
import argparse, shutil, tempfile, time
from dataclasses import replace
from functools import partial
from pathlib import Path
import numpy as np, pandas as pd
from hettrans.data.dataset import Dataset, open_dataset
from hettrans.data.panorama import read_log
from hettrans.data.public_requests import import_movielens_requests
from hettrans.data.requests import fit_request_encoder, split_requests
from hettrans.data.sequences import gather_ranges
from hettrans.engine.loop import train
from hettrans.engine.rank_run import RankRun, ranking_batches, set_logits
from hettrans.engine.ranking import NAMES, Judged, middle, ranking_difference, ranking_metrics
from hettrans.engine.registry import configure, model_entry, preset_fields
from hettrans.engine.run import build_model, count_params
from results_table import add_rows, data_at, fields_of, machine, rows_of

ROOT = Path(__file__).parents[1]
SPLIT, FOLDS, PRIOR = 'user-time:0.2', 10, 3   # PRIOR: a mean starts with so many ratings of the average kind
TRAINED = ['pointwise-homer', 'homer']
MODELS = ['film-mean', 'film-mean-shrunk', 'boosting', *TRAINED]
BOOSTING = dict(learning_rate=.05, max_leaf_nodes=15, max_iter=150, l2_regularization=1., min_samples_leaf=50)
HOMER = dict(preset='small', metric='gauc', multimodal='raw', heads=4, scale='1/sqrt(n)', dropout=.3, weight_decay=.1, epochs=5, lr=2e-3, table_scale=.1, use_id=False)   # chosen on validation for 'homer'
KEY = ['dataset', 'part', 'model', 'set', 'seed', 'split', 'unexposed']
METRICS = [f'{m}{e}' for m in NAMES for e in ('', '_lo', '_hi')]
OVER = [f'over_{o}{e}' for o in ('film_mean', 'boosting') for e in ('', '_lo', '_hi')]
FIELDS = [*KEY, 'n', 'requests', 'requests_both', *METRICS, *OVER, 'params', 'epochs', 'best_epoch', 'minutes', 'machine']

# What is constructed ------------------------------------------------------------------------------
def earlier_sums(user_r, time_r, x_rk):
    "Sums over the strictly earlier requests of the same user"
    order = np.lexsort((time_r, user_r)); u, t = user_r[order], time_r[order]
    upto = np.vstack([np.zeros((1, x_rk.shape[1])), np.cumsum(x_rk[order], 0)])
    second = np.maximum.accumulate(np.where(np.r_[True, (u[1:] != u[:-1]) | (t[1:] != t[:-1])], np.arange(len(u)), 0))   # first request of this user and second
    out = np.empty(x_rk.shape); out[order] = upto[second] - upto[np.searchsorted(u, u)]
    return out

def film_means(log, rating_n, known, films, prior=PRIOR, folds=FOLDS):
    "Mean rating of each candidate's film in the known requests, shrunk; in those, the user's own fold of users is left out"
    part, req = np.zeros(len(log), bool), log.request_n
    part[known] = True; use, fold_n = part[req] & log.exposed_n, (log.user_r % folds)[req]
    at = log.item_n.astype(np.int64)*folds + fold_n
    count, total = (np.bincount(at[use], w, films*folds).reshape(films, folds) for w in (None, rating_n[use]))
    left = lambda x: x.sum(1)[log.item_n] - part[req]*x[log.item_n, fold_n]
    with np.errstate(invalid='ignore'): return (left(total) + prior*rating_n[use].mean())/(left(count) + prior)

def likings(log, genre_vg, known, prior=5):
    "The user's share of clicks strictly before each request and the ratings behind it; of each candidate: the same of its genres, against the user's own share"
    req, e, y = log.request_n, log.exposed_n, log.clicked_n == 1
    g_n = np.c_[genre_vg, np.ones(len(genre_vg))][log.item_n]
    def so_far(on):
        x = np.zeros((len(log), g_n.shape[1])); np.add.at(x, req[on], g_n[on])
        return earlier_sums(log.user_r, log.time_r, x)
    seen, hits = so_far(e), so_far(y)
    share = (hits[:, -1] + prior*log.clicked_n[rows(log, known)].clip(0).sum()/log.exposed_n[rows(log, known)].sum())/(seen[:, -1] + prior)
    rate = (hits[:, :-1] + prior*share[:, None])/(seen[:, :-1] + prior) - share[:, None]
    mean = lambda x: (x[req]*g_n[:, :-1]).sum(1)/np.maximum(g_n[:, :-1].sum(1), 1)
    return share, seen[:, -1], mean(rate), mean(seen[:, :-1])

def with_history(ds, split, known):
    "The dataset with the constructed columns, genres as a vector, and without titles and zip codes"
    log = split.log
    genre = ds.items['class'].fillna('').str.get_dummies(' ').to_numpy(np.float32)
    share, seen, genre_rate, genre_seen = likings(log, genre, known)
    back, mean = np.argsort(log.row_n), film_means(log, ds.candidates.rating.to_numpy()[log.row_n], known, len(ds.items))      # back: into the order of the file
    items = ds.items[['item_id', 'release_year']].assign(genres=list(genre))
    users = ds.users[['user_id', 'age', 'gender', 'occupation']].assign(age=pd.to_numeric(ds.users.age))
    requests = ds.requests.assign(user_share=share, user_seen=seen)
    cands = ds.candidates.assign(film_mean=mean[back], genre_rate=genre_rate[back], genre_seen=genre_seen[back])
    x_nk = np.column_stack([cands.film_mean, cands.genre_rate, np.log1p(cands.ratings_before), (cands.ratings_before*cands.mean_before.fillna(0) + PRIOR*mean.mean())/(cands.ratings_before + PRIOR)])
    some = x_nk[log.row_n[rows(log, known)]]
    cands = cands.assign(numbers=list(((x_nk - some.mean(0))/some.std(0)).astype(np.float32)))
    new = dict(items=dict(release_year='categorical', genres='vector'), users=dict(age='numerical', gender='categorical', occupation='categorical'),
               requests=ds.schema.tables['requests'].features | dict(user_share='numerical', user_seen='numerical'),
               candidates=ds.schema.tables['candidates'].features | dict(film_mean='numerical', genre_rate='numerical', genre_seen='numerical', numbers='vector'))
    schema = replace(ds.schema, tables={k: replace(v, features=new[k]) for k, v in ds.schema.tables.items()})
    return Dataset(schema, dict(items=items, users=users, requests=requests, candidates=cands))

# Models --------------------------------------------------------------------------------------------
def boosting(ds, split, seed, fields):
    "Gradient boosting on one row per candidate: all features, as numbers"
    from sklearn.ensemble import HistGradientBoostingClassifier
    log, req = split.log, split.log.request_n
    q, u = ds.requests.iloc[req], ds.users.set_index('user_id').reindex(log.users).iloc[log.user_r[req]]
    number = lambda s: pd.to_numeric(s, errors='coerce').to_numpy(float)
    c, item = ds.candidates.iloc[log.row_n], ds.items.iloc[log.item_n]
    names = ds.schema.tables['candidates'].of_kind('numerical')
    x = np.column_stack([*(c[k] for k in names), number(item.release_year), np.stack(ds.items.genres)[log.item_n], *(number(q[k]) for k in ('hour', 'weekday', 'user_share', 'user_seen')),
                         number(u.age), u.gender == 'M', u.occupation.astype('category').cat.codes])
    train, judged = (rows(log, r) for r in (split.train, split.test))
    fit = train[log.clicked_n[train] >= 0]
    m = HistGradientBoostingClassifier(early_stopping=False, random_state=seed, **BOOSTING | fields).fit(x[fit], log.clicked_n[fit])
    return m.decision_function(x[judged]), {}

def rows(log, requests): return gather_ranges(log.offsets[:-1][requests], log.offsets[1:][requests])[0]

def homer(name, ds, split, seed, fields, part, bar):
    "Train HoMer; on 'valid' the best epoch counts, on 'test' the last one"
    fields = HOMER | fields | dict(seed=seed, split=SPLIT); preset = fields.pop('preset')
    config = configure(name, preset_fields(name, preset, len(ds.items)) | fields)
    encoder = fit_request_encoder(ds, split, config['encode'], config['protocol'].user_id)
    out, t = Path(tempfile.mkdtemp(prefix='films-')), config['train']
    run = RankRun(out, name, build_model(name, config['model'], encoder.tokens, seed), ds, split, config, encoder)
    loss, done = model_entry(name).load('loss'), [0]
    def scores(): return set_logits(run, lambda r: run.data.batch(split.test[r]), run.data.sizes[split.test], run.catalogue)[0]
    def judge(_):
        done[0] += 1
        if part == 'test': return {t.metric: float(done[0])}     # the last epoch is the best one, whatever it does
        m = ranking_metrics(scores(), split.log.clicked_n[rows(split.log, split.test)], np.repeat(split.test, np.diff(split.log.offsets)[split.test]), False)
        print(done[0], {k: round(m[k], 4) for k in NAMES}, flush=True)
        return m
    p = train(run.model, partial(ranking_batches, run), lambda w, b: loss(run.model, w(b, run.catalogue), b, run.catalogue), judge, t, out, bar=bar)
    got = scores(); shutil.rmtree(out)
    return got, dict(params=count_params(run.model), epochs=p.epoch, best_epoch=p.best_epoch + 1)

def film_mean(ds, split, prior):
    "The mean rating of the film in the known requests; a film without one has the mean of all"
    log = split.log
    rating_n = ds.candidates.rating.to_numpy()[log.row_n]
    return np.nan_to_num(film_means(log, rating_n, split.train, len(ds.items), prior), nan=rating_n[rows(log, split.train)][log.exposed_n[rows(log, split.train)]].mean())[rows(log, split.test)]

# The table -----------------------------------------------------------------------------------------
def data(folder, part, unexposed=4):
    "The dataset with its constructed columns, and a split whose `train` is known and whose `test` is judged"
    hold = Path(tempfile.mkdtemp(prefix='films-'))
    import_movielens_requests('ml-100k', folder, hold, progress=False, unexposed=unexposed)
    ds = open_dataset(hold); shutil.rmtree(hold)
    s = split_requests(read_log(ds), SPLIT)
    s = replace(s, test=s.valid) if part == 'valid' else replace(s, train=np.sort(np.r_[s.train, s.valid]))
    return with_history(ds, s, s.train), s

def scores_of(model, ds, split, seed, fields, part, bar=False):
    if model == 'film-mean': return film_mean(ds, split, 0), {}
    if model == 'film-mean-shrunk': return film_mean(ds, split, PRIOR), {}
    return boosting(ds, split, seed, fields) if model == 'boosting' else homer(model, ds, split, seed, fields, part, bar)

def judged(split, score): return Judged(score, split.log.clicked_n[rows(split.log, split.test)], split.log.request_n[rows(split.log, split.test)])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--models', nargs='+', default=MODELS, choices=MODELS); p.add_argument('--part', default='test', choices=['test', 'valid'])
    p.add_argument('--seeds', type=int, default=3); p.add_argument('--first-seed', type=int, default=0); p.add_argument('--set', nargs='*', default=[], metavar='FIELD=VALUE', help='fields of the models that are run')
    p.add_argument('--data', type=Path, help='folder of the original files'); p.add_argument('--bar', action='store_true'); p.add_argument('--unexposed', type=int, default=4, help='films per request that were not exposed, at the most')
    p.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'ml100k_requests.csv')
    a = p.parse_args()
    fields, world, base = fields_of(a.set), None, {}
    for seed in range(a.first_seed, a.first_seed + a.seeds):
        for model in a.models:
            if model not in TRAINED and seed: continue       # no chance in them
            key = dict(dataset='ml-100k', part=a.part, model=model, set=' '.join(sorted(a.set)), seed=seed, split=SPLIT, unexposed=a.unexposed)
            if any(all(r[k] == str(key[k]) for k in KEY) for r in rows_of(a.out)): continue
            if world is None:
                world = ds, split = data(a.data or data_at('ml-100k'), a.part, a.unexposed)
                base = {o: judged(split, scores_of(m, ds, split, 0, {}, a.part)[0]) for o, m in (('film_mean', 'film-mean-shrunk'), ('boosting', 'boosting'))}
            began = time.time()
            score, more = scores_of(model, ds, split, seed, fields, a.part, a.bar)
            j = judged(split, score)
            got = dict(zip(NAMES, map(float, j.weighed()[0]))) | {f'{k}{e}': v for k, pair in zip(NAMES, middle(j.resampled())) for e, v in zip(('_lo', '_hi'), pair)}
            for o, b in base.items():
                d = ranking_difference(j, b); got |= {f'over_{o}{e}': d[f'gauc{e}'] for e in ('', '_lo', '_hi')}
            got |= dict(n=len(j.of), requests=len(j.requests), requests_both=int(j.sums_rs[:, 1].sum()))
            if model.startswith('film-mean'): got = {k: v for k, v in got.items() if not k.startswith(('logloss', 'calibration'))}     # a mean is no logit
            row = {k: round(v, 5) if isinstance(v, float) else v for k, v in (got | more | key).items()}
            add_rows(a.out, FIELDS, [row | dict(minutes=round((time.time() - began)/60, 2), machine=machine())])
            print(f"{a.part} {model} {key['set']} seed {seed}: gauc {row['gauc']:.4f} [{row['gauc_lo']:.4f}, {row['gauc_hi']:.4f}] auc {row['auc']:.4f} " +
                  ' '.join(f"over {o} {row[f'over_{o}']:+.4f} [{row[f'over_{o}_lo']:+.4f}, {row[f'over_{o}_hi']:+.4f}]" for o in base), f'{(time.time() - began)/60:.1f} min', flush=True)

if __name__ == '__main__': main()
