"""Probes for leaks: whether embeddings, scores or re-ranking depend on which texts belong to which images."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ascl_lightning.data.batch import ImageTextBatch, map_tensors
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.training.module import RetrievalModule

KINDS = ("image embeddings", "text embeddings", "scores")
Rerank = Callable[[Tensor], Tensor]
"""Maps scores (Q, C) to the numbers of each query's candidates, best first, (Q, k)."""
_MOST_IMAGES = 16
_ORDERS = 3


@dataclass(frozen=True)
class Permuted:
    """Result of evaluating images and texts with permuted pairs.

    Args:
        changes: Largest change over largest value for each of `KINDS`; 0 if rounding explains it.
        scores: Scores of the images with the texts, without permutation.
    """

    changes: tuple[float, float, float]
    scores: Float[Tensor, "N M"]


def permute_pairs(module: RetrievalModule, batch: ImageTextBatch) -> Permuted | None:
    """Encodes and scores some images of a batch with their texts, and again with each text assigned to another image.

    If embeddings use the true partner as context, as in the published evaluation, the results change
    (docs/method.md#a-score-depends-on-its-pair-alone). If each score depends only on its two items, they do not.

    Args:
        module: The module, in evaluation mode.
        batch: Images with all their texts, ordered by id as in evaluation.

    Returns:
        The result. None if fewer than two images have texts.
    """
    batch = _first_images(batch)
    counts = torch.bincount(batch.text_image_ids - batch.image_ids.min(), minlength=1)
    if (counts > 0).sum() < 2:
        return None
    # move the texts by more than the texts of any image, but keep their image ids
    moved = (torch.arange(len(batch.text_ids), device=batch.text_ids.device) + counts.max()) % len(batch.text_ids)
    plain = _gallery(module, batch)
    permuted = _gallery(module, replace(batch, texts=map_tensors(batch.texts, lambda values: values[moved])))
    matrices, others = plain.matrices(), permuted.matrices()
    changes = (
        _change(plain.images.embeds, permuted.images.embeds),
        _change(plain.texts.embeds[moved], permuted.texts.embeds),
        max(_change(matrix[:, moved.cpu()], others[name]) for name, matrix in matrices.items()),
    )
    # towers may run in half precision, and everything computed from them in full precision
    vectors = plain.images.select(plain.image_of_text[:1]).pooled
    rounding = torch.finfo(vectors.dtype).eps ** 0.5
    return Permuted(tuple(change * (change > rounding) for change in changes), matrices["fused"])


def _first_images(batch: ImageTextBatch) -> ImageTextBatch:
    """A few of the images, with their texts."""
    image_ids = batch.image_ids[:_MOST_IMAGES]
    rows = torch.isin(batch.text_image_ids, image_ids).nonzero()[:, 0]
    return ImageTextBatch(
        map_tensors(batch.images, lambda values: values[:_MOST_IMAGES]),
        image_ids,
        map_tensors(batch.texts, lambda values: values[rows]),
        batch.text_ids[rows],
        batch.text_image_ids[rows],
    )


def _gallery(module: RetrievalModule, batch: ImageTextBatch) -> Gallery:
    """The gallery of an evaluation of this batch alone."""
    metric = module.evaluation.alone()
    module.collect(batch, metric)
    return metric.gallery()


def _change(plain: Tensor, permuted: Tensor) -> float:
    difference = torch.where(plain.isnan() & permuted.isnan(), 0.0, (plain - permuted).abs()).nan_to_num(torch.inf)
    largest = plain.nan_to_num(0.0).abs().max().clamp_min(torch.finfo(plain.dtype).tiny)
    return float(difference.max() / largest)


def changed_by_order(rerank: Rerank, similarity: Float[Tensor, "Q C"]) -> int:
    """Number of queries for which a re-ranking depends on the order of queries and candidates.

    A re-ranking that uses which items belong together, such as the adjacent captions of an image, gives different
    results in another order; one that uses only scores does not. Ties are broken beforehand.

    Args:
        rerank: The re-ranking.
        similarity: Scores to test with, which include all captions of some images.

    Returns:
        Number of queries; 0 if the re-ranking uses only scores.

    Example:
        >>> changed_by_order(lambda scores: scores.argsort(1, descending=True), torch.tensor([[0.1, 0.2], [0.3, 0.3]]))
        0
    """
    distinct = _without_ties(similarity)
    expected = rerank(distinct)
    changed = torch.zeros(len(distinct), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for _ in range(_ORDERS):
        queries, candidates = (torch.randperm(size, generator=generator) for size in distinct.shape)
        found = candidates[rerank(distinct[queries][:, candidates])]
        changed[queries] |= (found != expected[queries]).any(1)
    return int(changed.sum())


def _without_ties(similarity: Float[Tensor, "Q C"]) -> Float[Tensor, "Q C"]:
    """Scores in the same order without ties."""
    values = similarity.detach().cpu().double().flatten()
    low, high = (float(edge) for edge in values.aminmax())
    distinct = torch.empty_like(values)
    distinct[values.argsort(stable=True)] = torch.linspace(low, max(high, low + 1), len(values), dtype=values.dtype)
    return distinct.reshape(similarity.shape)
