"""Commands about kernels: list, fetch, prune; and the lock, which pins them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options
from pkgkmod.cli.report import count, print_table
from pkgkmod.errors import KernelError, LockError, PartialError, UsageError
from pkgkmod.network import is_offline
from pkgkmod.progress import JsonLines, human_size

if TYPE_CHECKING:
    from pkgkmod.engine.lock import Lock
    from pkgkmod.kernels.select import Found
    from pkgkmod.model.project import Project
    from pkgkmod.progress import Progress

_DAY = 24 * 60 * 60
_NO_ARCHIVE = (
    "no archive is configured; this machine's would be, in pkgkmod.toml or ~/.config/pkgkmod.toml: "
    '[plugin.apt] with archives = ["machine"]'
)


@click.group()
def kernels() -> None:
    """Show, fetch and remove the kernels that can be built for."""


def _project(invocation: Invocation) -> tuple[Project, Path]:
    """Return the project, or one that holds only the user's and the machine's settings."""
    from pkgkmod.config.load import load_settings

    if invocation.config.exists():
        loaded = invocation.load()
        return loaded.project, loaded.folder
    return load_settings(invocation.overrides), invocation.config.absolute().parent


def _has_archives(project: Project) -> bool:
    from pkgkmod.plugins import KERNEL_SOURCES, KernelArchive, load, registered

    names = set(project.plugin).intersection(registered(KERNEL_SOURCES))
    return any(isinstance(load(KERNEL_SOURCES, name), KernelArchive) for name in names)


@kernels.command("list")
@click.argument("patterns", nargs=-1)
@command_options
@click.pass_context
def kernels_list(ctx: click.Context, /, patterns: tuple[str, ...], **given: Any) -> None:
    """List the kernels that can be built for: installed, in folders, in the configured archives.

    PATTERNS (releases, or with * and ?) narrow the list. With --offline, archives are taken as they were seen last.
    """
    from pkgkmod.kernels.select import available_kernels, local_kernels, select_kernels
    from pkgkmod.kernels.store import Store

    invocation: Invocation = ctx.obj.with_options(given)
    project, base = _project(invocation)
    progress = invocation.progress()
    offline = is_offline()
    try:
        found = available_kernels(project, base, ask=not offline, progress=progress)
    except KernelError as error:
        if not offline:
            raise
        progress.warning(f"the archives are left out: {error.brief}")
        found = local_kernels(project, base)
    finally:
        progress.close()
    if patterns:
        found = select_kernels(patterns, found)
    store = Store()
    if invocation.json_lines:
        for kernel in found:
            JsonLines().event("kernel", **_facts(kernel, store))
        return
    if found:
        print_table(["KERNEL", "ARCH", "COMPILER", "FROM", "PLACE"], [_row(kernel, store) for kernel in found])
    else:
        click.echo("no kernel build tree found; install kernel headers, or name folders in plugin.folder.paths")
    if not _has_archives(project):
        progress.info(_NO_ARCHIVE)


def _facts(kernel: Found, store: Any) -> dict[str, Any]:
    from pkgkmod.model.kernel import KernelOffer

    facts: dict[str, Any] = {"release": kernel.uname_r, "arch": kernel.arch, "source": kernel.source}
    if not isinstance(kernel, KernelOffer):
        return {**facts, "tree": kernel.tree, "compiler": str(kernel.compiler or "")}
    packages = [{"name": p.name, "version": p.version, "url": p.url, "sha256": p.sha256} for p in kernel.packages]
    here = store.has(kernel)
    return {**facts, "archive": kernel.archive, "in_store": here, "size": kernel.size, "packages": packages}


def _row(kernel: Found, store: Any) -> list[str]:
    from pkgkmod.model.kernel import KernelOffer

    if not isinstance(kernel, KernelOffer):
        compiler = str(kernel.compiler or "not known")
        return [kernel.uname_r, kernel.arch, compiler, kernel.source, str(kernel.place)]
    if store.has(kernel):
        ready = store.kernel(kernel)
        return [kernel.uname_r, kernel.arch, str(ready.compiler or "not known"), kernel.source, "in the store"]
    return [kernel.uname_r, kernel.arch, "-", kernel.source, f"to be fetched, {human_size(kernel.size)}"]


@kernels.command("fetch")
@click.argument("patterns", nargs=-1)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be fetched.")
@command_options
@click.pass_context
def kernels_fetch(ctx: click.Context, /, patterns: tuple[str, ...], dry_run: bool, **given: Any) -> None:
    """Fetch kernels from the configured archives into the store; nothing is installed.

    PATTERNS are releases, patterns with * and ?, `all`, or `newest N per flavour`; without any, the kernels of
    the project's targets.
    """
    from pkgkmod.kernels.provide import provide_kernels
    from pkgkmod.kernels.select import offered_kernels, select_kernels
    from pkgkmod.kernels.store import Store

    invocation: Invocation = ctx.obj.with_options(given)
    project, base = _project(invocation)
    wanted: Sequence[str] = patterns or tuple(dict.fromkeys(text for t in project.target for text in t.kernels))
    if not wanted:
        raise UsageError("no kernels are named", hint="such as `pkgkmod kernels fetch '6.1.0-*-amd64'`")
    if not _has_archives(project):
        raise KernelError("there is nowhere to fetch kernels from", hint=_NO_ARCHIVE)
    progress = invocation.progress()
    try:
        chosen = select_kernels(wanted, offered_kernels(project, base, ask=True, progress=progress))
        missing = [offer for offer in chosen if not Store().has(offer)]
        if dry_run:
            for offer in missing:
                if invocation.json_lines:
                    JsonLines().event("kernel", **_facts(offer, Store()))
                else:
                    click.echo(f"{offer.uname_r}  {human_size(offer.size)}  {offer.archive}")
            return
        _, absent = provide_kernels(chosen, project.build, fetch=True, progress=progress)
    finally:
        progress.close()
    fetched = [offer for offer in missing if offer.uname_r not in absent]
    if invocation.json_lines:
        for offer in chosen:
            JsonLines().event("kernel", **_facts(offer, Store()))
    else:
        here = len(chosen) - len(missing)
        click.echo(f"{count(len(chosen), 'kernel')}: {len(fetched)} fetched, {here} here before")
    if absent:
        listing = "\n".join(f"{release}: {error.brief}" for release, error in absent.items())
        raise PartialError(f"{count(len(absent), 'kernel')} could not be had", details=listing)


@kernels.command("prune")
@click.option("--unused-for", type=int, default=90, metavar="DAYS", help="Remove what no build used for so long (90).")
@click.option("--all", "everything", is_flag=True, help="Remove all fetched kernels, build roots and answers.")
@click.option("--results", is_flag=True, help="Remove the results, too, that are kept for other workspaces.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be removed.")
@command_options
@click.pass_context
def kernels_prune(ctx: click.Context, /, unused_for: int, everything: bool, dry_run: bool, **given: Any) -> None:
    """Remove fetched kernels, build roots and answers to probes that no build used for a while."""
    from pkgkmod import resultcache
    from pkgkmod.cachefolder import cache_folder
    from pkgkmod.kernels import roots
    from pkgkmod.kernels.store import Store
    from pkgkmod.modules.probes import prune_answers

    seconds = 0 if everything else unused_for * _DAY
    removed = [
        (f"{e.package.name} {e.package.version}", e.bytes) for e in Store().prune(unused_for=seconds, dry_run=dry_run)
    ]
    found = roots.prune(cache_folder(), 0 if everything else unused_for, dry_run)
    removed += [(f"build root {path.name}", size) for path, size in found]
    answers = prune_answers(unused_for=seconds, dry_run=dry_run)
    removed += [(f"answers to probes {file.stem}", size) for file, size in answers]
    if given["results"]:
        kept = resultcache.prune(unused_for=seconds, dry_run=dry_run)
        removed += [(f"{k.folder.parent.name} {k.folder.name[:16]}", k.bytes) for k in kept]
    if ctx.obj.with_options(given).json_lines:
        for name, size in removed:
            JsonLines().event("removed", name=name, bytes=size, dry_run=dry_run)
        return
    for name, size in removed:
        click.echo(f"{'would remove' if dry_run else 'removed'} {name}  {human_size(size)}")
    total = human_size(sum(size for _, size in removed))
    click.echo(f"{count(len(removed), 'entry')}, {total}" if removed else "nothing to remove")


@click.command("lock")
@click.option("--update", is_flag=True, help="Ask the archives, and take the newest matching kernels.")
@click.option("--check", is_flag=True, help="Only tell whether the lock fits the project and its kernels can be had.")
@command_options
@click.pass_context
def lock(ctx: click.Context, /, update: bool, check: bool, **given: Any) -> None:
    """Pin the source commit, patches and kernels in pkgkmod.lock; builds then use these, or refuse."""
    from pkgkmod.engine.lock import LOCK_FILE, make_lock, read_lock, write_lock
    from pkgkmod.engine.resolve import left_out, wanted_kernels

    invocation: Invocation = ctx.obj.with_options(given)
    loaded = invocation.load()
    progress = invocation.progress()
    before = read_lock(loaded.folder)
    try:
        if check:
            if before is None:
                raise LockError(f"there is no {LOCK_FILE}", hint="`pkgkmod lock` writes one")
            _check(before, loaded.project, loaded.folder, progress)
            return
        if before and not update and _fits(before, loaded.project, loaded.folder):
            progress.info(f"{LOCK_FILE} is up to date; --update asks for newer kernels")
            return
        wanted = wanted_kernels(loaded.project, loaded.folder, ask=update, prefer_archives=True, progress=progress)
        excluded = left_out(loaded.project, wanted)
        for release, why in excluded.items():
            progress.event("excluded", stage="lock", target="_", kernel=release, reason=why)
            progress.info(f"kernel {release} is left out: {why}")
        fitting = {
            target: tuple(kernel for kernel in found if kernel.uname_r not in excluded)
            for target, found in wanted.items()
        }
        made = make_lock(loaded.project, loaded.folder, fitting)
    finally:
        progress.close()
    write_lock(made, loaded.folder)
    _print_lock(before, made, json_lines=invocation.json_lines)


def _print_lock(before: Lock | None, made: Lock, *, json_lines: bool) -> None:
    """Say what is new, what changed, and what vanished."""
    old = {kernel.release: kernel for kernel in before.kernel} if before else {}
    new = {kernel.release: kernel for kernel in made.kernel}
    changes = [(r, "new" if r not in old else "changed") for r in new if new[r] != old.get(r)]
    changes += [(release, "gone") for release in old if release not in new]
    if json_lines:
        for release, change in changes:
            JsonLines().event("locked", kernel=release, change=change)
        for source in made.source:
            JsonLines().event("locked-source", label=source.label, commit=source.commit, patches=source.patches)
        return
    for release, change in changes:
        which = " -> ".join(_of(kernels[release]) for kernels in (old, new) if release in kernels)
        colour = {"new": "green", "changed": "yellow", "gone": "red"}[change]
        click.echo(f"{click.style(f'{change:7}', fg=colour)}  {release}  {which}")
    for source in made.source:
        label = "" if source.label == "_" else f" ({source.label})"
        click.echo(f"source{label}: {source.commit}, {count(len(source.patches), 'patch')}")
    click.echo(f"pkgkmod.lock: {count(len(new), 'kernel')} for {count(len(made.target), 'target')}")


def _of(kernel: Any) -> str:
    return f"{kernel.package[0].name} {kernel.package[0].version}" if kernel.package else kernel.source


def _fits(before: Any, project: Project, base: Path) -> bool:
    try:
        before.check_sources(project, base)
        before.kernels(project.target, project, base)
    except LockError:
        return False
    return True


def _check(before: Any, project: Project, base: Path, progress: Progress) -> None:
    from pkgkmod.kernels.download import opened
    from pkgkmod.kernels.store import Store

    before.check_sources(project, base)
    found = before.kernels(project.target, project, base)
    offers = {k.uname_r: k for kernels in found.values() for k in kernels if hasattr(k, "packages")}
    store = Store()
    lost: list[str] = []
    for release, offer in offers.items():
        for package in () if store.has(offer) else offer.packages:
            try:
                with opened(package.url):
                    pass
            except KernelError as error:
                lost.append(f"{release}: {error.brief}")
    if lost:
        raise LockError(
            f"{count(len(lost), 'pinned package')} can no longer be had",
            details="\n".join(lost),
            hint="an archive of old packages (snapshot.debian.org) may have them; or `pkgkmod lock --update`",
        )
    progress.info(f"the lock fits: {count(len(before.kernel), 'kernel')}, {count(len(before.source), 'source')}")
