"""Modules that build on modules: of one project, of another project, of an installed devel package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pkgkmod.builders import sbuild
from pkgkmod.builders.sbuild import SbuildBuilder
from pkgkmod.errors import SandboxError
from pkgkmod.model.project import Project
from pkgkmod.packages import rpm
from tests.fixtures import stubkernels
from tests.fixtures.aptroot import AptRoot
from tests.fixtures.archive_drivers import jool, tp_smapi
from tests.fixtures.debroots import build_package
from tests.fixtures.families import Made, ask, family
from tests.fixtures.machine import CHECKOUT, Driver, commit, head, lacking, made, made_once, need, pkgkmod
from tests.fixtures.packaging import make_facts, make_job
from tests.fixtures.rpmroots import Outcome, ScratchRoot, dnf, repository, zypper

FOO, BAR = "drivers/misc/foo", "drivers/misc/bar"


def modinfo(field: str, module: Path) -> str:
    argv = ["/usr/sbin/modinfo", "-F", field, module]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def load_order(modules: list[Path], kernel: str, root: Path) -> list[str]:
    """Return which modules the real modprobe would load for the last of some, in its order, by depmod's word."""
    folder = root / "lib/modules" / kernel
    (folder / "updates").mkdir(parents=True)
    for module in modules:
        shutil.copy(module, folder / "updates")
    (folder / "modules.order").touch()
    (folder / "modules.builtin").touch()
    (folder / "modules.builtin.modinfo").touch()
    subprocess.run(["/usr/sbin/depmod", "-b", root, kernel], check=True, capture_output=True)
    argv = ["/usr/sbin/modprobe", "-d", root, "-S", kernel, "--show-depends", modules[-1].stem]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return [Path(line.split()[1]).stem for line in said.splitlines()]


