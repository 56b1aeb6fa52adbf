"""Every local level with every aggregation, as the only level of a fused similarity, equals the naive loop."""

from collections.abc import Callable

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
from ascl_lightning.models.similarity.aggregation import Aggregation, LearnedWeights, LogSumExp, TopKMean
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.similarity.grounding import ground
from ascl_lightning.models.similarity.late_interaction import LateInteraction
from ascl_lightning.models.similarity.local import CrossAttention, LocalLevel

AGGREGATIONS: dict[str, Callable[[], Aggregation | None]] = {
    "mean": lambda: None,
    "log_sum_exp": lambda: LogSumExp(6.0),
    "top_2": lambda: TopKMean(2),
    "learned": lambda: LearnedWeights(DIM),
}
LEVELS = {"attention": CrossAttention, "late": LateInteraction}
every_level = pytest.mark.parametrize(
    ("kind", "aggregation"),
    [
        (kind, aggregation)
        for kind in LEVELS
        for aggregation in AGGREGATIONS
        if (kind, aggregation) != ("attention", "mean")
    ],
)


def make_local(kind: str, aggregation: str, direction: str = "both", **arguments: object) -> FusedSimilarity:
    """A similarity that is its local level alone."""
    make = AGGREGATIONS[aggregation]
    over_regions = make() if direction != "text_to_image" else None
    over_words = make() if direction != "image_to_text" else None
    level = LEVELS[kind](direction, over_regions, over_words)
    return make_similarity(**{"local": level, "local_weight": 1.0, "global_fusion": "none", **arguments})


def naive_aggregate(aggregation: Aggregation | None, cosines: Tensor, vectors: Tensor) -> Tensor:
    match aggregation:
        case LogSumExp():
            return naive.log_mean_exp(cosines, aggregation.scale)
        case TopKMean():
            return naive.top_k_mean(cosines, aggregation.k)
        case LearnedWeights():
            return naive.weighted_mean(cosines, vectors, aggregation.salience.weight[0])
    return cosines.mean()


def naive_pair(similarity: FusedSimilarity, regions: Tensor, words: Tensor) -> Tensor:
    """The local score of the real tokens of one image and one text."""
    level, settings = similarity.local, similarity.attention
    scores = []
    for direction, queries, context, scale, aggregation in (
        ("image_to_text", regions, words, settings.image_to_text_scale, level.over_regions),
        ("text_to_image", words, regions, settings.text_to_image_scale, level.over_words),
    ):
        if level.direction not in (direction, "both"):
            continue
        if not len(queries) or not len(context):
            scores.append(torch.zeros((), dtype=queries.dtype))
        elif isinstance(level, LateInteraction):
            cosines = torch.stack([naive.best_match(query, context) for query in queries])
            scores.append(naive_aggregate(aggregation, cosines, queries))
        else:
            heads = settings.num_heads
            found = [naive.attended(query, context, heads, scale) for query in queries]
            cosines = torch.stack([naive.cosine(query, of) for query, of in zip(queries, found, strict=True)])
            scores.append(naive_aggregate(aggregation, cosines, queries))
    return sum(scores) / len(scores)


def naive_scores(similarity: FusedSimilarity, images: Features, texts: Features) -> Tensor:
    of_images = [tokens[mask] for tokens, mask in zip(images.tokens, images.mask, strict=True)]
    of_texts = [tokens[mask] for tokens, mask in zip(texts.tokens, texts.mask, strict=True)]
    rows = [[naive_pair(similarity, regions, words) for words in of_texts] for regions in of_images]
    return torch.stack([torch.stack(row) for row in rows])


def subset(features: Features, rows: Tensor) -> Features:
    return Features(features.pooled[rows], features.tokens[rows], features.mask[rows])


def with_padding(features: Features, extra: int) -> Features:
    """The same items with NaN in all padding, old and new."""
    tokens = features.tokens.masked_fill(~features.mask[..., None], torch.nan)
    return Features(features.pooled, F.pad(tokens, (0, 0, 0, extra), value=torch.nan), F.pad(features.mask, (0, extra)))


