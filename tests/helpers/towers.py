"""Pictures for towers, and comparisons of what towers hold and return."""

import torch
from torch import Tensor

from ascl_lightning.data.batch import Features


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
