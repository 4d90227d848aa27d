"""Turn nbs/*.ipynb into docs/_nbs/*.ipynb for Sphinx: nbdev's own processors, minus Quarto and minus running anything.

Beside the notebooks it writes the pages that follow from them: the book with its parts, the API reference and the tables of results.
Everything lands in docs/_nbs, which is not committed; a file whose text has not changed is left alone, so that Sphinx need not read it again.
"""
import csv, inspect, json, re, shutil
from importlib import import_module
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from fastcore.nbio import mk_cell, nb2str
from nbdev.process import NBProcessor, Processor
from nbdev.processors import (populate_language, strip_ansi, hide_line, filter_stream_, rm_header_dash,
    clean_magics, hide_, strip_hidden_metadata)
from book import PARTS, ROOT, SAYS, defined_at, exported_names, label, part_name, parts, read_book, short

DOCS = ROOT/'docs'
OUT, PLOTLY, HTML, WIDGET = DOCS/'_nbs', 'application/vnd.plotly.v1+json', 'text/html', 'application/vnd.jupyter.widget-view+json'
WRITTEN = set()

def write(path, text):
    "Write what has changed, and remember that the file belongs here"
    WRITTEN.add(path); path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding='utf-8') != text: path.write_text(text, encoding='utf-8')

# -- notebooks ---------------------------------------------------------------------------------------------------------------

def markdown(source):
    c = mk_cell(source, 'markdown'); c.directives_ = {}
    return c

class chips(Processor):
    "Above each exported cell its names, with the way to their entries in the API reference"
    def begin(self):
        mod, cells = next((d for c in self.nb.cells if (d := c.directives_.get('default_exp'))), None), []
        for i, c in enumerate(self.nb.cells):
            names = exported_names(PAGE.sources[i]) if mod and c.cell_type == 'code' else []
            if names and 'hide' not in c.directives_:
                cells.append(markdown(f'({label(PAGE, i)})=\n::::{{container}} hx-def\n' + ' '.join(f'{{py:obj}}`{n} <hettrans.{mod}.{n}>`' for n in names) + '\n::::'))
            cells.append(c)
        for i, c in enumerate(cells): c.idx_ = i
        self.nb.cells = cells

def echo_(cell, v='true'):
    if v == 'false': cell.metadata.setdefault('tags', []).append('remove-input')
def fold_(cell, v='true'): cell.metadata.setdefault('tags', []).append('hide-input')

def drop_(cell):
    "Hidden cells and the name of the module are not for readers; the code that is exported is what the page is about"
    if cell.cell_type == 'code' and cell.directives_ and cell.directives_.keys() & {'hide', 'default_exp'}: del cell['source']

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

def said_by(code):
    "Titles and axes that the code of a figure names"
    found = {k: list(dict.fromkeys(v for v in re.findall(rf"""\b(?:set_)?{k}(?:=|\()\s*f?(['"])(.+?)\1""", code) for v in v[1:] if v)) for k in ('title', 'xlabel', 'ylabel')}
    return '; '.join(f'{what}: {", ".join(found[k])}' for k, what in (('title', 'title'), ('xlabel', 'from left to right'), ('ylabel', 'upwards')) if found[k])

def plain(text):
    "Markdown without its marks"
    text = re.sub(r'\[([^\]]+)\]\([^)]*\)', r'\1', re.sub(r'```[\s\S]*?```|^\s*\|.*$|^#+ .*$|^:::.*$', ' ', text, flags=re.M))
    return re.sub(r'\s+', ' ', re.sub(r'[`*_$\\{}<>"]', '', text)).strip()

