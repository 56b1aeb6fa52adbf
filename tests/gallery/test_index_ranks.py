"""Several processes make the gallery that one process makes, and the work of lost ones is not lost."""

from contextlib import closing
from pathlib import Path

import pytest
import torch
from tests.helpers.galleries import assert_same_contents, contents_of, ids_by_path, write_picture, write_pictures
from tests.helpers.milvus_server import milvus_server
from tests.helpers.processes import run_ranks
from tests.helpers.retrievers import small

from ascl_lightning import Gallery, UserError
from ascl_lightning.gallery import encoder as encoder_module
from ascl_lightning.gallery.catalogue import Catalogue
from ascl_lightning.gallery.index import index
from ascl_lightning.gallery.manifest import CAPTIONS, CATALOGUE, Manifest
from ascl_lightning.gallery.stores import open_store
from ascl_lightning.runtime.distributed import rank

NAMES = [f"{number}.png" for number in range(7)]
WORDS = {"0.png": ["a red kite", "a kite"], "3.png": ["two dogs"], "6.png": ["a blue dog"]}


def caption_vectors(out: Path) -> dict[int, tuple[str, list[float]]]:
    manifest = Manifest.read(out)
    with Catalogue(out / manifest.contents / CATALOGUE) as catalogue:
        texts = catalogue.captions_of(catalogue.caption_ids().tolist())
    with closing(open_store(manifest, out, CAPTIONS)) as store:
        ids = store.ids().tolist()
        embeds = store.items(ids).embeds.tolist()
    return {number: (texts[number], embed) for number, embed in zip(ids, embeds, strict=True)}


def damage(file: Path) -> None:
    file.write_bytes(b"no picture")


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_several_processes_make_the_gallery_of_one(tmp_path: Path, num_ranks: int) -> None:
    images, out, single = tmp_path / "images", tmp_path / "out", tmp_path / "single"
    write_pictures(images, NAMES, WORDS)
    damage(images / "5.png")
    for change in range(2):
        if change:
            # new, changed, removed, moved and damaged ones
            for seed, name in enumerate(["new.png", "0.png", "also new.png", "6.png"]):
                write_picture(images / name, 20 + seed)
            damage(images / "1.png")
            (images / "2.png").unlink()
            (images / "3.png").rename(images / "moved.png")
        summaries = run_ranks(index, num_ranks, small(), images, out)
        assert summaries == [index(small(), images, single)] * num_ranks
        assert summaries[0].unreadable.keys() == ({"5.png"}, {"1.png", "5.png"})[change]
        assert ids_by_path(out) == ids_by_path(single)
        assert_same_contents(out, single)
        ours, theirs = caption_vectors(out), caption_vectors(single)
        assert ours.keys() == theirs.keys()
        for number, (text, embed) in ours.items():
            assert text == theirs[number][0]
            assert embed == pytest.approx(theirs[number][1], abs=2e-3)
        assert not list((out / Manifest.read(out).contents / "parts").iterdir())


def index_until(lost: int, images: Path, out: Path) -> str:
    """One rank ends after it has written one of its pictures."""
    encoder_module.PICTURES_PER_STEP = 1
    put = Catalogue.put

    def put_and_end(self, items, caption_ids) -> None:
        put(self, items, caption_ids)
        raise KeyboardInterrupt

    if rank() == lost:
        Catalogue.put = put_and_end
    try:
        index(small(), images, out)
    except UserError as error:
        return str(error)
    except KeyboardInterrupt:
        return "interrupted"
    return "complete"


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_rank_ends_the_others_and_the_next_call_continues(tmp_path: Path, lost: int, monkeypatch) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    write_pictures(images, NAMES, WORDS)
    said = run_ranks(index_until, 2, lost, images, out)
    assert said[lost] == "interrupted"
    assert said[1 - lost].startswith("another process of this command has ended")
    encoded = []
    encode = encoder_module.PictureEncoder._encode_pictures
    monkeypatch.setattr(
        encoder_module.PictureEncoder,
        "_encode_pictures",
        lambda self, pictures: encoded.append(len(pictures)) or encode(self, pictures),
    )
    # rank 0 has three pictures, rank 1 four
    assert index(small(), images, out).unchanged == 7 - sum(encoded)
    assert sum(encoded) == (2, 3)[lost]
    index(small(), images, tmp_path / "fresh")
    assert_same_contents(out, tmp_path / "fresh")


@pytest.mark.slow
def test_milvus_takes_vectors_from_all_ranks(tmp_path: Path) -> None:
    images, out, plain = tmp_path / "images", tmp_path / "out", tmp_path / "plain"
    write_pictures(images, NAMES, WORDS)
    uri = milvus_server()
    (first, _) = run_ranks(index_in, 2, images, out, uri)
    assert first.added == 7
    index(small(), images, plain)
    assert contents_of(out).keys() == contents_of(plain).keys()
    with closing(Gallery.open(out, small())) as ours, closing(Gallery.open(plain, small())) as theirs:
        queries = small().encode_texts(["a red kite", "two dogs"]).embeds
        found, expected = (each.store.search(queries, 7) for each in (ours, theirs))
        torch.testing.assert_close(found.scores, expected.scores, atol=2e-3, rtol=0)
        assert found.ids.sort().values.tolist() == expected.ids.sort().values.tolist()
        assert ours.store._database.execute("SELECT count(*) FROM pending").fetchone()[0] == 0


def index_in(images: Path, out: Path, store: str):
    return index(small(), images, out, store=store)


def refused(images: Path, out: Path) -> str:
    try:
        index(small(), images, out, store=str(out / "milvus.db"))
    except UserError as error:
        return str(error)
    return "accepted"


def test_milvus_lite_is_refused_for_several_processes(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", ["a.png"])
    said, _ = run_ranks(refused, 2, tmp_path / "images", tmp_path / "out")
    assert said.startswith("Milvus Lite serves one process")
