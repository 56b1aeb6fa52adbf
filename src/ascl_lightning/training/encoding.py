"""Encodes a whole split with a trained model, to look at its pairs."""

from lightning.pytorch import LightningModule, Trainer

from ascl_lightning.data.batch import ImageTextBatch
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.training.module import RetrievalModule


class SplitEncoder(LightningModule):
    """Runs the towers over a split as Lightning runs predictions, and ranks nothing.

    Args:
        module: The trained model, which moves to the device; it collects what it encodes.
        datamodule: Refuses pictures that cannot be read, as in evaluation.
    """

    def __init__(self, module: RetrievalModule, datamodule: RetrievalDataModule) -> None:
        super().__init__()
        self.module = module
        self._datamodule = datamodule

    def on_before_batch_transfer(self, batch: ImageTextBatch, dataloader_idx: int) -> ImageTextBatch:
        """As in evaluation.

        Raises:
            UserError: If a picture cannot be read.
        """
        return self._datamodule.on_before_batch_transfer(batch, dataloader_idx)

    def predict_step(self, batch: ImageTextBatch, batch_idx: int) -> None:
        """Collects encoded images and texts."""
        self.module.validation_step(batch, batch_idx)

    def on_predict_epoch_end(self) -> None:
        """Gathers while processes and tensors are where they were: Lightning then takes the module off the device."""
        self.gallery = self.module.evaluation.gallery()


def encode_split(trainer: Trainer, module: RetrievalModule, datamodule: RetrievalDataModule, split: str) -> Gallery:
    """The images of any split with all their captions, encoded; number i of either is row i of the split.

    Images without captions are among them.

    Raises:
        UserError: If there is no such split, or a picture cannot be read.
    """
    module.evaluation.reset()
    loader = datamodule.evaluation_dataloader(split)
    encoder = SplitEncoder(module, datamodule)
    trainer.predict(encoder, loader, return_predictions=False)
    module.to(encoder.gallery.image_of_text.device)
    return encoder.gallery
