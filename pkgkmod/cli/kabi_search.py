"""What update_kabi does: which symbols are new on a kernel's kABI lists, and which cannot be listed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkgkmod.errors import InputError, UsageError
from pkgkmod.modules.kabi import Finding, compare, count_symbols, uses_of
from pkgkmod.modules.kabifiles import MACHINES, Importer, releases_of
from pkgkmod.modules.kabilists import (
    FOLDERS,
    KabiList,
    SymbolFolder,
    minor_release,
    open_lists,
    parse_list,
    read_exports,
)
from pkgkmod.progress import Progress

if TYPE_CHECKING:
    from pkgkmod.sources.kabitree import KernelTree

_SHOWN = 20  # lines of a list in a message
# Where Red Hat's kernel-abi-stablelists puts the lists; the older name is that of EL 7 and the first EL 8.
_INSTALLED = ("/lib/modules/kabi-current/kabi_stablelist_{arch}", "/lib/modules/kabi-current/kabi_whitelist_{arch}")
# Red Hat's kernel-core has the second, its kernel-devel the third.
_SYMVERS = (
    "/lib/modules/{release}/build/Module.symvers",
    "/lib/modules/{release}/symvers.gz",
    "/usr/src/kernels/{release}/Module.symvers",
    "/boot/symvers-{release}.gz",
)


@dataclass(frozen=True)
class Modules:
    """The modules, and what the project knows of their kernels."""

    importers: tuple[Importer, ...]
    symvers: Mapping[str, Path] = field(default_factory=dict)
    """By release."""


@dataclass(frozen=True)
class Lists:
    """The kABI lists of an architecture: those to add to, and others that count."""

    lists: tuple[KabiList, ...]
    others: tuple[KabiList, ...]


class Search:
    """The search for symbols that are not listed: `given` is the command line, `tree` None where there is none."""

    def __init__(self, given: Mapping[str, Any], progress: Progress, modules: Modules, tree: KernelTree | None) -> None:
        self.given = given
        self.progress = progress
        self.modules = modules
        self.tree = tree
        self.lists: dict[str, KabiList] = {}
        """Those that symbols can be added to, by path."""

    def findings(self, base: str, head: str) -> list[Finding]:
        """Look at all symbols: what is on the lists in the commit `base`, or in `head`, is listed."""
        found: list[Finding] = []
        for one in self.modules.importers:
            if one.module.versions is None:
                self.progress.warning(f"{one.label} has no CRCs: whether it was built for this kernel cannot be told")
        for arch, uses in sorted(uses_of(self.modules.importers).items()):
            symbols = {use.symbol for use in uses}
            exports = read_exports(self._symvers_of(arch), symbols)
            lists = self._lists_of(arch, sorted(symbols), base, head)
            self.lists |= {one.path: one for one in lists.lists}
            here = compare(arch, uses, exports, lists.lists, lists.others)
            found += here
            counts: Counter[str] = Counter(finding.state for finding in here)
            words = {"listed": "listed already", "new": "new", "conflict": "in conflict", "unknown": "unknown"}
            parts = [f"{counts[state]} {word}" for state, word in words.items() if counts[state]]
            self.progress.info(f"{arch}: {count_symbols(len(here))} imported: {', '.join(parts)}")
            if self.progress.verbose and counts["listed"]:
                names = [finding.use.symbol for finding in here if finding.state == "listed"]
                self.progress.info(f"listed already: {', '.join(names)}")
        return found

    def _symvers_of(self, arch: str) -> Path:
        several = len({one.arch for one in self.modules.importers}) > 1
        if named := _for_arch(self.given["symvers"], arch, "--symvers", several=several):
            return named[-1]
        releases = releases_of(self.modules.importers, arch)
        if len(releases) != 1:
            raise UsageError(
                f"the {arch} modules were built for {len(releases)} kernels, and a kABI list is for one",
                details="\n".join(releases[:_SHOWN]),
                hint="choose one with --kernel, or name its Module.symvers with --symvers",
            )
        release = releases[0]
        places = [Path(place.format(release=release)) for place in _SYMVERS] if "/" not in release else []
        places = [self.modules.symvers.get(release, Path("/nonexistent")), *places]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UsageError(
                f"what the kernel {release} exports is not known",
                details="it is not installed on this machine",
                hint=f"name its Module.symvers with --symvers {arch}=FILE",
            )
        return found

    def _lists_of(self, arch: str, symbols: Sequence[str], base: str, head: str) -> Lists:
        several = len({one.arch for one in self.modules.importers}) > 1
        paths = _for_arch(self.given["stable_list"], arch, "--stable-list", several=several)
        if self.tree is None and not paths:
            paths = [place for name in _INSTALLED if (place := Path(name.format(arch=arch))).is_file()][:1]
        others = [parse_list(str(path), _read(path)) for path in paths]
        if self.tree is None:
            if not others:
                raise UsageError(
                    f"there is no kABI list for {arch} to compare with",
                    hint="name the kernel's git repository with --kernel-tree, or a list with --stable-list",
                )
            return Lists((SymbolFolder(f"kabi_{arch}", {}, None),), tuple(others))
        folder, snapshot = _folder(self.given["kabi_dir"]), self.tree.at(base)
        minor = self.given["minor"] if self.given["minor"] is not None else minor_release(snapshot)
        lists = open_lists(snapshot, arch, symbols, folder=folder, minor=minor)
        if not lists:
            raise InputError(
                f"there is no kABI list in {self.tree.folder}",
                details=f"looked in {' and '.join(FOLDERS)}",
                hint="name the folder with --kabi-dir; one that is not there is made",
            )
        for one in lists:
            if isinstance(one, SymbolFolder) and snapshot.names(one.path) is None:
                self.progress.warning(f"{one.path} is not in the kernel tree yet: it is made")
        if folder:  # of the driver update programme's own list, say: what is on the main one is stable anyway
            paths_here = {one.path for one in lists}
            others += [one for one in open_lists(snapshot, arch, symbols, minor=minor) if one.path not in paths_here]
        if head != base:
            others += open_lists(self.tree.at(head), arch, symbols, folder=folder, minor=minor)
        return Lists(lists, tuple(others))

    def settled(self, found: Sequence[Finding]) -> list[Finding]:
        """Return what is to be listed; raise InputError for conflicts and unknown symbols, or warn of them."""
        overwrite, lenient = self.given["overwrite"], not self.given["strict"]
        wanted: list[Finding] = []
        left: list[Finding] = []
        for finding in found:
            if finding.state == "new" or (finding.clash == "list" and overwrite):
                wanted.append(finding)
            elif finding.clash in ("list", "other") and (lenient or overwrite is False):
                self.progress.warning(f"left as it is: {_reason(finding)}")
            elif finding.state != "listed" and lenient:
                self.progress.warning(f"left out: {_reason(finding)}")
            elif finding.state != "listed":
                left.append(finding)
        if left:
            raise _refusal(left)
        return wanted


def _folder(given: str | None) -> str | None:
    """Return the folder of kABI lists that was asked for, with `{arch}` where the machine's name is to be.

    ddiskit was given the folder of the symbols' files itself, such as .../kabi_x86_64.
    """
    if given is None:
        return None
    parts = given.strip("/").split("/")
    if (
        given.startswith("/")
        or not given.isprintable()
        or any(p in ("", ".", "..") or p.lower() == ".git" for p in parts)
    ):
        raise UsageError(
            f"not a folder of a kernel tree: {given!r}",
            hint="give its path in the tree, such as redhat/kabi/kabi-module",
        )
    if parts[-1].startswith("kabi_") and parts[-1].removeprefix("kabi_") in MACHINES:
        parts[-1] = "kabi_{arch}"
    return "/".join(parts)


def _for_arch(given: Sequence[str], arch: str, flag: str, *, several: bool) -> list[Path]:
    """Return the files for an architecture, out of `FILE`, `ARCH=FILE`, and names that hold `{arch}`."""
    found = []
    for text in given:
        named, equals, rest = text.partition("=")
        if equals and named in MACHINES:
            found += [rest] if named == arch else []
        elif "{arch}" in text:
            found.append(text.replace("{arch}", arch))
        elif several:
            raise UsageError(
                f"{flag} {text}: which architecture is it for?",
                hint=f"say {flag} {arch}={text}, and likewise for others",
            )
        else:
            found.append(text)
    return [Path(os.path.expanduser(text)) for text in found]  # noqa: PTH111 (Path's raises for unknown users)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read", details=error.strerror or str(error)) from None


def _reason(finding: Finding) -> str:
    used_by = ", ".join(sorted(finding.use.modules))
    return f"{finding.use.symbol} ({finding.arch}, {used_by}): {finding.reason}"


def _refusal(left: Sequence[Finding]) -> InputError:
    """Return the error that names the symbols that cannot be listed."""
    lines = [_reason(finding) for finding in left[:_SHOWN]]
    if len(left) > _SHOWN:
        lines.append(f"and {len(left) - _SHOWN} more")
    clashes = {finding.clash if finding.state == "conflict" else "unknown" for finding in left}
    hints = {
        "module": "build the modules for the kernel of the list; -B leaves such symbols out",
        "list": "--overwrite mends these entries, --no-overwrite leaves them as they are",
        "other": "--no-overwrite leaves them as they are",
        "unknown": "name the modules that export them, too; -B leaves such symbols out",
    }
    return InputError(
        f"{count_symbols(len(left))} cannot be listed",
        details="\n".join(lines),
        hint="; ".join(text for clash, text in hints.items() if clash in clashes),
    )
