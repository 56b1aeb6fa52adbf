import copy
from functools import partial
from unittest import mock

import pytest
import torch
from lightning.pytorch import Trainer
from tests.helpers.datasets import write_karpathy
from tests.helpers.encoders import MeanColour, WordTable

from ascl_lightning.data.augment.negatives import DropWord
from ascl_lightning.data.augment.positives import FirstHalf, JoinCaptions
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import KarpathyJson
from ascl_lightning.errors import UserError
from ascl_lightning.losses import AsymmetricContrastiveLoss, InfoNCE, PairScores, TripletLoss
from ascl_lightning.metrics import retrieval_metrics
from ascl_lightning.models import FusedSimilarity, GaussianNoise, PerturbWords
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.training.callbacks.weight_average import WeightAverage
from ascl_lightning.training.module import RetrievalModule
from ascl_lightning.training.schedule import WarmupCosine

ASCL = {"positives": [JoinCaptions(), FirstHalf()], "negatives": [DropWord()]}


def build(loss=None, **arguments) -> RetrievalModule:
    torch.manual_seed(0)
    loss = AsymmetricContrastiveLoss(0.1) if loss is None else loss
    return RetrievalModule(MeanColour(), WordTable(), FusedSimilarity(4, num_heads=2), loss, **arguments)


def data(module: RetrievalModule, root, **arguments) -> RetrievalDataModule:
    write_karpathy(root, {"train": 6, "val": 5, "test": 4}, captions=[2, 3, 1])
    specs = {"image_spec": module.model.image_encoder.spec, "text_spec": module.model.text_encoder.spec}
    return RetrievalDataModule(KarpathyJson("dataset_flickr8k.json"), str(root), batch_size=4, **specs, **arguments)


def trainer(root, **arguments) -> Trainer:
    return Trainer(
        **({"max_epochs": 2} | arguments),
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def first_batch(module, root, **arguments):
    datamodule = data(module, root, **arguments)
    datamodule.setup("fit")
    return next(iter(datamodule.train_dataloader()))


def step(module, batch) -> tuple[float, dict[str, float]]:
    """Loss and logged values of one training step."""
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.__setitem__(name, float(value))
    module.log_dict = lambda values, **_: logged.update({name: float(value) for name, value in values.items()})
    return float(module.training_step(batch, 0)), logged


def test_the_loss_is_the_weighted_mean_of_both_terms(tmp_path):
    module = build(type_i_weight=0.4, type_ii_iii_weight=0.6)
    batch = first_batch(module, tmp_path, **ASCL)
    model = module.model

    def term(texts, negatives):
        images = model.encode_images(batch.images)
        negative_scores = model.score(images, model.encode_texts(negatives.texts))
        scores = model.score(images, model.encode_texts(texts))
        return module.loss(PairScores(scores, negative_scores, negatives.valid, batch.image_ids)).item()

    type_i = term(batch.texts, batch.negatives)
    type_ii_iii = term(batch.positives.texts, batch.positive_negatives)
    loss, logged = step(module, batch)
    assert loss == pytest.approx(0.4 * type_i + 0.6 * type_ii_iii, rel=1e-5)
    assert logged["train/loss_type_i"] == pytest.approx(type_i, rel=1e-5)
    assert logged["train/loss_type_ii_iii"] == pytest.approx(type_ii_iii, rel=1e-5)
    assert logged["train/logit_scale"] == pytest.approx(10)


def test_without_positives_the_loss_is_the_first_term(tmp_path):
    module = build()
    loss, logged = step(module, first_batch(module, tmp_path, negatives=[DropWord()]))
    assert "train/loss_type_ii_iii" not in logged
    assert loss == pytest.approx(logged["train/loss_type_i"])


def test_word_level_and_feature_level_negatives_are_both_used(tmp_path):
    seen = []

    class Spy(AsymmetricContrastiveLoss):
        def forward(self, scores):
            seen.append((scores.similarity.shape, scores.negatives.shape, scores.negative_valid.shape))
            return super().forward(scores)

    module = build(Spy(0.1), word_features=PerturbWords([GaussianNoise()]))
    step(module, first_batch(module, tmp_path, **ASCL))
    assert seen == [((4, 4), (4, 8), (8,))] * 2


def test_feature_noise_is_keyed_and_differs_between_the_terms(tmp_path):
    keys = []

    class Spy(PerturbWords):
        def forward(self, texts, keys_):
            keys.append(keys_)
            return super().forward(texts, keys_)

    module = build(word_features=Spy([GaussianNoise()]))
    batch = first_batch(module, tmp_path, **ASCL)
    first, _ = step(module, batch)
    torch.manual_seed(99)
    second, _ = step(module, batch)
    assert first == second
    assert torch.equal(keys[0], batch.sampling_keys)
    assert not set(keys[0].tolist()) & set(keys[1].tolist())


def test_a_loss_without_negatives_does_not_score_them(tmp_path):
    module = build(InfoNCE())
    batch = first_batch(module, tmp_path, **ASCL)
    encoder, seen = module.model.text_encoder, module.model.text_encoder.texts_seen
    step(module, batch)
    assert encoder.texts_seen == seen + 8  # T and T+ of four pairs, no T-


def test_tokens_are_used_if_scores_or_negatives_need_them():
    def uses_tokens(word_features=None, **similarity) -> bool:
        similarity = FusedSimilarity(4, num_heads=2, **similarity)
        return RetrievalModule(MeanColour(), WordTable(), similarity, InfoNCE(), word_features).uses_tokens

    assert uses_tokens()
    assert uses_tokens(local_weight=0.0)
    assert uses_tokens(local_weight=0.1, global_fusion="none")
    assert not uses_tokens(local_weight=0.0, global_fusion="none")
    assert uses_tokens(PerturbWords(), local_weight=0.0, global_fusion="none")


def test_validation_metrics_are_those_of_the_whole_matrix(tmp_path):
    module = build()
    datamodule = data(module, tmp_path, eval_batch_size=2)
    shown = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    shown.fit(module, datamodule)
    whole = data(module, tmp_path, eval_batch_size=5)
    whole.setup("fit")
    (batch,) = whole.val_dataloader()
    with torch.no_grad():
        scores = module.model.score(module.model.encode_images(batch.images), module.model.encode_texts(batch.texts))
    expected = retrieval_metrics(scores, batch.text_image_ids)
    for name, value in expected.items():
        assert shown.callback_metrics[f"val/{name}"].item() == pytest.approx(value, rel=1e-5), name
    assert {"val/alignment", "val/uniformity/image", "val/uniformity/text"} <= shown.callback_metrics.keys()


def test_training_lowers_the_loss(tmp_path):
    module = build(optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02), schedule=WarmupCosine(0.0, 1.0))
    shown = trainer(tmp_path, max_epochs=1)
    shown.fit(module, data(module, tmp_path, **ASCL))
    first = shown.callback_metrics["train/loss"].item()
    shown.fit_loop.max_epochs = 25
    shown.fit(module, data(module, tmp_path, **ASCL))
    assert shown.callback_metrics["train/loss"].item() < first - 0.2


