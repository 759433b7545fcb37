"""A user's own `server.py` or `retrieval.py` is named when it hides a package of ours; an `eval.py` does no harm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONFIG = "from ragcache import RagClient\nprint('done')\n"
OPEN = "import ragcache\nragcache.open_service(index='i')\n"


def ended(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # behind the folder, as site-packages are
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def written(folder: Path, name: str, text: str = "print('mine')\n") -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    "arguments", [["serve", "--index", "i", "--port", "0"], ["query", "why?"], ["index", "--help"]]
)
@pytest.mark.parametrize("name", ["server.py", "retrieval.py", "server/__init__.py"])
def test_a_command_names_the_file_that_hides_a_package(tmp_path, name, arguments):
    file = written(tmp_path, name)
    done = ended(tmp_path, "-m", "ragcache", *arguments)
    package = name.partition("/")[0].removesuffix(".py")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"ragcache {arguments[0]}: {file} hides the package {package!r} that ragcache is installed with: rename that "
        f"{'folder' if '/' in name else 'file'}, or move it out of the folder that Python looks into first (that of "
        "the script; with `python -m`, the current one)\n"
    )


@pytest.mark.parametrize("code", [CONFIG, OPEN])
@pytest.mark.parametrize("before", ["", "import server\n"])
def test_a_script_is_told_by_the_last_line(tmp_path, code, before):
    file = written(tmp_path, "server.py", "x = 1\n")
    done = ended(tmp_path, str(written(tmp_path, "script.py", before + code)))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ragcache.errors.ConfigError: {file} hides the package 'server' that ragcache is")


def test_a_script_that_is_called_server_itself_is_told_too(tmp_path):
    file = written(tmp_path, "server.py", CONFIG)
    done = ended(tmp_path, str(file))
    assert done.returncode == 1
    assert f"{file} hides the package 'server'" in done.stderr.splitlines()[-1]


def test_files_of_other_names_and_plain_folders_do_no_harm(tmp_path):
    for name in ("eval.py", "tests.py", "server/notes.py"):  # a folder without __init__.py hides no package
        written(tmp_path, name)
    done = ended(tmp_path, "-m", "ragcache", "query", "why?", "--url", "http://127.0.0.1:9")
    assert done.stderr.startswith("ragcache query: no answer from http://127.0.0.1:9")
    assert ended(tmp_path, str(written(tmp_path, "script.py", CONFIG))).stdout == "done\n"
