"""A module that was opened to be checked, and what stands around it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pkgkmod.model.verdict import CheckedModule
from pkgkmod.modules.checks.compressed import Compression
from pkgkmod.modules.checks.inside import Inside
from pkgkmod.modules.kernelside import KernelSide
from pkgkmod.modules.kmod_deps import Module
from pkgkmod.modules.ownmodules import OwnModules
from pkgkmod.modules.symboluse import license_of

_LONGEST = 4096
"""Characters of a fact; a module may claim what it likes."""
_INSTALLED = re.compile(r"/lib/modules/(?P<release>[^/]+)/.")


@dataclass(frozen=True)
class Signature:
    """What was found about a module's signature."""

    is_there: bool = False
    signer: str = ""
    """The issuer's name and the serial number; empty if it cannot be told."""
    expected: str = ""
    """Certificate that it was verified with; empty if there is none to go by."""
    fault: str = ""
    """Why it does not verify; empty if it does, or was not verified."""


@dataclass(frozen=True)
class Opened:
    """A module that can be read."""

    path: str
    """In a package: where it is installed, from the root on. Otherwise the file."""
    package: str
    """File name of its package; empty for a bare module."""
    size: int
    """Bytes, as it lies there."""
    module: Module
    inside: Inside
    compression: Compression
    signature: Signature

    @property
    def name(self) -> str:
        """Name as the kernel knows it."""
        return self.module.name

    @property
    def subject(self) -> str:
        """What findings call it: `PACKAGE: PATH`, or the file."""
        return f"{self.package}: {self.path}" if self.package else self.path

    @property
    def folder_kernel(self) -> str:
        """Kernel in whose folder it lies; empty for a file from anywhere."""
        found = _INSTALLED.search(self.path)
        return found["release"] if found else ""

    @property
    def kernel(self) -> str:
        """Kernel that it is for: that of its folder, or else the one that it was built for; empty if it is not told."""
        return self.folder_kernel or self.module.release

    @property
    def facts(self) -> CheckedModule:
        """What is to be told of it."""
        info = self.module.info

        def first(key: str) -> str:
            return (info(key) or [""])[0][:_LONGEST]

        return CheckedModule(
            name=self.name,
            path=self.path,
            package=self.package,
            kernel=self.module.release,
            size=self.size,
            license=license_of(self.module)[:_LONGEST],
            version=first("version"),
            srcversion=first("srcversion"),
            signer=self.signature.signer,
            compression=self.compression.kind,
            firmware=tuple(dict.fromkeys(info("firmware"))),
            aliases=len(set(info("alias"))),
            parameters=tuple(dict.fromkeys(text.partition(":")[0] for text in info("parmtype"))),
            depends=tuple(name for name in first("depends").split(",") if name),
            imports=len(self.module.imports),
            exports=len(self.module.exports),
        )


@dataclass(frozen=True)
class Kernels:
    """The kernels that modules are checked against."""

    sides: Mapping[str, KernelSide] = field(default_factory=dict)
    """By release; those that are not here are missing."""
    own: Mapping[str, OwnModules] = field(default_factory=dict)
    texts: Mapping[str, int] = field(default_factory=dict)
    """Bytes of texts in the type information of those whose vmlinux is known."""
    instead: str = ""
    """Kernel to check all modules against; empty: each one against the one that it is for."""

    def of(self, module: Opened) -> str:
        """Return the kernel that a module is checked against."""
        return self.instead or module.kernel


@dataclass(frozen=True)
class Beside:
    """What stands around the modules besides kernels."""

    providers: Mapping[str, tuple[Module, ...]] = field(default_factory=dict)
    """Modules of drivers that are required, by the kernel that they are for."""
    firmware: frozenset[str] | None = None
    """Files below /lib/firmware that are packaged with them; None where no packages are looked at."""
