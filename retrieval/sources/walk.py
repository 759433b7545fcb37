"""Walk: the files that paths name, those in folders too, in an order that is the same on every machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import CorpusError
from retrieval.sources.unreadable import Unreadable, printable

INDEX_FILES = {"manifest.json", "faiss.idx", "documents.lmdb"}  # a folder that holds these is an index of ours


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file of `size` bytes. `name` is its path below the folder that holds all that was named, with /."""

    path: Path
    name: str
    size: int


def walk(paths: Sequence[Path], skip: Callable[[Unreadable], None]) -> list[FoundFile]:
    """The regular files among `paths` and below the folders among them, each once, in the order of their names.

    What is hidden in a folder (its name begins with a dot) is left out, and so are indexes and the files by which
    Office locks what is open (~$report.docx). Symbolic links are followed, unless they lead to what is read already.
    `skip` is called with what cannot be read. Raises CorpusError for a path that does not exist.
    """
    for path in paths:
        if not os.path.lexists(path):
            raise CorpusError(f"{printable(str(path))}: does not exist; check the path")
    tops = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100  # not resolved: a link keeps its name
    base = Path(os.path.commonpath([path if os.path.isdir(path) else path.parent for path in tops]))  # noqa: PTH112
    return _Walk(base, skip).files(tops)


class _Walk:
    def __init__(self, base: Path, skip: Callable[[Unreadable], None]) -> None:
        self._base = base
        self._skip = skip
        self._seen: set[tuple[int, int]] = set()  # device and inode of folders and files
        self._files: dict[str, FoundFile] = {}
        self._links: list[Path] = []

    def files(self, tops: Sequence[Path]) -> list[FoundFile]:
        for path in tops:
            self._visit(path)
        # links last, so that what is reached without one has that name
        while self._links:
            links, self._links = sorted(self._links), []
            for link in links:
                self._follow(link)
        return [self._files[name] for name in sorted(self._files, key=lambda name: name.split("/"))]

    def _name(self, path: Path) -> str:
        return path.relative_to(self._base).as_posix()

    def _visit(self, path: Path) -> None:
        folders = [path]
        while folders:
            path = folders.pop()
            if _is_link(path):
                self._links.append(path)
                continue
            folders += self._take(path)

    def _follow(self, link: Path) -> None:
        for path in self._take(link):
            self._visit(path)

    def _take(self, path: Path) -> list[Path]:
        """Keeps a file; returns what a folder holds."""
        name = self._name(path)
        try:
            status = path.stat()
            key = (status.st_dev, status.st_ino)
            if stat.S_ISDIR(status.st_mode):
                if key in self._seen:
                    return []
                self._seen.add(key)
                return self._listed(path)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable(str(path), "is not a regular file")
            name.encode()
        except UnicodeEncodeError:
            self._skip(Unreadable(str(path), "its name is not UTF-8, so it cannot be an id; rename it"))
        except Unreadable as error:
            self._skip(error)
        except OSError as error:
            self._skip(Unreadable(str(path), f"cannot be read ({error.strerror or error})"))
        else:
            if key not in self._seen or not _is_link(path):
                self._files.setdefault(name, FoundFile(path, name, status.st_size))
            self._seen.add(key)
        return []

    def _listed(self, folder: Path) -> list[Path]:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
        if set(names) >= INDEX_FILES:
            return []
        return [folder / name for name in names if not name.startswith((".", "~$"))]


def _is_link(path: Path) -> bool:
    """Whether it is a symbolic link; False for what cannot be looked at, which Path.is_symlink would raise."""
    return os.path.islink(path)  # noqa: PTH114
