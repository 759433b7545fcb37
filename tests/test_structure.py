"""The house rules that a machine can check: imports point down, each module says what it is, none grows too long."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# each package may import those below it; pimsim stands alone, and one module replays on its systems
LAYERS = ["eval", "server", "ragcache", "retrieval"]
PACKAGES = [*LAYERS, "pimsim"]
COMPOSITION_ROOT = "ragcache.cli"
KNOWS_PIMSIM = "ragcache.pim_machine"
LONGEST_MODULE = 500
# of ragcache, what decides and counts: values in, values out
WITHOUT_TORCH = ["tree", "cache", "policy", "policy.lru", "segment", "admission", "config", "errors", "cli"]
WITHOUT_TORCH += ["engine.protocol", "cost", "trace", "simulation", "tier", "hierarchy", "lease", "mover", "store"]
WITHOUT_TORCH += ["write_behind", "record", "virtual_time", "workload", "engine.hardware", "engine.model_shape"]
WITHOUT_TORCH += ["cache_report"]
WITHOUT_TORCH += ["engine.roofline", "engine.step_cost", "engine.simulated_engine", "search_profile", "virtual_mover"]
BYTES_ALONE = ["disk", "disk_file", "mdb", "kv_stores"]  # numpy, but nothing that computes KV
BYTES_ALONE += [
    f"engine.vllm.{name}" for name in ("outer_cache", "dispatch", "orders", "passages", "pool_order", "settings")
]
BYTES_ALONE += [f"engine.vllm.{name}" for name in ("bulletin", "reporter", "path_mirror", "ledger")]


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[tuple[str, bool]]:
    """What a module imports, and whether that happens when it is imported itself (and not in a function)."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in inner
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively: write the full name"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module, node not in inner


def test_there_is_something_to_check():
    assert {"ragcache.cache", "ragcache.engine.model", "server.app", "retrieval.index", "eval", "pimsim"} <= set(
        MODULES
    )


@pytest.mark.parametrize("name", [name for name in MODULES if name != COMPOSITION_ROOT])
def test_imports_point_down(name):
    package = name.split(".")[0]
    allowed = {package} if package == "pimsim" else set(LAYERS[LAYERS.index(package) :])
    if package == "eval" or name == KNOWS_PIMSIM:
        allowed.add("pimsim")
    ours = {imported for imported, _ in imports(name) if imported.split(".")[0] in {*PACKAGES, "tests"}}
    assert {imported for imported in ours if imported.split(".")[0] not in allowed} == set()


def test_the_composition_root_imports_the_others_only_when_a_command_runs():
    at_once = {imported for imported, outermost in imports(COMPOSITION_ROOT) if outermost and imported in MODULES}
    assert at_once == {"ragcache.config", "ragcache.errors", "ragcache.options", "retrieval.errors"}
    assert COMPOSITION_ROOT not in {imported for name in MODULES for imported, _ in imports(name)}


def test_a_system_of_pimsim_is_imported_when_somebody_asks_for_it():
    """Compiled kernels and a few hundred milliseconds that no other command should wait for."""
    knowing = {name for name in MODULES if KNOWS_PIMSIM in {imported for imported, _ in imports(name)}}
    assert {name for name in knowing if not name.startswith("eval.")} == {COMPOSITION_ROOT}
    code = "import sys, ragcache.replaying, ragcache.searching, ragcache.cli; print('pimsim' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


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


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """What a module imports, itself or through others, and the packages of all that."""
    found: set[str] = set()
    left = [start]
    while left:
        new = {name for imported in graph[left.pop()] for name in accumulate(imported.split("."), "{}.{}".format)}
        new = (new & set(graph)) - found
        found |= new
        left += new
    return found


@pytest.mark.parametrize("name", MODULES)
def test_each_module_says_what_it_is(name):
    docstring = ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8")))
    assert docstring, f"{name} has no docstring"
    assert docstring.splitlines()[0].endswith((".", "?", "`")), f"the first line of {name} is no sentence"


@pytest.mark.parametrize("name", MODULES)
def test_no_module_holds_two_nouns(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("name", MODULES)
def test_imports_inside_functions_are_for_the_command_line_alone(name):
    inner = {imported for imported, outermost in imports(name) if not outermost}
    assert not inner or name == COMPOSITION_ROOT, f"{name} imports {inner} inside a function"


@pytest.mark.parametrize(("modules", "more"), [(WITHOUT_TORCH, {"numpy"}), (BYTES_ALONE, set())])
def test_what_decides_does_not_need_torch(modules, more):
    names = [f"ragcache.{module}" for module in modules]
    assert set(names) <= set(MODULES)
    heavy = {"torch", "transformers", "tokenizers", "faiss", "fastapi"} | more
    code = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module(name)\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_only_the_engine_and_what_speaks_to_it_know_torch():
    knowing = {
        name
        for name in MODULES
        for imported, _ in imports(name)
        if name.startswith(("ragcache", "server")) and imported.split(".")[0] in {"torch", "transformers"}
    }
    assert {name for name in knowing if not name.startswith("ragcache.engine.")} <= {
        "ragcache.prompt_template",
        "ragcache.assembly",
    }


def test_nothing_above_the_engine_knows_tensors_and_nothing_below_the_server_knows_http():
    web = {"fastapi", "starlette", "uvicorn", "httpx"}
    knowing = {name.split(".")[0] for name in MODULES for imported, _ in imports(name) if imported.split(".")[0] in web}
    assert knowing <= {"server", "eval"}


def test_the_wheel_holds_every_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(settings["tool"]["setuptools"]["packages"]) == folders
    missing = {path.parent for path in MODULES.values()} - {MODULES[name].parent for name in folders}
    assert not missing, f"no __init__.py in {missing}"
