"""Debug information: a spec around the makefile of source archives, real rpmbuild, and gdb."""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.buildfolder import FOLDER, Built, build_hello, check_signature, new_key
from tests.fixtures.machine import need
from tests.fixtures.packaging import EPOCH

SPEC = """
%global debug_package %{nil}
%undefine _debugsource_packages
%undefine _debuginfo_subpackages
%undefine _include_minidebuginfo
%undefine _include_gdb_index
%undefine _find_debuginfo_dwz_opts
%undefine _unique_build_ids
%undefine _unique_debug_names
%undefine _unique_debug_srcs
%global _no_recompute_build_ids 1
%global _find_debuginfo_opts -r --keep-section .BTF*
%global __debug_package 1
%global _build_id_links alldebug
%define __spec_install_post \\
    %{__debug_install_post} \\
    make -f pkgkmod.mk finish DESTDIR=%{buildroot} MODULE_DIR=/m KERNEL_TREE=%{tree} STRIP=%{strip} COMPRESS=xz
Name: kmod-hello
Version: 1.2
Release: 1
Summary: s
License: l
Source0: hello.tar.xz
%description
d
%package debuginfo
Summary: s
%description debuginfo
d
%prep
%setup -q -n hello-1.2
%build
make -f pkgkmod.mk modules KERNEL=%{kernel} KERNEL_TREE=%{tree} PREBUILT=%{prebuilt}
%install
make -f pkgkmod.mk install KERNEL=%{kernel} KERNEL_TREE=%{tree} DESTDIR=%{buildroot} MODULE_DIR=/m
make -f pkgkmod.mk install-sources KERNEL=%{kernel} DESTDIR=%{buildroot}
%files
/m
%files debuginfo -f debugfiles.list
/usr/src/kmods/hello-1.2
"""


@pytest.fixture(scope="module")
def built(kernel: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_hello(kernel, tmp_path_factory.mktemp("built"))


def rpmbuild(
    built: Built, folder: Path, prebuilt: str, strip: str = "strip", **variables: str
) -> subprocess.CompletedProcess[str]:
    need("rpmbuild", "find-debuginfo", "eu-strip", "cpio", "file")
    for name in ("SOURCES", "tmp"):
        (folder / name).mkdir(parents=True)
    shutil.copy(built.archive, folder / "SOURCES/hello.tar.xz")
    (folder / "hello.spec").write_text(SPEC)
    defines = {
        "_topdir": folder, "_dbpath": folder / "db", "_tmppath": folder / "tmp", "kernel": built.kernel,
        "tree": built.tree, "prebuilt": prebuilt or "%{nil}", "strip": strip, "_buildhost": "h",
        "use_source_date_epoch_as_buildtime": 1, "clamp_mtime_to_source_date_epoch": 1,
    }  # fmt: skip
    options = [word for name, value in defines.items() for word in ("--define", f"{name} {value}")]
    return subprocess.run(
        ["rpmbuild", "-bb", "--nodeps", *options, "hello.spec"],
        cwd=folder,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), **variables},
        capture_output=True,
        text=True,
    )


def test_gdb_reads_the_debuginfo_package_and_both_ways_give_the_same_bytes(built: Built, tmp_path: Path) -> None:
    need("gdb", "rpm2cpio")
    done = rpmbuild(built, tmp_path / "one", str(built.folder / "modules"))
    assert done.returncode == 0, done.stdout + done.stderr
    done = rpmbuild(built, tmp_path / "somewhere/else", "")
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / d).glob("RPMS/*/*.rpm")} for d in ("one", "somewhere/else")
    )
    assert sorted(name.rsplit("-", 2)[0] for name in one) == ["kmod-hello", "kmod-hello-debuginfo"]
    assert one == two
    root = tmp_path / "root"
    for package in tmp_path.glob("one/RPMS/*/*.rpm"):
        unpack(package, root)
    assert (root / "m/hello.ko.xz").stat().st_mode & 0o777 == 0o644
    debug = root / "usr/lib/debug/m/hello.ko.debug"
    told = subprocess.run(
        [
            *("gdb", "-nx", "-batch", "-ex", f"set substitute-path /usr/src {root}/usr/src"),
            *("-ex", "info line hello_times", "-ex", "list hello_times", "-ex", "info line hello_exit", debug),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f'Line 4 of "/usr/src/kmods/hello-1.2/{FOLDER}/hello.c"' in told.replace(f"{root}", "")
    assert "int hello_times(int number) { return number * 2; }" in told
    assert "Line 12 of" in told
    links = list((root / "usr/lib/debug/.build-id").rglob("*.debug"))
    assert [link.resolve() for link in links] == [debug.resolve()]
    assert not (root / "usr/lib/.build-id").exists()


def unpack(package: Path, root: Path) -> None:
    root.mkdir(exist_ok=True)
    archive = subprocess.run(["rpm2cpio", package], capture_output=True, check=True).stdout
    subprocess.run(["cpio", "-idm", "--quiet"], input=archive, cwd=root, check=True)


def test_types_stay_in_a_module_that_is_stripped_then_signed_then_compressed(built: Built, tmp_path: Path) -> None:
    need("rpm2cpio", "objcopy", "readelf", "openssl")
    keys = new_key(tmp_path / "keys")
    prebuilt = tmp_path / "prebuilt" / built.kernel
    shutil.copytree(built.folder / "modules" / built.kernel, prebuilt)
    # The header packages have no vmlinux, so kbuild makes no types: this section is made up.
    (tmp_path / "types").write_bytes(b"types" * 99)
    argv = ["objcopy", "--add-section", f".BTF={tmp_path}/types", "--add-section", f".BTF.base={tmp_path}/types"]
    subprocess.run([*argv, prebuilt / "hello.ko"], check=True)
    signing = {"SIGN_KEY": str(keys / "key.pem"), "SIGN_CERT": str(keys / "cert.pem")}
    done = rpmbuild(built, tmp_path / "made", str(prebuilt.parent), **signing)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "key.pem" not in done.stdout + done.stderr
    unpack(next((tmp_path / "made").glob("RPMS/*/kmod-hello-1*.rpm")), tmp_path / "root")
    (packed,) = (tmp_path / "root/m").iterdir()
    assert packed.name == "hello.ko.xz"
    assert packed.stat().st_mode & 0o777 == 0o644
    module = tmp_path / "hello.ko"
    module.write_bytes(lzma.decompress(packed.read_bytes()))
    check_signature(module.read_bytes(), keys / "cert.pem", tmp_path)
    sections = subprocess.run(["readelf", "-SW", module], capture_output=True, text=True, check=True).stdout
    assert ".BTF " in sections
    assert ".BTF.base " in sections
    assert ".gnu_debuglink" in sections
    assert ".debug_info" not in sections


def test_no_package_is_made_where_finish_fails(built: Built, tmp_path: Path) -> None:
    done = rpmbuild(built, tmp_path, str(built.folder / "modules"), strip="false")
    assert done.returncode
    assert not list(tmp_path.glob("RPMS/*/*.rpm"))
