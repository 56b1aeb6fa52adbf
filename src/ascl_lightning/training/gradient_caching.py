"""Large batches on small memory: towers run over a part of the batch at a time (gradient caching).

Source: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup". The first pass keeps
no graph; when the loss has sent its gradient back to a part's output, that part is encoded again, with a graph and the
same random numbers, and its gradient goes on into the towers. The result is the gradient of the whole batch.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ascl_lightning.data.batch import Features, map_tensors

Encoded = TypeVar("Encoded", bound=tuple[Features | Tensor | None, ...])


def encode_in_chunks(encode: Callable[..., Encoded], *inputs: Any, chunk_size: int | None) -> Encoded:
    """What `encode` gives for a batch, computed over chunks of it.

    Args:
        encode: Gives a tuple of `Features`, tensors and Nones, row by row with its inputs, each row on its own.
        inputs: Tensors, or types of `data.batch`, all of the same number of rows.
        chunk_size: Rows of a chunk; None for all at once.
    """
    num_rows = len(inputs[0])
    if chunk_size is None or num_rows <= chunk_size:
        return encode(*inputs)
    ranges = [slice(start, start + chunk_size) for start in range(0, num_rows, chunk_size)]
    chunks = [checkpoint(encode, *(_rows(value, rows) for value in inputs), use_reentrant=False) for rows in ranges]
    return tuple(_join(parts) for parts in zip(*chunks, strict=True))  # type: ignore[return-value]


def mixes_rows(module: nn.Module) -> bool:
    """Whether a module in training lets the rows of a batch see each other: batch normalisation.

    Chunks of a batch would have statistics of their own, and count twice in the running ones.
    """
    return any(isinstance(part, _BatchNorm) and part.training for part in module.modules())


def _rows(value: Any, rows: slice) -> Any:
    return map_tensors(value, lambda tensor: tensor[rows])


def _join(parts: tuple[Any, ...]) -> Any:
    if parts[0] is None:
        return None
    return torch.cat(parts) if isinstance(parts[0], Tensor) else Features.join(parts)
