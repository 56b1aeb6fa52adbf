"""Encodes a whole split with a trained model."""

from lightning.pytorch import LightningModule, Trainer

from ascl_lightning.data.batch import ImageTextBatch
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.training.module import RetrievalModule


class SplitEncoder(LightningModule):
    """Runs the towers over a split in Lightning's prediction loop, without ranking.

    Args:
        module: The trained model; its metric collects the encoded batches.
        datamodule: Rejects unreadable images, as in evaluation.
    """

    def __init__(self, module: RetrievalModule, datamodule: RetrievalDataModule) -> None:
        super().__init__()
        self.module = module
        self._datamodule = datamodule

    def on_before_batch_transfer(self, batch: ImageTextBatch, dataloader_idx: int) -> ImageTextBatch:
        """Rejects unreadable images.

        Raises:
            UserError: If an image cannot be read.
        """
        return self._datamodule.on_before_batch_transfer(batch, dataloader_idx)

    def predict_step(self, batch: ImageTextBatch, batch_idx: int) -> None:
        """Collects encoded images and texts."""
        self.module.validation_step(batch, batch_idx)

    def on_predict_epoch_end(self) -> None:
        """Gathers from all ranks now: after this hook, Lightning moves the module off the device."""
        self.gallery = self.module.evaluation.gallery()


def encode_split(trainer: Trainer, module: RetrievalModule, datamodule: RetrievalDataModule, split: str) -> Gallery:
    """Encodes all images of a split, also those without captions, and all captions, in the order of the split.

    Raises:
        UserError: If there is no such split, or an image cannot be read.
    """
    module.evaluation.reset()
    loader = datamodule.evaluation_dataloader(split)
    encoder = SplitEncoder(module, datamodule)
    trainer.predict(encoder, loader, return_predictions=False)
    module.to(encoder.gallery.image_of_text.device)
    return encoder.gallery
