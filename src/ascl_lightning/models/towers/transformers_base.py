"""Base class of towers that wrap a model of the `transformers` library."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from ascl_lightning.data.batch import TextSpec
from ascl_lightning.models.towers.base import Encoder
from ascl_lightning.models.towers.pretrained import IMAGE_SETTINGS, load_config, load_image_settings, load_tokenizer


class TransformersTower(Encoder):
    """A tower that wraps a model of the `transformers` library."""

    pretrained = True
    spec: Any  # the other base class narrows it
    folder: str
    """Local folder or hub id of the model."""

    def save_settings(self, folder: Path) -> None:
        """Writes the configuration of the model, and its tokenizer or image preprocessing settings."""
        load_config(self.folder).save_pretrained(folder)
        if isinstance(self.spec, TextSpec):
            load_tokenizer(self.folder).save_pretrained(folder)
        elif settings := load_image_settings(self.folder):
            (folder / IMAGE_SETTINGS[0]).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    def layer_numbers(self) -> dict[str, int]:
        """Parts before the layers, such as embeddings, have number 0; parts after them, that of the last layer."""
        prefix, layers = layer_list(self)
        embeddings = tuple(f"{name}." for name, module in self.named_modules() if isinstance(module, nn.Embedding))
        numbers, current = {}, 0
        for name, _ in self.named_parameters():
            if name.startswith(prefix):
                current = int(name.removeprefix(prefix).split(".")[0]) + 1
                numbers[name] = current
            else:
                # relative position embeddings are registered after the layers
                numbers[name] = 0 if current == 0 or name.startswith(embeddings) else len(layers)
        return numbers

    def _checkpoint_activations(self) -> None:
        from transformers import PreTrainedModel

        for module in self.modules():
            if isinstance(module, PreTrainedModel):
                # renamed in newer versions, which deprecate the old name
                enable = getattr(module, "activation_checkpointing_enable", module.gradient_checkpointing_enable)
                enable({"use_reentrant": False})
                # undo settings for generation and for reentrant checkpointing
                module.config.use_cache = False
                module.disable_input_require_grads()
                return


def layer_list(tower: nn.Module) -> tuple[str, nn.ModuleList]:
    """The longest ModuleList that is in no other ModuleList, and the prefix of its parameter names."""
    lists: dict[str, nn.ModuleList] = {}
    for name, module in tower.named_modules():
        if isinstance(module, nn.ModuleList) and not name.startswith(tuple(lists)):
            lists[f"{name}."] = module
    return max(lists.items(), key=lambda item: len(item[1]))
