"""anaconda's driver disk with real packages: rpmbuild made them, createrepo_c and xorriso make the disk, dnf and zypper
install from it. anaconda itself is not at hand: a stand-in reads the disk by its rules.
"""

import functools
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pkgkmod.command import run
from pkgkmod.data.distros import find_distro
from pkgkmod.media.carriers.iso import write_iso
from pkgkmod.media.layouts.rhdd3 import AnacondaLayout
from pkgkmod.media.packages import read_packages
from pkgkmod.model.disk import DiskListing, DiskRelease
from pkgkmod.model.packaging import Disk
from pkgkmod.plugins import DiskDraft
from pkgkmod.progress import Progress
from tests.fixtures import stubkernels
from tests.fixtures.families import ask
from tests.fixtures.kabitrees import compiled_hello
from tests.fixtures.machine import need
from tests.fixtures.rpmrepo import EL, build_rpm
from tests.fixtures.rpmroots import ScratchRoot, dnf, repository, zypper
from tests.fixtures.stubkernels import EL_MINOR, EL_NEXT, Package, build

EPOCH = 1_700_000_000
LAYOUT = AnacondaLayout()


def called(*argv, **more):
    return subprocess.run([str(word) for word in argv], capture_output=True, check=True, **more).stdout


def kmod(folder, kernel, module, *, relation="=", release="1", root="lib", firmware="", name="kmod-hello", **facts):
    """Build a package of a module for a kernel; the module is marked, so that it is not like another's."""
    need("rpmbuild", "objcopy")
    tree = folder / f"tree-{name}-{kernel}-{release}"
    place = tree / root / "modules" / kernel / "extra/hello/hello.ko"
    place.parent.mkdir(parents=True)
    mark = folder / "mark"
    mark.write_text(f"{kernel} {release}")
    called("objcopy", "--add-section", f".mark={mark}", module, place)
    files = [f"/{root}/modules/{kernel}"]
    if firmware:
        (tree / firmware).parent.mkdir(parents=True)
        (tree / firmware).write_bytes(b"firmware")
        files.append(f"/{firmware}")
    known = {"provides": (f"kernel-modules {relation} {kernel}",), "requires": (f"kernel-uname-r = {kernel}",)}
    package = Package(name, files=tuple(files), **{**known, **facts})
    build(folder, f"1.0-{release}", package, tree=tree)
    return folder / f"x86_64/{name}-1.0-{release}.x86_64.rpm"


@pytest.fixture(scope="module")
def module(kernel):
    """A real module."""
    return compiled_hello(kernel).module


@pytest.fixture(scope="module")
def packages(tmp_path_factory, module):
    """A driver for two kernels, of which the older one's package is not the newest, and what both of them need."""
    folder = tmp_path_factory.mktemp("packages")
    common = build_rpm(folder, "hello-common", "1.0-1", arch="noarch")
    needs = ("hello-common",)
    return [
        common,
        *(
            kmod(folder, one, module, release=number, requires=(f"kernel-uname-r = {one}", *needs))
            for number, one in (("1", EL), ("2", EL_NEXT))
        ),
    ]


def written(folder, *releases):
    """Write a disk for releases, each a distribution with its package files, below `folder`/disk."""
    (folder / "disk").mkdir(parents=True)

    def execute(command):
        return run(command, log=folder / "log", progress=Progress())

    found = [DiskRelease(find_distro(name), read_packages(files, execute, Progress())) for name, *files in releases]
    LAYOUT.write(found, DiskDraft(folder / "disk", folder, "hello 1.0", EPOCH, execute))
    return folder / "disk", found


def through_an_image(folder, disk):
    """Return the files of a disk as they come out of an ISO image."""
    need("xorriso")

    def execute(command):
        return run(command, log=folder / "log", progress=Progress())

    write_iso(disk, folder / "disk.iso", label="OEMDRV", epoch=EPOCH, scratch=folder, run=execute)
    called("xorriso", "-osirrox", "on", "-indev", folder / "disk.iso", "-extract", "/", folder / "mounted")
    return folder / "mounted"


