"""check: the modules of one job's packages, looked into for what their kernels would refuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pkgkmod.data.distros import find_distro
from pkgkmod.model.artifacts import PackageSet, SignedSet
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.project import Project
from pkgkmod.model.verdict import VERDICT_FILE, Verdict
from pkgkmod.modules.kmod_deps import Export, read_symvers
from pkgkmod.modules.ownmodules import own_modules_stamp
from pkgkmod.packages.providers import find_providers, provider_stamps
from pkgkmod.plugins import JobUnit, Option, Work
from pkgkmod.signing.keys import certificate_digest


class Check:
    """Say what is wrong with finished modules before they are shipped."""

    name = "check"
    version = 1
    summary = "Look into the modules of finished packages for what kernels would refuse."
    scope: Literal["job"] = "job"
    produces = "verdict"
    in_build = True
    options = (
        Option(
            ("--ignore",), "check.ignore", "Findings not to report, such as KMOD052.", metavar="CODE", multiple=True
        ),
        Option(
            ("--certificate",), "check.certificate", "Certificate that all modules are signed with.", metavar="FILE"
        ),
    )

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Return the packages as they are handed out: the signed ones, where there are such."""
        if project.signing.is_on:
            return ("signed_set",)
        formats = {find_distro(target.distro).format for target in project.target} or {"deb", "rpm"}
        return tuple(f"package_set.{format}" for format in sorted(formats))

    def applies(self, unit: JobUnit) -> bool:
        """Wherever there will be binary packages, unless the project wants no check."""
        if unit.project.check.level == "off":
            return False
        return not (unit.job.distro.format == "rpm" and unit.project.rpm.srpm_only)

    def on_edit(self, project: Project) -> None:
        """What was found is not edited by hand."""

    def ingredients(self, unit: JobUnit) -> Mapping[str, object]:
        """Return what the findings depend on besides the packages: settings, kernels, and required drivers."""
        return _subject(unit).ingredients()

    def run(self, work: Work[Any]) -> Verdict:
        """Open the packages, and put their modules beside their kernels."""
        unit: JobUnit = work.unit
        signed = unit.project.signing.is_on
        made = work.one("signed_set" if signed else f"package_set.{unit.job.distro.format}")
        packages = made.load(SignedSet if signed else PackageSet).packages
        files = [made.folder / package.file for package in packages if package.kind == "binary"]
        verdict = _subject(unit).check(files, work)
        return conclude(
            verdict, work, hint='correct these, or ship them all the same: check.ignore, or check.level = "warn"'
        )


@dataclass(frozen=True)
class Subject:
    """Whose packages are checked, and beside which kernels."""

    project: Project
    base: Path
    target: str
    """What findings call it: TARGET or TARGET/KERNEL."""
    kernels: tuple[Kernel, ...]
    source_label: str
    certificate: Path | None
    """Certificate that modules must be signed with."""

    def ingredients(self) -> dict[str, object]:
        """Return what the findings depend on besides the packages."""
        return {
            "check": self.project.check.model_dump(),
            "certificate": certificate_digest(self.certificate, "check.certificate") if self.certificate else "",
            "kernel trees": [kernel.identity for kernel in self.kernels],
            "installed kernels": {kernel.uname_r: own_modules_stamp(kernel.uname_r) for kernel in self.kernels},
            "requires": [
                provider_stamps(self.project, self.base, kernel.uname_r, self.source_label) for kernel in self.kernels
            ],
        }

    def check(self, files: Sequence[Path], work: Work[Any]) -> Verdict:
        """Open packages, and put their modules beside the kernels."""
        from pkgkmod.packages.checkpackages import CheckSettings, check_packages
        from pkgkmod.signing.modulestate import module_signature

        return check_packages(
            files,
            work.run,
            lambda content: module_signature(content, self.certificate),
            lambda wanted: [kernel for kernel in self.kernels if kernel.uname_r in wanted],
            CheckSettings(self.project.check.ignore, self.target, extra=self._required()),
        )

    def _required(self) -> dict[str, dict[str, Export]]:
        """Return what the drivers export that this one requires, by kernel."""
        found: dict[str, dict[str, Export]] = {}
        for kernel in self.kernels if self.project.requires else ():
            for provider in find_providers(self.project, self.base, kernel.uname_r, self.source_label):
                symvers = next(iter(provider.files.values()))  # headers follow
                found.setdefault(kernel.uname_r, {}).update(read_symvers(str(symvers)))
        return found


def conclude(verdict: Verdict, work: Work[Any], *, hint: str, what: str = "modules would not be loaded") -> Verdict:
    """Return the verdict that becomes a result; raise CheckError, with `what` and a hint, if that is what errors do."""
    from pkgkmod.packages.checkpackages import raise_errors

    # Also for those who want to see all of it after a failure.
    (work.folder / VERDICT_FILE).write_text(verdict.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if work.unit.project.check.level == "fail":
        raise_errors(verdict.findings, hint, what=what)
    return verdict


def _subject(unit: JobUnit) -> Subject:
    job, certificate = unit.job, certificate_of(unit.project, unit.base)
    return Subject(unit.project, unit.base, job.id, job.kernels, job.source_label, certificate)


def certificate_of(project: Project, base: Path) -> Path | None:
    """Return the certificate that modules must be signed with; None if nothing says so."""
    named = project.check.certificate or (project.signing.module_certificate if project.signing.modules else None)
    return base / Path(named).expanduser() if named else None
