"""Chunks give the gradient of the whole batch, including dropout."""

import torch
from torch import nn

from ascl_lightning.data.batch import Features
from ascl_lightning.training.gradient_caching import encode_in_chunks, mixes_rows


def gradient(layer, encode, rows, chunk_size):
    torch.manual_seed(3)
    layer.zero_grad()
    (encoded,) = encode(rows, chunk_size)
    encoded.square().sum().backward()
    return layer.weight.grad.clone()


def test_dropout_is_the_same_in_both_passes():
    layer, dropout = nn.Linear(4, 5).double(), nn.Dropout(0.5)
    rows = torch.randn(7, 4, dtype=torch.float64)

    def encode(part):
        return (dropout(layer(part)),)

    def kept(rows, chunk_size):
        """The same chunks without recomputation."""
        return (torch.cat([encode(part)[0] for part in rows.split(chunk_size)]),)

    chunked = gradient(layer, lambda rows, size: encode_in_chunks(encode, rows, chunk_size=size), rows, 3)
    torch.testing.assert_close(chunked, gradient(layer, kept, rows, 3), rtol=1e-12, atol=0)


def test_each_chunk_is_encoded_twice_and_a_small_batch_once():
    layer, seen = nn.Linear(4, 5), []

    def encode(part):
        seen.append(len(part))
        return (layer(part),)

    rows = torch.randn(7, 4)
    encode_in_chunks(encode, rows, chunk_size=3)[0].sum().backward()
    assert sorted(seen) == [1, 1, 3, 3, 3, 3]
    seen.clear()
    encode_in_chunks(encode, rows, chunk_size=7)[0].sum().backward()
    encode_in_chunks(encode, rows, chunk_size=None)[0].sum().backward()
    assert seen == [7, 7]


def test_features_of_different_lengths_are_joined_and_none_stays_none():
    items = Features(torch.randn(3, 2), torch.randn(3, 4, 2), torch.ones(3, 4, dtype=torch.bool))

    def encode(part):
        longest = 4 - len(part)  # 2 for the first chunk, 3 for the second
        return Features(part.pooled, part.tokens[:, :longest], part.mask[:, :longest]), None

    joined, nothing = encode_in_chunks(encode, items, chunk_size=2)
    assert nothing is None
    assert torch.equal(joined.pooled, items.pooled)
    assert joined.mask.tolist() == [[True, True, False]] * 2 + [[True] * 3]
    assert torch.equal(joined.tokens[2], items.tokens[2, :3])


def test_batch_normalisation_mixes_rows_only_in_training():
    layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert mixes_rows(layers)
    assert not mixes_rows(layers.eval())
    assert not mixes_rows(nn.LayerNorm(2))