@dataclass(frozen=True)
class Example:
    """A copy of the example, in a repository of its own."""

    folder: Path
    kernel: str

    def edit(self, file: str, old: str, new: str) -> None:
        """Change a file of the sources."""
        path = self.folder / file
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))
        commit(self.folder, f"Change {path.name}")

    def run(self, project: str, *words: str, code: int = 0) -> str:
        """Run a command for the test's kernel in a project of the example; return what it said."""
        done = pkgkmod(*words, "-C", f'target=[{{distro="debian12",kernels=["{self.kernel}"]}}]',
                       cwd=self.folder / project, code=code)  # fmt: skip
        return done.out + done.err

    def plan(self, project: str) -> dict[str, str]:
        """Return what would be done, by stage."""
        lines = self.run(project, "plan").splitlines()
        return {line.split()[1].rstrip(":"): line.split()[0] for line in lines}

    def module(self, project: str, name: str) -> Path:
        """Return the newest build of a module."""
        found = (self.folder / project).glob(f"results/build_modules/*/*/*/{name}.ko")
        return max(found, key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture
def example(kernel: str, tmp_path: Path) -> Example:
    need("git", "make", "bwrap")
    shutil.copytree(CHECKOUT / "examples/foobar", tmp_path / "foobar")
    commit(tmp_path / "foobar")
    return Example(tmp_path / "foobar", kernel)


def test_the_example_as_one_project(example: Example, tmp_path: Path) -> None:
    example.run("one", "build_deb")
    modules = [example.module("one", name) for name in ("foo", "bar")]
    assert modinfo("depends", modules[1]) == "foo"
    assert load_order(modules, example.kernel, tmp_path / "root") == ["foo", "bar"]
    # Whatever the order of the tables is, each module comes behind what it requires.
    rules = made(example.folder / "one", "debian/depmod.conf").read_text()
    assert rules.index("override foo ") < rules.index("override bar ")


def test_the_example_as_two_projects_gives_the_same_bytes_from_source(example: Example) -> None:
    said = example.run("two/bar", "build_modules", code=22)
    assert f"'foo', which this project requires, is not there for {example.kernel}" in said
    assert f"pkgkmod -c {example.folder}/two/foo/pkgkmod.toml build_modules" in said
    example.run("two/foo", "build_deb")
    symvers = made(example.folder / "two/foo", "Module.symvers")
    before = symvers.read_text()
    symvers.write_text("")
    assert "was changed after it was built: Module.symvers" in example.run("two/bar", "build_modules", code=22)
    symvers.write_text(before)
    example.run("two/bar", "build_deb")
    control = made(example.folder / "two/bar", "debian/control").read_text()
    assert f" foo-modules-{example.kernel}," in control
    assert " foo-modules-dev," in control
    deb = made(example.folder / "two/bar", f"bar-modules-{example.kernel}_*.deb")
    first = deb.read_bytes()
    shutil.move(example.folder / "two/bar/results", example.folder / "before")
    example.run("two/bar", "build_deb", "-C", "build.from_source=true", "-C", "build.reuse=false")
    assert made(example.folder / "two/bar", deb.name).read_bytes() == first


def test_a_driver_with_a_make_of_its_own_finds_the_other_project(example: Example) -> None:
    file = example.folder / "two/bar/pkgkmod.toml"
    make = """[[module]]\nname = "bar"\n[build]\nmake = 'make -C "$KERNEL_TREE" M="$SOURCES" modules'\n"""
    file.write_text(file.read_text() + make)
    example.run("two/foo", "build_modules")
    example.run("two/bar", "build_modules")
    assert modinfo("depends", example.module("two/bar", "bar")) == "foo"


def test_only_what_others_see_of_a_driver_makes_them_be_built_anew(example: Example) -> None:
    # Both are in one repository, and a project without a revision follows its newest commit.
    file = example.folder / "two/bar/pkgkmod.toml"
    file.write_text(file.read_text().replace("[source]", f'[source]\nrevision = "{head(example.folder)}"'))

    def both() -> str:
        example.run("two/foo", "build_modules")
        return example.plan("two/bar")["build_modules"]

    example.run("two/foo", "build_modules")
    example.run("two/bar", "build_modules")
    assert both() == "SKIP"
    example.edit(f"{FOO}/main.c", "greeting %d is for", "greeting number %d is for")
    assert both() == "SKIP"
    example.edit(f"{FOO}/include/linux/foo.h", "#endif", "#define FOO_VERSION 2\n\n#endif")
    assert both() == "RUN"
    example.run("two/bar", "build_modules")
    assert both() == "SKIP"
    example.edit(f"{FOO}/main.c", "static int __init", "EXPORT_SYMBOL(greetings);\n\nstatic int __init")
    example.edit(f"{FOO}/main.c", "static atomic_t greetings;", "atomic_t greetings;")
    assert both() == "RUN"


# --- headers that take the place of the kernel's ----------------------------------------------------

REPLACED = ("linux/bitrev.h", "uapi/linux/if_alg.h", "asm/serial.h", "linux/if_packet.h")
USER = """#include <linux/module.h>
{includes}
#ifdef OF_LINUX_BITREV_H
MODULE_INFO(seen, OF_LINUX_BITREV_H OF_UAPI_LINUX_IF_ALG_H OF_ASM_SERIAL_H OF_LINUX_IF_PACKET_H);
#else
MODULE_INFO(seen, "the kernel's");
#endif
MODULE_LICENSE("GPL");
"""


def replacing(folder: Path) -> dict[str, str]:
    """Write headers of the kernel's names, and two modules that include them; return what the first is to see."""
    # <linux/if_packet.h> is one of those that the kernel has below uapi/ only.
    places = [name if name != "linux/if_packet.h" else f"uapi/{name}" for name in REPLACED]
    for place, name in zip(places, REPLACED, strict=True):
        header = folder / FOO / "include" / place
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(f'#define OF_{re.sub("[/.]", "_", name).upper()} "{name} "\n')
    with (folder / FOO / "main.c").open("a") as stream:
        stream.write("#include <linux/bitrev.h>\nMODULE_INFO(seen, OF_LINUX_BITREV_H);\n")
    includes = "\n".join(f"#include <{name}>" for name in REPLACED)
    for name in ("user", "other"):
        place = folder / "drivers/misc" / name
        place.mkdir(parents=True)
        (place / "Makefile").write_text(f"obj-m += {name}.o\n")
        (place / f"{name}.c").write_text(USER.format(includes=includes))
    return {"user": " ".join(REPLACED), "other": "the kernel's"}


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_headers_of_a_required_module_win_in_the_folders_that_require_it(series: str, example: Example) -> None:
    kernels = [path.parent.name for path in sorted(Path("/lib/modules").glob(f"{series}.*-amd64/build"))]
    if not kernels:
        lacking(f"no headers of Linux {series} are installed")
    example = Example(example.folder, kernels[-1])
    wanted = replacing(example.folder)
    commit(example.folder, "Replace headers")
    folders = "".join(f', "drivers/misc/{name}"' for name in wanted)
    file = example.folder / "one/pkgkmod.toml"
    file.write_text(file.read_text().replace(f', "{BAR}"', folders).replace('name = "bar"', 'name = "user"'))
    with file.open("a") as stream:
        stream.write('[[module]]\nname = "other"\n[build]\nextra_cflags = "-save-temps=obj"\n')
    example.run("one", "build_modules")
    seen = {name: modinfo("seen", example.module("one", name)) for name in ("foo", *wanted)}
    assert seen == {"foo": "linux/bitrev.h", **wanted}


def test_headers_of_an_installed_devel_package_win_in_the_output_of_the_preprocessor(
    example: Example, tmp_path: Path
) -> None:
    replacing(example.folder)
    devel = tmp_path / "devel"
    shutil.copytree(example.folder / FOO / "include", devel / "include")
    (devel / example.kernel).mkdir()
    (devel / example.kernel / "Module.symvers").touch()
    commit(example.folder, "Replace headers")
    folder = example.folder / "installed"
    folder.mkdir()
    (folder / "pkgkmod.toml").write_text(
        f"""
[project]
name = "user"
[source]
repository = ".."
directories = ["drivers/misc/user"]
[[requires]]
name = "stack"
folder = "{devel}"
"""
    )
    example.run("installed", "build_modules")
    assert modinfo("seen", example.module("installed", "user")).split() == list(REPLACED)
    # What is in the source package does the same, and the headers are those of the devel package.
    example.run("installed", "generate_debian")
    subprocess.run(["tar", "-xf", made(folder, "*.orig.tar.xz")], cwd=tmp_path, check=True)
    (sources,) = tmp_path.glob("user-*")
    tree = Path("/lib/modules", example.kernel, "build")
    argv = ["make", "-f", "pkgkmod.mk", "modules", f"KERNEL={example.kernel}", f"KERNEL_TREE={tree}"]
    subprocess.run([*argv, "EXTRA_CFLAGS=-save-temps=obj"], cwd=sources, check=True, capture_output=True)
    (text,) = (file.read_text() for file in sources.rglob("user.i") if file.parent.name == "user")
    read = set(re.findall(r'^# \d+ "([^"]+)"', text, re.MULTILINE))
    for name in REPLACED:
        bare = name.removeprefix("uapi/")
        found = {path for path in read if re.search(rf"/include/((generated/)?uapi/|generated/)?{bare}$", path)}
        assert found, name
        assert all(path.startswith(f"{devel}/include/") for path in found), found
    assert any(path.endswith("/include/linux/module.h") and not path.startswith(str(devel)) for path in read)


# --- build roots ------------------------------------------------------------------------------------


def test_a_source_package_builds_on_the_devel_package_without_pkgkmod(example: Example, tmp_path: Path) -> None:
    example.run("two/foo", "build_deb")
    example.run("two/bar", "generate_debian")
    example.run("two/bar", "build_modules")
    root = tmp_path / "root"
    devel = made(example.folder / "two/foo", "foo-modules-dev_*.deb")
    subprocess.run(["dpkg-deb", "-x", devel, root], check=True)
    assert (root / "usr/src/kmods/foo/include/linux/foo.h").is_file()
    subprocess.run(["tar", "-xf", made(example.folder / "two/bar", "*.orig.tar.xz")], cwd=tmp_path, check=True)
    (sources,) = tmp_path.glob("bar-*")
    tree = f"/usr/src/linux-headers-{example.kernel}"
    argv = ["make", "-f", "pkgkmod.mk", "modules", f"KERNEL={example.kernel}", f"KERNEL_TREE={tree}"]
    # It is not installed on this machine.
    failed = subprocess.run(argv, cwd=sources, capture_output=True, text=True, check=False)
    assert failed.returncode
    assert f"there is no /usr/src/kmods/foo/{example.kernel}/Module.symvers: the devel package" in failed.stdout
    subprocess.run([*argv, f"PROVIDER_ROOT={root}"], cwd=sources, check=True, capture_output=True)
    built = sources / "modules" / example.kernel / "bar.ko"
    assert built.read_bytes() == example.module("two/bar", "bar").read_bytes()


@pytest.mark.slow
def test_sbuild_installs_the_devel_package_of_the_other_project(example: Example) -> None:
    need(*SbuildBuilder().tools("deb"))
    try:
        sbuild._check_user(sbuild._build_user("nobody"))
    except SandboxError as error:
        lacking(f"{error.brief}; {error.hint}")
    with made_once("sbuild-roots") as (place, _):
        place.mkdir(exist_ok=True)
    cache = Path(os.environ["XDG_CACHE_HOME"], "pkgkmod")
    cache.mkdir(exist_ok=True)
    (cache / "roots").symlink_to(place)
    for name, builder in (("foo", "local"), ("bar", "local"), ("bar", "sbuild")):
        example.run(f"two/{name}", "build_deb", "-C", f"deb.builder={builder}")
    debs = list((example.folder / "two/bar").glob(f"results/build_deb/*/*/*/bar-modules-{example.kernel}_*.deb"))
    contents = {subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True).stdout for deb in debs}
    # The same modules as those that were compiled here.
    assert (len(debs), len(contents)) == (2, 1)


