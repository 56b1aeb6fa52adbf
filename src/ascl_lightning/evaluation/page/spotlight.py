"""Attention over a picture's grid, as a shade that tints what is looked at and darkens the rest."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ascl_lightning.evaluation.page.pictures import data_address

_DARKEST = 0.82
"""Opacity of black over what nothing looks at."""
_TINT, _TINTED = np.array([255.0, 176.0, 0.0]), 0.5
"""Amber, and its opacity over what is looked at most: on a dark picture, brightness alone would not be seen."""


def spotlight(attention: Sequence[int | float], grid: int) -> str:
    """A picture of grid x grid pixels, to be laid over another: amber where attention is, dark where none is.

    Args:
        attention: Of each place of the grid, row by row, none negative.
        grid: Places in a row.

    Returns:
        A PNG as a `data:` address.
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
