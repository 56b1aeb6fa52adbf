"""Which of the report card's operations of type I a model was trained on."""

from collections.abc import Collection, Mapping
from types import MappingProxyType

_ORDER = ("shuffle_words", "swap_words")
_DROPPED = ("drop_attribute", "drop_noun", "drop_number", "drop_relation")
_REPLACED = ("swap_attribute", "swap_noun", "swap_number", "swap_relation")
_OF_SCENES = {
    "wrong_shape": "swap_noun",
    "wrong_colour": "swap_attribute",
    "wrong_size": "swap_attribute",
    "wrong_background": "swap_attribute",
    "wrong_place": "swap_relation",
    "wrong_relation": "swap_relation",
    "wrong_count": "swap_number",
}

_MADE_BY: Mapping[str, Collection[str]] = MappingProxyType(
    {
        **dict.fromkeys(_ORDER, _ORDER),
        **{name: (name, "drop_word") for name in _DROPPED},
        **{name: (name, "replace_word") for name in _REPLACED},
        **{name: (name, swap, "replace_word") for name, swap in _OF_SCENES.items()},
    }
)
"""For each operation of the card, the operations of a training whose T- may be of the same kind.

A similar caption of another image is of no kind: it is no edit of the caption.
"""


def is_trained_on(operation: str, negatives: Collection[str]) -> bool:
    """Whether T- of a training were of the same kind as the variants of an operation of type I.

    Args:
        operation: Operation of the report card.
        negatives: Operations that made T- of the training.

    Example:
        >>> is_trained_on("swap_noun", ["replace_word"]), is_trained_on("drop_noun", ["replace_word"])
        (True, False)
    """
    return not set(_MADE_BY.get(operation, (operation,))).isdisjoint(negatives)
