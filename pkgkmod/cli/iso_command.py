"""iso: what is on a driver disk, whoever made it, and what is wrong with it; nothing is mounted or written."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options
from pkgkmod.cli.report import count
from pkgkmod.errors import DiskError, UsageError
from pkgkmod.progress import JsonLines, Progress, escape_controls

if TYPE_CHECKING:
    from pkgkmod.media.contents import VolumeContents
    from pkgkmod.media.images import OpenedDisk
    from pkgkmod.model.finding import Finding
    from pkgkmod.model.packaging import Disk
    from pkgkmod.model.project import Project


@click.group()
def iso() -> None:
    """Show and check driver disks: ISO images, images of USB sticks, .dud files, initrds, folders."""


@iso.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--devices", is_flag=True, help="Show the devices that the modules are for.")
@click.option("--kernel", metavar="UNAME_R", help="Show only what the installer with this kernel takes.")
@command_options
@click.pass_context
def iso_show(ctx: click.Context, /, file: Path, devices: bool, kernel: str | None, **given: Any) -> None:
    """Show what installers take from the driver disk FILE, for which kernels, and what is wrong with it.

    With --kernel, the exit code is 0 if the installer takes something, and 21 if not.
    """
    from pkgkmod.cli.iso_report import NAMED, kernel_text, show_devices, show_json, show_text
    from pkgkmod.media.contents import taken

    invocation: Invocation = ctx.obj.with_options(given)
    project, _ = _settings(invocation)
    with _opened(file, invocation, project.disk) as (disk, contents):
        show = show_json if invocation.json_lines else show_text
        show(disk, contents, kernel)
        rows = [row for one in contents for row in one.rows]
        chosen = rows if kernel is None else taken(rows, kernel)
        if devices and (chosen or not kernel):
            show_devices(chosen, json_lines=invocation.json_lines)
    if kernel and not chosen:
        known = sorted({kernel_text(row) for row in rows if row.kernel})
        raise DiskError(
            f"the installer with the kernel {kernel} takes nothing from {file}",
            hint=f"the disk is for {', '.join(known[:NAMED])}" if known else "no installer takes anything from it",
        )


@iso.command("check")
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--ignore", metavar="CODE", multiple=True, help="Finding that is not reported, such as DISK021.")
@click.option("--installer", metavar="UNAME_R", multiple=True, help="Kernel of an installer that must be served.")
@click.option("--distro", metavar="NAME", help="With packages: their distribution, where they do not say it.")
@command_options
@click.pass_context
def iso_check(
    ctx: click.Context,
    /,
    files: tuple[Path, ...],
    ignore: tuple[str, ...],
    installer: tuple[str, ...],
    distro: str | None,
    **given: Any,
) -> None:
    """Say what is wrong with driver disks, or with packages that are to be put on one.

    FILES are driver disks, or packages and folders of packages. The exit code is 21 if there are errors.
    """
    invocation: Invocation = ctx.obj.with_options(given)
    project, base = _settings(invocation)
    wanted = {"disk.ignore": (*project.disk.ignore, *ignore), "disk.installers": (*project.disk.installers, *installer)}
    invocation = invocation.with_settings({key: list(values) for key, values in wanted.items() if values})
    project, base = _settings(invocation)
    packages = [file for file in files if _holds_packages(file)]
    if distro and len(packages) < len(files):
        raise UsageError("--distro goes with packages", hint="a disk says for which distributions it is")
    findings: list[Finding] = []
    for file in files:
        if file not in packages:
            found = _check_disk(file, invocation, project, base)
            _report(found, invocation, about=str(file) if len(files) > 1 else "")
            findings += found
    if packages:
        found = _check_packages(packages, distro, invocation, project, base)
        _report(found, invocation, about="")
        findings += found
    _refuse(findings, invocation)


@contextmanager
def _opened(
    file: Path, invocation: Invocation, settings: Disk
) -> Iterator[tuple[OpenedDisk, tuple[VolumeContents, ...]]]:
    """Open a disk and read what is on it; it is there until the block ends."""
    from pkgkmod.media.contents import read_contents
    from pkgkmod.media.images import open_disk

    progress = invocation.progress()
    with tempfile.TemporaryDirectory(prefix="pkgkmod-") as place:
        images, packages = Path(place, "images"), Path(place, "packages")
        images.mkdir()
        packages.mkdir()
        try:
            disk = open_disk(file, images, progress)
            contents = read_contents(disk, packages, settings, progress)
        finally:
            progress.close()
        yield disk, contents


def _settings(invocation: Invocation) -> tuple[Project, Path]:
    from pkgkmod.cli.disk_command import project_or_settings

    return project_or_settings(invocation)


def _holds_packages(file: Path) -> bool:
    """Tell whether a file is a package, or a folder that is no driver disk and has packages."""
    from pkgkmod.media.contents import recognize
    from pkgkmod.media.images import open_folder
    from pkgkmod.media.packages import FORMATS

    return not recognize(open_folder(file).volumes[0]) if file.is_dir() else file.suffix in FORMATS


def _check_disk(file: Path, invocation: Invocation, project: Project, base: Path) -> list[Finding]:
    from pkgkmod.command import run
    from pkgkmod.kernels.here import kernels_here
    from pkgkmod.media.contents import releases_of
    from pkgkmod.media.findings import finding
    from pkgkmod.media.lint import in_order
    from pkgkmod.media.loading import loading_check

    with _opened(file, invocation, project.disk) as (_, contents), tempfile.TemporaryDirectory() as place:

        def quiet(command: Any) -> Any:
            return run(command, log=Path(place, "log"), progress=Progress())

        also = loading_check(project.disk, lambda: kernels_here(project, base), quiet)
        found = [one for each in contents for one in each.findings]
        found += in_order((one for each in contents for one in also(releases_of(each.trees))), project.disk)
        if not any(each.trees for each in contents) and "DISK083" not in project.disk.ignore:
            cure = "make the disk with `pkgkmod build_iso`"
            found.append(finding("DISK083", str(file), "there is nothing on it that an installer takes", cure))
    return found


def _check_packages(
    files: Sequence[Path], distro: str | None, invocation: Invocation, project: Project, base: Path
) -> list[Finding]:
    """Check packages as build_iso does, and write nothing."""
    from pkgkmod.command import run
    from pkgkmod.kernels.here import kernels_here
    from pkgkmod.media.disk import sort_out
    from pkgkmod.media.loading import loading_check
    from pkgkmod.media.packages import find_packages, read_packages
    from pkgkmod.media.releases import by_release

    progress = invocation.progress()
    try:
        with tempfile.TemporaryDirectory(prefix="pkgkmod-") as place:

            def logged(command: Any) -> Any:
                return run(command, log=Path(place, "log"), progress=progress)

            packages = read_packages(find_packages(files), logged, progress)
            also = loading_check(project.disk, lambda: kernels_here(project, base), logged)
            _, found = sort_out("disk", by_release(packages, distro), project.disk, project.signing, base, also=also)
    finally:
        progress.close()
    return list(found)


def _refuse(findings: Sequence[Finding], invocation: Invocation) -> None:
    errors = [one for one in findings if one.severity == "error"]
    if errors:
        counts = Counter(one.code for one in errors)
        raise DiskError(
            f"there {'is' if len(errors) == 1 else 'are'} {count(len(errors), 'error')}: "
            + ", ".join(f"{code} ({number})" if number > 1 else code for code, number in counts.items()),
            hint="docs/reference/driver-disk-findings.md says what each code means; --ignore leaves one out",
        )
    if not invocation.json_lines and not invocation.quiet:
        click.echo("no errors")


def _report(findings: Iterable[Finding], invocation: Invocation, *, about: str) -> None:
    from pkgkmod.cli.iso_report import finding_lines

    if invocation.json_lines:
        for one in findings:
            JsonLines().event("finding", **({"file": about} if about else {}), **one.model_dump())
        return
    if about and findings:
        click.echo(click.style(escape_controls(about, keep=""), bold=True))
    for one in findings:
        if one.severity != "note" or not invocation.quiet:
            for line in finding_lines(one):
                click.echo(line)
