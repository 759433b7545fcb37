"""The wheel: the four packages and their data, nothing else, and it runs where it is installed."""

import os
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parent.parent
PACKAGES = ("ragcache", "retrieval", "server", "pimsim")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def package_files() -> set[str]:
    """What the packages hold in the repository, as paths inside the wheel."""
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.splitlines())


def test_every_package_and_every_data_file_is_named():
    packages = set(find_packages(str(ROOT), include=SETTINGS["packages"]["find"]["include"]))
    assert {name.partition(".")[0] for name in packages} == set(PACKAGES)
    files = package_files()
    assert {f"{name}/py.typed" for name in PACKAGES} <= files
    for file in files:
        if file.endswith(".py"):
            assert os.path.dirname(file).replace("/", ".") in packages, file  # noqa: PTH120
        else:
            package, _, inside = file.partition("/")
            patterns = SETTINGS["package-data"][package]
            assert any(fnmatchcase(inside, pattern.replace("**/", "*")) for pattern in patterns), file


@pytest.mark.full(proof="test_every_package_and_every_data_file_is_named")
def test_the_wheel_holds_the_packages_and_runs_where_it_is_installed(tmp_path):
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "installed")
    assert names == {name for name in package_files() if (ROOT / name).exists()}
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def output(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout

    assert output("-c", "import ragcache; print(ragcache.__file__)").startswith(str(tmp_path / "installed"))
    assert output("-m", "ragcache", "--version") == f"ragcache {wheel.name.split('-')[1]}\n"
    assert "heterrag" in output("-c", "from pimsim.fields import shipped; print(shipped('systems'))")
    assert "usage: ragcache serve" in output("-m", "ragcache", "serve", "--help")