class alts(Processor):
    "A picture says in words what it shows: its title and axes, and the sentence of the prose that leads to it"
    def begin(self): self.prose, self.head = '', ''
    def cell(self, cell):
        if cell.cell_type == 'markdown' and not cell.source.startswith('('):
            self.head = next(reversed(re.findall(r'^#+\s+(.*)$', cell.source, re.M)), self.head)
            self.prose = plain(cell.source) or self.prose
        elif any('image/png' in o.get('data', {}) or 'image/svg+xml' in o.get('data', {}) for o in cell.get('outputs', [])):
            text = '. '.join(x for x in (f'Figure, {plain(self.head)}', said_by(cell.source), (re.findall(r'[^.:]+[.:]?', self.prose) or [''])[-1].strip(' .:')) if x)[:300]
            if len(text) < 20: raise SystemExit(f'{PAGE.path}: a figure has no title, no axes and no prose before it, so nothing can be said in its place')
            cell.metadata['mystnb'] = {**cell.metadata.get('mystnb', {}), 'image': {'alt': text}}

def to_docs(cell):
    "`../../docs/log.md` is right in nbs/, where GitHub and JupyterLab follow it; here docs/ is the root of the site"
    if cell.cell_type == 'markdown': cell.source = re.sub(r'(\]\((?:\.\./)+)docs/(?=[\w./-]+\.md)', r'\1', cell.source)

class links(Processor):
    "Backticked names of the library become links to their entry"
    def begin(self):
        names = {}
        for full in AT: names.setdefault(full.rsplit('.', 1)[1], []).append(full)
        own = f'hettrans.{PAGE.module}.'
        self.syms = {n: next((f for f in fs if f.startswith(own)), fs[0]) for n, fs in names.items() if len(fs) == 1 or any(f.startswith(own) for f in fs)}
    def cell(self, cell):
        if cell.cell_type != 'markdown' or cell.source.startswith('('): return
        out, fence = [], False
        for l in cell.source.splitlines():
            if l.lstrip().startswith('```'): fence = not fence
            elif not fence and not l.startswith('#'):
                l = re.sub(r'(?<![\[}`])`([\w.]+)(?:\(\))?`(?!`)', lambda m: f'{{py:obj}}`{m[1]} <{self.syms[m[1]]}>`' if m[1] in self.syms else
                           f'[`{m[1]}`]({self.up}api/{m[1].removeprefix("hettrans.")}.md)' if m[1].removeprefix('hettrans.') in MODULES and m[1].startswith('hettrans.') else m[0], l)
            out.append(l)
        cell.source = '\n'.join(out)
    up = '../'

def link(page, to): return f'[{to.number} {short(to.title)}](../{to.key}.ipynb)' if page else f'[{to.title}]({to.key}.ipynb)'

def card(page):
    "Where a page stands: part, minutes, what it needs, what needs it"
    where = [f'Part {page.part[0]}, {part_name(page.part)}', f'about {page.minutes} minutes to read', f'runs in {page.runs}' if page.runs else '', f'module `hettrans.{page.module}`' if page.module else '']
    order = {p.path: i for i, p in enumerate(BOOK)}
    back, ahead = ([q for q in page.needs if (order[q.path] < order[page.path]) == b] for b in (True, False))
    rows = [('Uses', back), ('Looks ahead to', ahead), ('Used by', page.used_by)]
    return '\n\n'.join(['::::{container} hx-card', ' · '.join(filter(None, where)), *(f'**{what}** ' + ' · '.join(link(page, q) for q in qs) for what, qs in rows if qs), '::::'])

class placed(Processor):
    "The card comes right under the title"
    def begin(self):
        c = next((c for c in self.nb.cells if c.cell_type == 'markdown'), None)
        if c: c.source = re.sub(r'^(# .+)$', lambda m: f'{m[0]}\n\n{card(PAGE)}', c.source, count=1, flags=re.M)

PROCS = [populate_language, placed, chips, strip_ansi, hide_line, filter_stream_, rm_header_dash, drop_, clean_magics, hide_, echo_, fold_,
    strip_hidden_metadata, nbval_marks, live, alts, to_docs, links]

