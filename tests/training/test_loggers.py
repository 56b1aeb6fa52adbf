import csv
import os
import socket
import threading
from pathlib import Path
from unittest import mock

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.helpers.datasets import write_karpathy
from tests.helpers.recordings import record

from ascl_lightning.runtime.checkpoints import Continuation
from ascl_lightning.training.loggers import (
    ContinuedCSVLogger,
    keep_pictures_with_runs,
    loggers_of_run,
    record_offline_if_unreachable,
)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def resumed(run: Path, logged_steps: int, **log_versions) -> Continuation:
    return Continuation(run / "checkpoints" / "last-00000002.ckpt", logged_steps, [], log_versions)


def test_rows_after_the_checkpoint_are_dropped(tmp_path):
    first = CSVLogger(tmp_path, name="fit")
    for step in range(4):
        first.log_metrics({"loss": step + 0.5}, step=step)
        if step == 1:
            first.log_metrics({"val/rsum": 100.0}, step=step)
    first.save()
    run = tmp_path / "fit" / "version_0"
    logger = ContinuedCSVLogger(resumed(run, logged_steps=2))
    assert Path(logger.log_dir) == run
    logger.log_metrics({"loss": -2.5}, step=2)
    assert [row["step"] for row in rows(run / "metrics.csv")] == ["0", "1", "1"], "on disk from the first row on"
    logger.log_metrics({"loss": -3.5, "new": 7.0}, step=3)
    logger.save()
    kept = rows(run / "metrics.csv")
    assert [(row["step"], row["loss"], row["val/rsum"], row["new"]) for row in kept] == [
        ("0", "0.5", "", ""),
        ("1", "1.5", "", ""),
        ("1", "", "100.0", ""),
        ("2", "-2.5", "", ""),
        ("3", "-3.5", "", "7.0"),
    ]


def test_loggers_without_a_folder_write_below_the_root(tmp_path):
    root, mine = tmp_path / "root", tmp_path / "mine"
    shipped = [WandbLogger(offline=True), TensorBoardLogger(".", name="tensorboard")]
    chosen = [WandbLogger(save_dir=mine, offline=True), TensorBoardLogger(mine)]
    _, wandb, board, *others = loggers_of_run([*shipped, *chosen], root, "fit", None)
    assert wandb.save_dir == wandb._wandb_init["dir"] == str(root)
    assert Path(board.log_dir) == root / "tensorboard" / "version_0"
    assert [Path(other.save_dir) for other in others] == [mine, mine]


def test_a_resumed_run_without_metrics_starts_the_file(tmp_path):
    run = tmp_path / "fit" / "version_3"
    logger = ContinuedCSVLogger(resumed(run, logged_steps=5))
    logger.log_metrics({"loss": 1.0}, step=5)
    logger.save()
    assert rows(run / "metrics.csv") == [{"loss": "1.0", "step": "5"}]


def test_metrics_go_to_a_new_folder_unless_a_run_is_resumed(tmp_path):
    (new,) = loggers_of_run(None, tmp_path, "fit", None)
    assert Path(new.log_dir) == tmp_path / "fit" / "version_0"
    configured = [CSVLogger(tmp_path, name="mine"), WandbLogger(offline=True)]
    assert loggers_of_run(configured, tmp_path, "fit", None) == configured
    run = tmp_path / "mine" / "version_7"
    continued, wandb = loggers_of_run(configured, tmp_path, "fit", resumed(run, 3))
    assert Path(continued.log_dir) == run
    assert wandb is configured[1]
    assert loggers_of_run(False, tmp_path, "fit", resumed(run, 3)) is False


def test_csv_is_written_in_addition_to_configured_loggers(tmp_path):
    wandb = WandbLogger(offline=True)
    csv_logger, second = loggers_of_run(wandb, tmp_path, "test", None)
    assert Path(csv_logger.log_dir) == tmp_path / "test" / "version_0"
    assert second is wandb


