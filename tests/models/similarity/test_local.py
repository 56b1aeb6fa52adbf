import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import scoring as naive
from torch import Tensor
from torch.nn import functional as F

from ascl_lightning.models.similarity import local as scoring
from ascl_lightning.models.similarity.local import local_similarity


def make_tokens(
    num_items: int, num_tokens: int, dim: int, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Unit vectors, and a mask with gaps and at least one token per item."""
    generator = torch.Generator().manual_seed(seed)
    tokens = F.normalize(torch.randn(num_items, num_tokens, dim, generator=generator, dtype=torch.float64), dim=-1)
    mask = torch.rand(num_items, num_tokens, generator=generator) < 0.7
    mask[:, 0] |= ~mask.any(1)
    return tokens.to(dtype), mask


def naive_scores(
    images: Tensor, image_mask: Tensor, texts: Tensor, text_mask: Tensor, num_heads: int, direction: str
) -> Tensor:
    def pair(i: int, j: int) -> Tensor:
        regions, words = images[i][image_mask[i]], texts[j][text_mask[j]]
        image_to_text, text_to_image = naive.local_similarity(regions, words, num_heads, 4.0, 9.0)
        both = (image_to_text + text_to_image) / 2
        return {"image_to_text": image_to_text, "text_to_image": text_to_image, "both": both}[direction]

    return torch.stack([torch.stack([pair(i, j) for j in range(len(texts))]) for i in range(len(images))])


# 5 regions and 6 words in 32 dimensions: 1 and 4 heads go through Gram matrices, 8 heads (slices of 4) do not
@pytest.mark.parametrize("num_heads", [1, 4, 8])
@pytest.mark.parametrize("direction", ["both", "image_to_text", "text_to_image"])
@pytest.mark.parametrize("word_length", [1.0, 3.0])
def test_equals_the_naive_loop(num_heads: int, direction: str, word_length: float) -> None:
    images, image_mask = make_tokens(3, 5, 32, seed=0)
    texts, text_mask = make_tokens(4, 6, 32, seed=1)
    texts = word_length * texts
    scores = local_similarity(images, texts, text_mask, image_mask=image_mask, num_heads=num_heads, direction=direction)
    expected = naive_scores(images, image_mask, texts, text_mask, num_heads, direction)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_heads", [1, 8])
def test_float32_stays_within_1e_5_of_float64_on_normalised_tokens(num_heads: int) -> None:
    images, image_mask = make_tokens(3, 36, 256, seed=2, dtype=torch.float32)
    texts, text_mask = make_tokens(3, 24, 256, seed=3, dtype=torch.float32)
    scores = local_similarity(images, texts, text_mask, image_mask=image_mask, num_heads=num_heads)
    expected = naive_scores(images.double(), image_mask, texts.double(), text_mask, num_heads, "both")
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-5)


def test_equals_a_calculation_by_hand() -> None:
    """One head: the logits of region e1 over words e1, e2 are (ln 3, 0) at scale ln 3, its attention (3/4, 1/4)."""
    region, words = torch.eye(2)[None, :1], torch.eye(2)[None]
    scale = torch.log(torch.tensor(3.0)).item()
    given_words = {"num_heads": 1, "image_to_text_scale": scale}
    scores = local_similarity(region, words, torch.ones(1, 2).bool(), direction="image_to_text", **given_words)
    assert scores.item() == pytest.approx(3 / 10**0.5)
    # both words attend to the region itself: cosines 1 and 0
    scores = local_similarity(region, words, torch.ones(1, 2).bool(), direction="text_to_image", **given_words)
    assert scores.item() == pytest.approx(0.5)


def test_gradients_equal_those_of_the_naive_loop() -> None:
    images, image_mask = make_tokens(2, 3, 8, seed=4)
    texts, text_mask = make_tokens(3, 4, 8, seed=5)
    weights = torch.randn(2, 3, dtype=torch.float64)
    gradients = []
    for score in (
        lambda r, w: local_similarity(r, w, text_mask, image_mask=image_mask, num_heads=2),
        lambda r, w: naive_scores(r, image_mask, w, text_mask, 2, "both"),
    ):
        tokens = images.clone().requires_grad_(), (2 * texts).requires_grad_()
        gradients.append(torch.autograd.grad((score(*tokens) * weights).sum(), tokens))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_heads", [1, 2])
def test_gradcheck(num_heads: int) -> None:
    images, image_mask = make_tokens(2, 2, 4, seed=6)
    texts, text_mask = make_tokens(1, 3, 4, seed=7)
    assert torch.autograd.gradcheck(
        lambda r, w: local_similarity(r, w, text_mask, image_mask=image_mask, num_heads=num_heads),
        (images.requires_grad_(), texts.requires_grad_()),
    )


def test_a_score_depends_on_its_own_pair_alone() -> None:
    images, image_mask = make_tokens(4, 5, 16, seed=8)
    texts, text_mask = make_tokens(6, 7, 16, seed=9)
    scores = local_similarity(images, texts, text_mask, image_mask=image_mask, num_heads=4)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = local_similarity(images, texts[order], text_mask[order], image_mask=image_mask, num_heads=4)
    torch.testing.assert_close(permuted, scores[:, order], rtol=0, atol=1e-14)
    for i in range(4):
        for j in range(6):
            alone = local_similarity(
                images[i : i + 1], texts[j : j + 1], text_mask[j : j + 1], image_mask=image_mask[i : i + 1], num_heads=4
            )
            torch.testing.assert_close(alone[0, 0], scores[i, j], rtol=0, atol=1e-14)


@given(num_images=st.integers(0, 7), num_texts=st.integers(0, 7), budget=st.integers(1, 100_000))
@settings(max_examples=20, deadline=None)
def test_tile_size_does_not_change_scores(num_images: int, num_texts: int, budget: int) -> None:
    images, image_mask = make_tokens(num_images, 3, 8, seed=10)
    texts, text_mask = make_tokens(num_texts, 4, 8, seed=11)
    whole = local_similarity(images, texts, text_mask, image_mask=image_mask, num_heads=2)
    tiled = local_similarity(images, texts, text_mask, image_mask=image_mask, num_heads=2, memory_budget=budget)
    assert whole.shape == (num_images, num_texts)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-14)


def test_gradients_pass_through_tiles() -> None:
    images, _ = make_tokens(5, 3, 8, seed=12)
    texts, text_mask = make_tokens(6, 4, 8, seed=13)
    gradients = []
    for budget in (1, 20_000, 10**9):  # tiles of one pair, of a few, of all
        tokens = images.clone().requires_grad_(), texts.clone().requires_grad_()
        score = local_similarity(*tokens, text_mask, num_heads=2, memory_budget=budget)
        gradients.append(torch.autograd.grad(score.square().sum(), tokens))
    torch.testing.assert_close(gradients[0], gradients[2], rtol=0, atol=1e-13)
    torch.testing.assert_close(gradients[1], gradients[2], rtol=0, atol=1e-13)


@given(extra=st.integers(0, 4), content=st.sampled_from([0.0, 7.0, 1e30, float("inf"), float("nan")]))
@settings(max_examples=20, deadline=None)
def test_padding_changes_nothing(extra: int, content: float) -> None:
    images, image_mask = make_tokens(3, 4, 8, seed=14)
    texts, text_mask = make_tokens(3, 5, 8, seed=15)
    scores = local_similarity(images, texts, text_mask, image_mask=image_mask, num_heads=2)
    images = F.pad(images.masked_fill(~image_mask[..., None], content), (0, 0, 0, extra), value=content)
    texts = F.pad(texts.masked_fill(~text_mask[..., None], content), (0, 0, 0, extra), value=content)
    image_mask, text_mask = F.pad(image_mask, (0, extra)), F.pad(text_mask, (0, extra))
    tokens = images.requires_grad_(), texts.requires_grad_()
    padded = local_similarity(*tokens, text_mask.long(), image_mask=image_mask.long(), num_heads=2)
    torch.testing.assert_close(padded, scores, rtol=0, atol=1e-14)
    for gradient, mask in zip(torch.autograd.grad(padded.sum(), tokens), (image_mask, text_mask), strict=True):
        assert gradient.isfinite().all()
        assert not gradient[~mask].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_vectors_score_0_with_small_gradients(dtype: torch.dtype) -> None:
    images, image_mask = make_tokens(2, 3, 16, seed=16, dtype=dtype)
    texts, text_mask = make_tokens(4, 4, 16, seed=17, dtype=dtype)
    images[0, 0] = 0
    texts[0, 0], text_mask[0, 0] = 0, True
    texts[1] = 0  # words, all of them zero
    text_mask[2] = False  # no words at all
    text_mask[:2] = True
    tokens = images.requires_grad_(), texts.requires_grad_()
    scores = local_similarity(*tokens, text_mask, image_mask=image_mask, num_heads=4)
    expected = naive_scores(images.double(), image_mask, texts.double(), text_mask, 4, "both")
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-6)
    assert not scores[:, 1:3].any()
    for gradient in torch.autograd.grad(scores.sum(), tokens):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 5


def test_an_image_without_regions_scores_0() -> None:
    images, image_mask = make_tokens(2, 3, 8, seed=18)
    texts, text_mask = make_tokens(2, 4, 8, seed=19)
    image_mask[1] = False
    for direction in scoring.DIRECTIONS:
        scores = local_similarity(images, texts, text_mask, image_mask=image_mask, num_heads=2, direction=direction)
        assert scores[0].all()
        assert not scores[1].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tokens_are_scored_in_float32_also_under_autocast(dtype: torch.dtype) -> None:
    images, _ = make_tokens(3, 4, 16, seed=20, dtype=dtype)
    texts, text_mask = make_tokens(3, 5, 16, seed=21, dtype=dtype)
    expected = local_similarity(images.float(), texts.float(), text_mask, num_heads=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = local_similarity(images, texts, text_mask, num_heads=2)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


def test_large_logits_do_not_overflow() -> None:
    images, _ = make_tokens(2, 4, 16, seed=22, dtype=torch.float32)
    texts, text_mask = make_tokens(2, 5, 16, seed=23, dtype=torch.float32)
    assert local_similarity(images, 1e4 * texts, text_mask, num_heads=2).isfinite().all()


def test_invalid_arguments_raise() -> None:
    images, _ = make_tokens(1, 2, 6, seed=24)
    texts, text_mask = make_tokens(1, 2, 6, seed=25)
    with pytest.raises(ValueError, match="6 dimensions are not divisible by 4 heads"):
        local_similarity(images, texts, text_mask, num_heads=4)
    with pytest.raises(ValueError, match="heads"):
        local_similarity(images, texts, text_mask, num_heads=0)
    with pytest.raises(Exception, match="direction"):
        local_similarity(images, texts, text_mask, num_heads=2, direction="sideways")
