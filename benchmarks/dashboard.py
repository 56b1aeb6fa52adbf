"""The cost of training scalars and W&B panels on scenes, without W&B and with W&B offline.

Prints how often each of our hooks was called and how long it took (the first call separately, because it loads
libraries), the duration of a training step and of a validation, and the share of the hooks in them.
"""

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from ascl_lightning.__main__ import main as ascl
from ascl_lightning.evaluation.asymmetry_shares import AsymmetryShares
from ascl_lightning.evaluation.wandb.dashboard import Dashboard
from ascl_lightning.training.callbacks.progress import TrainingProgress

CONFIGS = Path(__file__).parents[1] / "configs"
EPOCHS = 3
STEP_HOOKS = ("on_before_optimizer_step", "on_train_batch_end")
HOOKS = [
    *((TrainingProgress, hook) for hook in STEP_HOOKS),
    (AsymmetryShares, "on_validation_epoch_end"),
    (Dashboard, "on_train_start"),
    (Dashboard, "on_validation_epoch_end"),
    (Dashboard, "on_validation_end"),
    (Dashboard, "on_fit_end"),
]


def timed(owner: type, name: str, seconds: list[float]) -> None:
    """Records how long each call of a method takes."""
    method: Callable[..., Any] = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*arguments, **named)
        finally:
            seconds.append(time.perf_counter() - start)

    setattr(owner, name, call)


def train(folder: str, *arguments: str) -> None:
    config = str(CONFIGS / "scenes.yaml")
    flags = ("--trainer.max_epochs", str(EPOCHS), "--trainer.check_val_every_n_epoch", "1")
    quiet = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
    assert ascl(["fit", "--config", config, *flags, *quiet, "--trainer.default_root_dir", folder, *arguments]) == 0


def report(spent: dict[str, list[float]]) -> None:
    for name, seconds in spent.items():
        first, *rest = seconds or [0.0]
        middle = f"then {1e3 * fmean(rest):9.3f} ms on average" if rest else ""
        print(f"  {name:42} {len(seconds):4} times, first {1e3 * first:9.3f} ms {middle}")
    step = median(spent["step"])
    of_steps = fmean(map(sum, zip(*(spent[f"TrainingProgress.{hook}"] for hook in STEP_HOOKS), strict=True)))
    print(f"  hooks of a step {1e6 * of_steps:.0f} us, {100 * of_steps / step:.3f}% of its {1e3 * step:.1f} ms")
    # skip the first two: the sanity check, and a call that loads libraries
    panels = [spent[f"{name}.on_validation_epoch_end"][2:] for name in ("AsymmetryShares", "Dashboard")]
    validation = median(spent["validation"][2:])
    for name, seconds in zip(("comparisons", "panels"), panels, strict=True):
        print(f"  {name} {fmean(seconds):.3f} s of a validation of {validation:.2f} s")


def main() -> None:
    spent: dict[str, list[float]] = defaultdict(list)
    for owner, hook in HOOKS:
        timed(owner, hook, spent[f"{owner.__name__}.{hook}"])
    timed(_TrainingEpochLoop, "advance", spent["step"])
    timed(_EvaluationLoop, "run", spent["validation"])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for title, arguments in {
            "without W&B": (),
            "with W&B": ("--config", str(CONFIGS / "logger" / "wandb.yaml")),
        }.items():
            for seconds in spent.values():
                seconds.clear()
            train(folder, *arguments)
            print(title)
            report(spent)


if __name__ == "__main__":
    main()
