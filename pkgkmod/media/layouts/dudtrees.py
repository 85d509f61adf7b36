"""What driver updates of SUSE hold: which packages and modules, for which product, machine and kernel.

An update is a folder `linux/suse/ARCH-DIST`, or `NN/linux/suse/ARCH-DIST` where there are several of one name. Its
`modules/` is flat, and so for one kernel (openSUSE/linuxrc, util.c, add_driver_update).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pkgkmod.model.disk import DiskPackage, DiskRelease, ModuleFacts
from pkgkmod.model.distro import Distro
from pkgkmod.model.kernel import KernelRelease

LINUXRC = "dud"
AGAMA = "agama"
FLAVOUR = "default"
"""The flavour of the kernel that SUSE's installers run."""
FOLDER = "linux/suse"

_ARCHES = {"i586": "i386", "i686": "i386"}
"""What the folders call a machine where that is not `uname -m` (linuxrc, global.h)."""
_SERIES = re.compile(r"(?P<series>\d[\d.]*-\d+)\.(?P<numbers>\d+(?:\.\d+)*)")
_MODULE = re.compile(r"(?P<stem>[A-Za-z0-9_][A-Za-z0-9_.+-]*)\.ko(?:\.(?:gz|xz|zst))?")
_DEPENDENCY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Span:
    """The kernels that one of several updates of the same name is for."""

    series: str
    """6.4.0-150600: a service pack; its kernels take each other's modules."""
    first: str
    """Number of the first kernel: 23.47; 0 for all that are older than the second."""
    next: str
    """Number of the first kernel that is another update's; `-` if there is none."""


@dataclass(frozen=True)
class Tree:
    """A driver update."""

    release: DiskRelease
    machine: str
    kernel: str
    """The kernel that its modules are for; empty if it has none."""
    packages: tuple[DiskPackage, ...]
    number: int = 0
    """The folder that it is in; 0 for the root."""
    span: Span | None = None
    """Where others have the same name: the kernels that it is for."""

    @property
    def tags(self) -> tuple[str, ...]:
        """The products that it is for: the first names the folder, the others are links to it."""
        return tags_of(self.release.distro)

    @property
    def parent(self) -> str:
        """Path of the folder that it is in."""
        return f"{self.number:02}/{FOLDER}" if self.number else FOLDER

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the folder, and of the links to it."""
        arch = _ARCHES.get(self.machine, self.machine)
        return tuple(f"{arch}-{tag}" for tag in self.tags)

    @property
    def place(self) -> str:
        """Path of the folder."""
        return f"{self.parent}/{self.names[0]}"

    @property
    def modules(self) -> dict[str, tuple[DiskPackage, ModuleFacts]]:
        """Its modules, by the name that they are loaded by; of two with the same name, the first."""
        found: dict[str, tuple[DiskPackage, ModuleFacts]] = {}
        for package, module in self.candidates():
            if stem := stem_of(module.path):
                found.setdefault(stem, (package, module))
        # modprobe takes - and _ for the same.
        known: dict[str, str] = {}
        return {stem: one for stem, one in found.items() if known.setdefault(kernel_name(stem), stem) == stem}

    def candidates(self) -> Iterator[tuple[DiskPackage, ModuleFacts]]:
        """Yield all modules of its packages that are for its kernel and can be read."""
        for package in self.packages:
            for module in package.facts.modules:
                if self.kernel and module.kernel == self.kernel and not module.fault:
                    yield package, module


def plan(releases: Sequence[DiskRelease]) -> tuple[Tree, ...]:
    """Return the updates for releases; those of one name are numbered, and each is for some kernels."""
    shared: dict[str, list[Tree]] = {}
    for release in sorted(releases, key=lambda one: one.distro.id):
        for machine in release.machines:
            for tree in _trees(release, machine):
                shared.setdefault(tree.place, []).append(tree)
    return tuple(tree for trees in shared.values() for tree in _numbered(trees))


def tags_of(distro: Distro) -> tuple[str, ...]:
    """Return the products of a distribution, for both of SUSE's installers: they share the folder."""
    tags = (*distro.installers.get(LINUXRC, ()), *distro.installers.get(AGAMA, ()))
    return tuple(dict.fromkeys(tags))


