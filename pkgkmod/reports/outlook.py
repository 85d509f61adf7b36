"""What a report says beyond the results: what kernels will do with the modules, and what they are built on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from pkgkmod.config.load import load
from pkgkmod.config.required import project_file
from pkgkmod.errors import PkgkmodError
from pkgkmod.model.kernel import Kernel, KernelRelease
from pkgkmod.model.prediction import Prediction
from pkgkmod.model.project import Project, kernel_name
from pkgkmod.model.requires import Requirement
from pkgkmod.modules.api.diff import risky_symbols
from pkgkmod.modules.kernelside import KernelSide, kernel_side
from pkgkmod.modules.kmod_deps import Module, ModuleError, read_module
from pkgkmod.modules.predict import asked_of_kernels, predict
from pkgkmod.reports.facts import Cell, Dependencies, Facts, KernelRow, Node, RiskySymbol
from pkgkmod.reports.gather import in_order
from pkgkmod.workspace import Workspace


@dataclass
class Builds:
    """The finished modules of a project and of the drivers that it builds on, read when they are asked for."""

    project: Project
    base: Path
    rows: Sequence[KernelRow]
    _read: dict[tuple[str, str], tuple[Module, ...]] = field(default_factory=dict)
    _provided: dict[tuple[str, str], tuple[tuple[str, Module], ...]] = field(default_factory=dict)

    def of(self, row: KernelRow) -> tuple[Module, ...]:
        """Return the modules that were built for a row; those that cannot be read are left out."""
        if row.key not in self._read:
            self._read[row.key] = _readable(self.base / built.file for built in row.modules.values())
        return self._read[row.key]

    @cached_property
    def required(self) -> tuple[tuple[str, Path], ...]:
        """Names and folders of the projects that are required, those that these require included."""
        found: dict[str, Path] = {}
        waiting = [(self.project.requires, self.base)]
        while waiting:
            requirements, base = waiting.pop()
            for requirement in requirements:
                file = project_file(requirement, base) if requirement.project else None
                if file and requirement.label not in found:
                    found[requirement.label] = file.parent
                    waiting.append((_requirements(file), file.parent))
        return tuple(found.items())

    def providers(self, row: KernelRow) -> tuple[tuple[str, Module], ...]:
        """Return the modules of required projects for a row's kernel, each with its driver's name."""
        if row.key not in self._provided:
            self._provided[row.key] = tuple(self._of_required(row))
        return self._provided[row.key]

    def _of_required(self, row: KernelRow) -> Iterator[tuple[str, Module]]:
        for name, folder in self.required:
            workspace = Workspace(folder)
            labels = dict.fromkeys((row.label, "_"))
            made = [r for label in labels if (r := workspace.newest("build_modules", label, row.release))]
            if made and made[0].state == "ok":
                for module in _readable(sorted(made[0].folder.glob("*.ko"))):
                    yield name, module


def _requirements(file: Path) -> tuple[Requirement, ...]:
    try:
        return load(file).project.requires
    except PkgkmodError:
        return ()


def _readable(files: Iterable[Path]) -> tuple[Module, ...]:
    found = []
    for file in files:
        try:
            found.append(read_module(str(file)))
        except ModuleError:
            continue  # removed or damaged meanwhile; the results themselves say so
    return tuple(found)


# --- predictions ------------------------------------------------------------------------------------


def with_predictions(facts: Facts, builds: Builds, kernels: Sequence[Kernel]) -> Facts:
    """Return the facts with what `kernels` will do with the modules, and the symbols that changed between them.

    Kernels that nothing was built for get a row, and the modules of the kernel that is next to them.
    """
    built = [row for row in facts.rows if row.modules]
    users = _users(builds, built)
    everything = [one for row in built for one in (*builds.of(row), *(module for _, module in builds.providers(row)))]
    asked = asked_of_kernels(everything)
    rows, cells = list(facts.rows), dict(facts.cells)
    unknown: dict[str, str] = {}
    sides: list[KernelSide] = []
    for kernel in kernels if built else ():
        try:
            side = kernel_side(kernel, asked)
        except PkgkmodError as error:
            unknown[kernel.uname_r] = error.brief
            continue
        if not any(row.release == side.uname_r for row in rows):
            rows.append(KernelRow(side.uname_r, "_", "foreign", arch=side.arch))
        for row in (row for row in rows if row.release == side.uname_r):
            source = nearest(side, built) if row.state == "foreign" else row
            for name, prediction in _predicted(source, side, builds).items() if source else ():
                cells[row.key, name] = replace(cells.get((row.key, name), Cell()), prediction=prediction)
        sides.append(side)
    known = {side.uname_r for side in sides} | unknown.keys()
    missing = {row.release: "its headers are not here" for row in built if row.release not in known}
    return replace(
        facts,
        rows=in_order(rows),
        cells=cells,
        predicted=True,
        risks=_risks(users, sides),
        unpredicted=dict(sorted((unknown | missing).items())),
    )


def nearest(side: KernelSide, rows: Iterable[KernelRow]) -> KernelRow | None:
    """Return the row whose modules a kernel is most likely to take: of its machine, if possible of its flavour,
    or else of the plain one.

    It is the newest of those that are not newer than the kernel, or else the oldest.
    """
    release = KernelRelease(side.uname_r)
    fitting = [row for row in rows if row.arch in ("", side.arch)]
    flavours = {KernelRelease(row.release).flavour for row in fitting}
    flavour = release.flavour if release.flavour in flavours else min(flavours, key=len, default="")
    fitting = [row for row in fitting if KernelRelease(row.release).flavour == flavour]
    older = [row for row in fitting if KernelRelease(row.release).age <= release.age]
    return max(older, key=_age) if older else min(fitting, key=_age, default=None)


def _age(row: KernelRow) -> KernelRelease:
    return KernelRelease(row.release)


def _predicted(row: KernelRow, side: KernelSide, builds: Builds) -> dict[str, Prediction]:
    modules = builds.of(row)
    providers = [module for _, module in builds.providers(row)]
    signed = (lambda _: True) if builds.project.signing.modules else None
    found = predict(modules, side, providers, signed=signed)
    return {kernel_name(one.module): one for one in found}


def _users(builds: Builds, rows: Iterable[KernelRow]) -> dict[str, set[str]]:
    """Return the symbols that are taken from elsewhere, with the modules that use them."""
    users: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for module in builds.of(row):
            for symbol in module.imports - {"module_layout"}:  # stands for `struct module`; nobody can avoid it
                users[symbol].add(module.name)
    return users


def _risks(users: Mapping[str, Collection[str]], sides: Sequence[KernelSide]) -> tuple[RiskySymbol, ...]:
    """Return the symbols that changed, those that changed most often, and that most modules use, first."""
    found = sorted(
        risky_symbols(users.keys(), sides), key=lambda one: (-one.changes, -len(users[one.symbol]), one.symbol)
    )
    return tuple(RiskySymbol(one.symbol, one.changes, one.between, tuple(sorted(users[one.symbol]))) for one in found)


# --- dependencies -----------------------------------------------------------------------------------


def with_dependencies(facts: Facts, builds: Builds) -> Facts:
    """Return the facts with what the modules of the newest kernel say about each other."""
    row = next((row for row in facts.rows if row.modules), None)
    if row is None:
        return facts
    own = {module.name: module for module in builds.of(row)}
    provided = {module.name: (driver, module) for driver, module in builds.providers(row)}
    edges: dict[tuple[str, str], None] = {}
    nodes: dict[str, Node] = {name: Node(name, "own") for name in sorted(own)}
    waiting = list(own.values())
    while waiting:
        module = waiting.pop(0)
        for name in needs_of(module):
            edges[module.name, name] = None
            if name not in nodes and name in provided:
                nodes[name] = Node(name, "provider", provided[name][0])
                waiting.append(provided[name][1])
            nodes.setdefault(name, Node(name, "kernel"))
    return replace(facts, dependencies=Dependencies(row.release, tuple(nodes.values()), tuple(sorted(edges))))


def needs_of(module: Module) -> tuple[str, ...]:
    """Return the modules that one names as loaded before it, as the kernel knows them."""
    names = {kernel_name(name) for text in module.info("depends") for name in text.split(",") if name}
    return tuple(sorted(names - {module.name}))
