"""Compiled kernels: kept in the user's cache folder and nowhere else, and usable where nothing can be kept."""

import errno
import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import pytest

from retrieval.compiled import kernel, kernel_folder

SOURCE = """
from retrieval.compiled import kernel

@kernel
def doubled(a):
    return a * 2
"""


def loaded(folder: Path) -> ModuleType:
    """A module with a kernel, from a source file in its own folder."""
    folder.mkdir()
    (folder / "kernels.py").write_text(SOURCE)
    return again(folder)


def again(folder: Path) -> ModuleType:
    """The same module in what might be another process."""
    spec = importlib.util.spec_from_file_location("kernels", folder / "kernels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kept(folder: Path) -> list[Path]:
    """The files numba keeps: an index of a function, and machine code for each set of types."""
    return [path for path in folder.rglob("*") if path.suffix in {".nbi", ".nbc"}]


def test_machine_code_is_kept_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("RAGCACHE_HOME", str(tmp_path / "cache"))
    before = numba.config.CACHE_DIR
    assert loaded(tmp_path / "source").doubled(2) == 4
    assert len(kept(tmp_path / "cache" / "numba")) == 2
    assert kept(tmp_path / "source") == []
    assert before == numba.config.CACHE_DIR, "other packages' kernels are not concerned"


def test_numbas_own_variable_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGCACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "chosen"))
    assert loaded(tmp_path / "source").doubled(2) == 4
    assert len(kept(tmp_path / "chosen")) == 2
    assert not (tmp_path / "cache").exists()


def test_the_cache_folder_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NUMBA_CACHE_DIR", "RAGCACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert kernel_folder() == Path.home() / ".cache" / "ragcache" / "numba"


def test_a_cache_folder_of_no_user_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("RAGCACHE_HOME", "~nosuchuser/cache")
    assert kernel_folder() is None
    assert loaded(tmp_path / "source").doubled(2) == 4


def test_where_nothing_can_be_kept_a_kernel_compiles_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert loaded(tmp_path / "source").doubled(2) == 4
    assert kept(tmp_path) == []


def test_a_function_without_a_source_file_is_compiled() -> None:
    compiled = kernel(eval("lambda a: a + 1"))
    assert compiled(1) == 2


def test_a_full_disk_stops_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def full(*_: object) -> None:
        attempts.append("save")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    compiled = kernel(_doubled)
    assert compiled(2) == 4
    assert compiled(3) == 6
    assert attempts == ["save"]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", ["refused", "emptied", "cut", "replaced by a folder"])
def test_kept_code_that_cannot_be_read_stops_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, suffix: str
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    assert loaded(tmp_path / "first").doubled(2) == 4
    (file,) = [path for path in kept(tmp_path / "cache") if path.suffix == suffix]
    if damage == "refused":  # as where it is another user's, which root would read all the same
        original = open

        def refusing(path: object, *more: Any, **named: Any) -> Any:
            if str(path) == str(file):
                raise PermissionError(13, "Permission denied")
            return original(path, *more, **named)

        monkeypatch.setattr("builtins.open", refusing)
    elif damage == "replaced by a folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(b"" if damage == "emptied" else file.read_bytes()[:-7])
    module = again(tmp_path / "first")
    assert module.doubled(2) == 4
    assert module.doubled(3) == 6
    if damage in ("emptied", "cut"):
        third = again(tmp_path / "first")
        assert third.doubled(2) == 4
        assert sum(third.doubled.stats.cache_hits.values()) == 1


@pytest.mark.parametrize("damage", ["emptied", "cut"])
def test_a_damaged_index_on_a_full_disk_stops_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """What is kept can be neither read nor begun anew."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    assert loaded(tmp_path / "first").doubled(2) == 4
    (index,) = [path for path in kept(tmp_path / "cache") if path.suffix == ".nbi"]
    index.write_bytes(b"" if damage == "emptied" else index.read_bytes()[:-7])
    original = open

    def full(path: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        if "w" in mode and str(path).startswith(str(tmp_path)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, mode, *more, **named)

    monkeypatch.setattr("builtins.open", full)
    module = again(tmp_path / "first")
    assert module.doubled(2) == 4
    assert module.doubled(2.5) == 5


def test_a_folder_that_takes_no_file_is_not_replaced_by_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no room, or a server of files refuses what its mode allows."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    original = tempfile.TemporaryFile

    def refusing(*arguments: Any, **named: Any) -> Any:
        if str(named.get("dir")).startswith(str(tmp_path / "cache")):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return original(*arguments, **named)

    monkeypatch.setattr(tempfile, "TemporaryFile", refusing)
    before = numba.config.CACHE_LOCATOR_CLASSES
    assert loaded(tmp_path / "source").doubled(2) == 4
    assert kept(tmp_path) == []
    assert before == numba.config.CACHE_LOCATOR_CLASSES, "other packages' kernels are not concerned"


def _doubled(a: Any) -> Any:
    return a * 2
