"""`ascl check`: read all images and captions once before training, and report faults."""

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ascl_lightning.commands.base import DataCLI
from ascl_lightning.commands.check_tables import print_report
from ascl_lightning.commands.extract import SPLITS
from ascl_lightning.commands.samples import PIXELS
from ascl_lightning.curation.check.captions import Captions
from ascl_lightning.curation.check.entries import ShardEntries, ViewEntries
from ascl_lightning.curation.check.findings import Finding, Report, Tally
from ascl_lightning.curation.check.picture_facts import facts_of_table
from ascl_lightning.curation.check.repeats import repeats
from ascl_lightning.curation.check.split_check import SplitCheck
from ascl_lightning.data.batch import ImageSpec
from ascl_lightning.data.sources.base import MissingSplitError
from ascl_lightning.data.sources.records import caption_faults
from ascl_lightning.data.streaming import streamed_spec
from ascl_lightning.data.text import Tokenizer, Vocabulary, build_tokenizer
from ascl_lightning.errors import UserError, first_line
from ascl_lightning.runtime.files import require_writable_file, write_file

STDOUT = "-"
_NO_LIMIT = 1 << 30
_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)


class CheckCLI(DataCLI):
    """Read all images and captions of the data, and report faults that would stop or bias training.

    The towers are not loaded; their classes derive image size and tokenizer from the config.

    Attributes:
        image_spec: Input of the image encoder.
        tokenizer: Tokenizer of the text encoder, without its length limit. None if it is unavailable.
        max_length: The length limit in tokens.
        unknown: Findings about an unavailable image spec or tokenizer.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the command's own flags."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--splits", type=list[str], default=list(SPLITS), help="Splits; missing ones are skipped.")
        parser.add_argument(
            "--json",
            type=str | None,
            default=None,
            help="JSON file for the report, with the first 1,000 examples of each finding. '-' prints the JSON "
            "instead of the tables. Exit codes: 0 no errors, 1 errors in the data, 2 nothing could be read.",
        )

    def before_instantiate_classes(self) -> None:
        """Checks that the report can be written, before the data are read."""
        if self.config.json not in (None, STDOUT):
            require_writable_file(Path(self.config.json))

    def instantiate_classes(self) -> None:
        """Builds the data module and determines the towers' inputs."""
        super().instantiate_classes()
        self.unknown: list[Finding] = []
        self.tokenizer: Tokenizer | None = None
        self.max_length = 0
        self.image_spec: ImageSpec = PIXELS
        try:
            text_spec = _spec_of(self.config.model.text_encoder)
            self.tokenizer = build_tokenizer(replace(text_spec, max_length=_NO_LIMIT), Vocabulary(()))
            self.max_length = text_spec.max_length
        except (UserError, ValueError) as error:
            self.unknown.append(_unread("unknown_tokenizer", error))
        try:
            self.image_spec = _spec_of(self.config.model.image_encoder)
        except (UserError, ValueError) as error:
            self.unknown.append(_unread("unknown_image_size", error))
        self.datamodule.image_spec = self.image_spec

    def report(self, progress: Progress) -> Report:
        """Reads and checks all splits.

        Args:
            progress: Progress bar to update.

        Raises:
            UserError: If none of the splits can be read.
        """
        checks: list[SplitCheck] = []
        missing: list[str] = []
        unread: list[Finding] = []
        for split in self.config.splits:
            task = progress.add_task(split, total=None)
            try:
                checks.append(self._check(split, progress, task))
            except MissingSplitError:
                missing.append(split)
                progress.remove_task(task)
            except UserError as error:
                unread.append(_unread("unreadable_split", error, split))
                progress.remove_task(task)
        if not checks:
            reasons = "; ".join(dict.fromkeys(reason for finding in unread for reason in finding.examples))
            raise UserError(reasons or f"the data has none of the splits {', '.join(missing)}; set --splits")
        of_splits = (finding for check in checks for finding in check.findings())
        findings = [*self.unknown, *unread, *of_splits, *repeats(checks)]
        return Report.of({check.name: check.summary() for check in checks}, missing, findings)

    def _check(self, split: str, progress: Progress, task: TaskID) -> SplitCheck:
        with caption_faults() as faults:
            entries = self._entries(split)
            captions = Captions(self.tokenizer, self.max_length)
            max_bad_share = self.config.data.max_bad_share if split == "train" else 0.0
            check = SplitCheck(split, entries, self.image_spec, captions, faults, max_bad_share)
            total = len(entries) if isinstance(entries, ViewEntries) else None
            for entry in progress.track(entries, total, task_id=task):
                check.add(*entry)
        if entries.stored_texts is not None:
            rows, task = len(entries.stored_texts), progress.add_task(f"{split}, stored texts")
            for facts in progress.track(facts_of_table(entries.stored_texts), rows, task_id=task):
                check.add_stored_text(facts)
        return check

    def _entries(self, split: str) -> ViewEntries | ShardEntries:
        """Entries of a split, read from shards if training streams them."""
        shards = self.datamodule.source.shards(self.datamodule.root, split) if split == "train" else None
        if shards is None:
            return ViewEntries(self.datamodule.view(split))
        return ShardEntries(shards, streamed_spec(self.image_spec))


def _spec_of(tower: Namespace) -> Any:
    """The input spec of a configured tower."""
    module, _, name = tower.class_path.rpartition(".")
    # how a tower is tuned, a dictionary here, changes nothing in its inputs
    arguments = {key: value for key, value in tower.init_args.as_dict().items() if key != "tuning"}
    return getattr(import_module(module), name).spec_of(arguments)


def _unread(kind: str, error: Exception, split: str | None = None) -> Finding:
    """A finding about something that could not be checked."""
    reason = first_line(error)
    return Finding.of(kind, split, Tally([reason]), 0, reason=reason, size=PIXELS.size)


def run(args: Sequence[str]) -> int:
    """Checks the data and prints or writes the report.

    Args:
        args: The command line, beginning with `check`.

    Returns:
        1 if a finding is an error, else 0.
    """
    cli = CheckCLI(args)
    file = cli.config.json
    with Progress(*_COLUMNS, console=Console(stderr=True)) as progress:
        report = cli.report(progress)
    if file == STDOUT:
        print(_json(report))
        return report.exit_code
    console = Console()
    print_report(report, console)
    if file is not None:
        write_file(Path(file), f"{_json(report)}\n")
        console.print(f"Report: {file}", soft_wrap=True)
    return report.exit_code


def _json(report: Report) -> str:
    return json.dumps(report.as_dict(), indent=1, ensure_ascii=False)