@every_level
@pytest.mark.parametrize("direction", ["both", "image_to_text", "text_to_image"])
def test_scores_and_gradients_equal_those_of_the_naive_loop(kind: str, aggregation: str, direction: str) -> None:
    similarity = make_local(kind, aggregation, direction)
    images, texts = make_features(2, 4, seed=1), make_features(3, 5, seed=2, unit_tokens=False)
    tokens = [images.tokens.requires_grad_(), texts.tokens.requires_grad_(), *similarity.parameters()]
    scores, expected = similarity(images, texts), naive_scores(similarity, images, texts)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)
    weights = torch.randn(2, 3, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((of * weights).sum(), tokens) for of in (scores, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@every_level
def test_pairwise_fusion_joins_the_level_and_the_global_score(kind: str, aggregation: str) -> None:
    similarity = make_local(kind, aggregation, global_fusion="pairwise", local_weight=0.3)
    images, texts = make_features(3, 4, seed=3), make_features(3, 5, seed=4)
    published = make_similarity(global_fusion="pairwise", local_weight=0.0)
    published.load_state_dict(similarity.state_dict(), strict=False)
    local, overall = naive_scores(similarity, images, texts), published(images, texts)
    torch.testing.assert_close(similarity(images, texts), 0.3 * local + 0.7 * overall, rtol=0, atol=1e-12)


@every_level
@given(seed=st.integers(0, 10**6), budget=st.integers(1, 10**6), cut=st.integers(1, 3), extra=st.integers(0, 3))
@settings(max_examples=4, deadline=None)
def test_order_tiles_and_padding_change_no_score(
    kind: str, aggregation: str, seed: int, budget: int, cut: int, extra: int
) -> None:
    similarity = make_local(kind, aggregation)
    images, texts = make_features(4, 5, seed), make_features(5, 6, seed + 1)
    whole = similarity(images, texts)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    padded = [with_padding(of, extra) for of in (images, subset(texts, order))]
    tokens = [of.tokens.requires_grad_() for of in padded]
    similarity.memory_budget = budget
    parts = torch.cat([similarity(subset(padded[0], rows), padded[1]) for rows in torch.arange(4).split(cut)])
    torch.testing.assert_close(parts, whole[:, order], rtol=0, atol=1e-12)
    for gradient, of in zip(torch.autograd.grad(parts.sum(), tokens), padded, strict=True):
        assert gradient.isfinite().all()
        assert not gradient[~of.mask].any()


@every_level
def test_zero_vectors_and_items_without_tokens_score_0(kind: str, aggregation: str) -> None:
    similarity = make_local(kind, aggregation).float()
    images, texts = make_features(3, 4, seed=5), make_features(4, 5, seed=6)
    images.tokens[0] = 0
    images.mask[1] = False
    texts.mask[0], texts.tokens[1] = False, 0
    texts.tokens[2, 0], texts.mask[2, 0] = 0, True
    expected = naive_scores(similarity.double(), images, texts)
    images.tokens, texts.tokens = images.tokens.float().requires_grad_(), texts.tokens.float().requires_grad_()
    scores = similarity.float()(images, texts)
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-5)
    assert not scores[:2].any()
    assert not scores[:, :2].any()
    for gradient in torch.autograd.grad(scores.sum(), (images.tokens, texts.tokens)):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 5


@every_level
def test_scores_are_float32_under_autocast(kind: str, aggregation: str) -> None:
    similarity = make_local(kind, aggregation).float()
    images, texts = make_features(3, 4, seed=7), make_features(4, 5, seed=8)
    images, texts = (Features(of.pooled, of.tokens.bfloat16(), of.mask) for of in (images, texts))
    single = (Features(of.pooled, of.tokens.float(), of.mask) for of in (images, texts))
    expected = similarity(*single)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = similarity(images, texts)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


@every_level
def test_aggregated_supports_are_the_score(kind: str, aggregation: str) -> None:
    similarity = make_local(kind, aggregation)
    images, texts = make_features(3, 4, seed=9), make_features(3, 5, seed=10)
    found = ground(similarity, images, texts)
    for pair, score in enumerate(similarity(images, texts).diagonal()):
        sides = []
        for support, items, over in (
            (found.region_support, images, similarity.local.over_regions),
            (found.word_support, texts, similarity.local.over_words),
        ):
            mask = items.mask[pair]
            sides.append(naive_aggregate(over, support[pair][mask], items.tokens[pair][mask]))
        torch.testing.assert_close(sum(sides) / 2, score, rtol=0, atol=1e-12)
    for weights, mask in ((found.word_to_region, texts.mask), (found.region_to_word, images.mask)):
        torch.testing.assert_close(weights.sum(-1), mask.double())


def test_late_interaction_by_hand() -> None:
    """Regions e1, e2 and words e1, (e1 + e2) / sqrt(2): the best matches are 1 and 0.71 both ways."""
    regions, half = torch.eye(2)[None], 0.5**0.5
    words = torch.tensor([[[3.0, 0.0], [1.0, 1.0], [9.0, 9.0]]])
    images = Features(torch.zeros(1, 2), regions, torch.ones(1, 2).bool())
    texts = Features(torch.zeros(1, 2), words, torch.tensor([[True, True, False]]))
    similarity = FusedSimilarity(2, 1, 1.0, global_fusion="none", local=LateInteraction())
    assert similarity(images, texts).item() == pytest.approx((1 + half) / 2)
    found = ground(similarity, images, texts)
    torch.testing.assert_close(found.word_support, torch.tensor([[1.0, half, 0.0]]))
    torch.testing.assert_close(found.region_to_word, torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]))


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_log_sum_exp_is_between_the_mean_and_the_maximum(scale: float) -> None:
    images, texts = make_features(3, 4, seed=11), make_features(4, 5, seed=12)

    def scores(over_words: Aggregation | None) -> Tensor:
        level = LateInteraction("text_to_image", over_words=over_words)
        return make_similarity(local=level, local_weight=1.0, global_fusion="none")(images, texts)

    limit = scores(None) if scale < 1 else scores(TopKMean(1))
    torch.testing.assert_close(scores(LogSumExp(scale)), limit, rtol=0, atol=1e-3)


