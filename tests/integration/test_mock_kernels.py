"""The repository of kernels for mock's root: made by the real createrepo_c, and read by the real dnf.

mock itself is not packaged for Debian, and no packages of Red Hat are in reach: the kernel-devel is a stand-in.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pkgkmod.builders.mock import MockBuilder
from pkgkmod.builders.mock.kernels import kernel_packages, key_name, local_repository
from pkgkmod.cachefolder import cache_folder
from pkgkmod.config.load import load
from pkgkmod.errors import ConfigError, KernelError
from pkgkmod.kernels.roots import prune
from pkgkmod.kernels.rpmmd import RpmMdKernels
from pkgkmod.kernels.store import Store
from pkgkmod.model.artifacts import Package, PackageSet
from pkgkmod.model.job import Job
from pkgkmod.model.kernel import Compiler, Kernel, KernelOffer
from pkgkmod.model.project import Project
from pkgkmod.packages.providers import devel_rpms
from pkgkmod.plugins import JobUnit
from pkgkmod.progress import Progress
from pkgkmod.workspace import Workspace
from tests.fixtures.aptrepo import key
from tests.fixtures.machine import need
from tests.fixtures.packaging import make_job, make_project
from tests.fixtures.rpmrepo import build_rpm, publish, small_kernel
from tests.fixtures.rpmroots import RED_HAT, ScratchRoot, dnf
from tests.fixtures.stubkernels import base_system

RELEASE = "5.14.0-1.el9.x86_64"


@dataclass(frozen=True)
class Served:
    """A small kernel-devel in a repository."""

    folder: Path
    offer: KernelOffer

    @property
    def kernel(self) -> Kernel:
        """The kernel, as if its build tree had been read."""
        tree = Path("/usr/src/kernels", RELEASE)
        return Kernel(
            self.offer.release, "x86_64", tree, "rpm-md", self.offer.identity, Compiler("gcc", 12, ""), offer=self.offer
        )


@pytest.fixture
def served(tmp_path: Path) -> Served:
    need("rpmbuild", "createrepo_c", "dnf")
    url = publish(tmp_path / "served", small_kernel(tmp_path / "made"))
    settings = {"repositories": [{"baseurl": url}]}
    (offer,) = RpmMdKernels().offers(settings, tmp_path, ask=True, progress=Progress())
    return Served(tmp_path / "served", offer)


def unit(base: Path, kernel: Kernel, **mock: object) -> JobUnit:
    """Return a job for one kernel with the builder mock."""
    whole = Project.model_validate({**make_project().model_dump(exclude_none=True), "mock": mock})
    job: Job = replace(make_job("el9", (RELEASE,), whole), kernels=(kernel,))
    return JobUnit(whole, base, job)


def test_dnf_installs_the_kernel_of_the_repository(tmp_path: Path, served: Served) -> None:
    home = local_repository(kernel_packages([served.kernel]), {}, Progress())
    root = ScratchRoot(tmp_path / "root", RED_HAT)
    root.install(base_system())
    done = dnf(root, home, "install", f"kernel-devel-uname-r = {RELEASE}")
    assert done.accepted, done.text
    assert f"kernel-devel-{RELEASE}" in done.installed
    refused = dnf(root, home, "install", "kernel-devel-uname-r = 5.14.0-2.el9.x86_64")
    assert not refused.accepted


def test_it_is_made_once_and_anew_when_it_was_changed(served: Served) -> None:
    packages = kernel_packages([served.kernel])
    made = [local_repository(packages, {}, Progress())]
    before = {path: path.read_bytes() for path in made[0].rglob("*") if path.is_file()}
    (package,) = made[0].glob("Packages/*.rpm")
    assert package.samefile(Store().package_file(packages[0], Progress())), "the store's own file"
    shutil.rmtree(served.folder)
    made.append(local_repository(packages, {}, Progress()))
    (made[0] / "repodata/repomd.xml").write_text("")
    made.append(local_repository(packages, {}, Progress()))
    assert {path: path.read_bytes() for path in made[0].rglob("*") if path.is_file()} == before
    assert len(set(made)) == 1
    assert prune(cache_folder(), None, dry_run=False)[0][0] == made[0]
    assert not made[0].exists()


def test_a_package_that_was_changed_in_the_store_is_fetched_again(served: Served) -> None:
    (package,) = served.offer.packages
    file = Store().package_file(package, Progress())
    file.chmod(0o644)
    file.write_bytes(b"something else")
    assert hashlib.sha256(Store().package_file(package, Progress()).read_bytes()).hexdigest() == package.sha256
    file.chmod(0o644)
    file.write_bytes(b"something else")
    shutil.rmtree(served.folder)
    with pytest.raises(KernelError, match="cannot be had"):
        Store().package_file(package, Progress())


@contextmanager
def at_work(unit: JobUnit) -> Iterator[Path]:
    with MockBuilder().at_work(unit, Progress()) as folder:
        yield folder.parent / "mock.cfg"


def test_the_configuration_names_the_repository_and_the_keys_beside_it(tmp_path: Path, served: Served) -> None:
    (tmp_path / "here.cfg").write_text("config_opts['root'] = 'x'\n")
    shutil.copyfile(key("rpm").armored, tmp_path / "vendor.asc")
    (tmp_path / "not.asc").write_text("nothing")
    user = {"user": "nobody"} if os.geteuid() == 0 else {}
    mock = {"config": "here.cfg", **user}
    repositories = [{"baseurl": "https://h/", "name": "vendor", "gpgkey": "vendor.asc"}]
    with at_work(unit(tmp_path, served.kernel, **mock, repositories=repositories)) as config:
        text = config.read_text()
    name = key_name((tmp_path / "vendor.asc").read_bytes())
    (home,) = (cache_folder() / "roots").glob("mock-*")
    assert f"baseurl=file://{home}\\n" in text and f"gpgkey=file://{home}/keys/{name}\\n" in text
    assert (home / "keys" / name).read_bytes() == (tmp_path / "vendor.asc").read_bytes()
    with at_work(unit(tmp_path, served.kernel, **mock)) as again:
        assert f"include('{tmp_path / 'here.cfg'}')\n" in again.read_text()
    assert not again.exists()
    for wrong in ("not.asc", "absent.asc", "../../../../dev/zero"):
        bad = [{"baseurl": "https://h/", "gpgkey": wrong}]
        with pytest.raises(ConfigError, match="key"), at_work(unit(tmp_path, served.kernel, **mock, repositories=bad)):
            pass


def test_kernels_of_folders_are_left_to_the_roots_own_repositories(tmp_path: Path, served: Served) -> None:
    (tmp_path / "here.cfg").write_text("config_opts['root'] = 'x'\n")
    user = {"user": "nobody"} if os.geteuid() == 0 else {}
    with at_work(unit(tmp_path, replace(served.kernel, offer=None), config="here.cfg", **user)) as config:
        assert "baseurl" not in config.read_text()


def test_devel_packages_of_required_projects_are_in_the_repository(tmp_path: Path, served: Served) -> None:
    other = tmp_path / "other"
    other.mkdir()
    head = '[project]\nname = "{}"\n[source]\nrepository = "/x"\ndirectories = ["x"]\n'
    (other / "pkgkmod.toml").write_text(head.format("other") + '[devel]\nenabled = true\n[[target]]\ndistro = "el9"\n')
    base = tmp_path / "base"
    base.mkdir()
    (base / "pkgkmod.toml").write_text(head.format("base") + '[[requires]]\nproject = "../other"\n')
    whole = load(base / "pkgkmod.toml").project
    assert devel_rpms(whole, "el9", base) == ()
    made = {name: build_rpm(tmp_path / "built", name, "1-1") for name in ("kmod-other", "kmod-other-devel")}
    packages = tuple(
        Package(file=path.name, name=name, version="1-1", arch="x86_64", kind="binary", size=1)
        for name, path in made.items()
    )
    workspace = Workspace(other)
    with workspace.draft() as draft:
        for path in made.values():
            shutil.copyfile(path, draft.folder / path.name)
        found = PackageSet(format="rpm", packages=packages, kernels=(RELEASE,), source_date_epoch=1)
        workspace.save(
            draft,
            key=("build_rpm", "el9", RELEASE),
            fingerprint="f" * 64,
            ingredients={},
            inputs={},
            state="ok",
            artifact=found.model_dump(mode="json"),
        )
    assert [path.name for path in devel_rpms(whole, "el9", base)] == [made["kmod-other-devel"].name]
    assert devel_rpms(whole, "el8", base) == ()
    home = local_repository(kernel_packages([served.kernel]), {}, Progress(), more=devel_rpms(whole, "el9", base))
    root = ScratchRoot(tmp_path / "root", RED_HAT)
    root.install(base_system())
    assert dnf(root, home, "install", "kmod-other-devel").accepted


def test_a_program_that_cannot_be_killed_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from pkgkmod import command

    def refuse(*_: object) -> None:
        raise PermissionError

    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    monkeypatch.setattr(command, "_PATIENCE", 0.01)
    with monkeypatch.context() as patched:
        patched.setattr(os, "killpg", refuse)
        command._end(process)
        assert process.poll() is None
    command._end(process)
    assert process.poll() == -9
