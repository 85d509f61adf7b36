"""The driver updates that SUSE's installers read: linuxrc, which starts YaST, and Agama.

Both read `linux/suse/ARCH-DIST`, and a release that both of them install has one such folder for both. `modules/` is
loaded while the installer starts. Of `install/*.rpm`, YaST installs all at the end of its first stage, in one
transaction (yast-installation, modules/Vendor.rb); Agama makes a repository of them (agama-dud-apply.sh). So neither
needs a script to register them.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files as resources
from pathlib import Path, PurePosixPath

from pkgkmod import data
from pkgkmod.data.distros import find_distro, known_distros
from pkgkmod.errors import PackageError
from pkgkmod.formats.rpmpackage import module_contents, read_headers
from pkgkmod.media.findings import finding
from pkgkmod.media.folder import copy_file
from pkgkmod.media.layouts.dudchecks import check_installed, check_kernels, check_updates
from pkgkmod.media.layouts.dudtrees import AGAMA, LINUXRC, Tree, kernels_of, load_order, plan, stem_of
from pkgkmod.model.artifacts import PackageFormat
from pkgkmod.model.disk import DiskListing, DiskPackage, DiskRelease, FoundTree
from pkgkmod.model.finding import Finding
from pkgkmod.model.kernel import KernelRelease
from pkgkmod.model.packaging import Disk
from pkgkmod.modules.kmod_deps import ModuleError, unpacked
from pkgkmod.plugins import DiskDraft

CONFIG = "dud.config"
_SCRIPT = "disk/for-kernel.sh"
_NAMESPACE = uuid.UUID("6a0e0c34-4c0c-5d1b-9a53-1f0f7c1f2d6e")
_PLACE = re.compile(r"(?:\d+/)?linux/suse/(?P<arch>[A-Za-z0-9_]+)-(?P<tag>[^/]+)")
_MACHINES = {"i386": "i686"}
_WIDTH = 78
"""Columns of the instructions."""


class _DudLayout:
    """What the two have in common: the folders."""

    name: str
    title: str
    format: PackageFormat = "rpm"

    def write(self, releases: Sequence[DiskRelease], draft: DiskDraft) -> None:
        """Write the updates; what the other layout has written is left as it is."""
        for tree in plan(releases):
            if not (draft.folder / tree.place / CONFIG).exists():
                _write_tree(tree, draft)

    def kernels(self, package: DiskPackage) -> tuple[str, ...]:
        """Return the kernels that its modules are for, as far as the installers run one of their flavour."""
        return kernels_of([package])

    def recognize(self, listing: DiskListing) -> Iterable[FoundTree]:
        """Return the updates for releases that this layout's installers install."""
        for path in sorted({*listing.folders, *listing.links}):
            found = _PLACE.fullmatch(path)
            folder = _followed(path, listing) if found else ""
            if found and folder in listing.folders and self.name in _readers(found["tag"]):
                yield FoundTree(
                    layout=self.name,
                    place=path,
                    release=_release(found["tag"]),
                    machine=_MACHINES.get(found["arch"], found["arch"]),
                    packages=_files(listing, f"{folder}/install", lambda name: name.endswith(".rpm")),
                    modules=_files(listing, f"{folder}/modules", lambda name: bool(stem_of(name))),
                )


