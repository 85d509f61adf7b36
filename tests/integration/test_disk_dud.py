"""Driver updates of SUSE with real packages, zypper, rpm, cpio and modinfo. The installers themselves are stand-ins,
which follow the rules of linuxrc (util.c) and Agama (agama-dud-apply.sh).
"""

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pkgkmod.command import run
from pkgkmod.data.distros import find_distro
from pkgkmod.errors import InputError
from pkgkmod.media.carriers.iso import write_iso
from pkgkmod.media.folder import set_times
from pkgkmod.media.layouts.dud import AgamaLayout, LinuxrcLayout
from pkgkmod.media.packages import read_packages
from pkgkmod.model.disk import DiskRelease
from pkgkmod.model.packaging import Disk
from pkgkmod.plugins import DiskDraft
from pkgkmod.progress import Progress
from tests.fixtures import stubkernels
from tests.fixtures.families import Made, family
from tests.fixtures.machine import hello, need, pkgkmod
from tests.fixtures.rpmrepo import SUSE
from tests.fixtures.rpmroots import ScratchRoot, repository, zypper
from tests.fixtures.stubkernels import Package

EPOCH = 1_700_000_000
SP6, SP6_NEXT, SP7 = "6.4.0-150600.21-default", "6.4.0-150600.23.47-default", "6.4.0-150700.51-default"
TW, SLES16 = "6.12.1-1-default", "6.12.0-160000.5-default"
LAYOUTS = (LinuxrcLayout(), AgamaLayout())
PACKERS = {"": (), ".xz": ("xz", "--check=crc32"), ".gz": ("gzip", "-n"), ".zst": ("zstd", "-q", "--rm")}


def call(*argv, **more):
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def modinfo(file, what):
    return call("modinfo", "-F", what, file).strip()


def runner(folder):
    return lambda command: run(command, log=folder / "log", progress=Progress())


def object_file(folder, name, kernel, depends=""):
    """Make a module in the eyes of kmod: an ELF object with a section .modinfo."""
    need("gcc")
    facts = {
        "license": "GPL",
        "name": name.replace("-", "_"),
        "vermagic": f"{kernel} SMP mod_unload",
        "depends": depends,
    }
    words = "".join(rf"{key}={value}\0" for key, value in facts.items())
    source = folder / f"{name}.c"
    source.write_text(f'__attribute__((section(".modinfo"), used)) static const char info[] = "{words}";\n')
    call("gcc", "-c", "-o", folder / f"{name}.ko", source)
    return folder / f"{name}.ko"


def kmp(folder, kernel, modules, name="hello-kmp-default", packed="", other=""):
    """Build a package of module objects with the real rpmbuild; `modules` maps names to what they depend on.

    `other` is a kernel for which the package has the same files.
    """
    need("rpmbuild", "modinfo")
    place = folder / f"{name}-{kernel}"
    tree = place / "tree"
    updates = tree / f"lib/modules/{kernel}/updates"
    updates.mkdir(parents=True)
    for module, depends in modules.items():
        shutil.copy(object_file(place, module, kernel, depends), updates)
        if packed:
            call(*PACKERS[packed], updates / f"{module}.ko")
    if other:
        shutil.copytree(tree / f"lib/modules/{kernel}", tree / f"lib/modules/{other}")
    version = f"1.0_k{kernel.removesuffix('-default').replace('-', '_')}"
    paths = tuple(f"/{path.relative_to(tree)}" for path in sorted(tree.glob("lib/modules/*/updates/*")))
    stubkernels.build(place, f"{version}-1", Package(name, files=paths), tree=tree)
    (made,) = place.glob("x86_64/*.rpm")
    return made


def releases(tmp_path, files):
    """Read package files by distribution."""
    paths = [file for ones in files.values() for file in ones]
    packages = {one.path: one for one in read_packages(paths, runner(tmp_path), Progress())}
    return [DiskRelease(find_distro(name), tuple(packages[file] for file in ones)) for name, ones in files.items()]


