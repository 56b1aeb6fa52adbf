"""`ascl triage`: flag mismatched, duplicated, over-long and under-specified pairs with a trained model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from lightning.pytorch.cli import LightningArgumentParser
from pyarrow import parquet
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ascl_lightning.commands.trained import TrainedCLI
from ascl_lightning.curation.triage import KINDS, Triage, triage
from ascl_lightning.data.sources import Split
from ascl_lightning.runtime.files import atomic_file, require_writable_folder, write_file

TRIAGE, SUMMARY = "triage.parquet", "triage.json"
EXAMPLES = 5
"""Number of worst pairs of each kind in the summary."""
_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
_SCHEMA = pa.schema(
    [
        ("image_id", _TEXT),
        ("caption", _TEXT),
        ("score", pa.float32()),
        ("chance", pa.float32()),
        *((kind, pa.float32()) for kind in KINDS),
        ("coverage", pa.float32()),
        ("words", _TEXTS),
        ("support", pa.list_(pa.float32())),
        ("unsupported", _TEXTS),
        ("flags", _TEXTS),
        ("reason", _TEXT),
    ]
)


class TriageCLI(TrainedCLI):
    """Flag pairs of a split that are mismatched, duplicated, over-long or under-specified."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the command's own flags."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--out", type=str, required=True, help=f"Output folder for {TRIAGE} and {SUMMARY}.")
        parser.add_argument("--split", type=str, default="train", help="Split to triage.")
        parser.add_argument(
            "--flags",
            type=list[Literal[KINDS]],  # type: ignore[valid-type]
            default=list(KINDS),
            help="Kinds to flag. --data.exclude excludes flagged pairs from training.",
        )

    def before_instantiate_classes(self) -> None:
        """Checks that the results can be written, before the split is encoded."""
        require_writable_folder(Path(self.config.out))


def triage_table(found: Triage, split: Split) -> "pa.Table":
    """One row per pair, in the order of the split."""
    rows = range(len(found))
    columns: dict[str, Any] = {
        "image_id": np.repeat(np.array(list(split.image_ids), dtype=object), split.num_captions),
        "caption": [caption for of_image in split.captions for caption in of_image],
        "score": found.score,
        "chance": found.chance,
        **found.numbers,
        "coverage": found.coverage,
        "words": [words.tolist() for words in found.words],
        "support": found.support,
        "unsupported": [words.tolist() for words in found.unsupported],
        "flags": [found.flags_of(row) for row in rows],
        "reason": [found.reason(row) for row in rows],
    }
    return pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in _SCHEMA], schema=_SCHEMA)


def summary(found: Triage, table: "pa.Table", split: str, checkpoint: str) -> dict[str, Any]:
    """Content of `triage.json`: thresholds, counts and worst examples of each kind."""

    def examples(kind: str) -> list[dict[str, Any]]:
        flagged = np.flatnonzero(found.flags[kind])
        worst = flagged[np.argsort(-found.numbers[kind][flagged], kind="stable")][:EXAMPLES]
        rows: list[dict[str, Any]] = table.select(["image_id", "caption", kind, "reason"]).take(worst).to_pylist()
        return rows

    return {
        "split": split,
        "checkpoint": checkpoint,
        "pairs": len(found),
        "flagged": int(found.flagged.sum()),
        "kinds": {
            # JSON has no infinity
            kind: {"threshold": _finite(found.thresholds[kind]), "pairs": int(flags.sum()), "examples": examples(kind)}
            for kind, flags in found.flags.items()
        },
    }


def summary_tables(said: dict[str, Any]) -> list[Table]:
    """A table with the number of pairs of each kind, and one with examples."""
    counts = Table("Kind", "Flagged", "Share", "Threshold", title=f"{said['pairs']:,} pairs, split {said['split']}")
    shown = Table("Image", "Caption", "Reason", title="Worst pairs of each kind", show_lines=True)
    for kind, of_kind in said["kinds"].items():
        share = of_kind["pairs"] / said["pairs"]
        counts.add_row(kind, f"{of_kind['pairs']:,}", f"{100 * share:.1f}%", _said(of_kind["threshold"]))
        for row in of_kind["examples"]:
            shown.add_row(Text(row["image_id"]), Text(row["caption"]), Text(row["reason"]))
    return [counts, shown]


def _finite(threshold: float) -> float | None:
    return threshold if np.isfinite(threshold) else None


def _said(threshold: float | None) -> str:
    return "none" if threshold is None else f"{threshold:.3g}"


def run(args: Sequence[str]) -> None:
    """Triages a split and writes the results.

    Args:
        args: The command line, beginning with `triage`.
    """
    cli = TriageCLI(args)
    checkpoint, out, split = cli.load(), Path(cli.config.out), cli.config.split
    gallery, captions = cli.encode(split)
    similarity, tokenizer = cli.model.model.similarity, cli.datamodule.tokenizer()
    found = triage(similarity, tokenizer, gallery, captions, cli.config.flags)
    if not cli.trainer.is_global_zero:
        return
    table = triage_table(found, cli.datamodule.view(split).split)
    said = summary(found, table, split, checkpoint)
    with atomic_file(out / TRIAGE) as file:
        parquet.write_table(table, file, compression="zstd")
    write_file(out / SUMMARY, json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    console = Console()
    for shown in summary_tables(said):
        console.print(shown)
    advice = f"; exclude flagged pairs from training with --data.exclude {out / TRIAGE}" if split == "train" else ""
    console.print(f"Pairs: {out / TRIAGE}{advice}", soft_wrap=True)
