"""What a Koji hub would refuse, said before anything is sent: targets, packages and builds that it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pkgkmod.builders.koji import KojiSettings, build_target
from pkgkmod.builders.koji.api import Hub
from pkgkmod.errors import FarmError, did_you_mean
from pkgkmod.farms import SourcePackage

_ONCE = "Koji builds no name, version and release twice"
_BUILT_AGAIN = ("FAILED", "CANCELED")
"""koji's BUILD_STATES that do not take a name, version and release (kojihub.recycle_build)."""


def check(hub: Hub, wanted: KojiSettings, packages: Sequence[SourcePackage]) -> None:
    """Raise FarmError, or what the library raises, if the hub would not take source packages."""
    targets = _targets(hub, wanted, {build_target(wanted, one) for one in packages})
    if wanted.scratch:
        return
    _refuse_twice(packages)
    tags = {(str(targets[build_target(wanted, one)]["dest_tag_name"]), one.recipe.name) for one in packages}
    _refuse_tags(hub, sorted(tags))
    _refuse_known(hub, sorted(_nvr(one) for one in packages))


def _nvr(package: SourcePackage) -> str:
    return package.files[0].name.removesuffix(".src.rpm")


def _targets(hub: Hub, wanted: KojiSettings, names: set[str]) -> Mapping[str, Mapping[str, Any]]:
    with hub.together() as calls:
        asked = {name: calls.getBuildTarget(name) for name in sorted(names)}
    found = {name: call.result for name, call in asked.items()}
    if missing := next((name for name, target in found.items() if not target), ""):
        raise _unknown_target(hub, wanted, missing)
    return found


def _unknown_target(hub: Hub, wanted: KojiSettings, name: str) -> FarmError:
    known = hub.session.getBuildTargets()
    of_tag = sorted(one["name"] for one in known if name in (one["dest_tag_name"], one["build_tag_name"]))
    if of_tag:
        hint = f"it is a tag; builds for it have the target {' or '.join(of_tag[:3])}"
    else:
        hint = did_you_mean(name, [one["name"] for one in known]) or f"`koji -p {wanted.profile} list-targets` has them"
    return FarmError(f"the hub of '{wanted.profile}' has no build target '{name}'", hint=hint)


def _refuse_twice(packages: Sequence[SourcePackage]) -> None:
    """Raise FarmError for two source packages that would be one build."""
    first: dict[str, SourcePackage] = {}
    for one in packages:
        other = first.setdefault(_nvr(one), one)
        if other is not one:
            raise FarmError(
                f"{other.job.id} and {one.job.id} both are {_nvr(one)}, and {_ONCE}",
                hint="send one of them (--target, --kernel), or let them differ: project.release, the distribution",
            )


def _refuse_tags(hub: Hub, wanted: Sequence[tuple[str, str]]) -> None:
    """Raise FarmError for a tag that is locked, or that has not the package on its list."""
    with hub.together() as calls:
        asked = [(tag, name, calls.getTag(tag), calls.getPackageConfig(tag, name)) for tag, name in wanted]
    for tag, name, facts, package in asked:
        if (facts.result or {}).get("locked"):
            raise FarmError(f"Koji's tag {tag} is locked: it takes no builds", hint="ask who runs the farm")
        if not package.result or package.result.get("blocked"):
            why = "is blocked in" if package.result else "is not on the list of"
            raise FarmError(
                f"the package {name} {why} Koji's tag {tag}",
                hint=f"who runs the farm adds it: koji add-pkg --owner YOU {tag} {name}; scratch builds need no list",
            )


def _refuse_known(hub: Hub, nvrs: Sequence[str]) -> None:
    """Raise FarmError for builds that the hub has, or is making."""
    with hub.together() as calls:
        asked = {nvr: calls.getBuild(nvr) for nvr in nvrs}
    known = {nvr: call.result for nvr, call in asked.items() if call.result}
    states = {nvr: str(hub.koji.BUILD_STATES[build["state"]]) for nvr, build in known.items()}
    taken = [nvr for nvr in known if states[nvr] not in _BUILT_AGAIN]
    if not taken:
        return
    lines = [_told(nvr, known[nvr], states[nvr]) for nvr in taken]
    if len(taken) == 1:
        brief = f"{lines[0]}, and {_ONCE}"
    else:
        brief = (
            f"Koji has {len(taken)} of the {len(nvrs)} builds already, and builds no name, version and release twice"
        )
    building = all(states[nvr] == "BUILDING" for nvr in taken)
    raise FarmError(
        brief,
        details="\n".join(lines) if len(taken) > 1 else "",
        hint=("wait for it, or " if building else "")
        + "raise project.release, or set plugin.koji.scratch = true for a try",
    )


def _told(nvr: str, build: Mapping[str, Any], state: str) -> str:
    owner = build.get("owner_name") or "somebody"
    if state == "BUILDING":
        task = f" (task {build['task_id']})" if build.get("task_id") else ""
        return f"{owner} is building {nvr} right now{task}"
    if state == "DELETED":
        return f"Koji had {nvr}, which was deleted"
    return f"Koji has built {nvr} before, for {owner}"
