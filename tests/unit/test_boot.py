"""What a boot is started with, what comes of it is read, and how it is shown; nothing is booted here."""

from __future__ import annotations

import gzip
import io
import random
import re
import stat
from pathlib import Path

import click
import pytest

from pkgkmod.boot import qemu
from pkgkmod.boot.enforcing import enrolment
from pkgkmod.boot.installed import Contents, InstalledFile, TriedModule, cargo_for, checked, merged
from pkgkmod.boot.outcome import Said, read_said, results_of
from pkgkmod.boot.parallel import side_by_side, workers
from pkgkmod.boot.qemu import Machine, Start, machine_of
from pkgkmod.cli.boot_report import is_bad, show, summary
from pkgkmod.data import load
from pkgkmod.errors import InputError, KernelError
from pkgkmod.formats.cpio import Member, read_archive, write_archive
from pkgkmod.formats.entries import Entries
from pkgkmod.kernels import apt
from pkgkmod.kernels.aptindex import IMAGES, AptIndex, AptPackage, Need, parse_packages
from pkgkmod.kernels.aptsources import parse_line
from pkgkmod.kernels.images import image_of_file
from pkgkmod.model.kernel import KernelOffer, KernelRelease
from pkgkmod.model.prediction import BootReport, LoadResult
from pkgkmod.progress import Progress

KERNEL = "6.1.0-56-cloud-amd64"
TOKEN = "5f" * 16
MODULE = TriedModule("acme", f"/usr/lib/modules/{KERNEL}/updates/acme.ko", "acme.deb")
CALLED = "log [    2.1] calling  acme_init+0x0/0x1000 [acme] @ 87"
INSERTED = f"out insmod /lib/modules/{KERNEL}/updates/acme.ko "


def said(folder: Path, *lines: str, console: str = "", begin: str = "acme") -> Said:
    """Return what is read of a boot that says these lines about a module."""
    text = [f"kernel {KERNEL}", f"begin {begin}", *lines]
    (folder / "results.log").write_bytes("".join(f"{TOKEN} {line}\r\n" for line in text).encode())
    (folder / "console.log").write_text(console)
    return read_said(folder, "results.log", "console.log", TOKEN)


def only_result(folder: Path, *lines: str, console: str = "") -> LoadResult:
    """Return what came of the one module."""
    ((module, result),) = results_of(said(folder, *lines, console=console), [MODULE], KERNEL)
    assert module is MODULE
    return result


@pytest.mark.parametrize(
    ("lines", "ending", "reason", "started"),
    [
        ((CALLED, INSERTED, "status 0", "loaded acme (OE)", "taint 1", "removed 0", "end"), "loaded", "", True),
        (
            (INSERTED.replace("updates", "kernel/net"), "status 0", "loaded acme ", "removed 0", "end"),
            "not tried",
            f"/lib/modules/{KERNEL}/kernel/net/acme.ko was loaded in its place",
            False,
        ),
        (
            (CALLED, "log [1.0] initcall acme_init+0x0 [acme] returned -19 after 5 usecs", "status 1", "end"),
            "no device",
            "No such device",
            True,
        ),
        (
            (
                "log [1.0] initcall x+0x0 [needed] returned -19 after 5 usecs",
                "err modprobe: ERROR: could not insert 'acme': No such device",
                "status 1",
                "end",
            ),
            "no device",
            "No such device, says needed, which it needs",
            False,
        ),
        (
            (
                "log <4>[    1.0][   T87] acme: disagrees about version of symbol module_layout",
                "err modprobe: ERROR: could not insert 'acme': Exec format error",
                "status 1",
                "end",
            ),
            "refused",
            "disagrees about version of symbol module_layout",
            False,
        ),
        (
            (
                CALLED,
                "log [1.0] initcall acme_init+0x0 [acme] returned -1 after 5 usecs",
                "err modprobe: ERROR: could not insert 'acme': Operation not permitted",
                "status 1",
                "end",
            ),
            "refused",
            "its own init returned -1: Operation not permitted",
            True,
        ),
        (
            ("err modprobe: FATAL: Module acme not found in directory /lib/modules/x", "status 1", "end"),
            "refused",
            "Module acme not found in directory /lib/modules/x",
            False,
        ),
        ((CALLED, "log [2.2] BUG: kernel NULL pointer dereference", "died"), "oops", "BUG: kernel NULL pointer", True),
        (
            (CALLED, INSERTED, "status 0", "loaded acme ", "log [2.2] Oops: 0002", "died"),
            "oops",
            "when it was taken out: Oops: 0002",
            True,
        ),
        ((CALLED, "stack [<0>] acme_init+0x11", "late 10"), "timeout", "it did not come back within 10 s", True),
        (("status 0", "end"), "refused", "modprobe was content, but the module is not there", False),
    ],
)
def test_what_is_said_is_understood(tmp_path, lines, ending, reason, started):
    result = only_result(tmp_path, *lines)
    assert (result.ending, result.started) == (ending, started)
    assert result.reason.startswith(reason) and bool(result.reason) == bool(reason)


