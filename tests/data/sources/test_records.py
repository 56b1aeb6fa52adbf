import re

import pytest

from ascl_lightning.data.sources.records import Record, caption_faults
from ascl_lightning.errors import UserError


def test_fields_are_given_as_they_are() -> None:
    record = Record({"text": " Grüße 🐕 ", "id": 7, "name": "x", "list": ["a", "b"], "none": None}, "f")
    assert record.text("text") == " Grüße 🐕 "
    assert record.identifier("id") == "7"
    assert record.identifier("name") == "x"
    assert record.captions("list") == ("a", "b")
    assert record.has("id")
    assert not record.has("none")
    assert not record.has("nothing")


@pytest.mark.parametrize(
    ("method", "value", "problem"),
    [
        ("text", 3, "'key' must be text, not a number"),
        ("text", 3.5, "'key' must be text, not a number"),
        ("text", True, "'key' must be text, not true or false"),
        ("text", None, "'key' must be text, not null"),
        ("text", ["a"], "'key' must be text, not a list"),
        ("text", "", "'key' is blank"),
        ("text", " \t\n\u3000", "'key' is blank"),
        ("text", "\ud83d", "'key' holds half of a character"),
        ("captions", "a", "'key' must be a list, not text"),
        ("captions", ["a", ""], "'key[1]' is blank"),
        ("captions", ["a", {}], "'key[1]' must be text, not an object"),
        ("identifier", True, "'key' must be text, not true or false"),
        ("identifier", 1.0, "'key' must be text, not a number"),
        ("identifier", " ", "'key' is blank"),
    ],
)
def test_wrong_fields_are_named(method: str, value: object, problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"file, line 3: field {problem}")):
        getattr(Record({"key": value}, "file, line 3"), method)("key")


@pytest.mark.parametrize("method", ["text", "captions", "identifier"])
def test_missing_fields_are_named(method: str) -> None:
    with pytest.raises(UserError, match=re.escape("file, line 3: field 'key' is missing")):
        getattr(Record({}, "file, line 3"), method)("key")


def test_nested_records_know_where_they_are() -> None:
    record = Record({"images": [{"a": "x"}, 5]}, "f.json")
    records = record.records("images")
    assert next(records).where == "f.json, images[0]"
    with pytest.raises(UserError, match=re.escape("f.json, images[1]: expected an object with fields, found a number")):
        next(records)


def test_faults_of_captions_can_be_collected() -> None:
    record = Record({"one": " ", "many": ["a", 3, "", "b"]}, "f, line 2")
    with caption_faults() as faults:
        assert record.caption("one") == ()
        assert record.captions("many") == ("a", "b")
    assert [(fault.message.removeprefix("f, line 2: field "), fault.is_blank) for fault in faults] == [
        ("'one' is blank", True),
        ("'many[1]' must be text, not a number", False),
        ("'many[2]' is blank", True),
    ]
    with pytest.raises(UserError, match=re.escape("'one' is blank")):
        record.caption("one")
