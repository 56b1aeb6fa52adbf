import errno
import os
import resource
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.processes import run_forked

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import (
    UnwritableError,
    atomic_file,
    atomic_folder,
    remove_partials,
    require_regular,
    require_writable_file,
    require_writable_folder,
    write_file,
)

NOBODY = 65534


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_is_written_with_the_folders_above_it_and_replaces_the_one_before(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_file(path, "zwölf\n")
    assert path.read_bytes() == "zwölf\n".encode()
    write_file(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    with atomic_file(tmp_path / "a.npy") as file:
        np.save(file, np.arange(3))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]
    assert everything(tmp_path) == ["a", "a.npy", "a/b.txt"]
    assert path.stat().st_mode == (tmp_path / "a.npy").stat().st_mode


def test_the_file_appears_only_at_the_end_and_not_after_an_exception(tmp_path):
    path = tmp_path / "a"
    write_file(path, "before")
    with atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_text() == "before"
    with pytest.raises(KeyError), atomic_file(path) as file:
        file.write({}["quarter"])
    assert path.read_text() == "half"
    assert everything(tmp_path) == ["a"]


def test_a_link_is_followed_and_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for text in ("first", "second"):
        write_file(tmp_path / "link", text)
        assert (tmp_path / "target").read_text() == text
    assert (tmp_path / "link").is_symlink()


def test_a_device_is_written_and_not_replaced():
    require_writable_file(Path(os.devnull))
    write_file(Path(os.devnull), "gone")
    assert Path(os.devnull).is_char_device()


def test_a_folder_replaces_the_one_before_only_when_it_is_complete(tmp_path):
    path = tmp_path / "a" / "b"
    with atomic_folder(path) as folder:
        (folder / "one").touch()
        assert not path.exists()
    with pytest.raises(KeyError), atomic_folder(path) as folder:
        (folder / {}["two"]).touch()
    assert everything(tmp_path) == ["a", "a/b", "a/b/one"]
    with atomic_folder(path) as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "three").touch()
    assert everything(tmp_path) == ["a", "a/b", "a/b/inside", "a/b/inside/three"]


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / ".x.partial").touch()
    (tmp_path / ".y.partial" / "z").mkdir(parents=True)
    (tmp_path / "kept").touch()
    remove_partials(tmp_path)
    assert everything(tmp_path) == ["kept"]


WRITERS = [
    lambda path: write_file(path, "x"),
    require_writable_file,
    lambda path: require_writable_folder(path / "sub"),
    lambda path: atomic_folder(path / "sub").__enter__(),
]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file/inside", "a file is in the place of a folder: choose another place"),
        ("new/" + "x" * 300 + "/a", "choose a shorter name"),
        ("x" * 300, "choose a shorter name"),
    ],
)
def test_an_unwritable_path_is_an_error_and_leaves_nothing(tmp_path, write, name, reason):
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableError) as found:
        write(tmp_path / name)
    assert str(found.value).startswith("cannot write '")
    assert str(found.value).endswith(f"; {reason}")
    assert "\n" not in str(found.value)
    assert not list(tmp_path.rglob(".*"))


def test_a_folder_in_place_of_a_file_and_the_reverse_are_errors(tmp_path):
    (tmp_path / "file").touch()
    for write in (lambda path: write_file(path, "x"), require_writable_file):
        with pytest.raises(UnwritableError, match="this is a folder: name a file"):
            write(tmp_path)
    with pytest.raises(UnwritableError, match="a file is in the place of a folder"):
        require_writable_folder(tmp_path / "file")


def test_probes_leave_nothing_behind(tmp_path):
    require_writable_file(tmp_path / "new" / "folder" / "file")
    require_writable_folder(tmp_path / "new" / "folder")
    require_writable_folder(tmp_path)
    assert everything(tmp_path) == []


def print_errors(*writes: Callable[[], object]) -> None:
    for write in writes:
        with pytest.raises(UserError) as error:
            write()
        print(error.value)


def write_as_nobody(folder: Path) -> None:
    """Runs as another user than root, who may write everywhere."""
    if os.getuid() == 0:
        os.setuid(NOBODY)
    print_errors(
        lambda: write_file(folder / "a", ""),
        lambda: require_writable_file(folder / "a"),
        lambda: require_writable_folder(folder / "new"),
        lambda: atomic_folder(folder / "a").__enter__(),
    )


def test_a_read_only_folder_is_named():
    with tempfile.TemporaryDirectory() as root:  # other users cannot access pytest's folders
        Path(root).chmod(0o755)
        folder = Path(root) / "results"
        folder.mkdir(mode=0o555)
        told = run_forked(write_as_nobody, folder).stdout.splitlines()
        reason = "Permission denied; make it writable or choose another place"
        assert told == [f"cannot write '{folder / name}': {reason}" for name in ("a", "a", "new", "a")]
        assert list(folder.iterdir()) == []


def write_on_a_full_disk(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    print_errors(lambda: write_file(path, bytes(2000)), lambda: require_writable_file(path))


def test_a_full_disk_leaves_the_previous_file_and_fails_the_probe(tmp_path):
    path = tmp_path / "a"
    write_file(path, "before")
    told = run_forked(write_on_a_full_disk, path).stdout
    assert told.splitlines() == [f"cannot write '{path}': File too large; choose another place"] * 2
    assert path.read_text() == "before"
    assert everything(tmp_path) == ["a"]


def test_other_errors_propagate(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), atomic_file(tmp_path / "a"):
        raise RuntimeError("mine")
    with pytest.raises(UserError, match=r"^mine$"), atomic_file(tmp_path / "a"):
        raise UserError("mine")
    error = UnwritableError.of("x" * 1000, OSError(errno.EIO, "Input/output error"))
    assert len(str(error)) < 300


def test_only_regular_files_may_be_opened(tmp_path):
    write_file(tmp_path / "file", "text")
    require_regular(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", Path(os.devnull), tmp_path, tmp_path / "socket"):
            with pytest.raises(OSError, match="not a regular file"):
                require_regular(path)
    with pytest.raises(FileNotFoundError):
        require_regular(tmp_path / "nothing")
