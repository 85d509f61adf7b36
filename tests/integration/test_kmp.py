"""SUSE's kernel module packages of the example driver, built, asked, installed and removed for real. Kernels are
stand-ins: headers of Debian in the shape of SUSE's packages, and stubs with the symbols of the same kernel.
"""

import fnmatch
import os
import re
import shutil
import subprocess

import pytest

from pkgkmod.model.kernel import KernelRelease
from tests.fixtures import stubkernels
from tests.fixtures.archive_drivers import jool
from tests.fixtures.families import Made, ask, family, query
from tests.fixtures.machine import CHECKOUT, e1000e, hello, need, pkgkmod
from tests.fixtures.otherroots import kernels_in, run_in, trixie
from tests.fixtures.rpmrepo import SUSE, build_rpm, kernels, publish
from tests.fixtures.rpmroots import SUSE as SUSE_ORDER
from tests.fixtures.rpmroots import ScratchRoot, dnf, repository, zypper
from tests.fixtures.stubkernels import SUSE_NEXT

BASE = SUSE.removesuffix("-default")
VERSION = f"1.0_k{BASE.replace('-', '_')}"
OTHERS = ("sles16", "leap", "tumbleweed")
RT = f"{BASE}-rt"
RPMLINT = CHECKOUT / "tests/rpmlint.toml"
# Logs how it is called, as pesign-obs-integration's brp-99-pesign would be.
SIGNER = """#!/bin/sh
{{ echo "$BRP_PESIGN_FILES $BRP_PESIGN_COMPRESS_MODULE"; cd "$RPM_BUILD_ROOT"; find . -name '*.ko*'; }} > {log}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The example driver's packages for a distribution of each kind."""
    folder = tmp_path_factory.mktemp("suse")
    more = "".join(f'[[target]]\ndistro = "{name}"\nkernels = ["{SUSE}"]\n' for name in OTHERS)
    made = family(folder / "project", hello(folder / "driver"), "sle15sp6", more)
    pkgkmod("build_rpm", cwd=made)
    return made


@pytest.fixture(scope="module")
def sle(project):
    return Made(project, "sle15sp6")


def package(project, target):
    (found,) = project.glob(f"results/build_rpm/{target}/*/*/*.x86_64.rpm")
    return found


def test_what_is_made(sle):
    assert set(sle.packages) == {"src", "hello-kmp-default"}
    form = "%{name}-%{version}-%{release} %{payloadcompressor} %{sourcerpm}"
    source = f"hello-1.0-1.k{BASE.replace('-', '_')}.src.rpm"
    assert query(sle.packages["hello-kmp-default"], form) == f"hello-kmp-default-{VERSION}-1 xz {source}"
    assert sle.packages["src"].name == source


@pytest.mark.parametrize("target", ["sle15sp6", *OTHERS])
def test_files_lie_below_the_root_of_the_distribution(project, target):
    root = "/lib/modules" if target.startswith("sle15") else "/usr/lib/modules"
    folder = f"{root}/{SUSE}"
    files = ask(package(project, target), "-l")
    assert {file for file in files if "/doc/" not in file} == {
        folder,
        f"{folder}/updates",
        f"{folder}/updates/hello",
        f"{folder}/updates/hello/hello.ko",
    }
    # Two versions of a KMP are installed at once, for two kernels: no file of theirs may be the same.
    (document,) = (file for file in files if file.endswith("provenance.json"))
    assert f"/hello-kmp-default-{VERSION}/" in document


def test_each_symbol_is_required_with_the_crc_that_the_kernel_has(sle):
    (module,) = sle.modules.values()
    argv = ["modprobe", "--dump-modversions", module]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = {f"ksym(default:{symbol}) = {int(crc, 16):x}" for crc, symbol in map(str.split, lines)}
    requires = ask(sle.packages["hello-kmp-default"], "--requires")
    assert {one for one in requires if one.startswith("ksym(")} == wanted and wanted
    assert "kmod(hello.ko)" in ask(sle.packages["hello-kmp-default"], "--provides")


def test_on_tumbleweed_the_kernel_is_required_by_its_release(project):
    requires = ask(package(project, "tumbleweed"), "--requires")
    assert f"kernel-uname-r = {SUSE}" in requires
    assert not [one for one in requires if one.startswith("ksym(")]
    assert not [one for one in ask(package(project, "sles16"), "--requires") if "kernel-uname-r" in one]


