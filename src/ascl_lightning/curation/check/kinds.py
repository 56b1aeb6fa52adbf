"""The faults that `ascl check` detects, each with severity, description and advice."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""Error: stops or invalidates training or evaluation. Warning: costs quality. Note: for information."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        severity: Default severity.
        things: Name of the counted items; "" if nothing is counted.
        problem: Description, a format string.
        advice: Remedy, a format string.
    """

    severity: Severity
    things: str
    problem: str
    advice: str


KINDS = {
    "unreadable_split": Kind(
        "error", "", "the split cannot be read: {reason}", "fix it and check again: reading stops at the first fault"
    ),
    "unreadable_shards": Kind(
        "error",
        "shards",
        "are truncated or do not match their checksums",
        "create, extract or download them again",
    ),
    # images or stored features
    "unreadable_images": Kind(
        "error", "images", "cannot be read", "fix or remove them: training skips them, evaluation stops"
    ),
    "huge_images": Kind("error", "images", "have more than {limit:,} pixels and are rejected", "scale them down"),
    "broken_features": Kind(
        "error", "rows of extracted features", "are damaged, which training does not detect", "extract them again"
    ),
    "leaked_images": Kind("error", "images", "are also in split '{other}'", "remove them from one of the splits"),
    "leaked_lookalikes": Kind(
        "error", "images", "are also in split '{other}', resized or re-encoded", "remove them from one of the splits"
    ),
    "tiny_images": Kind(
        "warning", "images", "are less than {limit} pixels high or wide", "check whether they are icons or thumbnails"
    ),
    "blank_images": Kind("warning", "images", "have a single colour", "check whether they are placeholders"),
    "repeated_images": Kind(
        "warning",
        "images",
        "repeat an earlier one",
        "merge their captions: each image's captions count as wrong for the other",
    ),
    "similar_images": Kind(
        "note", "images", "repeat an earlier one, resized or re-encoded", "merge their captions if they are the same"
    ),
    "small_images": Kind(
        "note", "images", "are smaller than the encoder's {limit} pixels", "nothing: they are upscaled"
    ),
    "large_images": Kind(
        "note", "images", "have more than {limit:,} pixels", "scale them down once to decode them faster"
    ),
    "reused_ids": Kind(
        "note",
        "images",
        "have the id of a different image of split '{other}'",
        "nothing, if ids are only unique within a split",
    ),
    # captions
    "blank_captions": Kind("error", "captions", "are blank", "remove or write them: training does not start"),
    "unusable_captions": Kind("error", "captions", "are not text", "remove or fix them: training does not start"),
    "uncaptioned_images": Kind("note", "images", "have no caption", "nothing: training skips them"),
    "wordless_captions": Kind("warning", "captions", "contain no letters", "remove them"),
    "garbled_captions": Kind(
        "warning", "captions", "contain U+FFFD, a sign of wrong decoding", "write the file again in UTF-8"
    ),
    "control_characters": Kind("warning", "captions", "contain control characters", "remove the characters"),
    "markup_captions": Kind("warning", "captions", "contain HTML", "strip tags and replace entities"),
    "long_captions": Kind(
        "note",
        "captions",
        "have more than {limit} words; the other {words:,} words are dropped",
        "put the important words first",
    ),
    "cut_captions": Kind(
        "note",
        "captions",
        "have more than {limit} tokens; {cut:,} tokens are cut, {share:.2%} of all",
        "raise the text encoder's max_length if the tower supports it",
    ),
    "repeated_captions": Kind(
        "note", "captions", "repeat another caption of their image", "nothing: they only weigh more"
    ),
    "shared_captions": Kind(
        "note",
        "captions",
        "repeat a caption of an earlier image",
        "nothing, if few: each counts as wrong for the other image",
    ),
    "leaked_captions": Kind("note", "captions", "are also in split '{other}'", "nothing, if short and general"),
    # what could not be checked
    "unknown_tokenizer": Kind(
        "warning",
        "",
        "the tokenizer is unavailable: {reason}",
        "install it and check again: cut captions were not counted",
    ),
    "unknown_image_size": Kind(
        "warning",
        "",
        "the image encoder's input size is unknown: {reason}",
        "fix this and check again: {size} pixels were assumed",
    ),
}
"""Kinds by the names used in reports."""
