"""predict: which kernels will load the modules of packages, told without loading anything."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options, with_options
from pkgkmod.cli.report import count
from pkgkmod.errors import DifferentError, KernelError, PartialError, PkgkmodError, SigningError, UsageError
from pkgkmod.progress import JsonLines, human_size

if TYPE_CHECKING:
    from pkgkmod.kernels.select import Found
    from pkgkmod.model.prediction import Prediction
    from pkgkmod.model.project import Project
    from pkgkmod.modules.kernelside import KernelSide
    from pkgkmod.packages.loading import Candidate
    from pkgkmod.progress import Progress

_PATH = click.Path(path_type=Path)
_REPEATED = 3  # refusals in the error that follows the report

_OPTIONS = [
    click.option("--kernel", "--kernels", "kernels", multiple=True, metavar="RELEASE", help="Release or pattern."),
    click.option("--symvers", type=_PATH, multiple=True, metavar="FILE", help="Module.symvers of a kernel."),
    click.option("--with", "others", type=_PATH, multiple=True, metavar="PACKAGE", help="What is installed with them."),
    click.option("--target", multiple=True, metavar="NAME", help="Without FILES: only the packages of this target."),
    click.option("--certificate", type=_PATH, metavar="FILE", help="Certificate whose signatures the kernels take."),
    click.option("--no-fetch", is_flag=True, help="Fetch nothing: only kernels that are here."),
    click.option("--why", is_flag=True, help="Name each symbol because of which a module is refused."),
    click.option("-n", "--dry-run", is_flag=True, help="Say which kernels would be looked at, and fetched."),
]


@click.command()
@click.argument("files", nargs=-1, type=_PATH)
@with_options(_OPTIONS)
@command_options
@click.pass_context
def predict(ctx: click.Context, /, **given: Any) -> None:
    """Say which kernels will load the modules of packages, and why the others refuse them.

    FILES are packages, modules, or folders of them; without any, the project's newest packages. Nothing is loaded: the
    rules are the kernel's own. The kernels are those that are here, and those of the project's targets; --kernel names
    others, such as '6.1.*' or 'newest 3', which are fetched from the configured archives. The exit code is 0 if all
    modules load, and 19 if not: into the kernels that are named, or else into those that they were built for.
    """
    from pkgkmod.cli.predict_report import show_json, show_text
    from pkgkmod.modules.predict import asked_of_kernels
    from pkgkmod.packages.loading import chosen, predict_all, weak_updates

    invocation: Invocation = ctx.obj.with_options(given)
    if given["kernels"] and given["symvers"]:
        raise UsageError("--kernel and --symvers do not go together", hint="give one of them")
    if given["target"] and given["files"]:
        raise UsageError("--target does not go with FILES", hint="it chooses among the packages of a project")
    project, base = _settings(invocation, with_files=bool(given["files"]))
    progress = invocation.progress()
    try:
        candidates, others = _candidates(given, project, base, progress)
        found = () if given["symvers"] else _found(given, project, base, candidates, progress)
        if given["dry_run"] and found:
            _print_kernels(found, invocation)
            return
        asked = asked_of_kernels(one.module for one in (*candidates, *others))
        sides, absent = _sides(given, project, found, asked, progress)
        every = predict_all(candidates, sides, others)
    finally:
        progress.close()
    best = {kernel: chosen(ones) for kernel, ones in every.items()}
    if invocation.json_lines:
        show_json(every, best, weak_updates(every))
    else:
        show_text(best, weak_updates(every), why=given["why"], verbose=invocation.verbosity > 0)
        _warn_of_lockdown(sides, candidates, progress)
    judged = best if given["kernels"] or given["symvers"] else _built_for(best)
    _refuse(judged, absent, why=given["why"])


def _settings(invocation: Invocation, *, with_files: bool) -> tuple[Project, Path]:
    """Return the project; with files, the user's settings where there is none."""
    from pkgkmod.cli.disk_command import project_or_settings

    if with_files:
        return project_or_settings(invocation)
    if not invocation.config.exists():
        raise UsageError("predict of what?", hint="give packages or modules, or name the project file with --config")
    loaded = invocation.load()
    return loaded.project, loaded.folder


