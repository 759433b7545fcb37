"""The evaluations run over the tiny model and index, and in the quick tier their servers run in this process."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace, TracebackType
from typing import Self

import pytest

from tests.props.reopened import Reopened


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("tests.props.live")


class ServerHere:
    """A `ServerProcess` whose process is the test's own: it starts at once, and cannot be killed."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        del log
        self._began = time.monotonic()
        self._server = Reopened(*arguments)
        self.process = SimpleNamespace(pid=os.getpid())

    @property
    def said(self) -> str:
        return self._server.errors

    def wait_ready(self) -> tuple[str, float]:
        self._server.ready().close()
        return self._server.url, time.monotonic() - self._began

    def terminate(self) -> None:
        self._server.end()

    def wait(self) -> int:
        return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.end()


@pytest.fixture
def server_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], None]:
    """Has an evaluation start its servers in this process."""
    return lambda evaluation: monkeypatch.setattr(evaluation, "ServerProcess", ServerHere)
