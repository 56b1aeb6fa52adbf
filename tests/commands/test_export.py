"""`ascl export`: what it prints, and mistakes in one line."""

import sys
from pathlib import Path

import pytest

from ascl_lightning.__main__ import main
from ascl_lightning.export import onnx as module
from ascl_lightning.export.int8 import Int8Loss
from ascl_lightning.export.onnx import Exported
from ascl_lightning.gallery import gallery
from ascl_lightning.gallery.manifest import Origin
from ascl_lightning.metrics.query_results import RECALL_AT

pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
NAMES = [f"{way}/recall_at_{k}" for way in ("image_to_text", "text_to_image") for k in RECALL_AT]


def test_the_loss_is_measured_on_the_split_and_printed(tmp_path: Path, capsys, monkeypatch) -> None:
    asked: list = []
    before, after = dict.fromkeys(NAMES, 50.0), dict.fromkeys(NAMES, 49.5)
    loss = Int8Loss(4, 20, {"embeddings": before}, {"embeddings": after})
    monkeypatch.setattr(gallery, "load_model", lambda *given: asked.append(given) or "model")
    monkeypatch.setattr(
        module, "export_onnx", lambda *given: asked.append(given) or Exported({"texts.onnx": 2.5e-7}, loss)
    )
    data = [f"--data.source.init_args.num_{split}=4" for split in ("train", "val", "test")]
    flags = ["--weights", "some/model", "--out", str(tmp_path / "out"), "--int8", "--config", "scenes"]
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["export", "--onnx", *flags, *data]) == 0
    (origin, device), (model, folder, split) = asked
    assert (origin, device, model, folder) == (Origin(weights="some/model"), "cpu", "model", tmp_path / "out")
    assert len(split.captions) == 4
    shown = capsys.readouterr().out
    assert f"{tmp_path / 'out' / 'texts.onnx'}: differs from PyTorch by at most 2.5e-07" in shown
    assert shown.count("49.5 (-0.5)") == 6
    assert "4 images and 20 captions of val" in shown


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "give --weights with a folder of exported weights, or --ckpt_path"),
        (["--weights", "a", "--ckpt_path", "b"], "give --weights with a folder of exported weights, or --ckpt_path"),
        (["--weights", "a", "--int8"], "--int8: give --config with the config of the data"),
        (["--weights", "no/such/folder"], "there is no folder 'no/such/folder'"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, capsys, flags: list[str], said: str) -> None:
    assert main(["export", "--onnx", "--out", str(tmp_path / "out"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ascl: error: ")
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", "--onnx", "--weights", "a", "--out", str(tmp_path)]) == 2
    assert "ascl export needs onnxruntime: pip install 'ascl-lightning[onnx]'" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--weights", "a", "--data.root", "b"], ["--weights", "a", "--int9"]])
def test_unknown_flags_are_refused(tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["export", "--onnx", "--out", str(tmp_path), *flags])
    assert end.value.code == 2
