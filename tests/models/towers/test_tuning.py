import builtins
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from tests.helpers.encoders import MeanColour
from tests.helpers.hub_models import write_bert, write_clip, write_siglip

from ascl_lightning.data.batch import TokenizedTexts
from ascl_lightning.errors import UserError
from ascl_lightning.models import ClipImageEncoder, TimmImageEncoder, TransformersTextEncoder
from ascl_lightning.models.towers.base import Encoder
from ascl_lightning.models.towers.tuning import Lora, Tuning

PICTURES = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
WORDS = torch.ones(2, 6, dtype=torch.bool)
TEXTS = TokenizedTexts(torch.arange(5, 17).reshape(2, 6), WORDS, ~WORDS)
LORA = Lora(rank=4)


def trained_names(tower: Encoder) -> list[str]:
    return [name for name, parameter in tower.named_parameters() if parameter.requires_grad]


def adapters(tower: Encoder) -> dict[str, LoraLayer]:
    return {name: module for name, module in tower.named_modules() if isinstance(module, LoraLayer)}


def vit(lora: Lora | None = LORA) -> TimmImageEncoder:
    torch.manual_seed(0)
    return TimmImageEncoder("test_vit", image_size=32, tuning=Tuning(lora=lora))


def test_adapters_start_as_the_tower_without_them():
    plain, adapted = vit(None).eval(), vit().eval()
    torch.testing.assert_close(adapted(PICTURES).tokens, plain(PICTURES).tokens)


def test_only_adapters_are_trained():
    tower = vit()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in tower.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(2):
        tower(PICTURES).pooled.square().sum().backward()
        optimizer.step()
    changed = {name for name, value in tower.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(trained_names(tower)) == {name for name in before if ".lora_" in name}


def test_an_adapted_map_is_its_weight_and_a_product_of_two_matrices():
    """W x + alpha / rank * B A x, by hand; merging the adapters does not change the output."""
    tower = vit(Lora(rank=4, alpha=6.0)).eval()
    torch.manual_seed(1)
    for name, parameter in tower.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    layers = adapters(tower)
    one = layers["backbone.blocks.0.attn.qkv"]
    weight, x = one.get_base_layer().weight, torch.randn(3, one.in_features)
    product = one.lora_B["default"].weight @ one.lora_A["default"].weight
    assert one.lora_A["default"].weight.shape == (4, one.in_features)
    torch.testing.assert_close(one(x), x @ (weight + 6 / 4 * product).T + one.get_base_layer().bias)
    expected = tower(PICTURES).tokens
    for layer in layers.values():
        layer.merge()
    torch.testing.assert_close(tower(PICTURES).tokens, expected, rtol=1e-4, atol=1e-5)


def test_all_or_named_linear_maps_are_adapted(tmp_path):
    everywhere = vit()
    maps = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    assert adapters(everywhere).keys() == {f"backbone.blocks.{i}.{name}" for i in range(6) for name in maps}
    bert = str(write_bert(tmp_path / "bert"))
    named = TransformersTextEncoder(bert, tuning=Tuning(lora=Lora(targets=["query", "attention.output.dense"])))
    attention = "backbone.encoder.layer.{}.attention"
    expected = {f"{attention.format(i)}.{name}" for i in range(2) for name in ("self.query", "output.dense")}
    assert adapters(named).keys() == expected


def test_every_adapter_gets_a_gradient(tmp_path):
    """SigLIP's pooling head is torch's attention, which reads one weight without calling its linear map."""
    torch.manual_seed(0)
    tower = ClipImageEncoder(str(write_siglip(tmp_path / "pair")), tuning=Tuning(lora=Lora()))
    features = tower(PICTURES)
    (features.pooled.square().sum() + features.tokens.square().sum()).backward()
    without = [name for name in trained_names(tower) if dict(tower.named_parameters())[name].grad is None]
    assert without == []
    gradients = {name: p.grad.abs().sum().item() for name, p in tower.named_parameters() if ".lora_B." in name}
    assert min(gradients.values()) > 0


def test_a_state_with_adapters_is_loaded_with_weights_only(tmp_path):
    tower = vit()
    for name, parameter in tower.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    torch.save(tower.state_dict(), tmp_path / "tower.pt")
    torch.manual_seed(9)
    other = TimmImageEncoder("test_vit", image_size=32, tuning=Tuning(lora=LORA))
    other.load_state_dict(torch.load(tmp_path / "tower.pt", weights_only=True))
    torch.testing.assert_close(other.eval()(PICTURES).tokens, tower.eval()(PICTURES).tokens)


def test_adapters_are_refused_with_batch_statistics():
    with pytest.raises(UserError, match="batch statistics"):
        TimmImageEncoder("resnet18", image_size=32, tuning=Tuning(lora=Lora()))


def test_unknown_targets_raise_with_the_known_ones():
    with pytest.raises(UserError, match=r"\['fc1', 'fc2', 'proj', 'qkv'\]"):
        vit(Lora(targets=["q_proj"]))


def test_without_peft_the_message_says_what_to_install(monkeypatch):
    load = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "peft":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"ascl-lightning\[lora\]"):
        vit()


