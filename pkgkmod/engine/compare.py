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
_STAGES = ("build_modules", "generate_spec", "generate_debian", "build_rpm", "build_deb", "build_iso")
_LONGEST = 600  # seconds that diffoscope may take


@dataclass(frozen=True)
class Comparison:
    """The compared files, and whether each is the same in both builds."""

    files: Mapping[str, bool]
    first_difference: str = ""

    @property
    def different(self) -> list[str]:
        """Names of the files that are not the same."""
        return [name for name, same in self.files.items() if not same]


def compare_workspaces(first: Workspace, second: Workspace) -> Comparison:
    """Compare the newest results of all stages, targets and kernels that both have."""
    before, after = _newest(first), _newest(second)
    files: dict[str, bool] = {}
    difference = ""
    for key in sorted(set(before) & set(after), key=lambda key: (_STAGES.index(key[0]), key)):
        one, other = before[key], after[key]
        where = "/".join(part for part in key if part != "_")
        names = sorted({output.path for result in (one, other) for output in result.outputs})
        for name in names:
            left, right = one.folder / name, other.folder / name
            same = left.is_file() and right.is_file() and filecmp.cmp(left, right, shallow=False)
            files[f"{where}/{name}"] = same
            if not same and not difference:
                difference = describe_difference(left, right)
    return Comparison(files, difference)


def _newest(workspace: Workspace) -> dict[tuple[str, str, str], Result]:
    found: dict[tuple[str, str, str], Result] = {}
    for result in sorted(workspace.all(), key=lambda result: result.finished):
        if result.state == "ok" and result.stage in _STAGES:
            found[(result.stage, result.target, result.kernel)] = result
    return found


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
