"""What is on a driver disk, whoever made it: what each installer takes from it for which kernels, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pkgkmod.command import Command, Completed, run
from pkgkmod.data.distros import distros_of_kernel, find_distro, known_distros
from pkgkmod.errors import InputError
from pkgkmod.formats.entries import DamagedError
from pkgkmod.formats.rpmarchive import LARGEST_MODULE
from pkgkmod.media.findings import finding
from pkgkmod.media.images import OpenedDisk
from pkgkmod.media.lint import check_disk, check_root, in_order
from pkgkmod.media.matching import matches
from pkgkmod.media.packages import FORMATS, read_module, read_packages
from pkgkmod.media.readme import README
from pkgkmod.media.releases import release_of
from pkgkmod.media.volumes import Volume
from pkgkmod.model.disk import DiskPackage, DiskRelease, FoundTree, ModuleFacts
from pkgkmod.model.distro import Distro
from pkgkmod.model.finding import Finding
from pkgkmod.model.packaging import Disk, Signing
from pkgkmod.plugins import LAYOUTS, Layout, load, registered
from pkgkmod.progress import Progress

LABEL = "OEMDRV"
_OF_TREES = (README, "rhdd3")
"""Names of files that belong to a disk, and lie beside the trees."""


@dataclass(frozen=True)
class Row:
    """A module, and a kernel whose installer loads it."""

    installer: str
    release: str
    machine: str
    kernel: str
    """As layouts say it: RELEASE, or `>= RELEASE`; empty if the installer skips the package."""
    module: ModuleFacts
    package: str
    """Path on the disk of the package, or of the bare module."""


@dataclass(frozen=True)
class Tree:
    """A folder from which an installer takes drivers, with what is in it."""

    found: FoundTree
    layout: Layout
    distro: Distro | None
    """The release that it is for; None if that is not known."""
    packages: tuple[DiskPackage, ...]
    modules: tuple[ModuleFacts, ...]

    @property
    def release(self) -> str:
        """What the release is called; empty if that is not known."""
        return self.distro.id if self.distro else self.found.release

    def rows(self) -> Iterator[Row]:
        """Yield the modules, with each kernel that they are for."""
        row = partial(Row, self.layout.title, self.release)
        for package in self.packages:
            wanted = self.layout.kernels(package) if package.facts.kind == "binary" else ()
            machine = self.found.machine or package.facts.machine
            for module in package.facts.modules:
                # A package with modules for several kernels names them all.
                kernels = [one for one in wanted if one not in package.kernels or one == module.kernel]
                for kernel in kernels or [""]:
                    yield row(machine or module.machine, kernel, module, package.shown)
        for module in self.modules:
            yield row(self.found.machine or module.machine, module.kernel, module, module.path)


@dataclass(frozen=True)
class VolumeContents:
    """What is on one file system of a disk."""

    volume: Volume
    trees: tuple[Tree, ...]
    findings: tuple[Finding, ...]
    rest: tuple[str, ...]
    """Files that no installer looks at."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """All modules, with each kernel that they are for."""
        return tuple(row for tree in self.trees for row in tree.rows())


def read_contents(disk: OpenedDisk, scratch: Path, settings: Disk, progress: Progress) -> tuple[VolumeContents, ...]:
    """Return what is on each file system of a disk; `scratch` is an empty folder. Raise InputError if it is damaged."""
    return tuple(_contents(disk, volume, scratch / str(n), settings, progress) for n, volume in enumerate(disk.volumes))


def recognize(volume: Volume) -> list[tuple[Layout, FoundTree]]:
    """Return the folders from which installers take drivers, with their layouts."""
    layouts: list[Layout] = [load(LAYOUTS, name) for name in registered(LAYOUTS)]
    return [(layout, tree) for layout in layouts for tree in layout.recognize(volume.listing)]


def taken(rows: Sequence[Row], kernel: str) -> tuple[Row, ...]:
    """Return the rows that are for the installer with a kernel (uname -r)."""
    return tuple(row for row in rows if row.kernel and matches(row.kernel, kernel))


def _contents(disk: OpenedDisk, volume: Volume, scratch: Path, settings: Disk, progress: Progress) -> VolumeContents:
    found = recognize(volume)
    reader = _Reader(disk, volume, scratch, progress)
    reader.read([tree for _, tree in found])
    trees = tuple(_tree(layout, tree, reader) for layout, tree in found)
    findings = [*reader.faults, *_findings(disk, volume, trees, settings)]
    return VolumeContents(volume, trees, in_order(findings, settings), _rest(volume, trees))


class _Reader:
    """Copies packages and modules out of a file system, and reads them, each once."""

    def __init__(self, disk: OpenedDisk, volume: Volume, scratch: Path, progress: Progress) -> None:
        self._disk, self._volume, self._scratch, self._progress = disk, volume, scratch, progress
        self.packages: dict[str, DiskPackage] = {}
        self.modules: dict[str, ModuleFacts] = {}
        self.faults: list[Finding] = []

    def read(self, trees: Sequence[FoundTree]) -> None:
        """Read what is in trees; a damaged package is a fault."""
        self._scratch.mkdir()
        files = self._fetch({*(path for t in trees for path in t.packages), *(p for t in trees for p in t.modules)})
        packages = {path for tree in trees for path in tree.packages}
        self._read_packages({path: file for path, file in files.items() if path in packages})
        for path in sorted(set(files) - packages):
            too_large = self._volume.entries[self._real(path)].size > LARGEST_MODULE
            self.modules[path] = (
                ModuleFacts(path=path, name="", fault="it is too large")
                if too_large
                else read_module(path, files[path].read_bytes())
            )

    def _real(self, path: str) -> str:
        return self._volume.entries.real(path) or ""

    def _fetch(self, paths: set[str]) -> dict[str, Path]:
        """Copy files under names of our own: a number, and the ending."""
        files: dict[str, Path] = {}
        wanted: dict[str, Path] = {}
        for path in sorted(paths):
            real = self._real(path)
            entry = self._volume.entries.get(real)
            if entry is None or entry.kind != "file":
                self._fault(path, "the link leads nowhere")
                continue
            ending = next((ending for ending in FORMATS if path.endswith(ending)), "")
            files[path] = wanted.setdefault(real, self._scratch / f"{len(wanted)}{ending}")
        try:
            self._volume.copy(wanted)
        except DamagedError as error:
            raise InputError(f"{self._disk.path} cannot be read: {error}", hint="copy it anew") from None
        return files

    def _read_packages(self, files: Mapping[str, Path]) -> None:
        def logged(command: Command) -> Completed:
            return run(command, log=self._scratch / "log", progress=self._progress)

        try:
            packages = read_packages(list(files.values()), logged, self._progress)
            self.packages = {path: replace(p, place=path) for path, p in zip(files, packages, strict=True)}
        except InputError:
            for path, file in files.items():
                try:
                    (package,) = read_packages([file], logged, Progress())
                    self.packages[path] = replace(package, place=path)
                except InputError as error:
                    why = "; ".join(filter(None, (error.brief, error.details)))
                    self._fault(path, why.replace(str(file), "it"))

    def _fault(self, path: str, why: str) -> None:
        cure = "put the package on the disk anew"
        self.faults.append(finding("DISK080", path, f"the package cannot be read: {why}", cure))


def _tree(layout: Layout, found: FoundTree, reader: _Reader) -> Tree:
    packages = tuple(reader.packages[path] for path in found.packages if path in reader.packages)
    modules = tuple(reader.modules[path] for path in found.modules if path in reader.modules)
    return Tree(found, layout, _distro(layout, found, packages, modules), packages, modules)


def _distro(
    layout: Layout, found: FoundTree, packages: Sequence[DiskPackage], modules: Sequence[ModuleFacts]
) -> Distro | None:
    """Return the release that a tree is for: as it says, or as most of its packages, or its modules, do."""
    said = Counter[str]()
    if found.release in known_distros():
        said[found.release] += len(packages) + len(modules) + 1
    said.update(filter(None, map(release_of, packages)))
    said.update(name for module in modules for name in distros_of_kernel(module.kernel, layout.format)[:1])
    fitting = (find_distro(name) for name, _ in said.most_common())
    return next((distro for distro in fitting if layout.name in distro.installers), None)


def _findings(disk: OpenedDisk, volume: Volume, trees: Sequence[Tree], settings: Disk) -> Iterator[Finding]:
    inside = volume.place and not volume.place.startswith("partition")
    has_label = volume.kind not in ("folder", "cpio") and not inside
    if trees and has_label and volume.label != LABEL:
        yield finding(
            "DISK081",
            volume.label or "no label",
            f"installers look for a disk with the label {LABEL} by themselves, and for no other",
            f"give it the label {LABEL}, or tell the installer where the disk is",
        )
    if trees or volume.label == LABEL:
        yield from check_root(path for path in volume.listing.files if "/" not in path)
        for path in sorted(filter(_is_offered, volume.listing.files)):
            cure = "see what is on it: copy it from the disk, then `pkgkmod iso show`"
            yield finding("DISK084", path, "anaconda offers this image as a driver disk of its own", cure)
    for tree in trees:
        yield from _tree_findings(tree)
    carriers = () if disk.carrier == "folder" else (disk.carrier,)
    label = volume.label if has_label else LABEL
    found = settings.model_copy(update={"label": label, "carriers": carriers})
    yield from check_disk(releases_of(trees), found, Signing())


def _is_offered(path: str) -> bool:
    """Tell whether anaconda takes a file of a mounted disk for a driver disk (dracut/driver_updates.py)."""
    return path.endswith(".iso") and "/" not in path


def _tree_findings(tree: Tree) -> Iterator[Finding]:
    if tree.distro is None and (tree.packages or tree.modules):
        yield finding(
            "DISK082",
            tree.found.place,
            f"it is for a release that pkgkmod does not know{f': {tree.release}' if tree.release else ''}",
            "see that its kernels are those of the installer: `pkgkmod iso show`",
        )
    for module in tree.modules:
        if module.fault:
            text = f"the module cannot be read: {module.fault}"
            yield finding("DISK001", module.path, text, "put it on the disk anew")
        elif tree.found.machine and module.machine != tree.found.machine:
            text = f"the module is for {module.machine}, the folder for {tree.found.machine}"
            yield finding("DISK009", module.path, text, "put it into the folder of its machine")


def releases_of(trees: Sequence[Tree]) -> tuple[DiskRelease, ...]:
    """Return the packages by release; one that is in several trees counts once."""
    found: dict[Distro, dict[tuple[str, object], DiskPackage]] = {}
    for tree in trees:
        if tree.distro is None:
            continue
        for package in tree.packages:
            key = (package.shown.rpartition("/")[2], package.facts.model_dump_json())
            found.setdefault(tree.distro, {}).setdefault(key, package)
    return tuple(DiskRelease(distro, tuple(packages.values())) for distro, packages in found.items())


def _rest(volume: Volume, trees: Sequence[Tree]) -> tuple[str, ...]:
    """Return the files that are in no tree."""
    places = {place for t in trees for place in (t.found.place, volume.entries.real(t.found.place)) if place}
    known = {volume.entries.real(path) for t in trees for path in (*t.found.packages, *t.found.modules)}

    def is_known(path: str) -> bool:
        if path in known or path.rpartition("/")[2] in _OF_TREES or _is_offered(path):
            return True
        return any(path[:end] in places for end, letter in enumerate(path) if letter == "/")

    return tuple(sorted(path for path in volume.listing.files if not is_known(path)))
