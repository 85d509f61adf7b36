"""What a driver's sources use of the kernel: names, types, members of structs, headers, each with its line.

The sources are read as for one kernel: branches for other versions do not count. Which struct a member belongs to is
followed through variables, parameters, members and initializers; where that leads nowhere, the struct stays unknown.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from tree_sitter import Node

from pkgkmod.modules.api.declarations import Declaration, declared_name, parse, without_annotations
from pkgkmod.modules.api.headerindex import header_declarations
from pkgkmod.modules.api.headertext import Conditions, read_header
from pkgkmod.modules.api.signatures import Member, members, type_of, words

UseKind = Literal["name", "type", "member", "header"]

_LARGEST = 4 * 1024 * 1024
"""Bytes of a source file."""
_CODE = 1_000_000
_DEEPEST = 60
_STRING = re.compile(r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'""")
_ENDINGS = (".c", ".h")
_TRANSPARENT = ("parenthesized_expression", "pointer_expression", "subscript_expression")


class Place(NamedTuple):
    """A line of the sources."""

    file: str
    line: int
    text: str
    """The line, without the spaces around it."""


class Use(NamedTuple):
    """Something of the kernel that the sources use."""

    kind: UseKind
    name: str
    owner: str
    """Of a member, `struct NAME` or the name of the type; empty if it is not known."""


@dataclass
class SourceUses:
    """What sources use, and where."""

    places: dict[Use, list[Place]] = field(default_factory=dict)
    own: dict[str, list[Declaration]] = field(default_factory=dict)
    """What the sources declare themselves, by name."""
    includes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By file: what it includes, `<NAME` or `"NAME`; of the sources' own headers, what those include, too."""
    calls: dict[str, dict[int, list[Place]]] = field(default_factory=dict)
    """By function or macro, and number of arguments."""
    assigned: dict[Use, list[str]] = field(default_factory=dict)
    """By member: the names that initializers give it."""

    @property
    def uses(self) -> dict[Use, tuple[Place, ...]]:
        """What is used and not the sources' own, in order."""
        # A prototype that repeats the kernel's does not make a function the driver's own.
        own = {name for name, found in self.own.items() if any(one.kind != "function" for one in found)}
        return {
            use: tuple(dict.fromkeys(places))
            for use, places in sorted(self.places.items())
            if use.name not in own or use.kind in ("header", "member")
        }

    def add(self, other: SourceUses) -> None:
        """Add what other sources use."""
        for use, places in other.places.items():
            self.places.setdefault(use, []).extend(places)
        for name, found in other.own.items():
            self.own.setdefault(name, []).extend(found)
        for name, counts in other.calls.items():
            for number, places in counts.items():
                self.calls.setdefault(name, {}).setdefault(number, []).extend(places)
        for use, names in other.assigned.items():
            self.assigned.setdefault(use, []).extend(names)
        self.includes |= other.includes


Lookup = Callable[[str], Iterable[Declaration]]
"""Finds what the kernel declares with a name."""


def source_uses(tree: Path, conditions: Conditions, lookup: Lookup) -> SourceUses:
    """Read the C files below a folder; files that are no regular ones, or too large, are left out."""
    paths = list(_files(tree))
    # What headers of the sources define for sure answers questions of other files.
    known = frozenset[str]().union(
        *(_Source(*one, conditions).header.defined for one in paths if one[1].endswith(".h"))
    )
    files = [_Source(path, shown, conditions.given(known)) for path, shown in paths]
    found = SourceUses()
    for file in files:
        for one in header_declarations(file.header, file.shown):
            found.own.setdefault(one.name, []).append(one)

    def everywhere(name: str) -> Iterable[Declaration]:
        return found.own.get(name) or lookup(name)

    for file in files:
        _Reader(file, everywhere, found).read()
    direct = {file.shown: tuple(name for name, _ in file.header.includes) for file in files}
    found.includes = {name: _all_includes(name, direct) for name in direct}
    return found


