"""DEBs of a real build signed by the stage and by the command, and what dpkg, debsums, lintian and dscverify say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.aptrepo import Key
from tests.fixtures.aptrepo import key as gpg_key
from tests.fixtures.machine import hello, need, pkgkmod, series_and_kernel

KINDS = "[deb]\ndbgsym = true\n[devel]\nenabled = true\n"
KEY = ("--key", "keys/mok.key", "--certificate", "keys/mok.pem")


@pytest.fixture(scope="module")
def release() -> str:
    return series_and_kernel()[1]


@pytest.fixture(scope="module")
def gpg() -> Key:
    need("gpg", "gpgv")
    return gpg_key("rpm")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, release: str) -> Path:
    """A project whose DEBs are built, and not signed; a new key lies beside."""
    need("bwrap", "dh", "dpkg-buildpackage", "dpkg-deb", "make", "modinfo", "openssl", "xz")
    folder = tmp_path_factory.mktemp("project")
    driver = hello(tmp_path_factory.mktemp("git") / "repository")
    (folder / "pkgkmod.toml").write_text(
        f"""
[project]
name = "hello"
version = "1.0"
summary = "Kernel module that says hello"
maintainer = "Jane Packager <jane@debian.org>"
url = "https://example.org/hello"
[source]
repository = "{driver.repository}"
revision = "{driver.commit}"
directories = ["{driver.directory}"]
[[target]]
distro = "debian12"
kernels = ["{release}"]
{KINDS}"""
    )
    pkgkmod("build_deb", cwd=folder)
    pkgkmod("sign", "--new-key", "keys", "--name", "Test of DEBs", cwd=folder)
    return folder


@pytest.fixture
def mine(built: Path, tmp_path: Path) -> Path:
    """A copy of the project."""
    shutil.copytree(built, tmp_path / "project", symlinks=True)
    return tmp_path / "project"


@pytest.fixture
def farm(built: Path, tmp_path: Path) -> Path:
    """A folder with finished packages and a key, and nothing of the project."""
    folder = tmp_path / "farm"
    (folder / "debs").mkdir(parents=True)
    for file in sorted((built / "results/build_deb").glob("*/*/*/*_*")):
        shutil.copy(file, folder / "debs")
    shutil.copytree(built / "keys", folder / "keys")
    return folder


def configure(folder: Path, gpg: Key | None, **settings: str) -> None:
    known = {"module_key": "keys/mok.key", "module_certificate": "keys/mok.pem", **settings}
    if gpg:
        known |= {"package_key": gpg.fingerprint, "gpg_home": str(gpg.home)}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in known.items() if value)
    with (folder / "pkgkmod.toml").open("a") as file:
        file.write(f"\n[signing]\n{text}")


def call(*argv: object, cwd: Path | None = None, **variables: str) -> str:
    done = subprocess.run(
        list(map(str, argv)), cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
    return done.stdout


def modules_package(folder: Path, release: str) -> Path:
    (found,) = folder.glob(f"*-modules-{release}_*.deb")
    return found


def signer_of(deb: Path, root: Path) -> str:
    """Who signed the module in a package."""
    call("dpkg-deb", "-x", deb, root)
    (module,) = root.glob("lib/modules/*/updates/**/*.ko*")
    return call("/usr/sbin/modinfo", "-F", "signer", module).strip()


def test_the_stage_signs_modules_and_lists(mine: Path, gpg: Key, release: str, tmp_path: Path) -> None:
    need("dscverify", "debsums", "lintian", "dpkg-source")
    configure(mine, gpg)
    pkgkmod("build", cwd=mine)
    assert "nothing to do" in pkgkmod("build", cwd=mine).err
    (changes,) = (mine / "results/sign").glob("*/*/*/*.changes")
    out = changes.parent
    before = next((mine / "results/build_deb").glob("*/*/*/*.changes")).parent
    names = {path.name for path in before.glob("*_*")}
    assert {path.name for path in out.glob("*_*")} == names
    changed = {name for name in names if (before / name).read_bytes() != (out / name).read_bytes()}
    kinds = {Path(name).suffix for name in changed}
    assert kinds == {".deb", ".dsc", ".buildinfo", ".changes"} and len(changed) == 4
    assert signer_of(modules_package(out, release), tmp_path / "x") == "Test of DEBs"
    # Debian's own tools
    said = call("dscverify", "--keyring", gpg.public, changes)
    assert said.count("Good signature found") == 3 and "validated successfully" in said
    (tmp_path / ".gnupg").mkdir(mode=0o700)
    shutil.copy(gpg.public, tmp_path / ".gnupg/trustedkeys.gpg")
    (dsc,) = out.glob("*.dsc")
    unpack = ("dpkg-source", "--require-valid-signature", "-x", dsc, tmp_path / "source")
    call(*unpack, HOME=str(tmp_path))
    told = [call("lintian", "--allow-root", "--fail-on", "none", place / changes.name) for place in (before, out)]
    assert told[0] == told[1] and "E:" not in told[1]
    result = json.loads((out / "result.json").read_text())["artifact"]
    assert result["modules"] == 1 and result["package_key"] == gpg.fingerprint
    assert {package["file"]: package["size"] for package in result["packages"]} == {
        name: (out / name).stat().st_size for name in names
    }
    verified = pkgkmod("sign", "--verify", cwd=mine).out
    assert verified == f"1 module signed with {mine}/keys/mok.pem; {len(names)} files signed with {gpg.fingerprint}\n"


def test_a_signed_package_installs_and_debsums_finds_nothing(farm: Path, release: str, tmp_path: Path) -> None:
    need("debsums", "dpkg")
    pkgkmod("sign", "debs", *KEY, "-o", "out", cwd=farm)
    root = tmp_path / "root"
    for name in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"):
        (root / name).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    package = modules_package(farm / "out", release)
    # --unpack: no maintainer script of it runs, and nothing that it depends on is there.
    call("dpkg", "--root", root, "--force-all", "--unpack", package)
    name = call("dpkg-deb", "-f", package, "Package").strip()
    assert call("dpkg", "--root", root, "--verify", name) == ""
    # debsums looks at packages that are configured, only.
    status = root / "var/lib/dpkg/status"
    status.write_text(status.read_text().replace("ok unpacked", "ok installed"))
    assert call("debsums", "--root", root, "--silent", name) == ""
    (module,) = root.glob("lib/modules/*/updates/**/*.ko*")
    assert call("/usr/sbin/modinfo", "-F", "signer", module).strip() == "Test of DEBs"
    sizes = [
        int(call("dpkg-deb", "-f", modules_package(farm / place, release), "Installed-Size"))
        for place in ("debs", "out")
    ]
    old = call("dpkg-deb", "-x", modules_package(farm / "debs", release), tmp_path / "old") or tmp_path / "old"
    (before,) = Path(old).glob("lib/modules/*/updates/**/*.ko*")
    assert sizes[1] - sizes[0] == -(-module.stat().st_size // 1024) - -(-before.stat().st_size // 1024)


def test_packages_of_a_farm(farm: Path, gpg: Key, release: str, tmp_path: Path) -> None:
    (changes,) = (farm / "debs").glob("*.changes")
    before = {path: path.read_bytes() for path in (farm / "debs").iterdir()}
    assert "1 module" in pkgkmod("sign", changes, *KEY, "-o", "out", "-n", cwd=farm).out
    package_key = ("--package-key", gpg.fingerprint, "--gpg-home", gpg.home)
    told = pkgkmod("sign", changes, *KEY, *package_key, "-o", "out", cwd=farm)
    assert told.out.endswith(f"{len(before)} files, 1 module signed and verified\n")
    assert {path: path.read_bytes() for path in (farm / "debs").iterdir()} == before
    assert {path.name for path in (farm / "out").iterdir()} == {path.name for path in before}
    verify = ("--certificate", "keys/mok.pem", "--public-key", gpg.armored)
    assert "1 module signed" in pkgkmod("sign", "--verify", "out", *verify, cwd=farm).out
    pkgkmod("sign", "debs", *KEY, *package_key, "-o", "again", cwd=farm)
    pkgkmod("sign", "out", *KEY, *package_key, "-o", "twice", cwd=farm)
    for path in (farm / "out").iterdir():
        assert (farm / "again" / path.name).read_bytes() == path.read_bytes()
        assert (farm / "twice" / path.name).read_bytes() == path.read_bytes()
    # Without a key for the packages, old signatures that would be wrong are gone, and digests are right.
    other = pkgkmod("sign", "--new-key", "others", cwd=farm) and ("--key", "others/mok.key", "--certificate")
    pkgkmod("sign", "out", *other, "others/mok.pem", "-o", "modules", cwd=farm)
    assert "BEGIN PGP" not in (farm / "modules" / changes.name).read_text()
    assert "it is not signed" in pkgkmod("sign", "--verify", "modules", *verify[2:], cwd=farm, code=20).err


def test_a_vault_signs(farm: Path) -> None:
    pkgkmod("sign", "debs", "--export-hashes", "vault", cwd=farm)
    (digest,) = (farm / "vault").glob("*.sha256")
    bring = ("sign", "debs", "--import-signatures", "vault", "--certificate", "keys/mok.pem", "-o", "out")
    assert "is missing" in pkgkmod(*bring, cwd=farm, code=20).err
    sign = ("openssl", "pkeyutl", "-sign", "-inkey", farm / "keys/mok.key", "-pkeyopt", "digest:sha256")
    call(*sign, "-in", digest, "-out", digest.with_suffix(".sig"))
    pkgkmod(*bring, cwd=farm)
    pkgkmod("sign", "debs", *KEY, "-o", "direct", cwd=farm)
    for path in (farm / "direct").iterdir():
        assert (farm / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("packed", [".xz", ".gz", ".zst"])
def test_compressed_modules_stay_compressed(farm: Path, release: str, tmp_path: Path, packed: str) -> None:
    need("xz", "gzip", "zstd")
    source, root = modules_package(farm / "debs", release), tmp_path / "root"
    call("dpkg-deb", "-R", source, root)
    (module,) = root.glob("lib/modules/*/updates/**/*.ko")
    how = {".xz": ("xz", "--check=crc32"), ".gz": ("gzip", "-n"), ".zst": ("zstd", "-q", "--rm")}
    call(*how[packed], module)
    (root / "DEBIAN/md5sums").unlink()
    call("dpkg-deb", "-Zzstd", "-b", root, farm / "packed.deb")
    pkgkmod("sign", "packed.deb", *KEY, "-o", "out", cwd=farm)
    call("dpkg-deb", "-x", farm / "out/packed.deb", tmp_path / "x")
    (module,) = (tmp_path / "x").glob("lib/modules/*/updates/**/*.ko*")
    assert module.name.endswith(f".ko{packed}")
    call(how[packed][0], "-d", module)  # not every kmod reads all of them: Debian's takes no .gz
    assert call("/usr/sbin/modinfo", "-F", "signer", module.with_suffix("")).strip() == "Test of DEBs"


def test_what_is_not_signed_is_an_error(farm: Path, gpg: Key, release: str) -> None:
    told = pkgkmod("sign", "--verify", "debs", *KEY[2:], cwd=farm, code=20)
    assert "1 of 1 modules" in told.err and "the module is not signed" in told.err
    key = ("--package-key", gpg.fingerprint, "--gpg-home", gpg.home)
    deb = modules_package(farm / "debs", release)
    refused = pkgkmod("sign", deb, *KEY, *key, "-o", "out", cwd=farm, code=20).err
    assert "a .deb has no signature of its own" in refused and not list(farm.glob("out/*"))
    pkgkmod("sign", "debs", *KEY, *key, "-o", "out", cwd=farm)
    verify = ("sign", "--verify", "out", "--public-key")
    assert "not signed with" in pkgkmod(*verify, gpg_key("rpm-other").armored, cwd=farm, code=20).err
    assert "cannot use the public key" in pkgkmod(*verify, _broken_key(farm), cwd=farm, code=20).err
    (changes,) = (farm / "out").glob("*.changes")
    text = changes.read_text()
    changes.write_text(text.replace("Urgency: medium", "Urgency: high"))
    assert f"{changes.name}: " in pkgkmod(*verify, gpg.armored, cwd=farm, code=20).err
    changes.write_text(text)
    signed = modules_package(farm / "out", release)
    signed.write_bytes(deb.read_bytes())
    assert "says that" in pkgkmod(*verify, gpg.armored, cwd=farm, code=20).err
    changes.unlink()
    next((farm / "out").glob("*.buildinfo")).unlink()
    assert "no signed .changes lists it" in pkgkmod(*verify, gpg.armored, cwd=farm, code=20).err


def _broken_key(folder: Path) -> Path:
    (folder / "broken.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nnothing\n")
    return folder / "broken.asc"


def test_text_outside_of_a_signature_counts_for_nothing(farm: Path, gpg: Key, release: str) -> None:
    """Whoever adds digests around a signed text must not be believed."""
    key = ("--package-key", gpg.fingerprint, "--gpg-home", gpg.home)
    pkgkmod("sign", "debs", *key, "-o", "out", cwd=farm)
    (changes,) = (farm / "out").glob("*.changes")
    evil = modules_package(farm / "out", release).with_name("evil_1_amd64.deb")
    shutil.copy(modules_package(farm / "out", release), evil)
    changes.write_text(changes.read_text() + f"\nFiles:\n {'0' * 32} 1 kernel optional {evil.name}\n")
    refused = pkgkmod("sign", "--verify", "out", "--public-key", gpg.armored, cwd=farm, code=20).err
    assert evil.name in refused or changes.name in refused


def test_signatures_inside_of_a_package_are_left_out_and_that_is_said(farm: Path, release: str) -> None:
    need("ar")
    shutil.copy(modules_package(farm / "debs", release), farm / "x.deb")
    (farm / "_gpgorigin").write_text("a signature")
    call("ar", "q", "x.deb", "_gpgorigin", cwd=farm)
    assert "signatures inside of it" in pkgkmod("sign", "x.deb", *KEY, "-o", "out", cwd=farm).err
    assert call("ar", "t", farm / "out/x.deb").split() == ["debian-binary", "control.tar.xz", "data.tar.xz"]


def test_damaged_sets_are_refused(farm: Path, release: str, tmp_path: Path) -> None:
    (changes,) = (farm / "debs").glob("*.changes")
    deb = modules_package(farm / "debs", release)
    whole = deb.read_bytes()
    deb.write_bytes(whole[:-100] + bytes(100))
    told = pkgkmod("sign", "debs", *KEY, "-o", "out", cwd=farm, code=17).err
    assert "is damaged" in told or "cannot be read as a Debian package" in told
    deb.write_bytes(whole[:1000])
    assert "cannot be read as a Debian package" in pkgkmod("sign", deb, *KEY, "-o", "out", cwd=farm, code=17).err
    deb.unlink()
    assert f"{deb.name} is not there" in pkgkmod("sign", changes, *KEY, "-o", "out", cwd=farm, code=17).err
    assert "is no package" in pkgkmod("sign", "keys/mok.pem", *KEY, "-o", "out", cwd=farm, code=17).err
    hostile = farm / "$(touch pwned)\x1b[31m.deb"
    hostile.write_bytes(b"!<arch>\n")
    told = pkgkmod("sign", hostile, *KEY, "-o", "out", cwd=farm, code=17).err
    assert "\x1b[31m" not in told and not list(farm.rglob("pwned"))
    assert not list(farm.glob("out/*"))


def test_an_error_in_the_middle_leaves_nothing(mine: Path, gpg: Key) -> None:
    configure(mine, gpg, module_certificate="absent.pem")
    assert "absent.pem" in pkgkmod("build", cwd=mine, code=20).err
    assert not list((mine / "results/sign").glob("*/*/*/*.deb"))
