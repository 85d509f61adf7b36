"""Reading a workspace: what its newest results say, as facts for a report."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pkgkmod import __version__
from pkgkmod.data.distros import find_distro
from pkgkmod.errors import UsageError
from pkgkmod.model.artifacts import BillOfMaterials, DriverDisk, ModuleSet, PackageSet, SignedSet, SourceTree
from pkgkmod.model.kernel import KernelOffer, KernelRelease
from pkgkmod.model.prediction import BootReport
from pkgkmod.model.project import Project, kernel_name
from pkgkmod.model.verdict import VERDICT_FILE, CheckedModule, Verdict
from pkgkmod.reports.facts import BuiltFile, Cell, Facts, Found, KernelRow, MadeFile, RowState, Timing, Tool
from pkgkmod.reports.failures import failures_of
from pkgkmod.workspace import Result, Workspace

_STAMP = re.compile(r"(?P<path>/[^:]+):(?P<size>\d+):(?P<changed>\d+)")  # programs.tool_stamp
_LARGEST_VERDICT = 64 * 1024 * 1024  # bytes

_CHECKS = ("check", "check_fetched")
_PACKAGES = ("build_rpm", "build_deb", "sign", "submit")

M = TypeVar("M", bound=BaseModel)
Newest = Mapping[tuple[str, str, str], Result]


def gather(
    project: Project,
    base: Path,
    offers: Iterable[KernelOffer] = (),
    wanted: Collection[KernelRelease] | None = None,
) -> Facts:
    """Return what the newest results of the project in folder `base` say.

    `offers` are kernels of archives, which tell the packages that a kernel was of. What failed for other kernels than
    those `wanted` is left out, where that is known. Raise UsageError if there is no result.
    """
    newest = newest_results(project, Workspace(base), wanted)
    if not newest:
        raise UsageError("nothing has been made yet", hint="`pkgkmod build` makes what the report is about")
    ok = [result for result in newest.values() if result.state == "ok"]
    rows = _rows(newest, {offer.identity: offer for offer in offers}, wanted or ())
    verdicts = list(_verdicts(newest.values()))
    found = tuple(dict.fromkeys(one for verdict in verdicts for one in _located(verdict)))
    modules = tuple(
        sorted(
            {name for row in rows for name in (*row.modules, *(row.fetched or ()))}
            | {kernel_name(m.name) for m in project.module}
        )
    )
    return Facts(
        name=project.project.name,
        version=project.project.version,
        summary=project.project.summary,
        vendor=project.project.vendor or "",
        pkgkmod=__version__,
        finished=max(result.finished for result in newest.values()),
        targets=tuple((target.id, find_distro(target.distro).title) for target in project.target),
        sources={r.target: tree.provenance for r in ok if (tree := _of(r, "prepare_sources", SourceTree))},
        modules=modules,
        rows=rows,
        cells={(row.key, name): _cell(row, name, verdicts, found) for row in rows for name in modules},
        findings=found,
        checked=bool(verdicts),
        unchecked=tuple(sorted({release for verdict in verdicts for release in verdict.unchecked})),
        failures=failures_of(newest.values(), base),
        files=tuple(_files(ok)),
        timings=tuple(Timing(r.stage, r.target, r.kernel, r.seconds) for r in newest.values() if r.state != "excluded"),
        tools=_tools(ok),
    )


def newest_results(project: Project, workspace: Workspace, wanted: Collection[KernelRelease] | None = None) -> Newest:
    """Return the newest result of each stage, target and kernel that the project still has, in a settled order."""
    labels = {"_", *(target.source_label for target in project.target), *(target.id for target in project.target)}
    # A job may be for all flavours of a kernel.
    kernels = {"_", *(name for one in wanted for name in (one.uname_r, one.base))} if wanted is not None else None
    newest: dict[tuple[str, str, str], Result] = {}
    for result in workspace.all():
        key = (result.stage, result.target, result.kernel)
        if result.target in labels and (key not in newest or result.finished >= newest[key].finished):
            newest[key] = result
    return {
        key: result
        for key, result in sorted(newest.items())
        if result.state == "ok" or kernels is None or result.kernel in kernels
    }


def _of(result: Result, stage: str, kind: type[M]) -> M | None:
    """Return a result's artifact, if it is of this stage; None also for one of another version of pkgkmod."""
    if result.stage != stage:
        return None
    try:
        return kind.model_validate(result.artifact)
    except ValidationError:
        return None


