"""Debian source packages with patches, unpacked and packed again by the real dpkg-source."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pkgkmod.formats.deb import read_changelog
from pkgkmod.model.artifacts import SourceTree
from pkgkmod.model.project import Source
from pkgkmod.packages.debsource import DebianSources, debian_sources
from pkgkmod.packages.sourcearchive import write_source_archive
from pkgkmod.progress import Progress
from pkgkmod.sources.importer import import_sources
from tests.fixtures.machine import HELLO, commit, e1000e, head, hello, made, need, pkgkmod, project, series_and_kernel
from tests.fixtures.packaging import make_project

ENVIRONMENT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": "/dev/null",
    **{f"GIT_{role}_NAME": "Jörn Doe" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_EMAIL": "joern@example.org" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_DATE": "2024-03-05T12:00:00+0000" for role in ("AUTHOR", "COMMITTER")},
}


def run(*argv: object, cwd: Path) -> str:
    done = subprocess.run([str(a) for a in argv], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Said(Progress):
    """Remembers warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@dataclass(frozen=True)
class Bench:
    """A driver in git at `first`, and a folder for the patches made of what is changed in it."""

    folder: Path
    repository: Path
    driver: Path
    first: str

    def change(
        self, subject: str, how: Callable[[Path], object], message: str = "", options: tuple[str, ...] = ()
    ) -> None:
        """Change the driver, and add the patch."""
        how(self.driver)
        run("git", "add", "-A", ".", cwd=self.repository)
        run("git", "commit", "-q", "--cleanup=verbatim", "-m", f"{subject}\n\n{message}", cwd=self.repository)
        number = len(list((self.folder / "patches").glob("*.patch"))) + 1
        argv = (
            "git",
            "format-patch",
            "-q",
            *options,
            f"--start-number={number}",
            "-o",
            self.folder / "patches",
            "HEAD~1",
        )
        run(*argv, cwd=self.repository)

    def imported(self, **source: object) -> tuple[Path, SourceTree]:
        """Import the first commit, with the patches."""
        place = self.folder / "imported"
        settings = Source.model_validate(
            {"repository": str(self.repository), "revision": self.first, "directories": [HELLO], **source}
        )
        tree = import_sources(
            settings, base=self.folder, cache=self.folder / "cache", destination=place, progress=Progress()
        )
        return place, tree

    def packed(self, **source: object) -> tuple[Path, DebianSources, list[str]]:
        """Return a folder with the source package of a project (x_1.0-1.dsc), its patches, and the warnings."""
        place, tree = self.imported(**source)
        said = Said()
        sources = debian_sources(place, tree.provenance, said)
        known = make_project(name="hello", version="1.0")
        content = {"directories": (HELLO,), "archive": str(source.get("archive", "default"))}
        known = known.model_copy(update={"source": Source.model_validate(content)})
        folder = self.folder / "packed"
        folder.mkdir()
        archive = folder / "x_1.0.orig.tar.xz"
        shelf = self.folder / "shelf"
        shelf.mkdir()
        write_source_archive(
            known, place, tree.provenance, archive, base=self.folder, top_folder="x-1.0", shelf=shelf, debian=sources
        )
        run("tar", "-xf", archive, cwd=folder)
        debian = folder / "x-1.0" / "debian"
        (debian / "source").mkdir(parents=True)
        (debian / "source" / "format").write_text("3.0 (quilt)\n")
        (debian / "control").write_text(
            "Source: x\nMaintainer: A B <a@example.org>\nBuild-Depends: debhelper-compat (= 13)\n\n"
            "Package: x\nArchitecture: any\nDescription: x\n"
        )
        (debian / "changelog").write_text(
            "x (1.0-1) unstable; urgency=low\n\n  * X.\n\n -- A B <a@example.org>  Tue, 05 Mar 2024 12:00:00 +0000\n"
        )
        sources.write_patches(debian)
        (folder / "as-imported").mkdir()
        run("tar", "-xf", archive, "--strip-components=1", cwd=folder / "as-imported")
        run("dpkg-source", "-b", "x-1.0", cwd=folder)
        return folder, sources, said.warnings


