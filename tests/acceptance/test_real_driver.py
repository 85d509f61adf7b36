"""The real e1000e, from its git hash to installed packages and a driver disk."""

import gzip
import hashlib
import json
import os
import re
import subprocess
import tarfile
from xml.etree import ElementTree

import pytest

from tests.fixtures.machine import made, need, pkgkmod, project

pytestmark = pytest.mark.xdist_group("e1000e")


def run(*argv, **more):
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def vermagic(file):
    need("modinfo")
    return run("modinfo", "-F", "vermagic", file).split()[0]


def test_the_rpm_installs_and_its_module_is_for_the_kernel(finished, kernel, tmp_path):
    need("rpm", "rpmbuild")
    rpm = made(finished, "*x86_64.rpm")
    assert rpm.name == f"kmod-acme-e1000e-1.0-1.k{kernel.replace('-', '_')}.el9.x86_64.rpm"
    root = ("--root", tmp_path / "root", "--dbpath", "/var/lib/rpm")
    alone = subprocess.run(["rpm", *map(str, root), "-i", str(rpm)], capture_output=True, text=True, check=False)
    assert alone.returncode, "without its kernel it must not install"
    assert kernel in alone.stderr
    stub = tmp_path / "stub.spec"
    needed = [line.split(" ")[0] for line in run("rpm", "-qpR", rpm).splitlines() if not line.startswith("rpmlib")]
    stub.write_text(
        "Name: stub-kernel\nVersion: 1\nRelease: 1\nSummary: s\nLicense: x\n"
        + "".join(f"Provides: {name}\n" for name in needed)
        + "%description\ns\n%files\n"
    )
    run("rpmbuild", "-bb", "--define", f"_topdir {tmp_path}/top", stub)
    (stub_rpm,) = (tmp_path / "top").rglob("stub-kernel*.rpm")
    run("rpm", *root, "--noscripts", "-i", stub_rpm, rpm)
    module = tmp_path / f"root/lib/modules/{kernel}/extra/e1000e/e1000e.ko"
    assert vermagic(module) == kernel
    override = (tmp_path / "root/etc/depmod.d/kmod-acme-e1000e.conf").read_text()
    assert override == "override e1000e * weak-updates/e1000e\n"
    run("rpm", *root, "-V", "--nodeps", "kmod-acme-e1000e")


def test_the_deb_installs_and_its_module_is_for_the_kernel(finished, kernel, tmp_path):
    need("dpkg")
    deb = made(finished, f"*-{kernel}_*.deb")
    assert deb.name == f"e1000e-modules-{kernel}_1.0-1~deb12_amd64.deb"
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    for name in ("status", "available"):
        (tmp_path / "var/lib/dpkg" / name).touch()
    (tmp_path / "var/lib/dpkg/info").mkdir()
    (tmp_path / "var/lib/dpkg/updates").mkdir()
    alone = ["dpkg", f"--root={tmp_path}", "--force-not-root", "--force-script-chrootless", "-i", str(deb)]
    refused = subprocess.run(alone, capture_output=True, text=True, check=False)
    assert refused.returncode
    assert f"linux-image-{kernel}" in refused.stderr
    run("dpkg", f"--root={tmp_path}", "--force-depends", "--force-not-root", "--force-script-chrootless", "-i", deb)
    assert vermagic(tmp_path / f"lib/modules/{kernel}/updates/e1000e/e1000e.ko") == kernel
    status = run("dpkg", f"--root={tmp_path}", "-s", f"e1000e-modules-{kernel}")
    assert "Status: install ok installed" in status
    run("dpkg", f"--root={tmp_path}", "--force-not-root", "--force-script-chrootless", "-P", f"e1000e-modules-{kernel}")
    assert not (tmp_path / f"lib/modules/{kernel}/updates").exists()


