"""`ascl index`: flags, messages, and what it hands to the indexer."""

import shlex
import time
from pathlib import Path

import pytest
from tests.helpers.galleries import write_pictures
from tests.helpers.retrievers import small

from ascl_lightning import Gallery
from ascl_lightning.__main__ import main
from ascl_lightning.data.sources import Scenes
from ascl_lightning.gallery import gallery as gallery_module
from ascl_lightning.gallery import index as index_module
from ascl_lightning.gallery.manifest import Manifest

RUN = Path(__file__).parents[1] / "fixtures" / "run_0_1"
MODEL = ["--ckpt_path", str(RUN / "last.ckpt"), "--config", str(RUN / "config.yaml"), "--device", "cpu"]


def interrupt(*_, **__) -> None:
    raise KeyboardInterrupt


def test_a_folder_is_indexed_again_and_watched(tmp_path: Path, capsys, monkeypatch) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    files = write_pictures(images, ["a.png", "b.png"], {"a.png": ["a red kite"]})
    (images / "bad.jpg").touch()
    command = ["index", *MODEL, "--images", str(images), "--out", str(out)]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out}: 2 added, 1 unreadable\n"
    assert shown.err.startswith("Skipped bad.jpg: not a picture")
    (images / "bad.jpg").unlink()

    def change(seconds: float) -> None:
        assert seconds == 0.5
        if len(files) == 2:
            files.pop().unlink()
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", change)
    assert main([*command, "--watch", "0.5"]) == 0
    assert capsys.readouterr().out == f"{out}: 2 unchanged\n{out}: 1 removed, 1 unchanged\n"
    monkeypatch.setattr(index_module, "index", interrupt)
    assert main(command) == 130
    assert capsys.readouterr().err.endswith("Interrupted; the same command continues\n")
    monkeypatch.undo()
    # the model is found again
    gallery = Gallery.open(out, device="cpu")
    assert [hit.path for hit in gallery.search("a red kite").hits] == ["a.png"]
    rebuild = shlex.split(Manifest.read(out).rebuild_command(out))
    assert main([*rebuild[1:], "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{out}: 1 added\n"


def test_a_split_is_indexed_with_its_captions(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(gallery_module, "load_model", lambda *_: small())
    sizes = [f"--data.source.init_args.num_{split}=6" for split in ("train", "val", "test")]
    flags = ["--config", "scenes", *sizes, "--split", "test", "--out", str(tmp_path / "out")]
    assert main(["index", "--weights", "weights", *flags]) == 0
    assert "6 added" in capsys.readouterr().out
    gallery = Gallery.open(tmp_path / "out")
    split = Scenes(image_size=48, num_train=6, num_val=6, num_test=6).read(None, "test")
    assert gallery.images == tmp_path / "out" / "split-test"
    found = {gallery.fields(number)["caption"] for number in range(6)}
    assert found == {"\n".join(captions) for captions in split.captions}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([*MODEL], "give --images with a folder"),
        ([*MODEL, "--images", "x", "--split", "test"], "give --images with a folder"),
        (["--images", "."], "give --weights"),
        ([*MODEL, "--weights", "x", "--images", "."], "give --weights"),
        (["--weights", "x", "--split", "test"], "give --config"),
        ([*MODEL, "--images", "nowhere"], "--images nowhere: there is no such folder"),
        (["--weights", "nowhere", "--images", "."], "nowhere"),
        (["--ckpt_path", "nowhere.ckpt", "--images", "."], "there is no such file"),
        ([*MODEL, "--images", ".", "--watch", "0"], "--watch 0"),
        (["--weights", "nowhere", "--images", ".", "--store", "x"], "--store x: give the address of a Milvus server"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, monkeypatch, capsys, flags: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["index", *flags, "--out", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ascl: error: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_unknown_flags_are_refused(tmp_path: Path, capsys) -> None:
    for flags in (["--data.root", "x"], ["--imagse", "x", "--split", "test"]):
        with pytest.raises(SystemExit) as end:
            main(["index", *MODEL, "--out", str(tmp_path), *([] if "--split" in flags else ["--images", "."]), *flags])
        assert end.value.code == 2
        assert "unrecognized arguments" in capsys.readouterr().err