def solved(folder, solver, made, *kernels, words=("install", "hello-kmp-default")):
    place = repository(folder / "repository", stubkernels.base_system(), made, *kernels)
    return solver(ScratchRoot(folder / "root", SUSE_ORDER), place, *words)


@pytest.mark.parametrize("solver", [dnf, zypper])
@pytest.mark.parametrize("target", ["sle15sp6", "tumbleweed"])
def test_a_solver_installs_it_with_a_stub_kernel_of_suse(tmp_path, project, target, solver):
    done = solved(tmp_path, solver, package(project, target), *stubkernels.suse().packages)
    assert done.accepted, done.text
    assert done.names() == {"base-system", "kernel-default", "hello-kmp-default"}


@pytest.mark.parametrize("solver", [dnf, zypper])
def test_a_later_stub_kernel_with_the_same_symbols_serves_on_suse_linux_enterprise(tmp_path, sle, solver):
    later = stubkernels.suse(SUSE_NEXT)
    assert solved(tmp_path, solver, sle.packages["hello-kmp-default"], *later.packages).accepted


@pytest.mark.parametrize("solver", [dnf, zypper])
def test_a_solver_refuses_a_stub_kernel_with_another_symbol_and_names_it(tmp_path, sle, solver):
    kernel = stubkernels.suse(changed=("_printk",))
    done = solved(tmp_path, solver, sle.packages["hello-kmp-default"], *kernel.packages)
    crc = int(stubkernels.suse().symbols["_printk"], 16)
    assert not done.accepted and not done.installed
    assert f"nothing provides ksym(default:_printk) = {crc:x} needed by hello-kmp-default" in done.text


@pytest.mark.parametrize("solver", [dnf, zypper])
def test_a_solver_refuses_another_stub_kernel_on_tumbleweed(tmp_path, project, solver):
    later = stubkernels.suse(SUSE_NEXT)
    done = solved(tmp_path, solver, package(project, "tumbleweed"), *later.packages)
    assert f"nothing provides kernel-uname-r = {SUSE}" in done.text and not done.installed


def test_zypper_finds_it_by_the_driver_and_the_kernel(tmp_path, sle):
    """Supplements: (kernel-default and hello), so a package `hello` of programs brings it along."""
    stubkernels.build(tmp_path, "1-1", stubkernels.Package("hello"))
    programs = tmp_path / "x86_64/hello-1-1.x86_64.rpm"
    words = ("install", "--recommends", "hello", "kernel-default")
    done = solved(
        tmp_path, zypper, sle.packages["hello-kmp-default"], *stubkernels.suse().packages, programs, words=words
    )
    assert "hello-kmp-default" in done.names(), done.text


