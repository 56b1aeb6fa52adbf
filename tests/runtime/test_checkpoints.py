import io
import os
import pickle
import random
import resource
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.helpers.processes import run_forked

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.checkpoints import Continuation, find_checkpoint, read_checkpoint, write_checkpoint

SHARED_MEMORY = Path("/dev/shm")
NOBODY = 65534


def content(number: int) -> dict:
    """A checkpoint whose tensor and number are equal."""
    state = torch.full((100_000,), float(number))
    return {"number": number, "state_dict": {"state": state}, "recovery": {"logged_steps": number}}


def touch(path, mtime):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_checkpoint(content(mtime), path)
    os.utime(path, (mtime, mtime))
    return str(path)


def test_best_and_last_are_those_of_the_newest_run(tmp_path):
    touch(tmp_path / "fit" / "version_0" / "checkpoints" / "best.ckpt", 1_000)
    newest = touch(tmp_path / "fit" / "version_2" / "checkpoints" / "best.ckpt", 3_000)
    touch(tmp_path / "fit" / "version_10" / "checkpoints" / "best.ckpt", 2_000)
    touch(tmp_path / "fit" / "version_0" / "checkpoints" / "last-00000010.ckpt", 900)
    touch(tmp_path / "fit" / "version_2" / "checkpoints" / "last-00000020.ckpt", 2_500)
    last = touch(tmp_path / "fit" / "version_2" / "checkpoints" / "last-00000030.ckpt", 2_900)
    assert find_checkpoint("best", tmp_path) == newest
    assert find_checkpoint("last", tmp_path) == last


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_newest_run_without_the_checkpoint_is_an_error(tmp_path, name):
    older = touch(
        tmp_path / "fit" / "version_0" / "checkpoints" / f"{name}{'-00000010' * (name == 'last')}.ckpt", 1_000
    )
    other = "best" if name == "last" else "last-00000020"
    touch(tmp_path / "fit" / "version_1" / "checkpoints" / f"{other}.ckpt", 2_000)
    with pytest.raises(UserError) as caught:
        find_checkpoint(name, tmp_path)
    assert f"the newest run, '{tmp_path}/fit/version_1', has none" in str(caught.value)
    assert older in str(caught.value)
    # a run that has just started
    (tmp_path / "fit" / "version_2" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=f"the newest run, '{tmp_path}/fit/version_2', has none"):
        find_checkpoint(name, tmp_path)


def test_a_path_is_returned_unchanged(tmp_path):
    path = touch(tmp_path / "any.ckpt", 1)
    assert find_checkpoint(path, tmp_path / "elsewhere") == path
    assert find_checkpoint(None, tmp_path) is None


def test_a_folder_of_exported_weights_is_its_file(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    assert find_checkpoint(str(tmp_path), tmp_path) == str(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("best", "train with"),
        ("last", "train with"),
        ("nowhere.ckpt", "no such file"),
        ("https://host/x.ckpt", "addresses are not loaded"),
        ("s3://bucket/x.ckpt", "addresses are not loaded"),
    ],
)
def test_a_missing_checkpoint_is_an_error_with_a_remedy(tmp_path, name, advice):
    with pytest.raises(UserError, match=advice):
        find_checkpoint(name, tmp_path)


