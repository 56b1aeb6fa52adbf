"""Labels of metrics, scores and protocols in tables, charts and pages."""

from ascl_lightning.metrics.query_results import DIRECTIONS, OWN, RECALL_AT

WAYS: dict[str, str] = dict(zip(DIRECTIONS, ("image to text", "text to image"), strict=True))
"""A direction in words."""
SHORT_WAYS: dict[str, str] = dict(zip(DIRECTIONS, ("i2t", "t2i"), strict=True))
"""Short form of a direction."""
RSUM = "rSum"
PERCENT = {f"recall_at_{k}": f"R@{k}" for k in RECALL_AT} | {
    "map_at_r": "mAP@R",
    "r_precision": "R-precision",
    "ndcg": "nDCG",
}
"""Metrics of one direction that are percentages."""
RANKS = {"median_rank": "median rank", "mean_rank": "mean rank"}
RECALLS = {name: PERCENT[name] for name in (f"recall_at_{k}" for k in RECALL_AT)}
FIGURES = RECALLS | RANKS | {name: words for name, words in PERCENT.items() if name not in RECALLS}
"""All metrics of one direction, in table order."""
COLUMNS = (*RECALLS.values(), *RANKS.values(), RSUM)
"""Columns of a table of recalls and ranks; see `row_of`."""
HEADLINES = ("rsum", *(f"{direction}/recall_at_{min(RECALL_AT)}" for direction in DIRECTIONS))
"""The metrics that summaries show."""
_PROTOCOLS = {"folds": "mean over folds", "eccv": "ECCV Caption", "cxc": "CxC"}


def in_words(score: str) -> str:
    """Name of a score or operation, with spaces.

    Example:
        >>> in_words("two_stage")
        'two stage'
    """
    return score.replace("_", " ")


def protocol_in_words(protocol: str) -> str:
    """Name of a protocol."""
    return _PROTOCOLS.get(protocol, protocol)


def heading(protocol: str, score: str) -> str:
    """Name of a score, with its protocol unless that is the default one.

    Example:
        >>> heading("own", "two_stage"), heading("eccv", "fused")
        ('two stage', 'fused, eccv')
    """
    words = in_words(score)
    return words if protocol == OWN else f"{words}, {protocol}"


def label(figure: str) -> str:
    """Short label of a metric, by its name in `retrieval_metrics`.

    Example:
        >>> label("image_to_text/recall_at_1"), label("text_to_image/map_at_r"), label("rsum")
        ('i2t R@1', 't2i mAP@R', 'rSum')
    """
    direction, _, name = figure.rpartition("/")
    return f"{SHORT_WAYS[direction]} {FIGURES.get(name, name)}" if direction else RSUM


def row_of(direction: str, group: str = "") -> list[str]:
    """Names of the metrics under `COLUMNS`; the sum of recalls is in the row of the last direction.

    Example:
        >>> row_of("text_to_image", "val/")[-2:]
        ['val/text_to_image/mean_rank', 'val/rsum']
    """
    last = f"{group}rsum" if direction == DIRECTIONS[-1] else ""
    return [*(f"{group}{direction}/{name}" for name in (*RECALLS, *RANKS)), last]


def recall_rows(metrics: dict[str, float]) -> list[tuple[str, list[str]]]:
    """Rows of a table of recalls and ranks with the columns `COLUMNS`.

    Args:
        metrics: From `retrieval_metrics`; each group of metrics with a prefix (`ceiling/`, `folds/`) becomes additional
            rows. A group may lack the ranks.

    Returns:
        Label and cells of each group and direction.

    Example:
        >>> recall_rows({"rsum": 9.0, "image_to_text/recall_at_1": 4.0, "text_to_image/recall_at_1": 5.0})
        [('image to text', ['4.0', '', '', '', '', '']), ('text to image', ['5.0', '', '', '', '', '9.0'])]
    """
    rows = []
    for group in sorted({name.removesuffix("rsum") for name in metrics if name.endswith("rsum")}):
        for direction, words in WAYS.items():
            values = [metrics.get(name) for name in row_of(direction, group)]
            heading_of_row = f"{group.rstrip('/')}: {words}" if group else words
            rows.append((heading_of_row, ["" if value is None else f"{value:.1f}" for value in values]))
    return rows
