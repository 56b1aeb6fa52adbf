"""The published evaluation's leak, planted and caught; honest scores are let through."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.encoders import MeanColour, WordTable
from torch import Tensor

from ascl_lightning.data.batch import EncodedBatch, Features, ImageTextBatch, TokenizedTexts
from ascl_lightning.evaluation.leaks.probes import changed_by_order, permute_pairs
from ascl_lightning.losses import AsymmetricContrastiveLoss
from ascl_lightning.models import FusedSimilarity
from ascl_lightning.models.similarity.tokens import unit_vectors
from ascl_lightning.search.rerank import reciprocal_rerank
from ascl_lightning.training.module import RetrievalModule


def build(kind: type[RetrievalModule] = RetrievalModule, **similarity) -> RetrievalModule:
    torch.manual_seed(0)
    fused = FusedSimilarity(4, num_heads=2, **similarity)
    return kind(MeanColour(), WordTable(), fused, AsymmetricContrastiveLoss(0.1)).eval()


def batch_of(counts: list[int], first: int = 3) -> ImageTextBatch:
    """Images with so many random captions each; their ids begin somewhere, as those of a later batch."""
    generator = torch.Generator().manual_seed(0)
    num_texts = sum(counts)
    lengths = torch.randint(1, 6, (num_texts, 1), generator=generator)
    mask = torch.arange(6) < lengths
    ids = torch.randint(2, 60, (num_texts, 6), generator=generator) * mask
    return ImageTextBatch(
        torch.randint(0, 256, (len(counts), 3, 16, 16), dtype=torch.uint8, generator=generator),
        torch.arange(first, first + len(counts)),
        TokenizedTexts(ids, mask, ~mask),
        torch.arange(100, 100 + num_texts),
        torch.arange(first, first + len(counts)).repeat_interleave(torch.tensor(counts)),
    )


SCORES = [
    {"local_weight": 0.8, "global_fusion": "pairwise", "text_gate": True},
    {"local_weight": 0.5, "global_fusion": "independent"},
    {"local_weight": 0.0, "global_fusion": "none"},
    {"local_weight": 1.0},
]


@pytest.mark.parametrize("similarity", SCORES)
@pytest.mark.parametrize("counts", [[1, 1], [5, 5, 5], [0, 3, 1, 0, 7], [2] * 40])
@torch.no_grad()
def test_scores_that_depend_on_their_pair_alone_do_not_change(similarity, counts):
    permuted = permute_pairs(build(**similarity), batch_of(counts))
    assert permuted.changes == (0, 0, 0)
    assert permuted.scores.shape == (min(16, len(counts)), sum(counts[:16]))


@torch.no_grad()
def test_half_precision_is_rounding():
    module = build(**SCORES[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert permute_pairs(module, batch_of([2] * 8)).changes == (0, 0, 0)


class FromTruePartner(RetrievalModule):
    """As the published evaluation has it: the context of an image's vector is its own first caption."""

    share = 0.5

    def partner(self, batch: ImageTextBatch) -> torch.Tensor:
        """Row of each image's first text."""
        return (batch.text_image_ids == batch.image_ids[:, None]).int().argmax(1)

    def encode(self, batch: ImageTextBatch) -> EncodedBatch:
        of = super().encode(batch)
        context = of.texts.pooled[self.partner(batch)]
        pooled = (1 - self.share) * of.images.pooled + self.share * context
        images = Features(pooled, of.images.tokens, of.images.mask)
        return replace(of, images=images, image_embeds=self.model.similarity.image_embeds(images))


class FromRow(FromTruePartner):
    """The same, by place in the batch: five captions an image, as the field has it."""

    def partner(self, batch: ImageTextBatch) -> torch.Tensor:
        return 5 * torch.arange(len(batch.image_ids))


class Slightly(FromTruePartner):
    share = 0.01


