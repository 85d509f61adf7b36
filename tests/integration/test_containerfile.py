"""The build host's image: built for real from a Debian base that mmdebstrap makes, and used.

The Fedora branch is only read here: there is nothing to build it from.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pkgkmod.data import load
from tests.fixtures.machine import CHECKOUT, lacking, made_once, need

TEXT = (CHECKOUT / "Containerfile").read_text("utf-8")
LEFT_OUT = {
    "mock",  # not in Debian
    "sbuild",  # wants to be the builder of a whole machine, and brings Perl's world
    "pkcs11-tool",  # only named in instructions
    *("busybox", "qemu-system-aarch64", "qemu-system-x86_64"),  # for `boot`: large
}
"""Programs that the image has not; MORE adds packages."""
# Of the base system, or brought by build-essential and others.
ESSENTIAL = {"bash", "binutils", "dpkg", "dpkg-dev", "gcc", "gzip", "make", "patch", "rpm", "shadow-utils", "tar"}


def installed_by(branch: str) -> set[str]:
    found = re.search(rf"{branch} install -y.*?\n(.*?)(?:&&)", TEXT, re.DOTALL)
    assert found
    return {word for word in found[1].split() if re.fullmatch(r"[a-z0-9.+_-]+", word) and not word.startswith("-")}


@pytest.mark.parametrize(("branch", "family"), [("apt-get", "debian"), ("dnf", "fedora")])
def test_the_image_has_the_programs_that_are_named_to_users(branch, family):
    wanted = {name: packages[family] for name, packages in load("tools.toml")["packages"].items() if family in packages}
    brought = installed_by(branch) | ESSENTIAL
    assert {name for name, package in wanted.items() if package not in brought} - LEFT_OUT == set()


def test_what_is_run_while_the_image_is_built_is_shell(tmp_path):
    runs = re.findall(r"^RUN ((?:.*\\\n)*.*)$", TEXT, re.MULTILINE)
    assert len(runs) == 2
    for number, run in enumerate(runs):
        script = tmp_path / str(number)
        script.write_text(run)
        assert subprocess.run(["sh", "-n", script], capture_output=True).stderr == b""


class Buildah:
    """buildah with a store of its own, where containers may not nest namespaces."""

    def __init__(self, folder: Path) -> None:
        self.argv = ["buildah", "--root", str(folder / "root"), "--runroot", str(folder / "run")]

    def __call__(self, *words: object, check: bool = True) -> str:
        env = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
        argv = [*self.argv, *map(str, words)]
        done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert not check or done.returncode == 0, done.stdout
        return done.stdout.strip().rpartition("\n")[2] if check else done.stdout


def base_root() -> Path:
    """Return an archive of Debian's base system, with this machine's package sources and certificates."""
    with made_once("container-base") as (folder, is_there):
        if not is_there:
            folder.mkdir(exist_ok=True)
            argv = ["mmdebstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", folder / "base.tar"]
            subprocess.run(argv, check=True, capture_output=True)
        return folder / "base.tar"


@pytest.fixture
def buildah(tmp_path):
    need("buildah", "mmdebstrap")
    if os.getuid():
        lacking("images are built as root here")
    yield Buildah(tmp_path)
    subprocess.run([*Buildah(tmp_path).argv, "rm", "--all"], capture_output=True)
    shutil.rmtree(tmp_path / "root", ignore_errors=True)


def test_the_image_builds_from_debian_and_builds_packages(buildah, tmp_path):
    base = buildah("from", "scratch")
    buildah("add", "--quiet", base, base_root(), "/")
    for name in ("/etc/ssl/certs/ca-certificates.crt", "/etc/resolv.conf"):  # a machine may trust more than Debian does
        buildah("copy", "--quiet", base, name, name)
    buildah("commit", "--quiet", base, "localhost/base")
    buildah("bud", "--network", "host", "--build-arg", "BASE=localhost/base", "-t", "pkgkmod", CHECKOUT)
    image = buildah("from", "pkgkmod")
    assert buildah("run", image, "--", "id", "-un") == "packager"
    work = tmp_path / "work"
    subprocess.run(["git", "clone", "-q", CHECKOUT, work], check=True)
    subprocess.run(["chown", "-R", "1000:1000", work], check=True)
    folders = [Path("/usr/src"), Path("/lib/modules"), *Path("/usr/lib").glob("linux-kbuild-*")]
    mounts = [word for folder in folders for word in ("-v", f"{folder}:{folder}:ro")]
    # /w: the image's own folder for work is another
    said = buildah(
        "run",
        "-v",
        f"{work}:/w",
        *mounts,
        image,
        "--",
        "/w/script/demo",
        "--offline-example",
        "--no-sandbox",
        check=False,
    )
    assert "Everything lies in" in said, said
    made = {path.suffix for path in (work / "demo/hello/results").rglob("*") if path.suffix in (".rpm", ".deb", ".iso")}
    assert made == {".rpm", ".deb", ".iso"}
