"""Finished packages and modules checked: opened, and put beside the kernels that they are for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pkgkmod.errors import CheckError, KernelError
from pkgkmod.model.finding import Finding
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.verdict import Verdict
from pkgkmod.modules.checks.btf import kernel_texts
from pkgkmod.modules.checks.modules import check_modules
from pkgkmod.modules.checks.opened import Beside, Kernels, Signature
from pkgkmod.modules.kernelside import KernelSide, kernel_side
from pkgkmod.modules.kmod_deps import Export, Module
from pkgkmod.modules.ownmodules import own_modules
from pkgkmod.modules.predict import asked_of_kernels
from pkgkmod.packages.modulefiles import Run
from pkgkmod.packages.openmodules import open_modules
from pkgkmod.progress import JsonLines, Progress

_NAMED = 10
"""Errors that are told in full."""


@dataclass(frozen=True)
class CheckSettings:
    """How finished modules are to be checked."""

    ignore: tuple[str, ...] = ()
    target: str = ""
    kernel: str = ""
    """Kernel to check all modules against; empty: each one against the one that it is for."""
    providers: Mapping[str, tuple[Module, ...]] = field(default_factory=dict)
    """Modules of drivers that are required, by the kernel that they are for."""
    extra: Mapping[str, Mapping[str, Export]] = field(default_factory=dict)
    """Exports of drivers that are required, where there is only a Module.symvers of them, by kernel."""


def check_packages(
    files: Sequence[Path],
    run: Run,
    signature: Callable[[bytes], Signature],
    kernels: Callable[[Iterable[str]], Sequence[Kernel]],
    settings: CheckSettings,
) -> Verdict:
    """Check the modules of packages, and bare ones.

    `signature` is given the plain bytes of each, `kernels` the releases that they are for, and returns those that are
    here. Raise InputError for a package that is damaged.
    """
    opened = open_modules(files, run, signature)
    instead = settings.kernel
    wanted = {instead} if instead else {module.kernel for module in opened.modules if module.kernel}
    here = kernels(sorted(wanted))
    sides = {}
    for kernel in here:
        modules = [one.module for one in opened.modules if instead or one.kernel == kernel.uname_r]
        asked = asked_of_kernels([*modules, *settings.providers.get(kernel.uname_r, ())])
        if side := _side(kernel, settings.extra, asked):
            sides[kernel.uname_r] = side
    names = [module.name for module in opened.modules]
    known = Kernels(
        sides,
        own={release: own_modules(side, names) for release, side in sides.items()},
        texts={kernel.uname_r: texts for kernel in here if (texts := kernel_texts(kernel.place)) is not None},
        instead=instead,
    )
    beside = Beside(settings.providers, opened.firmware)
    return check_modules(opened.modules, opened.broken, known, beside, ignore=settings.ignore, target=settings.target)


def _side(kernel: Kernel, extra: Mapping[str, Mapping[str, Export]], symbols: frozenset[str]) -> KernelSide | None:
    """Return what a kernel has for modules; None if its tree does not say."""
    try:
        side = kernel_side(kernel, symbols)
    except KernelError:
        return None
    more = extra.get(kernel.uname_r, {})
    return replace(side, exports={**more, **side.exports}) if more else side


def tell(findings: Sequence[Finding], progress: Progress) -> None:
    """Say what was found; notes only to those who want to hear all."""
    for one in findings:
        if isinstance(progress, JsonLines):
            progress.event("finding", **one.model_dump())
            continue
        if one.severity != "note":
            progress.warning(one.line)
        elif progress.verbose:
            progress.info(one.line)


def raise_errors(
    findings: Sequence[Finding], hint: str, *, told: bool = False, what: str = "modules would not be loaded"
) -> None:
    """Raise CheckError, which says `what`, if findings have errors; it names them unless they were `told`."""
    errors = [one for one in findings if one.severity == "error"]
    if not errors:
        return
    lines = [f"{one.code} {one.subject}: {one.text}" + (f"\n  {one.cure}" if one.cure else "") for one in errors]
    more = f"\nand {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    raise CheckError(
        f"{what}: " + ("1 error" if len(errors) == 1 else f"{len(errors)} errors"),
        details="" if told else "\n".join(lines[:_NAMED]) + more,
        hint=hint,
    )
