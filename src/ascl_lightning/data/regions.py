"""Pre-extracted region features, one `.npy` file an image (METHOD.md, section 2; Anderson et al., CVPR 2018)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.errors import UserError


@dataclass(frozen=True, eq=False)
class RegionFeatures:
    """The region features of one image, padded to a fixed number: one row of a batch's `Features`."""

    pooled: Float32[np.ndarray, " T"]
    """Mean over the real regions."""
    tokens: Float32[np.ndarray, "K T"]
    """Zero where `mask` is False."""
    mask: Bool[np.ndarray, " K"]
    """True for real regions."""


def load_regions(path: Path, spec: RegionSpec) -> RegionFeatures:
    """Read the region features of one image.

    Args:
        path: A `.npy` file of floating-point numbers, (number of regions, `spec.dim`); any number of regions but none.
        spec: How many regions are kept (the first ones; fewer are padded) and how wide they are.

    Returns:
        float32 arrays with K = `spec.num_regions` and T = `spec.dim`.

    Raises:
        UserError: If the file is missing or is no such array, or its values are not finite.
    """
    array = _open_array(path)
    if array.ndim != 2 or array.shape[1] != spec.dim or len(array) == 0:
        raise UserError(f"{path}: holds shape {array.shape}, expected (number of regions, {spec.dim})")
    if array.dtype.kind != "f":
        raise UserError(f"{path}: holds {array.dtype}, expected floating-point numbers")
    with np.errstate(over="ignore"):
        regions = array[: spec.num_regions].astype(np.float32)
    if not np.isfinite(regions).all():
        raise UserError(f"{path}: holds values that are not finite in float32; extract this image again")
    tokens = np.zeros((spec.num_regions, spec.dim), np.float32)
    tokens[: len(regions)] = regions
    return RegionFeatures(regions.mean(axis=0), tokens, np.arange(spec.num_regions) < len(regions))


def _open_array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of region features")
    try:
        # mapped, so that regions beyond the limit are never read and a false shape in the header allocates nothing
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:
        # on damaged headers numpy raises nearly anything: ValueError, EOFError, SyntaxError, tokenize.TokenError...
        reason = " ".join(str(error).split())  # some of its messages have several lines
        raise UserError(f"{path}: not a readable .npy array: {reason}") from error
