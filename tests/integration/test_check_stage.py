"""The stage `check`: a part of build, silent where all is well, and what fails it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pkgkmod.model.verdict import Verdict
from tests.fixtures.archive_drivers import tp_smapi
from tests.fixtures.machine import hello, need, pkgkmod, project
from tests.fixtures.signing import new_key

pytestmark = pytest.mark.xdist_group("check-stage")


@pytest.fixture(scope="module")
def template(tmp_path_factory, kernel):
    """A project of the example driver, built for Debian."""
    need("bwrap", "make", "dpkg-buildpackage", "rpmbuild")
    folder = tmp_path_factory.mktemp("check")
    project(folder / "p", hello(folder / "repository"), kernel)
    first = pkgkmod("build", cwd=folder / "p")
    assert "KMOD" not in first.out + first.err, "a project whose modules are fine hears nothing"
    return folder


@pytest.fixture
def built(template, tmp_path):
    return Path(shutil.copytree(template / "p", tmp_path / "p", symlinks=True))


def verdicts(folder: Path, state: str = "ok") -> list[Verdict]:
    """Return what results of the stage in that state say."""
    found = []
    for file in sorted(folder.glob("results/check/*/*/*/result.json")):
        if json.loads(file.read_text())["state"] == state:
            found.append(Verdict.model_validate_json((file.parent / "verdict.json").read_text()))
    return found


def settings(folder: Path, text: str) -> None:
    with (folder / "pkgkmod.toml").open("a") as file:
        file.write(text)


def test_build_checks_each_job_and_does_it_once(built, kernel):
    found = verdicts(built)
    assert [one.target for one in found] == ["debian12", f"el9/{kernel}"]
    for verdict in found:
        (module,) = verdict.modules
        assert (module.name, module.kernel, module.license, module.parameters) == ("hello", kernel, "GPL", ("whom",))
        assert module.package.endswith((".deb", ".rpm"))
        assert {one.severity for one in verdict.findings} <= {"note"}
    assert pkgkmod("plan", "check", cwd=built).out.count("SKIP  check") == 2
    assert "ok check debian12" in pkgkmod("status", cwd=built).out


def test_the_same_packages_have_the_same_verdict(built):
    before = [file.read_bytes() for file in sorted(built.glob("results/check/*/*/*/verdict.json"))]
    pkgkmod("build", "-C", 'check.ignore=["KMOD999"]', cwd=built)
    shutil.rmtree(built / "results/check")
    pkgkmod("build", "--no-reuse", cwd=built)
    assert [file.read_bytes() for file in sorted(built.glob("results/check/*/*/*/verdict.json"))] == before


def test_errors_fail_the_build_and_stay_readable(built, tmp_path):
    certificate = new_key(tmp_path, "somebody").certificate
    settings(built, f'\n[check]\ncertificate = "{certificate}"\n')
    done = pkgkmod("build", "--target", "debian12", cwd=built, code=23)
    assert "KMOD060" in done.err and "check.ignore" in done.err
    (verdict,) = verdicts(built, "failed")
    assert [one.code for one in verdict.findings if one.severity == "error"] == ["KMOD060"]
    done = pkgkmod("check", "--target", "debian12", cwd=built, code=23)
    assert "error KMOD060: it is not signed, where CN=somebody" in done.out
    done = pkgkmod("build", "--target", "debian12", "-C", "check.level=warn", cwd=built)
    assert "warning: KMOD060" in done.err
    pkgkmod("build", "--target", "debian12", "-C", 'check.ignore=["KMOD060"]', cwd=built)
    pkgkmod("build", "--target", "debian12", "-C", "check.level=off", cwd=built)
    assert "check" not in pkgkmod("plan", "-C", "check.level=off", cwd=built).out


def test_the_command_tells_what_was_found_before_again(built):
    first, second = (pkgkmod("check", "-v", cwd=built).out for _ in range(2))
    assert first == second
    assert "KMOD063: it is not signed" in first and first.endswith("no errors, 4 notes\n")
    events = pkgkmod("check", "--json", "--sarif", "out.sarif", cwd=built).events
    assert {event["event"] for event in events} >= {"checked-module", "finding"}
    assert (built / "out.sarif").exists()


def test_signed_modules_are_verified_with_the_certificate_of_the_project(built, tmp_path):
    made = new_key(tmp_path, "Acme")
    settings(built, f'\n[signing]\nmodule_key = "{made.key}"\nmodule_certificate = "{made.certificate}"\n')
    done = pkgkmod("check", "-v", "--target", "debian12", cwd=built)
    assert "KMOD06" not in done.out
    signed = [module for verdict in verdicts(built) for module in verdict.modules if module.signer]
    assert signed and all(module.signer.startswith("CN=Acme") for module in signed)
    (tmp_path / "other").mkdir()
    other = new_key(tmp_path / "other", "Other").certificate
    done = pkgkmod("check", "--target", "debian12", "--certificate", other, cwd=built, code=23)
    assert "KMOD061" in done.out and "expected:  CN=Other" in done.out


def test_symbols_of_a_required_project_are_there(tmp_path, kernel):
    first, second = tp_smapi()
    one, two = tmp_path / "one", tmp_path / "two"
    only = f'kernels = ["{kernel}"]'
    for folder, driver, more in (
        (one, first, "[devel]\nenabled = true\n"),
        (two, second, '[[requires]]\nproject = "../one"\n'),
    ):
        folder.mkdir()
        (folder / "pkgkmod.toml").write_text(
            f'[project]\nname = "{driver.name.replace("_", "-")}"\n[source]\nrepository = "{driver.repository}"\n'
            f'revision = "{driver.commit}"\ndirectories = ["{driver.directory}"]\n'
            f'[[target]]\ndistro = "debian12"\n{only}\n{more}'
        )
    pkgkmod("build_modules", cwd=one)
    done = pkgkmod("check", cwd=two)
    assert "2 modules" in done.out and "no errors" in done.out
    (deb,) = two.glob(f"results/build_deb/*/*/*/*-{kernel}_*.deb")
    assert "KMOD030" in pkgkmod("check", deb, cwd=tmp_path, code=23).out
    pkgkmod("check", deb, "--with", one / "results/build_modules", cwd=tmp_path)