class LinuxrcLayout(_DudLayout):
    """Driver updates as linuxrc reads them: SUSE Linux Enterprise 15, Leap 15, and what YaST installs besides."""

    name = LINUXRC
    title = "linuxrc"
    carriers = ("iso", "usb", "dud")

    def check(self, releases: Sequence[DiskRelease], disk: Disk) -> Iterable[Finding]:
        """Return what would not be loaded, and where linuxrc asks."""
        yield from check_updates(releases)
        if "dud" in disk.carriers:
            for release in releases:
                yield finding(
                    "DISK044",
                    release.distro.id,
                    "linuxrc asks before it takes a .dud file that is not signed with a key of SUSE's",
                    "answer yes, or start the installer with insecure=1; it does not ask for a disk that it finds",
                )

    def instructions(self, releases: Sequence[DiskRelease], files: Mapping[str, Sequence[str]]) -> str:
        """Return how YaST's installers are given the updates."""
        parts = []
        if {"iso", "usb"} & set(files):
            media = " or ".join([*files.get("iso", ()), *files.get("usb", ())])
            parts.append(
                f"Attach {media} before the installer starts: it looks for a disk with the label OEMDRV by itself, and "
                "loads the modules. YaST installs the packages at the end: all of them, or none if one does not fit."
            )
        for release in releases:
            for file in _dud_files(release, files):
                parts.append(f"{release.distro.title}, by network, or from a file in the root of any disk:")
                parts.append(f"    dud=https://SERVER/{file} insecure=1\n    dud=disk:/{file} insecure=1")
                parts.append(f"For PXE, append it to the installer's initrd:\n    cat {file} >> initrd")
        return _paragraphs(parts)


class AgamaLayout(_DudLayout):
    """Driver updates as Agama reads them: SUSE Linux 16, Leap 16, and Tumbleweed."""

    name = AGAMA
    title = "Agama"
    carriers = ("dud",)

    def check(self, releases: Sequence[DiskRelease], disk: Disk) -> Iterable[Finding]:
        """Return what would not be loaded, and whether there is anything that Agama can be given."""
        yield from check_updates(releases)
        for release in releases:
            # A disk that is made here has such a file for each release.
            if not {"dud", "iso", "usb"} & set(disk.carriers):
                yield finding(
                    "DISK045",
                    release.distro.id,
                    "Agama looks for no disk, and takes the first update of an image, whatever release it is for",
                    "make a .dud file, too: --carrier dud; it is given with inst.dud=URL",
                )
            for machine in release.machines:
                yield from check_kernels(release, machine, disk)
            for package in release.packages:
                yield from check_installed(package)

    def instructions(self, releases: Sequence[DiskRelease], files: Mapping[str, Sequence[str]]) -> str:
        """Return how Agama is given the updates."""
        parts = [
            "Agama looks for no disk. It is given the .dud file of its release, and no other: it does not compare."
        ]
        for release in releases:
            for file in _dud_files(release, files):
                parts.append(f"{release.distro.title}, by network, or from a stick with the label OEMDRV that has it:")
                parts.append(f"    inst.dud=https://SERVER/{file} rd.neednet=1\n    inst.dud=label://OEMDRV/{file}")
                parts.append(
                    f"Or put it into the installer's initrd (PXE), or on its medium:\n    cat {file} >> initrd\n"
                    f"    mkmedia --create NEW.iso --initrd {file} OLD.iso"
                )
        parts.append(
            "The modules are loaded. A package is installed if its modules are for hardware of the machine, or if it "
            "is chosen; Agama asks about signatures whose keys it does not know."
        )
        return _paragraphs(parts)


def _write_tree(tree: Tree, draft: DiskDraft) -> None:
    folder = draft.folder / tree.place
    (folder / "install").mkdir(parents=True)
    for package in tree.packages:
        copy_file(package.path, folder / "install" / package.path.name)
    if tree.modules:
        (folder / "modules").mkdir()
        _write_modules(tree, folder / "modules", draft.scratch)
        order = "".join(f"{name}\n" for name in load_order(tree))
        (folder / "modules" / "module.order").write_text(order, encoding="ascii")
    for name in tree.names[1:]:
        folder.with_name(name).symlink_to(tree.names[0])
    # Last: what has it is complete.
    (folder / CONFIG).write_text(_config(tree, folder, draft.title), encoding="ascii")


def _write_modules(tree: Tree, folder: Path, scratch: Path) -> None:
    """Write the modules as plain .ko: every linuxrc, Agama and kernel takes these, with their signatures."""
    wanted: dict[Path, dict[str, str]] = {}
    for stem, (package, module) in tree.modules.items():
        wanted.setdefault(package.path, {})[module.path] = stem
    for source, names in wanted.items():
        for paths, content in module_contents(read_headers(source)):
            packed = scratch / f"module{PurePosixPath(paths[0]).suffix}"
            packed.write_bytes(content)
            for path in paths:
                if path in names:
                    _write_plain(path, packed, folder / f"{names[path]}.ko")
            packed.unlink()


