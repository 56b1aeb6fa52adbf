from functools import partial

import pytest
import torch
from tests.helpers.encoders import MeanColour, WordTable
from tests.helpers.towers import pictures
from torch._dynamo.utils import counters
from torch.nn import functional as F

from ascl_lightning.data.batch import Features, ImageViews, TokenizedTexts, WithCrops
from ascl_lightning.errors import UserError
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.pooling import GeneralizedPooling
from ascl_lightning.models.similarity.aggregation import LearnedWeights
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.similarity.late_interaction import LateInteraction
from ascl_lightning.models.similarity.local import CrossAttention
from ascl_lightning.models.towers import text
from ascl_lightning.models.towers.convolutional import ConvImageEncoder
from ascl_lightning.models.towers.timm_backbone import TimmImageEncoder
from ascl_lightning.models.towers.word_transformer import WordTransformer


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


def test_stored_tower_output_equals_the_tower():
    built, pictures = model(), torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    stored = built.image_encoder(pictures)
    seen = built.image_encoder.pictures_seen
    torch.testing.assert_close(built.encode_images(stored).tokens, built.encode_images(pictures).tokens)
    assert built.image_encoder.pictures_seen == seen + 2  # the picture went through the tower, the stored output not


@pytest.mark.parametrize("pooling", [False, True])
def test_a_pooling_head_that_nothing_reads_gets_zeros_and_the_rest_its_gradient(pooling):
    def gradients(unread: bool) -> dict[str, torch.Tensor | None]:
        torch.manual_seed(0)
        towers = ConvImageEncoder(image_size=32), WordTransformer(width=16, num_heads=2, depth=1)
        similarity = FusedSimilarity(4, 2, 0.0 if pooling else 1.0, global_fusion="none")
        poolings = (GeneralizedPooling(), GeneralizedPooling()) if pooling else ()
        built = ImageTextModel(*towers, similarity, True, *poolings)
        if unread:
            built.freeze_unread(uses_global=pooling)
        pictures, mask = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), torch.ones(3, 5, dtype=torch.bool)
        texts = built.encode_texts(TokenizedTexts(torch.randint(2, 99, (3, 5)), mask, ~mask))
        built.score(built.encode_images(pictures), texts).square().sum().backward()
        return {name: each.grad for name, each in built.named_parameters() if each.requires_grad}

    found, plain = gradients(unread=True), gradients(unread=False)
    for name, gradient in found.items():
        if name.startswith("image_encoder.pool."):
            assert plain[name] is None
            assert not gradient.any()
        else:
            assert torch.equal(gradient, plain[name]), name


@pytest.mark.parametrize("local_weight", [0.0, 0.5])
def test_weights_of_a_local_level_without_weight_are_frozen(local_weight):
    local = LateInteraction(over_words=LearnedWeights(4))
    built = ImageTextModel(MeanColour(), WordTable(), FusedSimilarity(4, 1, local_weight, local=local))
    built.freeze_unread(uses_global=True)
    assert local.over_words.salience.weight.requires_grad == (local_weight > 0)


def test_tokens_are_projected_to_a_width_of_their_own():
    built = ImageTextModel(MeanColour(), WordTable(), FusedSimilarity(6, 1, global_fusion="none", local_dim=2))
    encoded = built.encode_images(torch.zeros(3, 3, 16, 16, dtype=torch.uint8))
    assert encoded.pooled.shape == (3, 6)
    assert encoded.tokens.shape[::2] == (3, 2)


