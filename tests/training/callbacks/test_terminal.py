import inspect
import logging
from types import SimpleNamespace

import pytest
import torch

from ascl_lightning.training.callbacks.terminal import ProgressLines, silence_notices


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr("ascl_lightning.training.callbacks.terminal.rank_zero_info", lines.append)
    return lines


def test_progress_lines_show_speed_and_time_left(said, monkeypatch):
    """Two epochs of three batches of 10 pairs on two processes, 20 s a batch, a line every 30 s."""
    clock = [100.0]
    monkeypatch.setattr("ascl_lightning.training.callbacks.terminal.time.perf_counter", lambda: clock[0])
    trainer = SimpleNamespace(
        world_size=2,
        max_epochs=2,
        num_training_batches=3,
        current_epoch=0,
        callback_metrics={"train/loss": torch.tensor(1.25)},
    )
    lines = ProgressLines()
    begin, end = (inspect.unwrap(hook) for hook in (ProgressLines.on_train_start, ProgressLines.on_train_batch_end))
    begin(lines, trainer, None)
    for epoch in range(2):
        trainer.current_epoch = epoch
        for batch in range(3):
            clock[0] += 20
            end(lines, trainer, None, None, SimpleNamespace(image_ids=range(10)), batch)
    # at 40, 80 and 120 s: batches 2, 4 and 6 of 6
    assert said == [
        "epoch 1/2, batch 2/3, loss 1.250, 1 pairs/s, 1:20 min left",
        "epoch 2/2, batch 1/3, loss 1.250, 1 pairs/s, 0:40 min left",
        "epoch 2/2, batch 3/3, loss 1.250, 1 pairs/s, 0:00 min left",
    ]


def test_tips_and_repeated_notices_are_dropped(caplog):
    silence_notices()
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO):
        log.info("💡 Tip: For seamless cloud logging, try another product")
        log.info("GPU available: False, used: False")
        log.info("Best checkpoint: here")
    assert [record.getMessage() for record in caplog.records] == ["Best checkpoint: here"]