def test_a_kernel_that_stops_in_the_middle_of_a_module_broke_there(tmp_path):
    console = "[    2.5] Kernel panic - not syncing: because it can\n[    2.6] CPU: 0\n"
    result = only_result(tmp_path, console="[    1.0] earlier\n" + console)
    assert (result.ending, result.reason) == ("oops", "Kernel panic - not syncing: because it can")
    assert result.log == ("Kernel panic - not syncing: because it can", "CPU: 0")
    stuck = "[    9.9] watchdog: BUG: soft lockup - CPU#0 stuck for 11s! [modprobe:87]\n" + console
    assert only_result(tmp_path, console=stuck).ending == "timeout"
    # Cut off without a word: nothing is known of it.
    assert not list(results_of(said(tmp_path, CALLED), [MODULE], KERNEL))


def test_lines_that_a_module_prints_are_not_taken_for_results(tmp_path):
    forged = (
        "log [1.0] status 0",
        "log end",
        f"log {'0' * 32} status 0",
        "log loaded acme",
        "log \x1b[2J\x1b]0;owned\x07",
        "log [1.0] initcall acme_init+0x0/0x1000 [other] returned -19 after 1 usecs",
    )
    console = f"{'0' * 32} status 0\nstatus 0\nend\nbegin other\n"
    result = only_result(tmp_path, *forged, "err x: could not insert 'acme': Busy", "status 1", "end", console=console)
    assert result.ending == "refused"
    assert result.log[0] == "status 0"
    lines = [line for ones in said(tmp_path, *forged).modules[0].words.values() for line in ones]
    assert len(lines) == len(forged)


def test_whatever_is_said_is_read_without_a_fault(tmp_path):
    chance = random.Random(7)
    words = ["kernel", "begin", "status", "end", "log", "died", "late", "loaded", "removed", "\0", "\xff", "-1", "acme"]
    for _ in range(50):
        text = "\n".join(
            f"{TOKEN if chance.random() < 0.8 else ''} {' '.join(chance.choices(words, k=3))}" for _ in range(20)
        )
        raw = text.encode("latin-1")
        (tmp_path / "results.log").write_bytes(raw[: chance.randrange(len(raw))])
        (tmp_path / "console.log").write_bytes(chance.randbytes(100))
        found = read_said(tmp_path, "results.log", "console.log", TOKEN)
        assert all(result.kernel == KERNEL for _, result in results_of(found, [MODULE], KERNEL))
    assert read_said(tmp_path / "absent", "results.log", "console.log", TOKEN) == Said()


