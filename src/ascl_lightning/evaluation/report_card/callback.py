"""Measures, writes and prints the asymmetry report card of `ascl test`."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.text import clean_caption
from ascl_lightning.data.variants.ladder import UNCHANGED, Variants
from ascl_lightning.evaluation.leaks.record import used_negatives
from ascl_lightning.evaluation.report_card.curves import AREA, DEFINITIONS, UNSEEN, CardFigures, Step
from ascl_lightning.evaluation.report_card.rows import write_rows
from ascl_lightning.evaluation.report_card.trained_operations import is_trained_on
from ascl_lightning.evaluation.report_card.variant_scores import CardScore, TextItems, VariantScores
from ascl_lightning.evaluation.run_files import CARD
from ascl_lightning.evaluation.tables import operation_table, type_table
from ascl_lightning.metrics.choices import CONTROL
from ascl_lightning.metrics.gallery import Gallery, Items
from ascl_lightning.runtime.files import write_file
from ascl_lightning.runtime.number_types import Seed
from ascl_lightning.training.accessors import (
    is_fast_dev_run,
    ranked_split,
    retrieval_data,
    retrieval_module,
    run_folder,
)
from ascl_lightning.training.module import RetrievalModule

VARIANTS, ROWS = "variants.parquet", "report_card.parquet"
Command = Literal["validate", "test"]
_COMMANDS = {"val": "validate", "test": "test"}
_TRUE = ("append_siblings", "keep_words", "leave_out_facts")
"""Operations that make T+."""


@dataclass(frozen=True)
class _Measured:
    """A measured report card."""

    split: str
    variants: Variants
    figures: CardFigures
    negatives: Collection[str]
    truncated: dict[str, Any]
    image_of_text: Int[np.ndarray, " M"]
    image_rows: Int[np.ndarray, " N"]

    @property
    def content(self) -> dict[str, Any]:
        """Content of `report_card.json` except the settings."""
        types: dict[str, dict[str, Any]] = {
            type_: {
                "definition": DEFINITIONS[type_],
                "value": {score: asdict(figure) for score, figure in of.items()},
            }
            for type_, of in self.figures.figures().items()
        }
        if "I" in types:
            control, unseen = self.figures.control(), self.figures.unseen()
            types["I"]["control"] = None if control is None else asdict(control)
            types["I"]["unseen"] = None if unseen is None else {"definition": UNSEEN, **asdict(unseen)}
        return {
            "split": self.split,
            "seed": self.variants.seed,
            "num_images": len(self.image_rows),
            "num_texts": len(self.image_of_text),
            "trained_negatives": list(self.negatives),
            "types": types,
            "area": AREA,
            "control": CONTROL,
            "curves": [asdict(curve) for curve in self.figures.curves()],
            "discrimination": [asdict(found) for found in self.figures.discrimination()],
            "not_run": [{"operation": name, "reason": reason} for name, reason in self.variants.not_run.items()],
            "truncated": self.truncated,
        }


class ReportCard(Callback):
    """Evaluates variants of the split's captions in `ascl test`, and optionally in `ascl validate`.

    Type III keeps 75, 50 and 25% of a caption's words, type II appends 1 to 4 captions of the same image or of other
    images, type I swaps, shuffles, drops or replaces words. For data with ground truth (scenes), variants are true or
    false by construction. Variants depend only on the captions and the seed. An operation of type I is marked as
    trained on if the training used T- of the same kind.

    Args:
        commands: Commands that make a report card. An empty list disables it.
        scores: Scores to evaluate; the model must have them.
        captions: Use the first caption of each image or all captions. Only these and their variants are in the gallery.
        seed: Seed of the variants.
        variants: `variants.parquet` of another report card on the same captions, to compare two models on the same
            texts. None: make variants from the seed.
        wordnet: Folder of NLTK data with WordNet, for operations on attributes and nouns. None: NLTK's search path.
    """

    def __init__(
        self,
        commands: Sequence[Command] = ("test",),
        scores: Sequence[CardScore] = ("independent", "two_stage"),
        captions: Literal["one", "all"] = "one",
        seed: Seed = 0,
        variants: str | None = None,
        wordnet: str | None = None,
    ) -> None:
        self._commands = tuple(commands)
        self._scores = tuple(dict.fromkeys(scores))
        self._captions = captions
        self._seed = seed
        self._variants = variants
        self._wordnet = wordnet
        self._measured: _Measured | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Deletes the report card of an earlier run in the same folder."""
        if ranked_split(trainer) is None or is_fast_dev_run(trainer):
            return
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            for name in (CARD, ROWS):
                (folder / name).unlink(missing_ok=True)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures on all ranks, before the module discards the encoded split."""
        split = ranked_split(trainer)
        if split is None or _COMMANDS[split] not in self._commands or not self._scores or is_fast_dev_run(trainer):
            return
        module = retrieval_module(pl_module)
        with torch.no_grad():
            self._measured = self._measure(trainer, module, split)
        module.findings.made_scores = _made_scores(self._measured.figures)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes and prints the report card on rank 0."""
        measured, self._measured = self._measured, None
        if measured is None:
            return
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        split = retrieval_data(trainer).view(measured.split).split
        ids = [split.image_ids[row] for row in measured.image_rows[measured.image_of_text].tolist()]
        measured.variants.save(folder / VARIANTS, ids)
        write_rows(
            folder / ROWS,
            measured.figures,
            measured.image_of_text,
            measured.image_rows,
            measured.variants.text_rows,
        )
        content = {"captions": self._captions, "scores": list(self._scores), **measured.content}
        write_file(folder / CARD, json.dumps(content, indent=1) + "\n")
        console = Console()
        console.print(type_table(content))
        console.print(operation_table(content, _leading(self._scores)))
        not_run = measured.variants.not_run
        for reason in dict.fromkeys(not_run.values()):
            names = ", ".join(name for name in not_run if not_run[name] == reason)
            console.print(f"Skipped: {names}: {reason}", soft_wrap=True)
        console.print(f"Report card: {folder / CARD}", soft_wrap=True)

    on_validation_start = on_test_start
    on_validation_epoch_end = on_test_epoch_end
    on_validation_end = on_test_end

    def _measure(self, trainer: Trainer, module: RetrievalModule, split: str) -> _Measured:
        data = retrieval_data(trainer)
        gallery, view = module.evaluation.gallery(), data.view(split)
        numbers = _chosen(gallery, first_alone=self._captions == "one")
        variants = self._variants_of(data, split, gallery.texts.ids[numbers].tolist())
        stored = None if view.features.texts is None else view.features.texts.table
        items = TextItems(module.model, data.tokenizer(), module.device, stored)

        def encode(texts: Sequence[str]) -> Items:
            # only towers run in the precision of the run
            with trainer.strategy.precision_plugin.forward_context():
                return items(texts)

        scores = VariantScores(gallery, numbers, variants.captions, encode, self._scores)
        truncated: dict[str, Any] = {UNCHANGED: items.num_truncated(variants.captions)}
        steps: dict[str, list[Step]] = {ladder.operation: [] for ladder in variants.ladders}
        every = [(ladder.operation, step) for ladder in variants.ladders for step in ladder.steps]
        for operation, step in track(every, "Report card", transient=True, disable=not trainer.is_global_zero):
            truncated.setdefault(operation, {})[f"{step.level:g}"] = items.num_truncated(step.texts)
            changed = np.array([text != was for text, was in zip(step.texts, variants.captions, strict=True)])
            steps[operation].append(Step(step.level, changed, scores.changed(step.texts)))
        ladders = [ladder.with_steps(steps[ladder.operation]) for ladder in variants.ladders]
        owner = gallery.image_of_text[numbers].cpu().numpy()
        words = np.array([text.count(" ") + 1 for text in variants.captions])
        negatives = _trained_negatives(trainer, module)
        trained_on = [of.operation for of in ladders if is_trained_on(of.operation, negatives)]
        figures = CardFigures(scores.unchanged(), ladders, owner, words, trained_on=trained_on)
        return _Measured(split, variants, figures, negatives, truncated, owner, gallery.images.ids.cpu().numpy())

    def _variants_of(self, data: RetrievalDataModule, split: str, text_rows: list[int]) -> Variants:
        if self._variants is None:
            return data.variants(split, text_rows, self._seed, self._wordnet)
        captions = [caption for of_image in data.view(split).split.captions for caption in of_image]
        cleaned = [clean_caption(captions[row]) for row in text_rows]
        return Variants.load(Path(self._variants)).of_captions(text_rows, cleaned)


