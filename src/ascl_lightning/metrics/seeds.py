"""Figures over runs that differ by their seed alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Spread:
    """A figure over runs: mean, standard deviation of a run, and the ends of the mean's 95% interval."""

    mean: float
    deviation: float
    low: float
    high: float


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
    reach = t_quantile(len(values) - 1) * deviation / math.sqrt(len(values))
    return Spread(mean, deviation, mean - reach, mean + reach)


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """How many standard errors a t-distributed value stays within.

    Args:
        freedom: Degrees of freedom, at least 1.
        level: With this probability.

    Returns:
        The upper end; the lower is its negative.

    Example:
        >>> round(t_quantile(2), 4)
        4.3027
    """
    low, high = 0.0, math.pi / 2
    # halved until it is as exact as a float can be
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _probability(angle, freedom) < level else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _probability(angle: float, freedom: int) -> float:
    """Of |t| <= sqrt(freedom) tan(angle): a finite sum (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for step in range(1 + odd, freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * step / (step + 1)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
