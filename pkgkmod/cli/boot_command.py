"""boot: packaged modules loaded in real boots of their kernels, in an emulated machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.boot_choice import Session, Wanted, check_modules, chosen_cargo, of_files, of_project
from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options
from pkgkmod.cli.report import count
from pkgkmod.errors import BootError, InputError, KernelError, UsageError
from pkgkmod.progress import JsonLines, human_size

if TYPE_CHECKING:
    from pkgkmod.boot.booting import BootOrder
    from pkgkmod.boot.installed import Cargo
    from pkgkmod.kernels.images import KernelImage
    from pkgkmod.model.prediction import BootReport


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--target", multiple=True, metavar="NAME", help="Only this target; may be given several times.")
@click.option("--kernel", multiple=True, metavar="RELEASE", help="Only this kernel or pattern; with FILES, any kernel.")
@click.option("--module", multiple=True, metavar="NAME", help="Load only this module, and what it needs.")
@click.option("-j", "--jobs", type=click.IntRange(0), default=0, metavar="N", help="Kernels booted at a time.")
@click.option("--time-limit", type=click.IntRange(2, 3600), default=60, metavar="S", help="Seconds for a module (60).")
@click.option("--memory", type=click.IntRange(64, 65536), metavar="MIB", help="Memory of the machine.")
@click.option("--enforce", is_flag=True, help="Let the kernel take signed modules only.")
@click.option("--image", type=click.Path(path_type=Path), metavar="FILE", help="Kernel file to boot.")
@click.option("--keep", is_flag=True, help="Keep what a machine was given and said, in boot-RELEASE/ here.")
@click.option("--again", is_flag=True, help="Boot again where nothing changed.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be booted, and fetch and boot nothing.")
@command_options
@click.pass_context
def boot(ctx: click.Context, /, files: tuple[Path, ...], **given: Any) -> None:
    """Load the packaged modules in a real boot of each kernel, in an emulated machine.

    FILES are packages, modules and folders; without any, the project's packages are taken. Modules lie where the
    packages install them. The exit code is 24 if a kernel refuses a module or breaks, or does not come up.
    """
    from pkgkmod.boot.parallel import side_by_side, workers
    from pkgkmod.cli.boot_report import show

    invocation: Invocation = ctx.obj.with_options(given)
    if files and given["target"]:
        raise UsageError("--target does not go with FILES", hint="name the files that are wanted")
    session = _session(invocation, given, is_project=not files)
    try:
        wanted = of_files(session, files, given) if files else of_project(session, given)
        check_modules(session, wanted)
        if given["dry_run"]:
            for one in wanted:
                _print_plan(session, one)
            return
        most = workers(given["jobs"], session.memory)
        session = replace(session, is_only=len(wanted) == 1)
        with _held(session):
            reports = [report for _, report in side_by_side(partial(_boot, session), wanted, most)]
    finally:
        session.progress.close()
    show(reports, json_lines=invocation.json_lines, verbose=invocation.verbosity > 0)
    _raise(reports)


@contextmanager
def _held(session: Session) -> Iterator[None]:
    """Keep other runs from the project's results, if something is filed there, and from the fetched kernels."""
    from pkgkmod.kernels.store import Store
    from pkgkmod.workspace import Workspace

    with Workspace(session.base).locked(session.progress) if session.is_saved else nullcontext(), Store().in_use():
        yield


def _session(invocation: Invocation, given: Mapping[str, Any], *, is_project: bool) -> Session:
    from pkgkmod.cli.disk_command import project_or_settings

    if is_project:
        loaded = invocation.load()
        project, base = loaded.project, loaded.folder
    else:
        project, base = project_or_settings(invocation)
    names = tuple(name.replace("-", "_").removesuffix(".ko") for name in given["module"])
    flags = {key: given[key] for key in ("enforce", "keep", "again")} | {"memory": given["memory"] or 0}
    progress = invocation.progress()
    return Session(
        invocation, project, base, progress, names, limit=given["time_limit"], is_project=is_project, **flags
    )


def _print_plan(session: Session, one: Wanted) -> None:
    """Say where a kernel would come from, and how many modules would be loaded; nothing is fetched."""
    from pkgkmod.kernels.images import image_offer, installed_image
    from pkgkmod.kernels.store import Store

    place, size = str(one.file or ""), 0
    if one.kernel and (found := installed_image(one.kernel)):
        place = found.shown
    elif one.kernel:
        offer = image_offer(one.kernel, session.project, session.base, session.progress)
        place = f"{offer.packages[0].name} {offer.packages[0].version}"
        size = 0 if Store().has(offer) else offer.size
    modules = [module.name for module in chosen_cargo(session, one).modules]
    if session.invocation.json_lines:
        JsonLines().event("boot-plan", kernel=one.uname_r, image=place, to_fetch=size, modules=modules)
        return
    fetched = f", to be fetched ({human_size(size)})" if size else ""
    click.echo(f"{one.uname_r}: {count(len(modules), 'module')} in {place}{fetched}")


# --- booting ----------------------------------------------------------------------------------------


