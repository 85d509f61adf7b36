"""akmod-NAME: akmods itself is in no archive of Debian, so its rpmbuild line (akmodsbuild, process_srpm) is run here as
it stands there, with two things added: where this machine has the build trees, and --nodeps.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from pathlib import Path

import pytest

from pkgkmod.formats.rpm import read_header
from tests.fixtures.families import family
from tests.fixtures.fedorakernels import ask, built, by_name
from tests.fixtures.machine import hello, lacking, need, pkgkmod
from tests.fixtures.rpmroots import ScratchRoot

AKMOD = "[rpm]\nakmod = true\n"
REAL = sorted(path.parent.name for path in Path("/lib/modules").glob("*-amd64/build") if "-rt-" not in path.parent.name)


@pytest.fixture(scope="module", params=["fedora", "el9"])
def packages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("akmod")
    driver = hello(folder / "git")
    if request.param == "fedora":
        return built(folder / "project", driver, AKMOD)
    pkgkmod("build", cwd=family(folder / "project", driver, "el9", AKMOD))
    return by_name(*folder.glob("project/results/build_rpm/*/*/*/*.rpm"))


@pytest.fixture(scope="module")
def unpacked(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's files, as a machine has them."""
    folder = tmp_path_factory.mktemp("installed")
    unpack(packages["akmod-hello"], folder)
    return folder / "usr/src/akmods"


def unpack(package: Path, folder: Path) -> None:
    archive = subprocess.run(["rpm2cpio", package], capture_output=True, check=True).stdout
    subprocess.run(["cpio", "-idm", "--quiet"], input=archive, cwd=folder, check=True)


def akmodsbuild(source: Path, kernel: str, folder: Path, **defines: str) -> list[Path]:
    """Run akmodsbuild's rpmbuild, and return what it would hand on for installation."""
    need("rpmbuild", "make", "gcc")
    folder.mkdir()
    trees = folder / "kernel-trees"
    trees.mkdir()
    (trees / kernel).symlink_to(Path(f"/lib/modules/{kernel}/build").resolve())
    for name in ("BUILD", "SOURCES", "SPECS", "SRPMS", "RPMS/x86_64"):
        (folder / name).mkdir(parents=True)
    line = {
        "_topdir": f"    {folder}/",
        "_buildtree": f" {folder}/BUILD",
        "_specdir": f"   {folder}/SPECS",
        "_sourcedir": f" {folder}/SOURCES",
        "_srcrpmdir": f" {folder}/SRPMS",
        "_rpmdir": f"    {folder}/RPMS",
        "_smp_mflags": "-j2",
        "kernels": f"    {kernel}",
    }
    added = {"kernel_trees": str(trees), "_dbpath": f"{folder}/db", **defines}
    words = [word for name, body in {**line, **added}.items() for word in ("--define", f"{name} {body}")]
    argv = ["rpmbuild", *words, "--target", "x86_64", "--nodeps", "--rebuild", source]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return sorted((folder / "RPMS/x86_64").iterdir())


def two_real_kernels() -> tuple[str, str]:
    series = {kernel.rsplit(".", 1)[0]: kernel for kernel in REAL}
    if len(series) < 2:
        lacking("headers of two series of kernels are not installed")
    return REAL[0], REAL[-1]


def test_the_package_is_the_source_package_and_a_link(packages: dict[str, Path], unpacked: Path) -> None:
    (source,) = unpacked.glob("*.src.rpm")
    link = unpacked / "hello-kmod.latest"
    assert link.is_symlink() and link.resolve() == source.resolve()
    assert {path.name for path in unpacked.iterdir()} == {source.name, link.name}
    header = read_header(source)
    assert header.arch == "src" and source.name == f"{header.name}-{header.version}-{header.release}.src.rpm"
    assert "akmods" in ask(packages["akmod-hello"], "--requires")
    assert set(read_header(source).files) == set(read_header(packages["src"]).files)


def test_it_is_the_very_source_package_that_was_built_beside_it(packages: dict[str, Path], unpacked: Path) -> None:
    (source,) = unpacked.glob("*.src.rpm")
    if packages["src"].name.startswith("kmod-"):
        # On EL, a package's release names its kernel, and this one is for none.
        assert read_header(source).release == "1.k0.el9"
        return
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in (source, packages["src"])}
    assert len(digests) == 1


def test_what_akmodsbuild_runs_for_two_real_kernels(unpacked: Path, tmp_path: Path) -> None:
    for number, kernel in enumerate(two_real_kernels()):
        (package,) = akmodsbuild(unpacked / "hello-kmod.latest", kernel, tmp_path / str(number))
        header = read_header(package)
        assert header.name in ("kmod-hello", f"kmod-hello-{kernel}")
        folder = f"/lib/modules/{kernel}/extra/hello"
        # akmods asks rpm which package owns this folder.
        assert folder in header.files
        (module,) = (name for name in header.files if name.startswith(f"{folder}/hello.ko"))
        unpack(package, tmp_path / str(number))
        vermagic = ["modinfo", "-F", "vermagic", tmp_path / str(number) / module.lstrip("/")]
        assert subprocess.run(vermagic, capture_output=True, text=True, check=True).stdout.split()[0] == kernel


def test_what_akmodsbuild_makes_is_signed_with_the_key_that_akmods_has(unpacked: Path, tmp_path: Path) -> None:
    kernel = two_real_kernels()[0]
    if not Path(f"/lib/modules/{kernel}/build/scripts/sign-file").exists():
        lacking("the kernel's headers have no sign-file")
    private, certificate = tmp_path / "keys/private/private_key.priv", tmp_path / "keys/certs/public_key.der"
    for path in (private, certificate):
        path.parent.mkdir(parents=True)
    # As kmodgenca makes them: a key in PEM's form, a certificate in DER's.
    subject = ("-subj", "/CN=akmods of a test", "-newkey", "rsa:2048", "-nodes", "-keyout", private)
    argv = ["openssl", "req", "-x509", "-batch", *subject, "-outform", "DER", "-out", certificate]
    subprocess.run(argv, check=True, capture_output=True)
    keys = {"akmods_keys": str(tmp_path / "keys")}
    (package,) = akmodsbuild(unpacked / "hello-kmod.latest", kernel, tmp_path / "build", **keys)
    unpack(package, tmp_path)
    (module,) = (tmp_path / "lib").rglob("hello.ko*")
    said = subprocess.run(["modinfo", "-F", "signer", module], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "akmods of a test"


# --- installing it; what akmods would do is done by stand-ins ---------------------------------------


def test_installing_it_starts_akmods_as_stand_in(packages: dict[str, Path], tmp_path: Path) -> None:
    root = ScratchRoot(tmp_path / "root")
    root.stand_in("/usr/sbin/akmods")
    root.stand_in("/usr/sbin/akmods-ostree-post", code=1)
    root.install(packages["akmod-hello"])
    (post,) = root.log("akmods-ostree-post")
    source = post.argv[1]
    assert post.argv[0] == "hello" and source.startswith("/usr/src/akmods/") and (root / source).is_file()
    # It is started in the background.
    deadline = time.monotonic() + 20
    while not (started := root.log("akmods")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [call.argv for call in started] == [("--from-akmod-posttrans", "--akmod", "hello")]
    root.erase("akmod-hello")
    assert not [path for path in root.files() if "akmods/" in path]


def test_a_machine_without_akmods_is_none_the_worse(packages: dict[str, Path], tmp_path: Path) -> None:
    root = ScratchRoot(tmp_path / "root")
    root.install(packages["akmod-hello"])
    assert root.log() == []