def _candidates(
    given: Mapping[str, Any], project: Project, base: Path, progress: Progress
) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
    """Read the modules that are asked about, and those that are installed with them."""
    from pkgkmod.command import run
    from pkgkmod.packages.loading import read_candidates
    from pkgkmod.packages.modulefiles import find_files, module_files

    certificate: Path | None = given["certificate"]

    def is_signed(content: bytes) -> bool:
        from pkgkmod.signing.modules import signature_of, verify_module

        try:
            if certificate is None:
                return signature_of(content) is not None
            verify_module(content, certificate)
            return True
        except SigningError:
            return False

    if certificate is not None:
        from pkgkmod.signing.keys import read_certificate

        read_certificate(certificate)  # a wrong one is said, not taken for a wrong signature
    files = find_files(given["files"]) if given["files"] else _packages(project, base, given["target"], progress)

    with (
        tempfile.TemporaryDirectory(prefix="pkgkmod-") as scratch,
        progress.step(f"reading {count(len(files), 'file')}"),
    ):

        def logged(command: Any) -> Any:
            return run(command, log=Path(scratch, "log"), progress=progress)

        candidates = read_candidates(module_files(files, logged), is_signed)
        others: tuple[Candidate, ...] = ()
        if given["others"]:
            others = read_candidates(module_files(find_files(given["others"]), logged), is_signed)
    if not candidates:
        raise UsageError(f"there is no module in {files[0]}", hint="give packages with modules for a kernel")
    return candidates, others


def _packages(project: Project, base: Path, targets: Sequence[str], progress: Progress) -> Sequence[Path]:
    """Return the newest binary packages of the project's targets."""
    from pkgkmod.data.distros import find_distro
    from pkgkmod.engine.resolve import chosen_targets
    from pkgkmod.publish.collect import of_project
    from pkgkmod.workspace import Workspace

    wanted = [target.id for target in chosen_targets(project.target, targets)]
    formats = dict.fromkeys(find_distro(target.distro).format for target in project.target if target.id in wanted)
    found: list[Path] = []
    nothing: UsageError | None = None
    for format in formats:
        try:
            by_suite = of_project(Workspace(base), project, format, wanted, progress)
        except UsageError as error:
            nothing = error
        else:
            found += [path for paths in by_suite.values() for path in paths if path.suffix != ".dsc"]
    if not found:
        raise nothing or UsageError("the project has no target", hint="give FILES")
    return found


def _found(
    given: Mapping[str, Any], project: Project, base: Path, candidates: Sequence[Candidate], progress: Progress
) -> tuple[Found, ...]:
    """Return the kernels that are asked about, whether they are here or not."""
    from pkgkmod.kernels.here import stored_kernels
    from pkgkmod.kernels.select import available_kernels, in_order, local_kernels, select_kernels
    from pkgkmod.kernels.store import Store
    from pkgkmod.model.kernel import KernelOffer
    from pkgkmod.modules.kabifiles import machine_name
    from pkgkmod.network import stay_offline

    if given["no_fetch"]:
        stay_offline()
    try:
        available = available_kernels(project, base, progress=progress)
    except KernelError as error:
        if not given["no_fetch"]:
            raise
        progress.warning(f"the archives are left out: {error.brief}")
        available = local_kernels(project, base)
    stored = {kernel.uname_r: kernel for kernel in stored_kernels()}
    available = in_order({**stored, **{kernel.uname_r: kernel for kernel in available}}.values())
    store = Store()
    here = tuple(k for k in available if not isinstance(k, KernelOffer) or store.has(k))
    if given["kernels"]:
        return select_kernels(given["kernels"], here if given["no_fetch"] else available)
    machines = {machine_name(c.module.machine, little_endian=c.module.little_endian) for c in candidates}
    found = {kernel.uname_r: kernel for kernel in here if kernel.arch in machines}
    if not given["no_fetch"]:
        for target in project.target:
            found |= {kernel.uname_r: kernel for kernel in select_kernels(target.kernels, available)}
    if not found:
        raise KernelError(
            "there is no kernel to look at",
            hint="install kernel headers, name an archive's kernels with --kernel, or a Module.symvers with --symvers",
        )
    return in_order(found.values())


