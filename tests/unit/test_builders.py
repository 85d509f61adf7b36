from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pkgkmod.builders.local import LocalBuilder
from pkgkmod.command import Command
from pkgkmod.model.artifacts import Recipe
from pkgkmod.model.places import Places
from tests.fixtures.packaging import make_project

KERNEL = "6.1.0-56-amd64"
RPM = Recipe(
    format="rpm",
    name="kmod-e1000e",
    version="6.1.90-1.k6.1.0_56_amd64.el9",
    spec="kmod-e1000e.spec",
    archive="e1000e-6.1.90.tar.xz",
    kernels=(KERNEL,),
    source_date_epoch=1_700_000_000,
)
DEB = Recipe(
    format="deb",
    name="e1000e-modules",
    version="6.1.90-1~deb12",
    debian="debian",
    archive="e1000e-modules_6.1.90.orig.tar.xz",
    kernels=(KERNEL,),
    source_date_epoch=1_700_000_000,
)
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
RPMBUILD = {**EPOCH, "OMP_WAIT_POLICY": "passive"}


def defined(*definitions: str) -> tuple[str, ...]:
    return tuple(word for definition in definitions for word in ("--define", definition))


REPRODUCIBLE = defined(
    "_dbpath %{_topdir}/db",
    "_tmppath %{_topdir}/tmp",
    "_buildhost reproducible",
    "use_source_date_epoch_as_buildtime 1",
    "clamp_mtime_to_source_date_epoch 1",
)
SRPM = Command(
    (
        *("rpmbuild", "-bs", "--nodeps", "--noclean", "--target", "x86_64"),
        *defined("_topdir .", "_srcdefattr (-,root,root)", "_smp_mflags -j1", "_smp_build_ncpus 1"),
        *REPRODUCIBLE,
        "SPECS/kmod-e1000e.spec",
    ),
    cwd=Path("/b"),
    env=RPMBUILD,
)


def test_local_rpm() -> None:
    places = Places(Path("/b"), "x86_64", {KERNEL: Path("/trees/k")}, Path("/done"), jobs=4)
    binary = Command(
        (
            *("rpmbuild", "-bb", "--nodeps", "--noclean", "--target", "x86_64"),
            *defined("_topdir /b", "kernel_trees /b/kernel-trees", "kmod_prebuilt /done"),
            *defined("_smp_mflags -j4", "_smp_build_ncpus 4"),
            *REPRODUCIBLE,
            "SPECS/kmod-e1000e.spec",
        ),
        cwd=Path("/b"),
        env=RPMBUILD,
    )
    assert LocalBuilder().rpm_commands(RPM, make_project(), places) == (SRPM, binary)


def test_local_srpm_alone_names_no_place_of_this_machine() -> None:
    places = Places(Path("/b"), "x86_64", {KERNEL: Path("/trees/k")}, Path("/done"), source_only=True, jobs=4)
    assert LocalBuilder().rpm_commands(RPM, make_project(), places) == (SRPM,)


def test_local_rpm_compiles_with_the_distributions_tree_unless_told_otherwise() -> None:
    _, binary = LocalBuilder().rpm_commands(RPM, make_project(), Places(Path("/b"), "x86_64"))
    assert not [word for word in binary.argv if word.startswith(("kernel_tree", "kmod_prebuilt"))]


def test_local_deb() -> None:
    places = Places(Path("/b"), "aarch64", {KERNEL: Path("/trees/k")}, Path("/done"), jobs=2)
    tree = Path("/b/e1000e-modules")
    archive = "../e1000e-modules_6.1.90.orig.tar.xz"
    unpack, build = LocalBuilder().deb_commands(DEB, make_project(), places)
    assert unpack == Command(("tar", "-x", "--no-same-owner", "--strip-components=1", "-f", archive), cwd=tree)
    assert build == Command(
        ("dpkg-buildpackage", "-us", "-uc", "-d", "-nc", "-F", "-a", "arm64"),
        cwd=tree,
        env={
            **EPOCH,
            "DEB_BUILD_OPTIONS": "nocheck parallel=2",
            "KERNEL_TREES": "/b/kernel-trees",
            "KMOD_PREBUILT": "/done",
        },
    )


def test_local_deb_source_alone() -> None:
    _, build = LocalBuilder().deb_commands(DEB, make_project(), Places(Path("/b"), "x86_64", source_only=True))
    assert build.argv == ("dpkg-buildpackage", "-us", "-uc", "-d", "-nc", "-S", "-a", "amd64")
    assert build.env == {**EPOCH, "DEB_BUILD_OPTIONS": "nocheck parallel=1"}


def test_local_lay_out(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe"
    (recipe / "debian").mkdir(parents=True)
    for name in ("kmod-e1000e.spec", RPM.archive, DEB.archive, "debian/rules"):
        (recipe / name).write_text(name)
    places = Places(tmp_path / "b", "x86_64", {KERNEL: Path("/trees/k")})
    LocalBuilder().lay_out(RPM, recipe, places)
    LocalBuilder().lay_out(DEB, recipe, replace(places, kernel_trees={}))
    files = {str(p.relative_to(places.folder)) for p in places.folder.rglob("*") if p.is_file()}
    assert files == {
        "SPECS/kmod-e1000e.spec",
        "SOURCES/e1000e-6.1.90.tar.xz",
        "e1000e-modules_6.1.90.orig.tar.xz",
        "e1000e-modules/debian/rules",
    }
    assert (places.folder / "kernel-trees" / KERNEL).readlink() == Path("/trees/k")


def test_tools() -> None:
    assert "rpmbuild" in LocalBuilder().tools("rpm") and "dh" in LocalBuilder().tools("deb")
