"""The house rules that a machine can check: imports point down, each module says what it is, none grows too long.

Folders are named by globs over module names, so that a new module is held by the rules without being listed.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from graphlib import TopologicalSorter
from itertools import accumulate
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parent.parent
PACKAGES = ["eval", "server", "ragcache", "retrieval", "pimsim"]
WHEEL = {"ragcache", "retrieval", "server", "pimsim"}

# Rooms from the top floor down: each may import those below it. The faces `ragcache`, which names them lazily, and
# `pimsim` are rooms of their own. What decides (service, schedule) knows the engines' protocol and no engine.
FLOORS = [
    "eval",
    "ragcache",
    "ragcache.cli",
    "server",
    "ragcache.replay",
    "ragcache.engine.vllm.connector",
    "ragcache.engine.vllm.front",
    "ragcache.engine.vllm.worker",
    "ragcache.engine.vllm.scheduler",
    "ragcache.engine.vllm.wire",
    "ragcache.engine.vllm",
    "ragcache.engine.simulated",
    "ragcache.engine.torch",
    "ragcache.service",
    "ragcache.simulate",
    "ragcache.schedule",
    "ragcache.engine",
    "ragcache.prompt",
    "ragcache.cache",
    "ragcache.reuse",
    "ragcache.storage",
    "ragcache.policy",
    "ragcache.tree",
    "ragcache.model",
    "ragcache.cost",
    "ragcache.sizes",
    "ragcache.whole_file",
    "ragcache.console",
    "ragcache.errors",
    "retrieval",
    "pimsim.__main__",
    "pimsim.cli",
    "pimsim.examples",
    "pimsim.commands",
    "pimsim",
    "pimsim.plot",
    "pimsim.sweep",
    "pimsim.paper",
    "pimsim.system.run",
    "pimsim.system.retrieval",
    "pimsim.system.report",
    "pimsim.system.generation",
    "pimsim.system.workload",
    "pimsim.system.described",
    "pimsim.system",
    "pimsim.validation",
    "pimsim.hbm_pim",
    "pimsim.dimm_pim",
    "pimsim.dram",
    "pimsim.standard",
    "pimsim.energy",
    "pimsim.result",
    "pimsim.fields",
    "pimsim.compiled",
    "pimsim.errors",
]
MOST_ROOMS = 20
LONGEST_MODULE = 400
LONGEST_FUNCTION, LONGEST_KERNEL = 80, 150

# The four globs: who may know what.
TORCH = {"torch", "transformers"}
HTTP = {"fastapi", "starlette", "uvicorn", "httpx"}
LIVE = ["ragcache.prompt.template", "ragcache.model.checkpoint", "retrieval.embedder", "eval.*"]
MAY_KNOW = {
    "torch": (TORCH, ["ragcache.engine.torch.*", "ragcache.engine.vllm.*", "ragcache.cli.assembly.*", *LIVE]),
    "HTTP": (HTTP, ["server.*", "eval.*"]),
    "vLLM": ({"vllm"}, ["ragcache.engine.vllm.*", "ragcache.cli.assembly.vllm*", "eval.*"]),
    "pimsim": ({"pimsim"}, ["pimsim", "pimsim.*", "ragcache.replay.pim_machine", "eval.*"]),
}
# What decides and counts imports no library that computes tensors, neither itself nor through others.
WITHOUT_TENSORS = [
    "ragcache",
    "ragcache.errors",
    "ragcache.sizes",
    "ragcache.whole_file",
    "ragcache.cost",
    "ragcache.tree.*",
    "ragcache.policy.*",
    "ragcache.storage.*",
    "ragcache.reuse.*",
    "ragcache.cache.*",
    "ragcache.schedule.*",
    "ragcache.simulate.*",
    "ragcache.replay.*",
    "ragcache.engine.protocol",
    "ragcache.engine.simulated.*",
    "ragcache.engine.vllm.wire.*",
    "ragcache.engine.vllm.scheduler.*",
    "ragcache.service.*",
    "ragcache.prompt.*",
    "ragcache.model.*",
    "ragcache.cli",
    "ragcache.cli.*",
]
NEEDS_TENSORS = [  # of them, those that join live parts
    "ragcache.cli.__main__",  # runs a command when it is imported
    "ragcache.cli.assembly.*",
    "ragcache.model.checkpoint",
    "ragcache.prompt.template",
    "ragcache.service.retriever_finder",
    "ragcache.replay.search_recording",
    "ragcache.replay.pim_machine",
    "ragcache.engine.vllm.wire.identity",
    "ragcache.engine.vllm.scheduler.connector_stats",
]


def modules() -> dict[str, Path]:
    """Path of every module of the project by its dotted name."""
    paths = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            paths[name.removesuffix(".__init__")] = path
    return paths


MODULES = modules()
COMMANDS = [
    name for name in MODULES if name.startswith("ragcache.cli.") and not name.startswith("ragcache.cli.assembly")
]


def matching(patterns: list[str]) -> list[str]:
    """Names of the modules that one of the globs matches. Each glob must match something."""
    for pattern in patterns:
        assert any(fnmatchcase(name, pattern) for name in MODULES), f"no module is called {pattern}"
    return [name for name in MODULES if any(fnmatchcase(name, pattern) for pattern in patterns)]


@cache
def parsed(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


@cache
def imports(name: str) -> tuple[tuple[str, bool], ...]:
    """What a module imports, and whether that happens when it is imported itself (and not in a function)."""
    return tuple(_imports(name))


def _imports(name: str) -> Iterator[tuple[str, bool]]:
    inner = {
        node
        for function in ast.walk(parsed(name))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    typing_only = {
        node
        for block in ast.walk(parsed(name))
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(parsed(name)):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in inner
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively: write the full name"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module, node not in inner


def room(name: str) -> str:
    """The room of FLOORS that a module lies in: the longest prefix that is listed."""
    parts = name.split(".")
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((prefix for prefix in prefixes if prefix in FLOORS), parts[0])


def test_there_is_something_to_check():
    assert len(MODULES) > 150
    assert {"ragcache.cache.cache", "ragcache.engine.torch.model", "server.app", "retrieval.index"} <= set(MODULES)


def test_the_face_has_few_rooms_and_each_has_its_floor():
    rooms = {path.stem for path in (ROOT / "ragcache").iterdir() if path.is_dir() or path.suffix == ".py"}
    rooms -= {"__pycache__", "__init__", "__main__"}
    assert len(rooms) <= MOST_ROOMS
    assert rooms == {floor.split(".")[1] for floor in FLOORS if floor.startswith("ragcache.")}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    floor = FLOORS.index(room(name))
    above = {
        imported
        for imported, outermost in imports(name)
        if imported in MODULES and room(imported) != room(name)
        if FLOORS.index(room(imported)) < floor and not (name in COMMANDS and not outermost)
    }
    assert above == set(), f"{name} imports from rooms above its own"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("pimsim")])
def test_pimsim_stands_alone(name):
    ours = {imported for imported, _ in imports(name) if imported.split(".")[0] in {*PACKAGES, "tests"}}
    assert {imported for imported in ours if not imported.startswith("pimsim")} == set()


def test_there_are_no_cycles():
    graph = {
        name: {imported for imported, _ in imports(name) if imported in MODULES and imported != name}
        for name in MODULES
    }
    brought = {name: reached(graph, name) for name in MODULES}
    for name in MODULES:
        if "." in name:  # importing a module imports its package first, unless that package brings it
            parent = name.rpartition(".")[0]
            if name not in brought[parent]:
                graph[name].add(parent)
    TopologicalSorter(graph).prepare()


def test_rooms_have_no_cycles():
    graph: dict[str, set[str]] = {}
    for name in MODULES:
        for imported, outermost in imports(name):
            elsewhere = imported in MODULES and room(imported) != room(name)
            if elsewhere and (outermost or name not in COMMANDS):
                graph.setdefault(room(name), set()).add(room(imported))
    TopologicalSorter(graph).prepare()


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """What a module imports, itself or through others, and the packages of all that."""
    names: set[str] = set()
    left = [start]
    while left:
        new = {name for imported in graph[left.pop()] for name in accumulate(imported.split("."), "{}.{}".format)}
        new = (new & set(graph)) - names
        names |= new
        left += new
    return names


@pytest.mark.parametrize("what", MAY_KNOW)
def test_who_may_know(what):
    libraries, patterns = MAY_KNOW[what]
    allowed = set(matching(patterns))
    knowing = {name for name in MODULES for imported, _ in imports(name) if imported.split(".")[0] in libraries}
    assert knowing, f"no module imports {what}"
    assert knowing - allowed == set()


def test_what_decides_needs_no_tensors():
    names = sorted(set(matching(WITHOUT_TENSORS)) - set(matching(NEEDS_TENSORS)))
    heavy = {"torch", "transformers", "faiss", "fastapi", "vllm", "pimsim"}
    code = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module(name)\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", MODULES)
def test_each_module_says_what_it_is(name):
    docstring = ast.get_docstring(parsed(name))
    assert docstring, f"{name} has no docstring"
    assert docstring.splitlines()[0].endswith((".", "?", "`")), f"the first line of {name} is no sentence"


@pytest.mark.parametrize("name", MODULES)
def test_no_module_holds_two_nouns(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("name", MODULES)
def test_no_function_is_too_long(name):
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            compiled = any("njit" in text or "kernel" in text for text in map(ast.unparse, node.decorator_list))
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= (LONGEST_KERNEL if compiled else LONGEST_FUNCTION), f"{name}:{node.name} has {lines} lines"


@pytest.mark.parametrize("name", MODULES)
def test_imports_inside_functions_are_for_commands_alone(name):
    inner = {imported for imported, outermost in imports(name) if not outermost}
    assert not inner or name in COMMANDS, f"{name} imports {inner} inside a function"


def test_the_wheel_holds_every_package_and_no_other():
    assert {name.split(".")[0] for name in find_packages(str(ROOT), include=[f"{name}*" for name in WHEEL])} == WHEEL
    without = {path.parent for path in MODULES.values()} - {p.parent for p in MODULES.values() if p.stem == "__init__"}
    assert not without, f"no __init__.py in {without}"
