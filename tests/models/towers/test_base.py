from inspect import signature

import torch
from tests.helpers.encoders import FROZEN, MeanColour

from ascl_lightning.models.towers.tuning import Tuning

PICTURES = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)


def test_a_resting_tower_has_the_same_output_and_zero_gradients():
    tower = MeanColour()
    trained = tower(PICTURES)
    tower.rest(True)
    assert not tower.training
    resting = tower(PICTURES)
    torch.testing.assert_close(resting.tokens, trained.tokens)
    torch.testing.assert_close(resting.pooled, trained.pooled)
    assert torch.equal(resting.mask, trained.mask)
    (resting.tokens.sum() + resting.pooled.sum()).backward()
    assert tower.scale.grad.tolist() == [0, 0, 0]


def test_each_output_alone_gives_zero_gradients():
    for output in ("tokens", "pooled"):
        tower = MeanColour()
        tower.rest(True)
        getattr(tower(PICTURES), output).sum().backward()
        assert tower.scale.grad.tolist() == [0, 0, 0], output


def test_a_resting_tower_keeps_no_graph():
    tower = MeanColour()
    tower.rest(True)
    node = tower(PICTURES).tokens.grad_fn
    assert {type(before).__name__ for before, _ in node.next_functions if before is not None} == {"AccumulateGrad"}
    with torch.no_grad():
        assert not tower(PICTURES).tokens.requires_grad


def test_a_tower_that_no_longer_rests_is_trained():
    tower = MeanColour()
    tower.rest(True)
    tower.train()
    assert not tower.training
    tower.rest(False)
    assert tower.training
    tower(PICTURES).tokens.sum().backward()
    assert (tower.scale.grad > 0).all()


class WithBias(MeanColour):
    def __init__(self, tuning: Tuning = Tuning()) -> None:
        super().__init__(tuning=tuning)
        self.bias = torch.nn.Parameter(torch.zeros(3))


def test_layers_of_every_subclass_are_frozen():
    assert not any(parameter.requires_grad for parameter in WithBias(FROZEN).parameters())
    assert all(parameter.requires_grad for parameter in WithBias().parameters())


def test_a_tower_shows_the_arguments_of_its_constructor():
    assert list(signature(WithBias).parameters) == ["tuning"]
