"""Whether the kernels of installers will load the modules on a driver disk, as far as those kernels are here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache

from pkgkmod.errors import KernelError
from pkgkmod.media.findings import finding
from pkgkmod.media.lint import layouts_of
from pkgkmod.media.matching import matches
from pkgkmod.model.disk import DiskPackage, DiskRelease
from pkgkmod.model.finding import Finding
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.packaging import Disk
from pkgkmod.model.prediction import Prediction
from pkgkmod.modules.kernelside import KernelSide, kernel_side
from pkgkmod.modules.kmod_deps import ModuleError, module_name
from pkgkmod.modules.predict import predict
from pkgkmod.packages.modulefiles import Run, module_files
from pkgkmod.plugins import Layout

Check = Callable[[Sequence[DiskRelease]], Iterable[Finding]]
_NAMED = 2  # troubles in a message


def loading_check(disk: Disk, kernels: Callable[[], Sequence[Kernel]], run: Run) -> Check:
    """Return what looks at a disk's packages; `kernels` gives those that are here, and is asked if one is of interest.

    Signatures are not looked at: whether an installer enforces them is not told by its kernel.
    """
    here = cache(lambda: {kernel.uname_r: kernel for kernel in kernels()})

    @cache
    def side(uname_r: str) -> KernelSide | None:
        if uname_r not in here():
            return None
        try:
            return kernel_side(here()[uname_r])
        except KernelError:
            return None

    @cache
    def own_modules(uname_r: str) -> frozenset[str] | None:
        found = side(uname_r)
        return None if found is None else frozenset(module_name(name) for name in found.exporters)

    def check(releases: Sequence[DiskRelease]) -> Iterator[Finding]:
        for layout, ones in layouts_of(releases).items():
            for release in ones:
                yield from _refused(layout, release, disk, side, run)
        for release in releases:
            yield from _unprovided(release, own_modules)

    return check


def _refused(
    layout: Layout, release: DiskRelease, disk: Disk, side: Callable[[str], KernelSide | None], run: Run
) -> Iterator[Finding]:
    """Yield the modules that an installer takes, and its kernel refuses."""
    for kernel in _installers(release, disk):
        taken = _taken(layout, release, kernel)
        theirs = side(kernel) if taken else None
        if theirs is None:
            continue
        packages = [package for package in taken if package.facts.machine in ("", theirs.arch)]
        for package, found in _predictions(packages, theirs, run).items():
            bad = [one for one in found if one.verdict == "refused"]
            if bad:
                yield finding(
                    "DISK013",
                    package,
                    f"the installer with the kernel {kernel} takes it, and its kernel refuses {_said(bad)}",
                    f"build it for {kernel}; `pkgkmod predict --kernel {kernel} --why` names all symbols",
                )


def _installers(release: DiskRelease, disk: Disk) -> list[str]:
    """Return the kernels of installers that are asked for, and those of the distribution's own releases."""
    known = [f"{kernel}.{machine}" for kernel in release.distro.installer_kernels.values() for machine in _of(release)]
    return list(dict.fromkeys((*disk.installers, *known)))


def _of(release: DiskRelease) -> tuple[str, ...]:
    machines = {module.machine for package in release.packages for module in package.facts.modules}
    return tuple(sorted({*release.machines, *machines} - {""}))


def _taken(layout: Layout, release: DiskRelease, kernel: str) -> tuple[DiskPackage, ...]:
    return tuple(
        package
        for package in release.packages
        if package.facts.modules and any(matches(wanted, kernel) for wanted in layout.kernels(package))
    )


def _predictions(packages: Sequence[DiskPackage], side: KernelSide, run: Run) -> Mapping[str, list[Prediction]]:
    """Return what comes of the modules in packages that are installed together, by package."""
    shown = {package.path: package.shown for package in packages}
    files = []
    for file in module_files(list(shown), run):
        try:
            files.append((shown[file.package] if file.package else file.path, file.module))
        except ModuleError:
            continue  # DISK001 says so
    found: dict[str, list[Prediction]] = {}
    for (package, _), prediction in zip(files, predict([module for _, module in files], side), strict=True):
        found.setdefault(package, []).append(prediction)
    return found


def _said(bad: Sequence[Prediction]) -> str:
    first = bad[0]
    reasons = [*first.reasons, *(f"{trouble.symbol}: {trouble.text}" for trouble in first.troubles)]
    more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
    rest = ", ..." if len(reasons) > _NAMED else ""
    return f"{first.module}{more} ({'; '.join(reasons[:_NAMED])}{rest})"


def _unprovided(release: DiskRelease, own_modules: Callable[[str], frozenset[str] | None]) -> Iterator[Finding]:
    """Yield the modules that need others which are neither on the disk nor the kernel's own, if that kernel is here."""
    there = {module.name for package in release.packages for module in package.facts.modules}
    for package in release.packages:
        wanted = [
            (module.name, module.vermagic, name)
            for module in package.facts.modules
            for name in module.depends
            if name.replace("-", "_") not in there
        ]
        lacking = []
        for name, kernel, needed in wanted:
            own = own_modules(kernel)
            if own is not None and needed.replace("-", "_") not in own:
                lacking.append((name, needed))
        if lacking:
            name, needed = lacking[0]
            more = f", and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            yield finding(
                "DISK014",
                package.shown,
                f"{name} needs the module {needed}, which is neither on the disk nor one of the kernel's own{more}",
                "put the package of that driver on the disk, too",
            )
