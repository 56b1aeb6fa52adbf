"""The output files of `ascl predict`: embeddings with image ids and captions."""

import json
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from safetensors.torch import save
from torch import Tensor

from ascl_lightning.runtime.files import write_file
from ascl_lightning.training.accessors import retrieval_data, run_folder


class EmbeddingWriter(Callback):
    """Writes `embeddings-RANK.safetensors` and `items-RANK.json` for each rank.

    The first has image_embeds (N, D), text_embeds (M, D) and text_image_ids (M,), the second image_ids and captions in
    the same order.
    """

    def __init__(self) -> None:
        self._parts: list[dict[str, Tensor]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Copies a batch's embeddings to the CPU."""
        self._parts.append({name: value.cpu() for name, value in outputs.items()})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files."""
        tensors = {name: torch.cat([part[name] for part in self._parts]) for name in self._parts[0]}
        self._parts.clear()
        split = retrieval_data(trainer).view("test").split
        captions = [caption for captions in split.captions for caption in captions]
        items = {
            "image_ids": [split.image_ids[row] for row in tensors.pop("image_ids").tolist()],
            "captions": [captions[row] for row in tensors.pop("text_ids").tolist()],
        }
        folder, rank = run_folder(trainer), trainer.global_rank
        write_file(folder / f"embeddings-{rank}.safetensors", save(tensors))
        write_file(folder / f"items-{rank}.json", json.dumps(items, ensure_ascii=False, indent=1) + "\n")
        Console().print(f"Embeddings: {folder}", soft_wrap=True)
