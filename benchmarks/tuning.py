"""Ways to fine-tune a ViT-B/16: operations of a step, activations for the backward pass, trained parameters, counted.

Eight images of 224 x 224, float32. Operations are those of forward and backward. Activations are the bytes that
autograd holds at the end of the forward pass, without weights. Trained counts three numbers per parameter: the gradient
and the two moments of Adam. The counts do not depend on the machine. Prints one row for each way, with ratios to full
training in brackets.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from ascl_lightning.models import Lora, TimmImageEncoder, Tuning

BATCH, MIB, TERA = 8, 2**20, 1e12
WAYS = {
    "whole": Tuning(),
    "checkpointing": Tuning(checkpointing=True),
    "lora": Tuning(lora=Lora()),
    "lora, checkpointing": Tuning(lora=Lora(), checkpointing=True),
    "resting": Tuning(thaw_after=0.5),
}


class Kept:
    """Sums the bytes of tensors saved for the backward pass, without weights."""

    def __init__(self, tower: torch.nn.Module) -> None:
        self._weights = {parameter.untyped_storage().data_ptr() for parameter in tower.parameters()}
        self._sizes: dict[int, int] = {}

    def note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._weights:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def total(self) -> int:
        return sum(self._sizes.values())


def count(tuning: Tuning, pictures: torch.Tensor) -> tuple[float, float, float]:
    """Tera-operations, MiB saved for the backward pass, MiB of gradients and moments."""
    tower = TimmImageEncoder("vit_base_patch16_224", tuning=tuning)
    tower.rest(tuning.thaw_after > 0)
    head, kept, counter = torch.nn.Linear(768, 8), Kept(tower), FlopCounterMode(display=False)
    with counter:
        with torch.autograd.graph.saved_tensors_hooks(kept.note, lambda tensor: tensor):
            features = tower(pictures)
        head(features.pooled + features.tokens.mean(dim=1)).square().sum().backward()
    trained = 0 if tower.resting else sum(p.numel() for p in tower.parameters() if p.requires_grad)
    return counter.get_total_flops() / TERA, kept.total() / MIB, 3 * 4 * trained / MIB


def main() -> None:
    torch.manual_seed(0)
    pictures = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)
    whole = None
    for name, tuning in WAYS.items():
        counts = count(tuning, pictures)
        whole = whole or counts
        cells = zip(("T op", "MiB kept", "MiB trained"), counts, whole, strict=True)
        print(f"{name:20}" + "".join(f"  {own:7.2f} {unit} ({own / other:.2f})" for unit, own, other in cells))


if __name__ == "__main__":
    main()
