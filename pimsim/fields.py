"""Fields: checked reading of YAML files of data, in which every value may say where it comes from.

A value stands alone, or as `{value: 22, source: table1}`; `sources` at the top of the file says what `table1` is,
and whether what comes from it is assumed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from pimsim.errors import FieldError

LONGEST = 80  # letters of a value in a message
SOURCED = {"value", "source"}  # fields of a value that says where it comes from
# libyaml's, where PyYAML was built with it, takes a fifth of the time, and a sweep reads files at every point
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_LOADER):
    """Takes 1e3 for a number, as YAML 1.2 has it; in 1.1 only 1.0e+3 is one. Refuses a field that stands twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        named: set[tuple[str, str]] = set()
        for key, _ in getattr(node, "value", ()):
            name = (key.tag, str(key.value))
            if name in named:  # the last would silently replace the others
                raise yaml.MarkedYAMLError(None, None, f"the field {key.value!r} stands there twice", key.start_mark)
            named.add(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from. `assumed`: only this project says so."""

    text: str
    assumed: bool = False


@dataclass(frozen=True, slots=True)
class Sourced:
    """A value, by its dotted name, and where it comes from."""

    name: str
    value: Any
    source: Source

    def as_dict(self) -> dict[str, Any]:
        """Name, value and source as the commands' JSON has them."""
        return {"name": self.name, "value": self.value, "source": self.source.text}


class Fields:
    """The fields of one mapping of a file; what is taken is checked, and `end` refuses what was never taken."""

    def __init__(self, values: Any, where: str, sources: Mapping[str, Source] | None = None, prefix: str = "") -> None:
        """`where` is the file, for messages; `prefix` the dotted name of this mapping, with a dot at its end."""
        if not isinstance(values, Mapping):
            raise FieldError(
                f"{where}: {prefix.rstrip('.') or 'the file'} must be a mapping of fields, not {brief(values)}"
            )
        self._values = dict(values)
        self._taken: set[str] = set()
        self.where, self._prefix = where, prefix
        if sources is None:
            sources = _sources(self._values.pop("sources", None), where)
        self._sources = sources
        self.sourced: list[Sourced] = []

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str, default: str | None = None, one_of: Iterable[str] = ()) -> str:
        """Take a text; one of `one_of`, if any are given. FieldError for another value, or a missing field without a
        default.
        """
        value = self._take(name, default)
        allowed = list(one_of)
        if not isinstance(value, str) or (allowed and value not in allowed):
            self._refuse(name, value, f"one of {', '.join(allowed)}" if allowed else "a text")
        return str(value)

    def integer(self, name: str, default: int | None = None, least: int = 0, most: int = 1 << 62) -> int:
        """Take a whole number from `least` to `most`, both included. FieldError for another value."""
        value = self._take(name, default)
        if isinstance(value, float) and value.is_integer():  # 1e6
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self._refuse(name, value, f"a whole number of at least {least}" + (f", at most {most}" * (most < 1 << 62)))
        return int(value)

    def number(self, name: str, default: float | None = None, least: float = 0.0, most: float = float("inf")) -> float:
        """Take a finite number from `least` to `most`, both included. FieldError for another value."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self._refuse(name, value, f"a number of at least {least:g}" + (f", at most {most:g}" * (most < 1e300)))
        if value in (float("inf"), float("-inf")):
            self._refuse(name, value, "a finite number")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Take true or false. FieldError for another value."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            self._refuse(name, value, "true or false")
        return bool(value)

    def names(self, name: str) -> list[str]:
        """Take a list of texts. FieldError for another value."""
        value = self._take(name, None)
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            self._refuse(name, value, "a list of names")
        return list(value)

    def mapping(self, name: str) -> dict[str, Any]:
        """Take a mapping as it stands, empty where the field is missing; its fields are not checked here."""
        self._taken.add(name)
        value = self._values.get(name)
        if not isinstance(value, Mapping | None):
            self._refuse(name, value, "a mapping")
        return dict(value or {})

    def source(self, name: str) -> Source:
        """The source that this field names."""
        return self._source(name, self.text(name))

    def inner(self, name: str, *, optional: bool = False) -> Fields:
        """Take a mapping of this one as `Fields`; the sources of its values are added to this one's."""
        self._taken.add(name)
        if name not in self._values and not optional:
            self._miss(name)
        inner = Fields(self._values.get(name, {}), self.where, self._sources, f"{self._prefix}{name}.")
        inner.sourced = self.sourced
        return inner

    def left(self) -> list[str]:
        """Names of the fields that have not been taken, in their order."""
        return [name for name in self._values if name not in self._taken]

    def end(self) -> None:
        """FieldError if a field has not been taken: its name is unknown."""
        for name in self.left():
            near = difflib.get_close_matches(name, self._taken, 1)
            hint = f"; is {near[0]} meant?" if near else f"; there are {', '.join(sorted(self._taken))}"
            raise FieldError(f"{self.where}: unknown field {self._prefix}{name}{hint}")

    def _take(self, name: str, default: Any) -> Any:
        self._taken.add(name)
        if name not in self._values:
            if default is None:
                self._miss(name)
            return default
        value = self._values[name]
        if not isinstance(value, Mapping):
            return value
        if set(value) != SOURCED:
            raise FieldError(f"{self.where}: {self._prefix}{name} has a value and a source, not {dict(value)!r}")
        self.sourced.append(Sourced(f"{self._prefix}{name}", value["value"], self._source(name, value["source"])))
        return value["value"]

    def _source(self, name: str, key: Any) -> Source:
        source = self._sources.get(key)
        if source is None:
            raise FieldError(f"{self.where}: {self._prefix}{name} names the unknown source {key!r}")
        return source

    def _miss(self, name: str) -> None:
        raise FieldError(f"{self.where}: the field {self._prefix}{name} is missing")

    def _refuse(self, name: str, value: Any, wanted: str) -> None:
        raise FieldError(f"{self.where}: {self._prefix}{name} must be {wanted}, not {brief(value)}")


