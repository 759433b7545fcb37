"""The Python API: light to import, complete, and the same whatever was imported before."""

import dataclasses
import inspect
import re
import subprocess
import sys
import time

import pytest

import ragcache

NAMES = [
    *("KnowledgeCache", "KnowledgeTree", "Lease", "Segment", "Prompt", "Policy", "POLICIES", "PrefillProfile"),
    *("Simulation", "Trace", "Workload", "replay", "Query", "Answer", "Retrieved", "Delta", "RagService"),
    *("open_service", "ServeConfig", "RagClient", "RagCacheError", "__version__"),
]
HEAVY = {"torch", "transformers", "faiss", "numba", "pimsim", "vllm"}


def printed(code: str) -> str:
    """What a new Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_has_the_names_that_are_public_and_no_other():
    assert sorted(ragcache.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(ragcache))
    for name in NAMES:
        assert getattr(ragcache, name) is getattr(ragcache, name)


def test_each_name_has_a_docstring_and_so_have_its_methods():
    for name in set(NAMES) - {"__version__", "POLICIES"}:
        value = getattr(ragcache, name)
        assert value.__doc__, name
        methods = vars(value) if isinstance(value, type) else {}
        bare = [each for each, method in methods.items() if not each.startswith("_") and callable(method)]
        assert [each for each in bare if not methods[each].__doc__] == [], name


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ragcache' has no attribute 'Cache'"):
        _ = ragcache.Cache
    with pytest.raises(ImportError, match="cannot import name 'Cache'"):
        from ragcache import Cache  # noqa: F401


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"RagService"}))
def test_a_name_loads_no_tensors(name):
    """But for the service itself, which knows tokenizers, and that is light, too."""
    code = f"import sys; from ragcache import {name}; print(sorted({HEAVY} & set(sys.modules)))"
    assert printed(code) == "[]\n"


@pytest.mark.timing
@pytest.mark.parametrize(("arguments", "most"), [(["-c", "import ragcache"], 0.2), (["-m", "ragcache", "--help"], 0.3)])
def test_importing_it_and_its_help_are_quick(arguments, most):
    seconds = []
    for _ in range(5):  # the best of a few: others may use the core
        begin = time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, timeout=60)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < most


def test_its_import_and_its_help_load_little():
    loaded = "import sys; import ragcache; print(sorted(name for name in sys.modules if name.startswith('ragcache')))"
    assert printed(loaded) == "['ragcache']\n"
    heavy = {*HEAVY, "numpy", "httpx", "fastapi", "tokenizers", "ragcache.cli.config"}
    code = (
        "import sys; from ragcache.cli.main import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print(sorted({heavy} & set(sys.modules)))"
    )
    assert printed(code).endswith("\n[]\n")


USES = {
    "attribute": "import ragcache; replay = ragcache.replay",
    "from": "from ragcache import replay",
    "star": "from ragcache import *",
    "package": "import ragcache.replay; replay = ragcache.replay",
    "module": "import ragcache.replay.workload; replay = ragcache.replay",
    "other name": "from ragcache import Workload; from ragcache import replay",
    "function": "from ragcache.replay.run import replay",
}
CALL = """
from ragcache.replay.workload import TimedRequest, Workload
import ragcache, ragcache.replay.workload
requests = Workload((TimedRequest(0.0, (("a", 100),), 20, 3),))
assert ragcache.replay.workload.Workload is Workload is ragcache.Workload
assert ragcache.replay(requests).as_json() == replay(requests).as_json()
print(replay(requests, policy="lru").as_dict()["outcomes"])
"""


@pytest.mark.parametrize("first", USES)
def test_replay_is_a_function_and_a_package_in_any_order_of_imports(first):
    assert printed(f"{USES[first]}\n{CALL}") == "{'answered': 1}\n"


def test_replay_shows_its_parameters_and_its_docstring_names_every_setting():
    from ragcache.replay.run import replay
    from ragcache.replay.service import SimulatedSettings

    assert inspect.signature(ragcache.replay) == inspect.signature(replay)
    named = set(re.findall(r"`(\w+)`", inspect.getdoc(ragcache.replay) or ""))
    settings = {field.name for field in dataclasses.fields(SimulatedSettings)}
    assert settings | set(inspect.signature(replay).parameters) - {"workload", "settings"} <= named


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert ragcache.__version__ == version("ragcache")