@pytest.mark.parametrize("target", ["sle15sp6", "tumbleweed"])
def test_where_the_scripts_of_suse_fail_or_are_not_there(tmp_path, project, target):
    root = ScratchRoot(tmp_path / "root", SUSE_ORDER)
    root.add_kernel(SUSE)
    scripts = [f"/usr/lib/module-init-tools/kernel-scriptlets/kmp-{one}" for one in ("pre", "post", "preun", "postun")]
    for script in scripts:
        root.stand_in(script, code=1)
    root.install(package(project, target))
    root.erase("hello-kmp-default")
    assert [call.program for call in root.log()] == [
        f"kmp-{one}" for one in ("pre", "post", "posttrans", "preun", "postun")
    ]
    root.forget()
    root.without(*scripts, "/usr/lib/module-init-tools/kernel-scriptlets/kmp-posttrans")
    root.install(package(project, target))
    # Then depmod is all that can be done.
    assert [call.argv for call in root.log()] == [("-a", "-F", f"/boot/System.map-{SUSE}", SUSE)]
    assert root.module_file(SUSE, "hello") == f"/lib/modules/{SUSE}/updates/hello/hello.ko"
    (root / f"boot/System.map-{SUSE}").unlink()
    root.erase("hello-kmp-default")
    assert root.log()[-1].argv == ("-a", SUSE)
    assert root.files() == set()


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Build trees of two flavours of one kernel: SUSE-shaped, and so that they say so in the modules."""
    folder = tmp_path_factory.mktemp("trees")
    for file in kernels().suse:
        with file.open("rb") as package:
            archive = subprocess.run(["rpm2archive", "-n", "-"], stdin=package, capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    flavours = folder / f"usr/src/linux-{BASE}-obj/x86_64"
    shutil.copytree(flavours / "default", flavours / "rt", symlinks=True)
    (flavours / "rt/include/generated/utsrelease.h").write_text(f'#define UTS_RELEASE "{RT}"\n')
    (flavours / "rt/include/config/kernel.release").write_text(f"{RT}\n")
    (folder / "trees").mkdir()
    for name in ("default", "rt"):
        (folder / f"trees/{BASE}-{name}").symlink_to(flavours / name)
    return folder / "trees"


def test_all_flavours_of_a_kernel_are_built_from_one_source_package(tmp_path, trees):
    built = tmp_path / f"rt/usr/src/linux-{BASE}-obj/x86_64/rt"
    shutil.copytree((trees / RT).resolve(), built, symlinks=True)
    needs = (f"kernel-devel = {BASE}",)
    flavour = build_rpm(tmp_path, "kernel-rt-devel", f"{BASE}.1", tmp_path / "rt", requires=needs)
    url = publish(tmp_path / "repository", *kernels().suse, flavour)
    folder = family(tmp_path / "project", hello(tmp_path / "driver"), "sle15sp6")
    file = folder / "pkgkmod.toml"
    text = re.sub(r"baseurl = .*\ngpgkey = .*\n", f'baseurl = "{url}"\n', file.read_text())
    file.write_text(text.replace(f'kernels = ["{SUSE}"]', f'kernels = ["{BASE}-*"]'))
    pkgkmod("build_rpm", cwd=folder)
    assert set(Made(folder, "sle15sp6").packages) == {"src", "hello-kmp-default", "hello-kmp-rt"}


def rebuilt(folder, source, *defines, code=0):
    """Build packages of a source package as anybody does who has no pkgkmod."""
    words = [word for one in (f"_topdir {folder}", "_dbpath %{_topdir}/db", *defines) for word in ("--define", one)]
    argv = ["rpmbuild", "--rebuild", "--nodeps", *words, source]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    return {query(file, "%{name}"): file for file in folder.glob("RPMS/*/*.rpm")}, done.stderr


def test_the_source_package_makes_packages_of_several_flavours_elsewhere(tmp_path, sle, trees):
    need("rpmbuild", "make", "gcc")
    made, _ = rebuilt(tmp_path, sle.packages["src"], f"kernels {SUSE} {RT}", f"kernel_trees {trees}")
    assert set(made) == {"hello-kmp-default", "hello-kmp-rt"}
    for flavour, file in (("default", made["hello-kmp-default"]), ("rt", made["hello-kmp-rt"])):
        assert query(file, "%{version}-%{release}") == f"{VERSION}-1"
        modules = [one for one in ask(file, "-l") if one.endswith(".ko")]
        assert modules == [f"/lib/modules/{BASE}-{flavour}/updates/hello/hello.ko"]
        symbols = {one for one in ask(file, "--requires") if one.startswith("ksym(")}
        assert symbols and all(one.startswith(f"ksym({flavour}:") for one in symbols)
        assert f"--kernelrelease '{BASE}' --flavor '{flavour}'" in query(file, "%{postin}")


def test_two_versions_for_two_kernels_are_installed_together(tmp_path, sle, trees):
    """A KMP provides multiversion(kernel), which zypper understands."""
    (tmp_path / "trees").mkdir()
    (tmp_path / f"trees/{SUSE_NEXT}").symlink_to((trees / SUSE).resolve())
    defines = (f"kernels {SUSE_NEXT}", f"kernel_trees {tmp_path}/trees")
    several_at_once = tmp_path / "several-at-once"
    several_at_once.write_text("provides:multiversion(kernel)\n")
    (later,) = rebuilt(tmp_path / "later", sle.packages["src"], *defines)[0].values()
    root = ScratchRoot(tmp_path / "root", SUSE_ORDER)
    # As in SUSE's zypp.conf.
    root.put("/etc/zypp/multiversion.d/kernel", several_at_once)
    place = repository(
        *(tmp_path / "repository", stubkernels.base_system(), later, sle.packages["hello-kmp-default"]),
        *stubkernels.suse().packages,
    )
    assert zypper(root, place, "install", f"hello-kmp-default={VERSION}").accepted
    done = zypper(root, place, "install", "--oldpackage", "hello-kmp-default")
    assert done.accepted, done.text
    assert len([one for one in done.installed if one.startswith("hello-kmp-default")]) == 2
    # Two for one kernel are not: each of them provides this, and conflicts with it.
    name = f"hello-kmp-default-k{SUSE_NEXT.removesuffix('-default').replace('-', '_')}"
    assert name in ask(later, "--provides") and name in ask(later, "--conflicts")


@pytest.mark.parametrize(("compression", "said"), [("none", "none"), ("zst", "zstd"), ("gz", "gzip")])
def test_the_build_service_is_left_to_sign_plain_modules(tmp_path, sle, trees, compression, said):
    """The signer is a stand-in; it is started where the Open Build Service has put its certificate."""
    signer = tmp_path / "signer"
    signer.write_text(SIGNER.format(log=tmp_path / "log"))
    signer.chmod(0o755)
    (tmp_path / "SOURCES").mkdir()
    (tmp_path / "SOURCES/_projectcert.crt").touch()
    more = (f"obs_signer {signer}", f"module_compression {compression}", f"kernel_trees {trees}")
    rebuilt(tmp_path, sle.packages["src"], *more)
    assert (tmp_path / "log").read_text().splitlines() == [
        f"*.ko {said}",
        f"./lib/modules/{SUSE}/updates/hello/hello.ko",
    ]


def test_modules_are_compressed_where_nobody_else_signs_them(tmp_path, sle, trees):
    made, _ = rebuilt(tmp_path, sle.packages["src"], "module_compression zst", f"kernel_trees {trees}")
    assert f"/lib/modules/{SUSE}/updates/hello/hello.ko.zst" in ask(made["hello-kmp-default"], "-l")
    assert "kmod(hello.ko)" in ask(made["hello-kmp-default"], "--provides")


def test_two_kernels_of_one_flavour_are_refused(tmp_path, sle):
    _, said = rebuilt(tmp_path, sle.packages["src"], f"kernels {SUSE} {SUSE_NEXT}", code=1)
    assert f"{SUSE} and {SUSE_NEXT} are of one flavour" in said


@pytest.mark.slow
def test_rpm_4_20_of_debian_13_makes_the_packages_as_well(tmp_path, project):
    root = trixie()
    (release,) = kernels_in(root)
    (tmp_path / "trees").mkdir()
    (tmp_path / f"trees/{release}").symlink_to(f"/usr/lib/modules/{release}/build")
    for target in ("sle15sp6", "tumbleweed"):
        (source,) = project.glob(f"results/build_rpm/{target}/*/*/*.src.rpm")
        shutil.copyfile(source, tmp_path / f"{target}.src.rpm")
        words = [f"--define={one}" for one in ("_topdir /build/top", f"kernels {release}", "kernel_trees /build/trees")]
        run_in(root, ["rpmbuild", "--rebuild", "--nodeps", *words, f"{target}.src.rpm"], tmp_path)
        (made,) = (tmp_path / "top/RPMS").glob("*/*.rpm")
        base, flavour = KernelRelease(release).base, KernelRelease(release).flavour
        assert query(made, "%{name} %{version}") == f"hello-kmp-{flavour} 1.0_k{base.replace('-', '_')}"
        wanted = f"kernel-uname-r = {release}" if target == "tumbleweed" else f"ksym({flavour}:_printk) = "
        assert [one for one in ask(made, "--requires") if one.startswith(wanted)]
        shutil.rmtree(tmp_path / "top")


@pytest.mark.parametrize("target", ["sle15sp6", *OTHERS])
def test_rpmlint_has_nothing_against_the_packages_and_the_spec(project, target):
    need("rpmlint")
    specs = sorted(project.glob(f"results/generate_spec/{target}/*/*/*.spec"))
    made = sorted(project.glob(f"results/build_rpm/{target}/*/*/*.rpm"))
    assert len(specs) == 1 and len(made) == 2
    done = subprocess.run(["rpmlint", "-c", RPMLINT, *specs, *made], capture_output=True, text=True, check=False)
    assert "1 packages and 1 specfiles checked" in done.stdout or "2 packages" in done.stdout, done.stdout
    errors = [line for line in done.stdout.splitlines() if re.search(r": E: ", line)]
    # Packages are signed after they were built.
    assert [line for line in errors if not line.endswith(": E: no-signature")] == []


MORE = """
[rpm]
debuginfo = true
module_compression = "xz"
stable_list = "kabi"
[devel]
enabled = true
"""
# An 82574L, as /sys/bus/pci/devices/*/modalias says it.
HARDWARE = "pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The e1000e with everything that a package can have beside it."""
    folder = family(tmp_path_factory.mktemp("suse"), e1000e(), "sle15sp6", MORE)
    (folder / "kabi").write_text("[suse]\n\t_printk\n")
    (folder / "firmware/e1000e").mkdir(parents=True)
    (folder / "firmware/e1000e/a b.bin").write_bytes(b"firmware\0")
    pkgkmod("build_rpm", cwd=folder)
    return Made(folder, "sle15sp6")


