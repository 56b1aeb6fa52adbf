"""Cost of a training step per process, counted on 2, 3 and 4 gloo processes, against the formulas of docs/scaling.md.

A step of AsCL with T-, T+ and (T+)- on random features, in float32; the text tower keeps the width of the features.
Bytes are those that a process passes to and receives from collectives. Compute is the multiply-adds of the scores'
matrix products in the forward pass, by torch's own counter. Memory is the gathered texts and the scores. Prints one row
per score and number of processes, and the largest relative difference between counted and predicted last.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from plain import random_features
from torch import multiprocessing
from torch.utils.flop_counter import FlopCounterMode

from ascl_lightning.data.batch import Features, ImageTextBatch, MadeTexts
from ascl_lightning.losses import AsymmetricContrastiveLoss
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.towers.regions import RegionEncoder
from ascl_lightning.models.towers.word_transformer import WordTransformer
from ascl_lightning.training.objective import Objective
from ascl_lightning.training.terms import LossWeights

PAIRS, REGIONS, WORDS, WIDTH, HEADS, PARTS, GROUPS, BYTES = 24, 9, 12, 64, 4, 4, 2, 4
SCORES: dict[str, dict[str, Any]] = {
    "global": {"local_weight": 0.0, "global_fusion": "none"},
    "local": {"local_weight": 1.0, "global_fusion": "none"},
    "fused": {"local_weight": 0.8, "global_fusion": "independent"},
}


@dataclass(frozen=True)
class Costs:
    """Costs of one process in one step."""

    sent: int
    """Bytes of own texts and scores sent to other processes, forward and backward."""
    received: int
    """Bytes received from other processes."""
    products: int
    """Multiply-adds of the scores."""
    held: int
    """Bytes in memory: the texts of all processes, and the scores."""


def predicted(score: str, num_ranks: int) -> Costs:
    """The formulas of docs/scaling.md."""
    texts, all_pairs = PARTS * PAIRS, num_ranks * PAIRS
    vectors = {"global": 1, "local": WORDS, "fused": 1 + WORDS}[score]
    own = texts * vectors * WIDTH * BYTES
    scores = GROUPS * PAIRS * all_pairs * BYTES
    others = num_ranks - 1
    # forward: own texts to all; backward: the gradient of the others' texts, and of own ones from them
    sent = own * others + own * others + 2 * scores * others // num_ranks
    attention = 0 if score == "global" else REGIONS * WORDS * WIDTH + HEADS * REGIONS * WORDS * (REGIONS + WORDS)
    product = 0 if score == "local" else WIDTH
    grams = 0 if score == "global" else WIDTH * (PARTS * all_pairs * WORDS**2 + PAIRS * REGIONS**2)
    products = PAIRS * PARTS * all_pairs * (attention + product) + grams
    held = num_ranks * own + PAIRS * PARTS * all_pairs * BYTES
    return Costs(sent, sent, products, held)


class _CountedBytes:
    """Patches collectives to count the bytes that a process sends and receives."""

    def __init__(self, num_ranks: int) -> None:
        self.sent = self.received = 0
        self._others = num_ranks - 1
        self._gather, self._scatter = dist.all_gather_into_tensor, dist.reduce_scatter_tensor
        self._exchange = dist.all_to_all_single

    def gather(self, result: torch.Tensor, own: torch.Tensor) -> None:
        self._count(own, self._others)
        self._gather(result, own)

    def scatter(self, own: torch.Tensor, of_all: torch.Tensor) -> None:
        self._count(own, self._others)
        self._scatter(own, of_all)

    def exchange(self, result: torch.Tensor, values: torch.Tensor, *sizes: list[int]) -> None:
        self._count(values, self._others / (self._others + 1))
        self._exchange(result, values, *sizes)

    def _count(self, tensor: torch.Tensor, times: float) -> None:
        if tensor.is_floating_point():  # ids and masks are negligible
            self.sent += round(tensor.nbytes * times)
            self.received += round(tensor.nbytes * times)


def counted(rank: int, num_ranks: int, folder: str) -> None:
    """One process: runs a step of each score and writes its costs to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=num_ranks)
    costs = {name: _count_step(num_ranks, arguments) for name, arguments in SCORES.items()}
    torch.save({name: vars(of) for name, of in costs.items()}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def _count_step(num_ranks: int, arguments: dict[str, Any]) -> Costs:
    similarity = FusedSimilarity(WIDTH, num_heads=HEADS, **arguments)
    text_encoder = WordTransformer(16, WORDS, WIDTH)
    model = ImageTextModel(RegionEncoder(REGIONS, WIDTH), text_encoder, similarity)
    objective = Objective(model, AsymmetricContrastiveLoss(), None, LossWeights())
    batch = _random_batch()
    count, held, flops = _CountedBytes(num_ranks), [0], FlopCounterMode(display=False)
    compare = similarity.compare

    def counting_compare(images: Features, texts: Features) -> torch.Tensor:
        with flops:
            scores = compare(images, texts)
        held[0] = sum(part.nbytes for part in (texts.pooled, texts.tokens, scores))
        return scores

    with (
        mock.patch.object(similarity, "compare", counting_compare),
        mock.patch.object(dist, "all_gather_into_tensor", count.gather),
        mock.patch.object(dist, "reduce_scatter_tensor", count.scatter),
        mock.patch.object(dist, "all_to_all_single", count.exchange),
    ):
        objective(batch).loss.backward()
    return Costs(count.sent, count.received, flops.get_total_flops() // 2, held[0])


def _random_batch() -> ImageTextBatch:
    """Random features instead of texts, so that only scoring is counted, not towers."""

    def texts(seed: int) -> Features:
        return random_features(PAIRS, WORDS, WORDS, WIDTH, seed)

    rows, valid = torch.arange(PAIRS), torch.ones(PAIRS, dtype=torch.bool)
    negatives = MadeTexts(texts(1), valid), MadeTexts(texts(2), valid)
    images = random_features(PAIRS, REGIONS, REGIONS, WIDTH, seed=3)
    return ImageTextBatch(
        images, rows, texts(4), rows, rows, rows, negatives[0], MadeTexts(texts(5), valid), negatives[1]
    )


def main() -> None:
    largest = 0.0
    print("score   ranks     sent counted   predicted   products counted   predicted   held counted  predicted")
    for num_ranks in (2, 3, 4):
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(counted, (num_ranks, folder), nprocs=num_ranks)
            found = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(num_ranks)]
        for score in SCORES:
            formula = vars(predicted(score, num_ranks))
            of_rank = found[0][score]
            assert all(of[score] == of_rank for of in found), "every process pays the same"
            columns = (f"{of_rank[name]:14,} {formula[name]:12,}" for name in ("sent", "products", "held"))
            print(f"{score:8} {num_ranks}", *columns)
            largest = max(largest, *(abs(of_rank[name] / value - 1) for name, value in formula.items()))
    print(f"largest difference {100 * largest:.2f}%")


if __name__ == "__main__":
    main()
