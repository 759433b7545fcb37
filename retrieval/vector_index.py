"""Vector index: the FAISS index of an index folder, read so that no damage to its file can end the process.

FAISS follows what stands in its file: a neighbour or a row that does not exist ends the process by a signal.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from retrieval.errors import IndexDamaged, IndexFolderError
from retrieval.index import IndexType, Manifest

FAISS_CLASS: dict[IndexType, Any] = {
    IndexType.FLAT: faiss.IndexFlat,
    IndexType.IVF: faiss.IndexIVFFlat,
    IndexType.HNSW: faiss.IndexHNSWFlat,
}

_callback_reader: Any = faiss.PyCallbackIOReader  # type: ignore[attr-defined]


def read_vectors(path: Path, manifest: Manifest) -> Any:
    """The FAISS index in a file; IndexFolderError if it is missing, damaged, or not the one of the manifest."""
    try:
        with path.open("rb") as file:  # FAISS takes paths in UTF-8 alone
            index: Any = faiss.read_index(_callback_reader(file.read))
    except OSError as error:
        raise IndexFolderError(
            f"{path}: cannot be read ({error.strerror}); check the disk and its permissions"
        ) from error
    except (RuntimeError, MemoryError) as error:  # a damaged file may name more vectors than memory holds
        raise IndexDamaged(f"{path}: FAISS cannot read the index; it is damaged, build the index again") from error
    if not isinstance(index, FAISS_CLASS[manifest.index_type]) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise IndexFolderError(
            f"{path}: a {type(index).__name__}, where the manifest says {manifest.index_type} by inner product; "
            "build the index again"
        )
    if index.d != manifest.dim or index.ntotal != manifest.documents:
        raise IndexFolderError(
            f"{path}: {index.ntotal} vectors of {index.d} dimensions, where the manifest says {manifest.documents} "
            f"of {manifest.dim}; build the index again"
        )
    if manifest.index_type is IndexType.IVF and index.nlist != manifest.parameters["nlist"]:
        raise IndexFolderError(
            f"{path}: {index.nlist} lists, where the manifest says {manifest.parameters['nlist']}; "
            "build the index again"
        )
    fault = _FAULTS[manifest.index_type](index)
    if fault:
        raise IndexDamaged(f"{path}: the FAISS index is damaged ({fault}); build the index again")
    if manifest.index_type is IndexType.HNSW:
        index.hnsw.efSearch = manifest.parameters["ef_search"]
    elif manifest.index_type is IndexType.IVF:
        index.nprobe = manifest.parameters["nprobe"]
    return index


def _flat_fault(index: Any) -> str:
    """What makes a search of the index unsafe, in words; empty if nothing does."""
    if index.code_size != 4 * index.d or index.codes.size() != index.ntotal * index.code_size:
        return f"{index.codes.size()} bytes of vectors"
    return ""


def _ivf_fault(index: Any) -> str:
    quantizer, lists = faiss.downcast_index(index.quantizer), faiss.downcast_InvertedLists(index.invlists)
    if not isinstance(quantizer, faiss.IndexFlat) or (quantizer.ntotal, quantizer.d) != (index.nlist, index.d):
        return "its lists have no centroids"
    if _flat_fault(quantizer) or not isinstance(lists, faiss.ArrayInvertedLists):
        return "its lists cannot be searched"
    if lists.nlist != index.nlist or lists.code_size != 4 * index.d or index.code_size != lists.code_size:
        return "its lists are of another shape"
    seen = 0
    for number in range(index.nlist):
        size = lists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            if ids.min() < 0 or ids.max() >= index.ntotal:
                return f"list {number} names a row that does not exist"
        seen += size
    return "" if seen == index.ntotal else f"its lists have {seen} rows"


def _hnsw_fault(index: Any) -> str:
    hnsw, storage = index.hnsw, faiss.downcast_index(index.storage)
    count = index.ntotal
    if not isinstance(storage, faiss.IndexFlat) or (storage.ntotal, storage.d) != (count, index.d):
        return "its vectors are missing"
    if _flat_fault(storage):
        return _flat_fault(storage)
    levels, offsets = faiss.vector_to_array(hnsw.levels), faiss.vector_to_array(hnsw.offsets).astype(np.int64)
    spans = faiss.vector_to_array(hnsw.cum_nneighbor_per_level).astype(np.int64)
    neighbours = faiss.vector_to_array(hnsw.neighbors)
    if (
        len(levels) != count
        or len(offsets) != count + 1
        or levels.min() < 1
        or levels.max() >= len(spans)
        or spans[0] != 0
        or (np.diff(spans) < 0).any()
        or offsets[0] != 0
        or (np.diff(offsets) != spans[levels]).any()
        or offsets[-1] != len(neighbours)
    ):
        return "its graph has another shape"
    if not 0 <= hnsw.entry_point < count or levels[hnsw.entry_point] != hnsw.max_level + 1:
        return "its graph has no entry"
    if neighbours.min() < -1 or neighbours.max() >= count:
        return "its graph leads to a row that does not exist"
    for row in np.flatnonzero(levels > 1):
        for level in range(1, levels[row]):
            there = neighbours[offsets[row] + spans[level] : offsets[row] + spans[level + 1]]
            if (levels[there[there >= 0]] <= level).any():
                return f"its graph leads from row {row} to one that is not on level {level}"
    return ""


_FAULTS = {IndexType.FLAT: _flat_fault, IndexType.IVF: _ivf_fault, IndexType.HNSW: _hnsw_fault}