def test_a_machine_has_neither_network_nor_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(qemu, "find_tool", lambda *_, **__: Path("/usr/bin/true"))
    monkeypatch.setattr(Machine, "_works", lambda *_, **facts: facts["confined"] and _[1] == "tcg")
    command = Machine("x86_64", load("machines.toml")["x86_64"]).command(tmp_path, Start(320, 60, 20, enforce=True))
    assert command.argv == (
        *("setpriv", "--pdeathsig", "KILL"),
        *("prlimit", "--fsize=16777216", "--core=0", "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max"),
        *(
            "-smp",
            "1",
            "-m",
            "320",
            "-nodefaults",
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
            "-nic",
            "none",
        ),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-serial", "file:console.log", "-serial", "file:results.log", "-kernel", "kernel", "-initrd", "initrd"),
        "-append",
        "console=ttyS0 quiet loglevel=1 panic=-1 initcall_debug printk.devkmsg=off watchdog_thresh=10 "
        "softlockup_panic=1 log_buf_len=1M module.sig_enforce=1",
    )
    assert (command.cwd, command.time_limit, command.sandbox) == (tmp_path, 60, None)


@pytest.mark.parametrize("arch", sorted(load("machines.toml")))
def test_the_program_of_a_probe_is_where_the_machine_begins(arch, tmp_path):
    machine = Machine(arch, load("machines.toml")[arch])
    command = machine.probe(tmp_path, "kvm", confined=False)
    firmware = (tmp_path / "firmware").read_bytes()
    place, code = machine.facts["probe_at"], bytes.fromhex(machine.facts["probe"])
    assert len(firmware) == machine.facts["probe_size"] and firmware[place : place + len(code)] == code
    assert "-sandbox" not in command.argv and command.argv[-2:] == ("-bios", "firmware")
    assert command.time_limit == 5


def test_a_machine_of_another_kind_is_refused():
    with pytest.raises(KernelError, match="on a machine of that kind only"):
        machine_of("aarch64" if machine_of_here() != "aarch64" else "x86_64")
    with pytest.raises(KernelError, match="kernels for m68k are not booted here"):
        machine_of("m68k")


def machine_of_here() -> str:
    """Return what `uname -m` prints."""
    import os

    return os.uname().machine


def installed(path: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644) -> InstalledFile:
    return InstalledFile(merged(path), mode, content)


def package(name: str, *files: InstalledFile) -> Contents:
    return Contents(Path(name), files)


def test_modules_lie_where_their_packages_put_them():
    ours = installed(f"/lib/modules/{KERNEL}/extra/acme/acme-x.ko.xz")
    rule = installed("/etc/depmod.d/acme.conf")
    other = installed("/lib/modules/6.12.1-amd64/extra/acme.ko")
    cargo = cargo_for([package("a.rpm", ours, rule), package("b.rpm", other)], KERNEL)
    assert [file.path for file in cargo.files] == [ours.path, rule.path]
    assert cargo.modules == (TriedModule("acme_x", ours.path, "a.rpm"),)


def test_a_module_for_another_kernel_is_linked_as_weak_modules_does_it():
    def built(release: str) -> Contents:
        return package(f"{release}.rpm", installed(f"/usr/lib/modules/{release}/extra/acme.ko", release.encode()))

    packages = [built(name) for name in ("6.12.1-amd64", "6.1.0-54-cloud-amd64", "6.1.0-55-amd64")]
    assert not cargo_for(packages, KERNEL).modules
    cargo = cargo_for(packages, KERNEL, links=True)
    (module,) = cargo.modules
    assert (module.path, module.package) == (
        f"/usr/lib/modules/{KERNEL}/weak-updates/acme.ko",
        "6.1.0-54-cloud-amd64.rpm",
    )
    link, file = cargo.by_path[module.path], cargo.by_path["/usr/lib/modules/6.1.0-54-cloud-amd64/extra/acme.ko"]
    assert stat.S_ISLNK(link.mode) and link.content.decode() == file.path
    # One for this very kernel is not replaced.
    assert [m.package for m in cargo_for([*packages, built(KERNEL)], KERNEL, links=True).modules] == [f"{KERNEL}.rpm"]


def test_two_packages_with_different_files_of_one_path_are_refused():
    path = f"/lib/modules/{KERNEL}/extra/acme.ko"
    with pytest.raises(InputError, match=r"b\.rpm has another .*acme\.ko than a package before it"):
        cargo_for([package("a.rpm", installed(path, b"1")), package("b.rpm", installed(path, b"2"))], KERNEL)