# --- kernels and modules ----------------------------------------------------------------------------


def _rows(
    newest: Newest, offers: Mapping[str, KernelOffer], wanted: Collection[KernelRelease]
) -> tuple[KernelRow, ...]:
    boots = {key[2]: result for key, result in newest.items() if key[0] == "boot"}
    builds = [result for key, result in newest.items() if key[0] == "build_modules"]
    rows = [_booted(_row(one, newest, offers), boots.get(one.kernel), one) for one in builds]
    rows += [_booted(row, boots.get(row.release), newest["submit", *place]) for place, row in _of_farms(newest, rows)]
    tried, asked_for = {row.release for row in rows}, {kernel.uname_r for kernel in wanted}
    for release in sorted((boots.keys() | asked_for) - tried):
        row = KernelRow(release, "_", "foreign", awaited=release in asked_for)
        rows.append(_booted(row, boots[release], boots[release]) if release in boots else row)
    return in_order(rows)


def _of_farms(newest: Newest, rows: Sequence[KernelRow]) -> Iterator[tuple[tuple[str, str], KernelRow]]:
    """Yield the kernels for which a farm has made modules and nothing was built here, with where these are filed."""
    seen = {row.release for row in rows}
    for (stage, target, kernel), result in newest.items():
        made = _of(result, "submit", PackageSet) if stage == "submit" else None
        verdict = next(_verdicts([found] if (found := newest.get(("check_fetched", target, kernel))) else []), None)
        for release in made.kernels if made else ():
            if release not in seen:
                seen.add(release)
                names = frozenset(one.name for one in verdict.modules if one.kernel == release) if verdict else None
                yield (target, kernel), KernelRow(release, "_", "farm", fetched=names)


def _booted(row: KernelRow, boot: Result | None, build: Result) -> KernelRow:
    """Return the row with what was seen when its kernel was booted, if it was."""
    report = _of(boot, "boot", BootReport) if boot else None
    return replace(row, boot=report, boot_outdated=bool(boot and boot.finished < build.finished))


def in_order(rows: Iterable[KernelRow]) -> tuple[KernelRow, ...]:
    """Return rows, the newest kernel first."""

    def age(row: KernelRow) -> tuple[object, ...]:
        try:
            release = KernelRelease(row.release)
        except ValueError:
            return (), 0, row.release, row.label
        return release.age, -len(row.release), row.release, row.label

    return tuple(sorted(rows, key=age, reverse=True))


def _row(result: Result, newest: Newest, offers: Mapping[str, KernelOffer]) -> KernelRow:
    made = _of(result, "build_modules", ModuleSet) if result.state == "ok" else None
    sums = {output.path: output.sha256 for output in result.outputs}
    identity = str(result.ingredients.get("kernel tree", ""))
    offer = offers.get(identity)
    modules = made.modules if made else ()
    state: RowState = "ok" if made else "excluded" if result.state == "excluded" else "failed"
    here = _below(result.folder)
    return KernelRow(
        release=result.kernel,
        label=result.target,
        state=state,
        reason=result.reason,
        outdated=bool(made) and _is_outdated(result, newest),
        arch=made.arch if made else offer.arch if offer else "",
        compiler=made.compiler if made else "",
        seconds=result.seconds,
        identity=identity,
        modules={
            kernel_name(one.name): BuiltFile(f"{here}/{one.file}", one.size, sums.get(one.file, "")) for one in modules
        },
        packages=offer.packages if offer else (),
    )


def _is_outdated(result: Result, newest: Newest) -> bool:
    """Tell whether modules were built of other sources than those that are here now; edits by hand do not count."""
    sources = newest.get(("prepare_sources", result.target, "_"))
    if sources is None or sources.state != "ok":
        return False
    tokens = [token for title, token in result.inputs.items() if title.split(" ")[0] == "prepare_sources"]
    return bool(tokens) and sources.fingerprint not in tokens and not sources.changed_files()


