"""Modules: fills the page on structure with what the source says: the drawing of rooms, and a line a module."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("server", "ragcache", "retrieval", "pimsim", "eval")
BASE = ("errors", "sizes", "cost", "whole_file")  # modules that every room may use: not drawn
Stop = str | tuple[str, str, int]  # a room, or where the arrow between two rooms crosses a floor
WIDTH, ROOM_WIDTH, ROOM_HEIGHT, FLOOR_HEIGHT = 960, 118, 40, 80


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs calls this for each page; only the page on structure has the two places to fill."""
    if page.file.src_uri != "structure.md":
        return markdown
    filled = markdown.replace("<!-- drawing -->", f'<div class="rooms" markdown="0">{drawing()}</div>')
    return filled.replace("<!-- modules -->", module_tables())


def modules(package: str) -> dict[str, Path]:
    """Path of each module of a package by its dotted name."""
    paths = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        paths[name.removesuffix(".__init__")] = path
    return paths


def first_line(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def module_tables() -> str:
    """A table for each package: its modules and their first lines, in the order of the folders."""
    parts = []
    for package in PACKAGES:
        parts.append(f"### {package}\n\n| module | says of itself |\n| --- | --- |")
        for name, path in modules(package).items():
            parts.append(f"| `{name}` | {first_line(path).replace('|', '&#124;')} |")
        parts.append("")
    return "\n".join(parts)


def room_of(name: str) -> str | None:
    """The room that is drawn for a module: a folder of ragcache, `server` or `retrieval`."""
    parts = name.split(".")
    if parts[0] in ("server", "retrieval"):
        return parts[0]
    if parts[0] == "ragcache" and len(parts) > 1 and parts[1] not in (*BASE, "__main__"):
        return parts[1]
    return None


def arrows() -> dict[str, set[str]]:
    """For each room those it imports from, when it is imported itself; commands that import late do not count."""
    graph: dict[str, set[str]] = {}
    for package in ("ragcache", "server", "retrieval"):
        for name, path in modules(package).items():
            room = room_of(name)
            if room is None:
                continue
            below = graph.setdefault(room, set())
            for imported in imports(path):
                other = room_of(imported)
                if other is not None and other != room:
                    below.add(other)
    return graph


def imports(path: Path) -> set[str]:
    """Names that a module imports at its outermost level, those for type checkers left out."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
    return names


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that do not follow from others."""
    reach: dict[str, set[str]] = {}
    for room in TopologicalSorter(graph).static_order():
        reach[room] = set().union(*({below} | reach[below] for below in graph.get(room, ())))
    return {
        room: {one for one in below if not any(one in reach[other] for other in below if other != one)}
        for room, below in graph.items()
    }


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each room, 0 at the bottom: the longest way down from it, so that imports come from lower floors."""
    floor_of: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        floor_of[room] = 1 + max((floor_of[below] for below in graph.get(room, ())), default=-1)
    return floor_of


def routes(graph: dict[str, set[str]], floor_of: dict[str, int]) -> list[list[Stop]]:
    """The stops of each arrow from floor to floor: two rooms, and between them places that no room may take."""
    return [
        [room, *((room, other, floor) for floor in range(floor_of[room] - 1, floor_of[other], -1)), other]
        for room, below in sorted(graph.items())
        for other in sorted(below)
    ]


def placed(ways: list[list[Stop]], floor_of: dict[str, int]) -> dict[Stop, tuple[float, float]]:
    """The middle of each stop, in pixels. A floor is ordered by the middles of what leads there from above."""
    users: dict[Stop, set[Stop]] = {}
    rows: list[set[Stop]] = [set() for _ in range(max(floor_of.values()) + 1)]
    for room, floor in floor_of.items():
        rows[floor].add(room)
    for way in ways:
        for above, stop in pairwise(way):
            users.setdefault(stop, set()).add(above)
            rows[floor_of[stop] if isinstance(stop, str) else stop[2]].add(stop)
    middles: dict[Stop, tuple[float, float]] = {}
    for depth, row in enumerate(reversed(rows)):
        wanted = {stop: _mean(middles[user][0] for user in users.get(stop, ())) for stop in row}
        ordered = sorted(row, key=lambda stop: (wanted[stop], str(stop)))
        for column, stop in enumerate(ordered):
            middles[stop] = (WIDTH * (column + 1) / (len(ordered) + 1), depth * FLOOR_HEIGHT + FLOOR_HEIGHT / 2)
    return middles


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else WIDTH / 2


def drawing() -> str:
    """An SVG of the rooms on their floors; an arrow is an import that does not follow from others."""
    graph = reduced(arrows())
    floor_of = floors(graph)
    ways = routes(graph, floor_of)
    middles = placed(ways, floor_of)
    height = (max(floor_of.values()) + 1) * FLOOR_HEIGHT
    columns = [x for x, _ in middles.values()]
    left, right = min(columns) - ROOM_WIDTH / 2 - 2, max(columns) + ROOM_WIDTH / 2 + 2
    parts = [
        f'<svg viewBox="{left:g} 0 {right - left:g} {height}" role="img" '
        'aria-label="The rooms of ragcache, and which imports which">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="head" d="M0,0 L8,4 L0,8 z"/></marker></defs>',
    ]
    for way in ways:
        parts.append(f'<path class="arrow" marker-end="url(#head)" d="{_curve([middles[stop] for stop in way])}"/>')
    for room in sorted(floor_of):
        x, y = middles[room]
        parts.append(
            f'<rect class="room" x="{x - ROOM_WIDTH / 2:g}" y="{y - ROOM_HEIGHT / 2:g}" width="{ROOM_WIDTH}" '
            f'height="{ROOM_HEIGHT}" rx="6"/><text x="{x:g}" y="{y + 5:g}">{room}/</text>'
        )
    return "".join([*parts, "</svg>"])


def _curve(points: list[tuple[float, float]]) -> str:
    """A path from the lower edge of the first room to the upper edge of the last, straight down at each stop."""
    half = ROOM_HEIGHT / 2
    (x, y), *others = points
    y += half
    path = f"M{x:.4g},{y:.4g}"
    for number, (to_x, middle) in enumerate(others, 1):
        last = number == len(others)
        top, bottom = middle - half - 2 * last, middle + half
        bend = (top - y) / 2
        path += f" C{x:.4g},{y + bend:.4g} {to_x:.4g},{top - bend:.4g} {to_x:.4g},{top:.4g}"
        if not last:
            path += f" V{bottom:.4g}"
        x, y = to_x, bottom
    return path
