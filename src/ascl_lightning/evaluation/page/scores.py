"""The sections of metrics: scores, other protocols, and ranks of single queries."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from ascl_lightning.evaluation.page.blocks import Cell, Chart, Estimate, Number, Section, Table, missing, pointer
from ascl_lightning.evaluation.page.charts import Series, interval_chart, line_chart
from ascl_lightning.evaluation.run_files import EXAMPLES, QUERIES, RESULTS, WORST, RunFiles
from ascl_lightning.metrics.labels import FIGURES, PERCENT, RECALLS, RSUM, WAYS, in_words, protocol_in_words
from ascl_lightning.metrics.query_results import OWN, DirectionQueries

_DRAWN = "recall_at_1"
INTERVAL = "In brackets: 95% bootstrap confidence interval over images, with a fixed gallery."


def estimate(figure: Mapping[str, int | float], file: str, *keys: str | int, digits: int = 1) -> Estimate:
    """An estimate from `{"value", "low", "high"}` at a place in a JSON file."""
    numbers = {name: Number(value, pointer(file, *keys, name), digits) for name, value in figure.items()}
    return Estimate(numbers["value"], numbers.get("low"), numbers.get("high"))


def scores_section(files: RunFiles) -> Section:
    """Metrics of all scores of the model, and of an oracle scorer."""
    scores = files.results["scores"]
    if not scores:
        return Section("scores", "Scores")
    table = _score_table("Metrics by score", scores, ("scores",), files.results.get("ceiling") or {})
    series = [
        Series(words, range(len(scores)), *_columns(scores.values(), f"{direction}/{_DRAWN}"))
        for direction, words in WAYS.items()
    ]
    title = f"{RECALLS[_DRAWN]} by score, with 95% intervals"
    svg, said = interval_chart(title, [in_words(score) for score in scores], series, f"{RECALLS[_DRAWN]}, %")
    return Section("scores", "Scores", [Chart(title, RESULTS, svg, said, None), table])


def protocols_section(files: RunFiles) -> Section:
    """Metrics by other protocols, if the data support them."""
    blocks = [
        _score_table(protocol_in_words(protocol), scores, ("protocols", protocol), {})
        for protocol, scores in (files.results.get("protocols") or {}).items()
    ]
    return Section("protocols", "Other protocols", blocks)


def queries_section(files: RunFiles) -> Section:
    """Recall over rank, and the worst queries."""
    by_score = {score: of.directions() for (score, protocol), of in files.queries.items() if protocol == OWN}
    if not by_score:
        return Section("queries", "Ranks of single queries", [missing(QUERIES)])
    worst = (files.json(EXAMPLES) or {}).get("worst") or {}
    charts, tables = [], []
    for direction, words in WAYS.items():
        charts.append(_rank_chart({score: of[direction].rank for score, of in by_score.items()}, words))
        score = next(iter(by_score))
        said = {of["query"]: of["caption"] for of in worst.get(direction) or []}
        tables.append(_worst_table(by_score[score][direction], score, direction, said))
    return Section("queries", "Ranks of single queries", [*charts, *tables])


def _score_table(
    title: str, scores: Mapping[str, Any], keys: tuple[str, ...], ceiling: Mapping[str, int | float]
) -> Table:
    every = {name.partition("/")[2] for figures in scores.values() for name in figures}
    shown = {name: words for name, words in FIGURES.items() if name in every}
    rows = []
    for score, figures in scores.items():
        for direction, words in WAYS.items():
            names = [*(f"{direction}/{figure}" for figure in shown), "rsum" if direction == "text_to_image" else ""]
            cells: list[Cell] = [
                estimate(figures[name], RESULTS, *keys, score, name) if name in figures else None for name in names
            ]
            rows.append((f"{in_words(score)}, {words}", cells))
    for direction, words in WAYS.items() if ceiling else ():
        names = [*(f"{direction}/{figure}" for figure in shown), "rsum" if direction == "text_to_image" else ""]
        known = {name: Number(value, pointer(RESULTS, "ceiling", name)) for name, value in ceiling.items()}
        rows.append((f"ceiling, {words}", [known.get(name) for name in names]))
    note = INTERVAL + (" The ceiling is the result of an oracle that scores by the ground truth." if ceiling else "")
    columns = [f"{words}, %" if name in PERCENT else words for name, words in shown.items()]
    return Table(title, RESULTS, [*columns, RSUM], rows, note)


def _columns(scores: Any, name: str) -> tuple[list[float], list[float], list[float]]:
    found = [figures[name] for figures in scores]
    value, low, high = ([figure[part] for figure in found] for part in ("value", "low", "high"))
    return value, low, high


def _rank_chart(ranks: Mapping[str, Integer[np.ndarray, " Q"]], words: str) -> Chart:
    steps = _steps(max(int(of_score.max()) for of_score in ranks.values()))
    series = [
        Series(in_words(score), steps, [100 * float((of_score <= k).mean()) for k in steps])
        for score, of_score in ranks.items()
    ]
    title = f"Recall over k, {words}"
    svg, said = line_chart(title, series, "k", "R@k, %", log_x=True)
    return Chart(title, QUERIES, svg, said, None)


def _steps(highest: int) -> list[int]:
    """1, 2, 5, 10, 20, 50 and so on, up to the highest."""
    steps = [digit * 10**power for power in range(len(str(highest))) for digit in (1, 2, 5)]
    return [step for step in steps if step < highest] + [highest]


def _worst_table(queries: DirectionQueries, score: str, direction: str, captions: Mapping[int, str]) -> Table:
    rows: list[tuple[str, Sequence[Cell]]] = []
    for place in np.argsort(-queries.rank, kind="stable")[:WORST]:
        query = int(queries.query[place])
        source = f"{QUERIES}#{score}/own/{direction}/{query}"
        numbers = Number(query, f"{source}/query", 0), Number(int(queries.rank[place]), f"{source}/rank", 0)
        rows.append((str(queries.image_id[place]), [*([captions.get(query, "")] if captions else []), *numbers]))
    sentence = "caption" if direction == "text_to_image" else "first caption"
    columns = [*([sentence] if captions else []), "row", "rank"]
    return Table(
        f"Worst queries, {WAYS[direction]}",
        QUERIES,
        columns,
        rows,
        f"By {in_words(score)} score; row is the row in the split.",
    )
