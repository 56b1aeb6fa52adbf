"""Bootstrap confidence intervals over images, permutation tests between runs, and t intervals over seeds.

The bootstrap draws images with replacement, together with their captions; the gallery does not change. The draws depend
only on the seed and the number of images, so all metrics, and two runs on the same images, use the same draws.

- Bounded metrics, such as recalls: Wilson's interval (1927) for the number of independent queries whose standard error
  equals that of the draws. Unlike quantiles of the draws, it has a width at 0 and 100%, and covers near them. If less
  than one hit or one miss is expected among all queries, coverage may drop to 84% (Brown, Cai and DasGupta, Statistical
  Science 2001).
- Unbounded means, such as the mean rank: bootstrap-t intervals, since the ranks are skewed.
- Median ranks and differences between runs: quantiles of the draws.

`benchmarks/coverage.py` measures the coverage of each.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, stdev

import numpy as np
from jaxtyping import Bool, Float, Integer, Num
from scipy.special import stdtrit

from ascl_lightning.metrics.query_results import DIRECTIONS, RECALL_AT, Queries
from ascl_lightning.metrics.resampling import Means, Sample, redrawn, stacked, swapped_figures

DRAWS = 2000
"""Number of bootstrap draws, of which 50 are beyond either end of an interval."""

Drawn = Float[np.ndarray, " B"]
"""A metric of the original images, followed by its value in each draw."""

ENDS = (0.025, 0.975)
"""Quantiles of the draws at the ends of an interval."""
_Z = NormalDist().inv_cdf(ENDS[1])
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Interval:
    """A metric with its 95% confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Difference of a metric between runs A and B.

    Attributes:
        a: The metric of A.
        b: The metric of B.
        value: b - a.
        low: Lower end of the 95% confidence interval of the difference.
        high: Upper end.
        p_value: P-value of the permutation test that swaps the two runs image by image.
        holm_p_value: P-value corrected for the number of compared metrics (Holm, 1979).
    """

    a: float
    b: float
    value: float
    low: float
    high: float
    p_value: float
    holm_p_value: float


@dataclass(frozen=True)
class Spread:
    """A metric over several runs: mean, standard deviation of a run, and 95% confidence interval of the mean."""

    mean: float
    deviation: float
    low: float
    high: float


def mean_interval(
    values: Num[np.ndarray, " Q"] | Bool[np.ndarray, " Q"],
    clusters: Integer[np.ndarray, " Q"],
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Mean over queries, with its confidence interval.

    Args:
        values: Value of each query, (Q,); booleans count as 0 or 1.
        clusters: Number of each query's image, (Q,).
        bounds: Smallest and largest possible value; None if there is no such limit.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        The mean, in the unit of the values.

    Raises:
        ValueError: If there is no query, or a value is not within the bounds.

    Example:
        >>> interval = mean_interval(np.ones(100), np.arange(100))
        >>> interval.value, round(interval.low, 3), interval.high
        (1.0, 0.963, 1.0)
    """
    if len(values) == 0:
        raise ValueError("there is no query to measure")
    low, high = (-np.inf, np.inf) if bounds is None else bounds
    if not (values >= low).all() or not (values <= high).all():
        raise ValueError(f"a value is not within {low} and {high}")
    _, image = np.unique(clusters, return_inverse=True)
    num_images = int(image.max()) + 1
    means = Means({"mean": values.astype(np.float64)}, image, num_images)
    weightings = redrawn(num_images, len(values), draws, (seed,))
    drawn = stacked((means.pivoted if bounds is None else means.of)(weights) for weights in weightings)
    return interval_of_draws(float(np.mean(values)), drawn["mean"], bounds, num_images)


