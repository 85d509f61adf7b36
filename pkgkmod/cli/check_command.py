"""check: what is wrong with finished modules, of the project or from anywhere."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.builder_choice import BUILDER, with_builder
from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options, with_options
from pkgkmod.errors import InputError, UsageError, did_you_mean

if TYPE_CHECKING:
    from pkgkmod.errors import PkgkmodError
    from pkgkmod.model.verdict import Verdict
    from pkgkmod.modules.kmod_deps import Module

_PATH = click.Path(path_type=Path)

_OPTIONS = [
    click.option(
        "--kernel", multiple=True, metavar="RELEASE", help="Only this kernel; with FILES: check against this one."
    ),
    click.option("--target", multiple=True, metavar="NAME", help="Only this target of the project."),
    BUILDER,
    click.option("--certificate", metavar="FILE", help="Certificate that all modules must be signed with."),
    click.option("--with", "others", multiple=True, type=_PATH, metavar="FILE", help="With FILES: drivers they need."),
    click.option("--ignore", multiple=True, metavar="CODE", help="Finding that is not reported, such as KMOD052."),
    click.option("--sarif", type=_PATH, metavar="FILE", help="Write the findings to FILE, as SARIF 2.1.0."),
    click.option("--explain", metavar="CODE", help="Only say what a finding's code means."),
    click.option("-f", "--force", is_flag=True, help="Check the project although nothing changed."),
    click.option("-n", "--dry-run", is_flag=True, help="Show the plan for the project only."),
]


@click.command()
@click.argument("files", nargs=-1, type=_PATH)
@with_options(_OPTIONS)
@command_options
@click.pass_context
def check(ctx: click.Context, /, **given: Any) -> None:
    """Say what is wrong with finished modules: what kernels would refuse, and what was left in them.

    FILES are packages, modules, and folders with some, whoever made them. Without FILES, the packages of the project
    are built as far as they are not, and checked. -v shows notes, too. The exit code is 23 if there are errors.
    """
    from pkgkmod.cli.check_report import report_verdicts
    from pkgkmod.packages.checkpackages import raise_errors

    invocation: Invocation = ctx.obj.with_options(given)
    if given["explain"]:
        _explain(given["explain"], invocation)
        return
    for code in given["ignore"]:
        _meaning(code)
    fails, failure = True, None
    if given["files"]:
        verdicts = [_check_files(invocation, given)]
    else:
        found = _check_project(invocation, given)
        if found is None:
            return
        verdicts, fails, failure = found
    findings = [one for verdict in verdicts for one in verdict.findings]
    if given["sarif"]:
        _write_sarif(given["sarif"], verdicts)
    if verdicts or not failure:
        report_verdicts(verdicts, invocation)
    if failure:  # something could not be built, or looked at
        raise failure
    if fails:
        code = next((one.code for one in findings if one.severity == "error"), "CODE")
        hint = f"`pkgkmod check --explain {code}` says what that is; --ignore {code} leaves it out"
        raise_errors(findings, hint=hint, told=True)


def _meaning(code: str) -> Any:
    from pkgkmod.modules.checks.codes import CODES

    if code.upper() not in CODES:
        begun = [one for one in CODES if one.startswith(code.upper())]
        hint = f"there are: {', '.join(begun)}" if begun else did_you_mean(code.upper(), CODES)
        hint = hint or f"they go from {min(CODES)} to {max(CODES)}"
        raise UsageError(f"no finding about modules has the code {code}", hint=hint)
    return CODES[code.upper()]


def _explain(code: str, invocation: Invocation) -> None:
    from pkgkmod.progress import JsonLines

    meaning = _meaning(code)
    if invocation.json_lines:
        JsonLines().event("code", code=code.upper(), **meaning._asdict())
        return
    click.echo(f"{click.style(code.upper(), bold=True)} ({meaning.severity}): {meaning.title}.")
    click.echo(click.wrap_text(meaning.why, 80))


# --- files from anywhere ------------------------------------------------------------------------------


def _check_files(invocation: Invocation, given: Mapping[str, Any]) -> Verdict:
    """Check packages and modules; no project is needed."""
    from pkgkmod.cli.disk_command import project_or_settings
    from pkgkmod.command import run
    from pkgkmod.kernels.here import kernels_here
    from pkgkmod.packages.checkpackages import CheckSettings, check_packages
    from pkgkmod.packages.modulefiles import find_files
    from pkgkmod.packages.openmodules import read_providers
    from pkgkmod.signing.keys import read_certificate
    from pkgkmod.signing.modulestate import module_signature

    refused = {
        "target": "name the files that are wanted",
        "builder": "they are finished packages",
        "dry_run": "checking files touches nothing",
    }
    for option, why in refused.items():
        if given[option]:
            raise UsageError(f"--{option.replace('_', '-')} does not go with FILES", hint=why)
    if len(given["kernel"]) > 1:
        raise UsageError("with FILES, there is one --kernel", hint="check them once for each kernel")
    certificate = Path(given["certificate"]).expanduser() if given["certificate"] else None
    if certificate:
        read_certificate(certificate)  # what is wrong with it is no module's fault
    files = find_files(given["files"])
    project, base = project_or_settings(invocation)
    progress = invocation.progress()
    try:
        with tempfile.TemporaryDirectory(prefix="pkgkmod-") as place:

            def logged(command: Any) -> Any:
                return run(command, log=Path(place, "log"), progress=progress)

            others = read_providers(find_files(given["others"]), logged) if given["others"] else {}
            return check_packages(
                files,
                logged,
                lambda content: module_signature(content, certificate),
                lambda wanted: [one for one in kernels_here(project, base) if one.uname_r in wanted],
                CheckSettings(
                    ignore=(*project.check.ignore, *(code.upper() for code in given["ignore"])),
                    kernel=given["kernel"][0] if given["kernel"] else "",
                    providers=_for_kernel(others, given["kernel"]),
                ),
            )
    finally:
        progress.close()


def _for_kernel(others: Mapping[str, tuple[Module, ...]], kernel: Sequence[str]) -> dict[str, tuple[Module, ...]]:
    """Return modules of other drivers by the kernel that they are looked at for."""
    return {kernel[0]: tuple(one for ones in others.values() for one in ones)} if kernel else dict(others)


# --- the project --------------------------------------------------------------------------------------


def _check_project(
    invocation: Invocation, given: Mapping[str, Any]
) -> tuple[list[Verdict], bool, PkgkmodError | None] | None:
    """Build and check the project's packages; return what was found, whether errors are to fail, and what did fail.

    None if only the plan was shown.
    """
    from pkgkmod.cli.run_commands import run_stages, select
    from pkgkmod.engine.execute import execute
    from pkgkmod.model.verdict import Verdict
    from pkgkmod.workspace import Workspace

    if given["others"]:
        raise UsageError("--with goes with FILES", hint="a project names the drivers that it needs in [[requires]]")
    level = invocation.load().project.check.level
    # The findings are told here, all of them, also where nothing was to be done.
    settings: dict[str, Any] = {"check.level": "warn"}
    if given["certificate"]:
        settings["check.certificate"] = os.path.abspath(Path(given["certificate"]).expanduser())
    if given["ignore"]:
        ignored = invocation.load().project.check.ignore
        settings["check.ignore"] = [*ignored, *(code.upper() for code in given["ignore"])]
    invocation = invocation.with_settings(settings)
    force = ("check",) if given["force"] else ()
    if given["dry_run"]:
        run_stages(invocation, ("check",), given, force=force)
        return None
    invocation, others = with_builder(invocation, ("check",), given)
    loaded = invocation.load()
    progress = invocation.progress()
    if others:
        progress.info(others)
    try:
        selection = select(loaded, ("check",), given, progress, force=force)
        run = execute(selection, Workspace(loaded.folder), progress)
    finally:
        progress.close()
    verdicts = [result.load(Verdict) for key, result in sorted(run.results.items()) if key[0] == "check"]
    return verdicts, level == "fail", run.failure


def _write_sarif(file: Path, verdicts: Sequence[Verdict]) -> None:
    from pkgkmod import __version__
    from pkgkmod.modules.checks.codes import CODES
    from pkgkmod.reports.sarif import sarif

    findings = [one for verdict in verdicts for one in verdict.findings]
    try:
        file.write_text(sarif(findings, CODES, __version__), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from None
