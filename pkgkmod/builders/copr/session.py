"""A Copr frontend that is spoken to: builds that are started, how they stand, logs and what was made."""

from __future__ import annotations

import contextlib
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit, urlunsplit

from pkgkmod.builders.copr import CoprSettings, build_options, chroots_of
from pkgkmod.builders.copr.api import Frontend
from pkgkmod.builders.download import save
from pkgkmod.errors import FarmError, did_you_mean
from pkgkmod.farms import Item, Ticket
from pkgkmod.model.submission import BuildState, FarmBuild, FarmFile

_LOG_END = 8 * 1024 * 1024
_LOG_PACKED = 256 * 1024 * 1024
_LOG_WHOLE = 4 * 1024**3
_CHUNK = 4 * 1024 * 1024
_LOGS = ("builder-live.log.gz", "build.log.gz", "root.log.gz")
"""Where a failure is explained, best first: all that the builder said; what rpmbuild did; what mock did before."""
_PAGE = 100
_OLDEST = 3 * 24 * 3600.0
"""Seconds; among the project's builds that are younger, a submission is looked for after a run was killed."""
_STATES: Mapping[str, BuildState] = {
    "importing": "waiting",
    "pending": "waiting",
    "starting": "waiting",
    "waiting": "waiting",
    "running": "building",
    "succeeded": "succeeded",
    "forked": "succeeded",
    "failed": "failed",
    "canceled": "cancelled",
    "skipped": "cancelled",
}
"""copr_common's StatusEnum."""
_ENDED = ("succeeded", "failed", "canceled", "skipped", "forked")


