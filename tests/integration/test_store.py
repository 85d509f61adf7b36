"""The store of kernels: several processes, damage, kills, pruning; and modules compiled for what it holds."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pkgkmod.command import run
from pkgkmod.errors import KernelError
from pkgkmod.kernels.apt import AptKernels
from pkgkmod.kernels.inplace import in_place
from pkgkmod.kernels.store import Store
from pkgkmod.kernels.tree import read_kernel
from pkgkmod.model.kernel import Kernel, KernelOffer, PackageFile
from pkgkmod.model.project import Build, Source
from pkgkmod.modules.buildfolder import write_build_folder
from pkgkmod.modules.compile import compile_command
from pkgkmod.modules.survey import survey
from pkgkmod.progress import Progress
from tests.fixtures.aptrepo import Archive, Headers, Server, key, make_deb, serve
from tests.fixtures.gitrepos import Listener
from tests.fixtures.machine import CHECKOUT, lacking
from tests.fixtures.packaging import make_project

PLUGIN = AptKernels()
RELEASE = "6.1.0-1-amd64"
HEADERS = "usr/src/linux-headers-6.1.0-1"


def offer_of(archive: Archive, release: str, uri: str = "") -> KernelOffer:
    entry = archive.entry(f"signed-by={key().public}", uri=uri)
    found = PLUGIN.offers({"archives": [entry]}, Path("/"), ask=True, progress=Progress())
    return next(offer for offer in found if offer.uname_r == release)


@pytest.fixture(scope="module")
def real(debs: Headers, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """An archive of real header packages."""
    archive = Archive(tmp_path_factory.mktemp("real") / "debian")
    archive.add(*debs.files)
    archive.publish()
    return archive


@pytest.fixture(scope="module")
def fetched(debs: Headers, real: Archive, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Kernel]:
    """A store with a real kernel."""
    store = Store(tmp_path_factory.mktemp("store") / "kernels")
    return store, store.fetch(offer_of(real, debs.release), PLUGIN, Progress())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """An archive of small packages that stand in for real ones: what the store reads of a kernel is there."""
    folder = tmp_path_factory.mktemp("small")
    tree = {
        "Makefile": f"include /{HEADERS}-common/Makefile\n",
        ".config": 'CONFIG_X86_64=y\nCONFIG_64BIT=y\nCONFIG_GCC_VERSION=120200\nCONFIG_CC_VERSION_TEXT="gcc-12"\n',
        "Module.symvers": "",
        "include/generated/utsrelease.h": f'#define UTS_RELEASE "{RELEASE}"\n',
    }
    archive = Archive(folder / "debian")
    archive.add(
        make_deb(
            folder,
            {f"{HEADERS}-amd64/{name}": text for name, text in tree.items()},
            Package=f"linux-headers-{RELEASE}",
            Version="6.1.4-1",
            Depends="linux-headers-6.1.0-1-common (= 6.1.4-1)",
        ),
        make_deb(
            folder,
            {f"{HEADERS}-common/Makefile": "all:\n", f"{HEADERS}-common/include/linux/module.h": "int x;\n"},
            Package="linux-headers-6.1.0-1-common",
            Version="6.1.4-1",
            Architecture="all",
        ),
    )
    archive.publish()
    return archive


@pytest.fixture
def offer(small: Archive) -> KernelOffer:
    return offer_of(small, RELEASE)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "kernels")


def place_of(store: Store, package: PackageFile) -> Path:
    return store.folder / "packages" / package.sha256


# Fetching -------------------------------------------------------------------------------------------------------------


def test_a_real_kernel(fetched: tuple[Store, Kernel], debs: Headers) -> None:
    store, kernel = fetched
    assert (kernel.uname_r, kernel.arch, kernel.source) == (debs.release, "x86_64", "apt")
    assert kernel.offer and store.has(kernel.offer) and kernel.identity == kernel.offer.identity
    assert kernel.tree == Path(f"/usr/src/linux-headers-{debs.release}")
    assert {str(mount.target) for mount in kernel.mounts} == {
        f"/usr/src/{debs.names[0]}",
        f"/usr/src/{debs.names[1]}",
        f"/usr/lib/{debs.names[2]}",
    }
    assert all(mount.source.is_relative_to(store.folder) for mount in kernel.mounts)
    assert kernel.also_needs == (Path(f"/usr/src/{debs.names[1]}"),)
    assert kernel.compiler and str(kernel.compiler) == "gcc 12"
    assert (kernel.place / "Module.symvers").is_file()
    # What is read once is the same when it is taken from the record.
    assert store.kernel(kernel.offer) == kernel
    assert Store(store.folder).kernel(kernel.offer) == kernel
    assert sum(entry.bytes for entry in store.entries()) > 40_000_000
    assert {entry.package for entry in store.entries()} == set(kernel.offer.packages)


def test_everybody_may_read_and_nobody_write(store: Store, offer: KernelOffer) -> None:
    """Small packages stand in for real ones."""
    before = os.umask(0o077)
    try:
        store.fetch(offer, PLUGIN, Progress())
    finally:
        os.umask(before)
    for package in offer.packages:
        for path in place_of(store, package).rglob("*"):
            mode = path.stat().st_mode & 0o777
            assert mode in ((0o755,) if path.is_dir() else (0o444, 0o555, 0o644)), path
            assert path.name == "entry.json" or mode != 0o644


def test_a_kernel_whose_packages_hold_no_tree_of_it(store: Store, tmp_path: Path) -> None:
    """A small package stands in for a real one."""
    archive = Archive(tmp_path / "debian")
    archive.add(make_deb(tmp_path, Package="linux-headers-6.1.0-9-amd64", Version="1"))
    archive.publish()
    with pytest.raises(KernelError, match="hold no build tree for it"):
        store.fetch(offer_of(archive, "6.1.0-9-amd64"), PLUGIN, Progress())


def fetch_in_process(folder: Path, offer: KernelOffer, ready: object, report: object) -> None:
    ready.wait()  # type: ignore[attr-defined]
    try:
        kernel = Store(folder).fetch(offer, AptKernels(), Progress())
        report.put(f"{kernel.uname_r} {kernel.identity} {len(kernel.mounts)}")  # type: ignore[attr-defined]
    except BaseException as error:
        report.put(repr(error))  # type: ignore[attr-defined]
        raise


def test_several_processes_fetch_each_package_once(store: Store, real: Archive, debs: Headers) -> None:
    context = multiprocessing.get_context("fork")
    with serve(real.folder) as server:
        offer = offer_of(real, debs.release, server.url)
        server.answers.clear()
        ready, report = context.Barrier(3), context.Queue()
        arguments = (store.folder, offer, ready, report)
        processes = [context.Process(target=fetch_in_process, args=arguments) for _ in range(3)]
        for process in processes:
            process.start()
        said = [report.get(timeout=120) for _ in processes]
        for process in processes:
            process.join(timeout=60)
        assert [process.exitcode for process in processes] == [0, 0, 0]
        assert set(said) == {f"{debs.release} {offer.identity} 3"}
        assert sorted(server.answers) == sorted((package_path(server, p), 200) for p in offer.packages)
    assert not list((store.folder / "packages").glob(".*"))


def package_path(server: Server, package: PackageFile) -> str:
    return package.url.removeprefix(server.url)


# Damage ---------------------------------------------------------------------------------------------------------------


def spoil_content(place: Path) -> None:
    file = place / "root" / f"{HEADERS}-common/Makefile"
    file.chmod(0o644)
    file.write_text("xll:\n")


def spoil_name(place: Path) -> None:
    file = place / "root" / f"{HEADERS}-common/Makefile"
    file.rename(file.with_name("makefile"))


def spoil_more(place: Path) -> None:
    (place / "root" / f"{HEADERS}-common/include/linux/more.h").touch()


def spoil_entry(place: Path) -> None:
    (place / "entry.json").write_text("")


def spoil_no_entry(place: Path) -> None:
    (place / "entry.json").unlink()


def spoil_no_root(place: Path) -> None:
    shutil.rmtree(place / "root")


def spoil_all(place: Path) -> None:
    shutil.rmtree(place)


SPOILERS = (spoil_content, spoil_name, spoil_more, spoil_entry, spoil_no_entry, spoil_no_root, spoil_all)


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__.removeprefix("spoil_"))
def test_damage_is_noticed_and_repaired(spoil: object, store: Store, offer: KernelOffer, tmp_path: Path) -> None:
    """Small packages stand in for real ones."""
    kernel = store.fetch(offer, PLUGIN, Progress())
    quiet = Listener()
    store.repaired(kernel, PLUGIN, quiet)
    assert quiet.warnings == []
    common = offer.packages[1]
    spoil(place_of(store, common))  # type: ignore[operator]
    # Whoever takes the kernel from the store now still gets all its folders.
    if store.has(offer):
        assert store.kernel(offer) == kernel
    with pytest.raises(KernelError, match="damaged in the store, and its archive is not configured") as caught:
        store.repaired(kernel, None, Progress())
    assert "debian" in caught.value.details
    listener = Listener()
    store.repaired(kernel, PLUGIN, listener)
    assert listener.warnings == [f"{common.name} {common.version} is damaged in the store: it is fetched again"]
    assert (place_of(store, common) / "root" / f"{HEADERS}-common/Makefile").read_text() == "all:\n"
    assert store.has(offer) and store.kernel(offer) == kernel
    store.repaired(kernel, PLUGIN, quiet)
    assert quiet.warnings == []
    assert not list((store.folder / "packages").glob(".*"))


@pytest.mark.parametrize("spoil", [spoil_no_entry, spoil_all], ids=["no entry", "all"])
def test_fetch_replaces_what_is_not_whole(spoil: object, store: Store, offer: KernelOffer) -> None:
    """Small packages stand in for real ones."""
    kernel = store.fetch(offer, PLUGIN, Progress())
    spoil(place_of(store, offer.packages[0]))  # type: ignore[operator]
    assert not store.has(offer)
    assert store.fetch(offer, PLUGIN, Progress()) == kernel


def test_damage_that_cannot_be_repaired_leaves_the_error_of_the_archive(
    store: Store, tmp_path: Path, small: Archive
) -> None:
    """Small packages stand in for real ones."""
    shutil.copytree(small.folder, tmp_path / "gone")
    offer = offer_of(Archive(tmp_path / "gone"), RELEASE)
    kernel = store.fetch(offer, PLUGIN, Progress())
    shutil.rmtree(tmp_path / "gone")
    store.repaired(kernel, PLUGIN, Progress())  # nothing is asked for what is whole
    spoil_content(place_of(store, offer.packages[1]))
    with pytest.raises(KernelError, match="cannot be had"):
        store.repaired(kernel, PLUGIN, Progress())


def test_a_record_of_what_was_read_is_read_anew_if_it_is_damaged(store: Store, offer: KernelOffer) -> None:
    """Small packages stand in for real ones."""
    kernel = store.fetch(offer, PLUGIN, Progress())
    (record,) = store.folder.glob("known/*.json")
    for text in ("", "{}", "[]", "null", record.read_text().replace(RELEASE, "6.1.0-2-amd64")):
        record.write_text(text)
        assert store.kernel(offer) == kernel


# Kills ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def killed_when(store: Store, offer: KernelOffer, pattern: str) -> Iterator[None]:
    """Kill a process that fetches as soon as the store holds what fits a pattern."""
    context = multiprocessing.get_context("fork")
    process = context.Process(
        target=fetch_in_process, args=(store.folder, offer, context.Barrier(1), context.SimpleQueue())
    )
    process.start()
    until = time.monotonic() + 60
    while not next(iter(store.folder.glob(pattern)), None):
        assert process.is_alive() and time.monotonic() < until
        time.sleep(0.001)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    yield


@pytest.mark.parametrize("pattern", ["packages/.new-*/package", "packages/.new-*/root/usr/src/*/*"])
def test_a_kill_leaves_nothing_that_looks_like_an_entry(
    pattern: str, store: Store, real: Archive, debs: Headers
) -> None:
    offer = offer_of(real, debs.release)
    first = replace(offer, packages=offer.packages[:1])
    with killed_when(store, first, pattern):
        assert not store.has(first) and store.entries() == []
        assert list((store.folder / "packages").glob(".new-*"))
    # The same again: nothing of the first one is in its way. That the common headers were left out above is noticed,
    # even though this machine has them installed.
    with pytest.raises(KernelError, match=r"include .*-common, which is in none of them"):
        store.fetch(first, PLUGIN, Progress())
    assert store.has(first)
    # dpkg-deb may have outlived the process that started it; it ends soon.
    until = time.monotonic() + 60
    while list((store.folder / "packages").glob(".*")):
        assert time.monotonic() < until
        assert store.prune(unused_for=3600) == []
        time.sleep(0.1)
    assert store.has(first)


def test_kills_at_many_moments(store: Store, offer: KernelOffer) -> None:
    """Small packages stand in for real ones."""
    context = multiprocessing.get_context("fork")
    expected = Store(store.folder.with_name("undisturbed")).fetch(offer, PLUGIN, Progress())
    reached = set()
    for number in range(25):
        arguments = (store.folder, offer, context.Barrier(1), context.SimpleQueue())
        process = context.Process(target=fetch_in_process, args=arguments)
        process.start()
        time.sleep(number * 0.004)
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        reached.add(len(store.entries()))
        for entry in store.entries():
            assert {p.name for p in entry.folder.iterdir()} == {"root", "entry.json"}
    assert 0 in reached
    listener = Listener()
    kernel = store.fetch(offer, PLUGIN, Progress())
    store.repaired(kernel, PLUGIN, listener)
    assert listener.warnings == []
    assert [facts_of(mount.source) for mount in kernel.mounts] == [facts_of(m.source) for m in expected.mounts]
    store.prune(unused_for=3600)
    assert store.has(offer) and not list((store.folder / "packages").glob(".*"))


def facts_of(folder: Path) -> list[tuple[str, int, bytes]]:
    return [
        (str(path.relative_to(folder)), path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    ]


# Pruning --------------------------------------------------------------------------------------------------------------


def test_prune_by_age(store: Store, offer: KernelOffer) -> None:
    """Small packages stand in for real ones."""
    assert store.entries() == [] and store.prune(unused_for=0) == []
    kernel = store.fetch(offer, PLUGIN, Progress())
    old, young = offer.packages
    os.utime(place_of(store, old) / "entry.json", (time.time() - 1000,) * 2)
    assert [entry.package for entry in store.entries()] == [old, young]
    assert store.prune(unused_for=2000) == []
    assert [entry.package for entry in store.prune(unused_for=500, dry_run=True)] == [old]
    assert store.has(offer)
    # A build uses it.
    store.repaired(kernel, PLUGIN, Progress())
    assert store.prune(unused_for=500) == []
    os.utime(place_of(store, old) / "entry.json", (time.time() - 1000,) * 2)
    (removed,) = store.prune(unused_for=500)
    assert (removed.package, removed.bytes > 100) == (old, True)
    assert not store.has(offer) and [entry.package for entry in store.entries()] == [young]
    assert list(store.folder.glob("known/*")) == []
    assert store.fetch(offer, PLUGIN, Progress()) == kernel
    assert {entry.package for entry in store.prune(unused_for=0)} == {old, young}
    assert store.entries() == []


def test_prune_waits_for_runs_that_use_the_store(store: Store, offer: KernelOffer) -> None:
    """Small packages stand in for real ones."""
    store.fetch(offer, PLUGIN, Progress())
    context = multiprocessing.get_context("fork")
    with store.in_use():
        process = context.Process(target=Store(store.folder).prune, kwargs={"unused_for": 0})
        process.start()
        process.join(timeout=0.5)
        assert process.is_alive() and store.has(offer)
        # It does not keep one from looking.
        assert len(store.prune(unused_for=0, dry_run=True)) == 2
    process.join(timeout=30)
    assert process.exitcode == 0 and not store.has(offer)


# Compiling ------------------------------------------------------------------------------------------------------------


def compiled(kernel: Kernel, folder: Path, *, sandbox: bool) -> bytes:
    """Compile the example driver as a build does; return the module."""
    imported = folder / "imported"
    shutil.copytree(CHECKOUT / "examples/hello/drivers/misc/hello", imported / "tree/drivers/misc/hello")
    (imported / "provenance.json").write_text("{}\n")
    project = make_project(name="hello", version="1").model_copy(
        update={"source": Source(directories=("drivers/misc/hello",)), "build": Build(sandbox=sandbox)}
    )
    plan = survey(project, imported / "tree")
    write_build_folder(project, plan, imported, (), folder / "build")
    command = compile_command(folder / "build", kernel, project.build)
    if not sandbox:
        placed = in_place(kernel, folder / "kernel")
        command = compile_command(folder / "build", placed, project.build)
        command = replace(command, argv=(*command.argv, f"KERNEL_ROOT={folder / 'kernel'}"))
    done = run(command, log=folder / "log", progress=Progress())
    assert done.ok, (folder / "log").read_text()
    return (folder / "build/modules" / kernel.uname_r / "hello.ko").read_bytes()


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_a_module_for_the_store_is_the_one_for_the_installed_kernel(
    fetched: tuple[Store, Kernel], debs: Headers, tmp_path: Path
) -> None:
    store, kernel = fetched
    tree = Path(f"/usr/src/linux-headers-{debs.release}")
    installed = read_kernel(tree, "installed")
    if (tree / ".config").read_bytes() != (kernel.place / ".config").read_bytes():
        lacking("the installed headers are of another version than the downloaded ones")
    expected = compiled(installed, tmp_path / "installed", sandbox=True)
    assert debs.release.encode() in expected and str(tmp_path).encode() not in expected
    assert compiled(kernel, tmp_path / "store", sandbox=True) == expected
    before = {mount.source: digests(mount.source) for mount in kernel.mounts}
    assert compiled(kernel, tmp_path / "in-place", sandbox=False) == expected
    assert compiled(installed, tmp_path / "installed-in-place", sandbox=False) == expected
    # The links did not let make write into the store.
    assert {mount.source: digests(mount.source) for mount in kernel.mounts} == before
    quiet = Listener()
    store.repaired(kernel, None, quiet)
    assert quiet.warnings == []
