"""Modules loaded in real kernels in a real QEMU: packaged ones, and those that break, hang, refuse and lie."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pkgkmod.boot import qemu
from pkgkmod.boot.initramfs import Orders, write_initramfs
from pkgkmod.boot.installed import Cargo, cargo_for, read_contents
from pkgkmod.boot.kernelmodules import KernelModules
from pkgkmod.boot.qemu import Machine
from pkgkmod.data import load
from pkgkmod.errors import ExitCode, InputError
from pkgkmod.kernels.images import KernelImage, find_image
from pkgkmod.kernels.rpmmd import RpmMdKernels
from pkgkmod.kernels.store import Store
from pkgkmod.model.kernel import Kernel
from pkgkmod.modules.kernelside import kernel_side
from pkgkmod.modules.kmod_deps import read_module
from pkgkmod.progress import Progress
from pkgkmod.signing import keys
from pkgkmod.signing.modules import sign_module
from tests.fixtures.bootkernels import (
    archive_project,
    booted,
    booting_tools,
    cloud_kernel,
    kept_kernels,
    kernels_here,
    logged,
    module_sources,
)
from tests.fixtures.debroots import build_package
from tests.fixtures.machine import CHECKOUT, lacking, need, pkgkmod
from tests.fixtures.packaging import make_project
from tests.fixtures.rpmrepo import build_rpm, publish
from tests.fixtures.signing import new_key

CONTROL = """\
Package: {name}
Version: 1-1
Architecture: amd64
Maintainer: A Packager <packager@example.org>
Description: modules
"""


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    kept_kernels(monkeypatch)


@pytest.fixture
def kernel() -> Kernel:
    """The smallest kernel that there is."""
    booting_tools()
    (found,) = kernels_here(cloud_kernel())
    return found


@pytest.fixture
def image(kernel: Kernel) -> KernelImage:
    """The same, as it is booted."""
    return find_image(kernel, archive_project(), Path("/"), Progress())


def deb(folder: Path, name: str, files: dict[str, Path | str]) -> Path:
    """Build a package of files and texts, by the paths at which they are installed."""
    root = folder / f"{name}.root"
    for path, content in {"/DEBIAN/control": CONTROL.format(name=name), **files}.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, place)
        else:
            place.write_text(content)
    made = folder / f"{name}_1-1_amd64.deb"
    subprocess.run(["dpkg-deb", "--build", "-Zgzip", root, made], check=True, capture_output=True)
    return made


def own_module(image: KernelImage, name: str) -> Path:
    """Return a module of the kernel's own."""
    return next(file for folder in image.modules for file in folder.glob(f"kernel/**/{name}.ko*"))


def test_a_kernel_loads_what_its_packages_bring_where_they_bring_it(tmp_path, kernel, image):
    modules = module_sources(kernel.uname_r)
    top = f"/lib/modules/{kernel.uname_r}"
    dummy, ifb = own_module(image, "dummy"), own_module(image, "ifb")
    package = deb(
        tmp_path,
        "acme",
        {
            f"{top}/updates/acme/good.ko": modules / "good.ko",
            f"/usr{top}/updates/acme/builds_on_good.ko": modules / "builds_on_good.ko",
            # Where depmod looks last on Debian: with an override the first one stands before the kernel's own.
            f"{top}/extra/{dummy.name}": dummy,
            "/etc/depmod.d/acme.conf": "override dummy * extra\n",
            f"{top}/extra/{ifb.name}": ifb,
            "/lib/modprobe.d/acme.conf": "options dummy numdummies=3\n",
            "/etc/cron.d/acme": "no concern of the kernel's\n",
        },
    )
    forged = [modules / "lies.ko", modules / "refuses.ko"]
    report = booted(kernel, [package, *forged], tmp_path)
    assert not report.failure and report.kernel == kernel.uname_r and report.accelerator in ("kvm", "tcg")
    found = {result.module: result for result in report.results}
    endings = {name: result.ending for name, result in found.items()}
    assert endings == {
        "builds_on_good": "loaded",
        "dummy": "loaded",
        "good": "loaded",
        "ifb": "not tried",
        "lies": "refused",
        "refuses": "refused",
    }
    assert found["dummy"].path == f"{top}/extra/{dummy.name}" and found["dummy"].unloaded
    assert found["ifb"].reason == f"{top}/kernel/{ifb.relative_to(image.modules[0] / 'kernel')} was loaded in its place"
    assert found["builds_on_good"].needs == ("good",)
    assert found["good"].log[-1] == "good: here"
    assert found["refuses"].reason == "its own init returned -1: Operation not permitted"
    # It printed lines that look like results, and that drive a terminal.
    assert found["lies"].reason == "its own init returned -16: Device or resource busy"
    assert {"status 0", "begin good", "\x1b[2J\x1b]0;owned\x07\x1b[31mred"} <= set(found["lies"].log)