def _all_includes(file: str, direct: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return what a file includes, by itself and through headers of the same sources."""
    own: dict[str, list[str]] = {}
    for path in direct:
        own.setdefault(posixpath.basename(path), []).append(path)
    found: dict[str, None] = {}
    seen, stack = {file}, [file]
    while stack:
        for name in direct[stack.pop()]:
            # Makefiles add folders of headers (-I): any header of the sources with that name may be meant.
            inside = [
                path for path in own.get(posixpath.basename(name[1:]), ()) if path.endswith(name[1:].lstrip("./"))
            ]
            if not inside:
                found[name] = None
            stack += [path for path in inside if path not in seen]
            seen.update(inside)
    return tuple(found)


def _files(tree: Path) -> Iterator[tuple[Path, str]]:
    for parent, folders, names in os.walk(tree):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if name.endswith(_ENDINGS) and path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST:
                yield path, str(path.relative_to(tree))


class _Source:
    """A file, as it is compiled for a kernel."""

    def __init__(self, path: Path, shown: str, conditions: Conditions) -> None:
        content = path.read_bytes()
        header = read_header(content, conditions)
        self.shown = shown
        self.code = without_annotations(header.code) if len(header.code) <= _CODE else b""
        self.header = header
        self._lines = content.split(b"\n")

    def is_sure(self, line: int) -> bool:
        """Tell whether it is known that a line counts."""
        return not any(first <= line <= last for first, last in self.header.unsure)

    def place(self, line: int) -> Place:
        """Return a line, counted from 1."""
        text = self._lines[line - 1] if 0 < line <= len(self._lines) else b""
        return Place(self.shown, line, " ".join(text[:400].decode("utf-8", "replace").split()))


class _Reader:
    """Goes through the syntax tree of one file."""

    def __init__(self, source: _Source, lookup: Lookup, found: SourceUses) -> None:
        self._source = source
        self._lookup = lookup
        self._found = found
        self._globals: dict[str, str] = {}
        self._locals: dict[str, str] = {}

    def read(self) -> None:
        """Note all uses in the file."""
        for name, line in self._source.header.includes:
            if name.startswith("<"):
                self._note(Use("header", name[1:], ""), line)
        for macro in self._source.header.macros:
            parameters = set(words(macro.parameters or ""))
            for word in words(_STRING.sub(" ", macro.body)):
                if word not in parameters:
                    self._note(Use("name", word, ""), macro.line)
        for node in _outermost(parse(self._source.code)):
            self._locals = {}
            if node.type == "function_definition":
                self._locals = dict(_variables(node))
            else:
                self._globals.update(_variables(node))
            self._visit(node)

    def _note(self, use: Use, line: int) -> None:
        self._found.places.setdefault(use, []).append(self._source.place(line))

    def _visit(self, root: Node) -> None:
        stack = [root]
        while stack:
            node = stack.pop()
            line = node.start_point[0] + 1
            if node.type == "field_expression":
                name = node.child_by_field_name("field")
                owner = node.child_by_field_name("argument")
                if name is not None and owner is not None:
                    self._note(Use("member", _text(name), self._type(owner, 0)), name.start_point[0] + 1)
            elif node.type == "identifier":
                if _text(node) not in self._locals:
                    self._note(Use("name", _text(node), ""), line)
            elif node.type == "type_identifier":
                self._note(Use("type", _text(node), ""), line)
            elif node.type == "call_expression":
                self._call(node)
            elif node.type == "init_declarator":
                self._initializer(node.child_by_field_name("value"), type_of(node.parent) if node.parent else "", 0)
            elif node.type == "compound_literal_expression":
                descriptor = node.child_by_field_name("type")
                value = node.child_by_field_name("value")
                self._initializer(value, type_of(descriptor) if descriptor is not None else "", 0)
            stack += reversed(node.named_children)

    def _call(self, node: Node) -> None:
        function, arguments = node.child_by_field_name("function"), node.child_by_field_name("arguments")
        if function is None or function.type != "identifier" or arguments is None or arguments.has_error:
            return
        given = [child for child in arguments.named_children if child.type != "comment"]
        line = node.start_point[0] + 1
        if (
            not self._source.is_sure(line)
            or _text(function) in self._locals
            or any(self._may_be_several(one) for one in given)
        ):
            return
        place = self._source.place(line)
        self._found.calls.setdefault(_text(function), {}).setdefault(len(given), []).append(place)

    def _may_be_several(self, argument: Node) -> bool:
        """Tell whether an argument is a macro that stands for several."""
        if argument.type != "identifier":
            return False
        return any(one.kind == "macro" and "," in one.text for one in self._lookup(_text(argument)))

    def _initializer(self, value: Node | None, owner: str, depth: int) -> None:
        """Note the members that an initializer in braces names, at all levels."""
        if value is None or value.type != "initializer_list" or depth > _DEEPEST:
            return
        for child in value.named_children:
            if child.type == "initializer_list":  # of an array
                self._initializer(child, owner, depth + 1)
            if child.type != "initializer_pair":
                continue
            inner, assigned = owner, child.child_by_field_name("value")
            for designator in child.children_by_field_name("designator"):
                if designator.type == "field_designator" and designator.named_children:
                    name = designator.named_children[0]
                    use = Use("member", _text(name), inner)
                    self._note(use, name.start_point[0] + 1)
                    is_name = assigned is not None and assigned.type in ("identifier", "pointer_expression")
                    if assigned is not None and is_name and self._source.is_sure(name.start_point[0] + 1):
                        self._found.assigned.setdefault(use, []).append(_text(assigned).lstrip("&"))
                    inner = self._member_type(inner, _text(name))
            self._initializer(assigned, inner, depth + 1)

    def _type(self, node: Node, depth: int) -> str:
        """Return the type that an expression is of, or points to; nothing if that is not found out."""
        if depth > _DEEPEST:
            return ""
        if node.type == "identifier":
            name = _text(node)
            return self._locals.get(name) or self._globals.get(name) or self._declared_type(name)
        if node.type == "field_expression":
            owner, name_node = node.child_by_field_name("argument"), node.child_by_field_name("field")
            if owner is None or name_node is None:
                return ""
            return self._member_type(self._type(owner, depth + 1), _text(name_node))
        if node.type == "cast_expression":
            descriptor = node.child_by_field_name("type")
            return type_of(descriptor) if descriptor is not None else ""
        if node.type == "call_expression":
            function = node.child_by_field_name("function")
            is_name = function is not None and function.type == "identifier"
            return self._declared_type(_text(function)) if function is not None and is_name else ""
        if node.type in _TRANSPARENT and node.named_children:
            return self._type(node.child_by_field_name("argument") or node.named_children[0], depth + 1)
        return ""

    def _declared_type(self, name: str) -> str:
        """Return the type of a variable, or that which a function returns."""
        for one in self._lookup(name):
            if one.kind in ("function", "inline", "variable"):
                root = parse(f"{one.text};".encode())
                return type_of(root.children[0]) if root.children else ""
        return ""

    def _member_type(self, owner: str, name: str) -> str:
        return next((member.type for member in find_members(owner, name, self._lookup) if member.type), "")


def find_members(owner: str, name: str, lookup: Lookup) -> tuple[Member, ...]:
    """Return a member of `struct NAME`, or of the type NAME, as each of its definitions has it."""
    return tuple(one[name] for one in all_members(owner, lookup) if name in one)


def all_members(owner: str, lookup: Lookup, depth: int = 0) -> Iterator[Mapping[str, Member]]:
    """Yield the members of each definition of a type, by name."""
    kind, _, tag = owner.rpartition(" ")
    for one in lookup(tag) if tag else ():
        if one.kind == kind:
            yield members(one.text)
        elif not kind and one.kind == "typedef":
            if "{" in one.text:
                yield members(one.text)
            elif depth < _DEEPEST:
                root = parse(f"{one.text};".encode())
                inner = type_of(root.children[0]) if root.children else ""
                if inner != owner:
                    yield from all_members(inner, lookup, depth + 1)


def _outermost(root: Node) -> Iterator[Node]:
    yield from (node for node in root.children if node.is_named)


def _variables(root: Node) -> Iterator[tuple[str, str]]:
    """Yield the variables and parameters that are declared in a function, or by a declaration, each with its type."""
    stack = [root]
    while stack:
        node = stack.pop()
        if node.type in ("declaration", "parameter_declaration"):
            kind = type_of(node)
            for declarator in node.children_by_field_name("declarator"):
                name, is_function = declared_name(declarator)
                if name and not is_function:
                    yield name, kind
        if root.type == "function_definition":
            stack += reversed(node.named_children)


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")
