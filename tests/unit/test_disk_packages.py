"""For a driver disk: finding packages, remembering what they said, and for which release each one is."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pkgkmod.cachefolder import cache_folder
from pkgkmod.data.distros import distros_of_kernel
from pkgkmod.errors import InputError, UsageError
from pkgkmod.media import factscache
from pkgkmod.media.packages import find_packages, read_packages
from pkgkmod.media.releases import by_release, release_of
from pkgkmod.model.disk import DiskPackage, ModuleFacts, PackageFacts, Provide
from pkgkmod.progress import Progress

DIGEST = "a" * 64


def facts(name: str = "kmod-hello", *kernels: str, provides: str = "", **more: Any) -> PackageFacts:
    """Return facts about a package with a module for each kernel."""
    known: dict[str, Any] = {
        "format": "rpm",
        "kind": "binary",
        "name": name,
        "version": "1.0-1",
        "arch": "x86_64",
        "machine": "x86_64",
        "size": 1,
        "build_time": 1,
        "modules": tuple(
            ModuleFacts(path=f"/lib/modules/{kernel}/extra/{name}.ko", name=name, uname_r=kernel) for kernel in kernels
        ),
        "provides": (Provide(name="kernel-modules", relation="=", version=provides),) if provides else (),
    }
    return PackageFacts.model_validate({**known, **more})


def package(name: str = "kmod-hello", *kernels: str, **more: Any) -> DiskPackage:
    return DiskPackage(Path(f"{name}.{more.get('format', 'rpm')}"), facts(name, *kernels, **more))


def deb(name: str, *kernels: str, **more: Any) -> DiskPackage:
    return package(name, *kernels, **{"format": "deb", "arch": "amd64", "version": "1.0-1", **more})


def no_program(command: object) -> Any:
    raise AssertionError(f"{command} was started")


# Finding


def test_files_come_in_their_order_and_those_of_a_folder_by_name(tmp_path: Path) -> None:
    names = ("b/2.rpm", "b/deep/1.deb", "b/1.ddeb", "b/notes.txt", "b/x.changes", "a.rpm")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "folder.rpm").mkdir()
    found = find_packages([tmp_path / "b", tmp_path / "a.rpm", tmp_path / "b" / "2.rpm"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["b/1.ddeb", "b/2.rpm", "b/deep/1.deb", "a.rpm"]


@pytest.mark.parametrize("name", ["missing.rpm", "notes.txt", "empty", "pipe.rpm"])
def test_what_is_no_package_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.rpm")
    with pytest.raises(InputError) as raised:
        find_packages([tmp_path / name])
    assert name in raised.value.brief
    assert raised.value.hint


def test_no_package_at_all_is_an_error_and_reading_none_is_not() -> None:
    with pytest.raises(InputError):
        find_packages([])
    assert read_packages([], no_program, Progress()) == ()


# Remembering


def test_what_was_read_is_remembered_by_its_digest() -> None:
    known = facts("kmod-hello", "5.14.0-427.el9.x86_64", provides="5.14.0-427.el9.x86_64")
    assert factscache.recall(DIGEST) is None
    factscache.remember(DIGEST, known)
    assert factscache.recall(DIGEST) == known
    assert factscache.recall("b" * 64) is None


def entry() -> Path:
    return cache_folder() / "packages" / f"{DIGEST}.json"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: "\udcff",
        lambda text: text.replace(DIGEST, "b" * 64),
        lambda text: json.dumps({**json.loads(text), "reader": factscache.READER + 1}),
        lambda text: json.dumps({**json.loads(text), "facts": {"name": "other"}}),
        lambda text: json.dumps({**json.loads(text), "facts": None}),
        lambda text: text + " " * (1 << 20),
    ],
)
def test_a_damaged_or_foreign_entry_counts_as_none(damage: Any) -> None:
    factscache.remember(DIGEST, facts())
    entry().write_bytes(damage(entry().read_text()).encode("utf-8", "surrogateescape"))
    assert factscache.recall(DIGEST) is None
    factscache.remember(DIGEST, facts("again"))
    assert factscache.recall(DIGEST) == facts("again")


def test_a_cache_that_cannot_be_written_does_not_matter() -> None:
    cache_folder().parent.mkdir(parents=True, exist_ok=True)
    cache_folder().write_text("a file where the folder should be")
    factscache.remember(DIGEST, facts())
    assert factscache.recall(DIGEST) is None


def test_facts_beyond_measure_are_not_kept() -> None:
    factscache.remember(DIGEST, facts("x" * (1 << 20)))
    assert not entry().exists()


def test_entries_that_nobody_uses_go_away_once_a_day() -> None:
    factscache.remember(DIGEST, facts())
    folder, old = entry().parent, time.time() - 91 * 24 * 60 * 60
    for name in ("old.json", ".new-leftover", "recent.json"):
        (folder / name).touch()
        if name != "recent.json":
            os.utime(folder / name, (old, old))
    factscache.remember("b" * 64, facts())
    assert (folder / "old.json").exists(), "it was looked for today"
    os.utime(folder / ".swept", (old, old))
    factscache.remember("c" * 64, facts())
    assert {path.name for path in folder.iterdir()} == {
        ".swept", "recent.json", f"{DIGEST}.json", f"{'b' * 64}.json", f"{'c' * 64}.json",
    }  # fmt: skip


def test_there_are_only_so_many_entries_those_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factscache, "_MOST", 2)
    for age, digest in enumerate("123"):
        factscache.remember(digest * 64, facts())
        when = time.time() - (3 - age) * 48 * 60 * 60
        os.utime(entry().with_name(f"{digest * 64}.json"), (when, when))
    assert factscache.recall("1" * 64), "used again"
    (entry().parent / ".swept").unlink()
    factscache.remember("4" * 64, facts())
    assert [digest for digest in "1234" if factscache.recall(digest * 64)] == ["1", "3", "4"]


# Releases


@pytest.mark.parametrize(
    ("kernel", "distros"),
    [
        ("5.14.0-427.13.1.el9_4.x86_64", ["el9"]),
        ("4.18.0-553.el8_10.aarch64", ["el8"]),
        ("6.12.0-55.9.1.el10_0.x86_64+rt", ["el10"]),
        ("5.14.0-427.el99.x86_64", []),
        ("6.19.3-200.fc45.x86_64", ["fedora"]),
        ("6.4.0-150600.23.47-default", ["sle15sp6"]),
        ("6.4.0-150700.53.3-azure", ["sle15sp7"]),
        ("6.12.0-160000.5-default", ["sles16", "leap"]),
        ("6.17.1-1-default", ["tumbleweed"]),
        ("6.17.1-2.gabc1234-default", ["tumbleweed"]),
        ("6.1.0-56-amd64", []),
        ("7.0.3-custom", []),
    ],
)
def test_kernels_of_rpm_distributions_are_known_by_their_release(kernel: str, distros: list[str]) -> None:
    assert list(distros_of_kernel(kernel, "rpm")) == distros


@pytest.mark.parametrize(
    ("kernel", "distros"),
    [
        ("6.1.0-56-amd64", ["debian12"]),
        ("6.1.0-56-cloud-arm64", ["debian12"]),
        ("6.12.117+deb12-rt-amd64", ["debian12"]),
        ("6.12.57+deb13-amd64", ["debian13"]),
        ("6.1.0-1036-oem", []),
        ("5.15.0-130-generic", ["ubuntu2204"]),
        ("6.8.0-45-lowlatency", ["ubuntu2404", "ubuntu2204"]),
        ("7.0.0-12-generic", ["ubuntu2604"]),
        ("5.14.0-427.13.1.el9_4.x86_64", []),
    ],
)
def test_kernels_of_deb_distributions_are_known_by_their_release(kernel: str, distros: list[str]) -> None:
    assert list(distros_of_kernel(kernel, "deb")) == distros


def test_a_version_counts_more_than_kernels_and_what_is_provided_more_than_modules() -> None:
    assert release_of(package("a", "5.14.0-427.el9.x86_64", version="1.0-1.el8")) == "el8"
    assert release_of(package("a", "5.14.0-427.el9.x86_64", version="1:1.0-1.el9_4")) == "el9"
    assert release_of(package("a", "6.1.0-56-amd64", provides="5.14.0-427.el9.x86_64")) == "el9"
    assert release_of(package("a", "6.4.0-150600.23.47-default", version="1.0_k6.4.0_150600.23.47-1")) == "sle15sp6"
    assert release_of(deb("a", "6.1.0-56-amd64", version="1.0-1~deb13")) == "debian13"
    assert release_of(deb("a", "6.1.0-56-amd64")) == "debian12"


def test_a_package_that_does_not_say_it_clearly_says_nothing() -> None:
    assert release_of(package("a")) is None
    assert release_of(package("a", "6.4.0-150600.23.47-default", "6.4.0-150700.53.3-default")) is None
    assert release_of(package("a", "6.4.0-150600.23.47-default", "7.0.0-mine")) is None
    assert release_of(deb("a", version="1.0-1.el9")) is None


def shape(packages: list[DiskPackage], distro: str | None = None) -> dict[str, list[str]]:
    return {release.distro.id: [one.facts.name for one in release.packages] for release in by_release(packages, distro)}


def test_packages_are_sorted_by_release_in_their_order() -> None:
    packages = [
        package("b", version="1-1.el9"),
        package("a", version="1-1.el8"),
        deb("c", "6.1.0-56-amd64"),
        package("d", version="2-1.el9"),
    ]
    assert shape(packages) == {"el9": ["b", "d"], "el8": ["a"], "debian12": ["c"]}


def test_the_named_release_is_for_packages_that_do_not_say_it() -> None:
    packages = [package("says", version="1-1.el8"), package("silent"), deb("other", "6.1.0-56-amd64")]
    assert shape(packages, "el9") == {"el8": ["says"], "el9": ["silent"], "debian12": ["other"]}


def test_of_the_releases_that_have_a_kernel_the_named_one_is_taken() -> None:
    packages = [package("a", "6.12.0-160000.5-default"), deb("b", "6.8.0-45-generic")]
    assert shape(packages) == {"sles16": ["a"], "ubuntu2404": ["b"]}
    assert shape(packages, "leap") == {"leap": ["a"], "ubuntu2404": ["b"]}
    assert shape(packages, "ubuntu2204") == {"sles16": ["a"], "ubuntu2204": ["b"]}


def test_what_is_for_all_machines_goes_with_the_others_if_these_are_of_one_release() -> None:
    firmware = package("firmware", arch="noarch", machine="")
    nine, eight = package("a", version="1-1.el9"), package("b", version="1-1.el8")
    assert shape([firmware, nine, deb("c", "6.1.0-56-amd64")]) == {"el9": ["firmware", "a"], "debian12": ["c"]}
    for others in ([], [nine, eight], [deb("c", "6.1.0-56-amd64")]):
        with pytest.raises(UsageError, match=r"firmware\.rpm"):
            by_release([firmware, *others])
    assert shape([firmware, nine, eight], "el8") == {"el8": ["firmware", "b"], "el9": ["a"]}


def test_sources_and_debug_information_are_nobodys_trouble() -> None:
    packages = [
        package("a", version="1-1.el9"),
        package("b", version="1-1.el8"),
        package("s", kind="source"),
        package("d", kind="debuginfo"),
    ]
    assert shape(packages) == {"el9": ["a"], "el8": ["b", "s", "d"]}


def test_all_packages_that_do_not_say_it_are_named_at_once() -> None:
    packages = [package(f"kmod-{number}") for number in range(12)]
    with pytest.raises(UsageError) as raised:
        by_release([*packages, package("fine", version="1-1.el9")])
    lines = raised.value.details.splitlines()
    assert "12 of the packages" in raised.value.brief
    assert [line.split(":")[0] for line in lines[:10]] == [f"kmod-{number}.rpm" for number in range(10)]
    assert lines[10:] == ["and 2 more"]
    assert "--distro NAME" in raised.value.hint
    with pytest.raises(UsageError, match=r"for which distribution is kmod-0\.rpm\?"):
        by_release(packages[:1])


def test_a_release_that_is_not_known_or_of_the_other_format_is_an_error() -> None:
    with pytest.raises(UsageError) as raised:
        by_release([package("a")], "el-9")
    assert raised.value.hint == "did you mean 'el9'?"
    with pytest.raises(UsageError, match="debian12 takes DEB packages"):
        by_release([package("a", version="1-1.el9")], "debian12")
    with pytest.raises(UsageError, match=r"a\.rpm"):
        by_release([package("a"), deb("b", "6.1.0-56-amd64")], "debian12")
