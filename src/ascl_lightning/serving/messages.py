"""What clients ask and get: checked and described (OpenAPI) by pydantic."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ascl_lightning.serving.limits import MAX_EXAMPLES, MAX_ID, MAX_K, MAX_TEXT, MAX_TEXTS, MAX_WHERE

Id = Annotated[int, Field(ge=0, le=MAX_ID)]
Query = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TEXT)]
_LISTS = ("like", "unlike")
_Examples = Annotated[list[Id], Field(max_length=MAX_EXAMPLES)]


class SearchRequest(BaseModel):
    """A search by a text, a picture of the gallery, an uploaded picture, or examples."""

    model_config = ConfigDict(extra="forbid")
    text: Query | None = Field(default=None, description="What the pictures show.")
    image_id: Id | None = Field(default=None, description="A picture of the gallery to search by.")
    text_weight: float = Field(default=0.5, ge=0, le=1, description="Weight of the text if there is a picture too.")
    like: _Examples = Field(default=[], description="Pictures of the gallery that the hits should resemble.")
    unlike: _Examples = Field(default=[], description="Pictures of the gallery that the hits should not resemble.")
    unlike_text: Query | None = Field(default=None, description="What the pictures should not show.")
    where: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_WHERE)] | None = Field(
        default=None, description="Filter on fields of the catalogue, such as `year>=2024 and width>1000`."
    )
    k: int = Field(default=12, ge=1, le=MAX_K, description="Number of hits.")


class VariantsRequest(BaseModel):
    """A query to change."""

    model_config = ConfigDict(extra="forbid")
    text: Query
    where: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_WHERE)] | None = None
    k: int = Field(default=12, ge=1, le=MAX_K)


class PageRequest(SearchRequest):
    """A search on the page."""

    variants: bool = Field(default=False, description="Whether to search for changed queries too.")
    change: Query | None = Field(default=None, description="The user's own change of the query.")


class EncodeRequest(BaseModel):
    """Texts to encode."""

    model_config = ConfigDict(extra="forbid")
    texts: Annotated[list[Query], Field(min_length=1, max_length=MAX_TEXTS)]


class HitMessage(BaseModel):
    """A picture that was found."""

    id: int
    path: str = Field(description="Path relative to the folder of the pictures.")
    score: float
    scores: dict[str, float] = Field(description="Scores by level.")
    fields: dict[str, Any] = Field(description="Fields of the catalogue.")
    image: str = Field(description="Address of the picture.")
    thumbnail: str


class SearchResponse(BaseModel):
    """Pictures, best first."""

    hits: list[HitMessage]
    unsupported: list[str] = Field(description="Words of the query that no hit supports.")
    reason: str | None = Field(description="Why there is no answer.")


class EncodeResponse(BaseModel):
    """L2-normalised embeddings."""

    model: str = Field(description="Fingerprint of the model.")
    embeddings: list[list[float]]


class MovedHit(BaseModel):
    """A picture found by a changed query."""

    id: int
    score: float
    before: int | None = Field(description="Its rank for the original query; null if it was not among the k hits.")


class VariantMessage(BaseModel):
    """A changed query and its pictures."""

    kind: Literal["dropped", "changed", "added", "own"]
    text: str
    kept: int = Field(description="How many pictures it shares with the original query.")
    hits: list[MovedHit]


class VariantsResponse(BaseModel):
    """How the pictures move when the query changes."""

    variants: list[VariantMessage]


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


def from_form(items: Iterable[tuple[str, Any]], model: type[SearchRequest]) -> SearchRequest:
    """A request from the fields of a form or of an address; empty fields count as absent.

    Args:
        items: Names and values, a name of a list once for each value.
        model: Class of the request.

    Raises:
        ValidationError: If a field is unknown or its value is not allowed.
    """
    values: dict[str, Any] = {}
    for name, value in items:
        if value == "":
            continue
        if name in _LISTS:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    return model.model_validate(values)


def in_one_line(error: ValidationError) -> str:
    """The first problem of a request: the field and what is wrong with it."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
