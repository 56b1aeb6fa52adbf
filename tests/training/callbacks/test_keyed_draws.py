import random
from unittest.mock import Mock

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer

from ascl_lightning.training.callbacks.keyed_draws import KeyedDraws

MODULE = Mock(spec=LightningModule, device=torch.device("cpu"))


def draws(callback: KeyedDraws, epoch: int, batch: int, rank: int = 0) -> tuple[float, ...]:
    """Random numbers that a model would draw in a step."""
    callback.on_train_batch_start(Mock(spec=Trainer, current_epoch=epoch, global_rank=rank), MODULE, None, batch)
    dropped = torch.nn.functional.dropout(torch.ones(64), 0.5)
    return *dropped.tolist(), torch.rand(()).item(), random.random(), np.random.rand()


def test_a_step_does_not_depend_on_earlier_draws():
    callback = KeyedDraws()
    first = draws(callback, 2, 7)
    torch.rand(100), random.random(), np.random.rand(3)
    assert draws(callback, 2, 7) == first


def test_steps_epochs_ranks_and_seeds_draw_differently():
    other_seed = KeyedDraws()
    other_seed.load_state_dict({"seed": 1})
    made = [draws(KeyedDraws(), *key) for key in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1))]
    made.append(draws(other_seed, 0, 0))
    for place in (-3, -2, -1):  # each generator
        assert len({of_step[place] for of_step in made}) == len(made)


def test_the_run_seed_is_used_and_stored_in_checkpoints():
    callback = KeyedDraws()
    torch.manual_seed(123)
    callback.setup(Mock(spec=Trainer, strategy=Mock(broadcast=lambda value: value)), MODULE, "fit")
    assert callback.state_dict() == {"seed": 123}
    other = KeyedDraws()
    other.load_state_dict(callback.state_dict())
    assert draws(other, 0, 3) == draws(callback, 0, 3)
