"""What an RPM of kernel modules needs and offers, in words, beside what a kernel has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pkgkmod.errors import InputError
from pkgkmod.formats.rpmheader import Header, MalformedError
from pkgkmod.formats.rpmpackage import RpmPackage, read_package, visit_modules
from pkgkmod.modules.kmod_deps import Export, Module, ModuleError, read_module, read_symvers
from pkgkmod.modules.symboluse import forbidden

State = Literal["same", "other", "missing", "refused", "own", "provided", "not known"]
"""Of a symbol: the kernel has it; with another CRC; not at all; not for this module; a module of the package has it; a
module of another package has it, which was given with it."""

BAD: tuple[State, ...] = ("other", "missing", "refused")

# rpm, include/rpm/rpmtag.h and rpmds.h.
_RELATIONS = {
    "requires": (1049, 1048, 1050),
    "provides": (1047, 1112, 1113),
    "conflicts": (1054, 1053, 1055),
    "supplements": (5052, 5054, 5053),
}
_SIGNS = {2: "<", 4: ">", 8: "=", 10: "<=", 12: ">="}
_MOMENTS = {5: "%posttrans", 7: "%pretrans", 9: "%pre", 10: "%post", 11: "%preun", 12: "%postun"}
"""By bit of the flags."""
_SCRIPTLETS = {
    "%pretrans": (1151, 1153),
    "%pre": (1023, 1085),
    "%post": (1024, 1086),
    "%preun": (1025, 1087),
    "%postun": (1026, 1088),
    "%posttrans": (1152, 1154),
}
_TOOLS = re.compile(r"(?<![\w.-])(depmod|weak-modules2?|dracut|kmp-[a-z]+|update-initramfs|mokutil)\b")
_GROUPED = re.compile(r"(kernel|ksym|kmod|modalias|firmware|rpmlib)\(")
_SYMBOL = re.compile(r"(?:kernel|ksym)\((?:[^:()]*:)?([^()]+)\) = (?:0x)?([0-9a-f]+)")
_WORDS: tuple[tuple[str, str], ...] = (
    (r"kernel\(", "symbols of the kernel, each with its CRC"),
    (r"ksym\(", "symbols, each with its CRC"),
    (r"kmod\(", "the modules, by file"),
    (r"modalias\(", "the hardware that it drives"),
    (r"firmware\(", "firmware files"),
    (r"rpmlib\(", "features of rpm itself"),
    (r"\(?kernel-uname-r\b", "the kernel, by its release"),
    (r"kernel-modules\b|installer-enhancement\b", "asked for by installers that read a driver disk"),
    (r"kernel-modules-for-kernel\b", "the kernel that these modules are for"),
    (r"multiversion\(kernel\)", "several versions may be installed at a time"),
    (r"kernel(-[a-z0-9]+)*( |$)", "the kernel's package"),
    (r"\S*/depmod$", "lists modules and what they need for modprobe"),
    (r"\S*/weak-modules", "links the modules into kernels that have the same symbols"),
    (r"\S*/dracut$|dracut\b", "puts the modules into the initramfs"),
    (r"/bin/sh$|/usr/bin/sh$", "runs the scriptlets"),
    (r"\S+-firmware\b", "the firmware of the driver"),
    (r"\S+-kmod-common\b", "what the packages of all kernels share"),
    (r"\S+-(kmod|kmp)\b", "the driver, whatever the package is called"),
    (r"config\(", "the package's configuration files"),
    (r"\(", "several of these together"),
    (r"suse-kernel-rpm-scriptlets\b", "SUSE's scriptlets for kernel modules"),
)  # fmt: skip


@dataclass(frozen=True)
class KernelSymbols:
    """What a kernel exports."""

    release: str
    """Empty if it is not known."""
    place: str
    """The file that says so."""
    exports: Mapping[str, Export]


@dataclass(frozen=True)
class SymbolUse:
    """A symbol that a module takes from elsewhere."""

    symbol: str
    needed: int | None
    """CRC; None for a kernel without CRCs."""
    there: int | None
    """CRC of the one that is there."""
    state: State
    reason: str = ""
    """Why it is refused."""


@dataclass(frozen=True)
class ModuleUse:
    """A module of the package."""

    path: str
    release: str
    """The kernel it was built for."""
    has_crcs: bool
    """False: it loads into the kernel of that release alone."""
    symbols: tuple[SymbolUse, ...]
    exports: int
    firmware: tuple[str, ...]

    def in_state(self, *states: State) -> tuple[SymbolUse, ...]:
        """Return the symbols in any of these states."""
        return tuple(use for use in self.symbols if use.state in states)


@dataclass(frozen=True)
class Relation:
    """A dependency of the package, or several of one kind."""

    texts: tuple[str, ...]
    words: str
    """What it is about; empty for one that is not known."""
    moments: tuple[str, ...]
    """Scriptlets that it is for."""
    unmet: tuple[str, ...]
    """Those of the texts that the kernel does not answer."""


@dataclass(frozen=True)
class Explanation:
    """All that is to be said of a package."""

    package: str
    """Name, version, release and machine."""
    summary: str
    kernel: KernelSymbols | None
    modules: tuple[ModuleUse, ...]
    relations: Mapping[str, tuple[Relation, ...]]
    """By kind: requires, provides, conflicts, supplements."""
    scriptlets: Mapping[str, tuple[str, ...]]
    """Programs about modules that each scriptlet calls."""

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """Return why its modules would not load into the kernel, a line each."""
        found = []
        for module in self.modules:
            name = module.path.rpartition("/")[2]
            for use in module.in_state(*BAD):
                found.append(f"{name}: {problem(use)}")
            if not module.has_crcs and self.kernel and self.kernel.release not in ("", module.release):
                found.append(f"{name}: it has no CRCs, and was built for {module.release}")
        unmet = [text for one in self.relations["requires"] for text in one.unmet if not _SYMBOL.match(text)]
        return (*found, *(f"it requires {text}" for text in unmet))


def problem(use: SymbolUse) -> str:
    """Say what is wrong with a symbol."""
    if use.state == "other":
        return f"{use.symbol}: CRC {crc(use.needed)} is needed, {crc(use.there)} is there"
    return f"{use.symbol}: {use.reason or 'not there'}"


def crc(number: int | None) -> str:
    """Return a CRC as Module.symvers has it."""
    return "none" if number is None else f"0x{number:08x}"


def read_kernel_symbols(release: str, symvers: Path) -> KernelSymbols:
    """Read what a kernel exports; raise InputError if the file is no Module.symvers."""
    try:
        return KernelSymbols(release, str(symvers), read_symvers(str(symvers)))
    except ModuleError as error:
        raise InputError(f"{symvers} cannot be read: {error.reason}") from None


@dataclass(frozen=True)
class Contents:
    """A package and its modules."""

    package: RpmPackage
    modules: tuple[Module, ...]

    @property
    def releases(self) -> tuple[str, ...]:
        """Return the kernels that the modules were built for."""
        return tuple(dict.fromkeys(module.release for module in self.modules if module.release))


def read_contents(rpm: Path, scratch: Path) -> Contents:
    """Read a package and its modules; raise InputError if it is none, or a source package, or one is damaged.

    `scratch` is an empty folder. Names in the package decide no path there.
    """
    package = read_package(rpm)
    if package.is_source:
        raise InputError(f"{rpm} is a source package", hint="explain the packages that are built of it")
    modules: list[Module] = []

    def visit(path: str, content: bytes) -> None:
        file = scratch / f"{len(modules)}{re.sub(r'.*(?=[.]ko)', '', path.rpartition('/')[2])}"
        file.write_bytes(content)
        try:
            modules.append(read_module(str(file))._replace(path=path))
        except ModuleError as error:
            raise InputError(f"{rpm}: {path.rpartition('/')[2]}: {error.reason}") from None
        finally:
            file.unlink()

    visit_modules(package, visit)
    return Contents(package, tuple(sorted(modules, key=lambda module: module.path)))


@dataclass(frozen=True)
class _Offers:
    """What is there besides the kernel: symbols of the package's own modules, and of those of other packages."""

    own: Mapping[str, int | None]
    provided: Mapping[str, int | None]

    def crc(self, symbol: str) -> int | None:
        return self.own[symbol] if symbol in self.own else self.provided.get(symbol)

    def state(self, symbol: str) -> State | None:
        return "own" if symbol in self.own else "provided" if symbol in self.provided else None


