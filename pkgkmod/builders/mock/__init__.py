"""The builder `mock`: RPMs made in a clean root of the distribution.

mock makes the root, installs the build dependencies and builds, without network. It is given a configuration for the
one build: the project's, with a repository of the packages that the job's kernels came in.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pkgkmod.builders.local import LocalBuilder, srpm_command
from pkgkmod.builders.mock.config import config_text, find_config, is_address, who_builds, words
from pkgkmod.builders.mock.kernels import kernel_packages, key_name, local_repository
from pkgkmod.builders.mock.logs import LOGS, explain
from pkgkmod.command import Command
from pkgkmod.errors import ConfigError, PkgkmodError, UsageError
from pkgkmod.model.artifacts import PackageFormat, Recipe
from pkgkmod.model.packaging import Mock
from pkgkmod.model.places import Places
from pkgkmod.model.project import Project
from pkgkmod.packages.providers import devel_rpms
from pkgkmod.plugins import JobUnit
from pkgkmod.progress import Progress
from pkgkmod.workspace import digest

_CONFIG = "mock.cfg"
_WORK = "work"
_RESULTS = "RPMS"
_FOR_THE_ROOT = 3600  # seconds, for slow mirrors; what rpmbuild may take is mock's to watch
_LARGEST_KEY = 1024 * 1024  # bytes


class MockBuilder:
    """An SRPM rebuilt by mock, which installs the build dependencies into a root of its own."""

    name = "mock"
    format: PackageFormat | None = "rpm"
    prebuilt = False

    def tools(self, format: PackageFormat) -> tuple[str, ...]:
        """Return the programs it needs."""
        return ("rpmbuild", "xz", "mock")

    def ingredients(self, unit: JobUnit) -> Mapping[str, object]:
        """Return what is asked of mock; raise ConfigError if its configuration is not there."""
        settings = unit.project.mock
        asked: dict[str, object] = settings.model_dump(exclude={"offline", "user"})
        if not unit.project.rpm.srpm_only:
            file = find_config(settings, unit.job.target.id, unit.base, who_builds(settings))
            asked |= {"file": hashlib.sha256(file.read_bytes()).hexdigest(), "keys": sorted(_keys(unit))}
        return asked

    @contextmanager
    def at_work(self, unit: JobUnit, progress: Progress) -> Iterator[Path]:
        """Give a folder to build in, beside mock's configuration; the kernels' packages are put into a repository.

        Raise SandboxError if the user may not run mock, ConfigError if there is no such configuration.
        """
        settings = unit.project.mock
        # TMPDIR may be private, and mock runs as root.
        with tempfile.TemporaryDirectory(prefix="pkgkmod-mock-", dir="/var/tmp") as name:
            folder = Path(name)
            (folder / _WORK).mkdir()
            if not unit.project.rpm.srpm_only:
                user = who_builds(settings)
                text = _config(unit, find_config(settings, unit.job.target.id, unit.base, user), progress)
                (folder / _CONFIG).write_text(text, encoding="ascii")
                folder.chmod(0o755)
                (folder / _CONFIG).chmod(0o644)
                (folder / _WORK).chmod(0o755)
                if os.geteuid() == 0:
                    os.chown(folder / _WORK, user.pw_uid, user.pw_gid)
            yield folder / _WORK

    def lay_out(self, recipe: Recipe, recipe_folder: Path, places: Places) -> None:
        """Copy a recipe's files to where the commands look for them."""
        LocalBuilder().lay_out(recipe, recipe_folder, places)
        if places.source_only:
            return
        with (places.folder.parent / _CONFIG).open("a", encoding="ascii") as file:
            file.write(f"config_opts['environment']['SOURCE_DATE_EPOCH'] = '{recipe.source_date_epoch:d}'\n")
        if os.geteuid() == 0:
            owner = places.folder.stat()
            for path in places.folder.rglob("*"):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def rpm_commands(self, recipe: Recipe, project: Project, places: Places) -> tuple[Command, ...]:
        """Return the rpmbuild that makes the SRPM, in SRPMS/, and the mock that rebuilds it into RPMS/."""
        source = srpm_command(recipe, places)
        if places.source_only:
            return (source,)
        settings = project.mock
        user = settings.user or "" if os.geteuid() == 0 else ""
        if user:
            source = replace(source, user=user, isolates=True)
        argv = (
            *("mock", "-r", str(places.folder.parent / _CONFIG)),
            *(("--offline",) if settings.offline else ()),
            *_bootstrap(settings),
            *("--resultdir", str(places.folder / _RESULTS)),
            *("--rpmbuild_timeout", str(project.build.time_limit)),
            *words((*settings.options, *settings.more_options)),
            *("--rebuild", f"SRPMS/{recipe.name}-{recipe.version}.src.rpm"),
        )
        limit = project.build.time_limit + _FOR_THE_ROOT
        return source, Command(argv, cwd=places.folder, time_limit=limit, user=user, isolates=True)

    def deb_commands(self, recipe: Recipe, project: Project, places: Places) -> tuple[Command, ...]:
        """Mock makes no DEBs."""
        raise UsageError("mock makes RPMs only", hint='set builder = "local" in the table [deb]')

    def logs(self, folder: Path) -> tuple[Path, ...]:
        """Return mock's logs."""
        return tuple(folder / _RESULTS / name for name in LOGS)

    def complaint(self, lines: Sequence[str], returncode: int = 1) -> PkgkmodError | None:
        """Return the error that stands for what mock and its logs say."""
        return explain(lines, returncode)