@pytest.mark.xdist_group("e1000e")
def test_a_real_driver_with_all_packages(real):
    kmp = real.packages["e1000e-kmp-default"]
    beside = ("debuginfo", "devel", "firmware")
    assert set(real.packages) == {"src", "e1000e-kmp-default", *(f"e1000e-{name}" for name in beside)}
    # The packages beside the modules have the version of the source package.
    release = f"1.0-1.k{BASE.replace('-', '_')}"
    assert {query(real.packages[f"e1000e-{name}"], "%{version}-%{release}") for name in beside} == {release}
    assert f"e1000e-kmod-devel = {release}" in ask(real.packages["e1000e-devel"], "--provides")
    assert "e1000e-firmware >= 1.0" in ask(kmp, "--requires")
    assert {file.rpartition("/")[2] for file in ask(kmp, "-l")} >= {"e1000e.ko.xz", f"greylist-{SUSE}.txt"}


@pytest.mark.xdist_group("e1000e")
def test_a_real_driver_supplements_the_hardware_that_it_drives(real):
    (module,) = real.modules.values()
    aliases = subprocess.run(["modinfo", "-F", "alias", module], capture_output=True, text=True, check=True).stdout
    supplements = ask(real.packages["e1000e-kmp-default"], "--supplements")
    supplements.remove("(kernel-default and e1000e)")
    patterns = [re.fullmatch(r"modalias\(kernel-default:(.*)\)", one)[1] for one in supplements]
    assert patterns and len(patterns) <= len(aliases.split())
    for alias in aliases.split():
        assert any(fnmatch.fnmatchcase(alias.replace("*", "x"), pattern) for pattern in patterns), alias


