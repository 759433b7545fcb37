"""A child process that builds indexes on disks of its own: small, read-only, mounted here and there.

It runs in a mount namespace (`unshare --mount`) and prints a line of JSON for each build.
"""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

from ragcache.cli.main import main


def mounted(place: Path, options: str) -> None:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)


def built(folder: Path, out: Path, *options: str) -> None:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(["index", "--corpus", str(folder / "corpus.jsonl"), "--out", str(out), "--quiet", *options])
    there = sorted(path.name for path in out.parent.iterdir())
    errors = [line for line in said.getvalue().splitlines() if line.startswith("ragcache index:")]
    print(json.dumps({"status": status, "there": there, "errors": errors}), flush=True)


def run(folder: Path) -> None:
    vectors = ("--embeddings", str(folder / "vectors.npy"))
    for size in ("40k", "100k", "300k", "1m", "2m", "3500k", "3700k"):
        mounted(folder / "disk", f"size={size}")
        built(folder, folder / "disk" / "index", *vectors)
        subprocess.run(["umount", str(folder / "disk")], check=True)
    mounted(folder / "disk", "ro")
    built(folder, folder / "disk" / "index", *vectors)
    mounted(folder / "mounted", "size=20m")
    built(folder, folder / "mounted", *vectors)
    (folder / "link").symlink_to(folder / "mounted" / "index")
    built(folder, folder / "link", *vectors)
    built(folder, folder / "link", *vectors)
    print(json.dumps(sorted(path.name for path in (folder / "mounted").iterdir())))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
