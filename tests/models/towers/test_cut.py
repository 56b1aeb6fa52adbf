"""Towers cut in two: both parts together are the whole tower, and only the upper one is trained."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.hub_models import write_bert
from tests.helpers.towers import batch_statistics, pictures
from torch import Tensor, nn
from transformers import (
    AutoModel,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    T5Config,
)

from ascl_lightning.data.batch import Features, TokenizedTexts
from ascl_lightning.data.text import build_tokenizer
from ascl_lightning.errors import UserError
from ascl_lightning.models.towers.base import Encoder
from ascl_lightning.models.towers.timm_backbone import TimmImageEncoder
from ascl_lightning.models.towers.transformers_text import TransformersTextEncoder
from ascl_lightning.models.towers.tuning import Lora, Tuning

SWIN = "swin_tiny_patch4_window7_224"
MODEL_ARGS: dict[str, dict[str, Any]] = {
    SWIN: {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)},
    # otherwise the residual branches have no gradient before the first step
    "test_resnet": {"zero_init_last": False},
    "test_efficientnet": {"drop_path_rate": 0.5, "drop_rate": 0.5},
}
# the names of the weights below the cut begin with these
IMAGE_CUTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "test_efficientnet": ("blocks.3", ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2")),
    "test_resnet": ("layer4", ("conv1", "bn1", "layer1", "layer2", "layer3")),
    "test_convnext": ("stages.2", ("stem", "stages.0", "stages.1")),
    "test_mambaout": ("stages.3", ("stem", "stages.0", "stages.1", "stages.2")),
    SWIN: ("layers.3", ("patch_embed", "layers.0", "layers.1", "layers.2")),
    "test_vit": ("blocks.4", ("cls_token", "pos_embed", "patch_embed", *(f"blocks.{n}." for n in range(4)))),
}
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT_MODELS: dict[str, PretrainedConfig | None] = {
    "bert": None,
    "distilbert": DistilBertConfig(vocab_size=200, dim=32, n_layers=3, n_heads=2, hidden_dim=48),
    "mpnet": MPNetConfig(vocab_size=200, **SMALL),
    "modernbert": ModernBertConfig(
        vocab_size=200, pad_token_id=0, eos_token_id=1, bos_token_id=2, cls_token_id=3, sep_token_id=4, **SMALL
    ),
}
TEXTS = ["a dog", "two men with a red cat on the left of the top"]


def image_tower(name: str, **arguments: Any) -> TimmImageEncoder:
    torch.manual_seed(0)
    return TimmImageEncoder(name, model_args=MODEL_ARGS.get(name), **arguments)


def text_model(folder: Path, config: PretrainedConfig | None) -> str:
    write_bert(folder)
    if config is not None:
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


def tokenized(tower: TransformersTextEncoder, texts: list[str] = TEXTS) -> TokenizedTexts:
    return build_tokenizer(tower.spec, None)(texts)[0]


def gradients(tower: Encoder, inputs: Any) -> dict[str, Tensor]:
    tower.zero_grad()
    features = tower(inputs)
    # a different factor for each number: no gradient cancels, as those of a normalised sum would
    parts = (features.pooled, features.tokens * features.mask[..., None])
    torch.stack(
        [(part * torch.arange(float(part.numel())).view_as(part).sin()).sum() for part in parts]
    ).sum().backward()
    return {name: value.grad.clone() for name, value in tower.named_parameters() if value.grad is not None}


def assert_trains_like_a_frozen_lower_part(
    cut: Encoder, whole: Encoder, inputs: Any, lower: tuple[str, ...], tolerance: float = 0.0
) -> None:
    """Against the whole tower in evaluation mode, of which autograd leaves the lower weights out."""
    same = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
    for name, parameter in whole.named_parameters():
        parameter.requires_grad_(not name.removeprefix("backbone.").startswith(lower))
    whole.load_state_dict(cut.state_dict())
    whole.eval()
    cut.eval()
    expected, found, stored = gradients(whole, inputs), gradients(cut, inputs), gradients(cut, cut.to_store(inputs))
    assert expected.keys() == found.keys() == stored.keys()
    assert 0 < len(found) < len(list(whole.parameters()))
    for name, gradient in expected.items():
        assert gradient.any(), name
        same(found[name], gradient)
        same(stored[name], gradient)
    with torch.no_grad():
        features, activations = whole(inputs), cut.to_store(inputs)
        for other in (cut(inputs), cut(activations)):
            same(other.pooled, features.pooled)
            same(other.tokens, features.tokens)
            assert torch.equal(other.mask, features.mask)
    assert activations.pooled.shape == (len(activations), 0)
    assert list(cut.state_dict()) == list(whole.state_dict())


@pytest.mark.parametrize("name", IMAGE_CUTS)
def test_a_cut_backbone_trains_like_one_with_frozen_lower_layers(name: str) -> None:
    cut, lower = IMAGE_CUTS[name]
    tower = image_tower(name, cut=cut)
    assert_trains_like_a_frozen_lower_part(tower, image_tower(name), pictures(tower.spec.size), lower)


@pytest.mark.parametrize(
    ("name", "layers"), [("test_resnet", ["layer3", "layer4"]), ("test_vit", ["blocks.4"]), (SWIN, ["layers.2"])]
)
def test_inner_layers_above_the_cut_train_like_those_of_the_whole_backbone(name: str, layers: list[str]) -> None:
    cut = layers[0]
    lower = {"test_resnet": ("conv1", "bn1", "layer1", "layer2"), SWIN: ("patch_embed", "layers.0", "layers.1")}
    tower, whole = (image_tower(name, inner_layers=layers, cut=place) for place in (cut, None))
    below = lower.get(name, IMAGE_CUTS[name][1])
    # maps in another memory layout are summed in another order
    assert_trains_like_a_frozen_lower_part(tower, whole, pictures(tower.spec.size), below, tolerance=1e-4)
    assert tower.pooled_dim > image_tower(name, cut=cut).pooled_dim


@pytest.mark.parametrize("layers", [["layer3"], ["layer4", "act1"]])
def test_inner_layers_below_the_cut_are_refused(layers: list[str]) -> None:
    with pytest.raises(
        UserError, match=rf"inner layer '{layers[-1]}' is not among the layers from the cut 'layer4' on"
    ):
        image_tower("test_resnet", cut="layer4", inner_layers=layers)


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_a_cut_text_model_trains_like_one_with_frozen_lower_layers(name: str, tmp_path: Path) -> None:
    folder = text_model(tmp_path / name, TEXT_MODELS[name])
    whole, tower = TransformersTextEncoder(folder), TransformersTextEncoder(folder, cut=1)
    lower = ("embeddings", "encoder.layer.0", "transformer.layer.0", "layers.0", "encoder.relative_attention_bias")
    assert_trains_like_a_frozen_lower_part(tower, whole, tokenized(tower), lower)


def test_what_enters_the_cut_is_what_the_layer_is_given() -> None:
    """Recorded by a hook on the layer of the backbone itself."""
    tower = image_tower("tf_efficientnet_lite0", cut="blocks.5")
    seen: list[Tensor] = []
    tower.eval()
    inputs = pictures(224)
    stored = tower.to_store(inputs)
    tower.backbone.blocks[5].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        tower.backbone.forward_features((inputs / 255 - tower.mean) / tower.std)
    assert seen[0].shape == (2, 112, 14, 14)
    torch.testing.assert_close(stored.tokens, seen[0].flatten(2).mT)
    assert not stored.tokens.requires_grad


def test_below_the_cut_nothing_moves_and_statistics_stay() -> None:
    """After steps of an optimizer in training mode; dropout above the cut is on, below it off."""
    tower = image_tower("test_efficientnet", cut="blocks.3")
    before, statistics = copy.deepcopy(tower.state_dict()), batch_statistics(tower)
    tower.train()
    inputs = pictures(tower.spec.size)
    optimizer = torch.optim.SGD([value for value in tower.parameters() if value.requires_grad], lr=0.1)
    for _ in range(2):
        tower(inputs).pooled.square().sum().backward()
        optimizer.step()
    moved = {name for name, value in tower.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(tuple(f"{part}." for part in tower.above)) for name in moved)
    torch.testing.assert_close(batch_statistics(tower), statistics, rtol=0, atol=0)
    assert not torch.equal(tower(inputs).pooled, tower(inputs).pooled)
    assert torch.equal(tower.to_store(inputs).tokens, tower.to_store(inputs).tokens)
    assert tower.backbone.training
    assert not tower.backbone.blocks[2].training
    assert tower.backbone.blocks[3].training


def test_special_tokens_are_told_apart_from_stored_activations(tmp_path: Path) -> None:
    folder = text_model(tmp_path / "bert", None)
    with_special, without = (
        TransformersTextEncoder(folder, cut=1, special_tokens_are_words=value).eval() for value in (True, False)
    )
    texts = tokenized(without)
    stored = without.to_store(texts)
    assert torch.equal(without(stored).mask, texts.attention_mask & ~texts.special_mask)
    assert torch.equal(with_special(stored).mask, texts.attention_mask)


@torch.no_grad()
def test_padding_of_stored_activations_changes_nothing(tmp_path: Path) -> None:
    tower = TransformersTextEncoder(text_model(tmp_path / "bert", None), cut="encoder.layer.1").eval()
    stored = tower.to_store(tokenized(tower))
    longer = Features(
        stored.pooled,
        nn.functional.pad(stored.tokens.masked_fill(~stored.mask[..., None], 7.0), (0, 0, 0, 3), value=7.0),
        nn.functional.pad(stored.mask, (0, 3)),
    )
    expected, found = tower(stored), tower(longer)
    torch.testing.assert_close(found.pooled, expected.pooled)
    length = stored.tokens.shape[1]
    torch.testing.assert_close(found.tokens[:, :length][stored.mask], expected.tokens[stored.mask])


@torch.no_grad()
def test_activations_of_several_sizes_in_a_batch() -> None:
    """Also of a picture that could not be read, which has no tokens."""
    tower = image_tower("test_resnet", cut="layer4").eval()
    small, large = tower.to_store(pictures(96)), tower.to_store(pictures(160))
    mixed = Features.join([small, large])
    mixed.mask[1] = False
    order = torch.tensor([2, 0, 3, 1])
    found = tower(Features(mixed.pooled[order], mixed.tokens[order], mixed.mask[order]))
    assert found.mask.sum(dim=1).tolist() == [25, 9, 25, 0]
    for row, (expected, place) in enumerate([(large, 0), (small, 0), (large, 1)]):
        alone = tower(Features(*(field[place : place + 1] for field in vars(expected).values())))
        torch.testing.assert_close(found.pooled[row], alone.pooled[0])
        torch.testing.assert_close(found.tokens[row][found.mask[row]], alone.tokens[0])


@pytest.mark.parametrize("kind", ["image", "text"])
def test_recomputed_activations_give_the_same_gradients(kind: str, tmp_path: Path) -> None:
    found = []
    for recomputes in (False, True):
        tuning = Tuning(checkpointing=recomputes)
        if kind == "image":
            tower: Encoder = image_tower("test_vit", cut="blocks.3", tuning=tuning)
            inputs: Any = pictures(160)
        else:
            tower = TransformersTextEncoder(text_model(tmp_path / str(recomputes), None), cut=1, tuning=tuning)
            inputs = tokenized(tower)  # type: ignore[arg-type]
            for part in tower.modules():
                if isinstance(part, nn.Dropout):
                    part.p = 0.0
        tower.train()
        found.append(gradients(tower, tower.to_store(inputs)))
    torch.testing.assert_close(found[1], found[0])


def test_adapters_are_added_above_the_cut_alone(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    tower = TransformersTextEncoder(text_model(tmp_path / "bert", None), cut=1, tuning=Tuning(lora=Lora(rank=2)))
    adapters = [name for name, _ in tower.named_parameters() if "lora" in name]
    assert adapters
    assert all(name.startswith("backbone.encoder.layer.1.") for name in adapters)
    assert {name for name, value in tower.named_parameters() if value.requires_grad} == set(adapters)
    assert gradients(tower, tokenized(tower)).keys() == set(adapters)


def test_a_frozen_tower_may_be_cut(tmp_path: Path) -> None:
    tower = image_tower("test_resnet", cut="layer4", tuning=Tuning(frozen=True))
    assert not any(value.requires_grad for value in tower.parameters())
    assert not tower(pictures(96)).pooled.requires_grad
    assert not tower.train().backbone.layer4.training


@pytest.mark.parametrize("cut", ["blocks.9", "stages.1", "blocks.5.bn1", "blocks.0.conv_pw.weight", ""])
def test_a_layer_that_does_not_exist_is_named_with_those_that_do(cut: str) -> None:
    with pytest.raises(
        UserError, match=rf"no layer '{cut}' to cut at; its layers: conv_stem, bn1, blocks\.0 to blocks"
    ):
        image_tower("test_efficientnet", cut=cut)


@pytest.mark.parametrize("cut", [2, "encoder.layer.5", "encoder.layer", "pooler", -1])
def test_a_text_layer_that_does_not_exist_is_named_with_those_that_do(cut: int | str, tmp_path: Path) -> None:
    folder = text_model(tmp_path / "bert", None)
    with pytest.raises(UserError, match=rf"no layer '{cut}' .* are encoder\.layer\.0 to encoder\.layer\.1"):
        TransformersTextEncoder(folder, cut=cut)


@pytest.mark.parametrize(
    "config",
    [
        T5Config(vocab_size=200, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2),
        DebertaV2Config(vocab_size=200, relative_attention=True, pos_att_type=["c2p", "p2c"], **SMALL),
    ],
)
def test_models_whose_layers_need_more_than_activations_are_refused(config: PretrainedConfig, tmp_path: Path) -> None:
    folder = text_model(tmp_path / "model", config)
    with pytest.raises(UserError, match="its layers need more than the activations that enter them: remove cut"):
        TransformersTextEncoder(folder, cut=1)
