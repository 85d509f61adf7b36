"""The programs of this machine: where they are, what identifies them, and the environment they get."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from pkgkmod.data import package_of_tool
from pkgkmod.errors import ToolError

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_tool(name: str, *, needed_for: str = "") -> Path:
    """Return the path of program `name`; raise ToolError that names its package if it is not installed."""
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        purpose = f", needed for {needed_for}," if needed_for else ""
        raise ToolError(f"the program '{name}'{purpose} is not installed", hint=package_of_tool(name))
    return Path(found)


def tool_stamp(name: str, *, needed_for: str = "") -> str:
    """Return what identifies an installed program: path, size and time of change (for fingerprints)."""
    path = find_tool(name, needed_for=needed_for).resolve()
    facts = path.stat()
    return f"{path}:{facts.st_size}:{facts.st_mtime_ns}"


@functools.cache
def capture(*argv: str, home: Path = Path("/")) -> str:
    """Return what a short question to a program prints, such as `gcc -dumpversion`; empty if it fails."""
    if shutil.which(argv[0], path=SYSTEM_PATH) is None:
        return ""
    done = subprocess.run(
        argv,
        env=clean_environment(home),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def clean_environment(home: Path) -> dict[str, str]:
    """Return the variables that every program gets: nothing of the caller's but the time zone UTC and a C locale."""
    return {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": str(home), "LOGNAME": "pkgkmod"}
