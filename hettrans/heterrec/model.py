"""HeterRec assembled: tokens, hierarchical causal transformer, item tower, listwise multi-step loss"""
from __future__ import annotations
import math
from dataclasses import dataclass, field
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from hettrans.heterrec.hct import HCT
from hettrans.heterrec.htfl import HTFL
from hettrans.heterrec.item_tower import Fuse, ItemTower
from hettrans.heterrec.lmp import LMPConfig, lmp_loss
from hettrans.nn.blocks import layout_buckets
from hettrans.nn.jagged import Layout

@dataclass(frozen=True)
class HeterRecConfig:
    "Every choice of HeterRec; the defaults are the paper's, or our decision where it is silent"
    d: int = 64                  # width of a token, of the user vector and of the item vector
    heads: int = 2               # attention heads
    token_layers: int = 2        # N1
    item_layers: int = 2         # N2
    ffn: int = 4                 # hidden width of the feed-forward layer, in multiples of d
    dropout: float = .1          # on block outputs
    input_dropout: float = .1    # on the tokens of the history
    mask: str = 'item-block'     # between tokens: 'item-block', 'token', 'past-items'
    norm: str = 'post'           # 'post' (Eq. 7) or 'pre'
    slot: bool = False           # learned feature-slot embedding
    id_scale: float = 1.         # length of an id token at the start; other tokens start at 1
    out_scale: float = 1.        # of the last matrix of every sublayer at the start; small: the history is read as it is at first
    position: str = 'none'       # item position: 'none', 'learned', 'rotary'
    max_len: int = 256           # T: behaviours of a history
    time_gap: bool = True        # the bias of Eq. 2
    gap_buckets: int = 40        # log2 buckets of the time gap in seconds
    shared_gap: bool = False     # one bias table for all heads
    htfl: bool = True            # False: features are concatenated and mixed to one token (Table 2, w/o HTFL)
    hct: bool = True             # False: all N1 + N2 layers at token level, one standard transformer (w/o HCT)
    fuse: str = 'concat'         # tokens to one vector on the user side: 'concat', 'mean', 'sum'
    tower_fuse: str = 'concat'   # and on the item side
    tower_mlp: bool = True       # token-level MLPs of the item side
    normalise: bool = True       # logits are cosines
    tau: float = .05             # temperature of the loss
    learn_tau: bool = True       # learned from `tau`, or fixed
    steps: int = 3               # N_step
    margin: float = 1.           # lambda_m of Eq. 11
    indicator: bool = True       # False: plain multi-token prediction (w/o LMP)
    zero_logit: bool = True      # the "1 +" of Eq. 10
    step_weight: float = 1.      # weight of step i is step_weight^(i-1)
    token_weight: float = 1.     # weight of the token-level loss (0: w/o t-LMP)
    negatives: str = 'in_batch'  # 'in_batch' (the paper), 'catalogue' (full softmax), 'sampled'
    cross_position: bool = False # in-batch negatives from all positions, not just the same step
    n_sampled: int = 1024        # negatives per step when sampled
    logq: bool = False           # subtract the log-probability of being a negative

    @property
    def lmp(self)->LMPConfig:
        return LMPConfig(**{k: getattr(self, k) for k in ('steps', 'margin', 'indicator', 'zero_logit', 'negatives', 'cross_position', 'n_sampled', 'logq')})

@dataclass
class HeterRecOutput:
    "What one pass over packed histories gives"
    user_jd: Tensor    # user vector after each behaviour
    token_jfd: Tensor  # H_N1, the token-level states

class HeterRec(nn.Module):
    "User tower and item tower over shared token tables; a score is the dot product of their vectors"
    config_class = HeterRecConfig
    def __init__(self, config:HeterRecConfig, tokens:list):
        super().__init__()
        c = self.config = config
        f, f_item = len(tokens), sum(t.side == 'item' for t in tokens)
        block = dict(ffn=c.ffn, dropout=c.dropout, norm=c.norm, n_buckets=c.gap_buckets, shared_bias=c.shared_gap, time_gap=c.time_gap, rotary=c.position == 'rotary')
        self.htfl = HTFL(tokens, c.d, c.slot, c.id_scale, c.max_len if c.position == 'learned' else 0)
        self.mix = None if c.htfl else Fuse(f, c.d, c.fuse)
        layers = (c.token_layers, c.item_layers) if c.hct else (c.token_layers + c.item_layers, 0)
        self.hct = HCT(f if c.htfl else 1, c.d, c.heads, *layers, mask=c.mask, fuse=c.fuse, **block)
        self.tower = ItemTower(f_item, c.d, c.tower_fuse, c.tower_mlp)
        self.dropout = nn.Dropout(c.input_dropout)
        self.step_heads = nn.ModuleList([nn.Linear(c.d, c.d, bias=False) for _ in range(c.steps)])
        self.token_heads = nn.ModuleList([nn.Linear(c.d, c.d, bias=False) for _ in range(c.steps)]) if c.token_weight else None
        if c.out_scale != 1: self.hct.shrink(c.out_scale)
        self.log_inv_tau = nn.Parameter(torch.tensor(-math.log(c.tau)), requires_grad=c.learn_tau)

    def forward(self, batch, catalogue:dict[str, Tensor])->HeterRecOutput:
        "Read packed histories: one user vector per behaviour"
        layout = Layout.make(batch.offsets)
        x_jfd = self.htfl(batch, catalogue, layout.positions)
        if self.mix is not None: x_jfd = self.mix(x_jfd)[:, None]
        buckets = layout_buckets(layout, batch.query_times, batch.times, self.config.gap_buckets) if self.config.time_gap else None
        return HeterRecOutput(*self.hct(self.dropout(x_jfd), layout, buckets))

    def towers(self, codes:dict[str, Tensor])->tuple[Tensor, Tensor]:
        "Item vectors `[v, d]` and token-level embeddings `[v, f, d]`"
        return self.tower(self.htfl.item_tokens(codes))
    def unit(self, x:Tensor)->Tensor: return F.normalize(x, dim=-1) if self.config.normalise else x
    def item_vectors(self, codes:dict[str, Tensor])->Tensor: return self.unit(self.towers(codes)[0])
    def user_vectors(self, batch, catalogue:dict[str, Tensor])->Tensor:
        "The vector after the last behaviour of each history, `[b, d]`"
        u_jd = self(batch, catalogue).user_jd
        return self.unit(self.step_heads[0](u_jd[batch.offsets[1:] - 1]))
    @property
    def inv_tau(self)->Tensor: return self.log_inv_tau.clamp(max=math.log(200.)).exp()