@pytest.mark.parametrize("kind", [FromTruePartner, FromRow, Slightly])
@pytest.mark.parametrize("num_images", [2, 3, 16])
@pytest.mark.parametrize("similarity", [SCORES[0], SCORES[2]])
@torch.no_grad()
def test_context_from_the_true_partner_is_detected(kind, num_images, similarity):
    images, texts, scores = permute_pairs(build(kind, **similarity), batch_of([5] * num_images)).changes
    assert (images > 0, texts, scores > 0) == (True, 0, True)


@torch.no_grad()
def test_texts_with_context_from_their_image_are_detected():
    class TextKnows(RetrievalModule):
        def encode(self, batch):
            of = super().encode(batch)
            owner = torch.searchsorted(batch.image_ids, batch.text_image_ids)
            return replace(of, text_embeds=unit_vectors(of.text_embeds + of.image_embeds[owner]))

    images, texts, _ = permute_pairs(build(TextKnows, **SCORES[1]), batch_of([2, 2, 1])).changes
    assert (images, texts > 0) == (0, True)


@torch.no_grad()
def test_scores_that_favour_the_diagonal_are_detected():
    module = build(local_weight=0.0, global_fusion="none")
    honest = module.evaluation._scorer.score
    module.evaluation._scorer.score = lambda images, texts: honest(images, texts) + torch.eye(len(images), len(texts))
    assert permute_pairs(module, batch_of([1] * 6)).changes[2] > 0


@pytest.mark.parametrize("counts", [[3], [0, 4, 0]])
def test_one_image_has_no_pairs_to_permute(counts):
    assert permute_pairs(build(), batch_of(counts)) is None


CAPTIONS = 5


def published_text_to_image(similarity: Tensor, groups: Tensor, k: int = 15) -> Tensor:
    """Each text's best images by the best rank that any caption of the text's own image has with them, by loops."""
    orders = []
    for query, scores in enumerate(similarity):
        listed = scores.argsort(descending=True)[:k].tolist()
        siblings = [other for other in range(len(similarity)) if groups[other] == groups[query]]
        places = []
        for image in listed:
            ranked = similarity[:, image].argsort(descending=True).tolist()
            places.append(min(ranked.index(sibling) for sibling in siblings))
        orders.append([image for _, image in sorted(zip(places, listed, strict=True), key=lambda pair: pair[0])])
    return torch.tensor(orders)


def by_position(similarity: Tensor) -> Tensor:
    return published_text_to_image(similarity, torch.arange(len(similarity)) // CAPTIONS)


def by_lookup(groups: Tensor):
    return lambda similarity: published_text_to_image(similarity, groups)


def scores(num_images: int, seed: int = 0) -> Tensor:
    """Of captions with images."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(CAPTIONS * num_images, num_images, generator=generator)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), levels=st.sampled_from([2, 5, 10**6]))
@settings(max_examples=60, deadline=None)
def test_reciprocal_ranks_depend_only_on_scores_with_ties(seed: int, k: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(0, levels, (7, 12), generator=generator) / levels
    assert changed_by_order(lambda block: reciprocal_rerank(block, k), similarity) == 0


@pytest.mark.parametrize("num_images", [4, 8])
def test_the_published_text_to_image_re_ranking_is_detected(num_images: int) -> None:
    similarity = scores(num_images)
    assert changed_by_order(by_position, similarity) > len(similarity) / 4
    owner = torch.arange(len(similarity)) // CAPTIONS
    assert changed_by_order(by_lookup(owner), similarity) > len(similarity) / 4, "groups that it looks up"


def test_without_siblings_the_published_re_ranking_uses_only_scores() -> None:
    """One caption an image: the group is the query itself, and nothing but scores counts."""
    assert changed_by_order(lambda block: published_text_to_image(block, torch.arange(len(block))), scores(6)) == 0


def test_ranking_the_true_partner_first_is_detected() -> None:
    def cheat(similarity: Tensor) -> Tensor:
        own = torch.arange(len(similarity))[:, None] // CAPTIONS
        order = similarity.argsort(1, descending=True)
        return torch.cat([own, order[:, :-1]], 1)

    assert changed_by_order(cheat, scores(6)) == 30


def test_ties_are_broken() -> None:
    assert changed_by_order(lambda block: block.argsort(1, descending=True), torch.zeros(4, 6)) == 0