def figure_intervals(queries: Queries, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Interval]:
    """All metrics of one score under one protocol, with confidence intervals.

    Args:
        queries: Queries of both directions.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        The keys of `retrieval_metrics`, and `{image_to_text,text_to_image}/{map_at_r,r_precision,ndcg}` in percent if
        the queries have them.

    Raises:
        ValueError: If a direction has no query.
    """
    return fold_intervals([queries], draws=draws, seed=seed)


def fold_intervals(folds: Sequence[Queries], *, draws: int = DRAWS, seed: int = 0) -> dict[str, Interval]:
    """Mean of all metrics over folds, with confidence intervals; images are drawn within each fold.

    Args:
        folds: Queries of each fold, ranked within the fold.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        The dict of `figure_intervals`.

    Raises:
        ValueError: If there is no fold, or a direction has no query.
    """
    if not folds:
        raise ValueError("there is no fold to measure")
    samples = [Sample.of(queries) for queries in folds]
    values = [sample.value() for sample in samples]
    drawn = [sample.pivoted(draws, (seed, fold)) for fold, sample in enumerate(samples)]
    num_images = sum(sample.num_images for sample in samples)
    intervals = {
        name: interval_of_draws(
            float(np.mean([fold[name] for fold in values])),
            np.mean([fold[name] for fold in drawn], axis=0),
            figure_bounds(name),
            num_images,
        )
        for name in values[0]
    }
    # no rank is below 1
    best = {
        name: replace(interval, low=max(1.0, interval.low)) for name, interval in intervals.items() if "rank" in name
    }
    return intervals | best


def compare(a: Queries, b: Queries, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Difference]:
    """Compares each metric of two runs on the same queries.

    The confidence interval uses the same draws of images for both runs. The p-value is that of a permutation test: the
    results of each image are swapped between the runs with probability 1/2, and the p-value is the fraction of
    permutations, including the observed one, with a difference at least as large.

    Args:
        a: Queries of run A.
        b: Queries of run B.
        draws: Number of draws, and of permutations.
        seed: Seed of both.

    Returns:
        Each metric that both runs have, as in `figure_intervals`. If the runs are equal for every image, the difference
        is 0, its interval [0, 0] and p = 1.

    Raises:
        ValueError: If the queries of the runs differ, or a direction has no query.
    """
    _check_same_queries(a, b)
    sample_a, sample_b = Sample.of(a), Sample.of(b)
    values_a, values_b = sample_a.value(), sample_b.value()
    drawn_a, drawn_b = sample_a.drawn(draws, (seed, 0)), sample_b.drawn(draws, (seed, 0))
    swapped = swapped_figures(sample_a, sample_b, draws, (seed, 1))
    names = [name for name in values_a if name in values_b]
    p_values = {name: _p_value(values_b[name] - values_a[name], swapped[name]) for name in names}
    adjusted = holm(p_values)
    differences = {}
    for name in names:
        low, high = np.nanquantile(drawn_b[name] - drawn_a[name], ENDS)
        differences[name] = Difference(
            a=values_a[name],
            b=values_b[name],
            value=values_b[name] - values_a[name],
            low=float(low),
            high=float(high),
            p_value=p_values[name],
            holm_p_value=adjusted[name],
        )
    return differences


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values corrected for multiple testing: bounds the family-wise error rate (Holm, Scand. J. Statist. 1979).

    Args:
        p_values: P-value of each test, by name.

    Returns:
        Corrected p-values, by name.

    Example:
        >>> holm({"x": 0.01, "y": 0.04, "z": 0.03})
        {'x': 0.03, 'y': 0.06, 'z': 0.06}
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


