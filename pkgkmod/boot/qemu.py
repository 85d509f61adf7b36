"""The emulated machine: QEMU's arguments, as data says, and whether the processor's help (KVM) can be had.

The machine has one processor, and neither network nor disk. What it says on its ports goes into files of limited size;
QEMU itself is confined by its own seccomp filter where it has one.
"""

from __future__ import annotations

import os
import tempfile
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pkgkmod import data
from pkgkmod.boot.enforcing import VARIABLES, firmware_of
from pkgkmod.command import Command, run
from pkgkmod.errors import KernelError, TimeLimitError
from pkgkmod.programs import find_tool
from pkgkmod.progress import Progress

Accelerator = Literal["kvm", "tcg"]

CONSOLE, RESULTS = "console.log", "results.log"
"""What the kernel says, and what our init says; the same file where the machine has one port only."""

_PATIENCE = 5
"""Seconds that a machine with nothing in it may take: /dev/kvm may be there and hang."""
_MOST_SAID = 16 * 1024 * 1024
"""Bytes that a machine may say on a port."""
_CONFINED = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
_probing = threading.Lock()
_known: dict[tuple[str, Accelerator, bool], bool] = {}


@dataclass(frozen=True)
class Machine:
    """A machine that can be emulated here."""

    arch: str
    """As `uname -m` prints it."""
    facts: Any
    """Its table in machines.toml."""

    @property
    def program(self) -> str:
        """Name of the emulator."""
        return str(self.facts["program"])

    @property
    def console(self) -> str:
        """Device of the kernel's console."""
        return str(self.facts["console"])

    @property
    def port(self) -> str:
        """Device on which init speaks."""
        return str(self.facts.get("results", self.console))

    @property
    def results(self) -> str:
        """File with what init says."""
        return RESULTS if "results" in self.facts else CONSOLE

    @cached_property
    def is_confined(self) -> bool:
        """Tell whether this QEMU has a seccomp filter."""
        return self._works("tcg", confined=True)

    @cached_property
    def accelerator(self) -> Accelerator:
        """Return what boots fastest and was seen to work."""
        is_same = self.arch == os.uname().machine and os.access("/dev/kvm", os.R_OK | os.W_OK)
        return "kvm" if is_same and self._works("kvm", confined=self.is_confined) else "tcg"

    def _works(self, accelerator: Accelerator, *, confined: bool) -> bool:
        """Tell whether a machine with a tiny program in it, and nothing else, comes to its end."""
        if "probe" not in self.facts:
            return False
        key = (self.arch, accelerator, confined)
        with _probing, tempfile.TemporaryDirectory(prefix="pkgkmod-boot-") as name:
            if key not in _known:
                folder = Path(name)
                folder.chmod(0o755)
                command = self.probe(folder, accelerator, confined=confined)
                try:
                    done = run(command, log=folder / "log", progress=Progress())
                    _known[key] = done.returncode == self.facts["probe_exit"]
                except TimeLimitError:
                    _known[key] = False
            return _known[key]

    def probe(self, folder: Path, accelerator: Accelerator, *, confined: bool) -> Command:
        """Return what starts a machine whose only program ends it, and write that program."""
        code, size, place = bytes.fromhex(self.facts["probe"]), self.facts["probe_size"], self.facts["probe_at"]
        firmware = bytearray(size)
        firmware[place : place + len(code)] = code
        (folder / "firmware").write_bytes(firmware)
        argv = (self.program, *self._frame(accelerator, 16, confined=confined), *self.facts["probe_options"])
        return Command((*argv, "-bios", "firmware"), folder, time_limit=_PATIENCE)

    def command(self, folder: Path, order: Start) -> Command:
        """Return what boots `kernel` and `initrd` of a folder, where the files of its ports appear."""
        find_tool(self.program, needed_for="booting a kernel")
        find_tool("prlimit", needed_for="booting a kernel")
        find_tool("setpriv", needed_for="booting a kernel")
        # It goes with us, however we end: a machine whose kernel hangs would run for ever.
        argv = ["setpriv", "--pdeathsig", "KILL", "prlimit", f"--fsize={_MOST_SAID}", "--core=0", self.program]
        argv += self._frame(self.accelerator, order.memory, confined=self.is_confined)
        argv += ["-serial", f"file:{CONSOLE}"]
        argv += ["-serial", f"file:{RESULTS}"] if self.results != CONSOLE else []
        if order.has_firmware and (firmware := firmware_of(self.facts)):
            argv += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={firmware[0]}"]
            argv += ["-drive", f"if=pflash,format=raw,unit=1,file={VARIABLES}"]
        argv += ["-kernel", "kernel", "-initrd", "initrd", "-append", order.words(self.console)]
        return Command(tuple(argv), folder, time_limit=order.time_limit)

    def _frame(self, accelerator: Accelerator, memory: int, *, confined: bool) -> list[str]:
        """Return what all our machines have in common."""
        argv = [*self.facts["options"], "-accel", accelerator, "-cpu", self.facts["cpu"][accelerator], "-smp", "1"]
        argv += ["-m", str(memory), "-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot", "-nic", "none"]
        return [*argv, *_CONFINED] if confined else argv


@dataclass(frozen=True)
class Start:
    """How a kernel is started."""

    memory: int
    """MiB."""
    time_limit: float
    """Seconds until the machine is stopped."""
    stall: int
    """Seconds after which the kernel gives itself up, if a module keeps the processor."""
    enforce: bool = False
    """Whether it takes signed modules only."""
    has_firmware: bool = False
    """Whether there is a firmware that knows keys, with its memory in the machine's folder."""

    def words(self, console: str) -> str:
        """Return the kernel's command line (Documentation/admin-guide/kernel-parameters.rst)."""
        # The watchdog speaks after twice its threshold. Of a module's init the kernel says what it returned, if asked.
        words = [f"console={console}", "quiet", "loglevel=1", "panic=-1", "initcall_debug", "printk.devkmsg=off"]
        words += [f"watchdog_thresh={max(self.stall // 2, 1)}", "softlockup_panic=1", "log_buf_len=1M"]
        return " ".join([*words, *["module.sig_enforce=1"] * self.enforce])


def machine_of(arch: str) -> Machine:
    """Return the machine that runs kernels of an architecture; raise KernelError where none is known."""
    facts = data.load("machines.toml")
    if arch not in facts:
        raise KernelError(f"kernels for {arch} are not booted here", hint=f"known are: {', '.join(facts)}")
    if arch != os.uname().machine:
        raise KernelError(
            f"a kernel for {arch} is booted on a machine of that kind only",
            details="busybox and kmod are taken from this machine, and would not run there",
        )
    return Machine(arch, facts[arch])