def explain(contents: Contents, kernel: KernelSymbols | None, providers: Sequence[Module] = ()) -> Explanation:
    """Compare what a package needs with what a kernel has, and modules of other packages, `providers`.

    Raise InputError for a header that makes no sense.
    """
    offers = _Offers(_exports(contents.modules), _exports(providers))
    header = contents.package.header
    try:
        name, version, release, arch, summary = (header.text(tag) for tag in (1000, 1001, 1002, 1022, 1004))
        return Explanation(
            package=f"{name}-{version}-{release}.{arch}",
            summary=summary,
            kernel=kernel,
            modules=tuple(_module_use(module, kernel, offers) for module in contents.modules),
            relations={kind: _relations(header, kind, kernel, offers) for kind in _RELATIONS},
            scriptlets=_scriptlets(header),
        )
    except (MalformedError, ValueError) as error:
        raise InputError(f"{contents.package.path} cannot be read as an RPM", details=str(error)) from None


def _exports(modules: Sequence[Module]) -> dict[str, int | None]:
    return {symbol: number for module in modules for symbol, number in module.exports.items()}


def _module_use(module: Module, kernel: KernelSymbols | None, offers: _Offers) -> ModuleUse:
    versions = module.versions or {}
    # It can do without a weak symbol, but not with another one.
    optional = module.weak.difference(offers.own, offers.provided, kernel.exports if kernel else ())
    symbols = sorted(module.imports.difference(optional))
    return ModuleUse(
        path=module.path,
        release=module.release,
        has_crcs=module.versions is not None,
        symbols=tuple(_symbol_use(symbol, versions.get(symbol), module, kernel, offers) for symbol in symbols),
        exports=len(module.exports),
        firmware=tuple(module.info("firmware")),
    )


