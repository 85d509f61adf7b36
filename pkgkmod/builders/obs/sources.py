"""The sources of a package in an Open Build Service: what is sent, and one commit for all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.builders.obs import ObsSettings, flavor_name
from pkgkmod.builders.obs.api import NotFoundError, ObsApi
from pkgkmod.builders.obs.meta import file_list, multibuild
from pkgkmod.builders.obs.spec import dsc_for_obs, spec_for_obs
from pkgkmod.errors import FarmError
from pkgkmod.farms import SourcePackage
from pkgkmod.progress import Progress

_MARK = "pkgkmod"
"""How the comments of our commits begin."""
_LOOKED_AT = 30
"""Revisions among which is looked for those of ours."""
_GENERATED = ("_service", "_link", "_aggregate", "_scmsync.obsinfo")
"""Files by which OBS takes its sources from elsewhere; what is sent would not be what is built."""


@dataclass(frozen=True)
class SourceFile:
    """A file to send."""

    name: str
    md5: str
    sha256: str
    path: Path
    content: bytes | None = None
    """What is sent in place of the file, if that is something else."""


@dataclass(frozen=True)
class Revision:
    """A commit."""

    number: str
    srcmd5: str
    time: int
    """Seconds since 1970, by the server's clock."""
    comment: str = ""


def flavors(packages: Sequence[SourcePackage]) -> tuple[str, ...]:
    """Return what the jobs of one package are called in it; one alone has no name."""
    return tuple(flavor_name(one) for one in packages) if len(packages) > 1 else ("",)


def sources(packages: Sequence[SourcePackage], wanted: ObsSettings) -> dict[str, SourceFile]:
    """Return the files of a package; raise FarmError where its jobs need different ones of one name."""
    found: dict[str, SourceFile] = {}
    names = flavors(packages)
    for package, flavor in zip(packages, names, strict=True):
        for file in _files(package, flavor, wanted):
            other = found.setdefault(file.name, file)
            if other.sha256 != file.sha256:
                raise FarmError(
                    f"{package.job.id} has another {file.name} than the jobs that it shares a package with",
                    hint="plugin.obs.multibuild = false gives each job a package of its own",
                )
    if names != ("",):
        content = multibuild(names)
        found["_multibuild"] = _described("_multibuild", Path("_multibuild"), content)
    return found


def _files(package: SourcePackage, flavor: str, wanted: ObsSettings) -> Iterator[SourceFile]:
    recipe, folder = package.recipe, package.recipe_folder
    if recipe.format == "deb":
        for file in package.files:
            is_marked = wanted.needssslcert and file.suffix == ".dsc"
            yield _described(file.name, file, dsc_for_obs(file) if is_marked else None)
        return
    assert recipe.spec
    spec = folder / recipe.spec
    name = f"{flavor}.spec" if flavor else spec.name
    yield _described(name, spec, spec_for_obs(spec, package.files[0], certificate=wanted.needssslcert))
    for other in (recipe.archive, *recipe.more_sources):
        yield _described(Path(other).name, folder / other)


def _described(name: str, path: Path, content: bytes | None = None) -> SourceFile:
    if content is not None:
        return SourceFile(name, hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest(), path, content)
    with path.open("rb") as stream:
        md5 = hashlib.file_digest(stream, "md5").hexdigest()
        stream.seek(0)
        return SourceFile(name, md5, hashlib.file_digest(stream, "sha256").hexdigest(), path)


class Sources:
    """The sources of one package at the server."""

    def __init__(self, api: ObsApi, project: str, package: str) -> None:
        self._api = api
        self._path = ("source", project, package)
        self._name = f"{project}/{package}"

    def revisions(self) -> list[Revision]:
        """Return the last commits, newest first."""
        try:
            found = self._api.xml((*self._path, "_history"), {"limit": _LOOKED_AT})
        except NotFoundError:
            return []
        revisions = [
            Revision(
                one.get("rev", ""),
                one.findtext("srcmd5") or "",
                int(one.findtext("time") or 0),
                one.findtext("comment") or "",
            )
            for one in found.iter("revision")
        ]
        return sorted(revisions, key=lambda one: -int(one.number) if one.number.isdecimal() else 0)

    def find(self, request: str) -> Revision | None:
        """Return the commit of a request."""
        return next((one for one in self.revisions() if one.comment == f"{_MARK} {request}"), None)

    def commit(self, files: Mapping[str, SourceFile], request: str, progress: Progress) -> tuple[Revision, bool]:
        """Make one commit that has these files; return the newest commit, and whether it was made now.

        Files that somebody else put there stay; those of an earlier commit of ours, which are not needed any more, go.
        """
        present = self._present()
        if generated := [name for name in _GENERATED if name in present]:
            raise FarmError(
                f"the sources of {self._name} come from elsewhere: it has a file {generated[0]}",
                hint="plugin.obs.package names another package",
            )
        strange = {name: md5 for name, md5 in present.items() if name not in files}
        ours = self._ours(strange)
        kept = {name: md5 for name, md5 in strange.items() if name not in ours}
        if kept:
            progress.warning(f"{self._name} has files that are not from here, and stay: {', '.join(sorted(kept))}")
        wanted = {**kept, **{name: file.md5 for name, file in files.items()}}
        if wanted != present:
            self._commit(files, kept, request)
        newest = next(iter(self.revisions()), None)
        if newest is None:
            raise FarmError(f"OBS does not show the commit of {self._name}", hint="the same command goes on later")
        return newest, wanted != present

    def _present(self, revision: str = "") -> dict[str, str]:
        """Return the MD5 of each file."""
        query = {"rev": revision} if revision else {}
        return {one.get("name", ""): one.get("md5", "") for one in self._api.xml(self._path, query).iter("entry")}

    def _ours(self, strange: Mapping[str, str]) -> set[str]:
        """Return the files that a commit of ours brought, as they are now."""
        found: set[str] = set()
        revisions = self.revisions() if strange else []
        for one in revisions:
            if not one.comment.startswith(f"{_MARK} ") or not one.number.isdecimal():
                continue
            before = self._present(str(int(one.number) - 1)) if int(one.number) > 1 else {}
            after = self._present(one.number)
            found |= {name for name, md5 in strange.items() if after.get(name) == md5 != before.get(name)}
            if found == set(strange):
                break
        return found

    def _commit(self, files: Mapping[str, SourceFile], kept: Mapping[str, str], request: str) -> None:
        entries = [(name, md5, "") for name, md5 in kept.items()]
        entries += [(file.name, file.md5, file.sha256) for file in files.values()]
        body = file_list(sorted(entries))
        query = {"cmd": "commitfilelist", "user": self._api.user, "comment": f"{_MARK} {request}"}
        answer = self._api.xml(self._path, {**query, "withvalidate": 1}, method="POST", body=body)
        if answer.get("error") == "missing":
            for one in answer.iter("entry"):
                if file := files.get(one.get("name", "")):
                    self._upload(file)
            answer = self._api.xml(self._path, query, method="POST", body=body)
        if answer.get("error"):
            raise FarmError(f"OBS does not take the sources of {self._name}", details=str(answer.get("error"))[:200])

    def _upload(self, file: SourceFile) -> None:
        """Send a file that belongs to no revision yet."""
        path, query = (*self._path, file.name), {"rev": "repository", "user": self._api.user}
        if file.content is not None:
            self._api.read(path, query, method="PUT", body=file.content)
        else:
            self._api.put_file(path, query, file.path)
