"""The builder `local`: rpmbuild and dpkg-buildpackage of this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from pkgkmod.command import Command
from pkgkmod.data.arches import package_arch
from pkgkmod.model.artifacts import PackageFormat, Recipe
from pkgkmod.model.places import Places
from pkgkmod.model.project import Project

_TREES = "kernel-trees"


class LocalBuilder:
    """Packages made here, without a clean root: quick, and with modules that were compiled before."""

    name = "local"
    format: PackageFormat | None = None
    prebuilt = True

    def tools(self, format: PackageFormat) -> tuple[str, ...]:
        """Return the programs it needs."""
        if format == "rpm":
            return ("rpmbuild", "make", "strip", "tar", "xz")
        return ("dpkg-buildpackage", "dh", "make", "strip", "tar", "xz")

    def lay_out(self, recipe: Recipe, recipe_folder: Path, places: Places) -> None:
        """Copy a recipe's files to where the commands look for them."""
        if recipe.format == "rpm":
            for name, files in (("SPECS", (str(recipe.spec),)), ("SOURCES", (recipe.archive, *recipe.more_sources))):
                (places.folder / name).mkdir(parents=True)
                for file in files:
                    shutil.copy2(recipe_folder / file, places.folder / name)
            _set_modes(places.folder)
        else:
            shutil.copytree(recipe_folder / str(recipe.debian), places.folder / recipe.name / "debian")
            shutil.copy2(recipe_folder / recipe.archive, places.folder)
            _set_modes(places.folder / recipe.name)
        (places.folder / _TREES).mkdir(exist_ok=True)
        for release, tree in places.kernel_trees.items():
            (places.folder / _TREES / release).symlink_to(tree)

    def rpm_commands(self, recipe: Recipe, project: Project, places: Places) -> tuple[Command, ...]:
        """Return the rpmbuild that makes the SRPM, in SRPMS/, and the one that makes the RPMs, in RPMS/ARCH/.

        The caller has checked that the build dependencies are there: kernel trees may lie anywhere, and
        this machine's packages may be of another family.
        """
        if places.source_only:
            return (srpm_command(recipe, places),)
        defines = {"_topdir": str(places.folder)}
        if places.kernel_trees:
            defines["kernel_trees"] = str(places.folder / _TREES)
        if places.prebuilt:
            defines["kmod_prebuilt"] = str(places.prebuilt)
        return srpm_command(recipe, places), _rpmbuild("-bb", recipe, places, defines, jobs=places.jobs)

    def deb_commands(self, recipe: Recipe, project: Project, places: Places) -> tuple[Command, ...]:
        """Return the commands that unpack the source and make source and binary packages, in the folder."""
        tree = places.folder / recipe.name
        unpack = ("tar", "-x", "--no-same-owner", "--strip-components=1", "-f", f"../{recipe.archive}")
        env = {
            "SOURCE_DATE_EPOCH": str(recipe.source_date_epoch),
            "DEB_BUILD_OPTIONS": f"nocheck parallel={places.jobs}",
        }
        if places.kernel_trees:
            env["KERNEL_TREES"] = str(places.folder / _TREES)
        if places.prebuilt:
            env["KMOD_PREBUILT"] = str(places.prebuilt)
        # The tree was unpacked just before: there is nothing to clean.
        build = ("dpkg-buildpackage", "-us", "-uc", "-d", "-nc", "-S" if places.source_only else "-F")
        arch = ("-a", package_arch(places.arch, "deb"))
        return Command(unpack, cwd=tree), Command((*build, *arch), cwd=tree, env=env)


def _set_modes(folder: Path) -> None:
    """Give files the modes that source packages keep, whatever the umask was when they were written."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def srpm_command(recipe: Recipe, places: Places) -> Command:
    """Return the rpmbuild that makes the SRPM.

    rpm puts the spec with its macros expanded into it. So that no path of this machine gets in, and the
    same bytes come out everywhere, paths are relative and nothing is said about kernel trees.
    """
    return _rpmbuild("-bs", recipe, places, {"_topdir": ".", "_srcdefattr": "(-,root,root)"}, jobs=1)


def _rpmbuild(what: str, recipe: Recipe, places: Places, defines: dict[str, str], *, jobs: int) -> Command:
    defines = {
        **defines,
        "_smp_mflags": f"-j{jobs}",
        "_smp_build_ncpus": str(jobs),  # rpm would start a shell for each script, to find out
        # Debian's rpm would look for a database in the home folder.
        "_dbpath": "%{_topdir}/db",
        "_tmppath": "%{_topdir}/tmp",
        # The same bytes wherever and whenever it is built.
        "_buildhost": "reproducible",
        "use_source_date_epoch_as_buildtime": "1",
        "clamp_mtime_to_source_date_epoch": "1",
    }
    options = [word for name, body in defines.items() for word in ("--define", f"{name} {body}")]
    arch = package_arch(places.arch, "rpm")
    return Command(
        ("rpmbuild", what, "--nodeps", "--noclean", "--target", arch, *options, f"SPECS/{recipe.spec}"),
        cwd=places.folder,
        # rpm packs with OpenMP, whose threads that have nothing to pack would spin until the others are done.
        env={"SOURCE_DATE_EPOCH": str(recipe.source_date_epoch), "OMP_WAIT_POLICY": "passive"},
    )