@pytest.mark.slow
def test_modules_that_break_or_hold_up_the_kernel_are_named_and_the_others_are_tried(tmp_path, kernel):
    modules = module_sources(kernel.uname_r)
    report = booted(kernel, sorted(modules.glob("*.ko")), tmp_path, limit=20)
    found = {result.module: result for result in report.results}
    assert {name: result.ending for name, result in found.items()} == {
        "breaks": "oops",
        "builds_on_good": "loaded",
        "good": "loaded",
        "lies": "refused",
        "panics": "oops",
        "refuses": "refused",
        "resets": "oops",
        "sleeps": "timeout",
        "spins": "timeout",
    }
    assert found["breaks"].reason.startswith("BUG: kernel NULL pointer dereference")
    assert any("breaks_init" in line for line in found["breaks"].log)
    assert found["panics"].reason == "Kernel panic - not syncing: panics: because it can"
    assert found["sleeps"].reason == "it did not come back within 20 s"
    assert any("sleeps_init" in line for line in found["sleeps"].log)
    assert found["resets"].reason == "the machine ended without a word"
    assert found["spins"].reason == "it kept the processor for itself"
    # One boot for each module that ended it, and another one for the one that did so without a word.
    assert len(list((tmp_path / "said").glob("results-*.log"))) == 6


def test_the_command_says_what_came_of_it_and_ends_with_24(tmp_path, kernel):
    modules = module_sources(kernel.uname_r)
    files = (modules / "good.ko", modules / "refuses.ko")
    plan = pkgkmod("boot", "-n", "--json", *files, cwd=tmp_path).events
    assert [(one["kernel"], one["modules"]) for one in plan] == [(kernel.uname_r, ["good", "refuses"])]
    done = pkgkmod("boot", "--keep", "--quiet", *files, cwd=tmp_path, code=ExitCode.BOOT)
    assert [line.split() for line in done.out.splitlines() if line.startswith(("good ", "refuses "))] == [
        ["good", "loaded"],
        ["refuses", "refused"],
    ]
    assert all(len(line) <= 80 for line in done.out.splitlines())
    assert "1 module did not load in 1 kernel" in done.err
    kept = sorted(file.name for file in (tmp_path / f"boot-{kernel.uname_r}").iterdir())
    assert kept == ["command-1.txt", "console-1.log", "initrd-1", "results-1.log"]
    wrong = pkgkmod("boot", "--module", "refuse", *files, cwd=tmp_path, code=ExitCode.USAGE)
    assert "no package has the module 'refuse'" in wrong.err and "did you mean 'refuses'?" in wrong.err
    (tmp_path / "vmlinuz").write_bytes(os.urandom(100_000))
    named = ("--image", "vmlinuz", "--kernel", kernel.uname_r)
    failed = pkgkmod("boot", "--json", *named, *files, cwd=tmp_path, code=ExitCode.BOOT).events
    (report,) = [event for event in failed if event["event"] == "boot"]
    assert str(report["failure"]).startswith("the kernel did not come up") and report["ok"] is False


def test_a_project_is_booted_once(tmp_path, kernel, hello):
    need("bwrap", "make", "dh")
    folder = tmp_path / "project"
    folder.mkdir()
    pkgkmod("init", "--name", "hello", "--distro", "debian12", "--kernel", kernel.uname_r, cwd=folder)
    nothing = pkgkmod("boot", cwd=folder, code=ExitCode.USAGE)
    assert "nothing has been packaged yet" in nothing.err
    where = ("-g", hello.repository, "-r", hello.commit, "-d", hello.directory)
    pkgkmod("prepare_sources", *where, cwd=folder)
    pkgkmod("build_deb", cwd=folder)
    (load, report) = pkgkmod("boot", "--json", cwd=folder).events[-2:]
    assert (load["module"], load["ending"], report["failure"]) == ("hello", "loaded", "")
    again = pkgkmod("boot", cwd=folder)
    assert "--again boots it again" in again.err and "Booting" not in again.err
    status = pkgkmod("status", cwd=folder).out
    assert f"boot {kernel.uname_r}" in status


