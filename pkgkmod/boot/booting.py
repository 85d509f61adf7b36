"""One kernel booted, as often as it takes: after a module that broke or held it up, the others get a fresh one."""

from __future__ import annotations

import os
import pwd
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pkgkmod.boot.enforcing import enrolment, new_variables
from pkgkmod.boot.initramfs import Orders, write_initramfs
from pkgkmod.boot.installed import Cargo, TriedModule
from pkgkmod.boot.outcome import Said, read_said, results_of
from pkgkmod.boot.qemu import CONSOLE, Machine, Start
from pkgkmod.command import Command, Completed, run
from pkgkmod.errors import TimeLimitError
from pkgkmod.kernels.images import KernelImage
from pkgkmod.model.prediction import BootReport, Ending, LoadResult
from pkgkmod.modules.kmod_deps import Export
from pkgkmod.progress import Progress
from pkgkmod.sandbox import UNPRIVILEGED_USER

VERSION = 1
"""Raised when a boot tells something else of the same packages and kernel."""

_COMMAND = "command.txt"
_START_UP = 180
"""Seconds that an emulated machine may take until modules are loaded; 6 to 20 where nothing else runs."""
_EACH = 3
"""Seconds that a module takes at most, as a rule."""
_LEAST_MEMORY = 256
_TAIL = 12
"""Lines of the console that a failure names."""


@dataclass(frozen=True)
class BootOrder:
    """A kernel that is to be booted, and what with."""

    image: KernelImage
    cargo: Cargo
    exports: Mapping[str, Export] | None
    """What the kernel and its modules export; None if that is not known."""
    limit: int = 60
    """Seconds that a module may take."""
    memory: int = 0
    """MiB; 0: as much as the files need."""
    enforce: bool = False
    certificate: bytes = b""
    """That signed the modules (DER); it is made a trusted one, where the machine's firmware can do that."""


@dataclass(frozen=True)
class _Attempt:
    """What one boot ended with."""

    said: Said
    late: bool
    """Whether the machine was stopped because its time was over."""
    trouble: str
    """What QEMU said, if it did not end well."""
    trusts: bool = False
    """Whether the kernel was given a key to trust."""


@dataclass(frozen=True)
class _Kept:
    """What stays of the machines' folders."""

    folder: Path | None
    whole: bool

    def take(self, folder: Path, number: str, machine: Machine) -> None:
        """Keep what a machine said, in files with a number."""
        names = (CONSOLE, machine.results, *((_COMMAND, "initrd") if self.whole else ()))
        for name in dict.fromkeys(names) if self.folder else ():
            if self.folder and (folder / name).exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                stem, dot, ending = name.partition(".")
                shutil.copyfile(folder / name, self.folder / f"{stem}-{number}{dot}{ending}")


def boot(
    order: BootOrder, machine: Machine, keep: Path | None, progress: Progress, *, whole: bool = False
) -> BootReport:
    """Boot a kernel and load the modules; raise ToolError if a program for that is missing here.

    What the machine said is kept in the folder `keep`, in a file for each port and boot; with `whole`, also what it was
    started with.
    """
    started = time.monotonic()
    results: dict[str, LoadResult] = {
        module.path: _untried(module, order, module.fault) for module in order.cargo.modules if module.fault
    }
    failure = ""
    enforced = trusts = False
    number = 0
    while not failure and (left := [one for one in order.cargo.modules if one.path not in results]):
        number += 1
        attempt = _attempt(order, machine, left, _Kept(keep, whole), number, progress)
        enforced |= attempt.said.enforced
        trusts |= attempt.trusts
        before = len(results)
        for module, result in results_of(attempt.said, left, order.image.uname_r):
            results[module.path] = result
        if attempt.said.done or (failure := _failure(attempt, order)):
            break
        if (stuck := _first_of(attempt.said, left)) and stuck.path not in results:
            results[stuck.path] = _ended_it(stuck, order, late=attempt.late)
        if len(results) == before and (not attempt.said.modules or number > len(order.cargo.modules)):
            failure = _words("the kernel stopped before a module was loaded", attempt)
    for module in order.cargo.modules:
        results.setdefault(module.path, _untried(module, order, failure and "the kernel was not there for it"))
    return BootReport(
        kernel=order.image.uname_r,
        image=order.image.shown,
        seconds=round(time.monotonic() - started, 1),
        accelerator=machine.accelerator,
        enforced=enforced,
        trusts_key=trusts,
        results=tuple(results[module.path] for module in order.cargo.modules),
        failure=failure,
    )


