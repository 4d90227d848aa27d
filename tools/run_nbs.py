"Run notebooks in a real kernel, honouring nbdev directives, and store outputs that come out the same next time"
import argparse, json, os, re, runpy, sys, time
from pathlib import Path
import nbformat
from fastcore.nbio import dict2nb, does_cell_eval
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

STATE = 'application/vnd.jupyter.widget-state+json'

class Client(NotebookClient):
    "Leaves `#| eval: false` cells (and `nbdev_export()`) alone"
    async def async_execute_cell(self, cell, cell_index, **kw):
        if cell.cell_type == 'code' and not does_cell_eval(dict2nb({'cells': [dict(cell)], 'metadata': {}}).cells[0], True):
            cell.outputs, cell.execution_count = [], None
            return cell
        return await super().async_execute_cell(cell, cell_index, **kw)

def tidy(nb):
    "Drop 5 MB copies of plotly.js; rename widget models and plotly uids in order of appearance"
    state = nb.metadata.get('widgets', {}).get(STATE, {}).get('state', {})
    known = set(state)
    for k in [k for k, m in state.items() if len(m['state'].get('_esm', '')) > 100_000]: del state[k]
    ids, uids = {}, {}
    txt = re.sub(r'(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])', lambda m: ids.setdefault(m[0], f'{len(ids)+1:032x}') if m[0] in known else m[0], json.dumps(nb))
    txt = re.sub(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', lambda m: uids.setdefault(m[0], f'00000000-0000-4000-8000-{len(uids)+1:012x}'), txt)
    return nbformat.from_dict(json.loads(txt))

def run(p, timeout):
    nb, t = nbformat.read(p, 4), time.time()
    Client(nb, timeout=timeout, coalesce_streams=True, record_timing=False, kernel_name='python3', resources={'metadata': {'path': str(p.parent)}}).execute()
    nbformat.write(tidy(nb), p)
    print(f'{p.name}: {time.time()-t:.1f}s', flush=True)

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('notebooks', nargs='*', type=Path, help='notebooks to run; all of nbs/ when none is named')
    ap.add_argument('--timeout', type=int, default=120, help='seconds that one cell may take')
    args, root = ap.parse_args(), Path(__file__).resolve().parents[1]
    for k, v in runpy.run_path(str(root/'nbs'/'conftest.py'))['ENV'].items(): os.environ.setdefault(k, v)
    failed = 0
    for f in args.notebooks or sorted((root/'nbs').glob('[!_.]*/[!_.]*.ipynb')):
        try: run(f, args.timeout)
        except CellExecutionError as e: failed += 1; print(f'{f}: FAILED\n{e}', file=sys.stderr, flush=True)
    return 1 if failed else 0

if __name__ == '__main__': sys.exit(main())
