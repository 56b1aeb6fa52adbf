"""The same gallery, ranked by every score that a model has and by the searches built on them."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.metrics.functional import ranks_from_similarity
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.retrieval.rerank import reranked_ranks
from ascl_lightning.retrieval.two_stage import shortlist, two_stage_ranks

SHORTLISTED = 0.05
"""Part of the gallery that the second stage scores."""
RERANKED = 15
"""Candidates of a query that are put into a new order."""

Ranks = tuple[Int[Tensor, " N"], Int[Tensor, " M"]]
"""Image-to-text and text-to-image, as `metrics.functional.ranks_from_similarity` gives them."""


def ranks_by_score(gallery: Gallery) -> dict[str, Ranks]:
    """Ranks by each of the gallery's matrices; `two_stage`, a shortlist by embeddings that the fused score ranks; and
    `reranked`, the fused score's best candidates in the order of reciprocal ranks.

    Args:
        gallery: Scored once, all pairs.
    """  # noqa: D205
    matrices = {name: matrix.cpu() for name, matrix in gallery.matrices().items()}
    owner = gallery.image_of_text.cpu()
    ranks = {name: ranks_from_similarity(matrix, owner) for name, matrix in matrices.items()}
    fused = matrices["fused"]
    ranks["two_stage"] = _two_stage(fused, gallery.images.embeds.cpu(), gallery.texts.embeds.cpu(), owner)
    ranks["reranked"] = _reranked(fused, owner)
    return ranks


def _two_stage(
    fused: Float[Tensor, "N M"], images: Float[Tensor, "N D"], texts: Float[Tensor, "M D"], owner: Int[Tensor, " M"]
) -> Ranks:
    def search(scores: Tensor, queries: Tensor, candidates: Tensor, of_query: Tensor, of_candidate: Tensor) -> Tensor:
        listed = shortlist(queries, candidates, max(1, math.floor(SHORTLISTED * len(candidates))))
        return two_stage_ranks(lambda q, c: scores[q][:, c], queries, candidates, listed, of_query, of_candidate)

    numbers = torch.arange(len(fused))
    return search(fused, images, texts, numbers, owner), search(fused.T, texts, images, owner, numbers)


def _reranked(fused: Float[Tensor, "N M"], owner: Int[Tensor, " M"]) -> Ranks:
    numbers = torch.arange(len(fused))
    return reranked_ranks(fused, numbers, owner, RERANKED), reranked_ranks(fused.T, owner, numbers, RERANKED)
