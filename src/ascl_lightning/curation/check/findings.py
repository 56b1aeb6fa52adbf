"""What a check found, and what it comes to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ascl_lightning.curation.check.kinds import KINDS, Severity

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

KEPT = 1_000
"""Examples of a finding that are kept."""


class Tally:
    """Counts, and keeps the first of what it counts as examples.

    Args:
        examples: Of what was counted so far.
    """

    def __init__(self, examples: Iterable[str] = ()) -> None:
        self.count = 0
        self.examples: list[str] = []
        for example in examples:
            self.add(example)

    def add(self, example: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.examples) < KEPT:
            self.examples.append(example)


@dataclass(frozen=True)
class Finding:
    """One kind of fault in a split.

    Args:
        kind: Its name in `KINDS`.
        severity: How bad it is.
        split: Where it is; None where it is not of the data.
        other: The earlier split that it shares them with, if any.
        things: What is counted.
        problem: What is wrong with them.
        advice: What to do about it.
        count: How many are so.
        total: Of how many; 0 where nothing is counted.
        examples: The first `KEPT` of them.
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
        """A finding of what was counted.

        Args:
            kind: Its name in `KINDS`.
            split: Where it is.
            tally: How many are so.
            total: Of how many.
            severity: In the place of the kind's own.
            other: The earlier split that it shares them with.
            **values: The fields of the kind's text.
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
    """What a split holds.

    Args:
        images: Number of images.
        captions: Number of captions that can be used.
        captions_per_image: For each number of captions, how many images have so many.
        shorter_side: Least, largest and median shorter side in pixels, of pictures that can be read; None of features.
        tokens: Tokens of all captions; None where the tokenizer is not known.
    """

    images: int
    captions: int
    captions_per_image: Mapping[int, int]
    shorter_side: tuple[int, int, int] | None
    tokens: int | None


@dataclass(frozen=True)
class Report:
    """Everything that a check has to say.

    Args:
        splits: What each split that could be read holds.
        missing: Splits that the data does not have.
        findings: The worst first, where something was counted.
    """

    splits: Mapping[str, SplitSummary]
    missing: Sequence[str]
    findings: Sequence[Finding]

    @classmethod
    def of(cls, splits: Mapping[str, SplitSummary], missing: Sequence[str], findings: Iterable[Finding]) -> "Report":
        """A report of the findings that count something, sorted."""
        counted = [finding for finding in findings if finding.count]
        return cls(splits, missing, sorted(counted, key=lambda finding: SEVERITIES.index(finding.severity)))

    def number(self, severity: Severity) -> int:
        """Findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def verdict(self) -> Literal["ok", "warnings", "errors"]:
        """The worst of the findings; notes are none."""
        return "errors" if self.number("error") else "warnings" if self.number("warning") else "ok"

    @property
    def exit_code(self) -> int:
        """1 with errors, else 0."""
        return int(self.verdict == "errors")

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {"verdict": self.verdict, "exit_code": self.exit_code} | asdict(self)
