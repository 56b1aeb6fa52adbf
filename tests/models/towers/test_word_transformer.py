import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.towers import assert_padding_changes_nothing, words

from ascl_lightning.data.batch import TextSpec
from ascl_lightning.models.towers.text import TextEncoder
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.models.towers.word_transformer import WordTransformer


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), padding=st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_padding_changes_nothing_in_word_transformer(lengths: list[int], padding: int) -> None:
    torch.manual_seed(0)
    encoder = WordTransformer(vocab_size=10, max_length=12, width=16, num_heads=2).eval()
    assert_padding_changes_nothing(encoder, lengths, padding)


def test_word_transformer_sees_the_order_of_words() -> None:
    encoder = WordTransformer(vocab_size=10, width=16).eval()
    one, other = encoder(words([2, 3, 4], [4, 3, 2], length=3)).pooled
    assert (one - other).abs().max() > 1e-4


def test_a_row_of_padding_has_finite_outputs_and_gradients() -> None:
    encoder = WordTransformer(vocab_size=10, width=16)
    features = encoder(words([2, 3], [], length=4))
    assert features.mask.tolist() == [[True, True, False, False], [False] * 4]
    assert features.pooled[1].abs().max() == 0
    (features.pooled.sum() + features.tokens.square().sum()).backward()
    assert features.tokens.isfinite().all()
    with torch.no_grad():  # torch takes another path here
        assert encoder.eval()(words([2, 3], [], length=4)).tokens.isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_word_transformer_has_the_documented_shapes_and_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = WordTransformer(
            vocab_size=50, max_length=9, width=24, depth=3, num_heads=3, tuning=Tuning(learning_rate=0.5)
        )
        encoder.eval()(words([2, 3], length=4))
    assert encoder.spec == TextSpec(max_length=9, tokenizer=None, vocab_size=50)
    assert (encoder.pooled_dim, encoder.token_dim, encoder.tuning.learning_rate) == (24, 24, 0.5)
    assert encoder(words([49] * 9, length=9)).tokens.shape == (1, 9, 24)
    with pytest.raises(ValueError, match="not divisible"):
        WordTransformer(width=10, num_heads=3)


def test_frozen_word_transformer_does_not_drop_out() -> None:
    texts = words([2, 3, 4], length=3)
    trained = WordTransformer(width=16, dropout=0.5)
    assert not torch.equal(trained(texts).pooled, trained(texts).pooled)
    frozen: TextEncoder = WordTransformer(width=16, dropout=0.5, tuning=Tuning(frozen=True))
    assert torch.equal(frozen.train()(texts).pooled, frozen(texts).pooled)
    assert not frozen(texts).pooled.requires_grad
    frozen.requires_grad_(True)  # as something from outside may do
    assert not frozen(texts).pooled.requires_grad
