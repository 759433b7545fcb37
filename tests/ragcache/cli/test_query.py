"""`ragcache query` says where an answer is from."""

from ragcache.cli.query import _figures


def test_a_document_without_a_title_is_named_by_its_id():
    documents = [
        {"id": "d1", "title": "Bees", "truncated": False},
        {"id": "d2", "title": "", "truncated": True},
    ]
    usage = {"cached_tokens": {"device": 3}, "prompt_tokens": 5, "computed_tokens": 2}
    figures = _figures({"documents": documents, "usage": usage, "timing": {"ttft_ms": 1.0, "total_ms": 2.0}})
    assert figures.splitlines()[1] == "from:   Bees, d2 (cut short)"
