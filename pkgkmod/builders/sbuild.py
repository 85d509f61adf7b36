"""The builder `sbuild`: DEBs made in a clean root of the distribution, without root rights and without network.

    roots/sbuild-SUITE-DIGEST/root.tar.zst   what mmdebstrap made: the release's packages that every build may expect
    roots/sbuild-SUITE-DIGEST/entry.json     what it was made of; with it, `kernels prune` knows its size and last use

sbuild unpacks the root for each build, brings it up to date, installs the build dependencies, and builds without
network. Both programs work in user namespaces, for which their user needs a range of sub-uids (subuid(5)).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pkgkmod.builders.local import LocalBuilder
from pkgkmod.cachefolder import cache_folder
from pkgkmod.command import Command, run
from pkgkmod.errors import ConfigError, KernelError, PackageError, PkgkmodError, SandboxError, UsageError
from pkgkmod.kernels.download import fetch_package
from pkgkmod.model.artifacts import PackageFormat, Recipe
from pkgkmod.model.kernel import Kernel
from pkgkmod.model.places import Places
from pkgkmod.model.project import Project
from pkgkmod.network import HINT, is_offline
from pkgkmod.packages.providers import put_devel_debs
from pkgkmod.plugins import JobUnit, check_settings
from pkgkmod.progress import Progress
from pkgkmod.sandbox import UNPRIVILEGED_USER
from pkgkmod.workspace import digest, write_atomically

_ROOT = "root.tar.zst"
_ENTRY = "entry.json"
_HEADERS = "headers"
_WORK = "work"
_PREFIX = "pkgkmod-sbuild-"
_CONFIG = "sbuild.conf"
_TIME_LIMIT = 3600  # seconds, for a slow mirror
_SUB_IDS = 65536  # a root has ids up to 65534, `nobody` and `nogroup`
# apt's words for a build dependency that cannot be had
_UNMET = re.compile(r"Depends: (?P<package>\S+)(?: \([^)]*\))? but (?:it is not installable|.+)")
_HEADERS_PACKAGE = re.compile(r"linux-headers-(?P<uname_r>\d\S*)")


class SbuildSettings(BaseModel):
    """The table `[plugin.sbuild]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    archives: dict[str, tuple[str, ...]] = {}
    """Lines of sources.list(5) for a root, by the codename of its release; the distribution's own if absent."""
    options: tuple[str, ...] = ()
    """Further options for sbuild, one each."""
    user: str = UNPRIVILEGED_USER
    """Who runs sbuild where pkgkmod runs as root."""


class SbuildBuilder:
    """A source package rebuilt by sbuild, which installs the build dependencies into a root of its own."""

    name = "sbuild"
    format: PackageFormat | None = "deb"
    prebuilt = False

    def tools(self, format: PackageFormat) -> tuple[str, ...]:
        """Return the programs it needs."""
        return ("sbuild", "mmdebstrap", "newuidmap", "dpkg-source", "tar", "xz", "zstd")

    def ingredients(self, unit: JobUnit) -> Mapping[str, object]:
        """All its settings are in its own table."""
        return {}

    @contextmanager
    def at_work(self, unit: JobUnit, progress: Progress) -> Iterator[Path]:
        """Give a folder to build in, beside a root of the release and the header packages of the job's kernels.

        Raise SandboxError if the user who builds has no sub-uids, KernelError if packages cannot be had.
        """
        if is_offline():
            raise UsageError("sbuild installs what a build needs from archives", hint=HINT)
        settings = _settings(unit.project)
        user = _build_user(settings.user)
        _check_user(user)
        suite = unit.job.distro.codename
        lines = settings.archives.get(suite) or unit.job.distro.archives
        if not lines:
            raise UsageError(
                f"no archive is known for {unit.job.distro.title}, to make a root for sbuild of",
                hint=f"name it in the table [plugin.sbuild.archives]: {suite or 'CODENAME'} = ['deb URL SUITE main']",
            )
        with _open_folder(user) as folder:
            _put(_root_archive(suite, lines, user, folder / _WORK, progress), folder / _ROOT)
            (folder / _HEADERS).mkdir()
            _fetch_headers(unit.job.kernels, folder / _HEADERS, progress)
            put_devel_debs(unit.project, unit.job.target.distro, unit.base, folder / _HEADERS)
            yield folder / _WORK

    def lay_out(self, recipe: Recipe, recipe_folder: Path, places: Places) -> None:
        """Copy a recipe's files to where the commands look for them."""
        LocalBuilder().lay_out(recipe, recipe_folder, places)
        # A Perl program. Roots are unpacked where the build's other files are, and so are removed with them, not in
        # /tmp; the log has paths as they are, without <<PKGBUILDDIR>>.
        text = f"$unshare_tmpdir_template = '{places.folder}/root.XXXXXXXXXX';\n$log_filter = 0;\n1;\n"
        (places.folder / _CONFIG).write_text(text, encoding="utf-8")
        if os.geteuid() == 0:
            owner = places.folder.stat()
            for path in places.folder.rglob("*"):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def rpm_commands(self, recipe: Recipe, project: Project, places: Places) -> tuple[Command, ...]:
        """Sbuild makes no RPMs."""
        raise UsageError("sbuild makes DEBs only", hint='set builder = "local" or "mock" in the table [rpm]')

    def deb_commands(self, recipe: Recipe, project: Project, places: Places) -> tuple[Command, ...]:
        """Return the commands that make the source package, and the sbuild that makes all packages of it."""
        if places.arch != os.uname().machine:
            raise UsageError(
                f"sbuild builds for this machine ({os.uname().machine}), not for {places.arch}",
                hint='build on such a machine, or set builder = "local" in the table [deb]',
            )
        settings = _settings(project)
        user = settings.user if os.geteuid() == 0 else ""
        env = {
            "SOURCE_DATE_EPOCH": str(recipe.source_date_epoch),
            "DEB_BUILD_OPTIONS": f"nocheck parallel={places.jobs}",
            "SBUILD_CONFIG": str(places.folder / _CONFIG),
        }
        unpack = LocalBuilder().deb_commands(recipe, project, places)[0].argv
        description = f"{recipe.name}_{recipe.version.partition(':')[2] or recipe.version}.dsc"
        commands = [
            Command(unpack, places.folder / recipe.name, user=user, isolates=True),
            # Not dpkg-buildpackage, which would leave .changes and .buildinfo that sbuild makes, too.
            Command(("dpkg-source", "-b", recipe.name), places.folder, env, user=user, isolates=True),
        ]
        if not places.source_only:
            argv = ("sbuild", *_options(places), *settings.options, description)
            commands.append(Command(argv, places.folder, env, user=user, isolates=True))
        return tuple(commands)

    def logs(self, folder: Path) -> tuple[Path, ...]:
        """Sbuild writes all to its output."""
        return ()

    def complaint(self, lines: Sequence[str], returncode: int = 1) -> PkgkmodError | None:
        """Return the error that stands for what sbuild wrote, where it says what was missing."""
        unmet = sorted({found["package"] for line in lines if (found := _UNMET.search(line))})
        releases = [found["uname_r"] for name in unmet if (found := _HEADERS_PACKAGE.fullmatch(name))]
        details = "\n".join(dict.fromkeys(line.strip() for line in lines if _UNMET.search(line)))
        if releases:
            return KernelError(
                f"sbuild's root cannot have the headers of {', '.join(releases)}",
                details=details,
                hint="the archive has removed them, or has not what they need: choose a kernel that it still has, name "
                "an archive that has them in [plugin.apt] or [plugin.sbuild.archives], or build with the builder local",
            )
        if unmet:
            return PackageError(
                f"sbuild's root cannot have {', '.join(unmet)}",
                details=details,
                hint="name an archive that has them in the table [plugin.sbuild.archives]",
            )
        return None


def _options(places: Places) -> tuple[str, ...]:
    headers = places.folder.parent / _HEADERS
    return (
        f"--dist={places.suite}",
        *("--chroot-mode=unshare", f"--chroot={places.folder.parent / _ROOT}"),
        # As the builder local: everything, the source package, too, which then is of the release's own dpkg.
        *("--arch-any", "--arch-all", "--source", "--no-clean-source"),
        *("--apt-update", "--apt-distupgrade", "--bd-uninstallable-explainer=apt"),
        *((f"--extra-package={headers}",) if headers.is_dir() and any(headers.iterdir()) else ()),
        *("--no-run-lintian", "--no-run-piuparts", "--no-run-autopkgtest"),
        # .buildinfo names the path; by itself it has a random part.
        *("--build-path=/build/pkgkmod", "--batch", "--nolog"),
    )


def _settings(project: Project) -> SbuildSettings:
    given = project.plugin.get("sbuild", {})
    found = check_settings(SbuildSettings, given, "sbuild", hint="the keys are archives, options and user")
    if wrong := [line for lines in found.archives.values() for line in lines if not line.startswith("deb ")]:
        raise ConfigError(
            f"plugin.sbuild.archives: {wrong[0]!r} is no archive of packages",
            hint="lines are as in sources.list(5): deb URL SUITE COMPONENT...",
        )
    return found


def _build_user(name: str) -> pwd.struct_passwd:
    """Return who runs sbuild: the caller, or for root an unprivileged user; raise ConfigError if there is no such."""
    try:
        user = pwd.getpwnam(name) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    except KeyError:
        who = f"'{name}'" if os.geteuid() == 0 else f"number {os.geteuid()}"
        raise ConfigError(f"there is no user {who} on this machine", hint="set user in [plugin.sbuild]") from None
    if user.pw_uid == 0:
        raise ConfigError("sbuild is not run as root", hint="name another user in [plugin.sbuild]")
    return user


def _check_user(user: pwd.struct_passwd, etc: Path = Path("/etc")) -> None:
    """Raise SandboxError, with the command that mends it, if a user has not the sub-uids for a root."""
    lacking = [name for name in ("subuid", "subgid") if not _has_range(user, etc / name)]
    if lacking:
        words = " ".join(f"--add-{name}s {_free_range(etc / name)}" for name in lacking)
        raise SandboxError(
            f"the user {user.pw_name} has no {_SUB_IDS} {' and '.join(f'{name}s' for name in lacking)}, "
            "which sbuild needs to work without root rights",
            details="\n".join(f"{etc / name} has no line {user.pw_name}:START:{_SUB_IDS}" for name in lacking),
            hint=f"as root: usermod {words} {user.pw_name}",
        )
    for name, meaning in (("kernel/unprivileged_userns_clone", 1), ("user/max_user_namespaces", 10000)):
        with contextlib.suppress(OSError):
            if Path("/proc/sys", name).read_text(encoding="ascii").strip() == "0":
                key = name.replace("/", ".")
                raise SandboxError(
                    "this machine allows no user namespaces, which sbuild needs to work without root rights",
                    details=f"{key} is 0",
                    hint=f"as root: sysctl -w {key}={meaning}",
                )


def _ranges(file: Path) -> Iterator[tuple[str, int, int]]:
    """Give the lines of subuid(5): user, first id, and how many."""
    with contextlib.suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            who, _, numbers = line.partition(":")
            start, _, count = numbers.partition(":")
            if start.isdecimal() and count.isdecimal():
                yield who, int(start), int(count)


def _has_range(user: pwd.struct_passwd, file: Path) -> bool:
    names = (user.pw_name, str(user.pw_uid))
    return any(who in names and count >= _SUB_IDS for who, _, count in _ranges(file))


def _free_range(file: Path) -> str:
    """Return a range behind all that are taken; the first is where useradd starts (login.defs(5), SUB_UID_MIN)."""
    start = max([100_000, *(start + count for _, start, count in _ranges(file))])
    return f"{start}-{start + _SUB_IDS - 1}"


@contextmanager
def _open_folder(user: pwd.struct_passwd) -> Iterator[Path]:
    """Give a folder through which the user's sub-uids may pass, with one in it that is the user's own."""
    place = Path(os.environ.get("TMPDIR") or "/var/tmp").resolve()
    if any(not parent.stat().st_mode & stat.S_IXOTH for parent in (place, *place.parents)):
        place = Path("/var/tmp")  # the sub-uids could not get there
    for old in place.glob(f"{_PREFIX}*"):
        _remove_leftover(old)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    work = folder / _WORK
    in_use = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(in_use, fcntl.LOCK_EX)
        folder.chmod(0o711)
        work.mkdir()
        work.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(work, user.pw_uid, user.pw_gid)
        yield folder
    finally:
        os.close(in_use)
        _remove(folder)


def _remove_leftover(folder: Path) -> None:
    """Remove a folder of a run that was killed: it is ours, nobody holds it, and it was not made just now."""
    with contextlib.suppress(OSError):
        in_use = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            facts = os.fstat(in_use)
            fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if facts.st_uid == os.geteuid() and facts.st_mtime < time.time() - 60:
                _remove(folder)
        finally:
            os.close(in_use)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        # A build that was killed left files of sub-uids, which only their namespace may remove.
        argv = ("mmdebstrap", "--unshare-helper", "rm", "-rf", str(folder / _WORK))
        with tempfile.NamedTemporaryFile() as log, contextlib.suppress(PkgkmodError):
            run(Command(argv, Path("/"), time_limit=_TIME_LIMIT), log=Path(log.name), progress=Progress())
        shutil.rmtree(folder, ignore_errors=True)


def _put(source: Path, destination: Path) -> None:
    """Let a file be there, too, readable by all; the cache may lie in a folder that others may not enter."""
    try:
        os.link(source, destination)
    except OSError:  # another file system
        shutil.copyfile(source, destination)
        destination.chmod(0o644)


def _fetch_headers(kernels: Iterable[Kernel], folder: Path, progress: Progress) -> None:
    """Fetch the packages of the kernels that come from an archive; sbuild installs the others from the release's."""
    packages = {package.sha256: package for kernel in kernels if kernel.offer for package in kernel.offer.packages}
    for package in packages.values():
        name = f"{re.sub(r'[^a-z0-9.+-]', '_', package.name)}_{package.sha256[:16]}.deb"
        with progress.step(f"Fetching {package.name} {package.version} for sbuild"):
            try:
                fetch_package(package, folder / name, progress)
            except KernelError as error:
                error.hint = error.hint or (
                    "the archive may have removed it; the store keeps kernels only unpacked: build with the builder "
                    "local, or name an archive that has it"
                )
                raise
        (folder / name).chmod(0o644)


def _root_archive(suite: str, lines: tuple[str, ...], user: pwd.struct_passwd, work: Path, progress: Progress) -> Path:
    """Return the archive of a release's root, making it if it is not there or not whole, and mark it as used."""
    home = cache_folder() / "roots" / f"sbuild-{suite}-{digest([lines, os.uname().machine])[:16]}"
    locks = home.parent / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / home.name).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process makes it, the others wait
        if not _is_whole(home):
            _make_root(suite, lines, user, work, home, progress)
        os.utime(home / _ENTRY)
    return home / _ROOT


def _is_whole(home: Path) -> bool:
    try:
        entry = json.loads((home / _ENTRY).read_text(encoding="utf-8"))
        return bool(entry["sha256"] == _sha256(home / _ROOT))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _make_root(
    suite: str, lines: tuple[str, ...], user: pwd.struct_passwd, work: Path, home: Path, progress: Progress
) -> None:
    """Make a root aside and rename it; raise KernelError if mmdebstrap does not succeed."""
    # How archives are reached is the caller's matter (apt.conf(5)); all else of the environment is not.
    env = {name: os.environ[name] for name in ("http_proxy", "https_proxy", "no_proxy") if os.environ.get(name)}
    command = Command(
        ("mmdebstrap", "--mode=unshare", "--variant=buildd", suite, _ROOT, *lines),
        work,
        env={**env, "TMPDIR": str(work)},
        time_limit=_TIME_LIMIT,
        user=user.pw_name if os.geteuid() == 0 else "",
    )
    log = home.with_name(f"{home.name}.log")
    log.unlink(missing_ok=True)
    with progress.step(f"Making a root of {suite} for sbuild"):
        done = run(command, log=log, progress=progress)
    if not done.ok:
        complaints = [line for line in done.tail if line.startswith("E: ")] or list(done.tail)
        raise KernelError(
            f"a root of {suite} for sbuild could not be made",
            details="\n".join((*lines, *(line[:300] for line in complaints[:4]))),
            hint=f"archives are named in the table [plugin.sbuild.archives]: {suite} = ['deb URL SUITE main', ...]",
            log=done.log,
        )
    aside = home.with_name(f".new-{home.name}")
    shutil.rmtree(aside, ignore_errors=True)  # of a killed run
    try:
        aside.mkdir()
        shutil.copyfile(work / _ROOT, aside / _ROOT)
        (aside / _ROOT).chmod(0o644)
        size = (aside / _ROOT).stat().st_size
        facts = {"suite": suite, "archives": lines, "sha256": _sha256(aside / _ROOT), "bytes": size}
        write_atomically(aside / _ENTRY, json.dumps(facts, indent=1))
        shutil.rmtree(home, ignore_errors=True)
        aside.rename(home)
    finally:
        (work / _ROOT).unlink(missing_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
    log.unlink(missing_ok=True)
