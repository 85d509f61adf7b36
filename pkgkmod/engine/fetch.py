"""Fetching what a build farm has made: verified, and filed as a result like what was built here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pkgkmod.engine.journal import Journal
from pkgkmod.errors import FarmError, InputError
from pkgkmod.farms import FarmSession
from pkgkmod.formats import rpmpackage
from pkgkmod.model.artifacts import Package, PackageSet
from pkgkmod.model.submission import FarmFile, Submission
from pkgkmod.packages.finished import describe_deb, describe_rpm
from pkgkmod.progress import Progress
from pkgkmod.workspace import Result, Workspace, digest

STAGE = "submit"
"""Under which the results are filed."""
# Names of packages, as all farms make them; nothing that leads to another folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~:%-]{0,250}")


def fetch(
    submissions: Iterable[Submission], session: FarmSession, journal: Journal, workspace: Workspace, progress: Progress
) -> list[Result]:
    """Fetch the packages of submissions that were built; those that are here already are not fetched again.

    Raise FarmError for a file that is not what the farm says it is; nothing of its submission is kept then.
    """
    results = []
    for one in submissions:
        if not any(build.state == "succeeded" for build in one.builds):
            continue
        fingerprint = digest({"request": one.request, "builds": [build.id for build in one.builds]})
        here = workspace.find(STAGE, one.target, one.kernel, fingerprint)
        if here is None or here.changed_files():
            with workspace.locked(progress):
                here = _fetched(one, fingerprint, session, workspace, progress)
        journal.update(one, fetched=fingerprint)
        results.append(here)
    return results


def _fetched(
    one: Submission, fingerprint: str, session: FarmSession, workspace: Workspace, progress: Progress
) -> Result:
    files = session.files(one.ticket)
    _check_names(files, one)
    with (
        workspace.draft() as draft,
        progress.step(f"Fetching {len(files)} package{'s' if len(files) != 1 else ''} of {one.id}"),
    ):
        for number, file in enumerate(files, 1):
            session.fetch(file, draft.folder / file.name)
            _check(file, draft.folder / file.name)
            progress.amount(number, len(files))
        packages = tuple(_described(one, (draft.folder / file.name for file in files)))
        made = PackageSet(
            format=one.format, packages=packages, kernels=one.kernels, source_date_epoch=one.source_date_epoch
        )
        return workspace.save(
            draft,
            key=(STAGE, one.target, one.kernel),
            fingerprint=fingerprint,
            ingredients={"request": one.request, "ticket": one.ticket, "package": one.package},
            inputs={},
            state="ok",
            artifact=made.model_dump(mode="json"),
        )


def _check_names(files: Sequence[FarmFile], one: Submission) -> None:
    names = [file.name for file in files]
    for name in names:
        if not _NAME.fullmatch(name) or names.count(name) > 1:
            raise FarmError(
                f"the farm has made a package called {name!r} of {one.id}", hint="look at the farm's own pages"
            )
    if not files:
        raise FarmError(
            f"the farm has no packages of {one.id} any more", hint="farms remove them after a while; submit it again"
        )


def _check(file: FarmFile, place: Path) -> None:
    """Raise FarmError unless a file has the size and the digest that the farm says."""
    size = place.stat().st_size
    if file.size is not None and size != file.size:
        raise FarmError(f"{file.name} arrived with {size} bytes in place of {file.size}", hint="fetch it again")
    if file.digest:
        algorithm, _, wanted = file.digest.partition(":")
        with place.open("rb") as stream:
            found = hashlib.file_digest(stream, algorithm).hexdigest()
        if found != wanted:
            raise FarmError(f"{file.name} is not the file that the farm says it is", hint="fetch it again")


def _described(one: Submission, files: Iterable[Path]) -> Iterator[Package]:
    for file in files:
        try:
            if one.format == "rpm":
                rpmpackage.check_digests(rpmpackage.read_headers(file))
                yield describe_rpm(file)
            elif package := describe_deb(file, one.package.partition("_")[0], _version(one.package)):
                yield package
        except InputError as error:
            raise FarmError(
                f"the farm's {file.name} is no package that can be read", details=error.brief, hint="fetch it again"
            ) from None


def _version(dsc: str) -> str:
    """Return the version in the name of a .dsc; without an epoch, which file names have not."""
    return dsc.removesuffix(".dsc").partition("_")[2]
