"""Which firmware is packaged, and how a spec names it; the latter with real rpmbuild."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from pkgkmod.errors import ConfigError
from pkgkmod.model.packaging import Devel, Firmware
from pkgkmod.packages.firmware import find_firmware, rpm_files_entries, rpm_files_entry, write_firmware
from pkgkmod.packages.headers import find_headers, header_list
from tests.fixtures.machine import need

# Quotes, backslashes and control characters are refused before this.
HOSTILE = (
    "plain.bin", "with space.bin", "a  b", " lead", "trail ", " ", "a*b", "a?b", "axb", "a[b", "a]b", "a[bc]d", "abd",
    "a{b", "a}b", "a{b,c}d", "acd", "p%q", "p%%q", "%{nil}x", "%(touch pwned)y", "%attr(0600,root,root) x", "%dir",
    "%doc z", "%if 1", "'single'", "$HOME", "`id`", "$(touch pwned)", "#hash", "(paren)", "~tilde", "a,b", "ü☃驱",
    "a;b", "a=b", "!x", "-dash", "a|b", "<a>", "a&b", "a^b", "@x", "a+b:c",
)  # fmt: skip


def lay(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / "firmware" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "firmware" / name).write_text(name)
    return folder


def paths(folder: Path, **settings: object) -> list[str]:
    return [file.path for file in find_firmware(folder, Firmware.model_validate(settings))]


def test_no_folder_is_no_firmware(tmp_path: Path) -> None:
    assert paths(tmp_path) == []
    (tmp_path / "firmware").mkdir()
    assert paths(tmp_path) == []


def test_files_are_found_with_size_and_digest(tmp_path: Path) -> None:
    lay(tmp_path, "b.bin", "intel/a b.bin", "intel/deep/c", ".git/config", "intel/.swp")
    found = find_firmware(tmp_path, Firmware())
    assert [file.path for file in found] == ["b.bin", "intel/a b.bin", "intel/deep/c"]
    assert [(file.size, file.sha256) for file in found[:1]] == [(5, hashlib.sha256(b"b.bin").hexdigest())]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"include": ["intel"]}, ["intel/a.bin", "intel/b.txt"]),
        ({"include": ["intel/"]}, ["intel/a.bin", "intel/b.txt"]),
        ({"include": ["*.bin"]}, ["intel/a.bin", "z.bin"]),
        ({"include": ["z.bin", "intel/[ab].txt"]}, ["intel/b.txt", "z.bin"]),
        ({"exclude": ["*.txt", "none at all"]}, ["intel/a.bin", "z.bin"]),
        ({"include": ["intel"], "exclude": ["intel"]}, []),
        ({"directory": "firmware/intel"}, ["a.bin", "b.txt"]),
    ],
)
def test_patterns(settings: dict[str, object], expected: list[str], tmp_path: Path) -> None:
    lay(tmp_path, "z.bin", "intel/a.bin", "intel/b.txt")
    assert paths(tmp_path, **settings) == expected


def test_a_pattern_that_matches_nothing_is_a_mistake(tmp_path: Path) -> None:
    lay(tmp_path, "z.bin")
    with pytest.raises(ConfigError) as caught:
        paths(tmp_path, include=["*.fw"])
    assert "'*.fw'" in caught.value.brief
    assert "z.bin" in caught.value.details


def test_a_link_inside_is_the_file_it_leads_to(tmp_path: Path) -> None:
    lay(tmp_path, "new.bin")
    (tmp_path / "firmware/old.bin").symlink_to("new.bin")
    files = find_firmware(tmp_path, Firmware())
    write_firmware(files, tmp_path / "out")
    assert (tmp_path / "out/old.bin").read_text() == "new.bin"
    assert not (tmp_path / "out/old.bin").is_symlink()


def fifo(folder: Path) -> None:
    os.mkfifo(folder / "x")


REFUSED = {
    "a link that leads out": (lambda f: (f / "x").symlink_to("/etc/passwd"), "leads out"),
    "a link that leads upwards": (lambda f: (f / "x").symlink_to("../pkgkmod.toml"), "leads out"),
    "a link to a folder": (lambda f: (f / "x").symlink_to("."), "no regular file"),
    "a dangling link": (lambda f: (f / "x").symlink_to("y"), "cannot be read"),
    "a link to itself": (lambda f: (f / "x").symlink_to("x"), "cannot be read"),
    "a pipe": (fifo, "no regular file"),
    "a newline": (lambda f: (f / "a\nb").touch(), r"'a\\nb'"),
    "an escape": (lambda f: (f / "a\x1b[31mb").touch(), r"a\\x1b\[31mb"),
    "a quote": (lambda f: (f / 'a"b').touch(), "cannot be packaged"),
    "a backslash": (lambda f: (f / "a\\b").touch(), "cannot be packaged"),
    "not UTF-8": (lambda f: Path(os.fsdecode(os.fsencode(f) + b"/\xff")).touch(), "cannot be packaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shipped_is_refused(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    (tmp_path / "firmware").mkdir()
    (tmp_path / "pkgkmod.toml").touch()
    make(tmp_path / "firmware")
    with pytest.raises(ConfigError, match=message) as caught:
        paths(tmp_path)
    assert caught.value.brief.isprintable()


def test_what_is_left_out_is_not_looked_at(tmp_path: Path) -> None:
    lay(tmp_path, "a.bin")
    (tmp_path / "firmware/x").symlink_to("/etc/passwd")
    assert paths(tmp_path, exclude=["x"]) == ["a.bin"]


def test_a_file_that_changes_while_it_is_packed_is_noticed(tmp_path: Path) -> None:
    lay(tmp_path, "a.bin")
    files = find_firmware(tmp_path, Firmware())
    (tmp_path / "firmware/a.bin").write_text("other")
    with pytest.raises(ConfigError, match="changed"):
        write_firmware(files, tmp_path / "out")


# --- rpm --------------------------------------------------------------------------------------------


def packaged(folder: Path, names: tuple[str, ...], lines: list[str]) -> tuple[list[str], str]:
    """Return the files of an RPM of files `names` below /f, made with these lines of %files; and what rpmbuild said."""
    need("rpmbuild", "rpm")
    (folder / "tmp").mkdir(parents=True)
    for name in names:
        (folder / "f").mkdir(exist_ok=True)
        (folder / "f" / name).write_text(name)
    (folder / "x.spec").write_text(
        "Name: x\nVersion: 1\nRelease: 1\nSummary: s\nLicense: l\nBuildArch: noarch\n%description\nd\n"
        f"%install\nmkdir -p %{{buildroot}}\ncp -R {folder}/f %{{buildroot}}/f\n%files\n"
        + "".join(f"{line}\n" for line in lines)
    )
    defines = {"_topdir": folder, "_dbpath": folder / "db", "_tmppath": folder / "tmp", "__os_install_post": "%{nil}"}
    options = [word for name, value in defines.items() for word in ("--define", f"{name} {value}")]
    done = subprocess.run(["rpmbuild", "-bb", *options, "x.spec"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (package,) = folder.glob("RPMS/noarch/*.rpm")
    argv = ["rpm", "--dbpath", folder / "db", "-qp", "--qf", "[%{FILENAMES}\n]", package]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return sorted(line.removeprefix("/f/") for line in listed.splitlines()), done.stderr


def test_rpm_takes_all_names_together(tmp_path: Path) -> None:
    lines = rpm_files_entries(f"/f/{name}" for name in HOSTILE)
    listed, said = packaged(tmp_path, HOSTILE, lines)
    assert listed == sorted(HOSTILE)
    assert not list(tmp_path.rglob("pwned"))
    assert "listed twice" not in said


@pytest.mark.parametrize("name", ["with space.bin", "a*b", "a[bc]d", "a{b,c}d", "%(touch pwned)y", "%{nil}x", " lead"])
def test_rpm_takes_a_name_alone(name: str, tmp_path: Path) -> None:
    assert packaged(tmp_path, (name,), [rpm_files_entry(f"/f/{name}")])[0] == [name]
    assert not list(tmp_path.rglob("pwned"))


def test_a_plain_name_stays_as_it_is() -> None:
    assert rpm_files_entry("/lib/firmware/intel/ice-1.3_a+b.pkg") == "/lib/firmware/intel/ice-1.3_a+b.pkg"
    assert rpm_files_entries(["/f/axb", "/f/a*b", "/f/c"]) == ["/f/a?b", "/f/c"]


# --- headers ----------------------------------------------------------------------------------------


def headers(
    folder: Path, *names: str, directories: tuple[str, ...] = ("drivers/a",), **settings: object
) -> dict[str, str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return find_headers(folder, directories, Devel.model_validate({"enabled": True, **settings}))


def test_headers_in_include_folders_come_first(tmp_path: Path) -> None:
    names = (
        "drivers/a/a.h",
        "drivers/a/a.c",
        "include/linux/a.h",
        "drivers/a/include/uapi/b.h",
        "drivers/myinclude/c.h",
    )
    assert headers(tmp_path, *names) == {
        "drivers/a/include/uapi/b.h": "uapi/b.h",
        "include/linux/a.h": "linux/a.h",
    }


def test_without_include_folders_those_beside_the_modules(tmp_path: Path) -> None:
    names = ("drivers/a/a.h", "drivers/a/sub/b.h", "drivers/b/c.h", "drivers/a/a.c")
    found = headers(tmp_path, *names)
    assert found == {"drivers/a/a.h": "drivers/a/a.h", "drivers/a/sub/b.h": "drivers/a/sub/b.h"}
    assert header_list(found).splitlines()[0] == "drivers/a/a.h\tdrivers/a/a.h"


def test_headers_by_pattern(tmp_path: Path) -> None:
    names = ("drivers/a/a.h", "drivers/b/c.h", "include/x.h")
    assert list(headers(tmp_path, *names, headers=["drivers/b", "*/a.h"])) == ["drivers/a/a.h", "drivers/b/c.h"]
    with pytest.raises(ConfigError, match="nothing"):
        headers(tmp_path, headers=["nothing"])


def test_no_headers_unless_asked_for(tmp_path: Path) -> None:
    assert headers(tmp_path, "include/a.h", enabled=False) == {}
