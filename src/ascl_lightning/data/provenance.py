"""Provenance of weights: the data that trained and selected them, and leaks of it into a test split."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from ascl_lightning.data.fingerprint import SplitDigest
from ascl_lightning.data.text import Vocabulary
from ascl_lightning.errors import UserError

_EXAMPLES = 3


@dataclass(frozen=True)
class Leak:
    """Test data that a model was trained or selected on.

    Args:
        kind: `selection_metric`, `selection_images`, `training_images`, `vocabulary`, `scorer` or `reranking`.
        message: Description with numbers and examples.
    """

    kind: str
    message: str


@dataclass(frozen=True)
class Selection:
    """A selection of weights, such as the best checkpoint.

    Args:
        split: The split that was used.
        monitors: Its metrics that were used.
        digest: Digest of the split.
    """

    split: str
    monitors: tuple[str, ...]
    digest: SplitDigest


@dataclass(frozen=True)
class Test:
    """The split to test a model on.

    Args:
        split: Its name.
        image_ids: The names of its images.
        digest: Its digest.
    """

    __test__ = False  # pytest would collect a class called Test

    split: str
    image_ids: Sequence[str]
    digest: SplitDigest

    def share(self, rows: Bool[np.ndarray, " N"]) -> str:
        """Describes some of the images by number and examples."""
        places = np.flatnonzero(rows)
        names = ", ".join(self.image_ids[int(place)] for place in places[:_EXAMPLES])
        more = ", ..." if len(places) > _EXAMPLES else ""
        return f"{len(places):,} of the {len(rows):,} {self.split} images ({names}{more})"


@dataclass(frozen=True)
class Provenance:
    """The data behind the weights of a model, over all their trainings.

    Args:
        trainings: The training splits.
        selections: The splits that weights were selected on.
        foreign_words: Words of the vocabulary that occur in no training caption.
        gaps: What is unknown.
        negatives: Names of the operations whose T- the loss used, sorted; None if unknown.
    """

    trainings: tuple[SplitDigest, ...] = ()
    selections: tuple[Selection, ...] = ()
    foreign_words: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    negatives: tuple[str, ...] | None = None

    def trained(
        self, digest: SplitDigest, vocabulary: Vocabulary | None, negatives: Collection[str] = ()
    ) -> "Provenance":
        """The provenance after (part of) a training on a split.

        Args:
            digest: Digest of the split, with its words.
            vocabulary: The model's vocabulary; after an earlier training, only `foreign_words` are checked again.
            negatives: Names of the operations whose T- the loss uses.
        """
        words = () if vocabulary is None or self.gaps else vocabulary.words
        candidates = set(self.foreign_words) if self.trainings else None
        foreign = (word for word in words if word not in digest.words and (candidates is None or word in candidates))
        known = {training.fingerprint["images"] + training.fingerprint["captions"] for training in self.trainings}
        again = digest.fingerprint["images"] + digest.fingerprint["captions"] in known
        trainings = self.trainings if again else (*self.trainings, digest)
        made = tuple(sorted({*(self.negatives or ()), *negatives}))
        return replace(self, trainings=trainings, foreign_words=tuple(foreign), negatives=made)

    def selected(self, selection: Selection) -> "Provenance":
        """The provenance after a selection of weights."""
        others = (
            other
            for other in self.selections
            if (other.split, other.monitors) != (selection.split, selection.monitors)
            or other.digest.fingerprint != selection.digest.fingerprint
        )
        return replace(self, selections=(*others, selection))

    def leaks(self, test: Test) -> list[Leak]:
        """Parts of a test split that were used to train or select."""
        found = []
        for selection in self.selections:
            for monitor in selection.monitors:
                if monitor.startswith(f"{test.split}/"):
                    message = f"the checkpoint was selected by {monitor}, a metric of the split under test"
                    found.append(Leak("selection_metric", message))
            chosen = test.digest.same_images(selection.digest)
            if chosen.any():
                by = ", ".join(selection.monitors)
                message = f"{test.share(chosen)} are among those on which the checkpoint was selected, by {by}"
                found.append(Leak("selection_images", message))
        trained = self._among_trained(test, SplitDigest.same_images)
        if trained.any():
            found.append(Leak("training_images", f"{test.share(trained)} were trained on"))
        foreign = [word for word in self.foreign_words if word in test.digest.words]
        if foreign:
            examples = ", ".join(map(repr, foreign[:_EXAMPLES]))
            message = (
                f"{len(foreign):,} words of the vocabulary occur in no training caption, but in the {test.split} "
                f"captions ({examples}): it was mined from those"
            )
            found.append(Leak("vocabulary", message))
        return found

    def unchecked(self, test: Test) -> list[str]:
        """What cannot be checked for a test split."""
        found = list(self.gaps)
        known = [training for training in self.trainings if training.knows_images]
        if len(known) < len(self.trainings):
            found.append(
                f"whether {test.split} images were trained on: the training images were streamed, and only their "
                f"captions are known"
            )
        seen = [*known, *(selection.digest for selection in self.selections)]
        lacking = [int((digest.pictures == 0).sum()) for digest in (test.digest, *seen)]
        if any(lacking):
            found.append(
                f"pictures themselves where they are not at hand, as with features in their place ({lacking[0]:,} of "
                f"{len(test.digest.ids):,} {test.split} images, {sum(lacking[1:]):,} of "
                f"{sum(len(digest.ids) for digest in seen):,} that were trained or selected on): names and captions "
                f"were compared"
            )
        namesakes = self._among_trained(test, SplitDigest.namesakes)
        if namesakes.any():
            found.append(
                f"whether {test.share(namesakes)} were trained on: they have the names of training images, and "
                f"neither pictures nor captions to tell them apart"
            )
        return found

    def notes(self, test: Test) -> list[str]:
        """Overlaps that are no leaks by themselves."""
        captions = test.digest.captions
        shared = np.zeros(len(captions), np.bool_)
        for training in self.trainings:
            shared |= np.isin(captions, training.captions)
        if not shared.any():
            return []
        return [f"{int(shared.sum()):,} of the {len(captions):,} {test.split} captions occur in training too"]

    def state(self) -> dict[str, Any]:
        """The provenance as plain values, for checkpoints and exported weights."""
        return {
            "trainings": [training.state() for training in self.trainings],
            "selections": [
                {"split": of.split, "monitors": list(of.monitors), "digest": of.digest.state()}
                for of in self.selections
            ],
            "foreign_words": list(self.foreign_words),
            "gaps": list(self.gaps),
            "negatives": None if self.negatives is None else list(self.negatives),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Provenance":
        """The inverse of `state`.

        Raises:
            UserError: If `state` is damaged.
        """
        try:
            return cls(
                tuple(map(SplitDigest.from_state, state["trainings"])),
                tuple(
                    Selection(of["split"], tuple(of["monitors"]), SplitDigest.from_state(of["digest"]))
                    for of in state["selections"]
                ),
                tuple(state["foreign_words"]),
                tuple(state["gaps"]),
                # older checkpoints do not have them
                None if state.get("negatives") is None else tuple(state["negatives"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"what the checkpoint says of its data is damaged: {error!r}") from error

    def _among_trained(self, test: Test, compare: Any) -> Bool[np.ndarray, " N"]:
        found = np.zeros(len(test.digest.ids), np.bool_)
        for training in self.trainings:
            found |= compare(test.digest, training)
        return found
