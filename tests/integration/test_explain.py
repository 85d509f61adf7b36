"""`pkgkmod explain` of packages that the real rpmbuild made of real modules."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.archive_modules import archive_driver
from tests.fixtures.machine import need, pkgkmod

SPEC = r"""
%global debug_package %{nil}
%global __os_install_post %{nil}
%global _build_id_links none
%global _binary_payload @PAYLOAD@
Name: kmod-example
Version: 1
Release: 1
Summary: An example
License: GPL-2.0-only
Requires: @REQUIRES@
Requires(post): /usr/sbin/depmod
Provides: example-kmod = 1
Supplements: modalias(kernel-default:pci:v*)
%description
An example.
%install
cp -a %{content}/. %{buildroot}/
%post
/usr/sbin/depmod -a
%files
/*
"""


@pytest.fixture
def package(tmp_path):
    """Build a package of files that are put below content/."""
    need("rpmbuild")
    (tmp_path / "content/usr/share").mkdir(parents=True)

    def build(*modules, place, requires="bash", payload="w3.zstdio"):
        folder = tmp_path / "content" / place
        folder.mkdir(parents=True, exist_ok=True)
        for module in modules:
            shutil.copy2(module, folder)
        (tmp_path / "a.spec").write_text(SPEC.replace("@REQUIRES@", requires).replace("@PAYLOAD@", payload))
        defines = {"content": tmp_path / "content", "_topdir": tmp_path, "_dbpath": tmp_path / "db"}
        words = [word for pair in defines.items() for word in ("--define", " ".join(map(str, pair)))]
        done = subprocess.run(["rpmbuild", "-ba", *words, tmp_path / "a.spec"], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        (found,) = tmp_path.glob("RPMS/*/*.rpm")
        return found

    return build


@pytest.fixture
def jool(kernel, package):
    need("xz")
    modules = archive_driver("jool-dkms", kernel).modules
    made = package(*modules, place=f"lib/modules/{kernel}/extra", requires="kernel(kfree) = 0x037a0cba")
    return made, [module.name for module in modules]


def changed_symvers(kernel, folder, symbol, change):
    """Copy a kernel's Module.symvers with one line changed, or without it."""
    text = Path(f"/lib/modules/{kernel}/build/Module.symvers").read_text()
    line = re.search(rf"^0x[0-9a-f]+\t{symbol}\t.*\n", text, re.MULTILINE)
    assert line
    copy = folder / "Module.symvers"
    copy.write_text(text.replace(line[0], change + line[0][10:] if change else ""))
    return copy


def test_a_package_that_fits(jool, kernel, tmp_path):
    rpm, names = jool
    said = pkgkmod("explain", rpm, "--kernel", kernel, cwd=tmp_path).out
    assert f"It would load into {kernel}.\n" in said
    for name in names:
        assert re.search(rf"^  {name} +built for {kernel}; needs \d+ symbols: \d+", said, re.MULTILINE)
    assert re.search(r"^  /usr/sbin/depmod +lists modules and what they need for modprobe; for\n +%post$", said, re.M)
    assert re.search(r"^  %post +runs depmod$", said, re.MULTILINE)
    assert "modalias(kernel-default:pci:v*)" in said
    assert max(map(len, said.splitlines())) <= 80
    assert "__dynamic_pr_debug" not in said
    in_full = pkgkmod("explain", "-v", rpm, "--kernel", kernel, cwd=tmp_path).out
    assert re.search(r"^    __dynamic_pr_debug  0x[0-9a-f]{8}  of the kernel$", in_full, re.MULTILINE)


@pytest.mark.parametrize("payload", ["w9.gzdio", "w2.xzdio", "w3.zstdio"])
@pytest.mark.parametrize("packer", [["xz", "--check=crc32"], ["zstd", "-q", "--rm"], ["gzip", "-nf"]])
def test_compressed_modules_and_payloads(payload, packer, kernel, package, tmp_path):
    need(packer[0])
    (module,) = archive_driver("bbswitch-dkms", kernel).modules
    copy = shutil.copy2(module, tmp_path)
    subprocess.run([*packer, copy], check=True)
    (packed,) = tmp_path.glob("bbswitch.ko.*")
    rpm = package(packed, place=f"lib/modules/{kernel}/extra", payload=payload)
    said = pkgkmod("explain", rpm, "--kernel", kernel, cwd=tmp_path).out
    assert packed.name in said
    assert f"It would load into {kernel}." in said


def test_a_symbol_with_another_crc_is_named(jool, kernel, tmp_path):
    rpm, _ = jool
    symvers = changed_symvers(kernel, tmp_path, "module_layout", "0x12345678")
    done = pkgkmod("explain", rpm, "--symvers", symvers, cwd=tmp_path, code=19)
    assert re.search(r"^    module_layout: CRC 0x[0-9a-f]{8} is needed, 0x12345678 is there$", done.out, re.MULTILINE)
    assert "1 with another CRC" in done.out
    assert "It would load" not in done.out
    assert f"error: kmod-example-1-1.x86_64 does not fit {symvers}" in done.err
    assert "jool.ko: module_layout: CRC" in done.err
    assert re.search(rf"^hint: of the installed kernels, it would load into .*\b{kernel}", done.err, re.MULTILINE)


