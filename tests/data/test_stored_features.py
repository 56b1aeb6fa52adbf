import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ascl_lightning.data.batch import Features
from ascl_lightning.data.stored_features import (
    SHARD_ROWS,
    FeatureTable,
    Manifest,
    TextFeatures,
    TextRows,
    missing_shards,
    write_shard,
)
from ascl_lightning.errors import UserError


def features(*lengths: int) -> Features:
    """Items of so many tokens; every number is representable in 16 bits, and padding is poison."""
    tokens = torch.full((len(lengths), max(lengths), 2), torch.nan)
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.bool)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.arange(2.0 * length).view(length, 2) + 100 * row
        mask[row, :length] = True
    return Features(torch.arange(3.0 * len(lengths)).view(-1, 3), tokens, mask)


def table(folder: Path, *parts: Features, dtype="float16") -> FeatureTable:
    manifest = Manifest("tower", "items", sum(len(part.pooled) for part in parts), dtype)
    manifest.write(folder)
    write_shard(folder, 0, parts, dtype)
    return FeatureTable(folder)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_come_back_in_any_order_without_their_padding(tmp_path, dtype):
    first, second = features(2, 4), features(1)
    stored = table(tmp_path, first, second, dtype=dtype)
    assert len(stored) == 3
    got = stored.gather(torch.tensor([2, 1, 0]))
    assert got.mask.sum(dim=1).tolist() == [1, 4, 2]
    torch.testing.assert_close(got.pooled, torch.cat([second.pooled, first.pooled.flip(0)]))
    torch.testing.assert_close(got.tokens[1], first.tokens[1])
    torch.testing.assert_close(got.tokens[2, :2], first.tokens[0, :2])
    assert torch.equal(got.tokens[2, 2:], torch.zeros(2, 2))
    assert got.tokens.dtype == got.pooled.dtype == torch.float32
    # attention has no maximum over no tokens at all
    assert stored.gather(torch.tensor([], dtype=torch.long)).tokens.shape == (0, 1, 2)


@pytest.mark.parametrize("lengths", [[3] * 10, [1, 3, 2, 0, 3, 1, 1, 2, 3, 3]])
def test_rows_of_several_shards(tmp_path, monkeypatch, lengths):
    monkeypatch.setattr("ascl_lightning.data.stored_features.SHARD_ROWS", 4)
    whole = features(*lengths)
    manifest = Manifest("tower", "items", 10)
    manifest.write(tmp_path)
    assert (manifest.num_shards, list(manifest.shard_rows(2))) == (3, [8, 9])
    for number in (2, 0, 1):
        rows = manifest.shard_rows(number)
        part = Features(*(field[rows.start : rows.stop] for field in (whole.pooled, whole.tokens, whole.mask)))
        write_shard(tmp_path, number, [part], "float16")
    rows = torch.tensor([9, 0, 5, 3, 3, 8, 4])
    got = FeatureTable(tmp_path).gather(rows)
    longest = int(whole.mask[rows].sum(dim=1).max())
    assert torch.equal(got.mask, whole.mask[rows, :longest])
    assert torch.equal(got.tokens, whole.tokens[rows, :longest].nan_to_num(0))
    assert torch.equal(got.pooled, whole.pooled[rows])
    assert FeatureTable(tmp_path).is_empty.tolist() == [length == 0 for length in lengths]


def test_tokens_that_nobody_needs_are_not_read(tmp_path, monkeypatch):
    first = features(2, 4)
    stored = table(tmp_path, first)
    monkeypatch.setattr("ascl_lightning.data.feature_shards.FeatureShard.copy_tokens", None)
    got = stored.pooled_alone().gather(torch.tensor([1, 0, 1]))
    torch.testing.assert_close(got.pooled, first.pooled[[1, 0, 1]])
    assert got.tokens.shape == (3, 0, 2)
    assert got.mask.shape == (3, 0)
    with pytest.raises(TypeError):
        stored.gather(torch.tensor([0]))


def test_an_unfinished_table_is_not_opened(tmp_path):
    with pytest.raises(UserError, match="there are no extracted features"):
        FeatureTable(tmp_path)
    Manifest("tower", "items", SHARD_ROWS + 1).write(tmp_path)
    write_shard(tmp_path, 0, [features(*[1] * SHARD_ROWS)], "bfloat16")
    assert missing_shards(tmp_path, Manifest("tower", "items", SHARD_ROWS + 1)) == [1]
    with pytest.raises(UserError, match="1 of 2 shards are missing"):
        FeatureTable(tmp_path)


def test_shards_of_other_towers_or_data_are_removed(tmp_path):
    table(tmp_path, features(2, 4))
    kept = Manifest("tower", "items", 2)
    kept.write(tmp_path)
    assert missing_shards(tmp_path, kept) == []
    other = Manifest("another tower", "items", 2)
    other.write(tmp_path)
    assert missing_shards(tmp_path, other) == [0]


