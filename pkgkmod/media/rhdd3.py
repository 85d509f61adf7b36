"""The driver disk that Red Hat's installer reads (anaconda, Driver Update Disk version 3).

anaconda takes every folder that holds a file `rhdd3` and `rpms/ARCH/` with the packages; repodata
there is used when the packages are installed later (anaconda, dracut/driver_updates.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pkgkmod.command import Command, Completed
from pkgkmod.errors import InputError, PackageError
from pkgkmod.formats.rpm import read_header
from pkgkmod.media.iso import iso_command, set_times

MARK = "rhdd3"
MARK_TEXT = "Driver Update Disk version 3\n"


def find_rpms(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the RPM files among `paths` and in folders among them; raise InputError if there are none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(path.rglob("*.rpm"))
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path} is not there", hint="give RPM files, or folders that hold some")
    if not found:
        raise InputError(
            f"no RPM file in {', '.join(str(path) for path in paths)}",
            hint="give RPM files, or folders that hold some",
        )
    return tuple(found)


def write_layout(packages: Mapping[str, Sequence[Path]], destination: Path, *, include_srpm: bool = False) -> list[str]:
    """Copy packages to where the installer looks for them, and return their names.

    `packages` maps a release to its packages. Several releases get a tree each, named after them:
    one release's installer must not take another's packages. Raise InputError for files that are not
    RPMs, PackageError if no package is left for any architecture.
    """
    names: list[str] = []
    for release, files in packages.items():
        tree = destination / release if len(packages) > 1 else destination
        arches = {file: read_header(file).arch for file in files}
        machines = sorted({arch for arch in arches.values() if arch not in ("src", "noarch")})
        for file, arch in arches.items():
            if arch == "src" and not include_srpm:
                continue
            # The installer reads the folder of its machine only.
            folders = {"src": ["SRPMS"], "noarch": [f"rpms/{one}" for one in machines]}.get(arch, [f"rpms/{arch}"])
            for folder in (tree / name for name in folders):
                folder.mkdir(parents=True, exist_ok=True)
                if (folder / file.name).exists():
                    raise InputError(f"two packages are called {file.name}", hint="give each package once")
                shutil.copyfile(file, folder / file.name)
            names += [file.name] if folders else []
        if (tree / "rpms").is_dir():
            (tree / MARK).write_text(MARK_TEXT, encoding="ascii")
    if not any(not name.endswith(".src.rpm") for name in names):
        raise PackageError("no binary package for the driver disk", hint="build_rpm without --srpm makes some")
    return names


def repodata_commands(folder: Path, epoch: int) -> list[Command]:
    """Describe the createrepo_c calls for a layout, one for each folder of packages."""
    return [
        Command(
            (
                # gzip: newer versions would choose zstd, which EL 8 and 9 cannot read.
                *("createrepo_c", "--quiet", "--no-database", "--simple-md-filenames", "--general-compress-type=gz"),
                *("--set-timestamp-to-revision", "--revision", str(epoch), str(packages)),
            ),
            cwd=folder,
            env={"SOURCE_DATE_EPOCH": str(epoch)},
        )
        for packages in sorted(folder.rglob("rpms/*/"))
    ]


def build_disk(
    packages: Mapping[str, Sequence[Path]],
    image: Path,
    *,
    label: str,
    epoch: int,
    scratch: Path,
    run: Callable[[Command], Completed],
    include_srpm: bool = False,
) -> list[str]:
    """Make the driver disk `image`; return the names of the packages on it.

    Raise InputError for files that are not packages, PackageError if a program fails.
    """
    folder = scratch / "disk"
    folder.mkdir()
    names = write_layout(packages, folder, include_srpm=include_srpm)
    set_times(folder, epoch)  # createrepo_c writes down the packages' times
    for command in repodata_commands(folder, epoch):
        _checked(run(command))
    set_times(folder, epoch)
    unfinished = scratch / "disk.iso"
    _checked(run(iso_command(folder, unfinished, label=label, epoch=epoch)))
    shutil.copyfile(unfinished, image)
    return names


def _checked(done: Completed) -> None:
    if not done.ok:
        raise PackageError(
            f"{done.command.argv[0]} failed ({done.returncode})",
            details="\n".join(done.tail[-10:]),
            log=done.log,
        )