# --- solvers ----------------------------------------------------------------------------------------

FAMILIES = {
    "el9": (stubkernels.red_hat, "kmod-{}", r"ksym\(foo_count\) = 0x[0-9a-f]{8}", "foo-kmod"),
    "sle15sp6": (stubkernels.suse, "{}-kmp-default", r"ksym\(default:foo_count\) = [0-9a-f]+", "foo-kmp-default"),
}


def two_projects(folder: Path, foo: Driver, bar: Driver, target: str) -> tuple[Made, Made]:
    """Build two drivers, one of which requires the other, as packages of a family."""
    projects = (
        family(folder / foo.name, foo, target, "[devel]\nenabled = true\n"),
        family(folder / bar.name, bar, target, f'[[requires]]\nproject = "../{foo.name}"\n'),
    )
    for project in projects:
        pkgkmod("build_rpm", cwd=project)
    return Made(projects[0], target), Made(projects[1], target)


@pytest.mark.parametrize("target", FAMILIES)
def test_solvers_bring_what_a_stub_kernels_driver_builds_on(target: str, example: Example, tmp_path: Path) -> None:
    stub, spelled, symbol, by_name = FAMILIES[target]
    drivers = [Driver(name, example.folder, f"drivers/misc/{name}", "main") for name in ("foo", "bar")]
    foo, bar = two_projects(tmp_path, drivers[0], drivers[1], target)
    names = {name: spelled.format(name) for name in ("foo", "bar")}
    (needed,) = [line for line in ask(bar.packages[names["bar"]], "--requires") if "foo_count" in line]
    assert re.fullmatch(symbol, needed)
    assert needed in ask(foo.packages[names["foo"]], "--provides")
    assert by_name in ask(bar.packages[names["bar"]], "--requires")
    build = ask(bar.packages["src"], "--requires")
    assert any(line.startswith("foo-kmod-devel-uname-r") for line in build), build
    (devel,) = [file for name, file in foo.packages.items() if name.endswith("-devel")]
    assert set(ask(devel, "--provides")) >= {line for line in build if line.startswith("foo-kmod-devel-uname-r")}
    for solver in (dnf, zypper):
        place = tmp_path / solver.__name__
        base = (stubkernels.base_system(), *stub().packages, bar.packages[names["bar"]])
        whole = repository(place / "whole", *base, foo.packages[names["foo"]])
        done: Outcome = solver(ScratchRoot(place / "accepts"), whole, "install", names["bar"])
        assert done.accepted, done.text
        assert set(names.values()) <= done.names()
        done = solver(ScratchRoot(place / "refuses"), repository(place / "alone", *base), "install", names["bar"])
        assert not done.accepted
        assert "nothing provides" in done.text


