"""Each test of the full tier names a test of the quick tier that proves the same contract.

Read from the sources, not from a run: so it holds for vLLM's tests too, and whatever part of the suite is run.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SLOW = {"full", "timing"}


@dataclass(frozen=True)
class Test:
    """A test function: where it is, whether the quick tier runs it, and the proofs that its marks name.

    Of a parametrised test, single cases may be slow: then the test is quick, and their marks name proofs all the same.
    """

    __test__ = False

    path: str
    name: str
    quick: bool
    proofs: tuple[str | None, ...]

    @property
    def where(self) -> str:
        return f"{self.path}::{self.name}"


def read_tests(path: str, source: str) -> list[Test]:
    """The tests that pytest collects from a module."""
    module = _Constants().visit(ast.parse(source))
    marks = [each.value for each in module.body if _assigns(each, "pytestmark")]
    return list(_tests_in(path, module.body, marks))


class _Constants(ast.NodeTransformer):
    """Puts a module's constants in where they are named: a mark may be one."""

    def __init__(self) -> None:
        self._values: dict[str, ast.expr] = {}

    def visit_Assign(self, statement: ast.Assign) -> ast.Assign:
        self.generic_visit(statement)
        for target in statement.targets:
            if isinstance(target, ast.Name) and target.id.isupper():
                self._values[target.id] = statement.value
        return statement

    def visit_Name(self, name: ast.Name) -> ast.expr:
        return self._values.get(name.id, name) if isinstance(name.ctx, ast.Load) else name


def _tests_in(path: str, body: list[ast.stmt], outer: list[ast.expr]) -> Iterator[Test]:
    for each in body:
        if isinstance(each, ast.ClassDef):  # whatever its name: a contract's tests stand in a class that others inherit
            marks = [child.value for child in each.body if _assigns(child, "pytestmark")]
            yield from _tests_in(path, each.body, [*outer, *marks, *each.decorator_list])
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name.startswith("test"):
            marks = [*outer, *each.decorator_list]
            own = {name for mark in marks for name in _marks_of_all_cases(mark)}
            proofs = tuple(_proof(use) for mark in marks for use in _uses_of_full(mark))
            yield Test(path, each.name, not own & SLOW, proofs)


def _assigns(statement: ast.stmt, name: str) -> bool:
    return isinstance(statement, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == name for target in statement.targets
    )


def _marks_of_all_cases(mark: ast.expr) -> Iterator[str]:
    """Names of marks in `pytest.mark.x`, `pytest.mark.x(...)` or a list of them."""
    for each in mark.elts if isinstance(mark, ast.List) else [mark]:
        function = each.func if isinstance(each, ast.Call) else each
        if isinstance(function, ast.Attribute):
            yield function.attr


def _uses_of_full(mark: ast.expr) -> Iterator[ast.expr]:
    """Wherever `full` stands in it: as the mark, in a list, or among the marks of a case. Its call, if it is called."""
    nodes = list(ast.walk(mark))
    calls = {node.func: node for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr == "full":
            yield calls.get(node, node)


def _proof(full: ast.expr) -> str | None:
    named = {keyword.arg: keyword.value for keyword in full.keywords} if isinstance(full, ast.Call) else {}
    proof = named.get("proof")
    return proof.value if isinstance(proof, ast.Constant) and isinstance(proof.value, str) else None


def unproved(tests: list[Test]) -> list[str]:
    """What is wrong with the proofs, a line each."""
    quick = {test.where for test in tests if test.quick}
    problems = []
    for test in tests:
        for proof in test.proofs:
            if proof is None:
                problems.append(f"{test.where}: full needs proof=, the name of a quick test")
                continue
            meant = [place for place in quick if place == f"tests/{proof.removeprefix('tests/')}"]
            meant = meant or [place for place in quick if place.endswith(f"::{proof}")]
            if len(meant) != 1:
                problems.append(f"{test.where}: {len(meant)} tests of the quick tier are called {proof}")
    return problems


@pytest.fixture(scope="module")
def tests() -> list[Test]:
    files = sorted(TESTS.rglob("test_*.py"))
    return [test for file in files for test in read_tests(str(file.relative_to(TESTS.parent)), file.read_text("utf-8"))]


def test_every_full_test_names_a_quick_one(tests: list[Test]) -> None:
    assert unproved(tests) == []
    assert any(test.proofs for test in tests)


def test_the_test_of_proofs_sees_what_pytest_collects(tests: list[Test], request: pytest.FixtureRequest) -> None:
    known = {test.where for test in tests}
    for item in request.session.items:
        # a state machine's TestCase is a class that is assigned, and its one method Hypothesis'
        if isinstance(item, pytest.Function) and item.originalname != "runTest":
            assert f"{item.path.relative_to(TESTS.parent)}::{item.originalname}" in known


SLOW_TEST = "def test_slow(n): ..."
CASES = "@pytest.mark.parametrize('n', [1, pytest.param(2, marks=pytest.mark.full(proof='{}'))])\n" + SLOW_TEST


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (f"@pytest.mark.full\n{SLOW_TEST}", "full needs proof="),
        (f"@pytest.mark.full(reason='slow')\n{SLOW_TEST}", "full needs proof="),
        (f"@pytest.mark.full(proof='test_gone')\n{SLOW_TEST}", "0 tests of the quick tier"),
        (f"@pytest.mark.full(proof='test_slow')\n{SLOW_TEST}", "0 tests of the quick tier"),
        (f"@pytest.mark.full(proof='test_bound')\n{SLOW_TEST}", "0 tests of the quick tier"),
        (f"@pytest.mark.full(proof='test_fast')\n{SLOW_TEST}", None),
        (f"@pytest.mark.full(proof='a/test_b.py::test_fast')\n{SLOW_TEST}", None),
        (f"pytestmark = [pytest.mark.real, pytest.mark.full(proof='test_gone')]\n{SLOW_TEST}", "0 tests"),
        (f"class TestSlow:\n    pytestmark = pytest.mark.full(proof='test_gone')\n    {SLOW_TEST}", "0 tests"),
        (f"@pytest.mark.full(proof='test_fast')\nclass TestSlow:\n    {SLOW_TEST}", None),
        (f"SLOW = pytest.mark.full(proof='test_gone')\n@SLOW\n{SLOW_TEST}", "0 tests"),
        (f"SLOW = pytest.mark.full(proof='test_slow')\n@SLOW\n{SLOW_TEST}", "0 tests"),
        (CASES.format("test_gone"), "0 tests"),
        (CASES.format("test_slow"), None),
    ],
)
def test_a_proof_that_is_none_is_named(source: str, problem: str | None) -> None:
    fast = read_tests("tests/a/test_b.py", "def test_fast(): ...\n@pytest.mark.timing\ndef test_bound(): ...")
    problems = unproved([*fast, *read_tests("tests/test_c.py", source)])
    assert len(problems) == (problem is not None)
    assert problem is None or problem in problems[0]


def test_a_name_that_two_tests_have_is_no_proof() -> None:
    twice = [test for path in ("tests/test_a.py", "tests/test_b.py") for test in read_tests(path, "def test_x(): ...")]
    slow = read_tests("tests/test_c.py", "@pytest.mark.full(proof='test_x')\ndef test_slow(): ...")
    assert unproved([*twice, *slow]) == ["tests/test_c.py::test_slow: 2 tests of the quick tier are called test_x"]
