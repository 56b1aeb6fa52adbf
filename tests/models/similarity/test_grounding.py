from math import isnan, log

import pytest
import torch
from tests.helpers.similarities import make_features, make_similarity
from tests.reference import scoring as naive
from torch import Tensor
from torch.nn import functional as F

from ascl_lightning.data.batch import Features, PixelSpec, RegionSpec
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.similarity.grounding import Grounding, align_positions, grid_side, ground, support_by_word
from ascl_lightning.models.similarity.local import local_similarity


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(-1) / mask.sum(-1)


def naive_grounding(similarity: FusedSimilarity, images: Features, texts: Features) -> Grounding:
    """One pair, one query and one head at a time, without padding, in float64."""
    heads = similarity.attention.num_heads
    fields = [torch.zeros(len(images), *shape).double() for shape in _shapes(images, texts)]
    if similarity.normalize_words:
        texts = Features(texts.pooled, F.normalize(texts.tokens, dim=-1), texts.mask)
    for pair in range(len(images)):
        regions, words = images.tokens[pair][images.mask[pair]], texts.tokens[pair][texts.mask[pair]]
        places = images.mask[pair].nonzero()[:, 0], texts.mask[pair].nonzero()[:, 0]
        for (queries, context), (of_queries, of_context), scale, attention, support in (
            ((words, regions), places[::-1], similarity.attention.text_to_image_scale, fields[0], fields[2]),
            ((regions, words), places, similarity.attention.image_to_text_scale, fields[1], fields[3]),
        ):
            for query, place in zip(queries, of_queries, strict=True):
                support[pair, place] = naive.cosine(query, naive.attended(query, context, heads, scale))
                slices = zip(query.chunk(heads), context.chunk(heads, dim=1), strict=True)
                weights = [torch.stack([scale * q @ k for k in keys]).softmax(0) for q, keys in slices]
                attention[pair, place, of_context] = torch.stack(weights).mean(0)
    return Grounding(*fields)


def _shapes(images: Features, texts: Features) -> list[tuple[int, ...]]:
    regions, words = images.mask.shape[1], texts.mask.shape[1]
    return [(words, regions), (regions, words), (words,), (regions,)]


@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("normalize_words", [False, True])
def test_equals_the_naive_loop(num_heads: int, normalize_words: bool) -> None:
    similarity = make_similarity(num_heads=num_heads, normalize_words=normalize_words)
    images, texts = make_features(4, 5, seed=0), make_features(4, 6, seed=1, unit_tokens=False)
    found, expected = ground(similarity, images, texts), naive_grounding(similarity, images, texts)
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("normalize_words", [False, True])
def test_means_of_support_are_the_local_scores(num_heads: int, normalize_words: bool) -> None:
    similarity = make_similarity(num_heads=num_heads, normalize_words=normalize_words)
    images, texts = make_features(6, 5, seed=2), make_features(6, 7, seed=3, unit_tokens=False)
    found = ground(similarity, images, texts)
    words = F.normalize(texts.tokens, dim=-1) if normalize_words else texts.tokens
    factor = num_heads if normalize_words else 1
    for direction, support, mask in (
        ("text_to_image", found.word_support, texts.mask),
        ("image_to_text", found.region_support, images.mask),
    ):
        scores = local_similarity(
            images.tokens,
            words,
            texts.mask,
            image_mask=images.mask,
            num_heads=num_heads,
            image_to_text_scale=4.0 * factor,
            text_to_image_scale=9.0 * factor,
            direction=direction,
        )
        torch.testing.assert_close(masked_mean(support, mask), scores.diagonal(), rtol=0, atol=1e-12)


def test_half_the_sum_of_both_means_is_the_score_with_local_weight_1() -> None:
    similarity = make_similarity(local_weight=1.0, global_fusion="none")
    images, texts = make_features(3, 4, seed=4), make_features(3, 5, seed=5)
    found = ground(similarity, images, texts)
    halves = masked_mean(found.word_support, texts.mask), masked_mean(found.region_support, images.mask)
    torch.testing.assert_close(sum(halves) / 2, similarity(images, texts).diagonal(), rtol=0, atol=1e-12)


