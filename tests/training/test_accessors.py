import pytest
from lightning.pytorch import LightningModule, Trainer

from ascl_lightning.training.accessors import is_fast_dev_run, retrieval_data, retrieval_module


def test_other_modules_and_data_modules_are_refused_by_name():
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(TypeError, match="RetrievalDataModule, not NoneType"):
        retrieval_data(trainer)
    with pytest.raises(TypeError, match="RetrievalModule, not LightningModule"):
        retrieval_module(LightningModule())


@pytest.mark.parametrize("trial", [True, False])
def test_a_trial_is_a_fast_dev_run(trial):
    assert is_fast_dev_run(Trainer(accelerator="cpu", logger=False, fast_dev_run=trial)) is trial
