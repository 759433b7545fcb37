"""Compiled kernels: where their machine code is kept, and that it is never older than the sources it comes from."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import config

from pimsim.compiled import kernel

PART = "from pimsim.compiled import inlined\n\n\n@inlined\ndef times(x):\n    return {factor} * x\n"
KERNEL = """
from pimsim.compiled import kernel
from sources.inner import times


@kernel
def product(x):
    return times(x)
"""


def double(x):
    return 2 * x


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("RAGCACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_machine_code_is_kept_in_the_users_cache_and_not_beside_the_sources(home):
    compiled = kernel(double)
    assert compiled(21) == 42
    assert list((home / "numba").rglob("test_compiled.double*.nbc"))
    assert not list(Path(__file__).parent.rglob("test_compiled.double*.nb?"))
    again = kernel(double)
    assert again(21) == 42
    assert (sum(compiled.stats.cache_hits.values()), sum(again.stats.cache_hits.values())) == (0, 1)


def test_numbas_own_setting_prevails(home, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "elsewhere"))
    assert kernel(double)(21) == 42
    assert list((tmp_path / "elsewhere").rglob("*.nbc"))
    assert not home.exists()


def test_where_nothing_can_be_written_every_process_compiles(home):
    home.write_text("a file stands where the folder should be")
    assert kernel(double)(21) == 42
    assert kernel(double)(21) == 42
    assert not list(Path(__file__).parent.rglob("test_compiled.double*.nb?"))


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", ["unreadable", "emptied", "cut"])
def test_kept_code_that_cannot_be_read_is_compiled_again(home, damage, suffix):
    assert kernel(double)(21) == 42
    (file,) = (home / "numba").rglob(f"test_compiled.double*{suffix}")
    if damage == "unreadable":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(b"" if damage == "emptied" else file.read_bytes()[:-7])
    compiled = kernel(double)
    assert compiled(21) == 42
    assert compiled(22) == 44
    if damage != "unreadable":
        again = kernel(double)
        assert again(21) == 42
        assert sum(again.stats.cache_hits.values()) == 1


@pytest.mark.parametrize("damage", ["emptied", "cut"])
def test_a_damaged_index_on_a_full_disk_stops_no_call(home, damage, monkeypatch):
    """What is kept can be neither read nor begun anew."""
    assert kernel(double)(21) == 42
    (index,) = (home / "numba").rglob("test_compiled.double*.nbi")
    index.write_bytes(b"" if damage == "emptied" else index.read_bytes()[:-7])
    original = open

    def full(path, mode="r", *more, **named):
        if "w" in mode and str(path).startswith(str(home)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, mode, *more, **named)

    monkeypatch.setattr("builtins.open", full)
    compiled = kernel(double)
    assert compiled(21) == 42
    assert compiled(21.5) == 43


def test_a_change_of_a_module_beside_the_kernels_is_seen(home, tmp_path):
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "outer.py").write_text(KERNEL)
    code = "from sources.outer import product; print(product(21))"
    names = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    names["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    for factor in (2, 3):
        (folder / "inner.py").write_text(PART.format(factor=factor))
        done = subprocess.run([sys.executable, "-c", code], env=names, capture_output=True, text=True, check=True)
        assert int(done.stdout) == factor * 21
    assert list((home / "numba").rglob("outer.product*.nbc"))
