"A shop and models small enough for tests, made once per process, and the command line called in this process"
import atexit, contextlib, functools, io, shutil, tempfile
from pathlib import Path
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
