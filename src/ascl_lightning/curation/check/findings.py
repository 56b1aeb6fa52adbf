"""Findings of a check, and the report that collects them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ascl_lightning.curation.check.kinds import KINDS, Severity

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

KEPT = 1_000
"""Maximum number of stored examples of a finding."""


class Tally:
    """Counts items and keeps the first `KEPT` as examples.

    Args:
        examples: Items to count first.
    """

    def __init__(self, examples: Iterable[str] = ()) -> None:
        self.count = 0
        self.examples: list[str] = []
        for example in examples:
            self.add(example)

    def add(self, example: str) -> None:
        """Counts an item."""
        self.count += 1
        if len(self.examples) < KEPT:
            self.examples.append(example)


@dataclass(frozen=True)
class Finding:
    """One kind of fault in a split.

    Args:
        kind: Name in `KINDS`.
        severity: Error, warning or note.
        split: Split with the fault. None if the fault is not in the data.
        other: Earlier split with the same items, if any.
        things: Name of the counted items.
        problem: Description.
        advice: Remedy.
        count: Number of faulty items.
        total: Number of items; 0 if nothing is counted.
        examples: The first `KEPT` faulty items.
    """

    kind: str
    severity: Severity
    split: str | None
    other: str | None
    things: str
    problem: str
    advice: str
    count: int
    total: int
    examples: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        kind: str,
        split: str | None,
        tally: Tally,
        total: int,
        severity: Severity | None = None,
        other: str | None = None,
        **values: object,
    ) -> "Finding":
        """Builds a finding from a tally.

        Args:
            kind: Name in `KINDS`.
            split: Split with the fault.
            tally: The faulty items.
            total: Number of items.
            severity: Replaces the kind's default severity.
            other: Earlier split with the same items.
            **values: Values for the format strings of the kind.
        """
        known = KINDS[kind]
        return cls(
            kind,
            severity or known.severity,
            split,
            other,
            known.things,
            known.problem.format(other=other, **values),
            known.advice.format(**values),
            tally.count,
            total,
            tuple(tally.examples),
        )


@dataclass(frozen=True)
class SplitSummary:
    """Size of a split.

    Args:
        images: Number of images.
        captions: Number of usable captions.
        captions_per_image: Histogram: number of images by their number of captions.
        shorter_side: Minimum, maximum and median of the shorter side in pixels over readable images. None for features.
        tokens: Number of tokens of all captions. None if the tokenizer is unavailable.
    """

    images: int
    captions: int
    captions_per_image: Mapping[int, int]
    shorter_side: tuple[int, int, int] | None
    tokens: int | None


@dataclass(frozen=True)
class Report:
    """Result of a check.

    Args:
        splits: Summary of each readable split.
        missing: Splits that the data do not have.
        findings: Findings with a count above 0, sorted by severity.
    """

    splits: Mapping[str, SplitSummary]
    missing: Sequence[str]
    findings: Sequence[Finding]

    @classmethod
    def of(cls, splits: Mapping[str, SplitSummary], missing: Sequence[str], findings: Iterable[Finding]) -> "Report":
        """Builds a report from the findings with a count above 0, sorted by severity."""
        counted = [finding for finding in findings if finding.count]
        return cls(splits, missing, sorted(counted, key=lambda finding: SEVERITIES.index(finding.severity)))

    def number(self, severity: Severity) -> int:
        """Number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def verdict(self) -> Literal["ok", "warnings", "errors"]:
        """The worst severity; notes do not count."""
        return "errors" if self.number("error") else "warnings" if self.number("warning") else "ok"

    @property
    def exit_code(self) -> int:
        """1 if there are errors, else 0."""
        return int(self.verdict == "errors")

    def as_dict(self) -> dict[str, Any]:
        """The report as values for JSON."""
        return {"verdict": self.verdict, "exit_code": self.exit_code} | asdict(self)