def test_the_learned_temperature_is_trained(tmp_path):
    module = build(AsymmetricContrastiveLoss(0.1, learn_temperature=True))
    before = copy.deepcopy(module.loss.temperature.log_temperature.detach())
    trainer(tmp_path, max_epochs=1).fit(module, data(module, tmp_path, **ASCL))
    assert not torch.equal(module.loss.temperature.log_temperature, before)


def test_predictions_hold_unit_embeddings_with_their_ids(tmp_path):
    module = build()
    datamodule = data(module, tmp_path)
    datamodule.setup("fit")
    predicted = trainer(tmp_path).predict(module, datamodule)
    assert predicted is not None
    (part,) = predicted
    assert part["image_ids"].tolist() == [0, 1, 2, 3]
    assert part["text_image_ids"].tolist() == [0, 1, 1, 2, 2, 2, 3]
    assert part["text_ids"].tolist() == list(range(7))
    for name in ("image_embeds", "text_embeds"):
        torch.testing.assert_close(part[name].norm(dim=1), torch.ones(len(part[name])))


def test_a_checkpoint_holds_no_configuration(tmp_path):
    module = build()
    shown = trainer(tmp_path, max_epochs=1)
    shown.fit(module, data(module, tmp_path))
    shown.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert "hyper_parameters" not in checkpoint
    assert checkpoint["RetrievalDataModule"]["vocabulary"]


def test_the_first_stage_term_is_the_loss_on_independent_embeddings(tmp_path):
    module = build(first_stage_weight=0.5)
    batch = first_batch(module, tmp_path)
    loss, logged = step(module, batch)
    images, texts = module.model.encode_images(batch.images), module.model.encode_texts(batch.texts)
    similarity = module.model.similarity.image_embeds(images) @ module.model.similarity.text_embeds(texts).T
    expected = module.loss(PairScores(similarity, image_ids=batch.image_ids)).item()
    assert logged["train/loss_first_stage"] == pytest.approx(expected)
    without, _ = step(build(first_stage_weight=0.0), batch)
    assert loss == pytest.approx(without + 0.5 * expected, rel=1e-5)


def test_a_loss_without_temperature_logs_no_scale(tmp_path):
    module = build(TripletLoss())
    _, logged = step(module, first_batch(module, tmp_path))
    assert "train/loss" in logged
    assert "train/logit_scale" not in logged


def test_all_texts_of_a_step_are_scored_in_one_call(tmp_path):
    module = build(word_features=PerturbWords([GaussianNoise()]))
    batch = first_batch(module, tmp_path, **ASCL)
    with mock.patch.object(module.model.similarity, "compare", wraps=module.model.similarity.compare) as score:
        step(module, batch)
    assert score.call_count == 1


@pytest.mark.slow
def test_compiled_towers_train_like_uncompiled_ones(tmp_path, monkeypatch):
    """With a tower that thaws during training, and a moving average."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    states = []
    for compiled in (False, True):
        torch.manual_seed(0)
        towers = MeanColour(tuning=Tuning(thaw_after=0.5)), WordTable()
        module = RetrievalModule(*towers, FusedSimilarity(4, num_heads=2), InfoNCE(), compile_towers=compiled)
        shown = trainer(tmp_path, callbacks=[WeightAverage(0.5)])
        shown.fit(module, data(module, tmp_path))
        states.append(module.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value)
    assert states[0].keys() == states[1].keys()


def test_towers_in_half_precision_are_scored_in_float32(tmp_path):
    seen = []

    class Spy(AsymmetricContrastiveLoss):
        def forward(self, scores):
            seen.extend((scores.similarity.dtype, scores.negatives.dtype, scores.text_similarity.dtype))
            return super().forward(scores)

    module = build(Spy(0.1), optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02))
    projected = []
    module.model.text_projection.register_forward_hook(lambda *_: projected.append(_[-1].tokens.dtype))
    shown = trainer(tmp_path, precision="bf16-mixed", max_epochs=3)
    shown.fit(module, data(module, tmp_path, **ASCL))
    assert torch.bfloat16 in projected
    assert set(seen) == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_gradients_are_not_accumulated(tmp_path):
    module = build()
    with pytest.raises(UserError, match=r"data\.batch_size with model\.chunk_size"):
        trainer(tmp_path, accumulate_grad_batches=2).fit(module, data(module, tmp_path))
