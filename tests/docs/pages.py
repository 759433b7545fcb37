"""Pages: the Markdown files of the project, their fenced blocks, and the command lines in these."""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
PAGES = [ROOT / name for name in TOP] + sorted((ROOT / "docs").glob("*.md"))

_FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_HEREDOC = re.compile(r"<<(\w+)[^\n]*\n.*?^\1$", re.M | re.S)
_WRITTEN = re.compile(r"^cat > \S+ <<(\w+)\n.*?^\1\n|^printf .* > \S+\n", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block. `before` makes the files that a reader of the page has by then: by `cat > FILE`, or by saving a
    Python block under the name in its first line."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None  # why it is not run
    before: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    blocks: list[Block] = []
    before = ""
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        blocks.append(Block(page, line, match["language"], match["text"], match["reason"], before))
        before += "".join(written[0] for written in _WRITTEN.finditer(match["text"]))
        if file := re.match(r"# (\S+\.py)\n", match["text"]):
            before += f"cat > {file[1]} <<'PYTHON'\n{match['text']}PYTHON\n"
    return blocks


def commands_of(script: str) -> list[list[str]]:
    """The words of each command of a shell script; what it feeds to commands, and comments, are left out."""
    script = _HEREDOC.sub("", script).replace("\\\n", " ")
    commands: list[list[str]] = []
    pending = ""
    for line in script.splitlines():
        pending += line + "\n"
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation that goes on
            continue
        pending = ""
        if words:
            commands.append(words)
    assert not pending, f"a quotation does not end: {pending}"
    return commands


def inline_code(page: Path) -> list[str]:
    """What stands between backticks outside of the fenced blocks of a page."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", page.read_text(encoding="utf-8")))


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
