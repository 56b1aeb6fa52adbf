"""Charts as inline SVG with selectable text; series differ in line style, marker and label, not only in colour."""

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# based on the colour-blind safe palette of Okabe and Ito
_COLOURS = ("#0072B2", "#D55E00", "#007A5A", "#A3458B", "#8A5A00", "#333333", "#5B4FA8", "#7A1F1F")
_LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*")
_HATCHES = ("//", "..")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ascl",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666",
    "axes.grid": True,
    "grid.color": "#ddd",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
}
_INCHES = (4.1, 2.9)
_LABEL_ROOM = 0.075


Values = Sequence[int | float]


@dataclass(frozen=True)
class Series:
    """A line, optionally with an interval at each point."""

    name: str
    x: Values
    y: Values
    low: Values | None = None
    high: Values | None = None

    def described(self) -> str:
        """First and last point in words."""
        if not self.x:
            return f"{self.name}: nothing"
        start, stop = (f"{self.y[end]:.4g} at {self.x[end]:g}" for end in (0, -1))
        return f"{self.name}: {start}" + (f", {stop}" if len(self.x) > 1 else "")


def line_chart(
    title: str, series: Sequence[Series], x_label: str, y_label: str, *, log_x: bool = False, markers: bool = True
) -> tuple[str, str]:
    """Draws lines, labelled at their ends; with a logarithmic x axis in a legend.

    Args:
        title: Title, for the description.
        series: The lines.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        log_x: Whether the x axis is logarithmic.
        markers: Whether to mark the points.

    Returns:
        The SVG, and a description in words.
    """
    figure, axes = _figure()
    for number, line in enumerate(series):
        own = number % len(_COLOURS)
        look: dict[str, Any] = {"color": _COLOURS[own], "linestyle": _LINES[own], "linewidth": 1.6}
        if markers:
            look |= {"marker": _MARKERS[own], "markersize": 4}
        axes.plot(line.x, line.y, label=line.name, **look)
        if line.low is not None and line.high is not None:
            axes.vlines(line.x, line.low, line.high, color=_COLOURS[own], linewidth=1)
            axes.fill_between(line.x, line.low, line.high, color=_COLOURS[own], alpha=0.1, linewidth=0)
    if log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend(loc="lower right", handlelength=4)
    else:
        _label_ends(axes, series)
    axes.set(xlabel=x_label, ylabel=y_label)
    return _svg(figure), f"{title}; {y_label} over {x_label}. " + ". ".join(line.described() for line in series)


def interval_chart(
    title: str, rows: Sequence[str], series: Sequence[Series], x_label: str, *, log_x: bool = False
) -> tuple[str, str]:
    """Draws points with intervals in named rows, with a different marker for each series.

    Args:
        title: Title, for the description.
        rows: Names of the rows, from the top.
        series: `x` has row numbers, `y` the values.
        x_label: Label of the values.
        log_x: Whether the axis of the values is logarithmic.

    Returns:
        The SVG, and a description in words.
    """
    figure, axes = _figure(height=0.9 + 0.3 * len(rows) + 0.2 * len(series))
    for number, points in enumerate(series):
        places = [row + 0.16 * (number - (len(series) - 1) / 2) for row in points.x]
        if points.low is not None and points.high is not None:
            look: dict[str, Any] = {"color": _COLOURS[number], "linestyle": _LINES[number], "linewidth": 1.6}
            axes.hlines(places, points.low, points.high, **look)
        hollow: dict[str, Any] = {"markerfacecolor": "white"} if number % 2 else {}
        axes.plot(points.y, places, _MARKERS[number], color=_COLOURS[number], label=points.name, markersize=6, **hollow)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    if log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(x_label)
    if len(series) > 1:
        # three names in a row can be wider than the figure
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    said = (
        f"{rows[int(row)]}, {points.name}: {value:.4g}"
        for points in series
        for row, value in zip(points.x, points.y, strict=True)
    )
    return _svg(figure), f"{title}; {x_label}. " + ". ".join(said)


def histogram_chart(title: str, edges: Values, counts: dict[str, list[int]], x_label: str) -> tuple[str, str]:
    """Draws outlined histograms of several kinds over equal bins, the first two hatched.

    Args:
        title: Title, for the description.
        edges: Bin edges, one more than bins.
        counts: Counts per bin, by kind.
        x_label: Label of the binned values.

    Returns:
        The SVG, and a description in words.
    """
    figure, axes = _figure()
    centres = [(low + high) / 2 for low, high in pairwise(edges)]
    said = []
    for number, (kind, of_kind) in enumerate(counts.items()):
        total = sum(of_kind)
        if not total:
            continue
        shares = [100 * count / total for count in of_kind]
        look: dict[str, Any] = {"edgecolor": _COLOURS[number], "linestyle": _LINES[number], "linewidth": 1.5}
        hatch = _HATCHES[number] if number < len(_HATCHES) else None
        axes.stairs(shares, edges, fill=True, facecolor="none", hatch=hatch, label=kind, **look)
        mean = sum(centre * count for centre, count in zip(centres, of_kind, strict=True)) / total
        said.append(f"{kind}: {total} scores, mean {mean:.2f}")
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    axes.set(xlabel=x_label, ylabel="% per kind")
    return _svg(figure), f"{title}. " + ". ".join(said)


def _figure(height: float = _INCHES[1]) -> "tuple[Figure, Axes]":
    # imported here because it takes half a second; `pyplot` would look for a display
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(_INCHES[0], height), layout="constrained")
        return figure, figure.subplots()


def _label_ends(axes: "Axes", series: Sequence[Series]) -> None:
    """Writes the names right of the lines' ends, moved apart to avoid overlap."""
    ends = sorted((line.y[line.x.index(max(line.x))], number) for number, line in enumerate(series) if line.x)
    low, high = axes.get_ylim()
    places: list[float] = []
    for y, _ in ends:
        places.append(max((y - low) / (high - low), places[-1] + _LABEL_ROOM if places else 0.0))
    # move names beyond the top down again, with those below them
    highest = 1.0
    for number in reversed(range(len(places))):
        places[number] = min(places[number], highest)
        highest = places[number] - _LABEL_ROOM
    for place, (_, number) in zip(places, ends, strict=True):
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_COLOURS)]
        axes.plot([1.03], [place], marker, transform=axes.transAxes, color=colour, markersize=4, clip_on=False)
        axes.text(1.05, place, f" {series[number].name}", transform=axes.transAxes, color=colour, va="center")


def _svg(figure: "Figure") -> str:
    """SVG for inline use, without prologue and metadata, and with unique identifiers."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.S)
    own = hashlib.sha256(drawing.encode()).hexdigest()[:8]
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}-", drawing)
