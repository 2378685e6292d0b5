"""Draw the rooms of the package from its imports: ``python tests/draw_rooms.py``.

Writes docs/images/rooms.svg. A room stands above all rooms that it imports from. An arrow is an
import; where a room can be reached over another one, the direct arrow is left out, because with
all of them nobody could read the drawing.

Rooms stand in rows. An arrow that passes a row takes a place in it, as a box without width. The
boxes of a row are sorted, and placed, by the mean place of their neighbours.
"""

from __future__ import annotations

import html
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from test_layers import INSIDE, ROOMS, imports, listed, parse

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "rooms.svg"

Arrows = dict[str, set[str]]  # {room: the rooms that it imports from}

_HEIGHT, _ROW, _GAP, _MARGIN = 46, 92, 26, 24
_SWEEPS = 24

_STYLE = """
.paper { fill: #ffffff }
.box { fill: #f2f6fb; stroke: #4666b0; stroke-width: 1.2 }
.room { fill: #111111; font-weight: bold; font-size: 14px }
.files { fill: #555555; font-size: 11px }
.arrow { fill: none; stroke: #6b7280; stroke-width: 1.2 }
.head { fill: #6b7280 }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117 }
  .box { fill: #182234; stroke: #7d9be0 }
  .room { fill: #f0f3f6 }
  .files { fill: #aab2bd }
  .arrow { stroke: #9aa4b2 }
  .head { fill: #9aa4b2 }
}
"""


def arrows_between_rooms() -> Arrows:
    """Return which room imports from which."""
    entries = {entry: room for room, listed_ones in ROOMS.items() for entry in listed_ones}
    found: Arrows = {room: set() for room in ROOMS}
    for name in INSIDE:
        room = entries[listed(name) or ""]
        for imported, _ in imports(name, parse(name)):
            if imported:
                found[room].add(entries[listed(imported) or ""])
        found[room].discard(room)
    return found


def reachable(arrows: Arrows, start: str) -> set[str]:
    """Return all rooms that the arrows from `start` lead to."""
    found: set[str] = set()
    new = set(arrows[start])
    while new:
        found |= new
        new = {after for one in new for after in arrows[one]} - found
    return found


def without_shortcuts(arrows: Arrows) -> Arrows:
    """Return the arrows without those that a longer way replaces."""
    return {
        room: {
            one
            for one in below
            if not any(one in reachable(arrows, other) for other in below - {one})
        }
        for room, below in arrows.items()
    }


def heights(arrows: Arrows) -> dict[str, int]:
    """Return the row of each room, counted from the ground: one above what it imports from."""
    found: dict[str, int] = {}

    def height(room: str) -> int:
        if room not in found:
            found[room] = max((height(one) + 1 for one in arrows[room]), default=0)
        return found[room]

    for room in arrows:
        height(room)
    return found


def _label(room: str) -> str:
    def file(entry: str) -> str:
        return f"{entry}.py" if f"{entry}.py" in _TOP else f"{entry}/"

    return "  ".join(file(entry) for entry in ROOMS[room])


_TOP = {path.name for path in (Path(__file__).parent.parent / "flowstream").glob("*.py")}


