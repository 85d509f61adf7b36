"""pkgkmod.lock: the inputs of a build, pinned, so that next year's build gets the same ones or is refused."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, Self

import tomlkit
from pydantic import BaseModel, ConfigDict, ValidationError

from pkgkmod.cachefolder import cache_folder
from pkgkmod.errors import LockError
from pkgkmod.kernels.select import Found, local_kernels
from pkgkmod.model.kernel import Kernel, KernelOffer, KernelRelease, PackageFile
from pkgkmod.model.only import Only
from pkgkmod.model.project import Project, Target
from pkgkmod.sources.importer import selection_key
from pkgkmod.sources.repository import resolve_source
from pkgkmod.workspace import digest, write_atomically

LOCK_FILE = "pkgkmod.lock"
_PROJECT = "{project}"
"""Stands for the project's folder in addresses and names of keys."""
_HEAD = "# Made by `pkgkmod lock`: the inputs of the build, pinned. Keep it with the project file; do not edit it.\n\n"
_UPDATE = "`pkgkmod lock` writes the lock anew; `pkgkmod lock --update` takes newer kernels, too"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LockedSource(_Table):
    """The sources behind a label: the commit, and a digest over directories, patches and how they are imported."""

    label: str
    revision: str
    commit: str
    patches: dict[str, str]
    """SHA-256 of each patch, by name."""
    selection: str


class LockedPackage(_Table):
    """A package of a kernel."""

    name: str
    version: str
    url: str
    sha256: str
    size: int


class LockedKernel(_Table):
    """A kernel: the packages of an archive, or the digest of a tree that lies on the machine."""

    release: str
    arch: str
    source: str
    archive: str = ""
    keys: tuple[str, ...] = ()
    digest: str = ""
    package: tuple[LockedPackage, ...] = ()

    @classmethod
    def of(cls, kernel: Found, base: Path) -> Self:
        """Pin a kernel; what lies in the project's folder `base` is named so that it is found elsewhere, too."""
        offer = kernel if isinstance(kernel, KernelOffer) else kernel.offer
        common = {"release": kernel.uname_r, "arch": kernel.arch, "source": kernel.source}
        if offer is None:
            assert isinstance(kernel, Kernel)
            return cls(**common, digest=tree_digest(kernel))
        packages = tuple(
            LockedPackage(**{**vars(package), "url": _portable(package.url, base)}) for package in offer.packages
        )
        keys = tuple(_portable(key, base) for key in offer.keys)
        return cls(**common, archive=_portable(offer.archive, base), keys=keys, package=packages)

    def offer(self, base: Path) -> KernelOffer:
        """Return the kernel as an archive offers it, for a project in the folder `base`."""
        packages = tuple(
            PackageFile(**{**package.model_dump(), "url": _local(package.url, base)}) for package in self.package
        )
        keys = tuple(_local(key, base) for key in self.keys)
        archive = _local(self.archive, base)
        return KernelOffer(KernelRelease(self.release), self.arch, self.source, packages, archive, keys)


def _portable(text: str, base: Path) -> str:
    return text.replace(f"{base.absolute()}/", f"{_PROJECT}/")


def _local(text: str, base: Path) -> str:
    return text.replace(f"{_PROJECT}/", f"{base.absolute()}/")


class LockedTarget(_Table):
    """What a target asked for, and the releases that it meant."""

    name: str
    wanted: tuple[str, ...]
    kernels: tuple[str, ...]


class Lock(_Table):
    """The whole lock."""

    version: Literal[1] = 1
    source: tuple[LockedSource, ...] = ()
    only: str = ""
    """Digest of the limits, [only], by which kernels were left out; empty if there were none."""
    target: tuple[LockedTarget, ...] = ()
    kernel: tuple[LockedKernel, ...] = ()

    def kernels(self, targets: Iterable[Target], project: Project, base: Path) -> dict[Target, tuple[Found, ...]]:
        """Return the pinned kernels of each target; raise LockError if they are not what was pinned."""
        if self.only and self.only != _limits(project):  # others may have been left out than would be now
            raise LockError(
                f"{LOCK_FILE} does not fit the project: [only] was another one when it was made", hint=_UPDATE
            )
        locked = {kernel.release: kernel for kernel in self.kernel}
        known = {target.name: target for target in self.target}
        local: dict[str, Kernel] | None = None
        found: dict[Target, tuple[Found, ...]] = {}
        for target in targets:
            pinned = known.get(target.id)
            if pinned is None or pinned.wanted != target.kernels:
                what = "is not in it" if pinned is None else f"asked for {', '.join(pinned.wanted)} when it was made"
                raise LockError(f"{LOCK_FILE} does not fit the project: the target '{target.id}' {what}", hint=_UPDATE)
            kernels: list[Found] = []
            for release in pinned.kernels:
                if locked[release].package:
                    kernels.append(locked[release].offer(base))
                    continue
                if local is None:
                    local = {kernel.uname_r: kernel for kernel in local_kernels(project, base)}
                kernels.append(_checked(locked[release], local))
            found[target] = tuple(kernels)
        return found

    def check_sources(self, project: Project, base: Path) -> None:
        """Raise LockError, with what differs, if the sources are not those that were pinned."""
        known = {source.label: source for source in self.source}
        for source in locked_sources(project, base):
            pinned = known.get(source.label)
            if pinned is None:
                raise LockError(f"{LOCK_FILE} does not fit the project: it pins no such sources", hint=_UPDATE)
            if pinned != source:
                raise LockError(
                    f"the sources are not those that {LOCK_FILE} pins",
                    details="\n".join(_differences(pinned, source)),
                    hint=_UPDATE,
                )


