"""Log: lines about what a process does, as text or as JSON, each with its time, its level and its request."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from ragcache.console.escapes import one_line
from ragcache.console.streams import SafeStream

LEVELS = ("debug", "info", "warning", "error", "critical")
FORMATS = ("text", "json")
OURS = ("ragcache", "retrieval", "server")  # of other libraries, only warnings are of interest
NO_REQUEST = "-"

request_id: ContextVar[str] = ContextVar("request_id", default=NO_REQUEST)
"""The id of the request that is being worked on, in its task and the tasks that it begins."""


def fields(**values: Any) -> dict[str, Any]:
    """`extra` for a call of a logger: values that JSON has by name and text as name=value; None is left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


class TextFormatter(logging.Formatter):
    """Lines for people: time, level, request, message, name=value. Lines of a traceback follow, each behind a bar, so
    that nothing a client wrote begins a line."""

    def format(self, record: logging.LogRecord) -> str:
        named = "".join(f" {name}={_plain(value)}" for name, value in _fields_of(record).items())
        head = f"{_time_of(record)} {record.levelname.lower():<8} [{one_line(request_id.get())}] "
        text = head + one_line(record.getMessage().rstrip("\n")) + named
        return text + "".join(f"\n    | {one_line(line)}" for line in _traceback_of(self, record).split("\n") if line)


class JsonFormatter(logging.Formatter):
    """Lines for machines: one JSON object each, in ASCII, with `time`, `level`, `logger`, `request_id` where there is a
    request, `message`, the fields of the call, and `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Any] = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "request_id": request_id.get(),
            "message": record.getMessage().rstrip("\n"),
        }
        if values["request_id"] == NO_REQUEST:
            del values["request_id"]
        values = {**_fields_of(record), **values}
        if traceback := _traceback_of(self, record):
            values["traceback"] = traceback
        return json.dumps(values, default=str)


class MessageFormatter(logging.Formatter):
    """The message alone, in one line: for commands that people run by hand."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(record.getMessage().rstrip("\n"))


@contextlib.contextmanager
def configured(level: str, form: str) -> Iterator[None]:
    """A context in which the log goes to stderr: our own from `level` on, that of other libraries from warnings on.

    In the form "json" all that is written to stderr is a line of the log, whoever writes it: warnings of Python, errors
    of threads, progress, what a library prints, and an error that ends the context, which becomes SystemExit(1).
    """
    formatter: logging.Formatter = JsonFormatter() if form == "json" else TextFormatter()
    stream = sys.stderr
    handler = logging.StreamHandler(stream.raw if isinstance(stream, SafeStream) and form == "json" else stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, OURS)]
    before = [logger.level for logger in loggers]
    hook = threading.excepthook
    lowest = getattr(logging, level.upper())
    root.addHandler(handler)
    root.setLevel(max(lowest, logging.WARNING))
    for logger in loggers[1:]:
        logger.setLevel(lowest)
    logging.captureWarnings(True)
    threading.excepthook = _log_end_of_thread
    if form == "json" and isinstance(stream, SafeStream):
        stream.to_line = lambda line: formatter.format(_record_of(line))
    try:
        yield
    except Exception:
        if form != "json":
            raise
        logging.getLogger(OURS[0]).critical("the process ends by an error that nobody handled", exc_info=True)
        raise SystemExit(1) from None
    finally:
        if isinstance(stream, SafeStream):
            stream.to_line = None
        threading.excepthook = hook
        logging.captureWarnings(False)
        root.removeHandler(handler)
        for logger, value in zip(loggers, before, strict=True):
            logger.setLevel(value)


def safe_last_resort() -> None:
    """Has warnings of a process that configures no log written in one line each, with control characters spelled."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(MessageFormatter())


def _record_of(line: str) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "stderr", "levelname": "INFO", "levelno": logging.INFO, "msg": line})


def _time_of(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    values: Mapping[str, Any] = getattr(record, "fields", {})
    return values


def _plain(value: Any) -> str:
    """A value in the text form: what has blanks or quotation marks is quoted, so that it is one word."""
    text = value if isinstance(value, str) else str(value)
    if not text or any(char in text for char in ' "='):
        text = json.dumps(text, ensure_ascii=False)
    return one_line(text)


def _traceback_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        name = "?" if ended.thread is None else ended.thread.name
        trace = (ended.exc_type, ended.exc_value, ended.exc_traceback)
        logging.getLogger(OURS[0]).critical("the thread %s ended by an error", name, exc_info=trace)
