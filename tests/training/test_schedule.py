import math

import pytest
import torch

from ascl_lightning.training.schedule import WarmupCosine


def test_the_rate_of_each_step_is_that_of_the_formula():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=10.0)
    scheduler = WarmupCosine(warmup=0.4, final=0.5).scheduler(optimizer, total_steps=5)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    # two steps of warm-up, then 5 + 5 * (1 + cos(pi * t / 3)) / 2 for t = 0, 1, 2
    expected = [5.0, 10.0, 10.0, 5 + 2.5 * (1 + math.cos(math.pi / 3)), 5 + 2.5 * (1 + math.cos(2 * math.pi / 3))]
    assert rates == pytest.approx(expected)


def test_without_warmup_the_first_step_has_the_peak_rate():
    assert WarmupCosine(warmup=0.0).factor(0, 10) == 1.0


def test_beyond_the_last_step_the_rate_stays():
    assert WarmupCosine(warmup=0.0, final=0.25).factor(99, 10) == 0.25


@pytest.mark.parametrize("shares", [{"warmup": -0.1}, {"warmup": 1.1}, {"final": 2.0}])
def test_shares_outside_0_and_1_are_refused(shares):
    with pytest.raises(ValueError, match="between 0 and 1"):
        WarmupCosine(**shares)