def test_the_disk_is_one_that_red_hats_installer_reads(finished, kernel, tmp_path):
    need("xorriso")
    iso = made(finished, "*.iso")
    about = run("xorriso", "-indev", iso, "-pvd_info", "-toc", stderr=None)
    assert re.search(r"Volume Id\s*: OEMDRV", about)
    listing = run("xorriso", "-indev", iso, "-find", "/", "-exec", "lsdl", "--", stderr=None)
    entries = [line.split(None, 8) for line in listing.splitlines() if line[:1] in "d-"]
    assert {e[0] for e in entries} == {"dr-xr-xr-x", "-r--r--r--"}
    assert {(e[2], e[3]) for e in entries} == {("0", "0")}
    names = {e[8].strip("'") for e in entries}
    rpm = made(finished, "*x86_64.rpm")
    assert {"/rhdd3", f"/rpms/x86_64/{rpm.name}", "/rpms/x86_64/repodata/repomd.xml"} <= names
    assert not any(name.endswith(".src.rpm") for name in names)
    run("xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", tmp_path / "disk", stderr=None)
    assert (tmp_path / "disk/rhdd3").read_text() == "Driver Update Disk version 3\n"
    told = (tmp_path / "disk/README.txt").read_text()
    assert f" {kernel}\n" in told
    assert f"inst.dd=http://SERVER/{iso.name}" in told
    on_disk = tmp_path / "disk/rpms/x86_64"
    assert (on_disk / rpm.name).read_bytes() == rpm.read_bytes()
    primary = next((on_disk / "repodata").glob("*primary.xml.gz"))
    package = ElementTree.fromstring(gzip.decompress(primary.read_bytes()))[0]
    space = {"c": "http://linux.duke.edu/metadata/common"}
    assert package.findtext("c:name", namespaces=space) == "kmod-acme-e1000e"
    assert package.findtext("c:checksum", namespaces=space) == hashlib.sha256(rpm.read_bytes()).hexdigest()
    # Rock Ridge is what the listing above read; Joliet is a second volume descriptor.
    assert iso.read_bytes()[17 * 2048 : 17 * 2048 + 6] == b"\x02CD001"


def test_the_disk_matches_the_running_kernel_as_anaconda_compares(finished, kernel):
    need("rpm")
    (provided,) = [
        line for line in run("rpm", "-qpP", made(finished, "*x86_64.rpm")).splitlines() if "kernel-modules" in line
    ]
    import rpm

    version = provided.split(" = ")[1]
    assert rpm.labelCompare(("0", kernel, ""), ("0", version, "")) == 0


def test_where_the_sources_are_from_is_in_the_source_packages(finished, e1000e):
    archives = sorted((finished / "results").glob("generate_*/*/*/*/*.tar.xz"))
    assert len(archives) == 2
    for archive in archives:
        with tarfile.open(archive) as members:
            provenance = json.load(members.extractfile("e1000e-1.0/provenance.json"))
        assert provenance["commit"] == e1000e.commit
        tree = run("git", "rev-parse", f"{e1000e.commit}:{e1000e.directory}", cwd=e1000e.repository).strip()
        assert [(d["path"], d["object_id"]) for d in provenance["directories"]] == [(e1000e.directory, tree)]


def test_a_second_build_does_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in (finished / "results").rglob("*")}
    events = pkgkmod("build", "--json", cwd=finished).events
    assert not [event for event in events if event["event"] in ("command", "step-started")]
    after = {path: path.stat().st_mtime_ns for path in (finished / "results").rglob("*")}
    assert {p: t for p, t in after.items() if p.is_file()} == {p: t for p, t in before.items() if p.is_file()}
    plan = pkgkmod("plan", "--json", cwd=finished).events
    assert {event["action"] for event in plan} == {"SKIP"}


def test_status_and_kconfig_tell(finished, kernel):
    stages = {event["stage"] for event in pkgkmod("status", "--json", cwd=finished).events}
    assert {"prepare_sources", "build_modules", "build_rpm", "build_deb", "build_iso"} <= stages
    options = {event["name"]: event for event in pkgkmod("kconfig", "--json", cwd=finished).events}
    assert (options["E1000E"]["value"], options["E1000E"]["origin"]) == ("m", "module")
    assert options["E1000E_HWTS"]["origin"] == "kernel"


def test_the_kernel_will_load_what_is_in_the_packages(finished, kernel):
    """Both formats have the module, in place of the kernel's own."""
    done = pkgkmod("predict", "--json", cwd=finished)
    found = [event for event in done.events if event["event"] == "prediction" and event["kernel"] == kernel]
    assert sorted(event["package"].rpartition(".")[2] for event in found) == ["deb", "rpm"]
    assert {(event["verdict"], *event["needs"]) for event in found} == {("loads",)}
    said = pkgkmod("predict", "--target", "el9", "--kernel", kernel, cwd=finished).out
    assert re.search(rf"^{kernel} +loads$", said, re.MULTILINE)


def test_compiling_in_the_package_builds_gives_the_same_bytes_elsewhere(finished, e1000e, kernel, tmp_path):
    other = project(tmp_path / "else where", e1000e, kernel)
    pkgkmod("build", "--from-source", "-j", "1", cwd=other)
    assert not (other / "results/build_modules").exists()
    for pattern in ("*x86_64.rpm", "*.src.rpm", f"*-{kernel}_*.deb", "*.dsc", "*.debian.tar.xz", "*.iso"):
        one, two = made(finished, pattern), made(other, pattern)
        assert one.read_bytes() == two.read_bytes(), pattern


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to step down from")
def test_nothing_is_left_of_root_in_the_results(finished):
    assert {path.stat().st_uid for path in (finished / "results").rglob("*")} == {0}
