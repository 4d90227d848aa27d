"""Heterogeneous Token Flatten Layer: a behaviour becomes the set of its feature tokens (HeterRec 2.3)"""
from __future__ import annotations
import torch
from torch import Tensor, nn
from hettrans.nn.embed import TokenEmbedding

class HTFL(nn.Module):
    "Packed histories to tokens `[j, f, d]`: the item's features, then the behaviour's own"
    def __init__(self,
        tokens:list,          # `TokenSpec` of all features, items' first
        d:int,                # width of a token
        slot:bool=False,      # add a learned vector per feature slot (the paper has none)
        id_scale:float=1.,    # length of an id token at the start
        position_rows:int=0,  # rows of a learned table of item positions, counted from the end; 0 = none
    ):
        super().__init__()
        self.item = TokenEmbedding([t for t in tokens if t.side == 'item'], d, slot, id_scale)
        behaviour = [t for t in tokens if t.side == 'behaviour']
        self.behaviour = TokenEmbedding(behaviour, d, slot) if behaviour else None
        self.position_td = nn.Parameter(.02*torch.randn(position_rows, d)) if position_rows else None
    def item_tokens(self, codes:dict[str, Tensor])->Tensor:
        "Tokens of catalogue rows, `[n, f, d]`: the item tower reads the same tables"
        return self.item(codes)
    def forward(self, batch, catalogue:dict[str, Tensor], from_start_j:Tensor)->Tensor:
        x_jfd = self.item_tokens(self.item.take(catalogue, batch.items))
        if self.behaviour is not None: x_jfd = torch.cat([x_jfd, self.behaviour(batch.extra)], 1)
        return x_jfd if self.position_td is None else x_jfd + self.position_td[from_start_j][:, None]
