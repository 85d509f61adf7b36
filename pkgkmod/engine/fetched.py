"""Checking what was fetched from a build farm, once, and again where something changed that the findings depend on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.engine.execute import run_step
from pkgkmod.engine.plan import Step, decide
from pkgkmod.errors import CheckError, InputError, PkgkmodError, RequirementError
from pkgkmod.kernels.here import kernels_here
from pkgkmod.model.artifacts import PackageSet
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.project import Project
from pkgkmod.model.verdict import VERDICT_FILE, Verdict
from pkgkmod.packages.checkpackages import tell
from pkgkmod.packages.providers import find_providers
from pkgkmod.progress import JsonLines, Progress
from pkgkmod.stages.check_fetched import FETCHED, CheckFetched, FetchedUnit
from pkgkmod.workspace import Result, Workspace, digest

_NAMED = 3
"""Kernels that are named in a message."""


@dataclass(frozen=True)
class _Here:
    """What there is to check packages with."""

    project: Project
    base: Path
    kernels: Mapping[str, Kernel]
    progress: Progress

    def unit(self, fetched: Result) -> FetchedUnit:
        """Return what is checked, with those kernels that are here."""
        made = fetched.load(PackageSet)
        target = next((one for one in self.project.target if one.id == fetched.target), None)
        project = self.project.for_target(target) if target else self.project
        label = target.source_label if target else "_"
        here = [self.kernels[release] for release in made.kernels if release in self.kernels]
        sent = str(fetched.ingredients.get("package", ""))
        known = tuple(kernel for kernel in here if self._has_required(kernel, project, label, fetched))
        return FetchedUnit(project, self.base, fetched.target, fetched.kernel, sent, known, label)

    def _has_required(self, kernel: Kernel, project: Project, label: str, fetched: Result) -> bool:
        """Tell whether the drivers that the project requires are here for a kernel: their symbols count, too."""
        try:
            find_providers(project, self.base, kernel.uname_r, label)
        except RequirementError as error:
            self.progress.warning(f"{_title(fetched)}: symbols are not checked: {error.brief}")
            return False
        return True


def check_fetched(
    results: Iterable[Result], project: Project, base: Path, workspace: Workspace, progress: Progress
) -> PkgkmodError | None:
    """Check packages of a farm, tell what was found, and return the error, if that is to fail or one is damaged.

    The verdicts are results of their own. What was checked before is not checked again, and its errors are told all
    the same.
    """
    wanted = [result for result in results if project.check.level != "off"]
    if not wanted:
        return None
    here = _Here(project, base, {kernel.uname_r: kernel for kernel in kernels_here(project, base)}, progress)
    _tell_absent(wanted, here)
    errors: list[PkgkmodError] = []
    for fetched in wanted:
        try:
            _check(fetched, here, workspace)
        except (CheckError, InputError) as error:
            errors.append(error)
    return _together(errors)


def _tell_absent(results: Sequence[Result], here: _Here) -> None:
    """Say of which kernels nothing is known but their names."""
    asked = dict.fromkeys(release for result in results for release in result.load(PackageSet).kernels)
    absent = [release for release in asked if release not in here.kernels]
    for result in results:
        for release in result.load(PackageSet).kernels:
            if release in absent:
                here.progress.event("unchecked", target=_title(result), kernel=release)
    if absent:
        named = ", ".join(absent[:_NAMED]) + (f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else "")
        here.progress.warning(
            f"symbols are not checked where no build tree is here: {named}; `pkgkmod kernels fetch` brings those that "
            "an archive has, and `pkgkmod submit fetch` checks again"
        )


def _check(fetched: Result, here: _Here, workspace: Workspace) -> None:
    step = Step(CheckFetched(), here.unit(fetched), ())
    inputs = {_title(fetched): digest([(output.path, output.sha256) for output in fetched.outputs])}
    decision = decide(step, inputs, workspace, reuse=False)
    if decision.action == "SKIP" and decision.result:
        found = decision.result.load(Verdict).findings
        tell([one for one in found if one.severity == "error"], here.progress)
        return
    try:
        with workspace.locked(here.progress):
            made = run_step(decision, {FETCHED: (fetched,)}, workspace, here.progress)
    except CheckError:
        file = workspace.place(*step.key, decision.fingerprint) / VERDICT_FILE
        found = Verdict.model_validate_json(file.read_text(encoding="utf-8")).findings
        # The error itself names errors to people.
        tell([one for one in found if one.severity != "error" or isinstance(here.progress, JsonLines)], here.progress)
        raise
    tell(made.load(Verdict).findings, here.progress)


def _title(fetched: Result) -> str:
    return fetched.target if fetched.kernel == "_" else f"{fetched.target}/{fetched.kernel}"


def _together(errors: Sequence[PkgkmodError]) -> PkgkmodError | None:
    if len(errors) < 2:
        return errors[0] if errors else None
    lines = [line for error in errors for line in (error.brief, *(f"    {one}" for one in error.details.splitlines()))]
    return CheckError(
        f"the packages of {len(errors)} submissions are not fit to be shipped",
        details="\n".join(lines),
        hint=errors[0].hint,
    )
