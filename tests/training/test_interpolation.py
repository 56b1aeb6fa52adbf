import pytest
import torch
from tests.helpers.encoders import FROZEN, MeanColour, WordTable
from torch import Tensor

from ascl_lightning.errors import UserError
from ascl_lightning.losses import InfoNCE
from ascl_lightning.models import FusedSimilarity, TimmImageEncoder
from ascl_lightning.models.towers.tuning import Lora, Tuning
from ascl_lightning.training.interpolation import interpolate, interpolated_names
from ascl_lightning.training.module import RetrievalModule


class Pretrained(MeanColour):
    pretrained = True


def module(image_encoder, text_encoder=None) -> RetrievalModule:
    torch.manual_seed(0)
    return RetrievalModule(image_encoder, text_encoder or WordTable(), FusedSimilarity(4, num_heads=2), InfoNCE())


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 2.0), (0.25, 3.0), (0.5, 4.0), (1.0, 6.0)])
def test_only_the_named_weights_are_interpolated(weight, expected):
    start, tuned = ({"a": torch.tensor(value), "b": torch.tensor(value)} for value in (2.0, 6.0))
    state = interpolate(start, tuned, {"a"}, weight)
    assert (state["a"].item(), state["b"].item()) == (expected, 6.0)


def test_only_fine_tuned_pretrained_towers_are_interpolated():
    """Integer counters of batches are not interpolated."""
    built = module(Pretrained())
    assert interpolated_names(built) == {"model.image_encoder.scale"}
    assert "model.image_encoder.num_batches" in built.state_dict()
    for others in (MeanColour(), Pretrained(tuning=FROZEN)):
        with pytest.raises(UserError, match="nothing to interpolate"):
            interpolated_names(module(others))


def test_interpolated_adapters_are_interpolated_merged_weights():
    """W + weight * alpha / rank * B A, computed by hand, with an A that changed too."""
    tower = TimmImageEncoder("test_vit", image_size=32, tuning=Tuning(lora=Lora(rank=2, alpha=6.0)))
    tower.pretrained = True
    built = module(tower)
    start = {name: value.clone() for name, value in built.state_dict().items()}
    for name, parameter in tower.named_parameters():
        if ".lora_" in name:
            parameter.data.add_(torch.randn_like(parameter))
    tuned = built.state_dict()
    between = interpolate(start, tuned, interpolated_names(built), 0.25)

    def merged(state: dict[str, Tensor]) -> Tensor:
        prefix = "model.image_encoder.backbone.blocks.3.mlp.fc1"
        product = state[f"{prefix}.lora_B.default.weight"] @ state[f"{prefix}.lora_A.default.weight"]
        return state[f"{prefix}.base_layer.weight"] + 6 / 2 * product

    torch.testing.assert_close(merged(between), 0.75 * merged(start) + 0.25 * merged(tuned))
    assert not torch.equal(merged(start), merged(tuned))
