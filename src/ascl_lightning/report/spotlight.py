"""Attention over a picture's grid, as a shade that leaves bright what is looked at."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ascl_lightning.pages import data_address

_DARKEST = 0.82


def spotlight(attention: Sequence[int | float], grid: int) -> str:
    """A picture of grid x grid pixels, to be laid over another: the less attention, the darker.

    Args:
        attention: Of each place of the grid, row by row, none negative.
        grid: Places in a row.

    Returns:
        A PNG as a `data:` address.
    """
    values = np.asarray(attention, dtype=np.float64).reshape(grid, grid)
    brightness = values / max(values.max(), 1e-12)
    shade = np.zeros((grid, grid, 2), np.uint8)
    shade[..., 1] = np.rint(255 * _DARKEST * (1 - brightness))
    buffer = io.BytesIO()
    Image.fromarray(shade).save(buffer, "PNG")
    return data_address(buffer.getvalue(), "png")
