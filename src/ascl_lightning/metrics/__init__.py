"""Retrieval metrics: pure functions, and one thin torchmetrics class that collects what they need."""

from ascl_lightning.metrics.embedding_quality import alignment, uniformity
from ascl_lightning.metrics.functional import (
    fold_metrics,
    metrics_from_ranks,
    ranks_from_similarity,
    retrieval_metrics,
    streamed_ranks,
)
from ascl_lightning.metrics.retrieval import RetrievalMetrics

__all__ = [
    "RetrievalMetrics",
    "alignment",
    "fold_metrics",
    "metrics_from_ranks",
    "ranks_from_similarity",
    "retrieval_metrics",
    "streamed_ranks",
    "uniformity",
]
