import base64
import io

import numpy as np
import pytest
from PIL import Image

from ascl_lightning.evaluation.page.spotlight import spotlight


def shade(attention: list[float], grid: int) -> np.ndarray:
    data = base64.b64decode(spotlight(attention, grid).removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


def test_attended_regions_are_tinted_and_others_darkened():
    found = shade([0.6, 0.0, 0.3, 0.0], 2)
    assert found.shape == (2, 2, 4)
    assert found[0, 0].tolist() == [255, 176, 0, round(255 * 0.5)]
    assert found[0, 1].tolist() == found[1, 1].tolist() == [0, 0, 0, round(255 * 0.82)]
    # half of the tint, 0.25, over half of the black, 0.41
    opacity = 0.25 + 0.41 * 0.75
    expected = [255 * 0.25 / opacity, 176 * 0.25 / opacity, 0, 255 * opacity]
    np.testing.assert_allclose(found[1, 0], expected, atol=0.51)


@pytest.mark.parametrize("ground", [0, 40, 128, 255])
def test_attention_is_seen_on_dark_and_bright_pictures(ground):
    """Contrast of 3 to 1 between most and none, as WCAG 2.1 asks of graphics (1.4.11), and rising in between."""
    picture = Image.new("RGBA", (3, 3), (ground,) * 3 + (255,))
    picture.alpha_composite(Image.fromarray(shade([0.1 * place for place in range(9)], 3), "RGBA"))
    channels = np.asarray(picture)[..., :3].reshape(9, 3) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    assert (luminance[-1] + 0.05) / (luminance[0] + 0.05) >= 3


def test_attention_to_nothing_darkens_everything():
    assert (shade([0.0] * 9, 3) == [0, 0, 0, round(255 * 0.82)]).all()
