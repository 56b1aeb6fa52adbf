"""What only concerns the store in Milvus: its errors, and items that it shares with nobody."""

import pytest
from tests.helpers.encodings import random_embeds, random_items

from ascl_lightning.errors import UserError
from ascl_lightning.gallery.milvus_store import MilvusStore

pytest.importorskip("milvus_lite")
pytestmark = pytest.mark.slow


def assert_one_line(error: pytest.ExceptionInfo[UserError]) -> None:
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("uri", ["http://name:secret@127.0.0.1:1", "nonsense"])
def test_a_server_that_does_not_answer_is_named_without_the_password(tmp_path, uri, capfd):
    with pytest.raises(UserError, match=r"^Milvus at (127.0.0.1:1|nonsense), .*; check address and server$") as error:
        MilvusStore(uri, "items", tmp_path, "write")
    assert_one_line(error)
    assert "secret" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_a_collection_of_another_gallery_is_not_written(tmp_path):
    uri = str(tmp_path / "milvus.db")
    first = MilvusStore(uri, "items", tmp_path / "first", "write")
    first.upsert([1], random_items(1, seed=0))
    second = MilvusStore(uri, "items", tmp_path / "second", "write")
    with pytest.raises(UserError, match="has a collection 'items' of another gallery") as error:
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
