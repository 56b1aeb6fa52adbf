import base64
import io

import numpy as np
from PIL import Image

from ascl_lightning.report.spotlight import spotlight


def shade(attention: list[float], grid: int) -> np.ndarray:
    data = base64.b64decode(spotlight(attention, grid).removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


def test_what_is_looked_at_stays_bright_and_the_rest_is_darkened():
    found = shade([0.6, 0.0, 0.3, 0.1], 2)
    assert found.shape == (2, 2, 2)
    assert (found[..., 0] == 0).all(), "black"
    # opacity 0.82 * (1 - attention / 0.6)
    np.testing.assert_allclose(found[..., 1] / 255, [[0.0, 0.82], [0.41, 0.82 * 5 / 6]], atol=0.003)


def test_attention_to_nothing_darkens_everything():
    assert (shade([0.0] * 9, 3)[..., 1] == round(255 * 0.82)).all()
