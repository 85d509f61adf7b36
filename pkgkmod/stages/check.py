"""check: the modules of one job's packages, looked into for what their kernels would refuse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pkgkmod.data.distros import find_distro
from pkgkmod.model.artifacts import PackageSet, SignedSet
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
        kernels = unit.job.kernels
        certificate = certificate_of(unit.project, unit.base)
        return {
            "check": unit.project.check.model_dump(),
            "certificate": certificate_digest(certificate, "check.certificate") if certificate else "",
            "kernel trees": [kernel.identity for kernel in kernels],
            "installed kernels": {kernel.uname_r: own_modules_stamp(kernel.uname_r) for kernel in kernels},
            "requires": [
                provider_stamps(unit.project, unit.base, kernel.uname_r, unit.job.source_label) for kernel in kernels
            ],
        }

    def run(self, work: Work[Any]) -> Verdict:
        """Open the packages, and put their modules beside their kernels."""
        from pkgkmod.packages.checkpackages import CheckSettings, check_packages, raise_errors
        from pkgkmod.signing.modulestate import module_signature

        unit: JobUnit = work.unit
        project, job = unit.project, unit.job
        signed = project.signing.is_on
        made = work.one("signed_set" if signed else f"package_set.{job.distro.format}")
        packages = made.load(SignedSet if signed else PackageSet).packages
        certificate = certificate_of(project, unit.base)
        verdict = check_packages(
            [made.folder / package.file for package in packages if package.kind == "binary"],
            work.run,
            lambda content: module_signature(content, certificate),
            lambda wanted: [kernel for kernel in job.kernels if kernel.uname_r in wanted],
            CheckSettings(project.check.ignore, job.id, extra=_required(unit)),
        )
        # Also for those who want to see all of it after a failure.
        (work.folder / VERDICT_FILE).write_text(verdict.model_dump_json(indent=1) + "\n", encoding="utf-8")
        if project.check.level == "fail":
            hint = 'correct these, or ship them all the same: check.ignore, or check.level = "warn"'
            raise_errors(verdict.findings, hint)
        return verdict


def certificate_of(project: Project, base: Path) -> Path | None:
    """Return the certificate that modules must be signed with; None if nothing says so."""
    named = project.check.certificate or (project.signing.module_certificate if project.signing.modules else None)
    return base / Path(named).expanduser() if named else None


def _required(unit: JobUnit) -> dict[str, dict[str, Export]]:
    """Return what the drivers export that this one requires, by kernel."""
    found: dict[str, dict[str, Export]] = {}
    for kernel in unit.job.kernels if unit.project.requires else ():
        for provider in find_providers(unit.project, unit.base, kernel.uname_r, unit.job.source_label):
            symvers = next(iter(provider.files.values()))  # headers follow
            found.setdefault(kernel.uname_r, {}).update(read_symvers(str(symvers)))
    return found
