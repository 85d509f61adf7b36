"""Findings about a driver disk, for the terminal, a log, or another program."""

from __future__ import annotations

from collections.abc import Sequence

from pkgkmod.model.finding import Finding
from pkgkmod.model.packaging import Disk
from pkgkmod.progress import JsonLines, Progress


def report_findings(findings: Sequence[Finding], disk: Disk, progress: Progress) -> None:
    """Say what was found; errors that will be raised are left to the error."""
    if disk.check == "off":
        return
    for one in findings:
        if isinstance(progress, JsonLines):
            progress.event("finding", **one.model_dump())
            continue
        if one.severity == "error" and disk.check == "fail":
            continue
        if one.severity == "note":
            progress.info(one.line)
        else:
            progress.warning(one.line)