def unpacked(folder: Path) -> Path:
    """Unpack a source package, see that packing it gives the same, and return its driver's folder."""
    said = run("dpkg-source", "-x", "x_1.0-1.dsc", "unpacked", cwd=folder)
    assert "fuzz" not in said and "offset" not in said
    again = folder / "again"
    again.mkdir()
    shutil.copy(folder / "x_1.0.orig.tar.xz", again)
    shutil.copytree(folder / "unpacked", again / "unpacked", symlinks=True)
    run("dpkg-source", "-b", "unpacked", cwd=again)
    for name in ("x_1.0-1.dsc", "x_1.0-1.debian.tar.xz"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    return folder / "unpacked"


def content(folder: Path) -> dict[str, str]:
    """Return modes and contents of the driver's files."""
    found = {}
    for path in sorted((folder / HELLO).rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = f"-> {path.readlink()}"
        elif path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = f"{path.stat().st_mode & 0o111:o} {digest}"
    return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    need("dpkg-source", "git")
    driver = hello(tmp_path / "repository")
    (tmp_path / "patches").mkdir()
    return Bench(tmp_path, driver.repository, driver.repository / HELLO, driver.commit)


def edit(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(driver: Path) -> None:
        text = (driver / name).read_text()
        assert old in text
        (driver / name).write_text(text.replace(old, new))

    return change


def test_sources_are_as_imported_and_patches_make_them_what_is_compiled(bench: Bench) -> None:
    bench.change("hello: include less", edit("main.c", "#include <linux/init.h>\n", ""), "Why.\n")
    bench.change("hello: a new file", lambda d: (d / "more.h").write_text("#define MORE 1"))
    bench.change("hello: rename it", lambda d: (d / "more.h").rename(d / "most.h"))
    bench.change("hello: Windows", lambda d: (d / "crlf.h").write_bytes(b"#define A 1\r\n#define B 2\r\n"))
    bench.change("hello: Windows again", lambda d: (d / "crlf.h").write_bytes(b"#define A 1\r\n#define B 3\r\n"))
    bench.change("hello: drop it", lambda d: (d / "most.h").unlink())
    folder, sources, warnings = bench.packed()
    assert warnings == [] and len(sources.patches) == 6
    series = (folder / "x-1.0/debian/patches/series").read_text().splitlines()
    assert series[0] == "0001-hello-include-less.patch" and len(series) == 6
    run("git", "worktree", "add", "-q", folder / "first", bench.first, cwd=bench.repository)
    assert content(folder / "as-imported") == content(folder / "first")
    assert content(unpacked(folder)) == content(bench.folder / "imported/tree") != content(folder / "first")
    # What RPM's archive holds is what was compiled.
    text = (folder / "unpacked/debian/patches" / series[0]).read_text()
    assert text.startswith(
        "Description: hello: include less\n .\n Why.\nAuthor: Jörn Doe <joern@example.org>\nOrigin: "
    )


def make_link(driver: Path) -> None:
    (driver / "link.h").symlink_to("main.c")


def make_executable(driver: Path) -> None:
    (driver / "main.c").chmod(0o755)


def make_script(driver: Path) -> None:
    (driver / "script.sh").write_text("#!/bin/sh\n")
    (driver / "script.sh").chmod(0o755)


@pytest.mark.parametrize(
    "how",
    [
        lambda d: (d / "data.bin").write_bytes(b"\0\1\2" * 99),
        lambda d: (d / "empty.h").write_text(""),
        lambda d: (d / "a b.h").write_text("x\n"),
        lambda d: (d / 'ä"\\.h').write_text("x\n"),
        make_link,
        make_executable,
        make_script,
    ],
    ids=["binary", "empty", "blank", "odd-name", "link", "mode", "script"],
)
def test_what_dpkg_source_cannot_say_stays_applied(bench: Bench, how: Callable[[Path], object]) -> None:
    bench.change("first", edit("main.c", "#include <linux/init.h>\n", ""))
    bench.change("odd", how)
    bench.change("last", lambda d: (d / "last.h").write_text("x\n"))
    folder, sources, warnings = bench.packed()
    (warning,) = warnings
    assert warning.startswith("patch 0002-odd.patch stays applied in the source package's archive")
    assert [name for name, _ in sources.patches] == ["0003-last.patch"]
    assert content(unpacked(folder)) == content(bench.folder / "imported/tree")


def test_other_strip_levels_names_and_dot_files(bench: Bench) -> None:
    bench.change("first", edit("main.c", "#include <linux/init.h>\n", ""), options=("--no-prefix",))
    bench.change("notes", lambda d: (d / ".notes.txt").write_text("x\n"))
    bench.change("more", edit(".notes.txt", "x", "y"))
    patches = bench.folder / "patches"
    (patches / "net").mkdir()
    (patches / "0002-notes.patch").rename(patches / "net" / "0001-(first)`id`.patch")
    (patches / "series").write_text(
        "0001-first.patch -p0  # without a/ and b/\nnet/0001-(first)`id`.patch\n0003-more.patch\n"
    )
    folder, sources, warnings = bench.packed(archive="kbuild")
    assert warnings == []
    names = [name for name, _ in sources.patches]
    assert names == ["0001-first.patch", "0001--first--id-.patch", "0003-more.patch"]
    assert content(unpacked(folder)) == content(bench.folder / "imported/tree")


def test_a_message_that_looks_like_a_patch_changes_nothing(bench: Bench) -> None:
    diff = "--- a/evil.c\n+++ b/evil.c\n@@ -0,0 +1 @@\n+evil\n"
    indented = "".join(f"   {line}\n" for line in diff.splitlines())
    quoted = "".join(f"- {line}\n" for line in diff.splitlines())
    bench.change("first", edit("main.c", "#include <linux/init.h>\n", ""), f"Why:\n\n{indented}\n{quoted}\n")
    folder, _, _ = bench.packed()
    assert content(unpacked(folder)) == content(bench.folder / "imported/tree")
    assert not list((folder / "unpacked").rglob("evil.c*"))


def test_settings_and_attributes_change_no_byte(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    config = bench.folder / "gitconfig"
    config.write_text(
        "[core]\n\tautocrlf = true\n[diff]\n\tnoprefix = true\n\tcontext = 0\n[apply]\n\twhitespace = fix\n"
    )
    bench.change("first", lambda d: (d / "crlf.h").write_bytes(b"a  \r\nb\r\n"))
    bench.change("attributes", lambda d: (d / ".gitattributes").write_text("* text=auto eol=crlf ident diff=odd\n"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    folder, sources, warnings = bench.packed(archive="all")
    assert warnings == [] and len(sources.patches) == 2
    assert content(unpacked(folder)) == content(bench.folder / "imported/tree")


def test_edited_sources_are_packed_as_they_are(bench: Bench) -> None:
    bench.change("first", edit("main.c", "#include <linux/init.h>\n", ""))
    for edited in ("int x;\n", "\0binary"):
        shutil.rmtree(bench.folder / "imported", ignore_errors=True)
        place, tree = bench.imported()
        file = place / "tree" / HELLO / "main.c"
        file.write_text(edited + file.read_text())
        said = Said()
        assert debian_sources(place, tree.provenance, said) == DebianSources()
        assert "the patches stay applied" in said.warnings[0]


def test_one_version_has_one_archive_whatever_its_patches(bench: Bench) -> None:
    archives = []
    for subject in ("none", "first", "second"):
        if subject != "none":
            bench.change(subject, lambda d, name=subject: (d / f"{name}.h").write_text("x\n"))  # type: ignore[misc]
        folder, _, _ = bench.packed()
        archives.append((folder / "x_1.0.orig.tar.xz").read_bytes())
        for name in ("packed", "imported", "shelf"):
            shutil.rmtree(bench.folder / name)
    assert archives[0] == archives[1] == archives[2]


def test_no_patches_no_git(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    place, tree = bench.imported()
    monkeypatch.setenv("PATH", "/nonexistent")
    assert debian_sources(place, tree.provenance, Progress()) == DebianSources()


def test_changelog_of_the_project_and_commits_since(tmp_path: Path) -> None:
    _, kernel = series_and_kernel()
    driver = hello(tmp_path / "repository")
    folder = project(tmp_path / "project", driver, kernel)
    pkgkmod("generate_debian", "--update-changelog", cwd=folder)
    kept = (folder / "debian" / "changelog").read_text()
    assert kept.startswith("hello-modules (1.0-1) UNRELEASED; urgency=medium\n") and driver.commit in kept
    file = driver.repository / HELLO / "main.c"
    for subject in ("hello: say more", "hello: closes: #1"):
        file.write_text(file.read_text() + "\n")
        commit(driver.repository, subject)
    (driver.repository / "elsewhere").write_text("x\n")
    commit(driver.repository, "elsewhere: nothing of ours")
    config = folder / "pkgkmod.toml"
    config.write_text(config.read_text().replace(driver.commit, head(driver.repository)).replace('"1.0"', '"1.1"'))
    pkgkmod("-C", "project.version=1.1", "generate_debian", cwd=folder)
    newest = max((folder / "results/generate_debian/debian12/_").iterdir(), key=lambda path: path.stat().st_mtime)
    new, old = read_changelog(newest / "debian" / "changelog")
    assert (new.version, old.version) == ("1.1-1~deb12", "1.0-1~deb12")
    assert new.lines[-2:] == ("hello: closes #1", "hello: say more") and new.time == old.time + 1
    assert f'"source_date_epoch": {new.time}' in (newest / "result.json").read_text().replace(":", ": ").replace(
        "  ", " "
    )
    assert (folder / "debian" / "changelog").read_text() == kept, "only --update-changelog writes it"


def test_texts_of_licences_are_taken_from_the_repository(tmp_path: Path) -> None:
    _, kernel = series_and_kernel()
    driver = hello(tmp_path / "repository")
    (driver.repository / "LICENSES" / "preferred").mkdir(parents=True)
    text = "Valid-License-Identifier: MIT\nLicense-Text:\n\nBe free.\n\nFiles: *\nLicense: none\x1b\n"
    (driver.repository / "LICENSES/preferred/MIT").write_text(text)
    for name in ("MIT", "ISC"):
        (driver.repository / HELLO / f"{name}.h").write_text(f"/* SPDX-License-Identifier: {name} */\n")
    there = replace(driver, commit=commit(driver.repository, "more licences"))
    folder = project(tmp_path / "project", there, kernel)
    said = pkgkmod("generate_debian", cwd=folder).err
    assert "has not the text of ISC: import LICENSES/*/ISC, too" in said and "text of MIT" not in said
    made_text = made(folder, "debian/copyright").read_text()
    assert "License: Expat\n Be free.\n .\n Files: *\n License: none\n" in made_text
    assert "LICENSES/*" not in made_text, "only the text is taken, not the file"


def test_a_changelog_that_is_none_is_refused(tmp_path: Path) -> None:
    _, kernel = series_and_kernel()
    folder = project(tmp_path / "project", hello(tmp_path / "repository"), kernel)
    (folder / "debian").mkdir()
    (folder / "debian" / "changelog").write_text("rubbish\n")
    done = pkgkmod("generate_debian", cwd=folder, code=17)
    assert "is not a Debian changelog" in done.err


def test_the_source_package_alone_gives_the_same_packages(bench: Bench) -> None:
    """Finished modules packaged by pkgkmod, and dpkg-buildpackage of the .dsc: the same bytes."""
    need("dpkg-buildpackage", "dh")
    _, kernel = series_and_kernel()
    bench.change("hello: patched", edit("main.c", "#include <linux/init.h>\n", ""))
    folder = bench.folder / "project"
    shutil.copytree(bench.folder / "patches", folder / "patches")
    pkgkmod("init", "--name", "hello", "--distro", "debian12", "--kernel", kernel, cwd=folder)
    pkgkmod("prepare_sources", "-g", bench.repository, "-r", bench.first, "-d", HELLO, cwd=folder)
    pkgkmod("build_deb", cwd=folder)
    alone = bench.folder / "alone"
    alone.mkdir()
    run("dpkg-source", "-x", made(folder, "*.dsc"), "hello-modules", cwd=alone)
    run("dpkg-buildpackage", "-us", "-uc", "-b", "-d", cwd=alone / "hello-modules")
    package = made(folder, f"hello-modules-{kernel}_*.deb")
    assert (alone / package.name).read_bytes() == package.read_bytes()


@pytest.fixture(scope="module")
def patched_e1000e(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the project of the real e1000e with two patches, its modules compiled."""
    folder = tmp_path_factory.mktemp("e1000e")
    driver, (_, kernel) = e1000e(), series_and_kernel()
    repository = folder / "repository"
    run("git", "clone", "-q", driver.repository, repository, cwd=folder)
    (folder / "patches").mkdir()
    bench = Bench(folder, repository, repository / driver.directory, driver.commit)
    say = edit("netdev.c", "Intel(R) PRO/1000 Network Driver", "Intel(R) PRO/1000 Network Driver, patched")
    bench.change("e1000e: say that it is patched", say, "[ Upstream commit 0123456789abcdef ]\n\nFor the test.\n")
    bench.change("e1000e: bring a header", lambda d: (d / "more.h").write_text("#define MORE 1\n"))
    shutil.copytree(folder / "patches", folder / "project/patches")
    targets = ("--distro", "debian12", "--distro", "ubuntu2404")
    pkgkmod("init", "--name", "e1000e", *targets, "--kernel", kernel, cwd=folder / "project")
    where = ("-g", driver.repository, "-r", driver.commit, "-d", driver.directory)
    pkgkmod("prepare_sources", *where, cwd=folder / "project")
    texts = ("-C", "project.maintainer=Jane Packager <jane@debian.org>", "-C", "project.url=https://www.kernel.org")
    pkgkmod(*texts, "build_deb", cwd=folder / "project")
    return folder / "project"


def test_lintian_finds_no_fault_in_a_patched_driver(patched_e1000e: Path) -> None:
    need("lintian")
    changes = list((patched_e1000e / "results/build_deb/debian12").glob("*/*/*.changes"))
    done = subprocess.run(
        # The sources' commit is older than the policy that is followed.
        ["lintian", "--allow-root", "--tag-display-limit=0", "--suppress-tags=timewarp-standards-version", *changes],
        capture_output=True,
        text=True,
        check=False,
    )
    assert len(changes) == 1 and done.stdout == "", done.stdout


def test_copyright_and_patches_of_a_real_driver(patched_e1000e: Path) -> None:
    (debian,) = (patched_e1000e / "results/generate_debian/debian12").glob("*/*/debian")
    text = (debian / "copyright").read_text()
    assert "Files: *\nCopyright: 1999-2018 Intel Corporation\nLicense: GPL-2\n" in text
    assert "\n           2011 Richard Cochran <richardcochran@gmail.com>\nLicense: GPL-2\n" in text
    (patch, _) = (debian / "patches/series").read_text().splitlines()
    assert "Origin: backport, commit:0123456789abcdef\n" in (debian / "patches" / patch).read_text()


def test_a_package_for_ubuntu_is_packed_as_there(patched_e1000e: Path, tmp_path: Path) -> None:
    _, kernel = series_and_kernel()
    (package,) = patched_e1000e.glob(f"results/build_deb/ubuntu2404/*/*/e1000e-modules-{kernel}_*~ubuntu24.04_*.deb")
    assert "data.tar.zst" in run("ar", "t", package, cwd=tmp_path)
    assert f"linux-image-{kernel} | linux-image-unsigned-{kernel}" in run(
        "dpkg-deb", "-f", package, "Depends", cwd=tmp_path
    )
    run("dpkg-deb", "-x", package, "root", cwd=tmp_path)
    module = tmp_path / f"root/lib/modules/{kernel}/updates/e1000e/e1000e.ko.zst"
    assert "Intel(R) PRO/1000 Network Driver, patched" in run("modinfo", "-d", module, cwd=tmp_path)
    (changes,) = patched_e1000e.glob("results/build_deb/ubuntu2404/*/*/*.changes")
    assert "\nDistribution: noble\n" in changes.read_text()
