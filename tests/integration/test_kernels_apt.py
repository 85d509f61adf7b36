"""The kernel source `apt`: archives of real header packages, and what is kept of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from pkgkmod.errors import KernelError, PkgkmodError, PluginError
from pkgkmod.kernels.apt import AptKernels
from pkgkmod.kernels.download import fetch_package
from pkgkmod.model.kernel import KernelOffer
from pkgkmod.progress import Progress
from tests.fixtures.aptrepo import (
    SUITE,
    Archive,
    Headers,
    key,
    offers,
    refused,
    serve,
    signed_by,
    small,
)
from tests.fixtures.gitrepos import Listener
from tests.fixtures.machine import lacking

PLUGIN = AptKernels()


# What is offered ------------------------------------------------------------------------------------------------------


def check_offer(offer: KernelOffer, debs: Headers, archive: Archive, *, cloud: bool = False) -> None:
    release = debs.cloud if cloud else debs.release
    assert (offer.uname_r, offer.arch, offer.source) == (release, "x86_64", "apt")
    names = (f"linux-headers-{release}", *debs.names[1:])
    assert tuple(package.name for package in offer.packages) == names
    for package in offer.packages:
        deb = debs.file(package.name)
        assert package.url == f"file://{archive.pool / deb.name}"
        assert package.sha256 == hashlib.sha256(deb.read_bytes()).hexdigest()
        assert package.size == deb.stat().st_size
        assert package.version == deb.name.split("_")[1]


@pytest.mark.parametrize("kind", ["suite", "by-hash", "flat", "detached"])
def test_the_kernels_of_an_archive(kind: str, debs: Headers, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "debs", flat=kind == "flat", by_hash=kind == "by-hash")
    archive.add(*debs.files)
    archive.publish()
    if kind == "by-hash":
        for name in ("Packages", "Packages.xz", "Packages.gz"):
            (archive.packages.parent / name).unlink()
    if kind == "detached":
        archive.release()
        archive.sign(key(), detached=True)
    found = offers(archive.entry(signed_by()))
    assert set(found) == {debs.release, debs.cloud}  # the metapackage linux-headers-amd64 is none
    check_offer(found[debs.release], debs, archive)
    check_offer(found[debs.cloud], debs, archive, cloud=True)
    assert found[debs.release].archive == (
        f"deb [arch=amd64 {signed_by()}] {archive.uri} {'./' if archive.flat else SUITE + ' main'}"
    )
    # The line of the offer finds the same again.
    assert offers(found[debs.release].archive) == found


@pytest.mark.parametrize("ending", ["", ".xz", ".gz"])
def test_any_form_of_the_index_will_do(ending: str, debs: Headers, archive: Archive) -> None:
    for other in {"", ".xz", ".gz"} - {ending}:
        Path(f"{archive.packages}{other}").unlink()
    archive.release()
    archive.sign(key())
    assert set(offers(archive.entry(signed_by()))) == {debs.release, debs.cloud}


def test_an_archive_whose_names_of_digests_are_missing(debs: Headers, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "debs", by_hash=True)
    archive.add(*debs.files)
    archive.publish()
    shutil.rmtree(archive.packages.parent / "by-hash")
    assert set(offers(archive.entry(signed_by()))) == {debs.release, debs.cloud}
    for name in ("Packages", "Packages.xz", "Packages.gz"):
        (archive.packages.parent / name).unlink()
    with pytest.raises(KernelError, match="has no main/binary-amd64/Packages, although its Release file names it"):
        offers(archive.entry("trusted=yes"))


def publish(folder: Path, *debs: Path, **fields: str) -> Archive:
    archive = Archive(folder, fields=fields)
    archive.add(*debs)
    archive.publish()
    return archive


def test_the_newest_version_of_which_everything_is_there(tmp_path: Path) -> None:
    """Small packages that say what they depend on stand in for real ones."""
    name = "linux-headers-6.1.0-1-amd64"
    needs = "linux-headers-6.1.0-1-common (= {0}), linux-kbuild-6.1 (>= {0}), linux-compiler-gcc-12-x86, gcc"
    versions = ("6.1.4-1", "6.1.10-1~rc1", "6.1.10-1")
    debs = [small(tmp_path, name, v, Depends=needs.format(v)) for v in (*versions, "6.1.11-1")]
    debs += [small(tmp_path, "linux-headers-6.1.0-1-common", v, Architecture="all") for v in versions]
    debs += [small(tmp_path, "linux-kbuild-6.1", v) for v in ("6.1.4-1", "6.1.20-1", "6.1.9-1")]
    # Nobody serves what this one needs.
    debs += [small(tmp_path, "linux-headers-6.1.0-2-amd64", Depends="linux-kbuild-6.1 (>= 7)")]
    listener = Listener()
    found = offers(publish(tmp_path / "a", *debs).entry(signed_by()), progress=listener)
    assert [(p.name, p.version) for p in found["6.1.0-1-amd64"].packages] == [
        (name, "6.1.10-1"),
        ("linux-headers-6.1.0-1-common", "6.1.10-1"),
        ("linux-kbuild-6.1", "6.1.20-1"),
    ]
    assert set(found) == {"6.1.0-1-amd64"}
    (info,) = [text for text in listener.infos if "6.1.0-2-amd64" in text]
    assert "needs linux-kbuild-6.1 >= 7, which no archive has" in info


def test_ubuntu(tmp_path: Path) -> None:
    """Small packages that are named as Ubuntu's stand in for real ones."""
    debs = [
        small(tmp_path, "linux-headers-6.8.0-40", "6.8.0-40.40", Architecture="all"),
        small(
            tmp_path,
            "linux-headers-6.8.0-40-generic",
            "6.8.0-40.40",
            Depends="linux-headers-6.8.0-40, libc6 (>= 2.38)",
        ),
        small(tmp_path, "linux-headers-generic", "6.8.0-40.40", Depends="linux-headers-6.8.0-40-generic"),
        small(tmp_path, "linux-headers-6.8.0-40-azure", "1", Depends="linux-azure-headers-6.8.0-40"),
        small(tmp_path, "linux-azure-headers-6.8.0-40", "1", Architecture="all"),
        # A metapackage that is named after a version.
        small(tmp_path, "linux-headers-6.8", "6.8.0-40.40", Depends="linux-headers-6.8.0-40-generic"),
    ]
    found = offers(publish(tmp_path / "a", *debs).entry(signed_by()))
    assert {release: [p.name for p in offer.packages] for release, offer in found.items()} == {
        "6.8.0-40-generic": ["linux-headers-6.8.0-40-generic", "linux-headers-6.8.0-40"],
        "6.8.0-40-azure": ["linux-headers-6.8.0-40-azure", "linux-azure-headers-6.8.0-40"],
    }