NAMED = {
    "el9": "5.14.0-427.13.1.el9_4.x86_64",
    "fedora": "6.11.4-301.fc41.x86_64",
    "sle15sp6": "6.4.0-150600.23.47-default",
    "tumbleweed": "6.11.0-1-default",
}


def spec_says(what: str, folder: Path, distro: str, project: dict[str, object]) -> set[str]:
    """Return what the real rpmspec reads in a project's spec, with versions that hang on the kernel only."""
    job = make_job(distro, (NAMED[distro],), Project.model_validate(project))
    spec = folder / f"{job.project.project.name}.spec"
    spec.write_text(rpm.render_spec(make_facts(job, (job.project.project.name,)), None))
    argv = ["rpmspec", "-q", what, "--define", f"_dbpath {folder}", spec]
    return set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines())


@pytest.mark.parametrize("distro", NAMED)
def test_packages_require_by_name_what_those_of_the_other_project_provide(distro: str, tmp_path: Path) -> None:
    need("rpmspec")
    foo = {"project": {"name": "foo", "vendor": "acme"}, "devel": {"enabled": True}}
    bar = {"project": {"name": "bar", "vendor": "acme"}, "requires": [{"name": "foo", "vendor": "acme"}]}
    provided = spec_says("--provides", tmp_path, distro, foo)
    names = {line.split(" ")[0] for line in provided} | spec_says("--qf=%{name}\n", tmp_path, distro, foo)
    (required,) = [line for line in spec_says("--requires", tmp_path, distro, bar) if "foo" in line]
    assert required in names
    (devel,) = [line for line in spec_says("--buildrequires", tmp_path, distro, bar) if "foo" in line]
    assert devel in provided
    # Where no symbols are among the dependencies, the name holds the kernel's release.
    assert ("6.11" in required) == (distro in ("fedora", "tumbleweed"))


