"""What `ascl predict` leaves behind: the embeddings, with the names of their images and the texts themselves."""

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
    """Writes `embeddings-RANK.safetensors` (image_embeds (N, D), text_embeds (M, D), text_image_ids (M,)) and, row by
    row with them, `items-RANK.json` (image_ids, captions), one pair of files for each rank.
    """  # noqa: D205

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
        """Keeps a batch's embeddings, off the device."""
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