def test_a_symbol_that_is_gone_is_named(jool, kernel, tmp_path):
    rpm, _ = jool
    symvers = changed_symvers(kernel, tmp_path, "kfree", None)
    done = pkgkmod("explain", rpm, "--symvers", symvers, cwd=tmp_path, code=19)
    assert "    kfree: not there" in done.out
    said = " ".join(done.out.split())
    assert "kernel(kfree) = 0x037a0cba symbols of the kernel, each with its CRC; this is not met" in said


def test_for_programs(jool, kernel, tmp_path):
    rpm, names = jool
    events = pkgkmod("explain", rpm, "--kernel", kernel, "--json", cwd=tmp_path).events
    assert events[0]["name"] == "kmod-example-1-1.x86_64"
    assert events[0]["kernel"]["release"] == kernel
    modules = [event for event in events if event["event"] == "module"]
    assert [event["path"].rpartition("/")[2] for event in modules] == names
    assert {use["state"] for event in modules for use in event["symbols"]} == {"same", "own"}
    assert events[-1] == {"event": "verdict", "fits": True, "problems": []}
    symvers = changed_symvers(kernel, tmp_path, "kfree", None)
    events = pkgkmod("explain", rpm, "--symvers", symvers, "--json", cwd=tmp_path, code=19).events
    assert [event["fits"] for event in events if event["event"] == "verdict"] == [False]
    assert events[-1]["code"] == 19


def test_a_kernel_whose_build_tree_lies_in_a_folder(jool, kernel, tmp_path):
    rpm, _ = jool
    tree, headers = tmp_path / "tree", Path(f"/lib/modules/{kernel}/build")
    for name in ("Makefile", ".config", "Module.symvers", "include/generated/utsrelease.h"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(headers / name, tree / name)
    (tree / "include/generated/utsrelease.h").write_text('#define UTS_RELEASE "6.1.0-99-mine"\n')
    settings = ("-C", f'plugin.folder.paths=["{tree}"]')
    said = pkgkmod("explain", rpm, "--kernel", "6.1.0-99-mine", *settings, cwd=tmp_path).out
    assert "It would load into 6.1.0-99-mine." in said


def test_a_package_without_modules(package, tmp_path):
    said = pkgkmod("explain", package(place="usr/share/x"), cwd=tmp_path).out
    assert "There is no kernel module in it." in said
    assert re.search(r"^  /usr/sbin/depmod ", said, re.MULTILINE)


def test_what_cannot_be_explained(jool, kernel, tmp_path):
    rpm, _ = jool
    (source,) = tmp_path.glob("SRPMS/*.rpm")
    broken = tmp_path / "broken.rpm"
    broken.write_bytes(rpm.read_bytes()[:-2000])
    text = tmp_path / "text.rpm"
    text.write_text("hello")
    for file, code, reason in (
        (source, 17, "is a source package"),
        (broken, 17, "broken.rpm"),
        (text, 17, "cannot be read as an RPM"),
        (tmp_path / "gone.rpm", 17, "there is no file"),
        (tmp_path, 17, "there is no file"),
    ):
        assert reason in pkgkmod("explain", file, cwd=tmp_path, code=code).err
    unknown = pkgkmod("explain", rpm, "--kernel", f"{kernel}x", cwd=tmp_path, code=6).err
    assert f"did you mean '{kernel}'?" in unknown
    assert "exports is not known" in pkgkmod("explain", rpm, "--kernel", "../../*", cwd=tmp_path, code=6).err
    both = ("--kernel", kernel, "--symvers", text)
    assert "do not go together" in pkgkmod("explain", rpm, *both, cwd=tmp_path, code=2).err
    assert "line 1 is not one of a Module.symvers" in pkgkmod("explain", rpm, *both[2:], cwd=tmp_path, code=17).err


def test_a_module_that_is_damaged_is_named(kernel, package, tmp_path):
    (module,) = archive_driver("bbswitch-dkms", kernel).modules
    damaged = tmp_path / "bbswitch.ko"
    damaged.write_bytes(module.read_bytes()[:6000])
    rpm = package(damaged, place=f"lib/modules/{kernel}/extra")
    assert "bbswitch.ko: damaged or truncated" in pkgkmod("explain", rpm, cwd=tmp_path, code=17).err


def test_hostile_names_in_a_package_go_nowhere(kernel, package, tmp_path):
    (module,) = archive_driver("bbswitch-dkms", kernel).modules
    named = tmp_path / "aRRRRRb .ko"
    shutil.copy2(module, named)
    rpm = package(named, place=f"lib/modules/{kernel}/extra", payload="w.ufdio")
    plain = rpm.read_bytes()
    # rpmbuild refuses such names; somebody else's program may not
    for bad, code in ((b"a\x1b[31mb .ko", 0), (b"/../../x.ko", 0), (b"x.ko.zst.ko", 0), (b"not-a-module", 0)):
        rpm.write_bytes(plain.replace(named.name.encode(), bad[:11]))
        before = set(tmp_path.rglob("*"))
        done = pkgkmod("explain", rpm, "--kernel", kernel, cwd=tmp_path, code=code)
        assert "\x1b" not in done.out + done.err
        assert set(tmp_path.rglob("*")) == before
