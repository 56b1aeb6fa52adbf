"""An interrupted and resumed training equals an uninterrupted one bit by bit.

In this process, as the command line runs it; several ranks and kills are in `tests/test_interrupted_ranks.py`. The
model has dropout and BatchNorm; pictures are cropped at random, T+ and T- drawn at word level, T- at feature level too.
"""

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from tests.helpers.datasets import write_karpathy
from tests.helpers.interruptions import batches, interrupt, last, rows
from tests.helpers.ranks import TINY

from ascl_lightning.cli import AsclCLI
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.checkpoints import read_checkpoint
from ascl_lightning.training.callbacks.recovery import RecoveryCheckpoints

EPOCHS, STEPS = 3, 6  # 21 training images in batches of 3 or 4


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_karpathy(root, {"train": 21, "val": 5}, captions=[2, 3, 1])
    return root


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """Uninterrupted runs, one for each list of arguments."""
    known: dict[tuple[str, ...], Path] = {}

    def run(arguments: Sequence[str]) -> Path:
        key = tuple(arguments)
        if key not in known:
            known[key] = tmp_path_factory.mktemp("uninterrupted")
            assert fit(known[key], data, *arguments) is None
        return known[key]

    return run


def fit(root: Path, data: Path, *arguments: str) -> object:
    """Trains; returns the exit code, None for a complete training."""
    command = [
        *("fit", "--config", str(TINY), "--data.root", str(data), "--trainer.default_root_dir", str(root / "runs")),
        *("--model.text_encoder.init_args.dropout", "0.2", "--data.augment", "true"),
        *("--trainer.max_epochs", str(EPOCHS), "--data.eval_batch_size", "2"),
        *("--trainer.callbacks+=tests.helpers.interruptions.Record", "--trainer.callbacks.folder", str(root / "seen")),
        *arguments,
    ]
    try:
        AsclCLI(command)
    except SystemExit as error:
        return error.code
    return None


def checkpoints(root: Path) -> set[str]:
    return {path.name for path in root.glob("runs/fit/version_0/checkpoints/*")}


def assert_equal(one: Path, other: Path) -> None:
    """Compares batches, metrics and the last checkpoint: weights, optimizer, schedule, counters, callbacks."""
    assert batches(one / "seen") == batches(other / "seen")
    assert rows(one) == rows(other)
    states = [last(root) for root in (one, other)]
    for state in states:
        for of_callback in state["callbacks"].values():
            of_callback.pop("current_score", None)  # of the last validation; Lightning does not restore it
            of_callback.pop("files", None)  # an interruption leaves one more file
    assert states[0].keys() == states[1].keys()
    assert [key for key in states[0] if states[0][key] != states[1][key]] == []


MIDDLE = ("on_train_batch_start", 8)
LAST_STEP = ("on_train_batch_start", 11)
CASES = {
    "after a step": ([], MIDDLE, "last-00000009.ckpt"),
    "after a step, with workers": (["--data.num_workers", "2"], MIDDLE, "last-00000009.ckpt"),
    "after a step, from stored features, with workers": (
        ["--data.num_workers", "2", "--data.augment", "false", "--model.image_encoder.init_args.tuning.frozen", "true"],
        MIDDLE,
        "last-00000009.ckpt",
    ),
    "after a step, by buckets": (["--data.bucket_by_length", "true"], MIDDLE, "last-00000009.ckpt"),
    "after an epoch's last step": ([], LAST_STEP, "last-00000012.ckpt"),
    "after an epoch's last step, with workers": (["--data.num_workers", "2"], LAST_STEP, "last-00000012.ckpt"),
    "inside a validation": ([], ("on_validation_batch_start", 4), "last-00000012.ckpt"),
    "inside the last validation": ([], ("on_validation_batch_start", 7), "last-00000018.ckpt"),
    "after an epoch": ([], ("on_train_epoch_end", 1), "last-00000012.ckpt"),
    "before a validation inside an epoch": (
        ["--trainer.val_check_interval", "2"],
        ("on_train_batch_start", 7),
        "last-00000008.ckpt",
    ),
    "inside a validation inside an epoch": (
        ["--trainer.val_check_interval", "2"],
        ("on_validation_batch_start", 10),
        "last-00000008.ckpt",
    ),
    "after a validation inside an epoch": (
        ["--trainer.val_check_interval", "2"],
        ("on_validation_epoch_end", 3),
        "last-00000008.ckpt",
    ),
    "of a number of steps, after a step": (["--trainer.max_steps", "16"], MIDDLE, "last-00000009.ckpt"),
    "of a number of steps, after an epoch": (
        ["--trainer.max_steps", "16"],
        ("on_train_epoch_end", 1),
        "last-00000012.ckpt",
    ),
    "of a number of steps, inside a validation": (
        ["--trainer.max_steps", "16"],
        ("on_validation_batch_start", 4),
        "last-00000012.ckpt",
    ),
    "of a part of the epoch": (["--trainer.limit_train_batches", "4"], MIDDLE, "last-00000009.ckpt"),
    "validated every second epoch": (
        ["--trainer.check_val_every_n_epoch", "2"],
        ("on_train_batch_start", 5),
        "last-00000006.ckpt",
    ),
    "validated every fifth epoch, inside the last validation": (
        ["--trainer.check_val_every_n_epoch", "5"],
        ("on_validation_batch_start", 1),
        "last-00000018.ckpt",
    ),
    "validated every fourth batch, inside the last validation": (
        ["--trainer.val_check_interval", "4"],
        ("on_validation_batch_start", 10),
        "last-00000018.ckpt",
    ),
    "with averaged weights, inside a validation": (
        ["--trainer.callbacks+=tests.training.callbacks.test_recovery.Averaged"],
        ("on_validation_batch_start", 4),
        "last-00000012.ckpt",
    ),
}


