"""What `ascl check` prints: what the splits hold, what was found, and a verdict."""

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
    """Print what the splits hold, each finding, and last the verdict."""
    console.print(splits_table(report))
    if report.missing:
        console.print(f"The data has no split {', '.join(report.missing)}.\n", style="dim")
    for finding in report.findings:
        # not wrapped, so that names of files can be copied
        console.print(told(finding), soft_wrap=True)
    console.print(verdict(report), soft_wrap=True)


def splits_table(report: Report) -> Table:
    """What each split holds, with a histogram of the captions an image."""
    table = Table("Split", "Images", "Shorter side", "Captions", "Captions an image", "Tokens", box=box.SIMPLE_HEAD)
    for name, split in report.splits.items():
        sides = "-" if split.shorter_side is None else "{} to {}\nmedian {}".format(*split.shorter_side)
        tokens = "-" if split.tokens is None else f"{split.tokens:,}"
        histogram = "\n".join(_histogram(split))
        table.add_row(name, f"{split.images:,}", sides, f"{split.captions:,}", histogram, tokens)
    return table


def told(finding: Finding) -> Text:
    """A finding: how bad, where and how many; what to do about it; examples."""
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
    """One line: whether to train."""
    counts = ", ".join(f"{report.number(of)} {of}{'' if report.number(of) == 1 else 's'}" for of in SEVERITIES)
    said = {
        "ok": ("ready to train", "bold green"),
        "warnings": ("fit to train, but see the warnings", "bold yellow"),
        "errors": ("mend the errors before you train or believe a figure", "bold red"),
    }[report.verdict]
    return Text.assemble(("\nVerdict: ", "bold"), said, f" ({counts})")


def _histogram(split: SplitSummary) -> Iterator[str]:
    """A line with a bar for each number of captions; the highest numbers share one."""
    numbers = sorted(split.captions_per_image.items())
    lines = [(str(number), images) for number, images in numbers[:_BARS]]
    if len(numbers) > _BARS:
        rest = sum(images for _, images in numbers[_BARS - 1 :])
        lines[-1] = f"{numbers[_BARS - 1][0]}+", rest
    most, width = max(images for _, images in lines), max(len(number) for number, _ in lines)
    for number, images in lines:
        yield f"{number:>{width}} {'█' * max(1, round(_BAR * images / most))} {images:,}"
