import json
import random
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.datasets import make_captions, write_coco

from ascl_lightning.data.sources import CocoCaptions
from ascl_lightning.errors import UserError

COCO_MINI = Path(__file__).parents[4] / "shared" / "coco_mini"
TRAIN = {"train": "annotations/captions_train2017.json"}, {"train": "train2017"}
SPLITS = ("train", "val", "test")


def write(root: Path, image: dict[str, Any], annotation: dict[str, Any]) -> CocoCaptions:
    """One valid image and annotation, changed."""
    (root / "train2017").mkdir()
    (root / "annotations").mkdir()
    images = [{"id": 1, "file_name": "1.jpg"} | image]
    annotations = [{"image_id": 1, "caption": "a dog"} | annotation]
    content = [{k: v for k, v in row.items() if v is not ...} for row in (*images, *annotations)]
    (root / TRAIN[0]["train"]).write_text(json.dumps({"images": content[:1], "annotations": content[1:]}))
    return CocoCaptions(*TRAIN)


def ids_of(source: CocoCaptions, root: Path) -> dict[str, set[str]]:
    return {split: set(source.read(root, split).image_ids) for split in SPLITS}


def test_each_split_has_its_file_and_folder(tmp_path: Path) -> None:
    write_coco(tmp_path, {"train": 4, "val": 2}, captions=[3, 0, 1, 7])
    annotations = {split: f"annotations/captions_{split}2017.json" for split in ("train", "val")}
    source = CocoCaptions(annotations, {"train": "train2017", "val": "val2017"})
    train, val = source.read(tmp_path, "train"), source.read(tmp_path, "val")
    assert train.image_ids == ["1000", "1001", "1002", "1003"]
    assert [len(captions) for captions in train.captions] == [3, 0, 1, 7]
    assert set(train.captions[3]) == set(make_captions(1003, 7))
    assert list(val.images) == [tmp_path / "val2017" / f"00000000100{i}.jpg" for i in (4, 5)]
    assert all(Path(path).is_file() for path in (*train.images, *val.images))
    with pytest.raises(UserError, match=r"no split 'test'; it has .*train \(4\), val \(2\)"):
        source.read(tmp_path, "test")


def test_captions_have_the_numbers_of_their_annotations(tmp_path: Path) -> None:
    annotations = json.loads(write_coco(tmp_path, {"train": 4}, captions=[3, 0, 1])["train"].read_text())["annotations"]
    split = CocoCaptions(*TRAIN).read(tmp_path, "train")
    pairs = zip(split.caption_ids.tolist(), (text for texts in split.captions for text in texts), strict=True)
    assert dict(pairs) == {annotation["id"]: annotation["caption"] for annotation in annotations}
    assert split.select([2, 0]).caption_ids.tolist() == [split.caption_ids[3], *split.caption_ids[:3]]


@pytest.mark.parametrize(
    ("size", "val_share", "test_share", "expected"),
    [(20, 0.1, 0.25, (13, 2, 5)), (20, 0.001, 0.0, (19, 1, 0)), (3, 0.01, 0.01, (1, 1, 1)), (10, 0.0, 0.3, (7, 0, 3))],
)
def test_shares_set_images_aside(
    tmp_path: Path, size: int, val_share: float, test_share: float, expected: tuple[int, ...]
) -> None:
    write_coco(tmp_path, {"train": size}, captions=1)
    source = CocoCaptions(*TRAIN, val_share, test_share)
    parts = [source.read(tmp_path, split) for split, number in zip(SPLITS, expected, strict=True) if number]
    assert [len(part) for part in parts] == [number for number in expected if number]
    together = [image_id for part in parts for image_id in part.image_ids]
    assert sorted(together) == [str(1000 + i) for i in range(size)]
    # the caption and the picture stay with their image
    for part in parts:
        for image_id, captions, path in zip(part.image_ids, part.captions, part.images, strict=True):
            assert captions == tuple(make_captions(int(image_id), 1))
            assert int(Path(path).stem) == int(image_id)


def test_the_draw_depends_on_ids_and_seed_alone(tmp_path: Path) -> None:
    file = write_coco(tmp_path, {"train": 30}, captions=1)["train"]
    first = ids_of(CocoCaptions(*TRAIN, 0.2, 0.2, seed=1), tmp_path)
    assert first == ids_of(CocoCaptions(*TRAIN, 0.2, 0.2, seed=1), tmp_path)
    assert first != ids_of(CocoCaptions(*TRAIN, 0.2, 0.2, seed=2), tmp_path)
    assert first["test"] == ids_of(CocoCaptions(*TRAIN, 0.1, 0.2, seed=1), tmp_path)["test"]
    content = json.loads(file.read_text())
    random.Random(0).shuffle(content["images"])
    file.write_text(json.dumps(content))
    assert first == ids_of(CocoCaptions(*TRAIN, 0.2, 0.2, seed=1), tmp_path)


