"What tests share: a shop and models small enough, made once per process; the command line called in this process; dataset folders to spoil"
import atexit, contextlib, functools, io, shutil, tempfile
from pathlib import Path
import pandas as pd
from hettrans.cli import main

TINY = dict(d=8, heads=2, text_dim=8, batch=16, epochs=2)   # what makes a model quick to train
WORDS = [f'{k}={v}' for k, v in TINY.items()]

def cli(*words):
    "Exit code, standard output and standard error of a command"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: code = main([str(w) for w in words])
        except SystemExit as e: code = e.code or 0
    return code, out.getvalue(), err.getvalue()

def ok(*words):
    "Standard output of a command that must succeed"
    code, out, err = cli(*words)
    assert (code, err) == (0, ''), (words, code, err)
    return out

def fails(*words):
    "The one line of a command that must refuse"
    code, out, err = cli(*words)
    assert code == 2, (words, code, out, err)
    assert err.startswith('hettrans: ') and err.endswith('\n') and err.count('\n') == 1, err
    assert 'Traceback' not in err and len(err) < 500, err
    return err

@functools.cache
def scratch():
    "A folder that goes when the tests end"
    folder = Path(tempfile.mkdtemp(prefix='hettrans-tests-'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder

@functools.cache
def shop():
    "A dataset folder"
    ok('data', 'make', 'marketplace', scratch()/'shop', '--users', 80, '--items', 240, '--set', 'behaviours=10')
    return scratch()/'shop'

def trained(model='sasrec'):
    "The folder of a run on that shop; do not change it"
    return train_once(model)

@functools.cache
def train_once(model):
    ok('train', model, '--data', shop(), '--out', scratch()/model, *(['--set', *WORDS] if model in ('sasrec', 'heterrec') else []))
    return scratch()/model

def copy(folder, to):
    shutil.copytree(folder, to)
    return to

# The schema of a dataset folder, its retrieval half and its ranking half. Tests replace texts in it, and count its lines
RETRIEVAL = '''name = "shop"
[items]
key = "item_id"
features.title = { kind = "text" }
features.brand = { kind = "categorical" }
features.price = { kind = "numerical" }
features.image = { kind = "vector" }
[users]
key = "user_id"
features.age = { kind = "categorical" }
[interactions]
user = "user_id"
item = "item_id"
time = "timestamp"
order = "position"
features.action = { kind = "categorical" }
'''
RANKING = '''[requests]
key = "request_id"
user = "user_id"
time = "timestamp"
[candidates]
request = "request_id"
item = "item_id"
exposed = "exposed"
clicked = "clicked"
position = "position"
features.affinity = { kind = "numerical" }
'''

def write(folder, files):
    "A folder of files, each a text, bytes or a table (CSV); None leaves a file out"
    folder.mkdir(exist_ok=True)
    for name, x in files.items():
        if isinstance(x, pd.DataFrame): x = x.to_csv(index=False)
        if x is not None: (folder/name).write_bytes(x if isinstance(x, bytes) else x.encode())
    return folder
