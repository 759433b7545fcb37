"""A tenant's paths, as connectors report them, are seen by requests of that tenant alone."""

import gc

import pytest

from ragcache.engine.vllm.front.path_mirror import PathMirror
from ragcache.tree.segment import Segment
from ragcache.tree.tree import KnowledgeTree, Node, path_key

PATH = [Segment.of("a", [1, 2, 3]), Segment.of("b", [4, 5])]


@pytest.mark.parametrize(("reported", "tenant"), [("default", "default"), ("salt red", "red")])
def test_a_tenant_finds_what_the_connector_has_under_its_cache_salt(reported, tenant):
    mirror, key = PathMirror(), KnowledgeTree().root(reported).path_key
    for segment in PATH:
        key = path_key(key, segment.key)
        mirror.apply([(key, len(segment), True)])
    for asker in ("default", "red", "blue"):
        seen = mirror.match(mirror.root(asker), PATH)
        assert [node.size for node in seen] == ([3, 2] if asker == tenant else [])


def test_tenants_that_only_ask_leave_no_root():
    mirror = PathMirror()
    for number in range(1000):
        assert mirror.match(mirror.root(f"mirrored {number}"), PATH) == []
    gc.collect()
    assert not [each for each in gc.get_objects() if issubclass(type(each), Node) and "mirrored " in each.label]
