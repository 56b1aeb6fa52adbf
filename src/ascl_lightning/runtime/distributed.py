"""Differentiable collectives that gather rows of all ranks, with the gradients of a single process on all rows.

Each rank scores its own images (rows) with the texts of all ranks (columns), so every pair is scored once. Gradients of
gathered texts return to the rank that encoded them. The text-to-image direction exchanges scores, not images. Without
a process group, or with one rank, all functions return their input.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional as F


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_sizes(*sizes: int, device: torch.device) -> list[list[int]]:
    """Gathers integers of this rank: for each, its values on all ranks."""
    own = torch.tensor(sizes, device=device)
    if world_size() == 1:
        return [[size] for size in sizes]
    of_all = own.new_empty(world_size() * len(own))
    dist.all_gather_into_tensor(of_all, own)
    return of_all.unflatten(0, (-1, len(own))).T.tolist()


def gather_rows(rows: Shaped[Tensor, " b *rest"], counts: Sequence[int]) -> Shaped[Tensor, " B *rest"]:
    """Gathers rows of all ranks, in rank order; the gradient of a row is summed over ranks.

    Args:
        rows: This rank's rows, (b, ...).
        counts: Number of rows on each rank.

    Returns:
        All rows, (B, ...).
    """
    if len(counts) == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, tuple(counts))
    return gathered


def gather_sequences(
    pooled: Float[Tensor, "b D"], tokens: Float[Tensor, "b L E"], mask: Bool[Tensor, "b L"]
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B K E"], Bool[Tensor, "B K"]]:
    """Gathers sequences of all ranks, in rank order, padded to the longest; padding is not sent.

    Args:
        pooled: One vector per sequence, (b, D).
        tokens: The sequences of this rank, (b, L, E).
        mask: True for real tokens, (b, L).

    Returns:
        Vectors, tokens and mask of all ranks, (B, D), (B, K, E) and (B, K).
    """
    if world_size() == 1:
        return pooled, tokens, mask
    counts, lengths, token_counts = gather_sizes(*mask.shape, int(mask.sum()), device=mask.device)
    every_mask = gather_rows(F.pad(mask, (0, max(lengths) - mask.shape[1])), counts)
    every_token = gather_rows(tokens[mask], token_counts)
    padded = every_token.new_zeros(*every_mask.shape, tokens.shape[2])
    return gather_rows(pooled, counts), padded.masked_scatter(every_mask[..., None], every_token), every_mask


def transpose_scores(scores: Float[Tensor, "b B"], counts: Sequence[int]) -> Float[Tensor, "b B"]:
    """Exchanges scores of this rank's images with all texts for scores of its texts with all images; differentiable.

    Args:
        scores: Row i is this rank's image i, column j is text j of all ranks, (b, B).
        counts: Number of pairs on each rank.

    Returns:
        Row j is this rank's text j, column i is image i of all ranks, (b, B).
    """
    if len(counts) == 1:
        return scores.T
    own = counts[rank()]
    # values for a rank must be contiguous: its texts are rows of the transposed matrix
    sizes = [own * count for count in counts]
    received: Tensor = _Exchange.apply(scores.T.flatten(), sizes)
    blocks = zip(received.split(sizes), counts, strict=True)
    return torch.cat([block.reshape(own, count) for block, count in blocks], dim=1)


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over ranks, without gradient."""
    values = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(values)
    return values / world_size()


def leave_group() -> None:
    """Destroys a gloo process group before the interpreter exits, since gloo's threads would abort it.

    Lightning does this for NCCL only.
    """
    if dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


class _GatherRows(torch.autograd.Function):
    """All-gather of rows with different counts; its gradient is a reduce-scatter."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        of_all = rows.new_empty(len(counts), *padded.shape)
        if padded.numel():  # on all ranks or on none
            dist.all_gather_into_tensor(of_all.flatten(0, 1), padded)
        return torch.cat([part[:count] for part, count in zip(of_all, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), largest = gradients, max(ctx.counts)
        padded = gradient.new_zeros(len(ctx.counts), largest, *gradient.shape[1:])
        for place, part in zip(padded, gradient.split(ctx.counts), strict=True):
            place[: len(part)] = part
        own = torch.empty_like(padded[0])
        if own.numel():
            dist.reduce_scatter_tensor(own, padded.flatten(0, 1))
        return own[: ctx.counts[rank()]], None


class _Exchange(torch.autograd.Function):
    """All-to-all that receives as much from each rank as it sends; the gradient is the same exchange."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        return _exchange(values, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _exchange(gradients[0].contiguous(), ctx.sizes), None


def _exchange(values: Tensor, sizes: list[int]) -> Tensor:
    received = torch.empty_like(values)
    dist.all_to_all_single(received, values, sizes, sizes)
    return received
