"""Search: a shortlist by embeddings, re-scored by the fused score, re-ranking, and the correction of hubness."""

from ascl_lightning.search.hubness import hubness_bias, with_bias
from ascl_lightning.search.rerank import reciprocal_rerank
from ascl_lightning.search.standardized import standardized_sum
from ascl_lightning.search.top_k import streamed_top_k
from ascl_lightning.search.two_stage import Shortlist, lengths_by_margin, rescore, shortlist

__all__ = [
    "Shortlist",
    "hubness_bias",
    "lengths_by_margin",
    "reciprocal_rerank",
    "rescore",
    "shortlist",
    "standardized_sum",
    "streamed_top_k",
    "with_bias",
]
