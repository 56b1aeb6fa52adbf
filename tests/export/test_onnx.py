"""An exported folder: served without the package, quantised, and replaced only if it is an export."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.helpers.retrievers import small

from ascl_lightning import Retriever, UserError
from ascl_lightning.data.sources import Scenes
from ascl_lightning.data.text import Vocabulary, WordTokenizer
from ascl_lightning.export.graphs import OnnxGraph, TextGraph
from ascl_lightning.export.onnx import Exported, export_onnx, require_export_folder
from ascl_lightning.metrics.recall import retrieval_metrics
from ascl_lightning.models import ConvImageEncoder, FusedSimilarity, ImageTextModel, WordConvolution

pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
DOCUMENT = Path(__file__).parents[2] / "docs" / "export.md"
WITHOUT_THE_PACKAGE = {"json", "numpy", "onnxruntime", "PIL", "tokenizers"}


@pytest.fixture(scope="module")
def split():
    return Scenes(image_size=48, num_train=8, num_val=12, num_test=2).read(None, "val")


@pytest.fixture(scope="module")
def retriever(split) -> Retriever:
    torch.manual_seed(0)
    vocabulary = Vocabulary.mine([text for captions in split.captions for text in captions], 64)
    towers = ConvImageEncoder(image_size=48, width=16, token_dim=32), WordConvolution(64, 32, 32)
    model = ImageTextModel(*towers, FusedSimilarity(32, 2, local_weight=0.5, global_fusion="none"))
    return Retriever(model, WordTokenizer(vocabulary, 32, 64), device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("export") / "exported"


@pytest.fixture(scope="module")
def exported(retriever, split, folder) -> Exported:
    return export_onnx(retriever, folder, split)


@pytest.mark.slow
def test_the_document_serves_it_without_the_package(retriever, exported, folder, split, monkeypatch, capsys) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    nodes = [node for node in ast.walk(ast.parse(lines)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [getattr(node, "module", None) or alias.name for node in nodes for alias in node.names]
    assert {name.partition(".")[0] for name in names} <= WITHOUT_THE_PACKAGE
    pictures = [Image.fromarray(pixels) for pixels in split.images[:2]]
    for name, picture in zip(("kite", "dogs"), pictures, strict=True):
        picture.save(folder.parent / f"{name}.jpg", "PNG")  # without loss
    monkeypatch.chdir(folder.parent)
    made: dict = {}
    exec(lines, made)
    expected = retriever.similarity(pictures, made["queries"]).T
    torch.testing.assert_close(torch.from_numpy(made["scores"]), expected, rtol=0, atol=1e-5)
    assert str(made["scores"]) in capsys.readouterr().out


@pytest.mark.slow
def test_the_description(retriever, exported, folder) -> None:
    about = json.loads((folder / "model.json").read_text())
    assert about["fingerprint"] == retriever.fingerprint
    assert about["largest_difference_from_torch"] == exported.differences
    assert max(exported.differences.values()) <= 1e-4
    assert about["images"]["preprocessing"]["size"] == 48
    assert about["images"]["outputs"]["tokens"]["shape"] == ["images", 9, 32]
    assert about["texts"]["inputs"]["input_ids"] == {"dtype": "int64", "shape": ["texts", "length"]}
    assert about["int8"]["recall"]["num_texts"] == 60
    names = {"images.onnx", "texts.onnx", "images.int8.onnx", "texts.int8.onnx", "model.json", "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.slow
def test_the_loss_of_recall(retriever, exported, folder, split) -> None:
    captions = [text for of_image in split.captions for text in of_image]
    rows = torch.arange(12).repeat_interleave(5)
    images, texts = retriever.encode_images(split.images), retriever.encode_texts(captions)
    loss = exported.loss
    assert (loss.num_images, loss.num_texts) == (12, 60)
    assert loss.float32["embeddings"] == retrieval_metrics(retriever.similarity(images, texts), rows)
    local = retriever.model.similarity.levels()["local"][1]
    assert loss.float32["local"] == retrieval_metrics(local(images.features, texts.features), rows)
    graph = TextGraph(retriever.model)
    arguments = graph.arguments(retriever.tokenizer(captions)[0])
    found = OnnxGraph(folder / "texts.int8.onnx")(*arguments).embeddings
    assert 0.99 < (found * texts.embeds).sum(1).min() < 1 - 1e-6
    assert (folder / "texts.int8.onnx").stat().st_size < (folder / "texts.onnx").stat().st_size
    assert loss.int8.keys() == {"embeddings", "local"}


def test_a_folder_with_other_files_is_kept(tmp_path: Path) -> None:
    require_export_folder(tmp_path / "new")
    require_export_folder(tmp_path)
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match="it has other files, which an export would remove"):
        export_onnx(small(), tmp_path)
    (tmp_path / "model.json").touch()
    require_export_folder(tmp_path)


@pytest.mark.slow
def test_a_failed_export_leaves_the_earlier_one(retriever, exported, folder, monkeypatch) -> None:
    before = (folder / "model.json").read_bytes()
    monkeypatch.setattr("ascl_lightning.export.onnx.write_int8", lambda *_: 1 / 0)
    monkeypatch.setattr("ascl_lightning.export.onnx.write_graph", lambda *_: 0.0)
    with pytest.raises(ZeroDivisionError):
        export_onnx(retriever, folder, Scenes(num_train=8, num_val=2, num_test=2).read(None, "val"))
    assert (folder / "model.json").read_bytes() == before
    assert [path.name for path in folder.parent.glob(".*")] == []
