"""The farm `koji`: Fedora's, CentOS', Red Hat's, and others that run the same hub.

Spoken to with koji's own client library, which reads the profiles in /etc/koji.conf.d and ~/.koji: servers, ways to log
in and certificates stand there and nowhere else.
"""

from __future__ import annotations

import contextlib
import re
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from pydantic import BaseModel, ConfigDict, Field

from pkgkmod.errors import FarmError, ToolError
from pkgkmod.farms import Item, SourcePackage, Ticket
from pkgkmod.model.artifacts import PackageFormat
from pkgkmod.model.submission import BuildState, FarmBuild, FarmFile
from pkgkmod.plugins import check_settings
from pkgkmod.progress import Progress

_LOG_END = 8 * 1024 * 1024
_CHUNK = 4 * 1024 * 1024
_LOOKED_AT = 200
"""Tasks of the user's among which a submission is looked for after a run was killed."""
_STATES: Mapping[str, BuildState] = {
    "FREE": "waiting",
    "ASSIGNED": "waiting",
    "OPEN": "building",
    "CLOSED": "succeeded",
    "CANCELED": "cancelled",
    "FAILED": "failed",
}
"""koji's TASK_STATES."""
_PLACE = "cli-build/pkgkmod-{}"
"""Folder on the hub for what is uploaded; it names the request, by which a submission is found again."""


class KojiSettings(BaseModel):
    """`[plugin.koji]` of the project file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str = Field("koji", pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*")
    """Profile of koji's own configuration: koji, cbs, brew."""
    target: str | Mapping[str, str] | None = None
    """Build target or side tag; by target of the project, or one for all."""
    scratch: bool = True
    """Whether the builds are tries, which are removed after a while, and may be repeated."""
    arches: tuple[str, ...] = ()
    """Machines to build for; those of the target if empty. Scratch builds only."""
    priority: int | None = None
    """Koji's priority; a higher number is later. None: the usual one, which is lower for scratch builds."""
    interval: float = Field(10.0, gt=0)
    """Seconds between two questions at the least."""


class KojiFarm:
    """SRPMs built by a Koji hub's builders."""

    name = "koji"
    format: PackageFormat = "rpm"

    def describe(self, package: SourcePackage, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the profile, the target and the options of the build."""
        wanted = _checked(settings)
        target = _target(wanted, package)
        what = f"build --scratch for {target}" if wanted.scratch else f"build for {target}"
        return {
            "words": f"{what} at {wanted.profile}",
            "profile": wanted.profile,
            "target": target,
            "options": _options(wanted),
        }

    def group(self, package: SourcePackage, settings: Mapping[str, Any]) -> str:
        """Each is a build of its own."""
        return ""

    def connect(self, settings: Mapping[str, Any], base: Path, progress: Progress) -> KojiSession:
        """Log in as the profile says."""
        wanted = _checked(settings)
        try:
            import koji
        except ImportError:
            raise ToolError(
                "koji's client library is not installed",
                hint="pip install 'pkgkmod[koji]', or your distribution's python3-koji",
            ) from None
        with _explained(koji):
            try:
                module = koji.get_profile_module(wanted.profile)
            except koji.ConfigurationError as error:
                raise FarmError(
                    f"koji has no profile '{wanted.profile}'",
                    details=str(error),
                    hint="plugin.koji.profile names a section of /etc/koji.conf.d/*.conf or ~/.koji/config",
                ) from None
            # Where the farm does not answer, the engine waits and tells, not the library for ten minutes in silence.
            config = module.config
            options = {**koji.grab_session_options(config), "max_retries": 2, "retry_interval": 1}
            session = koji.ClientSession(config.server, options)
            session.getAPIVersion()  # needs no login, so that an outage is told from a refusal
            _log_in(session, config)
        return KojiSession(koji, session, config, wanted)


def _checked(settings: Mapping[str, Any]) -> KojiSettings:
    hint = "its keys: profile, target, scratch, arches, priority, interval"
    return check_settings(KojiSettings, settings, KojiFarm.name, hint=hint)


def _target(wanted: KojiSettings, package: SourcePackage) -> str:
    name = package.job.target.id
    found = wanted.target.get(name) if isinstance(wanted.target, Mapping) else wanted.target
    if not found:
        raise FarmError(
            f"Koji's build target for {name} is not known",
            hint=f'plugin.koji.target = "NAME" for all, or a table: {name} = "NAME"; `koji list-targets` lists them',
        )
    return found


def _options(wanted: KojiSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"scratch": True} if wanted.scratch else {}
    if wanted.arches:
        if not wanted.scratch:
            raise FarmError(
                "Koji builds for some machines only where the build is a scratch build",
                hint="leave plugin.koji.arches out; ExclusiveArch in the spec limits real builds",
            )
        options["arch_override"] = " ".join(wanted.arches)
    return options


def _log_in(session: Any, config: Any) -> None:
    """Log in as koji's own command line does (koji_cli.lib.activate_session)."""
    way = config.authtype
    has_certificate = bool(config.cert) and Path(config.cert).is_file()
    if way == "noauth":
        return
    if way == "ssl" or (way is None and has_certificate):
        session.ssl_login(config.cert, None, config.serverca)
    elif way == "password":
        session.login()
    else:
        more = {"principal": config.principal} if config.principal else {}
        more |= {"keytab": config.keytab} if config.principal and config.keytab else {}
        session.gssapi_login(**more)


@contextlib.contextmanager
def _explained(koji: Any) -> Iterator[None]:
    """Raise what the library raises as FarmError."""
    try:
        yield
    except koji.AuthError as error:
        raise FarmError(
            "Koji does not let you in",
            details=_line(error),
            hint="`koji -p PROFILE hello` tries the same: kinit, or a certificate",
        ) from None
    except koji.GenericError as error:
        raise FarmError("Koji refuses what it is asked", details=_line(error)) from None
    except (OSError, ExpatError) as error:  # those of requests, and of urllib, are OSErrors
        failure = FarmError("the Koji hub does not answer", details=_line(error), hint="the same command goes on later")
        failure.passing = True
        raise failure from None


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]


