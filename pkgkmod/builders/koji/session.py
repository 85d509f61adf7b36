"""A Koji hub that is spoken to: builds that are started, how they stand, logs and what was made."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkgkmod.builders.download import save
from pkgkmod.builders.koji import KojiSettings, build_options, build_target
from pkgkmod.builders.koji.api import Hub, line
from pkgkmod.builders.koji.checks import check
from pkgkmod.errors import FarmError
from pkgkmod.farms import Item, Ticket
from pkgkmod.model.submission import BuildState, FarmBuild, FarmFile

_LOG_END = 8 * 1024 * 1024
_CHUNK = 4 * 1024 * 1024
_PAGE = 500
_OLDEST = 3 * 24 * 3600.0
"""Seconds; among the user's tasks that are younger, a submission is looked for after a run was killed."""
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
_SRPM = "rebuildSRPM"
"""The task that makes the SRPM anew in the target's build root, before the machines' tasks."""


@dataclass(frozen=True)
class _Part:
    """A task that is told of."""

    task: Mapping[str, Any]
    title: str
    state: BuildState


class KojiSession:
    """A hub that one is logged in at."""

    def __init__(self, hub: Hub, wanted: KojiSettings) -> None:
        self._hub = hub
        self._wanted = wanted
        self.interval = wanted.interval

    # --- sending -----------------------------------------------------------------------------------

    def find(self, items: Sequence[Item]) -> Sequence[Ticket] | None:
        """Look for the request's folder among the newest builds of the user."""
        ((request, _),) = items
        session = self._hub.session
        with self._hub.explained():
            user = session.getLoggedInUser()
            wanted: dict[str, Any] = {"method": "build", "decode": True}
            if user:
                wanted["owner"] = user["id"]
            place = _PLACE.format(request[:32]) + "/"
            for task in self._newest(wanted):
                if str((task.get("request") or [""])[0]).startswith(place):
                    return [{"task": int(task["id"])}]
        return None

    def _newest(self, wanted: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Give tasks, newest first; a robot's are many."""
        found: Sequence[Mapping[str, Any]] = ()
        start = 0
        while start == 0 or len(found) == _PAGE:
            query = {"order": "-id", "limit": _PAGE, "offset": start}
            found = self._hub.session.listTasks(opts=wanted, queryOpts=query)
            yield from found
            if found and time.time() - float(found[-1].get("create_ts") or 0) > _OLDEST:
                return
            start += _PAGE

    def check(self, items: Sequence[Item]) -> None:
        """Ask for the targets, and whether the builds may be made."""
        with self._hub.explained():
            check(self._hub, self._wanted, [package for _, package in items])

    def send(self, items: Sequence[Item]) -> Sequence[Ticket]:
        """Upload the SRPM and start a build."""
        ((request, package),) = items
        (srpm,) = package.files
        place = _PLACE.format(request[:32])
        target = build_target(self._wanted, package)
        with self._hub.explained():
            self._hub.session.uploadWrapper(str(srpm), place)
            priority = {} if self._wanted.priority is None else {"priority": self._wanted.priority}
            options = build_options(self._wanted)
            task = self._hub.session.build(f"{place}/{srpm.name}", target, options, **priority)
        return [{"task": int(task)}]

    # --- asking ------------------------------------------------------------------------------------

    def builds(self, tickets: Sequence[Ticket]) -> Sequence[tuple[FarmBuild, ...] | FarmError]:
        """Return the builds for machines; the whole task, as long as it has none, or where it failed by itself."""
        tasks = [int(ticket["task"]) for ticket in tickets]
        with self._hub.explained():
            with self._hub.together() as calls:
                asked = [calls.getTaskInfo(task) for task in tasks]
            tops = [call.result for call in asked]
            # Most of hundreds wait, and have no children yet.
            begun = [task for task, top in zip(tasks, tops, strict=True) if top and self._state(top) != "waiting"]
            with self._hub.together() as calls:
                found = {task: calls.getTaskChildren(task) for task in begun}
            children = {task: call.result for task, call in found.items()}
            parts = [self._parts(top, children.get(task, ())) for task, top in zip(tasks, tops, strict=True)]
            failed = {int(part.task["id"]) for one in parts for part in one if part.state == "failed"}
            with self._hub.together() as calls:
                results = {task: calls.getTaskResult(task) for task in sorted(failed)}
            reasons = {task: self._reason(result) for task, result in results.items()}
        return [
            tuple(self._build(part, reasons) for part in one)
            or FarmError(f"Koji knows no task {task}", hint="it was removed; submit again with --again")
            for task, one in zip(tasks, parts, strict=True)
        ]

    def _parts(self, top: Mapping[str, Any] | None, children: Sequence[Mapping[str, Any]]) -> list[_Part]:
        """Return the tasks that stand for a build; nothing if the hub does not know it."""
        if not top:
            return []
        state = self._state(top)
        found = [
            _Part(child, str(child.get("label") or child.get("arch") or child["id"]), self._state(child))
            for child in children
            if child.get("method") == "buildArch"
        ]
        if state not in ("succeeded", "failed", "cancelled"):
            # Whether the farm is done says the task above: it tags, and waits for repositories.
            return [_Part(top, "build", state), *found]
        if state == "succeeded" and found:
            return found
        # Of a build that failed, the hub cancels the other machines' tasks.
        failed = [part for part in found if part.state == "failed"]
        failed += [
            _Part(child, "source package", "failed")
            for child in children
            if child.get("method") == _SRPM and self._state(child) == "failed"
        ]
        return failed or [_Part(top, "build", state)]

    def _state(self, task: Mapping[str, Any]) -> BuildState:
        return _STATES.get(self._hub.koji.TASK_STATES[task["state"]], "building")

    def _build(self, part: _Part, reasons: Mapping[int, str]) -> FarmBuild:
        number = int(part.task["id"])
        weburl = self._hub.profile["weburl"]
        url = f"{weburl}/taskinfo?taskID={number}" if weburl else ""
        return FarmBuild(id=str(number), title=part.title, state=part.state, reason=reasons.get(number, ""), url=url)

    def _reason(self, call: Any) -> str:
        """Return why a task failed: its result is an error."""
        try:
            _ = call.result
        except self._hub.koji.GenericError as error:
            return line(error)
        return ""

    # --- fetching ----------------------------------------------------------------------------------

    def log(self, ticket: Ticket, build: FarmBuild, destination: Path) -> bool:
        """Write the end of build.log; mock's root.log or state.log where nothing was built."""
        if not build.id.isdecimal():  # the hub does not know the task any more
            return False
        task = int(build.id)
        with self._hub.explained():
            outputs = self._hub.session.listTaskOutput(task, stat=True)
            for name in ("build.log", "root.log", "mock_output.log"):
                size = int((outputs.get(name) or {}).get("st_size", 0))
                if size:
                    start = max(0, size - _LOG_END)
                    with destination.open("wb") as file:
                        for content in self._chunks(task, name, start, size):
                            file.write(content)
                    return True
        return False

    def _chunks(self, task: int, name: str, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            size = min(_CHUNK, end - start)
            content = self._hub.session.downloadTaskOutput(task, name, offset=start, size=size)
            if not content:
                return
            yield content
            start += len(content)

    def files(self, ticket: Ticket) -> tuple[FarmFile, ...]:
        """Return the RPMs: of a scratch build those that its tasks put out, otherwise those of the build."""
        task = int(ticket["task"])
        session = self._hub.session
        with self._hub.explained():
            if self._wanted.scratch:
                return tuple(self._outputs(task))
            complete = self._hub.koji.BUILD_STATES["COMPLETE"]
            made = [one for one in session.listBuilds(taskID=task) if one["state"] == complete]
            return tuple(self._of_build(made[0])) if made else ()

    def _outputs(self, task: int) -> Iterator[FarmFile]:
        children = self._hub.session.getTaskChildren(task) or []
        machines = [int(child["id"]) for child in children if child.get("method") == "buildArch"]
        with self._hub.together() as calls:
            outputs = [(machine, calls.listTaskOutput(machine, stat=True)) for machine in machines]
        seen: set[str] = set()
        for machine, output in outputs:
            for name, facts in sorted(output.result.items()):
                if name.endswith(".rpm") and not name.endswith((".src.rpm", ".nosrc.rpm")) and name not in seen:
                    seen.add(name)
                    size = int(facts["st_size"])
                    yield FarmFile(name=name, place=f"task {machine}", build=str(machine), size=size)

    def _of_build(self, build: Mapping[str, Any]) -> Iterator[FarmFile]:
        top = str(self._hub.profile["topurl"] or "").rstrip("/")
        paths = self._hub.koji.PathInfo(topdir=top)
        for rpm in self._hub.session.listRPMs(buildID=build["build_id"]):
            if rpm["arch"] not in ("src", "nosrc"):
                name = f"{rpm['name']}-{rpm['version']}-{rpm['release']}.{rpm['arch']}.rpm"
                yield FarmFile(name=name, place=f"{paths.build(build)}/{paths.rpm(rpm)}", size=rpm.get("size"))

    def fetch(self, file: FarmFile, destination: Path) -> None:
        """Fetch an RPM from the hub, or from where it publishes builds."""
        with self._hub.explained():
            if found := re.fullmatch(r"task (\d+)", file.place):
                with destination.open("wb") as stream:
                    for content in self._chunks(int(found[1]), file.name, 0, file.size or 0):
                        stream.write(content)
                return
            if not re.match(r"https?://", file.place):
                raise FarmError(f"where Koji publishes {file.name} is not known", hint="the profile's topurl says it")
            save(file.place, destination, file.size, self._hub.certificates())