def kernels_of(packages: Iterable[DiskPackage]) -> tuple[str, ...]:
    """Return the kernels that an installer may run, and packages have modules for; the oldest first."""
    found = dict.fromkeys(kernel for package in packages for kernel in package.kernels if _runs(kernel))
    return tuple(sorted(found, key=KernelRelease))


def chosen(distro: Distro, kernels: Sequence[str]) -> str:
    """Return the kernel whose modules are taken where there is room for one.

    Kernels of a service pack take modules that were built for an older one of it. Where packages require no symbols,
    modules are for one kernel (Distro.dependency_style), and the newest is the likeliest.
    """
    return kernels[0] if distro.dependency_style == "suse" else kernels[-1]


def load_order(tree: Tree) -> list[str]:
    """Return what is to be loaded, by name: dependencies first, those of the kernel among them.

    linuxrc inserts one after the other, and looks for no dependency of a module that it does not know; of a name that
    is not in the update it loads the kernel's own (openSUSE/linuxrc, pull request 259).
    """
    modules = tree.modules
    stems = {kernel_name(stem): stem for stem in modules}
    order: dict[str, None] = {}
    begun: set[str] = set()
    for first in sorted(modules):
        stack = [(first, False)]
        while stack:
            name, finished = stack.pop()
            if finished:
                order[name] = None
            elif name not in begun:  # in a cycle, it waits for none of those that wait for it
                begun.add(name)
                stack.append((name, True))
                depends = modules[name][1].depends if name in modules else ()
                wanted = sorted({stems.get(kernel_name(one), one) for one in depends if _DEPENDENCY.fullmatch(one)})
                stack += [(one, False) for one in reversed(wanted)]
    return list(order)


def stem_of(path: str) -> str:
    """Return the name by which a module file is loaded; empty if it cannot be: a file name with spaces."""
    found = _MODULE.fullmatch(PurePosixPath(path).name)
    return found["stem"] if found else ""


def kernel_name(name: str) -> str:
    """Return what the kernel calls a module."""
    return name.replace("-", "_")


def _runs(kernel: str) -> bool:
    try:
        return KernelRelease(kernel).flavour == FLAVOUR
    except ValueError:
        return False


def _trees(release: DiskRelease, machine: str) -> Iterator[Tree]:
    packages = tuple(sorted(release.of_machine(machine), key=lambda package: package.path.name))
    kernels = kernels_of(packages)
    # Agama runs no scripts, which sort the updates out: it would apply all of them, the last one last.
    if kernels and AGAMA in release.distro.installers:
        kernels = (chosen(release.distro, kernels),)
    for kernel in kernels or ("",):
        # YaST installs all packages of an update in one transaction: what does not fit is not there for any.
        ones = tuple(package for package in packages if not package.kernels or kernel in package.kernels)
        if ones:
            yield Tree(release, machine, kernel, ones)


def _numbered(trees: Sequence[Tree]) -> Iterator[Tree]:
    if len(trees) == 1:
        yield trees[0]
        return
    series: dict[str, list[str]] = {}
    for tree in sorted(trees, key=lambda one: _numbers(one.kernel)):
        name, numbers = _split(tree.kernel)
        series.setdefault(name, []).append(numbers)
    for number, tree in enumerate(trees, 1):
        if not tree.kernel:
            yield replace(tree, number=number)
            continue
        name, numbers = _split(tree.kernel)
        known = series[name]
        at = known.index(numbers)
        following = known[at + 1] if at + 1 < len(known) else "-"
        yield replace(tree, number=number, span=Span(name, numbers if at else "0", following))


def _split(kernel: str) -> tuple[str, str]:
    """Return the series of a kernel, and its numbers in it."""
    base = KernelRelease(kernel).base if kernel else ""
    found = _SERIES.fullmatch(base)
    return (found["series"], found["numbers"]) if found else (base, "0")


def _numbers(kernel: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _split(kernel)[1].split("."))
