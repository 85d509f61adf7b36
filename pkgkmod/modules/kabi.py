"""Which symbols that modules import are not on the kABI lists of a kernel tree, and what to write for those."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pkgkmod.errors import InputError
from pkgkmod.modules.kabifiles import Importer
from pkgkmod.modules.kabilists import Export, KabiList, Listed, is_symbol
from pkgkmod.progress import escape_controls

State = Literal["new", "listed", "conflict", "unknown"]

_LONG_NAME = 30  # characters; the first line of a commit message should have at most 72
_REASON = """These modules import symbols that are not on the kABI list yet. On the list,
the symbols stay as they are, so that the modules load on later kernels, too."""


@dataclass(frozen=True)
class Use:
    """A symbol that modules of one architecture import, with the CRC that each was compiled with (None: no CRC)."""

    symbol: str
    modules: Mapping[str, int | None]


@dataclass(frozen=True)
class Finding:
    """What is to be done about a symbol, and why."""

    arch: str
    use: Use
    state: State
    export: Export | None = None
    """As the kernel exports it; None if it does not."""
    reason: str = ""
    missing: tuple[str, ...] = ()
    """The lists that it is to be put on."""
    clash: Literal["", "module", "list", "other"] = ""
    """What a conflict is with: a module's CRC, or how the list has the symbol, or another list."""


def uses_of(importers: Sequence[Importer]) -> dict[str, tuple[Use, ...]]:
    """Return, by architecture, what modules import that none of them exports; raise InputError for a name that is no
    symbol's."""
    found: dict[str, dict[str, dict[str, int | None]]] = {}
    for one in importers:
        own = {symbol for other in importers if other.arch == one.arch for symbol in other.module.exports}
        symbols = found.setdefault(one.arch, {})
        for symbol in one.module.imports - own:
            if not is_symbol(symbol):
                raise InputError(
                    f"{one.label} imports '{escape_controls(symbol[:80], keep='')}', which is no C name",
                    hint="such a name becomes no file and no line of a list; is the module what it should be?",
                )
            symbols.setdefault(symbol, {})[one.label] = (one.module.versions or {}).get(symbol)
    return {arch: tuple(Use(symbol, modules) for symbol, modules in by.items()) for arch, by in found.items()}


def compare(
    arch: str,
    uses: Iterable[Use],
    exports: Mapping[str, Export],
    lists: Sequence[KabiList],
    others: Sequence[KabiList] = (),
) -> list[Finding]:
    """Tell for each symbol whether it is listed, new, in conflict, or unknown to the kernel.

    `lists` are those to add to; what is on one of `others` needs no addition.
    """
    return [_compare(arch, use, exports.get(use.symbol), lists, others) for use in sorted(uses, key=lambda u: u.symbol)]


def _compare(
    arch: str, use: Use, export: Export | None, lists: Sequence[KabiList], others: Sequence[KabiList]
) -> Finding:
    if export is None:
        return Finding(arch, use, "unknown", reason="the kernel does not export it")
    for module, crc in sorted(use.modules.items()):
        if crc is not None and crc != export.crc:
            reason = f"{module} was built for 0x{crc:08x}, the kernel has 0x{export.crc:08x}"
            return Finding(arch, use, "conflict", export, reason, clash="module")
    # Off another list again is as never on it.
    elsewhere = [(one.path, found) for one in others if (found := one.find(use.symbol)) and not found.gone]
    for path, listed in elsewhere:
        if reason := _difference(listed, export):
            return Finding(arch, use, "conflict", export, f"{path}: {reason}", clash="other")
    if elsewhere:
        return Finding(arch, use, "listed", export, elsewhere[0][0])
    here = {one.path: one.find(use.symbol) for one in lists}
    differences = {path: _difference(listed, export) for path, listed in here.items() if listed}
    missing = tuple(path for path in here if differences.get(path, "absent"))
    reasons = [f"{path}: {reason}" for path, reason in differences.items() if reason]
    if reasons:
        return Finding(arch, use, "conflict", export, "; ".join(reasons), missing, clash="list")
    return Finding(arch, use, "new" if missing else "listed", export, missing=missing)


def _difference(listed: Listed, export: Export) -> str:
    """Return how a list's entry differs from what the kernel exports; empty if it does not."""
    if listed.gone:
        return listed.gone
    if listed.export is None:
        return ""
    # CentOS Stream 9 lists symbols with a CRC of zeros until its review of them is over.
    if listed.export.crc not in (0, export.crc):
        return f"listed with 0x{listed.export.crc:08x}, the kernel has 0x{export.crc:08x}"
    for name, ours, theirs in (
        ("module", export.module, listed.export.module),
        ("kind", export.kind, listed.export.kind),
        ("namespace", export.namespace or "-", listed.export.namespace or "-"),
    ):
        if ours != theirs:
            return f"listed with the {name} {theirs}, the kernel has {ours}"
    return ""


def changes(findings: Iterable[Finding], lists: Mapping[str, KabiList], *, overwrite: bool) -> dict[str, bytes]:
    """Return the files that put the new symbols on their lists, and with `overwrite` mend the entries that differ."""
    wanted: dict[str, list[Export]] = {}
    for finding in findings:
        mended = overwrite and finding.state == "conflict" and finding.clash == "list"
        if finding.export and (finding.state == "new" or mended):
            for path in finding.missing:
                wanted.setdefault(path, []).append(finding.export)
    files: dict[str, bytes] = {}
    for path, exports in wanted.items():
        if path in lists:
            files |= lists[path].with_symbols(exports)
    return files


def commit_message(new: Sequence[Finding], names: Sequence[str], *, reason: str, signature: str) -> str:
    """Return the message of a commit that lists symbols: what, why, for which modules, and who signs it off."""
    symbols = count_symbols(len({finding.use.symbol for finding in new}))
    who = names[0] + " uses" if len(names) == 1 and len(names[0]) <= _LONG_NAME else f"{len(names)} modules use"
    parts = [f"kabi: list {symbols} that {who}", _paragraphs(reason or _REASON)]
    for arch in sorted({finding.arch for finding in new}):
        here = [finding for finding in new if finding.arch == arch]
        modules = sorted({module for finding in here for module in finding.use.modules})
        width = max(len(finding.use.symbol) for finding in here)
        lines = [f"  {f.use.symbol:{width}}  0x{f.export.crc:08x}  {f.export.module}" for f in here if f.export]
        parts.append("\n".join([f"{arch}, for {', '.join(modules)}:", "", *lines]))
    return "\n\n".join([*parts, signature]) + "\n"


def count_symbols(number: int) -> str:
    """Return a number of symbols in words."""
    return f"{number} symbol{'' if number == 1 else 's'}"


def _paragraphs(text: str) -> str:
    """Return a packager's words as a commit message may hold them.

    `git am` would end the message at a line that looks like the beginning of a patch.
    """
    lines = [escape_controls(line.rstrip(), keep="\t") for line in text.strip().splitlines()]
    return "\n".join(f" {line}" if line.startswith(("---", "diff ", "Index: ", "From ")) else line for line in lines)
