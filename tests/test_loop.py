"Where a training runs: one device after the other in one process, a device with a number, and the random state of an Apple GPU; what moves there, and what the bar tells"
from types import SimpleNamespace
import pytest, torch, tqdm.auto
from torch import nn
from hettrans.engine import loop
from hettrans.engine.loop import Progress, TrainConfig, load_checkpoint, make_optimizers, moved, place, save_checkpoint, train_epoch, train_step

@pytest.fixture
def pretend(monkeypatch):
    "Machines with several GPUs, as far as the choice of a device goes; accelerate takes what is really there"
    current = []
    monkeypatch.setattr(torch, 'set_float32_matmul_precision', lambda how: None)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: current.append(torch.device(device)))
    monkeypatch.setattr(loop, 'choose_device', torch.device)
    yield current
    place(nn.Linear(1, 1), TrainConfig(device='cpu'))           # what comes after finds no bf16

def one_step(device):
    "Precision and device of a step of training"
    acc, model, *opts = place(nn.Linear(3, 1), TrainConfig(device=device))
    def loss_of(m, x): return m(x).float().square().sum()
    assert torch.isfinite(train_step(acc, model, opts, loss_of, torch.ones(2, 3, device=acc.device), .1, 1.))
    return acc.mixed_precision, model.weight.device.type

@pytest.mark.parametrize('devices', [('cpu', 'cuda', 'cpu'), ('cuda', 'cpu', 'cuda'), ('cpu', 'cpu')])
def test_one_process_trains_on_one_device_after_the_other(pretend, devices):
    assert [one_step(d)[0] for d in devices] == ['bf16' if d == 'cuda' else 'no' for d in devices]

@pytest.mark.parametrize('device, want', [('cuda:1', [torch.device('cuda:1')]), ('cuda:0', [torch.device('cuda:0')]), ('cuda', []), ('cpu', []), ('mps', []), ('mps:0', []), ('cpu:0', [])])
def test_a_numbered_cuda_device_becomes_the_current_one_before_accelerate_looks(pretend, monkeypatch, device, want):
    import accelerate
    seen, real = [], accelerate.Accelerator
    monkeypatch.setattr(accelerate, 'Accelerator', lambda **kw: seen.append(list(pretend)) or real(**kw))
    place(nn.Linear(1, 1), TrainConfig(device=device))
    assert seen == [want] and pretend == want

def test_the_random_state_of_an_apple_gpu_is_saved_and_restored(monkeypatch, tmp_path):
    model, state, back = nn.Linear(2, 2), torch.arange(16, dtype=torch.uint8), []
    opts = make_optimizers(model, TrainConfig())
    monkeypatch.setattr(torch.mps, 'get_rng_state', lambda: state); monkeypatch.setattr(torch.mps, 'set_rng_state', back.append)
    save_checkpoint(tmp_path/'cpu', model, opts, {})
    assert not loop.on_mps(model) and 'rng.mps' not in loop.read_tensors(tmp_path/'cpu')[0]
    monkeypatch.setattr(loop, 'on_mps', lambda model: True)
    save_checkpoint(tmp_path/'mps', model, opts, {}); load_checkpoint(tmp_path/'cpu', model, opts)
    assert not back
    load_checkpoint(tmp_path/'mps', model, opts)
    assert len(back) == 1 and torch.equal(back[0], state)
    monkeypatch.undo(); load_checkpoint(tmp_path/'mps', model, opts)      # a run of an Apple GPU goes on anywhere

def test_a_model_on_an_apple_gpu_is_known():
    class There:
        def __init__(self, *kinds): self.kinds = kinds
        def parameters(self): return [SimpleNamespace(device=torch.device(k)) for k in self.kinds]
    assert loop.on_mps(There('mps')) and loop.on_mps(There('mps:0')) and not any(loop.on_mps(There(*k)) for k in ((), ('cpu',), ('cuda:0', 'cpu')))

class Fake:
    "A batch of two that notes what is done to it"
    def __init__(self): self.done = []
    def __len__(self): return 2
    def pin_memory(self): self.done.append('pin'); return self
    def to(self, device): self.done.append(str(device)); return self

class Unpinned:
    "A batch that knows no pinned memory"
    def to(self, device): return device

@pytest.mark.parametrize('device, want', [('cpu', ['cpu']), ('mps', ['mps']), ('mps:0', ['mps:0']), ('cuda', ['pin', 'cuda']), ('cuda:1', ['pin', 'cuda:1'])])
def test_a_batch_is_pinned_for_cuda_and_for_nothing_else(device, want):
    batch = Fake()
    assert moved(batch, torch.device(device)) is batch and batch.done == want
    assert moved(Unpinned(), torch.device(device)) == torch.device(device)

@pytest.fixture
def epoch(monkeypatch):
    "Runs an epoch with fake batches on a fake device; returns the batches and the steps at which the bar told something"
    told = []
    class Bar:
        def __init__(self, total, initial=0, **kw): self.n = initial
        def update(self): self.n += 1
        def set_postfix_str(self, text): told.append((self.n, text))
        def close(self): pass
    monkeypatch.setattr(tqdm.auto, 'tqdm', Bar); monkeypatch.setattr(loop, 'train_step', lambda *a: torch.tensor(1.))
    def run(steps, begin=0, device='cpu'):
        told.clear(); batches = [Fake() for _ in range(steps)]
        progress = Progress(step=begin, done=begin, loss=float(begin))
        train_epoch(SimpleNamespace(device=torch.device(device)), None, [], None, [lambda b=b: b for b in batches], steps, TrainConfig(), progress, None, True)
        assert progress.step == progress.done == steps
        return batches, list(told)
    return run

@pytest.mark.parametrize('device, want', [('cpu', ['cpu']), ('cuda', ['pin', 'cuda'])])
def test_the_epoch_pins_every_batch_once_on_cuda_and_none_on_a_cpu(epoch, device, want):
    assert [b.done for b in epoch(3, device=device)[0]] == [want]*3

@pytest.mark.parametrize('steps, begin, want', [(1, 0, [1]), (5, 0, [1, 5]), (10, 0, [1, 10]), (23, 0, [1, 10, 20, 23]), (23, 4, [5, 14, 23]), (23, 22, [23])])
def test_the_bar_tells_loss_and_time_from_the_first_step_on_and_at_the_last(epoch, steps, begin, want):
    told = epoch(steps, begin)[1]
    assert [n for n, _ in told] == want and all(text.startswith('loss 1.000, ') for _, text in told) and told[-1][1].endswith('at most 0.0 min left')

def test_the_pace_of_a_step_that_took_no_time_is_a_number():
    assert loop.pace(Progress(step=1, done=1, loss=2.), total=5, seen=8, steps=1, spent=0.).startswith('loss 2.000, ')
