"""The inverted file: recall, items written and removed after it was built, and stores without it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.gallery.test_exact_store import without_tokens
from tests.helpers.encodings import random_embeds

from ascl_lightning.gallery import ivf_store
from ascl_lightning.gallery.exact_store import ExactStore
from ascl_lightning.gallery.inverted_file import InvertedFile
from ascl_lightning.gallery.ivf_store import IvfStore

pytest.importorskip("faiss")

ITEMS, WIDTH = 6000, 32


def clustered(number: int, seed: int) -> torch.Tensor:
    """Items around 20 centres, which are the same for all seeds."""
    draws = np.random.default_rng(seed)
    centres = random_embeds(20, seed=0, width=WIDTH)[draws.integers(0, 20, number)]
    noise = torch.from_numpy(draws.standard_normal(centres.shape)).float()
    return F.normalize(centres + 0.5 * F.normalize(noise, dim=1), dim=1)


def written(folder: Path, embeds: torch.Tensor) -> IvfStore:
    store = IvfStore(folder, "write", smallest=1000)
    for ids in torch.arange(len(embeds)).split(1500):
        store.upsert(ids.tolist(), without_tokens(embeds[ids]))
    return store


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("indexed")
    store = written(folder, clustered(ITEMS, seed=1))
    store.update_index()
    store.close()
    return folder


def test_recall_is_measured_and_scores_are_exact(folder):
    built = InvertedFile.load(folder / "ivf")
    assert 0 < built.probes < built.index.nlist
    queries = clustered(100, seed=2)
    found, expected = IvfStore(folder, smallest=1000).search(queries, 64), ExactStore(folder).search(queries, 64)
    shared = [len({*ours} & {*theirs}) for ours, theirs in zip(found.ids.tolist(), expected.ids.tolist(), strict=True)]
    assert np.mean(shared) / 64 >= 0.98
    stored = ExactStore(folder).items(found.ids[0].tolist()).embeds
    torch.testing.assert_close(found.scores[0], stored @ queries[0])
    assert bool((found.scores.diff(dim=1) <= 0).all())


def test_a_filter_and_few_items_are_searched_exactly(folder):
    queries, allowed = clustered(5, seed=3), np.arange(0, ITEMS, 3)
    for store, asked in ((IvfStore(folder, smallest=1000), allowed), (IvfStore(folder), None)):
        found, expected = store.search(queries, 50, asked), ExactStore(folder).search(queries, 50, asked)
        assert torch.equal(found.ids, expected.ids)


def test_later_items_are_found_and_removed_or_moved_ones_are_not(tmp_path):
    embeds = clustered(ITEMS, seed=1)
    store = written(tmp_path, embeds)
    store.update_index()
    built = (tmp_path / "ivf").stat().st_mtime_ns
    query = clustered(1, seed=4)
    removed = store.search(query, 5).ids[0].tolist()
    store.delete(removed)
    # one that was near is now far, and a new one is the query itself
    moved = store.search(query, 1).ids[0].tolist()
    store.upsert([*moved, 2 * ITEMS], without_tokens(torch.cat([-query, query])))
    found = store.search(query, 20)
    assert found.ids[0, 0] == 2 * ITEMS
    assert not {*removed, *moved} & {*found.ids[0].tolist()}
    assert len({*found.ids[0].tolist()}) == 20
    store.update_index()
    assert (tmp_path / "ivf").stat().st_mtime_ns == built, "few items have changed"
    store.delete(range(1000))
    store.update_index()
    assert (tmp_path / "ivf").stat().st_mtime_ns != built
    assert InvertedFile.load(tmp_path / "ivf").num_items == store.count()
    assert store.search(query, 1).ids.tolist() == [[2 * ITEMS]]
    # more than the cells that are read may have
    assert (store.search(query, store.count()).ids >= 0).all()
    store.close()


def test_without_clusters_a_scan_is_as_fast(tmp_path):
    store = written(tmp_path, random_embeds(4000, seed=0, width=WIDTH))
    store.update_index()
    assert InvertedFile.load(tmp_path / "ivf").probes == 0
    query = random_embeds(1, seed=1, width=WIDTH)
    assert torch.equal(store.search(query, 30).ids, ExactStore(tmp_path).search(query, 30).ids)
    store.close()


def test_a_damaged_index_is_built_again(tmp_path):
    store = written(tmp_path, clustered(2000, seed=1))
    store.update_index()
    file = tmp_path / "ivf" / "index.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    reader, query = IvfStore(tmp_path, smallest=1000), clustered(1, seed=5)
    assert torch.equal(reader.search(query, 30).ids, ExactStore(tmp_path).search(query, 30).ids)
    store.close()
    store = IvfStore(tmp_path, "write", smallest=1000)
    store.update_index()
    assert InvertedFile.load(tmp_path / "ivf").num_items == 2000
    store.close()


def test_without_faiss_searches_are_exact_and_the_package_is_named(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(ivf_store, "has_faiss", lambda: False)
    query = clustered(1, seed=6)
    assert torch.equal(IvfStore(folder, smallest=1000).search(query, 30).ids, ExactStore(folder).search(query, 30).ids)
    store = written(tmp_path, clustered(1500, seed=1))
    store.update_index()
    message = f"'{tmp_path}' has 1,500 items: pip install 'ascl-lightning[faiss]' and index again to search them faster"
    assert caplog.messages == [message]
    store.delete(range(1000))
    store.update_index()
    assert len(caplog.messages) == 1
    assert not (tmp_path / "ivf").exists()
    store.close()