def test_learned_weights_start_at_the_mean() -> None:
    images, texts = make_features(3, 4, seed=13), make_features(4, 5, seed=14)
    arguments = {"num_heads": 4, "local_weight": 1.0, "global_fusion": "none"}
    learned = FusedSimilarity(DIM, **arguments, local=CrossAttention(over_words=LearnedWeights(DIM))).double()
    torch.testing.assert_close(learned(images, texts), FusedSimilarity(DIM, **arguments)(images, texts))


def test_the_default_level_has_no_weights_and_is_the_published_one() -> None:
    arguments = {"num_heads": 4, "local_weight": 0.7}
    similarity, same = make_similarity(**arguments), make_similarity(**arguments, local=CrossAttention())
    assert similarity.state_dict().keys() == same.state_dict().keys()
    images, texts = make_features(3, 4, seed=15), make_features(4, 5, seed=16)
    assert torch.equal(similarity(images, texts), same(images, texts))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LateInteraction("image_to_text", over_words=TopKMean(2)), "over_words has no effect"),
        (lambda: CrossAttention("text_to_image", over_regions=LogSumExp()), "over_regions has no effect"),
        (lambda: LogSumExp(0.0), "scale of LogSumExp is 0"),
        (lambda: TopKMean(0), "k of TopKMean is 0"),
        (
            lambda: FusedSimilarity(8, 1, local=CrossAttention(over_words=LearnedWeights(4))),
            "is 4, but that of the simil",
        ),
    ],
)
def test_mistakes_are_named(make: Callable[[], LocalLevel], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