def test_parts_in_two_archives_and_in_a_ring(tmp_path: Path) -> None:
    """Small packages that say what they depend on stand in for real ones."""
    needs = "linux-headers-6.1.0-1-common, linux-kbuild-9.9 | linux-kbuild-6.1"
    one = publish(tmp_path / "a", small(tmp_path, "linux-headers-6.1.0-1-amd64", Depends=needs))
    other = publish(
        tmp_path / "b",
        small(tmp_path, "linux-headers-6.1.0-1-common", Depends="linux-headers-6.1.0-1-amd64", Architecture="all"),
        small(tmp_path, "linux-kbuild-6.1"),
    )
    assert offers(one.entry(signed_by())) == {}
    found = offers(one.entry(signed_by()), other.entry(signed_by()))
    assert [p.name for p in found["6.1.0-1-amd64"].packages] == [
        *("linux-headers-6.1.0-1-amd64", "linux-headers-6.1.0-1-common", "linux-kbuild-6.1"),
    ]


def test_packages_for_all_in_an_index_of_their_own(tmp_path: Path) -> None:
    """Small packages that say what they depend on stand in for real ones."""
    archive = Archive(tmp_path / "a", fields={"Architectures": "all amd64"})
    archive.add(small(tmp_path, "linux-headers-6.1.0-1-common", Architecture="all"))
    archive.index()
    shutil.move(archive.packages.parent, archive.packages.parents[1] / "binary-all")
    shutil.move(archive.pool, tmp_path / "aside")
    archive.add(small(tmp_path, "linux-headers-6.1.0-1-amd64", Depends="linux-headers-6.1.0-1-common"))
    archive.index()
    archive.release()
    archive.sign(key())
    assert set(offers(archive.entry(signed_by()))) == {"6.1.0-1-amd64"}
    # Where the archive does not name `all`, its index of them is not read: Debian's security archive keeps a stale one.
    archive.fields = {"Architectures": "amd64"}
    archive.release()
    archive.sign(key())
    (archive.packages.parents[1] / "binary-all/Packages.xz").write_bytes(b"stale")
    assert offers(archive.entry(signed_by()), ask=True) == {}


