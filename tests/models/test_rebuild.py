"""Models from configurations and weights; what a configuration from outside may not do is in `tests/test_api.py`."""

import shutil

import pytest
import torch
from tests.helpers.hub_models import write_bert, write_clip

from ascl_lightning.data.text import build_tokenizer
from ascl_lightning.errors import UserError
from ascl_lightning.models import (
    ClipImageEncoder,
    ClipTextEncoder,
    FusedSimilarity,
    GeneralizedPooling,
    ImageTextModel,
    LateInteraction,
    LearnedWeights,
    Lora,
    ProjectionSettings,
    TimmImageEncoder,
    TransformersTextEncoder,
    Tuning,
)
from ascl_lightning.models.rebuild import TOWERS, rebuild_model
from ascl_lightning.models.towers import pretrained

SIMILARITY = {"class_path": "FusedSimilarity", "init_args": {"embed_dim": 8, "num_heads": 2}}
LORA = {"lora": {"rank": 2}}


def timm_and_bert(bert):
    """A pair of pretrained towers with changed weights, and its configuration."""
    lora = Tuning(lora=Lora(rank=2))
    model = ImageTextModel(
        TimmImageEncoder("test_vit", image_size=160),
        TransformersTextEncoder(str(write_bert(bert)), tuning=lora),
        FusedSimilarity(8, 2),
    )
    image_encoder = {"name": "test_vit", "pretrained": True, "image_size": 160}
    text_encoder = {"path": str(bert), "tuning": LORA}
    return model, {
        "image_encoder": {"class_path": "ascl_lightning.models.TimmImageEncoder", "init_args": image_encoder},
        "text_encoder": {"class_path": "TransformersTextEncoder", "init_args": text_encoder},
        "similarity": SIMILARITY,
    }


def clip(path):
    write_clip(path)
    towers = ClipImageEncoder(str(path)), ClipTextEncoder(str(path))
    similarity = FusedSimilarity(20, 2, global_fusion="none")
    similar = {"class_path": "FusedSimilarity"}
    similar["init_args"] = {"embed_dim": 20, "num_heads": 2, "global_fusion": "none"}
    sections = {
        name: {"class_path": f"ascl_lightning.elsewhere.{type(tower).__name__}", "init_args": {"path": str(path)}}
        for name, tower in zip(TOWERS, towers, strict=True)
    }
    return ImageTextModel(*towers, similarity, project=False), sections | {"similarity": similar, "project": False}


def with_weights_elsewhere(path):
    """A pair of towers with weights in the local level and in pooling."""
    write_clip(path)
    towers = ClipImageEncoder(str(path)), ClipTextEncoder(str(path))
    similarity = FusedSimilarity(8, 2, local=LateInteraction(over_words=LearnedWeights(8)))
    over_words = {"class_path": "ascl_lightning.models.LearnedWeights", "init_args": {"embed_dim": 8}}
    local = {"class_path": "LateInteraction", "init_args": {"over_words": over_words}}
    sections = {
        name: {"class_path": type(tower).__name__, "init_args": {"path": str(path)}}
        for name, tower in zip(TOWERS, towers, strict=True)
    }
    similar = {"class_path": "FusedSimilarity", "init_args": {"embed_dim": 8, "num_heads": 2, "local": local}}
    pooling = {"class_path": "GeneralizedPooling", "init_args": {"hidden_dim": 4}}
    project = ProjectionSettings(layer_norm=True, dropout=0.5)
    model = ImageTextModel(*towers, similarity, project, image_pooling=GeneralizedPooling(hidden_dim=4))
    sections |= {"similarity": similar, "project": {"layer_norm": True, "dropout": 0.5}}
    return model, sections | {"image_pooling": pooling, "text_pooling": None}


@pytest.mark.parametrize("make", [timm_and_bert, clip, with_weights_elsewhere])
def test_pretrained_towers_are_rebuilt_without_their_weights(tmp_path, monkeypatch, make):
    torch.manual_seed(0)
    source = tmp_path / "source"
    model, config = make(source)
    for tower in TOWERS:
        getattr(model, tower).save_settings(tmp_path / tower)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    shutil.rmtree(source)
    monkeypatch.setattr(pretrained, "hub_is_reachable", lambda: pytest.fail("asked the hub"))
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    rebuilt = rebuild_model(config, state, "a test", tmp_path)
    size = model.image_encoder.spec.size
    assert rebuilt.image_encoder.spec == model.image_encoder.spec
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    texts, _ = build_tokenizer(rebuilt.text_encoder.spec, None)(["a red dog", "two cats on the left"])
    model.eval()
    with torch.no_grad():
        expected = model.score(model.encode_images(pixels), model.encode_texts(texts))
        assert torch.equal(rebuilt.score(rebuilt.encode_images(pixels), rebuilt.encode_texts(texts)), expected)
    assert not rebuilt.training


def test_a_folder_without_settings_needs_the_original_towers(tmp_path):
    model, config = timm_and_bert(tmp_path / "source")
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    rebuild_model(config, state, "a test", tmp_path)
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(UserError, match="there is no folder"):
        rebuild_model(config, state, "a test", tmp_path)
