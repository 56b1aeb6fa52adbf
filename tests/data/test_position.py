import pytest

from ascl_lightning.data.position import Position
from ascl_lightning.errors import UserError


@pytest.mark.parametrize(("batches_of_epoch", "world_size"), [(9, 2), (8, 1)])
def test_a_resume_inside_an_epoch_needs_the_same_batches_and_ranks(batches_of_epoch: int, world_size: int) -> None:
    position = Position(epoch=3, batches=5, batches_of_epoch=8, world_size=2)
    position.check(8, 2)
    with pytest.raises(UserError, match="inside an epoch of 8 batches on 2 processes"):
        position.check(batches_of_epoch, world_size)


def test_between_epochs_any_batches_and_ranks_will_do() -> None:
    position = Position(epoch=3, batches=0, batches_of_epoch=8, world_size=2)
    position.check(9, 1)
    assert position.epoch == 3
