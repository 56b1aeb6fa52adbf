"""The faults that a check knows: how bad each is, what is said of it, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""Error: it ends or falsifies training or evaluation. Warning: it costs quality. Note: good to know."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        severity: How bad it is, unless numbers say otherwise.
        things: What is counted; "" where nothing is.
        problem: What is wrong with them; may hold fields in braces.
        advice: What to do about it.
    """

    severity: Severity
    things: str
    problem: str
    advice: str


KINDS = {
    "unreadable_split": Kind(
        "error", "", "the split cannot be read: {reason}", "mend it and check again: reading stops at the first fault"
    ),
    "unreadable_shards": Kind(
        "error",
        "shards",
        "cannot be read to their end, or do not match their checksums",
        "make, extract or download them again",
    ),
    # pictures, or features in their place
    "unreadable_images": Kind(
        "error", "images", "cannot be read", "mend them or take them out: training skips them, evaluation ends"
    ),
    "huge_images": Kind("error", "images", "have more than {limit:,} pixels and are refused", "make them smaller"),
    "broken_features": Kind(
        "error", "rows of extracted features", "are damaged, which training would not notice", "extract them again"
    ),
    "leaked_images": Kind("error", "images", "are in split '{other}' too", "take them out of one of the two"),
    "leaked_lookalikes": Kind(
        "error", "images", "are in split '{other}' too, resized or encoded anew", "take them out of one of the two"
    ),
    "tiny_images": Kind(
        "warning", "images", "are less than {limit} pixels high or wide", "see whether they are icons or thumbnails"
    ),
    "blank_images": Kind("warning", "images", "show one colour and nothing else", "see whether they are placeholders"),
    "repeated_images": Kind(
        "warning",
        "images",
        "repeat an earlier one",
        "join their captions: as it is, one's captions are wrong answers for the other",
    ),
    "similar_images": Kind(
        "note", "images", "repeat an earlier one, resized or encoded anew", "join their captions if they are the same"
    ),
    "small_images": Kind(
        "note", "images", "are smaller than the encoder's {limit} pixels", "nothing: they are enlarged"
    ),
    "large_images": Kind(
        "note", "images", "have more than {limit:,} pixels", "scale them down once: every epoch decodes them anew"
    ),
    "reused_ids": Kind(
        "note",
        "images",
        "have the id of another picture of split '{other}'",
        "nothing, if ids start anew in each split",
    ),
    # captions
    "blank_captions": Kind("error", "captions", "are blank", "remove or write them: training does not start"),
    "unusable_captions": Kind("error", "captions", "are no text", "remove or mend them: training does not start"),
    "uncaptioned_images": Kind("note", "images", "have no caption", "nothing: training passes over them"),
    "wordless_captions": Kind("warning", "captions", "hold no letter of any script", "remove them"),
    "garbled_captions": Kind(
        "warning", "captions", "hold U+FFFD, left by a wrong decoding", "make the file anew in UTF-8"
    ),
    "control_characters": Kind("warning", "captions", "hold control characters", "remove the characters"),
    "markup_captions": Kind("warning", "captions", "hold HTML", "strip tags and replace entities"),
    "long_captions": Kind(
        "note",
        "captions",
        "have more than {limit} words; the rest, {words:,} in all, is dropped",
        "begin them with what matters",
    ),
    "cut_captions": Kind(
        "note",
        "captions",
        "have more than {limit} tokens; {cut:,} tokens are cut, {share:.2%} of all",
        "raise the text encoder's max_length, if its tower allows",
    ),
    "repeated_captions": Kind("note", "captions", "repeat another of their image", "nothing: they only weigh more"),
    "shared_captions": Kind(
        "note",
        "captions",
        "repeat one of an earlier image",
        "nothing, if few: one's are wrong answers for the other",
    ),
    "leaked_captions": Kind("note", "captions", "are in split '{other}' too", "nothing, if they are short and general"),
    # what could not be checked
    "unknown_tokenizer": Kind(
        "warning", "", "the tokenizer cannot be had: {reason}", "get it and check again: cut captions were not counted"
    ),
    "unknown_image_size": Kind(
        "warning",
        "",
        "the image encoder's size is not known: {reason}",
        "get it and check again: {size} pixels were taken",
    ),
}
"""By the names that reports give them."""
