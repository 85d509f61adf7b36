"""Source archives: what is in them, and that they are always the same."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from pkgkmod.model.fields import ArchiveContent
from pkgkmod.sources.archive import write_archive

FILES = {
    "Makefile": "all:\n",
    ".options": "kept: it is at the top\n",
    "provenance.json": "{}\n",
    "drivers/d/main.c": "int d;\n",
    "drivers/d/main.h": "",
    "drivers/d/Kbuild": "",
    "drivers/d/Kconfig": "",
    "drivers/d/Makefile": "",
    "drivers/d/entry.S": "",
    "drivers/d/README": "",
    "drivers/d/.gitignore": "",
    "drivers/.hidden/x.c": "",
    "drivers/d/" + "very-long-name-" * 10 + ".c": "",
    "drivers/d/ü b.c": "",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return lay(tmp_path / "source", list(FILES))


def lay(folder: Path, order: list[str]) -> Path:
    for name in order:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(FILES[name])
    (folder / "drivers/d/run.sh").write_text("#!/bin/sh\n")
    (folder / "drivers/d/run.sh").chmod(0o755)
    (folder / "drivers/d/link.c").symlink_to("main.c")
    return folder


def pack(folder: Path, destination: Path, content: ArchiveContent = "all") -> bytes:
    write_archive(folder, destination, prefix="d-1.0", epoch=1700000000, content=content)
    return destination.read_bytes()


def files_in(archive: Path) -> set[str]:
    with tarfile.open(archive) as opened:
        return {member.name.removeprefix("d-1.0/") for member in opened if not member.isdir()}


def test_the_same_bytes_whatever_the_order_modes_times_and_place(folder: Path, tmp_path: Path) -> None:
    first = pack(folder, tmp_path / "one.tar.xz")
    other = lay(tmp_path / "else/where", list(FILES)[::-1])
    for path in other.rglob("*"):
        if path.is_symlink():
            continue
        os.utime(path, (1, 1))
        path.chmod(0o700 if path.stat().st_mode & 0o100 else 0o600)
        if os.geteuid() == 0:
            os.chown(path, 4711, 4711)
    assert pack(other, tmp_path / "another-name.tar.xz") == first
    (other / "drivers/d/main.c").write_text("int e;\n")
    assert pack(other, tmp_path / "another-name.tar.xz") != first


def test_what_every_member_says(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "a.tar.xz")
    with tarfile.open(tmp_path / "a.tar.xz") as opened:
        members = opened.getmembers()
    assert [m.name for m in members] == ["d-1.0", *sorted(m.name for m in members[1:])]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "root", "root", 1700000000)}
    modes = {m.name.removeprefix("d-1.0/drivers/d/"): m.mode for m in members}
    assert (modes["run.sh"], modes["main.c"], modes["d-1.0/drivers"]) == (0o755, 0o644, 0o755)


def test_the_real_tar_unpacks_it(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "a.tar.xz")
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "a.tar.xz", "-C", tmp_path / "unpacked"], check=True)
    done = subprocess.run(
        ["diff", "-r", folder, tmp_path / "unpacked/d-1.0"], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    assert (tmp_path / "unpacked/d-1.0/drivers/d/link.c").readlink() == Path("main.c")


def test_content(folder: Path, tmp_path: Path) -> None:
    kinds: tuple[ArchiveContent, ...] = ("all", "default", "kbuild")
    for content in kinds:
        pack(folder, tmp_path / f"{content}.tar.xz", content)
    everything = {*FILES, "drivers/d/run.sh", "drivers/d/link.c"}
    dots = {"drivers/d/.gitignore", "drivers/.hidden/x.c"}
    assert files_in(tmp_path / "all.tar.xz") == everything
    assert files_in(tmp_path / "default.tar.xz") == everything - dots
    others = {"drivers/d/README", "drivers/d/entry.S", "drivers/d/run.sh", "drivers/d/.gitignore"}
    assert files_in(tmp_path / "kbuild.tar.xz") == everything - others


def test_nothing_is_left_of_an_archive_that_failed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "made"
    place.mkdir()
    (place / "a.tar.xz").write_text("the one before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(OSError, match="No space"):
        pack(folder, place / "a.tar.xz")
    assert [path.name for path in place.iterdir()] == ["a.tar.xz"]
    assert (place / "a.tar.xz").read_text() == "the one before"
