import pytest
import torch
from tests.helpers.towers import batch_statistics, pictures

from ascl_lightning.models.towers.convolutional import ConvImageEncoder
from ascl_lightning.models.towers.tuning import Tuning


def test_convolutional_encoder_has_the_documented_shapes() -> None:
    encoder = ConvImageEncoder(image_size=32, width=8, tuning=Tuning(learning_rate=0.2))
    features = encoder(pictures(32, 3))
    assert features.pooled.shape == (3, encoder.pooled_dim)
    assert features.tokens.shape == (3, 4, encoder.token_dim)
    assert features.mask.all()
    assert (encoder.spec.size, encoder.spec.crop, encoder.tuning.learning_rate) == (32, "squash", 0.2)
    assert ConvImageEncoder()(pictures(64, 1)).tokens.shape[1] == 16
    (features.pooled.sum() + features.tokens.square().sum()).backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []
    with pytest.raises(ValueError, match="multiple of 16"):
        ConvImageEncoder(image_size=40)


@torch.no_grad()
def test_convolutional_encoder_sees_positions() -> None:
    torch.manual_seed(0)
    encoder = ConvImageEncoder(image_size=128, width=8, token_dim=32).eval()
    # far from the borders, a shift by 16 pixels only moves the tokens by one
    left, right = torch.zeros(2, 1, 3, 128, 128, dtype=torch.uint8)
    left[..., 50:62, 50:62] = 255
    right[..., 50:62, 66:78] = 255
    assert (encoder(left).pooled - encoder(right).pooled).abs().max() > 1e-4
    assert (encoder(left).tokens.sum(dim=1) - encoder(right).tokens.sum(dim=1)).abs().max() > 1e-4
    encoder.positions.zero_()
    torch.testing.assert_close(encoder(left).tokens.sum(dim=1), encoder(right).tokens.sum(dim=1))
    grid, moved = (encoder(picture).tokens.unflatten(1, (8, 8)) for picture in (left, right))
    torch.testing.assert_close(grid[:, 1:6, 1:6], moved[:, 1:6, 2:7])


def test_frozen_convolutional_encoder_keeps_its_batch_statistics() -> None:
    encoder = ConvImageEncoder(width=8, tuning=Tuning(frozen=True))
    before = batch_statistics(encoder)
    encoder.train()
    assert not encoder(pictures(64)).pooled.requires_grad
    torch.testing.assert_close(batch_statistics(encoder), before, rtol=0, atol=0)


def test_normalisation_moves_with_the_tower_but_is_not_saved() -> None:
    encoder = ConvImageEncoder(width=8)
    assert not {"mean", "std"} & set(encoder.state_dict())
    assert encoder.double()(pictures(64)).pooled.dtype == torch.float64
