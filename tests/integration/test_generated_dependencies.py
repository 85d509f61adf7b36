"""The generated dependencies of real modules, beside what kmod's tools and Module.symvers say, and in real packages."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pkgkmod.modules import kmod_deps
from pkgkmod.modules.kmod_deps import read_module
from pkgkmod.templates import Templates
from tests.fixtures.archive_modules import SMALL, archive_driver, driver_packages, image_modules
from tests.fixtures.machine import NO_DATABASE, need

PROGRAM = Path(kmod_deps.__file__)


def output(*argv, names="", **variables):
    done = subprocess.run(
        [str(word) for word in argv], input=names, capture_output=True, text=True, check=False, **variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines(*argv, **more):
    return output(*argv, **more).splitlines()


def generator(what, modules, *options, python=sys.executable):
    return lines(python, PROGRAM, what, *options, names="\n".join(map(str, modules)))


def symvers_of(kernel):
    return Path(f"/lib/modules/{kernel}/build/Module.symvers")


def symvers_table(kernel):
    rows = [line.split("\t") for line in symvers_of(kernel).read_text().splitlines()]
    return {row[1]: (int(row[0], 16), row[2]) for row in rows}


def modversions(module):
    """What modprobe says that a module needs."""
    rows = [line.split("\t") for line in lines("modprobe", "--dump-modversions", module)]
    return {row[1]: int(row[0], 16) for row in rows}


def exports(module):
    """What modprobe says that a module exports; it fails for one that exports nothing."""
    done = subprocess.run(["modprobe", "--show-exports", module], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "could not get symbols" in done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return {row[1]: int(row[0], 16) for row in rows}


def put_in_place(modules, folder, kernel):
    """Copy modules to where a package has them."""
    place = folder / "lib/modules" / kernel / "extra"
    place.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy2(module, place)) for module in modules]


def check_driver(package, kernel, folder):
    need("modprobe", "modinfo")
    driver = archive_driver(package, kernel)
    assert driver.modules, driver.log.read_text()[-3000:]
    modules = put_in_place(driver.modules, folder, kernel)
    kernels = symvers_table(kernel)
    for module in modules:
        wanted, offered = modversions(module), exports(module)
        assert wanted
        expected = {
            f"kernel({name}) = 0x{crc:08x}"
            if name in kernels and kernels[name][0] == crc
            else f"ksym({name}) = 0x{crc:08x}"
            for name, crc in wanted.items()
        }
        assert generator("requires", [module], "--style", "redhat", "--symvers", symvers_of(kernel)) == sorted(expected)
        said = generator("provides", [module], "--style", "redhat")
        assert {line for line in said if line.startswith("ksym(")} == {
            f"ksym({name}) = 0x{crc:08x}" for name, crc in offered.items()
        }
        assert f"kmod({module.name})" in said
        read = read_module(str(module))
        for key in ("alias", "version", "vermagic", "depends", "firmware", "license", "import_ns"):
            assert read.info(key) == lines("modinfo", "-F", key, module), (module.name, key)
        assert read.release == kernel
        # every undefined symbol comes from somewhere
        assert read.undefined <= wanted.keys()
    offered = {pair for module in modules for pair in exports(module).items()}
    left = {pair for module in modules for pair in modversions(module).items()} - offered
    together = generator("requires", modules, "--style", "suse", "--flavour", "default")
    assert together == sorted(f"ksym(default:{name}) = {crc:x}" for name, crc in left)
    return len(modules)


@pytest.mark.parametrize("package", SMALL)
def test_requires_of_real_drivers_are_what_modprobe_and_symvers_say(package, kernel, tmp_path):
    assert check_driver(package, kernel, tmp_path) > 0


@pytest.mark.slow
def test_requires_of_every_driver_of_the_archive(kernel, tmp_path):
    # Some are too old for the newest kernel: 3 of 29 were when this was written (bookworm, 6.1.0-56).
    built = [package for package in driver_packages() if archive_driver(package, kernel).modules]
    count = sum(check_driver(package, kernel, tmp_path / package) for package in built)
    assert (len(built) >= 20, count >= 80) == (True, True), built


def test_modules_of_one_driver_find_each_other(kernel, tmp_path):
    modules = put_in_place(archive_driver("jool-dkms", kernel).modules, tmp_path, kernel)
    options = ("--style", "redhat", "--symvers", symvers_of(kernel))
    alone = {line for module in modules for line in generator("requires", [module], *options)}
    others = {line for line in alone if line.startswith("ksym(")}
    # rpm asks for each file: what one needs of another is provided by the same package
    assert others
    assert others <= set(generator("provides", modules, "--style", "redhat"))
    # asked for all at once, only the kernel's are left
    assert set(generator("requires", modules, *options)) == alone - others


@pytest.mark.slow
def test_exports_of_the_kernels_own_modules_are_those_of_its_symvers(kernel):
    table = symvers_table(kernel)
    by_module = {}
    for symbol, (crc, module) in table.items():
        by_module.setdefault(module, {})[symbol] = crc
    folder = image_modules(kernel) / "kernel"
    checked = 0
    for module in folder.rglob("*.ko*"):
        name = re.sub(r"\.ko.*", "", str(module.relative_to(folder)))
        read = read_module(str(module))
        assert read.exports == by_module.get(name, {}), name
        assert all(table[symbol][0] == crc for symbol, crc in (read.versions or {}).items()), name
        checked += len(read.exports)
    assert checked > 100


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_compressed_modules_say_the_same(suffix, kernel, tmp_path):
    need("gzip", "xz", "zstd")
    modules = put_in_place(archive_driver("jool-dkms", kernel).modules, tmp_path, kernel)
    said = (generator("requires", modules, "--style", "suse"), generator("provides", modules, "--style", "redhat"))
    packers = {"": ["true"], ".gz": ["gzip", "-nf"], ".xz": ["xz", "--check=crc32"], ".zst": ["zstd", "-q", "--rm"]}
    output(*packers[suffix], *modules)
    packed = [Path(f"{module}{suffix}") for module in modules]
    packed_say = (generator("requires", packed, "--style", "suse"), generator("provides", packed, "--style", "redhat"))
    assert packed_say == said


def test_the_oldest_python_of_a_build_root(kernel, tmp_path):
    old = next((p for p in sorted(Path.home().glob(".pyenv/versions/3.6*/bin/python3.6"))), None)
    old = old or shutil.which("python3.6")
    if not old:
        pytest.skip("there is no Python 3.6; another test has its syntax checked")
    modules = put_in_place(archive_driver("jool-dkms", kernel).modules, tmp_path, kernel)
    for style in kmod_deps.STYLES:
        for what in ("requires", "provides", "supplements"):
            assert generator(what, modules, "--style", style, python=old) == generator(what, modules, "--style", style)


SPEC = r"""
%define kernel_tree() %{trees}/%{1}/build
%define each_kernel() %{lua: print(rpm.expand("%{" .. rpm.expand("%1") .. " " .. rpm.expand("%{kernel}") .. "}"))}
@GENERATORS@
%define __spec_install_post %{?find_dependencies}
%global _wrong_version_format_terminate_build 0
%global debug_package %{nil}
%global _build_id_links none
Name: example
Version: 1
Release: 1
Summary: An example
License: GPL-2.0-only
%description
An example.
%prep
%setup -q -c -T
cp -a %{content}/. .
%install
@INSTALL@
mkdir -p %{buildroot}/usr/bin
cp -a lib %{buildroot}/
printf '#!/usr/bin/perl\n' > %{buildroot}/usr/bin/tool
chmod 0755 %{buildroot}/usr/bin/tool
%files
/lib/*
/usr/bin/tool
"""


@pytest.fixture
def package(tmp_path):
    """Build a package of the files below content/ with the real rpmbuild; return how that ended, and the package."""
    need("rpmbuild", "rpm")
    content = tmp_path / "content"
    content.mkdir()

    def build(style, kernel):
        shutil.copy2(PROGRAM, content / "pkgkmod-deps")
        (content / "pkgkmod-deps").chmod(0o755)
        values = {"dependency_style": style, "supplements": True}
        ours = [Templates("spec-templates").render(name, values) for name in ("generators.j2", "install-generators.j2")]
        (tmp_path / "a.spec").write_text(SPEC.replace("@GENERATORS@", ours[0]).replace("@INSTALL@", ours[1]))
        defines = {"kernel": kernel, "trees": "/lib/modules", "content": content, "_topdir": tmp_path}
        defines["_dbpath"] = tmp_path / "db"
        words = [word for pair in defines.items() for word in ("--define", " ".join(map(str, pair)))]
        done = subprocess.run(
            ["rpmbuild", "-bb", "--nodeps", *words, tmp_path / "a.spec"], capture_output=True, text=True, check=False
        )
        return done, next(iter(sorted(tmp_path.glob("RPMS/*/*.rpm"))), None)

    return build


