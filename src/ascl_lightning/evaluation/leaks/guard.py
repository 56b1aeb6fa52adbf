"""Keeps `ascl test` from giving figures of a model that knows its answers."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from ascl_lightning.data.batch import ImageTextBatch
from ascl_lightning.data.provenance import Leak, Test
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.leaks.equivariance import changed_by_order
from ascl_lightning.evaluation.leaks.permutation import KINDS, permute_pairs
from ascl_lightning.search import rerank
from ascl_lightning.training.accessors import retrieval_data, retrieval_module
from ascl_lightning.training.findings import LeakCheck

_SPLIT = "test"


class LeakGuard(Callback):
    """Looks for leaks before a test scores anything, and refuses to go on.

    What the checkpoint says of its data (`evaluation/leaks/record.py`) is compared with the split under test; the first
    batch is encoded and scored with its pairs permuted, and re-ranked in other orders.

    Args:
        allow: Go on in spite of leaks; whoever reports figures must report the module's `findings.leaks` beside them.
    """

    def __init__(self, allow: bool = False) -> None:
        self._allow = allow
        self.checked = LeakCheck()
        """Of the last test."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares the split with those that the checkpoint was trained and selected on.

        Raises:
            UserError: If they share images, or the vocabulary was mined from the split.
        """
        self.checked = retrieval_module(pl_module).findings.leaks = LeakCheck()
        data = retrieval_data(trainer)
        if data.provenance is None:
            what = "no checkpoint is given" if trainer.ckpt_path is None else "the checkpoint does not say"
            self._note(unchecked=[f"what the model was trained and selected on: {what}"])
            return
        test = Test(_SPLIT, data.view(_SPLIT).split.image_ids, data.digest(_SPLIT))
        self._note(unchecked=data.provenance.unchecked(test), notes=data.provenance.notes(test))
        self._found(data.provenance.leaks(test))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ImageTextBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Permutes the pairs of the first batch; weights that are split over processes are gathered by now.

        Raises:
            UserError: If that changes embeddings, scores, or the order that re-ranking makes of the scores.
        """
        if batch_idx > 0:
            return
        with trainer.precision_plugin.forward_context():
            permuted = permute_pairs(retrieval_module(pl_module), batch)
        values = torch.zeros(len(KINDS) + 2, device=pl_module.device)
        if permuted is None:
            advice = "the first batch has fewer than two images with texts; raise --data.eval_batch_size"
            self._note(unchecked=[f"whether scores know which texts belong to which images: {advice}"])
        else:
            reordered = [
                changed_by_order(rerank.reciprocal_rerank, scores) for scores in (permuted.scores, permuted.scores.T)
            ]
            values[:] = torch.tensor([*permuted.changes, *reordered])
        # what one process finds, all refuse
        *changes, images, texts = trainer.strategy.reduce(values, reduce_op="max").tolist()
        self._found(_scorer_leaks(changes) + _reranking_leaks(int(images), int(texts)))

    def _note(self, unchecked: Sequence[str] = (), notes: Sequence[str] = ()) -> None:
        self.checked.unchecked += unchecked
        self.checked.notes += notes
        for text in unchecked:
            rank_zero_info(f"Not checked for leaks: {text}")
        for text in notes:
            rank_zero_info(f"For information: {text}")

    def _found(self, leaks: list[Leak]) -> None:
        if not leaks:
            return
        self.checked.found += leaks
        found = "; ".join(leak.message for leak in leaks)
        if not self._allow:
            raise UserError(f"the test would be of no value: {found}. --allow-leak goes on, and brands the results")
        rank_zero_warn(f"These results are of no value as a test: {found}")


def _scorer_leaks(changes: Sequence[float]) -> list[Leak]:
    changed = [f"{kind} by {change:.2g}" for kind, change in zip(KINDS, changes, strict=True) if change > 0]
    if not changed:
        return []
    message = (
        f"what the model gives for an image or a text depends on which of them belong together: with the pairs of "
        f"the first batch permuted, there is a change of {', '.join(changed)} (as a part of the largest value)"
    )
    return [Leak("scorer", message)]


def _reranking_leaks(images: int, texts: int) -> list[Leak]:
    if not images + texts:
        return []
    message = (
        f"re-ranking depends on which images and texts belong together, and not on scores alone: of the first batch, "
        f"the results of {images} images and {texts} captions change when queries and candidates come in another order"
    )
    return [Leak("reranking", message)]
