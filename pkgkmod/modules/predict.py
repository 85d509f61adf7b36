"""What a kernel does with a module, predicted by the rules that it goes by itself.

They are those of kernel/module/main.c, version.c and signing.c from Linux 5.4 on, in the order in which the kernel
looks: machine, signature, vermagic, then each symbol. All that is wrong is said, not the first thing alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pkgkmod import data
from pkgkmod.model.prediction import Prediction, SymbolTrouble, TroubleKind
from pkgkmod.modules.kabifiles import machine_name
from pkgkmod.modules.kernelside import KernelSide
from pkgkmod.modules.kmod_deps import Export, Module, module_name
from pkgkmod.modules.symboluse import gpl_only, is_gpl, not_imported, reserved
from pkgkmod.modules.vermagic import unknown_layout, vermagic_trouble

_LAYOUT = "module_layout"
"""The symbol whose CRC stands for the structures that make a module (kernel/module/version.c)."""
_KERNEL = "vmlinux"


def predict(
    modules: Sequence[Module],
    kernel: KernelSide,
    providers: Sequence[Module] = (),
    *,
    signed: Callable[[Module], bool] | None = None,
) -> tuple[Prediction, ...]:
    """Return what a kernel does with each of the modules, in their order.

    They may use what the others export, and what `providers` export, which are looked at in the same way, and not
    returned. Of several builds of a module, one uses those for its own kernel. `signed` tells whether the kernel takes
    a module's signature; without it, signatures are not looked at.
    """
    loader = _Loader(tuple(modules), tuple(providers), kernel, signed)
    outcomes = loader.outcomes()
    return tuple(_prediction(module, kernel, outcomes[id(module)]) for module in modules)


def asked_of_kernels(modules: Iterable[Module]) -> frozenset[str]:
    """Return all symbols of a kernel that predictions for these modules depend on."""
    found = {_LAYOUT}
    for module in modules:
        found.update(module.undefined, module.weak, module.versions or (), module.exports)
    return frozenset(found)


@dataclass
class _Outcome:
    """What comes of a module."""

    needs: dict[str, None] = field(default_factory=dict)
    """Names, in load order."""
    troubles: list[SymbolTrouble] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    unknown: str = ""
    """Why nothing is known."""
    closed: str = ""
    """Why it is not under the GPL, as far as the kernel is concerned; empty if it is."""

    @property
    def refused(self) -> bool:
        return bool(self.troubles or self.reasons)


def _prediction(module: Module, kernel: KernelSide, outcome: _Outcome) -> Prediction:
    reasons = (*outcome.reasons, *([outcome.unknown] if outcome.unknown else []))
    return Prediction(
        module=module.name,
        path=module.path,
        built_for=module.release,
        kernel=kernel.uname_r,
        verdict="refused" if outcome.refused else "unknown" if outcome.unknown else "loads",
        needs=tuple(outcome.needs),
        troubles=tuple(outcome.troubles),
        reasons=reasons,
    )


class _Loader:
    """Modules and a kernel, of which some go together."""

    def __init__(
        self,
        modules: tuple[Module, ...],
        providers: tuple[Module, ...],
        kernel: KernelSide,
        signed: Callable[[Module], bool] | None,
    ) -> None:
        self._modules = (*modules, *providers)
        self._kernel = kernel
        self._signed = signed
        self._names = {module.name for module in self._modules}
        self._exporters: dict[str, list[Module]] = {}
        for module in self._modules:
            for symbol in module.exports:
                self._exporters.setdefault(symbol, []).append(module)

    def outcomes(self) -> dict[int, _Outcome]:
        """Return what comes of each module, by its id: those first that others need."""
        found: dict[int, _Outcome] = {}
        waiting = {id(module): module for module in self._modules}
        siblings = {key: self._siblings(module) for key, module in waiting.items()}
        while waiting:
            ready = [key for key in waiting if all(id(one) in found for one in siblings[key].values())]
            if not ready:  # the rest is a circle, and what needs it
                found.update((key, self._circular(siblings[key])) for key in waiting)
                break
            for key in ready:
                found[key] = self._outcome(waiting.pop(key), siblings[key], found)
        return found

    def _siblings(self, module: Module) -> dict[str, Module]:
        """Return the other modules that a module takes symbols from, by symbol."""
        found = {}
        for symbol in sorted(module.undefined | module.weak):
            export = self._kernel.exports.get(symbol)
            if export is None or export.module != _KERNEL:
                others = [one for one in self._exporters.get(symbol, ()) if one.name != module.name]
                if others:
                    found[symbol] = min(others, key=lambda one: self._distance(symbol, module, one))
        return found

    @staticmethod
    def _distance(symbol: str, module: Module, other: Module) -> tuple[bool, bool]:
        """Tell builds apart: the one for the module's own kernel comes first, then one with the CRC that it wants."""
        return other.release != module.release, other.exports[symbol] != (module.versions or {}).get(symbol)

    @staticmethod
    def _circular(siblings: dict[str, Module]) -> _Outcome:
        names = ", ".join(sorted({one.name for one in siblings.values()}))
        return _Outcome(reasons=[f"it needs {names}, which needs itself in the end: neither can be loaded first"])

    def _outcome(self, module: Module, siblings: dict[str, Module], found: dict[int, _Outcome]) -> _Outcome:
        outcome = _Outcome(closed="" if is_gpl(module) else "it is not under the GPL")
        outcome.reasons += self._refusals(module)
        if unknown_layout(module, self._kernel.uname_r, self._kernel.options):
            outcome.unknown = "the kernel lays out structures at random (RANDSTRUCT), and its seed is not known"
        if trouble := self._layout(module):
            outcome.troubles.append(trouble)
        outcome.troubles += self._symbols(module, siblings, outcome)
        self._with_siblings(module, siblings, outcome, found)
        return outcome

    def _refusals(self, module: Module) -> Iterator[str]:
        """Yield why a module is refused in whole, whatever its symbols."""
        kernel, options = self._kernel, self._kernel.options
        machine = machine_name(module.machine, little_endian=module.little_endian)
        if kernel.arch and machine != kernel.arch:
            yield f"it is for the machine {machine}, and the kernel for {kernel.arch}"
            return
        if self._signed and self._option("MODULE_SIG_FORCE") and not self._signed(module):
            yield "the kernel takes signed modules only (MODULE_SIG_FORCE), and this one has no signature that it knows"
        if module.info("livepatch") and options is not None and options.get("LIVEPATCH") != "y":
            yield "it is a live patch, and the kernel takes none (LIVEPATCH)"
        if trouble := vermagic_trouble(module, kernel.uname_r, options, kernel.arch):
            yield trouble
        elif kernel.has_crcs and not self._option("MODULE_FORCE_LOAD"):
            if module.versions is None:
                yield "it has no CRCs, and the kernel wants them"
            if module.exports and all(crc is None for crc in module.exports.values()):
                yield "what it exports has no CRCs, and the kernel wants them"
        if any(name.startswith("module:") for name in module.info("import_ns")):
            yield "it imports a namespace 'module:', which is never imported by name"
        if doubles := sorted(symbol for symbol in module.exports if self._is_the_kernels(symbol)):
            more = f" and {len(doubles) - 1} more" if len(doubles) > 1 else ""
            yield f"it exports {doubles[0]}{more}, which the kernel itself exports"

    def _option(self, name: str) -> bool:
        return self._kernel.options is not None and self._kernel.options.get(name) == "y"

    def _is_the_kernels(self, symbol: str) -> bool:
        export = self._kernel.exports.get(symbol)
        return export is not None and export.module == _KERNEL

    def _layout(self, module: Module) -> SymbolTrouble | None:
        export = self._kernel.exports.get(_LAYOUT)
        return self._crc_trouble(_LAYOUT, module, export.crc) if export else None

    def _symbols(self, module: Module, siblings: dict[str, Module], outcome: _Outcome) -> Iterator[SymbolTrouble]:
        """Yield what is wrong with the symbols that a module takes from elsewhere; note whom it needs of the kernel."""
        owners = set()
        for symbol in sorted(module.undefined | module.weak):
            if symbol in siblings:
                trouble = self._crc_trouble(symbol, module, siblings[symbol].exports[symbol])
            else:
                export = self._kernel.exports.get(symbol)
                trouble = self._kernels(symbol, export, module)
                if export and not trouble and export.module != _KERNEL and not self._is_replaced(export):
                    owners.add(module_name(export.module))
            if trouble:
                yield trouble
        outcome.needs.update(dict.fromkeys(sorted(owners)))

    def _is_replaced(self, export: Export) -> bool:
        """Tell whether one of the modules stands in for the one of the kernel's own that has a symbol."""
        return export.module != _KERNEL and module_name(export.module) in self._names

    def _kernels(self, symbol: str, export: Export | None, module: Module) -> SymbolTrouble | None:
        """Say what is wrong with a symbol that no sibling has (kernel/module/main.c: resolve_symbol)."""
        optional = symbol in module.weak
        if export is None or self._is_replaced(export):
            text = f"only the kernel's own {module_name(export.module)} has it" if export else "nobody exports it"
            return None if optional else _trouble(symbol, "missing", module, None, text)
        if why := gpl_only(export, module):  # looked for where it is not: a weak one is 0 then
            return None if optional else _trouble(symbol, "gpl only", module, export.crc, why)
        if trouble := self._crc_trouble(symbol, module, export.crc):
            return trouble
        if self._option("MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS"):
            return None  # the kernel says it in its log alone
        if why := reserved(export, module):
            return _trouble(symbol, "reserved", module, export.crc, why)
        if why := not_imported(export, module):
            return _trouble(symbol, "namespace", module, export.crc, why)
        return None

    def _crc_trouble(self, symbol: str, module: Module, there: int | None) -> SymbolTrouble | None:
        if not self._kernel.has_crcs or there is None or module.versions is None:
            return None  # without any CRCs, it is refused in whole, or forced
        needed = module.versions.get(symbol)
        if needed is None and self._wants_each_crc:
            return _trouble(symbol, "no crc", module, there, "the module has CRCs, and none for it")
        if needed is None or needed == there:
            return None
        struct = _structs().get(symbol)
        words = f"CRC 0x{needed:08x} is needed, 0x{there:08x} is there"
        return _trouble(symbol, "other crc", module, there, f"{words}; it covers {struct}" if struct else words)

    @functools.cached_property
    def _wants_each_crc(self) -> bool:
        """Tell whether a module that has CRCs is refused for one that it lacks.

        Linux says so in its log, once, and goes on; Debian's kernels refuse it (patch: module: Disable matching missing
        version CRC). Without a .config, the stricter one is assumed.
        """
        return self._kernel.options is None or "Debian" in self._kernel.options.get("CC_VERSION_TEXT", "")

    def _with_siblings(
        self, module: Module, siblings: dict[str, Module], outcome: _Outcome, found: dict[int, _Outcome]
    ) -> None:
        """Add what follows from the modules that this one needs: their needs, refusals and licences."""
        for other in sorted({id(one): one for one in siblings.values()}.values(), key=lambda one: one.name):
            its = found[id(other)]
            outcome.needs.update(its.needs)
            outcome.needs[other.name] = None
            if its.refused:
                outcome.reasons.append(f"it needs {other.name}, which is refused")
            elif its.unknown and not outcome.unknown:
                outcome.unknown = f"it needs {other.name}, of which that is not known"
            if its.closed and not outcome.closed:
                outcome.closed = f"it takes symbols from {other.name}: {its.closed}"
                outcome.troubles += self._shut_out(module, outcome.closed)

    def _shut_out(self, module: Module, closed: str) -> Iterator[SymbolTrouble]:
        """Yield the symbols that a module loses by what it takes from one that is not under the GPL (inherit_taint)."""
        for symbol in sorted(module.undefined):
            export = self._kernel.exports.get(symbol)
            if export and export.kind.endswith("_GPL"):
                yield _trouble(symbol, "gpl only", module, export.crc, f"it is for modules under the GPL; {closed}")


def _trouble(symbol: str, kind: TroubleKind, module: Module, there: int | None, text: str) -> SymbolTrouble:
    needed = (module.versions or {}).get(symbol)
    return SymbolTrouble(symbol=symbol, kind=kind, needed=needed, there=there, text=text)


@functools.cache
def _structs() -> dict[str, str]:
    found: dict[str, str] = data.load("symbolstructs.toml")["structs"]
    return found
