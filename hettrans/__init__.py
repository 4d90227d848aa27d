"""Heterogeneous transformers for recommendation: HeterRec finds items, HoMer ranks a set of them. Taught in the notebooks of `nbs/`, used from here.

    from hettrans import open_dataset, fit, load_run

Each name is imported when it is first asked for, so that `import hettrans` itself is instant.
"""
__version__ = "0.1.0"

_where = {'open_dataset': 'hettrans.data.dataset', 'HeterRec': 'hettrans.heterrec.model', 'HoMer': 'hettrans.homer.model', 'fit': 'hettrans.engine.run', 'load_run': 'hettrans.engine.run'}
__all__ = ['__version__', *_where]


def __getattr__(name):
    if name not in _where: raise AttributeError(f"module 'hettrans' has no attribute {name!r}; it has {', '.join(_where)}, and its modules (hettrans.data.dataset, ...)")
    from importlib import import_module
    value = globals()[name] = getattr(import_module(_where[name]), name)
    return value


def __dir__(): return sorted({*globals(), *_where})
