"""A policy is chosen by name, by module:Class or as a class, and one that cannot be used is named in a line."""

import textwrap

import pytest

from ragcache.cli.main import main
from ragcache.errors import ConfigError, PolicyError
from ragcache.policy import ARC, LRU, POLICIES, Policy, policy_factory, policy_name
from ragcache.tree.segment import Segment
from ragcache.tree.tree import KnowledgeTree
from tests.props.small_replays import workload

MINE = """
from ragcache.policy import LRU, Policy

class Mine(LRU):
    pass

class Sized(LRU):
    def __init__(self, capacity):
        super().__init__()
        self.capacity = capacity

class Outer:
    class Inner(LRU):
        pass

class Half:
    def victim(self): ...
    def missed(self, path_key, size): ...

class Inherits(Policy):
    def victim(self): ...

class Breaks(LRU):
    def __init__(self):
        raise ValueError("no\\nluck")

class Greedy(LRU):
    def __init__(self, capacity, more):
        super().__init__()

def make(capacity):
    return Sized(capacity)

def wrong(capacity):
    return capacity

class RaisesLater(LRU):
    def used(self, node):
        raise ValueError("boom\\nand more")

class NoVictim(LRU):
    def victim(self):
        return None

class WrongVictim(LRU):
    def victim(self):
        node = super().victim()
        self.withdraw(node)
        return node.parent

class Stumbles(LRU):
    def victim(self):
        return {}["not there"]

number = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "mine_to_choose.py").write_text(MINE)
    (tmp_path / "broken_to_choose.py").write_text("import no_such_thing\n")
    (tmp_path / "crooked_to_choose.py").write_text("def (:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", __import__("sys").path[:])


@pytest.mark.parametrize("name", POLICIES)
def test_a_name_is_its_policy(name):
    assert policy_factory(name) is POLICIES[name]
    assert policy_name(name) == name


@pytest.mark.parametrize(("choice", "capacity"), [("Mine", None), ("Sized", 70), ("Outer.Inner", None), ("make", 70)])
def test_a_policy_of_ones_own_is_imported_from_the_current_folder(choice, capacity):
    made = policy_factory(f"mine_to_choose:{choice}")(70).own
    assert isinstance(made, LRU)
    assert getattr(made, "capacity", None) == capacity
    assert policy_name(f"mine_to_choose:{choice}") == f"mine_to_choose:{choice}"


def test_a_class_or_a_function_is_taken_as_it_is():
    assert isinstance(policy_factory(LRU)(5), LRU)
    assert isinstance(policy_factory(ARC)(5), ARC)
    assert policy_factory(ARC)(5) is not policy_factory(ARC)(5)
    assert isinstance(policy_factory(lambda capacity: ARC(capacity))(5), ARC)
    assert policy_name(LRU) == "ragcache.policy.lru:LRU"


LACKS = "inserted(), used(), offer(), withdraw(), is_offered(), removed(): see ragcache.Policy"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            "best",
            "there is no policy 'best'; known are lru, lfu, gdsf, pgdsf, arc, sieve, s3fifo, wtinylfu, and module:",
        ),
        ("", "there is no policy ''; known are lru"),
        (":Mine", "there is no policy ':Mine'"),
        ("nowhere:Mine", "policy nowhere:Mine: there is no module 'nowhere', here or installed"),
        ("nowhere.at_all:Mine", "policy nowhere.at_all:Mine: there is no module 'nowhere', here or installed"),
        ("mine_to_choose.deeper:Mine", "there is no module 'mine_to_choose.deeper', here or installed"),
        ("mine_to_choose:Yours", "mine_to_choose.py) has no 'Yours'"),
        ("broken_to_choose:Mine", "importing broken_to_choose failed: No module named 'no_such_thing'"),
        ("crooked_to_choose:Mine", "importing crooked_to_choose failed: SyntaxError: "),
        ("mine_to_choose:number", "this is not a class or function that makes a policy: 3"),
        ("mine_to_choose:Half", f"policy mine_to_choose:Half: Half is not a policy, it lacks {LACKS}"),
        ("mine_to_choose:Inherits", "Inherits is not a policy, it lacks missed(), inserted(), used(), offer(), "),
        ("mine_to_choose:wrong", "policy mine_to_choose:wrong: int is not a policy, it lacks missed()"),
        ("mine_to_choose:Breaks", "policy mine_to_choose:Breaks: it cannot be made: ValueError: no luck"),
        ("mine_to_choose:Greedy", "it is called with the capacity in tokens, or with nothing"),
        (3, "this is not a class or function that makes a policy: 3"),
        (Policy, "policy ragcache.policy.protocol:Policy: Policy is not a policy, it lacks missed()"),
    ],
)
def test_what_is_not_a_policy_is_said_in_one_line(choice, message):
    with pytest.raises(ConfigError) as caught:
        policy_factory(choice)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_the_caller_knows_are_told():
    with pytest.raises(ConfigError, match=r"wtinylfu, belady, all, and module:Class for your own"):
        policy_factory("best", more=["belady", "all"])


def test_modules_here_hide_no_package():
    (__import__("pathlib").Path.cwd() / "json.py").write_text(textwrap.dedent("raise SystemExit"))
    with pytest.raises(ConfigError, match="has no 'Mine'"):
        policy_factory("json:Mine")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("RaisesLater", "used() failed: ValueError: boom and more (mine_to_choose.py:{line})"),
        ("NoVictim", "victim() returned None, not an offered node"),
        ("WrongVictim", "victim() returned node {root}, not an offered node"),
        ("Stumbles", "victim() failed: KeyError: 'not there' (mine_to_choose.py:{line})"),
    ],
)
def test_a_fault_of_a_policy_of_ones_own_is_said_in_one_line(choice, message):
    policy = policy_factory(f"mine_to_choose:{choice}")(70)
    tree = KnowledgeTree()
    root = tree.root("")
    node = tree.insert(root, Segment.of("a", (1, 2)))
    policy.inserted(node)
    policy.offer(node)
    call = policy.victim if "victim()" in message else lambda: policy.used(node)
    with pytest.raises(PolicyError) as caught:
        call()
    lines = [number for number, line in enumerate(MINE.splitlines(), 1) if "boom" in line or "not there" in line]
    line = lines[choice == "Stumbles"]
    assert str(caught.value) == f"policy mine_to_choose:{choice}: " + message.format(line=line, root=root.id)


def test_no_victim_where_none_is_offered_is_no_fault():
    with pytest.raises(LookupError):
        policy_factory("mine_to_choose:Mine")(70).victim()


@pytest.mark.parametrize(
    ("choice", "fault"),
    [("NoVictim", "victim() returned None, not an offered"), ("RaisesLater", "used() failed: Val")],
)
def test_a_command_ends_with_that_line(tmp_path, capsys, choice, fault):
    (tmp_path / "trace.csv").write_text("i,obj,size,next_access\n0,a,4,2\n1,b,6,\n2,a,4,\n3,c,4,\n")
    workload(*((time, "ab" if time % 2 else "ac") for time in (0.0, 1.0, 2.0, 3.0))).write(tmp_path / "w.jsonl")
    policy = ["--policy", f"mine_to_choose:{choice}"]
    for command in (
        ["simulate", "--trace", "trace.csv", "--format", "objects", "--capacity", "10"],
        ["replay", "--workload", "w.jsonl", "--device-cache", "40MiB"],
    ):
        assert main([*command, *policy]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(f"ragcache {command[0]}: policy mine_to_choose:{choice}: {fault}")
