import numpy as np
import torch

from ascl_lightning.data.batch import Features
from ascl_lightning.data.features import FeatureTable, FeatureWriter


def features(*lengths: int) -> Features:
    """Items of so many tokens; every number is representable in float16, and padding is poison."""
    tokens = torch.full((len(lengths), max(lengths), 2), torch.nan)
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.bool)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.arange(2.0 * length).view(length, 2) + 100 * row
        mask[row, :length] = True
    return Features(torch.arange(3.0 * len(lengths)).view(-1, 3), tokens, mask)


def test_rows_come_back_in_any_order_without_their_padding(tmp_path):
    first, second = features(2, 4), features(1)
    writer = FeatureWriter(tmp_path)
    writer.append(first)
    writer.append(second)
    writer.close("abc")
    table = FeatureTable.open(tmp_path, "abc")
    assert table is not None
    assert len(table) == 3
    got = table.gather(torch.tensor([2, 1, 0]))
    assert got.mask.sum(dim=1).tolist() == [1, 4, 2]
    torch.testing.assert_close(got.pooled, torch.cat([second.pooled, first.pooled.flip(0)]))
    torch.testing.assert_close(got.tokens[1], first.tokens[1])
    torch.testing.assert_close(got.tokens[2, :2], first.tokens[0, :2])
    assert torch.equal(got.tokens[2, 2:], torch.zeros(2, 2))


def test_a_table_of_other_weights_or_half_written_is_not_opened(tmp_path):
    assert FeatureTable.open(tmp_path, "abc") is None
    writer = FeatureWriter(tmp_path)
    writer.append(features(2))
    assert FeatureTable.open(tmp_path, "abc") is None
    writer.close("abc")
    assert FeatureTable.open(tmp_path, "abd") is None
    FeatureWriter(tmp_path)
    assert FeatureTable.open(tmp_path, "abc") is None


def test_the_table_holds_float16(tmp_path):
    writer = FeatureWriter(tmp_path)
    writer.append(features(1))
    writer.close("abc")
    table = FeatureTable.open(tmp_path, "abc")
    assert table is not None
    assert (table.pooled.dtype, table.tokens.dtype) == (np.float16, np.float16)
    assert table.gather(torch.tensor([0])).tokens.dtype == torch.float32
