"""Training from stored activations of cut towers equals training with the whole towers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.datasets import write_karpathy
from tests.helpers.hub_models import write_bert
from torch import Tensor

from ascl_lightning.data.augment.negatives import ShuffleWords
from ascl_lightning.data.augment.positives import FirstHalf, JoinCaptions
from ascl_lightning.data.batch import Features, ImageTextBatch, TokenizedTexts
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import ExtractedFeatures, KarpathyJson
from ascl_lightning.data.stored_features import Precision
from ascl_lightning.data.text import clean_caption
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.report_card.variant_scores import TextItems
from ascl_lightning.losses import AsymmetricContrastiveLoss
from ascl_lightning.models import FusedSimilarity, ImageTextModel, TimmImageEncoder, TransformersTextEncoder
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.training.callbacks.frozen_features import check_features
from ascl_lightning.training.extraction import SplitExtraction
from ascl_lightning.training.objective import Objective
from ascl_lightning.training.terms import LossWeights

PARTS = {"image": "stages.2", "text": 1}


@pytest.fixture
def model(tmp_path: Path) -> ImageTextModel:
    return make_model(tmp_path)


def make_model(root: Path, image: str | None = "stages.2", text: int | None = 1, seed: int = 0) -> ImageTextModel:
    if not (root / "bert").is_dir():
        write_bert(root / "bert")
    torch.manual_seed(seed)
    towers = (
        TimmImageEncoder("test_convnext", image_size=64, cut=image, model_args={"drop_path_rate": 0.2}),
        TransformersTextEncoder(str(root / "bert"), cut=text),
    )
    return ImageTextModel(*towers, FusedSimilarity(8, num_heads=2))


def data(root: Path, model: ImageTextModel, stored: bool) -> RetrievalDataModule:
    if not (root / "data").is_dir():
        write_karpathy(root / "data", {"train": 8, "val": 3}, captions=2)
    datamodule = RetrievalDataModule(
        ExtractedFeatures() if stored else KarpathyJson("dataset_flickr8k.json"),
        str(root / ("out" if stored else "data")),
        positives=[JoinCaptions(), FirstHalf()],
        negatives=[ShuffleWords()],
        batch_size=16,
        image_spec=model.image_encoder.spec,
        text_spec=model.text_encoder.spec,
    )
    datamodule.setup("fit")
    return datamodule


def extract(root: Path, model: ImageTextModel, dtype: Precision = "float32", variants: int = 1) -> None:
    datamodule = data(root, model, stored=False)
    for split in ("train", "val"):
        made = variants if split == "train" else 0
        extraction = SplitExtraction(model, datamodule, split, root / "out" / split, True, True, made, dtype)
        extraction.prepare()
        for job in extraction.jobs():
            extraction.run(job, torch.device("cpu"))


def step(model: ImageTextModel, batch: ImageTextBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and its gradients, with dropout above the cuts."""
    torch.manual_seed(5)
    model.train()
    model.zero_grad()
    loss = Objective(model, AsymmetricContrastiveLoss(), None, LossWeights())(batch).loss
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("variants", [0, 1])
def test_loss_and_gradients_are_those_of_the_whole_towers(variants: int, tmp_path: Path, model: ImageTextModel) -> None:
    """In float32; texts are made while training, or stored."""
    extract(tmp_path, model, variants=variants)
    (pictures,), (activations,) = (list(data(tmp_path, model, stored).train_dataloader()) for stored in (False, True))
    assert activations.images.tokens.shape == (16, 64, 32)
    assert isinstance(activations.positives.texts, Features if variants else TokenizedTexts)
    (loss, gradients), (expected_loss, expected) = step(model, activations), step(model, pictures)
    # padding to another length changes the order of sums
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    assert gradients.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-6 * largest)


