"""Kernels that apt archives serve: Debian, Ubuntu, and those beside them."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pkgkmod.command import Command, run
from pkgkmod.errors import KernelError, PluginError
from pkgkmod.kernels.aptindex import (
    HEADERS,
    IMAGES,
    AptIndex,
    AptPackage,
    Need,
    listing_of,
    load_index,
    read_packages,
    save_index,
    version_key,
)
from pkgkmod.kernels.aptsources import AptEntry, apt_folder, machine_entries, machines, parse_line
from pkgkmod.model.kernel import Kernel, KernelOffer, KernelRelease, PackageFile
from pkgkmod.plugins import check_settings
from pkgkmod.programs import capture, find_tool
from pkgkmod.progress import Progress

_MACHINE = "machine"
_PREFIX = "linux-headers-"


class AptSettings(BaseModel):
    """`[plugin.apt]` of the project file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    archives: tuple[str, ...] = ()
    """Entries as in sources.list(5), on one line each; `machine` stands for those of this machine."""


@dataclass(frozen=True)
class _Asked:
    """An archive, and whether the project file names it itself."""

    entry: AptEntry
    by_name: bool


class AptKernels:
    """Header packages of Debian and Ubuntu."""

    name = "apt"

    def offers(
        self, settings: Mapping[str, Any], base: Path, *, ask: bool, progress: Progress
    ) -> Iterator[KernelOffer]:
        """Return the kernels of `plugin.apt.archives`; see KernelArchive.

        Of the machine's own archives, those that cannot be had or are not believed count as they were seen last, or
        are left out, with a warning, as apt does; it is an error if none is left.
        """
        asked = _entries(settings, base, progress)
        indexes, failures = [], []
        for one in asked:
            try:
                indexes.append(_index(one.entry, ask=ask, progress=progress))
            except KernelError as error:
                if one.by_name:
                    raise
                kept = load_index(one.entry, _record(one.entry))
                if kept and not kept.failure:
                    progress.warning(f"{error.brief}; {one.entry.place} is taken as it was seen last")
                    indexes.append(kept)
                else:
                    failures.append((one.entry, error))
        if failures and not any(not index.failure for index in indexes):
            raise failures[0][1]
        for entry, failure in failures:
            progress.warning(f"{failure.brief}; it is left out")
            # So that it is asked again only when somebody asks for news.
            save_index(AptIndex(entry, (), {}, failure.brief), _record(entry))
        return _Resolver(indexes, progress).offers()

    def image(
        self, kernel: Kernel | KernelOffer, settings: Mapping[str, Any], base: Path, progress: Progress
    ) -> KernelOffer:
        """Return the packages with the kernel itself and its modules; see ImageArchive.

        The archive that the headers are from is asked first. For installed headers it is the machine's archives.
        """
        offer = kernel.offer if isinstance(kernel, Kernel) else kernel
        entries = [one.entry for one in _entries(settings, base, progress)] or list(machine_entries(progress))
        if offer:
            entries = list(dict.fromkeys((parse_line(offer.archive, base), *entries)))
        version = offer.packages[0].version if offer else _installed_version(_PREFIX + kernel.uname_r)
        failures: dict[str, None] = {}
        for ask in (False, True):
            for entry in entries:
                try:
                    index = _index(entry, ask=ask, progress=progress, names=IMAGES)
                except KernelError as error:
                    failures[error.brief] = None
                    continue
                if packages := _image_packages(index, kernel, version, progress):
                    return KernelOffer(kernel.release, kernel.arch, self.name, packages, entry.line)
        wanted = f" in version {version}" if version else ""
        raise KernelError(
            f"no archive has the kernel {kernel.uname_r} itself{wanted}",
            details="\n".join((*(entry.place for entry in entries), *failures)),
            hint="install its linux-image package, or name a kernel file with --image",
        )

    def unpack(self, package: Path, file: PackageFile, offer: KernelOffer, destination: Path) -> None:
        """Unpack a .deb with dpkg-deb, which runs none of its scripts; see KernelArchive."""
        find_tool("dpkg-deb", needed_for="Debian packages")
        said = _dpkg_deb(file, "-f", str(package), "Package", "Version")
        said = tuple(line for line in said if line.startswith(("Package: ", "Version: ")))  # dpkg-deb may warn, too
        if sorted(said) != [f"Package: {file.name}", f"Version: {file.version}"]:
            raise KernelError(
                f"the package of {file.name} {file.version} is another one",
                details="\n".join((file.url, *said)),
                hint="its archive's index is wrong: tell those who run it",
            )
        _dpkg_deb(file, "-x", str(package), str(destination))


