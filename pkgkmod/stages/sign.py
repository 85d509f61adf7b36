"""sign: the packages of one job with signed modules, and signed themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pkgkmod.data.distros import find_distro
from pkgkmod.errors import SigningError
from pkgkmod.kernels.provide import repair_kernel
from pkgkmod.model.artifacts import PackageSet, SignedSet
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import seen_at
from pkgkmod.model.project import Project
from pkgkmod.plugins import JobUnit, Work
from pkgkmod.programs import tool_stamp
from pkgkmod.signing.keys import certificate_digest
from pkgkmod.signing.modules import hash_of_kernel
from pkgkmod.signing.openssl import is_token
from pkgkmod.signing.packages import settled, sign_set, wanted_signatures
from pkgkmod.signing.rpmsign import keyring


class Sign:
    """Make finished packages anew with signed modules, sign the packages, and verify all of it."""

    name = "sign"
    version = 1
    summary = "Sign the modules in finished packages, and the packages."
    scope: Literal["job"] = "job"
    produces = "signed_set"
    in_build = True
    options = ()

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Return the packages as they were built, of the formats that the targets have."""
        formats = {find_distro(target.distro).format for target in project.target} or {"deb", "rpm"}
        return tuple(f"package_set.{format}" for format in sorted(formats))

    def applies(self, unit: JobUnit) -> bool:
        """Only where the project has a key."""
        return unit.project.signing.is_on

    def on_edit(self, project: Project) -> None:
        """What was signed is not edited by hand."""

    def ingredients(self, unit: JobUnit) -> Mapping[str, object]:
        """Return keys by their place, the certificate by its content, and the programs. No secret is read."""
        signing, base = unit.project.signing, unit.base
        found: dict[str, object] = {}
        if signing.module_certificate:
            found["certificate"] = certificate_digest(settled(signing.module_certificate, base))
            found["openssl"] = tool_stamp("openssl", needed_for="signing modules")
        if signing.module_key:
            found["module key"] = _stamp(signing.module_key, base)
            found["hash"] = signing.module_hash or [kernel.identity for kernel in unit.job.kernels]
        if signing.module_signatures:
            folder = settled(signing.module_signatures, base)
            found["signatures"] = [_stamp_of(path) for path in sorted(folder.glob("*.*")) if path.is_file()]
        if signing.package_key:
            home = keyring(signing.gpg_home, base)
            found["package key"] = [signing.package_key, *(_stamp_of(path) for path in sorted(home.glob("pubring.*x")))]
            tools = {"rpm": ("rpmsign", "gpg"), "deb": ("gpg", "gpgv")}[unit.job.distro.format]
            found["package tools"] = [tool_stamp(tool, needed_for="signing packages") for tool in tools]
        return found

    def run(self, work: Work[Any]) -> SignedSet:
        """Sign the modules, then the packages; nothing is kept unless all of it verifies."""
        made = work.one(f"package_set.{work.unit.job.distro.format}")
        packages = made.load(PackageSet)
        signing = work.unit.project.signing
        hash_of = _hashes(work, work.unit.job) if signing.module_key else _no_hash
        wanted = wanted_signatures(signing, work.unit.base, hash_of, work.run, work.progress)
        with work.workspace.scratch() as scratch:
            sources = [made.folder / package.file for package in packages.packages]
            count = sign_set(sources, work.folder, wanted, scratch=scratch, run=work.run, progress=work.progress)
        if wanted.sign and not count and any(package.kind == "binary" for package in packages.packages):
            raise SigningError(
                f"there is no kernel module in the packages of {work.unit.job.id}, where they were to be signed",
                hint="modules are looked for in /lib/modules and /usr/lib/modules, as .ko, .ko.gz, .ko.xz and .ko.zst",
            )
        signed = tuple(
            package.model_copy(update={"size": (work.folder / package.file).stat().st_size})
            for package in packages.packages
        )
        return SignedSet(
            **packages.model_dump(exclude={"packages"}),
            packages=signed,
            modules=count,
            certificate=certificate_digest(wanted.certificate) if wanted.certificate else "",
            package_key=wanted.package_key.fingerprint if wanted.package_key else "",
        )


def _no_hash(path: str) -> str:
    raise AssertionError(f"{path}: signatures that were made elsewhere have their hash")


def _hashes(work: Work[Any], job: Job) -> Callable[[str], str]:
    """Return what tells for a module's path in a package which hash it is signed with."""
    if chosen := work.unit.project.signing.module_hash:
        return lambda _: chosen
    found: dict[str, str] = {}
    for kernel in job.kernels:
        repair_kernel(kernel, work.progress)
        config = seen_at(kernel.tree / ".config", kernel.mounts)
        found[kernel.uname_r] = hash_of_kernel(config.read_text(encoding="utf-8", errors="replace"))
    first = next(iter(found.values()))
    # .../lib/modules/RELEASE/...
    return lambda path: found.get(path.partition("lib/modules/")[2].partition("/")[0], first)


def _stamp(key: str, base: Path) -> str:
    """Return what stands for a private key in fingerprints: nothing of its content."""
    if is_token(key):
        return key
    try:
        return _stamp_of(settled(key, base))
    except OSError as error:
        raise SigningError(
            f"the private key {settled(key, base)} cannot be used: {error.strerror}",
            hint="signing.module_key names a PEM file, or a pkcs11: URI; `pkgkmod sign --new-key` makes one for tests",
        ) from None


def _stamp_of(path: Path) -> str:
    facts = path.stat()
    return f"{path}:{facts.st_size}:{facts.st_mtime_ns}"
