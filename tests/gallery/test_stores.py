"""Galleries with their vectors in Milvus: the gallery remembers where, and answers as one in its folder alone does."""

import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.helpers.galleries import write_picture, write_pictures
from tests.helpers.milvus_server import milvus_server
from tests.helpers.retrievers import small

from ascl_lightning import Gallery, Retriever, UserError
from ascl_lightning.gallery.index import index
from ascl_lightning.gallery.manifest import Manifest, store_address
from ascl_lightning.gallery.milvus_store import MilvusStore, _connect

STORES = [
    pytest.param("lite", marks=pytest.mark.skipif(find_spec("milvus_lite") is None, reason="needs milvus-lite")),
    "server",
]


@pytest.fixture
def model() -> Retriever:
    return small()


def collections(gallery: Path) -> set[str]:
    manifest = Manifest.read(gallery)
    with closing(_connect(manifest.store)) as client:
        return {name for name in client.list_collections() if manifest.id in name}


def assert_same_answers(ours: Path, expected: Path, model: Retriever) -> None:
    with closing(Gallery.open(ours, model)) as one, closing(Gallery.open(expected, model)) as other:
        assert isinstance(one.store, MilvusStore)
        for query in ({"text": "two red dogs"}, {"like": [0]}, {"text": "a kite", "where": "name != 'b.png'"}):
            found, wanted = (each.search(**query, k=3, candidates=3).hits for each in (one, other))
            assert {hit.path: hit.score for hit in found} == pytest.approx({hit.path: hit.score for hit in wanted})
        picture = one.image_path(0)
        assert {hit.text for hit in one.captions_of(picture)} == {hit.text for hit in other.captions_of(picture)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STORES)
def test_a_gallery_in_milvus_answers_as_one_in_its_folder(model: Retriever, tmp_path: Path, kind: str) -> None:
    images, out, plain = tmp_path / "images", tmp_path / "out", tmp_path / "plain"
    store = milvus_server() if kind == "server" else str(tmp_path / "milvus.db")
    write_pictures(images, ["a.png", "b.png", "c.png"], {"a.png": ["a red kite", "a kite"], "c.png": ["two dogs"]})
    index(model, images, plain)
    Gallery.index(images, out, model, store=store).close()
    assert_same_answers(out, plain, model)
    # later calls need not name the store
    write_picture(images / "d.png", 7)
    (images / "b.png").unlink()
    for folder in (out, plain):
        assert index(model, images, folder).added == 1
    assert_same_answers(out, plain, model)
    with pytest.raises(UserError, match=r"has its vectors in .* --store http://elsewhere:1 --rebuild$"):
        index(model, images, out, store="http://elsewhere:1")
    # other weights
    other = small(seed=1)
    with pytest.raises(UserError, match=rf"other weights.* --store {store} --rebuild$"):
        index(other, images, out)
    before = collections(out)
    index(other, images, out, rebuild=True)
    index(other, images, plain, rebuild=True)
    assert_same_answers(out, plain, other)
    assert (len(collections(out)), collections(out) & before) == (2, set())
    # from the folder alone to Milvus
    with pytest.raises(UserError, match="has its vectors in its folder"):
        index(other, images, plain, store=store)
    index(other, images, plain, store=store, rebuild=True)
    assert_same_answers(plain, out, other)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("milvus_lite") is None, reason="needs milvus-lite")
def test_the_next_index_mends_what_milvus_did_not_take(
    model: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

    images, out, store = tmp_path / "images", tmp_path / "out", str(tmp_path / "milvus.db")
    write_pictures(images, ["a.png", "b.png"])

    def fail(*_, **__):
        raise MilvusException(message="out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(MilvusClient, "upsert", fail)
        with pytest.raises(UserError, match="out of memory"):
            index(model, images, out, store=store)
    assert index(model, images, out).added == 2
    with closing(Gallery.open(out, model)) as gallery:
        assert {hit.path for hit in gallery.search("a kite").hits} == {"a.png", "b.png"}
    # the disk of the server was lost
    (tmp_path / "milvus.db").rename(tmp_path / "lost.db")
    assert index(model, images, out).unchanged == 2
    with closing(Gallery.open(out, model)) as gallery:
        assert {hit.path for hit in gallery.search("a kite").hits} == {"a.png", "b.png"}


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("http://name:secret@localhost:1", "leave name and password out of the address"),
        ("localhost:19530", "--store localhost:19530: give the address of a Milvus server"),
        ("vectors", "or a file FOLDER/NAME.db for Milvus Lite"),
    ],
)
def test_addresses_are_checked_first(model: Retriever, tmp_path: Path, store: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        index(model, tmp_path / "nowhere", tmp_path / "out", store=store)
    assert "secret" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_addresses_are_kept_and_files_get_their_full_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store_address("http://localhost:19530") == "http://localhost:19530"
    assert store_address("a.db") == str(tmp_path / "a.db")


def test_a_missing_package_is_named_and_the_gallery_is_not_made(
    model: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "images", ["a.png"])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pymilvus", None)
        with pytest.raises(UserError, match=r"pip install 'ascl-lightning\[milvus\]'"):
            index(model, tmp_path / "images", tmp_path / "out", store="http://localhost:19530")
    # a second attempt may choose another store
    assert index(model, tmp_path / "images", tmp_path / "out").added == 1
