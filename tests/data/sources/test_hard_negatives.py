"""Benchmarks in the formats that they are published in, with made-up contents."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.helpers.datasets import write_picture
from tests.helpers.layouts import read_split

from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.sources import HardNegatives, JsonLines, Mixture, Split
from ascl_lightning.data.sources.base import Choice, MissingSplitError
from ascl_lightning.data.views import SplitView
from ascl_lightning.errors import UserError

SUGAR_CREPE = {"filename": "a.png", "caption": "A red kite.", "negative_caption": "A blue kite."}
VALSE = {
    **{"image_file": "a.png", "caption": "Two kites.", "foil": "Three kites.", "linguistic_phenomena": "counting"},
    "mturk": {"foil": 0, "caption": 3, "other": 0},
}
ARO_PAIR = {
    **{"image_path": "a.png", "true_caption": "the kite above the hill", "false_caption": "the hill above the kite"},
    **{"bbox_x": 10, "bbox_y": 5, "bbox_w": 20, "bbox_h": 10},
}
ARO_ORDER = {"image": "a.png", "caption_options": ["a kite flies", "flies a kite", "kite a flies"]}
WINOGROUND = {
    **{"id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "collapsed_tag": "Object"},
    **{"caption_0": "a kite in a tree", "caption_1": "a tree in a kite"},
}


def read(root: Path, content: Any, name: str = "made_up.json", **arguments: Any) -> Split:
    """Read a file of one benchmark; its pictures are in `images`."""
    for index, picture in enumerate(("a.png", "b.png", "ex_0_img_0.png", "ex_0_img_1.png")):
        write_picture(root / "images" / picture, index)
    text = "".join(f"{json.dumps(line)}\n" for line in content) if name.endswith(".jsonl") else json.dumps(content)
    (root / name).write_text(text, encoding="utf-8")
    return read_split(HardNegatives([name], **arguments), root, "test")


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        (SUGAR_CREPE, ("A red kite.", "A blue kite.")),
        (VALSE, ("Two kites.", "Three kites.")),
        (ARO_PAIR, ("the kite above the hill", "the hill above the kite")),
        (ARO_ORDER, ("a kite flies", "flies a kite", "kite a flies")),
    ],
)
@pytest.mark.parametrize("form", ["list", "object", "lines"])
def test_each_format_in_each_form(tmp_path: Path, record: dict, texts: tuple[str, ...], form: str) -> None:
    if form == "lines":
        split = read(tmp_path, [record], "made_up.jsonl")
    else:
        split = read(tmp_path, [record] if form == "list" else {"first_1": record})
    assert split.choices.tests == (Choice("made_up", (0,), texts),)
    assert split.choices.left_out == {}
    # only the caption is true of the image
    assert split.captions == [texts[:1]]


def test_two_images_with_two_captions(tmp_path: Path) -> None:
    split = read(tmp_path, [WINOGROUND], "examples.jsonl")
    assert split.choices.tests == (Choice("Object", (0, 1), ("a kite in a tree", "a tree in a kite")),)
    assert split.image_ids == ["ex_0_img_0.png", "ex_0_img_1.png"]
    assert split.captions == [("a kite in a tree",), ("a tree in a kite",)]
    untagged = {name: value for name, value in WINOGROUND.items() if name != "collapsed_tag"}
    assert read(tmp_path, [untagged], "examples.jsonl").choices.tests[0].category == "examples"


def test_an_image_may_have_several_tests(tmp_path: Path) -> None:
    second = SUGAR_CREPE | {"caption": "A kite over hills.", "negative_caption": "Hills over a kite."}
    split = read(tmp_path, {"0": SUGAR_CREPE, "1": SUGAR_CREPE | {"filename": "b.png"}, "2": second, "3": SUGAR_CREPE})
    assert split.image_ids == ["a.png", "b.png"]
    assert [test.images for test in split.choices.tests] == [(0,), (1,), (0,), (0,)]
    assert split.captions == [("A red kite.", "A kite over hills."), ("A red kite.",)]


@pytest.mark.parametrize(("chosen", "kept"), [(3, True), (2, True), (1, False), (0, False)])
def test_valse_keeps_tests_with_two_of_three_votes(tmp_path: Path, chosen: int, kept: bool) -> None:
    votes = VALSE | {"image_file": "b.png", "mturk": {"foil": 3 - chosen, "caption": chosen, "other": 0}}
    split = read(tmp_path, {"sure": VALSE, "asked": votes})
    assert len(split.choices.tests) == 1 + kept
    assert split.choices.left_out == ({} if kept else {"fewer than 2 annotators chose the caption": 1})
    assert split.image_ids == ["a.png", "b.png"][: 1 + kept]


def test_wrong_texts_that_equal_the_caption_are_left_out(tmp_path: Path) -> None:
    """A shuffle of one word, or a change of punctuation, leaves the caption as it was."""
    same = SUGAR_CREPE | {"negative_caption": "a red kite"}
    repeated = ARO_ORDER | {"caption_options": ["a kite flies", "A kite flies!", "flies a kite", "flies a kite"]}
    split = read(tmp_path, [SUGAR_CREPE, same, repeated, WINOGROUND | {"caption_1": "a kite in a tree."}])
    assert [test.texts for test in split.choices.tests] == [
        ("A red kite.", "A blue kite."),
        ("a kite flies", "flies a kite"),
    ]
    assert split.choices.left_out == {"no wrong text differs from the caption after clean-up": 2}


def test_a_category_is_a_file(tmp_path: Path) -> None:
    for name in ("swap_att", "add_obj"):
        write_picture(tmp_path / name / "a.png", 0)
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name}.json").write_text(json.dumps({"0": SUGAR_CREPE}))
    folders = {"swap_att": "swap_att", "add_obj": "add_obj"}
    split = read_split(HardNegatives(["data/*.json"], images=folders), tmp_path, "test")
    assert [test.category for test in split.choices.tests] == ["add_obj", "swap_att"]
    assert split.image_ids == ["add_obj/a.png", "swap_att/a.png"]
    assert [path.parent.name for path in split.images] == ["add_obj", "swap_att"]
    with pytest.raises(UserError, match=r"swap_att\.json: the source's `images` names no folder for 'swap_att'"):
        HardNegatives(["data/*.json"], images={"add_obj": "add_obj"}).read(tmp_path, "test")
    (tmp_path / "swap_att.json").write_text("[]")
    with pytest.raises(UserError, match=r"would be one category; rename one"):
        HardNegatives(["data/*.json", "swap_att.json"], images=folders).read(tmp_path, "test")


def test_the_box_of_an_image_is_cut_out(tmp_path: Path) -> None:
    outside = ARO_PAIR | {"bbox_x": 30, "bbox_w": 99, "bbox_y": -5}
    whole = {name: value for name, value in ARO_PAIR.items() if not name.startswith("bbox")}
    split = read(tmp_path, [ARO_PAIR, outside, whole])
    assert split.image_ids == ["a.png#10,5,20,10", "a.png#30,-5,99,10", "a.png"]
    pixels = np.asarray(Image.open(tmp_path / "images" / "a.png"))
    np.testing.assert_array_equal(split.images[0], pixels[5:15, 10:30])
    np.testing.assert_array_equal(split.images[1], pixels[:5, 30:])
    assert split.images[2] == tmp_path / "images" / "a.png"
    # by its file, a part of a training picture is recognised
    assert split.images.ends(0) == split.images.ends(2)


def test_a_box_outside_of_the_image_is_a_fault_of_the_picture(tmp_path: Path) -> None:
    far = ARO_PAIR | {"bbox_x": 40}
    with pytest.raises(UserError, match=r"a\.png: the box \(40, 5, 20, 10\) lies outside of the picture of 40 x 30"):
        SplitView(read(tmp_path, [far]), PixelSpec(8, (0.0,) * 3, (1.0,) * 3)).picture(0)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (SUGAR_CREPE | {"negative_caption": ...}, r"\[0\]: field 'negative_caption' is missing"),
        (SUGAR_CREPE | {"caption": " "}, r"\[0\]: field 'caption' is blank"),
        (SUGAR_CREPE | {"filename": ...}, r"\[0\]: has no image: one of the fields filename, image_file, image_path"),
        (SUGAR_CREPE | {"filename": 7}, r"\[0\]: field 'filename' must be text, not a number"),
        (VALSE | {"foil": None}, r"\[0\]: field 'foil' must be text, not null"),
        (VALSE | {"mturk": ...}, r"\[0\]: field 'mturk' is missing"),
        (VALSE | {"mturk": {}}, r"\[0\], mturk: field 'caption' must be the number of annotators"),
        (ARO_PAIR | {"bbox_w": 0}, r"\[0\]: field 'bbox_w' must be a whole number of pixels"),
        (ARO_PAIR | {"bbox_h": ...}, r"\[0\]: field 'bbox_h' must be a whole number of pixels"),
        (ARO_ORDER | {"caption_options": ["a kite"]}, r"\[0\]: field 'caption_options' must have the caption first"),
        (ARO_ORDER | {"caption_options": "a kite"}, r"\[0\]: field 'caption_options' must be a list, not text"),
        (WINOGROUND | {"image_1": ...}, r"\[0\]: field 'image_1' is missing"),
        ("a kite", r"\[0\]: expected an object with fields, found text"),
    ],
)
def test_faults_name_file_record_and_field(tmp_path: Path, record: Any, message: str) -> None:
    if isinstance(record, dict):
        record = {name: value for name, value in record.items() if value is not ...}
    with pytest.raises(UserError, match=rf"made_up\.json, {message}") as caught:
        read(tmp_path, [record])
    assert "\n" not in str(caught.value)


def test_files_without_tests_are_refused(tmp_path: Path) -> None:
    unsure = VALSE | {"mturk": {"foil": 3, "caption": 0, "other": 0}}
    with pytest.raises(UserError, match=r"no test is left of the files \(1: fewer than 2 annotators"):
        read(tmp_path, [unsure])
    with pytest.raises(UserError, match=r"no test is left of the files \(they are empty\)"):
        read(tmp_path, {})
    with pytest.raises(UserError, match=r"there is no file .*none\.json; check --data\.root"):
        HardNegatives(["none.json"]).read(tmp_path, "test")
    with pytest.raises(UserError, match=r"set the source's `files`"):
        HardNegatives([]).read(tmp_path, "test")
    with pytest.raises(UserError, match=r"there is no image folder .*elsewhere"):
        read(tmp_path, [SUGAR_CREPE], images="elsewhere")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_benchmark_is_not_trained_on(tmp_path: Path, split: str) -> None:
    with pytest.raises(MissingSplitError, match=rf"no split '{split}'; .* use it with `ascl test`, and another source"):
        HardNegatives(["made_up.json"]).read(tmp_path, split)


def test_a_benchmark_is_not_mixed_with_captions(tmp_path: Path) -> None:
    read(tmp_path, [SUGAR_CREPE])
    (tmp_path / "test.jsonl").write_text(json.dumps({"image": "images/b.png", "captions": ["a boat"]}))
    sources = {"plain": JsonLines({"test": "test.jsonl"}), "hard": HardNegatives(["made_up.json"])}
    with pytest.raises(UserError, match=r"mixture: 'hard' is a benchmark of hard negatives; test it by itself"):
        Mixture(sources).read(tmp_path, "test")


@pytest.mark.parametrize(("images", "texts"), [((), ("a", "b")), ((0,), ("a",)), ((0, 1), ("a",))])
def test_a_test_without_a_choice_is_an_error(images: tuple[int, ...], texts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="nothing to choose from"):
        Choice("made_up", images, texts)