def test_a_missing_split_is_listed_with_the_drawn_ones(tmp_path: Path) -> None:
    write_coco(tmp_path, {"train": 10})
    with pytest.raises(UserError, match=r"no split 'dev'; it has .*train \(8\), val \(2\)"):
        CocoCaptions(*TRAIN, val_share=0.2).read(tmp_path, "dev")


def test_too_few_images_for_the_shares(tmp_path: Path) -> None:
    write_coco(tmp_path, {"train": 1})
    source = CocoCaptions(*TRAIN, val_share=0.2)
    assert len(source.read(tmp_path, "val")) == 1
    with pytest.raises(UserError, match=r"captions_train2017\.json: 1 images are too few"):
        source.read(tmp_path, "train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"train": "a"}, {}), "images: give the folder of split 'train'"),
        (({"train": "a", "val": "b"}, {"train": "a", "val": "b"}, 0.1), "'val' has its own file"),
        (({"val": "b"}, {"val": "b"}, 0.0, 0.1), "take their images from split 'train'"),
        (({"train": "a"}, {"train": "a"}, 0.5, 0.5), "sum to less than 1"),
        (({"train": "a"}, {"train": "a"}, -0.1), "must be >= 0"),
    ],
)
def test_contradictory_arguments(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CocoCaptions(*arguments)


@pytest.mark.parametrize(
    ("image", "annotation", "message"),
    [
        ({"id": ...}, {}, r"images\[0\]: field 'id' is missing"),
        ({"id": None}, {}, r"images\[0\]: field 'id' must be text, not null"),
        ({"file_name": ...}, {}, r"images\[0\]: field 'file_name' is missing"),
        ({"file_name": "../x.jpg"}, {}, r"images\[0\]: field 'file_name' must name a path inside"),
        ({"file_name": "/etc/x.jpg"}, {}, r"images\[0\]: field 'file_name' must name a path inside"),
        ({}, {"image_id": 2}, r"annotations\[0\]: field 'image_id' names the image 2, which is not among"),
        ({}, {"image_id": ...}, r"annotations\[0\]: field 'image_id' is missing"),
        ({}, {"caption": ...}, r"annotations\[0\]: field 'caption' is missing"),
        ({}, {"caption": "  "}, r"annotations\[0\]: field 'caption' is blank"),
    ],
)
def test_errors_name_file_row_and_field(
    tmp_path: Path, image: dict[str, Any], annotation: dict[str, Any], message: str
) -> None:
    source = write(tmp_path, image, annotation)
    with pytest.raises(UserError, match=r"captions_train2017\.json, " + message):
        source.read(tmp_path, "train")


def test_repeated_ids_and_empty_files_are_errors(tmp_path: Path) -> None:
    file = write_coco(tmp_path, {"train": 2})["train"]
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"images": content["images"] * 2}))
    with pytest.raises(UserError, match=r"images\[2\]: field 'id' repeats the image '1000' of .*images\[0\]"):
        CocoCaptions(*TRAIN).read(tmp_path, "train")
    file.write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(UserError, match="field 'images' is empty"):
        CocoCaptions(*TRAIN).read(tmp_path, "train")


def test_missing_folders_are_errors_at_once(tmp_path: Path) -> None:
    write_coco(tmp_path, {"train": 1})
    with pytest.raises(UserError, match=r"there is no image folder .*pictures"):
        CocoCaptions(TRAIN[0], {"train": "pictures"}).read(tmp_path, "train")
    with pytest.raises(UserError, match=r"set --data\.root to the folder that holds annotations/captions_train2017"):
        CocoCaptions(*TRAIN).read(None, "train")


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="needs shared/coco_mini")
def test_coco_mini_as_train_val_and_test() -> None:
    source = CocoCaptions(*TRAIN, val_share=0.1, test_share=0.1)
    parts = {split: source.read(COCO_MINI, split) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 64, "val": 8, "test": 8}
    assert len({image_id for part in parts.values() for image_id in part.image_ids}) == 80
    assert all(Path(path).is_file() for part in parts.values() for path in part.images)
    whole = CocoCaptions(*TRAIN).read(COCO_MINI, "train")
    airport = whole.captions[whole.image_ids.index("125870")]
    assert len(airport) == 5
    assert "An airport filled with large passenger jets parked next to each other." in airport
