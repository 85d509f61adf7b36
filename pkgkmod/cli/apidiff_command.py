"""apidiff: what of the kernel's interface changes between two kernels, for a driver or at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import PROJECT_FILE, command_options
from pkgkmod.cli.report import count
from pkgkmod.errors import DifferentError, InputError, KernelError, UsageError

if TYPE_CHECKING:
    from pkgkmod.config.load import Loaded
    from pkgkmod.kernels.select import Found
    from pkgkmod.model.kernel import Kernel
    from pkgkmod.model.project import Project
    from pkgkmod.modules.api.changes import ApiChange, Pair, Used
    from pkgkmod.modules.api.use import SourceUses
    from pkgkmod.progress import Progress

_NAMED = 5
_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("kernel_a")
@click.argument("kernel_b")
@click.argument("files", type=_PATH, nargs=-1)
@click.option(
    "--for", "project", type=_PATH, metavar="PROJECT", help="Only what this project uses: its folder or file."
)
@click.option("--modules", type=_PATH, multiple=True, metavar="FILE", help="Only what these modules or packages use.")
@click.option("-a", "--all", "everything", is_flag=True, help="Show what is new, or was made free, too.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be fetched and read.")
@command_options
@click.pass_context
def apidiff(
    ctx: click.Context,
    /,
    kernel_a: str,
    kernel_b: str,
    files: tuple[Path, ...],
    project: Path | None,
    modules: tuple[Path, ...],
    everything: bool,
    dry_run: bool,
    **given: Any,
) -> None:
    """Say what KERNEL_B changes of what KERNEL_A has for modules, before anything is built.

    A kernel is a release, a pattern that means one, or the folder of a build tree; those of archives are fetched.
    FILES are more --modules. -v shows every line that uses something. The exit code is 19 if something changes for the
    worse.
    """
    from pkgkmod.cli.apidiff_report import print_changes, summary
    from pkgkmod.modules.api.changes import all_changes, changes_for

    invocation: Invocation = ctx.obj.with_options(given)
    modules = (*modules, *files)
    if project and modules:
        raise UsageError("--for and --modules do not go together", hint="give one of them")
    loaded = _loaded(invocation, project) if project else None
    settings, base = (loaded.project, loaded.folder) if loaded else _settings(invocation)
    progress = invocation.progress()
    try:
        found = [_find(text, settings, base, progress) for text in (kernel_a, kernel_b)]
        if dry_run:
            _print_plan(found, loaded, invocation)
            return
        pair = _pair([_ready(one, settings, progress) for one in found], progress)
        used = _used(loaded, modules, pair, progress)
        changes = all_changes(pair) if used is None else changes_for(pair, used)
    finally:
        progress.close()
    changes = tuple(one for one in changes if everything or one.section != "new")
    about = loaded.project.project.name if loaded else ", ".join(file.name for file in modules)
    print_changes(pair, changes, about, invocation)
    _refuse(changes, pair, about, summary(changes))


def _refuse(changes: Sequence[ApiChange], pair: Pair, about: str, words: str) -> None:
    if not any(change.worse for change in changes):
        return
    kernels = f"from {pair.old.uname_r} to {pair.new.uname_r}"
    broken = any(change.section not in ("rebuild", "moved", "new") for change in changes)
    what = f"what {about} uses" if about else "the interface"
    raise DifferentError(
        f"{what} changes {kernels}",
        details=words,
        hint="what is gone or declared otherwise needs a patch, or a probe: docs/how-to/probes.md"
        if broken
        else "the same sources work; modules that are built already do not load",
    )


# --- the kernels --------------------------------------------------------------------------------------


def _settings(invocation: Invocation) -> tuple[Project, Path]:
    from pkgkmod.cli.disk_command import project_or_settings

    return project_or_settings(invocation)


def _loaded(invocation: Invocation, project: Path) -> Loaded:
    if not project.exists():
        raise InputError(f"{project} is not there", hint=f"give a folder with a {PROJECT_FILE}, or such a file")
    return replace(invocation, config=project / PROJECT_FILE if project.is_dir() else project).load()


def _find(text: str, project: Project, base: Path, progress: Progress) -> Found:
    """Return the one kernel that a text means; raise UsageError if it means several."""
    from pkgkmod.kernels.select import available_kernels, local_kernels, select_kernels
    from pkgkmod.kernels.tree import read_kernel

    if "/" in text or Path(text).is_dir():
        if not Path(text).is_dir():
            raise KernelError(
                f"there is no build tree in {text}", hint="`pkgkmod kernels list` shows those that are here"
            )
        return read_kernel(Path(text), "folder", identify=False)
    local = local_kernels(project, base)
    for kernel in local:
        if kernel.uname_r == text:  # no archive has to be asked
            return kernel
    chosen = select_kernels((text,), available_kernels(project, base, progress=progress))
    if len(chosen) > 1:
        names = [kernel.uname_r for kernel in chosen]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise UsageError(
            f"{text} means {count(len(names), 'kernel')}", hint=f"name one: {', '.join(names[:_NAMED])}{more}"
        )
    return chosen[0]


def _ready(found: Found, project: Project, progress: Progress) -> Kernel:
    """Return a kernel with its files here; nothing is compiled, so that it needs no build root."""
    from pkgkmod.kernels.provide import provide_kernels

    build = project.build.model_copy(update={"roots": False})
    ready, absent = provide_kernels([found], build, fetch=True, progress=progress)
    for error in absent.values():
        raise error
    return ready[found.uname_r]


def _pair(kernels: Sequence[Kernel], progress: Progress) -> Pair:
    from pkgkmod.modules.api.changes import Pair
    from pkgkmod.modules.api.headerindex import header_indexes
    from pkgkmod.modules.kernelside import kernel_side

    if kernels[0].arch != kernels[1].arch:
        raise UsageError(
            f"{kernels[0].uname_r} is for {kernels[0].arch}, and {kernels[1].uname_r} for {kernels[1].arch}",
            hint="compare kernels of one machine",
        )
    sides = [kernel_side(kernel) for kernel in kernels]
    old, new = header_indexes(kernels, progress)
    return Pair(sides[0], sides[1], old, new)


def _print_plan(found: Sequence[Found], loaded: Loaded | None, invocation: Invocation) -> None:
    """Say what is not here yet."""
    from pkgkmod.kernels.store import Store
    from pkgkmod.model.kernel import KernelOffer
    from pkgkmod.progress import JsonLines

    for kernel in found:
        here = not isinstance(kernel, KernelOffer) or Store().has(kernel)
        if invocation.json_lines:
            JsonLines().event("api-kernel", kernel=kernel.uname_r, fetched=here)
        else:
            click.echo(f"{kernel.uname_r}: {'here' if here else 'to be fetched'}")
    if loaded and not invocation.json_lines:
        click.echo(f"{loaded.project.project.name}: its finished modules and its sources would be read")


# --- what is used -------------------------------------------------------------------------------------


def _used(loaded: Loaded | None, modules: Sequence[Path], pair: Pair, progress: Progress) -> Used | None:
    """Return what a project or modules use; None if all counts."""
    from pkgkmod.modules.api.changes import Used
    from pkgkmod.modules.api.use import SourceUses

    if modules:
        return Used(_symbols(_imports(modules, progress)))
    if loaded is None:
        return None
    sources = SourceUses()
    with _source_trees(loaded, progress) as trees:
        for tree in trees:
            sources.add(_read_sources(tree, pair))
    return Used(_symbols(_built_imports(loaded, pair.old.uname_r)), sources)


def _read_sources(tree: Path, pair: Pair) -> SourceUses:
    from pkgkmod.modules.api.headertext import Conditions
    from pkgkmod.modules.api.use import source_uses

    # As they are compiled for the newer kernel: what stands in branches for older ones breaks nothing.
    conditions = Conditions(pair.new.options, pair.new_headers.version)
    return source_uses(tree, conditions, pair.old_headers.find)


def _symbols(imports: Iterable[tuple[str, Iterable[str]]]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for module, symbols in imports:
        for symbol in symbols:
            found.setdefault(symbol, []).append(module)
    return {symbol: tuple(dict.fromkeys(modules)) for symbol, modules in found.items()}


def _imports(files: Sequence[Path], progress: Progress) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield the modules in files, and what they import."""
    from pkgkmod.command import run
    from pkgkmod.modules.kmod_deps import ModuleError
    from pkgkmod.packages.modulefiles import find_files, module_files

    with tempfile.TemporaryDirectory(prefix="pkgkmod-") as place:
        log = Path(place, "log")
        there = False
        for file in module_files(find_files(files), lambda command: run(command, log=log, progress=progress)):
            there = True
            try:
                yield file.name, file.module.imports
            except ModuleError as error:
                raise InputError(f"{file.shown} cannot be read: {error.reason}") from None
    if not there:
        raise InputError("there is no module in these packages", hint="packages with sources have none")


