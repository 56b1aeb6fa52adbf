import pytest
import torch
from tests.helpers.encoders import MeanColour, WordTable
from tests.helpers.towers import pictures
from torch import Tensor

from ascl_lightning.data.batch import Features
from ascl_lightning.models import FusedSimilarity, ImageTextModel, ProjectionSettings, TimmImageEncoder
from ascl_lightning.models.projection import Projection


def make_features() -> Features:
    return Features(torch.randn(2, 5), torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))


def naive_layer_norm(vector: Tensor) -> Tensor:
    """Mean 0 and variance 1; 1e-5 is added to the variance, as layer normalisation does."""
    return (vector - vector.mean()) / ((vector - vector.mean()).square().mean() + 1e-5).sqrt()


@pytest.mark.parametrize("layer_norm", [False, True])
def test_vectors_are_mapped_one_by_one(layer_norm):
    torch.manual_seed(0)
    projection = Projection(5, 4, 6, ProjectionSettings(layer_norm, dropout=0.5)).eval()
    features = make_features()
    projected = projection(features)
    ready = naive_layer_norm if layer_norm else Tensor.clone
    for item in range(2):
        expected = projection.pooled.weight @ ready(features.pooled[item]) + projection.pooled.bias
        torch.testing.assert_close(projected.pooled[item], expected)
        for token in range(3):
            expected = projection.tokens.weight @ ready(features.tokens[item, token]) + projection.tokens.bias
            torch.testing.assert_close(projected.tokens[item, token], expected)


def test_vectors_of_joined_layers_are_normalised_alone():
    torch.manual_seed(0)
    projection = Projection(9, 7, 6, ProjectionSettings(layer_norm=True), [2, 3])
    features = Features(torch.randn(2, 9), torch.randn(2, 3, 7), torch.ones(2, 3, dtype=torch.bool))
    projected = projection(features)
    for vectors, found, linear, own in (
        (features.pooled, projected.pooled, projection.pooled, 4),
        (features.tokens[:, 1], projected.tokens[:, 1], projection.tokens, 2),
    ):
        for vector, result in zip(vectors, found, strict=True):
            parts = vector[:own], vector[own : own + 2], vector[own + 2 :]
            expected = linear.weight @ torch.cat([naive_layer_norm(part) for part in parts]) + linear.bias
            torch.testing.assert_close(result, expected)


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    projection = Projection(10_000, 4, 1, ProjectionSettings(dropout=0.25))
    torch.nn.init.ones_(projection.pooled.weight)
    torch.nn.init.zeros_(projection.pooled.bias)
    features = Features(torch.ones(1, 10_000), torch.ones(1, 1, 4), torch.ones(1, 1, dtype=torch.bool))
    # 10,000 values of 4/3, each kept with probability 3/4: mean 10,000, standard deviation 58
    kept = projection(features).pooled.item() * 3 / 4
    assert abs(kept - 7500) < 300
    assert kept == pytest.approx(round(kept), abs=0.01)


def test_the_widths_of_joined_layers_reach_the_projection():
    """Of layers of any size: normalised alone, a map times 100 is the same."""
    tower = TimmImageEncoder("test_resnet", image_size=64, inner_layers=["layer1", "layer2"]).eval()
    model = ImageTextModel(tower, WordTable(), FusedSimilarity(8, num_heads=1), ProjectionSettings(layer_norm=True))
    with torch.no_grad():
        features = tower(pictures(64))
        last = tower.pooled_dim - sum(tower.joined_widths)
        sizes = torch.tensor([1.0] * last + [100.0] * (tower.pooled_dim - last))
        larger = Features(features.pooled * sizes, features.tokens * sizes, features.mask)
        one, other = model.encode_images(features), model.encode_images(larger)
    torch.testing.assert_close(one.pooled, other.pooled, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(one.tokens, other.tokens, rtol=1e-2, atol=1e-2)


def test_settings_reach_both_projections_and_add_no_weights():
    settings = ProjectionSettings(layer_norm=True, dropout=0.1)
    towers, similarity = (MeanColour(), WordTable()), FusedSimilarity(8, num_heads=1)
    plain, model = ImageTextModel(*towers, similarity), ImageTextModel(*towers, similarity, settings)
    assert model.image_projection.settings == model.text_projection.settings == settings
    assert model.state_dict().keys() == plain.state_dict().keys()