class Payload:
    """A pickle that runs a command when loaded."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self._canary}",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_checkpoint_does_not_run(tmp_path, save):
    canary, path = tmp_path / "canary", tmp_path / "evil.ckpt"
    save({"state_dict": {}, "callbacks": Payload(canary)}, path)
    for read in (lambda: read_checkpoint(path), lambda: find_checkpoint(str(path), tmp_path)):
        with pytest.raises(UserError, match=r"evil\.ckpt"):
            read()
    assert not canary.exists()
    pickle.loads(pickle.dumps(Payload(canary)))
    assert canary.exists(), "the payload works where it is let"


def saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


NAN = torch.tensor([1.0, torch.nan])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is an empty file; give a .ckpt file"),
        (b"weights\n", "is not a checkpoint, or is truncated; give a .ckpt file"),
        (saved({"epoch": 3, "loops": {}}), "holds no weights; give a .ckpt file"),
        (saved({"state_dict": {}}), "holds no weights"),
        (saved({"tower.weight": torch.ones(2)}), "is a bare state_dict, without the vocabulary"),
        (saved(torch.nn.Linear(2, 2).state_dict()), "is a bare state_dict, without the vocabulary"),
        (
            saved({"state_dict": {"a": torch.ones(2), "b": NAN}}),
            "holds weights that are not finite (1 of 2 tensors, such as b)",
        ),
    ],
)
def test_a_file_without_usable_weights_is_one_clear_line(tmp_path, data, reason):
    path = tmp_path / "a.ckpt"
    path.write_bytes(data)
    with pytest.raises(UserError) as found:
        find_checkpoint(str(path), tmp_path)
    assert f"'{path}' {reason}" in str(found.value)
    assert "\n" not in str(found.value)


def test_a_folder_without_weights_and_a_pipe_are_named(tmp_path):
    with pytest.raises(UserError, match=r"the folder holds neither model\.safetensors nor all shards"):
        find_checkpoint(str(tmp_path), tmp_path)
    os.mkfifo(tmp_path / "pipe.ckpt")
    with pytest.raises(UserError, match="not a regular file"):
        find_checkpoint(str(tmp_path / "pipe.ckpt"), tmp_path)


def test_non_finite_exported_weights_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    for state, reason in (({"a": NAN}, "are not finite"), ({}, "holds no weights")):
        save_file(state, path)
        with pytest.raises(UserError, match=reason):
            find_checkpoint(str(tmp_path), tmp_path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged or cannot be read"):
        find_checkpoint(str(tmp_path), tmp_path)


def test_an_interrupted_run_resumes_from_its_newest_undamaged_checkpoint(tmp_path):
    folder = tmp_path / "fit" / "version_1" / "checkpoints"
    touch(tmp_path / "fit" / "version_0" / "checkpoints" / "last-00000099.ckpt", 10)
    touch(folder / "best.ckpt", 20)
    touch(folder / "last-00000030.ckpt", 30)
    newest = Path(touch(folder / "last-00000040.ckpt", 40))
    found = Continuation.find(tmp_path)
    assert (found.checkpoint, found.logged_steps, found.passed_over) == (newest, 40, [])
    assert found.run == tmp_path / "fit" / "version_1"
    # one bit of a weight, which torch would load
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    os.utime(newest, (50, 50))
    assert torch.load(newest)["number"] == 40
    found = Continuation.find(tmp_path)
    assert found.checkpoint.name == "last-00000030.ckpt"
    assert len(found.passed_over) == 1
    assert "last-00000040.ckpt' is damaged" in found.passed_over[0]


def test_a_run_without_an_undamaged_checkpoint_is_an_error(tmp_path):
    assert Continuation.find(tmp_path) is None
    path = tmp_path / "checkpoints" / "last-00000001.ckpt"
    path.parent.mkdir()
    path.write_bytes(b"")
    with pytest.raises(UserError, match="the newest run has no checkpoint to resume from"):
        Continuation.find(tmp_path)


def test_shards_count_once_they_are_complete(tmp_path):
    """A sharded checkpoint: a folder in which these files are written last."""
    shards = tmp_path / "checkpoints" / "last-00000007.ckpt"
    shards.mkdir(parents=True)
    torch.save(content(7), shards / "meta.pt")
    with pytest.raises(UserError, match="lacks shards"):
        Continuation.find(tmp_path)
    (shards / ".metadata").touch()
    assert Continuation.find(tmp_path).checkpoint == shards
    assert find_checkpoint("last", tmp_path) == str(shards)


def test_every_flipped_bit_is_detected_or_has_no_effect(tmp_path):
    path = tmp_path / "a.ckpt"
    write_checkpoint({"number": 1, "state": torch.arange(50.0)}, path)
    whole = path.read_bytes()
    draw = random.Random(0)
    read = []
    for _ in range(400):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        with suppress(UserError):
            read.append(read_checkpoint(path))
    assert 0 < len(read) < 300
    assert all(of["number"] == 1 and torch.equal(of["state"], torch.arange(50.0)) for of in read)


@pytest.mark.parametrize("length", [0, 10, -100, -1])
def test_a_cut_file_is_an_error(tmp_path, length):
    path = tmp_path / "a.ckpt"
    write_checkpoint(content(1), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"a\.ckpt"):
        read_checkpoint(path)


def test_a_file_that_holds_something_else_is_an_error(tmp_path):
    torch.save(torch.ones(3), tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="holds a Tensor"):
        read_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "b.ckpt")


def test_writing_removes_temporary_files_of_killed_runs(tmp_path):
    (tmp_path / ".last-00000001.ckpt.partial").touch()
    write_checkpoint(content(3), tmp_path / "new" / "a.ckpt")
    write_checkpoint(content(4), tmp_path / "b.ckpt")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"a.ckpt", "b.ckpt"}
    assert torch.equal(read_checkpoint(tmp_path / "b.ckpt")["state_dict"]["state"], torch.full((100_000,), 4.0))


def write_as_nobody(path: Path) -> int:
    """Runs as another user than root, who may write everywhere."""
    if os.getuid() == 0:
        os.setuid(NOBODY)
    begin = time.monotonic()
    try:
        write_checkpoint(content(1), path)
    except UserError as error:
        print(time.monotonic() - begin, error)
        return 2
    return 0


def test_a_folder_that_may_not_be_written_is_named_within_seconds():
    with tempfile.TemporaryDirectory() as root:  # other users cannot access pytest's folders
        Path(root).chmod(0o755)
        folder = Path(root) / "checkpoints"
        folder.mkdir()
        folder.chmod(0o555)
        ended = run_forked(write_as_nobody, folder / "a.ckpt")
        assert ended.returncode == 2, ended.stderr
        seconds, message = ended.stdout.split(" ", 1)
        assert float(seconds) < 5
        assert f"cannot write '{folder / 'a.ckpt'}': Permission denied; make it writable" in message
        assert list(folder.iterdir()) == []


def write_on_a_full_disk(path: Path) -> int:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        write_checkpoint(content(2), path)
    except UserError as error:
        print(error)
        return 1
    return 0


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "a.ckpt"
    write_checkpoint(content(1), path)
    ended = run_forked(write_on_a_full_disk, path)
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout.strip() == f"cannot write '{path}': File too large; choose another place"
    assert read_checkpoint(path)["number"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def write_and_be_killed(folder: Path) -> None:
    """Kills a saving process a hundred times; prints how often it was half-way, and the last saved number."""
    draw, unfinished = random.Random(0), 0
    for kill in range(100):
        ready, done = os.pipe()
        child = os.fork()
        if child == 0:
            for number in range(1000):
                write_checkpoint(content(1000 * kill + number), folder / "last.ckpt")
                os.write(done, b".")
            os._exit(0)
        os.read(ready, 1)
        os.close(ready)
        os.close(done)
        time.sleep(draw.uniform(0.01, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        unfinished += any(folder.glob(".*.partial"))
        read = read_checkpoint(folder / "last.ckpt")
        assert (read["state_dict"]["state"] == read["number"]).all()
    print(unfinished, read["number"])


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="needs a file system of its own for TMPDIR")
def test_none_of_100_kills_while_saving_leaves_a_checkpoint_that_cannot_be_read(tmp_path):
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as other_disk:
        assert Path(other_disk).stat().st_dev != tmp_path.stat().st_dev
        ended = run_forked(write_and_be_killed, tmp_path, environment=os.environ | {"TMPDIR": other_disk})
    assert ended.returncode == 0, ended.stderr
    unfinished, number = map(int, ended.stdout.split())
    assert unfinished > 20, "kills came between the writes"
    assert number >= 99_000, "the last process wrote at least once"