def prep(page):
    global PAGE
    PAGE, src = page, ROOT/'nbs'/page.path
    page.sources = [''.join(c['source']) for c in json.loads(src.read_text(encoding='utf-8'))['cells']]
    for i, c in enumerate((nb := NBProcessor(src, procs=PROCS, rm_directives=True, process=True).nb).cells): c['id'] = f'c{i}'     # new ids would be new pages
    write(OUT/page.path, nb2str(nb))

# -- pages that follow from them ---------------------------------------------------------------------------------------------

def says(page): return re.sub(r'\[([^\]]+)\]\([^)]*\)', r'\1', page.says)     # its links are relative to its own folder

def cell(text): return re.sub(r'\s+', ' ', str(text)).replace('|', '\\|').strip()

def book_page():
    "The book: every part with its pages, minutes and modules"
    out = ['# The book', 'The notebooks are numbered in reading order, and the module of a page uses only modules of earlier pages. Minutes are an estimate from the number of words and lines of code.']
    for folder, pages in parts(BOOK).items():
        out += [f'## {folder[0]} · {part_name(folder)}', f'{SAYS[folder].capitalize()}. {sum(p.minutes for p in pages)} minutes.' if folder in SAYS else f'{sum(p.minutes for p in pages)} minutes.',
                '\n'.join(['| page | minutes | builds |', '|---|---|---|', *(f'| {p.number} [{cell(p.title)}]({p.key}.ipynb) | {p.minutes} | ' + (f'[`{p.module}`](api/{p.module}.md)' if p.module in MODULES else '') + ' |' for p in pages)])]
    for folder in parts(BOOK): out.append(f'```{{toctree}}\n:hidden:\n:glob:\n:caption: {part_name(folder)}\n\n{folder}/*\n```')
    write(OUT/'book.md', '\n\n'.join(out) + '\n')
    write(OUT/'parts.md', '\n'.join(['| part | what it builds | pages | minutes |', '|---|---|---|---|', *(f'| [{part_name(f)}](_nbs/{ps[0].key}.ipynb) | {SAYS.get(f, "")} | {len(ps)} | {sum(p.minutes for p in ps)} |'
        for f, ps in parts(BOOK).items())]) + '\n')     # for the home page

def constant(module, name):
    "What the line of a constant says about it, and its value if that is short"
    lines = [l for l in inspect.getsource(module).splitlines() if re.match(rf'[\w, ]*\b{name}\b[\w, ]*=', l)]
    said = next((m[1] for l in lines if (m := re.search(r'\s#\s+(.*)$', l))), '')
    value = re.sub(r' at 0x\w+', '', repr(getattr(module, name)))
    return said[:1].upper() + said[1:], value if len(value) < 160 else ', '.join(map(str, list(getattr(module, name))))[:300] if isinstance(getattr(module, name), (dict, list, tuple)) else ''

def entry(mod, name):
    "The directive that documents one name"
    full, o = f'hettrans.{mod}.{name}', getattr(import_module(f'hettrans.{mod}'), name)
    page, at = AT.get(full, (None, 0))
    if isinstance(o, type): return f'.. autoclass:: {full}\n   :members:'
    if inspect.isfunction(o) or inspect.isbuiltin(o) or type(o).__name__ == '_lru_cache_wrapper': return f'.. autofunction:: {full}'
    said, value = constant(import_module(f'hettrans.{mod}'), name)
    doc = said or (o.__doc__ or '').split('\n')[0] if type(o).__module__.startswith('hettrans') else said
    built = f'Built in :ref:`{page.number} {short(page.title)} <{label(page, at)}>`.' if page else ''
    return f'.. py:data:: {name}\n\n   {doc}\n\n' + (f'   ``{value}``\n\n' if value and not {"`", "\n"} & set(value) and value == value.strip() else '') + f'   {built}'

