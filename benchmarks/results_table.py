"The tables of benchmarks/results: read the rows that are there, add rows, and say on what they were measured"
import csv, os, platform

def machine(): return f'{platform.machine()}, {os.environ.get("OMP_NUM_THREADS", os.cpu_count())} threads'

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
