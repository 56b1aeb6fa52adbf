"""Indexing: vectors as in evaluation; any changes give what a fresh index gives; an interruption loses no work."""

import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.galleries import assert_same_contents, contents_of, ids_by_path, write_picture, write_pictures
from tests.helpers.retrievers import small

from ascl_lightning import Gallery, Retriever, UserError
from ascl_lightning.gallery import encoder as encoder_module
from ascl_lightning.gallery import index as index_module
from ascl_lightning.gallery.catalogue import Catalogue
from ascl_lightning.gallery.exact_store import ExactStore
from ascl_lightning.gallery.index import IndexSummary, index
from ascl_lightning.gallery.manifest import PICTURES, Manifest, Origin


@pytest.fixture(scope="module")
def model() -> Retriever:
    return small()


def test_vectors_are_those_of_evaluation(model: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_pictures(tmp_path / "images", ["b.png", "a/c.jpg", "z.webp"])
    stored = []
    monkeypatch.setattr(ExactStore, "upsert", lambda self, ids, items: stored.append((list(ids), items)))
    monkeypatch.setattr(index_module._Indexer, "_remove_leftovers", lambda self: None)
    summary = index(model, tmp_path / "images", tmp_path / "out")
    assert summary == IndexSummary(3, 0, 0, 0, 0, {})
    ((ids, items),) = stored
    expected = model.encode_images([files[number] for number in (0, 2, 1)])
    assert ids == [0, 1, 2]
    assert torch.equal(items.embeds, expected.embeds)
    assert torch.equal(items.features.tokens, expected.features.tokens)


def test_nothing_is_encoded_again(model: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_pictures(tmp_path / "images", ["a.png", "b.png", "c.png"], {"a.png": ["a red kite"]})
    index(model, tmp_path / "images", tmp_path / "out")
    ids = ids_by_path(tmp_path / "out")
    monkeypatch.setattr(Retriever, "encode_images", lambda *_, **__: pytest.fail("encoded again"))
    assert index(model, tmp_path / "images", tmp_path / "out") == IndexSummary(0, 0, 0, 0, 3, {})
    os.utime(files[1], (1, 1))
    assert index(model, tmp_path / "images", tmp_path / "out").unchanged == 3
    files[0].rename(tmp_path / "images" / "new.png")
    files[0].with_suffix(".txt").rename(tmp_path / "images" / "new.txt")
    assert index(model, tmp_path / "images", tmp_path / "out") == IndexSummary(0, 0, 1, 0, 2, {})
    assert ids_by_path(tmp_path / "out") == {"new.png": ids["a.png"], "b.png": ids["b.png"], "c.png": ids["c.png"]}
    # the whole folder at another place
    (tmp_path / "images").rename(tmp_path / "moved")
    origin = Origin(weights="weights")
    assert index(model, tmp_path / "moved", tmp_path / "out", origin=origin).unchanged == 3
    assert index(model, tmp_path / "moved", tmp_path / "out").unchanged == 3
    assert Manifest.read(tmp_path / "out").origin == origin
    assert Gallery.open(tmp_path / "out", model).image_path(ids["c.png"]) == tmp_path / "moved" / "c.png"


def test_new_captions_are_encoded_and_pictures_are_not(model: Retriever, tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", ["a.png", "b.png"], {"a.png": ["a red kite"]})
    index(model, tmp_path / "images", tmp_path / "out")
    (tmp_path / "images" / "a.txt").unlink()
    (tmp_path / "images" / "b.txt").write_text("two dogs\n\na dog\n", encoding="utf-8")
    assert index(model, tmp_path / "images", tmp_path / "out") == IndexSummary(0, 2, 0, 0, 0, {})
    found = contents_of(tmp_path / "out")
    assert found["a.png"][1]["captions"] == ()
    assert found["b.png"][1]["captions"] == ("two dogs", "a dog")
    assert found["b.png"][1]["caption"] == "two dogs\na dog"


def test_new_tags_are_found_and_pictures_are_not_encoded_again(
    model: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    write_pictures(images, ["a.png", "b.png", "c.png"])
    metadata = images / "metadata.jsonl"
    metadata.write_text('{"file_name": "a.png", "tags": ["beach"]}\n{"file_name": "b.png", "tags": ["snow"]}\n')
    index(model, images, out)
    with closing(Gallery.open(out, model)) as gallery:
        assert [hit.path for hit in gallery.search("a dog", where="tags contains 'Beach'").hits] == ["a.png"]
    monkeypatch.setattr(Retriever, "encode_images", lambda *_, **__: pytest.fail("encoded again"))
    metadata.write_text('{"file_name": "b.png", "tags": ["snow"]}\n{"file_name": "c.png", "tags": ["beach", "sun"]}\n')
    assert index(model, images, out) == IndexSummary(0, 2, 0, 0, 1, {})
    with closing(Gallery.open(out, model)) as gallery:
        (hit,) = gallery.search("a dog", where="tags contains 'beach'").hits
        assert (hit.path, hit.fields["tags"]) == ("c.png", "beach\nsun")


NAMES = ["a.png", "b.png", "sub/c.png", "sub/d.png"]
changes = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(NAMES), st.integers(0, 3)),
        st.tuples(st.just("remove"), st.sampled_from(NAMES), st.just(0)),
        st.tuples(st.just("damage"), st.sampled_from(NAMES), st.just(0)),
        st.tuples(st.just("caption"), st.sampled_from(NAMES), st.integers(0, 3)),
        st.tuples(st.just("move"), st.sampled_from(NAMES), st.integers(0, 3)),
        st.tuples(st.just("swap"), st.sampled_from(NAMES), st.integers(0, 3)),
    ),
    max_size=5,
)


def apply(folder: Path, kind: str, name: str, number: int, moment: int) -> None:
    """Changes a folder; every written file has another time of change."""
    file, other = folder / name, folder / NAMES[number]
    if kind == "write":
        write_picture(file, number, mtime=moment)
    elif kind == "damage":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"no picture")
        os.utime(file, (moment, moment))
    elif kind == "caption":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".txt").write_text("a dog\n" * number, encoding="utf-8")
    elif file.exists() and kind == "remove":
        file.unlink()
    elif file.exists() and kind == "move":
        other.parent.mkdir(parents=True, exist_ok=True)
        file.replace(other)
    elif file.exists() and other.exists() and file != other:
        file.rename(folder / "kept")
        other.rename(file)
        (folder / "kept").rename(other)


