import os

import pytest
import yaml

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.yaml_files import MAX_DEPTH, MAX_NODES, check_yaml, read_config

CYCLE = "a: &a [1, *a]"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CYCLE, "contains itself"),
        ("&a {b: {c: *a}}", "contains itself"),
        (BOMB, "more than 100,000 values"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "levels deep"),
        ("a: 1\nb: 2\na: 3", "'a' is repeated"),
        ("x: {a: 1, 'a': 2}", "'a' is repeated"),
        ("[1, 2", "expected"),
    ],
)
def test_malformed_documents_are_refused(text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        check_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a: &a {b: 1}\nc: *a\nd: {b: 2, <<: *a}",
        "[a, a, a]",
        "a: [{b: 1}, {b: 2}]",
        "{a: b, b: a}",
        "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        "[" + "1, " * (MAX_NODES - 2) + "1]",
    ],
)
def test_harmless_documents_pass(text):
    check_yaml(text)


def test_one_value_too_many_is_refused():
    with pytest.raises(yaml.YAMLError):
        check_yaml("[" + "1, " * (MAX_NODES - 1) + "1]")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\xff", "not a text file in UTF-8"),
        (b"a: \x00", "special characters are not allowed|control characters"),
        (b"", "the file is empty"),
        (b"# nothing\n", "the file is empty"),
        (b"[1, 2]", "found a list"),
        (b"trainer", "found a str"),
        (b"1: 2", "name: value"),
        (b"a: 1\nb: [", "line [23]: "),
        (CYCLE.encode(), "line 1: the anchor 'a' contains itself"),
    ],
)
def test_a_faulty_file_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "faulty.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert "unicode string" not in str(caught.value)


def test_a_pipe_and_a_folder_are_refused_without_opening_them(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, message in (("pipe.yaml", "not a regular file"), (".", "not a regular file"), ("none", "no such file")):
        with pytest.raises(UserError, match=message):
            read_config(tmp_path / name)


def test_a_config_is_read_as_a_mapping(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1\nb: {c: [x]}")
    assert read_config(tmp_path / "a.yaml") == {"a": 1, "b": {"c": ["x"]}}
