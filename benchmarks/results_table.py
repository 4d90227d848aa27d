"What the studies share: where data lies; the tables of benchmarks/results, rows that are there, rows to add, the machine; what several seeds say together"
import csv, os, platform
from pathlib import Path

def machine(): return f'{platform.machine()}, {os.environ.get("OMP_NUM_THREADS", os.cpu_count())} threads'

def data_at(name):
    "Folder of a dataset under $HETTRANS_DATA, or else in data/ or in ../shared/data; ends with one line where there is none"
    root = Path(__file__).parents[1]
    places = [Path(os.environ['HETTRANS_DATA'])] if 'HETTRANS_DATA' in os.environ else [root/'data', root.parent/'shared'/'data']
    for place in places:
        if (place/name).is_dir(): return place/name
    raise SystemExit(f"{name}: no such folder in {' or '.join(map(str, places))} (HETTRANS_DATA names another place; data/README.md says where the data comes from)")

def fields_of(words):
    "FIELD=VALUE words as a dictionary"
    return dict(w.split('=', 1) for w in words)

def rows_of(path):
    "Rows of a table, as words; none where there is no table yet"
    if not path.exists(): return []
    with open(path) as f: return list(csv.DictReader(f))

def add_rows(path, fields, rows):
    "Append rows to a table; a new one gets its folder and its header"
    new = not path.exists(); path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a', newline='') as f:
        w = csv.DictWriter(f, fields)
        if new: w.writeheader()
        w.writerows(rows)

def seed_mean(values):
    "Mean over seeds and the half width of its 95% t-interval, NaN for one seed"
    import numpy as np
    from hettrans.viz.worth import t_factor        # not at the top: the environments of other libraries read this file, too
    return np.mean(values), t_factor(len(values))*np.std(values, ddof=1)/len(values)**.5 if len(values) > 1 else float('nan')
