"""`ascl interpolate`: validate interpolations of pretrained and fine-tuned weights (WiSE-FT), and keep the best."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ascl_lightning.cli import readable_errors
from ascl_lightning.commands.base import CommandCLI
from ascl_lightning.commands.trained import CKPT_PATH_HELP
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.evaluation.leaks.record import note_selection
from ascl_lightning.metrics.labels import HEADLINES, label
from ascl_lightning.runtime.checkpoints import find_checkpoint
from ascl_lightning.runtime.files import require_writable_file
from ascl_lightning.runtime.number_types import UnitInterval
from ascl_lightning.training.interpolation import interpolate, interpolated_names
from ascl_lightning.training.module import RetrievalModule

COLUMNS = {label(name): f"val/{name}" for name in HEADLINES}


class InterpolateCLI(CommandCLI):
    """Validate interpolations between the pretrained and the fine-tuned weights (WiSE-FT), and save the best."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the command's own flags."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--ckpt_path", type=str, required=True, help=CKPT_PATH_HELP)
        parser.add_argument(
            "--weights",
            type=list[UnitInterval],
            default=[0.0, 0.25, 0.5, 0.75, 1.0],
            help="Weights of the fine-tuned parameters to try: 0 keeps the pretrained towers, 1 the fine-tuned ones. "
            "Parameters that were not pretrained always keep their fine-tuned values.",
        )
        parser.add_argument(
            "--out",
            type=str | None,
            default=None,
            help="Checkpoint to write. null: interpolated.ckpt in the folder of --ckpt_path.",
        )

    def before_instantiate_classes(self) -> None:
        """Checks that the checkpoint can be written, before the validation."""
        if self.config.out is not None:
            require_writable_file(Path(self.config.out))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds the check that stored features are of this model's towers."""
        return super().instantiate_trainer(callbacks=[self._get(self.config_init, "frozen_features")], **kwargs)


def run(args: Sequence[str]) -> None:
    """Validates each interpolation and saves the one with the best val/rsum.

    Args:
        args: The command line, beginning with `interpolate`.

    Raises:
        UserError: If the checkpoint is missing or of another model, or no tower is pretrained.
    """
    cli = InterpolateCLI(args)
    checkpoint = find_checkpoint(cli.config.ckpt_path, Path(cli.config.trainer.default_root_dir))
    assert checkpoint is not None
    cli.warn_of_changes(checkpoint)
    with readable_errors():
        rows, best = search(cli.trainer, cli.model, cli.datamodule, checkpoint, cli.config.weights)
    note_selection(cli.datamodule, ("val/rsum",))
    out = Path(checkpoint).with_name("interpolated.ckpt") if cli.config.out is None else Path(cli.config.out)
    cli.trainer.save_checkpoint(out, weights_only=True)
    if cli.trainer.is_global_zero:
        console = Console()
        console.print(results_table(rows, best))
        console.print(f"Weight {best:g}: test it with the same --config and --ckpt_path {out}", soft_wrap=True)


def search(
    trainer: Trainer,
    module: RetrievalModule,
    datamodule: RetrievalDataModule,
    checkpoint: str,
    weights: Sequence[float],
) -> tuple[dict[float, dict[str, float]], float]:
    """Validates the fine-tuned weights and each interpolation, and loads the best into the module.

    Args:
        trainer: Runs the validation.
        module: With the weights from before fine-tuning.
        datamodule: Takes its vocabulary from the checkpoint.
        checkpoint: The fine-tuned checkpoint.
        weights: Weights of the fine-tuned parameters, each from 0 to 1.

    Returns:
        Metrics by weight, and the weight with the best val/rsum.
    """
    names = interpolated_names(module)
    start = _copy(module.state_dict())
    rows = {1.0: _validate(trainer, module, datamodule, checkpoint)}
    tuned = _copy(module.state_dict())
    for weight in sorted(set(weights) - {1.0}):
        module.load_state_dict(interpolate(start, tuned, names, weight))
        rows[weight] = _validate(trainer, module, datamodule)
    best = max(rows, key=lambda weight: rows[weight]["val/rsum"])
    module.load_state_dict(interpolate(start, tuned, names, best))
    return rows, best


def results_table(rows: dict[float, dict[str, float]], best: float) -> Table:
    """Recall of each interpolation, the best in bold."""
    table = Table("Weight", *COLUMNS, title="Interpolations of pretrained and fine-tuned weights, validation split")
    for weight in sorted(rows):
        figures = (f"{rows[weight][metric]:.1f}" for metric in COLUMNS.values())
        table.add_row(f"{weight:g}", *figures, style="bold" if weight == best else None)
    return table


def _validate(
    trainer: Trainer, module: RetrievalModule, datamodule: RetrievalDataModule, checkpoint: str | None = None
) -> dict[str, float]:
    (metrics,) = trainer.validate(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True, verbose=False)
    return dict(metrics)


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
