"""Encodes training queries, against which hubness is measured."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.distributed import gather_rows, gather_sizes
from ascl_lightning.runtime.number_types import NonNegativeFloat, NonNegativeInt, PositiveInt
from ascl_lightning.training.accessors import evaluated_split, retrieval_data, retrieval_module
from ascl_lightning.training.callbacks.frozen_features import check_features
from ascl_lightning.training.findings import QueryBank


class HubnessBank(Callback):
    """Adds the score `hubness_corrected` to the results of `ascl validate` and `ascl test` (`search.hubness`).

    The independent embeddings of random training images and all their captions are the bank. No item of the evaluated
    split is in it.

    Args:
        images: Number of training images; 0: no correction.
        k: Number of nearest queries of an item.
        weight: Factor of their mean similarity.
    """

    def __init__(self, images: NonNegativeInt = 0, k: PositiveInt = 16, weight: NonNegativeFloat = 1.0) -> None:
        self._images, self._k, self._weight = images, k, weight

    @torch.no_grad()
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encodes the bank.

        Raises:
            UserError: If the training split cannot be read, or has no captions.
        """
        if not self._images or evaluated_split(trainer) is None:
            return
        module, data = retrieval_module(pl_module), retrieval_data(trainer)
        loader = data.sample_dataloader("train", self._images)
        check_features(data, module.model)
        images, texts = [], []
        for batch in loader:
            moved = trainer.strategy.batch_to_device(batch, module.device)
            # only towers run in the precision of the run
            with trainer.precision_plugin.forward_context():
                encoded = module.encode(moved)
            images.append(encoded.image_embeds)
            texts.append(encoded.text_embeds)
        counts = gather_sizes(*(sum(map(len, parts)) for parts in (images, texts)), device=module.device)
        if not sum(counts[1]):
            raise UserError("the training split has no captions for --hubness.images: set it to 0")
        empty = torch.zeros(0, module.model.similarity.embed_dim, device=module.device)
        of_images = gather_rows(torch.cat([empty, *images]), counts[0])
        of_texts = gather_rows(torch.cat([empty, *texts]), counts[1])
        module.findings.query_bank = QueryBank(of_images, of_texts, self._k, self._weight)
        rank_zero_info(f"Hubness: measured by {sum(counts[0])} training images and {sum(counts[1])} captions")

    on_validation_start = on_test_start