def test_wandb_continues_the_run_of_the_checkpoint(tmp_path):
    run = resumed(tmp_path / "fit" / "version_0", 3, WandbLogger="abc123")
    _, wandb = loggers_of_run(WandbLogger(offline=True), tmp_path, "fit", run)
    assert wandb.version == "abc123"
    assert wandb._wandb_init["id"] == "abc123"
    _, wandb = loggers_of_run(WandbLogger(offline=True, id="mine"), tmp_path, "fit", run)
    assert wandb.version == "mine", "the user's own word"
    _, wandb = loggers_of_run(WandbLogger(offline=True), tmp_path, "fit", resumed(tmp_path / "fit" / "version_0", 3))
    assert wandb.version is None, "it did not log the run"


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars by name, read by TensorBoard."""
    accumulator = EventAccumulator(str(folder)).Reload()
    return {
        name: [(event.step, event.value) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }


def test_tensorboard_continues_at_the_step_of_the_checkpoint(tmp_path):
    first = TensorBoardLogger(tmp_path, name="tensorboard")
    for step in range(4):
        first.log_metrics({"loss": step + 0.5}, step=step)
    first.finalize("success")
    run = resumed(tmp_path / "fit" / "version_0", 2, TensorBoardLogger=0)
    _, again = loggers_of_run(TensorBoardLogger(tmp_path, name="tensorboard"), tmp_path, "fit", run)
    again.log_metrics({"loss": -2.5}, step=2)
    again.finalize("success")
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["version_0"]
    assert events(tmp_path / "tensorboard" / "version_0")["loss"] == [(0, 0.5), (1, 1.5), (2, -2.5)]


def test_tensorboard_logs_scalars_and_configuration(tmp_path):
    write_karpathy(tmp_path / "data", {"train": 6, "val": 3}, captions=2)
    record(tmp_path, "fit", "--trainer.max_epochs", "1", logger="tensorboard")
    logged = events(tmp_path / "runs" / "tensorboard" / "version_0")
    (metrics,) = tmp_path.glob("runs/fit/version_0/metrics.csv")
    names = rows(metrics)[0].keys() - {"step", "epoch"}
    assert {"train/loss", "train/gradient_norm", "train/logit_scale", "val/rsum", "val/asymmetry/type_i"} <= names
    for name in names:
        written = [(int(row["step"]), pytest.approx(float(row[name]))) for row in rows(metrics) if row[name]]
        assert logged[name] == written, name
    hparams = (tmp_path / "runs" / "tensorboard" / "version_0" / "hparams.yaml").read_text()
    assert "FirstHalf" in hparams


def test_wandb_stores_pictures_in_the_run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", "")
    monkeypatch.delenv("WANDB_DATA_DIR")
    keep_pictures_with_runs([CSVLogger(tmp_path)])
    assert "WANDB_DATA_DIR" not in os.environ
    keep_pictures_with_runs([WandbLogger(save_dir=tmp_path, offline=True)])
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "wandb")
    keep_pictures_with_runs([WandbLogger(save_dir=tmp_path / "other", offline=True)])
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "wandb"), "what is set stays, the user's own word too"


@pytest.fixture
def wandb_at(monkeypatch):
    """Points W&B to a local port, in a separate session."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.delenv("WANDB_MODE")  # set before, so that monkeypatch restores it after the test

    def set_port(port: int) -> None:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")

    wandb.teardown()
    yield set_port
    wandb.teardown()


def test_wandb_goes_offline_if_its_server_does_not_answer(monkeypatch, wandb_at):
    """Checked before `init`, which would wait and damage a later offline `init` (wandb#9865)."""
    with socket.socket() as held:  # a port without a listener
        held.bind(("127.0.0.1", 0))
        wandb_at(held.getsockname()[1])
        logger = WandbLogger()
        with pytest.warns(UserWarning, match="does not answer: recording offline"):
            record_offline_if_unreachable([CSVLogger("runs"), logger])
        assert logger._wandb_init["mode"] == "offline"
        monkeypatch.setenv("WANDB_MODE", "online")
        logger = WandbLogger()
        record_offline_if_unreachable([logger])
        assert "mode" not in logger._wandb_init, "the user's own word"


def test_no_server_is_contacted_if_wandb_is_offline_or_unused(monkeypatch):
    asked = mock.Mock(side_effect=OSError)
    monkeypatch.setattr("ascl_lightning.training.loggers.urlopen", asked)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    record_offline_if_unreachable([CSVLogger("runs"), WandbLogger(offline=True)])
    assert asked.call_count == 0
    with pytest.warns(UserWarning, match="does not answer"):
        record_offline_if_unreachable([WandbLogger()])
    assert asked.call_count == 1, "where one is online"


def test_wandb_stays_online_if_its_server_answers(wandb_at):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        wandb_at(server.getsockname()[1])
        logger = WandbLogger()
        record_offline_if_unreachable([logger])
    assert "mode" not in logger._wandb_init
