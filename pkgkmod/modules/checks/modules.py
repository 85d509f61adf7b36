"""What is wrong with finished modules, of one kernel or many: all checks, in one order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pkgkmod.model.finding import Finding, Severity
from pkgkmod.model.verdict import Verdict
from pkgkmod.modules.checks.codes import finding
from pkgkmod.modules.checks.file import check_files
from pkgkmod.modules.checks.inside import THIS_MODULE
from pkgkmod.modules.checks.kernel import check_with_kernel
from pkgkmod.modules.checks.opened import Beside, Kernels, Opened

_ORDER: Mapping[Severity, int] = {"error": 0, "warning": 1, "note": 2}


def check_modules(
    opened: Sequence[Opened],
    broken: Mapping[str, str],
    kernels: Kernels,
    beside: Beside,
    *,
    ignore: Sequence[str] = (),
    target: str = "",
) -> Verdict:
    """Return what was found; `broken` says of files that cannot be read why, and `ignore` are codes to leave out."""
    finished = [module for module in opened if THIS_MODULE in module.inside.sections]
    found = [*_broken(broken), *_unfinished(opened), *check_files(finished, kernels, beside)]
    unchecked = []
    for release, ones in _by_kernel(finished, kernels).items():
        if side := kernels.sides.get(release):
            found += check_with_kernel(ones, side, beside.providers.get(release, ()), kernels.texts.get(release))
        elif release:
            unchecked.append(release)
            text = "neither what it exports nor how it was configured is known"
            found.append(
                finding("KMOD070", release, text, "install its headers, or have them fetched: `pkgkmod kernels`")
            )
    return Verdict(
        target=target,
        modules=tuple(sorted((one.facts for one in opened), key=lambda one: (one.package, one.path))),
        findings=in_order(found, ignore),
        unchecked=tuple(sorted(unchecked)),
    )


def in_order(findings: Iterable[Finding], ignore: Sequence[str] = ()) -> tuple[Finding, ...]:
    """Return findings without repetitions and without those that are to be ignored, the worst first."""
    kept = (one for one in dict.fromkeys(findings) if one.code not in ignore)
    return tuple(sorted(kept, key=lambda one: (_ORDER[one.severity], one.code, one.subject, one.text)))


def _broken(broken: Mapping[str, str]) -> Iterator[Finding]:
    for subject, reason in broken.items():
        yield finding("KMOD001", subject, f"it cannot be read: {reason}", "build the package again")


def _unfinished(opened: Iterable[Opened]) -> Iterator[Finding]:
    for module in opened:
        if THIS_MODULE not in module.inside.sections:
            yield finding(
                "KMOD002",
                module.subject,
                f"it has no section {THIS_MODULE}",
                "package the NAME.ko that kbuild makes in the end, not NAME.o; no strip may remove sections",
            )


def _by_kernel(opened: Sequence[Opened], kernels: Kernels) -> dict[str, list[Opened]]:
    found: dict[str, list[Opened]] = {}
    for module in opened:
        found.setdefault(kernels.of(module), []).append(module)
    return found