class KojiSession:
    """A hub that one is logged in at."""

    def __init__(self, koji: Any, session: Any, config: Any, wanted: KojiSettings) -> None:
        self._koji = koji
        self._session = session
        self._config = config
        self._wanted = wanted
        self.interval = wanted.interval

    def find(self, items: Sequence[Item]) -> Sequence[Ticket] | None:
        """Look for the request's folder among the newest builds of the user."""
        ((request, _),) = items
        with _explained(self._koji):
            user = self._session.getLoggedInUser()
            wanted: dict[str, Any] = {"method": "build", "decode": True}
            if user:
                wanted["owner"] = user["id"]
            tasks = self._session.listTasks(opts=wanted, queryOpts={"order": "-id", "limit": _LOOKED_AT})
        place = _PLACE.format(request[:32]) + "/"
        for task in tasks:
            if str((task.get("request") or [""])[0]).startswith(place):
                return [{"task": int(task["id"])}]
        return None

    def send(self, items: Sequence[Item]) -> Sequence[Ticket]:
        """Upload the SRPM and start a build."""
        ((request, package),) = items
        (srpm,) = package.files
        place = _PLACE.format(request[:32])
        with _explained(self._koji):
            if not self._wanted.scratch:
                self._refuse_known(srpm)
            self._session.uploadWrapper(str(srpm), place)
            target = _target(self._wanted, package)
            priority = {} if self._wanted.priority is None else {"priority": self._wanted.priority}
            task = self._session.build(f"{place}/{srpm.name}", target, _options(self._wanted), **priority)
        return [{"task": int(task)}]

    def _refuse_known(self, srpm: Path) -> None:
        """Koji builds no name-version-release a second time."""
        nvr = srpm.name.removesuffix(".src.rpm")
        known = self._session.getBuild(nvr)
        if known and known.get("state") in (self._koji.BUILD_STATES["COMPLETE"], self._koji.BUILD_STATES["BUILDING"]):
            raise FarmError(
                f"Koji has built {nvr} before, and builds no name, version and release twice",
                hint="raise project.release, or set plugin.koji.scratch = true for a try",
            )

    def builds(self, ticket: Ticket) -> tuple[FarmBuild, ...]:
        """Return the builds for machines; the whole task, as long as it has none, or where it failed by itself."""
        task = int(ticket["task"])
        with _explained(self._koji):
            top = self._session.getTaskInfo(task, request=True)
            if not top:
                raise FarmError(f"Koji knows no task {task}", hint="it was removed; submit again with --again")
            children = self._session.getTaskChildren(task, request=True) or []
            wanted = [child for child in children if child.get("method") == "buildArch"]
            state = _STATES.get(self._koji.TASK_STATES[top["state"]], "building")
            found = [
                self._build(child, str(child.get("label") or child.get("arch") or child["id"])) for child in wanted
            ]
            if state not in ("succeeded", "failed", "cancelled"):
                # Whether the farm is done says the task above: it tags, and waits for repositories.
                return (self._plain(top, "build", state), *found)
            if state == "succeeded" and found:
                return tuple(found)
            # Of a build that failed, the hub cancels the other machines' tasks.
            failed = tuple(build for build in found if build.state == "failed")
            return failed or (self._build(top, "build"),)

    def _build(self, task: Mapping[str, Any], title: str) -> FarmBuild:
        state = _STATES.get(self._koji.TASK_STATES[task["state"]], "building")
        reason = self._reason(int(task["id"])) if state == "failed" else ""
        return self._plain(task, title, state, reason)

    def _plain(self, task: Mapping[str, Any], title: str, state: BuildState, reason: str = "") -> FarmBuild:
        url = f"{self._config.weburl}/taskinfo?taskID={task['id']}" if self._config.weburl else ""
        return FarmBuild(id=str(task["id"]), title=title, state=state, reason=reason, url=url)

    def _reason(self, task: int) -> str:
        try:
            self._session.getTaskResult(task)
        except self._koji.GenericError as error:
            return _line(error)
        return ""

    def log(self, ticket: Ticket, build: FarmBuild, destination: Path) -> bool:
        """Write the end of build.log; mock's root.log or state.log where nothing was built."""
        task = int(build.id)
        with _explained(self._koji):
            outputs = self._session.listTaskOutput(task, stat=True)
            for name in ("build.log", "root.log", "mock_output.log"):
                size = int((outputs.get(name) or {}).get("st_size", 0))
                if size:
                    start = max(0, size - _LOG_END)
                    with destination.open("wb") as file:
                        for content in self._parts(task, name, start, size):
                            file.write(content)
                    return True
        return False

    def _parts(self, task: int, name: str, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            content = self._session.downloadTaskOutput(task, name, offset=start, size=min(_CHUNK, end - start))
            if not content:
                return
            yield content
            start += len(content)

    def files(self, ticket: Ticket) -> tuple[FarmFile, ...]:
        """Return the RPMs: of a scratch build those that its tasks put out, otherwise those of the build."""
        task = int(ticket["task"])
        with _explained(self._koji):
            if self._wanted.scratch:
                return tuple(self._outputs(task))
            builds = self._session.listBuilds(taskID=task)
            return tuple(self._of_build(builds[0])) if builds else ()

    def _outputs(self, task: int) -> Iterator[FarmFile]:
        seen: set[str] = set()
        for child in self._session.getTaskChildren(task, request=True) or []:
            if child.get("method") != "buildArch":
                continue
            for name, facts in sorted(self._session.listTaskOutput(child["id"], stat=True).items()):
                if name.endswith(".rpm") and name not in seen:
                    seen.add(name)
                    yield FarmFile(
                        name=name, place=f"task {child['id']}", build=str(child["id"]), size=int(facts["st_size"])
                    )

    def _of_build(self, build: Mapping[str, Any]) -> Iterator[FarmFile]:
        paths = self._koji.PathInfo(topdir=str(self._config.topurl or "").rstrip("/"))
        for rpm in self._session.listRPMs(build["id"]):
            name = f"{rpm['name']}-{rpm['version']}-{rpm['release']}.{rpm['arch']}.rpm"
            yield FarmFile(name=name, place=f"{paths.build(build)}/{paths.rpm(rpm)}", size=rpm.get("size"))

    def fetch(self, file: FarmFile, destination: Path) -> None:
        """Fetch an RPM from the hub, or from where it publishes builds."""
        with _explained(self._koji):
            if found := re.fullmatch(r"task (\d+)", file.place):
                with destination.open("wb") as stream:
                    for content in self._parts(int(found[1]), file.name, 0, file.size or 0):
                        stream.write(content)
                return
            if not re.match(r"https?://", file.place):
                raise FarmError(f"where Koji publishes {file.name} is not known", hint="the profile's topurl says it")
            with urllib.request.urlopen(file.place, timeout=120) as source, destination.open("wb") as stream:
                while content := source.read(_CHUNK):
                    stream.write(content)
