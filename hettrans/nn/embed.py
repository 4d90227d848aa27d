"""Tables for a schema: every feature of a row becomes a vector of the same width"""
from __future__ import annotations
import math
import torch
from torch import Tensor, nn

class FeatureTable(nn.Module):
    "Look-up for one feature: `pieces` tables of width d/pieces whose rows are concatenated (one piece: a plain table)"
    def __init__(self,
        rows:int,          # rows of each table
        d:int,             # width of the token
        pieces:int=1,      # Z of the paper: quantile groups of a multimodal feature
        sparse:bool=False, # sparse gradients, for tables far larger than what a batch touches
    ):
        super().__init__()
        if d % pieces: raise ValueError(f'a token of width {d} cannot be cut into {pieces} equal pieces')
        self.rows, self.pieces = rows, pieces
        self.table = nn.Embedding(rows*pieces, d//pieces, sparse=sparse)
        self.register_buffer('start_z', torch.arange(pieces)*rows, persistent=False)
        nn.init.normal_(self.table.weight, std=1/math.sqrt(d))
    def forward(self, codes_nz:Tensor)->Tensor: return self.table(codes_nz + self.start_z).flatten(1)

class VectorFeature(nn.Module):
    "A raw vector, projected: what the paper calls 'without multimodal feature tokens'"
    def __init__(self, width:int, d:int):
        super().__init__()
        self.project = nn.Linear(width, d)
    def forward(self, vectors_nw:Tensor)->Tensor: return self.project(vectors_nw.to(self.project.weight.dtype))

class TokenEmbedding(nn.Module):
    "All features of `n` rows as tokens `[n, f, d]`"
    def __init__(self,
        tokens:list,             # `TokenSpec` of every feature, in order
        d:int,                   # width of a token
        slot:bool=False,         # add a learned vector per feature slot (the paper has none)
        sparse_rows:int=1 << 20, # tables with more rows than this get sparse gradients
    ):
        super().__init__()
        self.names = [t.name for t in tokens]
        self.features = nn.ModuleList([VectorFeature(t.width, d) if t.kind == 'vector' else FeatureTable(t.rows, d, t.pieces, t.rows*t.pieces > sparse_rows) for t in tokens])
        self.slot_fd = nn.Parameter(torch.zeros(len(tokens), d)) if slot else None
    def forward(self, codes:dict[str, Tensor])->Tensor:
        x_nfd = torch.stack([m(codes[k]) for k, m in zip(self.names, self.features)], 1)
        return x_nfd if self.slot_fd is None else x_nfd + self.slot_fd