class _Drawing:
    """Where everything is. A node is a room, or a place that an arrow takes in a row."""

    def __init__(self, arrows: Arrows) -> None:
        self.height = heights(arrows)
        self.paths: list[list[str]] = []
        self._beside: dict[str, list[str]] = defaultdict(list)
        rows: dict[int, list[str]] = defaultdict(list)
        for room in arrows:
            rows[self.height[room]].append(room)
        for room, below in arrows.items():
            for one in sorted(below, key=list(arrows).index):
                path = [room]
                for level in range(self.height[room] - 1, self.height[one], -1):
                    path.append(f"{room} > {one} in {level}")
                    self.height[path[-1]] = level
                    rows[level].append(path[-1])
                path.append(one)
                self.paths.append(path)
                for upper, lower in pairwise(path):
                    self._beside[upper].append(lower)
                    self._beside[lower].append(upper)
        self.rows = [rows[level] for level in sorted(rows)]
        self.x: dict[str, float] = {}
        for row in self.rows:
            self._place(row)
        for sweep in range(_SWEEPS):
            for row in self.rows if sweep % 2 else reversed(self.rows):
                row.sort(key=self._wish)
                self._place(row)
        left = min(self.x[one] - self.width(one) / 2 for one in self.x)
        self.x = {one: x - left + _MARGIN for one, x in self.x.items()}
        self.total = max(self.x[one] + self.width(one) / 2 for one in self.x) + _MARGIN

    def width(self, node: str) -> float:
        if node not in ROOMS:
            return 0
        return max(96, 8.5 * len(node) + 20, 5.9 * len(_label(node)) + 20)

    def y(self, node: str) -> float:
        """Return the top of the node."""
        return _MARGIN + (len(self.rows) - 1 - self.height[node]) * _ROW

    def _wish(self, node: str) -> float:
        places = [self.x[one] for one in self._beside[node] if one in self.x]
        return sum(places) / len(places) if places else self.x.get(node, 0)

    def _place(self, row: list[str]) -> None:
        """Put each node where it wishes to be, as far as its neighbours in the row allow."""
        wishes = [self._wish(node) for node in row]
        apart = [(self.width(one) + self.width(other)) / 2 + _GAP for one, other in pairwise(row)]
        right, left = list(wishes), list(wishes)
        for n in range(1, len(row)):
            right[n] = max(right[n], right[n - 1] + apart[n - 1])
        for n in range(len(row) - 2, -1, -1):
            left[n] = min(left[n], left[n + 1] - apart[n])
        for node, one, other in zip(row, right, left, strict=True):
            self.x[node] = (one + other) / 2

    def curve(self, path: list[str]) -> str:
        """Return the line of an arrow, from the box of the first room to that of the last."""
        first, last = path[0], path[-1]
        x, y = self._end(first, path[1]), self.y(first) + _HEIGHT
        parts = [f"M{x:.0f} {y:.0f}"]
        for node in path[1:]:
            to = self._end(last, path[-2]) if node is last else self.x[node]
            top = self.y(node) - (6 if node is last else 0)
            middle = (y + top) / 2
            parts.append(f"C{x:.0f} {middle:.0f} {to:.0f} {middle:.0f} {to:.0f} {top:.0f}")
            x, y = to, top
            if node is not last:
                y += _HEIGHT
                parts.append(f"V{y:.0f}")
        return "".join(parts)

    def _end(self, room: str, towards: str) -> float:
        """Return where at a box the line to `towards` begins or ends."""
        same_side = [one for one in self._beside[room] if self.height[one] < self.height[room]]
        if towards not in same_side:
            same_side = [one for one in self._beside[room] if one not in same_side]
        same_side.sort(key=lambda one: self.x[one])
        share = (same_side.index(towards) + 1) / (len(same_side) + 1)
        return self.x[room] + (share - 0.5) * min(self.width(room), 40 * len(same_side) + 20)


def draw(arrows: Arrows) -> str:
    """Return the drawing as SVG."""
    plan = _Drawing(without_shortcuts(arrows))
    height = 2 * _MARGIN + (len(plan.rows) - 1) * _ROW + _HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {plan.total:.0f} {height}"'
        f' width="{plan.total:.0f}" height="{height}"'
        ' font-family="system-ui, sans-serif">',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="2" refY="4" markerWidth="8"'
        ' markerHeight="8" orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker></defs>',
        f'<rect class="paper" width="{plan.total:.0f}" height="{height}"/>',
    ]
    lines += [
        f'<path class="arrow" d="{plan.curve(path)}" marker-end="url(#head)"/>'
        for path in plan.paths
    ]
    for room in arrows:
        x, y, width = plan.x[room], plan.y(room), plan.width(room)
        lines += [
            f'<rect class="box" x="{x - width / 2:.0f}" y="{y:.0f}" width="{width:.0f}"'
            f' height="{_HEIGHT}" rx="5"/>',
            f'<text class="room" x="{x:.0f}" y="{y + 19:.0f}" text-anchor="middle">'
            f"{html.escape(room)}</text>",
            f'<text class="files" x="{x:.0f}" y="{y + 36:.0f}" text-anchor="middle">'
            f"{html.escape(_label(room))}</text>",
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(arrows_between_rooms()))
