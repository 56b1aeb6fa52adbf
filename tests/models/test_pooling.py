import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.encoders import MeanColour, WordTable
from torch import Tensor

from ascl_lightning.data.batch import TokenizedTexts
from ascl_lightning.errors import UserError
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.pooling import GeneralizedPooling
from ascl_lightning.models.similarity.fused import FusedSimilarity


def make_pooling(seed: int = 0) -> GeneralizedPooling:
    torch.manual_seed(seed)
    return GeneralizedPooling(position_dim=4, hidden_dim=3, temperature=0.5).double()


def make_tokens(num_items: int, num_tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(num_items, num_tokens, generator=generator) < 0.6
    return torch.randn(num_items, num_tokens, 3, generator=generator, dtype=torch.float64), mask


def naive_states(cell: list[Tensor], positions: list[Tensor]) -> list[Tensor]:
    """The hidden states of a GRU by its equations (Cho et al. 2014), one position at a time."""
    of_input, of_state, input_bias, state_bias = cell
    state, states = torch.zeros(of_state.shape[1], dtype=of_state.dtype), []
    for position in positions:
        reset, update, new = (of_input @ position + input_bias).chunk(3)
        old_reset, old_update, old_new = (of_state @ state + state_bias).chunk(3)
        update = torch.sigmoid(update + old_update)
        candidate = torch.tanh(new + torch.sigmoid(reset + old_reset) * old_new)
        state = (1 - update) * candidate + update * state
        states.append(state)
    return states


def naive_pooling(pooling: GeneralizedPooling, tokens: Tensor) -> Tensor:
    """The pooled vector (D,) of the real tokens (N, D) of one item."""
    if not len(tokens):
        return tokens.new_zeros(tokens.shape[1])
    positions = []
    for number in range(1, len(tokens) + 1):
        angles = torch.tensor([number, number / 10_000**0.5], dtype=torch.float64)
        positions.append(torch.cat([angles.sin(), angles.cos()]))
    weights = dict(pooling.gru.named_parameters())
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    forward = naive_states([weights[name] for name in names], positions)
    backward = naive_states([weights[f"{name}_reverse"] for name in names], positions[::-1])[::-1]
    logits = [
        torch.dot(pooling.logit.weight[0], (there + back) / 2) / pooling.temperature
        for there, back in zip(forward, backward, strict=True)
    ]
    total = sum(logit.exp() for logit in logits)
    pooled = []
    for column in tokens.T:
        ranked = sorted(column, key=Tensor.item, reverse=True)
        pooled.append(sum(logit.exp() / total * value for logit, value in zip(logits, ranked, strict=True)))
    return torch.stack(pooled)


def test_vectors_and_gradients_equal_those_of_the_naive_loop() -> None:
    pooling = make_pooling()
    tokens, mask = make_tokens(6, 5, seed=1)
    mask[0], mask[1] = True, False
    inputs = [tokens.requires_grad_(), *pooling.parameters()]
    found = pooling(tokens, mask)
    expected = torch.stack([naive_pooling(pooling, item[real]) for item, real in zip(tokens, mask, strict=True)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = torch.randn(6, 3, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((of * weights).sum(), inputs) for of in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 10**6), extra=st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_order_padding_and_other_items_change_nothing(seed: int, extra: int) -> None:
    pooling = make_pooling()
    tokens, mask = make_tokens(4, 5, seed)
    whole = pooling(tokens, mask)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    padded = torch.nn.functional.pad(tokens[:, order], (0, 0, 0, extra))
    padded_mask = torch.nn.functional.pad(mask[:, order], (0, extra))
    padded = padded.masked_fill(~padded_mask[..., None], torch.nan).requires_grad_()
    alone = torch.cat([pooling(item[None], real[None]) for item, real in zip(padded, padded_mask, strict=True)])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-14)
    (gradient,) = torch.autograd.grad(alone.sum(), padded)
    assert gradient.isfinite().all()
    assert not gradient[~padded_mask].any()


def test_equal_weights_are_the_mean_and_weights_of_each_length_sum_to_1() -> None:
    pooling = make_pooling()
    weights = pooling.weights(torch.tensor([1, 3, 5]), 6)
    torch.testing.assert_close(weights.sum(1), torch.ones(3).double())
    assert [int((row > 0).sum()) for row in weights] == [1, 3, 5]
    torch.nn.init.zeros_(pooling.logit.weight)
    tokens = torch.tensor([[[4.0, 0.0], [1.0, 3.0], [9.0, 9.0]]]).double()
    pooled = pooling(tokens, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(pooled, torch.tensor([[2.5, 1.5]]).double())


def test_half_precision_is_pooled_in_float32_also_under_autocast() -> None:
    pooling = make_pooling().float()
    tokens, mask = make_tokens(3, 4, seed=2)
    expected = pooling(tokens.bfloat16().float(), mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = pooling(tokens.bfloat16(), mask)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0)


@pytest.mark.parametrize("arguments", [{"position_dim": 3}, {"hidden_dim": 0}, {"temperature": 0.0}])
def test_invalid_numbers_raise(arguments: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        GeneralizedPooling(**arguments)


def test_a_model_with_pooling_compares_the_pooled_projected_tokens() -> None:
    similarity = FusedSimilarity(4, 2, 0.0, global_fusion="none")
    model = ImageTextModel(MeanColour(), WordTable(), similarity, True, make_pooling(1), make_pooling(2)).double()
    assert model.uses_tokens
    model.freeze_unread(uses_global=True)
    tower, pictures = model.image_encoder, torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    features = tower(pictures)
    tokens = model.image_projection.tokens(features.tokens)
    expected = torch.stack([naive_pooling(model.image_pooling, item) for item in tokens])
    images = model.encode_images(pictures)
    torch.testing.assert_close(images.pooled, expected)
    mask = torch.ones(3, 4, dtype=torch.bool)
    texts = model.encode_texts(TokenizedTexts(torch.randint(2, 60, (3, 4)), mask, ~mask))
    model.score(images, texts).square().sum().backward()
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {name for name, each in model.named_parameters() if each.grad is not None}
    assert not any("projection.pooled" in name for name in trained)
    assert any("text_pooling.gru" in name for name in trained)


@torch.no_grad()
def test_tabulated_weights_pool_as_the_gru_does() -> None:
    pooling, (tokens, mask) = make_pooling(), make_tokens(6, 5, seed=1)
    expected = pooling(tokens, mask)
    with pooling.tabulated(longest=8):
        torch.testing.assert_close(pooling(tokens, mask), expected)
    assert torch.equal(pooling(tokens, mask), expected), "the table is gone"