@pytest.mark.parametrize("content", ["", "{}", "[]", json.dumps({"encoder": "x"}), '{"a": 1}'])
def test_a_damaged_manifest_is_named(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest"):
        FeatureTable(tmp_path)


@pytest.mark.parametrize("field", ["pooled", "tokens", "lengths"])
def test_arrays_of_a_shard_that_do_not_fit_together_are_named(tmp_path, field):
    table(tmp_path, features(2, 1))
    file = tmp_path / "00000" / f"{field}.npy"
    np.save(file, np.load(file)[:1])
    with pytest.raises(UserError, match=r"00000: the arrays of this shard do not fit together"):
        FeatureTable(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"\x93NUMPY\x01\x00v\x00{'descr': "])
def test_a_damaged_shard_is_named(tmp_path, content):
    table(tmp_path, features(2))
    (tmp_path / "00000" / "tokens.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"00000/tokens\.npy: not a readable array"):
        FeatureTable(tmp_path)


def test_a_pipe_in_place_of_features_is_not_opened(tmp_path):
    table(tmp_path, features(2))
    (tmp_path / "00000" / "tokens.npy").unlink()
    os.mkfifo(tmp_path / "00000" / "tokens.npy")
    with pytest.raises(UserError, match=r"00000/tokens\.npy: there is no such file, or it is no regular file"):
        FeatureTable(tmp_path)


@pytest.mark.parametrize("field", ["pooled", "tokens", "lengths"])
def test_every_flipped_bit_is_noticed(tmp_path, monkeypatch, field):
    table(tmp_path, features(2, 1))
    file = tmp_path / "00000" / f"{field}.npy"
    whole = file.read_bytes()
    for bit in range(0, 8 * (len(whole) - 128), 5):  # after the header
        data = bytearray(whole)
        data[128 + bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        with pytest.raises(UserError, match=r"its checksum says|do not fit together"):
            FeatureTable(tmp_path)
    # tokens of large tables are verified by `ascl check` alone
    monkeypatch.setattr("ascl_lightning.data.stored_features._VERIFIED_BYTES", 0)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    if field == "tokens":
        assert FeatureTable(tmp_path).damaged() == [file]
    else:
        with pytest.raises(UserError, match=r"its checksum says|do not fit together"):
            FeatureTable(tmp_path)


def test_features_of_an_earlier_version_have_no_checksums_and_are_read(tmp_path):
    table(tmp_path, features(2, 1))
    (tmp_path / "00000" / "checksums.json").unlink()
    assert FeatureTable(tmp_path).damaged() == []


def test_a_folder_with_other_files_is_not_emptied(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match="holds other files than extracted features"):
        Manifest("tower", "items", 2).write(tmp_path)
    assert (tmp_path / "photo.jpg").exists()


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        table(tmp_path / name, features(2, 4), features(1))
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_texts_are_found_by_caption_and_epoch(tmp_path):
    stored = table(tmp_path / "texts", features(*range(1, 8)))
    none = np.zeros((2, 0), np.int64)
    rows = TextRows(np.array([0, 6]), np.array([[1, 2], [3, 4]]), np.array([[5, -1], [-1, 0]]), none)
    rows.save(tmp_path / "rows")
    texts = TextFeatures(stored, TextRows.load(tmp_path / "rows"))
    asked = torch.tensor([1, 0])
    assert texts.num_variants == 2
    assert texts.captions(asked).mask.sum(dim=1).tolist() == [7, 1]
    for epoch, expected in ((0, [4, 2]), (1, [5, 3]), (2, [4, 2])):
        made = texts.made("positives", asked, epoch)
        found, valid = made.texts, made.valid
        assert found.mask.sum(dim=1).tolist() == expected
        assert valid.all()
    assert texts.made("negatives", asked, 0).valid.tolist() == [False, True]
    assert texts.made("negatives", asked, 1).valid.tolist() == [True, False]
    assert texts.made("positive_negatives", asked, 0) is None
    assert texts.captions_alone().num_variants == 0


def test_numbers_beyond_float16_are_refused(tmp_path):
    """Its largest number is 65,504; bfloat16 has the range of float32."""
    large = Features(torch.zeros(1, 0), torch.full((1, 2, 3), 70_000.0), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(UserError, match="too large for float16: run `ascl extract` with --dtype bfloat16"):
        table(tmp_path / "half", large)
    kept = table(tmp_path / "brain", large, dtype="bfloat16").gather(torch.tensor([0]))
    torch.testing.assert_close(kept.tokens, large.tokens, rtol=2**-8, atol=0)
    assert kept.pooled.shape == (1, 0)


def test_missing_rows_are_named(tmp_path):
    with pytest.raises(UserError, match="extract again"):
        TextRows.load(tmp_path)
