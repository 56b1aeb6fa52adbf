"""What every store promises: the same operations give what a dictionary of items gives."""

import hashlib
import itertools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helpers.encodings import assert_same_items, random_embeds, random_items
from tests.helpers.milvus_server import milvus_server
from tests.reference.stores import PlainStore

from ascl_lightning.errors import UserError
from ascl_lightning.gallery import inverted_file
from ascl_lightning.gallery.exact_store import ExactStore
from ascl_lightning.gallery.ivf_store import IvfStore
from ascl_lightning.gallery.milvus_store import MilvusStore, drop_collections
from ascl_lightning.gallery.store import VectorStore
from ascl_lightning.search.encoded import Encoded

Open = Callable[[Path], VectorStore]


def open_lite(folder: Path) -> VectorStore:
    folder.mkdir(exist_ok=True)
    return MilvusStore(str(folder / "milvus.db"), "items", folder / "shards", "write")


def open_on_server(folder: Path) -> VectorStore:
    return MilvusStore(milvus_server(), collection_of(folder), folder, "write")


def forget(name: str, folder: Path) -> None:
    """Removes what lies outside the folder, so that no collections pile up on a server."""
    if name == "milvus_server":
        drop_collections(milvus_server(), collection_of(folder))


def collection_of(folder: Path) -> str:
    return "c" + hashlib.sha256(str(folder).encode()).hexdigest()


class Indexed(IvfStore):
    """Searches by an index of the present items, if FAISS is installed."""

    def search(self, queries, k, allowed=None):
        # also if it has to read all cells
        with patch.object(inverted_file, "_LARGEST_PART", 0):
            self.update_index()
        return super().search(queries, k, allowed)


STORES: dict[str, Open] = {
    "plain": lambda folder: PlainStore(),
    "exact": lambda folder: ExactStore(folder, "write"),
    "ivf": lambda folder: Indexed(folder, "write", smallest=1),
    "milvus_lite": open_lite,
    "milvus_server": open_on_server,
}
MARKS = {
    "ivf": pytest.mark.skipif(find_spec("faiss") is None, reason="needs faiss-cpu"),
    # it starts a server in this process
    "milvus_lite": (pytest.mark.slow, pytest.mark.skipif(find_spec("milvus_lite") is None, reason="needs milvus-lite")),
    "milvus_server": pytest.mark.slow,
}
ALL = [pytest.param(name, marks=MARKS.get(name, ())) for name in STORES]
FOLDERS = itertools.count()


@pytest.fixture(params=ALL)
def store(request, tmp_path):
    store = STORES[request.param](tmp_path / "store")
    yield store
    store.close()
    forget(request.param, tmp_path / "store")


def assert_same_answers(store: VectorStore, expected: VectorStore, queries, k, allowed=None):
    """The same scores, and the ids that belong to them: among equal scores at the end, a store may choose."""
    ours, theirs = store.search(queries, k, allowed), expected.search(queries, k, allowed)
    assert (ours.ids.dtype, ours.scores.dtype) == (torch.int64, torch.float32)
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-6, rtol=0)
    everything = expected.search(queries, max(1, expected.count()), allowed)
    for row in range(len(queries)):
        found = [number for number in ours.ids[row].tolist() if number >= 0]
        assert len(set(found)) == len(found) == (theirs.ids[row] >= 0).sum()
        score_of = dict(zip(everything.ids[row].tolist(), everything.scores[row].tolist(), strict=True))
        np.testing.assert_allclose([score_of[number] for number in found], ours.scores[row, : len(found)], atol=1e-6)


def test_an_empty_store_finds_nothing(store):
    assert (store.count(), store.ids().tolist()) == (0, [])
    found = store.search(random_embeds(2, seed=0), k=3)
    assert found.ids.tolist() == [[-1] * 3] * 2
    assert found.scores.tolist() == [[-torch.inf] * 3] * 2
    store.upsert([], random_items(0, seed=0))
    store.delete([1, 2])
    with pytest.raises(KeyError):
        store.items([1])
    store.upsert([1], random_items(1, seed=0))
    assert store.ids().tolist() == [1]


