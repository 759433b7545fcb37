"""Schemas: the bodies of requests and answers over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ragcache.service.answer import Answer, Query, Retrieved, Speculated, Timing, Usage, UsedDocument


class QueryBody(BaseModel):
    """Body of `POST /v1/query`. Unknown fields are refused: a misspelt one would be ignored otherwise."""

    model_config = ConfigDict(extra="forbid")

    question: StrictStr
    top_k: StrictInt | None = Field(None, description="number of documents; the server's default if absent")
    max_tokens: StrictInt | None = Field(None, description="longest answer in tokens, up to the server's limit")
    temperature: StrictFloat | None = Field(None, description="0, the default, is greedy")
    top_p: StrictFloat | None = Field(
        None, description="draw from the most probable tokens that have this share of the probability together"
    )
    seed: StrictInt | None = Field(None, description="equal seeds give equal answers")
    stop: Annotated[list[StrictStr], FailFast()] = Field(
        [], description="a string or several: the answer ends before the first that appears"
    )
    order: StrictStr | None = Field(
        None,
        description="of the documents in the prompt: retrieval, the best first, or tree, as most of it is cached; the "
        "server's default if absent",
    )
    timeout_ms: StrictInt | None = Field(None, description="give up after this many milliseconds: 504")
    stream: StrictBool = Field(False, description="answer as server-sent events")

    @model_validator(mode="before")
    @classmethod
    def _one_unknown(cls, fields: Any) -> Any:
        """Without all unknown fields but the first: an error is made for each, and a body has room for 100,000."""
        if not isinstance(fields, dict) or fields.keys() <= cls.model_fields.keys():
            return fields
        unknown = next(name for name in fields if name not in cls.model_fields)
        return {name: value for name, value in fields.items() if name == unknown or name in cls.model_fields}

    @field_validator("stop", mode="before")
    @classmethod
    def _several(cls, stop: Any) -> Any:
        if stop is None:
            return []
        if not isinstance(stop, str | list):
            raise PydanticCustomError("stop_type", "Input should be a string or a list of strings")
        return [stop] if isinstance(stop, str) else stop

    @field_validator("stream", mode="before")
    @classmethod
    def _whole(cls, stream: Any) -> Any:
        return False if stream is None else stream

    def query(self) -> Query:
        return Query(
            question=self.question,
            top_k=self.top_k,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            order=self.order,
            timeout_ms=self.timeout_ms,
            top_p=self.top_p,
            seed=self.seed,
            stop=tuple(self.stop),
        )


class AnswerBody(BaseModel):
    """Answer of `POST /v1/query`, and data of a stream's event `done`."""

    id: str
    answer: str
    finish_reason: str
    documents: list[UsedDocument]
    order: list[str] = Field(description="ids of the documents in the order in which the model read them")
    usage: Usage
    timing: Timing
    speculation: Speculated

    @classmethod
    def of(cls, answer: Answer) -> AnswerBody:
        return cls(
            id=answer.id,
            answer=answer.answer,
            finish_reason=answer.finish_reason,
            documents=list(answer.documents),
            order=list(answer.order),
            usage=answer.usage,
            timing=answer.timing,
            speculation=answer.speculation,
        )


class RetrievedBody(BaseModel):
    """Data of a stream's first event, `documents`."""

    id: str
    documents: list[UsedDocument]

    @classmethod
    def of(cls, retrieved: Retrieved) -> RetrievedBody:
        return cls(id=retrieved.id, documents=list(retrieved.documents))


class DeltaBody(BaseModel):
    """Data of a stream's event `delta`: the next piece of the answer's text."""

    text: str


class ErrorDetail(BaseModel):
    """What was wrong; `field` and `limit` where a field broke a bound."""

    type: str
    message: str
    field: str | None = None
    limit: int | None = None


class ErrorBody(BaseModel):
    """Body of every answer that is not 2xx, and data of a stream's event `error`."""

    error: ErrorDetail

    @classmethod
    def of(cls, kind: str, message: str, *, field: str | None = None, limit: int | None = None) -> ErrorBody:
        return cls(error=ErrorDetail(type=kind, message=message, field=field, limit=limit))

    def json_bytes(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


class TierBody(BaseModel):
    """One tier of the cache: the state of its bytes, and totals since the start, in segments and tokens.

    Below the device, `hits` and `misses` count what the faster tiers lacked. Segments leave to make room (`evictions`,
    of which `losses` left no copy elsewhere), as newcomers that were worth less (`rejections`), as `mirrors` of what
    the device has too, as `orphans` of a lost ancestor, or `cleared` by request. `failures` counts failed moves, by
    reason; each is a miss.
    """

    nodes: int
    bytes: dict[str, int]
    hits: int
    misses: int
    hit_tokens: int
    missed_tokens: int
    insertions: int
    evictions: int
    losses: int
    rejections: int
    mirrors: int
    orphans: int
    cleared: int
    refusals: int
    failures: dict[str, int]


class MovesBody(BaseModel):
    """Moves of segments in one direction: their number, their bytes as stored, and the seconds they took."""

    moves: int
    bytes: int
    seconds: float


class IntegrityBody(BaseModel):
    """Audits: how often the books were recounted while the server was idle, and how often they were wrong."""

    audits: int
    failed: int


class OthersBody(BaseModel):
    """What other weights, dtypes or layouts have left on the disk tier: its records and their bytes, which count as
    free there, and how many were `removed` since the start because their room was needed."""

    records: int
    bytes: int
    removed: int


class CacheBody(BaseModel):
    """Answer of `GET /v1/cache`. `moving` counts moves under way, `unwritten` segments that are not on disk yet."""

    nodes: int
    tiers: dict[str, TierBody]
    moves: dict[str, MovesBody]
    moving: int
    unwritten: int
    integrity: IntegrityBody
    others: OthersBody


class ComponentBody(BaseModel):
    """A part of the service that does not work: since how many `seconds`, after how many `failures`, and the `message`
    of the last.

    "degraded" ends once what failed has worked again and nothing has failed for some seconds; "failed" needs a new
    server.
    """

    state: str
    seconds: float
    failures: int
    message: str


class ReadyBody(BaseModel):
    """Answer of `GET /readyz` while questions are answered: "ready", or "degraded" with the components to blame."""

    status: str
    components: dict[str, ComponentBody] | None = None


class RootBody(BaseModel):
    """Answer of `GET /`: the server's name and version, the path of the page about its API, and what each route does,
    by method and path."""

    name: str
    version: str
    docs: str
    routes: dict[str, str]


class ClearedBody(BaseModel):
    """Answer of `DELETE /v1/cache`. What running requests hold stays until they end."""

    dropped_nodes: int
    dropped_bytes: int
    held_bytes: int


def openapi_errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with ErrorBody."""
    return {code: {"model": ErrorBody} for code in codes}
