"""The kernel source `apt`: archives of real header packages, their signatures, and what is kept of them."""

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
from pkgkmod.kernels.store import Store
from pkgkmod.model.kernel import KernelOffer
from pkgkmod.progress import Progress
from tests.fixtures.aptrepo import SUITE, Archive, Headers, Key, headers, key, make_deb, serve
from tests.fixtures.gitrepos import Listener
from tests.fixtures.machine import lacking

PLUGIN = AptKernels()


@pytest.fixture(scope="module")
def debs() -> Headers:
    return headers()


@pytest.fixture(scope="module")
def template(debs: Headers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = Archive(tmp_path_factory.mktemp("archive") / "debian")
    archive.add(*debs.files)
    archive.publish()
    return archive.folder


def _copy(source: str, destination: str) -> None:
    (os.link if source.endswith(".deb") else shutil.copy2)(source, destination)


@pytest.fixture
def archive(template: Path, tmp_path: Path) -> Archive:
    """A signed archive with dists/ and pool/."""
    shutil.copytree(template, tmp_path / "debian", copy_function=_copy)
    return Archive(tmp_path / "debian")


def signed_by(with_key: Key | None = None) -> str:
    return f"signed-by={(with_key or key()).public}"


def offers(
    *archives: str, ask: bool = False, base: Path = Path("/"), progress: Progress | None = None
) -> dict[str, KernelOffer]:
    found = PLUGIN.offers({"archives": list(archives)}, base, ask=ask, progress=progress or Progress())
    return {offer.uname_r: offer for offer in found}


def rewrite(file: Path, old: bytes, new: bytes) -> None:
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new, 1))


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


def small(folder: Path, name: str, version: str = "1-1", **fields: str) -> Path:
    return make_deb(folder, Package=name, Version=version, **fields)


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


# Whom to believe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "armored", "fingerprint", "machine", "relative"])
def test_keys_that_are_believed(
    kind: str, archive: Archive, debs: Headers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = key()
    monkeypatch.setattr("pkgkmod.kernels.aptrelease.ETC", tmp_path / "etc")
    (tmp_path / "etc/trusted.gpg.d").mkdir(parents=True)
    if kind in ("fingerprint", "machine"):
        shutil.copy(good.armored, tmp_path / "etc/trusted.gpg.d/good.asc")
    if kind == "relative":
        shutil.copy(good.public, tmp_path / "key.gpg")
    options = {
        "file": [signed_by()],
        "armored": [f"signed-by={good.armored}"],
        "fingerprint": [f"signed-by={good.fingerprint.lower()}"],
        "machine": [],
        "relative": ["signed-by=key.gpg"],
    }[kind]
    assert debs.release in offers(archive.entry(*options), base=tmp_path)


def refused(*archives: str, match: str, ask: bool = False) -> KernelError:
    with pytest.raises(KernelError, match=match) as caught:
        offers(*archives, ask=ask)
    return caught.value


NOT_BELIEVED = "signature of the archive .* is not one to believe"


def test_another_key_is_refused(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = key("other")
    error = refused(archive.entry(signed_by(other)), match=NOT_BELIEVED)
    assert "No public key" in error.details and str(other.public) in error.hint
    # The machine does not know it either, nor is one key of a keyring as good as the other.
    refused(archive.entry(), match=NOT_BELIEVED)
    monkeypatch.setattr("pkgkmod.kernels.aptrelease.ETC", tmp_path / "etc")
    (tmp_path / "etc/trusted.gpg.d").mkdir(parents=True)
    for one in (key(), other):
        shutil.copy(one.public, tmp_path / f"etc/trusted.gpg.d/{one.home.name}.gpg")
    refused(archive.entry(f"signed-by={other.fingerprint}"), match=NOT_BELIEVED)
    assert offers(archive.entry())


def test_a_keyring_that_is_missing_or_holds_no_key(archive: Archive, tmp_path: Path) -> None:
    refused(archive.entry("signed-by=/nonexistent.gpg"), match="keyring /nonexistent.gpg .* cannot be read")
    (tmp_path / "bad.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!\n")
    refused(archive.entry(f"signed-by={tmp_path}/bad.asc"), match="holds no key")
    (tmp_path / "bad.gpg").write_bytes(b"nonsense")
    refused(archive.entry(f"signed-by={tmp_path}/bad.gpg"), match=NOT_BELIEVED)


def test_a_release_that_was_tampered_with_is_refused(archive: Archive) -> None:
    file = archive.release_folder / "InRelease"
    genuine = file.read_bytes()
    rewrite(file, b"Suite: stable", b"Suite: stabel")
    assert "BAD signature" in refused(archive.entry(signed_by()), match=NOT_BELIEVED).details
    # It is asked for anew next time, although the time of change is older than what was refused.
    file.write_bytes(genuine)
    os.utime(file, (0, 0))
    assert offers(archive.entry(signed_by()))


def test_text_around_what_is_signed_is_refused(archive: Archive) -> None:
    file = archive.release_folder / "InRelease"
    genuine = file.read_bytes()
    for content in (b"Suite: evil\n" + genuine, genuine + b"Suite: evil\n", genuine + genuine):
        file.write_bytes(content)
        refused(archive.entry(signed_by()), match="more than one signed text")
    file.write_bytes(b"Suite: stable\n")
    refused(archive.entry(signed_by()), match="is not a signed text")


def test_no_signature_is_refused_unless_the_entry_says_so(archive: Archive, debs: Headers) -> None:
    archive.release()
    assert "trusted=yes" in refused(archive.entry(), match="is not signed").hint
    refused(archive.entry(signed_by()), match="is not signed")
    assert debs.release in offers(archive.entry("trusted=yes"))
    archive.sign(key("other"))
    assert debs.release in offers(archive.entry("trusted=yes"), ask=True)
    # What was believed without a signature does not count for the entry that wants one.
    refused(archive.entry(signed_by()), match=NOT_BELIEVED)


def test_a_signature_over_a_weak_digest_is_refused(archive: Archive) -> None:
    archive.release()
    archive.sign(key(), digest="SHA1")
    refused(archive.entry(signed_by()), match=NOT_BELIEVED)
    archive.release()
    archive.sign(key(), digest="SHA512")
    assert offers(archive.entry(signed_by()))


def test_one_of_several_keys_will_do(archive: Archive, tmp_path: Path) -> None:
    both = tmp_path / "both.gpg"
    both.write_bytes(key("other").public.read_bytes() + key().public.read_bytes())
    assert offers(archive.entry(f"signed-by={both}"))
    (tmp_path / "both.asc").write_text(key("other").armored.read_text() + key().armored.read_text())
    assert offers(archive.entry(f"signed-by={tmp_path}/both.asc"))
    assert offers(archive.entry(f"signed-by={key('other').public},{key().public}"))


def test_a_detached_signature_of_another_file_is_refused(archive: Archive) -> None:
    release = archive.release()
    archive.sign(key(), detached=True)
    release.write_text(release.read_text().replace("Suite: stable", "Suite: stabel"))
    refused(archive.entry(signed_by()), match=NOT_BELIEVED)


def test_an_index_that_was_tampered_with_is_refused(archive: Archive) -> None:
    rewrite(Path(f"{archive.packages}.xz"), b"\xfd7zXZ", b"\xfd7zXY")
    error = refused(archive.entry(signed_by()), match="is not the file that the archive's index describes")
    assert "expected" in error.details and error.hint


def test_a_filename_that_leads_out_is_refused(archive: Archive) -> None:
    content = archive.packages.read_bytes().replace(b"Filename: pool/", b"Filename: pool/../../", 1)
    archive.write_packages(content)
    archive.release()
    archive.sign(key())
    refused(archive.entry(signed_by()), match="malformed: .* leads out of the archive")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"Package: linux-headers-6.1.0-1-amd64\n\xff: x\n"])
