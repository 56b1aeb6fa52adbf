"""Where a training stands inside its data, for an exact resume (docs/reliability.md#exact-resume)."""

from dataclasses import dataclass

from ascl_lightning.errors import UserError


@dataclass(frozen=True)
class Position:
    """Position of a training: the current epoch and the number of its batches that each rank has done.

    It is valid only for the same number of batches and ranks, which determine an epoch's batches.
    """

    epoch: int
    batches: int
    batches_of_epoch: int
    world_size: int

    def check(self, batches_of_epoch: int, world_size: int) -> None:
        """Compares with the training that is to resume here.

        Raises:
            UserError: If the position is inside an epoch of other batches or ranks.
        """
        if self.batches and (self.batches_of_epoch, self.world_size) != (batches_of_epoch, world_size):
            raise UserError(
                f"the checkpoint is inside an epoch of {self.batches_of_epoch} batches on {self.world_size} processes; "
                f"here it would be {batches_of_epoch} on {world_size}: resume with the same data, batch size and "
                f"number of processes, or from a checkpoint at the end of an epoch"
            )