def test_in_float16_loss_and_gradients_differ_by_rounding(tmp_path: Path, model: ImageTextModel) -> None:
    """It keeps 11 bits."""
    extract(tmp_path, model, "float16")
    (pictures,), (activations,) = (list(data(tmp_path, model, stored).train_dataloader()) for stored in (False, True))
    (loss, gradients), (expected_loss, expected) = step(model, activations), step(model, pictures)
    assert not torch.equal(loss, expected_loss)
    torch.testing.assert_close(loss, expected_loss, rtol=2e-3, atol=0)
    flat, of_pictures = (torch.cat([value.flatten() for value in each.values()]) for each in (gradients, expected))
    assert (flat - of_pictures).norm() < 0.02 * of_pictures.norm()


def test_evaluation_scores_what_it_scores_with_pictures(tmp_path: Path, model: ImageTextModel) -> None:
    """Also if the scores read pooled vectors only: these are computed from the activations."""
    model.eval()
    extract(tmp_path, model)
    (pictures,) = data(tmp_path, model, stored=False).val_dataloader()
    for with_tokens in (True, False):
        stored = data(tmp_path, model, stored=True)
        stored.with_tokens, stored.views = with_tokens, {}
        (activations,) = stored.val_dataloader()
        with torch.no_grad():
            scores = [
                model.score(model.encode_images(batch.images), model.encode_texts(batch.texts))
                for batch in (pictures, activations)
            ]
        torch.testing.assert_close(scores[1], scores[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_report_card_encodes_texts_like_stored_captions(tmp_path: Path, model: ImageTextModel) -> None:
    model.eval()
    extract(tmp_path, model)
    stored = data(tmp_path, model, stored=True)
    texts = stored.view("val").features.texts
    captions = [clean_caption(text) for of_image in stored.view("val").split.captions for text in of_image]
    items = TextItems(model, stored.tokenizer(), torch.device("cpu"), texts.table)(captions)
    found = dict(zip(items.ids.tolist(), items.embeds, strict=True))
    expected = model.similarity.text_embeds(model.encode_texts(texts.captions(torch.arange(len(captions)))))
    for row, embeds in enumerate(expected):
        torch.testing.assert_close(found[row], embeds, rtol=1e-5, atol=1e-6)


def test_trained_upper_layers_keep_the_store_and_trained_lower_ones_do_not(
    tmp_path: Path, model: ImageTextModel
) -> None:
    extract(tmp_path, model)
    stored = data(tmp_path, model, stored=True)
    above = {
        id(value)
        for tower in (model.image_encoder, model.text_encoder)
        for name in tower.above
        for value in tower.get_submodule(name).parameters()
    }
    for name, parameter in model.named_parameters():
        if id(parameter) in above or "encoder" not in name:
            parameter.data.add_(1.0)
    check_features(stored, model, training=True)
    model.text_encoder.backbone.encoder.layer[0].output.dense.bias.data.add_(1.0)
    with pytest.raises(UserError, match="come from another text encoder, other weights"):
        check_features(stored, model, training=True)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"image": "stages.3"}, r"activations that enter 'stages\.2', but `cut` of the image encoder is stages\.3"),
        ({"text": 0}, r"enter 'encoder\.layer\.1', but `cut` of the text encoder is encoder\.layer\.0: set it to "),
        ({"text": None}, "the text encoder is not frozen"),
    ],
)
def test_a_store_of_another_cut_is_refused(
    other: dict[str, Any], message: str, tmp_path: Path, model: ImageTextModel
) -> None:
    extract(tmp_path, model)
    stored = data(tmp_path, model, stored=True)
    with pytest.raises(UserError, match=message):
        check_features(stored, make_model(tmp_path, **(PARTS | other)), training=True)


def test_features_of_a_whole_tower_are_no_activations(tmp_path: Path, model: ImageTextModel) -> None:
    whole = make_model(tmp_path, image=None)
    whole.image_encoder.tuning = Tuning(frozen=True)
    extract(tmp_path, whole)
    message = r"features of a whole tower, but `cut` of the image encoder is stages\.2: set it to null"
    with pytest.raises(UserError, match=message):
        check_features(data(tmp_path, model, stored=True), model)
