"""What may befall the files of an index, as functions of its folder, and a child process that uses what is left."""

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retrieval.corpus import read_corpus
from retrieval.errors import RetrievalError
from retrieval.retriever import Retriever

DATA = "documents.lmdb/data.mdb"
FILES = ("faiss.idx", DATA, "manifest.json")
Damage = Callable[[Path], object]


def cut(name: str, share: float) -> Damage:
    def damage(folder: Path) -> None:
        os.truncate(folder / name, int((folder / name).stat().st_size * share))

    return damage


def flipped(name: str, share: float) -> Damage:
    """One bit, at this share of the file."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[int((len(content) - 1) * share)] ^= 4
        (folder / name).write_bytes(content)

    return damage


def zeroed(name: str, first: int, pages: int) -> Damage:
    def damage(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.seek(first * 4096)
            file.write(bytes(pages * 4096))

    return damage


def longer(name: str) -> Damage:
    return lambda folder: (folder / name).open("ab").write(b"\0" * 4096)


def removed(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def replaced_by_folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def dangling(name: str) -> Damage:
    """A link to a file that is not there."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(folder / "elsewhere")

    return damage


def emptied(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes(b"")


def copied_from(other: str, name: str) -> Damage:
    """The file of another index, which lies beside this one."""
    return lambda folder: shutil.copy(folder.parent / other / name, folder / name)


def manifest(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return damage


def without_digests(folder: Path) -> None:
    """Makes the manifest one of the time before it had digests of the files."""

    def old(values: dict[str, Any]) -> None:
        del values["files"]
        values["format_version"] = 1

    manifest(old)(folder)


def used(folder: Path, texts: dict[str, str]) -> str:
    """Opens an index, searches it and reads all documents: "well", or the first error. Wrong texts are an assertion."""
    try:
        with Retriever.open(folder, threads=1) as retriever:
            for k in (1, len(retriever) // 2):
                for hit in retriever.search("stone number 5", k):
                    assert hit.document.text == texts[hit.document.id]
            for row in range(len(retriever)):
                document = retriever.store.get(row)
                assert document.text == texts[document.id]
                assert retriever.store.row_of(document.id) == row
    except RetrievalError as error:
        return str(error)
    except KeyError as error:
        return f"{folder / DATA} is damaged: no document has the id {error}"
    return "well"


def main(folder: Path, corpus: Path, rounds: int) -> None:
    """Flips a few bytes of each file at random, and prints what using the index says of it, a line a round."""
    texts = {document.id: document.text for document in read_corpus(corpus)}
    whole = {name: (folder / name).read_bytes() for name in FILES}
    rng = random.Random(7)
    for number in range(rounds):
        name = FILES[number % 2]
        content = bytearray(whole[name])
        for _ in range(rng.choice((1, 3, 30))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (folder / name).write_bytes(content)
        print(used(folder, texts), flush=True)
        (folder / name).write_bytes(whole[name])
    print(used(folder, texts), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
