"""Evaluation of a gallery with all scores of a model, and with two-stage search and re-ranking."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from ascl_lightning.metrics.coco_positives import PROTOCOLS, coco_positives
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.metrics.precision import own_positives, relevance_queries
from ascl_lightning.metrics.query_results import Queries
from ascl_lightning.metrics.ranks import ScoreBlock, best_true_ranks, ranks_from_similarity
from ascl_lightning.search.hubness import hubness_bias
from ascl_lightning.search.rerank import reranked_ranks
from ascl_lightning.search.standardized import standardized_sum
from ascl_lightning.search.two_stage import shortlist, two_stage_ranks
from ascl_lightning.training.findings import QueryBank

SHORTLISTED = 0.05
"""Length of the shortlist as a fraction of the gallery."""
RERANKED = 15
"""Number of candidates to re-rank."""

_Ranks = tuple[Int[Tensor, " N"], Int[Tensor, " M"]]


def queries_by_score(gallery: Gallery, image_ids: Sequence[str], bank: QueryBank | None = None) -> dict[str, Queries]:
    """Query results for each score of the gallery, and for several ways to search by them.

    `two_stage` re-scores a shortlist by embeddings with the fused score; `reranked` sorts the best candidates of the
    fused score by reciprocal ranks; `standardized` joins the levels of a score that has several by their z-scores over
    the candidates of a query; `hubness_corrected` subtracts the bias of each candidate from its independent scores.

    Args:
        gallery: The encoded split.
        image_ids: Id of each image of the gallery, N.
        bank: Training queries for `hubness_corrected`; None: no such search.

    Returns:
        Ranks by score; for scores of all pairs also mAP@R and R-Precision. Positives are an image and its own texts.
    """
    owner = gallery.image_of_text.cpu()
    matrices = {name: matrix.cpu() for name, matrix in gallery.matrices().items()}
    own = own_positives(owner)
    queries = {name: relevance_queries(_block_of(matrix), *own, owner, image_ids) for name, matrix in matrices.items()}
    fused = matrices["fused"]
    searches = {
        "two_stage": two_stage_of(fused, gallery.images.embeds.cpu(), gallery.texts.embeds.cpu(), owner),
        "reranked": _reranked(fused, owner),
    }
    levels = [(weight, matrices[name]) for name, weight in gallery.level_weights.items()]
    if levels:
        searches["standardized"] = _standardized(levels, owner)
    if bank is not None:
        searches["hubness_corrected"] = _hubness_corrected(gallery, bank)
    for name, (images, texts) in searches.items():
        queries[name] = Queries.from_ranks(images.numpy(), texts.numpy(), owner.numpy(), image_ids)
    return queries


def protocol_queries(
    gallery: Gallery, image_ids: Sequence[str], caption_ids: Int64[np.ndarray, " M"] | None
) -> dict[tuple[str, str], Queries]:
    """Query results with the positives of `metrics.coco_positives`, for each score of the gallery.

    Args:
        gallery: The encoded split.
        image_ids: Id of each image of the gallery, N.
        caption_ids: Annotation id of each text, (M,). None if unknown.

    Returns:
        Queries by score and protocol. Empty if the gallery is not the COCO 5K test set.

    Raises:
        UserError: If the positives of the COCO 5K test set are unavailable (see `coco_positives`).
    """
    owner = gallery.image_of_text.cpu()
    queries = {}
    for protocol in PROTOCOLS:
        positives = coco_positives(protocol, image_ids, owner, caption_ids)
        if positives is not None:
            both = positives.image_to_text, positives.text_to_image
            for name, matrix in gallery.matrices().items():
                queries[name, protocol] = relevance_queries(_block_of(matrix.cpu()), *both, owner, image_ids)
    return queries


def _block_of(matrix: Float[Tensor, "N M"]) -> ScoreBlock:
    return lambda images, texts: matrix[images][:, texts]


def fold_queries(gallery: Gallery, fold_size: int | None, image_ids: Sequence[str]) -> dict[str, list[Queries]]:
    """Query results within folds of the gallery, for each score.

    Args:
        gallery: The encoded split.
        fold_size: Number of images per fold; images after the last complete fold are ignored. None: no folds.
        image_ids: Id of each image of the gallery, N.

    Returns:
        The folds of each score. Empty if the gallery has no complete fold.
    """
    num_images, owner = len(image_ids), gallery.image_of_text.cpu()
    if fold_size is None or fold_size > num_images:
        return {}
    folds: dict[str, list[Queries]] = {name: [] for name in gallery.matrices()}
    for start in range(0, num_images - fold_size + 1, fold_size):
        members = ((owner >= start) & (owner < start + fold_size)).nonzero().squeeze(1)
        own, ids = owner[members] - start, image_ids[start : start + fold_size]
        for name, matrix in gallery.matrices().items():
            images, texts = ranks_from_similarity(matrix[start : start + fold_size][:, members].cpu(), own)
            folds[name].append(Queries.from_ranks(images.numpy(), texts.numpy(), own.numpy(), ids))
    return folds


def two_stage_of(
    fused: Float[Tensor, "N M"], images: Float[Tensor, "N D"], texts: Float[Tensor, "M D"], owner: Int[Tensor, " M"]
) -> _Ranks:
    """Ranks of two-stage search: a shortlist by embeddings, sorted by the fused score."""

    def search(scores: Tensor, queries: Tensor, candidates: Tensor, of_query: Tensor, of_candidate: Tensor) -> Tensor:
        listed = shortlist(queries, candidates, max(1, math.floor(SHORTLISTED * len(candidates))))
        return two_stage_ranks(lambda q, c: scores[q][:, c], queries, candidates, listed, of_query, of_candidate)

    numbers = torch.arange(len(fused))
    return search(fused, images, texts, numbers, owner), search(fused.T, texts, images, owner, numbers)


def _reranked(fused: Float[Tensor, "N M"], owner: Int[Tensor, " M"]) -> _Ranks:
    numbers = torch.arange(len(fused))
    return reranked_ranks(fused, numbers, owner, RERANKED), reranked_ranks(fused.T, owner, numbers, RERANKED)


def _standardized(levels: Sequence[tuple[float, Float[Tensor, "N M"]]], owner: Int[Tensor, " M"]) -> _Ranks:
    numbers = torch.arange(len(levels[0][1]))

    def joined(queries: Tensor, *, of_texts: bool) -> Tensor:
        rows = ((weight, matrix[:, queries].T if of_texts else matrix[queries]) for weight, matrix in levels)
        return standardized_sum(list(rows))

    return (
        best_true_ranks(partial(joined, of_texts=False), numbers, owner),
        best_true_ranks(partial(joined, of_texts=True), owner, numbers),
    )


def _hubness_corrected(gallery: Gallery, bank: QueryBank) -> _Ranks:
    images, texts = gallery.images.embeds, gallery.texts.embeds
    owner = gallery.image_of_text
    numbers = torch.arange(len(images), device=owner.device)

    def ranks(queries: Tensor, items: Tensor, own_bank: Tensor, of_query: Tensor, of_item: Tensor) -> Tensor:
        bias = hubness_bias(items, own_bank, bank.k, bank.weight)
        return best_true_ranks(lambda chosen: queries[chosen] @ items.T - bias, of_query, of_item).cpu()

    return (
        ranks(images, texts, bank.image_embeds, numbers, owner),
        ranks(texts, images, bank.text_embeds, owner, numbers),
    )
