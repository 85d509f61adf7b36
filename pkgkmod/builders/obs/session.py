"""An Open Build Service that is spoken to: projects, packages, builds, logs and what was made."""

from __future__ import annotations

import copy
import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkgkmod.builders.obs import ObsSettings, meta, package_name
from pkgkmod.builders.obs.api import NotFoundError, ObsApi
from pkgkmod.builders.obs.results import Job, Jobs, Place, Result, Results, last_jobs, results
from pkgkmod.builders.obs.sources import Sources, flavors, sources
from pkgkmod.errors import FarmError, did_you_mean
from pkgkmod.farms import Item, SourcePackage, Ticket
from pkgkmod.model.submission import BuildState, FarmBuild, FarmFile
from pkgkmod.progress import Progress

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_LOG_END = 8 * 1024 * 1024
_LOG_TIME = re.compile(rb"^\[ *\d+s\] ?")
"""What the build script puts before each line of a log."""
_RELEASE = re.compile(rb"^\s*Release\s*:", re.IGNORECASE | re.MULTILINE)
_SETTLING = 15.0
"""Seconds after a commit until which the scheduler may not have heard of it; it looks in its inbox all the time."""
# What OBS says of a package. Those that ended a job are believed once the job was one for our sources, the others once
# the scheduler has looked at the package again.
_MOVING: Mapping[str, BuildState] = {
    "scheduled": "waiting",
    "dispatching": "waiting",
    "blocked": "waiting",
    "building": "building",
    "finished": "building",
    "signing": "building",
}
_OF_JOBS: Mapping[str, BuildState] = {"succeeded": "succeeded", "failed": "failed"}
_HOPELESS = ("unresolvable", "broken")
_NOT_MEANT = {
    "excluded": "recipes of another kind are built there, or this one is for other machines",
    "disabled": "builds are switched off there",
    "locked": "the package is locked",
}
_Standings = tuple[Mapping[str, Results | NotFoundError], Jobs]
"""What OBS says of each package, and the last jobs."""
_MADE = {"rpm": ".rpm", "deb": ".deb"}


