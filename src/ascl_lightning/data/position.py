"""Where a training stands inside its data, for an exact resume (docs/reliability.md#exact-resume)."""

from dataclasses import dataclass

from lightning.pytorch import Trainer

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

    @classmethod
    def reached(cls, trainer: Trainer, batches_of_epoch: int) -> "Position":
        """The position of a training, in any hook that saves a checkpoint."""
        epochs = trainer.fit_loop.epoch_progress.current.state_dict()
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.state_dict()
        # between epochs, the counters are still those of the last one; `completed` lags while hooks run
        done = batches["processed"] if epochs["started"] > epochs["processed"] else 0
        at_end = done > 0 and done >= trainer.num_training_batches
        return cls(epochs["processed"] + at_end, 0 if at_end else done, batches_of_epoch, trainer.world_size)

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
