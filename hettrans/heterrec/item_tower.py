"""The item side: token-level MLPs, then one vector per item (HeterRec 2.2)"""
from __future__ import annotations
import math
import torch
from torch import Tensor, nn

class Fuse(nn.Module):
    "The `f` tokens of an item to one vector: concatenation and an MLP (the paper), or their mean, or their sum"
    def __init__(self, f:int, d:int, how:str='concat'):
        super().__init__()
        reduce = dict(concat=lambda x_nfd: x_nfd.flatten(1), mean=lambda x_nfd: x_nfd.mean(1), sum=lambda x_nfd: x_nfd.sum(1))
        if how not in reduce: raise ValueError(f'fuse = {how!r}: choose one of {", ".join(reduce)}')
        self.reduce = reduce[how]
        self.mlp = nn.Sequential(nn.Linear(f*d, d), nn.ReLU(), nn.Linear(d, d)) if how == 'concat' and f > 1 else nn.Identity()
    def forward(self, x_nfd:Tensor)->Tensor: return self.mlp(self.reduce(x_nfd))

class TokenMLP(nn.Module):
    "One two-layer MLP per feature, all computed in two batched products"
    def __init__(self, f:int, d:int):
        super().__init__()
        self.w1_fdd, self.w2_fdd = (nn.Parameter(torch.randn(f, d, d)/math.sqrt(d)) for _ in range(2))
        self.b1_fd, self.b2_fd = (nn.Parameter(torch.zeros(f, d)) for _ in range(2))
    def forward(self, x_nfd:Tensor)->Tensor:
        h_fnd = torch.baddbmm(self.b1_fd[:, None], x_nfd.transpose(0, 1), self.w1_fdd).relu()
        return torch.baddbmm(self.b2_fd[:, None], h_fnd, self.w2_fdd).transpose(0, 1)

class ItemTower(nn.Module):
    "Tokens of an item to their token-level embeddings (targets of the token-level loss) and to the item vector"
    def __init__(self,
        f:int,              # feature tokens of an item
        d:int,              # width
        fuse:str='concat',  # as in `Fuse`
        mlp:bool=True,      # token-level MLPs (the paper); False: the tokens as they are
    ):
        super().__init__()
        self.token_mlp = TokenMLP(f, d) if mlp else nn.Identity()
        self.fuse = Fuse(f, d, fuse)
    def forward(self, x_nfd:Tensor)->tuple[Tensor, Tensor]:
        "-> item vectors `[n, d]`, token-level embeddings `[n, f, d]`"
        t_nfd = self.token_mlp(x_nfd)
        return self.fuse(t_nfd), t_nfd
