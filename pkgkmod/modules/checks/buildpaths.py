"""Absolute paths that a build leaves in its modules: by __FILE__ in messages, and in debug information."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["home", "build"]
"""Of a path: a person's folder; another folder of the machine that built it."""

_MOST = 1000  # paths of a section
_LONGEST = 4096  # PATH_MAX (include/uapi/linux/limits.h)
# A path begins where a text does, or behind what cannot be in one; URLs and `./a` are none.
_PATH = re.compile(rb"(?<![\w.$%/:*~@+-])(?:/[\w.+~@-]+){2,}")
_SOURCE = re.compile(r"\.(?:[chsS]|cc|cpp|hpp|rs|inc|lds|o)$")
_HOME = re.compile(r"/(?:home/|root/|Users/|export/home/|usr/home/)")
# Where packages put files for all: these paths are the same on each machine, and tell nothing of this one. The others
# are looked up when the module runs.
_KNOWN = re.compile(r"/(?:usr|lib|lib64|bin|sbin|etc|boot|lib/modules|proc|sys|dev|run|debug)/")
_BUILDS_BELOW_USR = re.compile(r"/usr/(?:home|local)/")


@dataclass(frozen=True, order=True)
class BuildPath:
    """A path that the build left."""

    path: str
    kind: Kind


def find_paths(texts: bytes, *, debug: bool) -> Iterator[BuildPath]:
    """Yield paths of the build in a section of texts.

    Outside of debug information, a driver may have paths that it uses itself (`/tmp/dump`): there, only those of
    source files count.
    """
    for number, found in enumerate(_PATH.finditer(texts)):
        if number >= _MOST:
            return
        if len(found[0]) > _LONGEST:
            continue
        path = found[0].decode("utf-8", "replace")
        if not debug and not _SOURCE.search(path):
            continue
        if _HOME.match(path):
            yield BuildPath(path, "home")
        elif not _KNOWN.match(path) or _BUILDS_BELOW_USR.match(path):
            yield BuildPath(path, "build")
