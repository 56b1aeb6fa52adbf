"""A process that is killed while it writes: nothing that it acknowledged is lost, and nothing is unreadable."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ascl_lightning.data.batch import Features
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.exact_store import ExactStore
from ascl_lightning.search.encoded import Encoded

IDS = 200
Contents = dict[int, int]


def items_of(ids: list[int], version: int) -> Encoded:
    """Items that show their id and version in their embedding and in each of their tokens."""
    angles = torch.tensor([[number, version] for number in ids]) / 1000
    embeds = F.normalize(torch.cat([angles, torch.ones(len(ids), 1)], dim=1))
    tokens = torch.tensor([[[number, version]] * 3 for number in ids]).float()
    mask = torch.arange(3) < 1 + torch.tensor(ids)[:, None] % 3
    return Encoded("images", embeds, Features(embeds, tokens, mask), "a model")


def operation(number: int) -> tuple[str, list[int]]:
    """One operation in four removes items; the others write some, in the version of this number."""
    draws = random.Random(number)
    ids = draws.sample(range(IDS), draws.choice([1, 3, 40]))
    return ("delete" if number % 4 == 3 else "upsert"), ids


def apply(number: int, contents: Contents) -> Contents:
    name, ids = operation(number)
    kept = {key: version for key, version in contents.items() if key not in ids}
    return kept if name == "delete" else kept | dict.fromkeys(ids, number)


def write(store: ExactStore, number: int) -> None:
    name, ids = operation(number)
    if name == "delete":
        store.delete(ids)
    else:
        store.upsert(ids, items_of(ids, number))


def read(store: ExactStore) -> Contents:
    """Version of each item, after checks that its embedding, its tokens and the search say the same."""
    ids = store.ids().tolist()
    if not ids:
        return {}
    items = store.items(ids)
    versions = items.features.tokens[:, 0, 1].int().tolist()
    expected = [items_of([number], version) for number, version in zip(ids, versions, strict=True)]
    whole = Encoded.join(expected)
    torch.testing.assert_close(items.embeds, whole.embeds, atol=1e-3, rtol=0)
    assert torch.equal(items.features.mask, whole.features.mask[:, : items.features.mask.shape[1]])
    assert torch.equal(items.features.tokens[items.features.mask], whole.features.tokens[whole.features.mask])
    assert sorted(store.search(items.embeds[:1], len(ids)).ids[0].tolist()) == ids
    return dict(zip(ids, versions, strict=True))


def read_folder(folder: Path) -> Contents:
    """As `read`; a writer that was killed before its first transaction leaves no gallery."""
    try:
        store = ExactStore(folder)
    except UserError as error:
        if "has no gallery" not in str(error):
            raise
        return {}
    return read(store)


def start_writer(folder: Path, first: int) -> tuple[int, int]:
    """Forks a process that runs operations for ever and says so after each; gives its id and where it says so."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(receiver)
            store = ExactStore(folder, "write")
            number = first
            while True:
                write(store, number)
                os.write(sender, b".")
                number += 1
        finally:
            os._exit(1)
    os.close(sender)
    return child, receiver


def kill_at_random(folder: Path, kills: int, seconds: float) -> int:
    """Number of operations that killed writers acknowledged."""
    draws, contents, done = random.Random(0), {}, 0
    for _ in range(kills):
        child, receiver = start_writer(folder, done)
        time.sleep(draws.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        with os.fdopen(receiver, "rb") as said:
            for _ in said.read():
                contents = apply(done, contents)
                done += 1
        after = apply(done, contents)
        found = read_folder(folder)
        assert found in (contents, after)
        if found != contents:
            contents, done = after, done + 1
        # a writer cleans up, and finds the same
        store = ExactStore(folder, "write")
        assert read(store) == contents
        used = {f"{number:08d}" for number in store.snapshot().shards}
        assert {path.name for path in folder.iterdir() if path.is_dir()} == used
        store.close()
    return done


def test_nothing_is_lost_by_kills(tmp_path):
    assert kill_at_random(tmp_path, kills=5, seconds=0.3) > 5


@pytest.mark.slow
def test_nothing_is_lost_by_fifty_kills(tmp_path):
    assert kill_at_random(tmp_path, kills=50, seconds=1) > 200


def write_until(folder: Path, operations: int, flushes: int) -> None:
    """Runs operations, and ends the process without any warning before it flushes a file for the given time."""
    left = flushes
    flush = os.fsync

    def count(descriptor: int) -> None:
        nonlocal left
        if left == 0:
            os._exit(9)
        left -= 1
        flush(descriptor)

    os.fsync = count
    store = ExactStore(folder, "write")
    for number in range(operations):
        write(store, number)
    os._exit(0)


def test_a_crash_before_any_flush_leaves_one_of_the_states(tmp_path):
    operations = 2
    states: list[Contents] = [{}]
    for number in range(operations):
        states.append(apply(number, states[-1]))
    code, flushes = 9, 0
    while code == 9:
        folder = tmp_path / str(flushes)
        child = os.fork()
        if child == 0:
            write_until(folder, operations, flushes)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        assert read_folder(folder) in states
        store = ExactStore(folder, "write")
        assert read(store) in states
        store.close()
        flushes += 1
    assert read(ExactStore(folder)) == states[-1]
    assert flushes > 2 * 5
