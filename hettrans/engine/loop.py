"""One visible training loop: devices, schedule, clipping, early stopping, checkpoints that resume bit for bit"""
from __future__ import annotations
import json, math, os, random, time
from dataclasses import asdict, dataclass
from pathlib import Path
import numpy as np
import torch
from torch import Tensor, nn
from hettrans.data.schema import InputError

@dataclass(frozen=True)
class TrainConfig:
    "Numbers of the training loop"
    epochs: int = 20           # passes over the training windows
    batch: int = 128           # sequences per step
    lr: float = 1e-3           # peak learning rate
    warmup: float = .05        # share of all steps in which the rate climbs
    schedule: str = 'cosine'   # after the warm-up: 'cosine' to zero, or 'constant'
    weight_decay: float = 0.   # decoupled (AdamW)
    clip: float = 5.           # largest norm of the gradient of all dense parameters
    patience: int = 5          # epochs without a better validation before stopping; 0 = never stop early
    metric: str = 'ndcg@10'    # validation metric that chooses the weights
    save_every: int = 0        # steps between checkpoints inside an epoch; 0 = one at each end of an epoch
    seed: int = 0              # of weights, batches, dropout and negatives
    device: str = 'auto'       # 'auto', 'cpu', 'cuda', 'mps'

def seed_everything(seed:int):
    "Seed Python, numpy and torch"
    random.seed(seed); np.random.seed(seed % 2**32); torch.manual_seed(seed)

def choose_device(name:str='auto')->torch.device:
    "The device by name; 'auto' takes a GPU when there is one"
    have = dict(cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available(), cpu=True)
    if name == 'auto': return torch.device(next(k for k in ('cuda', 'mps', 'cpu') if have[k]))
    if name.split(':')[0] not in have: raise InputError(f"device = {name!r}: choose 'auto', 'cpu', 'cuda' or 'mps'")
    if not have[name.split(':')[0]]: raise InputError(f"device = {name!r} is not to be had on this machine")
    return torch.device(name)

def rate(step:int, total:int, config:TrainConfig)->float:
    "Share of the peak learning rate at a step: a linear climb, then half a cosine or a plain"
    climb = max(1, round(config.warmup*total))
    if step < climb: return (step + 1)/climb
    if config.schedule == 'constant': return 1.
    return .5 + .5*math.cos(math.pi*(step - climb)/max(1, total - climb))

def make_optimizers(model:nn.Module, config:TrainConfig)->list[torch.optim.Optimizer]:
    "Fused AdamW for dense parameters, SparseAdam for tables with sparse gradients"
    sparse = [m.weight for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) and m.sparse]
    known = {id(p) for p in sparse}
    dense = [p for p in model.parameters() if id(p) not in known]
    fused = dense[0].device.type in ('cpu', 'cuda')
    opts = [torch.optim.AdamW(dense, lr=config.lr, weight_decay=config.weight_decay, fused=fused)]
    return opts + ([torch.optim.SparseAdam(sparse, lr=config.lr)] if sparse else [])

def write_tensors(path:Path, tensors:dict[str, Tensor], meta:dict):
    "Write a safetensors file so that a reader finds the old one or the new one, never half of one"
    from safetensors.torch import save_file
    tmp = path.with_name(f'.{path.name}.tmp')
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, tmp, metadata={'json': json.dumps(meta)})
    os.replace(tmp, path)

def read_tensors(path:Path)->tuple[dict[str, Tensor], dict]:
    "Read what `write_tensors` wrote; a damaged file is an `InputError`"
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, 'pt') as f: return {k: f.get_tensor(k) for k in f.keys()}, json.loads((f.metadata() or {}).get('json', '{}'))
    except (SafetensorError, OSError, ValueError) as e: raise InputError(f'{path}: cannot be read as weights ({str(e).splitlines()[0]})') from None

def save_checkpoint(path:Path, model:nn.Module, opts:list, progress:dict):
    "Everything that the rest of the training depends on, in one file"
    t = {f'model.{k}': v for k, v in model.state_dict().items()}
    scalars = {}
    for o, opt in enumerate(opts):
        for i, s in opt.state_dict()['state'].items():
            for k, v in s.items():
                if torch.is_tensor(v): t[f'optim.{o}.{i}.{k}'] = v
                else: scalars[f'{o}.{i}.{k}'] = v
    t['rng.cpu'] = torch.get_rng_state()
    if torch.cuda.is_available(): t['rng.cuda'] = torch.cuda.get_rng_state()
    write_tensors(path, {k: v.clone() for k, v in t.items()}, dict(progress, scalars=scalars))

def load_checkpoint(path:Path, model:nn.Module, opts:list)->dict:
    "Put a checkpoint back; returns its progress"
    t, meta = read_tensors(path)
    model.load_state_dict({k.removeprefix('model.'): v for k, v in t.items() if k.startswith('model.')})
    for o, opt in enumerate(opts):
        state = {}
        for k, v in t.items():
            if k.startswith(f'optim.{o}.'): i, name = k.split('.', 3)[2:]; state.setdefault(int(i), {})[name] = v
        for k, v in meta['scalars'].items():
            if k.startswith(f'{o}.'): i, name = k.split('.', 2)[1:]; state.setdefault(int(i), {})[name] = v
        opt.load_state_dict(dict(state=state, param_groups=opt.state_dict()['param_groups']))
    torch.set_rng_state(t['rng.cpu'])
    if 'rng.cuda' in t and torch.cuda.is_available(): torch.cuda.set_rng_state(t['rng.cuda'])
    return meta

