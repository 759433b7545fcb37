"""What every test run needs: no network, no quarrel over cores, the tier's budgets, and who shares a worker.

What needs torch is a plugin, `tests.props.live`, which the conftests of the folders that use it name.
"""

import os
import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.props.budget import TIER

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported: no test asks the network
if "PYTEST_XDIST_WORKER" in os.environ:
    # read when torch, FAISS and numpy are imported, here and in the processes that tests start: workers that each use
    # all cores would wait for each other in every operation
    os.environ["OMP_NUM_THREADS"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # as it is for what a script runs in the background; the processes that tests start and interrupt would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.load_profile(TIER)


# Groups that begin first, because they take long. xdist would begin with those of the most tests, and a long group that
# begins last keeps one worker busy while the other has nothing left.
LONGEST = ("real", "servers", "pimsim", "tests/test_interrupted.py", "tests/ragcache/cli/test_open_service.py")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Gives each worker whole modules, whose fixtures are made once. To one worker goes what has the default model in
    memory, to one what starts servers, and to one pimsim, whose kernels take minutes to be compiled."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(_group(item)))
    yield  # what is not to be run is taken out
    sizes = Counter(map(_name_of_group, items))

    def place(item: pytest.Item) -> tuple[int, int]:
        name = _name_of_group(item)
        return (LONGEST.index(name), 0) if name in LONGEST else (len(LONGEST), -sizes[name])

    items.sort(key=place)
    return None


def _name_of_group(item: pytest.Item) -> str:
    marker = item.get_closest_marker("xdist_group")
    assert marker is not None
    return str(marker.args[0])


def _group(item: pytest.Item) -> str:
    if item.get_closest_marker("real") is not None:
        return "real"
    if "serve" in getattr(item, "fixturenames", ()):
        return "servers"
    path = item.path.relative_to(item.config.rootpath)
    return "pimsim" if path.is_relative_to("tests/pimsim") else str(path)
