"""The sections of score histograms, examples, attention and latency."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ascl_lightning.evaluation.page.blocks import (
    Block,
    Cell,
    Chart,
    Note,
    Number,
    Section,
    Shown,
    Table,
    missing,
    pointer,
)
from ascl_lightning.evaluation.page.charts import Series, histogram_chart, interval_chart
from ascl_lightning.evaluation.page.spotlight import spotlight
from ascl_lightning.evaluation.run_files import ATTENTION, EXAMPLES, HISTOGRAMS, LATENCY, RunFiles
from ascl_lightning.metrics.labels import WAYS, in_words

_KINDS = {"positive": "own text", "other": "other text"}
_SEARCHES = {"full": "every candidate", "two_stage": "two stages"}


@dataclass(frozen=True)
class Item:
    """An image or a text to display."""

    image_id: str
    picture: str | None
    caption: str | None


@dataclass(frozen=True)
class Result:
    """A retrieved item."""

    item: Item
    score: Number
    correct: bool


@dataclass(frozen=True)
class Query:
    """A query with its results."""

    item: Item
    rank: Number
    why: Sequence[str]
    results: Sequence[Result]
    truth: Result | None
    """The best true item if none is among the results."""


@dataclass(frozen=True)
class Word:
    """A word of a caption and its attention."""

    text: str
    support: Number
    looks_at: str | None
    """Overlay of the word's attention to regions, as a `data:` URL."""
    looked_at_by: str | None
    """Overlay of the regions' attention to the word."""
    description: str


@dataclass(frozen=True)
class Pair:
    """An image and a text with their attention."""

    anchor: str
    image: Item
    caption: str
    direction: str
    score: Number
    correct: bool
    words: Sequence[Word]


def histograms_section(files: RunFiles) -> Section:
    """Score histograms of matching and other pairs."""
    found = files.json(HISTOGRAMS)
    if found is None:
        return Section("similarity", "Similarity", [missing(HISTOGRAMS)])
    edges, counts = found["edges"], {_KINDS.get(kind, kind): of for kind, of in found["counts"].items()}
    title = "Scores of images with their own and other texts"
    svg, said = histogram_chart(title, edges, counts, f"{in_words(found['score'])} score")
    rows: list[tuple[str, Sequence[Cell]]] = [
        (
            f"{low:.3f} to {high:.3f}",
            [Number(of[place], pointer(HISTOGRAMS, "counts", kind, place), 0) for kind, of in found["counts"].items()],
        )
        for place, (low, high) in enumerate(pairwise(edges))
    ]
    blocks: list[Block] = [Chart(title, HISTOGRAMS, svg, said, Table(title, HISTOGRAMS, list(counts), rows))]
    absent = [kind for kind in ("T-", "T+") if kind not in counts]
    if absent:
        blocks.append(
            Note(f"{' and '.join(absent)} are missing, because only a report card with the fused score scores them.")
        )
    return Section("similarity", "Similarity", blocks)


def examples_section(files: RunFiles) -> Section:
    """Right and wrong queries with their first results."""
    return _queries_section(files, "examples", "Examples", {"right": "right", "wrong": "wrong"})


def hard_section(files: RunFiles) -> Section:
    """The worst queries by rank, and the slowest queries."""
    section = _queries_section(files, "hard", "Worst and slowest queries", {"worst": "worst", "slowest": "slowest"})
    return Section(section.anchor, section.title, [*_latency(files), *section.blocks])


def attention_section(files: RunFiles) -> Section:
    """Attention of words to regions and of regions to words."""
    found = files.json(ATTENTION)
    title = "Attention of words and regions"
    if found is None:
        return Section("attention", title, [missing(ATTENTION)])
    if not found["pairs"]:
        return Section("attention", title, [Note(f"No attention to show: {found['reason']}.")])
    pairs = [_pair(files, number, pair, found["grid"]) for number, pair in enumerate(found["pairs"])]
    blocks = [
        Shown("attention", f"{words[0].upper()}{words[1:]}", ATTENTION, of_direction)
        for direction, words in WAYS.items()
        if (of_direction := [pair for pair in pairs if pair.direction == direction])
    ]
    return Section("attention", title, blocks)