class CoprSession:
    """A frontend that one is known to."""

    def __init__(self, frontend: Frontend, wanted: CoprSettings) -> None:
        self._frontend = frontend
        self._client = frontend.client
        self._wanted = wanted
        self.interval = wanted.interval

    # --- sending -----------------------------------------------------------------------------------

    def find(self, items: Sequence[Item]) -> Sequence[Ticket] | None:
        """Look for the request in the names of the files that our newest builds were uploaded as."""
        ((request, package),) = items
        names = (None, package.recipe.name)  # the frontend does not know it before it has looked into the SRPM
        with self._frontend.explained(), self._there():
            for build in self._newest():
                if time.time() - float(build.get("submitted_on") or 0) > _OLDEST:
                    return None
                if build["submitter"] == self._frontend.user and (build["source_package"] or {}).get("name") in names:
                    source = self._client.build_proxy.get_source_build_config(build["id"])
                    if str((source["source_dict"] or {}).get("pkg", "")).startswith(_prefix(request)):
                        return [{"build": int(build["id"])}]
        return None

    def check(self, items: Sequence[Item]) -> None:
        """Ask for the project and its chroots."""
        wanted = {chroot for _, package in items for chroot in chroots_of(self._wanted, package)}
        with self._frontend.explained():
            known = set(self._project()["chroot_repos"])
        if missing := sorted(wanted - known):
            raise FarmError(
                f"Copr's project {self._wanted.project} has not the chroot {missing[0]}",
                details=f"chroots that it has: {', '.join(sorted(known)) or 'none'}",
                hint=did_you_mean(missing[0], known) or f"its settings at {self._frontend.url} choose its chroots",
            )

    @contextlib.contextmanager
    def _there(self) -> Iterator[None]:
        """Raise FarmError for a project that is not there, with one that is called nearly so."""
        try:
            yield
        except self._frontend.copr.CoprNoResultException:
            owner = self._wanted.owner
            known: list[str] = []
            with contextlib.suppress(self._frontend.copr.CoprNoResultException):
                known = [f"{owner}/{one['name']}" for one in self._client.project_proxy.get_list(owner)]
            raise FarmError(
                f"Copr has no project {self._wanted.project}",
                hint=did_you_mean(self._wanted.project, known)
                or f"copr-cli create --chroot NAME {self._wanted.project} makes it; `copr-cli list-chroots`: names",
            ) from None

    def _project(self) -> Mapping[str, Any]:
        with self._there():
            found: Mapping[str, Any] = self._client.project_proxy.get(self._wanted.owner, self._wanted.name)
        return found

    def send(self, items: Sequence[Item]) -> Sequence[Ticket]:
        """Upload the SRPM, and start a build."""
        ((request, package),) = items
        (srpm,) = package.files
        owner, name = self._wanted.owner, self._wanted.name
        with tempfile.TemporaryDirectory() as folder:
            # The frontend keeps the file's name; by it, a submission is found again. The package has its own in it.
            file = Path(folder, f"{_prefix(request)}{srpm.name}")
            file.symlink_to(srpm.resolve())
            with self._frontend.explained(), self._there():
                options = build_options(self._wanted, package)
                build = self._client.build_proxy.create_from_file(owner, name, str(file), buildopts=options)
        return [{"build": int(build["id"])}]

    # --- asking ------------------------------------------------------------------------------------

    def builds(self, tickets: Sequence[Ticket]) -> Sequence[tuple[FarmBuild, ...] | FarmError]:
        """Return the builds for the chroots."""
        numbers = [int(ticket["build"]) for ticket in tickets]
        with self._frontend.explained():
            listed = self._listed(set(numbers))
            return [self._of_build(number, listed.get(number)) for number in numbers]

    def _newest(self) -> Iterator[Mapping[str, Any]]:
        """Give the project's builds, newest first."""
        start = 0
        while True:
            query = {"limit": _PAGE, "offset": start, "order": "id", "order_type": "DESC"}
            owner, name = self._wanted.owner, self._wanted.name
            found = self._client.build_proxy.get_list(owner, name, pagination=query)
            yield from found
            if len(found) < _PAGE:
                return
            start += _PAGE

    def _listed(self, numbers: set[int]) -> dict[int, Mapping[str, Any]]:
        """Return what is known of builds, with few requests for many."""
        found: dict[int, Mapping[str, Any]] = {}
        if len(numbers) > 1:
            with self._there():
                for build in self._newest():
                    if build["id"] in numbers:
                        found[build["id"]] = build
                    if len(found) == len(numbers) or build["id"] < min(numbers):
                        break
        return found

    def _of_build(self, number: int, build: Mapping[str, Any] | None) -> tuple[FarmBuild, ...] | FarmError:
        try:
            build = build or self._client.build_proxy.get(number)
            states = self._states(number, build)
        except self._frontend.copr.CoprNoResultException:
            return FarmError(f"Copr knows no build {number}", hint="it was removed; submit again with --again")
        url = f"{self._frontend.url}/coprs/build/{number}/"
        return tuple(
            FarmBuild(
                id=f"{number}/{chroot}",
                title=chroot,
                state=_STATES.get(state, "waiting"),
                reason="Copr skipped it, as the spec's ExclusiveArch or ExcludeArch say" if state == "skipped" else "",
                url=url,
            )
            for chroot, state in sorted(states.items())
        )

    def _states(self, number: int, build: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the states of the chroots' builds; the whole one's, as long as they have none of their own."""
        whole, chroots = str(build["state"]), [str(name) for name in build["chroots"]]
        if len(chroots) == 1 or _STATES.get(whole) == "waiting":
            return dict.fromkeys(chroots, whole)
        found = {str(one["name"]): str(one["state"]) for one in self._client.build_chroot_proxy.get_list(number)}
        if whole in _ENDED:
            # Where the SRPM could not be imported, the chroots wait for ever.
            return {name: state if state in _ENDED else whole for name, state in found.items()}
        return found

    # --- fetching ----------------------------------------------------------------------------------

    def log(self, ticket: Ticket, build: FarmBuild, destination: Path) -> bool:
        """Write the end of the builder's log; that of the import, where nothing was built."""
        number, _, chroot = build.id.partition("/")
        if not chroot:
            return False
        with self._frontend.explained():
            for folder in self._result_folders(int(number), chroot):
                for name in _LOGS:
                    with tempfile.TemporaryDirectory() as place, contextlib.suppress(FarmError):
                        packed = Path(place, "log")
                        save(folder + name, packed, _LOG_PACKED)
                        if _unpack_end(packed, destination):
                            return True
        return False

    def _result_folders(self, number: int, chroot: str) -> Iterator[str]:
        with contextlib.suppress(self._frontend.copr.CoprNoResultException):
            if url := self._client.build_chroot_proxy.get(number, chroot)["result_url"]:
                yield str(url).rstrip("/") + "/"
            if url := self._client.build_proxy.get_source_chroot(number)["result_url"]:
                yield str(url).rstrip("/") + "/"

    def files(self, ticket: Ticket) -> tuple[FarmFile, ...]:
        """Return the packages of the chroots; those that are the same for several machines only once."""
        number = int(ticket["build"])
        found: dict[str, FarmFile] = {}
        with self._frontend.explained():
            project = self._project()
            in_devel = project.get("storage") == "pulp" and bool(project.get("devel_mode"))
            packages = self._client.build_proxy.get_built_packages(number)
            for one in self._client.build_chroot_proxy.get_list(number):
                chroot, folder = str(one["name"]), str(one["result_url"] or "").rstrip("/") + "/"
                for package in (packages.get(chroot) or {}).get("packages") or ():
                    if package["arch"] in ("src", "nosrc"):
                        continue
                    name = f"{package['name']}-{package['version']}-{package['release']}.{package['arch']}.rpm"
                    place = _published(folder, in_devel=in_devel) + name
                    file = FarmFile(name=name, place=place, build=f"{number}/{chroot}")
                    before = found.setdefault(name, file)
                    if before is not file and package["arch"] != "noarch":
                        raise FarmError(
                            f"the chroots {before.build.partition('/')[2]} and {chroot} both have made {name}",
                            hint="name one of them for the target: plugin.copr.chroots",
                        )
        return tuple(found.values())

    def fetch(self, file: FarmFile, destination: Path) -> None:
        """Fetch a package."""
        with self._frontend.explained():
            save(file.place, destination)


def _prefix(request: str) -> str:
    return f"{request[:32]}-"


def _published(folder: str, *, in_devel: bool) -> str:
    """Return where packages of a result's folder are; copr's own command line knows it no better (download-build).

    A project whose repository is made when somebody asks for that has what is not in it yet beside it.
    """
    if not in_devel:
        return folder
    parts = urlsplit(folder)
    names = parts.path.split("/")
    names[-3] += "-devel"
    return urlunsplit(parts._replace(path="/".join(names)))


def _unpack_end(packed: Path, destination: Path) -> bool:
    """Write the end of a log that gzip packed, up to where it can be unpacked; return False if nothing can."""
    end, left = b"", _LOG_WHOLE
    with packed.open("rb") as file, contextlib.suppress(zlib.error):
        for content in _unpacked(file):
            end = (end + content)[-_LOG_END:]
            left -= len(content)
            if left < 0:
                break
    destination.write_bytes(end)
    return bool(end)


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    """Give what is in a file; not packed, it is given as it is."""
    start = file.read(_CHUNK)
    if not start.startswith(_MAGIC):
        while start:
            yield start
            start = file.read(_CHUNK)
        return
    decoder = zlib.decompressobj(wbits=31)
    while start:
        yield decoder.decompress(start, _CHUNK)
        start = decoder.unconsumed_tail
        if decoder.eof:  # what was packed in several runs follows one after the other
            start = decoder.unused_data
            decoder = zlib.decompressobj(wbits=31)
        start = start or file.read(_CHUNK)
    yield decoder.flush()


_MAGIC = b"\x1f\x8b"
