"""A process killed while it stores leaves whole records or none: the next one reads what is there, and is right."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.vllm.site import BLOCK, SYSTEM, Site, document

DOCUMENTS = 40
DISK = "512MiB"


def ask_for_ever(folder: str) -> None:
    """What the killed process runs."""
    site = Site(host_cache="64MiB", disk_cache=f"{folder}:{DISK}")
    print("ready", flush=True)
    while True:
        for seed in range(DOCUMENTS):
            site.ask([document(seed, 250)], tokens=1)


def kill_while_it_stores(folder: Path, after: int, seconds: float) -> None:
    """SIGKILL for a process over `folder`, `seconds` after its file has been written to `after` times."""
    code = f"from tests.vllm.test_killed import ask_for_ever; ask_for_ever({str(folder)!r})"
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        try:
            while process.stdout.readline() != "ready\n":
                assert process.poll() is None, "the process ended before it was killed"
            (file,) = folder.glob("*/data.mdb")
            latest = time.monotonic() + 60
            writes, last = 0, file.stat().st_mtime_ns
            while writes < after:
                assert time.monotonic() < latest, "nothing is stored"
                if file.stat().st_mtime_ns != last:
                    writes, last = writes + 1, file.stat().st_mtime_ns
                time.sleep(0.0005)
            time.sleep(seconds)
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.timeout(300)
def test_what_a_killed_process_stored_is_whole(site, tmp_path):
    draws = random.Random(4)
    plain = site(plain=True)
    wanted = [plain.ask([document(seed, 250)]).ids for seed in range(8)]
    plain.close()
    records = 0
    for after in (1, 4, 9):
        kill_while_it_stores(tmp_path, after, draws.uniform(0, 0.02))
        ours = site(host_cache=0, disk_cache=f"{tmp_path}:{DISK}")
        disk = ours.store._disk
        assert disk.discarded is None
        assert set(disk.swept) <= {"unfinished"}
        assert disk.verify() == {}
        assert len(disk) >= records
        records = len(disk)
        for seed, ids in enumerate(wanted):
            assert ours.ask([document(seed, 250)]).ids == ids
        counts = ours.cache.counts()["disk"]
        # killed before its first record was whole, it left none
        assert (counts.hit_tokens > 0) == (records > 0)
        on_device = ours.cache.counts()["device"].hit_tokens
        assert on_device + counts.hit_tokens + counts.missed_tokens == 8 * ((len(SYSTEM) + 250) // BLOCK * BLOCK)
        assert not counts.failures
        ours.close()
    assert records > 0