def test_an_architecture_of_another_machine(tmp_path: Path) -> None:
    """A small package stands in for a real one."""
    archive = Archive(tmp_path / "a", flat=True)
    archive.add(small(tmp_path, "linux-headers-6.1.0-1-arm64", Architecture="arm64"))
    archive.publish()
    found = offers(archive.entry("arch=arm64,amd64", signed_by()))
    assert [(offer.uname_r, offer.arch) for offer in found.values()] == [("6.1.0-1-arm64", "aarch64")]


def test_an_archive_without_what_the_entry_names(archive: Archive) -> None:
    with pytest.raises(KernelError, match="has no contrib/binary-amd64/Packages") as caught:
        offers(archive.entry(signed_by()).replace(" main", " main contrib"))
    assert "components: main" in caught.value.details and caught.value.hint
    with pytest.raises(KernelError, match="has no Release file") as caught:
        offers(archive.entry(signed_by()).replace(SUITE, "nosuch"))
    assert caught.value.hint


# News, and what is kept -----------------------------------------------------------------------------------------------


def test_what_is_kept_is_used_without_asking(archive: Archive, debs: Headers) -> None:
    first = offers(archive.entry(signed_by()))
    shutil.rmtree(archive.folder)
    assert offers(archive.entry(signed_by())) == first
    error = refused(archive.entry(signed_by()), match="has no Release file", ask=True)
    assert error.hint


def test_news_are_read_when_somebody_asks(archive: Archive, debs: Headers) -> None:
    entry = archive.entry(signed_by())
    assert set(offers(entry)) == {debs.release, debs.cloud}
    (archive.pool / debs.file(f"linux-headers-{debs.cloud}").name).unlink()
    archive.publish()
    assert set(offers(entry)) == {debs.release, debs.cloud}
    assert set(offers(entry, ask=True)) == {debs.release}
    assert set(offers(entry)) == {debs.release}


def test_over_http_what_did_not_change_is_not_sent_again(archive: Archive, debs: Headers, tmp_path: Path) -> None:
    with serve(archive.folder) as server:
        entry = archive.entry(signed_by(), uri=server.url)
        first = offers(entry, ask=True)
        assert set(first) == {debs.release, debs.cloud}
        assert server.answers == [
            (f"/dists/{SUITE}/InRelease", 200),
            (f"/dists/{SUITE}/main/binary-amd64/Packages.xz", 200),
        ]
        server.answers.clear()
        assert offers(entry) == first and server.answers == []
        assert offers(entry, ask=True) == first
        assert server.answers == [(f"/dists/{SUITE}/InRelease", 304)]
        for package in first[debs.release].packages:
            fetch_package(package, tmp_path / package.name, Progress())
            assert (tmp_path / package.name).stat().st_size == package.size
    error = refused(entry, match="cannot be had", ask=True)
    assert "network" in error.hint
    assert offers(entry) == first


def test_a_server_that_does_not_say_when_a_file_changed(archive: Archive, debs: Headers) -> None:
    with serve(archive.folder, without=("Last-Modified",)) as server:
        entry = archive.entry(signed_by(), uri=server.url)
        offers(entry, ask=True)
        # Changed before it was fetched, by the server's clock: as seen through a mirror that lags behind.
        (archive.pool / debs.file(f"linux-headers-{debs.cloud}").name).unlink()
        archive.publish()
        for file in (archive.release_folder / "InRelease", *archive.packages.parent.iterdir()):
            os.utime(file, (time.time() - 3600,) * 2)
        assert set(offers(entry, ask=True)) == {debs.release}
        assert server.asked("InRelease") == [200, 200]


