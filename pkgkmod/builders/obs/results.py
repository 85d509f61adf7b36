"""How the builds stand in an Open Build Service: many packages in one question, as far as an address can be long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from pkgkmod.builders.obs.api import NotFoundError, ObsApi

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_LONGEST_LIST = 4000
"""Characters of an address that name packages; servers before OBS refuse one of more than 8 KiB."""
_JOBS_EACH = 2
"""Jobs of each package that are looked through at first; whose last one is older is asked for alone."""
Results = Sequence["Result"]
Place = tuple[str, str]
"""Repository and machine."""


class Result:
    """What OBS says of a package in one repository, for one machine."""

    def __init__(self, result: Element, status: Element | None) -> None:
        self.repository = result.get("repository", "")
        self.arch = result.get("arch", "")
        self.dirty = result.get("dirty") == "true"
        self.code = status.get("code", "") if status is not None else ""
        details = (status.findtext("details") or "") if status is not None else ""
        self.details = " ".join(details.split())
        stats = result.find("stats")
        checked = stats.get("lastchecked", "") if stats is not None else ""
        self.checked = int(checked) if checked.isdecimal() else None

    @property
    def place(self) -> str:
        """REPOSITORY/ARCH."""
        return f"{self.repository}/{self.arch}"


@dataclass(frozen=True)
class Job:
    """A job that has ended."""

    srcmd5: str
    end: int
    """Seconds since 1970, by the server's clock."""


Jobs = Mapping[tuple[str, str], Job]
"""By REPOSITORY/ARCH and package."""


def results(api: ObsApi, project: str, packages: Iterable[str]) -> dict[str, Results | NotFoundError]:
    """Return what OBS says of packages; an error for one that it does not know.

    Of all it says nothing as long as the server that builds is away.
    """
    found: dict[str, Results | NotFoundError] = {}
    for part in _parts(packages):
        found |= _asked(api, project, part)
    return found


def _asked(api: ObsApi, project: str, packages: Sequence[str]) -> dict[str, Results | NotFoundError]:
    """Ask about some packages; one that is not known makes OBS refuse the whole question."""
    query = [*(("package", name) for name in packages), ("view", "status"), ("view", "stats")]
    try:
        answer = api.xml(("build", project, "_result"), query)
    except NotFoundError as error:
        if len(packages) == 1:
            return {packages[0]: error}
        middle = len(packages) // 2
        return _asked(api, project, packages[:middle]) | _asked(api, project, packages[middle:])
    found: dict[str, list[Result]] = {name: [] for name in packages}
    for result in answer.iter("result"):
        states = {one.get("package"): one for one in result.findall("status")}
        for name in packages:
            found[name].append(Result(result, states.get(name)))
    return dict(found)


def last_jobs(api: ObsApi, project: str, wanted: Mapping[Place, Sequence[str]]) -> Jobs:
    """Return the last job of each package, where it has one."""
    found: dict[tuple[str, str], Job] = {}
    for (repository, arch), packages in wanted.items():
        path = ("build", project, repository, arch, "_jobhistory")
        for part in _parts(packages):
            missing: Iterable[str] = part
            if len(part) > 1:
                latest = _jobs(api, path, part, _JOBS_EACH * len(part))
                found |= {(f"{repository}/{arch}", name): job for name, job in latest.items()}
                missing = [name for name in part if name not in latest]
            for name in missing:
                latest = _jobs(api, path, [name], 1)
                found |= {(f"{repository}/{arch}", name): job for job in latest.values()}
    return found


def _jobs(api: ObsApi, path: Sequence[str], packages: Sequence[str], most: int) -> dict[str, Job]:
    """Return the last job of each package that is among the last ones of all; OBS tells the newest last."""
    answer = api.xml(path, [*(("package", name) for name in packages), ("limit", most)])
    return {one.get("package", ""): _job(one) for one in answer.iter("jobhist")}


def _job(one: Element) -> Job:
    end = one.get("endtime", "")
    return Job(one.get("srcmd5", ""), int(end) if end.isdecimal() else 0)


def _parts(names: Iterable[str]) -> Iterator[list[str]]:
    """Give names in parts that an address has room for."""
    part: list[str] = []
    length = 0
    for name in dict.fromkeys(names):
        own = len(f"&package={quote(name)}")
        if part and length + own > _LONGEST_LIST:
            yield part
            part, length = [], 0
        part.append(name)
        length += own
    if part:
        yield part
