import pytest
import torch

from ascl_lightning.metrics.comparisons import ORIGINAL, compare_texts, mean_shares

TYPES = {"join": "type_ii", "half": "type_iii", "drop": "type_i", "swap": "type_i"}
ALL = torch.tensor([True, True, True, True])


def scores(**of_kind):
    """Scores of four captions by kind, as `T`, `drop`, `half`, `half_drop`."""
    kinds = {
        "T": ORIGINAL,
        "drop": (None, "drop"),
        "swap": (None, "swap"),
        "half": ("half", None),
        "half_drop": ("half", "drop"),
    }
    return {kinds[name]: torch.tensor(values) for name, values in of_kind.items()}


def test_a_tie_is_lost_and_captions_that_cannot_be_changed_do_not_count():
    given = scores(T=[0.5, 0.5, 0.5, 0.5], drop=[0.4, 0.5, 0.6, 0.1])
    (all_count,) = compare_texts(given, dict.fromkeys(given, ALL), TYPES)
    assert (all_count.name, all_count.share, all_count.count) == ("type_i/drop", 2 / 4, 4)
    differs = {ORIGINAL: ALL, (None, "drop"): torch.tensor([True, True, True, False])}
    (three,) = compare_texts(given, differs, TYPES)
    assert (three.share, three.count) == (pytest.approx(1 / 3), 3)


def test_without_a_caption_that_counts_there_is_no_share():
    given = scores(T=[0.5] * 4, drop=[0.4] * 4)
    assert compare_texts(given, {ORIGINAL: ALL, (None, "drop"): ~ALL}, TYPES) == []


def test_t_plus_is_set_against_its_negative_the_captions_negative_and_the_caption():
    given = scores(T=[0.5, 0.5, 0.5, 0.5], drop=[0.2, 0.2, 0.6, 0.6], half=[0.4, 0.6, 0.5, 0.7], half_drop=[0.5] * 4)
    found = {of.name: of.share for of in compare_texts(given, dict.fromkeys(given, ALL), TYPES)}
    assert found == {
        "type_i/drop": 2 / 4,
        "type_iii/half/over_text": 2 / 4,
        "type_iii/half/drop": 2 / 4,
        "type_iii/half/over_negative/drop": 3 / 4,
    }


def test_means_are_over_operations_and_leave_out_other_comparisons():
    given = scores(
        T=[0.5] * 4, drop=[0.4] * 4, swap=[0.4, 0.4, 0.6, 0.6], half=[0.9] * 4, half_drop=[0.1, 1.0, 1.0, 1.0]
    )
    compared = compare_texts(given, dict.fromkeys(given, ALL), TYPES)
    assert mean_shares(compared) == {"type_i": (1 + 0.5) / 2, "type_iii": 1 / 4}
