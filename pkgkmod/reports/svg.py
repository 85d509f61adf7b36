"""Where the boxes and lines of a graph of dependencies go: in layers, from those that need to those that are needed.

The method is that of Sugiyama and others (1981): each node stands right of all that need it, lines over several layers
go through places of their own in between, and the order within a layer follows that of the neighbours, to and fro.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_SWEEPS = 8
_CHARACTER = 7.3  # width of one in the page's fixed font of 12 pixels
_LONGEST = 36  # characters of a name that are shown
_HEIGHT, _PADDING = 26, 12
_BETWEEN_ROWS, _BETWEEN_LAYERS = 12, 64
_MARGIN = 8


@dataclass(frozen=True)
class Box:
    """A node: its name, the text in it, and its place in pixels."""

    name: str
    text: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Drawing:
    """Boxes and lines, and the size of it all in pixels."""

    boxes: tuple[Box, ...]
    lines: tuple[str, ...]
    """Paths in SVG's words."""
    width: float
    height: float


@dataclass
class _Place:
    """A node, or the place where a line crosses a layer (`name` is empty)."""

    name: str
    layer: int
    order: float = 0.0


def drawn(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> Drawing:
    """Return a drawing in which every edge goes to the right; the same graph gives the same drawing.

    Edges that would close a circle are left out.
    """
    edges = _without_circles(names, edges)
    layer = _layers(names, edges)
    nodes = {name: _Place(name, layer[name]) for name in names}
    ways = [_way(nodes[one], nodes[other]) for one, other in edges]
    layers = _in_layers([*nodes.values(), *(place for way in ways for place in way[1:-1])])
    _order(layers, [pair for way in ways for pair in pairwise(way)])
    return _placed(layers, ways)


def _without_circles(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    following: dict[str, list[str]] = {name: [] for name in names}
    kept = []
    for one, other in edges:
        if one != other and not _reaches(following, other, one):
            following[one].append(other)
            kept.append((one, other))
    return kept


def _reaches(following: Mapping[str, Sequence[str]], start: str, goal: str) -> bool:
    seen, waiting = {start}, [start]
    while waiting:
        name = waiting.pop()
        if name == goal:
            return True
        waiting += [other for other in following[name] if other not in seen]
        seen.update(following[name])
    return False


def _layers(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return how far right each node stands: behind all that need it."""
    layer = dict.fromkeys(names, 0)
    settled = False
    while not settled:  # at most once for each layer: there are no circles
        settled = True
        for one, other in edges:
            if layer[other] <= layer[one]:
                layer[other], settled = layer[one] + 1, False
    return layer


def _way(one: _Place, other: _Place) -> list[_Place]:
    return [one, *(_Place("", number) for number in range(one.layer + 1, other.layer)), other]


def _in_layers(places: Sequence[_Place]) -> list[list[_Place]]:
    layers: list[list[_Place]] = [[] for _ in range(max((place.layer for place in places), default=-1) + 1)]
    for place in places:
        place.order = len(layers[place.layer])
        layers[place.layer].append(place)
    return layers


def _order(layers: list[list[_Place]], pairs: Sequence[tuple[_Place, _Place]]) -> None:
    """Sort each layer by where the neighbours stand on one side, then on the other."""
    left: dict[int, list[_Place]] = {}
    right: dict[int, list[_Place]] = {}
    for one, other in pairs:
        left.setdefault(id(other), []).append(one)
        right.setdefault(id(one), []).append(other)
    for sweep in range(_SWEEPS):
        neighbours = right if sweep % 2 else left
        for layer in reversed(layers) if sweep % 2 else layers:
            layer.sort(key=lambda place: (_middle(neighbours.get(id(place), ()), place), place.order))
            for number, place in enumerate(layer):
                # From the middle, so that short layers stand beside the middle of long ones.
                place.order = number - (len(layer) - 1) / 2


def _middle(neighbours: Sequence[_Place], place: _Place) -> float:
    return sum(one.order for one in neighbours) / len(neighbours) if neighbours else place.order


def _placed(layers: Sequence[Sequence[_Place]], ways: Sequence[Sequence[_Place]]) -> Drawing:
    rows = max((len(layer) for layer in layers), default=0)
    step = _HEIGHT + _BETWEEN_ROWS
    left, x = [], float(_MARGIN)
    widths = [max((_width(place.name) for place in layer), default=0.0) for layer in layers]
    for width in widths:
        left.append(x)
        x += width + _BETWEEN_LAYERS

    def middle(place: _Place) -> float:
        return _MARGIN + (place.order + (rows - 1) / 2) * step + _HEIGHT / 2

    boxes = tuple(
        Box(place.name, shown(place.name), left[place.layer], middle(place) - _HEIGHT / 2, _width(place.name), _HEIGHT)
        for layer in layers
        for place in layer
        if place.name
    )
    ways_there = ([(left[p.layer], _width(p.name), widths[p.layer], middle(p)) for p in way] for way in ways)
    lines = tuple(_line(places) for places in ways_there)
    width = max((box.x + box.width for box in boxes), default=0.0) + _MARGIN
    return Drawing(boxes, lines, width, rows * step - _BETWEEN_ROWS + 2 * _MARGIN if rows else 0.0)


def _line(places: Sequence[tuple[float, float, float, float]]) -> str:
    """Return a curve from the right side of the first place to the left side of the last one.

    Each place is its left side, its width, that of its layer, and its height. Lines bend between layers only.
    """
    left, width, layer, y = places[0]
    x = left + layer
    path = f"M{left + width:.1f} {y:.1f}H{x:.1f}"
    for left, _, layer, below in places[1:]:
        bend = (left - x) / 2
        path += f"C{x + bend:.1f} {y:.1f} {left - bend:.1f} {below:.1f} {left:.1f} {below:.1f}"
        x, y = left + layer, below
        path += f"H{x:.1f}"
    return path.rpartition("H")[0]


def shown(name: str) -> str:
    """Return a name as it fits into a box."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _width(name: str) -> float:
    return len(shown(name)) * _CHARACTER + 2 * _PADDING if name else 0.0
