"""Machines: how a kernel's options tell them, and what RPM and Debian call them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

from pkgkmod import data
from pkgkmod.errors import KernelError


@functools.cache
def _arches() -> dict[str, Any]:
    return data.load("arches.toml")


def machine_of(options: Mapping[str, str]) -> str | None:
    """Return the machine, as `uname -m` prints it, of a kernel with these options; None if it is not known."""
    for machine, facts in _arches().items():
        if all(options.get(option) == "y" for option in facts["options"]):
            return machine
    return None


def machine_of_arch(arch: str, format: Literal["rpm", "deb"]) -> str | None:
    """Return the machine, as `uname -m` prints it, of a package's architecture; None if it is not known."""
    return next((machine for machine, facts in _arches().items() if facts[format] == arch), None)


def package_arch(machine: str, format: Literal["rpm", "deb"]) -> str:
    """Return the name in packages of what `uname -m` prints; KernelError if it is not known."""
    if machine not in _arches():
        raise KernelError(f"the architecture '{machine}' is not known", hint=f"known: {', '.join(_arches())}")
    return str(_arches()[machine][format])
