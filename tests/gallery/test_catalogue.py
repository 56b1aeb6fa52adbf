"""The catalogue: what is written is read, by another process too, and a failed change leaves nothing."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ascl_lightning.errors import UserError
from ascl_lightning.gallery.catalogue import Catalogue, Item, Stamp

KITE = Item(
    "a/kite.jpg", Stamp(10, 20), "k", 3, 4, "2024-05-31T12:00:00", ("a kite", "a red kite"), ("Beach", "two words")
)
DOG = Item("dog.jpg", Stamp(11, 21), "d", 5, 6)


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    made = Catalogue(tmp_path / "new" / "catalogue.sqlite", "write")
    made.put({7: KITE, 9: DOG}, {7: [1, 2]})
    return made


def test_items_have_their_fields(catalogue: Catalogue) -> None:
    assert len(catalogue) == 2
    assert catalogue.ids().tolist() == [7, 9]
    assert catalogue.fields([9, 7, 8]) == {
        7: {
            "id": 7,
            "path": "a/kite.jpg",
            "folder": "a",
            "name": "kite.jpg",
            "size": 10,
            "width": 3,
            "height": 4,
            "taken": "2024-05-31T12:00:00",
            "year": 2024,
            "month": 5,
            "caption": "a kite\na red kite",
            "tags": "Beach\ntwo words",
        },
        9: {
            "id": 9,
            "path": "dog.jpg",
            "folder": "",
            "name": "dog.jpg",
            "size": 11,
            "width": 5,
            "height": 6,
            "taken": None,
            "year": None,
            "month": None,
            "caption": None,
            "tags": None,
        },
    }
    assert catalogue.stamps() == {"a/kite.jpg": (7, Stamp(10, 20), "k"), "dog.jpg": (9, Stamp(11, 21), "d")}
    assert catalogue.captions() == {7: ("a kite", "a red kite")}
    assert catalogue.captions_of([2, 1, 3]) == {1: (7, "a kite"), 2: (7, "a red kite")}


def test_a_reader_sees_what_was_written_and_writes_nothing(catalogue: Catalogue, tmp_path: Path) -> None:
    with Catalogue(tmp_path / "new" / "catalogue.sqlite") as reader:
        assert reader.ids().tolist() == [7, 9]
        catalogue.remove([7])
        assert reader.ids().tolist() == [9]
        assert reader.caption_ids().tolist() == []
        with pytest.raises(UserError, match="attempt to write a readonly database"):
            reader.remove([9])


def test_items_are_replaced_by_id(catalogue: Catalogue) -> None:
    catalogue.put({9: KITE, 7: DOG}, {9: [3, 4]})  # which also swaps their paths
    assert catalogue.captions() == {9: ("a kite", "a red kite")}
    assert catalogue.fields([7])[7]["path"] == "dog.jpg"


def test_items_swap_their_paths(catalogue: Catalogue) -> None:
    catalogue.relocate({7: ("dog.jpg", Stamp(1, 2)), 9: ("a/kite.jpg", Stamp(3, 4))})
    assert catalogue.stamps() == {"dog.jpg": (7, Stamp(1, 2), "k"), "a/kite.jpg": (9, Stamp(3, 4), "d")}
    assert catalogue.fields([9])[9]["folder"] == "a"


def test_captions_are_replaced(catalogue: Catalogue) -> None:
    catalogue.set_captions({7: [(5, "two dogs")], 9: []})
    assert catalogue.captions() == {7: ("two dogs",)}
    assert catalogue.where("caption = 'two dogs'").tolist() == [7]


def test_tags_are_replaced(catalogue: Catalogue) -> None:
    assert catalogue.tags() == {7: ("Beach", "two words")}
    catalogue.set_tags({7: [], 9: ["snow"]})
    assert catalogue.tags() == {9: ("snow",)}


def test_a_catalogue_from_before_there_were_tags_is_read_and_written(catalogue: Catalogue, tmp_path: Path) -> None:
    catalogue.close()
    file = tmp_path / "new" / "catalogue.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.execute("ALTER TABLE items DROP COLUMN tags")
    with Catalogue(file) as reader:
        assert reader.fields([7])[7]["tags"] is None
        assert reader.tags() == {}
        assert reader.where("tags contains 'beach'").tolist() == []
        assert reader.where("name = 'kite.jpg'").tolist() == [7]
    with Catalogue(file, "write") as writer:
        writer.set_tags({7: ["Beach"]})
    with Catalogue(file) as reader:
        assert reader.where("tags contains 'beach'").tolist() == [7]


def test_ids_are_never_used_again(catalogue: Catalogue, tmp_path: Path) -> None:
    assert catalogue.new_ids(3) == range(3)
    assert catalogue.new_ids(2, "captions") == range(2)
    catalogue.remove([7, 9])
    catalogue.close()
    with Catalogue(tmp_path / "new" / "catalogue.sqlite", "write") as again:
        assert again.new_ids(2) == range(3, 5)


def test_a_failed_change_leaves_nothing(catalogue: Catalogue) -> None:

    def fail() -> None:
        with catalogue.change():
            catalogue.remove([7])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(UserError, match="UNIQUE"):
        catalogue.put({1: Item("b.jpg", Stamp(0, 0), "b", 1, 1), 2: DOG}, {})
    assert catalogue.ids().tolist() == [7, 9]
    assert catalogue.captions_of([1, 2]).keys() == {1, 2}


def test_unreadable_files_are_remembered_until_they_can_be_read(catalogue: Catalogue) -> None:
    catalogue.set_unreadable({"x.jpg": (Stamp(1, 2), "empty"), "y.jpg": (Stamp(3, 4), "damaged")})
    assert catalogue.unreadable() == {"x.jpg": (Stamp(1, 2), "empty"), "y.jpg": (Stamp(3, 4), "damaged")}
    catalogue.put({3: Item("x.jpg", Stamp(5, 6), "x", 1, 1)}, {})
    catalogue.set_unreadable({}, ["y.jpg"])
    assert catalogue.unreadable() == {}


def test_many_ids_are_looked_up(catalogue: Catalogue) -> None:
    assert catalogue.fields(np.arange(3_000).tolist()).keys() == {7, 9}


def test_what_is_no_catalogue_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unable to open"):
        Catalogue(tmp_path / "catalogue.sqlite").ids()
    (tmp_path / "catalogue.sqlite").write_bytes(b"x" * 4096)
    with pytest.raises(UserError, match="file is not a database; build the gallery again"):
        Catalogue(tmp_path / "catalogue.sqlite").ids()
