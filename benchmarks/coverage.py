"""How often 95% intervals contain the true value, and how often the paired test rejects two equally good models.

Each replicate draws 500 images with 1 to 9 captions from a made-up population. An image is easy or hard; the ranks of
its captions depend on that and on noise per caption, in a gallery of 2,500 captions and 500 images. The true value is
that of 200,000 images. For models from weak to strong, prints the share of replicates whose interval contains the true
value, the share of pairs of equally good models with p <= 0.05, and the share with any Holm-corrected p <= 0.05.

    python benchmarks/coverage.py [replicates]
"""

import sys
from collections import Counter

import numpy as np

from ascl_lightning.metrics.intervals import compare, figure_intervals
from ascl_lightning.metrics.query_results import Queries

NUM_IMAGES, NUM_TEXTS = 500, 2_500
POPULATION = 200_000
DRAWS = 500
MODELS = {"weak": (60.0, 1.0), "middle": (6.0, 1.2), "strong": (0.25, 1.2)}
"""Median of the ranks beyond the first, and spread of their logarithms over images."""


def make_queries(
    generator: np.random.Generator, num_images: int, middle: float, spread: float, luck: float = 0.8, num_runs: int = 1
) -> list[Queries]:
    """Queries of equally good models on the same images, which differ by noise alone."""
    num_captions = generator.integers(1, 10, num_images)
    image_of_text = np.repeat(np.arange(num_images), num_captions)
    hardness = np.log(middle) + spread * generator.standard_normal(num_images)
    names = list(map(str, range(num_images)))

    def ranks(of: np.ndarray, num_items: int) -> np.ndarray:
        before = np.floor(np.exp(of + luck * generator.standard_normal(len(of))))
        return 1 + np.minimum(before, num_items - 1).astype(np.int64)

    return [
        Queries.from_ranks(ranks(hardness, NUM_TEXTS), ranks(hardness[image_of_text], NUM_IMAGES), image_of_text, names)
        for _ in range(num_runs)
    ]


def coverage(middle: float, spread: float, replicates: int) -> tuple[dict[str, float], dict[str, float]]:
    (population,) = make_queries(np.random.default_rng(1), POPULATION, middle, spread)
    truth = {name: interval.value for name, interval in figure_intervals(population, draws=2).items()}
    held: Counter[str] = Counter()
    for replicate in range(replicates):
        (queries,) = make_queries(np.random.default_rng((2, replicate)), NUM_IMAGES, middle, spread)
        intervals = figure_intervals(queries, draws=DRAWS, seed=replicate)
        held.update(name for name, interval in intervals.items() if interval.low <= truth[name] <= interval.high)
    return truth, {name: held[name] / replicates for name in truth}


def false_positives(middle: float, spread: float, replicates: int) -> dict[str, float]:
    found: Counter[str] = Counter()
    for replicate in range(replicates):
        runs = make_queries(np.random.default_rng((3, replicate)), NUM_IMAGES, middle, spread, num_runs=2)
        differences = compare(*runs, draws=DRAWS, seed=replicate)
        found.update(name for name, difference in differences.items() if difference.p_value <= 0.05)
        found["any, Holm"] += any(difference.holm_p_value <= 0.05 for difference in differences.values())
    return {name: found[name] / replicates for name in [*differences, "any, Holm"]}


def main() -> None:
    replicates = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for model, (middle, spread) in MODELS.items():
        truth, held = coverage(middle, spread, replicates)
        found = false_positives(middle, spread, replicates)
        print(f"{model:32}    truth  covered  p <= 0.05")
        for name, share in held.items():
            print(f"  {name:30} {truth[name]:8.2f}   {share:6.1%}     {found[name]:6.1%}")
        print(f"  {'any, Holm':30} {'':8}   {'':6}     {found['any, Holm']:6.1%}", flush=True)


if __name__ == "__main__":
    main()
