import os

import pytest

from ascl_lightning.checkpoints import find_checkpoint
from ascl_lightning.errors import UserError


def touch(path, mtime):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (mtime, mtime))
    return str(path)


def test_best_and_last_are_those_of_the_newest_run(tmp_path):
    touch(tmp_path / "fit" / "version_0" / "checkpoints" / "best.ckpt", 1_000)
    newest = touch(tmp_path / "fit" / "version_2" / "checkpoints" / "best.ckpt", 3_000)
    touch(tmp_path / "fit" / "version_10" / "checkpoints" / "best.ckpt", 2_000)
    last = touch(tmp_path / "fit" / "version_0" / "checkpoints" / "last.ckpt", 1_000)
    assert find_checkpoint("best", tmp_path) == newest
    assert find_checkpoint("last", tmp_path) == last


def test_a_path_stays_what_it_is(tmp_path):
    path = touch(tmp_path / "any.ckpt", 1)
    assert find_checkpoint(path, tmp_path / "elsewhere") == path
    assert find_checkpoint(None, tmp_path) is None


@pytest.mark.parametrize(
    ("name", "advice"),
    [("best", "train with"), ("nowhere.ckpt", "no such file"), ("https://host/x.ckpt", "addresses are not loaded")],
)
def test_what_is_not_there_is_an_error_that_says_what_to_do(tmp_path, name, advice):
    with pytest.raises(UserError, match=advice):
        find_checkpoint(name, tmp_path)