@pytest.mark.slow
def test_a_kernel_that_enforces_signatures_trusts_the_projects_key_and_no_other(tmp_path, kernel):
    need("openssl")
    if not Path("/usr/share/OVMF/OVMF_CODE_4M.fd").exists():
        lacking("the firmware OVMF is not installed")
    made = new_key(tmp_path / "key", "Boot test")
    key = keys.load_key(str(made.key), made.certificate, tmp_path)
    modules, signed = module_sources(kernel.uname_r), tmp_path / "good.ko"
    signed.write_bytes(sign_module((modules / "good.ko").read_bytes(), key, "sha256"))
    ours = ("-C", f"signing.module_key={made.key}", "-C", f"signing.module_certificate={made.certificate}")
    argv = ("boot", "--enforce", "--json", signed, modules / "refuses.ko")
    events = pkgkmod(*ours, *argv, cwd=tmp_path, code=ExitCode.BOOT).events
    loads = {event["module"]: event for event in events if event["event"] == "load"}
    assert loads["good"]["ending"] == "loaded"
    assert (loads["refuses"]["ending"], loads["refuses"]["started"]) == ("refused", False)
    assert loads["refuses"]["reason"] == "Loading of unsigned module is rejected"
    (report,) = [event for event in events if event["event"] == "boot"]
    assert report["enforced"] and report["trusts_key"]
    # Nobody's key: the refusal is what is expected, and it is said why.
    unknown = pkgkmod("boot", "--enforce", signed, cwd=tmp_path, code=ExitCode.BOOT)
    assert "Loading of module with unavailable key is rejected" in unknown.out
    assert "the kernels did not trust the key" in unknown.out


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_machines_end_with_the_command(tmp_path, kernel, end):
    module = module_sources(kernel.uname_r) / "sleeps.ko"
    argv = [sys.executable, "-m", "pkgkmod", "boot", "--time-limit", "600", str(module)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(tmp_path)}
    told = {"stderr": subprocess.PIPE, "text": True}
    # What runs in the background, such as CI, may not hear of Ctrl-C; the command under test is to hear it.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    with subprocess.Popen(argv, cwd=tmp_path, env=environment, **told, **heard) as process:
        wait_for(lambda: bool(machines_in(tmp_path) and list(tmp_path.glob("pkgkmod-boot-*/results.log"))))
        process.send_signal(end)
        assert process.wait(timeout=30) == (ExitCode.INTERRUPTED if end == signal.SIGINT else -end)
    wait_for(lambda: not machines_in(tmp_path))
    assert end == signal.SIGKILL or not list(tmp_path.glob("pkgkmod-boot-*"))


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so, and fail if it never is."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def machines_in(folder: Path) -> list[str]:
    """Return the processes that work in a folder below this one."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (place / "cwd").readlink().is_relative_to(folder) and "qemu" in (place / "cmdline").read_text():
                found.append(place.name)
    return found


def test_whether_an_accelerator_works_is_tried_with_a_real_machine(monkeypatch):
    booting_tools()
    monkeypatch.setattr(qemu, "_known", {})
    facts = load("machines.toml")["x86_64"]
    assert Machine("x86_64", facts)._works("tcg", confined=False)
    # A machine that goes on for ever is stopped, and another end than the right one is none.
    monkeypatch.setattr(qemu, "_PATIENCE", 2)
    for wrong in ({"probe": "ebfe"}, {"probe_exit": 3}):
        monkeypatch.setattr(qemu, "_known", {})
        assert not Machine("x86_64", {**facts, **wrong})._works("tcg", confined=False)


def test_of_the_kernels_own_modules_those_are_taken_that_ours_need(image, kernel):
    modules = KernelModules(image.modules)
    (nat,) = (read_module(str(own_module(image, "nft_nat"))),)
    names = {Path(path).name.partition(".")[0] for path, _ in modules.chosen([nat], kernel_side(kernel).exports)}
    assert {"nft_nat", "nf_tables", "nf_nat", "nf_conntrack", "libcrc32c"} <= names
    # It asks for algorithms by their names, which no dependency tells.
    assert "adiantum" in names
    assert len(names) < 150 and "virtio_net" not in names


def test_the_same_files_make_the_same_file_system(tmp_path, image, kernel):
    contents = read_contents([module_sources(kernel.uname_r) / "good.ko"], logged(tmp_path))
    cargo = cargo_for(contents, kernel.uname_r, links=True)
    orders = Orders("00", "ttyS1", 10, ("good",))
    made = []
    for name in ("one", "two"):
        write_initramfs(tmp_path / name, image, cargo, None, orders)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    listed = subprocess.run(["zcat", tmp_path / "one"], capture_output=True, check=True).stdout
    names = subprocess.run(["cpio", "-it", "--quiet"], input=listed, capture_output=True, check=True).stdout.split()
    assert b"init" in names and f"usr/lib/modules/{kernel.uname_r}/updates/good.ko".encode() in names


def test_packages_whose_files_lie_in_each_other_are_refused(tmp_path, image, kernel):
    top = f"/lib/modules/{kernel.uname_r}/updates"
    one = deb(tmp_path, "one", {f"{top}/a": "a file"})
    other = deb(tmp_path, "other", {f"{top}/a/b.ko": "a file in that file"})
    cargo = cargo_for(read_contents([one, other], logged(tmp_path)), kernel.uname_r)
    with pytest.raises(InputError, match="both a file"):
        write_initramfs(tmp_path / "initrd", image, cargo, None, Orders("00", "ttyS1", 10, ()))


def test_a_link_of_a_package_leads_nowhere_else(tmp_path):
    build_package({"DEBIAN/control": CONTROL.format(name="evil"), "lib/firmware/x": ""}, tmp_path / "evil.deb")
    root = tmp_path / "root"
    subprocess.run(["dpkg-deb", "-R", tmp_path / "evil.deb", root], check=True)
    (root / "lib/firmware/x").unlink()
    (root / "lib/firmware/x").symlink_to("/")
    subprocess.run(["dpkg-deb", "--build", root, tmp_path / "evil.deb"], check=True, capture_output=True)
    (contents,) = read_contents([tmp_path / "evil.deb"], logged(tmp_path))
    (link,) = contents.files
    assert (link.path, link.content) == ("/usr/lib/firmware/x", b"/")
    assert cargo_for([contents], "6.1.0-1-amd64") == Cargo((link,), ())


def test_of_an_rpm_those_files_are_taken_that_matter_to_modules(tmp_path):
    need("rpmbuild")
    root, release = tmp_path / "tree", "5.14.0-427.el9.x86_64"
    contents = {
        f"lib/modules/{release}/extra/acme/acme.ko": b"the module",
        f"lib/modules/{release}/extra/acme/again.ko": b"",
        "usr/share/doc/acme/README": b"no concern of the kernel's",
    }
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / f"lib/modules/{release}/extra/acme/linked.ko").hardlink_to(root / next(iter(contents)))
    (root / f"lib/modules/{release}/extra/acme/link.ko").symlink_to("acme.ko")
    (package,) = read_contents([build_rpm(tmp_path, "kmod-acme", "1-1", root)], logged(tmp_path))
    assert package.releases == {release}
    top = f"/usr/lib/modules/{release}/extra/acme"
    assert {file.path: file.content for file in package.files} == {
        f"{top}/acme.ko": b"the module",
        f"{top}/again.ko": b"",
        f"{top}/link.ko": b"acme.ko",
        f"{top}/linked.ko": b"the module",
    }
    assert [stat.S_ISLNK(file.mode) for file in package.files if file.path.endswith("/link.ko")] == [True]


@pytest.mark.parametrize(
    ("devel", "packages"),
    [
        ("kernel-devel", ("kernel-core", "kernel-modules-core", "kernel-modules")),
        ("kernel-default-devel", ("kernel-default",)),
    ],
)
def test_a_kernel_of_a_stand_in_for_a_repository_of_red_hat_or_suse_is_found(
    tmp_path, image, monkeypatch, devel, packages
):
    need("rpmbuild", "createrepo_c", "rpm2archive")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    version = "5.14.0-427.el9"
    release = f"{version}.x86_64" if devel == "kernel-devel" else f"{version}-default"
    made = [
        build_rpm(tmp_path, devel, version, provides=(f"kernel-devel-uname-r = {release.replace('-default', '')}",))
        if devel == "kernel-devel"
        else build_rpm(tmp_path, devel, version, requires=(f"kernel-devel = {version}",)),
        build_rpm(tmp_path, "kernel-doc", version),
    ]
    if devel != "kernel-devel":
        made.append(
            build_rpm(tmp_path, "kernel-devel", version, arch="noarch", provides=(f"kernel-devel = {version}",))
        )
    made += [_kernel_rpm(tmp_path, name, version, release, image) for name in packages]
    made.append(build_rpm(tmp_path, packages[0], "5.14.0-428.el9"))  # a newer one, which is not meant
    settings = {"repositories": [{"baseurl": publish(tmp_path / "repository", *made)}]}
    offers = list(RpmMdKernels().offers(settings, Path("/"), ask=True, progress=Progress()))
    offer = next(one for one in offers if one.packages[0].version == version)
    project = make_project().model_copy(update={"plugin": {"rpm-md": settings}})
    found = find_image(offer, project, Path("/"), Progress())
    assert found.file.read_bytes() == image.file.read_bytes()
    assert found.shown == f"{packages[0]} {version}"
    assert found.file.is_relative_to(Store().folder)
    assert {one.package.name for one in Store().entries()} >= set(packages)


def _kernel_rpm(folder: Path, name: str, version: str, release: str, image: KernelImage) -> Path:
    """Build a package with the kernel of Debian, or a module of it, where Red Hat and SUSE have theirs."""
    place = folder / f"{name}.tree/lib/modules" / release
    (place / "kernel").mkdir(parents=True)
    if "modules" in name:
        shutil.copy(own_module(image, "dummy"), place / "kernel")
    else:
        shutil.copy(image.file, place / "vmlinuz")
    return build_rpm(folder, name, version, folder / f"{name}.tree")
