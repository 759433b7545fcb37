"""Build lock: builds wait for one another, and for nobody else."""

import errno
import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from retrieval.build_lock import alone
from tests.retrieval.test_build_folder import build, names


def test_a_folder_that_its_caller_has_locked_is_built_in(tmp_path: Path) -> None:
    """As in `flock DIR ragcache index --out DIR/index`, by which cron's jobs are kept apart."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        done = threading.Thread(target=build, args=(tmp_path / "index",), daemon=True)
        done.start()
        done.join(10)
        assert not done.is_alive()
    finally:
        os.close(descriptor)
    assert names(tmp_path) == ["index"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC])
def test_a_lock_that_cannot_be_had_holds_up_no_build(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of another user, or a disk that the new index has filled."""
    original = os.open

    def refusing(path: object, *more: Any, **named: Any) -> int:
        if str(path).endswith(".index.lock"):
            raise OSError(code, os.strerror(code))
        return original(path, *more, **named)

    monkeypatch.setattr(os, "open", refusing)
    build(tmp_path / "index")
    assert names(tmp_path) == ["index"]


def test_one_build_at_a_time_claims_and_replaces(tmp_path: Path) -> None:
    """Though the file that they lock is removed each time."""
    inside, most, together = [], [], threading.Barrier(8)

    def enter() -> None:
        together.wait(timeout=30)
        for _ in range(50):
            with alone(tmp_path / "index"):
                inside.append(None)
                most.append(len(inside))
                time.sleep(0.0001)
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (400, 1)
    assert names(tmp_path) == []
