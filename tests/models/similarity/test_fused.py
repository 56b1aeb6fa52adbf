from typing import Literal
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.similarities import DIM, make_features, make_similarity
from tests.reference import scoring as naive
from torch import Tensor
from torch.nn import functional as F

from ascl_lightning.data.batch import Features
from ascl_lightning.errors import UserError
from ascl_lightning.models.similarity.fused import FusedSimilarity

Fusion = Literal["pairwise", "independent", "none"]


def subset(features: Features, rows: Tensor) -> Features:
    return Features(features.pooled[rows], features.tokens[rows], features.mask[rows])


def naive_pair(similarity: FusedSimilarity, image: Features, text: Features) -> Tensor:
    """The fused score of one image and one text (batches of one) from docs/method.md#cross-modal-fusion."""
    regions, words = image.tokens[0][image.mask[0]], text.tokens[0][text.mask[0]]
    heads = similarity.attention.num_heads
    to_text, to_image = 4.0, 9.0
    if similarity.normalize_words:
        words = torch.stack([word / word.norm() for word in words])
        to_text, to_image = heads * to_text, heads * to_image
    image_to_text, text_to_image = naive.local_similarity(regions, words, heads, to_text, to_image)
    if similarity.global_fusion == "none":
        overall = naive.cosine(image.pooled[0], text.pooled[0])
    else:
        pairwise = similarity.global_fusion == "pairwise"
        of_image = naive.mean_attended(words if pairwise else regions, regions, heads, to_image)
        of_text = naive.mean_attended(regions if pairwise else words, words, heads, to_text)
        image_fusion, text_fusion = similarity.image_fusion, similarity.text_fusion
        image_vector = naive.fuse(image.pooled[0], of_image, image_fusion.context, image_fusion.gate)
        overall = image_vector @ naive.fuse(text.pooled[0], of_text, text_fusion.context, text_fusion.gate)
    weight = similarity.local_weight
    return weight * (image_to_text + text_to_image) / 2 + (1 - weight) * overall


def naive_scores(similarity: FusedSimilarity, images: Features, texts: Features) -> Tensor:
    def row(i: int) -> Tensor:
        image = subset(images, torch.tensor([i]))
        pairs = [naive_pair(similarity, image, subset(texts, torch.tensor([j]))) for j in range(len(texts.mask))]
        return torch.stack(pairs)

    return torch.stack([row(i) for i in range(len(images.mask))])