@functools.cache
def vercmp(one, other):
    """Compare as rpmvercmp does, by the program."""
    return int(called("rpm", "--eval", f'%{{lua: print(rpm.vercmp("{one}", "{other}"))}}'))


@dataclass
class Installer:
    """A stand-in for anaconda: its rules (dracut/driver_updates.py, utils/dd), with rpm's and cpio's own programs."""

    kernel: str
    root: Path
    """A folder for /run/install, and for what is unpacked."""
    machine: str = "x86_64"

    def take(self, disk):
        """Read a disk, unpack what matches, and return the folders that are kept for the installation, and names."""
        need("rpm", "rpm2cpio", "cpio", "modinfo")
        used, names = [], []
        for repo in self.repositories(disk):
            for package in sorted(repo.glob("*.rpm")):
                if package.name.startswith(".") or not self.matches(package):
                    continue
                self.unpack(package)
                used += [] if repo in used else [repo]
                names.append(called("rpm", "-qp", "--nosignature", "--qf", "%{name}", package, text=True))
        kept = []
        for number, repo in enumerate(used, 1):
            kept.append(self.root / f"run/install/DD-{number}")
            shutil.copytree(repo, kept[-1])
        return kept, names

    def repositories(self, disk):
        for place, folders, files in os.walk(disk, followlinks=True):
            repo = Path(place, "rpms", self.machine)
            if "rhdd3" in files and "rpms" in folders and repo.is_dir():
                yield repo

    def matches(self, package):
        form = "[%{PROVIDENAME}\\t%{PROVIDEFLAGS}\\t%{PROVIDEVERSION}\\n]"
        lines = called("rpm", "-qp", "--nosignature", "--qf", form, package, text=True).splitlines()
        for name, flags, version in (line.split("\t") for line in lines):
            wanted = {-1: 2, 1: 4, 0: 8}  # RPMSENSE_LESS, GREATER, EQUAL
            if name == "kernel-modules" and version and int(flags) & wanted[vercmp(self.kernel, version)]:
                return True
        return False

    def unpack(self, package):
        place = self.root / "updates"
        place.mkdir(parents=True, exist_ok=True)
        archive = called("rpm2cpio", package)
        called("cpio", "-idmu", "--quiet", "--no-absolute-filenames", cwd=place, input=archive)

    @property
    def modules(self):
        """The modules that it loads: below updates/ of its own kernel, without the folder of the one they are for."""
        found = {}
        for module in sorted((self.root / "updates/lib/modules").rglob("*.ko*")):
            path = module.relative_to(self.root / "updates/lib/modules")
            assert called("modinfo", "-F", "license", module)
            found["/".join(path.parts[1:])] = module
        return found

    @property
    def firmware(self):
        """Where firmware is when the modules are loaded."""
        base = self.root / "updates/lib/firmware"
        return {f"/lib/firmware/updates/{path.relative_to(base)}" for path in base.rglob("*") if path.is_file()}


def mark_of(module, folder):
    called(
        "objcopy", "-O", "binary", "--only-section=.mark", "--set-section-flags", ".mark=alloc", module, folder / "m"
    )
    return (folder / "m").read_text()


@pytest.fixture(scope="module")
def mounted(tmp_path_factory, packages):
    """The disk of these packages, as it comes out of an image."""
    folder = tmp_path_factory.mktemp("disk")
    disk, _ = written(folder, ("el9", *packages))
    return through_an_image(folder, disk)


@pytest.mark.parametrize(("uname_r", "release"), [(EL, "1"), (EL_NEXT, "2")])
def test_each_kernel_finds_its_own_module_stand_in_anaconda(mounted, tmp_path, uname_r, release):
    installer = Installer(uname_r, tmp_path)
    kept, names = installer.take(mounted)
    assert names == ["kmod-hello"]
    assert mark_of(installer.modules["extra/hello/hello.ko"], tmp_path) == f"{uname_r} {release}"
    (folder,) = kept
    assert {path.name for path in folder.glob("*.rpm")} == {
        f"kmod-hello-1.0-{release}.x86_64.rpm",
        "hello-common-1.0-1.noarch.rpm",
    }


