"""What headers declare, read by a C parser: functions, variables, types, enumerators, with the text of each."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from tree_sitter import Language, Node, Parser
from tree_sitter_c import language

Kind = Literal["function", "inline", "macro", "variable", "struct", "union", "enum", "enumerator", "typedef"]

# Annotations that say nothing about how something is called (include/linux/compiler_types.h, compiler_attributes.h,
# linkage.h, init.h, cache.h); the parser does not know them.
_PLAIN = (
    "ACPI_INTERNAL_VAR_XFACE ACPI_SYSTEM_XFACE ____cacheline_aligned ____cacheline_aligned_in_smp "
    "____cacheline_internodealigned_in_smp __always_unused __assume_aligned __attribute_const__ "
    "__attribute_used__ __bitwise __bpf_kfunc __cacheline_aligned __cacheline_aligned_in_smp __cold __cpuidle "
    "__deprecated __designated_init __exit __exitdata __fastcall __flatten __force __gnu_inline __hot __init "
    "__init_or_module __initdata __intentional_overflow __iomem __kernel __kprobes __latent_entropy __lockfunc "
    "__malloc __maybe_unused __meminit __must_check __mustcheck __net_exit __net_init __net_initdata __no_kasan "
    "__no_kcsan __no_randomize_layout __nocast __noclone __noreturn __noscs __packed __percpu __private __pure "
    "__randomize_layout __rcu __read_mostly __ref __refdata __ro_after_init __safe __sched __signed __used __user "
    "__visible __weak asmlinkage noinline noinstr notrace randomized_struct_fields_end "
    "randomized_struct_fields_start"
)
_WITH_ARGUMENTS = (
    "ACPI_PRINTF_LIKE __RENAME __acquire_shared __acquires __alias __aligned __alloc_size __assume_aligned "
    "__attribute__ __cleanup __compiletime_error __compiletime_warning __cond_acquires __cond_releases __copy "
    "__counted_by __counted_by_be __counted_by_le __deprecated __diagnose_as __format_arg __guarded_by __malloc "
    "__must_hold __no_sanitize __nonnull __nonstring __printf __realloc_size __releases __scanf __section"
)
_ARGUMENTS = rb"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"


def _one_of(text: str) -> bytes:
    """Return an expression for any of some words; what begins with __, nearly all, is tried at such words only."""
    words = text.split()
    common = [word[2:] for word in words if word.startswith("__")]
    others = [word for word in words if not word.startswith("__")]
    return "|".join((f"__(?:{'|'.join(common)})", *others)).encode()


_ANNOTATION = re.compile(
    rb"\b(?:(?:%s)\s*%s|(?:%s)\b(?!\s*[(=\[]))" % (_one_of(_WITH_ARGUMENTS), _ARGUMENTS, _one_of(_PLAIN))
)
_INLINE = re.compile(rb"\b(?:__(?:always_inline|inline(?:__)?|FORTIFY_INLINE|no_kasan_or_inline)|nokprobe_inline)\b")
_SIGNED = re.compile(rb"\b__(const|volatile|restrict|extension)(?:__)?\b")
# DECLARE_FLEX_ARRAY(TYPE, NAME) and DECLARE_BITMAP(NAME, BITS) are members; others in capitals at the beginning of a
# line stand for definitions of their own making.
_FLEXIBLE = re.compile(rb"\b(?:__)?DECLARE_FLEX_ARRAY\(\s*([^,()]+),\s*(\w+)\s*\)")
_BITMAP = re.compile(rb"\bDECLARE_BITMAP\(\s*(\w+),\s*([^;]{1,200}?)\)\s*;")
_PER_CPU = re.compile(rb"\bDECLARE_PER_CPU\w*\(\s*([^(),]+),\s*(\w+)\s*\)")
_WRAPPED = re.compile(
    rb"^[ \t]*(?:ACPI_\w+_RETURN_\w+|INDIRECT_CALLABLE_DECLARE)[ \t]*(" + _ARGUMENTS + rb")[ \t]*;?", re.MULTILINE
)
_CALL = re.compile(rb"^[A-Z][A-Z0-9_]{3,}\s*" + _ARGUMENTS + rb"[ \t]*;?", re.MULTILINE)
# build_mmio_read(readb, "b", unsigned char, "=q", :"memory"): a line of its own that makes a function.
_MAKER = re.compile(rb"(?:(?<=[;})]\n)|(?<=\n\n))\w+\s*" + _ARGUMENTS + rb"[ \t]*(?=\n)(?!\s*[{;])")
_GROUP = re.compile(rb"\b(?:__)?struct_group(_tagged|_attr)?\s*\(")
_NESTED = re.compile(rb"\b(?:struct|union|enum)\s+\w+\s*\{")

# Spaces that the kernel's style has not.
_BEFORE, _AFTER = re.compile(r" ([,;)\]])"), re.compile(r"([(\[]) ")
# What is called so is left of something that was not understood.
_KEYWORDS = re.compile(r"const|do|else|enum|extern|for|if|inline|return|sizeof|static|struct|switch|union|void|while")
_DEEPEST = 200
"""Levels of the syntax tree that are looked at."""
_LARGEST = 1_000_000
"""Bytes without comments and directives; the header with most in Linux 6.12 has 310,000."""
_LONGEST = 60_000
"""Characters of a declaration that are kept."""


class Declaration(NamedTuple):
    """Something that a header declares."""

    name: str
    kind: Kind
    text: str
    """In one line, without comments and annotations; without the body of a function; for a macro, `NAME(PARAMETERS)`
    and what it stands for; for an enumerator, the name of its enum."""
    file: str
    line: int


def declarations(code: bytes, file: str) -> tuple[Declaration, ...]:
    """Return what a header without comments and directives declares; nothing if it is too large for one."""
    if not code.strip() or len(code) > _LARGEST:
        return ()
    plain = without_annotations(code)
    found: list[Declaration] = []
    for node in _top_level(_parser().parse(plain).root_node):
        found += _declared(node, plain, file)
    return tuple(found)


@functools.cache
def _parser() -> Parser:
    return Parser(Language(language()))


def parse(code: bytes) -> Node:
    """Return the syntax tree of C code."""
    return _parser().parse(code).root_node


def without_annotations(code: bytes) -> bytes:
    """Return code without annotations that no caller sees; lines stay where they are."""
    code = _ANNOTATION.sub(_blank, code)
    code = _INLINE.sub(b"inline", code)
    code = _SIGNED.sub(rb"\1", code).replace(b" extension ", b" ")
    if b"DECLARE_" in code:
        code = _FLEXIBLE.sub(rb"\1 \2[]", code)
        code = _BITMAP.sub(rb"unsigned long \1[\2];", code)
        code = _PER_CPU.sub(rb"extern \1 \2", code)
    if b"_RETURN_" in code or b"INDIRECT_CALLABLE" in code:
        code = _WRAPPED.sub(lambda found: found[1][1:-1] + b";", code)
    code = _MAKER.sub(_blank, _CALL.sub(_blank, code))
    return _ungrouped(code) if b"struct_group" in code else code


def _blank(found: re.Match[bytes]) -> bytes:
    return b" " + b"\n" * found[0].count(b"\n")


def _ungrouped(code: bytes) -> bytes:
    """Turn struct_group(NAME, MEMBERS) into an anonymous struct (include/linux/stddef.h)."""
    for _ in range(100):
        found = _GROUP.search(code)
        if not found:
            break
        skipped = {None: 1, b"_tagged": 2, b"_attr": 2}[found[1]]
        start = found.end()
        for _ in range(skipped):
            start = code.find(b",", start) + 1
        end = _closing(code, found.end())
        if not 0 < start <= end:
            break
        code = code[: found.start()] + b"struct {" + code[start:end] + b"}" + code[end + 1 :]
    return code


def _closing(code: bytes, at: int) -> int:
    """Return where the parenthesis ends that was opened before `at`; -1 if nowhere."""
    depth = 1
    for found in re.compile(rb"[()]").finditer(code, at):
        depth += 1 if found[0] == b"(" else -1
        if depth == 0:
            return found.start()
    return -1


def _top_level(root: Node) -> Iterator[Node]:
    """Yield declarations and definitions outside of functions; of what was not understood, what is within."""
    stack = [(node, 0) for node in reversed(root.children)]
    while stack:
        node, depth = stack.pop()
        if node.type in ("ERROR", "linkage_specification", "declaration_list") and depth < _DEEPEST:
            stack += [(child, depth + 1) for child in reversed(node.children)]
        elif node.is_named:
            yield node


def _declared(node: Node, code: bytes, file: str) -> Iterator[Declaration]:
    if node.type in ("declaration", "type_definition", "function_definition"):
        yield from _declarators(node, code, file)
        specifier = node.child_by_field_name("type")
    else:
        specifier = node
    if specifier is not None and specifier.type in ("struct_specifier", "union_specifier", "enum_specifier"):
        yield from _tagged(specifier, code, file)


def _declarators(node: Node, code: bytes, file: str) -> Iterator[Declaration]:
    body = node.child_by_field_name("body")
    text = one_line(code[node.start_byte : body.start_byte if body else node.end_byte])
    for declarator in node.children_by_field_name("declarator"):
        name, is_function = declared_name(declarator)
        if not name or _KEYWORDS.fullmatch(name):
            continue
        kind: Kind = "variable"
        if node.type == "type_definition":
            kind = "typedef"
        elif is_function:
            kind = "inline" if body else "function"
        yield Declaration(name, kind, text.rstrip("; "), file, declarator.start_point[0] + 1)


def declared_name(declarator: Node) -> tuple[str, bool]:
    """Return the name that a declarator declares, and whether it is a function's."""
    is_function = False
    for _ in range(_DEEPEST):
        if declarator.type in ("identifier", "field_identifier", "type_identifier"):
            return (declarator.text or b"").decode("latin-1"), is_function
        inner = declarator.child_by_field_name("declarator")
        if inner is None:
            inner = next((child for child in declarator.named_children if _is_declarator(child)), None)
        if inner is None:
            return "", False
        if declarator.type == "function_declarator":
            is_function = inner.type == "identifier"
        declarator = inner
    return "", False


