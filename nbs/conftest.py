"""Lets plain `pytest --nbval nbs/` check notebooks kept tidy by `nbdev-clean`.

* nbval refuses stored outputs without an execution count, and `nbdev-clean` removes the counts: put one back.
* `#| eval: false` cells (and `nbdev_export()`) are skipped, as `nbdev-test` does.
* Cells showing a live widget are run but not compared: their text depends on random ids and on the browser.
* Floats are compared with a relative tolerance, so another CPU or thread count still passes.
* Cells run with history on, so that a closing `;` hides the result as it does in JupyterLab.
"""
import base64, math, os, re
import numpy as np

ENV = dict(OMP_NUM_THREADS='2', MKL_NUM_THREADS=os.environ.get('OMP_NUM_THREADS', '2'), HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false', PYTHONHASHSEED='0',
           COLUMNS='120', MPLBACKEND='module://matplotlib_inline.backend_inline')     # tools/run_nbs.py stores outputs under the same
for k, v in ENV.items(): os.environ.setdefault(k, v)

RTOL, ATOL = 2e-2, 1e-4
WIDGET, PLOTLY = 'application/vnd.jupyter.widget-view+json', 'application/vnd.plotly.v1+json'
_float = re.compile(r'[-+]?\d+\.\d*(?:e[-+]?\d+)?', re.I)

class Approx(str):
    "Text equal to another when they agree but for small differences in their floats"
    __hash__ = str.__hash__
    def __eq__(self, o):
        if str.__eq__(self, o): return True
        if _ws(_float.sub('#', self)) != _ws(_float.sub('#', o)): return False
        return all(math.isclose(float(a), float(b), rel_tol=RTOL, abs_tol=ATOL) for a, b in zip(_float.findall(self), _float.findall(o)))
    def __ne__(self, o): return not self == o

def _ws(s): return re.sub(r'\s+', ' ', s)

class Fig(dict):
    "Plotly JSON equal to another when their numbers agree within tolerance"
    def __eq__(self, o): return _close(dict(self), dict(o))
    def __ne__(self, o): return not self == o

def _arr(x): return np.frombuffer(base64.b64decode(x['bdata']), x['dtype'])
def _close(a, b):
    if isinstance(a, dict) and isinstance(b, dict):
        a, b = {k: v for k, v in a.items() if k != 'uid'}, {k: v for k, v in b.items() if k != 'uid'}
        if a.keys() != b.keys(): return False
        if 'bdata' in a: return a['dtype'] == b['dtype'] and a.get('shape') == b.get('shape') and np.allclose(_arr(a), _arr(b), RTOL, ATOL, equal_nan=True)
        return all(_close(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)): return len(a) == len(b) and all(map(_close, a, b))
    if isinstance(a, float) and isinstance(b, (int, float)): return math.isclose(a, b, rel_tol=RTOL, abs_tol=ATOL)
    return a == b

def _directives(src):
    res = {}
    for l in src.splitlines():
        if not l.strip() or l.startswith('%%'): continue
        m = re.match(r'\s*#\s*\|\s*([^\s:]+)\s*:?\s*(.*?)\s*$', l)
        if not m: break
        res[m[1]] = m[2]
    return res

def pytest_itemcollected(item):
    if type(item).__name__ != 'IPyNbCell': return
    cell, d = item.cell, _directives(item.cell.source)
    if d.get('eval', '').lower() == 'false' or 'notest' in d or 'nbdev_export(' in cell.source: item.options['skip'] = True
    if any(WIDGET in o.get('data', {}) for o in cell.outputs): item.options['check'] = False
    if cell.execution_count is None: cell.execution_count = 1

def pytest_configure(config):
    try: from nbval import kernel, plugin
    except ImportError: return
    opt = config.option
    opt.nbval_sanitize_with = opt.nbval_sanitize_with or str(config.rootpath/'tests'/'nbval.cfg')
    if not opt.nbval_kernel_name: opt.nbval_current_env = True
    if opt.nbval_cell_timeout == 2000: opt.nbval_cell_timeout = 300.
    def execute(self, cell_input, allow_stdin=None): return self.kc.execute(cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)
    kernel.RunningKernel.execute_cell_input = execute
    sanitize = plugin.IPyNbCell.sanitize
    def approx(self, s): return Approx(sanitize(self, s)) if isinstance(s, str) else Fig(s) if isinstance(s, dict) else s
    plugin.IPyNbCell.sanitize = approx
