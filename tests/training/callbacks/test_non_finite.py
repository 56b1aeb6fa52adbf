"""A non-finite step changes nothing."""

import copy

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.checkpoints import read_checkpoint
from ascl_lightning.training.callbacks.non_finite import NonFiniteSteps

INF, NAN = float("inf"), float("nan")


class Line(LightningModule):
    """Trains one weight w; records w and its moments after each step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0]))
        self.seen = []

    def training_step(self, batch, batch_idx):
        factor, gap = batch[0]
        # the loss is factor * gap * w; the gradient factor * gap can be finite when the loss is not
        return (self.weight * factor * gap).sum()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seen.append((self.weight.item(), copy.deepcopy(self.optimizers().optimizer.state_dict()["state"])))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.5)


def fit(root, factors, max_in_a_row=20, **arguments):
    module, callback = Line(), NonFiniteSteps(max_in_a_row)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    rows = torch.tensor([[factor, 1.0] for factor in factors])
    trainer.fit(module, DataLoader(rows, batch_size=1))
    return module, callback, trainer


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_skipped_step_keeps_weights_and_moments(tmp_path, bad):
    module, callback, trainer = fit(tmp_path, [2.0, bad, bad, 2.0], gradient_clip_val=1.0)
    without, _, _ = fit(tmp_path, [2.0, 2.0], gradient_clip_val=1.0)
    (first, _), (second, state), (third, _), (fourth, last) = module.seen
    assert first == second == third != fourth
    assert state[0]["step"] == 1
    # as without the bad batches
    assert fourth == without.seen[1][0]
    assert last == without.seen[1][1]
    assert trainer.callback_metrics["train/skipped_steps"] == 2
    assert callback.state_dict() == {"in_a_row": 0, "skipped": 2}


def test_the_norm_is_logged_before_clipping(tmp_path):
    _, _, trainer = fit(tmp_path, [3.0], gradient_clip_val=0.1)
    assert trainer.callback_metrics["train/gradient_norm"].item() == pytest.approx(3.0)


def test_a_diverged_run_ends(tmp_path):
    with pytest.raises(UserError, match=r"3 steps in a row.*precision"):
        fit(tmp_path, [1.0, NAN, NAN, 1.0, NAN, NAN, NAN, 1.0], max_in_a_row=3)


def test_a_finite_step_resets_the_count(tmp_path):
    _, callback, _ = fit(tmp_path, [NAN, 1.0, 1.0, 1.0, NAN, NAN], max_in_a_row=3)
    again = NonFiniteSteps()
    again.load_state_dict(callback.state_dict())
    assert again.state_dict() == {"in_a_row": 2, "skipped": 3}


def test_a_run_that_skipped_most_of_its_steps_ends_with_an_error(tmp_path):
    with pytest.raises(
        UserError, match=r"^8 of 9 steps were skipped.*weights are not exported; lower the learning rate"
    ):
        fit(tmp_path, [1.0] + 8 * [NAN])
    with pytest.warns(UserWarning, match=r"^2 of 4 steps were skipped because of a non-finite loss or gradient$"):
        fit(tmp_path, [1.0, NAN, NAN, 1.0])


def test_a_checkpoint_stores_the_number_of_skipped_steps(tmp_path):
    _, _, trainer = fit(tmp_path, [1.0, NAN, 1.0])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = read_checkpoint(tmp_path / "a.ckpt")
    assert (saved["skipped_steps"], saved["global_step"]) == (1, 3)


def test_max_in_a_row_is_at_least_1():
    with pytest.raises(ValueError, match="at least 1"):
        NonFiniteSteps(0)
