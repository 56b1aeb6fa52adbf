import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ascl_lightning.models.towers.text import masked_mean


@given(seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_masked_mean_agrees_with_a_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(3, 4, 2, generator=generator)
    mask = torch.rand(3, 4, generator=generator) < 0.5
    tokens[~mask] = torch.nan  # what is masked may hold anything

    def mean(row: int) -> Tensor:
        kept = [tokens[row, position] for position in range(4) if mask[row, position]]
        return torch.stack(kept).mean(dim=0) if kept else torch.zeros(2)

    torch.testing.assert_close(masked_mean(tokens, mask), torch.stack([mean(row) for row in range(3)]))
