"""RPMs in Red Hat's style of real drivers, for a stand-in of Red Hat's kernel: real headers of Debian in its shape."""

import gzip
import lzma
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.families import Made, ask, family, query
from tests.fixtures.machine import E1000E, e1000e, hello, need, pkgkmod

pytestmark = pytest.mark.xdist_group("e1000e")
MORE = """
[rpm]
debuginfo = true
module_compression = "xz"
stable_list = "kabi_stablelist_x86_64"
[devel]
enabled = true
"""
STABLE = ("_printk", "module_layout", "netif_carrier_on")
ODD = "e1000e/a b%{nil}*.bin"


def run(*argv, **more):
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def unpacked(package, folder):
    folder.mkdir(parents=True, exist_ok=True)
    content = subprocess.run(["rpm2cpio", package], capture_output=True, check=True).stdout
    subprocess.run(["cpio", "-idm", "--quiet", "--no-absolute-filenames"], cwd=folder, input=content, check=True)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The e1000e with everything that a package can have beside it."""
    need("gdb", "rpm2cpio", "cpio", "eu-strip", "debugedit")
    folder = family(tmp_path_factory.mktemp("el9"), e1000e(), "el9", MORE)
    (folder / "kabi_stablelist_x86_64").write_text("[rhel9_x86_64_stablelist]\n" + "".join(f"\t{s}\n" for s in STABLE))
    (folder / "firmware/e1000e").mkdir(parents=True)
    (folder / "firmware" / ODD).write_bytes(b"firmware\0")
    pkgkmod("build_rpm", cwd=folder)
    return Made(folder, "el9")


@pytest.fixture(scope="module")
def main(made, tmp_path_factory):
    """The files of the package with the modules."""
    return unpacked(made.packages["kmod-e1000e"], tmp_path_factory.mktemp("main"))


def test_what_is_made(made):
    assert set(made.packages) == {
        "src",
        "kmod-e1000e",
        "kmod-e1000e-debuginfo",
        "kmod-e1000e-devel",
        "kmod-e1000e-firmware",
    }
    assert query(made.packages["kmod-e1000e-firmware"], "%{arch}") == "noarch"
    assert {query(file, "%{payloadcompressor}") for file in made.packages.values()} == {"xz"}


def test_each_symbol_is_required_with_the_crc_that_the_kernel_has(made):
    (module,) = made.modules.values()
    imported = [line.split() for line in run("modprobe", "--dump-modversions", module).splitlines()]
    lines = (line.split("\t") for line in made.symvers.read_text().splitlines())
    kernel = {symbol: crc for crc, symbol, *_ in lines}
    wanted = {f"kernel({symbol}) = {kernel[symbol]}" for _, symbol in imported}
    assert {f"kernel({symbol}) = {crc}" for crc, symbol in imported} == wanted
    requires = ask(made.packages["kmod-e1000e"], "--requires")
    assert {one for one in requires if one.startswith(("kernel(", "ksym("))} == wanted
    assert len(wanted) > 150


def test_each_device_is_provided(made):
    (module,) = made.modules.values()
    aliases = run("modinfo", "-F", "alias", module).split()
    provides = [one for one in ask(made.packages["kmod-e1000e"], "--provides") if one.startswith("modalias(")]
    patterns = [re.fullmatch(r"modalias\((.*)\)( = .*)?", one)[1] for one in provides]
    # Red Hat merges aliases that differ in one character: pci:...d0000105[Ef]sv*
    assert patterns and len(patterns) <= len(aliases)
    for alias in aliases:
        plain = alias.replace("*", "*")
        assert any(
            re.fullmatch("".join(c if c in "[]" else re.escape(c) for c in pattern), plain) for pattern in patterns
        )


def test_the_module_is_stripped_and_compressed_as_the_kernel_reads_it(made, main):
    (module,) = main.rglob("*.ko.xz")
    assert module.relative_to(main) == Path(f"lib/modules/{made.kernel}/extra/e1000e/e1000e.ko.xz")
    assert module.stat().st_mode & 0o777 == 0o644
    assert "CRC32" in run("xz", "-lv", module)
    plain = lzma.decompress(module.read_bytes())
    (built,) = made.modules.values()
    assert b".debug_info" not in plain and len(plain) < built.stat().st_size / 3


def test_symbols_outside_of_the_stable_list_are_in_the_greylist(made, main):
    (greylist,) = main.rglob("greylist.txt")
    listed = set(greylist.read_text().split())
    (module,) = made.modules.values()
    imported = {line.split()[1] for line in run("modprobe", "--dump-modversions", module).splitlines()}
    assert listed == imported - set(STABLE)


def test_gdb_reads_the_debug_information(made, tmp_path):
    files = unpacked(made.packages["kmod-e1000e-debuginfo"], tmp_path)
    (debug,) = files.rglob("e1000e.ko.debug")
    said = run("gdb", "-batch", "-ex", "info line e1000_probe", debug, env={**os.environ, "HOME": str(tmp_path)})
    found = re.search(r'Line (\d+) of "([^"]+)"', said)
    assert found, said
    assert found[2] == f"/usr/src/kmods/e1000e-1.0/{E1000E}/netdev.c"
    lines = (files / found[2].lstrip("/")).read_text().splitlines()
    assert "e1000_probe" in "".join(lines[int(found[1]) - 2 : int(found[1])])


def test_firmware_keeps_its_path(made, tmp_path):
    package = made.packages["kmod-e1000e-firmware"]
    files = unpacked(package, tmp_path)
    assert (files / "lib/firmware/updates" / ODD).read_bytes() == b"firmware\0"
    assert "firmware(e1000e) = 1.0" in ask(package, "--provides")
    assert any(one == "kmod-e1000e-firmware >= 1.0" for one in ask(made.packages["kmod-e1000e"], "--requires"))


def test_another_driver_can_build_on_it(made, tmp_path):
    package = made.packages["kmod-e1000e-devel"]
    files = unpacked(package, tmp_path)
    assert (files / f"usr/src/kmods/e1000e/{made.kernel}/Module.symvers").is_file()
    assert f"e1000e-kmod-devel-uname-r = {made.kernel}" in ask(package, "--provides")
    assert list(files.rglob("*.h"))


def test_on_a_driver_disk_the_firmware_lies_beside_the_modules(made):
    need("xorriso", "createrepo_c")
    pkgkmod("build_iso", cwd=made.folder)
    (image,) = made.folder.glob("results/build_iso/_/_/*/*.iso")
    found = run("xorriso", "-indev", image, "-find", "/", "-name", "*.rpm").split()
    packages = {name: made.packages[name].name for name in ("kmod-e1000e", "kmod-e1000e-devel", "kmod-e1000e-firmware")}
    assert {name.strip("'") for name in found} == {f"/rpms/x86_64/{file}" for file in packages.values()}


def test_compiled_in_the_package_build_the_same_packages_come_out(made):
    before = {file.name: file.read_bytes() for file in made.packages.values()}
    pkgkmod("build_rpm", "--from-source", cwd=made.folder)
    after = {file.name: file.read_bytes() for file in made.folder.glob("results/build_rpm/el9/*/*/*.rpm")}
    places = {file.parent for file in made.folder.glob("results/build_rpm/el9/*/*/*.rpm")}
    assert len(places) == 2, "it was built twice"
    assert after == before


def test_the_source_package_stands_alone_signs_and_serves_other_kernels(tmp_path, kernel):
    """Rebuilt by rpmbuild alone, for another kernel than it was made for, with signed modules."""
    need("openssl")
    driver = hello(tmp_path / "repository")
    folder = family(tmp_path / "project", driver, "el9")
    pkgkmod("build_rpm", "--srpm", cwd=folder)
    (source,) = folder.glob("results/build_rpm/el9/*/*/*.src.rpm")
    (tmp_path / "trees").mkdir()
    (tmp_path / "trees" / kernel).symlink_to(f"/usr/src/linux-headers-{kernel}")
    request = ("-new", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=Test", "-days", "2", "-outform", "PEM")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    run("openssl", "req", *request, "-keyout", key, "-out", certificate)
    defines = {
        "_topdir": tmp_path / "top",
        "_dbpath": tmp_path / "db",
        "kernel_trees": tmp_path / "trees",
        "kernels": kernel,
        "module_compression": "gz",
        "module_signing_certificate": certificate,
    }
    words = [word for name, value in defines.items() for word in ("--define", f"{name} {value}")]
    said = subprocess.run(
        ["rpmbuild", "--rebuild", "--nodeps", *words, source],
        env={**os.environ, "SIGN_KEY": str(key)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    (package,) = (tmp_path / "top/RPMS").rglob("*.rpm")
    assert query(package, "%{release}") == f"1.k{kernel.replace('-', '_')}.el9"
    assert f"kernel-uname-r({kernel})" in ask(package, "--requires")
    (module,) = unpacked(package, tmp_path / "files").rglob("hello.ko.gz")
    plain = tmp_path / "hello.ko"
    plain.write_bytes(gzip.decompress(module.read_bytes()))
    assert run("modinfo", "-F", "vermagic", plain).split()[0] == kernel
    assert run("modinfo", "-F", "signer", plain).strip() == "Test"
    assert run("modinfo", "-F", "sig_hashalgo", plain).strip() == "sha256"
    for line in key.read_text().splitlines()[1:3]:
        assert line not in said.stdout + said.stderr
