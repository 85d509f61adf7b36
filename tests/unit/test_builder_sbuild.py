"""The builder sbuild: its commands, and what it says where something is missing."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pkgkmod import command as command_module
from pkgkmod.builders import sbuild
from pkgkmod.builders.sbuild import SbuildBuilder
from pkgkmod.command import Command, run
from pkgkmod.data import load as load_data
from pkgkmod.data.distros import find_distro, known_distros
from pkgkmod.errors import (
    ConfigError,
    KernelError,
    PackageError,
    PkgkmodError,
    PluginError,
    SandboxError,
    ToolError,
    UsageError,
)
from pkgkmod.kernels.aptsources import parse_line
from pkgkmod.kernels.roots import prune
from pkgkmod.model.artifacts import Recipe
from pkgkmod.model.places import Places
from pkgkmod.model.project import Project
from pkgkmod.plugins import BUILDERS, JobUnit, RootBuilder, load
from pkgkmod.progress import Progress
from pkgkmod.stages.build_deb import BuildDeb
from tests.fixtures.packaging import make_job, make_project

KERNEL = "6.1.0-56-amd64"
RECIPE = Recipe(
    format="deb",
    name="e1000e-modules",
    version="1:6.1.90-1~deb12",
    debian="debian",
    archive="e1000e-modules_6.1.90.orig.tar.xz",
    kernels=(KERNEL,),
    source_date_epoch=1_700_000_000,
)
USER = pwd.struct_passwd(("jane", "x", 1000, 1000, "", "/home/jane", "/bin/sh"))
MACHINE = os.uname().machine


def with_settings(**settings: object) -> Project:
    return make_project().model_copy(update={"plugin": {"sbuild": settings}})


def places(folder: str = "/b/place", **more: object) -> Places:
    return Places(Path(folder), MACHINE, jobs=4, suite="bookworm", **more)  # type: ignore[arg-type]


def test_it_is_a_builder_with_a_root() -> None:
    builder = load(BUILDERS, "sbuild")
    assert isinstance(builder, SbuildBuilder)
    assert isinstance(builder, RootBuilder)
    assert not builder.prebuilt
    packages = load_data("tools.toml")["packages"]
    assert set(builder.tools("deb")) <= set(packages)


def test_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    env = {
        "SOURCE_DATE_EPOCH": "1700000000",
        "DEB_BUILD_OPTIONS": "nocheck parallel=4",
        "SBUILD_CONFIG": "/b/place/sbuild.conf",
    }
    folder = Path("/b/place")
    unpack = Command(
        ("tar", "-x", "--no-same-owner", "--strip-components=1", "-f", "../e1000e-modules_6.1.90.orig.tar.xz"),
        folder / "e1000e-modules",
        isolates=True,
    )
    source = Command(("dpkg-source", "-b", "e1000e-modules"), folder, env, isolates=True)
    build = Command(
        (
            *("sbuild", "--dist=bookworm", "--chroot-mode=unshare", "--chroot=/b/root.tar.zst"),
            *("--arch-any", "--arch-all", "--source", "--no-clean-source"),
            *("--apt-update", "--apt-distupgrade", "--bd-uninstallable-explainer=apt"),
            *("--no-run-lintian", "--no-run-piuparts", "--no-run-autopkgtest"),
            *("--build-path=/build/pkgkmod", "--batch", "--nolog"),
            *("--extra-repository=deb http://x y main", "e1000e-modules_6.1.90-1~deb12.dsc"),
        ),
        folder,
        env,
        isolates=True,
    )
    project = with_settings(options=["--extra-repository=deb http://x y main"])
    assert SbuildBuilder().deb_commands(RECIPE, project, places()) == (unpack, source, build)
    assert SbuildBuilder().deb_commands(RECIPE, project, places(source_only=True)) == (unpack, source)


def test_root_runs_all_of_it_as_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    users = [command.user for command in SbuildBuilder().deb_commands(RECIPE, make_project(), places())]
    assert users == ["nobody"] * 3
    users = [c.user for c in SbuildBuilder().deb_commands(RECIPE, with_settings(user="builder"), places())]
    assert users == ["builder"] * 3


def test_fetched_headers_are_handed_over(tmp_path: Path) -> None:
    (tmp_path / "headers").mkdir()
    option = f"--extra-package={tmp_path}/headers"
    *_, build = SbuildBuilder().deb_commands(RECIPE, make_project(), places(str(tmp_path / "work")))
    assert option not in build.argv
    (tmp_path / "headers/a.deb").touch()
    *_, build = SbuildBuilder().deb_commands(RECIPE, make_project(), places(str(tmp_path / "work")))
    assert option in build.argv


def test_other_machines_and_rpms_are_refused() -> None:
    with pytest.raises(UsageError, match="not for sparc64"):
        SbuildBuilder().deb_commands(RECIPE, make_project(), Places(Path("/b"), "sparc64"))
    with pytest.raises(UsageError, match="DEBs only"):
        SbuildBuilder().rpm_commands(RECIPE, make_project(), places())


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"archive": []}, PluginError, "archive"),
        ({"archives": {"bookworm": "deb http://x y main"}}, PluginError, "archives"),
        ({"archives": {"bookworm": ["--setup-hook=touch /pwned"]}}, ConfigError, "is no archive of packages"),
        ({"options": "--verbose"}, PluginError, "options"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], kind: type[PkgkmodError], words: str) -> None:
    with pytest.raises(kind, match=words):
        SbuildBuilder().deb_commands(RECIPE, with_settings(**settings), places())


@pytest.mark.parametrize(("name", "words"), [("nobody-at-all", "there is no user"), ("root", "not run as root")])
def test_users_that_cannot_build(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError, match=words):
        sbuild._build_user(name)


def test_lacking_sub_uids_are_told_with_the_command_that_gives_them(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("joe:100000:65536\njane:165536:1000\nnonsense\njane:x:y\n")
    with pytest.raises(SandboxError, match=r"jane has no 65536 subuids and subgids") as caught:
        sbuild._check_user(USER, tmp_path)
    assert caught.value.hint == "as root: usermod --add-subuids 166536-232071 --add-subgids 100000-165535 jane"
    (tmp_path / "subuid").write_text("1000:200000:65536\n")
    with pytest.raises(SandboxError) as caught:
        sbuild._check_user(USER, tmp_path)
    assert caught.value.hint == "as root: usermod --add-subgids 100000-165535 jane"
    (tmp_path / "subgid").write_text("jane:200000:65536\n")
    sbuild._check_user(USER, tmp_path)


def test_a_release_without_archives_asks_for_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sbuild, "_check_user", lambda user: None)
    job = make_job("debian12", (KERNEL,))
    bare = job.distro.model_copy(update={"archives": ()})
    unit = JobUnit(job.project, tmp_path, type(job)(job.project, job.target, bare, job.kernels))
    with pytest.raises(UsageError, match="no archive is known") as caught, SbuildBuilder().at_work(unit, Progress()):
        pass
    assert "bookworm = " in caught.value.hint


@pytest.mark.parametrize("name", [name for name in known_distros() if find_distro(name).format == "deb"])
def test_every_release_names_its_archives(name: str) -> None:
    distro = find_distro(name)
    entries = [parse_line(line) for line in distro.archives]
    assert [entry.suite.partition("-")[0] for entry in entries] == [distro.codename] * 3


def test_missing_headers_and_packages_have_errors_of_their_own() -> None:
    lines = [
        "The following packages have unmet dependencies:",
        " sbuild-build-depends-main-dummy : Depends: linux-headers-6.1.0-1-amd64 but it is not installable",
        "                                   Depends: dh-dkms (>= 9) but 3.0.10 is to be installed",
        "E: Unable to correct problems, you have held broken packages.",
    ]
    found = SbuildBuilder().complaint(lines)
    assert isinstance(found, KernelError)
    assert "6.1.0-1-amd64" in found.brief
    assert "dh-dkms" in found.details
    found = SbuildBuilder().complaint(lines[2:])
    assert isinstance(found, PackageError)
    assert found.brief == "sbuild's root cannot have dh-dkms"
    assert SbuildBuilder().complaint(["hello.c:3:1: error: expected ';'"]) is None


def test_a_root_that_was_changed_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs are stand-ins; pruning is real."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    user = pwd.getpwuid(os.geteuid())
    made: list[str] = []

    def stand_in(command: Command, **_: object) -> command_module.Completed:
        made.append(command.argv[-1])
        (command.cwd / "root.tar.zst").write_text("a root")
        return command_module.Completed(command, 0, (), tmp_path / "log")

    monkeypatch.setattr(sbuild, "run", stand_in)
    work = tmp_path / "work"
    work.mkdir()
    archive = sbuild._root_archive("bookworm", ("deb http://x bookworm main",), user, work, Progress())
    assert archive.read_text() == "a root"
    assert sbuild._root_archive("bookworm", ("deb http://x bookworm main",), user, work, Progress()) == archive
    assert len(made) == 1
    archive.write_text("another")
    sbuild._root_archive("bookworm", ("deb http://x bookworm main",), user, work, Progress())
    assert len(made) == 2
    assert archive.read_text() == "a root"
    assert list(work.iterdir()) == []
    other = sbuild._root_archive("bookworm", ("deb http://y bookworm main",), user, work, Progress())
    assert other != archive
    pruned = prune(tmp_path / "pkgkmod", None, False)
    assert sorted(folder for folder, _ in pruned) == sorted((archive.parent, other.parent))
    assert [size for _, size in pruned] == [6, 6]
    assert not archive.exists()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that everybody may pass through, as those of pytest are not."""
    folder = Path(tempfile.mkdtemp(prefix="pkgkmod-test-", dir="/var/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def test_what_a_killed_run_left_is_removed(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(open_folder))
    for name in ("pkgkmod-sbuild-old", "pkgkmod-sbuild-new", "elsewhere"):
        (open_folder / name / "work").mkdir(parents=True)
    (open_folder / "pkgkmod-sbuild-link").symlink_to("elsewhere")
    os.utime(open_folder / "pkgkmod-sbuild-old", (0, 0))
    os.utime(open_folder / "elsewhere", (0, 0))
    user = pwd.getpwuid(os.geteuid())
    kept = {"elsewhere", "pkgkmod-sbuild-new", "pkgkmod-sbuild-link"}
    with sbuild._open_folder(user) as first:
        os.utime(first, (0, 0))
        with sbuild._open_folder(user) as second:
            assert {path.name for path in open_folder.iterdir()} == {*kept, first.name, second.name}
    assert {path.name for path in open_folder.iterdir()} == kept
    assert (open_folder / "elsewhere/work").is_dir()


def test_a_closed_place_for_temporary_files_is_not_taken(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_folder.chmod(0o700)
    monkeypatch.setenv("TMPDIR", str(open_folder))
    with sbuild._open_folder(pwd.getpwuid(os.geteuid())) as folder:
        assert folder.parent == Path("/var/tmp")
        assert folder.stat().st_mode & 0o777 == 0o711
    assert not folder.exists()


def test_a_root_that_cannot_be_made_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mmdebstrap is a stand-in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def stand_in(command: Command, **_: object) -> command_module.Completed:
        return command_module.Completed(command, 1, ("I: running", "E: cannot read archive"), tmp_path / "log")

    monkeypatch.setattr(sbuild, "run", stand_in)
    with pytest.raises(KernelError, match="a root of bookworm") as caught:
        sbuild._root_archive("bookworm", ("deb http://x bookworm main",), pwd.getpwuid(0), tmp_path, Progress())
    assert caught.value.details == "deb http://x bookworm main\nE: cannot read archive"
    assert not list((tmp_path / "pkgkmod/roots").glob("*/entry.json"))


def test_the_stage_takes_no_finished_modules_for_it() -> None:
    project = make_project().model_copy(update={"deb": make_project().deb.model_copy(update={"builder": "sbuild"})})
    assert BuildDeb().consumes(project) == ("recipe.deb",)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")
def test_a_command_runs_as_its_user(tmp_path: Path) -> None:
    done = run(Command(("id",), Path("/"), user="nobody"), log=tmp_path / "log", progress=Progress())
    nobody = pwd.getpwnam("nobody")
    assert done.tail[0].startswith(f"uid={nobody.pw_uid}(nobody) gid={nobody.pw_gid}")
    assert "root" not in done.tail[0]


def test_a_tool_that_is_missing_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pkgkmod.programs.SYSTEM_PATH", "/nonexistent")
    job = make_job("debian12", (KERNEL,))
    project = job.project.model_copy(update={"deb": job.project.deb.model_copy(update={"builder": "sbuild"})})
    with pytest.raises(ToolError, match="'sbuild'") as caught:
        BuildDeb().ingredients(JobUnit(project, tmp_path, job))
    assert "sbuild" in caught.value.hint
