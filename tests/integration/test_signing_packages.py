"""Finished RPMs, made by the real rpmbuild as a farm makes them, signed with the real openssl, gpg and rpmsign."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from pkgkmod.errors import InputError, SigningError
from pkgkmod.formats.rpmpackage import read_package, repackage
from pkgkmod.progress import Progress
from pkgkmod.signing import detached
from pkgkmod.signing.keys import NewKey, SigningKey, load_key, new_key
from pkgkmod.signing.modules import MAGIC, plain, sign_module, unsigned
from pkgkmod.signing.openssl import run_quietly
from pkgkmod.signing.packages import (
    Signatures,
    modules_to_sign,
    sign_rpm,
    sign_set,
    sign_with_key,
    sign_with_signatures,
    verify_packages,
)
from pkgkmod.signing.rpmsign import (
    PackageKey,
    export_public_key,
    find_package_key,
    keyring,
    sign_packages,
    verify_signatures,
)
from tests.fixtures.aptrepo import key as gpg_key
from tests.fixtures.machine import NO_DATABASE, need
from tests.fixtures.otherroots import run_in, trixie
from tests.fixtures.rpmrepo import build_rpm, publish

RELEASE = "5.14.0-427.13.1.el9_4.x86_64"
EXTRA = f"lib/modules/{RELEASE}/extra/foreign"
SPEC = rf"""Name: kmod-farm
Version: 1.0
Release: 1.el9
Summary: As a farm makes it
License: GPL-2.0-only
Source0: farm.tar.gz
Requires: kernel >= 5.14.0
Provides: kernel-modules = 5.14.0
AutoReqProv: no
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
%description
As a farm makes it.
%package debuginfo
Summary: Debug information
%description debuginfo
Debug information.
%prep
%install
mkdir -p %{{buildroot}}/{EXTRA} %{{buildroot}}/usr/lib/debug/{EXTRA}
for name in plain packed-xz packed-gz packed-zst; do
    (echo "$name"; head -c 20000 /dev/zero) > %{{buildroot}}/{EXTRA}/$name.ko
    cp %{{buildroot}}/{EXTRA}/$name.ko %{{buildroot}}/usr/lib/debug/{EXTRA}/$name.ko.debug
done
cd %{{buildroot}}/{EXTRA}
xz --check=crc32 --lzma2=dict=1MiB packed-xz.ko
gzip -n packed-gz.ko
zstd -q --rm packed-zst.ko
%files
/{EXTRA}
%files debuginfo
/usr/lib/debug/{EXTRA}
%post
echo depmod -a {RELEASE}
"""
NAMES = ("packed-gz.ko.gz", "packed-xz.ko.xz", "packed-zst.ko.zst", "plain.ko")


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """A binary package with modules in each compression, debug information, and the source package."""
    need("rpmbuild", "rpm2cpio", "cpio", "xz", "zstd", "gzip", "openssl")
    folder = tmp_path_factory.mktemp("farm")
    (folder / "SOURCES").mkdir()
    subprocess.run(["tar", "-czf", folder / "SOURCES/farm.tar.gz", "-T", "/dev/null"], check=True)
    (folder / "kmod-farm.spec").write_text(SPEC)
    define = {"_topdir": folder, "_dbpath": folder / "db", "_binary_payload": "w5.xzdio"}
    words = [word for name, value in define.items() for word in ("--define", f"{name} {value}")]
    argv = ["rpmbuild", "-ba", "--target", "x86_64", *words, folder / "kmod-farm.spec"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = tuple(sorted(folder.glob("*RPMS/**/*.rpm")))
    assert len(made) == 3
    return made


@pytest.fixture(scope="module")
def made_key(tmp_path_factory: pytest.TempPathFactory) -> NewKey:
    """A key of this run."""
    need("openssl")
    return new_key(tmp_path_factory.mktemp("keys"), "Farm", 10)


@pytest.fixture(scope="module")
def key(made_key: NewKey) -> SigningKey:
    """The key, checked."""
    return load_key(str(made_key.key), made_key.certificate, Path("/"))


@pytest.fixture(scope="module")
def package_key() -> PackageKey:
    """A GPG key of the tests' own."""
    need("gpg", "rpmsign", "rpmkeys")
    return find_package_key("test@example.org", gpg_key("rpm").home)


