"""import spec: the spec of a package of kernel modules, or its source RPM, as a project."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import PROJECT_FILE

if TYPE_CHECKING:
    from pkgkmod.config.importers.report import Outcome
    from pkgkmod.config.importers.spec import SpecProject
    from pkgkmod.config.importers.spectext import Line
    from pkgkmod.modules.makefiles import ModuleRule
    from pkgkmod.progress import Progress
    from pkgkmod.sources.spectree import SpecTree

COPY = "imported.spec"
"""The spec as it was, beside the project file: the report names its lines."""
_SOURCES = "sources"
_PATH = click.Path(path_type=Path)
_PLAIN_FLAGS = re.compile(r"-[A-Za-z][A-Za-z0-9_=.,+-]*(?:\s+-[A-Za-z][A-Za-z0-9_=.,+-]*)*")


@click.command("spec")
@click.argument("file", type=_PATH, metavar="FILE")
@click.option("-o", "--output", type=_PATH, metavar="DIR", help="Folder of the new project (default: this one).")
@click.option("-n", "--dry-run", is_flag=True, help="Show project file and report; write nothing.")
@click.option("-f", "--force", is_flag=True, help="Write over a project file that is there.")
@click.option("--distro", metavar="NAME", help="Distribution that the spec is for, and to build for.")
@click.option("--kernel", metavar="RELEASE", help="Kernel to build for (default: the spec's, or the newest).")
@click.option("--json", "json_lines", is_flag=True, help="Speak in JSON lines, for programs.")
@click.option("--quiet", is_flag=True, help="Do not list what was carried over as it was.")
@click.option("--no-sandbox", is_flag=True, help="Let the spec's macros run programs with your rights.")
@click.pass_context
def spec(ctx: click.Context, /, file: Path, **given: Any) -> None:
    """Make a project of a spec of kernel modules, with its sources beside it, or of a source RPM.

    The macros of a spec can run programs: rpm expands them in the sandbox. What the spec says and a project does not is
    listed with its line; the spec itself is kept as imported.spec.
    """
    from pkgkmod.cli.import_command import print_report
    from pkgkmod.config.importers.dkms import Imported
    from pkgkmod.config.importers.projectfile import check_absent

    invocation: Invocation = ctx.obj.with_options({key: given[key] for key in ("json_lines", "quiet", "no_sandbox")})
    folder: Path = given["output"] or Path()
    if not given["dry_run"]:
        check_absent(folder / PROJECT_FILE, force=given["force"])
    progress = invocation.progress()
    try:
        with tempfile.TemporaryDirectory(prefix="pkgkmod-") as name:
            text, project, tree = _read(file, Path(name), given, invocation, progress)
            modules = _build(project, tree)
            made = _commit(file, project, tree)
            shown = Imported(project.values, modules, project.entries).text(file.name)
            if not given["dry_run"]:
                _write(folder, text, shown, made, tree, force=given["force"], progress=progress)
    finally:
        progress.close()
    if given["dry_run"] and not invocation.json_lines:
        click.echo(shown, nl=False)
    print_report(project.entries, invocation)
    if not given["dry_run"] and not invocation.json_lines:
        click.echo(f"wrote {folder / PROJECT_FILE}; next: pkgkmod -c {folder / PROJECT_FILE} plan")


def _read(
    file: Path, scratch: Path, given: Any, invocation: Invocation, progress: Progress
) -> tuple[str, SpecProject, SpecTree]:
    """Read spec and sources; what is unpacked lies in `scratch`."""
    from pkgkmod.config.importers.spec import distro_macros, distro_of, translate
    from pkgkmod.config.importers.spectext import marked, parts_of
    from pkgkmod.data import names
    from pkgkmod.data.distros import find_distro
    from pkgkmod.packages.spdx import parse_spdx
    from pkgkmod.sources.specfile import expand_spec, open_spec
    from pkgkmod.sources.spectree import read_sources

    files = open_spec(file, scratch, progress)
    text = files.text
    distro = find_distro(given["distro"] or distro_of(text, names("distros")))
    isolated = bool(invocation.settings.get("build.sandbox", True))
    with progress.step(f"Reading {files.spec.name} as for {distro.id}"):
        expanded, unknown = expand_spec(
            files, marked(text), distro_macros(distro), isolated=isolated, progress=progress
        )
    project = translate(text, parts_of(expanded, text), unknown, distro.id, given["kernel"])
    if (license := project.values["project"].get("license")) and parse_spdx(license) is None:
        project.note("License", license, "decide", "it is as the spec has it, and no SPDX expression")
    return text, project, read_sources(files, project, scratch, progress)


def _build(project: SpecProject, tree: SpecTree) -> list[dict[str, Any]]:
    """Decide how the modules are built, and say so; return the tables of modules that this needs."""
    from pkgkmod.config.importers.specmake import folder_of, make_command
    from pkgkmod.modules.makefiles import module_rules

    top, called = project.values["project"]["name"], project.built
    wanted = [f"{top}/{folder_of(text)}".removesuffix("/.") for text in called.folders]
    folders = _folders(tree.folder, top, wanted)
    rules = module_rules(tree.folder, folders)
    directories = list(dict.fromkeys([top, *folders]))
    project.values["source"] = {"repository": _SOURCES, "directories": directories, "archive": "all"}
    found = ", ".join(rule.name for rule in rules)
    if rules:
        project.note("modules", found, "carried", "the Makefiles define them")
    else:
        text = "no Makefile defines a module with obj-m: build.make and [[module]] tables say how they are built"
        project.note("modules", "", "decide", text)
    why = _why_own_make(project, tree, [(rule.name, rule.directory) for rule in rules], folders)
    if rules and why:
        return _own_make(project, why, rules, folders)
    for line in called.calls:
        if line.text and line not in called.plain:
            project.note("make", line.text, "carried", "kbuild compiles the modules", line.number)
    if called.options:
        project.values["kconfig"] = {**called.options}
        project.note("make", " ".join(f"CONFIG_{n}={v}" for n, v in called.options.items()), "carried", "kconfig")
    _flags(called.flags, project)
    for line in (*called.plain, *called.variables):
        if line in called.plain:
            text = f"left out: with [[module]] tables, build.make = {make_command(line)} could do it"
        else:
            text = "left out: the modules are built without this variable"
        project.note("make", line.text, "decide", text, line.number)
    return []


def _folders(tree: Path, top: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the folders whose Makefiles define the modules: those that the spec names, or else the outermost."""
    from pkgkmod.modules.makefiles import module_rules

    named = tuple(dict.fromkeys(folder for folder in wanted if module_rules(tree, (folder,))))
    if named:
        return named
    inside = [
        str(path.relative_to(tree)) for path in (tree / top).rglob("*") if path.is_dir() and not path.is_symlink()
    ]
    chosen: list[str] = []
    for folder in sorted([top, *inside], key=lambda path: (path.count("/"), path)):
        if not any(folder == one or folder.startswith(f"{one}/") for one in chosen) and module_rules(tree, (folder,)):
            chosen.append(folder)
    return tuple(chosen) or (top,)