def test_another_kernel_takes_nothing_stand_in_anaconda(mounted, tmp_path):
    assert Installer(EL_MINOR, tmp_path).take(mounted) == ([], [])
    assert Installer(EL, tmp_path, machine="aarch64").take(mounted) == ([], [])


@pytest.mark.parametrize("solver", [dnf, zypper])
@pytest.mark.parametrize(("uname_r", "release"), [(EL, "1"), (EL_NEXT, "2")])
def test_solvers_install_the_package_of_the_installers_kernel(mounted, tmp_path, solver, uname_r, release):
    """By its name, as anaconda asks for it, from the folder that anaconda keeps."""
    kept, names = Installer(uname_r, tmp_path).take(mounted)
    kernels = stubkernels.red_hat(EL).packages, stubkernels.red_hat(EL_NEXT).packages
    system = repository(tmp_path / "system", stubkernels.base_system(), *kernels[uname_r == EL_NEXT])
    done = installed_from(solver, tmp_path, system, kept, names)
    assert done.accepted, done.text
    assert {f"kmod-hello-1.0-{release}.x86_64", "hello-common-1.0-1.noarch"} <= set(done.installed)
    assert f"kernel-core-{uname_r}" in done.installed


def installed_from(solver, folder, system, kept, names):
    root = ScratchRoot(folder / "root")
    more = []
    for number, repo in enumerate(kept):
        if solver is dnf:
            more += [
                f"--repofrompath=dd{number},file://{repo}",
                f"--repo=dd{number}",
                f"--setopt=dd{number}.gpgcheck=0",
            ]
        else:
            more += ["--plus-repo", f"file://{repo}"]
    return solver(root, system, *more, "install", *names)


@pytest.mark.parametrize(
    ("kernels", "best", "installed"),
    [
        ((EL, EL_NEXT), "0", {"kmod-hello-1.0-2.x86_64", f"kernel-core-{EL_NEXT}"}),
        ((EL,), "0", {"kmod-hello-1.0-1.x86_64", f"kernel-core-{EL}"}),
        ((EL,), "1", set()),
    ],
)
def test_from_one_folder_for_both_dnf_installs_the_newest_or_nothing(packages, tmp_path, kernels, best, installed):
    """Why each kernel has a folder: the driver that was loaded for EL is not the one that would be installed."""
    folder = repository(tmp_path / "one", *packages)
    files = [file for one in kernels for file in stubkernels.red_hat(one).packages]
    system = repository(tmp_path / "system", stubkernels.base_system(), *files)
    done = installed_from(dnf, tmp_path, system, [folder], [f"--setopt=best={best}", "kmod-hello"])
    assert {one for one in done.installed if one.startswith(("kmod-hello", "kernel-core"))} == installed, done.text


def test_later_kernels_of_all_releases_take_a_package_from_any_folder_stand_in_anaconda(tmp_path, module):
    """So a folder for each release does not keep installers apart."""
    old = "4.18.0-553.el8_10.x86_64"
    one = kmod(tmp_path, old, module, relation=">=")
    disk, releases = written(tmp_path / "a", ("el8", one), ("el9", kmod(tmp_path, EL, module, release="2")))
    assert sorted(path.name for path in disk.iterdir()) == ["el8", "el9"]
    installer = Installer(EL, tmp_path / "installer")
    kept, names = installer.take(disk)
    assert len(kept) == 2
    assert names == ["kmod-hello", "kmod-hello"]
    found = {each.code: each for each in LAYOUT.check(releases, Disk())}
    assert found["DISK022"].subject == "el8"
    assert "DISK032" in found


def test_modules_below_usr_are_listed_and_not_loaded_stand_in_anaconda(tmp_path, module):
    one = kmod(tmp_path, EL, module, root="usr/lib")
    disk, releases = written(tmp_path / "a", ("el9", one))
    installer = Installer(EL, tmp_path / "installer")
    assert installer.take(disk)[1] == ["kmod-hello"]
    assert installer.modules == {}
    assert "DISK024" in {each.code for each in LAYOUT.check(releases, Disk())}


