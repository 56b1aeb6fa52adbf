"""Gradient caching: towers encode a batch in chunks, so that large batches fit into memory.

Source: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup". The first forward
pass keeps no graph. In the backward pass each chunk is encoded a second time, with a graph and the same random numbers,
and backpropagated. The result is the gradient of the whole batch.
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
    """Calls `encode` on chunks of a batch and joins the results.

    Args:
        encode: Returns a tuple of `Features`, tensors and Nones, whose row i depends only on row i of the inputs.
        inputs: Tensors, or types of `data.batch`, all with the same number of rows.
        chunk_size: Rows per chunk; None for all at once.
    """
    num_rows = len(inputs[0])
    if chunk_size is None or num_rows <= chunk_size:
        return encode(*inputs)
    ranges = [slice(start, start + chunk_size) for start in range(0, num_rows, chunk_size)]
    chunks = [checkpoint(encode, *(_rows(value, rows) for value in inputs), use_reentrant=False) for rows in ranges]
    return tuple(_join(parts) for parts in zip(*chunks, strict=True))  # type: ignore[return-value]


def mixes_rows(module: nn.Module) -> bool:
    """Whether a module has batch normalisation in training mode.

    Its statistics would be those of a chunk, and the running ones would count each chunk twice.
    """
    return any(isinstance(part, _BatchNorm) and part.training for part in module.modules())


def _rows(value: Any, rows: slice) -> Any:
    return map_tensors(value, lambda tensor: tensor[rows])


def _join(parts: tuple[Any, ...]) -> Any:
    if parts[0] is None:
        return None
    return torch.cat(parts) if isinstance(parts[0], Tensor) else Features.join(parts)