@given(st.lists(changes, min_size=2, max_size=3))
@settings(max_examples=8, deadline=None)
def test_any_changes_give_what_a_fresh_index_gives(model: Retriever, tmp_path_factory, rounds) -> None:
    root = tmp_path_factory.mktemp("random")
    images = root / "images"
    write_picture(images / "first.png", 5)
    moment = 1_000
    for of_round in rounds:
        for change in of_round:
            moment += 1
            apply(images, *change, moment)
        summary = index(model, images, root / "out")
        total = summary.added + summary.changed + summary.moved + summary.unchanged
        assert total >= len(ids_by_path(root / "out"))
    fresh = index(model, images, root / "fresh")
    assert fresh.unreadable == summary.unreadable
    assert_same_contents(root / "out", root / "fresh")
    shutil.rmtree(root)


def test_unreadable_pictures_are_listed_and_left_out(model: Retriever, tmp_path: Path) -> None:
    images = tmp_path / "images"
    good, bad = write_pictures(images, ["good.png", "bad.png"])
    content_before = bad.read_bytes()
    bad.write_bytes(content_before[:200])
    (images / "empty.jpg").touch()
    (images / ".hidden.png").write_bytes(b"x")
    (images / "outside.png").symlink_to(tmp_path / "secret.png")
    write_picture(tmp_path / "secret.png", 7)
    for _ in range(2):
        summary = index(model, images, tmp_path / "out")
        assert summary.unreadable.keys() == {"bad.png", "empty.jpg", "outside.png"}
        assert "cannot be read" in summary.unreadable["bad.png"]
        assert "not a picture" in summary.unreadable["empty.jpg"]
        assert "out of the folder" in summary.unreadable["outside.png"]
    assert contents_of(tmp_path / "out").keys() == {"good.png"}
    good.write_bytes(b"damaged now")
    bad.write_bytes(content_before)
    summary = index(model, images, tmp_path / "out")
    assert (summary.added, summary.removed) == (1, 1)
    assert contents_of(tmp_path / "out").keys() == {"bad.png"}