def _is_declarator(node: Node) -> bool:
    return node.type.endswith("declarator") or node.type in ("identifier", "field_identifier", "type_identifier")


def _tagged(specifier: Node, code: bytes, file: str) -> Iterator[Declaration]:
    """Yield a struct, union or enum that is defined here, and those defined within."""
    stack = [specifier]
    while stack:
        node = stack.pop()
        body = node.child_by_field_name("body")
        if body is None:
            continue
        kind = _kind_of(node)
        name = node.child_by_field_name("name")
        tag = (name.text or b"").decode("latin-1") if name else ""
        if name:
            line = node.start_point[0] + 1
            yield Declaration(tag, kind, one_line(code[node.start_byte : node.end_byte]), file, line)
        if kind == "enum":
            yield from _enumerators(body, tag, file)
        elif _NESTED.search(code, body.start_byte, body.end_byte) or b"enum" in code[body.start_byte : body.end_byte]:
            stack += _types_within(body)


def _kind_of(specifier: Node) -> Kind:
    return {"struct_specifier": "struct", "union_specifier": "union"}.get(specifier.type, "enum")  # type: ignore[return-value]


def _types_within(body: Node) -> Iterator[Node]:
    for member in body.named_children:
        found = member.child_by_field_name("type")
        if found is not None and found.type in ("struct_specifier", "union_specifier", "enum_specifier"):
            yield found


def _enumerators(body: Node, tag: str, file: str) -> Iterator[Declaration]:
    for child in body.named_children:
        name = child.child_by_field_name("name") if child.type == "enumerator" else None
        if name is not None:
            text = (name.text or b"").decode("latin-1")
            yield Declaration(text, "enumerator", tag, file, child.start_point[0] + 1)


def one_line(code: bytes) -> str:
    """Return code in one line, with single spaces, spaced as the kernel spells it."""
    text = " ".join(code[: 4 * _LONGEST].decode("utf-8", "replace").split())[:_LONGEST]
    return _BEFORE.sub(r"\1", _AFTER.sub(r"\1", text))
