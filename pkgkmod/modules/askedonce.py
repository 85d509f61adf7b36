"""What kbuild asks the compiler about its options: asked once in a run, for the first kernel of several that ask it."""

from __future__ import annotations

import os
import re
import stat
from importlib.resources import files
from pathlib import Path

from pkgkmod import data
from pkgkmod.workspace import digest, write_atomically

ASKED_ONCE = "pkgkmod-asked.mk"
"""A makefile that make reads before kbuild's own."""
_ANSWERS = "pkgkmod-answers"
# As the makefile writes them; what a driver's own makefiles may write instead must not get into other builds.
_ANSWER = re.compile(r"answer/[\w|~;%+,./\"-]+ := (?:un)?known")
_MOST = 1 << 20  # bytes of them; kbuild's are some 50,000


def give_option_answers(folder: Path, answers: Path) -> dict[str, str]:
    """Put what is known of the compiler's options into a build folder; return the variables that make needs for it.

    `answers` is a folder for one run and one compiler.
    """
    makefile, known = folder / ASKED_ONCE, folder / f"{_ANSWERS}.mk"
    makefile.write_text(files(data).joinpath("build", ASKED_ONCE).read_text(encoding="utf-8"), encoding="utf-8")
    texts = [file.read_text(encoding="utf-8") for file in sorted(answers.glob("*.mk"))]
    known.write_text("".join(texts), encoding="utf-8")
    return {"MAKEFILES": str(makefile), "PKGKMOD_ANSWERS": str(folder / _ANSWERS)}


def keep_option_answers(folder: Path, answers: Path) -> None:
    """Keep what the compiler answered in a build folder, after a make that succeeded."""
    text = _read(folder / f"{_ANSWERS}.new")
    kept = [line for line in dict.fromkeys(text.splitlines()) if _ANSWER.fullmatch(line)]
    if kept:
        text = "\n".join(kept) + "\n"
        write_atomically(answers / f"{digest(text)[:24]}.mk", text)


def _read(file: Path) -> str:
    """Return a file's text, if it is one: whatever a driver's makefiles put there, nothing waits for it."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
            regular = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
            return stream.read(_MOST).decode("utf-8", "replace") if regular else ""
    except OSError:  # nothing was asked, or not through the makefile
        return ""
