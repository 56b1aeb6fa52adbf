import pytest
import torch
from tests.encoders import MeanColour, WordTable

from ascl_lightning.data.batch import Features
from ascl_lightning.models.fusion import FusedSimilarity
from ascl_lightning.models.model import ImageTextModel


def model(embed_dim: int = 4, **towers) -> ImageTextModel:
    torch.manual_seed(0)
    image_encoder, text_encoder = MeanColour(**towers), WordTable(**towers)
    return ImageTextModel(image_encoder, text_encoder, FusedSimilarity(embed_dim, num_heads=2))


def test_image_tokens_are_projected_and_normalised():
    built, pictures = model(), torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    features, encoded = built.image_encoder(pictures), built.encode_images(pictures)
    by_hand = features.tokens @ built.image_projection.tokens.weight.T + built.image_projection.tokens.bias
    torch.testing.assert_close(encoded.tokens, by_hand / by_hand.norm(dim=-1, keepdim=True))
    pooled = features.pooled @ built.image_projection.pooled.weight.T + built.image_projection.pooled.bias
    torch.testing.assert_close(encoded.pooled, pooled)


def test_a_tower_s_stored_output_gives_what_the_tower_would():
    built, pictures = model(), torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    stored = built.image_encoder(pictures)
    seen = built.image_encoder.pictures_seen
    torch.testing.assert_close(built.encode_images(stored).tokens, built.encode_images(pictures).tokens)
    assert built.image_encoder.pictures_seen == seen + 2  # the picture went through the tower, the stored output not


def test_without_projection_the_towers_must_have_the_common_width():
    with pytest.raises(ValueError, match="embed_dim is 4"):
        ImageTextModel(MeanColour(), WordTable(), FusedSimilarity(4, num_heads=1), project=False)


def test_without_projection_vectors_stay_the_tower_s_own():
    class Wide(WordTable):
        pooled_dim = token_dim = 3

    built = ImageTextModel(MeanColour(), Wide(), FusedSimilarity(3, num_heads=1), project=False)
    features = Features(torch.randn(2, 3), torch.randn(2, 4, 3), torch.ones(2, 4, dtype=torch.bool))
    assert torch.equal(built.encode_texts(features).tokens, features.tokens)
    assert torch.equal(built.encode_images(features).pooled, features.pooled)


def test_parameter_groups_hold_every_trainable_parameter_once():
    built = model(learning_rate=1e-3)
    groups = built.parameter_groups()
    assert [group.get("lr") for group in groups] == [None, 1e-3, 1e-3]
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in built.parameters())


def test_frozen_towers_are_in_no_group():
    built = model(frozen=True, learning_rate=1e-3)
    (group,) = built.parameter_groups()
    towers = {id(parameter) for tower in (built.image_encoder, built.text_encoder) for parameter in tower.parameters()}
    assert not towers & {id(parameter) for parameter in group["params"]}