def _dpkg_deb(file: PackageFile, *arguments: str) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory(prefix="pkgkmod-apt-") as work:
        done = run(Command(("dpkg-deb", *arguments), Path(work)), log=Path(work, "log"), progress=Progress())
    if not done.ok:
        raise KernelError(f"{file.name} {file.version} cannot be unpacked", details="\n".join((file.url, *done.tail)))
    return done.tail


def _entries(settings: Mapping[str, Any], base: Path, progress: Progress) -> tuple[_Asked, ...]:
    hint = "it takes one key: archives, a list of entries"
    wanted = check_settings(AptSettings, settings, AptKernels.name, hint=hint).archives
    found: dict[AptEntry, _Asked] = {}
    for number, text in enumerate(wanted, 1):
        if text.strip() == _MACHINE:
            for entry in machine_entries(progress):
                found.setdefault(entry, _Asked(entry, by_name=False))
            continue
        try:
            entry = parse_line(text, base)
        except ValueError as error:
            raise PluginError(
                f"plugin.apt.archives[{number}]: {error}",
                details=text,
                hint="for example: 'deb http://deb.debian.org/debian trixie main', or 'machine' for this machine's own",
            ) from None
        found[entry] = _Asked(entry, by_name=True)
    return tuple(found.values())


def _folder(entry: AptEntry) -> Path:
    return apt_folder() / hashlib.sha256(f"{entry.uri}\n{entry.suite}".encode()).hexdigest()[:32]


def _record(entry: AptEntry, names: re.Pattern[str] = HEADERS) -> Path:
    return _folder(entry) / f"{entry.key}{'-images' if names is IMAGES else ''}.json"


def _index(entry: AptEntry, *, ask: bool, progress: Progress, names: re.Pattern[str] = HEADERS) -> AptIndex:
    """Return what an archive serves, by what is kept of it or by what it says now."""
    kept = load_index(entry, _record(entry, names))
    if kept and not ask:
        if kept.failure:
            progress.info(f"{kept.failure}; it is left out")
        return kept
    from pkgkmod.kernels.aptrelease import fetch_release  # needed for news only

    with progress.step(f"Reading the index of {entry.place}"):
        release = fetch_release(entry, _folder(entry), progress)
        listing = listing_of(entry, release)
        if kept and not kept.failure and kept.listing == listing:
            return kept
        index = read_packages(entry, release, listing, progress, names)
        save_index(index, _record(entry, names))
    return index


def _installed_version(package: str) -> str:
    """Return the version of an installed package; empty if it is not, or dpkg is not there."""
    return capture("dpkg-query", "-W", "-f", "${Version}", package)


def _image_packages(
    index: AptIndex, kernel: Kernel | KernelOffer, version: str, progress: Progress
) -> tuple[PackageFile, ...]:
    """Return the packages of a kernel and its modules in that version, or the newest; none if they are not there."""
    uname_r = kernel.uname_r
    # Signed ones first: those are what people boot. Ubuntu has most modules in packages of their own.
    names = (f"linux-image-{uname_r}", f"linux-image-{uname_r}-unsigned", f"linux-image-unsigned-{uname_r}")
    served = [
        one
        for name in names
        for one in sorted(index.packages, key=lambda one: version_key(one.version), reverse=True)
        if one.name == name and machines().get(one.arch) == kernel.arch and version in ("", one.version)
    ]
    resolver = _Resolver([index], progress)
    for image in served:
        with contextlib.suppress(_Missing):
            found = resolver.with_needs(index.entry, image)
            extra = f"linux-modules-extra-{uname_r}"
            found += [one for one in index.packages if (one.name, one.version) == (extra, image.version)]
            return tuple(dict.fromkeys(one.file for one in found))
    return ()


