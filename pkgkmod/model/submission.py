"""What was given to a build farm, and what has come of it; saved beside the results, so that nothing is sent twice."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pkgkmod.model.artifacts import PackageFormat

BuildState = Literal["waiting", "building", "succeeded", "failed", "cancelled"]
ENDED: tuple[BuildState, ...] = ("succeeded", "failed", "cancelled")


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FarmBuild(_Facts):
    """One build that a farm makes of a source package: for a machine, a repository or a kernel."""

    id: str
    """What the farm calls it."""
    title: str
    """What people call it: `x86_64`, `standard/x86_64`."""
    state: BuildState
    reason: str = ""
    """Why it failed, or waits, in the farm's words."""
    url: str = ""
    """Page about it, for people."""


class FarmFile(_Facts):
    """A package that a farm has made."""

    name: str
    place: str
    """Where the farm has it, in its own words."""
    build: str = ""
    """Id of the build that made it."""
    size: int | None = None
    """Bytes, if the farm says so."""
    digest: str = ""
    """`ALGORITHM:HEX` of the file, if the farm says so."""


class Submission(_Facts):
    """A source package that was given to a farm, or was about to be."""

    target: str
    kernel: str
    """Label of the job: a kernel, or `_` for all of them."""
    package: str
    """File that was given."""
    format: PackageFormat
    kernels: tuple[str, ...]
    source_date_epoch: int
    request: str
    """Digest over what is asked for, the file's content included."""
    words: str = ""
    """What is asked for, for people: `build --scratch for f43`."""
    state: Literal["sending", "sent"]
    """sending: whether it arrived is not known; the farm is asked before it is sent again."""
    ticket: dict[str, Any] = {}
    """What the farm is asked with about it later."""
    builds: tuple[FarmBuild, ...] = ()
    """As they were when the farm was asked last."""
    sent: float = 0.0
    """Seconds since 1970."""
    fetched: str = ""
    """Fingerprint of the result that holds the packages; empty as long as they were not fetched."""

    @property
    def key(self) -> tuple[str, str]:
        """Target and label of the job."""
        return self.target, self.kernel

    @property
    def id(self) -> str:
        """Name in messages: TARGET or TARGET/KERNEL."""
        return self.target if self.kernel == "_" else f"{self.target}/{self.kernel}"

    @property
    def has_ended(self) -> bool:
        """Whether the farm has nothing more to do for it."""
        return self.state == "sent" and bool(self.builds) and all(build.state in ENDED for build in self.builds)

    @property
    def failed(self) -> tuple[FarmBuild, ...]:
        """The builds that came to no good end."""
        return tuple(build for build in self.builds if build.state in ("failed", "cancelled"))
