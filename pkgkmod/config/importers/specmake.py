"""The calls of make in %build, in the words of build.make: for one kernel, in the folder of the sources."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from pkgkmod.config.importers.spectext import Line

# What stands for the kernel's tree and its release: of the macros' stand-ins, of akmods' loop, and written out.
_TREE = re.compile(
    r"\$\{kernel_version##\*___\}|\bKERNEL_TREE\b|/usr/src/kernels/[^/\s\"']+|/lib/modules/[^/\s\"']+/build\b"
    r"|/usr/src/linux-obj/[^/\s\"']+/(?:\$\{?flavor\}?|default)"
)
_RELEASE = re.compile(r"\$\{kernel_version%%?___\*\}|\bKERNEL\b")
_COPY = r"(?:/?(?:_kmod_build_|obj/|kmodbuild/|build/)[^/\s\"']*)"
_HERE = re.compile(rf"(?:\$\{{?PWD\}}?|\$\(pwd\)|`pwd`|\$\(PWD\)){_COPY}?|^{_COPY}")
# How much runs side by side, and what is shown of it, is the business of who builds.
_OURS = re.compile(r"(?:V=[01]|-j[0-9]*|-O[a-z]*|VERBOSE=1)$")
_NEEDLESS = re.compile(r"(?:modules|KERNELRELEASE=\$KERNEL)$")
_SIMPLE = re.compile(r"[A-Za-z0-9_./$=:@%+,-]+")


def folder_of(text: str) -> str:
    """Return the folder, below the sources, that a value of M= names; `.` for their top."""
    path = _HERE.sub("", text.strip("\"'")).strip("/")
    return path if path and ".." not in path.split("/") and not re.search(r"[$`%*?\s]", path) else "."


def make_command(line: Line, folder: str = "") -> str:
    """Return a call of make for build.make; `folder` takes the place of what M= names, if that is to be another."""
    said = []
    for word in _words(line.text)[1:]:
        if _OURS.match(word):
            continue
        text = _RELEASE.sub("$KERNEL", _TREE.sub("$KERNEL_TREE", word))
        text = re.sub(r"\$\{?flavor\}?", "default", text)
        name, equals, value = text.partition("=")
        if equals and name in ("M", "SUBDIRS"):
            said.append(f"M=$SOURCES/{folder or folder_of(value)}".removesuffix("/."))
        else:
            said.append(_HERE.sub("$SOURCES", text))
    return " ".join(["make", *(_quoted(word) for word in said)])


def kbuild_only(line: Line, folder: str) -> str:
    """Return the same without what pkgkmod says by itself: what is left tells whether kbuild alone would do."""
    words = _words(make_command(line, folder))
    plain = [word for word in words if not _NEEDLESS.match(word) and not word.startswith("CONFIG_")]
    return " ".join(plain)


def _words(text: str) -> Sequence[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _quoted(word: str) -> str:
    """Return a word for a shell in which variables are still put in."""
    if _SIMPLE.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`") + '"'
