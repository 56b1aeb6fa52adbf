"""Stops `ascl test` if the model has seen the test split or its scores depend on the ground truth."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from ascl_lightning.data.batch import ImageTextBatch
from ascl_lightning.data.provenance import Leak, Test
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.leaks.probes import KINDS, changed_by_order, permute_pairs
from ascl_lightning.search import rerank
from ascl_lightning.training.accessors import retrieval_data, retrieval_module
from ascl_lightning.training.findings import LeakCheck

_SPLIT = "test"


class LeakGuard(Callback):
    """Checks for leaks before a test scores anything, and raises an error if there are any.

    The checkpoint's record of its data (`evaluation/leaks/record.py`) is compared with the test split. The first batch
    is encoded and scored again with permuted pairs, and re-ranked in other orders.

    Args:
        allow: Warn instead of raising. Reported metrics must then be marked with the module's `findings.leaks`.
    """

    def __init__(self, allow: bool = False) -> None:
        self._allow = allow
        self.checked = LeakCheck()
        """Result of the last test."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares the test split with the data that the model was trained and selected on.

        Raises:
            UserError: If they share images, or the vocabulary was built from the test split.
        """
        self.checked = retrieval_module(pl_module).findings.leaks = LeakCheck()
        data = retrieval_data(trainer)
        if data.provenance is None:
            what = "no checkpoint is given" if trainer.ckpt_path is None else "the checkpoint has no record"
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
        """Checks the first batch with permuted pairs; sharded weights are gathered at this point.

        Raises:
            UserError: If this changes embeddings, scores, or the result of re-ranking.
        """
        if batch_idx > 0:
            return
        with trainer.precision_plugin.forward_context():
            permuted = permute_pairs(retrieval_module(pl_module), batch)
        values = torch.zeros(len(KINDS) + 2, device=pl_module.device)
        if permuted is None:
            advice = "the first batch has fewer than two images with texts; raise --data.eval_batch_size"
            self._note(unchecked=[f"whether scores depend on which texts belong to which images: {advice}"])
        else:
            reordered = [
                changed_by_order(rerank.reciprocal_rerank, scores) for scores in (permuted.scores, permuted.scores.T)
            ]
            values[:] = torch.tensor([*permuted.changes, *reordered])
        # if one rank finds a leak, all ranks raise
        *changes, images, texts = trainer.strategy.reduce(values, reduce_op="max").tolist()
        self._found(_scorer_leaks(changes) + _reranking_leaks(int(images), int(texts)))

    def _note(self, unchecked: Sequence[str] = (), notes: Sequence[str] = ()) -> None:
        self.checked.unchecked += unchecked
        self.checked.notes += notes
        for text in unchecked:
            rank_zero_info(f"Not checked for leaks: {text}")
        for text in notes:
            rank_zero_info(f"Note: {text}")

    def _found(self, leaks: list[Leak]) -> None:
        if not leaks:
            return
        self.checked.found += leaks
        found = "; ".join(leak.message for leak in leaks)
        if not self._allow:
            raise UserError(f"the test would not be valid: {found}. --allow-leak tests anyway and marks the results")
        rank_zero_warn(f"these results are not valid as a test: {found}")


def _scorer_leaks(changes: Sequence[float]) -> list[Leak]:
    changed = [f"{kind} by {change:.2g}" for kind, change in zip(KINDS, changes, strict=True) if change > 0]
    if not changed:
        return []
    message = (
        f"the output for an image or a text depends on which of them belong together: permuting the pairs of the first "
        f"batch changes {', '.join(changed)} (relative to the largest value)"
    )
    return [Leak("scorer", message)]


def _reranking_leaks(images: int, texts: int) -> list[Leak]:
    if not images + texts:
        return []
    message = (
        f"re-ranking depends on which images and texts belong together, not only on scores: in the first batch, the "
        f"results of {images} images and {texts} captions change with the order of queries and candidates"
    )
    return [Leak("reranking", message)]
