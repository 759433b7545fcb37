"""ServerProcess: a `ragcache serve` which an evaluation starts, waits for and ends as roughly as it likes."""

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
    """The options of `ragcache serve` that say the same. The cache must be on, for its absence is another option."""
    words = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return words


class ServerProcess:
    """A context manager; leaving it kills a process that still runs. What the server says is in `said`.

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
        """Its URL, and the seconds from its start until it answers. ServerDied if it never does."""
        while self.running and time.monotonic() < self._began + PATIENCE_SECONDS:
            if found := re.search(r" on (http://\S+)", self.said):
                try:
                    with RagClient(found[1], timeout_seconds=10.0) as client:
                        client.get("/readyz")
                    return found[1], time.monotonic() - self._began
                except ServerError:
                    pass  # it says so a moment before it listens
            time.sleep(0.02)
        raise ServerDied(f"the server was not ready (exit status {self.process.poll()}): {self.said.strip()}")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit status. ServerDied if it does not end."""
        try:
            return self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ServerDied(f"the server did not end: {self.said.strip()}") from error

    def kill(self) -> bool:
        """Kill -9; whether there was something to kill."""
        alive = self.running
        self.process.kill()
        return self.process.wait() == -signal.SIGKILL and alive

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
