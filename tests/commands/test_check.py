"""`ascl check` end to end: planted faults are found with their numbers, and clean data passes."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.helpers.checking import TINY, DataSet, examples, found, texture
from tests.helpers.datasets import write_karpathy
from tests.helpers.hub_models import write_bert

from ascl_lightning.__main__ import main


@pytest.fixture
def data(tmp_path) -> DataSet:
    return DataSet(tmp_path, train=8, val=4, test=3)


def test_clean_data_passes(data, capsys):
    code, report = data.check()
    assert code == 0
    assert (report["verdict"], report["findings"], report["missing"]) == ("ok", [], [])
    assert report["splits"]["val"] == {
        "images": 4,
        "captions": 8,
        "captions_per_image": {"2": 4},
        "shorter_side": [60, 60, 60],
        "tokens": 4 * (4 + 4),
    }
    shown = capsys.readouterr().out
    assert "Verdict: ready to train (0 errors, 0 warnings, 0 notes)" in shown
    assert "report.json" in shown


def test_bad_pictures_are_found(data):
    truncated = data.path("train", 1).read_bytes()[:-100]
    data.path("train", 1).write_bytes(truncated)
    data.path("train", 2).write_bytes(b"<html>not found</html>")
    Image.new("1", (9000, 8000)).save(data.path("train", 3))
    texture(3, (40, 31)).save(data.path("train", 4))
    texture(4).resize((3000, 2700)).save(data.path("train", 5), "JPEG")
    Image.new("RGB", (80, 60), "white").save(data.path("train", 6))
    data.path("val", 0).unlink()
    code, report = data.check("--model.image_encoder.init_args.image_size", "64")
    assert code == 1
    assert found(report) == {
        ("unreadable_images", "train", None): ("error", 2, 8),
        ("huge_images", "train", None): ("error", 1, 8),
        ("unreadable_images", "val", None): ("error", 1, 4),
        ("tiny_images", "train", None): ("warning", 1, 8),
        ("blank_images", "train", None): ("warning", 1, 8),
        # 2 of 80 x 60, and the blank one
        ("small_images", "train", None): ("note", 3, 8),
        ("small_images", "val", None): ("note", 3, 4),
        ("small_images", "test", None): ("note", 3, 3),
        ("large_images", "train", None): ("note", 1, 8),
    }
    assert report["splits"]["train"]["shorter_side"] == [31, 2700, 60]
    assert [Path(example.split(": ")[0]).name for example in examples(report, "unreadable_images")] == [
        *("1.png", "2.png"),
        "100.png",
    ]
    assert examples(report, "tiny_images") == ["train-4: 40 x 31"]


@pytest.mark.parametrize(("share", "code"), [("0.25", 0), ("0.2", 1)])
def test_training_tolerates_a_fraction_of_unreadable_images(data, share, code):
    """Two of eight; as training counts them, one that is too large is bad too."""
    data.path("train", 1).write_bytes(b"no picture")
    Image.new("1", (9000, 8000)).save(data.path("train", 3))
    assert data.check("--data.max_bad_share", share)[0] == code


def test_repeated_images_are_found(data):
    shutil.copy(data.path("train", 0), data.path("train", 5))
    shutil.copy(data.path("train", 0), data.path("train", 6))
    encode(data.path("train", 1), data.path("train", 7), quality=75)
    shutil.copy(data.path("train", 2), data.path("val", 1))
    encode(data.path("train", 3), data.path("test", 0), quality=75)
    shutil.copy(data.path("val", 3), data.path("test", 2))
    code, report = data.check()
    assert code == 1
    assert found(report) == {
        ("leaked_images", "val", "train"): ("error", 1, 4),
        ("leaked_images", "test", "val"): ("error", 1, 3),
        ("leaked_lookalikes", "test", "train"): ("error", 1, 3),
        ("repeated_images", "train", None): ("warning", 2, 8),
        ("similar_images", "train", None): ("note", 1, 8),
    }
    assert examples(report, "leaked_images") == ["val-101 = train-2", "test-202 = val-103"]
    assert examples(report, "leaked_lookalikes") == ["test-200 = train-3"]
    assert examples(report, "repeated_images") == ["train-5 = train-0", "train-6 = train-0"]


def encode(source: Path, target: Path, quality: int) -> None:
    """The same picture as a JPEG, whatever the name."""
    file = io.BytesIO()
    Image.open(source).save(file, "JPEG", quality=quality)
    target.write_bytes(file.getvalue())


def test_blank_pictures_are_no_copies_of_one_another(data):
    for place, colour in enumerate(((255, 255, 255), (254, 254, 254), (250, 255, 250))):
        Image.new("RGB", (80, 60), colour).save(data.path("train", place))
        Image.new("RGB", (80, 60), (*colour[:2], colour[2] - 2)).save(data.path("val", place))
    _, report = data.check()
    assert found(report) == {
        ("blank_images", "train", None): ("warning", 3, 8),
        ("blank_images", "val", None): ("warning", 3, 4),
    }


def test_ids_shared_by_different_images_are_a_note(data):
    data.rows["val"][0]["image_id"] = "train-3"
    data.rows["test"][0]["image_id"] = "train-4"
    shutil.copy(data.path("train", 4), data.path("test", 0))
    _, report = data.check()
    assert found(report) == {
        ("leaked_images", "test", "train"): ("error", 1, 3),
        ("reused_ids", "val", "train"): ("note", 1, 4),
    }


def test_bad_captions_are_found(data):
    data.rows["train"][0]["captions"] = ["a dog", "  ", "A Dog!", None]
    data.rows["train"][1]["captions"] = ["?! 123", "caf\ufffd", "a\x07dog", "a <b>cat</b>", "\ud83d half"]
    data.rows["train"][2]["captions"] = ["w " * 61, "a dog"]
    data.rows["train"][3]["captions"] = []
    data.rows["val"][0]["captions"] = ["A dog.", ""]
    code, report = data.check()
    assert code == 1
    # captions of train: 2 + 4 + 2 + 0 that can be used, and 2 of each of the other 4; in all 3 more
    assert found(report) == {
        ("blank_captions", "train", None): ("error", 1, 19),
        ("unusable_captions", "train", None): ("error", 2, 19),
        ("blank_captions", "val", None): ("error", 1, 8),
        ("wordless_captions", "train", None): ("warning", 1, 16),
        ("garbled_captions", "train", None): ("warning", 1, 16),
        ("control_characters", "train", None): ("warning", 1, 16),
        ("markup_captions", "train", None): ("warning", 1, 16),
        ("long_captions", "train", None): ("warning", 1, 16),
        ("cut_captions", "train", None): ("warning", 1, 16),
        ("repeated_captions", "train", None): ("note", 1, 16),
        ("shared_captions", "train", None): ("note", 1, 16),
        ("leaked_captions", "val", "train"): ("note", 1, 7),
        ("uncaptioned_images", "train", None): ("note", 1, 8),
    }
    assert report["splits"]["train"]["captions_per_image"] == {"0": 1, "2": 6, "4": 1}
    assert examples(report, "blank_captions")[0].endswith("train.jsonl, line 1: field 'captions[1]' is blank")
    assert examples(report, "shared_captions") == ["train-2 = train-0: 'a dog'"]
    assert examples(report, "leaked_captions") == ["val-100 = train-0: 'A dog.'"]
    # of 60 words kept the limit of 24 tokens cuts 36
    (cut,) = (of["problem"] for of in report["findings"] if of["kind"] == "cut_captions")
    tokens = 2 * 2 + (1 + 1 + 1 + 3) + (60 + 2) + 4 * 8
    assert report["splits"]["train"]["tokens"] == tokens
    assert f"more than 24 tokens; 36 tokens are cut, {36 / tokens:.2%} of all" in cut


def test_the_report_as_it_is_printed(data, capsys):
    for place in range(5):
        data.path("train", place).write_bytes(b"no picture")
    shutil.copy(data.path("val", 0), data.path("test", 0))
    data.rows["train"][7]["captions"] = ["one"]
    assert data.check()[0] == 1
    shown = capsys.readouterr().out
    lines = [line.rstrip() for line in shown.splitlines()]
    assert lines[-2] == "Verdict: fix the errors before training or evaluation (2 errors, 0 warnings, 0 notes)"
    start = lines.index("error    train: 5 of 8 images (62.50%) cannot be read")
    assert lines[start + 1].strip().startswith("→ fix or remove them")
    assert lines[start + 2].strip().startswith(str(data.path("train", 0)))
    assert lines[start + 5].strip() == "and 2 more"
    assert "error    test: 1 of 3 images (33.33%) are also in split 'val'" in lines
    # the histogram: 1 caption 1 image, 2 captions 7 images
    assert re.search(r"1 █ 1\b", shown)
    assert re.search(r"2 █{8} 7\b", shown)


def test_many_numbers_of_captions_share_the_last_bar(tmp_path, capsys):
    data = DataSet(tmp_path, train=14)
    for number, row in enumerate(data.rows["train"]):
        row["captions"] = [f"caption {number} {i}" for i in range(number)]
    code, report = data.check()
    assert code == 0
    assert report["missing"] == ["val", "test"]
    shown = capsys.readouterr().out
    assert "9+ ████████ 5" in shown
    assert "10 █" not in shown
    assert "The data has no split val, test." in shown


def test_a_split_that_cannot_be_read_does_not_hide_the_others(data):
    data.rows["val"][2] = {"image": "../out.png", "captions": ["x"]}
    data.path("train", 0).write_bytes(b"no picture")
    code, report = data.check()
    assert code == 1
    assert set(found(report)) == {("unreadable_split", "val", None), ("unreadable_images", "train", None)}
    assert "val.jsonl, line 3: field 'image'" in report["findings"][0]["problem"]
    assert set(report["splits"]) == {"train", "test"}


def test_only_chosen_splits_are_read(data):
    data.path("train", 0).write_bytes(b"no picture")
    code, report = data.check("--splits", '["val"]')
    assert code == 0
    assert set(report["splits"]) == {"val"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.root", "/no/folder"], "/no/folder"),
        (["--splits", '["dev"]'], "none of the splits dev"),
        (["--data.source.init_args.annotations", "no.json"], "there is no file"),
        (["--data.source.init_args.images", "null"], "captions only"),
        (["--nonsense", "1"], "nonsense"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, message):
    write_karpathy(tmp_path, {"train": 2, "val": 2})
    assert main(["check", "--config", TINY, "--data.root", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("ascl: error: ")
    assert message in error
    assert error.count(message) == 1


def test_json_alone_goes_to_the_output(data, capsys):
    data.check()
    capsys.readouterr()
    source = json.dumps({"class_path": "JsonLines", "init_args": {"files": {"train": "train.jsonl"}}})
    arguments = ["--config", TINY, "--data.root", str(data.root), "--data.source", source, "--json", "-"]
    assert main(["check", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["images"] == 8


def test_the_configured_tokenizer_is_used(data, tmp_path):
    """[CLS] and [SEP] stand around; words outside of the tiny vocabulary fall into letters."""
    write_bert(tmp_path / "bert")
    data.rows = {"train": [data.rows["train"][0] | {"captions": ["a red dog", "the cat on the left"]}]}
    encoder = {"class_path": "TransformersTextEncoder", "init_args": {"path": str(tmp_path / "bert"), "max_length": 6}}
    code, report = data.check("--model.text_encoder", json.dumps(encoder))
    assert code == 0
    assert report["splits"]["train"]["tokens"] == 5 + 7
    assert found(report) == {("cut_captions", "train", None): ("warning", 1, 2)}
    assert "more than 6 tokens; 1 tokens are cut, 8.33% of all" in report["findings"][0]["problem"]


def test_an_unavailable_tokenizer_is_a_warning(data, tmp_path):
    encoder = {"class_path": "TransformersTextEncoder", "init_args": {"path": str(tmp_path / "no" / "bert")}}
    code, report = data.check("--model.text_encoder", json.dumps(encoder))
    assert code == 0
    (finding,) = report["findings"]
    assert (finding["kind"], finding["severity"]) == ("unknown_tokenizer", "warning")
    assert "there is no folder" in finding["problem"]
    assert report["splits"]["train"]["tokens"] is None


def test_an_unknown_image_size_is_a_warning(data):
    code, report = data.check("--model.image_encoder.init_args.image_size", "50")
    assert code == 0
    assert found(report)[("unknown_image_size", None, None)] == ("warning", 1, 0)
    assert "50 is not a multiple of 16" in report["findings"][0]["problem"]
    # 224 pixels are taken
    assert found(report)[("small_images", "test", None)] == ("note", 3, 3)


def test_a_split_with_only_unreadable_images_is_read_completely(tmp_path):
    data = DataSet(tmp_path, train=3, val=2)
    for place in range(3):
        data.path("train", place).write_bytes(b"no picture")
    code, report = data.check()
    assert code == 1
    assert found(report) == {("unreadable_images", "train", None): ("error", 3, 3)}
    assert report["splits"]["train"]["shorter_side"] is None


def test_a_report_cannot_be_written_into_a_file(data, tmp_path, capsys):
    """Said before anything is read."""
    (tmp_path / "taken").write_text("")
    arguments = ["--config", TINY, "--data.root", str(tmp_path), "--json", str(tmp_path / "taken" / "report.json")]
    assert main(["check", *arguments]) == 2
    assert "report.json': " in capsys.readouterr().err.splitlines()[-1]