@dataclass(frozen=True)
class Place:
    """Where a test works."""

    scratch: Path
    out: Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Two empty folders."""
    made = Place(tmp_path / "scratch", tmp_path / "out")
    made.scratch.mkdir()
    made.out.mkdir()
    return made


def signed_set(farm: tuple[Path, ...], wanted: Signatures, place: Place) -> int:
    return sign_set(farm, place.out, wanted, scratch=place.scratch, run=run_quietly, progress=Progress())


def with_key(key: SigningKey, package_key: PackageKey | None = None, hash: str = "sha256") -> Signatures:
    return Signatures(sign_with_key(key, lambda _: hash, run_quietly), key.certificate, package_key)


def unpacked(package: Path, folder: Path) -> Path:
    folder.mkdir()
    archive = subprocess.run(["rpm2cpio", package], capture_output=True, check=True).stdout
    subprocess.run(["cpio", "-idm", "--quiet"], input=archive, cwd=folder, check=True)
    return folder


def query(package: Path, *words: str) -> str:
    argv = ["rpm", "--dbpath", NO_DATABASE, "-qp", "--nosignature", *words, package]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_a_farms_packages_are_signed_and_otherwise_as_they_were(
    farm: tuple[Path, ...], key: SigningKey, package_key: PackageKey, place: Place, tmp_path: Path
) -> None:
    assert signed_set(farm, with_key(key, package_key), place) == len(NAMES)
    (binary,) = (file for file in farm if file.name.startswith("kmod-farm-1.0") and "x86_64" in file.name)
    new = place.out / binary.name
    for question in ("--requires", "--provides", "--scripts", "--qf=%{NEVRA} %{BUILDTIME} %{BUILDHOST} %{COOKIE}"):
        assert query(new, question) == query(binary, question)
    root, old = unpacked(new, tmp_path / "root"), unpacked(binary, tmp_path / "old")
    for name in NAMES:
        module = root / EXTRA / name
        content = plain(name, module.read_bytes())
        assert content.endswith(MAGIC)
        assert unsigned(content) == plain(name, (old / EXTRA / name).read_bytes())
        assert module.stat().st_mtime == (old / EXTRA / name).stat().st_mtime
    listed = subprocess.run(["xz", "--robot", "-l", root / EXTRA / "packed-xz.ko.xz"], capture_output=True, text=True)
    assert "CRC32" in listed.stdout and "CRC64" not in listed.stdout  # the kernel reads no other
    for other in farm:
        if other != binary:
            package, signed = read_package(other), read_package(place.out / other.name)
            assert package.header.blob == signed.header.blob
            assert other.read_bytes()[package.payload :] == signed.path.read_bytes()[signed.payload :]


def test_the_kernels_own_sign_file_makes_the_same_modules(
    farm: tuple[Path, ...], key: SigningKey, made_key: NewKey, place: Place, tmp_path: Path
) -> None:
    programs = sorted(Path("/usr/lib").glob("linux-kbuild-*/scripts/sign-file"))
    if not programs:
        pytest.skip("no linux-kbuild package is installed")
    signed_set(farm, with_key(key, hash="sha512"), place)
    (binary,) = (file for file in farm if file.name.startswith("kmod-farm-1.0") and "x86_64" in file.name)
    module = unpacked(binary, tmp_path / "old") / EXTRA / "plain.ko"
    subprocess.run([programs[-1], "sha512", made_key.key, made_key.certificate, module], check=True)
    new = unpacked(place.out / binary.name, tmp_path / "new") / EXTRA / "plain.ko"
    assert new.read_bytes() == module.read_bytes()


def test_the_same_packages_and_keys_give_the_same_bytes(
    farm: tuple[Path, ...], key: SigningKey, package_key: PackageKey, tmp_path: Path
) -> None:
    made = []
    for name in ("one", "two"):
        place = Place(tmp_path / name / "scratch", tmp_path / name / "out")
        place.scratch.mkdir(parents=True)
        place.out.mkdir()
        signed_set(farm, with_key(key, package_key), place)
        made.append({file.name: file.read_bytes() for file in place.out.iterdir()})
        time.sleep(1.1)  # a signature holds its time in seconds
    assert made[0] == made[1]


def test_signing_again_replaces_the_signature(
    farm: tuple[Path, ...], key: SigningKey, place: Place, tmp_path: Path
) -> None:
    made = new_key(tmp_path / "other", "Other", 10)
    other = load_key(str(made.key), made.certificate, Path("/"))
    signed_set(farm, with_key(other), place)
    again = Place(place.scratch, tmp_path / "again")
    again.out.mkdir()
    sources = tuple(sorted(place.out.iterdir()))
    signed_set(sources, with_key(key), again)
    direct = Place(place.scratch, tmp_path / "direct")
    direct.out.mkdir()
    signed_set(farm, with_key(key), direct)
    for file in direct.out.iterdir():
        assert (again.out / file.name).read_bytes() == file.read_bytes()


def test_every_module_that_is_not_signed_rightly_is_named(
    farm: tuple[Path, ...], key: SigningKey, place: Place, tmp_path: Path
) -> None:
    with pytest.raises(SigningError) as caught:
        verify_packages(farm, key.certificate, run_quietly)
    assert caught.value.brief == "4 of 4 modules are not signed as they should be"
    for name in NAMES:
        assert f"kmod-farm-1.0-1.el9.x86_64.rpm: /{EXTRA}/{name}: the module is not signed" in caught.value.details

    def careless(path: str, content: bytes) -> bytes:
        if path.endswith("plain.ko"):
            return content
        signed = sign_module(content, key, "sha256")
        return b"X" + signed[1:] if path.endswith(".xz") else signed

    with pytest.raises(SigningError) as caught:
        signed_set(farm, Signatures(careless, key.certificate), place)
    assert caught.value.brief.startswith("2 of 4")
    assert "plain.ko: the module is not signed" in caught.value.details
    assert "packed-xz.ko.xz: the module was changed" in caught.value.details
    made = new_key(tmp_path / "other", "Somebody else", 10)
    other = load_key(str(made.key), made.certificate, Path("/"))
    with pytest.raises(SigningError) as caught:
        signed_set(farm, Signatures(with_key(other).sign, key.certificate), place)
    assert "signed with another key" in caught.value.details and "Somebody else" in caught.value.details


def test_a_vaults_signatures_give_the_same_packages(
    farm: tuple[Path, ...], key: SigningKey, place: Place, tmp_path: Path
) -> None:
    exported = detached.export(modules_to_sign(farm, lambda _: "sha256", run_quietly), tmp_path / "vault")
    assert exported == len(NAMES)
    for digest in (tmp_path / "vault").glob("*.sha256"):
        argv = ["openssl", "pkeyutl", "-sign", "-inkey", key.key, "-pkeyopt", "digest:sha256", "-in", digest]
        subprocess.run([*argv, "-out", digest.with_suffix(".sig")], check=True)
    signatures = detached.load_signatures(tmp_path / "vault", key.certificate)
    signed_set(farm, Signatures(sign_with_signatures(signatures), key.certificate), place)
    direct = Place(place.scratch, tmp_path / "direct")
    direct.out.mkdir()
    signed_set(farm, with_key(key), direct)
    for file in direct.out.iterdir():
        assert (place.out / file.name).read_bytes() == file.read_bytes()
    missing = dict(list(signatures.items())[1:])
    (tmp_path / "late").mkdir()
    with pytest.raises(SigningError, match=r"kmod-farm.*/extra/foreign/.*: there is no signature for this module"):
        signed_set(
            farm, Signatures(sign_with_signatures(missing), key.certificate), Place(place.scratch, tmp_path / "late")
        )


def test_a_damaged_module_is_named(key: SigningKey, farm: tuple[Path, ...], tmp_path: Path) -> None:
    binary = next(file for file in farm if "x86_64" in file.name and "debuginfo" not in file.name)

    def spoil(path: str, content: bytes) -> bytes:
        return content[:-1] + b"\0" if path.endswith("xz") else content

    repackage(read_package(binary), tmp_path / "spoiled.rpm", spoil)
    with pytest.raises(SigningError, match=r"spoiled.rpm: /lib/.*packed-xz.ko.xz.* cannot be decompressed"):
        sign_rpm(read_package(tmp_path / "spoiled.rpm"), tmp_path / "out.rpm", with_key(key).sign, run_quietly)  # type: ignore[arg-type]
    assert not (tmp_path / "out.rpm").exists()
    (tmp_path / "no.rpm").write_text("no")
    with pytest.raises(InputError):
        verify_packages([tmp_path / "no.rpm"], key.certificate, run_quietly)


@pytest.mark.parametrize("payload", ["w19.zstdio", "w6.xzdio", "w9.gzdio"])
def test_packages_of_rpm_4_20(payload: str, key: SigningKey, place: Place, tmp_path: Path) -> None:
    """Made and checked by Debian 13's rpm; what packs them again is this machine's."""
    root = trixie()
    (tmp_path / "farm").mkdir()
    (tmp_path / "farm/farm.tar.gz").write_bytes(b"")
    (tmp_path / "farm/kmod-farm.spec").write_text(SPEC)
    define = {"_topdir": "/build", "_sourcedir": "/build", "_dbpath": "/tmp/db", "_binary_payload": payload}
    words = [word for name, value in define.items() for word in ("--define", f"{name} {value}")]
    run_in(root, ["rpmbuild", "-bb", "--target", "x86_64", *words, "kmod-farm.spec"], tmp_path / "farm")
    made = tuple(sorted((tmp_path / "farm").glob("RPMS/*/*.rpm")))
    assert len(made) == 2
    for package in made:
        repackage(read_package(package), tmp_path / "same.rpm", lambda _, content: content)
        same = read_package(tmp_path / "same.rpm")
        assert same.header.entries == read_package(package).header.entries
    assert signed_set(made, with_key(key), place) == len(NAMES)
    said = run_in(root, ["rpmkeys", "--dbpath", "/tmp/db", "-Kv", *(file.name for file in made)], place.out)
    assert "Payload SHA256 digest: OK" in said and "BAD" not in said and "NOT OK" not in said
    (binary,) = (file for file in made if "debuginfo" not in file.name)
    install = "mkdir /tmp/r && rpm --root /tmp/r -i --nodeps --noscripts $0 && rpm --root /tmp/r -V --nodeps kmod-farm"
    assert "....." not in run_in(root, ["sh", "-ec", install, binary.name], place.out)


# ---- the signatures of packages


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Path]:
    """A folder for keyrings, short enough for the socket of an agent."""
    folder = Path("/tmp") / f"pkgkmod-gpg-{tmp_path.name[-20:]}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    yield folder
    subprocess.run(["gpgconf", "--homedir", folder, "--kill", "gpg-agent"], check=False)
    shutil.rmtree(folder)


def generate(home: Path, name: str, passphrase: str = "") -> None:
    how = ["--pinentry-mode", "loopback", "--passphrase", passphrase]
    argv = ["gpg", "--homedir", home, "--batch", "-q", *how, "--quick-generate-key", name, "ed25519", "sign"]
    subprocess.run(argv, check=True, capture_output=True)
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=False)


def has_agent(home: Path) -> bool:
    argv = ["gpg-connect-agent", "--homedir", home, "--no-autostart", "GETINFO pid", "/bye"]
    return "D " in subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def test_package_keys_are_found_by_any_name_that_is_clear(package_key: PackageKey, homes: Path) -> None:
    home = package_key.home
    for name in (package_key.fingerprint, package_key.fingerprint[-16:], "rpm <test@example.org>"):
        assert find_package_key(name, home) == package_key
    for name in ("nobody", "%(touch /tmp/pkgkmod-pwned)", "--version", "$(id)"):
        with pytest.raises(SigningError, match="there is no secret key"):
            find_package_key(name, home)
    assert not Path("/tmp/pkgkmod-pwned").exists()
    with pytest.raises(SigningError, match="is not a folder"):
        find_package_key("x", home / "absent")
    generate(homes, "One <same@example.org>")
    generate(homes, "Two <same@example.org>")
    with pytest.raises(SigningError, match="means 2 keys") as caught:
        find_package_key("same@example.org", homes)
    assert len(caught.value.details.splitlines()) == 2
    assert keyring("x", Path("/base")) == Path("/base/x") and keyring(None, Path("/base")).name == ".gnupg"


def gpg(home: Path, *words: str) -> None:
    argv = ["gpg", "--homedir", home, "--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", "", *words]
    subprocess.run([str(word) for word in argv], check=True, capture_output=True)


def fingerprints(home: Path) -> list[str]:
    argv = ["gpg", "--homedir", str(home), "--with-colons", "--list-keys"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return [line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:")]


def test_a_subkey_signs_where_there_is_one(homes: Path, farm: tuple[Path, ...], tmp_path: Path) -> None:
    gpg(homes, "--quick-generate-key", "Main <main@example.org>", "rsa2048", "cert")
    with pytest.raises(SigningError, match="cannot sign any more, or never could") as caught:
        find_package_key("main", homes)
    assert "no usable part" in caught.value.details
    (main,) = fingerprints(homes)
    gpg(homes, "--quick-add-key", main, "rsa2048", "sign", "1y")
    gpg(homes, "--quick-add-key", main, "rsa2048", "encr", "1y")
    key = find_package_key("main", homes)
    assert (key.fingerprint, key.signer) == (main, fingerprints(homes)[1])
    package = Path(shutil.copy(farm[0], tmp_path))
    sign_packages([package], key, run_quietly)
    export_public_key(key, tmp_path / "public.asc")
    (tmp_path / "keys").mkdir()
    verify_signatures([package], tmp_path / "public.asc", tmp_path / "keys", run_quietly)


def test_an_expired_key_does_not_sign_at_an_earlier_time(homes: Path) -> None:
    when = ("--faked-system-time", "20200101T000000!")
    gpg(homes, *when, "--quick-generate-key", "Old <old@example.org>", "ed25519", "sign", "1y")
    with pytest.raises(SigningError, match="cannot sign any more") as caught:
        find_package_key("old", homes)
    assert "expired" in caught.value.details


def test_the_agent_is_left_as_it_was(homes: Path, farm: tuple[Path, ...], tmp_path: Path) -> None:
    generate(homes, "Agent <agent@example.org>")
    package = Path(shutil.copy(farm[0], tmp_path))
    sign_packages([package], find_package_key("agent", homes), run_quietly)
    assert not has_agent(homes)
    subprocess.run(["gpg-connect-agent", "--homedir", homes, "/bye"], check=True, capture_output=True)
    sign_packages([package], find_package_key("agent", homes), run_quietly)
    assert has_agent(homes)


def test_jobs_that_sign_side_by_side_leave_no_agent(homes: Path, farm: tuple[Path, ...], tmp_path: Path) -> None:
    generate(homes, "Busy <busy@example.org>")
    packages = [Path(shutil.copy(farm[0], tmp_path / f"{number}.rpm")) for number in range(6)]
    with ThreadPoolExecutor(3) as pool:
        signing = [
            pool.submit(lambda file: sign_packages([file], find_package_key("busy", homes), run_quietly), package)
            for package in packages
        ]
    assert [one.result() for one in signing] == [None] * 6
    assert len({package.read_bytes() for package in packages}) == 1
    assert not has_agent(homes)


def test_a_key_with_a_passphrase_says_what_to_do(homes: Path, farm: tuple[Path, ...], tmp_path: Path) -> None:
    generate(homes, "Locked <locked@example.org>", passphrase="very secret")
    package = Path(shutil.copy(farm[0], tmp_path))
    with pytest.raises(SigningError, match="cannot be signed with the key") as caught:
        sign_packages([package], find_package_key("locked", homes), run_quietly)
    assert "passphrase" in caught.value.hint and "very secret" not in str(vars(caught.value))
    assert package.read_bytes() == farm[0].read_bytes()


def test_dnf_takes_what_is_signed_and_nothing_else(
    farm: tuple[Path, ...], key: SigningKey, package_key: PackageKey, place: Place, tmp_path: Path
) -> None:
    need("dnf", "createrepo_c")
    signed_set(farm, with_key(key, package_key), place)
    kernel = build_rpm(tmp_path / "kernel", "kernel", "5.14.0-1.el9", provides=("/bin/sh",))
    sign_packages([kernel], package_key, run_quietly)
    binary = next(file for file in farm if "x86_64" in file.name and "debuginfo" not in file.name)
    for name, package in (("signed", place.out / binary.name), ("unsigned", binary)):
        repository = publish(tmp_path / name, package, kernel)
        folders = {what: tmp_path / f"{name}-{what}" for what in ("root", "logdir", "cachedir", "persistdir")}
        for folder in folders.values():
            folder.mkdir()
        options = [f"--setopt={what}={folder}" for what, folder in folders.items() if what != "root"]
        trusted = f"--setopt=t.gpgkey=file://{gpg_key('rpm').armored}"
        done = subprocess.run(
            [
                *("dnf", "-y", f"--installroot={folders['root']}", "--releasever=9", "--setopt=reposdir=/nonexistent"),
                *(f"--repofrompath=t,{repository}", "--repo=t", "--setopt=t.gpgcheck=1", trusted, *options),
                *("--setopt=tsflags=noscripts", "install", "kmod-farm"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        there = (folders["root"] / EXTRA / "plain.ko").exists()
        assert there is (name == "signed"), done.stdout + done.stderr
        assert ("is not signed" in done.stdout + done.stderr) is (name == "unsigned")


def test_packages_that_are_not_signed_are_named(
    farm: tuple[Path, ...], package_key: PackageKey, tmp_path: Path, homes: Path
) -> None:
    mine, other, none = (Path(shutil.copy(farm[0], tmp_path / name)) for name in ("mine.rpm", "other.rpm", "none.rpm"))
    generate(homes, "Stranger <stranger@example.org>")
    sign_packages([mine], package_key, run_quietly)
    sign_packages([other], find_package_key("stranger", homes), run_quietly)
    export_public_key(package_key, tmp_path / "public.asc")
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    verify_signatures([mine], tmp_path / "public.asc", tmp_path / "a", run_quietly)
    with pytest.raises(SigningError, match="2 of 3 packages") as caught:
        verify_signatures([mine, other, none], tmp_path / "public.asc", tmp_path / "b", run_quietly)
    assert [line.split(":")[0] for line in caught.value.details.splitlines()] == ["other.rpm", "none.rpm"]
    (tmp_path / "no.asc").write_text("no key")
    with pytest.raises(SigningError, match="cannot use the public key"):
        verify_signatures([mine], tmp_path / "no.asc", tmp_path / "c", run_quietly)
