"""How sure a figure is: bootstrap intervals over images, permutation tests between runs, t-intervals over seeds.

Images are drawn with replacement and the captions of an image stay together; the gallery that they were ranked in
stays as it was. The draws follow from the seed and the number of images alone, so that all figures, and two runs on
the same images, meet the same ones.

A figure that is a share, such as a recall, has the interval of Wilson (1927) for as many independent queries as would
have the standard error that the draws show: unlike their quantiles it has a width at 0 and 100%, where no draw differs
from another, and covers near them. Only where less than one hit, or one miss, is expected among all queries may it hold
the truth less often, 84% at worst (Brown, Cai and DasGupta, Statistical Science 2001). Means without bounds, such as
the mean rank, have bootstrap-t intervals, since a few ranks far behind skew them. Median ranks and differences have
quantiles of the draws. `benchmarks/coverage.py` measures how often each holds the truth.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, stdev

import numpy as np
from jaxtyping import Bool, Float, Integer, Num
from scipy.special import stdtrit

from ascl_lightning.metrics.queries import DIRECTIONS, RECALL_AT, Queries
from ascl_lightning.metrics.resampling import Means, Sample, redrawn, stacked, swapped_figures

DRAWS = 2000
"""Of which 50 lie beyond either end of an interval."""

Drawn = Float[np.ndarray, " B"]
"""A figure as it is, and then of each draw of the images."""

_ENDS = (0.025, 0.975)
_Z = NormalDist().inv_cdf(_ENDS[1])
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """What a figure of run B has more than that of run A.

    Attributes:
        a: The figure of A.
        b: The figure of B.
        value: b - a.
        low: Lower end of its 95% interval.
        high: Upper end.
        p_value: How often a swap of the two runs, image by image, gives a difference as large.
        holm_p_value: The same, corrected for the number of figures compared (Holm, 1979).
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
    """A figure over runs: mean, standard deviation of a run, and the ends of the mean's 95% interval."""

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
    """Mean of a value of each query.

    Args:
        values: One of each query, (Q,); a boolean counts as 0 or 1.
        clusters: Number of each query's image, (Q,).
        bounds: What a value can be at least and at most; None where there is no such limit.
        draws: How often images are drawn.
        seed: Of the draws.

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
        raise ValueError("there is no query, so nothing to measure")
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
    """All figures of one score under one protocol.

    Args:
        queries: Of both directions.
        draws: How often images are drawn.
        seed: Of the draws.

    Returns:
        The keys of `retrieval_metrics`, and `{image_to_text,text_to_image}/{map_at_r,r_precision,ndcg}` where the
        queries have them; shares in percent.

    Raises:
        ValueError: If a direction has no query.
    """
    return fold_intervals([queries], draws=draws, seed=seed)


def fold_intervals(folds: Sequence[Queries], *, draws: int = DRAWS, seed: int = 0) -> dict[str, Interval]:
    """Mean over folds of all figures; images are drawn in each fold for itself.

    Args:
        folds: The queries of each fold, ranked among its own items.
        draws: How often images are drawn.
        seed: Of the draws.

    Returns:
        As `figure_intervals`.

    Raises:
        ValueError: If there is no fold, or a direction has no query.
    """
    if not folds:
        raise ValueError("there is no fold, so nothing to measure")
    samples = [Sample.of(queries) for queries in folds]
    values = [sample.value() for sample in samples]
    drawn = [sample.pivoted(draws, (seed, fold)) for fold, sample in enumerate(samples)]
    num_images = sum(sample.num_images for sample in samples)
    intervals = {
        name: interval_of_draws(
            float(np.mean([fold[name] for fold in values])),
            np.mean([fold[name] for fold in drawn], axis=0),
            _bounds(name),
            num_images,
        )
        for name in values[0]
    }
    # nothing ranks before the first
    best = {
        name: replace(interval, low=max(1.0, interval.low)) for name, interval in intervals.items() if "rank" in name
    }
    return intervals | best


def compare(a: Queries, b: Queries, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Difference]:
    """Whether two runs on the same queries differ, figure by figure.

    The interval comes from drawing images for both runs alike. The p-value comes from swapping all that the two runs
    gave for an image, for each image with a chance of one half: were the runs alike, a swap would change nothing, so
    it is the share of swaps that give a difference at least as large, the observed one included.

    Args:
        a: Of run A.
        b: Of run B.
        draws: How often images are drawn, and how often swapped.
        seed: Of the draws.

    Returns:
        Each figure that both runs have, as in `figure_intervals`. Where the runs give the same for every image, the
        difference is 0, its interval [0, 0] and p = 1.

    Raises:
        ValueError: If the runs have other queries, or a direction has no query.
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
        low, high = np.nanquantile(drawn_b[name] - drawn_a[name], _ENDS)
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
    """P-values such that the chance of any false finding among them is bounded (Holm, Scand. J. Statist. 1979).

    Args:
        p_values: Of each of the tests that were made together.

    Returns:
        The corrected ones, under the same names.

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
    """Draws of the images of a gallery, made once.

    Args:
        num_images: How many there are.
        draws: How often they are drawn.
        seed: Of the draws.
    """

    def __init__(self, num_images: int, draws: int = DRAWS, seed: int = 0) -> None:
        once = np.ones((1, num_images))
        self._weights = np.concatenate([once, *redrawn(num_images, num_images, draws, (seed,))])
        self._num_images = num_images

    def means(self, values: Num[np.ndarray, "Q L"], images: Integer[np.ndarray, " Q"]) -> Float[np.ndarray, "B L"]:
        """Means over queries of L values each: as they are, then of each draw; NaN of a draw without a query.

        Args:
            values: Of each query, (Q, L).
            images: Number of each query's image, (Q,).
        """
        columns = [np.bincount(images, weights=column, minlength=self._num_images) for column in values.T]
        totals = self._weights @ np.stack([*columns, np.bincount(images, minlength=self._num_images)], axis=1)
        with np.errstate(invalid="ignore"):
            means: np.ndarray = totals[:, :-1] / totals[:, -1:]
        return means

    def interval(self, figure: Drawn, *, is_share: bool = True) -> Interval:
        """The figure with its interval.

        Args:
            figure: Made of `means` in the same way for all draws.
            is_share: Whether it lies between 0 and 100.
        """
        value = float(figure[0])
        if not is_share:
            return interval_of_draws(value, figure[1:], None, self._num_images)
        # a mean of hundreds may be rounded to more than a hundred
        return interval_of_draws(min(max(value, 0.0), 100.0), figure[1:], (0.0, 100.0), self._num_images)


def spread(values: Sequence[float]) -> Spread:
    """Mean of a figure over runs, with Student's t interval: how far training by chance moves it.

    Args:
        values: The figure of each run, at least two.

    Returns:
        In the unit of the values.

    Raises:
        ValueError: If there are fewer than two runs.

    Example:
        >>> figure = spread([60.0, 62.0, 64.0])
        >>> figure.mean, figure.deviation, round(figure.low, 2), round(figure.high, 2)
        (62.0, 2.0, 57.03, 66.97)
    """
    if len(values) < 2:
        raise ValueError("it takes two runs to see how far they differ")
    mean, deviation = fmean(values), stdev(values)
    reach = float(stdtrit(len(values) - 1, _ENDS[1])) * deviation / math.sqrt(len(values))
    return Spread(mean, deviation, mean - reach, mean + reach)


def interval_of_draws(
    value: float, drawn: Float[np.ndarray, " B"], bounds: tuple[float, float] | None, num_images: int
) -> Interval:
    """The interval of a figure of so many images from what it became in each draw; bounds as in `mean_interval`."""
    if bounds is None:
        low, high = np.nanquantile(drawn, _ENDS)
        return Interval(value, float(low), float(high))
    least, most = bounds
    share = (value - least) / (most - least)
    low, high = _wilson(share, float(np.nanstd(drawn)) / (most - least), num_images)
    return Interval(value, least + (most - least) * low, least + (most - least) * high)


def _wilson(share: float, error: float, num_images: int) -> tuple[float, float]:
    """Wilson's interval of a share with this standard error.

    Where no draw differs from another, the images may hold one independent query each and no more.
    """
    size = share * (1 - share) / error**2 if error > _TOLERANCE else num_images
    spread = _Z**2 / size
    middle = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    # rounding may step over an end
    return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))


def _bounds(name: str) -> tuple[float, float] | None:
    if name == "rsum":
        return 0.0, 100.0 * len(RECALL_AT) * len(DIRECTIONS)
    return None if name.endswith(("median_rank", "mean_rank")) else (0.0, 100.0)


def _p_value(difference: float, swapped: Float[np.ndarray, " B"]) -> float:
    # sums in another order round differently
    as_large = np.abs(swapped) >= abs(difference) * (1 - _TOLERANCE) - _TOLERANCE
    return float((1 + as_large.sum()) / (1 + len(swapped)))


def _check_same_queries(a: Queries, b: Queries) -> None:
    for name, rows in a.directions().items():
        others = b.directions()[name]
        for column in ("query", "image", "image_id"):
            if not np.array_equal(getattr(rows, column), getattr(others, column)):
                raise ValueError(
                    f"{name}: the runs have other queries ({len(rows):,} and {len(others):,}; column {column})"
                )