def _differences(pinned: LockedSource, now: LockedSource) -> Iterable[str]:
    if pinned.commit != now.commit:
        yield f"revision {now.revision} is commit {now.commit}, pinned is {pinned.commit}"
    for name in sorted({*pinned.patches, *now.patches}):
        if pinned.patches.get(name) != now.patches.get(name):
            change = "new" if name not in pinned.patches else "gone" if name not in now.patches else "changed"
            yield f"patch {name}: {change}"
    if pinned.commit == now.commit and pinned.patches == now.patches:
        yield "directories, order of patches, or follow_includes are others"


def _checked(pinned: LockedKernel, local: Mapping[str, Kernel]) -> Kernel:
    kernel = local.get(pinned.release)
    if kernel is None:
        raise LockError(
            f"{LOCK_FILE} pins the kernel {pinned.release} of this machine ({pinned.source}), which is not here",
            hint="install its headers, or name an archive in plugin.apt.archives and lock again",
        )
    if tree_digest(kernel) != pinned.digest:
        raise LockError(
            f"the build tree of {pinned.release} is not the one that {LOCK_FILE} pins",
            details=f"it lies in {kernel.place}",
            hint=f"install the same version of its headers; {_UPDATE}",
        )
    return kernel


def tree_digest(kernel: Kernel) -> str:
    """Return a digest that is the same wherever the same headers are: over the files that say most."""
    total = hashlib.sha256()
    for name in (".config", "Module.symvers", "include/generated/utsrelease.h", "include/generated/utsversion.h"):
        file = kernel.place / name
        total.update(name.encode() + b"\0" + (file.read_bytes() if file.is_file() else b"") + b"\0")
    return total.hexdigest()


def locked_sources(project: Project, base: Path) -> tuple[LockedSource, ...]:
    """Return the sources of a project as they are now; remote branches and tags are asked for."""
    labels = {target.source_label: project.for_target(target) for target in project.target} or {"_": project}
    found = []
    for label, own in labels.items():
        source = own.source
        commit = resolve_source(source, base=base, cache=cache_folder())
        key = selection_key(source, commit=commit, base=base)
        patches = {name: sha256 for name, _, sha256 in key["patches"]}  # type: ignore[attr-defined]
        found.append(
            LockedSource(
                label=label,
                revision=source.revision or "HEAD",
                commit=commit,
                patches=patches,
                selection=digest(key),
            )
        )
    return tuple(found)


def _limits(project: Project) -> str:
    return digest(project.only.model_dump()) if project.only != Only() else ""


def make_lock(project: Project, base: Path, wanted: Mapping[Target, tuple[Found, ...]]) -> Lock:
    """Return the lock that pins a project's sources and kernels as they are now."""
    distinct = {kernel.uname_r: kernel for found in wanted.values() for kernel in found}
    return Lock(
        source=locked_sources(project, base),
        only=_limits(project),
        target=tuple(
            LockedTarget(name=target.id, wanted=target.kernels, kernels=tuple(k.uname_r for k in found))
            for target, found in wanted.items()
        ),
        kernel=tuple(LockedKernel.of(kernel, base) for kernel in distinct.values()),
    )


def read_lock(folder: Path) -> Lock | None:
    """Return the lock beside a project file, if there is one; raise LockError if it cannot be read."""
    file = folder / LOCK_FILE
    if not file.exists():
        return None
    try:
        lock = Lock.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise LockError(f"{LOCK_FILE} cannot be read: {first}", hint="remove it, then `pkgkmod lock`") from None
    missing = {release for target in lock.target for release in target.kernels} - {k.release for k in lock.kernel}
    if missing:
        raise LockError(f"{LOCK_FILE} says nothing about {', '.join(sorted(missing))}", hint=_UPDATE)
    return lock


def write_lock(lock: Lock, folder: Path) -> Path:
    """Write the lock beside the project file, in one step."""
    file = folder / LOCK_FILE
    text = tomlkit.dumps(lock.model_dump(mode="json", exclude_defaults=True) | {"version": lock.version})
    write_atomically(file, _HEAD + text)
    return file
