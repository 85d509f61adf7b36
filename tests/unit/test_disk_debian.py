"""Disks for Debian's and Ubuntu's installers: how packages are packed, what is said of them, what is recognized."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pkgkmod.data.distros import find_distro
from pkgkmod.errors import InputError
from pkgkmod.formats.debpackage import convert, open_package
from pkgkmod.media.findings import CODES
from pkgkmod.media.layouts.debian import DebianLayout, UbuntuLayout
from pkgkmod.model.disk import DiskListing, DiskPackage, DiskRelease, ModuleFacts, PackageFacts
from pkgkmod.model.packaging import Disk
from pkgkmod.plugins import DiskDraft, Layout
from pkgkmod.signing.openssl import run_quietly as run
from tests.fixtures.debianinstaller import make_deb, modules_deb

KERNEL = "6.1.0-56-amd64"
FILES = {"opt/hello": b"hello " * 1000, "lib/modules/1/updates/hello.ko": b"module"}


def package(path: Path = Path("/nowhere/hello.deb"), place: str = "", **facts: object) -> DiskPackage:
    known = {
        **{"format": "deb", "kind": "binary", "name": "hello", "version": "1:1.0-1~deb12", "arch": "amd64"},
        **{"machine": "x86_64", "size": 1, "build_time": 0, "payload": "xz"},
        **{"control": "control.tar.gz", "control_path": "./control"},
    }
    return DiskPackage(path, PackageFacts.model_validate({**known, **facts}), place)


def release(name: str, *packages: DiskPackage) -> DiskRelease:
    return DiskRelease(find_distro(name), packages)


def codes(*releases: DiskRelease, **disk: object) -> list[str]:
    return [finding.code for finding in DebianLayout().check(releases, Disk.model_validate(disk))]


def asked(option: str, path: Path) -> bytes:
    return subprocess.run(["dpkg-deb", option, path], capture_output=True, check=True).stdout


def members(path: Path) -> list[str]:
    return subprocess.run(["ar", "t", path], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    ("how", "data"), [("none", "data.tar"), ("gzip", "data.tar.gz"), ("xz", "data.tar.xz"), ("zstd", "data.tar.xz")]
)
def test_packages_are_packed_anew_and_stay_the_same(tmp_path: Path, how: str, data: str) -> None:
    deb = make_deb(tmp_path, "hello", how=f"-Z{how}", files=FILES, Depends="a | b")
    made = tmp_path / "made.deb"
    with open_package(deb, run) as opened:
        convert(opened, made, ".gz", ("", ".gz", ".xz"), run)
    assert members(made) == ["debian-binary", "control.tar.gz", data]
    for option in ("--ctrl-tarfile", "--fsys-tarfile", "-f", "-c"):
        assert asked(option, made) == asked(option, deb)
    before, after = (asked("-I", path).partition(b"\n Package:")[2] for path in (deb, made))
    assert after and after == before
    assert made.stat().st_mode & 0o777 == 0o644
    if how == "gzip":
        assert made.read_bytes() == deb.read_bytes()
    content = subprocess.run(["ar", "p", made, "control.tar.gz"], capture_output=True, check=True).stdout
    # RFC 1952: neither a name nor a time is in the header.
    assert content[3] == 0 and content[4:8] == bytes(4)


def test_the_control_file_gets_the_name_that_dpkg_deb_gives_it(tmp_path: Path) -> None:
    deb = make_deb(tmp_path, "hello", how="-Zgzip", files=FILES)
    parts = tmp_path / "parts"
    parts.mkdir()
    subprocess.run(["ar", "x", deb], cwd=parts, check=True)
    subprocess.run(["tar", "-xf", "control.tar.gz"], cwd=parts, check=True)
    subprocess.run(["tar", "-czf", "control.tar.gz", "--format=gnu", "control", "md5sums"], cwd=parts, check=True)
    other, made = tmp_path / "other.deb", tmp_path / "made.deb"
    subprocess.run(["ar", "rc", other, "debian-binary", "control.tar.gz", "data.tar.gz"], cwd=parts, check=True)
    with open_package(other, run) as opened:
        convert(opened, made, ".gz", ("", ".gz", ".xz"), run)
    archive = tmp_path / "control.tar"
    archive.write_bytes(asked("--ctrl-tarfile", made))
    listed = subprocess.run(["tar", "-tf", archive], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["./control", "md5sums"]
    assert asked("-f", made) == asked("-f", deb)


def test_a_damaged_package_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    deb = make_deb(tmp_path, "hello", files=FILES)
    deb.write_bytes(deb.read_bytes()[:-2000])
    (tmp_path / "disk").mkdir()
    broken = package(deb)
    with pytest.raises(InputError, match="cannot be read as a Debian package"):
        DebianLayout().write([release("debian12", broken)], DiskDraft(tmp_path / "disk", tmp_path, "x", 0, run))
    assert [path.name for path in (tmp_path / "disk").rglob("*")] == ["debian-drivers"]


@pytest.mark.parametrize("facts", [{"name": "../x"}, {"arch": "a/b"}, {"version": "1/2"}, {"name": "a b"}])
def test_names_that_lead_out_are_refused(tmp_path: Path, facts: dict[str, str]) -> None:
    for layout, name in ((DebianLayout(), "debian12"), (UbuntuLayout(), "ubuntu2404")):
        with pytest.raises(InputError, match="strange name"):
            layout.write([release(name, package(**facts))], DiskDraft(tmp_path, tmp_path, "x", 0, run))


def test_the_same_packages_make_the_same_bytes(tmp_path: Path) -> None:
    debs = [make_deb(tmp_path, name, how="-Zzstd", files=FILES) for name in ("one", "two")]
    packages = [package(path, name=path.name.partition("_")[0]) for path in debs]
    made = []
    before = os.umask(0o022)
    try:
        for number, mask in enumerate((0o022, 0o077)):
            os.umask(mask)
            folder = tmp_path / str(number)
            folder.mkdir()
            DebianLayout().write([release("debian12", *packages)], DiskDraft(folder, tmp_path, "x", 0, run))
            made.append({path.name: path.read_bytes() for path in (folder / "debian-drivers").iterdir()})
    finally:
        os.umask(before)
    assert made[0] == made[1]
    assert sorted(made[0]) == ["one_1.0-1~deb12_amd64.deb", "two_1.0-1~deb12_amd64.deb"]


def test_what_the_installer_cannot_read_is_said() -> None:
    assert codes(release("debian12", package())) == []
    assert codes(release("debian12", package()), label="DRIVERS") == ["DISK060"]
    place = "debian-drivers/hello.deb"
    assert codes(release("debian12", package(place=place))) == []
    assert codes(release("debian12", package(place="debian-drivers/bookworm/hello.deb"))) == ["DISK061"]
    assert codes(release("debian12", package(place=place, name="under_score"))) == []
    assert codes(release("debian12", package(place=place, control="control.tar.xz"))) == ["DISK062"]
    assert codes(release("debian12", package(place=place, control_path="control"))) == ["DISK062"]
    assert codes(release("debian12", package(place=place, payload="zstd"))) == ["DISK063"]
    # What is on no disk yet is packed as it should be.
    assert codes(release("debian12", package(control="control.tar.xz", payload="zstd"))) == ["DISK064"]
    module = ModuleFacts(path="/lib/modules/1/hello.ko.zst", name="hello", compression="zst")
    assert codes(release("debian12", package(modules=(module,)))) == ["DISK065"]
    assert codes(release("debian12", package(modules=(module.model_copy(update={"compression": "xz"}),)))) == []


def test_modules_below_usr_are_for_trixie_and_later() -> None:
    module = ModuleFacts(path="/usr/lib/modules/1/updates/hello.ko", name="hello")
    assert codes(release("debian12", package(modules=(module,)))) == ["DISK073"]
    assert codes(release("debian13", package(modules=(module,)))) == []


def test_ubuntus_answers_look_for_the_usual_label() -> None:
    for label, expected in {"OEMDRV": ["DISK074"], "DRIVERS": ["DISK074", "DISK075"]}.items():
        found = UbuntuLayout().check([release("ubuntu2404", package())], Disk(label=label))
        assert [finding.code for finding in found] == expected


def test_releases_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = (make_deb(tmp_path / name, "hello", files={"opt/x": name.encode()}) for name in "ab")
    facts = {"version": "1.0-1~deb12"}
    both = release("debian12", package(one, **facts)), release("debian13", package(other, **facts))
    assert codes(*both) == ["DISK066", "DISK067", "DISK067"]
    assert codes(both[0], release("debian13", package(one, **facts))) == ["DISK067", "DISK067"]
    assert codes(both[0], release("debian13", package(other, version="1.0-1~deb13"))) == ["DISK072"]


def test_what_depends_on_a_kernel_is_for_one_release(tmp_path: Path) -> None:
    modules = package(modules_deb(tmp_path, KERNEL), name=f"hello-modules-{KERNEL}")
    meta = make_deb(tmp_path, "hello-modules-amd64", Depends=f"hello-modules-{KERNEL} (= 1.0-1~deb12)")
    dev = make_deb(tmp_path, "hello-modules-dev")
    ones = [modules, package(meta, name="hello-modules-amd64"), package(dev, name="hello-modules-dev")]
    found = list(DebianLayout().check([release("debian12", *ones), release("debian13")], Disk()))
    assert [(finding.code, finding.subject) for finding in found] == [("DISK067", dev.name)]
    assert "Debian 13 (trixie)" in found[0].text


def test_dependencies_are_looked_for_on_the_disk_and_in_what_provides_them(tmp_path: Path) -> None:
    wants = make_deb(tmp_path, "wants", Depends="driver-api (>= 2), libc6 (>= 2.3), missing | absent:any")
    gives = make_deb(tmp_path, "gives", Provides="driver-api (= 2)")
    ones = [package(wants, name="wants"), package(gives, name="gives")]
    (found,) = DebianLayout().check([release("debian12", *ones)], Disk())
    assert found.code == "DISK069" and "it depends on missing | absent, which is not on the disk" in found.text
    gone = replace(ones[1], path=tmp_path / "gone.deb")
    assert codes(release("debian12", ones[0], gone)) == ["DISK069", "DISK069"]


def test_recognized_are_the_folders_that_the_installers_know() -> None:
    files = [
        *("debian-drivers/a.deb", "debian-drivers/b.udeb", "debian-drivers/README", "debian-drivers/trixie/c.deb"),
        *(
            "ubuntu-drivers/noble/d.deb",
            "ubuntu-drivers/oneiric/e.deb",
            "x/debian-drivers/f.deb",
            "debian-drivers/a/b/g.deb",
        ),
    ]
    listing = DiskListing(files, (), {}, lambda path: b"")
    found = [one for layout in (DebianLayout(), UbuntuLayout()) for one in layout.recognize(listing)]
    assert [(one.layout, one.place, one.release, one.packages) for one in found] == [
        ("debian", "debian-drivers", "", ("debian-drivers/a.deb", "debian-drivers/b.udeb")),
        ("debian", "debian-drivers/trixie", "debian13", ("debian-drivers/trixie/c.deb",)),
        ("ubuntu", "ubuntu-drivers/noble", "ubuntu2404", ("ubuntu-drivers/noble/d.deb",)),
        ("ubuntu", "ubuntu-drivers/oneiric", "oneiric", ("ubuntu-drivers/oneiric/e.deb",)),
    ]


def test_the_kernels_are_those_of_the_modules() -> None:
    modules = tuple(ModuleFacts(path=f"/lib/modules/{k}/x.ko", name="x", uname_r=k) for k in (KERNEL, "6.12.1"))
    assert DebianLayout().kernels(package(modules=modules)) == (KERNEL, "6.12.1")
    assert UbuntuLayout().kernels(package(modules=modules)) == (KERNEL, "6.12.1")


@pytest.mark.parametrize("layout", [DebianLayout(), UbuntuLayout()])
def test_instructions_name_the_image_and_fit(layout: Layout) -> None:
    for files, named in (({"iso": ["h.iso"], "usb": ["h.img"]}, "h.iso"), ({"usb": ["h.img"]}, "h.img")):
        text = layout.instructions([release("debian12")], files)
        assert named in text and "OEMDRV" in text
        assert max(map(len, text.splitlines())) <= 78
    text = layout.instructions([release("debian12")], {"initrd": ["h-initrd.img"]})
    assert "--carrier iso" in text and "h-initrd.img" not in text


def test_each_finding_has_its_code() -> None:
    assert [code for code in CODES if "DISK060" <= code <= "DISK079"] == sorted(
        f"DISK0{number}" for number in range(60, 76)
    )