class Averaged(EMAWeightAveraging):
    """Without arguments, so that a config can name it."""

    def __init__(self) -> None:
        super().__init__(decay=0.9)


FAST = {
    "after a step, from stored features, with workers",
    "inside a validation",
    "of a number of steps, after an epoch",
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in FAST else [pytest.mark.slow]) for case in CASES]
)
def test_a_resumed_run_equals_an_uninterrupted_one(data, uninterrupted, tmp_path, case, capsys):
    arguments, (hook, at), saved = CASES[case]
    assert fit(tmp_path, data, *arguments, *interrupt(hook, at)) == 143
    assert saved in checkpoints(tmp_path)
    assert fit(tmp_path, data, *arguments, "--resume") is None
    assert_equal(uninterrupted(arguments), tmp_path)


def test_a_run_that_is_shorter_than_its_validation_interval_has_a_best_checkpoint_and_weights(uninterrupted):
    run = uninterrupted(["--trainer.check_val_every_n_epoch", "5"]) / "runs" / "fit" / "version_0"
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert (run / "weights" / "model.safetensors").is_file()


@pytest.fixture
def listening():
    """Installs Python's handler of Ctrl-C, which a background process lacks."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_saves_and_exits_with_130(data, uninterrupted, tmp_path):
    assert fit(tmp_path, data, *interrupt(*MIDDLE, number=signal.SIGINT)) == 130
    assert fit(tmp_path, data, "--resume") is None
    assert_equal(uninterrupted([]), tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_closed_terminal_saves_and_exits_with_129(data, uninterrupted, tmp_path):
    assert fit(tmp_path, data, *interrupt(*MIDDLE, number=signal.SIGHUP)) == 129
    assert fit(tmp_path, data, "--resume") is None
    assert_equal(uninterrupted([]), tmp_path)


def test_a_signal_before_the_first_step_ends_at_once(data, tmp_path):
    assert fit(tmp_path, data, *interrupt("on_train_start", 0)) == 143
    assert not (tmp_path / "seen" / "batches-0.jsonl").exists()


def test_a_signal_in_the_last_step_does_not_stop_the_run(data, uninterrupted, tmp_path):
    assert fit(tmp_path, data, *interrupt("on_train_epoch_end", EPOCHS - 1)) is None
    assert_equal(uninterrupted([]), tmp_path)


@pytest.mark.slow
def test_a_run_can_be_interrupted_repeatedly(data, uninterrupted, tmp_path):
    for at in (2, 5, 4):  # steps since each start
        assert fit(tmp_path, data, "--resume", *interrupt("on_train_batch_start", at)) == 143
    assert fit(tmp_path, data, "--resume") is None
    assert_equal(uninterrupted([]), tmp_path)


def test_the_newest_checkpoints_are_kept_and_a_damaged_one_is_skipped(data, tmp_path, caplog):
    """Saves at every second step and at the end of each epoch; then the newest file is damaged."""
    often = ["--recovery.steps", "2", "--recovery.keep", "3"]
    assert fit(tmp_path, data, *often, *interrupt("on_train_batch_start", 10)) == 143
    assert checkpoints(tmp_path) == {"best.ckpt", *(f"last-{step:08d}.ckpt" for step in (8, 10, 11))}
    newest = tmp_path / "runs/fit/version_0/checkpoints/last-00000011.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    caplog.clear()
    assert fit(tmp_path, data, *often, "--resume") is None
    said = caplog.text
    assert "last-00000011.ckpt' is not a checkpoint, or is truncated" in said
    assert "Resuming " in said
    assert "from last-00000010.ckpt" in said
    assert checkpoints(tmp_path) == {"best.ckpt", *(f"last-{step:08d}.ckpt" for step in (14, 16, 18))} | {newest.name}


def test_a_moved_run_keeps_its_best_model(data, uninterrupted, tmp_path):
    """Lightning compares paths as strings, and would take the first model after a resume as the best."""
    assert fit(tmp_path / "before", data, *interrupt(*MIDDLE)) == 143
    shutil.move(tmp_path / "before", tmp_path / "after")
    assert fit(tmp_path / "after", data, "--resume") is None
    (moved,) = (tmp_path / "after").glob("runs/fit/*/checkpoints/best.ckpt")
    (expected,) = uninterrupted([]).glob("runs/fit/*/checkpoints/best.ckpt")
    assert read_checkpoint(moved)["global_step"] == read_checkpoint(expected)["global_step"]
    (state,) = (of for key, of in last(tmp_path / "after")["callbacks"].items() if key.startswith("ModelCheckpoint"))
    (whole,) = (of for key, of in last(uninterrupted([]))["callbacks"].items() if key.startswith("ModelCheckpoint"))
    assert state["best_model_score"] == whole["best_model_score"]
    assert list(state["best_k_models"].values()) == list(whole["best_k_models"].values())


def test_a_new_run_from_a_checkpoint_leaves_the_old_one_alone(data, uninterrupted, tmp_path):
    """`--ckpt_path` trains in a new run folder."""
    assert fit(tmp_path, data, *interrupt(*MIDDLE)) == 143
    before = {path: path.read_bytes() for path in tmp_path.glob("runs/fit/version_0/checkpoints/*")}
    assert fit(tmp_path, data, "--ckpt_path", "last") is None
    assert {path: path.read_bytes() for path in before} == before
    (path,) = tmp_path.glob("runs/fit/version_1/checkpoints/last-00000018.ckpt")
    expected = read_checkpoint(next(uninterrupted([]).glob("runs/fit/*/checkpoints/last-00000018.ckpt")))
    weights = read_checkpoint(path)["state_dict"]
    assert all(torch.equal(weights[name], value) for name, value in expected["state_dict"].items())


def test_a_checkpoint_of_another_callback_can_be_resumed(data, uninterrupted, tmp_path):
    """It saves after the last step of an epoch, before the validation, which Lightning would skip after a resume."""
    flags = [("dirpath", tmp_path / "mine"), ("every_n_train_steps", 12), ("save_top_k", -1)]
    mine = ["--trainer.callbacks+=ModelCheckpoint"]
    mine += [part for name, value in flags for part in (f"--trainer.callbacks.{name}", str(value))]
    assert fit(tmp_path / "a", data, *mine, *interrupt("on_train_batch_start", 14)) == 143
    (path,) = (tmp_path / "mine").iterdir()
    assert fit(tmp_path / "b", data, "--ckpt_path", str(path)) is None
    whole = uninterrupted([])
    validated = [row["step"] for row in rows(tmp_path / "b") if row["val/rsum"]]
    assert validated == ["11", "17"], "the second epoch's, which came after the checkpoint, and the third's"
    assert last(tmp_path / "b")["state_dict"] == last(whole)["state_dict"]


def test_a_resume_warns_about_changed_settings(data, tmp_path):
    assert fit(tmp_path, data, *interrupt(*LAST_STEP)) == 143
    with pytest.warns(UserWarning, match=r"another configuration: data.eval_batch_size 2 -> 3, model.type_i_weight"):
        fit(tmp_path, data, "--resume", "--data.eval_batch_size", "3", "--model.type_i_weight", "0.4")


def test_a_complete_run_has_nothing_left_to_do(data, tmp_path):
    assert fit(tmp_path, data) is None
    kept = {path: path.read_bytes() for path in tmp_path.glob("runs/fit/version_0/**/*") if path.is_file()}
    assert fit(tmp_path, data, "--resume") is None
    assert {path: path.read_bytes() for path in tmp_path.glob("runs/fit/version_*/**/*") if path.is_file()} == kept
    assert len(batches(tmp_path / "seen")) == EPOCHS * STEPS


def test_without_a_run_a_resume_starts_from_scratch_and_logs_it(data, tmp_path, caplog):
    assert fit(tmp_path, data, "--resume", "--trainer.max_epochs", "1") is None
    assert "training starts from scratch" in caplog.text
    assert len(batches(tmp_path / "seen")) == STEPS


def test_a_folder_that_cannot_be_written_ends_the_run_before_it_trains(data, tmp_path):
    blocked = tmp_path / "fit" / "mine" / "checkpoints"
    blocked.parent.mkdir(parents=True)
    blocked.touch()
    logger = [*("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path))]
    logger += ["--trainer.logger.name", "fit", "--trainer.logger.version", "mine"]
    with pytest.raises(UserError, match=f"cannot write '{blocked}': Not a directory"):
        fit(tmp_path, data, *logger)
    assert not (tmp_path / "seen" / "batches-0.jsonl").exists()


@pytest.mark.parametrize("setting", [{"keep": 0}, {"minutes": 0.0}, {"steps": -1}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=f"recovery.{next(iter(setting))}"):
        RecoveryCheckpoints(**setting)


def test_checkpoints_are_saved_by_time(data, tmp_path, monkeypatch):
    """With a clock that advances a minute per reading: once a step, and at each save."""
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr("ascl_lightning.training.callbacks.recovery.time", Mock(monotonic=lambda: next(clock)))
    saved: list[int] = []
    save = RecoveryCheckpoints._save

    def note(self, trainer) -> None:
        saved.append(trainer.global_step)
        save(self, trainer)

    monkeypatch.setattr(RecoveryCheckpoints, "_save", note)
    assert fit(tmp_path, data, "--recovery.minutes", "2", "--trainer.max_epochs", "1") is None
    assert saved == [2, 4, STEPS]
