"""Load: clients that ask one server at once until it is gone; some of them hang up."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any

from server.client import RagClient, ServerError

KNOWN_SHARE = 0.7  # of the questions asked
HANG_UP_SHARE = 0.25
LONGEST_WAIT = 0.6  # seconds, of a client that hangs up


class Load:
    """Threads, each a client with questions of its own choice. `answers` and `problems` are read after `join`."""

    def __init__(self, url: str, known: Sequence[str], new: Sequence[str], clients: int, rng: random.Random) -> None:
        self.answers: list[tuple[str, dict[str, Any]]] = []
        self.problems: list[str] = []
        self.hung_up = 0
        self._url = url
        self._known = known
        self._new = new
        self._ending = threading.Event()
        self._lock = threading.Lock()
        # daemons: an interrupted evaluation does not wait for answers
        self._threads = [
            threading.Thread(target=self._ask, args=(random.Random(rng.random()),), daemon=True) for _ in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def expect_end(self) -> None:
        """From now on the server may refuse or be gone; a client that sees this stops asking."""
        self._ending.set()

    def join(self) -> None:
        """Waits for all clients; the server must be gone."""
        for thread in self._threads:
            thread.join()

    def _ask(self, rng: random.Random) -> None:
        while True:
            question = rng.choice(self._known if rng.random() < KNOWN_SHARE else self._new)
            hangs_up = rng.random() < HANG_UP_SHARE
            try:
                if hangs_up:
                    # the connection is closed after that time, whatever the server is doing
                    with RagClient(self._url, timeout_seconds=rng.uniform(0.01, LONGEST_WAIT)) as client:
                        client.ask(question)
                    continue
                with RagClient(self._url) as client:
                    answer = client.ask(question)
                with self._lock:
                    self.answers.append((question, answer))
            except ServerError as error:
                if self._ending.is_set():
                    return
                with self._lock:
                    if hangs_up:
                        self.hung_up += 1
                    else:
                        self.problems.append(f"{question!r} under load: {error}")
