"""`ascl dashboard`: create a saved view of the metrics in a W&B project."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from ascl_lightning.cli import OneLineParser
from ascl_lightning.errors import UserError
from ascl_lightning.metrics.labels import RECALLS, RSUM, WAYS

NAME = "AsCL"


def run(args: Sequence[str]) -> None:
    """Saves a new view.

    Args:
        args: The command line, beginning with `dashboard`.

    Raises:
        UserError: If `wandb-workspaces` is not installed, no user is logged in, or W&B rejects the view.
    """
    parser = OneLineParser(
        prog="ascl dashboard",
        description="Create a saved view of the metrics in a W&B project.",
    )
    parser.add_argument("--entity", type=str, required=True, help="W&B user or team of the project.")
    parser.add_argument("--project", type=str, required=True, help="W&B project of the runs.")
    parser.add_argument("--name", type=str, default=NAME, help="Name of the view.")
    given = parser.parse_args(list(args[1:]))
    view = workspace(given.entity, given.project, given.name)
    import wandb

    try:
        if not wandb.login(prompt=False):
            raise UserError(
                "saving the view needs a W&B account, but no API key is configured: run `wandb login` first"
            )
        view.save_as_new_view()
    except wandb.errors.Error as error:
        raise UserError(f"W&B rejected the view for {given.entity}/{given.project}: {error}") from error
    Console().print(f"Dashboard: {view.url}", soft_wrap=True)


def workspace(entity: str, project: str, name: str) -> Any:
    """Builds the view without sending it.

    Raises:
        UserError: If `wandb-workspaces` is not installed.
    """
    try:
        from wandb_workspaces import workspaces
    except ImportError as error:
        raise UserError("ascl dashboard needs wandb-workspaces: pip install 'ascl-lightning[dashboard]'") from error
    sections = {"Recall": _recall(), "Asymmetry": _asymmetry(), "Training": _training(), "Examples": _examples()}
    sections["Runs"] = _runs()
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            workspaces.Section(name=title, panels=panels, is_open=True, pinned=title == "Recall")
            for title, panels in sections.items()
        ],
    )


def _recall() -> list[Any]:
    recalls = [
        _lines(f"Recall, {words} (%)", [f"val/{direction}/{name}" for name in RECALLS], "epoch")
        for direction, words in WAYS.items()
    ]
    ranks = _lines("Mean rank", [f"val/{direction}/mean_rank" for direction in WAYS], "epoch")
    return [_lines(f"{RSUM} (600 at most)", ["val/rsum"], "epoch"), *recalls, ranks]


def _asymmetry() -> list[Any]:
    types = [f"val/asymmetry/type_{number}" for number in ("i", "ii", "iii")]
    uniformity = ["val/uniformity/image", "val/uniformity/text"]
    return [
        _lines("Right text preferred to the wrong one, by type (fraction)", types, "epoch"),
        _matching("T preferred to T-, by operation (fraction)", "val/asymmetry/type_i/.*"),
        _matching("T+ preferred to (T+)-, T- or T, type II (fraction)", "val/asymmetry/type_ii/.*"),
        _matching("T+ preferred to (T+)-, T- or T, type III (fraction)", "val/asymmetry/type_iii/.*"),
        _lines("Alignment", ["val/alignment"], "epoch"),
        _lines("Uniformity", uniformity, "epoch"),
        _table("val/asymmetry/comparisons"),
    ]


def _training() -> list[Any]:
    return [
        _lines("Loss", ["train/loss"]),
        _lines("Loss by asymmetry type", ["train/loss_type_i", "train/loss_type_ii_iii"]),
        _lines("Gradient norm before clipping", ["train/gradient_norm"], log_y=True),
        _lines("Logit scale (1 / temperature)", ["train/logit_scale"]),
        _matching("Learning rates", "train/learning_rate/.*", x="trainer/global_step"),
        _lines("Pairs per second", ["train/pairs_per_second"]),
        _lines("Skipped steps: loss or gradient not finite", ["train/skipped_steps"]),
        _lines("Truncated texts, skipped images per epoch", ["train/truncated_texts", "train/skipped_images"], "epoch"),
    ]


def _examples() -> list[Any]:
    names = ("train/first_batch", "val/found/text_to_image", "val/found/image_to_text", "val/attention")
    return [_table(name) for name in names]


def _runs() -> list[Any]:
    from wandb_workspaces.reports.v2 import BarPlot, ParameterImportancePlot, RunComparer

    return [
        BarPlot(title=f"{RSUM} of the best validation", metrics=["best/rsum"]),
        ParameterImportancePlot(with_respect_to="best/rsum"),
        RunComparer(diff_only="split"),
    ]


def _lines(title: str, metrics: list[str], x: str = "trainer/global_step", **settings: Any) -> Any:
    from wandb_workspaces.reports.v2 import LinePlot

    return LinePlot(title=title, x=x, y=metrics, **settings)


def _matching(title: str, pattern: str, x: str = "epoch") -> Any:
    from wandb_workspaces.reports.v2 import LinePlot

    return LinePlot(title=title, x=x, metric_regex=pattern)


def _table(name: str) -> Any:
    from wandb_workspaces.reports.v2 import WeavePanelSummaryTable

    return WeavePanelSummaryTable(table_name=name)
