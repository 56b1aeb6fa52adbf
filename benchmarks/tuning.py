"""Ways to fine-tune a ViT-B/16: time of a step, what it keeps for the backward pass, what is trained.

Eight pictures of 224 x 224, float32. Kept: bytes of the tensors that autograd holds when the forward pass ends, weights
left out. Trained: three numbers a parameter, the gradient and the two means of Adam. Prints a row for each way, and the
ratios to training the whole tower last.
"""

import torch
from plain import measure

from ascl_lightning.models import TimmImageEncoder
from ascl_lightning.models.tuning import Lora, Tuning

BATCH, MIB = 8, 2**20
WAYS = {
    "whole": Tuning(),
    "checkpointing": Tuning(checkpointing=True),
    "lora, rank 8": Tuning(lora=Lora()),
    "lora and checkpointing": Tuning(lora=Lora(), checkpointing=True),
    "resting": Tuning(thaw_after=0.5),
}


def kept_bytes(tower: TimmImageEncoder, pictures: torch.Tensor) -> int:
    """Bytes that wait for the backward pass."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in tower.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        features = tower(pictures)
    total = sum(kept.values())
    del features
    return total


def main() -> None:
    torch.manual_seed(0)
    pictures = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)
    head = torch.nn.Linear(768, 8)
    results = {}
    for name, tuning in WAYS.items():
        tower = TimmImageEncoder("vit_base_patch16_224", tuning=tuning)
        tower.rest(tuning.thaw_after > 0)

        def step(tower: TimmImageEncoder = tower) -> None:
            tower.zero_grad()
            features = tower(pictures)
            head(features.pooled + features.tokens.mean(dim=1)).square().sum().backward()

        trained = 0 if tower.resting else sum(p.numel() for p in tower.parameters() if p.requires_grad)
        seconds, _ = measure(step)
        results[name] = seconds, kept_bytes(tower, pictures) / MIB, 3 * 4 * trained / MIB
        print(f"{name:24}{seconds:6.2f} s{results[name][1]:8.0f} MiB kept{results[name][2]:8.0f} MiB trained")
    whole = results["whole"]
    for name, result in results.items():
        print(f"{name:24}" + "".join(f"{mine / other:8.2f}" for mine, other in zip(result, whole, strict=True)))


if __name__ == "__main__":
    main()