def _write_plain(path: str, packed: Path, destination: Path) -> None:
    try:
        destination.write_bytes(unpacked(packed.read_bytes(), str(packed)))
    except ModuleError as error:
        raise PackageError(f"{path} cannot be unpacked", details=error.reason) from None


def _config(tree: Tree, folder: Path, title: str) -> str:
    """Return the text of dud.config, and write the script that it names."""
    update = _update_id(tree)
    name = f"{title} for {tree.kernel}" if tree.kernel else title
    lines = [f"UpdateID:\t{update}", f"UpdateName:\t{re.sub(r'[^ -~]', '?', name)}"]
    if tree.span:
        script = f"pkgkmod-{update}.sh"
        text = resources(data).joinpath(_SCRIPT).read_text(encoding="utf-8")
        (folder / "install" / script).write_text(text, encoding="utf-8")
        # The number of the update is not known; its id makes the name unique. The words are those of a kernel's
        # release, which has none that a shell would understand.
        words = (tree.span.series, KernelRelease(tree.kernel).flavour, tree.span.first, tree.span.next)
        lines.append(f"Exec:\t\t/bin/bash /update/*/install/{script} {' '.join(words)}")
    return "".join(f"{line}\n" for line in lines)


def _update_id(tree: Tree) -> str:
    """Return an id of what is in an update: linuxrc skips an update whose id it has seen."""
    digest = hashlib.sha256(repr((tree.names, tree.kernel, tree.span)).encode())
    for package in tree.packages:
        with package.path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return str(uuid.uuid5(_NAMESPACE, digest.hexdigest()))


def _dud_files(release: DiskRelease, files: Mapping[str, Sequence[str]]) -> list[str]:
    return [file for file in files.get("dud", ()) if file.endswith(f"-{release.distro.id}.dud")]


def _paragraphs(parts: Iterable[str]) -> str:
    """Return paragraphs, lines with a margin in them as they are."""
    done = []
    for part in parts:
        lines = [line if line.startswith(" ") else textwrap.fill(line, _WIDTH) for line in part.split("\n")]
        done.append("\n".join(lines))
    return "\n\n".join(done)


@cache
def _products() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return, by tag, the distributions that have it, and the layouts that read it there."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for distro in map(find_distro, known_distros()):
        for layout in (LINUXRC, AGAMA):
            for tag in distro.installers.get(layout, ()):
                known = found.setdefault(tag, {})
                known[distro.id] = (*known.get(distro.id, ()), layout)
    return found


def _readers(tag: str) -> set[str]:
    """Return the layouts whose installers look for a tag, or would take it."""
    known = {layout for layouts in _products().get(tag, {}).values() for layout in layouts}
    # sles16, leap16.0, opensuse-leap16.1: Agama came with 16.
    return known or {AGAMA if re.match(r"(?:sle[sd]?|leap|opensuse-leap)(?:1[6-9]|[2-9]\d)", tag) else LINUXRC}


def _release(tag: str) -> str:
    """Return the only distribution that has a tag; the tag itself if there are several, or none."""
    distros = list(_products().get(tag, ()))
    return distros[0] if len(distros) == 1 else tag


def _followed(path: str, listing: DiskListing) -> str:
    """Return the folder that a path is, or a link leads to; empty if that is nowhere on the disk."""
    for _ in range(8):
        if path not in listing.links:
            return path
        parts = [] if listing.links[path].startswith("/") else list(PurePosixPath(path).parent.parts)
        for part in listing.links[path].split("/"):
            if part == ".." and not parts:
                return ""
            if part == "..":
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        path = "/".join(parts)
    return ""


def _files(listing: DiskListing, folder: str, wanted: Callable[[str], bool]) -> tuple[str, ...]:
    """Return the paths of some files that lie in a folder itself."""
    paths = sorted(path for path in listing.files if path.rpartition("/")[0] == folder)
    return tuple(path for path in paths if wanted(path.rpartition("/")[2]))
