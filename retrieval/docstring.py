"""Docstring: its description, which says what the object is for, apart from signature, parameters and examples."""

import re

# how a section of parameters, results, notes or examples begins in the styles of numpy, Google and Sphinx
SECTION = re.compile(
    r"""^[ \t]*(?:
        [A-Z][A-Za-z ]{2,30}[ \t]*\n[ \t]*-{3,}[ \t]*$                       # numpy: a line underlined
      | (?:Args|Arguments|Keyword\ args|Keyword\ arguments|Param(?:eter)?s|Attributes|Inputs?|Outputs?|Shape|Returns?
          |Yields|Raises|Notes?|References|Usage|Examples?)[ \t]*::?[ \t]*$  # Google: a line that ends in a colon
      | :(?:param|type|returns?|rtype|raises)\b                              # Sphinx: a field
      | >>>\ | \.\.\ (?:code|code-block|testcode|plot|math)::                # an example, or a formula
    )""",
    re.MULTILINE | re.VERBOSE,
)
# one or more, above an empty line: numpy's and C functions' docstrings begin with their signatures
SIGNATURES = re.compile(r"(?:[\w.]+\((?:[^\n]|\n(?!\n))*?\)(?:[ \t]*->[^\n]*)?\n)+[ \t]*\n")
WORD = re.compile(r"\S+")
LEAST_WORDS = 5  # a shorter description says nothing; then the docstring's own beginning stands for it


def description(text: str, words: int) -> str:
    """The first `words` words of a docstring, without its signature and from its first section on.

    Words are what white space separates. What remains of a docstring with hardly any description is its beginning.
    """
    signatures = SIGNATURES.match(text)
    described = text[signatures.end() :] if signatures else text
    section = SECTION.search(described)
    if section:
        described = described[: section.start()]
    return _first_words(described if len(described.split()) >= LEAST_WORDS else text, words).strip()


def _first_words(text: str, words: int) -> str:
    for number, word in enumerate(WORD.finditer(text), start=1):
        if number == words:
            return text[: word.end()]
    return text
