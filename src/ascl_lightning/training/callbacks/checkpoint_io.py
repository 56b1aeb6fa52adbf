"""Reads and writes checkpoint files for a trainer."""

import shutil
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO

from ascl_lightning.runtime.checkpoints import read_checkpoint, require_weights, write_checkpoint
from ascl_lightning.training.callbacks.export import weights_as_checkpoint


class AtomicCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically (docs/reliability.md#storage).

    Lightning's plugin writes to a temporary folder that may be on another disk, does not flush, and reports success
    where it may not write. Strategies that save shards bypass plugins (`save_distributed_checkpoint`).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Called on rank 0.

        Raises:
            UserError: If the file cannot be written.
        """
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads a checkpoint or exported weights; only tensors and plain values.

        Raises:
            UserError: If the file cannot be read, or holds no usable weights.
        """
        path = Path(path)
        content = weights_as_checkpoint(path) if path.suffix == ".safetensors" else read_checkpoint(path)
        require_weights(content, path)
        return content

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a file, or a folder of shards."""
        if Path(path).is_dir():
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)
