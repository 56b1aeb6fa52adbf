import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.towers import assert_padding_changes_nothing, words
from torch import Tensor
from torch.nn import functional as F

from ascl_lightning.data.batch import TextSpec
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.models.towers.word_convolution import WordConvolution


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), padding=st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_padding_changes_nothing(lengths: list[int], padding: int) -> None:
    torch.manual_seed(0)
    assert_padding_changes_nothing(WordConvolution(vocab_size=10, max_length=12, width=16), lengths, padding)


@torch.no_grad()
def test_tokens_equal_a_naive_computation() -> None:
    torch.manual_seed(0)
    encoder = WordConvolution(vocab_size=10, width=6, depth=2, kernel_size=3)
    ids = [2, 7, 3, 7]
    tokens = [encoder.words.weight[number] for number in ids]
    for block in encoder.blocks:
        inputs = [F.layer_norm(token, (6,), block.norm.weight, block.norm.bias) for token in tokens]
        tokens = [token + _naive_mix(block, inputs, place) for place, token in enumerate(tokens)]
    expected = torch.stack([F.layer_norm(token, (6,)) for token in tokens])
    torch.testing.assert_close(encoder(words(ids, length=6)).tokens[0, :4], expected)


def _naive_mix(block: torch.nn.Module, inputs: list[Tensor], place: int) -> Tensor:
    mixed = block.convolution.bias.clone()
    for step in (-1, 0, 1):
        if 0 <= place + step < len(inputs):
            mixed += block.convolution.weight[:, :, step + 1] @ inputs[place + step]
    return block.linear.weight @ F.gelu(mixed) + block.linear.bias


@torch.no_grad()
def test_a_token_depends_on_words_within_reach_only() -> None:
    encoder = WordConvolution(vocab_size=10, width=16, depth=2, kernel_size=5)
    one, other = (encoder(words([first, *[3] * 7], length=8)).tokens[0] for first in (2, 4))
    changed = (one - other).abs().amax(dim=1) > 1e-6
    assert changed.tolist() == [True] * 5 + [False] * 3


def test_every_weight_gets_a_finite_gradient_beside_an_empty_text() -> None:
    encoder = WordConvolution(vocab_size=10, width=16)
    features = encoder(words([2, 3], [], length=4))
    assert features.mask.tolist() == [[True, True, False, False], [False] * 4]
    assert features.pooled[1].abs().max() == 0
    (features.pooled.sum() + features.tokens.square().sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_documented_shapes_and_errors() -> None:
    encoder = WordConvolution(vocab_size=50, max_length=9, width=24, depth=3, tuning=Tuning(learning_rate=0.5))
    assert encoder.spec == TextSpec(max_length=9, tokenizer=None, vocab_size=50)
    assert (encoder.pooled_dim, encoder.token_dim, encoder.tuning.learning_rate) == (24, 24, 0.5)
    assert encoder(words([49] * 9, length=9)).tokens.shape == (1, 9, 24)
    with pytest.raises(ValueError, match="kernel_size 4 is even"):
        WordConvolution(kernel_size=4)


def test_a_frozen_tower_gives_no_gradient() -> None:
    assert not WordConvolution(width=16, tuning=Tuning(frozen=True))(words([2, 3], length=2)).pooled.requires_grad
