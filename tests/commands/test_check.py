"""`ascl check` end to end: planted faults are found with their numbers, and clean data passes."""

import io
import json
import re
import shutil
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.preflight.test_pictures import write_table
from tests.data.preflight.test_resemblance import texture
from tests.datasets import write_karpathy, write_picture
from tests.hub_models import write_bert
from tests.layouts import write_shards

from ascl_lightning.__main__ import main
from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.data.features import TextRows

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
TINY = str(ROOT / "tests" / "configs" / "tiny.yaml")

Found = dict[tuple[str, str | None, str | None], tuple[str, int, int]]
Row = dict[str, Any]


class DataSet:
    """Rows and pictures that are written when all is planted; every picture and caption is another one."""

    def __init__(self, root: Path, **sizes: int) -> None:
        self.root = root
        self.rows: dict[str, list[Row]] = {}
        for number, (split, size) in enumerate(sizes.items()):
            self.rows[split] = [self._row(split, 100 * number + i) for i in range(size)]

    def _row(self, split: str, index: int) -> Row:
        name = f"{split}/{index}.png"
        (self.root / split).mkdir(parents=True, exist_ok=True)
        texture(index, (80, 60)).save(self.root / name)
        captions = [f"picture number {index} shows", f"{index} things seen here"]
        return {"image": name, "image_id": f"{split}-{index}", "captions": captions}

    def path(self, split: str, place: int) -> Path:
        return self.root / self.rows[split][place]["image"]

    def check(self, *arguments: str) -> tuple[int, Row]:
        for split, rows in self.rows.items():
            lines = (json.dumps(row) + "\n" for row in rows)
            (self.root / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        files = {split: f"{split}.jsonl" for split in self.rows}
        source = json.dumps({"class_path": "JsonLines", "init_args": {"files": files}})
        return checked(self.root, "--data.source", source, *arguments)


def checked(root: Path, *arguments: str, config: str = TINY) -> tuple[int, Row]:
    file = root / "reports" / "report.json"
    code = main(["check", "--config", config, "--data.root", str(root), "--json", str(file), *arguments])
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["exit_code"] == code
    return code, report


def found(report: Row) -> Found:
    return {
        (of["kind"], of["split"], of["other"]): (of["severity"], of["count"], of["total"]) for of in report["findings"]
    }


def examples(report: Row, kind: str) -> list[str]:
    return [example for of in report["findings"] if of["kind"] == kind for example in of["examples"]]


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
def test_training_puts_up_with_a_share_of_bad_pictures(data, share, code):
    """Two of eight; as training counts them, one that is too large is bad too."""
    data.path("train", 1).write_bytes(b"no picture")
    Image.new("1", (9000, 8000)).save(data.path("train", 3))
    assert data.check("--data.max_bad_share", share)[0] == code


def test_pictures_that_come_again_are_found(data):
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


def test_ids_of_other_pictures_are_noted(data):
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
    assert lines[-2] == "Verdict: mend the errors before you train or believe a figure (2 errors, 0 warnings, 0 notes)"
    start = lines.index("error    train: 5 of 8 images (62.50%) cannot be read")
    assert lines[start + 1].strip().startswith("→ mend them")
    assert lines[start + 2].strip().startswith(str(data.path("train", 0)))
    assert lines[start + 5].strip() == "and 2 more"
    assert "error    test: 1 of 3 images (33.33%) are in split 'val' too" in lines
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


def test_chosen_splits_alone_are_read(data):
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
        (["--data.source.init_args.images", "null"], "captions alone"),
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


def test_the_tokenizer_of_the_config_counts(data, tmp_path):
    """[CLS] and [SEP] stand around; words outside of the tiny vocabulary fall into letters."""
    write_bert(tmp_path / "bert")
    data.rows = {"train": [data.rows["train"][0] | {"captions": ["a red dog", "the cat on the left"]}]}
    encoder = {"class_path": "TransformersTextEncoder", "init_args": {"path": str(tmp_path / "bert"), "max_length": 6}}
    code, report = data.check("--model.text_encoder", json.dumps(encoder))
    assert code == 0
    assert report["splits"]["train"]["tokens"] == 5 + 7
    assert found(report) == {("cut_captions", "train", None): ("warning", 1, 2)}
    assert "more than 6 tokens; 1 tokens are cut, 8.33% of all" in report["findings"][0]["problem"]


def test_a_tokenizer_that_cannot_be_had_is_a_warning(data, tmp_path):
    encoder = {"class_path": "TransformersTextEncoder", "init_args": {"path": str(tmp_path / "no" / "bert")}}
    code, report = data.check("--model.text_encoder", json.dumps(encoder))
    assert code == 0
    (finding,) = report["findings"]
    assert (finding["kind"], finding["severity"]) == ("unknown_tokenizer", "warning")
    assert "there is no folder" in finding["problem"]
    assert report["splits"]["train"]["tokens"] is None


def test_an_image_size_that_cannot_be_had_is_a_warning(data):
    code, report = data.check("--model.image_encoder.init_args.image_size", "50")
    assert code == 0
    assert found(report)[("unknown_image_size", None, None)] == ("warning", 1, 0)
    assert "50 is not a multiple of 16" in report["findings"][0]["problem"]
    # 224 pixels are taken
    assert found(report)[("small_images", "test", None)] == ("note", 3, 3)


def test_streamed_training_data_is_read_through_its_shards(tmp_path):
    content = {
        "train": [(f"{i}.png", (f"caption {i} here",)) for i in range(6)],
        "val": [(f"v{i}.png", (f"validation {i}", "caption 4 here")) for i in range(2)],
    }
    patterns = write_shards(tmp_path, content).patterns
    data = (tmp_path / "train-000000.tar").read_bytes()
    (tmp_path / "train-000000.tar").write_bytes(data[: data.rindex(b"\x89PNG") + 20])
    init = {"shards": patterns, "captions": "json", "streaming": True}
    source = json.dumps({"class_path": "WebDataset", "init_args": init})
    code, report = checked(tmp_path, "--data.source", source)
    assert code == 1
    sizes = {
        ("tiny_images", "train", None): ("warning", 5, 5),
        ("tiny_images", "val", None): ("warning", 2, 2),
    }
    assert found(report) == sizes | {
        ("unreadable_shards", "train", None): ("error", 1, 3),
        ("shared_captions", "val", None): ("note", 1, 4),
        ("leaked_captions", "val", "train"): ("note", 2, 4),
    }
    assert report["splits"]["train"]["captions_per_image"] == {"1": 5}
    # the captions of a stream are not kept; those of the other split are
    assert examples(report, "leaked_captions")[0] == f"v0 = {tmp_path}/train-000002.tar, image 0: 'caption 4 here'"


def test_region_features_are_checked_in_place_of_pictures(tmp_path):
    write_karpathy(tmp_path, {"train": 5, "val": 3}, regions=RegionSpec(3, 4))
    folder = tmp_path / "images"
    (folder / "train_0001.npy").unlink()
    np.save(folder / "train_0002.npy", np.full((3, 4), np.nan, np.float32))
    shutil.copy(folder / "train_0003.npy", folder / "val_0005.npy")
    encoder = {"class_path": "RegionEncoder", "init_args": {"num_regions": 3, "dim": 4}}
    regions = {"class_path": "RegionFolder", "init_args": {"path": "images"}}
    arguments = ["--model.image_encoder", json.dumps(encoder), "--data.regions", json.dumps(regions)]
    code, report = checked(tmp_path, *arguments)
    assert code == 1
    errors = {key: value for key, value in found(report).items() if value[0] == "error"}
    assert errors == {
        ("unreadable_images", "train", None): ("error", 2, 5),
        ("leaked_images", "val", "train"): ("error", 1, 3),
    }
    assert report["splits"]["train"]["shorter_side"] is None


def test_extracted_features_are_checked_in_place_of_pictures(tmp_path):
    """Of `write_table`'s rows, images or texts, 1 is empty, 2 and 3 are not finite, and 5 is 0 again."""
    folder = tmp_path / "train"
    for kind in ("images", "texts"):
        write_table(folder / kind, [2, 0, 2, 3, 1, 2, 2])
    none = np.zeros((7, 0), np.int64)
    TextRows(np.arange(7), none, none, none).save(folder / "texts" / "rows")
    lines = (json.dumps({"image": str(i), "captions": [f"caption {i}"]}) + "\n" for i in range(7))
    (folder / "captions.jsonl").write_text("".join(lines))
    code, report = checked(tmp_path, "--data.source", json.dumps({"class_path": "ExtractedFeatures"}))
    assert code == 1
    assert found(report) == {
        ("unreadable_images", "train", None): ("error", 1, 7),
        ("broken_features", "train", None): ("error", 2 + 3, 7 + 7),
        ("repeated_images", "train", None): ("warning", 1, 7),
        ("uncaptioned_images", "train", None): ("note", 1, 7),
    }


def test_a_split_of_bad_pictures_alone_is_read_to_its_end(tmp_path):
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
    assert "--json" in capsys.readouterr().err.splitlines()[-1]


def naive_clean(text: str) -> str:
    """The clean-up for plain English."""
    text = text.lower().replace("-", " ").replace("/", " ")
    return " ".join("".join(c for c in text if c not in string.punctuation).split())


def naive_repeats(splits: dict[str, Sequence[Row]]) -> dict[str, int]:
    """What comes again among captions, with sets."""
    texts = {
        name: [[naive_clean(sentence["raw"]) for sentence in image["sentences"]] for image in images]
        for name, images in splits.items()
    }
    numbers = {f"repeated {name}": sum(len(of) - len(set(of)) for of in images) for name, images in texts.items()}
    for name, images in texts.items():
        seen: set[str] = set()
        numbers[f"shared {name}"] = 0
        for of in images:
            numbers[f"shared {name}"] += len(set(of) & seen)
            seen |= set(of)
    train = {text for of in texts["train"] for text in of}
    numbers["leaked"] = sum(len(set(of) & train) for of in texts["val"])
    return numbers


@pytest.mark.skipif(not (SHARED / "flickr8k").is_dir(), reason="needs shared/flickr8k")
def test_flickr8k(tmp_path):
    file = tmp_path / "report.json"
    root = SHARED / "flickr8k"
    assert main(["check", "--config", TINY, "--data.root", str(root), "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    sizes = {name: (of["images"], of["captions"], of["captions_per_image"]) for name, of in report["splits"].items()}
    assert sizes == {"train": (6000, 30000, {"5": 6000}), "val": (1000, 5000, {"5": 1000})}
    assert report["missing"] == ["test"]
    images = json.loads((root / "dataset_flickr8k.json").read_text())["images"]
    expected = naive_repeats({name: [of for of in images if of["split"] == name] for name in ("train", "val")})
    counted = found(report)
    for split in ("train", "val"):
        for kind in ("repeated", "shared"):
            assert counted[(f"{kind}_captions", split, None)][1] == expected[f"{kind} {split}"]
    assert counted[("leaked_captions", "val", "train")][1] == expected["leaked"]
    # two pictures of the training split are one
    pictures = [path for path in images if path["split"] == "train"]
    assert counted[("repeated_images", "train", None)] == ("warning", 1, len(pictures))
    one, other = (root / "images" / name for name in examples(report, "repeated_images")[0].split(" = "))
    assert (np.asarray(Image.open(one)) == np.asarray(Image.open(other))).all()
    assert not {kind for kind, _, _ in counted} & {"leaked_images", "leaked_lookalikes", "unreadable_images"}


@pytest.mark.skipif(not (SHARED / "coco_mini").is_dir(), reason="needs shared/coco_mini")
def test_coco_mini(tmp_path):
    init = {
        "annotations": {"train": "annotations/captions_train2017.json"},
        "images": {"train": "train2017"},
        "val_share": 0.15,
        "test_share": 0.15,
    }
    source = json.dumps({"class_path": "CocoCaptions", "init_args": init})
    file = tmp_path / "report.json"
    longest = ["--model.text_encoder.init_args.max_length", "45"]
    arguments = ["--data.root", str(SHARED / "coco_mini"), "--data.source", source, "--json", str(file), *longest]
    assert main(["check", "--config", TINY, *arguments]) == 0
    report = json.loads(file.read_text())
    assert {name: of["images"] for name, of in report["splits"].items()} == {"train": 56, "val": 12, "test": 12}
    assert sum(of["captions"] for of in report["splits"].values()) == 400
    assert report["verdict"] == "ok"


def test_scenes_pass(tmp_path):
    """Scenes of a few shapes on plain ground look much alike to a hash; none of them is a copy."""
    write_picture(tmp_path / "unused.png", 0)
    sizes = (f"--data.source.init_args.num_{split}=300" for split in ("train", "val", "test"))
    code, report = checked(tmp_path, *sizes, config=str(ROOT / "configs" / "scenes.yaml"))
    assert code == 0
    assert not [of for of in report["findings"] if "images" in of["kind"]]
