"Tables with sparse gradients: the bag that reads them has a sparse gradient too, equal to the dense one, and the optimiser takes it"
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close
from hettrans.data.encode import TokenSpec
from hettrans.engine.loop import TrainConfig, make_optimizers
from hettrans.nn.embed import WEIGHT, BagFeature, TokenEmbedding

def id_and_neighbours(rows, m, d, sparse_rows): return TokenEmbedding([TokenSpec('id', 'table', rows, 1, 0, 'item'), TokenSpec('near', 'bag', rows, m, 0, 'item')], d, sparse_rows=sparse_rows)

@given(st.integers(1, 6), st.integers(1, 5), st.integers(2, 9), st.sampled_from([1, 3, 8]), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_gradient_of_a_bag_is_sparse_where_its_table_is_and_equal(n, m, rows, d, seed):
    r = torch.Generator().manual_seed(seed)
    codes = {'id': torch.randint(rows, (n, 1), generator=r), 'near': torch.randint(rows, (n, m), generator=r), 'near' + WEIGHT: torch.rand(n, m, generator=r)}
    up, start, grads = torch.randn(n, 2, d, generator=r), torch.randn(rows, d, generator=r), []
    for sparse_rows in (1, 1000):
        embed = id_and_neighbours(rows, m, d, sparse_rows)
        embed.features[0].table.weight.data.copy_(start)
        (embed(codes)*up).sum().backward(); grads.append([p.grad for p in embed.parameters()])
    (sparse, gain), (dense, same) = grads
    assert sparse.is_sparse and not dense.is_sparse
    assert_close(sparse.to_dense(), dense); assert_close(gain, same)

def test_neighbours_of_a_large_table_are_trained():
    "Rows of the batch and of its neighbours move, no other"
    embed = id_and_neighbours(20, 3, 8, sparse_rows=10)
    opts = make_optimizers(embed, TrainConfig(lr=.1)); before = embed.features[0].table.weight.detach().clone()
    assert [type(o).__name__ for o in opts] == ['AdamW', 'SparseAdam']
    embed({'id': torch.tensor([[5], [6]]), 'near': torch.tensor([[1, 2, 3], [4, 5, 0]]), 'near' + WEIGHT: torch.tensor([[1., 2, 3], [1, 1, 0]])}).square().sum().backward()
    for opt in opts: opt.step()
    assert (embed.features[0].table.weight != before).any(1).nonzero().flatten().tolist() == [1, 2, 3, 4, 5, 6]

def test_a_frozen_table_is_read_as_before():
    table = nn.Embedding.from_pretrained(torch.arange(8.).view(4, 2), sparse=True)
    assert_close(BagFeature(2, scale=1.)(torch.tensor([[1, 3]]), torch.tensor([[2., 1.]]), table).detach(), torch.tensor([[.5*2 + .25*6, .5*3 + .25*7]]))
