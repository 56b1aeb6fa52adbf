import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.datasets import make_captions, write_karpathy

from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.data.sources import KarpathyJson
from ascl_lightning.errors import UserError

FLICKR8K = Path(__file__).parents[4] / "shared" / "flickr8k"
COCO_FOLDERS = {"train": "train2014", "restval": "val2014", "val": "val2014", "test": "val2014"}


def write(root: Path, **changes: Any) -> KarpathyJson:
    """One valid image, changed."""
    (root / "images").mkdir()
    image = {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "a dog"}]} | changes
    images = [{key: value for key, value in image.items() if value is not ...}]
    (root / "d.json").write_text(json.dumps({"images": images}))
    return KarpathyJson("d.json")


def test_splits_have_their_images_and_captions(tmp_path: Path) -> None:
    write_karpathy(tmp_path, {"train": 3, "val": 2}, captions=2)
    source = KarpathyJson("dataset_flickr8k.json")
    train, val = source.read(tmp_path, "train"), source.read(tmp_path, "val")
    assert train.image_ids == ["train_0000.jpg", "train_0001.jpg", "train_0002.jpg"]
    assert val.image_ids == ["val_0003.jpg", "val_0004.jpg"]
    assert val.captions[1] == tuple(make_captions(4, 2))
    assert val.images[1] == tmp_path / "images" / "val_0004.jpg"
    assert all(Path(path).is_file() for path in train.images)


def test_any_number_of_captions(tmp_path: Path) -> None:
    write_karpathy(tmp_path, {"test": 5}, captions=[0, 1, 3, 7])
    split = KarpathyJson("dataset_flickr8k.json").read(tmp_path, "test")
    assert [len(captions) for captions in split.captions] == [0, 1, 3, 7, 0]


def test_captions_have_the_numbers_of_their_sentences(tmp_path: Path) -> None:
    sentences = [{"raw": "a dog", "sentid": 770337}, {"raw": "a cat", "sentid": 38}]
    source = write(tmp_path, sentences=sentences)
    assert source.read(tmp_path, "train").caption_ids.tolist() == [770337, 38]


@pytest.mark.parametrize("number", [{}, {"sentid": "770337"}, {"sentid": None}, {"sentid": 1 << 70}])
def test_numbers_of_captions_may_be_missing(tmp_path: Path, number: dict[str, Any]) -> None:
    source = write(tmp_path, sentences=[{"raw": "a dog", "sentid": 1}, {"raw": "a cat"} | number])
    assert source.read(tmp_path, "train").caption_ids is None


def test_captions_keep_emoji_and_right_to_left(tmp_path: Path) -> None:
    texts = ["כלב רץ בשלג 🐕‍🦺", "كلب أسود\u200f", "  spaced \n"]
    source = write(tmp_path, sentences=[{"raw": text} for text in texts])
    assert source.read(tmp_path, "train").captions == [tuple(texts)]


def test_restval_joins_train_unless_told_otherwise(tmp_path: Path) -> None:
    splits = {"train": 2, "restval": 3, "val": 1, "test": 1}
    write_karpathy(tmp_path, splits, filename="dataset_coco.json", subfolders=COCO_FOLDERS)
    joined = KarpathyJson("dataset_coco.json")
    apart = KarpathyJson("dataset_coco.json", restval_in_train=False)
    assert [path.parent.name for path in joined.read(tmp_path, "train").images] == ["train2014"] * 2 + ["val2014"] * 3
    assert len(apart.read(tmp_path, "train")) == 2
    assert len(apart.read(tmp_path, "restval")) == 3
    with pytest.raises(UserError, match=r"no split 'restval'.*train \(5\), val \(1\), test \(1\)"):
        joined.read(tmp_path, "restval")
    assert all(Path(path).is_file() for path in joined.read(tmp_path, "train").images)


def test_region_features_need_no_pictures(tmp_path: Path) -> None:
    write_karpathy(tmp_path, {"train": 2}, folder="regions", regions=RegionSpec(4, 6))
    split = KarpathyJson("dataset_flickr8k.json", images=None).read(tmp_path, "train")
    assert split.images is None
    assert split.image_ids == ["train_0000.jpg", "train_0001.jpg"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filename": ...}, r"images\[0\]: field 'filename' is missing"),
        ({"filename": 3}, r"images\[0\]: field 'filename' must be text"),
        ({"filename": "../../secret.jpg"}, r"images\[0\]: field 'filename' must name a path inside"),
        ({"filepath": "/etc"}, r"images\[0\]: field 'filepath' must name a path inside"),
        ({"filepath": "val2014"}, "there is no image folder .*val2014"),
        ({"split": ...}, r"images\[0\]: field 'split' is missing"),
        ({"sentences": ...}, r"images\[0\]: field 'sentences' is missing"),
        ({"sentences": {}}, r"images\[0\]: field 'sentences' must be a list, not an object"),
        ({"sentences": ["a dog"]}, r"images\[0\], sentences\[0\]: expected an object with fields, found text"),
        ({"sentences": [{"raw": "x"}, {"raw": " \n"}]}, r"images\[0\], sentences\[1\]: field 'raw' is blank"),
        ({"sentences": [{"tokens": ["x"]}]}, r"images\[0\], sentences\[0\]: field 'raw' is missing"),
    ],
)
def test_errors_name_file_row_and_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = write(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as error:
        source.read(tmp_path, "train")
    assert "d.json" in str(error.value) or "image folder" in str(error.value)


def test_only_the_split_that_is_read_must_be_right(tmp_path: Path) -> None:
    file = write_karpathy(tmp_path, {"train": 1, "test": 1})
    content = json.loads(file.read_text())
    content["images"][0]["sentences"] = "broken"
    file.write_text(json.dumps(content))
    assert len(KarpathyJson(file.name).read(tmp_path, "test")) == 1


def test_repeated_images_are_an_error(tmp_path: Path) -> None:
    file = write_karpathy(tmp_path, {"train": 2})
    content = json.loads(file.read_text())
    file.write_text(json.dumps({"images": content["images"] * 2}))
    with pytest.raises(UserError, match=r"images\[2\]: field 'filename' repeats the image 'train_0000.jpg' of .*\[0\]"):
        KarpathyJson(file.name).read(tmp_path, "train")


def test_missing_folders_are_errors_at_once(tmp_path: Path) -> None:
    write_karpathy(tmp_path, {"train": 1})
    source = KarpathyJson("dataset_flickr8k.json", images="pictures")
    with pytest.raises(UserError, match=r"there is no image folder .*pictures"):
        source.read(tmp_path, "train")
    with pytest.raises(UserError, match=r"set --data\.root to the folder that holds dataset_flickr8k\.json"):
        source.read(None, "train")
    with pytest.raises(UserError, match=r"there is no file .*d\.json"):
        KarpathyJson("d.json").read(tmp_path, "train")


@pytest.mark.skipif(not FLICKR8K.is_dir(), reason="needs shared/flickr8k")
def test_flickr8k() -> None:
    source = KarpathyJson("dataset_flickr8k.json")
    train, val = source.read(FLICKR8K, "train"), source.read(FLICKR8K, "val")
    assert (len(train), len(val)) == (6000, 1000)
    assert {len(captions) for captions in (*train.captions, *val.captions)} == {5}
    assert train.image_ids[0] == "2513260012_03d33305cf.jpg"
    assert train.captions[0][1] == "Black dog chasing brown dog through snow"
    assert all(Path(path).is_file() for path in val.images)
    with pytest.raises(UserError, match=r"no split 'test'; it has .*train \(6,000\), val \(1,000\)"):
        source.read(FLICKR8K, "test")
