"The real samples of MIND and EB-NeRD from their files to a trained HoMer: the same calls for both, no special case"
import math
import numpy as np, pytest, torch
from hettrans.data.dataset import open_dataset
from hettrans.data.panorama import panorama, read_log
from hettrans.data.public_requests import import_public
from hettrans.data.requests import check_batch
from hettrans.engine.run import fit, load_run
from test_public import real

SAMPLES = dict(mind='mind_sample', ebnerd='ebnerd_sample')
SMALL = dict(preset='small', epochs=1, d=16, d_embed=8, max_past=20, seed=0, split='time:0.1')   # the width decides nothing here

@pytest.mark.parametrize('name', SAMPLES)
def test_from_the_files_to_a_trained_homer(name, tmp_path):
    report = import_public(name, real(SAMPLES[name]), tmp_path/'data', progress=False)
    ds = open_dataset(tmp_path/'data')
    log = read_log(ds); past = panorama(log, 'exposed', 20)
    assert len(log) == report.counts['requests'] and len(log.item_n) == report.counts['candidates']
    start, end = past.spans(np.arange(len(log)))
    own = np.flatnonzero(end > start)                # requests with a past
    assert len(own) and (end - start <= 20).all()
    for r in own[:: max(1, len(own)//50)]:
        q = past.request_j[start[r]:end[r]]
        assert (log.user_r[q] == log.user_r[r]).all() and (log.time_r[q] < log.time_r[r]).all() and log.exposed_n[past.row_j[start[r]:end[r]]].all()
    run = fit('homer', ds, tmp_path/'run', bar=False, **SMALL)
    check_batch(run.data.batch(run.split.train[:64]))
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    m = run.metrics
    assert 0 < m['auc'] < 1 and math.isfinite(m['logloss']) and m['auc_lo'] <= m['auc'] <= m['auc_hi'] and m['requests_both'] > 0
    first = run.split.test[:3]
    asked = ds.tables | dict(requests=ds.requests.iloc[first], candidates=ds.candidates.iloc[np.concatenate([log.row_n[log.offsets[r]:log.offsets[r + 1]] for r in first])])
    a, b = (x.score(type(ds)(ds.schema, asked)) for x in (run, load_run(tmp_path/'run')))
    assert len(a) == len(asked['candidates']) and a.p_click.between(0, 1).all()
    np.testing.assert_array_equal(a.p_click, b.p_click)
