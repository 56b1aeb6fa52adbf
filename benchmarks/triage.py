"""Triage of training captions: does it find corrupted pairs, and does training without them recover recall?

In generated scenes, 20 or 40% of the captions are exchanged between images, 5% get a caption of another image appended,
and 5% keep the first third of their words (`noise.py`). A model is trained on the corrupted data and judges its own
training pairs (`ascl triage`). Another model is trained without the flagged pairs. Prints the AUROC of each measure
against untouched pairs, what was flagged, and rSum on the clean validation split with 95% intervals over images. With
several seeds (`python benchmarks/triage.py 0 1 2`), also prints the mean over seeds with its interval.

Runs one experiment after another on one thread: about 15 minutes per seed on an idle core.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from noise import KINDS, spoil
from pyarrow import parquet

from ascl_lightning.data.sources import Scenes
from ascl_lightning.metrics.intervals import spread

HERE = Path(__file__).parent
NUM_TRAIN, NUM_VAL, EPOCHS = 2000, 300, 8
SHARES = (0.2, 0.4)
OTHER_KINDS = {"over_long": 0.05, "under_specified": 0.05}


def auroc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Share of pairs of a positive and a negative in which the positive is higher; ties count half.

    >>> auroc(np.array([3.0, 1.0]), np.array([0.0, 1.0]))  # higher in 3 of 4 pairs, one tie
    0.875
    """
    values = np.concatenate([positives, negatives])
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    lowest = len(positives) * (len(positives) + 1) / 2
    return float((ranks[: len(positives)].sum() - lowest) / (len(positives) * len(negatives)))


class Experiment:
    """One set of corrupted captions, and the runs on it.

    Args:
        folder: Folder of the runs.
        shares: Share of pairs to corrupt, by kind.
        seed: Of the scenes, of the corruption and of training.
    """

    def __init__(self, folder: Path, shares: dict[str, float], seed: int) -> None:
        self.folder = folder
        self.shares = shares
        self.seed = seed

    def ascl(self, command: str, runs: str, *arguments: str) -> None:
        """Runs an `ascl` command on this data."""
        source = {"num_train": NUM_TRAIN, "num_val": NUM_VAL, "seed": self.seed}
        spoiled = {
            "class_path": "noise.SpoiledCaptions",
            "init_args": {
                "source": {"class_path": "Scenes", "init_args": source},
                "shares": self.shares,
                "seed": self.seed,
            },
        }
        given = {
            "config": str(HERE.parent / "configs" / "scenes.yaml"),
            "seed_everything": str(self.seed),
            "data.source": json.dumps(spoiled),
            "data.seed": str(self.seed),
            "trainer.default_root_dir": str(self.folder / runs),
            "trainer.max_epochs": str(EPOCHS),
            "trainer.check_val_every_n_epoch": str(EPOCHS),
            "trainer.enable_progress_bar": "false",
            "trainer.enable_model_summary": "false",
        }
        flags = [part for name, value in given.items() for part in (f"--{name}", value)]
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        subprocess.run(
            [sys.executable, "-m", "ascl_lightning", command, *flags, *arguments],
            env=os.environ | {"PYTHONPATH": path},
            check=True,
            capture_output=True,
        )

    def rsum(self, runs: str, *arguments: str) -> tuple[float, float, float]:
        """Trains, and returns rSum on the clean validation split after the last epoch, with its interval."""
        self.ascl("fit", runs, *arguments)
        self.ascl("validate", runs, "--ckpt_path", "best")
        (results,) = (self.folder / runs).glob("validate/*/results.json")
        figure = json.loads(results.read_text())["scores"]["fused"]["rsum"]
        return figure["value"], figure["low"], figure["high"]

    def triage(self, runs: str) -> Path:
        """Runs triage on the training pairs with the model of earlier runs."""
        out = self.folder / "triage"
        self.ascl("triage", runs, "--ckpt_path", "best", "--out", str(out))
        return out / "triage.parquet"

    def say(self, triaged: Path) -> None:
        """Prints AUROCs and the share of flagged pairs."""
        table = parquet.read_table(triaged)
        kinds = self.kinds()
        flags = table.column("flags").to_pylist()
        flagged = np.array([bool(of) for of in flags])
        untouched = kinds == ""
        for kind in KINDS:
            number = table.column(kind).to_numpy()
            found = np.array([kind in of for of in flags])
            print(
                f"  {kind:16} AUROC {auroc(number[kinds == kind], number[untouched]):.3f}; flagged as such "
                f"{100 * found[kinds == kind].mean():5.1f}%, at all {100 * flagged[kinds == kind].mean():5.1f}%; "
                f"of untouched pairs as such {100 * found[untouched].mean():4.1f}%"
            )
        print(
            f"  flagged {100 * flagged.mean():.1f}% of all, {100 * flagged[untouched].mean():.1f}% of untouched pairs"
        )

    def kinds(self) -> np.ndarray:
        """Kind of corruption of each pair, "" for none, in the order of the split."""
        captions = Scenes(NUM_TRAIN, seed=self.seed).read(None, "train").captions
        spoiled = spoil(captions, self.shares, self.seed)[1]
        return np.array(
            [spoiled.get((image, place), "") for image, of in enumerate(captions) for place in range(len(of))]
        )


def main(seeds: list[int]) -> None:
    sums: dict[str, list[float]] = {}

    def note(name: str, figure: tuple[float, float, float]) -> None:
        sums.setdefault(name, []).append(figure[0])
        print(f"  {name:16} rSum {figure[0]:6.1f} [{figure[1]:.1f}, {figure[2]:.1f}]", flush=True)

    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            print(f"seed {seed}")
            note("clean", Experiment(Path(folder), {}, seed).rsum("clean"))
            for share in SHARES:
                name = f"{100 * share:.0f}%"
                spoiled = Experiment(Path(folder) / name, {"mismatched": share, **OTHER_KINDS}, seed)
                note(f"{name} noisy", spoiled.rsum("noisy"))
                triaged = spoiled.triage("noisy")
                spoiled.say(triaged)
                note(f"{name} filtered", spoiled.rsum("filtered", "--data.exclude", str(triaged)))
    if len(seeds) > 1:
        print(f"mean of {len(seeds)} seeds")
        for name, values in sums.items():
            figure = spread(values)
            print(f"  {name:16} rSum {figure.mean:6.1f} [{figure.low:.1f}, {figure.high:.1f}]")


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0])