def test_whole_texts_attend_over_regions():
    """Against the formula: attention of one vector over regions, and its cosine with what it finds."""
    local = CrossAttention("text_to_image")
    similarity = FusedSimilarity(
        6, 1, 1.0, text_to_image_scale=3.0, normalize_words=True, global_fusion="none", local=local, whole_texts=True
    )
    built = ImageTextModel(MeanColour(), WordTable(), similarity)
    images = built.encode_images(torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8))
    ids, mask = torch.tensor([[5, 6, 7], [8, 0, 0], [0, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    texts = built.encode_texts(TokenizedTexts(ids, mask, torch.zeros_like(mask)))

    of_tower = built.text_encoder(TokenizedTexts(ids, mask, torch.zeros_like(mask))).pooled
    queries = F.normalize(built.text_projection.tokens(of_tower[:2]), dim=-1)
    expected = torch.zeros(3, 3)  # a text without words scores 0
    for image, regions in enumerate(images.tokens):
        found = (3.0 * queries @ regions.T).softmax(-1) @ regions
        expected[image, :2] = F.cosine_similarity(queries, found)
    torch.testing.assert_close(built.score(images, texts), expected)
    assert (similarity.uses_tokens, similarity.uses_words) == (True, False)


def test_whole_texts_have_no_words_to_pool():
    similarity = FusedSimilarity(6, 1, whole_texts=True)
    with pytest.raises(UserError, match=r"set similarity\.whole_texts to false"):
        ImageTextModel(MeanColour(), WordTable(), similarity, text_pooling=GeneralizedPooling())


@pytest.mark.parametrize("whole_texts", [False, True])
def test_the_towers_global_vector_of_a_text_is_read_as_a_token(whole_texts):
    """By the local level alone: without a gradient to it, distributed training would fail."""
    torch.manual_seed(0)
    similarity = FusedSimilarity(4, 2, 1.0, global_fusion="none", whole_texts=whole_texts)
    built = ImageTextModel(MeanColour(), WordTransformer(width=16, num_heads=2, depth=1), similarity)
    built.freeze_unread(uses_global=False)
    mask = torch.ones(3, 5, dtype=torch.bool)
    of_tower = built.text_features(TokenizedTexts(torch.randint(2, 99, (3, 5)), mask, ~mask))
    of_tower.pooled.retain_grad()
    images = built.encode_images(torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8))
    built.score(images, built.project_texts(of_tower)).square().sum().backward()
    assert bool(of_tower.pooled.grad.any()) == whole_texts


def test_pooled_tokens_have_the_width_of_global_vectors():
    similarity = FusedSimilarity(6, 1, global_fusion="none", local_dim=2)
    with pytest.raises(UserError, match=r"remove similarity\.local_dim"):
        ImageTextModel(MeanColour(), WordTable(), similarity, True, GeneralizedPooling())


def test_without_projection_the_towers_must_have_the_common_width():
    with pytest.raises(ValueError, match="embed_dim is 4"):
        ImageTextModel(MeanColour(), WordTable(), FusedSimilarity(4, num_heads=1), project=False)


def test_without_projection_vectors_are_unchanged():
    class Wide(WordTable):
        pooled_dim = token_dim = 3

    built = ImageTextModel(MeanColour(), Wide(), FusedSimilarity(3, num_heads=1), project=False)
    features = Features(torch.randn(2, 3), torch.randn(2, 4, 3), torch.ones(2, 4, dtype=torch.bool))
    assert torch.equal(built.encode_texts(features).tokens, features.tokens)
    assert torch.equal(built.encode_images(features).pooled, features.pooled)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_towers_keep_outputs_and_weight_names(backend, monkeypatch):
    """For texts of any length, not in groups; the backend `eager` runs the traced operations unchanged."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch.manual_seed(0)
    towers = ConvImageEncoder(image_size=32), WordTransformer(width=16, num_heads=2)
    built = ImageTextModel(*towers, FusedSimilarity(4, num_heads=2))
    names = list(built.state_dict())
    pictures = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)

    def texts(length: int) -> TokenizedTexts:
        mask = torch.arange(length) < torch.tensor([[2], [length], [1]])
        return TokenizedTexts(torch.randint(2, 99, (3, length)), mask, ~mask)

    def gradients(batch: TokenizedTexts) -> list[torch.Tensor]:
        built.zero_grad()
        built.score(built.encode_images(pictures), built.encode_texts(batch)).square().sum().backward()
        return [parameter.grad.clone() for parameter in built.parameters() if parameter.grad is not None]

    batches = [texts(length) for length in (5, 9, 2)]
    plain = [(built.encode_texts(batch).tokens, gradients(batch)) for batch in batches]
    torch._dynamo.reset()
    counters.clear()
    built.compile_towers()
    monkeypatch.setattr(text, "_TOKENS_PER_CALL", 0)  # groups would have zeros for padding
    assert list(built.state_dict()) == names
    for batch, (tokens, expected) in zip(batches, plain, strict=True):
        torch.testing.assert_close(built.encode_texts(batch).tokens, tokens, rtol=1e-4, atol=1e-5)
        for found, gradient in zip(gradients(batch), expected, strict=True):
            torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-4)
    assert counters["stats"]["unique_graphs"] > 0


def some_features(*lengths: int, num_crops: int = 2) -> tuple[Features, tuple[Features, ...]]:
    """Images of so many tokens, with padding that is not zero, and stored vectors of crops, without tokens."""
    torch.manual_seed(1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    none = torch.zeros(len(lengths), 0, 3), torch.zeros(len(lengths), 0, dtype=torch.bool)
    crops = tuple(Features(torch.randn(len(lengths), 3), *none) for _ in range(num_crops))
    return Features(torch.randn(len(lengths), 3), torch.randn(*mask.shape, 3), mask), crops


def naive_tokens(built: ImageTextModel, view: Features, crops: tuple[Features, ...]) -> list[list[torch.Tensor]]:
    """Projected tokens of each image, one by one: those of the view, then a vector of each crop."""
    tokens = []
    for row, used in enumerate(view.mask):
        own = [view.tokens[row, place] for place in range(len(used)) if used[place]]
        vectors = [*own, *(crop.pooled[row] for crop in crops)] if own else []
        weight, bias = built.image_projection.tokens.weight, built.image_projection.tokens.bias
        tokens.append([weight @ vector + bias for vector in vectors])
    return tokens


def test_vectors_of_crops_are_tokens_behind_those_of_the_image():
    """Also in front of padding; an image that could not be read has no tokens at all."""
    built, (plain, crops) = model(), some_features(4, 2, 0)
    encoded, alone = built.encode_images(WithCrops(**vars(plain), crops=crops)), built.encode_images(plain)
    assert torch.equal(encoded.pooled, alone.pooled)
    assert torch.equal(encoded.mask, torch.arange(6) < torch.tensor([[6], [4], [0]]))
    for row, tokens in enumerate(naive_tokens(built, plain, crops)):
        for place, token in enumerate(tokens):
            torch.testing.assert_close(encoded.tokens[row, place], token / token.norm())


@pytest.mark.parametrize("pooling", [False, True])
def test_views_are_averaged_without_the_crops(pooling: bool):
    """Learned pooling reads the crops with the tokens of each view."""
    built = model()
    if pooling:
        built.image_pooling = GeneralizedPooling()
    (plain, crops), (other, _) = some_features(4, 2), some_features(3, 5)
    encoded = built.encode_images(ImageViews((WithCrops(**vars(plain), crops=crops), other)))
    assert torch.equal(encoded.tokens, built.encode_images(WithCrops(**vars(plain), crops=crops)).tokens)
    for row in range(2):
        expected = [built.image_projection.pooled(view.pooled[row]) for view in (plain, other)]
        if pooling:
            tokens = [torch.stack(naive_tokens(built, view, crops)[row])[None] for view in (plain, other)]
            expected = [built.image_pooling(each, torch.ones(1, each.shape[1], dtype=torch.bool))[0] for each in tokens]
        torch.testing.assert_close(encoded.pooled[row], (expected[0] + expected[1]) / 2)


@pytest.mark.parametrize("unread", [False, True])
def test_activations_of_crops_go_through_the_upper_part(unread: bool):
    """Each alone, with the gradients of that; also if nothing else reads global vectors."""
    torch.manual_seed(0)
    tower = TimmImageEncoder("test_resnet", image_size=64, cut="layer4", model_args={"zero_init_last": False})
    built = ImageTextModel(tower, WordTable(), FusedSimilarity(4, 2, 1.0, global_fusion="none"))
    if unread:
        built.freeze_unread(uses_global=False)
    plain, *crops = (tower.to_store(pictures(64, 6)[place : place + 2]) for place in (0, 2, 4))
    encoded = built.encode_images(WithCrops(**vars(plain), crops=tuple(crops)))
    vectors = torch.stack([tower(crop).pooled for crop in crops], dim=1)
    expected = torch.nn.functional.normalize(built.image_projection.tokens(vectors), dim=-1)
    torch.testing.assert_close(encoded.tokens[:, 4:], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(encoded.tokens[:, :4], built.encode_images(plain).tokens)
    gradients = []
    for tokens in (encoded.tokens[:, 4:], expected):
        tower.zero_grad()
        tokens.pow(3).sum().backward()
        gradients.append(tower.backbone.layer4[0].conv1.weight.grad.clone())
    assert gradients[0].any()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)
