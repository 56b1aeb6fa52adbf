import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.retrievers import pictures, small

from ascl_lightning.models import FusedSimilarity
from ascl_lightning.serving.words import looks

# the text is longer than the model reads
pytestmark = pytest.mark.filterwarnings("ignore:.*truncated")
TEXT = "A red kite, two dogs and a red kite"


def naive(retriever, text: str, image, place: int) -> tuple[float, torch.Tensor]:
    """Support of the word at a place and its attention, with loops over heads."""
    similarity = retriever.model.similarity
    words = retriever.encode_texts(text).tokens[0]
    regions = image.tokens[0]
    heads, scale = similarity.attention.num_heads, similarity.attention.text_to_image_scale
    word = torch.nn.functional.normalize(words[place], dim=0) if similarity.normalize_words else words[place]
    contexts, attention = [], torch.zeros(len(regions))
    for query, keys in zip(
        word.chunk(heads), zip(*(region.chunk(heads) for region in regions), strict=True), strict=True
    ):
        keys = torch.stack(keys)
        weights = (scale * (keys @ query)).softmax(0)
        contexts.append(weights @ keys)
        attention += weights / heads
    return float(torch.cosine_similarity(word, torch.cat(contexts), dim=0)), attention


def test_support_and_attention_are_those_of_the_local_level():
    retriever = small()
    images = retriever.encode_images(pictures(2))
    found = looks(retriever, TEXT, images)
    assert [[look.word for look in of_picture] for of_picture in found] == [
        ["a", "red", "kite", "two", "dogs", "and", "a", "red"],  # the tokenizer cuts the ninth
    ] * 2
    for row in range(2):
        for place in (1, 3):
            support, attention = naive(retriever, TEXT, images[row], place)
            look = found[row][place]
            assert look.support == pytest.approx(support, abs=1e-5)
            shade = Image.open(io.BytesIO(base64.b64decode(look.shade.partition(",")[2])))
            opacity = np.asarray(shade)[..., 3].ravel()
            side = int(len(attention) ** 0.5)
            assert shade.size == (side, side)
            # the darkest cells are the least attended ones
            assert opacity.argmax() == int(attention.argmin())


@pytest.mark.parametrize("without", [{"local_weight": 0.0}, {"whole_texts": True}])
def test_models_without_scores_of_single_words_show_none(without):
    retriever = small(FusedSimilarity(embed_dim=8, num_heads=2, global_fusion="none", **without))
    assert looks(retriever, TEXT, retriever.encode_images(pictures(2))) == [[], []]