def _keep_lines(path:Path, epochs:int):
    "Forget the lines of epochs that will be run again"
    if path.exists():
        lines = [l for l in path.read_text().splitlines() if json.loads(l)['epoch'] < epochs]
        path.write_text(''.join(l + '\n' for l in lines))

def train(
    model:nn.Module,        # anything that `loss_of` understands
    epoch_batches,          # epoch -> list of functions that each make one batch: same epoch, same batches
    loss_of,                # (model, batch) -> scalar tensor
    validate,               # model -> dict of metrics, on validation only
    config:TrainConfig,
    out:Path,               # folder of the run
    resume:bool=False,      # go on from the last checkpoint in `out`
    bar:bool=True,          # show progress
    extra_meta:dict|None=None, # told to the weights file
)->dict:
    "Train until the epochs are done or validation stops improving; best weights end in `out/weights.safetensors` and in the model"
    from accelerate import Accelerator
    from tqdm.auto import tqdm
    device = choose_device(config.device)
    if device.type == 'cuda': torch.set_float32_matmul_precision('high')
    acc = Accelerator(cpu=device.type == 'cpu', mixed_precision='bf16' if device.type == 'cuda' else 'no')
    opts = make_optimizers(model.to(acc.device), config)
    wrapped, *opts = acc.prepare(model, *opts)
    last, lines = out/'last.safetensors', out/'metrics.jsonl'
    p = dict(epoch=0, step=0, done=0, best=-math.inf, best_epoch=-1, bad=0, seconds=0.)
    if resume and last.exists(): p |= {k: v for k, v in load_checkpoint(last, acc.unwrap_model(wrapped), opts).items() if k in p}
    else: last.unlink(missing_ok=True)
    _keep_lines(lines, p['epoch'])
    per_epoch = len(epoch_batches(0))
    total = per_epoch*config.epochs
    stopped = lambda: bool(config.patience) and p['bad'] >= config.patience
    while p['epoch'] < config.epochs and not stopped():
        began, losses, seen = time.time(), [], 0
        batches = epoch_batches(p['epoch'])
        progress = tqdm(total=len(batches), initial=p['step'], desc=f"epoch {p['epoch'] + 1}/{config.epochs}", disable=not (bar and acc.is_main_process), leave=False)
        wrapped.train()
        for make in batches[p['step']:]:
            batch = make().to(acc.device)
            for opt in opts:
                for g in opt.param_groups: g['lr'] = config.lr*rate(p['done'], total, config)
                opt.zero_grad(set_to_none=True)
            with acc.autocast(): loss = loss_of(wrapped, batch)
            acc.backward(loss)
            acc.clip_grad_norm_([q for q in model.parameters() if q.grad is not None and not q.grad.is_sparse], config.clip)
            for opt in opts: opt.step()
            losses.append(loss.detach()); seen += len(batch); p['done'] += 1; p['step'] += 1
            progress.update()
            if p['step'] % 10 == 0: progress.set_postfix_str(f"loss {float(loss):.3f}, {seen/(time.time() - began):.0f} sequences/s, {(total - p['done'])*(time.time() - began)/len(losses)/60:.1f} min left at most")
            if config.save_every and p['step'] % config.save_every == 0 and p['step'] < len(batches) and acc.is_main_process:
                save_checkpoint(last, acc.unwrap_model(wrapped), opts, p | dict(seconds=p['seconds'] + time.time() - began))
        progress.close()
        loss = float(torch.stack(losses).mean()) if losses else math.nan
        if not math.isfinite(loss): raise InputError(f"epoch {p['epoch'] + 1}: the loss is {loss}; lower the learning rate (lr = {config.lr:g})")
        wrapped.eval()
        metrics = validate(acc.unwrap_model(wrapped))
        better = metrics[config.metric] > p['best']
        p |= dict(best=metrics[config.metric], best_epoch=p['epoch'], bad=0) if better else dict(bad=p['bad'] + 1)
        p |= dict(epoch=p['epoch'] + 1, step=0, seconds=p['seconds'] + time.time() - began)
        if acc.is_main_process:
            if better: write_tensors(out/'weights.safetensors', acc.unwrap_model(wrapped).state_dict(), extra_meta or {})
            line = dict(epoch=p['epoch'] - 1, loss=loss, lr=config.lr*rate(p['done'] - 1, total, config), seconds=round(p['seconds'], 1), **metrics)
            with open(lines, 'a') as f: f.write(json.dumps(line) + '\n')
            save_checkpoint(last, acc.unwrap_model(wrapped), opts, p)
            if bar: tqdm.write(f"epoch {p['epoch']:3}  loss {loss:.4f}  " + '  '.join(f'{k} {metrics[k]:.4f}' for k in dict.fromkeys(('recall@10', config.metric)) if k in metrics) + f"  {p['seconds']:.0f} s" + ('  best' if better else ''))
    weights, _ = read_tensors(out/'weights.safetensors')
    model = acc.unwrap_model(wrapped)
    model.load_state_dict(weights); model.eval()
    return dict(best=p['best'], best_epoch=p['best_epoch'], epochs=p['epoch'], seconds=p['seconds'])
