"""A planted scorer, and what it prefers worked out by hand."""

import pytest
import torch
from lightning.pytorch import Trainer
from tests.helpers.datasets import write_karpathy
from tests.helpers.encoders import MeanColour, WordTable

from ascl_lightning.data.augment.negatives import DropWord, ShuffleWords
from ascl_lightning.data.augment.positives import FirstHalf, JoinCaptions
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import KarpathyJson
from ascl_lightning.evaluation.asymmetry_shares import AsymmetryShares
from ascl_lightning.losses import AsymmetricContrastiveLoss
from ascl_lightning.models import FusedSimilarity, GaussianNoise, PerturbWords
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.training.module import RetrievalModule

SHARES = "val/asymmetry/"


def validate(root, epochs=1, **arguments):
    """Shares after a training whose steps change nothing."""
    write_karpathy(root, {"train": 4, "val": 3}, captions=[2, 0, 3])
    torch.manual_seed(0)
    similarity = FusedSimilarity(4, num_heads=2)
    words = arguments.pop("word_features", None)
    module = RetrievalModule(MeanColour(), WordTable(), similarity, AsymmetricContrastiveLoss(0.1), words)
    specs = {"image_spec": module.model.image_encoder.spec, "text_spec": module.model.text_encoder.spec}
    data = RetrievalDataModule(KarpathyJson("dataset_flickr8k.json"), str(root), batch_size=4, **specs, **arguments)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        callbacks=[AsymmetryShares()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data)
    logged = {name.removeprefix(SHARES): float(value) for name, value in trainer.callback_metrics.items()}
    return {name: value for name, value in logged.items() if name.startswith("type")}, module.findings.comparisons


@pytest.fixture
def plant(monkeypatch):
    """Lets the model rank by a score."""
    return lambda score: monkeypatch.setattr(ImageTextModel, "score", score)


def long_texts(model, images, texts):
    return texts.mask.sum(1).float().expand(len(images), -1)


def test_a_scorer_that_likes_long_texts(tmp_path, plant):
    """A caption has 9 words, its half 4, without a word 8 and 3; two joined are cut to 12 by the tokenizer, also when
    one of the 18 is dropped. A shuffle leaves the length, and a tie is lost.
    """
    plant(long_texts)
    shares, compared = validate(
        tmp_path, positives=[JoinCaptions(), FirstHalf()], negatives=[DropWord(), ShuffleWords()]
    )
    assert shares == {
        "type_i/drop_word": 1.0,
        "type_i/shuffle_words": 0.0,
        "type_i": 0.5,
        "type_ii/join_captions/over_text": 1.0,
        "type_ii/join_captions/drop_word": 0.0,
        "type_ii/join_captions/shuffle_words": 0.0,
        "type_ii/join_captions/over_negative/drop_word": 1.0,
        "type_ii/join_captions/over_negative/shuffle_words": 1.0,
        "type_ii": 0.0,
        "type_iii/first_half/over_text": 0.0,
        "type_iii/first_half/drop_word": 1.0,
        "type_iii/first_half/shuffle_words": 0.0,
        "type_iii/first_half/over_negative/drop_word": 0.0,
        "type_iii/first_half/over_negative/shuffle_words": 0.0,
        "type_iii": 0.5,
    }
    assert {of.count for of in compared} == {5}, "2 captions, none and 3"


def test_negatives_on_word_features_are_of_type_i(tmp_path, plant):
    plant(long_texts)
    words = PerturbWords([GaussianNoise()])
    shares, _ = validate(tmp_path, positives=[FirstHalf()], word_features=words)
    assert shares["type_i/gaussian_noise"] == 0.0, "noise leaves the length"
    assert shares["type_iii/first_half/gaussian_noise"] == 0.0
    assert shares["type_iii/first_half/over_text"] == 0.0


def test_captions_are_scored_with_their_own_images_in_blocks(tmp_path, plant):
    """What the images add is the same for both texts of a caption, and only for those."""
    seen = []

    def by_pair(model, images, texts):
        score = 1000 * images.pooled.sum(1)[:, None] + texts.mask.sum(1)
        seen.append(score.shape)
        return score

    plant(by_pair)
    shares, _ = validate(tmp_path, negatives=[DropWord()])
    assert shares == {"type_i/drop_word": 1.0, "type_i": 1.0}
    assert (5, 10) in seen, "5 captions with T and T-, in one block"


def test_the_texts_of_each_validation_are_the_same(tmp_path, monkeypatch):
    made = []
    encode = ImageTextModel.encode_texts

    def noted(model, texts):
        if not model.training and not isinstance(texts, tuple):
            made.append(texts.input_ids.tolist())
        return encode(model, texts)

    monkeypatch.setattr(ImageTextModel, "encode_texts", noted)
    _, compared = validate(tmp_path, epochs=2, negatives=[ShuffleWords()])
    # the sanity check makes none; each validation encodes the captions of its one batch and then T-
    captions, first, again, second = made[-4:]
    assert captions == again
    assert first == second != captions
    assert len(compared) == 1


def test_without_operations_nothing_is_logged(tmp_path):
    assert validate(tmp_path) == ({}, [])