@pytest.mark.parametrize("name", ["layer_decay", "thaw_after", "lora", "checkpointing"])
def test_a_frozen_tower_refuses_options_for_training(name):
    options = {"layer_decay": 0.5, "thaw_after": 0.1, "lora": LORA, "checkpointing": True}
    with pytest.raises(ValueError, match="frozen"):
        Tuning(frozen=True, **{name: options[name]})


@pytest.mark.parametrize(
    "build",
    [
        lambda: Tuning(layer_decay=0.0),
        lambda: Tuning(layer_decay=1.5),
        lambda: Tuning(thaw_after=1.0),
        lambda: Tuning(thaw_after=-0.1),
        lambda: Lora(rank=0),
        lambda: Lora(alpha=0.0),
        lambda: Lora(dropout=1.0),
    ],
)
def test_numbers_out_of_bounds_are_refused(build):
    with pytest.raises(ValueError, match="not "):
        build()


def passes(tower: Encoder, part: torch.nn.Module, inputs: object) -> int:
    """Number of calls of a part of a tower in one training step."""
    count = 0

    def add(*_: object) -> None:
        nonlocal count
        count += 1

    part.register_forward_hook(add)
    tower(inputs).tokens.square().sum().backward()
    return count


TOWERS = {
    "bert": (
        lambda root, tuning: TransformersTextEncoder(str(write_bert(root)), tuning=tuning),
        lambda tower: tower.backbone.encoder.layer[0].attention.self.query,
    ),
    "clip": (
        lambda root, tuning: ClipImageEncoder(str(write_clip(root)), tuning=tuning),
        lambda tower: tower.tower.model.vision_model.encoder.layers[0].layer_norm1,
    ),
    "timm": (
        lambda root, tuning: TimmImageEncoder("test_vit", image_size=32, tuning=tuning),
        lambda tower: tower.backbone.blocks[0].norm1,
    ),
}


@pytest.mark.parametrize("lora", [None, Lora(rank=2, dropout=0.5)])
@pytest.mark.parametrize("name", TOWERS)
def test_recomputed_activations_give_the_same_gradients(name, lora, tmp_path):
    """Including dropout of BERT and of adapters; layers run in the forward pass and again in the backward pass."""
    build, part = TOWERS[name]
    inputs = TEXTS if name == "bert" else PICTURES
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        tower = build(tmp_path / name, Tuning(checkpointing=checkpointing, lora=lora))
        torch.manual_seed(1)
        assert passes(tower, part(tower), inputs) == 1 + checkpointing
        gradients.append({each: p.grad for each, p in tower.named_parameters() if p.grad is not None})
    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys()
    assert plain
    for each, gradient in plain.items():
        torch.testing.assert_close(recomputed[each], gradient), each


def test_checkpointing_raises_if_it_is_not_supported():
    with pytest.raises(UserError, match="checkpointing to false"):
        TimmImageEncoder("selecsls42", image_size=64, tuning=Tuning(checkpointing=True))
    with pytest.raises(UserError, match="MeanColour cannot"):
        MeanColour(tuning=Tuning(checkpointing=True))


def test_layer_decay_raises_if_timm_does_not_group_layers():
    tower = TimmImageEncoder("caformer_s18", image_size=64, tuning=Tuning(layer_decay=0.5))
    with pytest.raises(UserError, match="layer_decay to 1"):
        tower.layer_numbers()


def test_evaluation_with_checkpointing_has_no_gradients(tmp_path: Path):
    tower = TransformersTextEncoder(str(write_bert(tmp_path)), tuning=Tuning(checkpointing=True)).eval()
    with torch.inference_mode():
        assert not tower(TEXTS).tokens.requires_grad
