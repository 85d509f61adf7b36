"""Patches of a dkms package, as they apply to a tree in which its sources have a folder of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

_FILE = re.compile(rb"(?P<mark>--- |\+\+\+ )(?P<top>[^/\s]+/)(?P<path>.*)")
_GIT = re.compile(rb"diff --git (?P<a>[^/\s]+/)(?P<old>\S+) (?P<b>[^/\s]+/)(?P<new>\S+)")
_MOVED = re.compile(rb"(?P<what>(?:rename|copy) (?:from|to) )(?P<path>.+)")
_HUNK = re.compile(rb"@@ -\d+(?:,(?P<old>\d+))? \+\d+(?:,(?P<new>\d+))? @@")


def for_repository(patch: bytes, folder: str, kernels: Sequence[str]) -> bytes:
    """Return a patch (-p1) whose files lie in `folder`, and that is for the kernels of the patterns only, if any."""
    lines = [f"Only-Kernels: {', '.join(kernels)}\n".encode()] if kernels else []
    old = new = 0  # lines of the hunk that are still to come: they may look like anything
    for line in patch.splitlines(keepends=True):
        if old > 0 or new > 0:
            old -= line[:1] in b" -\n"
            new -= line[:1] in b" +\n"
        elif hunk := _HUNK.match(line):
            old, new = (int(hunk[side] or 1) for side in ("old", "new"))
        else:
            line = _moved(line, folder.encode() + b"/")
        lines.append(line)
    return b"".join(lines)


def _moved(line: bytes, folder: bytes) -> bytes:
    if (found := _FILE.match(line)) and b"/dev/null" not in line:
        return found["mark"] + found["top"] + folder + line[found.start("path") :]
    if found := _GIT.match(line):
        return b"diff --git %s%s%s %s%s%s\n" % (
            *(found["a"], folder, found["old"]),
            *(found["b"], folder, found["new"]),
        )
    if found := _MOVED.match(line):
        return found["what"] + folder + line[found.start("path") :]
    return line
