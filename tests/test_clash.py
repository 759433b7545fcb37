"""A user's own `server.py` or `retrieval.py` does a command no harm; a script that it hides a package from is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONFIG = "from ragcache import RagClient\nprint('done')\n"
START = "import sys; from ragcache.cli.main import main; sys.exit(main())"  # as the console script
OPEN = "import ragcache\nragcache.open_service(index='i')\n"


def ended(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | more  # behind the folder, as site-packages are
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def written(folder: Path, name: str, text: str = "print('mine')\n") -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", ["server.py", "retrieval.py", "server/__init__.py", "eval.py", "pimsim.py"])
@pytest.mark.parametrize("how", ["-m", "PYTHONPATH", "safe path"])
def test_a_command_runs_beside_a_file_of_the_users_own(tmp_path, name, how):
    """Under `python -m` and in images that set PYTHONPATH to the current folder; the file is not run."""
    written(tmp_path, name)
    command = ["-m", "ragcache"] if how == "-m" else ["-P", "-c", START]
    more = {"PYTHONPATH": os.pathsep.join([".", str(ROOT)])} if how != "-m" else {}
    done = ended(tmp_path, *command, "query", "why?", "--url", "http://127.0.0.1:9", **more)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ragcache query: no answer from http://127.0.0.1:9")


SLOW = pytest.mark.full(proof="test_every_command_runs_beside_a_folder_and_files_of_the_users_own")


@pytest.mark.parametrize(
    "arguments",
    [["index", "--help"], ["--version"], pytest.param(["serve", "--index", "i", "--port", "0"], marks=SLOW)],
)
def test_every_command_runs_beside_a_folder_and_files_of_the_users_own(tmp_path, arguments):
    for name in ("server/__init__.py", "server/client.py", "retrieval.py", "pimsim.py"):
        written(tmp_path, name)
    done = ended(tmp_path, "-m", "ragcache", *arguments)
    assert "mine" not in done.stdout
    assert "Traceback" not in done.stderr
    assert "hides" not in done.stderr


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
