"""Folders of evaluations, as `ascl test` leaves them."""

import json
from dataclasses import asdict

import numpy as np

from ascl_lightning.metrics.intervals import figure_intervals
from ascl_lightning.metrics.query_results import Queries, write_queries


def make_queries(seed, middle, num_images=60, num_texts=3):
    generator = np.random.default_rng(seed)
    image_of_text = np.arange(num_images).repeat(num_texts)
    ranks = [1 + generator.poisson(middle, size) for size in (num_images, len(image_of_text))]
    return Queries.from_ranks(*ranks, image_of_text, [f"{image}.jpg" for image in range(num_images)])


def write_run(folder, queries, **results):
    """A run of these queries, by score and protocol."""
    folder.mkdir(parents=True)
    own: dict = {}
    protocols: dict = {}
    for (score, protocol), of_score in queries.items():
        figures = {name: asdict(figure) for name, figure in figure_intervals(of_score, draws=20).items()}
        (own if protocol == "own" else protocols.setdefault(protocol, {}))[score] = figures
    of_run = {"split": "test", "num_images": 60, "num_texts": 180, "scores": own, "protocols": protocols} | results
    (folder / "results.json").write_text(json.dumps(of_run))
    write_queries(folder / "queries.parquet", queries)
    return folder