def written(folder, wanted):
    """Lay out a disk for releases, as a disk is made."""
    folder.mkdir(parents=True)
    scratch = folder.with_name(f"{folder.name}-scratch")
    scratch.mkdir()
    draft = DiskDraft(folder, scratch, "hello 1.0", EPOCH, runner(scratch))
    for layout in LAYOUTS:
        ones = [one for one in wanted if layout.name in one.distro.installers]
        if ones:
            layout.write(ones, draft)
    assert list(scratch.iterdir()) == []
    set_times(folder, EPOCH)
    return folder


def cpio(folder):
    """Pack a folder and unpack it again with the real cpio, in a folder beside it."""
    need("cpio")
    names = "\n".join(sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))) + "\n"
    argv = ["cpio", "--quiet", "-o", "-H", "newc"]
    packed = subprocess.run(argv, cwd=folder, input=names.encode(), stdout=subprocess.PIPE, check=True).stdout
    copy = folder.with_name(f"{folder.name}-unpacked")
    copy.mkdir()
    subprocess.run(["cpio", "--quiet", "-idm"], cwd=copy, input=packed, check=True)
    return copy


def series(kernel):
    """Return what kernels have in common that take each other's modules."""
    return re.sub(r"(-\d+)\..*", r"\1", kernel)