def test_scores_worked_out_by_hand(store):
    items = random_items(3, seed=0, width=2)
    items.embeds.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    store.upsert([30, 10, 20], items)
    found = store.search(torch.tensor([[0.6, 0.8], [-1.0, 0.0]]), k=4)
    assert found.ids.tolist() == [[10, 30, 20, -1], [20, 10, 30, -1]]
    expected = [[0.8, 0.6, -0.6, -torch.inf], [1.0, 0.0, -1.0, -torch.inf]]
    torch.testing.assert_close(found.scores, torch.tensor(expected))
    assert store.search(torch.tensor([[0.6, 0.8]]), 2, np.array([20, 30, 99])).ids.tolist() == [[30, 20]]
    assert store.search(torch.tensor([[0.6, 0.8]]), 1, np.array([], np.int64)).ids.tolist() == [[-1]]


@pytest.mark.parametrize("pooled_width", [None, 5, 0])
def test_items_come_back_rounded_in_any_order(store, pooled_width):
    items = random_items(5, seed=1, pooled_width=pooled_width)
    expected = PlainStore()
    for each in (store, expected):
        each.upsert([4, 1, 9, 0, 2], items)
        each.upsert([9, 5], random_items(2, seed=2, pooled_width=pooled_width))
    for ids in ([9], [0, 9, 5, 4], [2, 2, 1]):
        assert_same_items(store.items(ids), expected.items(ids))
    assert store.ids().tolist() == [0, 1, 2, 4, 5, 9]
    with pytest.raises(KeyError):
        store.items([0, 77])
    with pytest.raises(ValueError, match="ask for at least one item"):
        store.items([])


def test_items_without_tokens(store):
    items = random_items(2, seed=0)
    items.features.mask[:] = False
    store.upsert([0, 1], items)
    assert store.items([1, 0]).features.mask.sum() == 0


@pytest.mark.parametrize("ids", [[1, 1], [-1, 2], [1], [1, 2, 3]])
def test_ids_are_distinct_and_not_negative(store, ids):
    with pytest.raises(ValueError, match="ids"):
        store.upsert(ids, random_items(2, seed=0))
    assert store.count() == 0


def test_senseless_searches_are_errors(store):
    store.upsert([0, 1], random_items(2, seed=0))
    with pytest.raises(ValueError, match="k"):
        store.search(random_embeds(1, seed=0), k=0)
    with pytest.raises(ValueError, match="width"):
        store.search(random_embeds(1, seed=0, width=5), k=1)


ID = st.integers(0, 20)
UPSERT = st.tuples(st.just("upsert"), st.lists(ID, max_size=8, unique=True), st.integers(0, 1000))
DELETE = st.tuples(st.just("delete"), st.lists(ID, max_size=12), st.just(0))
SEARCH = st.tuples(st.just("search"), st.none() | st.lists(ID, max_size=12), st.integers(1, 25))


def run_operations(open_store: Open, folder: Path, operations) -> None:
    """Runs the operations on a store and on a dictionary, and compares their answers; then once more when reopened."""
    store, expected = open_store(folder), PlainStore()
    for name, ids, number in operations:
        if name == "upsert":
            for each in (store, expected):
                each.upsert(ids, random_items(len(ids), seed=number))
        elif name == "delete":
            store.delete(ids)
            expected.delete(ids)
        else:
            allowed = None if ids is None else np.array(ids, np.int64)
            assert_same_answers(store, expected, random_embeds(2, seed=number), number, allowed)
    store.close()
    reopened = open_store(folder)
    assert reopened.ids().tolist() == expected.ids().tolist()
    if expected.count():
        ids = expected.ids().tolist()
        assert_same_items(reopened.items(ids), expected.items(ids))
        assert_same_answers(reopened, expected, random_embeds(3, seed=1), 5)
    reopened.close()


@pytest.mark.parametrize("name", ALL[1:])
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(operations=st.lists(st.one_of(UPSERT, DELETE, SEARCH), max_size=12))
def test_any_sequence_of_operations_is_that_of_a_dictionary(name, tmp_path, operations):
    folder = tmp_path / str(next(FOLDERS))
    run_operations(STORES[name], folder, operations)
    forget(name, folder)


@pytest.mark.parametrize("name", ALL[1:])
def test_items_of_another_model_or_kind_are_refused(name, tmp_path):
    store = STORES[name](tmp_path)
    store.upsert([0], random_items(1, seed=0))
    items = random_items(1, seed=0)
    others = [
        random_items(1, seed=0, width=5),
        random_items(1, seed=0, pooled_width=8),
        Encoded("texts", items.embeds, items.features, items.model),
        Encoded("images", items.embeds, items.features, "another model"),
    ]
    for other in others:
        with pytest.raises(UserError, match="encoded by another model") as error:
            store.upsert([1], other)
        assert "\n" not in str(error.value)
    assert store.ids().tolist() == [0]
    store.close()
    forget(name, tmp_path)
