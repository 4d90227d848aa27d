"""SASRec: one token per item, a causal transformer, the next item by full cross-entropy (Kang and McAuley 2018)"""
from __future__ import annotations
import math
from dataclasses import dataclass
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from hettrans.nn.blocks import CausalStack
from hettrans.nn.embed import TokenEmbedding
from hettrans.nn.jagged import Layout
from hettrans.nn.losses import catalogue_loss
from hettrans.nn.masks import allow_token

@dataclass(frozen=True)
class SASRecConfig:
    "Numbers of SASRec"
    d: int = 64              # width
    heads: int = 2           # attention heads
    layers: int = 2          # blocks
    ffn: int = 1             # hidden width of the feed-forward layer, in multiples of d
    dropout: float = .5      # on the input and on block outputs
    norm: str = 'pre'        # 'pre' or 'post'
    max_len: int = 200       # behaviours of a history
    content: bool = True     # an item is the sum of its id and its features; False: the id alone, as published
    normalise: bool = True   # scores are cosines over a learned temperature; False: dot products
    tau: float = .07         # temperature at the start

class SASRec(nn.Module):
    "Item vectors in, item vectors out: the same table on both sides"
    def __init__(self, config:SASRecConfig, tokens:list):
        super().__init__()
        c = self.config = config
        item = [t for t in tokens if t.side == 'item']
        if not c.content: item = item[:1]
        self.embed = TokenEmbedding(item, c.d)
        self.position_td = nn.Parameter(.02*torch.randn(c.max_len, c.d))
        self.dropout = nn.Dropout(c.dropout)
        self.stack = CausalStack(c.layers, c.d, c.heads, ffn=c.ffn, dropout=c.dropout, norm=c.norm, time_gap=False)
        self.log_inv_tau = nn.Parameter(torch.tensor(-math.log(c.tau)), requires_grad=c.normalise)
    def vectors(self, codes:dict[str, Tensor])->Tensor: return self.embed(codes).sum(1)
    def unit(self, x:Tensor)->Tensor: return F.normalize(x, dim=-1) if self.config.normalise else x
    def forward(self, batch, catalogue:dict[str, Tensor])->Tensor:
        "Packed histories to the vector after each behaviour, `[j, d]`"
        layout = Layout.make(batch.offsets)
        x_jd = self.vectors(self.embed.take(catalogue, batch.items)) + self.position_td[layout.positions]
        return self.stack(self.dropout(x_jd)[:, None], layout, allow_token)[:, 0]
    def item_vectors(self, codes:dict[str, Tensor])->Tensor: return self.unit(self.vectors(codes))
    def user_vectors(self, batch, catalogue:dict[str, Tensor])->Tensor: return self.unit(self(batch, catalogue)[batch.offsets[1:] - 1])
    @property
    def inv_tau(self)->Tensor: return self.log_inv_tau.clamp(max=math.log(200.)).exp() if self.config.normalise else torch.ones_like(self.log_inv_tau)

def sasrec_loss(model:SASRec, user_jd:Tensor, batch, catalogue:dict[str, Tensor])->Tensor:
    "Full cross-entropy over the catalogue at every position"
    return catalogue_loss(model.unit(user_jd), model.item_vectors(catalogue), batch.targets[:, 0], torch.ones_like(user_jd[:, 0]), model.inv_tau)

PRESETS = dict(small=dict(lr=2e-3, batch=128, multimodal='raw'), paper=dict(content=False, normalise=False))
