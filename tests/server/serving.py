"""Serving: a `ragcache serve` process and what it says, for tests."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

PATIENCE = 60


class Serving:
    """A `ragcache serve` process."""

    def __init__(self, *arguments: str, files: int | None = None) -> None:
        """`files` is how many it may have open, if that is to be fewer than otherwise."""
        limited = [] if files is None else ["prlimit", f"--nofile={files}:{files}"]
        self.process = subprocess.Popen(
            [*limited, sys.executable, "-m", "ragcache", "serve", *arguments], stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    @property
    def errors(self) -> str:
        return "".join(self.lines)

    def ready(self) -> httpx.Client:
        """Waits until it answers; a client of it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            if address := re.search(r"on (http://\S+)", self.errors):
                with contextlib.suppress(httpx.ConnectError):
                    if httpx.get(f"{address[1]}/readyz", trust_env=False).status_code == 200:
                        return httpx.Client(base_url=address[1], timeout=PATIENCE, trust_env=False)
            time.sleep(0.05)
        pytest.fail(f"it does not serve: {self.errors}")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Sends the signal; exit status and seconds until then."""
        begin = time.monotonic()
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        return status, time.monotonic() - begin

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
