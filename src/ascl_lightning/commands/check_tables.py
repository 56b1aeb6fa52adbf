"""The terminal output of `ascl check`: a table of splits, the findings, and a verdict."""

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ascl_lightning.curation.check.findings import SEVERITIES, Finding, Report, SplitSummary

_COLOURS = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}
_WIDTH = max(map(len, SEVERITIES))
_SHOWN = 3
_BAR = 8
_BARS = 10


def print_report(report: Report, console: Console) -> None:
    """Print the table of splits, each finding, and the verdict."""
    console.print(splits_table(report))
    if report.missing:
        console.print(f"The data has no split {', '.join(report.missing)}.\n", style="dim")
    for finding in report.findings:
        # not wrapped, so that file names can be copied
        console.print(format_finding(finding), soft_wrap=True)
    console.print(verdict(report), soft_wrap=True)


def splits_table(report: Report) -> Table:
    """A row per split, with a histogram of captions per image."""
    table = Table("Split", "Images", "Shorter side", "Captions", "Captions per image", "Tokens", box=box.SIMPLE_HEAD)
    for name, split in report.splits.items():
        sides = "-" if split.shorter_side is None else "{} to {}\nmedian {}".format(*split.shorter_side)
        tokens = "-" if split.tokens is None else f"{split.tokens:,}"
        histogram = "\n".join(_histogram(split))
        table.add_row(name, f"{split.images:,}", sides, f"{split.captions:,}", histogram, tokens)
    return table


def format_finding(finding: Finding) -> Text:
    """A finding with severity, split, count, advice and examples."""
    count = ""
    if finding.total:
        share = finding.count / finding.total
        count = f"{finding.count:,} of {finding.total:,} {finding.things} ({share:.2%}) "
    indent = "\n" + " " * (_WIDTH + 2)
    text = Text.assemble(
        (f"{finding.severity:<{_WIDTH}}  ", _COLOURS[finding.severity]),
        (f"{finding.split}: " if finding.split else "", "bold"),
        f"{count}{finding.problem}",
        (f"{indent}→ {finding.advice}", "green"),
    )
    for example in finding.examples[:_SHOWN] if finding.total else ():
        text.append(f"{indent}  {example}", "dim")
    if finding.count > _SHOWN:
        text.append(f"{indent}  and {finding.count - _SHOWN:,} more", "dim")
    return text


def verdict(report: Report) -> Text:
    """A line that tells whether the data are ready for training."""
    counts = ", ".join(f"{report.number(of)} {of}{'' if report.number(of) == 1 else 's'}" for of in SEVERITIES)
    said = {
        "ok": ("ready to train", "bold green"),
        "warnings": ("ready to train, but read the warnings", "bold yellow"),
        "errors": ("fix the errors before training or evaluation", "bold red"),
    }[report.verdict]
    return Text.assemble(("\nVerdict: ", "bold"), said, f" ({counts})")


def _histogram(split: SplitSummary) -> Iterator[str]:
    """A line with a bar for each number of captions; the last line may group the highest numbers."""
    numbers = sorted(split.captions_per_image.items())
    lines = [(str(number), images) for number, images in numbers[:_BARS]]
    if len(numbers) > _BARS:
        rest = sum(images for _, images in numbers[_BARS - 1 :])
        lines[-1] = f"{numbers[_BARS - 1][0]}+", rest
    most, width = max(images for _, images in lines), max(len(number) for number, _ in lines)
    for number, images in lines:
        yield f"{number:>{width}} {'█' * max(1, round(_BAR * images / most))} {images:,}"
