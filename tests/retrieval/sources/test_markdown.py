"""Markdown: titles of headings and of front matter, which is no text."""

import time
from pathlib import Path

import pytest

from retrieval.sources import converted as formats
from tests.retrieval.sources.reading import read

# to resolve these would take 10^12 steps
MERGES = "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 13))


AS_WRITTEN = [
    "No",
    "true",
    "12:30",
    "12:30:00",
    "007",
    "1_000",
    "0x1F",
    "1.50",
    "1e3",
    "2024-01-05",
    "2024-01-05T07:30:00Z",
]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Leave policy\n\ntext", "Leave policy"),
        ("intro\n\n  # Deep  heading #\n", "Deep heading"),
        ("Title\r\n=====\r\n\r\ntext", "Title"),
        ("---\na0: &a0 {k: 1}\n" + MERGES + "title: Tea\n---\ntext", "Tea"),
        ("```\n# a comment\n```\n\n# The title\n", "The title"),
        ("## only a section\n\ntext #5\n#hash", ""),
        ('---\ntitle: "Front matter"\n---\n# Heading\n', "Front matter"),
        ("---\nauthor: me\n---\n# Heading\n", "Heading"),
        ("no heading", ""),
        ("````\n```\n# inside\n```\n# inside\n````\n# Real\n", "Real"),
        ("```\n~~~\n# inside\n```\n# Real\n", "Real"),
        ("~~~ `\n# inside\n~~~~ \n# Real\n", "Real"),
        ("```\n# inside\n``` more\n# inside\n```\n# Real\n", "Real"),
        ("```inline```\n\n# Real\n", "Real"),
        ("```\n# inside, never closed\n", ""),
        ("<!--\n# commented\n-->\n# Real\n", "Real"),
        ("<!-- a -->\n# Real\n<!-- b -->", "Real"),
        ("<!--\n```\n-->\n# Real\n```\n", "Real"),
        ("<!-- # never closed\n# inside\n", ""),
        ("Two lines\n  of heading\n===\ntext", "Two lines of heading"),
        ("above\n\nTwo lines\r\nof heading\r\n  === \r\ntext", "Two lines of heading"),
        ("- item\nHeading\n===\n", "Heading"),
        ("===\n# Real\n", "Real"),
        ("# C#\n", "C#"),
        ("# C# #  \n", "C#"),
        ("# #\n# Real\n", ""),
        ("---\ntitle: >-\n  Folded over\n  two lines\nauthor: me\n---\n# Heading\n", "Folded over two lines"),
        ("---\r\ntitle: |\r\n  Literal\r\n---\r\ntext", "Literal"),
        ("---\ntitle: Tea  # a comment\n---\ntext", "Tea"),
        ("---\ntitle: Tea: a history\n---\ntext", "Tea: a history"),
        ("---\ntitle: 1984\n---\ntext", "1984"),
        ("---\ntitle:\n---\n# Heading\n", "Heading"),
        ("---\ntitle: [a, b]\n---\n# Heading\n", "Heading"),
        ("---\n" + "[" * 5000 + "\n---\n# Heading\n", "Heading"),
        ('+++\ntitle = "In TOML"\n+++\ntext', "In TOML"),
        ("+++\ntitle = 'not = quite\n+++\ntext", "not = quite"),
        *((f"---\ntitle: {title}\n---\ntext", title) for title in AS_WRITTEN),
        *((f"+++\ntitle = {title}  # a comment\n[title.of]\n+++\ntext", title) for title in AS_WRITTEN),
        ("---\ntitle: 'No'\n---\ntext", "No"),
        ("---\ntitle: !tag Tea\n---\ntext", "Tea"),
        ("---\ntitle: ~\n---\n# Heading\n", "Heading"),
        ("---\ntitle: 'null'\n---\n# Heading\n", "null"),
        ("---\n? [a, b]\n: c\ntitle: Tea\n---\ntext", "Tea"),
        ("---\ntitle: >\n  Folded\n\n  over\n  lines\nbad: a: b\n---\ntext", "Folded over lines"),
        ("---\nbad: a: b\ntitle: 'Tea: a history' # a comment\n---\ntext", "Tea: a history"),
        ("---\ntitle:\nbad: a: b\n---\n# Heading\n", "Heading"),
        ("---\nbad: a: b\ntitle: 007\n---\ntext", "007"),
        ("+++\ntitle = 'In TOML'\nbad = a\n+++\ntext", "In TOML"),
        ("+++\nbad = a\ntitle = 1_000 # a comment\n+++\ntext", "1_000"),
        ("---\ntags:\n" + "- a\n" * 40_000 + "title: 'Tea' # long\n---\n# Heading", "Tea"),
        ("---\ntags:\n" + "- a\n" * 40_000 + "---\n# Heading", "Heading"),
        ("+++\n[author]\ntitle = 'Dr.'\n+++\n# Heading\n", "Heading"),
    ],
)
def test_titles_of_markdown(tmp_path: Path, text: str, title: str) -> None:
    file = tmp_path / "a.md"
    file.write_bytes(text.encode())
    found, rest = read(file)
    assert found == title
    assert text.endswith(rest)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("---\ntitle: Tea\ntags: [a, b]\n---\n\n# Tea\n\nWords\n", "# Tea\n\nWords\n"),
        ("---\r\ntitle: Tea\r\n---\r\nWords\r\n", "Words\r\n"),
        ("---\rtitle: Tea\r---\rWords\r", "Words\n"),
        ("---\ntitle: Tea: a history\n---\nWords", "Words"),
        ('+++\ntitle = "Tea"\n+++\nWords', "Words"),
        ("---\ntitle: Tea\n---\n", "---\ntitle: Tea\n---\n"),  # there is nothing else
        ("---\ntitle: Tea\n---\n \n", "---\ntitle: Tea\n---\n \n"),
        ("---\nWords between rules\n---\nWords", "---\nWords between rules\n---\nWords"),
        ("---\n\n---\nWords", "---\n\n---\nWords"),
        ("---\n[Words: between\n---\nWords", "---\n[Words: between\n---\nWords"),
        ("---\n---\nWords", "Words"),
        ("---\n# title: Tea\n# tags: []\n---\nWords", "Words"),
        ("+++\n+++\nWords", "Words"),
        ("---\ndescription: Tea: a history\ntags: [a]\n---\nWords", "Words"),
        ("---\ndescription: Tea: a history\n\n# comment\ntags:\n- a\n  - b\n---\nWords", "Words"),
        ("+++\na = b\n[c.d]\n+++\nWords", "Words"),
        ("---\nWords: of a: kind\nand text\n---\nWords", "---\nWords: of a: kind\nand text\n---\nWords"),
        ("---\ntags:\n" + "- a\n" * 40_000 + "---\nWords", "Words"),
        ("---\ntitle: it never ends\n\nWords", "---\ntitle: it never ends\n\nWords"),
    ],
)
def test_front_matter_is_no_text(tmp_path: Path, text: str, rest: str) -> None:
    (tmp_path / "a.md").write_bytes(text.encode())
    assert read(tmp_path / "a.md")[1] == rest


@pytest.mark.timing
@pytest.mark.parametrize(
    "begin", ["# a", "---\ntitle: a", "+++\ntitle = a", "a\n=", "--- ", "```", "<!--", "---\na: b: c\nb", "a\n" * 9000]
)
def test_titles_are_looked_for_in_linear_time(tmp_path: Path, begin: str) -> None:
    blanks = " " * (formats.MARKDOWN_HEAD - 100)
    (tmp_path / "a.md").write_text(f"{begin}{blanks}b\n---\n+++\n{blanks}")
    (tmp_path / "a.html").write_text(f"<title>a{blanks}b</title><p>a{blanks}b<code>{blanks}</code>")
    began = time.monotonic()
    for name in ("a.md", "a.html"):
        assert "b" in "".join(read(tmp_path / name))  # in the title, where it is one
    assert time.monotonic() - began < 2
