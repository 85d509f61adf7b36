"""Which kernels a driver is for: the others are skipped, and it is said why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import AfterValidator, Field

from pkgkmod.model.fields import Section, matching

_KERNELS = re.compile(r"!?[A-Za-z0-9._+~*?-]+")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+){0,3}")
_OPTION = re.compile(r"!?(?!CONFIG_)[A-Za-z0-9_]+")
_EXPRESSION = re.compile(r"[A-Za-z0-9_.+~^$|()?*\[\]\\-]{1,200}")
# What can take a program's time without end: something repeated that repeats, and many repetitions in a row.
_REPEATED_GROUP = re.compile(r"\)[*+]")
_MOST_REPETITIONS = 6


def _expression(value: str) -> str:
    if not value:
        return value
    simple = _EXPRESSION.fullmatch(value) and not _REPEATED_GROUP.search(value)
    if not simple or sum(value.count(sign) for sign in "*+") > _MOST_REPETITIONS:
        raise ValueError(
            "must be a plain regular expression: letters, digits and ._+~^$|()?*[]\\-, no group repeated "
            f"(given: {value!r})"
        )
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error} (given: {value!r})") from None
    return value


Expression = Annotated[str, AfterValidator(_expression)]
KernelPattern = Annotated[str, matching(_KERNELS, "must be a kernel release, or a pattern of releases with * and ?")]
KernelVersion = Annotated[str, matching(_VERSION, "must be a version of the kernel, such as 5.15 or 6.1.30")]
OptionState = Annotated[
    str, matching(_OPTION, "must be the name of a kernel configuration option, without CONFIG_, or !NAME")
]


class Only(Section):
    """Which kernels the driver is for. Others are skipped, and plan and result say why."""

    kernels: tuple[KernelPattern, ...] = Field(
        (),
        description="Releases or patterns with * and ?, one of which must fit; `!PATTERN` leaves kernels out.",
        examples=[["6.*", "!*-rt-amd64"]],
    )
    release: Expression = Field("", description="Regular expression that must be found in the release.")
    oldest: KernelVersion | None = Field(None, description="Oldest version of the kernel, itself included.")
    newest: KernelVersion | None = Field(
        None, description="Newest version of the kernel, itself included: 6.1 is 6.1.0, and not 6.1.5."
    )
    before: KernelVersion | None = Field(
        None, description="First version of the kernel for which the driver is no more, such as one that has it."
    )
    machine: Expression = Field("", description="Regular expression that must be found in the machine (`uname -m`).")
    config: tuple[OptionState, ...] = Field(
        (), description="Kernel options, without CONFIG_, that must be y or m; `!NAME`: must be neither."
    )

    def complaint(self, uname_r: str, machine: str) -> str:
        """Return why the driver is not for a kernel; nothing if it is, as far as its name tells."""
        checks = (
            (fits(uname_r, self.kernels), f"only.kernels is {', '.join(self.kernels)}"),
            (not self.release or re.search(self.release, uname_r), f"only.release is {self.release}"),
            (not self.machine or re.search(self.machine, machine), f"only.machine is {self.machine}, not {machine}"),
            (not self.oldest or version_order(uname_r) >= version_order(self.oldest), f"only.oldest is {self.oldest}"),
            (not self.newest or version_order(uname_r) <= version_order(self.newest), f"only.newest is {self.newest}"),
            (not self.before or version_order(uname_r) < version_order(self.before), f"only.before is {self.before}"),
        )
        return next((why for fits, why in checks if not fits), "")

    def option_complaint(self, options: Mapping[str, str]) -> str:
        """Return which of the kernel's options (name and value, without CONFIG_) is not as the driver needs it."""
        for state in self.config:
            name = state.removeprefix("!")
            is_set = options.get(name) in ("y", "m")
            if is_set == state.startswith("!"):
                return f"the kernel has {'' if is_set else 'no '}CONFIG_{name}"
        return ""


def fits(uname_r: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether a release fits one of the patterns, if there are any, and none of those with a `!`."""
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return (not wanted or _any_fits(uname_r, wanted)) and not _any_fits(uname_r, unwanted)


def _any_fits(uname_r: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(uname_r, pattern) for pattern in patterns)


def version_order(version: str) -> tuple[int, ...]:
    """Return the first numbers of a release or version as what orders them: 5.15 is 5.15.0."""
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    numbers = [int(number) for number in found[0].split(".")] if found else []
    return tuple([*numbers, 0, 0, 0, 0][:4])
