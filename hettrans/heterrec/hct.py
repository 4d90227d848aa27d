"""Hierarchical Causal Transformer: token-level blocks, fusion, item-level blocks (HeterRec 2.4)"""
from __future__ import annotations
import torch
from torch import Tensor, nn
from hettrans.nn.blocks import CausalStack
from hettrans.nn.masks import MASKS, allow_token
from hettrans.heterrec.item_tower import Fuse

class HCT(nn.Module):
    "Tokens `[j, f, d]` of packed histories to one user vector per behaviour `[j, d]`"
    def __init__(self,
        f:int,                     # tokens per behaviour
        d:int,                     # width
        heads:int,                 # attention heads
        token_layers:int,          # N1
        item_layers:int,           # N2
        mask:str='item-block',     # who reads whom between tokens, a name of `MASKS`
        fuse:str='concat',         # tokens of a behaviour to one vector
        **block,                   # ffn, dropout, norm, n_buckets, shared_bias, time_gap, rotary of `CausalBlock`
    ):
        super().__init__()
        self.allow = MASKS[mask]
        self.token_stack = CausalStack(token_layers, d, heads, **block)
        self.fuse = Fuse(f, d, fuse)
        self.item_stack = CausalStack(item_layers, d, heads, **block)
    def shrink(self, scale:float):
        "Scale the last matrix of every sublayer: near zero, the stack passes its input through"
        with torch.no_grad():
            for block in [*self.token_stack.blocks, *self.item_stack.blocks]:
                for w in (block.attention.w_o, block.feed_forward[-1]): w.weight.mul_(scale)
    def forward(self, x_jfd:Tensor, layout, buckets=None, backend:str='auto')->tuple[Tensor, Tensor]:
        h_jfd = self.token_stack(x_jfd, layout, self.allow, buckets, backend)
        u_j1d = self.item_stack(self.fuse(h_jfd)[:, None], layout, allow_token, buckets, backend)
        return u_j1d[:, 0], h_jfd