class Redraws:
    """Bootstrap draws of the images of a gallery, for several metrics.

    Args:
        num_images: Number of images.
        draws: Number of draws.
        seed: Seed of the draws.
    """

    def __init__(self, num_images: int, draws: int = DRAWS, seed: int = 0) -> None:
        once = np.ones((1, num_images))
        self._weights = np.concatenate([once, *redrawn(num_images, num_images, draws, (seed,))])
        self._num_images = num_images

    def means(self, values: Num[np.ndarray, "Q L"], images: Integer[np.ndarray, " Q"]) -> Float[np.ndarray, "B L"]:
        """Means of L values over queries: of the original images, then of each draw; NaN for draws without a query.

        Args:
            values: Values of each query, (Q, L).
            images: Number of each query's image, (Q,).
        """
        columns = {str(number): column for number, column in enumerate(values.T)}
        return np.stack(list(Means(columns, images, self._num_images).of(self._weights).values()), axis=1)

    def interval(self, figure: Drawn, *, is_share: bool = True) -> Interval:
        """The metric with its confidence interval.

        Args:
            figure: The metric, computed from `means` for all draws.
            is_share: Whether it is a percentage.
        """
        value = float(figure[0])
        if not is_share:
            return interval_of_draws(value, figure[1:], None, self._num_images)
        # rounding may give a mean slightly above 100
        return interval_of_draws(min(max(value, 0.0), 100.0), figure[1:], (0.0, 100.0), self._num_images)


def spread(values: Sequence[float]) -> Spread:
    """Mean of a metric over runs with other seeds, with Student's t interval.

    Args:
        values: The metric of each run, at least two.

    Returns:
        Mean, deviation and interval, in the unit of the values.

    Raises:
        ValueError: If there are fewer than two runs.

    Example:
        >>> figure = spread([60.0, 62.0, 64.0])
        >>> figure.mean, figure.deviation, round(figure.low, 2), round(figure.high, 2)
        (62.0, 2.0, 57.03, 66.97)
    """
    if len(values) < 2:
        raise ValueError("a spread needs at least two runs")
    mean, deviation = fmean(values), stdev(values)
    reach = float(stdtrit(len(values) - 1, ENDS[1])) * deviation / math.sqrt(len(values))
    return Spread(mean, deviation, mean - reach, mean + reach)


def interval_of_draws(
    value: float, drawn: Float[np.ndarray, " B"], bounds: tuple[float, float] | None, num_images: int
) -> Interval:
    """The confidence interval of a metric from its value in each draw; `bounds` as in `mean_interval`."""
    if bounds is None:
        low, high = np.nanquantile(drawn, ENDS)
        return Interval(value, float(low), float(high))
    least, most = bounds
    share = (value - least) / (most - least)
    low, high = _wilson(share, float(np.nanstd(drawn)) / (most - least), num_images)
    return Interval(value, least + (most - least) * low, least + (most - least) * high)


def _wilson(share: float, error: float, num_images: int) -> tuple[float, float]:
    """Wilson's interval of a fraction with this standard error.

    If all draws are equal, it assumes one independent query per image.
    """
    size = share * (1 - share) / error**2 if error > _TOLERANCE else num_images
    spread = _Z**2 / size
    middle = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    # rounding may exceed the bounds
    return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))


def figure_bounds(name: str) -> tuple[float, float] | None:
    """The smallest and largest possible value of a metric, by its name in `retrieval_metrics`; None for ranks."""
    if name == "rsum":
        return 0.0, 100.0 * len(RECALL_AT) * len(DIRECTIONS)
    return None if name.endswith(("median_rank", "mean_rank")) else (0.0, 100.0)


def _p_value(difference: float, swapped: Float[np.ndarray, " B"]) -> float:
    # tolerance, since the order of summation affects rounding
    as_large = np.abs(swapped) >= abs(difference) * (1 - _TOLERANCE) - _TOLERANCE
    return float((1 + as_large.sum()) / (1 + len(swapped)))


def _check_same_queries(a: Queries, b: Queries) -> None:
    for name, rows in a.directions().items():
        others = b.directions()[name]
        for column in ("query", "image", "image_id"):
            if not np.array_equal(getattr(rows, column), getattr(others, column)):
                raise ValueError(
                    f"{name}: the queries of the runs differ ({len(rows):,} and {len(others):,}; column {column})"
                )
