"""RequestBody: a request's body, unpacked and parsed strictly, with one clear reason for each that is refused."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from server.errors import RefusedRequest, shortened
from server.request_log import CLIENT_GONE

MAX_BODY_BYTES = 1 << 20
MAX_GZIP_MEMBERS = 100  # each costs a copy of what follows it
UNPACKERS = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


class BodyRoute(APIRoute):
    """A route whose body is read by `body_bytes` and `parse_json`. Set as an app's `route_class` for all its routes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


class _StrictRequest(Request):
    _unpacked: bytes | None = None

    async def body(self) -> bytes:
        if self._unpacked is None:
            codings = ",".join(self.headers.getlist("content-encoding"))
            try:
                packed = await super().body()
            except ClientDisconnect as error:
                raise RefusedRequest(499, CLIENT_GONE, "the client has gone before its body was whole") from error
            self._unpacked = unpack(packed, codings)
            if not self._unpacked:
                raise _malformed("it is empty")
        return self._unpacked

    async def json(self) -> Any:
        return parse_json(await self.body())


def unpack(content: bytes, codings: str, limit: int = MAX_BODY_BYTES) -> bytes:
    """The content of a body with this Content-Encoding, at most `limit` bytes of it.

    Raises RefusedRequest: 415 for a coding that is not known, 400 for content that is damaged, 413 for too much.
    """
    names = [name for coding in codings.split(",") if (name := coding.strip().lower()) not in ("", "identity")]
    if not names:
        return content
    if len(names) > 1 or names[0] not in UNPACKERS:
        coding = shortened(", ".join(names))
        raise RefusedRequest(
            415,
            "wrong_content_encoding",
            f"the body's Content-Encoding is {coding!a}; send it without one, or as gzip or deflate",
            headers={"Accept-Encoding": "gzip, deflate"},
        )
    unpacked = bytearray()
    for _ in range(MAX_GZIP_MEMBERS):  # a gzip file may have several, and empty ones too
        unpacker = zlib.decompressobj(UNPACKERS[names[0]])
        try:
            unpacked += unpacker.decompress(content, limit + 1 - len(unpacked))
        except zlib.error as error:
            raise _malformed(f"it is not {names[0]}, as its Content-Encoding says: {error}") from error
        if len(unpacked) > limit:
            raise RefusedRequest(413, "body_too_large", f"the body is larger than {limit} bytes, unpacked", limit=limit)
        if not unpacker.eof:
            raise _malformed(f"its {names[0]} ends early")
        content = unpacker.unused_data
        if not content:
            return bytes(unpacked)
    raise _malformed(f"its {names[0]} has more than {MAX_GZIP_MEMBERS} members")


def parse_json(content: bytes) -> Any:
    """The value of a JSON text. Raises RefusedRequest (400) with the reason if it is not one.

    Stricter than `json.loads`, and than RFC 8259 where it leaves a choice: in UTF-8 alone (with or without a byte order
    mark), no NaN or Infinity, no field of an object twice.
    """
    try:
        return json.loads(
            content.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_refuse_constant, strict=True
        )
    except UnicodeDecodeError as error:
        raise _malformed(f"byte 0x{content[error.start]:02x} at {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise _malformed(f"{error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise _malformed("it is nested too deeply") from error
    except ValueError as error:  # of int()
        raise _malformed(f"a number has more than {sys.get_int_max_str_digits()} digits") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise _malformed(f"the field {shortened(name)!a} is there twice")
        fields[name] = value
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise _malformed(f"{name} is not a number of JSON")


def _malformed(reason: str) -> RefusedRequest:
    return RefusedRequest(400, "malformed_json", f"the body is not valid JSON: {reason}")
