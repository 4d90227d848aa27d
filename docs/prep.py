"Turn nbs/*.ipynb into docs/_nbs/*.ipynb for Sphinx: nbdev's own processors, minus Quarto and minus running anything"
import ast, json, re, shutil
from importlib import import_module
from pathlib import Path
from fastcore.nbio import write_nb, mk_cell
from fastcore.xtras import globtastic
from nbdev.config import get_config
from nbdev.doclinks import patch_name
from nbdev.process import NBProcessor, Processor
from nbdev.processors import (populate_language, strip_ansi, hide_line, filter_stream_, rm_header_dash, rm_export,
    clean_magics, hide_, strip_hidden_metadata)

PLOTLY, HTML, WIDGET = 'application/vnd.plotly.v1+json', 'text/html', 'application/vnd.jupyter.widget-view+json'

class api(Processor):
    "Each exported definition gets its autodoc entry, where nbdev would put `show_doc`"
    def begin(self):
        mod = next((d for c in self.nb.cells if (d := c.directives_.get('default_exp'))), None)
        if not mod: return
        mod, cells = f'{get_config().lib_path.name}.{mod}', []
        for c in self.nb.cells:
            d = c.directives_
            names = [] if c.cell_type != 'code' or not {'export', 'exports'} & set(d) or 'hide' in d else [
                patch_name(o) for o in ast.parse(c.source).body if isinstance(o, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)) and o.name[0] != '_']
            for n in names:
                kind = 'autoclass' if isinstance(getattr(import_module(mod), n, None), type) else 'autofunction'
                cells.append(mk_cell(f'```{{eval-rst}}\n.. {kind}:: {mod}.{n}\n```', 'markdown'))
            cells.append(c)
        self.nb.cells = cells
        for i, c in enumerate(cells): c.idx_ = i; c.directives_ = getattr(c, 'directives_', {})

def echo_(cell, v='true'):
    if v == 'false': cell.metadata.setdefault('tags', []).append('remove-input')
def fold_(cell, v='true'): cell.metadata.setdefault('tags', []).append('hide-input')

def nbval_marks(cell):
    if cell.cell_type == 'code': cell.source = re.sub(r'^\s*#\s*NBVAL_\w+[ \t]*\n?', '', cell.source, flags=re.M)

def _div(cls, d, style=''):
    txt = json.dumps(d, separators=(',', ':')).replace('</', '<\\/')
    return f'<div class="{cls}"{style}><script type="application/json">{txt}</script></div>'

class live(Processor):
    "Plotly figures and anywidgets become divs that docs/_static/hx.js brings to life; other widgets need a kernel, and say so"
    def begin(self): self.models = self.nb.metadata.pop('widgets', {}).get('application/vnd.jupyter.widget-state+json', {}).get('state', {})
    def cell(self, cell):
        for o in cell.get('outputs', []):
            d = o.get('data', {})
            if fig := d.pop(PLOTLY, None):
                h = (fig.get('layout') or {}).get('height') or 450
                d[HTML] = _div('hx-plotly', {k: fig.get(k) or {} for k in ('data', 'layout')}, f' style="min-height:{h}px"')
            if view := d.pop(WIDGET, None):
                m = self.models.get(view['model_id'], {})
                if '_esm' in m.get('state', {}) and len(m['state']['_esm']) < 100_000:
                    d[HTML] = _div('hx-widget', dict(state={k: v for k, v in m['state'].items() if k not in ('layout',)}, buffers=m.get('buffers', [])))
                else: d[HTML] = '<p class="hx-kernel">This control needs a running kernel: open the notebook in JupyterLab to use it.</p>'

def to_docs(cell):
    "`../../docs/log.md` is right in nbs/, where GitHub and JupyterLab follow it; here docs/ is the root of the site"
    if cell.cell_type == 'markdown': cell.source = re.sub(r'(\]\((?:\.\./)+)docs/(?=[\w./-]+\.md)', r'\1', cell.source)

class links(Processor):
    "Backticked names of the library become links to their entry"
    def begin(self):
        syms = import_module(get_config().lib_path.name + '._modidx').d['syms']
        self.syms = {k.removeprefix(mod + '.'): k for mod, s in syms.items() for k in s if '.__' not in k}
    def cell(self, cell):
        if cell.cell_type != 'markdown' or cell.source.startswith('```{eval-rst}'): return
        out, fence = [], False
        for l in cell.source.splitlines():
            if l.lstrip().startswith('```'): fence = not fence
            elif not fence and not l.startswith('#'):
                l = re.sub(r'(?<![\[}`])`([\w.]+)(?:\(\))?`(?!`)', lambda m: f'{{py:obj}}`{m[1]} <{self.syms[m[1]]}>`' if m[1] in self.syms else m[0], l)
            out.append(l)
        cell.source = '\n'.join(out)

PROCS = [populate_language, api, strip_ansi, hide_line, filter_stream_, rm_header_dash, rm_export, clean_magics, hide_, echo_, fold_,
    strip_hidden_metadata, nbval_marks, live, to_docs, links]

def prep(src, dst):
    p = NBProcessor(src, procs=PROCS, rm_directives=True, process=True)
    dst.parent.mkdir(parents=True, exist_ok=True)
    write_nb(p.nb, dst)

def vendor(folder):
    "plotly.js comes out of the plotly package, so that the site asks nobody for it"
    import plotly
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(plotly.__file__).parent/'package_data'/'plotly.min.js', folder)

if __name__ == '__main__':
    cfg = get_config()
    docs, n = cfg.config_path/'docs', 0
    for f in globtastic(cfg.nbs_path, file_glob='*.ipynb', skip_folder_re='^[_.]', skip_file_re='^[_.]', func=Path):
        prep(Path(f), docs/'_nbs'/Path(f).relative_to(cfg.nbs_path)); n += 1
    vendor(docs/'_static'/'vendor')
    print(f'prepared {n} notebooks')
