"""Several views of a picture as stored features: extraction, drawing in training, means in evaluation."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers.datasets import write_karpathy
from tests.helpers.encoders import FROZEN, MeanColour, WordTable

from ascl_lightning.data import stored_features as storage
from ascl_lightning.data.batch import Features, ImageViews
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.image_views import PLAIN, VIEWS, ImageView, ViewKind, views_of
from ascl_lightning.data.images import open_image, to_square
from ascl_lightning.data.sources import ExtractedFeatures, KarpathyJson
from ascl_lightning.errors import UserError
from ascl_lightning.losses import InfoNCE
from ascl_lightning.models import ConvImageEncoder, FusedSimilarity, ImageTextModel, TimmImageEncoder
from ascl_lightning.models.towers.image import ImageEncoder
from ascl_lightning.models.towers.regions import RegionEncoder
from ascl_lightning.training.callbacks.frozen_features import check_features
from ascl_lightning.training.extraction import SplitExtraction, check_views, foreign_entries
from ascl_lightning.training.objective import Objective
from ascl_lightning.training.terms import LossWeights

ALL: list[ViewKind] = ["flip", "crops", "larger"]
NUM_VIEWS = 8


def make_model(encoder: ImageEncoder | None = None) -> ImageTextModel:
    torch.manual_seed(0)
    images = MeanColour(tuning=FROZEN) if encoder is None else encoder
    return ImageTextModel(images, WordTable(), FusedSimilarity(4, num_heads=2)).eval()


def data(root: Path, model: ImageTextModel, source: object = None, folder: str = "out") -> RetrievalDataModule:
    if not (root / "data").is_dir():
        write_karpathy(root / "data", {"train": 6, "val": 5}, captions=2)
    datamodule = RetrievalDataModule(
        source or ExtractedFeatures(),  # type: ignore[arg-type]
        str(root / folder),
        batch_size=4,
        image_spec=model.image_encoder.spec,
        text_spec=model.text_encoder.spec,
    )
    datamodule.setup("fit")
    return datamodule


def extract(root: Path, model: ImageTextModel, kinds: list[ViewKind]) -> list[SplitExtraction]:
    datamodule = data(root, model, KarpathyJson("dataset_flickr8k.json"), "data")
    done = []
    for split in ("train", "val"):
        out = root / "out" / split
        extraction = SplitExtraction(model, datamodule, split, out, True, False, dtype="float32", views=views_of(kinds))
        extraction.prepare()
        for job in extraction.jobs():
            extraction.run(job, torch.device("cpu"))
        done.append(extraction)
    return done


def naive(root: Path, model: ImageTextModel, split: str, view: ImageView) -> Features:
    """The tower's features of the pictures in a view, computed from the files."""
    paths = KarpathyJson("dataset_flickr8k.json").read(root / "data", split).images
    shown = [to_square(open_image(path), model.image_encoder.spec, view=view) for path in paths]
    with torch.no_grad():
        return model.image_encoder(torch.from_numpy(np.stack(shown)))


def test_each_view_is_a_table_of_the_towers_features(tmp_path: Path) -> None:
    model = make_model()
    _, extraction = extract(tmp_path, model, ALL)
    features = extraction.features()
    assert features.num_views == NUM_VIEWS
    for view, table in zip((PLAIN, *views_of(ALL)), features.image_tables, strict=True):
        stored, expected = table.gather(torch.arange(5)), naive(tmp_path, model, "val", view)
        torch.testing.assert_close(stored.tokens, expected.tokens, rtol=0, atol=0.02)
        assert table.manifest.view == ("" if view == PLAIN else view.name)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            features.views[0].gather(torch.arange(5)).tokens, features.images.gather(torch.arange(5)).tokens
        )


def test_training_draws_one_view_for_each_picture_and_epoch(tmp_path: Path) -> None:
    model = make_model()
    extract(tmp_path, model, ALL)
    drawn: Counter[int] = Counter()
    datamodule = data(tmp_path, model)
    tables = datamodule.view("train").features.image_tables
    for number in range(12):
        views: dict[int, set[int]] = {}
        loader = datamodule.train_dataloader()
        loader.batch_sampler.sampler.set_epoch(number)
        for batch in loader:
            for row, image in enumerate(batch.image_ids.tolist()):
                candidates = [table.gather(torch.tensor([image])).tokens[0] for table in tables]
                found = {view for view, each in enumerate(candidates) if torch.equal(each, batch.images.tokens[row])}
                assert found
                views.setdefault(image, found)
                # both captions of a picture in an epoch see the same view
                assert views[image] == found
        drawn.update(min(found) for found in views.values())
    assert len(drawn) == NUM_VIEWS
    again = data(tmp_path, model).view("train")
    numbers = [(row, epoch) for row in range(6) for epoch in range(4)]
    expected = [datamodule.view("train").draw_view(row, 0, epoch) for row, epoch in numbers]
    assert [again.draw_view(row, 0, epoch) for row, epoch in numbers] == expected