def candidate_rows(targets_jp:Tensor, n_items:int, config:HeterRecConfig)->Tensor:
    "Catalogue rows that compete in a step: all, or the batch's own targets (and a uniform sample)"
    if config.negatives == 'catalogue': return torch.arange(n_items, device=targets_jp.device)
    rows = targets_jp[targets_jp >= 0]
    if config.negatives == 'sampled': rows = torch.cat([rows, torch.randint(n_items, (config.n_sampled,), device=rows.device)])
    return rows.unique()

def index_in(rows_c:Tensor, targets_jp:Tensor, n_items:int)->Tensor:
    "Catalogue rows as places in `rows_c`; -1 stays -1"
    place_v = torch.full((n_items + 1,), -1, device=rows_c.device)
    place_v[rows_c] = torch.arange(len(rows_c), device=rows_c.device)
    return place_v[targets_jp]   # -1 reads the last place, which is -1

def first_of_each(codes_cz:Tensor)->tuple[Tensor, Tensor]:
    "Distinct values of a feature: the first row of each, and the value of every row"
    _, value_c = torch.unique(codes_cz, dim=0, return_inverse=True)
    first = torch.full((int(value_c.max()) + 1,), len(value_c), device=value_c.device).scatter_reduce(0, value_c, torch.arange(len(value_c), device=value_c.device), 'amin')
    return first, value_c

def heterrec_loss(model:HeterRec, output:HeterRecOutput, batch, catalogue:dict[str, Tensor], log_q_v:Tensor|None=None)->Tensor:
    "Listwise multi-step loss on items and, weighted, on every feature token (HeterRec Eq. 12)"
    c, n = model.config, len(next(iter(catalogue.values())))
    rows_c = candidate_rows(batch.targets, n, c)
    codes = model.htfl.item.take(catalogue, rows_c)
    v_cd, t_cfd = model.towers(codes)
    targets = index_in(rows_c, batch.targets, n)
    layout = Layout.make(batch.offsets)
    place = dict(position_j=layout.positions, sample_j=layout.sequence)
    steps = lambda heads, x_jd: torch.stack([model.unit(h(x_jd)) for h in heads])
    q = None if log_q_v is None else log_q_v[rows_c]
    loss, _ = lmp_loss(steps(model.step_heads, output.user_jd), model.unit(v_cd), targets, **place, inv_tau=model.inv_tau, config=c.lmp, log_q_v=q)
    if not (c.token_weight and c.htfl): return loss
    for s, name in enumerate(model.htfl.item.names):
        codes_cz = codes[name]
        first, value = first_of_each(codes_cz) if not codes_cz.is_floating_point() else (torch.arange(len(rows_c), device=rows_c.device),)*2
        t = torch.where(targets >= 0, value[targets.clamp_min(0)], -1)
        token, _ = lmp_loss(steps(model.token_heads, output.token_jfd[:, s]), model.unit(t_cfd[first, s]), t, **place, inv_tau=model.inv_tau, config=c.lmp)
        loss = loss + c.token_weight*token
    return loss

PRESETS = dict(
    paper=dict(epochs=30, batch=128),
    small=dict(negatives='sampled', n_sampled=4096, zero_logit=False, steps=1, token_weight=0., d=256, norm='pre', fuse='sum', tower_fuse='sum', tower_mlp=False,
        htfl=False, ffn=1, dropout=.5, input_dropout=.5, id_scale=.5, out_scale=.1, tau=.07, time_gap=False, position='learned',
        multimodal='raw', text_dim=768, neighbours=20, batch=256, lr=3e-3, epochs=20, shuffle_ties=True))