def _symbol_use(
    symbol: str, needed: int | None, module: Module, kernel: KernelSymbols | None, offers: _Offers
) -> SymbolUse:
    if state := offers.state(symbol):
        there = offers.crc(symbol)
        return SymbolUse(symbol, needed, there, state if needed is None or there in (None, needed) else "other")
    if kernel is None:
        return SymbolUse(symbol, needed, None, "not known")
    export = kernel.exports.get(symbol)
    if export is None:
        return SymbolUse(symbol, needed, None, "missing")
    if needed is not None and export.crc != needed:
        return SymbolUse(symbol, needed, export.crc, "other")
    reason = forbidden(export, module)
    return SymbolUse(symbol, needed, export.crc, "refused" if reason else "same", reason)


def _relations(header: Header, kind: str, kernel: KernelSymbols | None, offers: _Offers) -> tuple[Relation, ...]:
    groups: dict[tuple[str, str], list[tuple[str, int]]] = {}
    patterns = ((re.escape(header.text(1000)) + r"(\([\w-]+\))? = ", "the package itself"), *_WORDS)
    for text, flags in _dependencies(header, kind):
        prefix = kind_of[0] if (kind_of := _GROUPED.match(text)) else text
        words = next((words for pattern, words in patterns if re.match(pattern, text)), "")
        groups.setdefault((prefix, words), []).append((text, flags))
    found = []
    for (_, words), members in groups.items():
        texts = tuple(dict.fromkeys(text for text, _ in members))
        moments = {name for _, flags in members for bit, name in _MOMENTS.items() if flags >> bit & 1}
        ordered = tuple(name for name in _SCRIPTLETS if name in moments)
        unmet = tuple(text for text in texts if kind == "requires" and kernel and _is_unmet(text, kernel, offers))
        found.append(Relation(texts, words, ordered, unmet))
    return tuple(found)


def _is_unmet(text: str, kernel: KernelSymbols, offers: _Offers) -> bool:
    """Tell whether a kernel does not answer a requirement; others than those about the kernel are not looked at."""
    if match := _SYMBOL.fullmatch(text):
        symbol, number = match[1], int(match[2], 16)
        there = kernel.exports.get(symbol)
        return number not in (offers.own.get(symbol), offers.provided.get(symbol), there.crc if there else None)
    match = re.fullmatch(r"kernel-uname-r = (\S+)|kernel-uname-r\((\S+)\)", text)
    return bool(match and kernel.release and kernel.release not in match.groups())


def _dependencies(header: Header, kind: str) -> Iterator[tuple[str, int]]:
    """Yield dependencies as rpm prints them, with their flags."""
    names, flags, versions = _RELATIONS[kind]
    if names not in header:
        return
    for name, flag, version in zip(header.texts(names), header.numbers(flags), header.texts(versions), strict=True):
        sign = _SIGNS.get(flag & 14, "")
        yield f"{name} {sign} {version}" if sign and version else name, flag


def _scriptlets(header: Header) -> Mapping[str, tuple[str, ...]]:
    found = {}
    for name, (body, interpreter) in _SCRIPTLETS.items():
        if body in header:
            tools: Sequence[str] = _TOOLS.findall(header.text(body))
            found[name] = tuple(dict.fromkeys(tools))
        elif interpreter in header:
            found[name] = ()
    return found
