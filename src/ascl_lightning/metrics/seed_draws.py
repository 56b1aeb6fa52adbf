"""Metrics as means over training seeds, with bootstrap intervals over images and seeds.

A draw takes images with replacement and, independently, seeds with replacement: the pigeonhole bootstrap of crossed
factors (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007), whose intervals are never too narrow on
average. Of S seeds it draws S - 1, so that the variance between few seeds is not underestimated. Two methods are
compared on the same draws: their seeds are paired.
"""

from collections.abc import Sequence

import numpy as np

from ascl_lightning.metrics.intervals import ENDS, Difference, Drawn, Redraws
from ascl_lightning.metrics.query_results import RECALL_AT, Queries

_SEEDS = 1
"""Series of the draws of seeds, apart from that of images."""


def drawn_recalls(queries: Queries, redraws: Redraws) -> dict[str, Drawn]:
    """Recalls and their sum for the original images, then in each draw of the images.

    Args:
        queries: Queries of one run.
        redraws: Draws of as many images as have queries.

    Returns:
        `{image_to_text,text_to_image}/recall_at_{1,5,10}` and `rsum`, in percent.
    """
    images = np.unique(np.concatenate([rows.image for rows in queries.directions().values()]))
    drawn: dict[str, Drawn] = {}
    for direction, rows in queries.directions().items():
        hits = np.stack([100.0 * (rows.rank <= k) for k in RECALL_AT], axis=1)
        means = redraws.means(hits, np.searchsorted(images, rows.image))
        drawn |= {f"{direction}/recall_at_{k}": column for k, column in zip(RECALL_AT, means.T, strict=True)}
    return drawn | {"rsum": np.sum(list(drawn.values()), axis=0)}


def mean_over_seeds(of_seeds: Sequence[Drawn], *, seed: int = 0) -> Drawn:
    """Mean of a metric over runs with other seeds, then the mean in each draw of images and seeds.

    Args:
        of_seeds: The metric of each run for the original images, then in each draw of the images; all runs have the
            same draws.
        seed: Seed of the draws of runs.

    Returns:
        The means. The same runs are drawn for any metric of as many runs and draws. A single run is not drawn.

    Raises:
        ValueError: If there is no run.

    Example:
        >>> mean_over_seeds([np.array([1.0, 2.0]), np.array([3.0, 2.0])])
        array([2., 2.])
    """
    if not of_seeds:
        raise ValueError("there is no run to average")
    values = np.stack(of_seeds, axis=1)
    num_draws, num_seeds = values.shape
    chosen = np.random.default_rng((seed, _SEEDS)).integers(num_seeds, size=(num_draws, max(1, num_seeds - 1)))
    means = np.take_along_axis(values, chosen, axis=1).mean(axis=1)
    means[0] = values[0].mean()
    return means


def seeded_difference(a: Drawn, b: Drawn) -> Difference:
    """Difference b - a of a metric of two methods with the same draws.

    Args:
        a: From `mean_over_seeds`, for A.
        b: The same for B, on the same images and as many seeds.

    Returns:
        The difference with quantiles of the draws as its interval. The p-value is twice the share of the draws,
        including the observed difference, on the other side of 0; it is not corrected for several tests.

    Example:
        >>> found = seeded_difference(np.array([1.0, 1.0, 1.0]), np.array([2.0, 2.5, 1.5]))
        >>> found.value, round(found.p_value, 3)
        (1.0, 0.667)
    """
    drawn = (b - a)[1:]
    low, high = np.nanquantile(drawn, ENDS)
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p_value = min(1.0, 2 * float(1 + tail) / (1 + len(drawn)))
    return Difference(float(a[0]), float(b[0]), float(b[0] - a[0]), float(low), float(high), p_value, p_value)
