"""What only concerns the store in Milvus: its errors, and items that it shares with nobody."""

import os
from uuid import uuid4

import pytest
from tests.helpers.encodings import random_embeds, random_items
from tests.helpers.milvus_server import milvus_server
from tests.reference.stores import PlainStore

from ascl_lightning.errors import UserError
from ascl_lightning.gallery.milvus_store import MilvusStore, drop_collections
from ascl_lightning.runtime.locks import take_lock
from ascl_lightning.search.encoded import Encoded

pytest.importorskip("milvus_lite")
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

pytestmark = pytest.mark.slow


def assert_one_line(error: pytest.ExceptionInfo[UserError]) -> None:
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("uri", ["http://name:secret@127.0.0.1:1", "nonsense"])
def test_a_server_that_does_not_answer_is_named_without_the_password(tmp_path, uri, capfd):
    with pytest.raises(UserError, match=r"^Milvus at (127.0.0.1:1|nonsense): .*; check address and server$") as error:
        MilvusStore(uri, "items", tmp_path, "write")
    assert_one_line(error)
    assert "secret" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_a_collection_of_another_gallery_is_not_written(tmp_path):
    uri = str(tmp_path / "milvus.db")
    first = MilvusStore(uri, "items", tmp_path / "first", "write")
    first.upsert([1], random_items(1, seed=0))
    second = MilvusStore(uri, "items", tmp_path / "second", "write")
    with pytest.raises(UserError, match="collection 'items': is of another gallery") as error:
        second.upsert([2], random_items(1, seed=0))
    assert_one_line(error)
    assert (first.ids().tolist(), second.ids().tolist()) == ([1], [])
    for store in (first, second):
        store.close()


def test_a_reader_searches_what_a_writer_adds_later(tmp_path):
    uri = str(tmp_path / "milvus.db")
    writer = MilvusStore(uri, "items", tmp_path / "shards", "write")
    writer.upsert([1], random_items(1, seed=0))
    reader = MilvusStore(uri, "items", tmp_path / "shards")
    writer.upsert([2], random_items(1, seed=1))
    assert sorted(reader.search(random_embeds(1, seed=0), 3).ids[0].tolist()) == [-1, 1, 2]
    with pytest.raises(UserError, match="opened for reading"):
        reader.delete([1])
    for store in (reader, writer):
        store.close()


def test_more_items_than_milvus_finds_are_an_error(tmp_path):
    store = MilvusStore(str(tmp_path / "milvus.db"), "items", tmp_path / "shards", "write")
    with pytest.raises(UserError, match="at most 16384 items, not 16385"):
        store.search(random_embeds(1, seed=0), 16385)
    store.close()


def test_a_collection_that_is_gone_is_named(tmp_path):
    store = MilvusStore(str(tmp_path / "milvus.db"), "items", tmp_path / "shards", "write")
    store.upsert([1], random_items(1, seed=0))
    store._client.drop_collection("items")
    with pytest.raises(UserError, match="collection 'items'") as error:
        store.search(random_embeds(1, seed=0), 1)
    assert_one_line(error)
    store.close()


def test_a_write_that_failed_half_way_is_completed_by_the_next_writer(tmp_path, monkeypatch):
    folder = tmp_path / "shards"
    store, expected = MilvusStore(str(tmp_path / "milvus.db"), "items", folder, "write"), PlainStore()

    def fail(*_, **__):
        raise MilvusException(message="no space left")

    for name, change in [
        ("create_collection", lambda each: each.upsert([1, 2, 3], random_items(3, seed=0))),
        ("upsert", lambda each: each.upsert([3, 4], random_items(2, seed=1))),
        ("delete", lambda each: each.delete([1, 4, 9])),
    ]:
        change(expected)
        with monkeypatch.context() as patch:
            patch.setattr(MilvusClient, name, fail)
            with pytest.raises(UserError, match="collection 'items': no space left") as error:
                change(store)
            assert_one_line(error)
        store.close()
        store = MilvusStore(str(tmp_path / "milvus.db"), "items", folder, "write")
        assert in_collection(store) == {
            number: expected.items([number]).embeds[0].tolist() for number in expected.ids()
        }
    # a collection that was removed, and one that has lost items, are filled again
    store._client.delete("items", ids=[2])
    store.close()
    store = MilvusStore(str(tmp_path / "milvus.db"), "items", folder, "write")
    assert in_collection(store).keys() == {2, 3}
    store._client.drop_collection("items")
    store.close()
    store = MilvusStore(str(tmp_path / "milvus.db"), "items", folder, "write")
    assert in_collection(store).keys() == {2, 3}
    store.close()


def in_collection(store: MilvusStore) -> dict[int, list[float]]:
    rows = store._client.query("items", filter="id >= 0", output_fields=["id", "embedding"])
    return {row["id"]: list(map(float, row["embedding"])) for row in rows}


@pytest.mark.parametrize(("on_server", "what"), [(False, "width"), (True, "width"), (True, "model")])
def test_a_collection_of_another_width_or_model_is_refused(tmp_path, on_server, what):
    """Milvus Lite does not keep which model it was."""
    uri = milvus_server() if on_server else str(tmp_path / "milvus.db")
    items = random_items(1, seed=0)
    others = {
        "width": random_items(1, seed=0, width=5),
        "model": Encoded("images", items.embeds, items.features, "another model"),
    }
    beginning = f"refused_{uuid4().hex}_"
    for name, written in (("items", items), ("others", others[what])):
        store = MilvusStore(uri, beginning + name, tmp_path / name, "write")
        store.upsert([1], written)
        store.close()
    for mode in ("read", "write"):
        with pytest.raises(UserError, match="is of another gallery, or of other weights") as error:
            MilvusStore(uri, beginning + "others", tmp_path / "items", mode)
        assert_one_line(error)
    drop_collections(uri, beginning)
    with pytest.raises(UserError, match="collection"):
        MilvusStore(uri, beginning + "items", tmp_path / "items").search(random_embeds(1, seed=0), 1)


@pytest.mark.parametrize("on_server", [False, True])
@pytest.mark.parametrize("mode", ["read", "write"])
def test_a_collection_is_loaded_when_a_store_is_opened(tmp_path, on_server, mode):
    """Milvus Lite forgets what was loaded when its process ends, and anybody may release a collection of a server."""
    uri = milvus_server() if on_server else str(tmp_path / "milvus.db")
    name = f"released_{uuid4().hex}"
    store = MilvusStore(uri, name, tmp_path / "shards", "write")
    store.upsert([1, 2], random_items(2, seed=0))
    store._client.release_collection(name)
    store.close()
    store = MilvusStore(uri, name, tmp_path / "shards", mode)
    assert sorted(store.search(random_embeds(1, seed=0), 2).ids[0].tolist()) == [1, 2]
    store.close()
    drop_collections(uri, name)


def test_a_file_that_another_process_has_open_is_named(tmp_path, capfd):
    """As Milvus Lite locks it: a lock of this process, but of another descriptor, has the same effect."""
    (tmp_path / "milvus.db").mkdir()
    lock = take_lock(tmp_path / "milvus.db" / "LOCK")
    with pytest.raises(UserError, match=r"milvus\.db: .*; .* no other process has this file open$") as error:
        MilvusStore(str(tmp_path / "milvus.db"), "items", tmp_path / "shards")
    os.close(lock)
    assert_one_line(error)
    assert capfd.readouterr().err == ""
