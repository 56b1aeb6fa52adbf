"""Retrieval metrics: pure functions, and a thin torchmetrics class that collects their inputs."""

from importlib import import_module
from typing import Any

# imported lazily: `ascl compare` only needs the statistics, and importing torchmetrics takes seconds
_MODULES = {
    "RetrievalMetrics": "retrieval",
    "alignment": "embedding_quality",
    "compare": "intervals",
    "figure_intervals": "intervals",
    "fold_intervals": "intervals",
    "fold_metrics": "recall",
    "mean_interval": "intervals",
    "metrics_from_ranks": "recall",
    "ranks_from_similarity": "ranks",
    "retrieval_metrics": "recall",
    "streamed_ranks": "ranks",
    "uniformity": "embedding_quality",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