def _why_own_make(
    project: SpecProject, tree: SpecTree, modules: Sequence[tuple[str, str]], folders: Sequence[str]
) -> str:
    """Return why kbuild alone does not do; nothing if it does."""
    from pkgkmod.config.importers.specmake import kbuild_only
    from pkgkmod.modules.kbuildfit import why_own_make

    top, called = project.values["project"]["name"], project.built
    calls = [line for line in called.calls if line not in called.plain]
    if called.plain:
        return f"%build calls {called.plain[0].text.split()[0]} without telling kbuild a folder"
    if called.variables:
        return f"make is given {called.variables[0].text}"
    places = [place.removeprefix(top).strip("/") or "." for place in folders]
    commands = " && ".join(
        kbuild_only(line, place) for line, place in zip(calls, places, strict=False) if line not in called.plain
    )
    return why_own_make(commands or "make -C $KERNEL_TREE M=$SOURCES", tree.folder, top, modules)


def _own_make(
    project: SpecProject, why: str, rules: Sequence[ModuleRule], folders: Sequence[str]
) -> list[dict[str, Any]]:
    """Keep the spec's calls of make, and return the tables of the modules that they make."""
    from pkgkmod.config.importers.specmake import make_command

    top, called = project.values["project"]["name"], project.built
    places = iter([place.removeprefix(top).strip("/") or "." for place in folders])
    lines = []
    for line in called.calls:
        lines.append(make_command(line, next(places, "") if line not in called.plain else ""))
        outcome: Outcome = "decide" if line in called.plain else "changed"
        project.note("make", line.text, outcome, f"build.make = {lines[-1]}, since {why}", line.number)
    project.values["build"] = {"make": "\n".join(lines)}
    project.values["source"]["directories"] = [top]
    return [{"name": rule.name, "built": f"{rule.directory}/{rule.name}.ko".removeprefix(f"{top}/")} for rule in rules]


def _flags(lines: Sequence[Line], project: SpecProject) -> None:
    plain: list[str] = []
    for line in lines:
        flags = line.text.partition("=")[2].strip().strip("\"'")
        if _PLAIN_FLAGS.fullmatch(flags):
            plain.append(flags)
            project.note("make", line.text, "carried", "build.extra_cflags", line.number)
        else:
            project.note("make", line.text, "decide", "left out: flags with quotes or variables", line.number)
    if plain:
        project.values.setdefault("build", {})["extra_cflags"] = " ".join(dict.fromkeys(plain))


def _commit(file: Path, project: SpecProject, tree: SpecTree) -> Any:
    from pkgkmod.sources.treecommit import make_commit

    made = make_commit(tree.tree.files, epoch=tree.tree.newest, message=f"Import the sources of {file.name}")
    source = project.values["source"]
    project.values["source"] = {"repository": source["repository"], "revision": made.commit, **source}
    return made


def _write(folder: Path, text: str, shown: str, made: Any, tree: SpecTree, *, force: bool, progress: Progress) -> None:
    from pkgkmod.cli.import_command import copy_files
    from pkgkmod.config.importers.projectfile import write_project
    from pkgkmod.sources.spectree import series_of
    from pkgkmod.sources.treecommit import write_worktree

    folder.mkdir(parents=True, exist_ok=True)
    write_worktree(folder.absolute() / _SOURCES, made, progress)
    if tree.patches:
        aside = tree.folder.parent / "patches"
        aside.mkdir()
        for name, content in {**tree.patches, "series": series_of(tree.patches)}.items():
            (aside / name).write_bytes(content)
        copy_files(aside, folder / "patches")
    (folder / COPY).write_text(text, encoding="utf-8")
    # Last: where it is, the rest is, too.
    write_project(folder / PROJECT_FILE, shown, force=force)
