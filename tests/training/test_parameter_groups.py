import pytest
import torch
from tests.helpers.encoders import MeanColour, WordTable
from tests.helpers.hub_models import write_bert, write_clip, write_siglip
from timm.optim import param_groups_layer_decay

from ascl_lightning.errors import UserError
from ascl_lightning.losses import AsymmetricContrastiveLoss, InfoNCE
from ascl_lightning.models import (
    ClipImageEncoder,
    ClipTextEncoder,
    FusedSimilarity,
    ImageTextModel,
    TimmImageEncoder,
    TransformersTextEncoder,
)
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.training.parameter_groups import build_optimizer, parameter_groups
from ascl_lightning.training.schedule import WarmupCosine


def model(image_encoder=None, text_encoder=None, **towers) -> ImageTextModel:
    torch.manual_seed(0)
    image_encoder, text_encoder = image_encoder or MeanColour(**towers), text_encoder or WordTable(**towers)
    return ImageTextModel(image_encoder, text_encoder, FusedSimilarity(4, num_heads=2))


def rates(optimizer: torch.optim.Optimizer, module: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by name of the parameter; no parameter may be in two groups."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    found = [
        (names[parameter], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter in names
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def adamw(groups):
    return torch.optim.AdamW(groups, lr=1.0, weight_decay=0.1)


def test_every_trainable_parameter_is_in_one_group():
    built, loss = model(tuning=Tuning(learning_rate=1e-3)), AsymmetricContrastiveLoss(0.1, learn_temperature=True)
    grouped = [parameter for group in parameter_groups(built, loss) for parameter in group["params"]]
    expected = [*built.parameters(), *loss.parameters()]
    assert sorted(map(id, grouped)) == sorted(map(id, expected))


def test_frozen_towers_are_in_no_group():
    built = model(tuning=Tuning(frozen=True, learning_rate=1e-3))
    groups = parameter_groups(built, InfoNCE())
    assert [group["name"] for group in groups] == ["heads", "heads/no_decay"]
    towers = {id(parameter) for tower in (built.image_encoder, built.text_encoder) for parameter in tower.parameters()}
    assert not towers & {id(parameter) for group in groups for parameter in group["params"]}


def test_biases_norms_and_temperature_have_no_weight_decay():
    built, loss = model(tuning=Tuning(learning_rate=1e-3)), AsymmetricContrastiveLoss(0.1, learn_temperature=True)
    optimizer = build_optimizer(adamw, built, loss)
    found = rates(optimizer, built) | rates(optimizer, loss)
    assert found["image_projection.pooled.weight"] == (1.0, 0.1)
    assert found["image_projection.pooled.bias"] == (1.0, 0.0)
    assert found["temperature.log_temperature"] == (1.0, 0.0)
    assert found["image_encoder.scale"] == (1e-3, 0.0)
    assert found["text_encoder.table.weight"] == (1e-3, 0.1)


def test_layers_of_bert_by_hand(tmp_path):
    """Two layers above the embeddings: 0.5 ** 2, 0.5 and 1 times the tower's rate."""
    bert = TransformersTextEncoder(
        str(write_bert(tmp_path / "bert")), tuning=Tuning(learning_rate=0.8, layer_decay=0.5)
    )
    found = rates(build_optimizer(adamw, model(text_encoder=bert), InfoNCE()), bert)
    assert found.keys() == dict(bert.named_parameters()).keys()
    assert found["backbone.embeddings.word_embeddings.weight"] == pytest.approx((0.2, 0.1))
    assert found["backbone.embeddings.position_embeddings.weight"] == pytest.approx((0.2, 0.0))
    assert found["backbone.embeddings.LayerNorm.weight"] == pytest.approx((0.2, 0.0))
    assert found["backbone.encoder.layer.0.attention.self.query.weight"] == pytest.approx((0.4, 0.1))
    assert found["backbone.encoder.layer.1.attention.self.query.weight"] == pytest.approx((0.8, 0.1))
    assert found["backbone.encoder.layer.1.attention.self.query.bias"] == pytest.approx((0.8, 0.0))


@pytest.mark.parametrize(
    ("write", "first", "last"),
    [
        (
            write_clip,
            {"vision_model.embeddings.class_embedding": 0.0, "vision_model.pre_layrnorm.weight": 0.0},
            {"vision_model.post_layernorm.bias": 0.0, "visual_projection.weight": 0.1},
        ),
        (
            write_siglip,
            {"embeddings.position_embedding.weight": 0.0, "embeddings.patch_embedding.weight": 0.1},
            {"head.probe": 0.1, "head.attention.in_proj_bias": 0.0, "head.mlp.fc2.weight": 0.1},
        ),
    ],
)
def test_layers_of_an_image_tower_of_a_pair_by_hand(write, first, last, tmp_path):
    """The top layer of a tower without its own rate has the optimizer's rate."""
    tower = ClipImageEncoder(str(write(tmp_path / "pair")), tuning=Tuning(layer_decay=0.5))
    found = rates(build_optimizer(adamw, model(image_encoder=tower), InfoNCE()), tower)
    for rate, parameters in ((0.25, first), (1.0, last)):
        for name, weight_decay in parameters.items():
            assert found[f"tower.model.{name}"] == (rate, weight_decay), name
    middle = {rate for name, (rate, _) in found.items() if ".layers.0." in name}
    assert middle == {0.5}


def test_each_tower_has_its_own_layer_decay(tmp_path):
    folder = str(write_clip(tmp_path / "pair"))
    towers = (
        ClipImageEncoder(folder, tuning=Tuning(layer_decay=0.5)),
        ClipTextEncoder(folder, tuning=Tuning(learning_rate=0.1)),
    )
    optimizer = build_optimizer(adamw, model(*towers), InfoNCE())
    assert {rate for rate, _ in rates(optimizer, towers[0]).values()} == {0.25, 0.5, 1.0}
    assert {rate for rate, _ in rates(optimizer, towers[1]).values()} == {0.1}


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "resnet18"])
def test_timm_towers_get_the_rates_of_timm(name):
    tower = TimmImageEncoder(name, image_size=64, tuning=Tuning(learning_rate=0.5, layer_decay=0.7))
    found = rates(build_optimizer(adamw, model(image_encoder=tower), InfoNCE()), tower.backbone)
    spared = getattr(tower.backbone, "no_weight_decay", set)()
    groups = param_groups_layer_decay(tower.backbone, 0.1, spared, layer_decay=0.7)
    names = {parameter: name for name, parameter in tower.backbone.named_parameters()}
    expected = {
        names[parameter]: (0.5 * group["lr_scale"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    assert found.keys() == expected.keys()
    for each, values in expected.items():
        assert found[each] == pytest.approx(values), each


def test_the_schedule_multiplies_every_rate(tmp_path):
    bert = TransformersTextEncoder(str(write_bert(tmp_path / "bert")), tuning=Tuning(layer_decay=0.5))
    optimizer = build_optimizer(adamw, model(text_encoder=bert), InfoNCE())
    scheduler = WarmupCosine(warmup=0.5, final=0.0).scheduler(optimizer, 8)
    for step in range(4):
        found = {rate for rate, _ in rates(optimizer, bert).values()}
        assert found == {scale * (step + 1) / 4 for scale in (0.25, 0.5, 1.0)}
        optimizer.step()
        scheduler.step()


def test_layer_decay_of_a_tower_without_layers_is_an_error():
    with pytest.raises(UserError, match="MeanColour does not number its layers"):
        parameter_groups(model(tuning=Tuning(layer_decay=0.5)), InfoNCE())
