"""Several real kernels at once: reproducible, safe to kill, pinned, and nothing built twice."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from tests.fixtures.machine import CHECKOUT, commit, head, hello, need, pkgkmod
from tests.fixtures.matrix import PATTERNS, outputs, several, small_cache


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return hello(tmp_path_factory.mktemp("driver") / "repository")


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """An empty cache of results, and the store that all tests share."""
    folder = small_cache(tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, driver):
    """What one quiet build makes: the content of all files."""
    base = tmp_path_factory.mktemp("undisturbed")
    folder = several(base / "project", driver)
    pkgkmod("build", cwd=folder, XDG_CACHE_HOME=str(small_cache(base / "cache")))
    return outputs(folder)


def kinds(files):
    return {Path(name).name.partition(".")[2].rpartition(".")[2] for name in files}


def different(one, other):
    assert one, "something was made"
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


ANOTHER_USER = 12345


def test_the_same_bytes_elsewhere_later_by_another_user_with_other_jobs(tmp_path, driver, undisturbed):
    """In a folder of another depth, with one job, another umask, time zone and language, at a later time."""
    assert {"ko", "rpm", "deb", "iso", "dsc", "xz", "spec"} <= kinds(undisturbed)
    base = tmp_path / "a much/deeper/place"
    folder = several(base / "project", driver)
    with another_user(tmp_path, driver.repository.parent) as words:
        done = subprocess.run(
            [*words, "sh", "-c", 'umask 077; exec "$0" -m pkgkmod build -j1 --no-reuse', sys.executable],
            cwd=folder,
            env={
                **{"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "HOME": str(base)},
                **{"XDG_CACHE_HOME": str(base / "cache"), "TZ": "Asia/Tokyo", "LANG": "tr_TR.UTF-8"},
            },
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    assert done.returncode == 0, done.stderr
    assert different(undisturbed, outputs(folder)) == []


@contextlib.contextmanager
def another_user(*folders):
    """Give folders to a user who is not root; return the words that run a command as that user.

    Where the checkout is closed to others, the command runs as the same user.
    """
    need("setpriv")
    words = ["setpriv", f"--reuid={ANOTHER_USER}", f"--regid={ANOTHER_USER}", "--clear-groups"]
    probe = [*words, sys.executable, "-c", "import pkgkmod"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    if os.geteuid() or subprocess.run(probe, cwd="/", env=environment, capture_output=True).returncode:
        yield []
        return
    for folder in folders:
        own(folder, ANOTHER_USER)
        for parent in folder.parents:
            if not parent.stat().st_mode & 1:
                parent.chmod(parent.stat().st_mode | 0o011)
    yield words
    for folder in folders:
        own(folder, 0)


def own(folder, user):
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


def test_rebuild_compare_proves_it_and_shows_a_difference(tmp_path, driver):
    folder = several(tmp_path / "project", driver, PATTERNS[:1])
    assert "nothing to compare with" in pkgkmod("rebuild", "--compare", cwd=folder, code=2).err
    pkgkmod("build", cwd=folder)
    said = pkgkmod("rebuild", "--compare", cwd=folder).out
    assert re.search(r"all \d+ files are the same", said)
    said = pkgkmod("rebuild", "--compare", "--from-source", cwd=folder).out
    assert re.search(r"same   ?build_rpm/.*x86_64\.rpm", said)
    assert re.search(r"same   ?build_deb/.*amd64\.deb", said)
    events = pkgkmod("--json", "rebuild", "--compare", "--target", "el9", cwd=folder).events
    assert {event["same"] for event in events if event["event"] == "compared"} == {True}
    (spec, *_) = sorted((folder / "results/generate_spec").rglob("*.spec"))
    spec.write_text(spec.read_text().replace("Summary:", "summary:", 1))
    failed = pkgkmod("rebuild", "--compare", "--target", "el9", cwd=folder, code=19)
    assert "OTHER" in failed.out
    assert "summary" in failed.err or "byte" in failed.err


def test_a_driver_that_writes_the_time_is_found(tmp_path):
    driver = hello(tmp_path / "repository")
    (source,) = driver.repository.rglob("*.c")
    text = source.read_text()
    source.write_text(text + '\nconst char built[] = __FILE__ " @BUILT@";\n')
    makefile = source.parent / "Makefile"
    makefile.write_text(makefile.read_text() + "\nccflags-y += -DSTAMP=1$(shell date +%N)\n")
    source.write_text(source.read_text().replace('" @BUILT@"', '""') + "const long stamp = STAMP;\n")
    commit(driver.repository, "Write the time into the module")
    driver = type(driver)(driver.name, driver.repository, driver.directory, head(driver.repository))
    folder = several(tmp_path / "project", driver, PATTERNS[1:])
    pkgkmod("build", "--target", "el9", cwd=folder)
    failed = pkgkmod("rebuild", "--compare", "--target", "el9", cwd=folder, code=19)
    assert "first difference, in build_modules" in failed.err
    assert re.search(r"OTHER  build_modules/.*hello\.ko", failed.out)


def test_nothing_is_built_twice(tmp_path, driver):
    folder = several(tmp_path / "project", driver)
    pkgkmod("build", cwd=folder)
    again = pkgkmod("build", cwd=folder).err
    assert re.search(r"nothing to do: all \d+ steps over 3 kernels are unchanged", again)
    # After the workspace is deleted, and in another project.
    first = outputs(folder)
    shutil.rmtree(folder / "results")
    said = pkgkmod("build", cwd=folder).err
    assert "taken from the cache" in said
    assert "build_modules" not in said
    assert different(first, outputs(folder)) == []
    other = several(tmp_path / "other", driver)
    assert "build_modules" not in pkgkmod("build", "--target", "el9", cwd=other).err
    assert "... build_modules" in pkgkmod("build", "--no-reuse", "--force", cwd=other).err


def test_no_change_starts_no_make_and_no_compiler(tmp_path, driver):
    need("strace")
    folder = several(tmp_path / "project", driver)
    pkgkmod("build", cwd=folder)
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", str(trace)]
    command += [sys.executable, "-m", "pkgkmod", "build"]
    subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, check=True, capture_output=True
    )
    started = {Path(path).name for path in re.findall(r'execve\("([^"]+)".* = 0$', trace.read_text(), re.MULTILINE)}
    assert started <= {Path(sys.executable).name, "git", "env"}, started


def run_killed(folder: Path, seconds: float) -> bool:
    """Run a build and kill it after a time; return whether it was still running."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pkgkmod", "build"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return running