@pytest.mark.parametrize("global_fusion", ["pairwise", "independent"])
@pytest.mark.parametrize("num_heads", [1, 8])
@pytest.mark.parametrize("text_gate", [False, True])
@pytest.mark.parametrize("normalize_words", [False, True])
def test_equals_the_naive_loop(global_fusion: Fusion, num_heads: int, text_gate: bool, normalize_words: bool) -> None:
    similarity = make_similarity(
        global_fusion=global_fusion,
        num_heads=num_heads,
        text_gate=text_gate,
        normalize_words=normalize_words,
        local_weight=0.3,
    )
    images, texts = make_features(2, 5, seed=1), make_features(3, 6, seed=2, unit_tokens=False)
    expected = naive_scores(similarity, images, texts)
    torch.testing.assert_close(similarity(images, texts), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("global_fusion", ["pairwise", "independent", "none"])
@pytest.mark.parametrize("local_weight", [0.0, 0.5, 1.0])
def test_levels_are_weighted(global_fusion: Fusion, local_weight: float) -> None:
    similarity = make_similarity(global_fusion=global_fusion, local_weight=local_weight)
    images, texts = make_features(2, 3, seed=3), make_features(3, 4, seed=4)
    expected = naive_scores(similarity, images, texts)
    torch.testing.assert_close(similarity(images, texts), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("global_fusion", ["pairwise", "independent", "none"])
def test_a_score_depends_on_its_own_pair_alone(global_fusion: Fusion) -> None:
    """The leak of the published evaluation: contexts from an item's true partner, which is in the same row."""
    similarity = make_similarity(global_fusion=global_fusion, text_gate=global_fusion != "none")
    images, texts = make_features(4, 5, seed=5), make_features(4, 4, seed=6)
    scores = similarity(images, texts)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(similarity(images, subset(texts, order)), scores[:, order], rtol=0, atol=1e-13)
    torch.testing.assert_close(similarity(subset(images, order), texts), scores[order], rtol=0, atol=1e-13)
    for i in range(4):
        for j in range(4):
            alone = similarity(subset(images, torch.tensor([i])), subset(texts, torch.tensor([j])))
            torch.testing.assert_close(alone[0, 0], scores[i, j], rtol=0, atol=1e-13)


@pytest.mark.parametrize("budget", [1, 30_000, 10**9])
def test_tiles_and_tables_do_not_change_scores(budget: int) -> None:
    """A large budget allows tables of mapped tokens; with a small one, each context of a tile is mapped."""
    similarity = make_similarity(num_heads=2, text_gate=True, memory_budget=budget)
    images, texts = make_features(8, 3, seed=7), make_features(8, 2, seed=8)
    expected = torch.cat([similarity(subset(images, torch.tensor([i])), texts) for i in range(8)])
    torch.testing.assert_close(similarity(images, texts), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("global_fusion", ["pairwise", "independent", "none"])
def test_embeddings_are_unit_vectors_independent_of_other_items(global_fusion: Fusion) -> None:
    similarity = make_similarity(global_fusion=global_fusion)
    images, texts = make_features(4, 3, seed=9), make_features(5, 4, seed=10)
    for embed, features in ((similarity.image_embeds, images), (similarity.text_embeds, texts)):
        embeds = embed(features)
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(len(embeds)).double())
        torch.testing.assert_close(embed(subset(features, torch.tensor([2]))), embeds[2:3])
    if global_fusion == "none":
        torch.testing.assert_close(similarity.image_embeds(images), F.normalize(images.pooled, dim=-1))


def test_a_level_of_weight_0_is_not_computed() -> None:
    images, texts = make_features(2, 3, seed=25), make_features(2, 4, seed=26)
    assert not make_similarity(local_weight=1.0)(images, texts).requires_grad
    similarity = make_similarity(local_weight=0.0, global_fusion="independent")
    with mock.patch.object(similarity.local, "forward", side_effect=AssertionError):
        similarity(images, texts)


def test_pairwise_fusion_has_the_independent_embeddings_of_the_same_parameters() -> None:
    pairwise, independent = make_similarity(), make_similarity(global_fusion="independent", local_weight=0.0)
    images, texts = make_features(4, 3, seed=11), make_features(5, 4, seed=12)
    product = pairwise.image_embeds(images) @ pairwise.text_embeds(texts).T
    torch.testing.assert_close(independent(images, texts), product)


def test_scores_without_attention_read_no_tokens() -> None:
    images, texts = make_features(4, 3, seed=13), make_features(5, 4, seed=14)
    images.tokens, texts.tokens = images.tokens[:, :0], texts.tokens[:, :0]
    images.mask, texts.mask = images.mask[:, :0], texts.mask[:, :0]
    similarity = FusedSimilarity(DIM, local_weight=0.0, global_fusion="none")
    assert not similarity.uses_tokens
    expected = F.normalize(images.pooled, dim=-1) @ F.normalize(texts.pooled, dim=-1).T
    torch.testing.assert_close(similarity(images, texts), expected)
    assert FusedSimilarity(DIM, local_weight=0.1, global_fusion="none").uses_tokens
    assert FusedSimilarity(DIM, local_weight=0.0, global_fusion="independent").uses_tokens


def test_parameters_exist_only_where_fusion_needs_them() -> None:
    def count(**arguments: object) -> int:
        return sum(parameter.numel() for parameter in FusedSimilarity(DIM, **arguments).parameters())

    context, gate = DIM * DIM + DIM, 2 * DIM * DIM + DIM
    assert count(global_fusion="none") == 0
    assert count(global_fusion="pairwise") == count(global_fusion="independent") == 2 * context + gate
    assert count(text_gate=True) == 2 * context + 2 * gate


def test_initial_scores_average_vector_and_context() -> None:
    similarity = FusedSimilarity(DIM, num_heads=1, global_fusion="independent").double()
    images, texts = make_features(1, 4, seed=15), make_features(1, 4, seed=16)
    images.mask[:], texts.mask[:] = True, True
    context = naive.mean_attended(images.tokens[0], images.tokens[0], 1, 9.0)
    expected = F.normalize(images.pooled[0] + context, dim=0)
    torch.testing.assert_close(similarity.image_embeds(images)[0], expected)
    context = naive.mean_attended(texts.tokens[0], texts.tokens[0], 1, 4.0)
    torch.testing.assert_close(similarity.text_embeds(texts)[0], F.normalize(context, dim=0))


@pytest.mark.parametrize("global_fusion", ["pairwise", "independent"])
def test_gradients_equal_those_of_the_naive_loop(global_fusion: Fusion) -> None:
    similarity = make_similarity(global_fusion=global_fusion, text_gate=True)
    images, texts = make_features(2, 3, seed=17), make_features(2, 3, seed=18, unit_tokens=False)
    weights = torch.randn(2, 2, dtype=torch.float64)
    inputs = [images.pooled, images.tokens, texts.pooled, texts.tokens]
    inputs = [tensor.requires_grad_() for tensor in inputs] + list(similarity.parameters())
    ours = torch.autograd.grad((similarity(images, texts) * weights).sum(), inputs)
    expected = torch.autograd.grad((naive_scores(similarity, images, texts) * weights).sum(), inputs)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("global_fusion", ["pairwise", "independent", "none"])
@pytest.mark.parametrize("normalize_words", [False, True])
def test_padding_zero_vectors_and_empty_texts_are_harmless(global_fusion: Fusion, normalize_words: bool) -> None:
    similarity = make_similarity(global_fusion=global_fusion, normalize_words=normalize_words).float()
    images, texts = make_features(3, 4, seed=19), make_features(4, 5, seed=20)
    images.tokens[0, 0], images.pooled[0] = 0, 0
    texts.tokens[0, 0], texts.mask[0, 0], texts.pooled[0] = 0, True, 0
    texts.mask[1] = False
    scores = similarity(images, texts)
    for features in (images, texts):
        features.tokens = features.tokens.masked_fill(~features.mask[..., None], float("nan")).requires_grad_()
        features.pooled.requires_grad_()
    padded = similarity(images, texts)
    torch.testing.assert_close(padded, scores, rtol=0, atol=0)
    assert padded.isfinite().all()
    inputs = (images.pooled, images.tokens, texts.pooled, texts.tokens)
    gradients = torch.autograd.grad(padded.sum(), inputs, materialize_grads=True)
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 20


@pytest.mark.parametrize("global_fusion", ["pairwise", "independent", "none"])
def test_scores_are_float32_under_autocast(global_fusion: Fusion) -> None:
    similarity = make_similarity(global_fusion=global_fusion).float()
    images, texts = make_features(3, 4, seed=21), make_features(4, 5, seed=22)
    for features in (images, texts):
        features.pooled, features.tokens = features.pooled.bfloat16(), features.tokens.bfloat16()
    expected = similarity(
        Features(images.pooled.float(), images.tokens.float(), images.mask),
        Features(texts.pooled.float(), texts.tokens.float(), texts.mask),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, embeds = similarity(images, texts), similarity.image_embeds(images)
    assert scores.dtype == embeds.dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


def test_float32_stays_within_1e_5_of_float64() -> None:
    similarity = make_similarity()
    images, texts = make_features(8, 16, seed=23), make_features(8, 16, seed=24)
    expected = similarity(images, texts)
    for features in (images, texts):
        features.pooled, features.tokens = features.pooled.float(), features.tokens.float()
    scores = similarity.float()(images, texts)
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 5}, "is not divisible by num_heads 5"),
        ({"local_weight": 1.5}, "local_weight is 1.5"),
        ({"global_fusion": "none", "text_gate": True}, "text_gate"),
        ({"global_fusion": "none", "local_dim": 6}, "local_dim 6 is not divisible by num_heads 8"),
        ({"local_dim": 8}, "remove local_dim, or set global_fusion to none"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FusedSimilarity(DIM, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("global_fusion", ["pairwise", "independent", "none"])
def test_compilation_does_not_change_scores(global_fusion: Fusion) -> None:
    similarity = make_similarity(global_fusion=global_fusion)
    images, texts = make_features(3, 4, seed=31), make_features(4, 5, seed=32)
    images.tokens.requires_grad_()
    gradients = [
        torch.autograd.grad(score(images, texts).square().sum(), images.tokens)[0]
        for score in (similarity, torch.compile(similarity, backend="eager"))
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-14)


@given(seed=st.integers(0, 10**6), budget=st.integers(1, 10**6), padding=st.integers(0, 3), cut=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_tiles_order_padding_and_batches_change_nothing_in_float32(
    seed: int, budget: int, padding: int, cut: int
) -> None:
    similarity = make_similarity(text_gate=True).float()
    images, texts = make_features(4, 5, seed), make_features(5, 6, seed + 1)
    for features in (images, texts):
        features.pooled, features.tokens = features.pooled.float(), features.tokens.float()
    whole = similarity(images, texts)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    shuffled = subset(texts, order)
    padded = Features(
        shuffled.pooled, F.pad(shuffled.tokens, (0, 0, 0, padding), value=torch.nan), F.pad(shuffled.mask, (0, padding))
    )
    similarity.memory_budget = budget
    parts = [similarity(subset(images, rows), padded) for rows in torch.arange(4).split(cut)]
    torch.testing.assert_close(torch.cat(parts), whole[:, order], rtol=0, atol=1e-5)


@pytest.mark.parametrize("fusion", ["pairwise", "independent", "none"])
def test_the_fused_score_is_the_weighted_sum_of_its_levels(fusion):
    similarity = make_similarity(local_weight=0.3, global_fusion=fusion)
    images, texts = make_features(4, 3, seed=1), make_features(5, 6, seed=2)
    levels = similarity.levels()
    assert list(levels) == ["local", "global" if fusion == "pairwise" else "independent"]
    total = sum(weight * level(images, texts) for weight, level in levels.values())
    torch.testing.assert_close(total, similarity(images, texts))
    if fusion != "pairwise":
        product = similarity.image_embeds(images) @ similarity.text_embeds(texts).T
        torch.testing.assert_close(levels["independent"][1](images, texts), product)


def test_tokens_may_have_another_width_than_global_vectors():
    similarity = FusedSimilarity(DIM, num_heads=2, local_weight=0.3, global_fusion="none", local_dim=8)
    images, texts = make_features(4, 3, seed=1), make_features(5, 6, seed=2)
    images.tokens, texts.tokens = images.tokens[..., :8], texts.tokens[..., :8]
    torch.testing.assert_close(similarity(images, texts), naive_scores(similarity, images, texts), rtol=0, atol=1e-12)


def test_a_score_with_one_level_equals_that_level():
    assert list(FusedSimilarity(8, num_heads=2, local_weight=1.0).levels()) == ["local"]
    assert list(FusedSimilarity(8, num_heads=2, local_weight=0.0).levels()) == ["global"]


def test_levels_follow_the_weights_of_their_similarity():
    similarity = make_similarity(local_weight=0.25)
    weight, level = similarity.levels()["global"]
    similarity.image_fusion.load_state_dict({k: v + 1 for k, v in similarity.image_fusion.state_dict().items()})
    images, texts = make_features(3, 4, seed=1), make_features(5, 6, seed=2)
    again = make_similarity(local_weight=0.0)
    again.load_state_dict(similarity.state_dict())
    assert torch.equal(level(images, texts), again(images, texts))
    assert weight == 0.75
