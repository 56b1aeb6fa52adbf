"""What `encode_images` and `encode_texts` give; scores of parts are the parts of the scores."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.helpers.retrievers import pictures, small

from ascl_lightning import Encoded, UserError
from ascl_lightning.models import FusedSimilarity


def test_encoded_items_are_sliced_joined_saved_and_loaded(tmp_path):
    for fused in ("independent", "pairwise"):
        model = small(FusedSimilarity(embed_dim=8, num_heads=2, global_fusion=fused))
        images = model.encode_images(pictures(5))
        texts = model.encode_texts(["a", "a red kite", "two dogs and a kite"], batch_size=1)
        assert images.numpy().shape == images.shape == (5, 8)
        assert np.asarray(images).dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
        scores = model.score(images, texts)
        for rows in (2, -1, slice(1, 4), slice(None, None, -1), [3, 0], torch.tensor([1]), scores[:, 0] > 0):
            chosen = np.atleast_2d(scores.numpy()[rows])
            np.testing.assert_allclose(model.score(images[rows], texts).numpy(), chosen, atol=1e-6)
        joined = Encoded.join([texts[2], texts[:2]])
        torch.testing.assert_close(model.score(images, joined), scores[:, [2, 0, 1]])
        texts.save(tmp_path / "texts.safetensors")
        loaded = Encoded.load(tmp_path / "texts.safetensors")
        assert torch.equal(model.score(images, loaded), scores)
        assert repr(loaded) == repr(texts)
        assert [path.name for path in tmp_path.iterdir()] == ["texts.safetensors"]
    with pytest.raises(IndexError):
        images[5]
    assert len(list(images)) == 5
    with pytest.raises(UserError, match="parts of different kinds"):
        Encoded.join([images, texts])
    with pytest.raises(UserError, match="no parts to join"):
        Encoded.join([])


def test_a_file_that_holds_nothing_encoded_is_one_error(tmp_path):
    (tmp_path / "text").write_text("no tensors")
    save_file({"embeds": torch.ones(1, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="cannot read"):
        Encoded.load(tmp_path / "text")
    with pytest.raises(UserError, match="cannot read"):
        Encoded.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="was not written by"):
        Encoded.load(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="cannot write"):
        small().encode_texts("a").save(tmp_path / "text" / "texts.safetensors")
