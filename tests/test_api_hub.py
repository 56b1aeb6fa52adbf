"""Models saved again, uploaded to a hub and downloaded from it (a stub on the loopback address)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from tests.helpers.hub_models import write_bert
from tests.helpers.stub_hub import StubHub, stub_hub

from ascl_lightning import Retriever, UserError
from ascl_lightning.data.text import build_tokenizer
from ascl_lightning.models import ConvImageEncoder, FusedSimilarity, ImageTextModel, TransformersTextEncoder
from ascl_lightning.runtime.checkpoints import write_checkpoint

WORDS = ["a", "red", "kite"]
METRICS = {"val/rsum": 321.0, "val/image_to_text/recall_at_1": 54.3, "val/text_to_image/recall_at_1": 43.2}


def section(text_encoder: dict) -> dict:
    return {
        "image_encoder": {"class_path": "ConvImageEncoder", "init_args": {"image_size": 32, "width": 8}},
        "text_encoder": text_encoder,
        "similarity": {"class_path": "FusedSimilarity", "init_args": {"embed_dim": 8, "num_heads": 2}},
    }


CONFIG = {"seed": 3, "model": section({"class_path": "WordConvolution", "init_args": {"vocab_size": 9, "width": 16}})}


def checkpoint(folder: Path, config: dict, **content) -> Path:
    """A checkpoint of a model with random weights."""
    from ascl_lightning.models.rebuild import _built

    torch.manual_seed(0)
    model = _built(config["model"], "test")
    state = {f"model.{name}": value for name, value in model.state_dict().items()} | {"loss.scale": torch.tensor(2.5)}
    path = folder / "run" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    write_checkpoint({"state_dict": state, "RetrievalDataModule": {"vocabulary": WORDS}, **content}, path)
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Retriever:
    return Retriever.from_checkpoint(checkpoint(tmp_path, CONFIG, metrics=METRICS), device="cpu")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StubHub]:
    with stub_hub(str(tmp_path / "cache")) as hub:
        yield hub


def assert_same(one: Retriever, other: Retriever) -> None:
    assert one.fingerprint == other.fingerprint
    assert torch.equal(one.encode_texts("a red kite").embeds, other.encode_texts("a red kite").embeds)


def test_a_saved_model_is_loaded_again(model: Retriever, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.yaml", "model.safetensors"}
    assert yaml.safe_load((folder / "config.yaml").read_text()) == CONFIG
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.get_tensor("loss.scale") == 2.5, "`ascl test` needs all weights of a training"
    again = Retriever.from_pretrained(folder, device="cpu")
    assert_same(again, model)
    with torch.no_grad():
        again.model.text_projection.pooled.weight.zero_()
    (folder / "README.md").write_text("mine\n")
    changed = Retriever.from_pretrained(folder, device="cpu")
    assert_same(changed, model)
    again.save_pretrained(tmp_path / "changed")
    weight = Retriever.from_pretrained(tmp_path / "changed", device="cpu").model.text_projection.pooled.weight
    assert not weight.any(), "the present weights are saved"
    changed.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == "mine\n"


def test_the_card_has_the_metrics_of_the_run(model: Retriever, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: ascl-lightning\n")
    assert "| image to text | 54.3 |" in card
    assert "| text to image | 43.2 |" in card
    assert "WordConvolution(vocab_size=9, width=16)" in card
    unknown = Retriever.from_checkpoint(checkpoint(tmp_path / "other", CONFIG), device="cpu")
    unknown.save_pretrained(tmp_path / "unknown")
    assert "The metrics of these weights are not known" in (tmp_path / "unknown" / "README.md").read_text()


def test_towers_take_their_settings_along(tmp_path: Path, hub: StubHub) -> None:
    bert = write_bert(tmp_path / "bert")
    config = {"model": section({"class_path": "TransformersTextEncoder", "init_args": {"path": str(bert)}})}
    model = Retriever.from_checkpoint(checkpoint(tmp_path, config), device="cpu")
    model.push_to_hub("somebody/bert")
    bert.rename(tmp_path / "elsewhere")
    assert_same(Retriever.from_pretrained("somebody/bert", device="cpu"), model)
    assert {"text_encoder/tokenizer.json", "text_encoder/config.json"} <= set(hub.served)


def test_a_model_goes_to_the_hub_and_back(model: Retriever, hub: StubHub) -> None:
    address = model.push_to_hub("somebody/kites", private=True)
    assert address == f"{hub.address}/somebody/kites/commit/{'c' * 40}"
    assert hub.files["somebody/kites"].keys() == {"README.md", "config.yaml", "model.safetensors"}
    hub.files["somebody/kites"] |= {"pytorch_model.bin": b"pickle", "modeling.py": b"import os"}
    assert_same(Retriever.from_pretrained("somebody/kites", revision="main", device="cpu"), model)
    assert {"model.safetensors", "config.yaml"} <= set(hub.served) <= {"README.md", "config.yaml", "model.safetensors"}


@pytest.mark.parametrize(
    "class_path", ["subprocess.Popen", "ascl_lightning.runtime.files.write_file", "ascl_lightning.models.nn", "Popen"]
)
def test_a_config_from_the_hub_names_only_models_of_this_package(class_path: str, model, hub: StubHub) -> None:
    model.push_to_hub("somebody/bad")
    evil = CONFIG | {"model": CONFIG["model"] | {"text_encoder": {"class_path": class_path, "init_args": {}}}}
    hub.files["somebody/bad"]["config.yaml"] = yaml.safe_dump(evil).encode()
    with pytest.raises(UserError, match=rf"somebody/bad: model.text_encoder names '{class_path}', but a config"):
        Retriever.from_pretrained("somebody/bad")


def test_weights_that_do_not_fit_are_refused(model: Retriever, hub: StubHub) -> None:
    model.push_to_hub("somebody/other")
    text = hub.files["somebody/other"]["config.yaml"].decode()
    hub.files["somebody/other"]["config.yaml"] = text.replace("width: 16", "width: 12").encode()
    with pytest.raises(UserError, match=r"'somebody/other' do not fit the model: .* of another shape"):
        Retriever.from_pretrained("somebody/other")


def test_what_cannot_be_uploaded_or_found_is_one_error(model: Retriever, hub: StubHub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'nobody/nothing' is no local folder, and the download failed"):
        Retriever.from_pretrained("nobody/nothing")
    with pytest.raises(UserError, match="cannot upload to 'not a name'"):
        model.push_to_hub("not a name")
    text = TransformersTextEncoder(str(write_bert(tmp_path / "bert")))
    built = ImageTextModel(ConvImageEncoder(32, width=8), text, FusedSimilarity(8, 2))
    with pytest.raises(UserError, match="a model built in Python has no configuration to save"):
        Retriever(built, build_tokenizer(text.spec, None), "cpu").push_to_hub("somebody/built")
