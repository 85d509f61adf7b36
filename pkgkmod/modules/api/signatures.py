"""What of a declaration its users see: types, without the names of parameters; and the members of structs."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

from tree_sitter import Node

from pkgkmod.modules.api.declarations import Declaration, declared_name, one_line, parse

_PARAMETERS = re.compile(r"\w+(\([^()]*\))")
_TAG = re.compile(r"\b(struct|union|enum)\s+([A-Za-z_]\w*)", re.ASCII)
_SIZE = re.compile(r"\[[^\[\]]*\]")
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_MOST_MEMBERS = 4000
_DEEPEST = 200


class Member(NamedTuple):
    """A member of a struct or union, those of unnamed ones in it included."""

    name: str
    text: str
    """Its declaration, in one line."""
    signature: str
    """What its users see of that; not how large an array is."""
    type: str
    """`struct NAME` or NAME of what it is, points to, or holds several of; of a function, what that returns."""


@functools.lru_cache(maxsize=20_000)
def signature(text: str) -> str:
    """Return a declaration without the names of parameters, and without what says how it is linked."""
    return " ".join(_tokens(parse(f"{text};".encode())))


def declared_signature(one: Declaration) -> str:
    """Return what the users of a declaration see of it."""
    if one.kind == "macro":
        found = _PARAMETERS.match(one.text)
        return f"macro of {arity(one)}" if found else "macro"
    return one.kind if one.kind == "enumerator" else signature(one.text)


def arity(one: Declaration) -> int | None:
    """Return how many arguments a macro or function takes; None: any number, or it takes none at all."""
    if one.kind == "macro":
        found = _PARAMETERS.match(one.text)
        inside = found[1][1:-1].strip() if found else "..."
        return None if "..." in inside else inside.count(",") + 1 if inside else 0
    if one.kind not in ("function", "inline"):
        return None
    parameters = _parameters(parse(f"{one.text};".encode()), one.name)
    if parameters is None or b"..." in (parameters.text or b""):
        return None
    texts = [child.text for child in parameters.named_children if child.type == "parameter_declaration"]
    return 0 if texts == [b"void"] else len(texts)


def is_compatible(old: str, new: str) -> bool:
    """Tell whether all calls of a function stay right: its parameters point to const now, and nothing else changed."""
    before, after = old.split(" "), new.split(" ")
    if "(" not in before or "(" not in after or before[: before.index("(")] != after[: after.index("(")]:
        return False
    rest = iter(before)
    wanted = next(rest, None)
    for token in after:
        if token == wanted:
            wanted = next(rest, None)
        elif token != "const":
            return False
    return wanted is None


def _parameters(root: Node, name: str) -> Node | None:
    for node in _walk(root):
        if node.type == "function_declarator" and declared_name(node) == (name, True):
            return node.child_by_field_name("parameters")
    return None


def _walk(root: Node) -> Iterator[Node]:
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        stack += reversed(node.children)


def _tokens(root: Node) -> Iterator[str]:
    """Yield the tokens of a declaration that count, in order."""
    skipped: set[int] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if node.type == "parameter_declaration":
            declarator = node.child_by_field_name("declarator")
            if declarator is not None and (name := _name_node(declarator)) is not None:
                skipped.add(name.id)
        if node.type == "storage_class_specifier" or node.id in skipped:
            continue
        if node.child_count:
            stack += reversed(node.children)
        elif text := (node.text or b"").decode("utf-8", "replace").strip(";"):
            yield text


def _name_node(declarator: Node) -> Node | None:
    for _ in range(_DEEPEST):
        if declarator.type == "identifier":
            return declarator
        inner = declarator.child_by_field_name("declarator") or next(
            (c for c in declarator.named_children if c.type == "identifier" or c.type.endswith("declarator")), None
        )
        if inner is None:
            return None
        declarator = inner
    return None


# --- types ------------------------------------------------------------------------------------------


def tags(text: str) -> tuple[str, ...]:
    """Return the types that a declaration names with struct, union or enum, in order."""
    return tuple(dict.fromkeys(f"{kind} {name}" for kind, name in _TAG.findall(text)))


def words(text: str) -> tuple[str, ...]:
    """Return all names in a declaration, in order."""
    return tuple(dict.fromkeys(_WORD.findall(text)))


def type_of(node: Node) -> str:
    """Return `struct NAME`, or the name of the type, that a declaration or a cast begins with; or nothing."""
    found = node.child_by_field_name("type")
    if found is None:
        return ""
    if found.type in ("struct_specifier", "union_specifier", "enum_specifier"):
        name = found.child_by_field_name("name")
        return f"{found.type.partition('_')[0]} {(name.text or b'').decode('latin-1')}" if name else ""
    return (found.text or b"").decode("latin-1") if found.type == "type_identifier" else ""


@functools.lru_cache(maxsize=5_000)
def members(text: str) -> dict[str, Member]:
    """Return the members of a struct or union, by name; `text` is its definition, or a typedef with one."""
    found: dict[str, Member] = {}
    for node in _walk(parse(f"{text};".encode())):
        if node.type in ("struct_specifier", "union_specifier") and (body := node.child_by_field_name("body")):
            for member in member_nodes(body):
                found.setdefault(member.name, member)
            break
    return found


def member_nodes(body: Node) -> Iterator[Member]:
    """Yield the members in the braces of a struct or union."""
    stack = list(reversed(body.named_children))
    for _ in range(_MOST_MEMBERS):
        if not stack:
            return
        node = stack.pop()
        specifier = node.child_by_field_name("type")
        if node.type != "field_declaration" or specifier is None:
            continue
        inner = specifier.child_by_field_name("body")
        declarators = node.children_by_field_name("declarator")
        if inner is not None and not declarators:
            stack += reversed(inner.named_children)
            continue
        kind = specifier.type.partition("_")[0]
        type_text = (specifier.text or b"") if inner is None else f"{kind} {{ ... }}".encode()
        qualifiers = b" ".join(child.text or b"" for child in node.children if child.type == "type_qualifier")
        for declarator in declarators:
            if name := declared_name(declarator)[0]:
                text = one_line(b" ".join((qualifiers, type_text, declarator.text or b"")))
                plain = text.replace(" { ... }", "")
                yield Member(name, text, _SIZE.sub("[ ]", signature(plain)), type_of(node))
