"""Kernels: `python -m tests.props.kernels` compiles, once a machine, most of what the first tests would wait for."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import faiss
import numpy as np

from pimsim.cli import main
from pimsim.dimm_pim.traversal import Traversal
from retrieval.hnsw_stages import HNSWStages
from retrieval.ivf_stages import IVFStages

TRACE = Path(__file__).parents[2] / "pimsim" / "golden" / "dram" / "traces" / "hbm2_vec96_rowcontig.csv.gz"
COMMANDS = (
    ["run", "heterrag"],
    ["attention", "--length", "64", "--heads", "2", "--head-dim", "64"],
    ["dram", "--standard", "hbm2-heterrag", "--trace", str(TRACE)],
)


def compile_pimsim() -> None:
    for command in COMMANDS:
        if status := main(command):
            sys.exit(status)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "one.csv"
        file.write_text("query,hop,vertex,kind\n0,0,17,vector\n")
        Traversal.read(file)


def compile_searches() -> None:
    vectors = np.random.default_rng(0).random((64, 8), np.float32)
    graph, lists = faiss.IndexHNSWFlat(8, 4), faiss.IndexIVFFlat(faiss.IndexFlatL2(8), 8, 2)
    for index, stages in ((graph, HNSWStages), (lists, IVFStages)):
        index.train(vectors)
        index.add(vectors)
        for _ in stages(index).search(vectors[0], 2, 2):
            pass


if __name__ == "__main__":
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        compile_searches()
        compile_pimsim()
