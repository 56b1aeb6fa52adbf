import pytest
from torch.utils.data import DataLoader, Dataset

from ascl_lightning.data.sources.base import MissingSplitError
from ascl_lightning.errors import UserError


class Refused(Dataset[int]):
    def __init__(self, kind: type[UserError]) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise self.kind("a.jsonl, line 2: field 'x: y' is blank")


@pytest.mark.parametrize("kind", [UserError, MissingSplitError])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_message_of_a_worker_process_is_the_message_alone(kind: type[UserError], workers: int) -> None:
    with pytest.raises(kind) as caught:
        list(DataLoader(Refused(kind), num_workers=workers))
    assert str(caught.value) == "a.jsonl, line 2: field 'x: y' is blank"
    assert type(caught.value) is kind
