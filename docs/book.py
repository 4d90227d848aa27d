"The book as data: parts are folders, pages are notebooks; what each needs, what needs it, how long it takes. Nothing is listed by hand"
import ast, json, re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = {'0_start': 'Start', '1_data': 'From logs to batches', '2_attention': 'Attention', '3_engine': 'Measuring and training', '4_heterrec': 'HeterRec',
         '5_homer': 'HoMer', '6_zoo': 'The zoo: other models', '7_systems': 'Systems', '8_studies': 'Studies'}     # a folder without a name here gets its own
SAYS = {'0_start': 'both models at a glance, and how to read the rest', '1_data': 'a shop whose truth is known, schemas, dataset folders, features as codes, splits without leaks',
        '2_attention': 'from a loop to one call; masks that draw themselves, time gaps, batches without padding', '3_engine': 'metrics on the full catalogue, training that survives a kill, simple models that set the bar',
        '4_heterrec': 'the retrieval model of the paper, part by part, then whole, then served', '5_homer': 'request logs, the panoramic past of a user, and a network that scores a whole set at once',
        '6_zoo': 'the models that both papers compare with, each with what makes it different', '7_systems': 'kernels, memory, several devices, streams', '8_studies': 'the tables and figures of the papers, measured again'}

@dataclass
class Page:
    "One notebook"
    path:Path                 # below nbs/
    title:str                 # its first heading
    module:str|None           # what it exports, without `hettrans.`
    runs:str                  # what it says about its running time
    minutes:int               # to read, estimated from words and lines of code
    says:str                  # first sentence
    imports:set               # modules and top-level names that its code imports
    cells:list                # (number of cell, names that it exports)
    needs:list = field(default_factory=list)      # pages whose modules it imports
    used_by:list = field(default_factory=list)    # pages that import its module
    @property
    def part(self): return self.path.parent.name
    @property
    def key(self): return self.path.with_suffix('').as_posix()
    @property
    def number(self): return re.match(r'\d+[a-z]?', self.path.stem)[0].lstrip('0') or '0'

def part_name(folder): return PARTS.get(folder) or folder.split('_', 1)[-1].replace('_', ' ').capitalize()
def short(title): return re.split(r'[:,]', title)[0].strip()

def exported_names(source):
    "Names that an exported cell defines"
    if not re.match(r'\s*#\s*\|\s*exports?\b', source): return []
    try: body = ast.parse(re.sub(r'^\s*[%!].*$', '', source, flags=re.M)).body
    except SyntaxError: return []
    out = []
    for o in body:
        if isinstance(o, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)): out.append(o.name)
        elif isinstance(o, ast.Assign): out += [n.id for t in o.targets for n in (t.elts if isinstance(t, ast.Tuple) else [t]) if isinstance(n, ast.Name)]
    return [n for n in out if not n.startswith('_')]

def imported(sources):
    "Modules of hettrans that code cells import, and names taken from them"
    out = set()
    for s in sources:
        try: tree = ast.parse(re.sub(r'^\s*[%!].*$', '', s, flags=re.M))
        except SyntaxError: continue
        for n in ast.walk(tree):
            names = [a.name for a in n.names] if isinstance(n, ast.Import) else [n.module, *(f'{n.module}.{a.name}' for a in n.names)] if isinstance(n, ast.ImportFrom) and n.module else []
            out |= {x.removeprefix('hettrans.') for x in names if x.startswith('hettrans.')}
    return out

def read_page(f, nbs):
    "A `Page` from a notebook's file, without its links to others"
    cells = json.loads(f.read_text(encoding='utf-8'))['cells']
    src = [''.join(c['source']) for c in cells]
    prose, code = ([s for s, c in zip(src, cells) if c['cell_type'] == kind] for kind in ('markdown', 'code'))
    first = prose[0] if prose else ''
    title = (re.search(r'^#\s+(.+)$', first, re.M) or re.match(r'(.*)', f.stem.replace('_', ' ')))[1].strip()
    runs = re.search(r'(?:Runs in|Minutes on a CPU|Time)\W*:\W*([^.*]+?)[.*]', '\n'.join(prose[:3]))
    runs = '' if not runs else re.sub(r'^(less than one|about one|one)$', r'\1 minute', runs[1].strip())
    module = next((m[1] for s in code if (m := re.search(r'^#\s*\|\s*default_exp\s+(\S+)', s, re.M))), None)
    words, lines = sum(len(re.findall(r"\w[\w'-]*", s)) for s in prose), sum(len([l for l in s.splitlines() if l.strip()]) for s in code)
    body = re.sub(r'^#.*$', '', first, flags=re.M).strip().replace('\n', ' ')
    return Page(f.relative_to(nbs), title, module, runs, max(1, round(words/200 + lines/20)), (re.match(r'.+?[.?!](?=\s|$)', body) or [''])[0],
                imported(code), [(i, names) for i, s in enumerate(src) if cells[i]['cell_type'] == 'code' and (names := exported_names(s))])

def read_book(root=ROOT):
    "All pages in reading order, linked by their imports"
    import hettrans
    nbs = Path(root)/'nbs'
    files = [f for f in sorted(nbs.rglob('*.ipynb')) if not any(p.startswith(('.', '_')) for p in f.relative_to(nbs).parts) and re.match(r'\d', f.name)]
    book = [read_page(f, nbs) for f in files]
    makes = {p.module: p for p in book if p.module}
    top = {n: m.removeprefix('hettrans.') for n, m in hettrans._where.items()}
    for p in book:
        p.needs = sorted({q.path: q for m in p.imports if (q := makes.get(top.get(m, m))) and q is not p}.values(), key=lambda q: files.index(nbs/q.path))
    for p in book: p.used_by = [q for q in book if p in q.needs]
    return book

def parts(book):
    "folder -> its pages, in order"
    out = {}
    for p in book: out.setdefault(p.part, []).append(p)
    return dict(sorted(out.items()))

def defined_at(book):
    "`hettrans.module.name` -> (page, number of the cell)"
    return {f'hettrans.{p.module}.{n}': (p, i) for p in book if p.module for i, names in p.cells for n in names}

def label(page, cell): return f'nb-{page.path.stem}-{cell}'.replace('_', '-').lower()