def _attempt(
    order: BootOrder, machine: Machine, left: list[TriedModule], keep: _Kept, number: int, progress: Progress
) -> _Attempt:
    names = tuple(one.name for one in left)
    with _folder() as place:
        folder = Path(place)
        trusts = False
        if order.enforce and order.certificate and new_variables(machine.facts, folder):
            trusts = _started(order, machine, folder, (), progress, enrolment(order.certificate)).said.done
            keep.take(folder, f"{number}-key", machine)
        attempt = _started(order, machine, folder, names, progress, has_firmware=trusts)
        keep.take(folder, str(number), machine)
    return replace(attempt, trusts=trusts)


def _started(
    order: BootOrder,
    machine: Machine,
    folder: Path,
    names: tuple[str, ...],
    progress: Progress,
    enrols: bytes = b"",
    *,
    has_firmware: bool = False,
) -> _Attempt:
    """Start the machine once, in a folder that may hold the firmware's memory, and wait for its end."""
    token = secrets.token_hex(16)
    for name in (CONSOLE, machine.results):
        (folder / name).unlink(missing_ok=True)
    orders = Orders(token, machine.port, order.limit, names, enrols)
    size = write_initramfs(folder / "initrd", order.image, order.cargo, order.exports, orders)
    shutil.copyfile(order.image.file, folder / "kernel")
    has_firmware |= bool(enrols)
    start = Start(
        memory=order.memory or _memory(size) + has_firmware * _LEAST_MEMORY,
        time_limit=_START_UP + 2 * order.limit + _EACH * len(names),
        stall=order.limit,
        enforce=order.enforce and not enrols,
        has_firmware=has_firmware,
    )
    command = _as_nobody(machine.command(folder, start), folder)
    (folder / _COMMAND).write_text(shlex.join(command.argv) + "\n", encoding="utf-8")
    late, trouble = _run(command, folder / "log", progress)
    return _Attempt(read_said(folder, machine.results, CONSOLE, token), late, trouble)


def _folder() -> tempfile.TemporaryDirectory[str]:
    # Not /tmp: that may be memory, and a kernel's files are large.
    return tempfile.TemporaryDirectory(prefix="pkgkmod-boot-", dir=os.environ.get("TMPDIR") or "/var/tmp")


def _as_nobody(command: Command, folder: Path) -> Command:
    """Let root start the machine as somebody without rights."""
    if os.getuid():
        return command
    who = pwd.getpwnam(UNPRIVILEGED_USER)
    for path in (folder, *folder.iterdir()):
        os.chown(path, who.pw_uid, who.pw_gid)
    return replace(command, user=UNPRIVILEGED_USER)


def _run(command: Command, log: Path, progress: Progress) -> tuple[bool, str]:
    """Run the machine to its end; return whether it was stopped, and what QEMU says if it did not end well."""
    try:
        done: Completed = run(command, log=log, progress=progress)
    except TimeLimitError as error:
        return True, error.details
    return False, "" if done.ok else "\n".join((f"QEMU ended with {done.returncode}", *done.tail))


def _memory(size: int) -> int:
    """Return the MiB of memory that a system of so many bytes needs: they are there twice while they are unpacked."""
    return _LEAST_MEMORY + -(-2 * size // (64 << 20)) * 64


def _first_of(said: Said, left: list[TriedModule]) -> TriedModule | None:
    """Return the module that ended a boot, or held it up: only the first one of a boot is to blame for that."""
    if len(said.modules) == 1 and not said.modules[0].ended:
        return next((one for one in left if one.name == said.modules[0].name), None)
    return None


def _failure(attempt: _Attempt, order: BootOrder) -> str:
    """Return why nothing is known of a kernel; empty if it came up."""
    if not attempt.said.kernel:
        if attempt.late:
            return _words("the kernel did not come up in time", attempt)
        more = "" if attempt.trouble or any(attempt.said.console) else ", and said nothing: it may need more memory"
        return _words(f"the kernel did not come up{more}", attempt)
    if attempt.trouble:
        return _words("the machine broke off", attempt)
    if attempt.said.kernel != order.image.uname_r:
        return f"the kernel in {order.image.shown} is {attempt.said.kernel!r}"
    return ""


def _words(text: str, attempt: _Attempt) -> str:
    said = [line for line in attempt.said.console if line][-_TAIL:]
    return "\n".join((text, *filter(None, (attempt.trouble,)), *said))


def _ended_it(module: TriedModule, order: BootOrder, *, late: bool) -> LoadResult:
    """Return what came of a module with which the machine stood still, or ended."""
    ending: Ending = "timeout" if late else "oops"
    reason = "the machine ended without a word"
    if late:
        reason = f"the machine stood still, and was stopped after more than {2 * order.limit} s"
    return LoadResult(
        module=module.name, path=module.path, kernel=order.image.uname_r, ending=ending, reason=reason, started=True
    )


def _untried(module: TriedModule, order: BootOrder, reason: str) -> LoadResult:
    return LoadResult(
        module=module.name, path=module.path, kernel=order.image.uname_r, ending="not tried", reason=reason
    )
