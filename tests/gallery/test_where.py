"""Filters of a gallery against loops over rows, and one clear error for what is not a filter."""

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.reference.gallery import fulfils, written

from ascl_lightning.errors import UserError
from ascl_lightning.gallery.catalogue import Catalogue, Item, Stamp
from ascl_lightning.gallery.where import FIELDS, Comparison, Joined, Not, parse_filter

ITEMS = [
    Item("2023/kite.jpg", Stamp(100, 1), "a", 640, 480, "2023-12-31T23:59:59", ("a red kite",), ("Kite", "party")),
    Item("2024/Dog's day.jpg", Stamp(2_000, 2), "b", 1_600, 900, "2024-01-01T00:00:00", ("Ein Straßenhund", "a dog")),
    Item("plain.png", Stamp(300, 3), "c", 640, 640, tags=("dog", "STRASSE")),
    Item("100%_sure.png", Stamp(300, 4), "d", 3, 4, None, ("percent % and _ underscore",)),
]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> Catalogue:
    made = Catalogue(tmp_path_factory.mktemp("gallery") / "catalogue.sqlite", "write")
    made.put(
        dict(enumerate(ITEMS)),
        {number: [10 * number + place for place in range(len(item.captions))] for number, item in enumerate(ITEMS)},
    )
    return made


numbers = st.sampled_from([0, 1, 3, 4, 12, 100, 300, 480, 640, 640.5, 2023, 2024, 1e3, -5])
texts = st.sampled_from(["", "kite", "KITE", "dog", "STRASSE", "%", "_", "2024", "2023-12-31T23:59:59", "plain.png"])
comparisons = st.one_of(
    st.builds(
        Comparison,
        st.sampled_from([name for name, kind in FIELDS.items() if kind is int]),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        numbers,
    ),
    st.builds(
        Comparison,
        st.sampled_from([name for name, kind in FIELDS.items() if kind is str]),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "contains"]),
        texts,
    ),
    st.builds(Comparison, st.just("tags"), st.just("contains"), texts),
)
filters = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(Not, inner), st.builds(Joined, st.sampled_from(["and", "or"]), st.tuples(inner, inner, inner))
    ),
    max_leaves=9,
)


@given(filters)
@settings(max_examples=200, deadline=None)
def test_a_filter_selects_what_a_loop_over_rows_selects(catalogue: Catalogue, tree) -> None:
    assume(written(tree).count("not") < 7)
    assert parse_filter(written(tree)) == tree
    rows = catalogue.fields(range(len(ITEMS)))
    assert catalogue.where(written(tree)).tolist() == [number for number, row in rows.items() if fulfils(row, tree)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("year >= 2024 and width > 1000", [1]),
        ("YEAR == 2023 OR caption CONTAINS 'dog'", [0, 1]),
        ("not year = 2024", [0, 2, 3]),
        ("year != 2024", [0]),
        ("width = 640 and height = 480 or width = 3", [0, 3]),
        ("width = 640 and (height = 480 or width = 3)", [0]),
        ('path contains "Dog\'s"', [1]),
        ("taken < '2024'", [0]),
        ("width<=640.0 and size>1e2", [2, 3]),
        ("folder = ''", [2, 3]),
        ("name = 'kite.jpg'", [0]),
        ("month = 1", [1]),
        ("tags contains 'kite'", [0]),
        ("not tags contains 'straße'", [0, 1, 3]),
        # no tag is a part of another
        ("tags contains 'art'", []),
    ],
)
def test_filters_worked_out_by_hand(catalogue: Catalogue, text: str, found: list[int]) -> None:
    assert catalogue.where(text).tolist() == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" ", "empty"),
        ("yaer > 3", "did you mean 'year'"),
        ("colour = 'red'", "choose from id, path"),
        ("hash = 'a'", "not a field"),
        ("year", "expected a comparison"),
        ("year >", "expected a value"),
        ("year ~ 3", "cannot read '~ 3'"),
        ("year > red", "neither a number nor a text"),
        ("year > 'red'", "with a number, not with 'red'"),
        ("caption = 3", "with a text in quotes, not with 3"),
        ("tags = 'kite'", 'tags is a list: ask what it contains, as in tags contains "beach"'),
        ("tags contains 3", "with a text in quotes, not with 3"),
        ("year contains 3", "needs a field that is a text"),
        ("(year > 3", "closing bracket"),
        ("year > 3)", "found ')'"),
        ("year > 3 width > 3", "found 'width'"),
        ("year and 3", "does not compare"),
        ("not", "expected a field"),
        ("caption = 'red", "cannot read"),
        ("id = 1; DROP TABLE items", "cannot read"),
        ("(" * 60 + "id = 1" + ")" * 60, "nested"),
        ("not " * 60 + "id = 1", "nested"),
        ("id = 1 or " * 300 + "id = 1", "3,006 characters"),
    ],
)
def test_what_is_not_a_filter_is_named(text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        parse_filter(text)
    assert said in str(error.value)
    assert str(error.value).startswith("--where")


def test_values_never_become_sql(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "catalogue.sqlite", "write")
    catalogue.put({5: Item("a.png", Stamp(1, 1), "h", 1, 1)}, {})
    assert catalogue.where("path = \"a.png' OR '1'='1\"").tolist() == []
    assert catalogue.where('path contains "\'); DROP TABLE items; --"').tolist() == []
    assert len(catalogue) == 1


def test_the_longest_filter_is_not_too_deep_for_the_database(catalogue: Catalogue) -> None:
    assert catalogue.where(" or ".join(["id=1"] * 220)).tolist() == [1]
    assert catalogue.where("not (" * 8 + "id=1" + ")" * 8).tolist() == [1]