def equations():
    "Equations of the papers -> names whose docstrings say that they implement them"
    found = {}
    for full, (page, _) in AT.items():
        mod, name = full.rsplit('.', 1)
        doc = inspect.getdoc(getattr(import_module(mod), name, None)) or ''
        if re.match(r'^(dict|list|tuple|str|int|float)\b', doc): continue
        for paper, nums in re.findall(r'(HeterRec|HoMer)\s+Eq\.\s*([\d, and-]+)', doc.split('\n\n')[0]):
            nums = re.sub(r'(\d+)\s*-\s*(\d+)', lambda m: ' '.join(map(str, range(int(m[1]), int(m[2]) + 1))), nums)
            for k in map(int, re.findall(r'\d+', nums)): found.setdefault((paper, k), []).append((full, page))
    return dict(sorted(found.items()))

def api_pages():
    "One page per module, and an index by package and by equation"
    groups = {}
    for mod, page in MODULES.items():
        m = import_module(f'hettrans.{mod}')
        names = [n for n in getattr(m, '__all__', []) if not n.startswith('_')]
        groups.setdefault(mod.split('.')[0], []).append((mod, page, names))
        body, places = '\n\n'.join(entry(mod, n) for n in names), ' '.join(label(*AT[k]) for n in names if (k := f'hettrans.{mod}.{n}') in AT)
        write(OUT/'api'/f'{mod}.md', f'% {places}\n\n# {mod}\n\nBuilt in [{page.number} {page.title}](../{page.key}.ipynb). {says(page)}\n\n```{{eval-rst}}\n.. py:currentmodule:: hettrans.{mod}\n\n{body}\n```\n')
    if 'viz' in groups: groups['viz'] = groups.pop('viz')       # figures and widgets come last
    out = ['# API reference', 'One page per module, in the order of the book. Each entry gives arguments, shapes and the equation of the paper that it implements, and leads to the notebook that builds it.',
           'At the top level there are `open_dataset`, `HeterRec`, `HoMer`, `fit` and `load_run`: they are imported when they are first asked for.']
    for pkg, mods in groups.items():
        out += [f'## hettrans.{pkg}', '\n'.join(['| module | built in | names |', '|---|---|---|', *(f'| [`{mod}`]({mod}.md) | [{p.number} {cell(short(p.title))}](../{p.key}.ipynb) | ' +
            ', '.join(f'{{py:obj}}`{n} <hettrans.{mod}.{n}>`' for n in names[:8]) + (f' and {len(names) - 8} more' if len(names) > 8 else '') + ' |' for mod, p, names in mods)]),
            '```{toctree}\n:hidden:\n:caption: ' + pkg + '\n\n' + '\n'.join(mod for mod, _, _ in mods) + '\n```']
    out += ['## By equation', 'Which name implements which equation of the two papers, as its docstring says.', '\n'.join(['| paper | equation | name | built in |', '|---|---|---|---|',
        *(f'| {paper} | {k} | ' + ', '.join(f'{{py:obj}}`{full.rsplit(".", 1)[1]} <{full}>`' for full, _ in xs) + ' | ' + ', '.join(dict.fromkeys(f'[{p.number}](../{p.key}.ipynb)' for _, p in xs)) + ' |' for (paper, k), xs in equations().items())])]
    write(OUT/'api'/'index.md', '\n\n'.join(out) + '\n')

def table_of(f):
    "A CSV as a Markdown table: columns that never change are said once, an interval joins its number"
    rows = list(csv.DictReader(f.open(encoding='utf-8')))
    cols = list(rows[0])
    def num(v):
        try: return f'{float(v):.4g}' if re.search(r'[.e]', v) else v
        except ValueError: return v
    same = {c: rows[0][c] for c in cols if len(rows) > 1 and len({r[c] for r in rows}) == 1}
    shown = [c for c in cols if c not in same and not re.search(r'_(lo|hi)$', c)]
    def value(r, c): return num(r[c]) + (f' [{num(r[c + "_lo"])}, {num(r[c + "_hi"])}]' if r.get(c + '_lo') else '')
    said = 'In every row: ' + ', '.join(f'{c} {num(v)}' for c, v in same.items() if v) + '.' if any(same.values()) else ''
    body = ['| ' + ' | '.join(map(cell, shown)) + ' |', '|' + '---|'*len(shown), *('| ' + ' | '.join(cell(value(r, c)) for c in shown) + ' |' for r in rows)]
    return len(rows), said, '\n'.join(body)

