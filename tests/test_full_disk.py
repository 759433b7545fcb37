"""`ragcache index` on disks that are full, read-only or mounted at its target: one line, status 1, no leftovers."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
COUNT = 2000  # short documents: 3 MB of vectors, and some 400 KB of documents
IN_OWN_MOUNTS = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = (json.dumps({"id": str(number), "text": f"Note {number}"}) for number in range(COUNT))
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows))
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).normal(size=(COUNT, 384)).astype(np.float32))
    return tmp_path


@pytest.mark.full(proof="test_what_the_disk_refuses_is_said_with_what_to_do")
def test_disks_that_are_full_read_only_or_mounted_there(folder: Path) -> None:
    if subprocess.run([*IN_OWN_MOUNTS, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs to mount disks")
    done = subprocess.run(
        [*IN_OWN_MOUNTS, sys.executable, "-m", "tests.props.disks", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    *builds, whole = map(json.loads, done.stdout.splitlines())
    *full, read_only, at_mount, through_link, again = builds
    assert len(full) == 7
    place = folder / "disk" / "index"
    for build in full:
        assert build == {
            "status": 1,
            "there": [],
            "errors": [
                f"ragcache index: {place}: the index cannot be written (No space left on device); "
                "make room, or name a folder on another disk"
            ],
        }
    assert (read_only["status"], read_only["there"]) == (1, [])
    assert "Read-only file system" in read_only["errors"][0]
    assert at_mount["status"] == 1
    assert at_mount["errors"] == [
        f"ragcache index: {folder / 'mounted'}: is where a disk is mounted, which cannot be replaced as a whole; "
        f"name a folder in it, such as {folder / 'mounted' / 'index'}"
    ]
    assert (through_link["status"], again["status"]) == (0, 0)  # though it lies on another disk
    assert whole == ["index"]


@pytest.mark.full(proof="test_what_the_disk_refuses_is_said_with_what_to_do")
@pytest.mark.parametrize("limit", [50_000, 200_000, 2_000_000])
def test_files_that_may_not_grow(folder: Path, limit: int) -> None:
    """As a quota says it: for the documents, for the vectors."""
    command = [sys.executable, "-m", "ragcache", "index", "--corpus", folder / "corpus.jsonl", "--quiet"]
    options = ["--out", folder / "index", "--embeddings", folder / "vectors.npy"]
    before = sorted(folder.iterdir())
    done = subprocess.run(
        [*map(str, [*command, *options])], capture_output=True, text=True, timeout=100, check=False, cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "the index cannot be written (File too large)" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.iterdir()) == before
