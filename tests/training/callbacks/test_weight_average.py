from functools import partial
from unittest import mock

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from tests.helpers.checkpointing import SaveAfter
from tests.helpers.datasets import write_karpathy
from tests.helpers.encoders import FROZEN, MeanColour, WordTable

from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import KarpathyJson
from ascl_lightning.errors import UserError
from ascl_lightning.losses import AsymmetricContrastiveLoss
from ascl_lightning.metrics import retrieval_metrics
from ascl_lightning.models import FusedSimilarity
from ascl_lightning.training.callbacks.weight_average import WeightAverage
from ascl_lightning.training.module import RetrievalModule

DECAY = 0.5


class Watch(Callback):
    """Records the trained weights after each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append({name: value.detach().clone() for name, value in pl_module.named_parameters()})


def build(**towers) -> RetrievalModule:
    torch.manual_seed(0)
    image_encoder, text_encoder = MeanColour(**towers), WordTable(**towers)
    image_encoder.register_buffer("positions", torch.arange(200))
    image_encoder.scale.data.copy_(torch.rand(3))
    return RetrievalModule(
        image_encoder,
        text_encoder,
        FusedSimilarity(4, num_heads=2),
        AsymmetricContrastiveLoss(0.1, learn_temperature=True),
        optimizer=partial(torch.optim.Adam, lr=0.05),
    )


def data(root, module) -> RetrievalDataModule:
    write_karpathy(root, {"train": 6, "val": 5}, captions=2)
    specs = {"image_spec": module.model.image_encoder.spec, "text_spec": module.model.text_encoder.spec}
    return RetrievalDataModule(KarpathyJson("dataset_flickr8k.json"), str(root), batch_size=4, **specs)


def fit(root, module, *callbacks, epochs=2, ckpt_path=None) -> Trainer:
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        use_distributed_sampler=False,
        default_root_dir=root,
        callbacks=list(callbacks),
        num_sanity_val_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data(root / "data", module), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def averages(steps: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The average by hand: starts at the first weights, then half old and half new."""
    average = steps[0]
    for step in steps[1:]:
        average = {name: DECAY * average[name] + (1 - DECAY) * value for name, value in step.items()}
    return average


def test_the_checkpoint_and_the_trained_module_hold_the_average(tmp_path):
    module, watch, path = build(), Watch(), tmp_path / "last.ckpt"
    fit(tmp_path, module, WeightAverage(DECAY), watch, SaveAfter(1, path))
    expected = averages(watch.steps)
    assert len(watch.steps) == 6
    checkpoint = torch.load(path, weights_only=True)
    for name, value in expected.items():
        torch.testing.assert_close(checkpoint["state_dict"][name], value)
        torch.testing.assert_close(module.state_dict()[name], value)
        assert torch.equal(checkpoint["current_model_state"][name], watch.steps[-1][name]), name


def test_validation_uses_the_average_for_all_scores(tmp_path):
    """Towers, projections and the fusion that scores at the end of the epoch."""
    module = build()
    shown = fit(tmp_path, module, WeightAverage(DECAY), epochs=1)
    datamodule = data(tmp_path / "again", module)
    datamodule.setup("fit")
    (batch,) = datamodule.val_dataloader()
    with torch.no_grad():  # the module holds the average now
        scores = module.model.score(module.model.encode_images(batch.images), module.model.encode_texts(batch.texts))
    for name, value in retrieval_metrics(scores, batch.text_image_ids).items():
        assert shown.callback_metrics[f"val/{name}"].item() == pytest.approx(value), name


@pytest.mark.parametrize("callback", [WeightAverage, EMAWeightAveraging])
def test_lightning_scores_without_the_average(tmp_path, callback):
    """The split is scored with averaged fusion weights here, but with trained ones by Lightning's callback."""
    module, watch, seen = build(), Watch(), []
    compute = module.evaluation.compute
    weight = module.model.similarity.image_fusion.context.weight
    module.evaluation.compute = lambda: seen.append(weight.detach().clone()) or compute()
    fit(tmp_path, module, callback(decay=DECAY), watch, epochs=1)
    name = "model.similarity.image_fusion.context.weight"
    expected = averages(watch.steps) if callback is WeightAverage else watch.steps[-1]
    torch.testing.assert_close(seen[-1], expected[name])


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_unchanged_weights_stay_bitwise_equal(tmp_path, decay):
    module, path = build(tuning=FROZEN), tmp_path / "last.ckpt"
    towers = {name: value.clone() for name, value in module.state_dict().items() if "encoder" in name}
    fit(tmp_path, module, WeightAverage(decay), SaveAfter(1, path))
    state = torch.load(path, weights_only=True)["state_dict"]
    assert towers.keys() >= {"model.image_encoder.positions", "model.text_encoder.table.weight"}
    for name, value in towers.items():
        assert torch.equal(state[name], value), name


def test_frozen_weights_are_stored_once(tmp_path):
    module, callback = build(tuning=FROZEN), WeightAverage(DECAY)

    class Addresses(Callback):
        def on_train_start(self, trainer, pl_module):
            average, model = callback._average_model.module.model, module.model
            pairs = zip(average.named_parameters(), model.parameters(), strict=True)
            self.shared = {name for (name, one), other in pairs if one.data_ptr() == other.data_ptr()}

    addresses = Addresses()
    fit(tmp_path, module, callback, addresses)
    unread = {"text_projection.pooled.weight", "text_projection.pooled.bias"}  # without a gate no score reads them
    assert addresses.shared == {"image_encoder.scale", "text_encoder.table.weight"} | unread


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_resumed_run_has_the_average_of_an_uninterrupted_one(tmp_path, epoch):
    path = tmp_path / "stopped.ckpt"
    whole, resumed = build(), build()
    fit(tmp_path, whole, WeightAverage(DECAY), SaveAfter(epoch, path), epochs=3)
    fit(tmp_path, resumed, WeightAverage(DECAY), epochs=3, ckpt_path=path)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("name", ["inside.ckpt", "after.ckpt"])
def test_a_checkpoint_of_an_interrupted_validation_holds_average_and_trained_weights(tmp_path, name):
    path = tmp_path / name

    class Break(Callback):
        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
            if not trainer.sanity_checking:
                trainer.save_checkpoint(tmp_path / "inside.ckpt")
                raise RuntimeError("broken")

        def on_exception(self, trainer, pl_module, exception):
            trainer.save_checkpoint(tmp_path / "after.ckpt")

    module, watch = build(), Watch()
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, module, WeightAverage(DECAY), watch, Break())
    checkpoint, expected = torch.load(path, weights_only=True), averages(watch.steps)
    for name, value in expected.items():
        torch.testing.assert_close(checkpoint["state_dict"][name], value)
        assert torch.equal(checkpoint["current_model_state"][name], watch.steps[-1][name]), name


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_0_and_1_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        WeightAverage(decay)


def test_sharded_weights_are_refused():
    trainer = mock.Mock(spec=Trainer, strategy=ModelParallelStrategy())
    with pytest.raises(UserError, match="strategy ddp"):
        WeightAverage().setup(trainer, build(), "fit")