def script_of(f):
    "The script that writes a CSV: the one with its name, or one that names it"
    own = ROOT/'benchmarks'/f'{f.stem}.py'
    return own if own.exists() else next((p for p in sorted((ROOT/'benchmarks').glob('*.py')) if f.name in p.read_text(encoding='utf-8')), None)

def results_page():
    "Every table of benchmarks/results with what it measures and the command that writes it"
    import ast
    out = ['# Results', 'Every table that a script of `benchmarks/` has written, as it was written, with the command that writes it again. What the numbers mean and what was tried besides is in the [log of experiments](../log.md).']
    for f in sorted((ROOT/'benchmarks'/'results').glob('*.csv')):
        script, (n, same, table) = script_of(f), table_of(f)
        doc = ast.get_docstring(ast.parse(script.read_text(encoding='utf-8'))) if script else ''
        head, _, rest = doc.partition('\n')
        commands = [l.strip() for l in rest.splitlines() if re.match(r'\s{4,}\S', l)]
        prose = ' '.join(l.strip() for l in rest.splitlines() if l.strip() and not re.match(r'\s{4,}\S', l))
        title = re.sub(r':.*$|\.$', '', head) or f.stem
        out += [f'## {title}', '```bash\n' + '\n'.join(commands) + '\n```' if commands else '', prose, f'`benchmarks/results/{f.name}`, {n} rows. {same}',
                f':::::{{container}} hx-wide\n{table}\n:::::' if n <= 30 else f':::::{{dropdown}} All {n} rows\n::::{{container}} hx-wide\n{table}\n::::\n:::::']
    write(OUT/'results.md', '\n\n'.join(filter(None, out)) + '\n')

def vendor(folder):
    "plotly.js and MathJax come out of Python packages, so that the site asks nobody for them"
    import plotly
    folder.mkdir(parents=True, exist_ok=True)
    if not mathjax() and not (folder/'tex-svg.js').exists(): raise SystemExit('formulas need MathJax from a package, not from the network: pip install sphinx-mathjax-offline')
    for src in [Path(plotly.__file__).parent/'package_data'/'plotly.min.js', mathjax()]:
        if src and not ((to := folder/src.name).exists() and to.stat().st_size == src.stat().st_size): shutil.copy(src, to)

def mathjax():
    try: return next(Path(f.locate()) for f in files('sphinx-mathjax-offline') if f.name == 'tex-svg.js')
    except (PackageNotFoundError, StopIteration): return None

def models_page():
    "The pictures of the two models, for the home page: the same SVG as in the map of the book"
    from hettrans.viz.book import MODELS, draw_model
    write(OUT/'models.html', '<div class="hx-models">' + ''.join(draw_model(m, links=lambda nb: f'_nbs/{nb}.html') for m in MODELS) + '</div>\n')

if __name__ == '__main__':
    BOOK = read_book(); AT = defined_at(BOOK)
    MODULES = {p.module: p for p in BOOK if p.module and (ROOT/'hettrans'/(p.module.replace('.', '/') + '.py')).exists()}
    AT = {k: v for k, v in AT.items() if v[0].module in MODULES and hasattr(import_module(k.rsplit('.', 1)[0]), k.rsplit('.', 1)[1])}
    for page in BOOK: prep(page)
    book_page(); api_pages(); results_page(); models_page(); vendor(DOCS/'_static'/'vendor')
    write(OUT/'where.json', json.dumps({k: [f'{p.number} {short(p.title)}', label(p, i)] for k, (p, i) in AT.items()}, indent=0))
    for f in OUT.rglob('*'):
        if f.is_file() and f not in WRITTEN: f.unlink()
    print(f'prepared {len(BOOK)} notebooks, {len(MODULES)} modules')
