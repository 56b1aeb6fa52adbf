"""Pictures and texts for towers, and comparisons of what towers hold and return."""

import torch
from torch import Tensor

from ascl_lightning.data.batch import Features, TokenizedTexts
from ascl_lightning.models.towers.text import TextEncoder


def pictures(size: int, num_images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_images, 3, size, size), dtype=torch.uint8, generator=generator)


def batch_statistics(encoder: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name: value.clone() for name, value in encoder.named_buffers() if "running" in name or "num_batches" in name
    }


def assert_same_texts(one: Features, other: Features) -> None:
    """Equal but for the number of padding tokens."""
    length = min(one.mask.shape[1], other.mask.shape[1])
    torch.testing.assert_close(one.pooled, other.pooled)
    assert one.mask.sum() == other.mask.sum()
    mask = one.mask[:, :length]
    torch.testing.assert_close(mask, other.mask[:, :length])
    torch.testing.assert_close(one.tokens[:, :length][mask], other.tokens[:, :length][mask])


def words(*rows: list[int], length: int) -> TokenizedTexts:
    """Texts of word ids, padded to a length."""
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[position < len(row) for position in range(length)] for row in rows])
    return TokenizedTexts(ids, mask, ~mask)


@torch.no_grad()
def assert_padding_changes_nothing(encoder: TextEncoder, lengths: list[int], padding: int) -> None:
    """For texts of such lengths, also encoded alone, and the mean over their words."""
    rows = [[2 + (row + position) % 8 for position in range(length)] for row, length in enumerate(lengths)]
    longest = max(lengths)
    one, other = encoder(words(*rows, length=longest)), encoder(words(*rows, length=longest + padding))
    assert_same_texts(one, other)
    alone = encoder(words(rows[0], length=lengths[0]))
    torch.testing.assert_close(alone.tokens[0], one.tokens[0, : lengths[0]])
    torch.testing.assert_close(alone.pooled[0], one.tokens[0, : lengths[0]].mean(dim=0))