def test_an_index_that_is_no_text_is_refused_or_empty(content: bytes, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "a")
    archive.write_packages(content)
    archive.release()
    archive.sign(key())
    try:
        assert offers(archive.entry(signed_by())) == {}
    except KernelError as error:
        assert "malformed" in error.brief


@pytest.mark.parametrize("ending", [".xz", ".gz"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x1f\x8b\x08", b"\xfd7zXZ\x00"])
def test_an_index_that_cannot_be_unpacked_is_refused_or_empty(ending: str, content: bytes, archive: Archive) -> None:
    for other in ("", ".xz", ".gz"):
        Path(f"{archive.packages}{other}").unlink()
    Path(f"{archive.packages}{ending}").write_bytes(content)
    archive.release()
    archive.sign(key())
    try:
        assert offers(archive.entry(signed_by())) == {} and ending == ".gz" and not content
    except KernelError as error:
        assert "cannot be unpacked" in error.brief


def test_a_package_that_was_tampered_with_is_refused(archive: Archive, debs: Headers, tmp_path: Path) -> None:
    offer = offers(archive.entry(signed_by()))[debs.release]
    deb = archive.pool / debs.file(debs.names[0]).name
    content = deb.read_bytes()
    store = Store(tmp_path / "store")
    deb.unlink()
    for bad in (content[:-1] + b"\0", content + b"\0", content[:-1], b""):
        deb.write_bytes(bad)
        with pytest.raises(KernelError, match=f"{debs.names[0]} .* is not the file"):
            store.fetch(offer, PLUGIN, Progress())
        assert not store.has(offer) and not store.entries()
    deb.unlink()
    with pytest.raises(KernelError, match="cannot be had"):
        store.fetch(offer, PLUGIN, Progress())
    deb.write_bytes(content)
    fetch_package(offer.packages[0], tmp_path / "package", Progress())
    assert (tmp_path / "package").read_bytes() == content


def test_a_package_that_is_another_one_is_refused(tmp_path: Path) -> None:
    """A small package stands in for a real one."""
    archive = Archive(tmp_path / "a")
    archive.add(small(tmp_path, "linux-headers-6.1.0-1-amd64"))
    archive.index()
    archive.write_packages(archive.packages.read_bytes().replace(b"6.1.0-1-amd64\n", b"6.1.0-2-amd64\n", 1))
    archive.release()
    archive.sign(key())
    offer = offers(archive.entry(signed_by()))["6.1.0-2-amd64"]
    with pytest.raises(KernelError, match="is another one") as caught:
        Store(tmp_path / "store").fetch(offer, PLUGIN, Progress())
    assert "Package: linux-headers-6.1.0-1-amd64" in caught.value.details


def test_an_index_that_expired_is_a_warning(archive: Archive) -> None:
    archive.fields = {"Valid-Until": "Sat, 01 Jan 2022 00:00:00 UTC"}
    archive.release()
    archive.sign(key())
    listener = Listener()
    assert offers(archive.entry(signed_by()), progress=listener)
    (warning,) = listener.warnings
    assert "valid until Sat, 01 Jan 2022 00:00:00 UTC only" in warning
    listener = Listener()
    assert offers(archive.entry(signed_by(), "check-valid-until=no"), progress=listener)
    assert listener.warnings == []


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
