import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from safetensors.torch import save_file

from ascl_lightning.errors import UserError
from ascl_lightning.training.callbacks.checkpoint_io import AtomicCheckpointIO


def test_checkpoints_and_exported_weights_are_read_alike(tmp_path):
    files = AtomicCheckpointIO()
    files.save_checkpoint({"state_dict": {"w": torch.ones(2)}}, str(tmp_path / "a" / "b.ckpt"))
    save_file({"w": torch.ones(2)}, tmp_path / "c.safetensors")
    for name in ("a/b.ckpt", "c.safetensors"):
        # whatever a strategy passes on
        for weights_only in (None, False):
            read = files.load_checkpoint(str(tmp_path / name), weights_only=weights_only)
            assert torch.equal(read["state_dict"]["w"], torch.ones(2))


def test_pickled_objects_are_refused_even_if_a_strategy_asks_for_them(tmp_path):
    torch.save({"state_dict": {}, "when": UserError("an object")}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="holds more than tensors and plain values"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)


def test_files_and_shards_are_removed(tmp_path):
    files = AtomicCheckpointIO()
    (tmp_path / "a.ckpt").touch()
    (tmp_path / "b.ckpt").mkdir()
    (tmp_path / "b.ckpt" / "meta.pt").touch()
    for name in ("a.ckpt", "b.ckpt", "never there.ckpt"):
        files.remove_checkpoint(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strategy", ["auto", DDPStrategy(), ModelParallelStrategy()], ids=["one", "ddp", "fsdp2"])
def test_the_plugin_works_with_every_strategy(strategy):
    files = AtomicCheckpointIO()
    trainer = Trainer(accelerator="cpu", devices=1, strategy=strategy, plugins=[files], logger=False)
    assert trainer.strategy.checkpoint_io is files