def _queries_section(files: RunFiles, anchor: str, title: str, kinds: Mapping[str, str]) -> Section:
    found = files.json(EXAMPLES)
    if found is None:
        return Section(anchor, title, [missing(EXAMPLES)])
    blocks = []
    for direction, words in WAYS.items():
        for kind in kinds:
            queries = [
                _query(files, direction, number, query)
                for number, query in enumerate(found.get(direction) or [])
                if kind in query["why"]
            ]
            if queries:
                blocks.append(Shown("examples", f"{words[0].upper()}{words[1:]}: {kinds[kind]}", EXAMPLES, queries))
    return Section(anchor, title, blocks or [Note("There are no such queries.")])


def _query(files: RunFiles, direction: str, number: int, query: Mapping[str, Any]) -> Query:
    def result(of: Mapping[str, Any], *keys: str | int) -> Result:
        score = Number(of["score"], pointer(EXAMPLES, direction, number, *keys, "score"), 3)
        return Result(_item(files, of), score, of["correct"])

    results = [result(of, "results", place) for place, of in enumerate(query["results"])]
    hit = any(of.correct for of in results)
    return Query(
        _item(files, query["query"]),
        Number(query["rank"], pointer(EXAMPLES, direction, number, "rank"), 0),
        query["why"],
        results,
        None if hit else result(query["truth"], "truth"),
    )


def _item(files: RunFiles, item: Mapping[str, Any]) -> Item:
    return Item(str(item["image_id"]), files.picture(item.get("picture")), item.get("caption"))


def _pair(files: RunFiles, number: int, pair: Mapping[str, Any], grid: int | None) -> Pair:
    has_picture = grid is not None and pair["image"].get("picture") is not None
    words = []
    for place, word in enumerate(pair["words"]):
        looks_at = pair["word_to_region"][place]
        looked_at_by = [row[place] for row in pair["region_to_word"]]
        words.append(
            Word(
                word,
                Number(pair["word_support"][place], pointer(ATTENTION, "pairs", number, "word_support", place), 2),
                spotlight(looks_at, grid) if has_picture and grid else None,
                spotlight(looked_at_by, grid) if has_picture and grid else None,
                f"{word}: attends most to {_where(looks_at, grid)}; most attended from {_where(looked_at_by, grid)}",
            )
        )
    return Pair(
        f"pair-{number}",
        _item(files, pair["image"]),
        pair["text"]["caption"],
        pair["direction"],
        Number(pair["score"], pointer(ATTENTION, "pairs", number, "score"), 3),
        pair["correct"],
        words,
    )


def _where(attention: Sequence[int | float], grid: int | None) -> str:
    """Name of the region with the most attention."""
    best = max(range(len(attention)), key=attention.__getitem__)
    place = f"region {best + 1}" if grid is None else f"row {best // grid + 1}, column {best % grid + 1}"
    return f"{place} ({100 * attention[best]:.0f}%)"


def _latency(files: RunFiles) -> list[Block]:
    found = files.json(LATENCY)
    if found is None:
        return [missing(LATENCY)]
    names = [f"{WAYS[of['direction']]}, {_SEARCHES[of['search']]}" for of in found["searches"]]
    times = [[query["milliseconds"] for query in of["queries"]] for of in found["searches"]]
    medians = [of["median"] for of in found["searches"]]
    title = "Latency of single queries"
    ends = [*map(min, times)], [*map(max, times)]
    series = Series("median, with range from fastest to slowest", range(len(names)), medians, *ends)
    svg, said = interval_chart(title, names, [series], "milliseconds", log_x=True)
    rows: list[tuple[str, Sequence[Cell]]] = [
        (
            name,
            [
                Number(of["scored"], pointer(LATENCY, "searches", number, "scored"), 0),
                Number(of["median"], pointer(LATENCY, "searches", number, "median"), 2),
                _slowest(number, of["queries"]),
            ],
        )
        for number, (name, of) in enumerate(zip(names, found["searches"], strict=True))
    ]
    note = (
        f"On {found['device']} with {found['threads']} threads, {len(times[0])} queries each, one at a time, from "
        f"encoded query to ranked candidates. Lines range from the fastest to the slowest query."
    )
    columns = ["candidates with fused score", "median, ms", "slowest, ms"]
    return [Chart(title, LATENCY, svg, said, Table(title, LATENCY, columns, rows), note)]


def _slowest(search: int, queries: Sequence[Mapping[str, Any]]) -> Number:
    place = max(range(len(queries)), key=lambda of: queries[of]["milliseconds"])
    source = pointer(LATENCY, "searches", search, "queries", place, "milliseconds")
    return Number(queries[place]["milliseconds"], source, 2)