def test_equals_a_calculation_by_hand() -> None:
    """Word e1 has the logits (ln 3, 0) over regions e1, e2: attention (3/4, 1/4), cosine 3 / sqrt(10)."""
    similarity = FusedSimilarity(2, 1, text_to_image_scale=log(3), image_to_text_scale=0.0, global_fusion="none")
    images = Features(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1, 2).bool())
    texts = Features(torch.zeros(1, 2), torch.tensor([[[1.0, 0.0], [7.0, 7.0]]]), torch.tensor([[True, False]]))
    found = ground(similarity, images, texts)
    torch.testing.assert_close(found.word_to_region, torch.tensor([[[0.75, 0.25], [0.0, 0.0]]]))
    torch.testing.assert_close(found.word_support, torch.tensor([[3 / 10**0.5, 0.0]]))
    torch.testing.assert_close(found.region_to_word, torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))
    torch.testing.assert_close(found.region_support, torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize("content", [7.0, float("nan")])
def test_padding_has_no_effect_and_no_support(content: float) -> None:
    similarity = make_similarity()
    images, texts = make_features(3, 4, seed=6), make_features(3, 5, seed=7)
    expected = ground(similarity, images, texts)
    for items in (images, texts):
        items.tokens[~items.mask] = content
    found = ground(similarity, images, texts)
    for name, value in vars(expected).items():
        assert torch.equal(getattr(found, name), value)
    assert not found.word_support[~texts.mask].any()
    assert not found.word_to_region[~texts.mask].any()
    assert not found.word_to_region.mT[~images.mask].any()
    torch.testing.assert_close(found.word_to_region[texts.mask].sum(-1), torch.ones(int(texts.mask.sum())).double())


def test_an_item_without_tokens_supports_nothing() -> None:
    similarity = make_similarity()
    images, texts = make_features(2, 4, seed=8), make_features(2, 5, seed=9)
    images.mask[0], texts.mask[1] = False, False
    found = ground(similarity, images, texts)
    for value in vars(found).values():
        assert not value.any()


def test_half_precision_is_grounded_in_float32_also_under_autocast() -> None:
    similarity = make_similarity().float()
    images, texts = make_features(2, 4, seed=10), make_features(2, 5, seed=11)
    images, texts = (Features(of.pooled.bfloat16(), of.tokens.bfloat16(), of.mask) for of in (images, texts))
    single = (Features(of.pooled.float(), of.tokens.float(), of.mask) for of in (images, texts))
    expected = ground(similarity, *single)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ground(similarity, images, texts)
    assert found.word_support.dtype == torch.float32
    torch.testing.assert_close(found.word_support, expected.word_support)


def test_rows_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="2 images and 3 texts are not pairs"):
        ground(make_similarity(), make_features(2, 4, seed=0), make_features(3, 4, seed=0))


def test_a_words_support_is_the_mean_of_its_pieces() -> None:
    support = torch.tensor([[9.0, 0.25, 0.75, 0.5, 9.0], [0.125, 9.0, 9.0, 9.0, 9.0]])
    positions = torch.tensor([[-1, 0, 0, 2, -1], [0, -1, -1, -1, -1]])
    first, second = support_by_word(support, positions).tolist()
    assert first[0] == 0.5
    assert isnan(first[1])
    assert first[2] == 0.5
    assert second[0] == 0.125
    assert all(map(isnan, second[1:]))


def test_positions_match_the_remaining_tokens() -> None:
    """[CLS] a dog [SEP]: with special tokens, with special tokens masked, and with special tokens removed."""
    positions = torch.tensor([[-1, 0, 1, -1, -1]])
    masks = [[True, True, True, True], [False, True, True, False], [True, True, False]]
    expected = [[-1, 0, 1, -1], [-1, 0, 1, -1], [0, 1, -1]]
    for mask, aligned in zip(masks, expected, strict=True):
        assert align_positions(positions, torch.tensor([mask])).tolist() == [aligned]
    # a text without words: one unknown token that belongs to no word
    assert align_positions(torch.tensor([[-1]]), torch.tensor([[True]])).tolist() == [[-1]]


def test_only_square_numbers_of_picture_tokens_are_a_grid() -> None:
    pixels = PixelSpec(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert grid_side(pixels, 49) == 7
    assert grid_side(pixels, 50) is None
    assert grid_side(RegionSpec(36, 2048), 36) is None
