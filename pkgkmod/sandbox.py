"""The sandbox: no network, a read-only root with one writable folder, and for root first down to an unprivileged
user (bubblewrap)."""

from __future__ import annotations

import functools
import os
import pwd
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.errors import SandboxError, ToolError
from pkgkmod.model.kernel import Mount
from pkgkmod.programs import clean_environment, find_tool

UNPRIVILEGED_USER = "nobody"
# What the build roots of farms have at their top: everything in them is thrown away afterwards. Containers are not
# meant: toolbox and distrobox show the home folder in one.
_THROW_AWAY = {
    "/.buildenv": "an OBS build root",
    "/.build.packages": "an OBS build root",
    "/builddir/build": "a mock or Koji build root",
}


@dataclass(frozen=True)
class Sandbox:
    """What a program may see: everything read-only, `writable` excepted, and home folders hidden.

    `readable` names folders that must be visible although they lie in a hidden or closed one, `mounts` what
    is seen at other paths than its own, `root` a folder that is seen as `/`, and `shared` a folder that is
    writable, too, and keeps its owner (a compiler's cache). `place` is where `writable` is seen, if not at its
    own path.
    """

    writable: Path
    readable: tuple[Path, ...] = ()
    mounts: tuple[Mount, ...] = ()
    root: Path | None = None
    shared: Path | None = None
    place: Path | None = None


class ownership:
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


def sandboxed(argv: Sequence[str], cwd: Path, sandbox: Sandbox) -> list[str]:
    """Return the words that run `argv` in a sandbox; raise SandboxError if this machine allows none."""
    check_sandbox()
    root = sandbox.root or Path("/")
    cwd = cwd.resolve()
    writable = sandbox.writable.resolve()
    place = sandbox.place or writable
    seen = {path.resolve(): path.resolve() for path in sandbox.readable}
    seen |= {mount.target: mount.source.resolve() for mount in sandbox.mounts}
    return [
        *_wrapper(root),
        *_places((place, *seen, *([sandbox.shared] if sandbox.shared else [])), root),
        *(word for target, source in sorted(seen.items()) for word in ("--ro-bind", str(source), str(target))),
        *("--bind", str(writable), str(place)),
        *(("--bind", str(sandbox.shared), str(sandbox.shared)) if sandbox.shared else ()),
        *("--chdir", str(place / cwd.relative_to(writable) if cwd.is_relative_to(writable) else cwd)),
        *_step_down(),
        "--",
        *argv,
    ]


def _wrapper(root: Path) -> list[str]:
    """bubblewrap with new namespaces, a read-only root and empty places for temporary files."""
    rights = ["--unshare-user"]
    if os.geteuid() == 0:
        # Real root keeps just what is needed to become somebody else.
        rights = [word for cap in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{cap}")]
    return [
        str(find_tool("bwrap", needed_for="compiling in isolation")),
        *rights,
        *("--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"),
        *("--ro-bind", str(root), "/", "--dev", "/dev", "--proc", "/proc"),
    ]


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _rebuilt(root: Path, folder: Path) -> list[str]:
    words = ["--perms", "0755", "--tmpfs", str(folder)]
    with os.scandir(_below(root, folder)) as found:
        for entry in sorted(found, key=lambda entry: entry.name):
            if entry.is_symlink():
                words += ["--symlink", str(Path(entry.path).readlink()), str(folder / entry.name)]
            else:
                words += ["--ro-bind", entry.path, str(folder / entry.name)]
    return words


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


def _places(needed: tuple[Path, ...], root: Path) -> list[str]:
    """Hide what is nobody's business, and make a place for each path of `needed`.

    Hidden are temporary files, home folders, and folders above `needed` that others may not enter: empty file
    systems take their place. The root cannot be written to, so a folder in which a place is missing is replaced
    by an empty one, too, in which all that it holds is mounted again. The ways to the places are made open to
    all: bubblewrap itself would make them for root only.
    """
    hidden = {Path(name) for name in ("/tmp", "/var/tmp", "/run", "/root", "/home")} | {Path.home().resolve()}
    for path in needed:
        closed = [parent for parent in path.parents if _is_closed(_below(root, parent))]
        hidden.update(closed[-1:])
    outermost = {
        folder
        for folder in hidden - {Path("/")}
        if _is_plain_folder(_below(root, folder)) and not hidden.intersection(folder.parents)
    }
    missing = [path for path in needed if not outermost.intersection(path.parents) and not _below(root, path).exists()]
    rebuilt = {next(parent for parent in path.parents if _below(root, parent).is_dir()) for path in missing}
    words = [word for folder in sorted(outermost) for word in ("--perms", _mode_of(folder), "--tmpfs", str(folder))]
    words += [word for folder in sorted(rebuilt) for word in _rebuilt(root, folder)]
    new = outermost | rebuilt
    ways = {parent for path in needed for parent in path.parents if new.intersection(parent.parents)}
    return words + [word for way in sorted(ways) for word in ("--perms", "0755", "--dir", str(way))]


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_closed(folder: Path) -> bool:
    return folder.exists() and not folder.stat().st_mode & stat.S_IXOTH


def _mode_of(folder: Path) -> str:
    # The compiler's temporary files; what is written there is gone when the program ends.
    return "1777" if str(folder) in ("/tmp", "/var/tmp") else "0755"


@functools.cache
def check_sandbox() -> None:
    """Raise SandboxError, with the reason, if this machine does not allow the isolation."""
    argv = [*_wrapper(Path("/")), *_step_down(), "--", "/bin/true"]
    done = subprocess.run(argv, env=clean_environment(Path("/")), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SandboxError(
            "this machine does not allow programs to be isolated",
            details=done.stderr.strip(),
            hint="--no-sandbox compiles without isolation: sources then run their makefiles with your rights",
        )


@functools.cache
def isolation(wanted: bool) -> tuple[bool, str]:
    """Return whether programs are to be isolated, and, if not although it is wanted, why.

    A build root of a farm often allows no namespaces, and is a sandbox itself: there programs run as they are.
    Raise SandboxError elsewhere: a workstation has more to lose.
    """
    if not wanted:
        return False, ""
    try:
        check_sandbox()
    except (SandboxError, ToolError) as error:
        kind = next((kind for place, kind in _THROW_AWAY.items() if Path(place).exists()), None)
        if kind is None:
            raise
        reason = error.details.splitlines()[-1] if error.details else error.brief
        return False, f"this is {kind} that allows no isolation ({reason}): modules are compiled in place"
    return True, ""
