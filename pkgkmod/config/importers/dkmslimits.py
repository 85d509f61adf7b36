"""The kernels that a dkms.conf is for, as the table [only] says it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from pkgkmod.config.importers.dkmsconf import ONLY_KERNELS, ONLY_NEWEST, DkmsConf
from pkgkmod.config.importers.projectfile import refusal
from pkgkmod.model.kernel import KernelRelease
from pkgkmod.model.only import Only

Note = Callable[[str, str, Any, str], None]

_EXPRESSIONS = {"BUILD_EXCLUSIVE_KERNEL": "release", "BUILD_EXCLUSIVE_ARCH": "machine"}
_VERSIONS = {
    "BUILD_EXCLUSIVE_KERNEL_MIN": "oldest",
    "BUILD_EXCLUSIVE_KERNEL_MAX": "newest",
    "OBSOLETE_BY": "before",
}
_OPTION = re.compile(r"\bCONFIG_([A-Za-z0-9_]+)")


def kernel_limits(confs: Sequence[DkmsConf], script: str, note: Note) -> dict[str, Any]:
    """Return the table [only]; what does not go into it in general becomes patterns of the kernels that were asked."""
    found: dict[str, Any] = {}
    computed = _expressions(confs, found, note)
    for name, key in _VERSIONS.items():
        value = next((conf.get(name) for conf in reversed(confs) if conf.get(name)), "")
        plain = re.match(r"[0-9]+(\.[0-9]+){0,3}", value)
        if plain:
            found[key] = plain[0]
            note(name, value, "carried" if plain[0] == value else "changed", f"only.{key} = {plain[0]}")
        elif value:
            note(name, value, "decide", "is no version; only.kernels takes patterns")
    _options(confs, found, note)
    _exported(confs, found, note)
    if computed:
        _computed(confs, computed, script, found, note)
    return found


def _expressions(confs: Sequence[DkmsConf], found: dict[str, Any], note: Note) -> list[str]:
    """Carry expressions over that are the same for all kernels that they let in; return the variables that differ."""
    computed = []
    for name, key in _EXPRESSIONS.items():
        values = {conf.get(name) for conf in confs}
        within = {conf.get(name) for conf in confs if conf.excluded != name} if len(values) > 1 else values
        (value,) = within if len(within) == 1 else ("",)
        usable = value and not refusal("only", key, value)
        if usable:
            found[key] = value
            note(name, value, "carried", f"only.{key}")
        if len(values) > 1 or (value and not usable):
            computed.append(name)
    return computed


def _exported(confs: Sequence[DkmsConf], found: dict[str, Any], note: Note) -> None:
    """Carry over what pkgkmod itself wrote into the file, since dkms has no words for it."""
    kernels = next((words for conf in confs if (words := conf.get(ONLY_KERNELS).split())), [])
    if kernels and not refusal("only", "kernels", tuple(kernels)):
        found["kernels"] = kernels
        note(ONLY_KERNELS, " ".join(kernels), "carried", "only.kernels")
    newest = next((value for conf in confs if (value := conf.get(ONLY_NEWEST))), "")
    if newest and not refusal("only", "newest", newest):
        found["newest"] = newest
        note(ONLY_NEWEST, newest, "carried", "only.newest")


def _options(confs: Sequence[DkmsConf], found: dict[str, Any], note: Note) -> None:
    words = [word for conf in confs for word in conf.get("BUILD_EXCLUSIVE_CONFIG").split()]
    states = [word.replace("CONFIG_", "", 1) for word in dict.fromkeys(words)]
    if states and not refusal("only", "config", tuple(states)):
        found["config"] = states
        note("BUILD_EXCLUSIVE_CONFIG", " ".join(words[: len(states)]), "carried", "only.config")
    elif states:
        note("BUILD_EXCLUSIVE_CONFIG", " ".join(words), "decide", "are no names of kernel options")


def _computed(confs: Sequence[DkmsConf], names: Sequence[str], script: str, found: dict[str, Any], note: Note) -> None:
    """Say what keeps some of the kernels out although the file does not name it in general."""
    left_out = [conf for conf in confs if conf.excluded in names]
    limits = Only.model_validate(found)
    without = [conf for conf in left_out if not limits.complaint(conf.uname_r, conf.machine)]
    within = [conf for conf in confs if not conf.excluded]
    variables = " and ".join(names)
    if left_out and not without:
        return  # what else the file says of kernels leaves these out already
    if not without:
        note(variables, "", "decide", "is computed, and leaves none of the kernels here out: others are not known")
        return
    said = "; ".join(dict.fromkeys(line for conf in without for line in conf.said.splitlines()[:2]))
    needed = _needed_options(within, without, script)
    if needed:
        found["config"] = [*found.get("config", ()), *(name for name in needed if name not in found.get("config", ()))]
        text = f"only.config: the file asks for these options, and {_listed(without)} lack one of them"
    else:
        chosen = patterns([c.uname_r for c in without], [c.uname_r for c in within])
        found["kernels"] = [*found.get("kernels", ()), *(f"!{pattern}" for pattern in chosen)]
        text = f"only.kernels leaves out {', '.join(chosen)}: import again when there are new kernels"
    note(variables, said or without[0].get(without[0].excluded), "changed", f"is computed; {text}")


def _needed_options(within: Sequence[DkmsConf], without: Sequence[DkmsConf], script: str) -> list[str]:
    """Return the options that the file names, all kernels within have, and each kernel without lacks one of."""
    named = dict.fromkeys(_OPTION.findall(re.sub(r"^\s*#.*$", "", script, flags=re.MULTILINE)))
    here = [name for name in named if within and all(name in conf.options for conf in within)]
    needed = [name for name in here if any(name not in conf.options for conf in without)]
    explained = all(any(name not in conf.options for name in needed) for conf in without)
    return needed if needed and explained else []


def _listed(confs: Sequence[DkmsConf]) -> str:
    names = [conf.uname_r for conf in confs]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def patterns(chosen: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """Return patterns that fit the releases `chosen` and none of `others`: of series, of flavours, or the releases."""
    found: dict[str, None] = {}
    series = {KernelRelease(release).series for release in others}
    for release in chosen:
        if KernelRelease(release).series not in series:
            found[f"{KernelRelease(release).series}.*"] = None
        elif _flavour(release) and not any(_flavour(other).endswith(_flavour(release)) for other in others):
            found[f"*-{_flavour(release)}"] = None
        else:
            found[release] = None
    return tuple(found)


def _flavour(release: str) -> str:
    return KernelRelease(release).flavour
