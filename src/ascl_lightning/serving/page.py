"""The page, rendered to HTML."""

from typing import Any
from urllib.parse import urlencode

from ascl_lightning.runtime.templates import render
from ascl_lightning.serving.limits import MAX_TEXT, MAX_WHERE
from ascl_lightning.serving.messages import PageRequest, VariantMessage
from ascl_lightning.serving.service import Found

_NUMBERS_OF_HITS = (12, 24, 48, 96)
_SHOWN = 6
"""Pictures that are shown of each changed query."""
_KINDS = {
    "own": "Your change",
    "dropped": "Says less",
    "changed": "Says something else",
    "added": "Says more",
}


def search_page(
    request: PageRequest, size: int, found: Found | None = None, wrong: str | None = None, crop: str = "center"
) -> str:
    """The page with the form, and the results of a search if there was one.

    Args:
        request: The search.
        size: Number of pictures in the gallery.
        found: Its results.
        wrong: Why there are no results.
        crop: How the model makes pictures square (`PixelSpec.crop`).
    """
    return render(
        "serving/page.html.jinja",
        request=request,
        size=size,
        found=found,
        wrong=wrong,
        crop=crop,
        words=_words(found),
        groups=_groups(found),
        address=address,
        numbers_of_hits=sorted({*_NUMBERS_OF_HITS, request.k}),
        shown=_SHOWN,
        max_text=MAX_TEXT,
        max_where=MAX_WHERE,
    )


def address(request: PageRequest, **changes: Any) -> str:
    """Address of the page with a search.

    Args:
        request: The search.
        changes: Fields with other values.
    """
    changed = request.model_copy(update=changes).model_dump(exclude_defaults=True)
    pairs = {name: int(value) if isinstance(value, bool) else value for name, value in changed.items()}
    return "/?" + urlencode(pairs, doseq=True) if pairs else "/"


def reference_page(description: dict[str, Any]) -> str:
    """The reference of the API.

    Args:
        description: Its OpenAPI description.
    """
    schemas = description.get("components", {}).get("schemas", {})
    return render(
        "serving/reference.html.jinja", api=description, schemas=schemas, resolve=lambda of: _resolve(of, schemas)
    )


def _resolve(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return schemas.get(schema["$ref"].rpartition("/")[2], {}) if "$ref" in schema else schema


def _words(found: Found | None) -> list[dict[str, Any]]:
    """The words of the query, each with its highest support in any hit."""
    if found is None:
        return []
    best: dict[int, dict[str, Any]] = {}
    for look in (look for of_hit in found.looks for look in of_hit):
        known = best.setdefault(look.place, {"place": look.place, "word": look.word, "support": look.support})
        known["support"] = max(known["support"], look.support)
    lacking = set(found.results.unsupported)
    return [{**best[place], "supported": best[place]["word"] not in lacking} for place in sorted(best)]


def _groups(found: Found | None) -> list[tuple[str, list[VariantMessage]]]:
    """Changed queries by what is different in them."""
    variants = [] if found is None else found.variants
    groups = [(words, [variant for variant in variants if variant.kind == kind]) for kind, words in _KINDS.items()]
    return [(words, of_kind) for words, of_kind in groups if of_kind]
