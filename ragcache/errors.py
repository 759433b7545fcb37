"""The errors of this package: each says what was wrong, where, and what to do."""

from typing import Literal


class RagCacheError(Exception):
    """Base of every error that is meant for the user's eyes."""


class ConfigError(RagCacheError):
    """A setting, a configuration file or a command line that cannot be used."""


class PolicyError(RagCacheError):
    """An eviction policy of the user's own that failed, or chose what it must not."""


class ModelError(RagCacheError):
    """A model that is missing, unreadable or of a kind the engine cannot run exactly."""


class TransferError(RagCacheError):
    """KV that cannot be moved to another tier.

    `reason` is "overflow" for values that the stored dtype cannot hold, "memory" where there is none left.
    """

    def __init__(self, message: str, *, reason: Literal["overflow", "memory"]) -> None:
        super().__init__(message)
        self.reason = reason


class EngineError(RagCacheError):
    """The engine failed while it computed an answer."""


class Overloaded(RagCacheError):
    """More requests are waiting than the service accepts."""


class DeadlineExceeded(RagCacheError):
    """A question's deadline has passed; its work is stopped."""


class BadQuery(RagCacheError):
    """A question that cannot be answered as asked. `limit` is the bound it broke, in the unit of the message."""

    def __init__(self, message: str, *, field: str, limit: int | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.limit = limit


class QuestionTooLong(BadQuery):
    """The question alone is longer than the service accepts."""


class TraceError(RagCacheError):
    """A trace that cannot be read or replayed."""


class RecordError(RagCacheError):
    """A record on disk that cannot be written or read. Its KV can always be computed anew.

    `reason` is one of "full", "missing", "checksum", "truncated", "format", "io", "closed"; `key` is the record's,
    empty if the error is not about one.
    """

    def __init__(self, message: str, *, reason: str, key: bytes = b"") -> None:
        super().__init__(message)
        self.reason = reason
        self.key = key


def reason_of(error: Exception) -> str:
    """A short word for an error in statistics: its `reason` if it has one, else the name of its class."""
    return str(getattr(error, "reason", type(error).__name__))


class IntegrityError(AssertionError):
    """The cache's books do not balance. A bug, never a user's mistake."""
