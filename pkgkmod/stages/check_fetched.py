"""check_fetched: what a farm made for one job, looked into as what was made here.

No stage of the pipeline: it follows a farm's packages as `check` follows those of a build.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkgkmod.model.artifacts import PackageSet
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.project import Project
from pkgkmod.model.verdict import Verdict
from pkgkmod.modules.checks.modules import in_order
from pkgkmod.plugins import Option, Scope, Unit, Work
from pkgkmod.stages.check import Subject, conclude

STAGE = "check_fetched"
FETCHED = "fetched"
"""Kind of the packages among the inputs."""


@dataclass(frozen=True)
class FetchedUnit(Unit):
    """The packages of one submission."""

    target: str
    label: str
    """Of the job's kernel."""
    sent: str
    """File name of the source package that the farm was given."""
    kernels: tuple[Kernel, ...]
    """Those of its kernels that are here."""
    source_label: str

    @property
    def key(self) -> tuple[str, str]:
        """Filed as the packages are."""
        return self.target, self.label


class CheckFetched:
    """Say what is wrong with the packages that a farm made, and whether they are those that were asked for."""

    name = STAGE
    version = 1
    summary = "Look into packages that a farm made."
    scope: Scope = "job"
    produces = "verdict"
    in_build = False
    options: tuple[Option, ...] = ()

    def consumes(self, project: Project) -> tuple[str, ...]:
        """Return the packages."""
        return (FETCHED,)

    def applies(self, unit: FetchedUnit) -> bool:
        """Unless the project wants no check."""
        return unit.project.check.level != "off"

    def on_edit(self, project: Project) -> None:
        """What was found is not edited by hand."""

    def ingredients(self, unit: FetchedUnit) -> Mapping[str, object]:
        """Return what the findings depend on besides the packages."""
        return {"sent": unit.sent, **_subject(unit).ingredients()}

    def run(self, work: Work[Any]) -> Verdict:
        """Open the packages, put their modules beside their kernels, and compare them with what was asked for."""
        from pkgkmod.packages.fetched import compare

        unit: FetchedUnit = work.unit
        fetched = work.one(FETCHED)
        made = fetched.load(PackageSet)
        subject = _subject(unit)
        verdict = subject.check([fetched.folder / one.file for one in made.packages if one.kind == "binary"], work)
        files = [fetched.folder / one.file for one in made.packages]
        other = compare(unit.sent, made.kernels, files, verdict.modules)
        findings = in_order([*verdict.findings, *other], unit.project.check.ignore)
        return conclude(
            verdict.model_copy(update={"findings": findings}),
            work,
            what=f"what was fetched of {subject.target} is not fit to be shipped",
            hint='the packages are kept; check.ignore leaves a finding out, and check.level = "warn" only tells them',
        )


def _subject(unit: FetchedUnit) -> Subject:
    check, signing = unit.project.check, unit.project.signing
    # Where the project signs modules, it does so after they were fetched.
    named = None if signing.modules else check.certificate
    certificate = unit.base / Path(named).expanduser() if named else None
    target = unit.target if unit.label == "_" else f"{unit.target}/{unit.label}"
    return Subject(unit.project, unit.base, target, unit.kernels, unit.source_label, certificate)