def said_by(package, what):
    return set(lines("rpm", "-qp", "--dbpath", NO_DATABASE, f"--{what}", package))


@pytest.mark.parametrize("style", sorted(kmod_deps.STYLES))
def test_real_rpmbuild_runs_the_generator(style, kernel, tmp_path, package):
    modules = put_in_place(archive_driver("jool-dkms", kernel).modules, tmp_path / "content", kernel)
    done, rpm = package(style, kernel)
    assert done.returncode == 0, done.stderr
    expected = {"requires": set(), "provides": set(), "supplements": set()}
    for module in modules:
        for what, found in expected.items():
            options = ("--symvers", symvers_of(kernel)) if what == "requires" else ()
            found.update(generator(what, [module], "--style", style, *options))
    requires = said_by(rpm, "requires")
    assert {line for line in requires if not line.startswith(("rpmlib(", "/"))} == expected["requires"]
    assert expected["provides"] < said_by(rpm, "provides")
    assert said_by(rpm, "supplements") == expected["supplements"]
    # the machine's own generators worked on, too
    assert "/usr/bin/perl" in requires


def test_real_rpmbuild_fails_if_a_module_cannot_be_read(kernel, tmp_path, package):
    (module, *_) = put_in_place(archive_driver("bbswitch-dkms", kernel).modules, tmp_path / "content", kernel)
    module.write_bytes(module.read_bytes()[:5000])
    done, rpm = package("redhat", kernel)
    assert done.returncode != 0
    assert rpm is None
    assert "bbswitch.ko: damaged or truncated: it ends too early" in done.stdout + done.stderr


def test_real_rpmbuild_takes_what_hostile_names_lead_to(kernel, tmp_path, package):
    (module, *_) = put_in_place(archive_driver("bbswitch-dkms", kernel).modules, tmp_path / "content", kernel)
    for name in ("x = 1.ko", "(a and b).ko", "a,b.ko", "%{nil}.ko", "-a.ko", "$(touch touched).ko", "ümlaut.ko"):
        shutil.copy2(module, module.with_name(name))
    done, rpm = package("redhat", kernel)
    assert done.returncode == 0, done.stderr
    assert {line for line in said_by(rpm, "provides") if line.startswith("kmod(")} == {
        "kmod(bbswitch.ko)",
        "kmod(-a.ko)",
    }
    assert not list(tmp_path.rglob("touched"))
