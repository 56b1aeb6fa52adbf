"""The same gallery, ranked by every score that a model has and by the searches built on them."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from ascl_lightning.metrics.coco_positives import PROTOCOLS, coco_positives
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.metrics.precision import own_positives, relevance_queries
from ascl_lightning.metrics.query_results import Queries
from ascl_lightning.metrics.ranks import ScoreBlock, ranks_from_similarity
from ascl_lightning.search.rerank import reranked_ranks
from ascl_lightning.search.two_stage import shortlist, two_stage_ranks

SHORTLISTED = 0.05
"""Part of the gallery that the second stage scores."""
RERANKED = 15
"""Candidates of a query that are put into a new order."""

_Ranks = tuple[Int[Tensor, " N"], Int[Tensor, " M"]]


def queries_by_score(gallery: Gallery, image_ids: Sequence[str]) -> dict[str, Queries]:
    """What each query gave by each of the gallery's matrices; by `two_stage`, a shortlist by embeddings that the fused
    score ranks; and by `reranked`, the fused score's best candidates in the order of reciprocal ranks.

    Args:
        gallery: Scored once, all pairs.
        image_ids: The name of each image of the gallery, N.

    Returns:
        Ranks by score, and of whole matrices mAP@R and R-Precision. An image and its own texts are positives of each
        other, and nothing else.
    """  # noqa: D205
    owner = gallery.image_of_text.cpu()
    matrices = {name: matrix.cpu() for name, matrix in gallery.matrices().items()}
    own = own_positives(owner)
    queries = {name: relevance_queries(_block_of(matrix), *own, owner, image_ids) for name, matrix in matrices.items()}
    fused = matrices["fused"]
    searches = {
        "two_stage": two_stage_of(fused, gallery.images.embeds.cpu(), gallery.texts.embeds.cpu(), owner),
        "reranked": _reranked(fused, owner),
    }
    for name, (images, texts) in searches.items():
        queries[name] = Queries.from_ranks(images.numpy(), texts.numpy(), owner.numpy(), image_ids)
    return queries


def protocol_queries(
    gallery: Gallery, image_ids: Sequence[str], caption_ids: Int64[np.ndarray, " M"] | None
) -> dict[tuple[str, str], Queries]:
    """What each query gave by the positives of `metrics.coco_positives`, by each of the gallery's matrices.

    Args:
        gallery: Scored once, all pairs.
        image_ids: The name of each image of the gallery, N.
        caption_ids: The number of each text's annotation, (M,); None: unknown.

    Returns:
        By score and protocol; nothing where the gallery is not the COCO 5K test set.

    Raises:
        UserError: If it is, and its positives cannot be had (`coco_positives` says why).
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
    """What each query gave among the items of its own fold, by each of the gallery's matrices.

    Args:
        gallery: Scored once, all pairs.
        fold_size: Images in a fold; those after the last whole fold are left out. None: no folds.
        image_ids: The name of each image of the gallery, N.

    Returns:
        The folds of each score; nothing where the gallery holds no whole fold.
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
    """Ranks of a shortlist by embeddings in the order of the fused score."""

    def search(scores: Tensor, queries: Tensor, candidates: Tensor, of_query: Tensor, of_candidate: Tensor) -> Tensor:
        listed = shortlist(queries, candidates, max(1, math.floor(SHORTLISTED * len(candidates))))
        return two_stage_ranks(lambda q, c: scores[q][:, c], queries, candidates, listed, of_query, of_candidate)

    numbers = torch.arange(len(fused))
    return search(fused, images, texts, numbers, owner), search(fused.T, texts, images, owner, numbers)


def _reranked(fused: Float[Tensor, "N M"], owner: Int[Tensor, " M"]) -> _Ranks:
    numbers = torch.arange(len(fused))
    return reranked_ranks(fused, numbers, owner, RERANKED), reranked_ranks(fused.T, owner, numbers, RERANKED)