def test_evaluation_takes_the_mean_vector_and_the_plain_tokens(tmp_path: Path) -> None:
    model = make_model()
    extract(tmp_path, model, ALL)
    (batch,) = data(tmp_path, model).val_dataloader()
    assert isinstance(batch.images, ImageViews)
    assert len(batch.images) == 5
    with torch.no_grad():
        found, plain = model.encode_images(batch.images), model.encode_images(batch.images.views[0])
        pooled = [model.image_projection(each).pooled for each in batch.images.views]
    assert len(pooled) == NUM_VIEWS
    torch.testing.assert_close(found.pooled, sum(pooled) / NUM_VIEWS)
    assert torch.equal(found.tokens, plain.tokens)
    assert not torch.allclose(found.pooled, plain.pooled)


@pytest.mark.parametrize("kind", ["train", "evaluation"])
def test_views_of_activations_go_through_the_upper_part(kind: str, tmp_path: Path) -> None:
    """Also those of a larger size, in one batch with others."""
    model = make_model(TimmImageEncoder("test_resnet", image_size=64, cut="layer4"))
    extract(tmp_path, model, ["flip", "larger"])
    datamodule = data(tmp_path, model)
    views = (PLAIN, *views_of(["flip", "larger"]))
    with torch.no_grad():
        if kind == "evaluation":
            (batch,) = datamodule.val_dataloader()
            shown = [naive(tmp_path, model, "val", view) for view in views]
            expected = [model.image_projection(features).pooled for features in shown]
            found = model.encode_images(batch.images).pooled
            # files are decoded in two ways
            torch.testing.assert_close(found, torch.stack(expected).mean(dim=0), rtol=0.02, atol=0.02)
            return
        rows = torch.tensor([3, 0, 5, 1])
        features = datamodule.view("train").features.drawn(rows, torch.tensor([2, 0, 1, 2]))
        assert features.mask.sum(dim=1).tolist() == [36, 16, 16, 36]
        found = model.encode_images(features)
        for place, (row, view) in enumerate([(3, 2), (0, 0), (5, 1), (1, 2)]):
            table = datamodule.view("train").features.image_tables[view]
            alone = model.encode_images(table.gather(torch.tensor([row])))
            torch.testing.assert_close(found.pooled[place], alone.pooled[0], rtol=1e-4, atol=1e-5)


def test_crops_as_tokens_in_training_and_evaluation(tmp_path: Path) -> None:
    """The tower's vectors of the crops, from the files, behind the tokens; the other views are drawn or averaged."""
    model = make_model()
    extract(tmp_path, model, ["flip", "crops"])
    datamodule = data(tmp_path, model, ExtractedFeatures(crop_tokens=True))
    (batch,) = datamodule.val_dataloader()
    vectors, project = [naive(tmp_path, model, "val", view).pooled for view in VIEWS["crops"]], model.image_projection
    with torch.no_grad():
        found, plain = model.encode_images(batch.images), model.encode_images(batch.images.views[1])
        expected = torch.nn.functional.normalize(project.tokens(torch.stack(vectors, dim=1)), dim=2)
        torch.testing.assert_close(found.tokens[:, 4:], expected, rtol=0, atol=0.05)
        pooled = [project.pooled(naive(tmp_path, model, "val", view).pooled) for view in (PLAIN, *VIEWS["flip"])]
        torch.testing.assert_close(found.pooled, (pooled[0] + pooled[1]) / 2, rtol=0, atol=0.02)
    assert found.mask.shape == (5, 4 + 5)
    assert plain.mask.shape == (5, 4)
    drawn, tables = set(), datamodule.view("train").features.image_tables
    for batch in datamodule.train_dataloader():
        for row, image in enumerate(batch.image_ids.tolist()):
            own = [table.gather(torch.tensor([image])) for table in tables]
            assert [crop.pooled[row].tolist() for crop in batch.images.crops] == [
                of.pooled[0].tolist() for of in own[2:]
            ]
            drawn |= {view for view in (0, 1) if torch.equal(own[view].tokens[0], batch.images.tokens[row])}
    assert drawn == {0, 1}


