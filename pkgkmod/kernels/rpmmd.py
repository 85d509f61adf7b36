"""Kernels that rpm-md repositories serve: Red Hat's family, Fedora, SUSE, and those beside them."""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator

from pkgkmod.command import Command, Completed, run
from pkgkmod.errors import InputError, KernelError, PluginError
from pkgkmod.kernels.repodata import Repository, RpmPackage, ask_index, load_index
from pkgkmod.model.kernel import Kernel, KernelOffer, KernelRelease, PackageFile
from pkgkmod.plugins import check_settings
from pkgkmod.programs import find_tool
from pkgkmod.progress import Progress

_UNAME_R = re.compile(r"kernel-(?:[A-Za-z0-9_.+]+-)*devel-uname-r")
_FLAVOUR = re.compile(r"kernel-(?P<flavour>.+)-devel")
_COMMON = re.compile(r"kernel-devel(?!.*-uname-r)(?:-.+)?")
# If one of these were a link, the store would look for build trees elsewhere.
_NO_LINKS = {PurePosixPath(path) for path in (".", "usr", "usr/src", "usr/src/kernels", "usr/lib")}


class RepositorySettings(BaseModel):
    """An entry of `plugin.rpm-md.repositories`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    baseurl: str
    """The folder that holds repodata/: http://, https:// or file://."""
    gpgkey: Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)] = ()
    """Files of the keys that the packages are signed with, relative to the project file; file:// may stand before."""
    repo_gpgcheck: bool = False
    """True if the repodata must be signed, too."""
    arch: str = ""
    """Machine as `uname -m` prints it; this machine's if not given."""

    @field_validator("baseurl")
    @classmethod
    def _check_baseurl(cls, value: str) -> str:
        if not re.fullmatch(r"(?:https?://[!-~]+|file:///[!-~]+)", value):
            raise ValueError("is not an address: it starts with https://, http:// or file:///, and has no spaces")
        if "$" in value:
            raise ValueError("holds a variable such as $basearch: write what it stands for")
        return value.rstrip("/")


