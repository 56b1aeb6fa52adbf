"""Tags from metadata files of the hub's format."""

from pathlib import Path

import pytest
from tests.helpers.galleries import write_pictures

from ascl_lightning.errors import UserError
from ascl_lightning.gallery.pictures import list_pictures
from ascl_lightning.gallery.tags import tags_in


def test_lists_and_texts_with_commas_are_tags(tmp_path: Path) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text(
        '{"file_name": "a.png", "tags": ["beach", " two\\nwords ", "beach"], "text": "x"}\n\n'
        '{"file_name": "b.png", "tags": "snow, , dog"}\n'
        '{"file_name": "c.png", "tags": []}\n{"file_name": "d.png"}\n{"tags": ["x"]}\n'
    )
    assert tags_in(file) == {"a.png": ("beach", "two words"), "b.png": ("snow", "dog"), "c.png": ()}
    table = tmp_path / "metadata.csv"
    table.write_text('file_name,tags\na.png,"beach, snow"\nb.png,\nc.png,dog\n')
    assert tags_in(table) == {"a.png": ("beach", "snow"), "c.png": ("dog",)}
    table.write_text("picture,year\na.png,2024\n")
    assert tags_in(table) == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file_name": "a.png", "tags": 3}', r"line 1: field 'tags'"),
        ('{"file_name": "a.png", "tags": ["x", 3]}', r"line 1: field 'tags\[1\]'"),
        ('{"file_name": 3, "tags": []}', r"line 1: field 'file_name'"),
        ('{"file_name"', r"line 1: "),
    ],
)
def test_what_is_no_tag_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(UserError, match=f"metadata.jsonl, {said}"):
        tags_in(tmp_path / "metadata.jsonl")


def test_the_nearest_folder_says_the_tags(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png", "sub/b.png", "sub/c.png"])
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "tags": ["one"]}\n{"file_name": "sub/b.png", "tags": ["two"]}\n'
        '{"file_name": "sub/c.png", "tags": ["three"]}\n{"file_name": "gone.png", "tags": ["four"]}\n'
    )
    (tmp_path / "sub" / "metadata.csv").write_text("file_name,tags\nc.png,five\n")
    assert list_pictures(tmp_path).tags == {"a.png": ("one",), "sub/b.png": ("two",), "sub/c.png": ("five",)}