def brief(value: Any) -> str:
    """A value as messages show it, cut at LONGEST letters: a whole file may stand where a word should."""
    text = repr(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def nested(changes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Changes by their dotted names, given by such names or in nested mappings."""
    by_dotted_name: dict[str, Any] = {}
    for name, value in changes.items():
        if isinstance(value, Mapping) and set(value) != SOURCED:
            by_dotted_name |= nested(value, f"{prefix}{name}.")
        else:
            by_dotted_name[f"{prefix}{name}"] = value
    return by_dotted_name


def _sources(given: Any, where: str) -> dict[str, Source]:
    """The sources of a file, by the names under which values refer to them."""
    if not isinstance(given, Mapping | None):
        raise FieldError(f"{where}: sources must be a mapping of names and texts, not {given!r}")
    by_name = {}
    for name, text in (given or {}).items():
        if isinstance(text, Mapping):
            inner = Fields(text, where, {}, f"sources.{name}.")
            by_name[name] = Source(inner.text("text"), inner.flag("assumed", False))
            inner.end()
        elif isinstance(text, str):
            by_name[name] = Source(text)
        else:
            raise FieldError(f"{where}: sources.{name} must be a text, or a mapping of text and assumed, not {text!r}")
    return by_name


def shipped(folder: str) -> list[str]:
    """Names of the data files that pimsim brings in one of its folders, without their ending."""
    files = resources.files("pimsim").joinpath(folder).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def parsed(text: str, where: str) -> Any:
    """The value of a YAML text. FieldError, naming `where`, if it is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise FieldError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def settings(pairs: Iterable[str], example: str) -> dict[str, Any]:
    """Changes by dotted name, from FIELD=VALUE texts; values are read as YAML. FieldError, with `example`, for another
    form.
    """
    changes: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise FieldError(f"--set takes FIELD=VALUE, as --set {example}, not {pair!r}")
        changes[name] = parsed(text, f"--set {name}: {text!r}")
    return changes


def load(folder: str, name: str, changes: Mapping[str, Any] | None = None) -> Fields:
    """Fields of a file that pimsim brings, by its name, or of a user's, by its path (with a slash or `.yaml`).

    Where there is no file `heterrag.yaml`, that is the one that pimsim brings. `changes` are values by dotted name that
    replace the file's; FieldError for a name that the file does not have.
    """
    stem = name.removesuffix(".yaml")
    if stem in shipped(folder) and not Path(name).is_file():
        name = stem
    if "/" in name or name.endswith((".yaml", ".yml")):
        file: Any = Path(name)
        where = name
    else:
        if name not in shipped(folder):
            near = difflib.get_close_matches(name, shipped(folder), 1)
            hint = f"; is {near[0]} meant? There" if near else "; there"
            raise FieldError(
                f"unknown name {name!r} of {folder}{hint} are {', '.join(shipped(folder))}, and paths of files"
            )
        file = resources.files("pimsim").joinpath(folder, f"{name}.yaml")
        where = f"{folder}/{name}.yaml"
    try:
        values = parsed(file.read_text(encoding="utf-8"), where)
    except (OSError, UnicodeDecodeError) as error:
        raise FieldError(f"cannot read {where}: {error}") from error
    for dotted, value in (changes or {}).items():
        _change(values, dotted, value, where)
    return Fields(values, where)


def split(changes: Mapping[str, Any] | None, *parts: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Divide changes into those of a file's own fields and, for each of `parts`, which are files that it names, those
    of their fields.

    A change of `standard.timing.tRCD` is one of `timing.tRCD` for the part `standard`.
    """
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for name, value in (changes or {}).items():
        part, dot, name_within = name.partition(".")
        if dot and part in inner:
            inner[part][name_within] = value
        else:
            own[name] = value
    return own, inner


def _change(values: Any, dotted: str, value: Any, where: str) -> None:
    *path, last = dotted.split(".")
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    if not isinstance(values, dict) or last not in values:
        raise FieldError(f"{where}: there is no field {dotted!r} to set")
    values[last] = value