def test_apt_brings_what_a_driver_builds_on(example: Example, tmp_path: Path) -> None:
    need("dpkg-scanpackages")
    for name in ("foo", "bar"):
        example.run(f"two/{name}", "build_deb")
    packages = tmp_path / "packages"
    packages.mkdir()
    # The kernel and the programs of maintainer scripts are stand-ins; modules, apt and dpkg are real.
    for name in (f"linux-image-{example.kernel}", "kmod"):
        control = f"Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: A B <a@b.c>\nDescription: stub\n"
        build_package({"DEBIAN/control": control}, packages / f"{name}.deb")
    wanted = {name: f"{name}-modules-{example.kernel}" for name in ("foo", "bar")}
    foo, bar = (made(example.folder / "two" / name, f"{wanted[name]}_*.deb") for name in wanted)

    def archive(*files: Path) -> AptRoot:
        for file in files:
            shutil.copy(file, packages)
        index = subprocess.run(["dpkg-scanpackages", "."], cwd=packages, capture_output=True, check=True).stdout
        (packages / "Packages").write_bytes(index)
        sources = f"Types: deb\nURIs: file:{packages}\nSuites: ./\nTrusted: yes\n"
        root = AptRoot(tmp_path / f"root{len(files)}", sources)
        root.update()
        return root

    refused = archive(bar).install(wanted["bar"], ok=False)
    assert f"Depends: {wanted['foo']} but it is not installable" in refused
    root = archive(foo, bar)
    root.install(wanted["bar"])
    assert set(wanted.values()) <= set(root.installed())
    modules = [root.folder / f"lib/modules/{example.kernel}/updates" / name / f"{name}.ko" for name in wanted]
    assert load_order(modules, example.kernel, tmp_path / "unpacked") == ["foo", "bar"]


# --- drivers of the archive -------------------------------------------------------------------------


@pytest.mark.slow
def test_jool_whose_modules_require_each_other(kernel: str, tmp_path: Path) -> None:
    driver = jool()
    tables = "".join(
        f'[[module]]\nname = "{name}"\nrequires = ["jool_common"]\n' for name in ("jool_siit", "jool")
    )  # fmt: skip
    folder = driver.project(tmp_path / "jool", ("debian12", kernel), more=f'{tables}[[module]]\nname = "jool_common"\n')
    pkgkmod("build_modules", cwd=folder)
    for name in ("jool", "jool_siit"):
        modules = [made(folder, f"{one}.ko") for one in ("jool_common", name)]
        needed = modinfo("depends", modules[1]).split(",")
        assert "jool_common" in needed


@pytest.mark.parametrize("target", ["el9"])
def test_tp_smapi_as_two_projects_of_a_stub_kernel(target: str, tmp_path: Path) -> None:
    first, second = tp_smapi()
    one, two = two_projects(tmp_path, first, second, target)
    assert set(two.modules) == {"tp_smapi.ko", "hdaps.ko"}
    needs = {line for line in ask(two.packages["kmod-tp_smapi"], "--requires") if "(thinkpad_ec_" in line}
    assert needs
    assert needs <= set(ask(one.packages["kmod-thinkpad_ec"], "--provides"))
    assert {modinfo("depends", module) for module in two.modules.values()} >= {"thinkpad_ec"}
