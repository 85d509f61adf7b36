"""Whether two builds gave the same bytes, and where they differ first."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.programs import SYSTEM_PATH, clean_environment
from pkgkmod.workspace import Result, Workspace

_LINES = 40
_RECORDS = (".buildinfo", ".changes")
"""Files that tell when, and with which packages, something was built: they are to differ (deb-buildinfo(5))."""
_STAGES = ("build_modules", "generate_spec", "generate_debian", "build_rpm", "build_deb", "build_iso")
_LONGEST = 600  # seconds that diffoscope may take


@dataclass(frozen=True)
class Comparison:
    """The compared files, and whether each is the same in both builds."""

    files: Mapping[str, bool]
    first_difference: str = ""
    alone: tuple[str, ...] = ()
    """Results of the second build to which the first has no counterpart."""

    @property
    def different(self) -> list[str]:
        """Names of the files that are not the same."""
        return [name for name, same in self.files.items() if not same]


def compare_workspaces(first: Workspace, second: Workspace, *, same_inputs: bool = True) -> Comparison:
    """Compare what the second build made with what the first one made of the same inputs.

    Without `same_inputs`, the newest results for the same kernels are compared: a package that was compiled in
    rpmbuild has other inputs than one that was not.
    """
    before = _results(first)
    files: dict[str, bool] = {}
    alone: list[str] = []
    difference = ""
    for other in sorted(
        _results(second), key=lambda result: (_STAGES.index(result.stage), result.target, result.kernel)
    ):
        where = "/".join(part for part in (other.stage, other.target, other.kernel) if part != "_")
        one = next((result for result in before if _are_alike(result, other, same_inputs=same_inputs)), None)
        if one is None:
            alone.append(where)
            continue
        for name in sorted({output.path for result in (one, other) for output in result.outputs}):
            if name.endswith(_RECORDS):
                continue
            left, right = one.folder / name, other.folder / name
            same = left.is_file() and right.is_file() and filecmp.cmp(left, right, shallow=False)
            files[f"{where}/{name}"] = same
            if not same and not difference:
                difference = describe_difference(left, right)
    return Comparison(files, difference, tuple(alone))


def _results(workspace: Workspace) -> list[Result]:
    """Return what was made, the newest first."""
    found = [result for result in workspace.all() if result.state == "ok" and result.stage in _STAGES]
    return sorted(found, key=lambda result: result.finished, reverse=True)


def _are_alike(one: Result, other: Result, *, same_inputs: bool) -> bool:
    """Tell whether two results should be the same."""
    if (one.stage, one.target, one.kernel) != (other.stage, other.target, other.kernel):
        return False
    if same_inputs:
        return one.fingerprint == other.fingerprint
    return bool(one.artifact.get("kernels") == other.artifact.get("kernels"))


def describe_difference(one: Path, other: Path) -> str:
    """Return where two files differ first: in diffoscope's words where it is installed."""
    for path in (one, other):
        if not path.is_file():
            return f"{path.name} was made once only"
    if tool := shutil.which("diffoscope", path=SYSTEM_PATH):
        done = subprocess.run(
            [tool, "--text", "-", "--max-text-report-size", "8192", "--no-progress", str(one), str(other)],
            env=clean_environment(Path("/tmp")),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_LONGEST,
        )
        if done.stdout:
            return "\n".join(done.stdout.splitlines()[:_LINES])
    return _first_bytes(one.read_bytes(), other.read_bytes())


def _first_bytes(one: bytes, other: bytes) -> str:
    shorter = min(len(one), len(other))
    at = next((i for i in range(shorter) if one[i] != other[i]), shorter)
    shown = slice(max(at - 16, 0), at + 32)
    return (
        f"{len(one)} and {len(other)} bytes, the first difference is byte {at}\n"
        f"  {one[shown]!r}\n  {other[shown]!r}\n"
        "diffoscope would say what that is (Debian's package diffoscope-minimal)"
    )