@pytest.mark.parametrize(
    ("path", "found", "code"),
    [
        ("lib/firmware/hello/hello.bin", "/lib/firmware/updates/hello/hello.bin", None),
        ("lib/firmware/updates/hello.bin", "/lib/firmware/updates/updates/hello.bin", "DISK028"),
        ("usr/lib/firmware/hello.bin", None, "DISK028"),
    ],
)
def test_where_firmware_is_when_modules_are_loaded_stand_in_anaconda(tmp_path, module, path, found, code):
    disk, releases = written(tmp_path / "a", ("el9", kmod(tmp_path, EL, module, firmware=path)))
    installer = Installer(EL, tmp_path / "installer")
    installer.take(disk)
    assert installer.firmware == ({found} if found else set())
    codes = {each.code for each in LAYOUT.check(releases, Disk())}
    assert codes & {"DISK028", "DISK029"} == ({code} if code else set())


def test_firmware_of_a_package_of_its_own_is_not_there_yet_stand_in_anaconda(tmp_path, module):
    other = kmod(
        tmp_path, EL, module, name="hello-firmware", firmware="lib/firmware/hello.bin", provides=(), requires=()
    )
    disk, releases = written(tmp_path / "a", ("el9", kmod(tmp_path, EL, module), other))
    installer = Installer(EL, tmp_path / "installer")
    assert installer.take(disk)[1] == ["kmod-hello"]
    assert installer.firmware == set()
    (found,) = [each for each in LAYOUT.check(releases, Disk()) if each.code == "DISK029"]
    assert found.subject == other.name


def test_the_same_packages_make_the_same_bytes_wherever_they_lie(packages, tmp_path):
    disks = []
    for number, files in enumerate((packages, packages[::-1])):
        place = tmp_path / f"packages {number}"
        place.mkdir()
        copies = [Path(shutil.copy(file, place)) for file in files]
        for age, file in enumerate(copies):
            os.utime(file, (age * 1000, age * 1000))
        mask = os.umask(0o077 if number else 0o022)
        try:
            disks.append(written(tmp_path / f"disk {number}", ("el9", *copies))[0])
        finally:
            os.umask(mask)
    contents = [
        {str(path.relative_to(disk)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files_below(disk)}
        for disk in disks
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2 * (1 + 2 + 4)  # the mark, the packages, repodata


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_written_is_recognized(mounted):
    listing = DiskListing(
        {str(path.relative_to(mounted)) for path in files_below(mounted)},
        {str(path.relative_to(mounted)) for path in mounted.rglob("*") if path.is_dir()},
        {},
        lambda path: (mounted / path).read_bytes(),
    )
    found = {one.place: one for one in LAYOUT.recognize(listing)}
    assert set(found) == {f"el9/{EL}/rpms/x86_64", f"el9/{EL_NEXT}/rpms/x86_64"}
    for one in found.values():
        assert (one.layout, one.release, one.machine) == ("rhdd3", "el9", "x86_64")
        assert all((mounted / package).is_file() for package in one.packages)
        assert len(one.packages) == 2


def test_versions_for_one_kernel_on_a_foreign_disk_are_found(tmp_path, module):
    """Both lie in one folder; the one that dnf installs need not be the one whose module was loaded last."""
    files = [kmod(tmp_path, EL, module, release=number) for number in ("1", "2")]
    disk, releases = written(tmp_path / "a", ("el9", *files))
    assert (disk / "rhdd3").is_file()
    here = [
        replace(one, packages=tuple(replace(p, place=f"rpms/{p.path.name}") for p in one.packages)) for one in releases
    ]
    (found,) = [each for each in LAYOUT.check(here, Disk()) if each.code == "DISK030"]
    assert found.subject == "rpms/kmod-hello-1.0-1.x86_64.rpm"
    installer = Installer(EL, tmp_path / "installer")
    assert installer.take(disk)[1] == ["kmod-hello", "kmod-hello"]


def test_the_provides_are_those_that_rpm_shows(packages, tmp_path):
    _, (release,) = written(tmp_path, ("el9", *packages[1:]))
    for package in release.packages:
        provides = ask(package.path, "--provides")
        shown = [line.removeprefix("kernel-modules ") for line in provides if line.startswith("kernel-modules")]
        assert list(LAYOUT.kernels(package)) == shown
        assert len(shown) == 1
