"""The section of hard negatives: accuracy by category, and the text-only control."""

from collections.abc import Sequence

from ascl_lightning.evaluation.page.blocks import Block, Cell, Listing, Note, Number, Section, Table, pointer
from ascl_lightning.evaluation.page.scores import estimate
from ascl_lightning.evaluation.run_files import HARD_NEGATIVES, RunFiles
from ascl_lightning.metrics.labels import in_words

_NOTE = "In brackets: 95% confidence interval, from drawing images again. Ties count as failures."


def hard_negatives_section(files: RunFiles) -> Section:
    """Accuracy by category and score; no blocks unless the run tested a benchmark of hard negatives."""
    title, found = "Hard negatives", files.json(HARD_NEGATIVES)
    if found is None:
        return Section("hard-negatives", title)
    rows: list[tuple[str, Sequence[Cell]]] = []
    for number, row in enumerate(found["rows"]):
        place = (HARD_NEGATIVES, "rows", number)
        control = None if row["control"] is None else estimate(row["control"], *place, "control")
        cells = [estimate(figure, *place, "scores", score) for score, figure in row["scores"].items()]
        heading = f"{in_words(row['category'])}, {row['figure']}"
        rows.append((heading, [Number(row["n"], pointer(*place, "n"), 0), control, *cells]))
    columns = ["tests", "control, %", *(f"{in_words(score)}, %" for score in found["rows"][0]["scores"])]
    blocks: list[Block] = [
        Table("Share of tests solved", HARD_NEGATIVES, columns, rows, _NOTE),
        Note(f"Control: {found['control']}"),
    ]
    truncated = Number(found["truncated_texts"], pointer(HARD_NEGATIVES, "truncated_texts"), 0)
    listed: list[tuple[str, Cell]] = [("texts truncated by the tokenizer", truncated)]
    for reason, count in found["left_out"].items():
        listed.append((f"tests left out: {reason}", Number(count, pointer(HARD_NEGATIVES, "left_out", reason), 0)))
    return Section("hard-negatives", title, [*blocks, Listing("Texts and tests", HARD_NEGATIVES, listed)])