class _Missing(Exception):
    """A package that a kernel needs is in no archive."""


class _Resolver:
    """Finds the packages of each kernel, over all archives together."""

    def __init__(self, indexes: Sequence[AptIndex], progress: Progress) -> None:
        self._progress = progress
        self._by_name: dict[str, list[tuple[AptEntry, AptPackage]]] = defaultdict(list)
        for index in indexes:
            for package in index.packages:
                self._by_name[package.name].append((index.entry, package))

    def offers(self) -> Iterator[KernelOffer]:
        """Return the kernels, each in its newest version of which everything is there."""
        for name, served in self._by_name.items():
            release = _release(name)
            for deb in dict.fromkeys(package.arch for _, package in served) if release else ():
                found = [(entry, package) for entry, package in served if package.arch == deb]
                real = [(entry, package) for entry, package in found if not self._is_meta(package)]
                if real and release and deb in machines():
                    yield from self._newest(release, real)

    def _is_meta(self, package: AptPackage) -> bool:
        """Tell whether a package only stands for a kernel's: it depends on the headers of another release."""
        needs = (need.name for group in package.needs for need in group)
        return any(_release(name) and self._is_kernel(name) for name in needs)

    def _is_kernel(self, name: str) -> bool:
        # Ubuntu: linux-headers-6.8.0-40, the common part of 6.8.0-40-generic, is of architecture `all`.
        return all(package.arch != "all" for _, package in self._by_name.get(name, ()))

    def _newest(self, release: KernelRelease, served: list[tuple[AptEntry, AptPackage]]) -> Iterator[KernelOffer]:
        reasons = []
        for entry, package in sorted(served, key=lambda one: version_key(one[1].version), reverse=True):
            try:
                packages = self.with_needs(entry, package)
            except _Missing as error:
                reasons.append(str(error))
                continue
            files = tuple(one.file for one in packages)
            yield KernelOffer(release, machines()[package.arch], AptKernels.name, files, entry.line)
            return
        self._progress.info(f"{release} is left out: {reasons[0]}")

    def with_needs(self, entry: AptEntry, package: AptPackage) -> list[AptPackage]:
        """Return a package and all header packages that it needs, directly or not."""
        found = [(entry, package)]
        for home, one in found:  # grows meanwhile
            for group in one.needs:
                chosen = next(filter(None, (self._choose(need, package.arch, home) for need in group)), None)
                if chosen is None:
                    wanted = " | ".join(f"{need.name} {need.relation} {need.version}".strip() for need in group)
                    raise _Missing(f"{one.name} {one.version} needs {wanted}, which no archive has")
                if chosen not in found:
                    found.append(chosen)
        return [one for _, one in found]

    def _choose(self, need: Need, arch: str, home: AptEntry) -> tuple[AptEntry, AptPackage] | None:
        """Return the newest version that will do: of the same archive, if there is one."""
        fit = [
            (entry, package)
            for entry, package in self._by_name.get(need.name, ())
            if package.arch in (arch, "all") and need.is_met_by(package.version)
        ]
        near = [one for one in fit if one[0] == home]
        return max(near or fit, key=lambda one: version_key(one[1].version), default=None)


def _release(name: str) -> KernelRelease | None:
    """Return the kernel that a package is called after, if it can be the headers of one."""
    uname_r = name.removeprefix(_PREFIX)
    if uname_r == name or not uname_r[:1].isdigit() or "-common" in uname_r:
        return None
    try:
        return KernelRelease(uname_r)
    except ValueError:
        return None
