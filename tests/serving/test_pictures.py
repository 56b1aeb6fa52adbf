import io
from pathlib import Path

import pytest
from PIL import Image

from ascl_lightning.data.images import HugeImageError
from ascl_lightning.errors import UserError
from ascl_lightning.serving.pictures import THUMBNAIL_SIDE, Renditions, open_upload

ORIENTATION, TURNED_RIGHT = 0x0112, 6


def saved(path: Path, size: tuple[int, int], colour: str = "red", orientation: int | None = None) -> Path:
    image = Image.new("RGB", size, colour)
    image.paste("blue", (0, 0, size[0] // 2, size[1]))  # the left half
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    image.save(path, quality=95, exif=exif)
    return path


def opened(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg))


def test_pictures_become_smaller_upright_and_lose_their_metadata(tmp_path):
    path = saved(tmp_path / "a.jpg", (800, 400), orientation=TURNED_RIGHT)
    small = opened(Renditions(10**6).of(path, 1, THUMBNAIL_SIDE).jpeg)
    assert small.size == (THUMBNAIL_SIDE // 2, THUMBNAIL_SIDE)
    assert not small.getexif()
    # turned clockwise, the left half is on top
    red, _, blue = small.getpixel((96, 50))
    assert (red < 40, blue > 200) == (True, True)


def test_small_pictures_keep_their_size(tmp_path):
    assert opened(Renditions(10**6).of(saved(tmp_path / "a.jpg", (60, 40)), 1, THUMBNAIL_SIDE).jpeg).size == (60, 40)


def test_a_rendition_is_made_once_until_the_file_changes(tmp_path):
    renditions, path = Renditions(10**6), saved(tmp_path / "a.jpg", (60, 40))
    first = renditions.of(path, 1, THUMBNAIL_SIDE)
    assert renditions.of(path, 1, THUMBNAIL_SIDE) is first
    saved(path, (61, 40))
    changed = renditions.of(path, 1, THUMBNAIL_SIDE)
    assert changed.etag != first.etag
    assert opened(changed.jpeg).size == (61, 40)


def test_memory_is_bounded(tmp_path):
    paths = [saved(tmp_path / f"{number}.jpg", (60, 40 + number)) for number in range(3)]
    size = max(len(Renditions(10**6).of(path, 0, THUMBNAIL_SIDE).jpeg) for path in paths)
    renditions = Renditions(2 * size)
    made = [renditions.of(path, number, THUMBNAIL_SIDE) for number, path in enumerate(paths)]
    assert renditions.of(paths[2], 2, THUMBNAIL_SIDE) is made[2]
    assert renditions.of(paths[0], 0, THUMBNAIL_SIDE) is not made[0], "the oldest went first"


def test_a_file_that_became_something_else_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_text("root:x:0:0")
    with pytest.raises(UserError):
        Renditions(10**6).of(tmp_path / "a.jpg", 1, THUMBNAIL_SIDE)


def test_uploads_are_decoded_or_refused():
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "PNG")
    assert open_upload(buffer.getvalue(), 600).size == (30, 20)
    with pytest.raises(HugeImageError, match="more than 599 pixels"):
        open_upload(buffer.getvalue(), 599)
    for damaged in (b"", b"<svg/>", buffer.getvalue()[:45]):
        with pytest.raises(UserError, match="the uploaded file"):
            open_upload(damaged, 600)
