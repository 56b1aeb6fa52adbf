"""Charts as SVG inside a page: text stays text, and line styles, markers and labels tell apart what colours do."""

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

# of Okabe and Ito, which most eyes tell apart
_COLOURS = ("#0072B2", "#D55E00", "#007A5A", "#A3458B", "#8A5A00", "#333333")
_LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1)), (0, (1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "X")
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
    """A line: y over x, perhaps with an interval at each point."""

    name: str
    x: Values
    y: Values
    low: Values | None = None
    high: Values | None = None

    def described(self) -> str:
        """From where to where, in words."""
        if not self.x:
            return f"{self.name}: nothing"
        start, stop = (f"{self.y[end]:.4g} at {self.x[end]:g}" for end in (0, -1))
        return f"{self.name}: {start}" + (f", {stop}" if len(self.x) > 1 else "")


def line_chart(
    title: str, series: Sequence[Series], x_label: str, y_label: str, *, log_x: bool = False, markers: bool = True
) -> tuple[str, str]:
    """Lines with their names at their ends; where x grows by factors they meet there, and a legend names them.

    Args:
        title: What the chart is of, for its description.
        series: The lines.
        x_label: What x is.
        y_label: What y is.
        log_x: Whether x grows by factors.
        markers: Whether to mark the points, which few points want and many do not.

    Returns:
        The drawing, and what it shows in words.
    """
    figure, axes = _figure()
    for number, line in enumerate(series):
        look: dict[str, Any] = {"color": _COLOURS[number % 6], "linestyle": _LINES[number % 6], "linewidth": 1.6}
        if markers:
            look |= {"marker": _MARKERS[number % 6], "markersize": 4}
        axes.plot(line.x, line.y, label=line.name, **look)
        if line.low is not None and line.high is not None:
            axes.vlines(line.x, line.low, line.high, color=_COLOURS[number % 6], linewidth=1)
            axes.fill_between(line.x, line.low, line.high, color=_COLOURS[number % 6], alpha=0.1, linewidth=0)
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
    """Points with intervals in named rows, each series with a marker of its own.

    Args:
        title: What the chart is of.
        rows: Names, from the top.
        series: `x` are numbers of rows, `y` the values.
        x_label: What the values are.
        log_x: Whether values grow by factors.

    Returns:
        The drawing, and what it shows in words.
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
        figure.legend(loc="outside upper center", ncols=len(series), frameon=False)
    said = (
        f"{rows[int(row)]}, {points.name}: {value:.4g}"
        for points in series
        for row, value in zip(points.x, points.y, strict=True)
    )
    return _svg(figure), f"{title}; {x_label}. " + ". ".join(said)


def histogram_chart(title: str, edges: Values, counts: dict[str, list[int]], x_label: str) -> tuple[str, str]:
    """Shares of several kinds over equal bins: outlines of different lines, the first two hatched.

    Args:
        title: What the chart is of.
        edges: One more than bins.
        counts: Of each kind.
        x_label: What is binned.

    Returns:
        The drawing, and what it shows in words.
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
        said.append(f"{kind}: {total} scores, {mean:.2f} in the mean")
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    axes.set(xlabel=x_label, ylabel="% of the kind")
    return _svg(figure), f"{title}. " + ". ".join(said)


def _figure(height: float = _INCHES[1]) -> "tuple[Figure, Axes]":
    # half a second of import, for this command alone; `pyplot` would look for a screen
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(_INCHES[0], height), layout="constrained")
        return figure, figure.subplots()


def _label_ends(axes: "Axes", series: Sequence[Series]) -> None:
    """Names right of the lines' ends, moved apart where they would overlap."""
    ends = sorted((line.y[line.x.index(max(line.x))], number) for number, line in enumerate(series) if line.x)
    low, high = axes.get_ylim()
    places: list[float] = []
    for y, _ in ends:
        places.append(max((y - low) / (high - low), places[-1] + _LABEL_ROOM if places else 0.0))
    # those that were moved beyond the top go down again, and push the ones below them
    highest = 1.0
    for number in reversed(range(len(places))):
        places[number] = min(places[number], highest)
        highest = places[number] - _LABEL_ROOM
    for place, (_, number) in zip(places, ends, strict=True):
        colour, marker = _COLOURS[number % 6], _MARKERS[number % 6]
        axes.plot([1.03], [place], marker, transform=axes.transAxes, color=colour, markersize=4, clip_on=False)
        axes.text(1.05, place, f" {series[number].name}", transform=axes.transAxes, color=colour, va="center")


def _svg(figure: "Figure") -> str:
    """As it stands in HTML: no prologue, sizes from the page, and identifiers that no other drawing has."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.S)
    own = hashlib.sha256(drawing.encode()).hexdigest()[:8]
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}-", drawing)
