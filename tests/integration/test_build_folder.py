"""The makefile of source archives: a driver is built with it, installed, signed, compressed, and built upon."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from pkgkmod.errors import ConfigError
from pkgkmod.model.packaging import Devel
from pkgkmod.model.project import Source
from tests.fixtures.buildfolder import (
    DIRECTORY,
    FIRMWARE,
    FOLDER,
    HEADER,
    SOURCE,
    Built,
    build_hello,
    check_signature,
    new_key,
    pack,
    sign_file_with_engine,
)
from tests.fixtures.machine import Driver, lacking, need, pkgkmod, project
from tests.fixtures.packaging import make_project


@pytest.fixture(scope="module")
def built(kernel: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_hello(kernel, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with key.pem and cert.pem."""
    return new_key(tmp_path_factory.mktemp("keys") / "new")


def sections(module: Path) -> str:
    return subprocess.run(["readelf", "-SW", module], capture_output=True, text=True, check=True).stdout


# --- install and finish -----------------------------------------------------------------------------


def test_an_installed_module_is_executable_and_whole(built: Built, tmp_path: Path) -> None:
    built.make("install", DESTDIR=tmp_path, MODULE_DIR=f"/{DIRECTORY}")
    module = tmp_path / DIRECTORY / "hello.ko"
    assert module.stat().st_mode & 0o777 == 0o755
    assert ".debug_info" in sections(module)


def unpacked(file: Path) -> bytes:
    if file.suffix == ".gz":
        return gzip.decompress(file.read_bytes())
    if file.suffix == ".xz":
        return lzma.decompress(file.read_bytes())
    if file.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", file], capture_output=True, check=True).stdout
    return file.read_bytes()


@pytest.mark.parametrize(("compress", "name"), [(c, f"hello.ko{s}") for c, s in
                         (("none", ""), ("gz", ".gz"), ("xz", ".xz"), ("zst", ".zst"))])  # fmt: skip
def test_finish_strips_and_compresses(compress: str, name: str, built: Built, tmp_path: Path) -> None:
    need("xz", "zstd", "gzip", "readelf")
    plain = built.installed(tmp_path / "plain", STRIP="strip") / "hello.ko"
    assert ".debug_info" not in sections(plain)
    one = built.installed(tmp_path / "one", STRIP="strip", COMPRESS=compress)
    two = built.installed(tmp_path / "two", STRIP="strip", COMPRESS=compress)
    assert [path.name for path in one.iterdir()] == [name]
    assert (one / name).stat().st_mode & 0o777 == 0o644
    assert unpacked(one / name) == plain.read_bytes()
    assert (one / name).read_bytes() == (two / name).read_bytes()


def test_xz_is_as_the_kernel_reads_it(built: Built, tmp_path: Path) -> None:
    need("xz")
    file = built.installed(tmp_path, COMPRESS="xz") / "hello.ko.xz"
    told = subprocess.run(["xz", "--robot", "-lvv", file], capture_output=True, text=True, check=True).stdout
    assert "\tCRC32\t" in told
    assert "dict=1MiB" in told


def test_without_strip_the_debug_information_stays(built: Built, tmp_path: Path) -> None:
    module = built.installed(tmp_path) / "hello.ko"
    assert module.read_bytes() == (built.folder / "modules" / built.kernel / "hello.ko").read_bytes()


def test_modules_in_folders_below_are_finished_too(built: Built, tmp_path: Path) -> None:
    built.make("install", DESTDIR=tmp_path, MODULE_DIR=f"/{DIRECTORY}")
    (tmp_path / DIRECTORY / "a b").mkdir()
    shutil.move(tmp_path / DIRECTORY / "hello.ko", tmp_path / DIRECTORY / "a b")
    built.make("finish", DESTDIR=tmp_path, MODULE_DIR=f"/{DIRECTORY}", COMPRESS="xz")
    assert [path.name for path in (tmp_path / DIRECTORY / "a b").iterdir()] == ["hello.ko.xz"]


def test_a_destination_is_not_shell(built: Built, tmp_path: Path) -> None:
    odd = tmp_path / "it's $$(touch pwned) `touch pwned` \"; touch pwned"
    made = Path(str(odd).replace("$$", "$"))  # make's own spelling of one $
    built.make("install", DESTDIR=odd, MODULE_DIR="/m")
    built.make("finish", DESTDIR=odd, MODULE_DIR="/m", COMPRESS="gz")
    assert (made / "m/hello.ko.gz").is_file()
    assert not (built.folder / "pwned").exists()


