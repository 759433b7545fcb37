"""Reading: what is read of one file, or why it is refused."""

from pathlib import Path

import pytest

from retrieval.sources.converted import convert
from retrieval.sources.unreadable import Unreadable


def read(path: Path, fallback: str | None = None) -> tuple[str, str]:
    converted = convert(path, path.suffix, fallback)
    return converted.title, converted.text


def refusal(path: Path) -> str:
    with pytest.raises(Unreadable) as refused:
        read(path)
    assert refused.value.where == str(path)
    return refused.value.reason
