"""Limits the share of unreadable pictures in training, and stops evaluation with a list of them."""

import logging
from collections.abc import Sequence

from ascl_lightning.data.views import SplitView
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.threads import side_by_side

_LISTED = 20
_log = logging.getLogger(__name__)


class BadImages:
    """Counts distinct unreadable training pictures.

    Args:
        max_share: Share of the training images above which the run stops.

    Raises:
        UserError: If it is not in [0, 1].
    """

    def __init__(self, max_share: float) -> None:
        if not 0 <= max_share <= 1:
            raise UserError(f"max_bad_share is {max_share}; give a share from 0 to 1")
        self._max_share = max_share
        self.faults: dict[str, int] = {}
        """How often each error occurred."""

    def count(self, faults: Sequence[str], num_images: int) -> None:
        """Counts the errors of a batch.

        Raises:
            UserError: If too many pictures are bad.
        """
        for fault in faults:
            if fault not in self.faults:
                _log.warning("skipped a picture, another takes its place: %s", fault)
            self.faults[fault] = self.faults.get(fault, 0) + 1
        if len(self.faults) > self._max_share * num_images:
            raise UserError(
                f"{len(self.faults)} of {num_images:,} training pictures cannot be read, more than "
                f"max_bad_share {self._max_share:g}: {_listed(list(self.faults))}"
            )

    def refuse(self, views: Sequence[SplitView]) -> None:
        """Stops an evaluation with the list of all unreadable pictures.

        Raises:
            UserError: Always.
        """
        faults = [fault for view in views for fault in _faults(view)]
        raise UserError(
            f"evaluation needs every picture, and {len(faults)} cannot be read: {_listed(faults)}; "
            f"repair them or remove them from the data set (`ascl check --json FILE` lists them)"
        )


def _faults(view: SplitView) -> list[str]:
    """Errors of the unreadable pictures of a split, in order."""

    def fault(row: int) -> str | None:
        try:
            view.picture(row)
        except UserError as error:
            return str(error)
        return None

    return list(filter(None, side_by_side(fault, range(len(view.split)))))


def _listed(faults: Sequence[str]) -> str:
    rest = f" and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
    return "; ".join(faults[:_LISTED]) + rest
