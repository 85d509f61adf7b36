"""What modules build on: other modules of the project, and drivers in other packages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, model_validator

from pkgkmod.model.fields import Line, Name, RelativePath, Section, matching

UNAME_R = "{uname_r}"
"""Stands for the kernel's release in the texts of a requirement."""
SYMVERS = f"{UNAME_R}/Module.symvers"
HEADERS = "include"

_IN_MAKE = r"(?:\{uname_r\}|[A-Za-z0-9_.+~-])+"
_FOLDER = matching(
    re.compile(rf"(?:/{_IN_MAKE})+"),
    "must be an absolute path of letters, digits and _.+~-, in which {uname_r} stands for the kernel's release",
)
_BELOW = matching(
    re.compile(rf"{_IN_MAKE}(?:/{_IN_MAKE})*"),
    "must hold only letters, digits, / and _.+~-, and {uname_r} for the kernel's release",
)
_PACKAGE = matching(
    re.compile(
        r"(?:\{uname_r\}|[A-Za-z0-9])(?:\{uname_r\}|[A-Za-z0-9+._()-])*(?: (?:<|<=|=|>=|>) [A-Za-z0-9.+~:_-]+)?"
    ),
    "must be a package, or `PACKAGE >= VERSION`; {uname_r} stands for the kernel's release",
)


class Requirement(Section):
    """A driver in another package: a project of pkgkmod, or what a `-devel` or `-dev` package installs."""

    project: Line | None = Field(
        None,
        description="Folder of the other project, beside this one's file: the modules that it made last for the same "
        "kernel are built upon. It needs `enabled = true` in its table [devel]: source packages need that package.",
        examples=["../foo"],
    )
    name: Name | None = Field(None, description="Name of the driver; that of the project.", examples=["foo"])
    vendor: Name | None = Field(
        None, description="Vendor in the names of its packages, as in kmod-VENDOR-NAME; that of the project."
    )
    folder: Annotated[Line, _FOLDER] | None = Field(
        None,
        description="Folder that its -devel package installs, for one that pkgkmod did not make; "
        "/usr/src/kmods/NAME if absent.",
    )
    symvers: Annotated[RelativePath, _BELOW] = Field(
        SYMVERS, description="Its Module.symvers in there; {uname_r} stands for the kernel's release."
    )
    headers: Annotated[RelativePath, _BELOW] = Field(HEADERS, description="Its folder of headers in there.")
    rpm_package: Annotated[Line, _PACKAGE] | None = Field(
        None,
        description="RPM with its modules, `PACKAGE` or `PACKAGE >= VERSION`, for one that pkgkmod did not make.",
        examples=["kmod-foo"],
    )
    rpm_devel: Annotated[Line, _PACKAGE] | None = Field(
        None, description="RPM to build with, in the same form.", examples=["foo-devel"]
    )
    deb_package: Annotated[Line, _PACKAGE] | None = Field(
        None, description="DEB with its modules, in the same form.", examples=["foo-modules-{uname_r}"]
    )
    deb_devel: Annotated[Line, _PACKAGE] | None = Field(
        None, description="DEB to build with, in the same form.", examples=["foo-dev"]
    )

    @property
    def label(self) -> str:
        """The driver's name; the folder of its project as long as that was not read."""
        return self.name or self.project or ""

    @property
    def driver(self) -> str:
        """The driver's name in names of packages: NAME, or VENDOR-NAME."""
        return f"{self.vendor}-{self.label}" if self.vendor else self.label

    @property
    def devel_folder(self) -> str:
        """Folder that its devel package installs."""
        return self.folder or f"/usr/src/kmods/{self.label}"

    @model_validator(mode="after")
    def _whole(self) -> Requirement:
        if not self.project and not self.name:
            raise ValueError(
                "needs `project`, the folder of another project, or `name`, the name of an installed driver"
            )
        if self.project and (self.folder or (self.symvers, self.headers) != (SYMVERS, HEADERS)):
            raise ValueError(
                "project goes without folder, symvers and headers: those are for drivers that are installed"
            )
        return self


def derived_order(requires: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the names, each behind those that it requires, and otherwise as they were.

    Raise ValueError, with the path, if one requires itself by way of others.
    """
    done: list[str] = []
    way: list[str] = []

    def visit(name: str) -> None:
        if name in way:
            raise ValueError(" requires ".join(f"'{step}'" for step in [*way[way.index(name) :], name]))
        if name in done:
            return
        way.append(name)
        for other in requires.get(name, ()):
            visit(other)
        way.pop()
        done.append(name)

    for name in requires:
        visit(name)
    return tuple(done)
