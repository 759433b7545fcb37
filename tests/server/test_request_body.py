"""Bodies that are not JSON, or packed: each has one status and one clear reason, over a real connection."""

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest

from server.errors import RefusedRequest
from server.request_body import MAX_BODY_BYTES, MAX_GZIP_MEMBERS, _object, parse_json, unpack
from tests.server.conftest import Site

QUERY = b'{"question": "What is rust?", "max_tokens": 1}'


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert body.keys() == {"error"}
    assert response.headers["content-type"] == "application/json"
    return dict(body["error"])


# a body, and what the answer says of it; Python's versions have words of their own for some
NOT_JSON = [
    (b"", "it is empty"),
    (b" \n", "Expecting value at character 2"),
    (b"{", "Expecting property name enclosed in double quotes at character 1"),
    (b'{"question": "a",}', "Illegal trailing comma before end of object at character 16|Expecting property name"),
    (b"{'question': 'a'}", "Expecting property name"),
    (b'{"question": "a"} x', "Extra data at character 18"),
    (b'{"question": "a"}{"question": "b"}', "Extra data at character 17"),
    (b'{"question": "a\nb"}', "Invalid control character at"),
    (b'{"question": "\\x"}', "Invalid \\escape"),
    (b"question=a", "Expecting value at character 0"),
    ('{"question": "caf\u00e9"}'.encode("latin-1"), "byte 0xe9 at 17 is not UTF-8"),
    ('{"question": "a"}'.encode("utf-16"), "byte 0xff at 0 is not UTF-8"),
    (b'{"question": "\xed\xa0\x80"}', "byte 0xed at 14 is not UTF-8"),  # half of a surrogate pair
    (b"\x80\x02}q\x00.", "byte 0x80 at 0 is not UTF-8"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"question": "x", "stop": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    (b'{"question": "a", "seed": ' + b"9" * 5000 + b"}", "a number has more than 4300 digits"),
    (b'{"question": "a", "seed": -' + b"9" * 5000 + b"}", "a number has more than 4300 digits"),
    (b'{"question": "a", "temperature": NaN}', "NaN is not a number of JSON"),
    (b'{"question": "a", "temperature": Infinity}', "Infinity is not a number of JSON"),
    (b'{"question": "a", "temperature": -Infinity}', "-Infinity is not a number of JSON"),
    (b'{"question": "a", "question": "b"}', "the field 'question' is there twice"),
    (b'{"question": "a", "\\ud800": 1, "\\ud800": 2}', "is there twice"),
    (b'{"%s": 1, "%s": 2}' % (b"x" * 5000, b"x" * 5000), "the field '" + "x" * 100 + "\\u2026' is there twice"),
]


def test_a_body_that_is_not_json_is_a_400_with_the_reason(site: Site) -> None:
    for content, reason in NOT_JSON:
        response = site.post(content)
        error = error_of(response)
        assert (response.status_code, error["type"]) == (400, "malformed_json"), content[:50]
        assert error["message"].startswith("the body is not valid JSON: ")
        assert any(each in error["message"] for each in reason.split("|")), error["message"]


def test_what_is_json_is_read(site: Site) -> None:
    for content in (b"\xef\xbb\xbf" + QUERY, b"\r\n\t " + QUERY + b" \n", QUERY.replace(b"What", b"\\u0057hat")):
        assert site.post(content).status_code == 200
    assert site.post(QUERY, "application/vnd.api+json; charset=utf-8").status_code == 200


def test_a_number_out_of_range_is_json_and_its_field_is_named(site: Site) -> None:
    response = site.post(b'{"question": "a", "temperature": 1e400}')
    assert response.status_code == 422
    assert error_of(response)["field"] == "temperature"


def packed(site: Site, content: bytes, coding: str | bytes) -> httpx.Response:
    headers = [("Content-Type", "application/json"), ("Content-Encoding", coding)]
    return site.http.post("/v1/query", content=content, headers=headers)  # type: ignore[arg-type]


PACKED = [
    ("gzip", gzip.compress(QUERY)),
    ("GZIP", gzip.compress(QUERY)),
    ("x-gzip", gzip.compress(QUERY)),
    ("gzip", gzip.compress(QUERY[:10]) + gzip.compress(QUERY[10:])),
    ("gzip", gzip.compress(b"") + gzip.compress(QUERY)),
    ("gzip", gzip.compress(QUERY) + gzip.compress(b"") * 5),
    ("gzip", b"".join(gzip.compress(QUERY[each : each + 1]) for each in range(len(QUERY)))),
    ("deflate", zlib.compress(QUERY)),
    ("identity", QUERY),
    ("identity, gzip", gzip.compress(QUERY)),
    ("", QUERY),
]


def test_a_packed_body_is_unpacked(site: Site) -> None:
    for coding, content in PACKED:
        assert packed(site, content, coding).status_code == 200, coding


def test_another_coding_is_a_415_that_names_those_that_are_known(site: Site) -> None:
    for coding in ("br", "zstd", "compress", "gzip, gzip", "gzip, br", "rot13", b"\xff"):
        response = packed(site, QUERY, coding)
        error = error_of(response)
        assert (response.status_code, error["type"]) == (415, "wrong_content_encoding"), coding
        assert response.headers["accept-encoding"] == "gzip, deflate"
        assert "gzip or deflate" in error["message"]


DAMAGED = [
    ("gzip", QUERY, "it is not gzip, as its Content-Encoding says"),
    ("deflate", gzip.compress(QUERY), "it is not deflate, as its Content-Encoding says"),
    ("gzip", gzip.compress(QUERY)[:-9], "its gzip ends early"),
    ("gzip", gzip.compress(QUERY)[:5], "its gzip ends early"),
    ("gzip", gzip.compress(QUERY)[:-8] + bytes(8), "it is not gzip"),  # another checksum
    ("gzip", gzip.compress(QUERY) + b"rest", "it is not gzip"),
    ("gzip", gzip.compress(b""), "it is empty"),
    ("gzip", b"", "ends early|it is empty"),
    ("gzip", gzip.compress(b'{"question": "caf\xe9"}'), "byte 0xe9 at 17 is not UTF-8"),
    ("gzip", gzip.compress(gzip.compress(QUERY)), "byte 0x8b at 1 is not UTF-8"),
]


def test_damaged_packing_is_a_400_with_the_reason(site: Site) -> None:
    for coding, content, reason in DAMAGED:
        response = packed(site, content, coding)
        error = error_of(response)
        assert (response.status_code, error["type"]) == (400, "malformed_json"), (coding, content)
        assert any(each in error["message"] for each in reason.split("|")), error["message"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_is_cut_off_at_the_limit(site: Site, coding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[coding]
    bomb = pack(b" " * (200 * MAX_BODY_BYTES) + QUERY)
    assert len(bomb) < MAX_BODY_BYTES
    sizes: list[int] = []
    make = zlib.decompressobj

    class Counted:
        def __init__(self, bits: int) -> None:
            self.part = make(bits)

        def decompress(self, content: bytes, most: int) -> bytes:
            sizes.append(len(unpacked := self.part.decompress(content, most)))
            return unpacked

    monkeypatch.setattr("server.request_body.zlib.decompressobj", Counted)
    response = packed(site, bomb, coding)
    error = error_of(response)
    assert (response.status_code, error["type"], error["limit"]) == (413, "body_too_large", MAX_BODY_BYTES)
    assert sum(sizes) == MAX_BODY_BYTES + 1


def test_many_members_are_no_way_past_the_limit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = zlib.decompressobj
    monkeypatch.setattr("server.request_body.zlib.decompressobj", lambda bits: (made.append(bits), make(bits))[1])
    for member in (gzip.compress(b""), gzip.compress(b" ")):
        made.clear()
        response = packed(site, member * (MAX_BODY_BYTES // len(member)), "gzip")
        assert response.status_code == 400
        assert f"more than {MAX_GZIP_MEMBERS} members" in error_of(response)["message"]
        assert len(made) == MAX_GZIP_MEMBERS
    assert unpack(gzip.compress(b" ") * MAX_GZIP_MEMBERS, "gzip") == b" " * MAX_GZIP_MEMBERS


class Name(str):
    """A field's name that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


def test_a_field_that_is_there_twice_is_seen_at_once() -> None:
    """Not by comparing each name with each: with 100,000 of them, nothing else is served for minutes."""
    pairs: list[tuple[str, Any]] = [(Name(number), 1) for number in range(50_000)]
    with pytest.raises(RefusedRequest, match="the field '49999' is there twice"):
        _object([*pairs, (Name(49_999), 2)])
    assert Name.compared < len(pairs)
    names = b",".join(b'"%d":1' % number for number in range(80_000))
    with pytest.raises(RefusedRequest, match="the field '79999' is there twice"):
        parse_json(b"{" + names + b',"79999":2}')


def test_a_body_of_the_limit_is_unpacked(site: Site) -> None:
    whole = QUERY + b" " * (MAX_BODY_BYTES - len(QUERY))
    assert packed(site, gzip.compress(whole), "gzip").status_code == 200
    assert packed(site, gzip.compress(whole + b" "), "gzip").status_code == 413


def test_a_body_without_a_type_is_a_415_unless_it_is_empty(site: Site) -> None:
    for content, status in ((QUERY, 415), (b"", 400)):
        response = site.http.post("/v1/query", content=content)
        assert response.status_code == status


def test_a_bad_body_is_no_line_of_the_log(capfd: pytest.CaptureFixture[str], site: Site) -> None:
    for content in (b"\xff", b"[" * 100_000, json.dumps({"question": "\ud800"}).encode()):
        assert 400 <= site.post(content).status_code < 500
    assert packed(site, QUERY, "gzip").status_code == 400
    assert capfd.readouterr().err == ""