def killed_and_repeated(folder: Path, caches: Path, times: int, chance: random.Random) -> None:
    """Kill builds at random moments; a build that came to its end first is begun anew."""
    kills = 0
    while kills < times:
        if run_killed(folder, chance.uniform(0.3, 6.0)):
            kills += 1
        else:
            shutil.rmtree(folder / "results")
            shutil.rmtree(caches / "pkgkmod/results", ignore_errors=True)


@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_same_command_gives_the_same_results(
    tmp_path, driver, undisturbed, caches, times, request
):
    folder = several(tmp_path / "project", driver)
    seed = random.SystemRandom().randrange(2**32)
    sys.stdout.write(f"seed {seed}\n")  # shown when the test fails
    killed_and_repeated(folder, caches, times, random.Random(seed))
    pkgkmod("build", cwd=folder)
    assert different(undisturbed, outputs(folder)) == []
    assert list((folder / "results").glob(".partial/*")) == [], "nothing half made is left behind"


def test_after_ctrl_c_what_was_finished_stays(tmp_path, driver):
    folder = several(tmp_path / "project", driver)
    process = subprocess.Popen(
        [sys.executable, "-m", "pkgkmod", "build", "-j1"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background lets them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr
    for line in process.stderr:
        if line.startswith("ok ") and "build_modules" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 130, rest
    assert "Traceback" not in rest
    finished = list((folder / "results/build_modules").rglob("hello.ko"))
    assert len(finished) in (1, 2)
    said = pkgkmod("build", cwd=folder).err
    assert said.count("ok  build_modules") == 3 - len(finished)
    strays = subprocess.run(["pgrep", "-f", f"M={tmp_path}"], capture_output=True, text=True).stdout
    assert strays == ""


def test_the_lock_pins_kernels_and_sources(tmp_path, driver):
    repository = tmp_path / "repository"
    shutil.copytree(driver.repository, repository)
    folder = several(tmp_path / "project", type(driver)("hello", repository, driver.directory, "main"))
    said = pkgkmod("lock", cwd=folder).out
    assert said.count("new ") == 3
    lock = tomllib.loads((folder / "pkgkmod.lock").read_text())
    assert lock["source"][0]["commit"] == head(repository)
    packages = [package for kernel in lock["kernel"] for package in kernel["package"]]
    kinds = {"-".join(package["name"].split("-")[:2]) for package in packages}
    assert kinds == {"linux-headers", "linux-kbuild"}
    assert all(re.fullmatch("[0-9a-f]{64}", package["sha256"]) for package in packages)
    assert "is up to date" in pkgkmod("lock", cwd=folder).err
    assert "the lock fits: 3 kernels" in pkgkmod("lock", "--check", cwd=folder).err
    # The same in a colleague's checkout, which lies elsewhere.
    shutil.copytree(folder, tmp_path / "colleague", ignore=shutil.ignore_patterns("results"))
    assert "the lock fits: 3 kernels" in pkgkmod("lock", "--check", cwd=tmp_path / "colleague").err
    # The kernels are those of the archive, although this machine may have some of them installed.
    pkgkmod("build", "--target", "el9", cwd=folder)
    # The branch moves on.
    (source,) = repository.rglob("*.c")
    source.write_text(source.read_text() + "/* newer */\n")
    commit(repository, "Newer")
    refused = pkgkmod("build", cwd=folder, code=15)
    assert "the sources are not those that pkgkmod.lock pins" in refused.err
    assert head(repository) in refused.err
    assert f"source: {head(repository)}" in pkgkmod("lock", cwd=folder).out
    pkgkmod("plan", cwd=folder)
    # The project asks for other kernels.
    file = folder / "pkgkmod.toml"
    file.write_text(file.read_text().replace("newest 2 of", "newest of"))
    assert "asked for newest 2 of" in pkgkmod("build", cwd=folder, code=15).err
    said = pkgkmod("lock", "--update", cwd=folder).out
    assert said.count("gone ") == 1
    # A kernel's package is another one now: refused, not taken.
    lock = (folder / "pkgkmod.lock").read_text()
    digest = re.search('sha256 = "([0-9a-f]{64})"', lock)[1]
    (folder / "pkgkmod.lock").write_text(lock.replace(digest, digest[::-1]))
    failed = pkgkmod("build", "--fail-fast", cwd=folder, code=6)
    assert "is not the file that the archive's index describes" in failed.err


def test_programs_are_told_what_was_fetched_locked_and_removed(tmp_path, driver, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own-cache"))
    folder = several(tmp_path / "project", driver, PATTERNS[1:])
    (fetched,) = (
        event for event in pkgkmod("--json", "kernels", "fetch", cwd=folder).events if event["event"] == "kernel"
    )
    assert fetched["in_store"]
    assert len(fetched["packages"]) == 3
    locked = [event for event in pkgkmod("--json", "lock", cwd=folder).events if event["event"].startswith("locked")]
    assert [event.get("change") for event in locked] == ["new", None]
    listed = pkgkmod("--json", "kernels", "list", fetched["release"], cwd=folder).events
    assert [event["release"] for event in listed if event["event"] == "kernel"] == [fetched["release"]]
    would = pkgkmod("--json", "kernels", "prune", "--all", "--dry-run", cwd=folder).events
    removed = pkgkmod("--json", "kernels", "prune", "--all", cwd=folder).events
    assert {event["name"] for event in would} == {event["name"] for event in removed}
    assert len(removed) == 3
    assert "nothing to remove" in pkgkmod("kernels", "prune", "--all", cwd=folder).out


def test_one_kernels_failure_is_that_kernels(tmp_path):
    driver = hello(tmp_path / "repository")
    (source,) = driver.repository.rglob("*.c")
    include = (
        "#include <linux/version.h>\n#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)\n#error not ported\n#endif\n"
    )
    source.write_text(include + source.read_text())
    commit(driver.repository, "Break it for 6.12")
    driver = type(driver)(driver.name, driver.repository, driver.directory, head(driver.repository))
    folder = several(tmp_path / "project", driver)
    failed = pkgkmod("build", cwd=folder, code=13)
    assert re.search(r"error: #error not ported", failed.err)
    assert len(list((folder / "results/build_rpm").rglob("*x86_64.rpm"))) == 2
    assert len(list((folder / "results/build_deb").rglob("*-modules-[0-9]*amd64.deb"))) == 2
    assert len(list((folder / "results/build_iso").rglob("*.iso"))) == 1