@pytest.mark.xdist_group("e1000e")
@pytest.mark.parametrize(("hardware", "found"), [(HARDWARE, True), (HARDWARE.replace("10D3", "FFFF"), False)])
def test_zypper_finds_a_real_driver_by_the_hardware(tmp_path, real, monkeypatch, hardware, found):
    """Of machines that it is not on, zypper is told the hardware by this variable (libzypp, zypp/target/modalias)."""
    (tmp_path / "modaliases").write_text(f"{hardware}\n")
    monkeypatch.setenv("ZYPP_MODALIAS_SYSFS", str(tmp_path / "modaliases"))
    root = ScratchRoot(tmp_path / "root", SUSE_ORDER)
    more = (real.packages["e1000e-kmp-default"], real.packages["e1000e-firmware"])
    place = repository(tmp_path / "repository", stubkernels.base_system(), *more, *stubkernels.suse().packages)
    assert zypper(root, place, "install", "kernel-default").accepted
    done = zypper(root, place, "install-new-recommends")
    assert ("e1000e-kmp-default" in done.names()) == found, done.text


@pytest.mark.slow
@pytest.mark.xdist_group("e1000e")
def test_a_real_driver_compiled_in_the_package_build_gives_the_same_packages(real):
    before = {name: file.read_bytes() for name, file in real.packages.items()}
    pkgkmod("build_rpm", "--from-source", cwd=real.folder)
    places = {file.parent for file in real.folder.glob("results/build_rpm/sle15sp6/*/*/*.rpm")}
    assert len(places) == 2, "it was built twice"
    assert {name: file.read_bytes() for name, file in real.packages.items()} == before


@pytest.mark.slow
def test_a_driver_of_several_modules_gets_what_one_gives_the_other(tmp_path):
    driver = jool()
    folder = family(tmp_path / "project", driver, "sle15sp6")
    pkgkmod("build_rpm", cwd=folder)
    made = Made(folder, "sle15sp6")
    kmp = made.packages["jool-kmp-default"]
    provides, requires = ask(kmp, "--provides"), ask(kmp, "--requires")
    assert {f"kmod({name}.ko)" for name in driver.modules} <= set(provides)
    given = {one for one in provides if one.startswith("ksym(default:")}
    assert given
    symbols = stubkernels.suse().symbols
    for one in (one for one in requires if one.startswith("ksym(")):
        name = re.fullmatch(r"ksym\(default:(.*)\) = [0-9a-f]+", one)[1]
        assert one in given or one == f"ksym(default:{name}) = {int(symbols[name], 16):x}"
    place = repository(tmp_path / "repository", stubkernels.base_system(), kmp, *stubkernels.suse().packages)
    done = zypper(ScratchRoot(tmp_path / "root", SUSE_ORDER), place, "install", "jool-kmp-default")
    assert done.accepted, done.text
