"""Edit a notebook as a text file: pull it to Markdown, change it there, push it back.

    python tools/nbtext.py pull nbs/2_attention/11_masks.ipynb masks.md
    python tools/nbtext.py push masks.md nbs/2_attention/11_masks.ipynb

In the text a fence opened by ```python at the left edge is a code cell, everything between is Markdown, and a line `+++`
separates two Markdown cells that follow each other. A cell whose text has not changed keeps its id and its stored outputs.
"""
import argparse, hashlib, json, re, sys
from pathlib import Path

CODE = re.compile(r'(`{3,})python$')          # opens a code cell
FENCE = re.compile(r' {0,3}(`{3,}|~{3,})')    # opens or closes a fence inside Markdown

def parse(text):
    "Cells of a text as a list of (kind, source)"
    cells, prose, code, closing, inside = [], [], None, None, None
    def flush():
        s = '\n'.join(prose).strip('\n'); prose.clear()
        if s.strip(): cells.append(('markdown', s))
    for line in text.split('\n'):
        if code is not None:
            if line.rstrip() == closing: cells.append(('code', '\n'.join(code))); code = None
            else: code.append(line)
        elif inside:
            prose.append(line)
            if re.fullmatch(rf' {{0,3}}{re.escape(inside[0])}{{{len(inside)},}}\s*', line): inside = None
        elif m := CODE.match(line.rstrip()): flush(); code, closing = [], m[1]
        elif line.rstrip() == '+++': flush()
        else:
            prose.append(line)
            if m := FENCE.match(line): inside = m[1]
    if code is not None or inside: raise ValueError(f'a fence opened by {closing if code is not None else inside} is never closed')
    flush()
    return cells

def render(cells):
    "The text of a list of (kind, source), from which `parse` gives the same list"
    out, last = [], None
    for kind, s in cells:
        if kind == 'code':
            fence = '`' * max([3, *(len(m) + 1 for m in re.findall(r'^`{3,}', s, re.M))])
            out.append(f'{fence}python\n{s}\n{fence}' if s else f'{fence}python\n{fence}')
        elif kind == 'markdown': out.append(('+++\n\n' if last == 'markdown' else '') + s)
        else: raise ValueError(f'cells of kind {kind!r} have no text form')
        last = kind
    return '\n\n'.join(out) + '\n'

def read(nb):
    "Cells of a notebook as a list of (kind, source)"
    return [(c['cell_type'], ''.join(c['source'])) for c in nb['cells']]

def pull(nb_path, text_path):
    "Write the text of a notebook"
    cells = read(json.loads(Path(nb_path).read_text(encoding='utf-8')))
    text = render(cells)
    tidy = [(k, s.strip('\n') if k == 'markdown' else s) for k, s in cells if k == 'code' or s.strip()]
    if parse(text) != tidy: raise ValueError(f'{nb_path} does not survive the way through text: does a Markdown cell hold a line `+++`, a ```python fence or an open one?')
    Path(text_path).write_text(text, encoding='utf-8')
    return len(tidy)

def push(text_path, nb_path):
    "Write a notebook from text, keeping ids, metadata and outputs of the cells that are already in it"
    nb_path = Path(nb_path)
    old = json.loads(nb_path.read_text(encoding='utf-8')) if nb_path.exists() else dict(cells=[], metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3')))
    known, used, cells = {}, set(), []
    for c in old['cells']: known.setdefault((c['cell_type'], ''.join(c['source'])), []).append(c)
    for kind, s in parse(Path(text_path).read_text(encoding='utf-8')):
        kept = known.get((kind, s))
        c = kept.pop(0) if kept else dict(cell_type=kind, metadata={}) | (dict(outputs=[], execution_count=None) if kind == 'code' else {})
        i, n = c.get('id'), 0
        while not i or i in used: i, n = hashlib.sha1(f'{s}{n}'.encode()).hexdigest()[:8], n + 1
        used.add(i)
        cells.append(c | dict(id=i, source=s.splitlines(True)))
    nb = dict(cells=cells, metadata=old['metadata'], nbformat=4, nbformat_minor=5)
    nb_path.parent.mkdir(parents=True, exist_ok=True)
    nb_path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')
    return len(cells)

def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('way', choices=['pull', 'push'])
    ap.add_argument('source', type=Path)
    ap.add_argument('target', type=Path)
    a = ap.parse_args(argv)
    try: n = dict(pull=pull, push=push)[a.way](a.source, a.target)
    except (OSError, ValueError) as e: print(f'nbtext: {e}', file=sys.stderr); return 2
    print(f'{a.target}: {n} cells'); return 0

if __name__ == '__main__': sys.exit(main())
