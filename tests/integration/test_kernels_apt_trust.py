"""The kernel source `apt`: whose archives are believed, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pkgkmod.errors import KernelError
from pkgkmod.kernels.apt import AptKernels
from pkgkmod.kernels.download import fetch_package
from pkgkmod.kernels.store import Store
from pkgkmod.progress import Progress
from tests.fixtures.aptrepo import (
    Archive,
    Headers,
    key,
    offers,
    refused,
    rewrite,
    signed_by,
    small,
)
from tests.fixtures.gitrepos import Listener

PLUGIN = AptKernels()


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