@pytest.mark.parametrize("name", ["a b.ko", "$(reboot).ko", "-r.ko", "a\nb.ko", "ä.ko"])
def test_a_name_that_is_none_for_modprobe_is_not_tried(name):
    cargo = cargo_for([package("a.rpm", installed(f"/lib/modules/{KERNEL}/extra/{name}"))], KERNEL)
    assert [module.fault for module in cargo.modules] == ["its file has a name that modprobe cannot be given"]


def test_an_archive_is_read_as_it_was_written():
    members = [
        Member("a", stat.S_IFDIR | 0o755),
        Member("a/device", stat.S_IFCHR | 0o600, device=(5, 1)),
        Member("a/file", stat.S_IFREG | 0o644, b"content"),
        Member("a/link", stat.S_IFLNK | 0o777, b"file"),
    ]
    written, again = io.BytesIO(), io.BytesIO()
    write_archive(written, members)
    write_archive(again, members)
    assert written.getvalue() == again.getvalue()
    found = Entries()
    assert read_archive(written, 0, found) == len(written.getvalue())
    assert {path: entry.kind for path, entry in found.items()} == {
        "a": "folder",
        "a/device": "other",
        "a/file": "file",
        "a/link": "link",
    }


def test_a_key_is_enrolled_with_attributes_descriptor_and_list():
    written = enrolment(b"certificate")
    assert written.endswith(b"certificate") and written[:4] == b"\x27\0\0\0"
    assert int.from_bytes(written[60:64], "little") == 28 + 16 + len(b"certificate")


def test_a_file_says_which_kernel_it_is(tmp_path):
    head = bytearray(0x1000)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = (0x400).to_bytes(2, "little")
    head[0x600:0x620] = b"6.1.0-1-amd64 (debian@x) #1 SMP\0"
    (tmp_path / "vmlinuz").write_bytes(head)
    assert image_of_file(tmp_path / "vmlinuz", "", "x86_64").uname_r == "6.1.0-1-amd64"
    with pytest.raises(KernelError, match=r"is the kernel 6\.1\.0-1-amd64, not 6\.1\.0-2-amd64"):
        image_of_file(tmp_path / "vmlinuz", "6.1.0-2-amd64", "x86_64")
    (tmp_path / "other").write_bytes(gzip.compress(b"x"))
    with pytest.raises(KernelError, match="does not say which kernel it is"):
        image_of_file(tmp_path / "other", "", "x86_64")


def test_kernels_are_read_out_of_an_index_and_headers_are_not():
    def stanza(name: str) -> str:
        return (
            f"Package: {name}\nVersion: 6.1.1-1\nArchitecture: amd64\nFilename: pool/{name}.deb\nSize: 5\n"
            f"SHA256: {'a' * 64}\nDepends: linux-modules-{KERNEL}, kmod\n"
        )

    names = ("linux-headers-x", f"linux-image-{KERNEL}", f"linux-image-{KERNEL}-dbg", f"linux-modules-{KERNEL}")
    content = "\n".join(map(stanza, names)).encode()
    found = list(parse_packages(parse_line("deb http://x y main"), io.BytesIO(content), IMAGES))
    assert [one.name for one in found] == [names[1], names[3]]
    assert [need.name for group in found[0].needs for need in group] == [f"linux-modules-{KERNEL}"]


