"""dkms packages as projects: real ones of the archive beside the real dkms, and one that says all that can be said."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from pkgkmod.errors import InputError
from pkgkmod.modules.kmod_deps import read_module
from pkgkmod.progress import Progress
from pkgkmod.sources import dkms
from tests.fixtures.archive_modules import archive_driver, archive_package
from tests.fixtures.machine import CHECKOUT, Finished, commit, made, need, pkgkmod, series_and_kernel

BUILT = ("acpi-call-dkms", "digimend-dkms", "tp-smapi-dkms", "v4l2loopback-dkms")
BROKEN = "librem-ec-acpi-dkms"

# It has all that dkms can be told, and a make that needs more than kbuild.
CONF = """\
PACKAGE_NAME=Own_Driver
PACKAGE_VERSION=1.2-3
BUILT_MODULE_NAME[0]=own
BUILT_MODULE_LOCATION[0]=src
DEST_MODULE_NAME[0]=own_driver
DEST_MODULE_LOCATION[0]=/extra
case $kernelver in *-cloud-*) ;; *)
    BUILT_MODULE_NAME[1]=extra
    BUILT_MODULE_LOCATION[1]=src
    DEST_MODULE_LOCATION[1]=/extra ;;
esac
PRE_BUILD="configure --kernel=$kernel_source_dir --odd=a;exit"
MAKE="make -C src KDIR=$kernel_source_dir OUT=$dkms_tree/Own_Driver/1.2-3/build/src TEXT='$kernelver built it'"
PATCH[0]=text.patch
PATCH[1]=never.patch
PATCH_MATCH[1]=^2[.]
BUILD_EXCLUSIVE_CONFIG="!CONFIG_PREEMPT_RT"
BUILD_EXCLUSIVE_KERNEL_MIN=5.0
touch /tmp/pkgkmod-pwned /usr/src/pkgkmod-pwned "$HOME/pkgkmod-pwned" 2>/dev/null
echo "this goes to nobody"
(: < /dev/tcp/127.0.0.1/1) 2>/dev/null
"""
CONFIGURE = """\
#!/bin/sh
[ -f "${1#--kernel=}/Makefile" ] && [ "$2" = "--odd=a;exit" ] || exit 1
echo '#define CONFIGURED 1' > src/config.h
"""
MAKEFILE = """\
ifneq ($(KBUILD_EXTMOD),)
obj-m := own.o extra.o
else
all:
	echo '#define TEXT "$(TEXT)"' > text.h
	$(MAKE) -C $(KDIR) M=$(OUT) modules
endif
"""
MODULE = """\
#include <linux/module.h>
#include "config.h"
#include "text.h"
int %s_number(void);
int %s_number(void) { return CONFIGURED; }
EXPORT_SYMBOL_GPL(%s_number);
static int __init start(void) { pr_info("unpatched %%s", TEXT); return 0; }
module_init(start);
MODULE_LICENSE("GPL");
"""
PATCH = """\
--- a/src/own.c
+++ b/src/own.c
@@ -6,4 +6,4 @@
 EXPORT_SYMBOL_GPL(own_number);
-static int __init start(void) { pr_info("unpatched %s", TEXT); return 0; }
+static int __init start(void) { pr_info("patched %s", TEXT); return 0; }
 module_init(start);
 MODULE_LICENSE("GPL");