def test_crops_as_tokens_in_chunks_of_a_batch(tmp_path: Path) -> None:
    model = make_model()
    extract(tmp_path, model, ["crops"])
    batch = next(iter(data(tmp_path, model, ExtractedFeatures(crop_tokens=True)).train_dataloader()))
    losses = []
    for size in (None, 3):
        model.zero_grad()
        loss = Objective(model, InfoNCE(), None, LossWeights(), size)(batch).loss
        loss.backward()
        losses.append((loss.detach(), model.image_projection.tokens.weight.grad.clone()))
    torch.testing.assert_close(losses[0], losses[1])


def test_vectors_of_crops_must_be_as_wide_as_tokens(tmp_path: Path) -> None:
    model = make_model()
    extract(tmp_path, model, ["crops"])
    stored = data(tmp_path, model, ExtractedFeatures(crop_tokens=True))
    check_features(stored, model)
    model.image_encoder.pooled_dim = 7
    check_features(data(tmp_path, model), model)
    with pytest.raises(
        UserError, match=r"global vectors have width 7 and its tokens 3, so that .*\.crop_tokens to false"
    ):
        check_features(stored, model)


def test_interrupted_extraction_continues_and_views_can_be_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "SHARD_ROWS", 4)
    model = make_model()
    extract(tmp_path, model, ["flip"])
    seen = model.image_encoder.pictures_seen
    assert seen == 2 * (6 + 5)
    extract(tmp_path, model, ["flip"])
    assert model.image_encoder.pictures_seen == seen
    shutil.rmtree(tmp_path / "out" / "train" / "views" / "flip" / "00001")
    extract(tmp_path, model, ["flip", "crops"])
    assert model.image_encoder.pictures_seen == seen + 2 + 5 * (6 + 5)
    assert foreign_entries(tmp_path / "out") == []
    # a run without views keeps those that fit
    extract(tmp_path, model, [])
    assert len(list((tmp_path / "out" / "val" / "views").iterdir())) == 6
    model.image_encoder.scale.data.mul_(2)
    extract(tmp_path, model, ["flip"])
    assert [path.name for path in (tmp_path / "out" / "val" / "views").iterdir()] == ["flip"]


def test_the_views_to_use_are_chosen(tmp_path: Path) -> None:
    model = make_model()
    extract(tmp_path, model, ["flip", "crops"])
    chosen = {(): 1, ("flip",): 2, ("crops", "flip"): 7, None: 7}
    for kinds, number in chosen.items():
        source = ExtractedFeatures(None if kinds is None else list(kinds))
        assert source.read(tmp_path / "out", "val").features.num_views == number
    with pytest.raises(UserError, match=r"not all views of flip, larger are stored; run `ascl extract` with these"):
        ExtractedFeatures(["flip", "larger"]).read(tmp_path / "out", "val")
    (batch,) = data(tmp_path, model, ExtractedFeatures([])).val_dataloader()
    assert isinstance(batch.images, Features)


def test_views_of_another_tower_are_refused(tmp_path: Path) -> None:
    model = make_model()
    extract(tmp_path, model, ["flip"])
    stored = data(tmp_path, model)
    check_features(stored, model, training=True)
    manifest = tmp_path / "out" / "val" / "views" / "flip" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"encoder": "another"}))
    with pytest.raises(UserError, match=r"views/flip: these features come from another image encoder"):
        check_features(data(tmp_path, model), model)


@pytest.mark.parametrize("name", [None, "vit_tiny_patch16_224"])
def test_towers_of_one_size_take_no_larger_view(name: str | None) -> None:
    encoder = ConvImageEncoder(32) if name is None else TimmImageEncoder(name, model_args={"depth": 1})
    check_views(encoder, views_of(["flip", "crops"]))
    with pytest.raises(UserError, match=r"takes no pictures of \d+ x \d+ pixels; remove 'larger'"):
        check_views(encoder, VIEWS["larger"])


def test_region_features_have_no_views() -> None:
    check_views(RegionEncoder(3, 4), [])
    with pytest.raises(UserError, match="region features have no views"):
        check_views(RegionEncoder(3, 4), VIEWS["flip"])


def test_other_files_among_views_and_damaged_views_are_named(tmp_path: Path) -> None:
    model = make_model()
    extract(tmp_path, model, ["flip"])
    tokens = tmp_path / "out" / "val" / "views" / "flip" / "00000" / "tokens.npy"
    content = tokens.read_bytes()
    tokens.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"views/flip/00000/tokens\.npy: is not what `ascl extract` wrote"):
        ExtractedFeatures().read(tmp_path / "out", "val")
    (tmp_path / "out" / "val" / "views" / "mine").mkdir()
    (tmp_path / "out" / "val" / "views" / "mine" / "photo.jpg").touch()
    assert foreign_entries(tmp_path / "out") == ["val/views/mine"]
