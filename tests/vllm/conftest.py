"""vLLM in this process, small: where vLLM is not installed, nothing here is collected.

To be run with `--confcutdir tests/vllm`, as `make test-vllm` does: vLLM's CPU worker looks through all modules of its
process when it starts, and stumbles over numba's, which the other tests' fixtures load.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator

import pytest

# vLLM reads them when it is imported: one process, so that tests may look inside
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
os.environ.setdefault("HF_HUB_OFFLINE", "1")

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["*.py"]
else:
    from tests.vllm.site import Site

    @pytest.fixture
    def site() -> Iterator[Callable[..., "Site"]]:
        """Starts vLLM with the connector (or without: `plain=True`), one at a time, and ends it after the test."""
        open_sites: list[Site] = []

        def start(**settings: object) -> Site:
            while open_sites:
                open_sites.pop().close()
            open_sites.append(Site(**settings))
            return open_sites[0]

        yield start
        while open_sites:
            open_sites.pop().close()