def _cell(row: KernelRow, name: str, verdicts: Sequence[Verdict], found: Sequence[Found]) -> Cell:
    loads = row.boot.results if row.boot else ()
    return Cell(
        built=row.modules.get(name),
        checked=any((one.name, one.kernel) == (name, row.release) for verdict in verdicts for one in verdict.modules),
        findings=tuple(one.finding for one in found if (one.module, one.kernel) == (name, row.release)),
        boot=next((load for load in loads if kernel_name(load.module) == name), None),
    )


# --- findings ---------------------------------------------------------------------------------------


def _verdicts(results: Iterable[Result]) -> Iterator[Verdict]:
    """Yield what the checks said, of what was made here and of what a farm made.

    Of packages that were refused, a file beside the log has it.
    """
    for result in results:
        if result.stage not in _CHECKS:
            continue
        ok = result.state == "ok"
        verdict = _of(result, result.stage, Verdict) if ok else _read(result.folder / VERDICT_FILE, Verdict)
        if verdict:
            yield verdict.model_copy(update={"target": result.target})


def _read(file: Path, kind: type[M]) -> M | None:
    try:
        if file.stat().st_size > _LARGEST_VERDICT:
            return None
        return kind.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def _located(verdict: Verdict) -> Iterator[Found]:
    """Yield findings with the module and kernel that they are about."""
    places = {subject: one for one in verdict.modules for subject in _subjects(one)}
    for finding in verdict.findings:
        about = places.get(finding.subject)
        yield Found(finding, verdict.target, about.name if about else "", about.kernel if about else "")


def _subjects(module: CheckedModule) -> tuple[str, ...]:
    return (f"{module.package}: {module.path}", module.path) if module.package else (module.path,)


# --- files and tools --------------------------------------------------------------------------------


def _below(folder: Path) -> str:
    """Return the folder of a result from the project's folder on: results/STAGE/TARGET/KERNEL/FINGERPRINT."""
    return "/".join(folder.parts[-5:])


def _files(results: Sequence[Result]) -> Iterator[MadeFile]:
    """Yield packages, bills of materials and images: signed packages in place of those that were signed."""
    sets = {(r.stage, r.target, r.kernel): made for r in results if (made := _package_set(r))}
    signed = {(target, kernel) for stage, target, kernel in sets if stage == "sign"}
    for result in results:
        made = sets.get((result.stage, result.target, result.kernel))
        if made and (result.stage in ("sign", "submit") or (result.target, result.kernel) not in signed):
            is_signed = isinstance(made, SignedSet)
            maker = f"{made.format} of a farm" if result.stage == "submit" else made.format
            for one in made.packages:
                yield _file(result, one.file, f"{maker}, {one.kind}", one.version, signed=is_signed)
        if bill := _of(result, "sbom", BillOfMaterials):
            yield _file(result, bill.file, "bill of materials")
        if disk := _of(result, "build_iso", DriverDisk):
            for image in disk.images:
                yield _file(result, image.file, f"driver disk, {image.carrier}")


def _file(result: Result, name: str, kind: str, version: str = "", *, signed: bool = False) -> MadeFile:
    found = next((output for output in result.outputs if output.path == name), None)
    size, sha256 = (found.size, found.sha256) if found else (0, "")
    target = "" if result.target == "_" else result.target
    return MadeFile(f"{_below(result.folder)}/{name}", target, kind, size, sha256, version, signed)


def _package_set(result: Result) -> PackageSet | None:
    kind = SignedSet if result.stage == "sign" else PackageSet
    return _of(result, result.stage, kind) if result.stage in _PACKAGES else None


def _tools(results: Iterable[Result]) -> tuple[Tool, ...]:
    """Return the programs that are named in what results depend on."""
    found = {
        Tool(match["path"], int(match["size"]), int(match["changed"]) / 1e9)
        for result in results
        for text in _texts(result.ingredients)
        if (match := _STAMP.fullmatch(text)) and "/bin/" in match["path"]
    }
    return tuple(sorted(found, key=lambda tool: (tool.path, tool.changed)))


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _texts(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _texts(value)
