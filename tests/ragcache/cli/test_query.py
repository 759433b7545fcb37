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


def test_passages_of_one_document_are_named_once():
    documents = [
        {"id": "book.pdf#4", "title": "", "truncated": False, "source": "book.pdf", "start": 900, "end": 1900},
        {"id": "d1", "title": "Bees", "truncated": False, "source": "d1", "start": None, "end": None},
        {"id": "book.pdf#5", "title": "", "truncated": False, "source": "book.pdf", "start": 1800, "end": 2700},
    ]
    usage = {"cached_tokens": {"device": 3}, "prompt_tokens": 5, "computed_tokens": 2}
    figures = _figures({"documents": documents, "usage": usage, "timing": {"ttft_ms": 1.0, "total_ms": 2.0}})
    assert figures.splitlines()[1] == "from:   book.pdf, Bees"