class ObsSession:
    """A server that one is known to."""

    def __init__(self, api: ObsApi, wanted: ObsSettings, configuration: str | None, progress: Progress) -> None:
        self._api = api
        self._wanted = wanted
        self._configuration = configuration
        self._progress = progress
        self._repositories: dict[str, tuple[str, ...]] | None = None
        self.interval = wanted.interval

    # --- sending -----------------------------------------------------------------------------------

    def find(self, items: Sequence[Item]) -> Sequence[Ticket] | None:
        """Look for the requests of a package's jobs among the comments of its commits."""
        place = Sources(self._api, self._wanted.project, package_name(self._wanted, items[0][1]))
        revision = place.find(_together(items))
        if revision is None:
            return None
        return [self._ticket(name, revision.srcmd5, revision.time, {}) for name in self._names(items)]

    def check(self, items: Sequence[Item]) -> None:
        """Raise FarmError where there is no project, and none may be made, or nothing that it could build on."""
        wanted = self._wanted.repositories
        old = self._project()
        if not wanted and (old is None or not meta.repositories(old)):
            where = self._wanted.project
            raise FarmError(f"{where} has no repository", hint="[[plugin.obs.repositories]] says what is built for")
        for project in sorted({path.split("/")[0] for one in wanted for path in one.path}):
            try:
                known = meta.repositories(self._api.xml(("source", project, "_meta")))
            except NotFoundError:
                raise FarmError(
                    f"OBS has no project {project} to build on",
                    hint="it is named in a path of [[plugin.obs.repositories]]",
                ) from None
            for one in wanted:
                for path in one.path:
                    owner, name = path.split("/")
                    if owner == project and name not in known:
                        hint = did_you_mean(name, known) or f"it has {', '.join(sorted(known)) or 'none'}"
                        raise FarmError(f"{project} has no repository {name} for {one.name} to build on", hint=hint)

    def send(self, items: Sequence[Item]) -> Sequence[Ticket]:
        """Make project and package if they are not there, and commit the sources of all jobs of the package."""
        package = items[0][1]
        name = package_name(self._wanted, package)
        self._make_project(package)
        self._make_package(name, package)
        files = sources([one for _, one in items], self._wanted)
        place = Sources(self._api, self._wanted.project, name)
        revision, is_new = place.commit(files, _together(items), self._progress)
        tickets = []
        for full_name in self._names(items):
            # The same sources once more: what failed is built again, the rest stands.
            after = {} if is_new else self._build_again(full_name)
            tickets.append(self._ticket(full_name, revision.srcmd5, revision.time, after))
        return tickets

    def _names(self, items: Sequence[Item]) -> list[str]:
        """Return what OBS calls the jobs: PACKAGE, or PACKAGE:FLAVOR."""
        packages = [package for _, package in items]
        return [f"{package_name(self._wanted, packages[0])}:{name}".rstrip(":") for name in flavors(packages)]

    def _ticket(self, package: str, srcmd5: str, committed: int, after: dict[str, int]) -> dict[str, Any]:
        facts = {"project": self._wanted.project, "package": package, "srcmd5": srcmd5}
        return {**facts, "committed": committed, "after": after, "sent": time.time()}

    def _make_project(self, package: SourcePackage) -> None:
        """Make the project, or change what the settings say otherwise; once for all packages."""
        if self._repositories is not None:
            return
        project, old = self._wanted.project, self._project()
        new = copy.deepcopy(old) if old is not None else self._new_project(package)
        meta.set_repositories(new, self._wanted.repositories)
        if old is None or meta.differ(old, new):
            self._progress.info(f"{'changing' if old is not None else 'making'} the project {project}")
            path = ("source", project, "_meta")
            self._api.read(path, {"user": self._api.user}, method="PUT", body=meta.text(new))
        self._configure()
        self._repositories = meta.repositories(new)

    def _project(self) -> Element | None:
        """Return the project; None if it is not there, but may be made."""
        try:
            return self._api.xml(("source", self._wanted.project, "_meta"))
        except NotFoundError:
            if self._wanted.may_create:
                return None
        raise FarmError(
            f"OBS has no project {self._wanted.project}",
            hint="plugin.obs.create = true lets it be made; or name another one: plugin.obs.project",
        )

    def _new_project(self, package: SourcePackage) -> Element:
        title = f"Kernel modules of {package.job.project.project.name}"
        return meta.new_project(self._wanted.project, title, self._api.user)

    def _configure(self) -> None:
        """Let the project have the configuration that is asked for; an empty one keeps the packages' own releases."""
        project, path = self._wanted.project, ("source", self._wanted.project, "_config")
        present = self._api.read(path)
        wanted = None if self._configuration is None else self._configuration.encode()
        if wanted is None and not _RELEASE.search(present):
            # By itself OBS counts, and the kernel that an RPM's release names would be gone from it; DEBs get the count
            # behind their version. An empty value lets the build script leave both as they are (BSSched/BuildJob.pm).
            if next(self._api.xml(("source", project)).iter("entry"), None) is not None:
                self._progress.warning(
                    f"{project} lets OBS count releases, so that packages for two kernels can have one name; a line "
                    f"`Release:` in its configuration (`osc meta prjconf -e {project}`) lets them be as they are"
                )
                return
            wanted = present + (b"" if present.endswith(b"\n") or not present else b"\n") + b"Release:\n"
        if wanted is not None and present != wanted:
            self._progress.info(f"changing the configuration of {project}")
            self._api.read(path, {"user": self._api.user}, method="PUT", body=wanted)

    def _make_package(self, name: str, package: SourcePackage) -> None:
        path = ("source", self._wanted.project, name, "_meta")
        try:
            old = self._api.xml(path)
        except NotFoundError:
            old = None
        facts = package.job.project.project
        new = copy.deepcopy(old) if old is not None else None
        if new is None:
            new = meta.new_package(self._wanted.project, name, facts.summary or facts.name, facts.description or "")
        if self._wanted.repositories:
            meant = {one.name for one in self._wanted.repositories_of(package.job.target.id)}
            # Each by its name: OBS takes a package that is disabled as a whole for one without flavors.
            others = [("disable", {"repository": one}) for one in self._repositories or () if one not in meant]
            meta.set_flag(new, "build", others)
        for flag, value in (("publish", self._wanted.publish), ("debuginfo", self._wanted.debuginfo)):
            if value is not None:
                meta.set_flag(new, flag, [("enable" if value else "disable", {})])
        if old is None or meta.differ(old, new):
            self._api.read(path, {"user": self._api.user}, method="PUT", body=meta.text(new))

    def _build_again(self, package: str) -> dict[str, int]:
        """Build once more what failed; return when its last jobs ended, by the server's clock."""
        found, jobs = self._standings(self._wanted.project, [package])
        states = found[package]
        failed = [] if isinstance(states, FarmError) else [one for one in states if one.code in ("failed", *_HOPELESS)]
        if not failed:
            return {}
        query = {"cmd": "rebuild", "package": package, "code": "failed"}
        self._api.read(("build", self._wanted.project), query, method="POST")
        ends = {one.place: jobs[one.place, package].end for one in failed if (one.place, package) in jobs}
        return {place: end for place, end in ends.items() if end}

    # --- asking ------------------------------------------------------------------------------------

    def builds(self, tickets: Sequence[Ticket]) -> Sequence[tuple[FarmBuild, ...] | FarmError]:
        """Return the builds for the repositories and machines; those that are not meant are left out."""
        packages: dict[str, list[str]] = {}
        for ticket in tickets:
            packages.setdefault(str(ticket["project"]), []).append(str(ticket["package"]))
        known = {project: self._standings(project, names) for project, names in packages.items()}
        return [self._builds_of(ticket, known[str(ticket["project"])]) for ticket in tickets]

    def _standings(self, project: str, packages: Sequence[str]) -> _Standings:
        """Ask about packages, and about the last jobs of those whose jobs have ended."""
        found = results(self._api, project, packages)
        ended: dict[Place, list[str]] = {}
        for package, states in found.items():
            for one in () if isinstance(states, FarmError) else states:
                if one.code in _OF_JOBS:
                    ended.setdefault((one.repository, one.arch), []).append(package)
        return found, last_jobs(self._api, project, ended)

    def _builds_of(self, ticket: Ticket, known: _Standings) -> tuple[FarmBuild, ...] | FarmError:
        """Return the builds of one source package; an error if OBS cannot tell."""
        package = str(ticket["package"])
        states, jobs = known
        places = states[package]
        if isinstance(places, FarmError):
            # Of a flavor OBS hears a moment after the commit; a package that is gone later was removed.
            places.passing = time.time() < float(ticket["sent"]) + _SETTLING
            return places
        if not places:
            # The source server answers like this as long as the other one, which builds, is away.
            return FarmError(
                "OBS does not say how the builds stand", hint="the same command goes on later", passing=True
            )
        found = [(one, self._build(one, ticket, jobs.get((one.place, package)))) for one in places]
        meant = [build for _, build in found if build is not None]
        if meant:
            return tuple(meant)
        names = ", ".join(f"{one.place} {one.code} ({_NOT_MEANT[one.code]})" for one, _ in found)
        return (FarmBuild(id="none", title=package, state="cancelled", reason=f"it is built nowhere: {names}"),)

    def _build(self, one: Result, ticket: Ticket, job: Job | None) -> FarmBuild | None:
        """Return a build; None if it is not meant to be."""
        state = _MOVING.get(one.code, "waiting")
        reason = one.details
        key = one.place
        if one.code in _OF_JOBS:
            if job and job.srcmd5 == ticket["srcmd5"] and job.end > ticket["after"].get(one.place, 0):
                state = _OF_JOBS[one.code]
                key = f"{one.place}#{job.end}"
        elif one.code in (*_HOPELESS, *_NOT_MEANT):
            if not self._is_settled(one, ticket):
                reason = ""
            elif one.code in _NOT_MEANT:
                return None
            else:
                state, reason = "failed", f"{one.code}: {one.details}".rstrip(": ")
        return FarmBuild(id=key, title=one.place, state=state, reason=reason[:2000], url=self._page(one, ticket))

    def _is_settled(self, one: Result, ticket: Ticket) -> bool:
        """Tell whether the scheduler has looked at the package since the commit."""
        if one.dirty or time.time() < float(ticket["sent"]) + _SETTLING:
            return False
        return one.checked is None or one.checked >= int(ticket["committed"])

    def _page(self, one: Result, ticket: Ticket) -> str:
        """Return the page about a build; openSUSE's pages are on another server than its interface."""
        if not self._api.url.startswith("https://"):
            return ""
        server = self._api.url.replace("https://api.", "https://build.")
        return f"{server}/package/live_build_log/{ticket['project']}/{ticket['package']}/{one.place}"

    # --- fetching ----------------------------------------------------------------------------------

    def log(self, ticket: Ticket, build: FarmBuild, destination: Path) -> bool:
        """Write the end of a build's log, without the times in it; what never ran has none."""
        if build.id == "none" or build.reason.startswith(_HOPELESS):
            return False
        path = (*self._folder(ticket, build.title), "_log")
        try:
            entry = next(self._api.xml(path, {"view": "entry"}).iter("entry"), None)
            size = int(entry.get("size", 0)) if entry is not None else 0
            start = max(0, size - _LOG_END)
            self._api.save(path, {"nostream": 1, "start": start, "end": size}, destination, _LOG_END)
        except NotFoundError:
            return False
        with destination.open("rb") as file:
            lines = [_LOG_TIME.sub(b"", line) for line in file]
        destination.write_bytes(b"".join(lines))
        return bool(lines)

    def files(self, ticket: Ticket) -> tuple[FarmFile, ...]:
        """Return the packages of the builds that succeeded; what is the same for several machines only once."""
        found: dict[str, FarmFile] = {}
        (builds,) = self.builds([ticket])
        if isinstance(builds, FarmError):
            raise builds
        for build in builds:
            if build.state != "succeeded":
                continue
            for file in self._packages(ticket, build):
                before = found.setdefault(file.name, file)
                if before.place.split("/")[1] != file.place.split("/")[1]:
                    raise FarmError(
                        f"{before.place} and {file.place} both have made {file.name}",
                        hint="with `targets` in [[plugin.obs.repositories]], each target is built in its own one",
                    )
        return tuple(found.values())

    def _packages(self, ticket: Ticket, build: FarmBuild) -> Iterator[FarmFile]:
        path = self._folder(ticket, build.title)
        answer = self._api.xml(path, {"nosource": 1, "withmd5": 1})
        for one in answer.iter("binary"):
            name = one.get("filename", "")
            if name.endswith(tuple(_MADE.values())) and not name.endswith((".src.rpm", ".nosrc.rpm")):
                size, md5 = one.get("size", ""), one.get("md5", "")
                yield FarmFile(
                    name=name,
                    place="/".join(path[1:]),
                    build=build.id,
                    size=int(size) if size.isdecimal() else None,
                    digest=f"md5:{md5}" if re.fullmatch(r"[0-9a-f]{32}", md5) else "",
                )

    def _folder(self, ticket: Ticket, title: str) -> tuple[str, ...]:
        return ("build", str(ticket["project"]), *title.split("/", 1), str(ticket["package"]))

    def fetch(self, file: FarmFile, destination: Path) -> None:
        """Fetch a package."""
        self._api.save(("build", *file.place.split("/"), file.name), (), destination, file.size)


def _together(items: Sequence[Item]) -> str:
    """Return the request of all jobs of a package."""
    if len(items) == 1:
        return items[0][0]
    return hashlib.sha256("\n".join(sorted(request for request, _ in items)).encode()).hexdigest()
