"""The one door to other programs.

Argument lists only, an environment of its own, output streamed to a log, a time limit, and on request
a sandbox: no network, a read-only root with one writable folder, and for root first down to an
unprivileged user (bubblewrap).
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import signal
import stat
import subprocess
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pkgkmod.data import package_of_tool
from pkgkmod.errors import DiskFullError, SandboxError, TimeLimitError, ToolError
from pkgkmod.progress import Progress

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNPRIVILEGED_USER = "nobody"
_TAIL = 40  # lines of output kept for messages


@dataclass(frozen=True)
class Sandbox:
    """What a program may see: everything read-only, `writable` excepted, and home folders hidden.

    `readable` names folders that must be visible although they lie in a hidden or closed one.
    """

    writable: Path
    readable: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Command:
    """A program to run: what, where, with which variables on top of the clean ones."""

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    sandbox: Sandbox | None = None
    time_limit: float | None = None
    """Seconds; None is no limit."""


@dataclass(frozen=True)
class Completed:
    """How a program ended; `tail` holds its last lines."""

    command: Command
    returncode: int
    tail: tuple[str, ...]
    log: Path

    @property
    def ok(self) -> bool:
        """True if the program reported success."""
        return self.returncode == 0


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


def run(command: Command, *, log: Path, progress: Progress) -> Completed:
    """Run a program to its end, streaming what it writes to `log`; raise on time-out and on a full disk only.

    On Ctrl-C, or any other exception here, the program and all its children are killed first.
    """
    argv = list(command.argv)
    if command.sandbox:
        argv = _sandboxed(command, command.sandbox)
    progress.command(argv if progress.verbose else command.argv, log)
    environment = {**clean_environment(command.cwd), **command.env}
    tail: deque[str] = deque(maxlen=_TAIL)
    with log.open("ab") as sink, _ownership(command.sandbox):
        process = _start(argv, command.cwd, environment)
        assert process.stdout
        reader = threading.Thread(target=_pump, args=(process.stdout, sink, tail, progress), daemon=True)
        reader.start()
        try:
            returncode = process.wait(timeout=command.time_limit)
        except subprocess.TimeoutExpired:
            raise TimeLimitError(
                f"'{command.argv[0]}' ran longer than {command.time_limit:.0f} s and was stopped",
                details="\n".join(tail),
                hint="raise build.time_limit in the project file if it needs longer",
                log=log,
            ) from None
        finally:
            _kill_all(process)
            reader.join(timeout=10)
    if returncode and (any("No space left on device" in line for line in tail) or _is_full(command.cwd, log.parent)):
        raise DiskFullError(
            f"no space left on the disk while running '{command.argv[0]}'",
            hint=f"free some space where {command.cwd} and {log.parent} lie, then run the same command again",
            log=log,
        )
    return Completed(command, returncode, tuple(tail), log)


def _is_full(*folders: Path) -> bool:
    """Tell whether a disk has less than 1 MiB left: not every program says so (kbuild's fixdep does not)."""
    return any(shutil.disk_usage(folder).free < 1024 * 1024 for folder in folders)


def _start(argv: list[str], cwd: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise ToolError(f"the program '{argv[0]}' is not installed", hint=package_of_tool(argv[0])) from None


def _pump(source: IO[bytes], sink: IO[bytes], tail: deque[str], progress: Progress) -> None:
    for raw in source:
        try:
            sink.write(raw)
            sink.flush()
        except OSError:
            pass  # a full disk: the program will notice, too, and its end is what counts
        line = raw.decode("utf-8", "replace").rstrip("\n")
        tail.append(line)
        progress.output(line)


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the program's session; bubblewrap takes its whole process namespace with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- the sandbox ---------------------------------------------------------------------------------


class _ownership:
    """For root: hand the writable folder to the unprivileged user, and take it back afterwards."""

    def __init__(self, sandbox: Sandbox | None) -> None:
        self.folder = sandbox.writable if sandbox and os.geteuid() == 0 else None

    def __enter__(self) -> None:
        if self.folder:
            user = _unprivileged_user()
            _change_owner(self.folder, user.pw_uid, user.pw_gid)

    def __exit__(self, *_: object) -> None:
        if self.folder:
            _change_owner(self.folder, 0, 0)


@functools.cache
def _unprivileged_user() -> pwd.struct_passwd:
    return pwd.getpwnam(UNPRIVILEGED_USER)


def _change_owner(folder: Path, uid: int, gid: int) -> None:
    os.chown(folder, uid, gid)
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            os.chown(Path(parent, name), uid, gid, follow_symlinks=False)


def _sandboxed(command: Command, sandbox: Sandbox) -> list[str]:
    check_sandbox()
    writable = sandbox.writable.resolve()
    readable = tuple(path.resolve() for path in sandbox.readable)
    return [
        *_wrapper(),
        *_ways((writable, *readable)),
        *(word for path in readable for word in ("--ro-bind", str(path), str(path))),
        *("--bind", str(writable), str(writable)),
        *("--chdir", str(command.cwd.resolve())),
        *_step_down(),
        "--",
        *command.argv,
    ]


def _wrapper() -> list[str]:
    """bubblewrap with new namespaces, a read-only root and empty places for temporary files."""
    rights = ["--unshare-user"]
    if os.geteuid() == 0:
        # Real root keeps just what is needed to become somebody else.
        rights = [word for cap in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{cap}")]
    return [
        str(find_tool("bwrap", needed_for="compiling in isolation")),
        *rights,
        *("--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"),
        *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
    ]


def _step_down() -> list[str]:
    if os.geteuid() != 0:
        return []
    user = _unprivileged_user()
    return [
        "--",
        str(find_tool("setpriv", needed_for="leaving root's rights behind")),
        *(f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"),
        *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
    ]


def _ways(needed: tuple[Path, ...]) -> list[str]:
    """Hide temporary files, home folders, and folders above `needed` that others may not enter.

    Empty file systems take their place. In these, the ways to what is needed are made open to all:
    bubblewrap itself would make them for root only.
    """
    hidden = {Path(name) for name in ("/tmp", "/var/tmp", "/run", "/root", "/home")} | {Path.home().resolve()}
    for path in needed:
        closed = [parent for parent in path.parents if not parent.stat().st_mode & stat.S_IXOTH]
        hidden.update(closed[-1:])
    outermost = sorted(
        folder
        for folder in hidden - {Path("/")}
        if folder.is_dir() and not folder.is_symlink() and not hidden.intersection(folder.parents)
    )
    ways = {parent for path in needed for parent in path.parents if set(outermost).intersection(parent.parents)}
    return [
        *(word for folder in outermost for word in ("--perms", _mode_of(folder), "--tmpfs", str(folder))),
        *(word for way in sorted(ways) for word in ("--perms", "0755", "--dir", str(way))),
    ]


def _mode_of(folder: Path) -> str:
    # The compiler's temporary files; what is written there is gone when the program ends.
    return "1777" if str(folder) in ("/tmp", "/var/tmp") else "0755"


@functools.cache
def check_sandbox() -> None:
    """Raise SandboxError, with the reason, if this machine does not allow the isolation."""
    argv = [*_wrapper(), *_step_down(), "--", "/bin/true"]
    done = subprocess.run(argv, env=clean_environment(Path("/")), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SandboxError(
            "this machine does not allow programs to be isolated",
            details=done.stderr.strip(),
            hint="--no-sandbox compiles without isolation: sources then run their makefiles with your rights",
        )
