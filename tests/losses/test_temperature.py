import math

import pytest
import torch

from ascl_lightning.losses import Temperature


def test_fixed_temperature_is_exact_and_not_a_parameter():
    temperature = Temperature(0.1, learned=False)

    assert temperature().item() == 0.1
    assert list(temperature.parameters()) == []
    assert temperature.state_dict() == {}
    assert (torch.ones(2) / temperature()).dtype == torch.float32
    assert (torch.ones(2, dtype=torch.float64) / temperature())[0].item() == 1 / 0.1


def test_learned_temperature_starts_at_its_value_and_has_the_gradient_of_a_logarithm():
    temperature = Temperature(0.2, learned=True)

    (3 * temperature()).backward()

    assert temperature().item() == pytest.approx(0.2, rel=1e-6)
    # d(3 exp(x)) / dx = 3 exp(x)
    assert temperature.log_temperature.grad.item() == pytest.approx(0.6, rel=1e-6)


@pytest.mark.parametrize(("target", "bound"), [(0.001, 0.05), (5.0, 0.5)])
def test_learned_temperature_stops_at_its_bound_and_comes_back_at_once(target, bound):
    temperature = Temperature(0.1, learned=True, minimum=0.05, maximum=0.5)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=0.1)

    def step_towards(log_value: float) -> None:
        optimizer.zero_grad()
        (temperature().log() - log_value).abs().backward()
        optimizer.step()

    for _ in range(40):
        step_towards(math.log(target))
    assert temperature().item() == pytest.approx(bound, rel=1e-5)
    for _ in range(2):
        step_towards(math.log(0.1))
    assert abs(math.log(temperature().item() / bound)) == pytest.approx(0.2, rel=1e-4)


def test_evaluation_in_inference_mode_gives_the_same_value():
    temperature = Temperature(0.2, learned=True)
    with torch.inference_mode():
        value = temperature().item()
    assert value == temperature().item()


@pytest.mark.parametrize("initial", [0.0, -0.1, math.inf, math.nan])
@pytest.mark.parametrize("learned", [False, True])
def test_temperature_must_be_positive(initial, learned):
    with pytest.raises(ValueError, match="positive number"):
        Temperature(initial, learned=learned)


@pytest.mark.parametrize("initial", [0.001, 2.0])
def test_only_a_learned_temperature_must_start_inside_its_bounds(initial):
    assert Temperature(initial, learned=False)().item() == initial
    with pytest.raises(ValueError, match="inside"):
        Temperature(initial, learned=True)