"""
PWNED = (Path("/tmp/pkgkmod-pwned"), Path("/usr/src/pkgkmod-pwned"), Path.home() / "pkgkmod-pwned")


@pytest.fixture(scope="module")
def kernel() -> str:
    return series_and_kernel()[1]


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """A driver of our own, in the shape of a dkms package."""
    files = {
        "dkms.conf": CONF,
        "configure": CONFIGURE,
        "src/Makefile": MAKEFILE,
        "src/own.c": MODULE.replace("%s_", "own_").replace("%%", "%"),
        "src/extra.c": MODULE.replace("%s_", "extra_").replace("%%", "%"),
        "patches/text.patch": PATCH,
        "patches/never.patch": PATCH,
    }
    folder = tmp_path / "own-driver-1.2-3"
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1_700_000_000, 1_700_000_000))
    (folder / "configure").chmod(0o755)
    return folder


def imported(package: Path, folder: Path, kernel: str, *more: str) -> Finished:
    return pkgkmod(
        *("import", "dkms", package, "-o", folder, "--distro", "debian12", "--kernel", kernel, *more),
        cwd=package.parent,
    )


def imports(modules: Iterable[Path]) -> dict[str, frozenset[str]]:
    return {path.name.partition(".ko")[0]: read_module(str(path)).imports for path in modules}


def compiled(folder: Path) -> list[Path]:
    return sorted(folder.glob("results/build_modules/*/*/*/*.ko"))


@pytest.mark.parametrize("package", BUILT)
def test_drivers_of_the_archive_have_the_modules_that_dkms_makes(package: str, kernel: str, tmp_path: Path) -> None:
    peer = archive_driver(package, kernel)
    imported(archive_package(package), tmp_path / "project", kernel)
    pkgkmod("build_modules", cwd=tmp_path / "project")
    assert imports(compiled(tmp_path / "project")) == imports(peer.modules)


def test_a_driver_that_dkms_cannot_build_is_reported_with_the_reason(kernel: str, tmp_path: Path) -> None:
    if archive_driver(BROKEN, kernel).modules:
        pytest.skip(f"{BROKEN} can be built for {kernel}")
    imported(archive_package(BROKEN), tmp_path / "project", kernel)
    done = pkgkmod("build_modules", cwd=tmp_path / "project", code=8)
    assert "librem_ec_acpi.c" in done.err
    assert "acpi_battery_hook got the hook as a second argument" in done.err


def test_an_import_says_what_became_of_each_setting(driver: Path, kernel: str, tmp_path: Path) -> None:
    done = imported(driver, tmp_path / "project", kernel)
    project = tomllib.loads((tmp_path / "project/pkgkmod.toml").read_text())
    assert project["project"]["name"] == "own_driver"
    assert (project["project"]["version"], project["project"]["release"]) == ("1.2", "3")
    assert project["only"] == {"oldest": "5.0", "config": ["!PREEMPT_RT"]}
    assert project["module"][0] == {"name": "own_driver", "built": "src/own.ko"}
    assert [path.name for path in sorted((tmp_path / "project/patches").iterdir())] == ["series", "text.patch"]
    for word in ("PRE_BUILD", "PATCH = text.patch", "DEST_MODULE_LOCATION", "project.license"):
        assert word in done.err
    assert not [path for path in PWNED if path.exists()]


def test_an_import_gives_the_same_twice_and_keeps_what_is_there(driver: Path, kernel: str, tmp_path: Path) -> None:
    imported(driver, tmp_path / "one", kernel)
    imported(driver, tmp_path / "two", kernel)
    texts = [(tmp_path / name / "pkgkmod.toml").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1]
    again = pkgkmod("import", "dkms", driver, "-o", tmp_path / "one", cwd=tmp_path, code=2)
    assert "--force" in again.err
    shown = pkgkmod("import", "dkms", "-n", driver / "dkms.conf", "-o", tmp_path / "three", cwd=tmp_path)
    assert "[build]" in shown.out
    assert not (tmp_path / "three").exists()


def test_a_make_of_its_own_builds_in_a_root_without_pkgkmod_and_gives_the_same(
    driver: Path, kernel: str, tmp_path: Path
) -> None:
    need("dpkg-buildpackage", "dh")
    folder = tmp_path / "project"
    imported(driver, folder, kernel)
    pkgkmod("build_deb", cwd=folder)
    modules = compiled(folder)
    assert [path.name for path in modules] == ["extra.ko", "own_driver.ko"]
    own = modules[1].read_bytes()
    assert f"{kernel} built it".encode() in own
    assert b"unpatched" not in own
    symvers = (modules[0].parent / "Module.symvers").read_text()
    assert "own_number" in symvers
    assert "extra_number" in symvers
    # The sources alone, elsewhere, with make.
    elsewhere = tmp_path / "elsewhere"
    unpack = ["dpkg-source", "--no-check", "-x", made(folder, "*.dsc"), elsewhere]
    subprocess.run(unpack, check=True, capture_output=True)
    words = ["make", "-s", "-f", "pkgkmod.mk", "modules", f"KERNEL={kernel}", f"KERNEL_CC={compiler(kernel)}"]
    subprocess.run(words, cwd=elsewhere, check=True)
    for module in modules:
        assert (elsewhere / "modules" / kernel / module.name).read_bytes() == module.read_bytes()


def compiler(kernel: str) -> str:
    text = Path("/lib/modules", kernel, "build/.config").read_text()
    return next(line for line in text.splitlines() if "CC_VERSION_TEXT" in line).split('"')[1].split()[0]


def test_a_make_of_its_own_goes_through_rpm(driver: Path, kernel: str, tmp_path: Path) -> None:
    need("rpmbuild")
    folder = tmp_path / "project"
    imported(driver, folder, kernel)
    text = (folder / "pkgkmod.toml").read_text().replace('distro = "debian12"', 'distro = "el9"')
    (folder / "pkgkmod.toml").write_text(text)
    pkgkmod("build_rpm", "-C", "build.from_source=true", cwd=folder)
    package = made(folder, "kmod-*.x86_64.rpm")
    listed = subprocess.run(["rpm", "-qlp", package], capture_output=True, text=True, check=True).stdout
    assert "own_driver.ko" in listed
    assert "extra.ko" in listed


def test_kernels_that_it_is_not_for_are_skipped_and_it_is_said_why(driver: Path, kernel: str, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    imported(driver, folder, kernel)
    file = folder / "pkgkmod.toml"
    others = sorted(path.parent.name for path in Path("/lib/modules").glob("*/build") if path.parent.name != kernel)
    if not others:
        pytest.skip("there is but one kernel")
    file.write_text(
        file.read_text()
        .replace(f'kernels = ["{kernel}"]', f'kernels = ["{kernel}", "{others[-1]}"]')
        .replace("[only]", f'[only]\nkernels = ["!{others[-1]}"]')
    )
    planned = pkgkmod("plan", "build_modules", cwd=folder)
    assert f"SKIP  kernel {others[-1]}: only.kernels is !{others[-1]}" in planned.out
    events = pkgkmod("build_modules", "--json", cwd=folder).events
    excluded = [event for event in events if event["event"] == "excluded"]
    assert [(event["kernel"], event["reason"]) for event in excluded] == [
        (others[-1], f"only.kernels is !{others[-1]}")
    ]
    assert {path.parent.parent.name for path in compiled(folder)} == {kernel}
    status = pkgkmod("status", cwd=folder).out
    assert f"skipped build_modules {others[-1]}: only.kernels is !{others[-1]}\n" in status
    file.write_text(file.read_text().replace("[only]\nkernels", '[only]\nmachine = "^vax$"\nkernels'))
    nothing = pkgkmod("build_modules", cwd=folder, code=6)
    assert "the driver is for none of these kernels" in nothing.err
    assert "only.machine is ^vax$" in nothing.err


def test_a_conf_without_end_and_one_without_words_are_refused(driver: Path, kernel: str, tmp_path: Path) -> None:
    (driver / "dkms.conf").write_text("exit 0\n")
    done = pkgkmod("import", "dkms", driver, "-o", tmp_path / "project", cwd=tmp_path, code=17)
    assert "dkms.conf says nothing" in done.err
    shutil.rmtree(driver)
    driver.mkdir()
    done = pkgkmod("import", "dkms", driver, "-o", tmp_path / "project", cwd=tmp_path, code=2)
    assert "there is no dkms.conf" in done.err


def test_a_file_that_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_text("no archive")
    done = pkgkmod("import", "dkms", tmp_path / "x.deb", cwd=tmp_path, code=17)
    assert "cannot be unpacked" in done.err


@pytest.mark.parametrize(("files", "size"), [(1, 3 << 20), (30, 10)])
def test_a_package_of_more_than_a_driver_is_refused_before_it_is_unpacked(
    files: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are made small for it."""
    need("dpkg-deb", "prlimit", "xz")
    root, scratch = tmp_path / "root", tmp_path / "scratch"
    (root / "usr/src/foo-1").mkdir(parents=True)
    (root / "usr/src/foo-1/dkms.conf").write_text('PACKAGE_NAME="foo"\n')
    for number in range(files):
        (root / f"usr/src/foo-1/zeros{number}").write_bytes(bytes(size))
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        "Package: foo-dkms\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: d\n"
    )
    package = tmp_path / "foo-dkms.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, package], check=True, capture_output=True)
    scratch.mkdir()
    opened = dkms.open_sources(package, scratch, isolated=False, progress=Progress())
    assert opened.folder.name == "foo-1"
    shutil.rmtree(scratch)
    scratch.mkdir()
    monkeypatch.setattr(dkms, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(dkms, "MOST_FILES", 20)
    with pytest.raises(InputError, match=r"foo-dkms\.deb cannot be unpacked") as caught:
        dkms.open_sources(package, scratch, isolated=False, progress=Progress())
    assert "folder with the sources" in caught.value.hint
    assert not list(scratch.rglob("zeros*"))


def test_what_it_depends_on_is_required_where_a_project_has_it(kernel: str, tmp_path: Path) -> None:
    need("bwrap", "make")
    shutil.copytree(CHECKOUT / "examples/foobar", tmp_path / "foobar")
    commit(tmp_path / "foobar")
    foo = tmp_path / "foobar/two/foo"
    bar = tmp_path / "bar-1.0"
    shutil.copytree(tmp_path / "foobar/drivers/misc/bar", bar)
    (bar / "dkms.conf").write_text(
        "PACKAGE_NAME=bar PACKAGE_VERSION=1.0 BUILT_MODULE_NAME[0]=bar DEST_MODULE_LOCATION[0]=/updates\n"
        'MAKE="make -C $kernel_source_dir M=$dkms_tree/bar/1.0/build"\nBUILD_DEPENDS[0]=Foo\nBUILD_DEPENDS[1]=baz\n'
    )
    done = imported(bar, tmp_path / "bar", kernel, "--with", str(foo))
    assert "[[requires]], project = ../foobar/two/foo" in done.err
    written = tomllib.loads((tmp_path / "bar/pkgkmod.toml").read_text())
    assert written["requires"] == [{"project": "../foobar/two/foo"}]
    assert "BUILD_DEPENDS[1] = baz" in done.err.partition("left out")[0]  # for the packager to decide
    target = ("-C", f'target=[{{distro="debian12",kernels=["{kernel}"]}}]')
    pkgkmod("build_modules", *target, cwd=foo)
    pkgkmod("build_modules", cwd=tmp_path / "bar")
    (module,) = compiled(tmp_path / "bar")
    assert "foo_count" in read_module(str(module)).imports
    # The file will do as well; a project that others cannot build on will not.
    imported(bar, tmp_path / "again", kernel, "--with", str(foo / "pkgkmod.toml"))
    (foo / "pkgkmod.toml").write_text((foo / "pkgkmod.toml").read_text().replace("enabled = true", ""))
    words = ("import", "dkms", bar, "-o", tmp_path / "no", "--with", foo)
    assert "makes no devel package" in pkgkmod(*words, cwd=tmp_path, code=2).err
    assert not (tmp_path / "no").exists()
