"""Real rpmbuild and dpkg-buildpackage of a hello module, for the newest kernel headers that are installed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pkgkmod.builders.local import LocalBuilder
from pkgkmod.command import Command, run
from pkgkmod.data import host_release
from pkgkmod.data.distros import known_distros
from pkgkmod.formats.deb import read_deb
from pkgkmod.formats.rpm import read_header
from pkgkmod.model.artifacts import PackageFormat, Recipe
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import KernelRelease
from pkgkmod.model.places import Places
from pkgkmod.model.project import Project, Source
from pkgkmod.modules.buildfolder import write_build_folder
from pkgkmod.modules.survey import survey
from pkgkmod.packages import deb, rpm
from pkgkmod.progress import Progress
from tests.fixtures.machine import need
from tests.fixtures.packaging import EPOCH, HOSTILE, make_facts, make_job, make_project

PWNED = Path("/tmp/pkgkmod-pwned")
HEADERS = sorted(
    (KernelRelease(p.name.removeprefix("linux-headers-")) for p in Path("/usr/src").glob("linux-headers-*-amd64")),
)
SOURCE = """#include <linux/module.h>
static int __init hello_init(void) { pr_info("hello from %s\\n", __FILE__); return 0; }
static void __exit hello_exit(void) { }
module_init(hello_init);
module_exit(hello_exit);
MODULE_LICENSE("GPL");
"""


@pytest.fixture(scope="module")
def kernel() -> str:
    assert HEADERS, "no kernel headers are installed: apt install linux-headers-amd64"
    return HEADERS[-1].uname_r


@dataclass(frozen=True)
class Sources:
    """A build folder, and the modules that make makes of it."""

    folder: Path
    modules: Path


@pytest.fixture(scope="module")
def sources(kernel: str, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    place = tmp_path_factory.mktemp("sources")
    driver = place / "imported" / "tree" / "drivers" / "misc" / "hello"
    driver.mkdir(parents=True)
    (driver / "Makefile").write_text("obj-m += hello.o\n")
    (driver / "hello.c").write_text(SOURCE)
    (place / "imported" / "provenance.json").write_text("{}\n")
    project = make_project(name="hello", version="1.2").model_copy(
        update={"source": Source(directories=("drivers/misc/hello",))}
    )
    plan = survey(project, place / "imported" / "tree")
    for name in ("e1000e-6.1.90", "compiled"):
        write_build_folder(project, plan, place / "imported", (), place / name)
    subprocess.run(
        ["make", "-s", "-f", "pkgkmod.mk", "modules", f"KERNEL={kernel}", f"KERNEL_TREE={tree_of(kernel)}"],
        cwd=place / "compiled",
        check=True,
    )
    return Sources(place / "e1000e-6.1.90", place / "compiled" / "modules")


def tree_of(kernel: str) -> Path:
    return Path("/usr/src") / f"linux-headers-{kernel}"


def make_recipe(job: Job, sources: Sources, folder: Path) -> Recipe:
    facts = make_facts(job, ("hello",), hostile=True)
    spelling = rpm if job.distro.format == "rpm" else deb
    archive = spelling.archive_name(job)
    common = {
        "kernels": tuple(k.uname_r for k in job.kernels),
        "source_date_epoch": EPOCH,
        "archive": archive,
    }
    folder.mkdir(parents=True)
    subprocess.run(
        [
            *("tar", "--sort=name", f"--mtime=@{EPOCH}", "--owner=0", "--group=0", "--numeric-owner"),
            *("-cJf", folder / archive, "-C", sources.folder.parent, sources.folder.name),
        ],
        check=True,
    )
    if job.distro.format == "rpm":
        spec = rpm.spec_name(job)
        (folder / spec).write_text(rpm.render_spec(facts, None), encoding="utf-8")
        return Recipe(format="rpm", name=rpm.source_name(job), version=rpm.package_version(job), spec=spec, **common)
    deb.write_debian(facts, folder / "debian", None)
    return Recipe(format="deb", name=deb.source_name(job), version=deb.package_version(job), debian="debian", **common)


def build(distro: str, kernel: str, sources: Sources, folder: Path, *, prebuilt: bool, jobs: int = 1) -> Path:
    """Build in `folder` and return it."""
    project = make_project(epoch=1, **HOSTILE)
    job = make_job(distro, (kernel,), project)
    recipe = make_recipe(job, sources, folder / "recipe")
    places = Places(
        folder / "build",
        "x86_64",
        {kernel: tree_of(kernel)},
        sources.modules if prebuilt else None,
        jobs=jobs,
    )
    LocalBuilder().lay_out(recipe, folder / "recipe", places)
    for command in commands(recipe, project, places):
        done = run(command, log=folder / "log", progress=Progress())
        assert done.ok, "\n".join(done.tail)
    assert not PWNED.exists()
    return places.folder


def commands(recipe: Recipe, project: Project, places: Places) -> tuple[Command, ...]:
    builder = LocalBuilder()
    describe = builder.rpm_commands if recipe.format == "rpm" else builder.deb_commands
    return describe(recipe, project, places)


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in patterns
        for path in sorted(folder.glob(pattern))
    }


def modinfo(module: Path, field: str) -> str:
    return subprocess.run(
        ["/usr/sbin/modinfo", "-F", field, module], capture_output=True, text=True, check=True
    ).stdout.strip()


def query(package: Path, text: str, folder: Path) -> str:
    argv = ["rpm", "--dbpath", folder / "empty-db", "-qp", "--qf", text, package]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def unpack_rpm(package: Path, folder: Path) -> None:
    folder.mkdir()
    archive = subprocess.run(["rpm2cpio", package], capture_output=True, check=True).stdout
    subprocess.run(["cpio", "-idm", "--quiet"], input=archive, cwd=folder, check=True)


@pytest.mark.parametrize("prebuilt", [True, False], ids=["prebuilt", "compiling"])
def test_rpm(prebuilt: bool, kernel: str, sources: Sources, tmp_path: Path) -> None:
    made = build("el9", kernel, sources, tmp_path, prebuilt=prebuilt)
    (source,) = made.glob("SRPMS/*.rpm")
    (binary,) = made.glob("RPMS/x86_64/*.rpm")
    assert read_header(source).arch == "src"
    header = read_header(binary)
    assert (header.name, header.epoch, header.version, header.arch) == ("kmod-e1000e", 1, "6.1.90", "x86_64")
    assert f"kernel-modules = {KernelRelease(kernel).rpm_version}" in header.provides
    assert header.summary == HOSTILE["summary"]
    assert query(binary, "%{SUMMARY}", tmp_path) == HOSTILE["summary"]
    assert query(binary, "%{LICENSE}", tmp_path) == HOSTILE["license"]
    for line in HOSTILE["description"].splitlines():
        assert line.strip() in query(binary, "%{DESCRIPTION}", tmp_path)
    assert not [name for name in header.files if "shadow" in name]
    unpack_rpm(binary, tmp_path / "root")
    module = tmp_path / "root" / "lib/modules" / kernel / "extra/e1000e/hello.ko"
    assert modinfo(module, "vermagic").split()[0] == kernel
    assert module.stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "root/etc/depmod.d/kmod-e1000e.conf").read_text() == "override hello * weak-updates/e1000e\n"


@pytest.mark.parametrize("prebuilt", [True, False], ids=["prebuilt", "compiling"])
def test_deb(prebuilt: bool, kernel: str, sources: Sources, tmp_path: Path) -> None:
    made = build("debian12", kernel, sources, tmp_path, prebuilt=prebuilt)
    assert list(made.glob("*.dsc")) and list(made.glob("*.changes")) and list(made.glob("*.buildinfo"))
    (binary,) = made.glob(f"e1000e-modules-{kernel}_*.deb")
    facts = read_deb(binary)
    package = f"e1000e-modules-{kernel}"
    assert facts.control["Package"] == package
    assert facts.control["Version"] == "1:6.1.90-1~deb12"
    assert facts.control["Maintainer"] == HOSTILE["maintainer"]
    synopsis, *description = facts.control["Description"].split("\n")
    assert synopsis == HOSTILE["summary"]
    for line in HOSTILE["description"].splitlines():
        assert line.strip() in [text.strip() for text in description] or not line.strip()
    assert facts.scripts == ("postinst", "postrm")
    assert f"/lib/modules/{kernel}/updates/e1000e/hello.ko" in facts.files
    assert f"/usr/lib/depmod.d/{package}.conf" in facts.files
    subprocess.run(["dpkg-deb", "-x", binary, tmp_path / "root"], check=True)
    module = tmp_path / "root" / "lib/modules" / kernel / "updates/e1000e/hello.ko"
    assert modinfo(module, "vermagic").split()[0] == kernel


FORMATS: list[tuple[PackageFormat, str, tuple[str, ...]]] = [
    ("rpm", "el9", ("SRPMS/*.rpm", "RPMS/*/*.rpm")),
    ("deb", "debian12", ("*-modules-[0-9]*.deb", "*-modules-[!0-9]*.deb", "*.dsc", "*.debian.tar.xz")),
]


@pytest.mark.parametrize(("format", "distro", "patterns"), FORMATS, ids=["rpm", "deb"])
def test_same_bytes_in_another_folder_at_another_time_and_compiled_anew(
    format: PackageFormat,
    distro: str,
    patterns: tuple[str, ...],
    kernel: str,
    sources: Sources,
    tmp_path: Path,
) -> None:
    first = build(distro, kernel, sources, tmp_path / "one", prebuilt=True)
    second = build(distro, kernel, sources, tmp_path / "elsewhere" / "two", prebuilt=True, jobs=3)
    compiled = build(distro, kernel, sources, tmp_path / "three", prebuilt=False)
    expected = digests(first, *patterns)
    assert len(expected) == len(patterns)
    assert digests(second, *patterns) == expected
    assert digests(compiled, *patterns) == expected


def test_depmod_prefers_our_module_to_that_of_dkms(kernel: str, sources: Sources, tmp_path: Path) -> None:
    made = build("debian12", kernel, sources, tmp_path, prebuilt=True)
    root = tmp_path / "root"
    subprocess.run(["dpkg-deb", "-x", *made.glob(f"*-{kernel}_*.deb"), root], check=True)
    modules = root / "lib/modules" / kernel
    for other in ("updates/dkms", "kernel/drivers/misc"):
        (modules / other).mkdir(parents=True)
        shutil.copy(modules / "updates/e1000e/hello.ko", modules / other)
    argv = ["/usr/sbin/depmod", "-b", root, "-C", root / "usr/lib/depmod.d", kernel]
    subprocess.run(argv, check=True, capture_output=True)
    assert (modules / "modules.dep").read_text() == "updates/e1000e/hello.ko:\n"
    # Without ours, the order is the usual one again.
    shutil.rmtree(modules / "updates/e1000e")
    subprocess.run(argv, check=True, capture_output=True)
    assert (modules / "modules.dep").read_text() == "updates/dkms/hello.ko:\n"


def test_lintian_finds_no_error(kernel: str, sources: Sources, tmp_path: Path) -> None:
    need("lintian")
    project = make_project(maintainer="Jane Packager <jane@debian.org>")
    # Each release's lintian knows its own rules: where modules lie, for one.
    distro = host_release() if host_release() in known_distros() else "debian12"
    job = make_job(distro, (kernel,), project)
    recipe = make_recipe(job, sources, tmp_path / "recipe")
    places = Places(tmp_path / "build", "x86_64", {kernel: tree_of(kernel)}, sources.modules)
    LocalBuilder().lay_out(recipe, tmp_path / "recipe", places)
    for command in commands(recipe, project, places):
        assert run(command, log=tmp_path / "log", progress=Progress()).ok
    done = subprocess.run(
        # The test's commit is older than the policy that newer releases follow.
        [
            "lintian",
            "--allow-root",
            "--tag-display-limit=0",
            "--suppress-tags=timewarp-standards-version",
            *places.folder.glob("*.changes"),
        ],
        capture_output=True,
        text=True,
    )
    assert [line for line in done.stdout.splitlines() if line[:2] in ("E:", "W:")] == []