class RpmMdSettings(BaseModel):
    """`[plugin.rpm-md]` of the project file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repositories: tuple[RepositorySettings, ...] = ()


class RpmMdKernels:
    """kernel-devel packages and their kin, of any repository with repodata."""

    name = "rpm-md"

    def offers(
        self, settings: Mapping[str, Any], base: Path, *, ask: bool, progress: Progress
    ) -> Iterator[KernelOffer]:
        """Return the kernels of `plugin.rpm-md.repositories`; see KernelArchive."""
        served = [
            (repository, package)
            for repository in _repositories(settings, base)
            for package in _index(repository, ask=ask, progress=progress)
        ]
        return _Resolver(served, progress).offers()

    def image(
        self, kernel: Kernel | KernelOffer, settings: Mapping[str, Any], base: Path, progress: Progress
    ) -> KernelOffer:
        """Return the packages with the kernel itself and its modules; see ImageArchive."""
        offer = kernel.offer if isinstance(kernel, Kernel) else kernel
        if offer is None:
            raise KernelError(f"no repository is known to have the kernel {kernel.uname_r}")
        devel = offer.packages[0]
        for repository in _repositories(settings, base):
            for ask in (False, True) if repository.baseurl == offer.archive else ():
                index = _index(replace(repository, images=True), ask=ask, progress=progress)
                if packages := _image_packages(index, devel):
                    return replace(offer, packages=packages)
        raise KernelError(
            f"no repository has the kernel {kernel.uname_r} itself",
            details=f"wanted: the kernel of {devel.name} {devel.version}, of {offer.archive}",
            hint="the repository of its kernel-devel package should have kernel-core; or name a file with --image",
        )

    def unpack(self, package: Path, file: PackageFile, offer: KernelOffer, destination: Path) -> None:
        """Unpack an RPM, which runs none of its scriptlets, after its signature was checked; see KernelArchive."""
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=destination.parent) as name:
            work = Path(name)
            rpm = work / "package.rpm"  # rpm2archive writes beside it
            rpm.symlink_to(package.absolute())
            if offer.keys:
                _check_signature(rpm, file, offer.keys)
            _check_header(rpm, file, offer)
            find_tool("rpm2archive", needed_for="RPM packages")
            _succeed(_run(work, "rpm2archive", "-n", str(rpm)), file)
            archive = work / "package.rpm.tar"
            check_members(archive, file)
            destination.mkdir(parents=True, exist_ok=True)
            argv = ("tar", "-xf", str(archive), "-C", str(destination), "--no-same-owner", "--no-same-permissions")
            _succeed(_run(work, *argv), file)


def _run(work: Path, *argv: str) -> Completed:
    return run(Command(argv, work), log=work / "log", progress=Progress())


def _succeed(done: Completed, file: PackageFile) -> None:
    if not done.ok:
        details = "\n".join((file.url, *done.tail))
        raise KernelError(f"{file.name} {file.version} cannot be unpacked", details=details)


def _repositories(settings: Mapping[str, Any], base: Path) -> Iterator[Repository]:
    hint = "each of [[plugin.rpm-md.repositories]] takes baseurl, gpgkey, repo_gpgcheck and arch"
    wanted = check_settings(RpmMdSettings, settings, RpmMdKernels.name, hint=hint).repositories
    for number, one in enumerate(wanted):
        keys = tuple((base / name.removeprefix("file://")).absolute() for name in one.gpgkey)
        place = f"plugin.rpm-md.repositories.{number}"
        if missing := [str(key) for key in keys if not key.is_file()]:
            hint = "a relative name begins at the project file"
            raise PluginError(f"{place}.gpgkey: there is no file {missing[0]}", hint=hint)
        if one.repo_gpgcheck and not keys:
            raise PluginError(f"{place}.repo_gpgcheck: it needs a gpgkey", hint=f"the repository is {one.baseurl}")
        yield Repository(one.baseurl, one.arch or os.uname().machine, keys, one.repo_gpgcheck)


def _index(repository: Repository, *, ask: bool, progress: Progress) -> tuple[RpmPackage, ...]:
    kept = None if ask else load_index(repository)
    return kept[1] if kept else ask_index(repository, progress)


def _image_packages(index: Sequence[RpmPackage], devel: PackageFile) -> tuple[PackageFile, ...]:
    """Return the packages of the kernel that kernel[-VARIANT]-devel belongs to; none if it is not there."""
    name = devel.name.removesuffix("-devel")
    served = {one.name: one.file for one in index if one.evr == devel.version}
    # Red Hat and Fedora: kernel-core, and up to two packages with modules. SUSE: one package, kernel-FLAVOUR.
    for names in ((f"{name}-core", f"{name}-modules-core", f"{name}-modules"), (name,)):
        if names[0] in served:
            return tuple(served[one] for one in names if one in served)
    return ()


Served = tuple[Repository, RpmPackage]


class _Resolver:
    """Finds the packages of each kernel, over all repositories together."""

    def __init__(self, served: Sequence[Served], progress: Progress) -> None:
        self._served = served
        self._progress = progress
        self._providing: dict[tuple[str, str], list[Served]] = defaultdict(list)
        for repository, package in served:
            for relation in package.provides:
                self._providing[relation].append((repository, package))

    def offers(self) -> Iterator[KernelOffer]:
        """Return the kernels, each in its newest build of which everything is there."""
        found: dict[tuple[str, str], list[Served]] = defaultdict(list)
        for repository, package in self._served:
            if (uname_r := _release(package)) and package.arch == repository.arch:
                found[uname_r, package.arch].append((repository, package))
        for (uname_r, arch), builds in found.items():
            yield from self._newest(KernelRelease(uname_r), arch, builds)

    def _newest(self, release: KernelRelease, arch: str, builds: list[Served]) -> Iterator[KernelOffer]:
        reasons = []
        for repository, package in _newest_first(builds):
            common = _common(package)
            parts = [self._choose(common, repository, arch)] if common else []
            if None in parts:
                reasons.append(f"{package.name} {package.evr} needs {' = '.join(common or ())}, which is nowhere")
                continue
            files = tuple(one.file for one in (package, *filter(None, parts)))
            keys = tuple(map(str, repository.keys))
            yield KernelOffer(release, arch, RpmMdKernels.name, files, repository.baseurl, keys)
            return
        self._progress.info(f"{release} is left out: {reasons[0]}")

    def _choose(self, need: tuple[str, str], home: Repository, arch: str) -> RpmPackage | None:
        """Return the newest build of what is needed: of the same repository, or else of one with the same keys."""
        fit = [
            (repository, package)
            for repository, package in self._providing[need]
            if package.arch in (arch, "noarch") and repository.keys == home.keys
        ]
        near = [one for one in fit if one[0] == home]
        return next((package for _, package in _newest_first(near or fit)), None)


def _newest_first(builds: Sequence[Served]) -> list[Served]:
    return sorted(builds, key=lambda one: one[1].age, reverse=True)


def _common(package: RpmPackage) -> tuple[str, str] | None:
    """Return the part that SUSE's kernels have in common, such as `kernel-devel = 6.4.0-150600.23.47`.

    Its version has no count of rebuilds, and the counts of both packages may differ (SUSE's kernel-binary.spec).
    """
    if not _FLAVOUR.fullmatch(package.name):
        return None
    return next((need for need in package.needs if _COMMON.fullmatch(need[0])), None)


def _release(package: RpmPackage) -> str | None:
    """Return the release of the kernel that a package is for; None if it is for none."""
    named = sorted(relation for relation in package.provides if _UNAME_R.fullmatch(relation[0]))
    uname_r = named[0][1] if named else ""
    flavour = _FLAVOUR.fullmatch(package.name)
    if not named and flavour and (common := _common(package)):
        # What RPM calls 6.12~rc1 is 6.12.0-rc1 in the kernel's own words.
        version = re.sub(r"^(\d+\.\d+)(?:\.0)?~(?=rc)", r"\1.0-", common[1])
        uname_r = f"{version}-{flavour['flavour']}"
    try:
        return KernelRelease(uname_r).uname_r
    except ValueError:
        return None


def _check_signature(rpm: Path, file: PackageFile, keys: Sequence[str]) -> None:
    """Raise KernelError unless one of the keys signed the package; right digests alone are not enough."""
    find_tool("rpmkeys", needed_for="the signatures of packages")
    work = rpm.parent
    database = ("--dbpath", str(work / "keys"))
    for key in keys:
        done = _run(work, "rpmkeys", *database, "--import", key)
        if not done.ok:
            raise KernelError(
                f"the key {key} cannot be used",
                details="\n".join(done.tail),
                hint="rpm takes armored keys: files that begin with -----BEGIN PGP PUBLIC KEY BLOCK-----",
            )
    done = _run(work, "rpmkeys", *database, "--checksig", str(rpm))
    if done.ok and done.tail[-1:] == (f"{rpm}: digests signatures OK",):
        return
    told = _run(work, "rpmkeys", *database, "--checksig", "-v", str(rpm)).tail
    raise KernelError(
        f"{file.name} {file.version} is not signed with a key to believe",
        details="\n".join((file.url, *(line.strip() for line in told if not line.startswith(str(rpm))))),
        hint=f"it is to be signed with a key of {', '.join(keys)}, as its repository's gpgkey says",
    )


def _check_header(rpm: Path, file: PackageFile, offer: KernelOffer) -> None:
    """Raise KernelError if a package is not the one that the index names."""
    from pkgkmod.formats.rpm import read_header  # the library needs 0.1 s to load

    try:
        header = read_header(rpm)
    except InputError as error:
        raise KernelError(
            f"{file.name} {file.version} is not an RPM package", details=f"{file.url}\n{error.details}"
        ) from None
    version = f"{header.version}-{header.release}"
    said = header.name, f"{header.epoch}:{version}" if header.epoch else version
    if said != (file.name, file.version) or header.arch not in (offer.arch, "noarch"):
        raise KernelError(
            f"the package of {file.name} {file.version} is another one",
            details=f"{file.url}\n{' '.join(said)} for {header.arch}",
            hint="its repository's index is wrong: tell those who run it",
        )


def check_members(archive: Path, file: PackageFile) -> None:
    """Raise KernelError if an archive holds what would be unpacked outside of its folder, or is no file at all."""
    links: set[PurePosixPath] = set()
    try:
        with tarfile.open(archive, "r:") as members:
            for member in members:
                if reason := _refusal(member, links):
                    raise KernelError(
                        f"{file.name} {file.version} is refused: {reason}", details=f"{file.url}\n{member.name}"
                    )
    except (tarfile.TarError, OSError) as error:
        raise KernelError(f"{file.name} {file.version} cannot be unpacked: {error}", details=file.url) from None


def _refusal(member: tarfile.TarInfo, links: set[PurePosixPath]) -> str:
    """Return what is wrong with a member; `links` are the symbolic links before it, and grow."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or links.intersection(path.parents):
        return "a file leads out of the package"
    if member.issym():
        links.add(path)
        return "a link leads out of the package" if path in _NO_LINKS or _climbs_out(path, member.linkname) else ""
    if member.islnk():
        target = PurePosixPath(member.linkname)
        outside = target.is_absolute() or ".." in target.parts or links.intersection((target, *target.parents))
        return "a hard link leads out of the package" if outside else ""
    return "" if member.isfile() or member.isdir() else "it holds a device"


def _climbs_out(path: PurePosixPath, target: str) -> bool:
    """Tell whether a relative link leads above the root; an absolute one means the root that it is seen in."""
    depth = 0 if target.startswith("/") else len(path.parents) - 1
    for part in PurePosixPath(target).parts:
        depth += {"..": -1, "/": 0}.get(part, 1)
        if depth < 0:
            return True
    return False