def _chosen(gallery: Gallery, first_alone: bool) -> Int[Tensor, " M"]:
    """Numbers of the captions to evaluate."""
    owner = gallery.image_of_text
    numbers = torch.arange(len(owner), device=owner.device)
    if not first_alone:
        return numbers
    first = torch.full((len(gallery.images.ids),), len(owner), device=owner.device)
    first.scatter_reduce_(0, owner, numbers, "amin")
    return first[first < len(owner)]


def _trained_negatives(trainer: Trainer, module: RetrievalModule) -> list[str]:
    """Operations that made T- of the training: by the checkpoint, or else by the configuration."""
    data = retrieval_data(trainer)
    if data.provenance is not None and data.provenance.negatives is not None:
        return list(data.provenance.negatives)
    # without a checkpoint, nothing was trained
    return [] if trainer.ckpt_path is None else used_negatives(data, module)


def _leading(scores: Sequence[str]) -> str:
    """The main score: fused, else two-stage, else the last one."""
    return next((score for score in ("fused", "two_stage") if score in scores), scores[-1])


def _made_scores(figures: CardFigures) -> dict[str, Tensor]:
    score = _leading(figures.scores)
    if score not in ("fused", "two_stage"):  # both have the fused score for an image with its own text
        return {}
    found: dict[str, list[np.ndarray]] = {"T+": [], "T-": []}
    for ladder in figures.ladders:
        name = "T-" if ladder.type == "I" else "T+" if ladder.operation in _TRUE else None
        for step in ladder.steps if name else ():
            found[str(name)].append(step.outcomes[score].own_scores[step.changed])
    return {name: torch.from_numpy(np.concatenate(parts)) for name, parts in found.items() if parts}