def _config(unit: JobUnit, include: Path, progress: Progress) -> str:
    settings = unit.project.mock
    packages, keys = kernel_packages(unit.job.kernels), _keys(unit)
    drivers = devel_rpms(unit.project, unit.job.target.distro, unit.base)
    local = local_repository(packages, keys, progress, more=drivers) if packages or keys or drivers else None
    if not packages:
        progress.info("the kernels came in no RPMs that are known here: mock takes them from its own repositories")
    addresses = {one.gpgkey: one.gpgkey for one in settings.repositories if one.gpgkey and is_address(one.gpgkey)}
    for one in settings.repositories:
        if one.gpgkey and one.gpgkey not in addresses:
            # Below a repository: mock's root with the package manager sees that under the same path.
            addresses[one.gpgkey] = f"file://{local}/keys/{key_name(_key(unit.base, one.gpgkey))}"
    # Builds at a time need a root each; the same build finds its own again, if one before was killed.
    extension = f"pkgkmod-{digest([str(unit.base), *unit.key])[:12]}"
    return config_text(settings, include, extension=extension, local=local, keys=addresses)


def _keys(unit: JobUnit) -> dict[str, bytes]:
    """Return the project's own keys for repositories, by the file names that they are given."""
    named = [one.gpgkey for one in unit.project.mock.repositories if one.gpgkey and not is_address(one.gpgkey)]
    contents = [_key(unit.base, name) for name in dict.fromkeys(named)]
    return {key_name(content): content for content in contents}


def _key(base: Path, name: str) -> bytes:
    try:
        with (base / Path(name).expanduser()).open("rb") as file:
            content = file.read(_LARGEST_KEY + 1)
    except OSError as error:
        raise ConfigError(
            f"mock.repositories: the key {name} cannot be read: {error.strerror}",
            hint="a relative name begins at the project file",
        ) from None
    if not content.startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----") or len(content) > _LARGEST_KEY:
        raise ConfigError(
            f"mock.repositories: {name} is no key",
            hint="rpm takes armored keys: files that begin with -----BEGIN PGP PUBLIC KEY BLOCK-----",
        )
    return content


def _bootstrap(settings: Mock) -> tuple[str, ...]:
    if settings.bootstrap is None:
        return ()
    return ("--bootstrap-chroot",) if settings.bootstrap else ("--no-bootstrap-chroot",)
