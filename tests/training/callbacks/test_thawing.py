import copy
import multiprocessing as mp
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from tests.helpers.checkpointing import SaveAfter
from tests.helpers.datasets import write_karpathy
from tests.helpers.encoders import MeanColour, WordTable

from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import KarpathyJson
from ascl_lightning.losses import InfoNCE
from ascl_lightning.models import FusedSimilarity
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.training.module import RetrievalModule


class Watch(Callback):
    """Records a tower's state after each step, and its gradients at optimizer steps."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []
        self.training: list[bool] = []
        self.gradients: list[torch.Tensor | None] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.weights.append(pl_module.model.image_encoder.scale.detach().clone())
        self.training.append(pl_module.model.image_encoder.training)

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        gradient = pl_module.model.image_encoder.scale.grad
        self.gradients.append(None if gradient is None else gradient.clone())


def build(thaw_after: float) -> RetrievalModule:
    torch.manual_seed(0)
    towers = MeanColour(tuning=Tuning(thaw_after=thaw_after)), WordTable()
    return RetrievalModule(
        *towers,
        FusedSimilarity(4, num_heads=2, global_fusion="none"),
        InfoNCE(),
        optimizer=partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    )


def data(root, module) -> RetrievalDataModule:
    write_karpathy(root, {"train": 6, "val": 4}, captions=2)
    specs = {"image_spec": module.model.image_encoder.spec, "text_spec": module.model.text_encoder.spec}
    return RetrievalDataModule(KarpathyJson("dataset_flickr8k.json"), str(root), batch_size=4, **specs)


def fit(root, module, epochs=2, ckpt_path=None, callbacks=(), **arguments) -> tuple[Trainer, Watch]:
    watch = Watch()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        use_distributed_sampler=False,
        default_root_dir=root,
        callbacks=[watch, *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(module, data(root / "data", module), ckpt_path=ckpt_path, weights_only=True)
    return trainer, watch


def test_a_tower_is_frozen_for_its_fraction_of_the_steps(tmp_path):
    module = build(thaw_after=2 / 3)
    start = module.model.image_encoder.scale.detach().clone()
    heads = copy.deepcopy(module.model.image_projection.state_dict())
    _, watch = fit(tmp_path, module)
    assert watch.training == [False] * 4 + [True] * 2
    assert [torch.equal(weights, start) for weights in watch.weights] == [True] * 4 + [False] * 2
    assert not torch.equal(heads["pooled.weight"], module.model.image_projection.pooled.weight)


def test_optimizer_state_starts_with_the_first_gradient(tmp_path):
    module = build(thaw_after=2 / 3)
    trainer, _ = fit(tmp_path, module)
    (optimizer,) = trainer.optimizers
    assert optimizer.state[module.model.image_encoder.scale]["step"] == 2
    assert optimizer.state[module.model.text_encoder.table.weight]["step"] == 6


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_resumed_run_thaws_like_an_uninterrupted_one(tmp_path, epoch):
    """Resumed while the tower is frozen, and after thawing."""
    whole, resumed = build(thaw_after=0.5), build(thaw_after=0.5)
    path = tmp_path / "stopped.ckpt"
    fit(tmp_path, whole, 3, callbacks=[SaveAfter(epoch, path)])
    _, watch = fit(tmp_path, resumed, 3, ckpt_path=path)
    assert watch.training == ([False] * 1 + [True] * 5 if epoch == 0 else [True] * 3)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_that_ends_early_leaves_no_tower_frozen(tmp_path):
    module = build(thaw_after=0.9)
    fit(tmp_path, module, limit_train_batches=1, epochs=1)
    assert not module.model.image_encoder.resting


class Keep(Callback):
    """Saves the records of each process at the end."""

    def __init__(self, root) -> None:
        self.root = root

    def on_train_end(self, trainer, pl_module):
        (watch,) = (callback for callback in trainer.callbacks if isinstance(callback, Watch))
        seen = {"state": pl_module.state_dict(), "weights": watch.weights, "training": watch.training}
        torch.save(seen, self.root / f"{trainer.global_rank}.pt")


@pytest.fixture
def one_thread(monkeypatch):
    """Makes forking safe: a child would wait forever for threads of its parent."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or Lightning chooses a number
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="starts its processes by fork")
@pytest.mark.usefixtures("one_thread")
def test_two_processes_thaw_together(tmp_path):
    module = build(thaw_after=0.5)
    start = module.model.image_encoder.scale.detach().clone()
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    fit(tmp_path, module, callbacks=[Keep(tmp_path)], strategy=strategy, devices=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["training"] == second["training"] == [False] * 2 + [True] * 2
    assert [torch.equal(weights, start) for weights in first["weights"]] == [True] * 2 + [False] * 2
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
