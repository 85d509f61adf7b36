"""build_iso: the stage of that name, and driver disks of packages from anywhere, for which no project is needed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.errors import UsageError

if TYPE_CHECKING:
    from pkgkmod.media.disk import DiskOrder
    from pkgkmod.model.artifacts import DiskImage
    from pkgkmod.model.disk import DiskRelease
    from pkgkmod.model.project import Project
    from pkgkmod.plugins import Stage
    from pkgkmod.progress import Progress

_FOLDERS = ("disk.extra", "disk.second_partition")


def build_iso_parameters() -> list[click.Parameter]:
    """Return the parameters of build_iso besides the stage's own."""
    return [
        click.Argument(["files"], nargs=-1, type=click.Path(path_type=Path)),
        click.Option(["--distro"], metavar="NAME", help="With FILES: their distribution, where they do not say it."),
    ]


def build_iso(stage: Stage[Any], invocation: Invocation, given: Mapping[str, Any]) -> None:
    """Make a driver disk of the project's packages, or of FILES."""
    from pkgkmod.cli.run_commands import run_stages

    # In the project's own file, folders begin there; on the command line, here.
    folders = {key: os.path.abspath(value) for key in _FOLDERS if (value := invocation.settings.get(key))}
    invocation = invocation.with_settings(folders)
    if given["files"]:
        _build_of_files(given["files"], invocation, given)
        return
    if given["distro"]:
        raise UsageError("--distro goes with FILES", hint="the targets of a project know theirs")
    run_stages(invocation, (stage.name,), given, force=(stage.name,) if given["force"] else ())


def _build_of_files(files: Sequence[Path], invocation: Invocation, given: Mapping[str, Any]) -> None:
    """Make a driver disk of packages and folders of packages; no project is needed."""
    from pkgkmod.command import run
    from pkgkmod.kernels.here import kernels_here
    from pkgkmod.media.disk import sort_out
    from pkgkmod.media.lint import refuse_errors
    from pkgkmod.media.loading import loading_check
    from pkgkmod.media.packages import find_packages, read_packages
    from pkgkmod.media.releases import by_release
    from pkgkmod.media.report import report_findings

    if given["target"] or given["kernel"]:
        raise UsageError("--target and --kernel do not go with FILES", hint="name the files that are wanted")
    if given["builder"]:
        raise UsageError("--builder does not go with FILES", hint="they are finished packages")
    project, base = project_or_settings(invocation)
    progress = invocation.progress()
    try:
        with tempfile.TemporaryDirectory(prefix="pkgkmod-") as place:
            scratch = Path(place)

            def logged(command: Any) -> Any:
                return run(command, log=scratch / "log", progress=progress)

            found = find_packages(files)
            image = Path(invocation.settings.get("disk.file") or f"{found[0].stem}.iso").expanduser()
            releases = by_release(read_packages(found, logged, progress), given["distro"])
            also = loading_check(project.disk, lambda: kernels_here(project, base), logged)
            order, findings = sort_out(image.stem, releases, project.disk, project.signing, base, also=also)
            report_findings(findings, project.disk, progress)
            refuse_errors(findings, project.disk)
            if given["dry_run"]:
                _print_plan(order.releases)
                return
            images = _make(order, image, scratch, logged, progress)
            text = (scratch / "made" / "README.txt").read_text(encoding="utf-8")
    finally:
        progress.close()
    print_disk(images, image.parent, text, sum(len(one.packages) for one in order.releases), invocation)


def _make(order: DiskOrder, image: Path, scratch: Path, run: Any, progress: Progress) -> tuple[DiskImage, ...]:
    """Make the images, and move them to where the first one is wanted."""
    from pkgkmod.cli.ddiskit import move_into_place
    from pkgkmod.media.disk import make_images
    from pkgkmod.plugins import DiskDraft

    made, disk = scratch / "made", scratch / "disk"
    made.mkdir()
    disk.mkdir()
    with progress.step(f"driver disk {image}"):
        images = make_images(order, made, DiskDraft(disk, scratch, order.name, order.epoch, run))
        names = copies(image, order.name, [one.file for one in images])
        for path, one in zip(names, images, strict=True):
            move_into_place(made / one.file, path)
    return tuple(one.model_copy(update={"file": path.name}) for one, path in zip(images, names, strict=True))


def copies(wanted: Path, name: str, files: Sequence[str]) -> tuple[Path, ...]:
    """Return where images go that are called `name` and an ending.

    The one with the ending of `wanted` goes there, or else the first one; the others go beside it.
    """
    endings = [file.removeprefix(name) for file in files]
    chosen = endings.index(wanted.suffix) if wanted.suffix in endings else 0
    return tuple(
        wanted if number == chosen else wanted.with_name(wanted.stem + ending) for number, ending in enumerate(endings)
    )


def project_or_settings(invocation: Invocation) -> tuple[Project, Path]:
    """Return the project where there is one, else the user's settings; options count in both."""
    from pkgkmod.config.load import load_settings

    if invocation.config.exists():
        loaded = invocation.load()
        return loaded.project, loaded.folder
    return load_settings(invocation.overrides, invocation.settings), Path.cwd()


def _print_plan(releases: Sequence[DiskRelease]) -> None:
    from pkgkmod.cli.report import print_table

    rows = [
        [release.distro.id, ", ".join(release.distro.installers), ", ".join(package.kernels), package.path.name]
        for release in releases
        for package in release.packages
    ]
    print_table(["DISTRO", "LAYOUT", "KERNELS", "PACKAGE"], rows)


def print_disk(images: Sequence[DiskImage], folder: Path, readme: str, packages: int, invocation: Invocation) -> None:
    """Say what was made, and what to tell the installers."""
    from pkgkmod.cli.report import count
    from pkgkmod.progress import JsonLines, escape_controls, human_size

    if invocation.json_lines:
        for image in images:
            JsonLines().event("image", file=str(folder / image.file), carrier=image.carrier, size=image.size)
        return
    for image in images:
        click.echo(f"{folder / image.file}  {human_size(image.size)}  {count(packages, 'package')}")
    if not invocation.quiet:
        click.echo(f"\n{escape_controls(readme)}", nl=False)
