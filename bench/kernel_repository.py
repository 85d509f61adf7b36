"""A kernel-size git repository, made once from the distribution's linux-source package and kept in a cache
folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import IO

TARBALL = Path("/usr/src/linux-source-6.1.tar.xz")
DRIVER = "drivers/net/ethernet/intel/e1000e"
_IDENTITY = b"Kernel Importer <importer@example.org> 1700000000 +0000"


class MissingTarball(Exception):
    """The package with the kernel's sources is not installed."""


def cache_folder() -> Path:
    """Return the folder that keeps what is costly to make for tests and benchmarks."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pkgkmod-tests"


def kernel_repository(tarball: Path = TARBALL, *, cache: Path | None = None) -> Path:
    """Return a bare repository of all files of `tarball`: branch `main`, two commits, the first tagged
    `v6.1`.

    Making it takes some minutes and 300 MB; later calls return at once. Raise MissingTarball if there is no
    tarball.
    """
    folder = cache or cache_folder()
    repository = folder / f"{tarball.name.removesuffix('.tar.xz')}.git"
    if repository.is_dir():
        return repository
    if not tarball.is_file():
        raise MissingTarball(f"{tarball} is missing; install it with: apt install linux-source-6.1")
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"{repository.name}.{os.getpid()}"
    try:
        _make(tarball, aside)
        aside.rename(repository)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return repository


def _make(tarball: Path, repository: Path) -> None:
    git = ["git", "-c", "init.defaultBranch=main", "-c", "core.compression=1"]
    subprocess.run([*git, "init", "--quiet", "--bare", str(repository)], check=True)
    # Past this size git stores blobs without looking for deltas: first imports have nothing to delta with
    # anyway.
    importer = subprocess.Popen(
        [*git, f"--git-dir={repository}", "fast-import", "--quiet", "--depth=0"], stdin=subprocess.PIPE
    )
    assert importer.stdin
    with importer.stdin as sink, tarfile.open(tarball, "r|xz") as archive:
        sink.write(b"commit refs/heads/main\nmark :1\ncommitter %s\n" % _IDENTITY)
        _write_data(sink, b"Import the kernel's sources\n")
        for member in archive:
            _write_member(sink, archive, member)
        sink.write(b"\ntag v6.1\nfrom :1\ntagger %s\n" % _IDENTITY)
        _write_data(sink, b"Linux 6.1\n")
        sink.write(b"commit refs/heads/main\ncommitter %s\n" % _IDENTITY)
        _write_data(sink, b"Note where this is from\n")
        sink.write(b"from :1\nM 100644 inline README.import\n")
        _write_data(sink, tarball.name.encode() + b"\n")
    if importer.wait():
        raise SystemExit("git fast-import failed")


def _write_member(sink: IO[bytes], archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    path = member.name.partition("/")[2]
    quoted = b'"' + path.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    if member.issym():
        sink.write(b"M 120000 inline %s\n" % quoted)
        _write_data(sink, member.linkname.encode())
    elif member.isreg():
        content = archive.extractfile(member)
        assert content
        sink.write(b"M %s inline %s\n" % (b"100755" if member.mode & 0o100 else b"100644", quoted))
        _write_data(sink, content.read())


def _write_data(sink: IO[bytes], content: bytes) -> None:
    sink.write(b"data %d\n%s\n" % (len(content), content))


if __name__ == "__main__":
    try:
        print(kernel_repository())
    except MissingTarball as missing:
        sys.exit(str(missing))
