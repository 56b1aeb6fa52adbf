"""`ascl check` on streams, on features in the place of pictures, and on real data."""

import json
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.helpers.checking import TINY, Row, checked, examples, found, write_table
from tests.helpers.layouts import write_shards

from ascl_lightning.__main__ import main
from ascl_lightning.data.stored_features import TextRows

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"


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


@pytest.mark.slow
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
    sizes = (f"--data.source.init_args.num_{split}=300" for split in ("train", "val", "test"))
    code, report = checked(tmp_path, *sizes, config=str(ROOT / "configs" / "scenes.yaml"))
    assert code == 0
    assert not [of for of in report["findings"] if "images" in of["kind"]]
