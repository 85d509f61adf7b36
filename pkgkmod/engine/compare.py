"""Whether two builds gave the same bytes, and where they differ first."""

from __future__ import annotations

import filecmp
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.command import Command, run
from pkgkmod.errors import TimeLimitError
from pkgkmod.programs import SYSTEM_PATH
from pkgkmod.progress import Progress
from pkgkmod.workspace import Result, Workspace

_LINES = 40
_RECORDS = (".buildinfo", ".changes")
"""Files that tell when, and with which packages, something was built: they are to differ (deb-buildinfo(5))."""
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


def compare_results(first: Workspace, made: Iterable[Result], *, same_inputs: bool = True) -> Comparison:
    """Compare what a second build made, in the order of its plan, with what the first made of the same inputs.

    Without `same_inputs`, the newest results for the same kernels are compared: a package that was compiled in
    rpmbuild has other inputs than one that was not.
    """
    before = sorted(first.all(), key=lambda result: result.finished, reverse=True)
    files: dict[str, bool] = {}
    alone: list[str] = []
    difference = ""
    for other in made:
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


def _are_alike(one: Result, other: Result, *, same_inputs: bool) -> bool:
    """Tell whether two results should be the same."""
    if one.state != "ok" or (one.stage, one.target, one.kernel) != (other.stage, other.target, other.kernel):
        return False
    if same_inputs:
        return one.fingerprint == other.fingerprint
    return bool(one.artifact.get("kernels") == other.artifact.get("kernels"))


def describe_difference(one: Path, other: Path) -> str:
    """Return where two files differ first: in diffoscope's words where it is installed."""
    for path in (one, other):
        if not path.is_file():
            return f"{path.name} was made once only"
    return _in_diffoscopes_words(one, other) or _first_bytes(one.read_bytes(), other.read_bytes())


def _in_diffoscopes_words(one: Path, other: Path) -> str:
    """Return the beginning of diffoscope's report; nothing if it is not installed, or comes to no end."""
    if shutil.which("diffoscope", path=SYSTEM_PATH) is None:
        return ""
    with tempfile.TemporaryDirectory(prefix="pkgkmod-") as name:
        report = Path(name, "report")
        options = ("--text", str(report), "--max-text-report-size", "8192", "--no-progress")
        argv = ("diffoscope", *options, str(one.absolute()), str(other.absolute()))
        command = Command(argv, Path(name), time_limit=_LONGEST)
        try:
            run(command, log=Path(name, "log"), progress=Progress())
        except TimeLimitError:
            return ""
        text = report.read_text(encoding="utf-8", errors="replace") if report.exists() else ""
    return "\n".join(text.splitlines()[:_LINES])


def _first_bytes(one: bytes, other: bytes) -> str:
    shorter = min(len(one), len(other))
    at = next((i for i in range(shorter) if one[i] != other[i]), shorter)
    shown = slice(max(at - 16, 0), at + 32)
    return (
        f"{len(one)} and {len(other)} bytes, the first difference is byte {at}\n"
        f"  {one[shown]!r}\n  {other[shown]!r}\n"
        "diffoscope would say what that is (Debian's package diffoscope-minimal)"
    )
