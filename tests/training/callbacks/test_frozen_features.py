import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from tests.helpers.datasets import write_karpathy
from tests.helpers.encoders import FROZEN, MeanColour, WordTable

from ascl_lightning.data.augment.positives import FirstHalf
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.images import open_image, to_square
from ascl_lightning.data.sources import KarpathyJson
from ascl_lightning.data.stored_features import FeatureTable
from ascl_lightning.losses import InfoNCE
from ascl_lightning.models import FusedSimilarity
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.training.callbacks.frozen_features import FrozenFeatures
from ascl_lightning.training.module import RetrievalModule

NUM_IMAGES = 6 + 4  # train and val
NUM_TEXTS = 2 * NUM_IMAGES


def fit(
    root,
    tuning=FROZEN,
    texts_frozen=True,
    folder=None,
    epochs=2,
    similarity=None,
    **arguments,
) -> RetrievalModule:
    torch.manual_seed(0)
    write_karpathy(root / "data", {"train": 6, "val": 4}, captions=2)
    towers = MeanColour(tuning=tuning), WordTable(tuning=Tuning(frozen=texts_frozen))
    module = RetrievalModule(*towers, similarity or FusedSimilarity(4, num_heads=2), InfoNCE())
    datamodule = RetrievalDataModule(
        KarpathyJson("dataset_flickr8k.json"),
        str(root / "data"),
        batch_size=4,
        image_spec=towers[0].spec,
        text_spec=towers[1].spec,
        **arguments,
    )
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=root / "runs",
        callbacks=[FrozenFeatures(folder)],
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule)
    module.metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    return module


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_frozen_tower_sees_every_item_once_a_training(tmp_path, num_workers):
    module = fit(tmp_path, num_workers=num_workers)
    assert module.model.image_encoder.pictures_seen == NUM_IMAGES
    assert module.model.text_encoder.texts_seen == NUM_TEXTS
    assert list((tmp_path / "runs").iterdir()) == []


def test_scores_of_global_vectors_need_no_tokens(tmp_path, monkeypatch):
    def of_global_vectors(folder, **arguments):
        similarity = FusedSimilarity(4, num_heads=2, local_weight=0.0, global_fusion="none")
        return fit(tmp_path / folder, similarity=similarity, **arguments)

    expected = of_global_vectors("a")
    monkeypatch.setattr("ascl_lightning.data.feature_shards.FeatureShard.copy_tokens", None)
    assert of_global_vectors("b", with_tokens=False).metrics == expected.metrics


def test_a_trained_tower_sees_every_item_every_epoch(tmp_path):
    module = fit(tmp_path, tuning=Tuning())
    # one caption is one pair: 12 training pictures and 4 of validation, in each of two epochs
    assert module.model.image_encoder.pictures_seen == 2 * (12 + 4)
    assert module.model.text_encoder.texts_seen == NUM_TEXTS


def test_a_tower_that_thaws_is_not_encoded_in_advance(tmp_path):
    """Its stored features would be outdated after thawing."""
    module = fit(tmp_path, tuning=Tuning(thaw_after=0.5))
    assert module.model.image_encoder.pictures_seen == 2 * (12 + 4)


def test_made_texts_are_encoded_at_each_step(tmp_path):
    module = fit(tmp_path, positives=[FirstHalf()])
    assert module.model.text_encoder.texts_seen == NUM_TEXTS + 2 * 12


def test_augmented_pictures_are_not_stored(tmp_path):
    assert fit(tmp_path, augment=True).model.image_encoder.pictures_seen == 2 * (12 + 4)


def test_stored_features_equal_the_towers_output_in_float16(tmp_path):
    module = fit(tmp_path, folder=str(tmp_path / "kept"))
    table = FeatureTable(tmp_path / "kept" / "val" / "images")
    split = KarpathyJson("dataset_flickr8k.json").read(tmp_path / "data", "val")
    pictures = np.stack([to_square(open_image(path), module.model.image_encoder.spec) for path in split.images])
    expected = module.model.image_encoder(torch.from_numpy(pictures))
    stored = table.gather(torch.arange(4))
    torch.testing.assert_close(stored.tokens, expected.tokens, rtol=1e-3, atol=0)
    torch.testing.assert_close(stored.pooled, expected.pooled, rtol=1e-3, atol=0)


def test_other_weights_invalidate_a_kept_folder(tmp_path, monkeypatch):
    folder = str(tmp_path / "kept")
    fit(tmp_path, folder=folder, epochs=1)
    original = MeanColour.__init__

    def doubled(self, *arguments, **options):
        original(self, *arguments, **options)
        self.scale.data.mul_(2)

    monkeypatch.setattr(MeanColour, "__init__", doubled)
    assert fit(tmp_path, folder=folder, epochs=1).model.image_encoder.pictures_seen == NUM_IMAGES


def test_a_kept_folder_is_reused_with_the_same_towers(tmp_path):
    folder = str(tmp_path / "kept")
    first = fit(tmp_path, folder=folder)
    second = fit(tmp_path, folder=folder)
    assert first.model.image_encoder.pictures_seen == NUM_IMAGES
    assert second.model.image_encoder.pictures_seen == 0
    assert second.model.text_encoder.texts_seen == 0
    assert second.metrics == pytest.approx(first.metrics)