def _sides(
    given: Mapping[str, Any], project: Project, found: Sequence[Found], symbols: frozenset[str], progress: Progress
) -> tuple[list[KernelSide], dict[str, PkgkmodError]]:
    """Return what the kernels have for modules, and what is wrong with those of which it cannot be read."""
    from pkgkmod.kernels.provide import is_here, provide_kernels
    from pkgkmod.modules.kernelside import kernel_side

    if given["symvers"]:
        return [_symvers_side(file) for file in given["symvers"]], {}
    # Nothing is compiled: no root with a compiler is wanted.
    build = project.build.model_copy(update={"roots": False})
    ready, absent = provide_kernels(found, build, fetch=not given["no_fetch"], progress=progress)
    sides = []
    with progress.step(f"reading what {count(len(ready), 'kernel')} have"):
        for kernel in (ready[one.uname_r] for one in found if one.uname_r in ready):
            try:
                sides += [kernel_side(kernel, symbols)] if is_here(kernel) else []
            except KernelError as error:
                absent[kernel.uname_r] = error
    for release, why in absent.items():
        progress.warning(f"{release} is left out: {why.brief}")
    if not sides:
        raise next(iter(absent.values()), KernelError("none of these kernels is here", hint="leave out --no-fetch"))
    return sides, absent


def _symvers_side(file: Path) -> KernelSide:
    from pkgkmod.modules.kernelside import KernelSide
    from pkgkmod.packages.explain import read_kernel_symbols

    return KernelSide(str(file), "", read_kernel_symbols("", file).exports, None)


def _print_kernels(found: Sequence[Found], invocation: Invocation) -> None:
    """Say which kernels would be looked at, and which of them fetched."""
    from pkgkmod.kernels.store import Store
    from pkgkmod.model.kernel import KernelOffer

    store = Store()
    for kernel in found:
        size = kernel.size if isinstance(kernel, KernelOffer) and not store.has(kernel) else 0
        if invocation.json_lines:
            JsonLines().event("kernel", release=kernel.uname_r, arch=kernel.arch, source=kernel.source, size=size)
        else:
            click.echo(f"{kernel.uname_r}: " + (f"to be fetched, {human_size(size)}" if size else "here"))


def _warn_of_lockdown(sides: Sequence[KernelSide], candidates: Sequence[Candidate], progress: Progress) -> None:
    """Say what Secure Boot changes, which cannot be read off a kernel's files."""
    unsigned = sorted({one.module.name for one in candidates if not one.signed})
    locking = [side for side in sides if side.options and side.options.get("SECURITY_LOCKDOWN_LSM") == "y"]
    if unsigned and locking:
        names = ", ".join(unsigned[:_REPEATED]) + (", ..." if len(unsigned) > _REPEATED else "")
        progress.info(f"locked down, as with Secure Boot, these kernels refuse what is not signed: {names}")


def _built_for(best: Mapping[str, Sequence[Prediction]]) -> Mapping[str, Sequence[Prediction]]:
    """Return the kernels that a module was built for; all of them if none is here."""
    return {kernel: ones for kernel, ones in best.items() if any(one.built_for == kernel for one in ones)} or best


def _refuse(best: Mapping[str, Sequence[Prediction]], absent: Mapping[str, PkgkmodError], *, why: bool) -> None:
    """Raise the error if one of these kernels refuses a module, or nothing can be said of it."""
    bad = {kernel: [one for one in ones if one.verdict != "loads"] for kernel, ones in best.items()}
    bad = {kernel: ones for kernel, ones in bad.items() if ones}
    if bad:
        modules = {one.module for ones in bad.values() for one in ones}
        good = [kernel for kernel in best if kernel not in bad]
        hints = [f"all is well with {_some(good)}"] if good else []
        if any(_lacks_symbols_only(one) for ones in bad.values() for one in ones):
            hints.append("what another package exports comes with --with PACKAGE")
        hints += [] if why else ["--why names each symbol"]
        raise DifferentError(
            f"{count(len(bad), 'kernel')} of {len(best)} would not load {_some(sorted(modules))}", hint="; ".join(hints)
        )
    if absent:
        raise PartialError(
            f"nothing is known of {_some(list(absent))}", hint=next(iter(absent.values())).hint or "see the warnings"
        )


def _lacks_symbols_only(prediction: Prediction) -> bool:
    return not prediction.reasons and {trouble.kind for trouble in prediction.troubles} == {"missing"}


def _some(names: Sequence[str]) -> str:
    if len(names) <= _REPEATED:
        return ", ".join(names)
    return f"{', '.join(names[:_REPEATED])} and {len(names) - _REPEATED} more"