def _built_imports(loaded: Loaded, kernel: str) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield the project's finished modules, and what they import: those for the kernel, or the newest ones."""
    from pkgkmod.model.artifacts import ModuleSet
    from pkgkmod.modules.kmod_deps import ModuleError, read_module
    from pkgkmod.workspace import Workspace

    built = [one for one in Workspace(loaded.folder).all() if one.stage == "build_modules" and one.state == "ok"]
    newest = max(built, key=lambda one: (one.kernel == kernel, one.finished), default=None)
    for module in newest.load(ModuleSet).modules if newest else ():
        try:
            yield module.name, read_module(str(newest.folder / module.file)).imports if newest else ()
        except ModuleError as error:
            raise InputError(f"a finished module cannot be read: {error}", hint="`pkgkmod build_modules -f`") from None


@contextmanager
def _source_trees(loaded: Loaded, progress: Progress) -> Iterator[tuple[Path, ...]]:
    """Give the folders with the project's sources: as imported before if nothing changed, else imported aside."""
    from pkgkmod.cachefolder import cache_folder
    from pkgkmod.engine.plan import Selection, make_plan
    from pkgkmod.sources.importer import import_sources
    from pkgkmod.workspace import Workspace

    plan = make_plan(Selection(loaded.project, loaded.folder, (), ("prepare_sources",)), Workspace(loaded.folder))
    with tempfile.TemporaryDirectory(prefix="pkgkmod-") as scratch:
        trees = []
        for number, decision in enumerate(plan):
            if decision.result and decision.action in ("SKIP", "KEEP"):
                trees.append(decision.result.folder / "tree")
                continue
            folder = Path(scratch, str(number))
            folder.mkdir()
            source = decision.step.unit.project.source
            import_sources(source, base=loaded.folder, cache=cache_folder(), destination=folder, progress=progress)
            trees.append(folder / "tree")
        yield tuple(trees)
