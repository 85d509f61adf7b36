"""Which kernels a package is for, in the words of layouts: `RELEASE`, or `RELATION RELEASE` as rpm compares."""

from __future__ import annotations

import functools
import re

from pkgkmod.formats.rpm import compare_versions

_WANTED = re.compile(r"(?P<relation><=|>=|<|>|=) (?P<release>.+)")


@functools.cache
def matches(wanted: str, kernel: str) -> bool:
    """Tell whether a kernel (uname -r) is one of those that are wanted.

    With a relation, the two are compared as anaconda does it: as whole texts, by rpm's rules (anaconda,
    utils/dd/rpmutils.c, matchVersions).
    """
    found = _WANTED.fullmatch(wanted)
    if not found:
        return wanted == kernel
    order = compare_versions(kernel, found["release"])
    sign = "<" if order < 0 else ">" if order > 0 else "="
    return sign in found["relation"]
