"""ServerProcess: a `ragcache serve` that an evaluation starts, waits for, and ends or kills."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ragcache.cli.config import ServeConfig
from server.client import RagClient, ServerError

PATIENCE_SECONDS = 120.0


class ServerDied(Exception):
    """The server ended, or did not answer, before it was ready."""


def arguments_for(config: ServeConfig) -> list[str]:
    """The options of `ragcache serve` with these settings. The cache must be on: `--no-cache` is not written."""
    words = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return words


class ServerProcess:
    """A context manager; leaving it kills a process that still runs. The server's log is in `said`.

    It listens on a free port of the loopback, and stands outside the terminal's group: Ctrl-C is its owner's to handle.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        self._began = time.monotonic()
        command = [sys.executable, "-m", "ragcache", "serve", "--port", "0", *arguments]
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait_ready(self) -> tuple[str, float]:
        """Its URL, and the seconds from its start until it answers. Raises ServerDied if it never does."""
        while self.running and time.monotonic() < self._began + PATIENCE_SECONDS:
            if url := re.search(r" on (http://\S+)", self.said):
                try:
                    with RagClient(url[1], timeout_seconds=10.0) as client:
                        client.get("/readyz")
                    return url[1], time.monotonic() - self._began
                except ServerError:
                    pass  # the line is printed a moment before it listens
            time.sleep(0.02)
        raise ServerDied(f"the server was not ready (exit status {self.process.poll()}): {self.said.strip()}")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit status. Raises ServerDied if it does not end."""
        try:
            return self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ServerDied(f"the server did not end: {self.said.strip()}") from error

    def kill(self) -> bool:
        """Sends SIGKILL. Returns whether the server was still running."""
        alive = self.running
        self.process.kill()
        return self.process.wait() == -signal.SIGKILL and alive

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
