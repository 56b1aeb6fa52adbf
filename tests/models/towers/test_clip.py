import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.hub_models import write_bert, write_clip, write_siglip, write_siglip2
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from ascl_lightning.data.batch import TokenizedTexts
from ascl_lightning.errors import UserError
from ascl_lightning.models.towers.clip import ClipImageEncoder, ClipTextEncoder
from ascl_lightning.models.towers.tuning import Tuning

TEXTS = ["a dog runs", "two cats on the left of a zebra", "red"]
WRITERS = {"clip": write_clip, "siglip": write_siglip, "siglip2": write_siglip2}


@pytest.fixture(scope="module", params=list(WRITERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("pair") / request.param)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip")


def pictures(num_images: int = 4) -> Tensor:
    return torch.randint(0, 256, (num_images, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def tokenized(folder: Path, texts: list[str], padding: str = "longest", max_length: int = 40) -> TokenizedTexts:
    """Padded on the right to the longest text of the batch, as in the data module."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    rows = tokenizer(
        texts,
        padding=padding,
        truncation=True,
        max_length=max_length,
        return_special_tokens_mask=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    mask = rows["attention_mask"].bool()
    return TokenizedTexts(rows["input_ids"], mask, rows["special_tokens_mask"].bool() | ~mask)


def whole_pair(folder: Path, pixels: Tensor, texts: list[str]) -> tuple[torch.nn.Module, object]:
    """Output of the checkpoint's original model, processor and tokenizer."""
    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    clip = model.config.model_type == "clip"
    ids = tokenizer(texts, padding=True if clip else "max_length", truncation=True, max_length=40, return_tensors="pt")
    inputs = {"input_ids": ids["input_ids"]} | ({"attention_mask": ids["attention_mask"]} if clip else {})
    naflex = {"max_num_patches": 16, "patch_size": 8} if model.config.model_type == "siglip2" else {}
    arrays = [np.asarray(picture.permute(1, 2, 0)) for picture in pixels]
    inputs |= dict(AutoImageProcessor.from_pretrained(folder)(arrays, return_tensors="pt", **naflex))
    with torch.no_grad():
        return model, model(**inputs)


@torch.no_grad()
def test_cosines_of_global_vectors_are_the_models_own_scores(folder: Path) -> None:
    images, texts = ClipImageEncoder(str(folder)), ClipTextEncoder(str(folder))
    image_embeds = F.normalize(images(pictures()).pooled, dim=-1)
    text_embeds = F.normalize(texts(tokenized(folder, TEXTS)).pooled, dim=-1)
    model, output = whole_pair(folder, pictures(), TEXTS)
    scores = (output.logits_per_image - getattr(model, "logit_bias", 0.0)) / model.logit_scale.exp()
    torch.testing.assert_close(image_embeds @ text_embeds.T, scores, atol=1e-5, rtol=0)
    assert scores.std() > 0.01  # or any constant would do
    assert image_embeds.shape[1] == images.pooled_dim == images.token_dim == texts.pooled_dim == texts.token_dim


@torch.no_grad()
def test_image_tokens_are_projected_patches(folder: Path) -> None:
    encoder = ClipImageEncoder(str(folder))
    features = encoder(pictures())
    model, output = whole_pair(folder, pictures(), TEXTS)
    hidden = output.vision_model_output.last_hidden_state
    if model.config.model_type == "clip":
        expected = model.visual_projection(model.vision_model.post_layernorm(hidden))
        torch.testing.assert_close(features.pooled, expected[:, 0])
        expected = expected[:, 1:]
    else:
        head = model.vision_model.head
        width = hidden.shape[-1]
        values = F.linear(hidden, head.attention.in_proj_weight[2 * width :], head.attention.in_proj_bias[2 * width :])
        attended = head.attention.out_proj(values)
        expected = attended + head.mlp(head.layernorm(attended))
    torch.testing.assert_close(features.tokens, expected)
    assert features.tokens.shape == (4, 16, encoder.token_dim)
    assert features.mask.all()
    assert features.mask.shape == (4, 16)


@torch.no_grad()
def test_token_grid_averages_neighbours(folder: Path) -> None:
    patches, coarse = ClipImageEncoder(str(folder))(pictures()), ClipImageEncoder(str(folder), token_grid=2)(pictures())
    grid = patches.tokens.reshape(4, 4, 4, -1)  # 32 x 32 in patches of 8 x 8
    blocks = [grid[:, row : row + 2, column : column + 2].mean(dim=(1, 2)) for row in (0, 2) for column in (0, 2)]
    torch.testing.assert_close(coarse.tokens, torch.stack(blocks, dim=1))
    torch.testing.assert_close(coarse.pooled, patches.pooled)
    assert coarse.mask.shape == (4, 4)


@pytest.mark.parametrize("token_grid", [0, 5])
def test_token_grid_must_lie_within_the_grid(folder: Path, token_grid: int) -> None:
    with pytest.raises(UserError, match=f"'{folder}' gives a grid of 4 x 4 tokens: token_grid must be 1 to 4"):
        ClipImageEncoder(str(folder), token_grid=token_grid)


@torch.no_grad()
def test_text_tokens_are_projected_words(folder: Path) -> None:
    texts = tokenized(folder, TEXTS)
    features = ClipTextEncoder(str(folder))(texts)
    model, output = whole_pair(folder, pictures(), TEXTS)
    length = texts.input_ids.shape[1]
    hidden = output.text_model_output.last_hidden_state[:, :length]
    project = model.text_projection if model.config.model_type == "clip" else model.text_model.head
    expected = project(hidden)
    torch.testing.assert_close(features.tokens[texts.attention_mask], expected[texts.attention_mask])
    torch.testing.assert_close(features.mask, texts.attention_mask)
    if model.config.model_type == "clip":
        ends = texts.attention_mask.sum(dim=1) - 1
        torch.testing.assert_close(features.pooled, features.tokens[torch.arange(3), ends])


@torch.no_grad()
def test_padding_changes_nothing(folder: Path) -> None:
    encoder = ClipTextEncoder(str(folder))
    short, full = tokenized(folder, TEXTS), tokenized(folder, TEXTS, padding="max_length")
    assert short.input_ids.shape[1] < full.input_ids.shape[1] == 40
    # the content of the padding has no effect: the data module may pad with another token
    full.input_ids[~full.attention_mask] = 3
    one, other = encoder(short), encoder(full)
    torch.testing.assert_close(one.pooled, other.pooled)
    mask = short.attention_mask
    torch.testing.assert_close(one.tokens[mask], other.tokens[:, : mask.shape[1]][mask])


def test_special_tokens_need_not_be_words(clip: Path) -> None:
    texts = tokenized(clip, ["red dog", "a man"])
    words = ClipTextEncoder(str(clip), special_tokens_are_words=False)(texts).mask
    assert words.tolist() == [[False, True, True, False]] * 2
    assert ClipTextEncoder(str(clip))(texts).mask.all()


def test_text_spec_names_the_checkpoint(folder: Path) -> None:
    assert ClipTextEncoder(str(folder)).spec.tokenizer == str(folder)
    assert ClipTextEncoder(str(folder)).spec.max_length == 40
    assert ClipTextEncoder(str(folder), max_length=10).spec.max_length == 10


@torch.no_grad()
def test_original_clip_finds_the_end_of_text_as_the_highest_id(clip: Path) -> None:
    # the first published checkpoints give 2 as the end-of-text id, but use the highest id of a row
    config = json.loads((clip / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (clip / "config.json").write_text(json.dumps(config))
    _, output = whole_pair(clip, pictures(), TEXTS)
    embeds = F.normalize(ClipTextEncoder(str(clip))(tokenized(clip, TEXTS)).pooled, dim=-1)
    torch.testing.assert_close(embeds, output.text_embeds)


def test_each_tower_loads_only_its_half(folder: Path) -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    model = AutoModel.from_pretrained(folder)
    own = model.logit_scale.numel() + (model.logit_bias.numel() if hasattr(model, "logit_bias") else 0)
    towers = count(ClipImageEncoder(str(folder))) + count(ClipTextEncoder(str(folder)))
    assert towers + own == count(model)


@pytest.mark.parametrize("max_length", [9, 1000])
def test_spec_of_needs_no_weights(folder: Path, tmp_path: Path, max_length: int) -> None:
    pair = shutil.copytree(folder, tmp_path / "pair")
    expected = ClipImageEncoder(str(pair)).spec, ClipTextEncoder(str(pair), max_length).spec
    (pair / "model.safetensors").unlink()
    path = {"path": str(pair)}
    assert (ClipImageEncoder.spec_of(path), ClipTextEncoder.spec_of(path | {"max_length": max_length})) == expected


def test_pixel_spec_follows_the_preprocessor(clip: Path) -> None:
    settings = json.loads((clip / "preprocessor_config.json").read_text())
    settings |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2, "do_center_crop": False}
    (clip / "preprocessor_config.json").write_text(json.dumps(settings))
    spec = ClipImageEncoder(str(clip)).spec
    assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (spec.size, spec.interpolation, spec.crop) == (32, "bilinear", "squash")


@pytest.mark.parametrize(
    ("write", "mean", "std", "crop"),
    [
        (write_clip, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), "center"),
        (write_siglip, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "squash"),
    ],
)
def test_without_a_preprocessor_the_settings_of_the_family_apply(
    write: Callable[[Path], Path],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    crop: str,
    tmp_path: Path,
) -> None:
    folder = write(tmp_path / "pair")
    (folder / "preprocessor_config.json").unlink()
    spec = ClipImageEncoder(str(folder)).spec
    assert (spec.mean, spec.std, spec.crop, spec.interpolation) == (mean, std, crop, "bicubic")


def test_broken_preprocessor_is_an_error(clip: Path) -> None:
    (clip / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match="cannot load preprocessor_config"):
        ClipImageEncoder(str(clip))


def test_frozen_towers_have_no_gradients(folder: Path) -> None:
    images = ClipImageEncoder(str(folder), tuning=Tuning(frozen=True, learning_rate=0.1))
    texts = ClipTextEncoder(str(folder), tuning=Tuning(frozen=True))
    assert (images.tuning.learning_rate, texts.tuning.learning_rate) == (0.1, None)
    for encoder, inputs in ((images, pictures()), (texts, tokenized(folder, TEXTS))):
        encoder.train()
        features = encoder(inputs)
        assert not features.pooled.requires_grad
        assert not features.tokens.requires_grad
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        assert not any(module.training for module in encoder.modules())


def test_every_weight_of_a_trained_tower_gets_a_gradient(folder: Path) -> None:
    for encoder, inputs in (
        (ClipImageEncoder(str(folder)), pictures()),
        (ClipTextEncoder(str(folder)), tokenized(folder, TEXTS)),
    ):
        assert all(module.training for module in encoder.modules())
        features = encoder(inputs)
        (features.pooled.sum() + features.tokens.square().sum()).backward()
        assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_another_model_is_refused(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert")
    for encoder_class in (ClipImageEncoder, ClipTextEncoder):
        with pytest.raises(UserError, match="of type 'bert', not a CLIP or SigLIP pair"):
            encoder_class(str(folder))


def test_missing_weights_are_refused(clip: Path) -> None:
    state = load_file(clip / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, clip / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing \(visual_projection.weight\)"):
        ClipImageEncoder(str(clip))
    ClipTextEncoder(str(clip))


def test_missing_pooling_head_is_refused(tmp_path: Path) -> None:
    folder = write_siglip(tmp_path / "siglip")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["vision_use_head"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no pooling head"):
        ClipImageEncoder(str(folder))
