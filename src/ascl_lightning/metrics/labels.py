"""Names of metrics and directions as tables and pages show them."""

COLUMNS = ("R@1", "R@5", "R@10", "median rank", "mean rank", "rSum")
METRICS = ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank", "mean_rank")
DIRECTIONS = {"image_to_text": "image to text", "text_to_image": "text to image"}
SHORT_DIRECTIONS = {"image_to_text": "i2t", "text_to_image": "t2i"}


def recall_rows(metrics: dict[str, float]) -> list[tuple[str, list[str]]]:
    """Recalls and ranks in both directions, as rows of a table under `COLUMNS`.

    Args:
        metrics: Of `retrieval_metrics`; groups of the same metrics under a prefix of their own (`ceiling/`, `folds/`)
            become rows of their own. A group may lack the ranks.

    Returns:
        A label and its cells, for each group and direction.

    Example:
        >>> recall_rows({"rsum": 9.0, "image_to_text/recall_at_1": 4.0, "text_to_image/recall_at_1": 5.0})
        [('image to text', ['4.0', '', '', '', '', '']), ('text to image', ['5.0', '', '', '', '', '9.0'])]
    """
    rows = []
    for group in sorted({name.removesuffix("rsum") for name in metrics if name.endswith("rsum")}):
        for direction, words in DIRECTIONS.items():
            values = [metrics.get(f"{group}{direction}/{key}") for key in METRICS]
            values.append(metrics[f"{group}rsum"] if direction == "text_to_image" else None)
            label = f"{group.rstrip('/')}: {words}" if group else words
            rows.append((label, ["" if value is None else f"{value:.1f}" for value in values]))
    return rows
