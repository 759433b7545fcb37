"""`ragcache index`: a vector index and a document store, built from a corpus."""

from __future__ import annotations

import argparse
import codecs
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ragcache.errors import RagCacheError

if TYPE_CHECKING:
    from retrieval.embedder import Embedder
    from retrieval.passages import PassageSplitter, WholeDocuments
    from retrieval.sources.mixed_files import MixedFiles


def add_options(parser: argparse.ArgumentParser) -> None:
    _add_source_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the index to")
    cut = parser.add_argument_group("passages", "Documents that the embedder does not read to their ends are cut.")
    cut.add_argument(
        "--passage-tokens",
        type=int,
        metavar="N",
        help="longest passage, as the embedder counts, title included (default: 256, or what the embedder reads if "
        "that is less)",
    )
    cut.add_argument(
        "--overlap",
        type=int,
        metavar="N",
        help="tokens, in whole sentences or words, that a passage may repeat of the one before it (default: 32)",
    )
    cut.add_argument("--whole", action="store_true", help="cut nothing: only the beginning of a long document is found")
    parser.add_argument(
        "--type",
        choices=("flat", "ivf", "hnsw"),
        default="flat",
        help="flat compares with every vector (exact); ivf and hnsw are approximate, and faster on large corpora "
        "(default: flat)",
    )
    parser.add_argument(
        "--embedder",
        default="default",
        metavar="NAME",
        help="folder or Hugging Face id of the embedding model (default: the one that is installed)",
    )
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="FILE.npy",
        help="use these vectors, an array [documents, dimensions], instead of embedding the texts; implies --whole",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bars")


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    source = parser.add_argument_group("documents")
    source.add_argument(
        "--corpus",
        type=Path,
        required=True,
        nargs="+",
        metavar="PATH",
        help="folders and files: JSON lines with id, text and title (.jsonl, .jsonl.gz), JSON, CSV, Parquet, Markdown, "
        "HTML, PDF, DOCX, text. Hidden files are left out",
    )
    source.add_argument("--text-field", metavar="NAME", help="key or column of the text of a row (default: text)")
    source.add_argument(
        "--id-field",
        metavar="NAME",
        help="key or column of the id of a row, a text or an integer (default: id; a row without one, or with a blank "
        "one, is called FILE:ROW)",
    )
    source.add_argument("--title-field", metavar="NAME", help="key or column of the title of a row (default: title)")
    source.add_argument(
        "--encoding",
        type=_encoding,
        metavar="NAME",
        help="of text that has no byte order mark, does not name its encoding and is not UTF-8, such as latin-1 "
        "(default: such a file is skipped)",
    )
    source.add_argument(
        "--strict",
        action="store_true",
        help="fail at the first file or row that cannot be read; else it is skipped",
    )


def _encoding(name: str) -> str:
    try:
        "a".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError):  # LookupError also for hex and the like, which are not of text
        raise argparse.ArgumentTypeError(f"{name!r} is not an encoding of text that Python knows") from None


def run(options: argparse.Namespace) -> int:
    """Builds the index. Raises RetrievalError, which names the file or line, for what cannot be indexed."""
    from ragcache.engine.cores import available_cores
    from retrieval.embedder import Embedder
    from retrieval.index import build_index, require_buildable

    source = _source(options)
    _require_cutting(options)
    require_buildable(source, options.out, options.embeddings)
    embedder = Embedder.load(options.embedder, available_cores())
    cut = _cut(options, embedder)
    manifest = build_index(
        source, options.out, options.type, embedder, options.embeddings, progress=not options.quiet, cut=cut
    )
    _tell(options, cut, manifest.documents)
    if source.skipped:
        what = "1 file or row" if source.skipped == 1 else f"{source.skipped} files or rows"
        print(f"{what} could not be read: see above", file=sys.stderr)
    return 0


def _source(options: argparse.Namespace) -> MixedFiles:
    from retrieval.sources.mixed_files import MixedFiles  # and with it the parsers of all formats
    from retrieval.sources.rows import Columns

    columns = Columns(options.id_field, options.title_field, options.text_field)
    return MixedFiles(
        options.corpus, columns=columns, fallback=options.encoding, strict=options.strict, skip=_teller("skipped ")
    )


def _teller(begin: str) -> Callable[[object], None]:
    """A function that prints a line on stderr, above a progress bar."""
    from tqdm import tqdm

    return lambda said: tqdm.write(f"{begin}{said}", file=sys.stderr)


def _cut(options: argparse.Namespace, embedder: Embedder) -> PassageSplitter | WholeDocuments:
    from retrieval.passages import PassageSplitter, WholeDocuments

    if _whole(options):
        return WholeDocuments(embedder)
    return PassageSplitter(embedder, options.passage_tokens, options.overlap)


def _whole(options: argparse.Namespace) -> bool:
    return options.whole or options.embeddings is not None


def _require_cutting(options: argparse.Namespace) -> None:
    """RetrievalError if it is said how documents are cut, and that they are not."""
    from retrieval.errors import RetrievalError

    if not _whole(options):
        return
    for name in ("passage_tokens", "overlap"):
        if getattr(options, name) is not None:
            by = "--whole" if options.whole else "--embeddings, which has a vector for each document,"
            raise RetrievalError(
                f"--{name.replace('_', '-')} does not go with {by} for that cuts nothing; leave one out"
            )


def _tell(options: argparse.Namespace, cut: PassageSplitter | WholeDocuments, indexed: int) -> None:
    """Prints what was built. RagCacheError if stdout does not take it, as on a full disk: the index is there."""
    try:
        count = "1 document" if cut.documents == 1 else f"{cut.documents} documents"
        print(f"{count} in {options.out / 'faiss.idx'} ({options.type})", flush=True)
        _tell_lengths(cut, indexed)
    except BrokenPipeError:  # whoever read it wants no more
        raise
    except OSError as error:
        raise RagCacheError(
            f"cannot write to stdout ({error.strerror or error}); the index is in its place, {options.out}"
        ) from error


def _tell_lengths(cut: PassageSplitter | WholeDocuments, indexed: int) -> None:
    """Prints how many documents are longer than is embedded, and what became of them."""
    from retrieval.passages import SERVED_TOKENS, WholeDocuments

    if not cut.longer:
        return
    longer = f"{cut.longer} of {cut.documents} {'is' if cut.longer == 1 else 'are'} longer than {cut.tokens} tokens"
    if not isinstance(cut, WholeDocuments):
        print(f"{longer} and cut: {indexed} passages in all")
        return
    print(
        f"warning: {longer}, which the embedder reads: what stands behind them cannot be found. {cut.unread} "
        f"{'is' if cut.unread == 1 else 'are'} longer than {SERVED_TOKENS} tokens, the default of `serve "
        "--max-doc-tokens`. Without --whole, documents are cut into passages",
        file=sys.stderr,
    )
