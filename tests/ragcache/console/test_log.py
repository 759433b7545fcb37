"""The log: one line a record in both forms, whoever writes it; nothing that a client wrote begins a line."""

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
from contextvars import copy_context
from pathlib import Path

import pytest

from ragcache.console.log import JsonFormatter, TextFormatter, configured, fields, request_id
from ragcache.console.streams import SafeStream

ROOT = Path(__file__).parents[3]
EVIL = 'a\n2026-01-01T00:00:00.000Z info     [-] paid "all"\r\x1b[2J\u2028b'
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info|warning|error|critical) *\[[^ ]+\] \S")


def record(message: str, *arguments: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("ragcache.x", logging.WARNING, "x.py", 1, message, arguments, None)
    made.__dict__.update(more)
    return made


def failed() -> logging.LogRecord:
    try:
        raise ValueError(EVIL)
    except ValueError:
        return record("it failed", exc_info=sys.exc_info())


def test_a_line_of_text_has_time_level_request_message_and_fields():
    made = record("%s is odd", "it", created=1_800_000_000.25, **fields(path="/a b", status=200, error=None))
    assert TextFormatter().format(made) == '2027-01-15T08:00:00.250Z warning  [-] it is odd path="/a b" status=200'
    token = request_id.set("abc")
    try:
        assert "[abc] it is odd" in TextFormatter().format(made)
        values = json.loads(JsonFormatter().format(made))
    finally:
        request_id.reset(token)
    assert values == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "warning",
        "logger": "ragcache.x",
        "request_id": "abc",
        "message": "it is odd",
        "path": "/a b",
        "status": 200,
    }
    assert "request_id" not in json.loads(JsonFormatter().format(made))


@pytest.mark.parametrize("made", [record(EVIL), record("x", **fields(path=EVIL)), record("%s", EVIL)])
def test_no_value_begins_a_line(made):
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(made)
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line


def test_a_traceback_stands_behind_bars_or_within_the_object():
    first, *rest = TextFormatter().format(failed()).split("\n")
    assert LINE.match(first)
    assert rest[0] == "    | Traceback (most recent call last):"
    assert all(line.startswith("    | ") for line in rest)
    assert "\x1b" not in "".join(rest)
    line = JsonFormatter().format(failed())
    assert len(line.splitlines()) == 1
    assert json.loads(line)["traceback"].endswith(f"ValueError: {EVIL}")


def test_fields_never_take_the_place_of_time_and_level():
    values = json.loads(JsonFormatter().format(record("x", **fields(level="spoofed", time="never"))))
    assert values["level"] == "warning"
    assert values["time"] != "never"


def test_tasks_and_threads_of_a_request_carry_its_id():
    async def work() -> list[str]:
        token = request_id.set("r1")
        loop = asyncio.get_running_loop()
        try:
            task = asyncio.create_task(named())
            return [await task, await loop.run_in_executor(None, copy_context().run, request_id.get)]
        finally:
            request_id.reset(token)

    async def named() -> str:
        return request_id.get()

    assert asyncio.run(work()) == ["r1", "r1"]
    assert request_id.get() == "-"


PROGRAM = """
import logging, sys, threading, warnings
from ragcache.console import log, streams
def work():
    with log.configured({level!r}, {form!r}):
        logging.getLogger("ragcache.x").info("ours")
        logging.getLogger("ragcache.x").debug("detail")
        logging.getLogger("faiss.loader").info("noise")
        logging.getLogger("uvicorn.error").error("theirs\\nin lines")
        warnings.warn("odd\\x1b[2J")
        print("printed by a library", file=sys.stderr)
        handler = logging.StreamHandler()
        handler.emit(logging.makeLogRecord({{"msg": "a handler of its own"}}))
        def end(): raise ValueError("in a thread")
        thread = threading.Thread(target=end, name="t")
        thread.start(); thread.join()
        from tqdm import tqdm
        for _ in tqdm(range(3), desc="bar"): pass
        if {dies}: raise RuntimeError("nobody\\nhandles this")
    return 0
sys.exit(streams.run(work, "x"))
"""


def said(level: str, form: str, *, dies: bool = False) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(level=level, form=form, dies=dies)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONWARNINGS": "always"},
    )
    assert done.stdout == ""
    assert done.returncode == (1 if dies else 0), done.stderr
    return done.stderr.splitlines()


def test_in_json_every_line_of_stderr_is_an_object():
    values = [json.loads(line) for line in said("info", "json")]
    messages = [each["message"] for each in values]
    assert {"ours", "theirs\nin lines", "printed by a library", "a handler of its own"} <= set(messages)
    assert not {"detail", "noise"} & set(messages)
    assert any("odd\x1b[2J" in message for message in messages)
    (thread,) = [each for each in values if "ValueError: in a thread" in each.get("traceback", "")]
    assert (thread["level"], thread["message"]) == ("critical", "the thread t ended by an error")
    assert any(message.startswith("bar") for message in messages)
    assert all({"time", "level", "logger", "message"} <= set(each) for each in values)


def test_in_text_records_are_lines_with_a_head():
    lines = said("debug", "text")
    assert any(LINE.match(line) and line.endswith("] detail") for line in lines)
    assert any(LINE.match(line) and line.endswith(r"] theirs\nin lines") for line in lines)
    assert "\x1b" not in "".join(lines)


def test_an_error_that_ends_the_process_is_an_object_too():
    last = json.loads(said("info", "json", dies=True)[-1])
    assert last["level"] == "critical"
    assert last["traceback"].endswith("RuntimeError: nobody\nhandles this")


@pytest.mark.parametrize(("level", "count"), [("debug", 2), ("info", 1), ("warning", 0)])
def test_the_level_is_that_of_our_own_lines(level, count):
    lines = [line for line in said(level, "text") if line.endswith(("] ours", "] detail"))]
    assert len(lines) == count


def test_everything_is_as_before_behind_it(monkeypatch):
    raw = io.StringIO()
    monkeypatch.setattr(sys, "stderr", SafeStream(raw))
    before = logging.getLogger().handlers[:]
    with configured("info", "json"):
        logging.getLogger("ragcache.y").info("inside")
    logging.getLogger("ragcache.y").info("outside")
    assert logging.getLogger().handlers == before
    assert json.loads(raw.getvalue())["message"] == "inside"
    print("plain", file=sys.stderr)
    assert raw.getvalue().endswith("\nplain\n")
