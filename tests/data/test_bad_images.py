import logging
from pathlib import Path

import pytest
from tests.helpers.datasets import write_picture

from ascl_lightning.data.bad_images import BadImages
from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.sources import Split
from ascl_lightning.data.sources.files import FolderImages
from ascl_lightning.data.views import SplitView
from ascl_lightning.errors import UserError

PIXELS = PixelSpec(8, (0.5,) * 3, (0.5,) * 3)


def view(root: Path, size: int, bad: range) -> SplitView:
    names = [f"{i:02d}.png" for i in range(size)]
    for i, name in enumerate(names):
        write_picture(root / name, i)
        if i in bad:
            (root / name).write_bytes(b"no picture")
    return SplitView(Split(names, [("x",)] * size, FolderImages(root, names)), PIXELS)


def test_a_repeated_fault_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    bad = BadImages(max_share=0.5)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            bad.count(["a is bad", "b is bad"], 4)
    assert bad.faults == {"a is bad": 3, "b is bad": 3}
    assert [record.message for record in caplog.records] == [
        f"skipped a picture, another takes its place: {name} is bad" for name in "ab"
    ]
    with pytest.raises(UserError, match=r"3 of 4 training pictures cannot be read, more than max_bad_share 0\.5: a is"):
        bad.count(["c is bad"], 4)


@pytest.mark.parametrize(("share", "allowed"), [(0.0, 0), (0.01, 10), (1.0, 1000)])
def test_the_share_itself_is_allowed(share: float, allowed: int) -> None:
    bad = BadImages(share)
    bad.count([f"fault {i}" for i in range(allowed)], 1000)
    if share < 1:
        with pytest.raises(UserError, match=f"{allowed + 1} of 1,000 training pictures"):
            bad.count(["one more"], 1000)


def test_faults_are_listed_up_to_twenty(tmp_path: Path) -> None:
    split = view(tmp_path, 30, range(3, 28))
    with pytest.raises(UserError, match="evaluation needs every picture, and 25 cannot be read") as caught:
        BadImages(0.01).refuse([split])
    message = str(caught.value)
    assert all(f"{i:02d}.png" in message for i in range(3, 23))
    assert not any(f"{i:02d}.png" in message for i in range(23, 28))
    assert "and 5 more; repair them or remove them from the data set (`ascl check --json FILE` lists them)" in message


def test_all_splits_are_searched(tmp_path: Path) -> None:
    first, second = view(tmp_path / "a", 2, range(1)), view(tmp_path / "b", 2, range(1, 2))
    with pytest.raises(UserError, match=r"2 cannot be read: .*a/00\.png: .*; .*b/01\.png: "):
        BadImages(0.0).refuse([first, second])