def _boot(session: Session, one: Wanted) -> BootReport:
    """Boot a kernel, or return what is known of the same boot; one of several that cannot be had is a failure."""
    from pkgkmod.boot.qemu import machine_of
    from pkgkmod.kernels.images import find_image, image_of_file
    from pkgkmod.model.prediction import BootReport

    cargo = chosen_cargo(session, one)
    try:
        if one.kernel is None:
            assert one.file
            image = image_of_file(one.file, one.uname_r, os.uname().machine)
        else:
            image = find_image(one.kernel, session.project, session.base, session.progress)
        machine = machine_of(image.arch)
    except KernelError as error:
        if session.is_only:
            raise
        failure = "\n".join(filter(None, (error.brief, error.details, error.hint)))
        return BootReport(kernel=one.uname_r, image="", seconds=0, accelerator="tcg", failure=failure)
    order = _order(session, one, image, cargo)
    if session.is_saved:
        return _saved(session, one, order, machine)
    keep = Path.cwd() / f"boot-{one.uname_r}" if session.keep else None
    return _booted(session, order, machine, keep)


def _order(session: Session, one: Wanted, image: KernelImage, cargo: Cargo) -> BootOrder:
    from pkgkmod.boot.booting import BootOrder
    from pkgkmod.kernels.provide import is_here
    from pkgkmod.kernels.store import Store
    from pkgkmod.model.kernel import KernelOffer
    from pkgkmod.modules.kernelside import read_exports

    kernel = one.kernel
    if isinstance(kernel, KernelOffer):
        kernel = Store().kernel(kernel) if Store().has(kernel) else None
    exports = None
    if kernel and is_here(kernel):
        try:
            exports = read_exports(kernel.place, kernel.uname_r)
        except KernelError as error:
            session.progress.info(f"{error.brief}; what the modules need is taken from what they say")
    certificate = _certificate(session) if session.enforce else b""
    return BootOrder(image, cargo, exports, session.limit, session.memory, session.enforce, certificate)


def _certificate(session: Session) -> bytes:
    """Return the certificate of the project's signing key (DER); empty if it has none."""
    from ssl import PEM_cert_to_DER_cert

    named = session.project.signing.module_certificate
    if not named:
        return b""
    path = session.base / named
    try:
        content = path.read_bytes()
        return PEM_cert_to_DER_cert(content.decode("ascii").strip()) if content.startswith(b"-----") else content
    except (OSError, ValueError) as error:
        raise InputError(f"the certificate {path} cannot be read", details=str(error)) from None


def _booted(session: Session, order: BootOrder, machine: Any, keep: Path | None) -> BootReport:
    from pkgkmod.boot.booting import boot as boot_kernel

    with session.progress.step(f"Booting {order.image.uname_r} with {count(len(order.cargo.modules), 'module')}"):
        return boot_kernel(order, machine, keep, session.progress, whole=session.keep)


def _saved(session: Session, one: Wanted, order: BootOrder, machine: Any) -> BootReport:
    """Boot a kernel and file what came of it with the project, or return what was filed for the same boot."""
    from pydantic import ValidationError

    from pkgkmod.boot.booting import VERSION
    from pkgkmod.cli.boot_report import summary
    from pkgkmod.model.prediction import BootReport
    from pkgkmod.workspace import Workspace, digest

    workspace = Workspace(session.base)
    ingredients = {
        "version": VERSION,
        "kernel": order.image.identity,
        "files": order.cargo.digest,
        "limits": [order.limit, order.memory],
        "enforced": [order.enforce, digest(order.certificate.hex())],
    }
    fingerprint = digest(["boot", one.uname_r, ingredients])
    found = workspace.find("boot", "_", one.uname_r, fingerprint)
    if found and not session.again and not session.keep:
        try:
            known = BootReport.model_validate(found.artifact)
        except ValidationError:
            known = None
        if known and not known.failure:
            session.progress.info(f"{one.uname_r} was booted with these packages; --again boots it again")
            return known
    with workspace.draft() as draft:
        report = _booted(session, order, machine, draft.folder)
        workspace.save(
            draft,
            key=("boot", "_", one.uname_r),
            fingerprint=fingerprint,
            ingredients=ingredients,
            inputs={},
            state="failed" if report.failure else "ok",
            reason=summary(report),
            artifact=report.model_dump(mode="json"),
        )
    return report


def _raise(reports: Sequence[BootReport]) -> None:
    """Raise BootError if a kernel did not come up, or something is wrong with a module in one."""
    from pkgkmod.cli.boot_report import is_bad

    failed = [report.kernel for report in reports if report.failure]
    bad = [result for report in reports for result in report.results if not report.failure and is_bad(result)]
    if not failed and not bad:
        return
    parts = [f"{count(len(failed), 'kernel')} did not come up"] if failed else []
    modules = {result.module for result in bad}
    kernels = {result.kernel for result in bad}
    parts += [f"{count(len(modules), 'module')} did not load in {count(len(kernels), 'kernel')}"] if bad else []
    raise BootError(
        " and ".join(parts),
        hint="-v shows all that the kernel said; --keep keeps it",
    )
