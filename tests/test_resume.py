"A training that is killed (SIGKILL) and resumed ends at the same bits as one that was never broken, on one CPU thread"
import functools, json, os, random, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
from hettrans.engine.loop import read_tensors, write_tensors
from tiny import TINY, copy, fails, ok, scratch, shop

ENV = os.environ | {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
FIELDS = {**TINY, 'epochs': 2, 'batch': 8, 'save_every': 2, 'dropout': .3, 'input_dropout': .2, 'steps': 2, 'negatives': 'sampled', 'n_sampled': 32}

@functools.cache
def plain_shop():
    "The shop without its simulator, which would only cost time here"
    folder = copy(shop(), scratch()/'plain')
    (folder/'truth.toml').unlink()
    return folder

def words(out, *more): return ['train', 'heterrec', '--data', str(plain_shop()), '--out', str(out), '--set', *(f'{k}={v}' for k, v in FIELDS.items()), *more]

# One process imports everything once; each training then runs in a child of its own, before any thread or generator was used.
# A child kills itself with SIGKILL when the named function of hettrans.engine is called for the n-th time (before or after the call).
DRIVER = '''
import json, os, signal, sys
import torch; torch.set_num_threads(1)
from hettrans.cli import main
import torch._dynamo, torch.distributed.fsdp, accelerate, tqdm.auto, sklearn.decomposition, sklearn.feature_extraction.text, hettrans.engine.loop as loop, hettrans.engine.run as run, hettrans.heterrec.model
def arm(module, name, n, after):
    module, count = {'loop': loop, 'run': run}[module], [0]
    real = getattr(module, name)
    def armed(*a, **kw):
        count[0] += 1
        if count[0] == n and not after: os.kill(os.getpid(), signal.SIGKILL)
        out = real(*a, **kw)
        if count[0] == n: os.kill(os.getpid(), signal.SIGKILL)
        return out
    setattr(module, name, armed)
for kill, words in json.loads(sys.argv[1]):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        if kill: arm(*kill)
        code = main(words); sys.stdout.flush(); os._exit(code)
    status = os.waitpid(child, 0)[1]
    print('status', -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), flush=True)
'''

def drive(jobs):
    "Run trainings in one process; the exit status of each (-9: killed), and all that was printed"
    r = subprocess.run([sys.executable, '-c', DRIVER, json.dumps(jobs)], capture_output=True, text=True, env=ENV)
    assert r.returncode == 0 and not r.stderr, r.stderr
    return [int(l.split()[1]) for l in r.stdout.splitlines() if l.startswith('status ')], r.stdout

KILLS = {   # what is called when the training dies, which time, after the call or before it
    'while the folder is being filled':             ('run', 'save_dataset', 1, True),
    'before config.json is in place':               ('run', 'write_text', 1, False),
    'in the first epoch, before any checkpoint':    ('loop', 'train_step', 2, False),
    'in the first epoch, after a checkpoint':       ('loop', 'train_step', 6, True),
    'in the middle of the second epoch':            ('loop', 'train_step', 14, False),
    'after weights, before the line of the epoch':  ('loop', 'write_tensors', -1, True),    # -1: the first weights file
    'after the line, before the checkpoint':        ('loop', 'end_epoch', 1, True),
    'at the checkpoint that ends the last epoch':   ('loop', 'end_epoch', 2, True),
    'before metrics.json is in place':              ('run', 'write_text', 3, False),
}
HALF = 'in the middle of the second epoch'      # this one is also kept as it was left

def steps_per_epoch(out): return read_tensors(out/'last.safetensors')[1]['done']//FIELDS['epochs']

@functools.cache
def outcome():
    "The unbroken run, and for every kill the folder that was resumed, its first exit status and its second"
    base = scratch()/'resume'
    whole = base/'whole'
    assert drive([(None, words(whole))])[0] == [0]
    saves = (steps_per_epoch(whole) - 1)//FIELDS['save_every']               # checkpoints within an epoch
    jobs = []
    for i, (module, name, n, after) in enumerate(KILLS.values()):
        n = saves + 1 if n == -1 else n
        jobs += [((module, name, n, after), words(base/str(i))), (None, words(base/str(i), '--resume'))]
        if list(KILLS)[i] == HALF: jobs.append(((module, name, n, after), words(base/'half')))
    status, text = drive(jobs)
    assert status.pop(2*list(KILLS).index(HALF) + 2) == -signal.SIGKILL
    return whole, {k: (base/str(i), *status[2*i:2*i + 2]) for i, k in enumerate(KILLS)}

def same_tensors(a, b):
    "Every tensor and every fact in two safetensors files, but for the seconds"
    (s, m), (t, n) = read_tensors(a), read_tensors(b)
    assert s.keys() == t.keys()
    for k in s: assert s[k].dtype == t[k].dtype and torch.equal(s[k], t[k]), k
    assert {**m, 'seconds': 0} == {**n, 'seconds': 0}

def lines(out): return [{**json.loads(l), 'seconds': 0} for l in (out/'metrics.jsonl').read_text().splitlines()]
def facts(out, name): return {**json.loads((out/name).read_text()), 'seconds': 0}

def same_run(a, b):
    assert (a/'weights.safetensors').read_bytes() == (b/'weights.safetensors').read_bytes()
    same_tensors(a/'last.safetensors', b/'last.safetensors')
    assert lines(a) == lines(b) and len(lines(a)) == FIELDS['epochs']
    for name in ('metrics.json', 'training.json', 'config.json', 'encoder.json'): assert facts(a, name) == facts(b, name), name
    for name in ('items.parquet', 'users.parquet', 'interactions.parquet', 'schema.toml'): assert (a/'data'/name).read_bytes() == (b/'data'/name).read_bytes()
    assert sorted(p.name for p in a.iterdir()) == sorted(p.name for p in b.iterdir())

@pytest.mark.parametrize('kill', KILLS)
def test_killed_and_resumed_bit_for_bit(kill):
    whole, broken = outcome()
    out, first, second = broken[kill]
    assert first == -signal.SIGKILL, 'the training was not killed'
    assert second == 0
    same_run(out, whole)

def resume_here(out):
    "In this process: another one, with other imports and another past"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try: ok(*words(out, '--resume'))
    finally: torch.set_num_threads(threads)

def nudge(t):
    k = next(k for k in t if k.startswith('model.') and t[k].is_floating_point() and t[k].numel() > 1)
    t[k] = t[k].clone(); t[k].view(-1)[0] += 1e-6*t[k].abs().max() + 1e-6

SPOILT = {   # what is changed in a checkpoint of the second epoch: the tensors, the facts
    'nothing':              lambda t, meta: None,
    'one weight, a little': lambda t, meta: nudge(t),
    'the random state':     lambda t, meta: t.update({'rng.cpu': torch.Generator().manual_seed(99).get_state()}),
    'the step':             lambda t, meta: meta.update(step=meta['step'] - 1, done=meta['done'] - 1),
}

@pytest.mark.parametrize('what', SPOILT)
def test_the_comparison_would_notice(what, tmp_path):
    "A checkpoint with another weight, random state or step ends at other bits: so dropout and negatives are drawn, and all three are put back"
    whole, _ = outcome()
    other = copy(scratch()/'resume'/'half', tmp_path/'other')
    t, meta = read_tensors(other/'last.safetensors')
    assert 0 < meta['step'] < steps_per_epoch(whole) and meta['epoch'] == 1
    SPOILT[what](t, meta)
    write_tensors(other/'last.safetensors', t, meta)
    resume_here(other)
    assert len(lines(other)) == FIELDS['epochs']
    if what == 'nothing': same_run(other, whole)
    else:
        with pytest.raises(AssertionError): same_tensors(other/'last.safetensors', whole/'last.safetensors')

def test_epochs_are_long_enough():
    whole, _ = outcome()
    assert steps_per_epoch(whole) >= 7
    assert len({l['loss'] for l in lines(whole)}) == FIELDS['epochs']

def test_a_real_process_killed_from_outside():
    "The command itself, killed at a moment that nobody chose"
    out = scratch()/'outside'
    whole, _ = outcome()
    command = [sys.executable, '-m', 'hettrans.cli']
    p = subprocess.Popen([*command, *words(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENV)
    while not (out/'last.safetensors').exists() and p.poll() is None: time.sleep(.005)
    time.sleep(random.random()*.2)
    p.kill()
    assert p.wait() in (-signal.SIGKILL, 0)
    resume_here(out)
    same_run(out, whole)

def test_without_resume_a_broken_run_is_left_alone(tmp_path):
    whole, broken = outcome()
    half = tmp_path/'half'; half.mkdir(); (half/'unfinished').touch(); (half/'encoder.json').write_text('{')
    assert 'holds a run already' in fails(*words(half))
    assert (half/'encoder.json').read_text() == '{'
    foreign = tmp_path/'foreign'; foreign.mkdir(); (foreign/'thesis.txt').write_text('mine')
    assert 'neither empty nor a run' in fails(*words(foreign, '--resume'))
    assert [p.name for p in foreign.iterdir()] == ['thesis.txt']
