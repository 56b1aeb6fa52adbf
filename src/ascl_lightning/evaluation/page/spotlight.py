"""Overlay that tints attended regions of an image and darkens the rest."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ascl_lightning.evaluation.page.pictures import data_address

_DARKEST = 0.82
"""Opacity of black over regions without attention."""
_TINT, _TINTED = np.array([255.0, 176.0, 0.0]), 0.5
"""Amber, and its opacity at the maximum of attention; brightness alone is invisible on dark images."""


def spotlight(attention: Sequence[int | float], grid: int) -> str:
    """An overlay of grid x grid pixels: amber with attention, dark without.

    Args:
        attention: Non-negative attention of each grid cell, row by row.
        grid: Number of cells per row.

    Returns:
        A PNG as a `data:` URL.
    """
    values = np.asarray(attention, dtype=np.float64).reshape(grid, grid)
    share = values / max(values.max(), 1e-12)
    tint, black = _TINTED * share, _DARKEST * (1 - share)
    # the tint lies over the black
    opacity = tint + black * (1 - tint)
    shade = np.empty((grid, grid, 4), np.uint8)
    shade[..., :3] = np.rint(_TINT * (tint / opacity)[..., None])
    shade[..., 3] = np.rint(255 * opacity)
    buffer = io.BytesIO()
    Image.fromarray(shade).save(buffer, "PNG")
    return data_address(buffer.getvalue(), "png")