def test_a_server_that_fails(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        url = server.url
        error = refused(f"deb {url} s main", match="has no Release file")
        assert "InRelease nor Release" in error.details
        assert [path for path, _ in server.answers] == ["/dists/s/InRelease", "/dists/s/Release"]
    assert "network" in refused(f"deb {url} s main", match="cannot be had").hint
    assert "network" in refused("deb http://nosuch.invalid/ s main", match="cannot be had").hint


def test_archives_of_the_machine_that_fail_are_left_out(
    archive: Archive, debs: Headers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etc = tmp_path / "etc"
    (etc / "sources.list.d").mkdir(parents=True)
    monkeypatch.setattr("pkgkmod.kernels.aptsources.ETC", etc)
    with serve(archive.folder) as server:
        good, bad = archive.entry(signed_by()), archive.entry(signed_by(), uri=server.url)
        (etc / "sources.list").write_text(f"{good}\n{bad.replace(SUITE, 'nosuch')}\n")
        listener = Listener()
        assert set(offers("machine", progress=listener)) == {debs.release, debs.cloud}
        (warning,) = listener.warnings
        assert "nosuch has no Release file; it is left out" in warning
        # It is not asked again unless somebody wants news.
        server.answers.clear()
        listener = Listener()
        assert set(offers("machine", progress=listener)) == {debs.release, debs.cloud}
        assert not server.answers and not listener.warnings and "it is left out" in listener.infos[0]
        # One that the project file names must be there.
        refused("machine", bad.replace(SUITE, "nosuch"), match="has no Release file", ask=True)
        # What one served before it failed still counts.
        (etc / "sources.list").write_text(f"{bad}\n")
        assert set(offers("machine")) == {debs.release, debs.cloud}
    listener = Listener()
    assert set(offers("machine", ask=True, progress=listener)) == {debs.release, debs.cloud}
    (warning,) = listener.warnings
    assert "cannot be had" in warning and "as it was seen last" in warning
    assert set(offers("machine")) == {debs.release, debs.cloud}
    # If nothing is left, that is an error.
    (etc / "sources.list").write_text(f"{bad.replace(SUITE, 'nosuch')}\n")
    refused("machine", match="cannot be had", ask=True)


def test_what_is_kept_and_damaged_is_read_anew(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    first = offers(archive.entry(signed_by()))
    kept = list(Path(os.environ["XDG_CACHE_HOME"]).glob("pkgkmod/apt/*/*.json"))
    assert kept
    for damage in ("", "{", "[]", "{}", '{"format": 1}', "null"):
        for file in kept:
            file.write_text(damage)
        assert offers(archive.entry(signed_by())) == first


def test_settings_that_are_refused() -> None:
    for settings in ({"archives": "machine"}, {"archive": []}, {"archives": ["nonsense"]}):
        with pytest.raises(PluginError):
            list(PLUGIN.offers(settings, Path("/"), ask=False, progress=Progress()))
    assert list(PLUGIN.offers({}, Path("/"), ask=True, progress=Progress())) == []


# The real ones --------------------------------------------------------------------------------------------------------


def test_the_archives_of_this_machine(debs: Headers) -> None:
    listener = Listener()
    try:
        first = offers("machine", ask=True, progress=listener)
    except PkgkmodError as error:
        lacking(f"this machine's archives cannot be had: {error}")
        raise
    assert first, listener.warnings
    for release, offer in first.items():
        assert offer.packages[0].name == f"linux-headers-{release}"
        assert all(len(package.sha256) == 64 and package.size for package in offer.packages)
    assert debs.release in first, listener.warnings
    # A run with nothing to do reads what was kept; it is a process of its own.
    started = time.perf_counter()
    assert offers("machine") == first
    assert time.perf_counter() - started < 0.2
    assert "apt_pkg" not in sys.modules
