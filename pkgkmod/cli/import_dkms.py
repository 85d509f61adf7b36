"""import dkms: a dkms package as a project."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.import_command import IMPORT_OPTIONS, KEPT, print_report
from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import PROJECT_FILE, with_options
from pkgkmod.cli.project_commands import default_targets
from pkgkmod.cli.report import shortest
from pkgkmod.errors import KernelError, UsageError
from pkgkmod.progress import escape_controls

if TYPE_CHECKING:
    from pkgkmod.config.importers.dkms import Imported
    from pkgkmod.config.importers.dkmsconf import DkmsConf
    from pkgkmod.model.kernel import Kernel
    from pkgkmod.progress import Progress
    from pkgkmod.sources.dkms import DkmsSources
    from pkgkmod.sources.foldertree import FolderTree

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class _Package:
    """A dkms package as it was read: its sources, those it builds on, and what its dkms.conf says."""

    sources: DkmsSources
    tree: FolderTree
    confs: tuple[DkmsConf, ...]
    folder: str
    """Name of its folder in the repository."""


@click.command()
@click.argument("package", type=_PATH)
@click.option("--distro", multiple=True, metavar="NAME", help="Distribution to build for; may be given several times.")
@click.option("--kernel", multiple=True, metavar="RELEASE", help="Kernel to build for (default: the newest).")
@click.option(
    "--with",
    "more",
    multiple=True,
    type=_PATH,
    metavar="DIR|DEB|FILE",
    help="What it builds on: another dkms package, or a project (its pkgkmod.toml).",
)
@click.option("--own-make", is_flag=True, help="Keep the driver's own make, even if kbuild alone would do.")
@click.option("--no-sandbox", is_flag=True, help="Run the dkms.conf without isolation: with your rights.")
@with_options(IMPORT_OPTIONS)
@click.pass_context
def dkms(ctx: click.Context, /, package: Path, **given: Any) -> None:
    """Make a project of a dkms PACKAGE: a folder with a dkms.conf, the file, or a .deb.

    The dkms.conf is a script: it is run in the sandbox, for each kernel whose build tree is on this machine.
    """
    from pkgkmod.config.importers.projectfile import check_absent, write_project
    from pkgkmod.sources.treecommit import make_commit, write_worktree

    invocation: Invocation = ctx.obj.with_options({key: given[key] for key in ("json_lines", "quiet", "no_sandbox")})
    progress = invocation.progress()
    folder: Path = (given["output"] or Path()).absolute()
    path = folder / PROJECT_FILE
    if not given["dry_run"]:
        check_absent(path, force=given["force"])
    with tempfile.TemporaryDirectory(prefix="pkgkmod-") as name:
        scratch = Path(name)
        scratch.chmod(0o755)
        projects = _projects(given["more"], folder)
        packages = [path for path in given["more"] if not _project_file(path)]
        read = _read(invocation, package, packages, scratch, progress)
        found = _imported(read, own_make=given["own_make"], scratch=scratch, projects=projects)
        patches = _patches(read, found)
    made = make_commit(read.tree.files, epoch=read.tree.newest, message=f"Import {read.sources.name}, a dkms package")
    found.values["source"] = {
        "repository": KEPT,
        "revision": made.commit,
        "directories": [read.folder, *sorted({path.partition("/")[0] for path in read.tree.files} - {read.folder})],
        "archive": "all",
    }
    found.values["target"] = _targets(given["distro"], given["kernel"])
    text = found.text(package.name)
    if given["dry_run"]:
        if not invocation.json_lines:
            click.echo(escape_controls(text), nl=False)
    else:
        write_worktree(folder / KEPT, made, progress)
        for name, content in patches.items():
            (folder / "patches").mkdir(exist_ok=True)
            (folder / "patches" / name).write_bytes(content)
        write_project(path, text, force=given["force"])
    progress.close()
    print_report(found.entries, invocation)
    if not given["dry_run"] and not invocation.json_lines:
        click.echo(f"wrote {shortest(path.absolute())}; next: pkgkmod -c {shortest(path.absolute())} plan")


def _targets(distros: Sequence[str], kernels: Sequence[str]) -> Any:
    from pkgkmod.data.distros import find_distro

    names = [find_distro(name).id for name in distros] or [name for name, _ in default_targets()]
    return [{"distro": name, "kernels": list(kernels) or ["newest"]} for name in names]


def _read(invocation: Invocation, package: Path, more: Sequence[Path], scratch: Path, progress: Progress) -> _Package:
    """Read the package, and what its dkms.conf says for all kernels that are here."""
    from pkgkmod.config.load import load_settings
    from pkgkmod.kernels.select import local_kernels
    from pkgkmod.sandbox import isolation
    from pkgkmod.sources.dkms import Reader, open_sources
    from pkgkmod.sources.foldertree import read_folders

    settings = load_settings(invocation.overrides, invocation.settings)
    isolated, why_not = isolation(settings.build.sandbox)
    if why_not:
        progress.warn_once(why_not)
    opened = []
    for number, one in enumerate((package, *more)):
        place = scratch / str(number)
        place.mkdir(mode=0o755)
        opened.append(open_sources(one, place, isolated=isolated, progress=progress))
    kernels: tuple[Kernel, ...] = local_kernels(settings, Path.cwd())
    if not kernels:
        raise KernelError(
            "there is no kernel here to ask the dkms.conf about",
            hint="install the headers of a kernel (linux-headers-..., kernel-devel)",
        )
    sources = opened[0]
    with progress.step(f"Asking {sources.name} about {len(kernels)} kernels"):
        reader = Reader(sources, tuple(opened[1:]), scratch, isolated=isolated, progress=progress)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # each in a sandbox of its own
            confs = tuple(pool.map(reader.read, kernels))
    names = {one.plain_name: one.folder for one in opened}
    if len(names) != len(opened):
        raise UsageError("two of the packages are in folders of the same name")
    return _Package(sources, read_folders(names), confs, sources.plain_name)


def _project_file(path: Path) -> Path | None:
    """Return the file of a project that --with names; None for a dkms package."""
    if path.name == PROJECT_FILE:
        return path
    return path / PROJECT_FILE if (path / PROJECT_FILE).is_file() and not (path / "dkms.conf").is_file() else None


def _projects(more: Sequence[Path], folder: Path) -> dict[str, str]:
    """Return the folders of the projects among `more` by name, as a project in `folder` names them."""
    from pkgkmod.config.load import load

    found = {}
    for file in filter(None, map(_project_file, more)):
        project = load(file).project
        if not project.devel.enabled:
            raise UsageError(
                f"{file} makes no devel package, and source packages of drivers that build on it need that",
                hint="put `enabled = true` into its table [devel]",
            )
        found[project.project.name] = os.path.relpath(file.absolute().parent, folder)
    return found


def _imported(read: _Package, *, own_make: bool, scratch: Path, projects: Mapping[str, str]) -> Imported:
    from pkgkmod.config.importers.dkms import described, translate
    from pkgkmod.modules.kbuildfit import why_own_make

    wanted = [conf for conf in read.confs if not conf.excluded] or list(read.confs)
    commands = {conf.commands for conf in wanted}
    why = "what it does differs from kernel to kernel" if len(commands) > 1 else ""
    if own_make:
        why = "--own-make asks for it"
    modules = {
        (module.name, f"{read.folder}/{module.location}".rstrip("/")): module
        for conf in wanted
        for module in conf.modules
    }
    if not why and any(module.name != module.installed_name for module in modules.values()):
        why = "modules are renamed"
    why = why or why_own_make(next(iter(commands)), _linked(read, scratch), read.folder, tuple(modules))
    found = translate(
        read.confs,
        script=read.sources.script,
        folder=read.folder,
        built_by_kbuild=not why,
        why_make=why,
        projects=projects,
    )
    described(read.sources.control, found)
    for name, reason in read.tree.left_out.items():
        found.note(name, "", "left out", reason)
    if "maintainer" not in found.values["project"]:
        found.note("project.maintainer", "", "decide", "a dkms.conf does not say who packages it")
    found.note("project.license", "", "decide", "a dkms.conf does not say it: GPL-2.0-only is assumed")
    return found


def _linked(read: _Package, scratch: Path) -> Path:
    """Return a folder in which the sources lie by the name that they have in the repository."""
    tree = scratch / "tree"
    tree.mkdir()
    (tree / read.folder).symlink_to(read.sources.folder)
    return tree


def _patches(read: _Package, found: Imported) -> Mapping[str, bytes]:
    """Return the patches, with the folder of the sources in their paths, and the series."""
    from pkgkmod.config.importers.dkms import with_patches
    from pkgkmod.config.importers.dkmspatches import for_repository

    wanted = with_patches(read.confs)
    made: dict[str, bytes] = {}
    for name, kernels in wanted.items():
        _, content = read.tree.files.get(f"{read.folder}/patches/{name}", ("", b""))
        if not content:
            found.note("PATCH", name, "decide", f"there is no patches/{name} among the sources")
            continue
        plain = re.sub(r"[^A-Za-z0-9._+-]", "-", name)
        plain = plain if plain.endswith((".patch", ".diff")) else f"{plain}.patch"
        made[plain] = for_repository(content, read.folder, kernels)
        found.note("PATCH", name, "carried", f"patches/{plain}" + (f", for {', '.join(kernels)}" if kernels else ""))
    return {**made, "series": "".join(f"{name}\n" for name in made).encode()} if made else {}