def test_an_interrupted_run_is_continued(model: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted between the store and the catalogue, and after the first of two parts."""
    write_pictures(tmp_path / "images", ["a.png", "b.png", "c.png"], {"a.png": ["a dog"]})
    monkeypatch.setattr(encoder_module, "PICTURES_PER_STEP", 2)
    puts = []
    put = Catalogue.put

    def interrupted(self, items, caption_ids):
        puts.append(len(items))
        if len(puts) in (1, 3):
            raise KeyboardInterrupt
        put(self, items, caption_ids)

    monkeypatch.setattr(Catalogue, "put", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            index(model, tmp_path / "images", tmp_path / "out")
    summary = index(model, tmp_path / "images", tmp_path / "out")
    assert puts == [2, 2, 1, 1]
    assert (summary.added, summary.unchanged) == (1, 2)
    index(model, tmp_path / "images", tmp_path / "fresh")
    assert_same_contents(tmp_path / "out", tmp_path / "fresh")


def test_vectors_that_were_lost_are_encoded_again(model: Retriever, tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", ["a.png", "b.png"])
    index(model, tmp_path / "images", tmp_path / "out")
    store = ExactStore(tmp_path / "out" / Manifest.read(tmp_path / "out").contents / PICTURES, "write")
    store.delete(store.ids()[:1].tolist())
    store.close()
    assert index(model, tmp_path / "images", tmp_path / "out").added == 1
    assert contents_of(tmp_path / "out").keys() == {"a.png", "b.png"}


def test_batches_are_halved_when_memory_runs_out(
    model: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "images", ["a.png", "b.png", "c.png"])
    encode, sizes = Retriever.encode_images, []

    def full(self, images, *, batch_size):
        sizes.append(batch_size)
        if batch_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, images, batch_size=batch_size)

    monkeypatch.setattr(Retriever, "encode_images", full)
    index(model, tmp_path / "images", tmp_path / "out", batch_size=16)
    assert sizes == [16, 8, 4]
    assert len(contents_of(tmp_path / "out")) == 3


def test_errors_other_than_memory_are_raised(model: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "images", ["a.png"])

    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Retriever, "encode_images", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        index(model, tmp_path / "images", tmp_path / "out")

    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Retriever, "encode_images", full)
    with pytest.raises(UserError, match="a single picture"):
        index(model, tmp_path / "images", tmp_path / "out")


def test_other_weights_are_refused_and_rebuild(model: Retriever, tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", ["a.png", "b.png"])
    out, other = tmp_path / "out", small(seed=1)
    index(model, tmp_path / "images", out)
    with pytest.raises(UserError) as refused:
        index(other, tmp_path / "images", out, origin=Origin(weights="new weights"))
    command = f"ascl index --weights 'new weights' --images {tmp_path / 'images'} --out {out} --rebuild"
    assert str(refused.value).endswith(command)
    with pytest.raises(UserError, match="other weights"):
        Gallery.open(out, other)
    old = Manifest.read(out)
    assert index(other, tmp_path / "images", out, rebuild=True).added == 2
    assert len(Gallery.open(out, other)) == 2
    assert not (out / old.contents).exists()
    index(other, tmp_path / "images", tmp_path / "fresh")
    assert_same_contents(out, tmp_path / "fresh")
    # with the same weights everything is encoded again too
    old = Manifest.read(out)
    assert index(other, tmp_path / "images", out, rebuild=True).added == 2
    assert not (out / old.contents).exists()
    assert_same_contents(out, tmp_path / "fresh")
    assert index(other, tmp_path / "images", out).unchanged == 2


INTERRUPTIONS = [(Catalogue, "put"), (Manifest, "write"), (Manifest, "replaced")]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("owner", "name"), INTERRUPTIONS)
def test_the_old_gallery_answers_until_the_new_one_is_complete(
    model: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner, name: str, seed: int
) -> None:
    """With the same weights and with others, wherever the rebuild is interrupted."""
    images, out, new = tmp_path / "images", tmp_path / "out", small(seed=seed)
    write_pictures(images, ["a.png"])
    index(model, images, out)
    write_picture(images / "b.png", 5)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            index(new, images, out, rebuild=True)
    completed = name == "replaced"
    with closing(Gallery.open(out, new if completed else model)) as gallery:
        assert len(gallery) == 1 + completed
    index(new, images, out, rebuild=not completed)
    with closing(Gallery.open(out, new)) as gallery:
        assert len(gallery) == 2
    assert {path.name for path in out.iterdir()} == {"gallery.json", "lock", Manifest.read(out).contents}


def test_a_second_writer_is_refused_before_anything_is_touched(
    model: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    write_pictures(images, ["a.png"])
    index(model, images, out)
    write_picture(images / "b.png", 5)
    put, refused = Catalogue.put, []

    def put_beside_a_second(self, items, caption_ids):
        for rebuild in (False, True):
            before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
            with pytest.raises(UserError, match=f"another process is writing the gallery '{out}'") as error:
                index(model, images, out, rebuild=rebuild)
            refused.append(error)
            assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
        put(self, items, caption_ids)

    monkeypatch.setattr(Catalogue, "put", put_beside_a_second)
    assert index(model, images, out) == IndexSummary(1, 0, 0, 0, 1, {})
    assert len(refused) == 2


def test_an_empty_folder_is_an_empty_gallery_and_a_missing_one_an_error(model: Retriever, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert index(model, tmp_path / "images", tmp_path / "out") == IndexSummary(0, 0, 0, 0, 0, {})
    assert len(Gallery.open(tmp_path / "out", model)) == 0
    with pytest.raises(UserError, match="no such folder"):
        index(model, tmp_path / "nowhere", tmp_path / "out")


def test_a_folder_that_lost_all_pictures_does_not_empty_the_gallery(model: Retriever, tmp_path: Path) -> None:
    """As a mount point does without its disk."""
    write_pictures(tmp_path / "images", ["a.png"])
    index(model, tmp_path / "images", tmp_path / "out")
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").mkdir()
    for rebuild in (False, True):
        with pytest.raises(UserError, match="check that the disk is mounted"):
            index(model, tmp_path / "images", tmp_path / "out", rebuild=rebuild)
    assert len(Gallery.open(tmp_path / "out", model)) == 1


def test_galleries_inside_the_folder_are_not_indexed(model: Retriever, tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png"])
    index(model, tmp_path, tmp_path / "out")
    write_picture(tmp_path / "out" / "thumbnail.png", 3)
    assert index(model, tmp_path, tmp_path / "out") == IndexSummary(0, 0, 0, 0, 1, {})


def test_a_damaged_gallery_is_named(model: Retriever, tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", ["a.png"])
    index(model, tmp_path / "images", tmp_path / "out")
    (tmp_path / "out" / "gallery.json").write_text('{"format": "ascl_lightning gallery 1", "model": "../../x"}')
    with pytest.raises(UserError, match="is damaged"):
        Gallery.open(tmp_path / "out", model)
    with pytest.raises(UserError, match="is not a gallery"):
        Gallery.open(tmp_path / "images", model)