@dataclass
class LinuxrcStandIn:
    """Applies the updates of a disk in the order, and by the rules, of linuxrc; insmod needs what it depends on."""

    scratch: Path
    product: str
    kernel: str
    own: tuple[str, ...] = ("x_tables",)
    """Modules that the kernel brings."""
    links: dict[str, Path] = field(default_factory=dict)
    loaded: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def apply(self, disk):
        """Copy the updates to /update, then configure and load one after the other."""
        binaries = self.scratch / "bin"
        binaries.mkdir(parents=True)
        (binaries / "uname").write_text(f"#!/bin/sh\necho {self.kernel}\n")
        (binaries / "uname").chmod(0o755)
        numbered = sorted((path for path in disk.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
        seen = set()
        for parent in (disk, *numbered):
            update = parent / "linux/suse" / f"x86_64-{self.product}"
            if update.is_dir() and (name := self.config(update)["UpdateID"][0]) not in seen:
                shutil.copytree(update, self.scratch / f"update/{len(seen):03}")
                seen.add(name)
        for update in sorted(self.scratch.glob("update/*")):
            self.load(update)
        return self

    @staticmethod
    def config(update):
        lines = (line.partition(":") for line in (update / "dud.config").read_text().splitlines())
        found = {}
        for key, _, value in lines:
            found.setdefault(key, []).append(value.strip())
        return found

    def load(self, update):
        for command in self.config(update).get("Exec", ()):
            here = command.replace("/update/", f"{self.scratch}/update/")
            subprocess.run(here, shell=True, check=True, env={"PATH": f"{self.scratch}/bin:/usr/bin:/bin"})
        order = update / "modules/module.order"
        names = order.read_text().split() if order.exists() else []
        for name in names:
            for ending in (".ko.xz", ".ko.gz", ".ko.zst", ".ko"):
                if (update / f"modules/{name}{ending}").exists():
                    self.links[name] = update / f"modules/{name}{ending}"
        for name in reversed(names):
            self.loaded.pop(name, None)
        for name in names:
            self.insmod(name)

    def insmod(self, name):
        if name not in self.links:
            if name in self.own:
                self.loaded[name] = self.kernel
            return
        vermagic = modinfo(self.links[name], "vermagic").split()[0]
        needed = {one.replace("_", "-") for one in modinfo(self.links[name], "depends").split(",") if one}
        known = {one.replace("_", "-") for one in self.loaded}
        if series(vermagic) == series(self.kernel) and needed <= known:
            self.loaded[name] = vermagic
        else:
            self.failed.append(name)

    @property
    def packages(self):
        """What YaST installs at the end."""
        return sorted(path.name for path in self.scratch.glob("update/*/install/*.rpm"))


def agama_stand_in(disk):
    """Return the packages, the modules and their order as Agama takes them: of the first folder of the machine."""
    packages, modules, order = [], {}, []
    for parent in (disk / "linux/suse", *sorted(disk.glob("[0-9]*/linux/suse"))):
        for update in sorted(parent.glob("x86_64-*"))[:1]:
            packages += sorted(path.name for path in update.glob("install/*.rpm"))
            modules |= {path.name: path for path in update.glob("modules/*.ko*")}
            order += (update / "modules/module.order").read_text().splitlines()
    return packages, modules, order


MODULES = {"hello": "hello-common,x_tables", "hello-common": ""}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Packages for the kernels of all of SUSE's releases."""
    folder = tmp_path_factory.mktemp("packages")
    return {kernel: kmp(folder, kernel, MODULES) for kernel in (SP6, SP6_NEXT, SP7, TW, SLES16)}


@pytest.fixture(scope="module")
def disk(made, tmp_path_factory):
    """One disk for all of them."""
    files = {
        "sle15sp6": [made[SP6], made[SP6_NEXT]],
        "sle15sp7": [made[SP7]],
        "sles16": [made[SLES16]],
        "tumbleweed": [made[TW]],
    }
    folder = tmp_path_factory.mktemp("disk")
    return written(folder / "it", releases(folder, files))


@pytest.mark.parametrize(
    ("product", "running", "taken"),
    [
        ("sles15", SP6, SP6),
        ("sled15", "6.4.0-150600.22.1-default", SP6),
        ("sles15", SP6_NEXT, SP6_NEXT),
        ("sles15", "6.4.0-150600.23.100-default", SP6_NEXT),
        ("sles15", SP7, SP7),
        ("sled15", "6.4.0-150700.53.3-default", SP7),
        ("tw", TW, TW),
    ],
)
def test_a_stand_in_of_linuxrc_loads_and_installs_what_is_for_its_kernel(made, disk, tmp_path, product, running, taken):
    done = LinuxrcStandIn(tmp_path, product, running).apply(disk)
    assert done.loaded == {"x_tables": running, "hello-common": taken, "hello": taken}
    assert done.failed == []
    assert done.packages == [made[taken].name]


def test_a_stand_in_of_linuxrc_finds_the_updates_under_all_names_on_a_real_iso_image(made, disk, tmp_path):
    need("xorriso")
    image, copy = tmp_path / "it.iso", tmp_path / "copy"
    write_iso(disk, image, label="OEMDRV", epoch=EPOCH, scratch=tmp_path, run=runner(tmp_path))
    call("xorriso", "-osirrox", "on", "-indev", image, "-extract", "/", copy)
    done = LinuxrcStandIn(tmp_path / "installer", "sled15", SP7).apply(copy)
    assert (done.loaded["hello"], done.packages) == (SP7, [made[SP7].name])
    for place in (copy / "linux/suse/x86_64-tw", copy / "linux/suse/x86_64-opensuse-tumbleweed"):
        assert (place / "modules/hello.ko").is_file()


def test_a_stand_in_of_linuxrc_takes_nothing_that_is_for_another_kernel(disk, tmp_path):
    done = LinuxrcStandIn(tmp_path / "sp5", "sles15", "5.14.21-150500.53-default").apply(disk)
    assert (done.loaded, done.packages) == ({}, [])
    done = LinuxrcStandIn(tmp_path / "leap", "leap15.5", "5.14.21-150500.53-default").apply(disk)
    assert (done.loaded, done.packages) == ({}, [])


def test_modinfo_reads_every_module_of_the_disk(disk):
    modules = sorted(disk.rglob("modules/*.ko"))
    assert len({path.parent for path in modules}) == 5
    for module in modules:
        assert modinfo(module, "name") == module.stem.replace("-", "_")
        (package,) = (module.parents[1] / "install").glob("*.rpm")
        kernel = modinfo(module, "vermagic").split()[0]
        assert f"/lib/modules/{kernel}/updates/{module.name}" in call("rpm", "-qlp", "--nosignature", package)


@pytest.mark.parametrize(
    ("distro", "kernel", "names"),
    [
        ("sles16", SLES16, ["x86_64-sles16.0"]),
        ("tumbleweed", TW, ["x86_64-opensuse-tumbleweed", "x86_64-tw"]),
    ],
)
def test_a_stand_in_of_agama_takes_the_modules_of_a_dud_that_real_cpio_has_unpacked(
    made, tmp_path, distro, kernel, names
):
    folder = cpio(written(tmp_path / "dud", releases(tmp_path, {distro: [made[kernel]]})))
    assert sorted(path.name for path in (folder / "linux/suse").iterdir()) == names
    packages, modules, order = agama_stand_in(folder)
    assert packages == [made[kernel].name]
    assert order == ["hello-common", "x_tables", "hello"]
    assert {name: modinfo(path, "vermagic").split()[0] for name, path in modules.items()} == {
        "hello.ko": kernel,
        "hello-common.ko": kernel,
    }


def test_one_dud_serves_both_service_packs_and_the_stand_in_of_linuxrc_reads_it_back(made, tmp_path):
    files = {"sle15sp6": [made[SP6]], "sle15sp7": [made[SP7]]}
    folder = cpio(written(tmp_path / "dud", releases(tmp_path, files)))
    for kernel in (SP6, SP7):
        done = LinuxrcStandIn(tmp_path / kernel, "sles15", kernel).apply(folder)
        assert (done.loaded["hello"], done.packages) == (kernel, [made[kernel].name])


def test_the_same_packages_make_the_same_bytes_wherever_and_in_whatever_order_they_are(
    made, disk, tmp_path, monkeypatch
):
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    elsewhere = {kernel: tmp_path / "b" / file.name for kernel, file in made.items()}
    (tmp_path / "b").mkdir()
    for kernel, file in made.items():
        shutil.copy(file, elsewhere[kernel])
    files = {
        "tumbleweed": [elsewhere[TW]],
        "sles16": [elsewhere[SLES16]],
        "sle15sp7": [elsewhere[SP7]],
        "sle15sp6": [elsewhere[SP6_NEXT], elsewhere[SP6]],
    }
    other = written(tmp_path / "it", releases(tmp_path, files))
    call("diff", "-r", "--no-dereference", disk, other)
    facts = "%P %y %m %s %l %T@\n"
    assert sorted(call("find", disk, "-mindepth", "1", "-printf", facts).splitlines()) == sorted(
        call("find", other, "-mindepth", "1", "-printf", facts).splitlines()
    )


@pytest.mark.parametrize("packed", PACKERS)
def test_modules_are_plain_on_the_disk_however_they_are_packed_in_the_package(tmp_path, packed):
    if packed:
        need(PACKERS[packed][0])
    file = kmp(tmp_path, SP6, {"hello": ""}, packed=packed)
    folder = written(tmp_path / "disk", releases(tmp_path, {"sle15sp6": [file]}))
    original = tmp_path / f"hello-kmp-default-{SP6}/hello.ko"
    assert (folder / "linux/suse/x86_64-sles15/modules/hello.ko").read_bytes() == original.read_bytes()


def test_of_a_package_for_two_flavours_the_modules_for_the_installers_are_on_the_disk(tmp_path):
    file = kmp(tmp_path, SP6, {"hello": ""}, other=SP6.replace("default", "rt"))
    (release,) = releases(tmp_path, {"sle15sp6": [file]})
    assert release.packages[0].kernels == (SP6, SP6.replace("default", "rt"))
    folder = written(tmp_path / "disk", [release])
    assert sorted(path.name for path in folder.rglob("modules/*")) == ["hello.ko", "module.order"]


def test_firmware_that_an_installer_would_not_see_is_named(tmp_path):
    tree = tmp_path / "tree"
    for name in ("a.bin", "b.bin"):
        (tree / "usr/lib/firmware/hello").mkdir(parents=True, exist_ok=True)
        (tree / f"usr/lib/firmware/hello/{name}").write_text("firmware")
    stubkernels.build(tmp_path, "1.0-1", Package("hello-firmware", files=("/usr/lib/firmware/hello",)), tree=tree)
    (file,) = tmp_path.glob("x86_64/*.rpm")
    (found,) = LinuxrcLayout().check(releases(tmp_path, {"sle15sp6": [file]}), Disk())
    assert (found.code, found.subject) == ("DISK050", file.name)
    assert "/usr/lib/firmware/hello/a.bin in the installer, and 1 more" in found.text


def test_a_package_that_was_damaged_after_it_was_read_is_an_error(made, tmp_path):
    copy = shutil.copy(made[SP6], tmp_path / "hello.rpm")
    wanted = releases(tmp_path, {"sle15sp6": [copy]})
    copy.write_bytes(copy.read_bytes()[:-2000])
    with pytest.raises(InputError, match="cannot be read as an RPM"):
        written(tmp_path / "disk", wanted)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A KMP of the example driver as pkgkmod makes it, and a disk with it."""
    folder = tmp_path_factory.mktemp("real")
    project = family(folder / "project", hello(folder / "hello-repository"), "sle15sp6")
    pkgkmod("build_rpm", cwd=project)
    package = Made(project, "sle15sp6").packages["hello-kmp-default"]
    disk = written(folder / "disk", releases(folder, {"sle15sp6": [package]}))
    return package, disk / "linux/suse/x86_64-sles15"


def test_a_real_kmp_has_its_module_on_the_disk_as_it_is_in_the_package(real):
    package, update = real
    assert sorted(path.name for path in update.iterdir()) == ["dud.config", "install", "modules"]
    call("cmp", update / f"install/{package.name}", package)
    archive = subprocess.run(["rpm2cpio", package], stdout=subprocess.PIPE, check=True).stdout
    path = f"./lib/modules/{SUSE}/updates/hello/hello.ko"
    taken = subprocess.run(["cpio", "--quiet", "-i", "--to-stdout", path], input=archive, stdout=subprocess.PIPE)
    assert (update / "modules/hello.ko").read_bytes() == taken.stdout
    assert (update / "modules/module.order").read_text() == "hello\n"
    assert modinfo(update / "modules/hello.ko", "vermagic").split()[0] == SUSE


def test_zypper_installs_a_real_kmp_from_the_folder_itself_on_the_stub_kernel_of_suse(real, tmp_path):
    _, update = real
    root = ScratchRoot(tmp_path / "root")
    kernel = repository(tmp_path / "repository", stubkernels.base_system(), *stubkernels.suse().packages)
    call("zypper", "--root", root.folder, "addrepo", "-t", "plaindir", f"dir:{update}/install", "DriverUpdate0")
    done = zypper(root, kernel, "install", "--no-recommends", "hello-kmp-default", "kernel-default")
    assert done.accepted, done.text
    assert done.names() == {"base-system", "kernel-default", "hello-kmp-default"}
    assert (root / f"lib/modules/{SUSE}/updates/hello/hello.ko").is_file()


@pytest.mark.parametrize("fits", [True, False])
def test_rpm_installs_all_packages_of_the_update_as_yast_does_or_none_on_another_stub_kernel(real, tmp_path, fits):
    """YaST runs `rpm -Uv --force *.rpm` in install/ (yast-installation, modules/Vendor.rb)."""
    _, update = real
    root = ScratchRoot(tmp_path / "root")
    kernel = stubkernels.suse() if fits else stubkernels.suse(changed=("_printk",))
    packages = repository(tmp_path / "repository", stubkernels.base_system(), *kernel.packages)
    assert zypper(root, packages, "install", "base-system", "kernel-default").accepted
    words = ["--root", str(root.folder), "--dbpath", "/var/lib/rpm", "--force-debian", "--nosignature"]
    files = sorted(str(path) for path in (update / "install").glob("*.rpm"))
    done = subprocess.run(["rpm", *words, "-Uv", "--force", *files], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is fits, done.stderr
    assert ("is needed by hello-kmp-default" in done.stderr) is not fits
    assert (root / f"lib/modules/{SUSE}/updates/hello/hello.ko").is_file() is fits
