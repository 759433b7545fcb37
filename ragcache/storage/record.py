"""Record: what is written of one segment's KV behind its ancestors, and the keys that name it."""

from __future__ import annotations

import hashlib
import struct
from array import array
from dataclasses import dataclass

import xxhash

from ragcache.errors import RecordError

FORMAT = 1
KEY_BYTES = 32
LONGEST_NAMESPACE, LONGEST_LABEL = 2048, 256  # bytes; a longer label is cut

# format, bytes of the description, number, bytes of KV, parent, fingerprint, digests of the description and of the KV
_HEADER = struct.Struct("<IIQQ32s16s8s16s")
_STATS = struct.Struct("<QQQd")
_LENGTHS = struct.Struct("<II")

Stats = tuple[int, int, int, float]  # frequency, last_use, misses, seconds_per_token


def root_key(fingerprint: bytes, namespace: str) -> bytes:
    """Key of 32 bytes that a namespace's first records have as their parent.

    `fingerprint` names the model, its weights, the dtype and the layout; all keys below are derived from it.
    """
    digest = hashlib.blake2b(len(fingerprint).to_bytes(8, "little"), digest_size=KEY_BYTES, person=b"ragcache-root")
    digest.update(fingerprint)
    digest.update(namespace.encode(errors="surrogatepass"))
    return digest.digest()


def record_key(parent_key: bytes, tokens: array[int]) -> bytes:
    """Key of 32 bytes of the segment `tokens` behind the path that `parent_key` spells."""
    digest = hashlib.blake2b(parent_key, digest_size=KEY_BYTES, person=b"ragcache-record")
    digest.update(tokens.tobytes())
    return digest.digest()


def short_fingerprint(fingerprint: bytes) -> bytes:
    """A digest of a fingerprint, of 16 bytes, as headers have it."""
    return hashlib.blake2b(fingerprint, digest_size=16).digest()


def about_bytes(tokens: int) -> int:
    """Bytes of the longest description that a record of this number of tokens can have."""
    return _LENGTHS.size + LONGEST_NAMESPACE + LONGEST_LABEL + 4 * tokens


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a segment's KV without its bytes.

    `parent` is the key of the record before it on its path, or the namespace's root key; `tokens` are the segment's
    own; `size` is its bytes of KV, 0 where the store is to say. `frequency`, `last_use`, `misses` and
    `seconds_per_token` are what the policies had learned of it when they were last written (see Node).
    """

    key: bytes
    parent: bytes
    namespace: str
    label: str
    tokens: array[int]
    size: int
    frequency: int = 0
    last_use: int = 0
    misses: int = 0
    seconds_per_token: float = 0.0

    @property
    def stats(self) -> Stats:
        """What the policies had learned: frequency, last use, misses, seconds a token."""
        return self.frequency, self.last_use, self.misses, self.seconds_per_token

    def about(self) -> bytes:
        """The description: the parts of a record that vary in size. ValueError if the namespace is too long."""
        namespace = self.namespace.encode(errors="surrogatepass")
        if len(namespace) > LONGEST_NAMESPACE:
            raise ValueError(f"namespace of {len(namespace)} bytes; {LONGEST_NAMESPACE} are the most")
        label = self.label.encode(errors="replace")[:LONGEST_LABEL]
        return _LENGTHS.pack(len(namespace), len(label)) + namespace + label + self.tokens.tobytes()

    @classmethod
    def read(cls, header: Header, about: bytes, stats: Stats) -> Record:
        """The record that header, description and stats describe; RecordError if the description is damaged."""
        if xxhash.xxh3_64_digest(about) != header.about_digest:
            raise RecordError("the description of a record is damaged", reason="checksum", key=header.key)
        first, second = _LENGTHS.unpack_from(about)
        namespace, label = _LENGTHS.size + first, _LENGTHS.size + first + second
        return cls(
            header.key,
            header.parent,
            about[_LENGTHS.size : namespace].decode(errors="surrogatepass"),
            about[namespace:label].decode(errors="ignore"),  # a cut may have gone through a character
            array("i", about[label:]),
            header.size,
            *stats,
        )


@dataclass(frozen=True, slots=True)
class Header:
    """The part of a record with a fixed size, with a checksum of its own.

    `number` names the chunks of the record's bytes, `about_size` and `size` are those of its description and KV. The
    digests are xxh3: of 64 bits for the description, of 128 for the KV. `fingerprint` is short.
    """

    key: bytes
    number: int
    about_size: int
    size: int
    parent: bytes
    fingerprint: bytes
    about_digest: bytes
    digest: bytes

    def pack(self) -> bytes:
        """The header as stored, its checksum last."""
        body = _HEADER.pack(
            FORMAT,
            self.about_size,
            self.number,
            self.size,
            self.parent,
            self.fingerprint,
            self.about_digest,
            self.digest,
        )
        return body + xxhash.xxh3_64_digest(self.key + body)

    @classmethod
    def unpack(cls, key: bytes, value: bytes) -> Header:
        """The header that was stored under `key`; RecordError "format" of another version, "checksum" if damaged."""
        body, checksum = value[: _HEADER.size], value[_HEADER.size :]
        if xxhash.xxh3_64_digest(key + value[:-8]) != value[-8:]:  # last in every format
            raise RecordError("the header of a record is damaged", reason="checksum", key=key)
        if len(body) < _HEADER.size or len(checksum) != 8 or int.from_bytes(body[:4], "little") != FORMAT:
            raise RecordError("the record was written by another version", reason="format", key=key)
        _, about_size, number, size, parent, fingerprint, about_digest, digest = _HEADER.unpack(body)
        return cls(key, number, about_size, size, parent, fingerprint, about_digest, digest)


def pack_stats(stats: Stats) -> bytes:
    """What the policies learned of a record, as stored."""
    frequency, last_use, misses, seconds_per_token = stats
    return _STATS.pack(frequency, last_use, misses, seconds_per_token)


def unpack_stats(value: bytes | None) -> Stats:
    """Stats that were stored; zeros if they are missing or damaged, for they steer choices, never what is served."""
    if value is None or len(value) != _STATS.size:
        return 0, 0, 0, 0.0
    frequency, last_use, misses, seconds_per_token = _STATS.unpack(value)
    sane = frequency < 2**62 and last_use < 2**62 and misses < 2**62 and 0.0 <= seconds_per_token < 1e6
    return (frequency, last_use, misses, seconds_per_token) if sane else (0, 0, 0, 0.0)
