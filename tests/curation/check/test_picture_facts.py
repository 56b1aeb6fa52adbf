import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.helpers.checking import write_table
from tests.helpers.datasets import write_picture
from tests.helpers.layouts import write_json_lines

from ascl_lightning.curation.check import picture_facts as preflight
from ascl_lightning.curation.check.picture_facts import (
    PictureFacts,
    Pictures,
    facts_of_table,
    facts_of_view,
    picture_facts,
)
from ascl_lightning.data.batch import PixelSpec, RegionSpec
from ascl_lightning.data.images import ImageBytes, open_image
from ascl_lightning.data.sources import Split
from ascl_lightning.data.stored_features import SplitFeatures
from ascl_lightning.data.views import SplitView
from ascl_lightning.errors import UserError

SPEC = PixelSpec(16, (0.5,) * 3, (0.5,) * 3)
COCO_MINI = Path(__file__).parents[4] / "shared" / "coco_mini" / "train2017"


def jpeg(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def test_the_facts_of_a_picture(tmp_path):
    write_picture(tmp_path / "a.jpg", 0, (200, 100))
    facts = picture_facts(tmp_path / "a.jpg", SPEC)
    assert (facts.fault, facts.size, facts.look.is_flat) == (None, (200, 100), False)
    data = (tmp_path / "a.jpg").read_bytes()
    assert picture_facts(ImageBytes(data, "x"), SPEC).content == facts.content
    pixels = np.asarray(open_image(tmp_path / "a.jpg"))
    as_array = picture_facts(pixels, SPEC)
    assert as_array.size == (200, 100)
    assert (as_array.look.hash ^ facts.look.hash).bit_count() <= 3


def test_the_size_is_before_and_the_look_after_rotation(tmp_path):
    write_picture(tmp_path / "a.png", 0, (60, 40))
    image = Image.open(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the sensor lay on its side: seen after a quarter turn
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)
    seen, turned = picture_facts(tmp_path / "a.png", SPEC), picture_facts(tmp_path / "b.png", SPEC)
    assert turned.size == (40, 60)
    assert turned.content == seen.content


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", "unreadable", "not a picture of a known kind"),
        (b"<html></html>", "unreadable", "not a picture of a known kind"),
        (b"P6 9000 9000 255 ", "unreadable", "not a picture of a known kind"),
    ],
)
def test_faults_name_the_picture(tmp_path, data, kind, message):
    (tmp_path / "a.jpg").write_bytes(data)
    facts = picture_facts(tmp_path / "a.jpg", SPEC)
    assert facts.fault_kind == kind
    assert facts.fault.startswith(str(tmp_path / "a.jpg"))
    assert message in facts.fault


def test_too_many_pixels_are_a_separate_fault(tmp_path):
    Image.new("1", (8001, 8000)).save(tmp_path / "a.png")
    facts = picture_facts(tmp_path / "a.png", SPEC)
    assert facts.fault_kind == "huge"
    assert "more than 64,000,000 pixels" in facts.fault


def is_cut(data: bytes, min_side: int | None) -> bool:
    try:
        open_image(ImageBytes(data, "x"), min_side)
    except UserError:
        return True
    return False


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30, "optimize": True}])
def test_decoding_at_reduced_size_finds_every_cut_that_full_size_finds(options):
    blocks = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    data = jpeg(Image.fromarray(blocks).resize((640, 480), Image.Resampling.BICUBIC), **options)
    for end in [*range(0, len(data), len(data) // 40), *range(len(data) - 5, len(data) + 1)]:
        assert is_cut(data[:end], 64) == is_cut(data[:end], None) == (end < len(data))


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="needs shared/coco_mini")
def test_real_photos_that_are_cut_are_found_at_any_size():
    for path in sorted(COCO_MINI.glob("*.jpg"))[:20]:
        data = path.read_bytes()
        for end in (len(data) - 1, len(data) * 9 // 10, len(data) // 2):
            assert picture_facts(ImageBytes(data[:end], path.name), PixelSpec(32, (0.5,) * 3, (0.5,) * 3)).fault


def view(root: Path, spec, **changes) -> SplitView:
    content = {"train": [(f"{i}.png", ("a dog",)) for i in range(4)]}
    split = write_json_lines(root, content).read(root, "train")
    return SplitView(split, spec, **changes)


def test_the_pictures_of_a_split_in_order(tmp_path):
    read = view(tmp_path, SPEC)
    shutil.copy(tmp_path / "0.png", tmp_path / "3.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    (tmp_path / "2.png").unlink()
    first, second, third, fourth = facts_of_view(read)
    assert first.content == fourth.content != 0
    assert "1.png: not a picture" in second.fault
    assert "2.png: there is no such image file" in third.fault


def test_a_link_out_of_the_folder_is_a_fault(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    read = view(inside, SPEC)
    (inside / "1.png").rename(tmp_path / "1.png")
    (inside / "1.png").symlink_to(tmp_path / "1.png")
    assert ["is not followed" in (facts.fault or "") for facts in facts_of_view(read)] == [False, True, False, False]


def test_the_split_must_have_input_for_the_encoder(tmp_path):
    with pytest.raises(UserError, match="run `ascl extract --regions"):
        facts_of_view(view(tmp_path, RegionSpec(4, 6)))
    with pytest.raises(UserError, match="captions only"):
        facts_of_view(SplitView(Split(["a"], [("a dog",)], None), SPEC))


def test_extracted_features_are_checked_row_by_row(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "_ROWS_AT_ONCE", 4)
    table = write_table(tmp_path, [2, 0, 2, 3, 1, 2, 2])
    found = list(facts_of_table(table))
    assert [facts.fault is None for facts in found] == [True, False, False, False, True, True, True]
    assert [facts.fault_kind for facts in found[1:4]] == ["unreadable", "broken", "broken"]
    assert found[1].fault.startswith(f"{tmp_path}, row 1: empty")
    assert found[3].fault.startswith(f"{tmp_path}, row 3: values are not finite")
    # padding up to another row's length is no part of a row
    assert found[0].content == found[5].content
    assert len({facts.content for facts in found if facts.fault is None}) == 3
    split = Split(list("abcdefg"), [("x",)] * 7, None, features=SplitFeatures(table))
    assert [facts.fault for facts in facts_of_view(SplitView(split, SPEC, features=split.features))] == [
        facts.fault for facts in found
    ]


def test_facts_of_pictures_in_columns(tmp_path):
    kept = Pictures()
    write_picture(tmp_path / "a.png", 0, (60, 40))
    good = picture_facts(tmp_path / "a.png", SPEC)
    for facts in (good, PictureFacts("no"), PictureFacts(content=7)):
        kept.add(facts)
    assert len(kept) == 3
    assert kept.is_good.tolist() == [True, False, True]
    assert kept.contents.tolist() == [good.content, 0, 7]
    assert kept.sides.tolist() == [40]
    assert kept.looks.hashes.tolist() == [good.look.hash, 0, 0]
    # what has no look is compared with none
    assert kept.looks.is_flat.tolist() == [False, True, True]
    assert (kept.looks.colours[0] == good.look.colours).all()
