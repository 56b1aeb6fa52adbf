"""Histograms of the scores of matching and other pairs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

BINS = 60
_ROWS = 256


@dataclass(frozen=True)
class ScoreHistograms:
    """Histograms with common bins, by kind of pair."""

    edges: list[float]
    """Bin edges, one more than bins; the last bin includes its upper edge."""
    counts: dict[str, list[int]]


def score_histograms(
    similarity: Float[Tensor, "N M"], image_of_text: Int[Tensor, " M"], made: Mapping[str, Float[Tensor, " P"]]
) -> ScoreHistograms:
    """Scores of images with their own texts (`positive`), other images' texts (`other`), and made texts.

    Args:
        similarity: Score of every image with every text, (N, M); read in blocks of rows.
        image_of_text: Number of each text's image, (M,).
        made: Scores of images with texts made from their own captions, such as T+ and T-, by name.

    Returns:
        Histograms over the range of all finite scores. NaN and infinite scores are not counted.

    Example:
        >>> found = score_histograms(torch.tensor([[0.0, 1.0]]), torch.tensor([0, 0]), {"T-": torch.ones(3)})
        >>> {kind: (counts[0], counts[-1]) for kind, counts in found.counts.items()}
        {'positive': (1, 1), 'other': (0, 0), 'T-': (0, 3)}
    """
    image_of_text = image_of_text.cpu()
    groups = {name: _values(scores) for name, scores in made.items()}
    starts = range(0, len(similarity), _ROWS)
    ranges = [*(_range(_values(similarity[start : start + _ROWS])) for start in starts), *map(_range, groups.values())]
    edges = _edges(min(low for low, _ in ranges), max(high for _, high in ranges))
    positive, other = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    for start in starts:
        scores = _values(similarity[start : start + _ROWS])
        own = (torch.arange(start, start + len(scores))[:, None] == image_of_text).numpy()
        positive += np.histogram(scores[own], edges)[0]
        other += np.histogram(scores[~own], edges)[0]
    counts = {"positive": positive, "other": other}
    counts |= {name: np.histogram(scores, edges)[0] for name, scores in groups.items()}
    return ScoreHistograms(edges.tolist(), {name: of_kind.tolist() for name, of_kind in counts.items()})


def _values(scores: Tensor) -> np.ndarray:
    return scores.detach().double().cpu().numpy()


def _range(scores: np.ndarray) -> tuple[float, float]:
    finite = scores[np.isfinite(scores)]
    return (float(finite.min()), float(finite.max())) if finite.size else (np.inf, -np.inf)


def _edges(low: float, high: float) -> np.ndarray:
    """Edges of equal bins; the width is positive even if all scores are equal or none is finite."""
    if low > high:
        low, high = 0.0, 0.0
    return np.linspace(low, high if high > low else low + 1, BINS + 1)
