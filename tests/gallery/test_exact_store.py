"""The embedded store: exactness, readers beside a writer, a full disk, and what a crash leaves."""

import itertools
import os
import resource
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.encodings import assert_same_items, random_embeds, random_items
from tests.helpers.processes import run_forked
from tests.reference.stores import PlainStore, as_stored

from ascl_lightning.data.batch import Features
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.exact_store import ExactStore
from ascl_lightning.search.encoded import Encoded

NOBODY = 65534


def without_tokens(embeds: torch.Tensor) -> Encoded:
    number = len(embeds)
    features = Features(embeds, torch.zeros(number, 0, 2), torch.zeros(number, 0, dtype=torch.bool))
    return Encoded("images", embeds, features, "a model")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A folder with 20,000 embeddings, their ids in another order than they were written in; and the embeddings."""
    folder, embeds = tmp_path_factory.mktemp("large"), random_embeds(20_000, seed=0, width=64)
    ids = np.random.default_rng(0).permutation(len(embeds)).tolist()
    with_store(folder, lambda store: store.upsert(ids, without_tokens(embeds[ids])))
    return folder, embeds


def test_recall_against_an_exact_search_in_float32(large):
    folder, embeds = large
    queries = random_embeds(50, seed=1, width=64)
    expected = (queries @ embeds.T).topk(64).indices
    found = ExactStore(folder).search(queries, 64).ids
    shared = [len(set(ours.tolist()) & set(theirs.tolist())) for ours, theirs in zip(found, expected, strict=True)]
    assert np.mean(shared) / 64 >= 0.999


@pytest.mark.parametrize("step", [2, 4096])
def test_a_filter_on_many_items_leaves_the_nearest_of_the_others(large, step):
    folder, embeds = large
    store, queries = ExactStore(folder), random_embeds(5, seed=2, width=64)
    slots = np.arange(0, len(embeds), step)
    allowed = store.snapshot().id_of_slot[slots]
    found = store.search(queries, 64, allowed)
    scores = queries.double() @ embeds[allowed].half().double().T
    expected = scores.topk(min(64, len(allowed))).values.float()
    torch.testing.assert_close(found.scores[:, : len(allowed)], expected, atol=1e-6, rtol=0)
    assert bool(np.isin(found.ids[found.ids >= 0], allowed).all())


def test_thousands_of_equal_items_are_ordered_by_id(tmp_path):
    ids = np.random.default_rng(1).permutation(6000).tolist()
    with_store(tmp_path, lambda store: store.upsert(ids, without_tokens(random_embeds(1, 0).repeat(6000, 1))))
    assert ExactStore(tmp_path).search(random_embeds(1, seed=1), 50).ids.tolist() == [list(range(50))]


def with_store(folder: Path, use) -> None:
    store = ExactStore(folder, "write")
    try:
        use(store)
    finally:
        store.close()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.sampled_from([0.0, 1e-4, 1e-3]), k=st.integers(1, 40))
def test_near_duplicates_are_ordered_exactly_and_equal_ones_by_id(tmp_path_factory, seed, noise, k):
    """Half precision cannot tell these apart: the rounding error is as large as the differences."""
    middle = random_embeds(1, seed, width=16)
    embeds = torch.nn.functional.normalize(middle + noise * random_embeds(60, seed + 1, width=16), dim=1)
    ids = torch.randperm(60, generator=torch.Generator().manual_seed(seed)).tolist()
    store, expected = ExactStore(tmp_path_factory.mktemp("store"), "write"), PlainStore()
    for each in (store, expected):
        each.upsert(ids, without_tokens(embeds))
    queries = torch.cat([random_embeds(2, seed + 2, width=16), middle])
    ours, theirs = store.search(queries, k), expected.search(queries, k)
    assert torch.equal(ours.scores, theirs.scores)
    # items whose scores differ in float64 alone are equal here
    for row in range(3):
        pairs = list(zip((-ours.scores[row]).tolist(), ours.ids[row].tolist(), strict=True))
        assert pairs == sorted(pairs)
    store.close()


def test_many_writes_leave_few_shards_and_lose_nothing(tmp_path):
    store, expected = ExactStore(tmp_path, "write"), PlainStore()
    for number in range(40):
        for each in (store, expected):
            each.upsert([number, number + 100], random_items(2, seed=number))
        if number % 5 == 4:
            for each in (store, expected):
                each.delete([number - 2, number + 98, number + 97])
    ids = expected.ids().tolist()
    assert store.ids().tolist() == ids
    assert_same_items(store.items(ids), expected.items(ids))
    # 15 of under 16 items at most, and two that join 16 of these
    assert len(shard_folders(tmp_path)) <= 17
    store.delete(range(200))
    assert (store.count(), shard_folders(tmp_path)) == (0, [])
    store.upsert([3], random_items(1, seed=3))
    assert store.ids().tolist() == [3]
    store.close()


def shard_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_a_second_writer_is_refused_until_the_first_ends(tmp_path):
    first = ExactStore(tmp_path, "write")
    with pytest.raises(UserError, match="another process is writing the gallery") as error:
        ExactStore(tmp_path, "write")
    assert "\n" not in str(error.value)
    first.upsert([1], random_items(1, seed=1))
    assert ExactStore(tmp_path).count() == 1
    first.close()
    ExactStore(tmp_path, "write").close()


def test_a_reader_cannot_write_and_a_missing_gallery_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has no gallery: build one with `ascl index`"):
        ExactStore(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    (tmp_path / "items.sqlite").touch()  # a writer was killed before its first transaction
    with pytest.raises(UserError, match="has no gallery"):
        ExactStore(tmp_path)
    ExactStore(tmp_path, "write").close()
    reader = ExactStore(tmp_path)
    for write in (lambda: reader.upsert([0], random_items(1, seed=0)), lambda: reader.delete([0])):
        with pytest.raises(UserError, match="opened for reading"):
            write()


def test_a_reader_without_the_right_to_write_reads():
    with tempfile.TemporaryDirectory() as root:  # other users cannot access pytest's folders
        Path(root).chmod(0o755)
        with_store(Path(root) / "gallery", lambda store: store.upsert([5], random_items(1, seed=0)))
        result = run_forked(count_as_nobody, Path(root) / "gallery")
    assert result.stdout == "1\n", result.stderr


def count_as_nobody(folder: Path) -> None:
    if os.getuid() == 0:
        os.setuid(NOBODY)
    print(ExactStore(folder).count())


def write_groups(folder: Path) -> None:
    """Upserts five items of one version at a time, and removes them two groups later."""
    with_store(folder, lambda store: [write_group(store, number) for number in range(30)])


def write_group(store: ExactStore, number: int) -> None:
    store.upsert(range(5 * number, 5 * number + 5), random_items(5, seed=number))
    store.delete(range(5 * number - 10, 5 * number - 5))


def test_a_reader_beside_a_writer_sees_whole_states(tmp_path):
    with_store(tmp_path, lambda store: write_group(store, 0))
    reader, seen = ExactStore(tmp_path), set()
    child = os.fork()
    if child == 0:
        write_groups(tmp_path)
        os._exit(0)
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        snapshot = reader.snapshot()
        ids = snapshot.ids.tolist()
        groups = sorted({number // 5 for number in ids})
        assert ids == [5 * group + place for group in groups for place in range(5)]
        assert len(groups) in (1, 2, 3)
        expected = Encoded.join([as_stored(item) for group in groups for item in random_items(5, seed=group)])
        assert_same_items(snapshot.items(ids), expected)
        found = reader.search(random_embeds(1, seed=0), 20).ids[0]
        assert len(found[found >= 0]) in (5, 10, 15)
        seen.add(tuple(groups))
    assert reader.ids().tolist() == list(range(140, 150))
    assert len(seen) > 3


def write_tens(store: ExactStore) -> None:
    for number in itertools.count():
        store.upsert(range(10 * number, 10 * number + 10), random_items(10, seed=number))
        print(10 * number + 10)


def fill(folder: Path) -> None:
    store = ExactStore(folder, "write")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    with pytest.raises(UserError) as error:
        store.upsert(range(2000), random_items(2000, seed=0, width=32))
    print(error.value)
    with pytest.raises(UserError) as error:
        write_tens(store)
    print(error.value)
    number = store.count() // 10
    print(len(store.ids()))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.upsert(range(10 * number, 10 * number + 10), random_items(10, seed=number))


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    result = run_forked(fill, tmp_path)
    assert result.returncode == 0, result.stderr
    shards, *said, database, counted = result.stdout.splitlines()
    for line, path in ((shards, tmp_path / "00000001"), (database, tmp_path / "items.sqlite")):
        assert line.startswith(f"cannot write '{path}': ")
        assert line.endswith("choose another place")
    acknowledged = int(said[-1])
    assert acknowledged == int(counted)
    store = ExactStore(tmp_path)
    assert store.ids().tolist() == list(range(acknowledged + 10))
    for number in range(acknowledged // 10 + 1):
        expected = Encoded.join([as_stored(item) for item in random_items(10, seed=number)])
        assert_same_items(store.items(range(10 * number, 10 * number + 10)), expected)


def test_a_damaged_shard_and_a_damaged_database_are_named(tmp_path):
    with_store(tmp_path, lambda store: store.upsert([0, 1], random_items(2, seed=0)))
    vectors = tmp_path / "00000001" / "pooled.npy"
    content = vectors.read_bytes()
    vectors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"{vectors}: is not what was written, .*; build the gallery again"):
        ExactStore(tmp_path).count()
    vectors.unlink()
    with pytest.raises(UserError, match="build the gallery again"):
        ExactStore(tmp_path).count()
    (tmp_path / "items.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"items.sqlite: file is not a database; build the gallery again"):
        ExactStore(tmp_path)


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path):
    items = random_items(1, seed=0)
    items.features.mask[:] = True
    items.features.tokens[0, 0, 0] = 1e6
    store = ExactStore(tmp_path, "write")
    with pytest.raises(UserError, match="too large for float16"):
        store.upsert([0], items)
    with pytest.raises(ValueError, match="L2-normalised"):
        store.upsert([0], without_tokens(torch.ones(1, 4)))
    assert store.count() == 0
    store.close()


def test_items_of_another_folder_are_taken_over(tmp_path):
    """Also those of shards with rows that are no longer used, and as often as a crash makes it necessary."""
    ours, other, expected = ExactStore(tmp_path / "a", "write"), ExactStore(tmp_path / "b", "write"), PlainStore()
    for each in (ours, expected):
        each.upsert([1, 2, 3], random_items(3, seed=0))
    other.upsert([2, 7, 8, 9], random_items(4, seed=1))
    other.upsert([8], random_items(1, seed=2))
    other.delete([9])
    expected.upsert([2, 7], random_items(4, seed=1)[:2])
    expected.upsert([8], random_items(1, seed=2))
    for _ in range(2):
        ours.adopt(other)
        assert ours.ids().tolist() == [1, 2, 3, 7, 8]
        assert_same_items(ours.items([8, 1, 2, 7, 3]), expected.items([8, 1, 2, 7, 3]))
    other.close()
    shutil.rmtree(tmp_path / "b")
    ours.close()
    ours = ExactStore(tmp_path / "a", "write")
    assert_same_items(ours.items([7, 8]), expected.items([7, 8]))
    foreign = ExactStore(tmp_path / "c", "write")
    foreign.upsert([1], random_items(1, seed=0, width=5))
    with pytest.raises(UserError, match="encoded by another model"):
        ours.adopt(foreign)
    assert ours.count() == 5