# --- signing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", ["none", "xz"])
def test_finish_signs(compress: str, built: Built, keys: Path, tmp_path: Path) -> None:
    signing = {"SIGN_KEY": keys / "key.pem", "SIGN_CERT": keys / "cert.pem", "STRIP": "strip", "COMPRESS": compress}
    (one,) = built.installed(tmp_path / "one", **signing).iterdir()
    (two,) = built.installed(tmp_path / "two", **signing).iterdir()
    assert one.read_bytes() == two.read_bytes()
    check_signature(unpacked(one), keys / "cert.pem", tmp_path)
    (tmp_path / "hello.ko").write_bytes(unpacked(one))
    assert ".debug_info" not in sections(tmp_path / "hello.ko")
    told = subprocess.run(["/usr/sbin/modinfo", one], capture_output=True, text=True, check=True).stdout
    hash_name = next(
        line.split("=")[1].strip('"')
        for line in (built.tree / "include/config/auto.conf").read_text().splitlines()
        if line.startswith("CONFIG_MODULE_SIG_HASH=")
    )
    assert f"sig_hashalgo:   {hash_name}" in told


def test_the_key_may_come_by_the_environment_and_is_never_shown(
    built: Built, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGN_KEY", str(keys / "key.pem"))
    monkeypatch.setenv("SIGN_CERT", str(keys / "cert.pem"))
    built.make("install", DESTDIR=tmp_path, MODULE_DIR="/m")
    done = built.make("finish", DESTDIR=tmp_path, MODULE_DIR="/m")
    check_signature((tmp_path / "m/hello.ko").read_bytes(), keys / "cert.pem", tmp_path)
    assert "key.pem" not in done.stdout + done.stderr


def test_finish_signs_with_a_key_of_a_token(built: Built, keys: Path, tmp_path: Path) -> None:
    need("softhsm2-util", "openssl")
    told = subprocess.run(["openssl", "version", "-e"], capture_output=True, text=True, check=True).stdout
    library = next(Path("/usr/lib").glob("**/libsofthsm2.so"), None)
    if not Path(told.split('"')[1], "pkcs11.so").exists() or not library:
        lacking("not installed: libengine-pkcs11-openssl, softhsm2")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    token = {"SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf"), "PKCS11_MODULE_PATH": str(library)}
    for words in (
        ["--init-token", "--free", "--label", "t", "--so-pin", "4711", "--pin", "9753"],
        ["--import", keys / "key.pem", "--token", "t", "--label", "k", "--id", "01", "--pin", "9753"],
    ):
        subprocess.run(["softhsm2-util", *words], env={**os.environ, **token}, check=True, capture_output=True)
    made = {}
    for name, key in (("token", "pkcs11:token=t;object=k;type=private"), ("file", str(keys / "key.pem"))):
        built.make("install", DESTDIR=tmp_path / name, MODULE_DIR="/m")
        done = subprocess.run(
            ["make", "-f", "pkgkmod.mk", "finish", f"DESTDIR={tmp_path / name}", "MODULE_DIR=/m", "SIGN_HASH=sha256"],
            cwd=built.folder,
            env={
                **os.environ,
                **token,
                "KBUILD_SIGN_PIN": "9753",
                "SIGN_FILE": str(sign_file_with_engine()),
                "SIGN_KEY": key,
                "SIGN_CERT": str(keys / "cert.pem"),
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert key not in done.stdout + done.stderr
        assert "9753" not in done.stdout + done.stderr
        made[name] = (tmp_path / name / "m/hello.ko").read_bytes()
    check_signature(made["token"], keys / "cert.pem", tmp_path)
    assert made["token"] == made["file"]


FAILURES = {
    "strip fails": ({"STRIP": "false"}, ""),
    "no such strip": ({"STRIP": "/nonexistent/strip"}, "not found"),
    "unknown compression": ({"COMPRESS": "bz2"}, "must be none, gz, xz or zst"),
    "no key": ({"SIGN_KEY": "/nonexistent/key", "SIGN_CERT": "{keys}/cert.pem"}, "SIGN_KEY cannot be read"),
    "no certificate": ({"SIGN_KEY": "{keys}/key.pem"}, "SIGN_CERT cannot be read"),
    "no key in the file": ({"SIGN_KEY": "{keys}/cert.pem", "SIGN_CERT": "{keys}/cert.pem"}, "could not be signed"),
    "unknown hash": (
        {"SIGN_KEY": "{keys}/key.pem", "SIGN_CERT": "{keys}/cert.pem", "SIGN_HASH": "sha000"},
        "could not be signed",
    ),
    "no sign-file": (
        {"SIGN_KEY": "{keys}/key.pem", "SIGN_CERT": "{keys}/cert.pem", "SIGN_FILE": "/nonexistent/sign"},
        "SIGN_FILE is no program",
    ),
    "a stand-in for sign-file that does nothing": (
        {"SIGN_KEY": "{keys}/key.pem", "SIGN_CERT": "{keys}/cert.pem", "SIGN_FILE": "/bin/true"},
        "was not signed",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_module_that_cannot_be_finished_stays_as_it_was(name: str, built: Built, keys: Path, tmp_path: Path) -> None:
    variables, message = FAILURES[name]
    built.make("install", DESTDIR=tmp_path, MODULE_DIR="/m")
    before = (tmp_path / "m/hello.ko").read_bytes()
    given = {"COMPRESS": "xz"} | {key: value.format(keys=keys) for key, value in variables.items()}
    done = built.make("finish", code=2, DESTDIR=tmp_path, MODULE_DIR="/m", **given)
    assert message in done.stderr
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["hello.ko"]
    assert (tmp_path / "m/hello.ko").read_bytes() == before


def test_no_module_is_an_error(built: Built, tmp_path: Path) -> None:
    assert "there is no folder" in built.make("finish", code=2, DESTDIR=tmp_path, MODULE_DIR="/m").stderr
    (tmp_path / "m").mkdir()
    assert "there is no module" in built.make("finish", code=2, DESTDIR=tmp_path, MODULE_DIR="/m").stderr
    assert not list((tmp_path / "m").iterdir())


def test_what_a_stand_in_for_sign_file_says_about_its_key_is_not_shown(
    built: Built, keys: Path, tmp_path: Path
) -> None:
    (tmp_path / "sign").write_text('#!/bin/sh\necho "cannot open $2" >&2\necho "the token is locked" >&2\nexit 1\n')
    (tmp_path / "sign").chmod(0o755)
    built.make("install", DESTDIR=tmp_path, MODULE_DIR="/m")
    signing = {"SIGN_KEY": "pkcs11:token=t?pin-value=9753", "SIGN_CERT": keys / "cert.pem", "SIGN_HASH": "sha256"}
    done = built.make("finish", code=2, DESTDIR=tmp_path, MODULE_DIR="/m", SIGN_FILE=tmp_path / "sign", **signing)
    assert "9753" not in done.stdout + done.stderr
    assert "the token is locked" in done.stderr


# --- firmware, devel, sources, greylist -------------------------------------------------------------


def test_firmware_keeps_its_names_and_folders(built: Built, tmp_path: Path) -> None:
    built.make("install-firmware", DESTDIR=tmp_path, FIRMWARE_DIR="/lib/firmware")
    top = tmp_path / "lib/firmware"
    assert {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()} == {
        name: name for name in FIRMWARE
    }
    assert {path.stat().st_mode & 0o777 for path in top.rglob("*") if path.is_file()} == {0o644}
    assert (top / "intel").stat().st_mode & 0o777 == 0o755
    assert not list(built.folder.rglob("pwned"))


def test_firmware_that_is_not_there_is_an_error(built: Built, tmp_path: Path) -> None:
    shutil.copy(built.folder / "pkgkmod.mk", tmp_path)
    shutil.copy(built.folder / "pkgkmod-options.mk", tmp_path)
    argv = ["make", "-f", "pkgkmod.mk", "install-firmware", f"DESTDIR={tmp_path}/d", "FIRMWARE_DIR=/f"]
    assert subprocess.run(argv, cwd=tmp_path, capture_output=True).returncode


def test_another_driver_builds_on_the_devel_package(built: Built, tmp_path: Path) -> None:
    built.make("install-devel", DESTDIR=tmp_path, DEVEL_DIR="/usr/src/hello")
    devel = tmp_path / "usr/src/hello"
    assert sorted(str(p.relative_to(devel)) for p in devel.rglob("*") if p.is_file()) == sorted(
        [f"{built.kernel}/Module.symvers", "include/linux/hello.h"]
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "Makefile").write_text("obj-m := user.o\n")
    (other / "user.c").write_text(
        "#include <linux/module.h>\n#include <linux/hello.h>\nstatic int __init f(void) { return hello_times(1); }\n"
        'module_init(f);\nMODULE_LICENSE("GPL");\n'
    )
    argv = ["make", "-C", built.tree, f"M={other}", f"KCPPFLAGS=-I{devel}/include", "modules"]
    symbols = f"KBUILD_EXTRA_SYMBOLS={devel}/{built.kernel}/Module.symvers"
    done = subprocess.run([*argv, symbols], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    depends = subprocess.run(["/usr/sbin/modinfo", "-F", "depends", other / "user.ko"], capture_output=True, text=True)
    assert depends.stdout.strip() == "hello"


def test_sources_lie_where_debug_information_names_them(built: Built, tmp_path: Path) -> None:
    built.make("install-sources", DESTDIR=tmp_path)
    top = tmp_path / "usr/src/kmods/hello-1.2" / FOLDER
    assert (top / "hello.c").read_text() == "/* patched */\n" + SOURCE
    assert (top / "include/linux/hello.h").read_text() == HEADER
    assert not (top / "Makefile").exists()
    module = built.folder / "modules" / built.kernel / "hello.ko"
    told = subprocess.run(["readelf", "--debug-dump=info", module], capture_output=True, text=True).stdout
    assert f"/usr/src/kmods/hello-1.2/{FOLDER}/hello.c" in told


def test_greylist_names_what_is_not_promised(built: Built, tmp_path: Path) -> None:
    list_file = tmp_path / "stable list"
    list_file.write_text("[rhel9_x86_64_stablelist]\n\t_printk\n\t__fentry__\n")
    assert built.make("greylist").stdout == ""
    shutil.copy(list_file, tmp_path / "list")
    symbols = built.make("greylist", STABLELIST=tmp_path / "list").stdout.split()
    assert "_printk" not in symbols
    assert "module_layout" in symbols
    assert "hello_times" not in symbols


def test_two_headers_of_one_place_are_refused(built: Built, tmp_path: Path) -> None:
    twins = tmp_path / "imported/tree/drivers"
    for name in ("a", "b"):
        (twins / name / "include").mkdir(parents=True)
        (twins / name / "include/x.h").touch()
        (twins / name / "Makefile").write_text(f"obj-m += {name}.o\n")
    (tmp_path / "imported/provenance.json").touch()
    project = make_project(name="x").model_copy(
        update={"source": Source(directories=("drivers",)), "devel": Devel(enabled=True)}
    )
    (twins / "Makefile").write_text("obj-m += a/ b/\n")
    with pytest.raises(ConfigError, match=r"include/x\.h"):
        pack(project, tmp_path, tmp_path / "x.tar.xz")
    assert not (tmp_path / "x.tar.xz").exists()


def test_patches_and_firmware_are_in_a_strict_archive(built: Built) -> None:
    with tarfile.open(built.archive) as members:
        names = set(members.getnames())
    assert {"hello-1.2/pkgkmod-patches/series", *(f"hello-1.2/firmware/{name}" for name in FIRMWARE)} <= names
    deps = built.folder / "pkgkmod-deps"
    assert deps.stat().st_mode & 0o777 == 0o755
    assert deps.read_text().startswith("#!/usr/bin/python3\n")


def test_firmware_needs_its_place_in_the_archive(tmp_path: Path) -> None:
    driver = tmp_path / "imported/tree/firmware/x"
    driver.mkdir(parents=True)
    (driver / "Makefile").write_text("obj-m += x.o\n")
    (tmp_path / "imported/provenance.json").touch()
    (tmp_path / "base/firmware").mkdir(parents=True)
    project = make_project(name="x").model_copy(update={"source": Source(directories=("firmware/x",))})
    pack(project, tmp_path, tmp_path / "x.tar.xz")
    (tmp_path / "base/firmware/x.bin").touch()
    with pytest.raises(ConfigError, match="a folder called firmware"):
        pack(project, tmp_path, tmp_path / "y.tar.xz")


def test_a_changed_firmware_file_makes_the_recipe_anew(hello: Driver, kernel: str, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", hello, kernel)
    (folder / "firmware").mkdir()
    file = folder / "firmware/hello world.bin"
    file.write_text("1")
    pkgkmod("generate_debian", cwd=folder)

    def action() -> object:
        (event,) = (e for e in pkgkmod("plan", "--json", cwd=folder).events if e.get("stage") == "generate_debian")
        return event["action"]

    assert action() == "SKIP"
    file.write_text("2")
    assert action() == "RUN"
    (folder / "firmware/passwd").symlink_to("/etc/passwd")
    assert "leads out" in pkgkmod("generate_debian", cwd=folder, code=3).err