@pytest.mark.parametrize(
    ("served", "version", "wanted"),
    [
        # Debian: the signed one, if it has the version of the headers.
        (
            {"linux-image-K": "2", "linux-image-K-unsigned": "2", "linux-image-J": "2"},
            "2",
            ["linux-image-K 2"],
        ),
        ({"linux-image-K": "1", "linux-image-K-unsigned": "2"}, "2", ["linux-image-K-unsigned 2"]),
        ({"linux-image-K": "1"}, "2", []),
        ({"linux-image-K": "1"}, "", ["linux-image-K 1"]),
        # Ubuntu: most modules are in packages of their own.
        (
            {"linux-image-unsigned-K": "2", "linux-modules-K": "2", "linux-modules-extra-K": "2"},
            "2",
            ["linux-image-unsigned-K 2", "linux-modules-K 2", "linux-modules-extra-K 2"],
        ),
        ({"linux-image-unsigned-K": "2"}, "2", []),
    ],
)
def test_the_packages_of_a_kernel_are_those_of_its_headers_version(served, version, wanted):
    entry = parse_line("deb http://x y main")
    packages = []
    for name, number in served.items():
        needs = ((Need(f"linux-modules-{KERNEL}"),),) if "unsigned-K" in name else ()
        name = re.sub("K(?=$|-)", KERNEL, name)
        packages.append(AptPackage(name, number, "amd64", f"http://x/{name}", "a" * 64, 1, needs))
    kernel = KernelOffer(KernelRelease(KERNEL), "x86_64", "apt", ())
    found = apt._image_packages(AptIndex(entry, tuple(packages), {}), kernel, version, Progress())
    assert [f"{one.name} {one.version}" for one in found] == [re.sub("K(?=$|-| )", KERNEL, one) for one in wanted]


def report(number: int, *results: tuple[str, str, str], failure: str = "") -> BootReport:
    kernel = f"6.1.0-{number}-amd64"
    loads = [
        LoadResult(module=m, path=f"/lib/{m}.ko", kernel=kernel, ending=ending, reason=reason, log=("\x1b[31mred",))  # type: ignore[arg-type]
        for m, ending, reason in results
    ]
    facts = {"image": "linux-image", "seconds": 7.2, "accelerator": "tcg"}
    return BootReport.model_validate({"kernel": kernel, **facts, "results": loads, "failure": failure})


def test_a_table_fits_the_terminal_and_nothing_drives_it(capsys):
    odd = "a-module-with-quite-a-long-name"
    reports = [report(n, (odd, "loaded", ""), ("acme", "oops", "BUG: \x1b[2J\x07")) for n in range(12)]
    show(reports, json_lines=False, verbose=True)
    out = click.unstyle(capsys.readouterr().out)
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "\x1b" not in out and "\x07" not in out and "\\x1b[2J" in out
    assert out.count("acme: oops in 12 kernels") == 1
    header = next(line for line in out.splitlines() if line.startswith("MODULE"))
    assert header.split() == ["MODULE", "1", "2", "3", "4"]


def test_what_is_wrong_is_said_in_few_words():
    assert summary(report(1, ("a", "loaded", ""), ("b", "no device", "No such device"))) == ""
    bad = report(1, ("a", "loaded", ""), ("b", "refused", "why"))
    assert summary(bad) == "1 of 2 modules did not load: b (refused)"
    assert [is_bad(one) for one in bad.results] == [False, True]
    assert summary(report(1, failure="the kernel did not come up\nmore")) == "the kernel did not come up"


def test_boots_come_in_their_order_and_one_that_fails_ends_all():
    assert list(side_by_side(lambda n: n * n, [3, 1, 2], 2)) == [(3, 9), (1, 1), (2, 4)]

    def broken(number: int) -> int:
        raise InputError("no")

    with pytest.raises(InputError):
        list(side_by_side(broken, [1, 2], 2))
    assert workers(3, 64) >= 1
    assert workers(3, 1 << 30) == 1


def test_a_path_that_leads_out_of_its_package_is_refused():
    regular, link = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777
    out = [(("/lib/modules/../../init",), regular, b"")]
    through = [(("/lib/firmware/x",), link, b"/"), (("/usr/lib/firmware/x/init",), regular, b"")]
    for files in (out, through):
        with pytest.raises(InputError, match=r"evil\.deb: .*init leads out of its folder"):
            list(checked(Path("evil.deb"), files))
    assert [file.path for file in checked(Path("good.deb"), through[:1])] == ["/usr/lib/firmware/x"]
