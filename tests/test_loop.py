"Where a training runs: one device after the other in one process, a device with a number, and the random state of an Apple GPU"
from types import SimpleNamespace
import pytest, torch
from torch import nn
from hettrans.engine import loop
from hettrans.engine.loop import TrainConfig, load_checkpoint, make_optimizers, place, save_checkpoint, train_step

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
