"""publish: the real apt, dnf and zypper install from what it makes; they refuse what was changed; kills do no harm."""

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from debian.deb822 import Deb822

from pkgkmod.progress import Progress
from pkgkmod.publish import repository
from pkgkmod.publish.apt import AptStyle, read_packages
from pkgkmod.workspace import Workspace
from tests.fixtures import rpmroots
from tests.fixtures.aptrepo import key, make_deb, rewrite, serve
from tests.fixtures.aptroot import AptRoot
from tests.fixtures.machine import need, pkgkmod
from tests.fixtures.otherroots import run_in, trixie
from tests.fixtures.rpmrepo import build_rpm, sign
from tests.fixtures.rpmroots import ScratchRoot
from tests.unit.test_publish import result

STYLE = AptStyle("Acme", "drivers", "main", None)


def deb(folder, name="hello-modules", version="1.0-1~deb12", **fields):
    folder.mkdir(exist_ok=True)
    return make_deb(folder, {"usr/share/hello/version": version}, Package=name, Version=version, **fields)


def signed(name="archive"):
    return ("--package-key", key(name).fingerprint, "--gpg-home", key(name).home)


def sources(finished):
    """Return the text of the .sources file that the command prints for each suite."""
    found = re.findall(r"^/etc/apt/sources\.list\.d/\S+-(\S+)\.sources\n((?:  .*\n)+)", finished.out, re.MULTILINE)
    return {suite: re.sub(r"^  ", "", text, flags=re.MULTILINE) for suite, text in found}


def public_key(repo):
    (found,) = repo.glob("archive-key-*.asc")
    return found


def trusting(text, file):
    """Return a .sources file with the key where this machine has it."""
    return re.sub("Signed-By: .*", f"Signed-By: {file}", text)


@pytest.fixture
def apt(tmp_path):
    """A signed repository, and a root that knows it."""
    done = pkgkmod("publish", deb(tmp_path / "in"), "--apt", "repo", *signed(), cwd=tmp_path)
    repo = tmp_path / "repo"
    return repo, AptRoot(tmp_path / "root", trusting(sources(done)["bookworm"], public_key(repo)))


# --- apt -------------------------------------------------------------------------------------------


def test_apt_installs_and_upgrades_from_a_signed_repository(apt, tmp_path):
    _, root = apt
    root.update()
    root.install("hello-modules")
    assert root.installed() == {"hello-modules": "1.0-1~deb12"}
    pkgkmod("publish", deb(tmp_path / "in", version="1.1-1~deb12"), "--apt", "repo", *signed(), cwd=tmp_path)
    root.update()
    root.install("hello-modules")
    assert root.installed() == {"hello-modules": "1.1-1~deb12"}
    assert (root.folder / "usr/share/hello/version").read_text() == "1.1-1~deb12"


def test_apt_finds_each_suite_and_packages_for_all_architectures(tmp_path):
    packages = [
        deb(tmp_path / "in", version="1.0-1~deb13"),
        deb(tmp_path / "in", "hello-dkms", "1:1.0-1~deb12", Architecture="all"),
        deb(tmp_path / "in", "hello-modules", "1.0-1~deb12", Architecture="arm64"),
    ]
    done = pkgkmod("publish", *packages, "--apt", "repo", *signed(), cwd=tmp_path)
    offered = {}
    for suite, text in sources(done).items():
        root = AptRoot(tmp_path / suite, trusting(text, public_key(tmp_path / "repo")))
        said = root.run("apt-get", "update").text
        assert "W:" not in said
        offered[suite] = set(re.findall(r"^Package: (\S+)", root.run("apt-cache", "dumpavail").text, re.MULTILINE))
    assert offered == {"trixie": {"hello-modules"}, "bookworm": {"hello-dkms"}}


def test_apt_finds_packages_where_there_are_only_those_for_all_architectures(tmp_path):
    package = deb(tmp_path / "in", "hello-dkms", Architecture="all")
    done = pkgkmod("publish", package, "--apt", "a b%", *signed(), cwd=tmp_path)
    repo = tmp_path / "a b%"
    root = AptRoot(tmp_path / "root", trusting(sources(done)["bookworm"], public_key(repo).rename(tmp_path / "k.asc")))
    root.update()
    root.install("hello-dkms")
    assert root.installed() == {"hello-dkms": "1.0-1~deb12"}


def test_apt_fetches_the_source(tmp_path):
    need("dpkg-source")
    folder = tmp_path / "in/hello-1.0"
    (folder / "debian/source").mkdir(parents=True)
    (folder / "debian/source/format").write_text("3.0 (native)\n")
    (folder / "debian/control").write_text(
        "Source: hello\nMaintainer: T <t@example.org>\n\nPackage: hello\nArchitecture: all\nDescription: x\n"
    )
    (folder / "debian/changelog").write_text(
        "hello (1.0~deb12) bookworm; urgency=low\n\n  * x\n\n -- T <t@example.org>  Fri, 01 Mar 2024 12:00:00 +0000\n"
    )
    subprocess.run(["dpkg-source", "-b", folder.name], cwd=folder.parent, check=True, capture_output=True)
    done = pkgkmod("publish", folder.parent, "--apt", "repo", *signed(), cwd=tmp_path)
    text = trusting(sources(done)["bookworm"], public_key(tmp_path / "repo")).replace("Types: deb", "Types: deb-src")
    root = AptRoot(tmp_path / "root", text)
    root.update()
    fetched = root.run("apt-get", "source", "hello")
    assert fetched.ok, fetched.text
    assert (root.folder / "hello-1.0~deb12/debian/control").exists()


_IN_TRIXIE = """set -e
cp *.sources /etc/apt/sources.list.d/own.sources
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/[!o]*
apt-get --version | head -n1
apt-get update --error-on=any
apt-get -y install hello-modules
cat /usr/share/hello/version
sed -i 's/^Label: /&x/' repo/dists/trixie/InRelease
rm -r /var/lib/apt/lists
apt-get update --error-on=any && exit 1
echo refused
"""


def test_the_apt_of_debian_13_installs_and_refuses_as_well(tmp_path):
    """It checks signatures with another program, sqv, and in a whole system: scripts of packages run there."""
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    done = pkgkmod(
        "publish", deb(tmp_path / "in", version="1.0-1~deb13"), "--apt", folder / "repo", *signed(), cwd=tmp_path
    )
    text = trusting(sources(done)["trixie"], f"/build/repo/{public_key(folder / 'repo').name}")
    (folder / "x.sources").write_text(re.sub("URIs: .*", "URIs: file:///build/repo", text))
    said = run_in(trixie(), ["sh", "-c", _IN_TRIXIE], folder)
    assert said.startswith("apt 3."), said
    assert "\n1.0-1~deb13" in said
    assert said.rstrip().endswith("refused"), said


def test_apt_refuses_an_index_that_was_changed(apt):
    repo, root = apt
    rewrite(repo / "dists/bookworm/InRelease", b"Label: pkgkmod", b"Label: pkgkmob")
    assert "The following signatures were invalid" in root.update(ok=False)
    assert "Unable to locate package" in root.install("hello-modules", ok=False)


def test_apt_refuses_packages_files_that_were_changed(apt):
    repo, root = apt
    for file in (repo / "dists/bookworm/main/binary-amd64").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert re.search("Hash Sum mismatch|unexpected size", root.update(ok=False))


def test_apt_refuses_a_package_that_was_changed(apt):
    repo, root = apt
    root.update()
    (package,) = (repo / "pool").rglob("*.deb")
    package.write_bytes(package.read_bytes()[:-1] + b"x")
    assert "Hash Sum mismatch" in root.install("hello-modules", ok=False)
    assert root.installed() == {}


def test_apt_refuses_another_key(apt, tmp_path):
    repo, _ = apt
    text = f"Types: deb\nURIs: file://{repo}\nSuites: bookworm\nComponents: main\nSigned-By: {key('other').armored}\n"
    assert "NO_PUBKEY" in AptRoot(tmp_path / "root2", text).update(ok=False)


def test_an_unsigned_repository_is_a_warning_here_and_has_to_be_trusted_there(tmp_path):
    done = pkgkmod("publish", deb(tmp_path / "in"), "--apt", "repo", cwd=tmp_path)
    assert "the repository is not signed" in done.err
    text = sources(done)["bookworm"]
    assert "Trusted: yes" in text
    root = AptRoot(tmp_path / "root", text)
    root.run("apt-get", "update")
    root.install("hello-modules")
    assert root.installed() == {"hello-modules": "1.0-1~deb12"}
    assert "is not signed" in AptRoot(tmp_path / "root2", text.replace("Trusted: yes\n", "")).update(ok=False)


def test_signing_later_gives_the_index_a_signature(tmp_path):
    package = deb(tmp_path / "in")
    pkgkmod("publish", package, "--apt", "repo", cwd=tmp_path)
    assert not (tmp_path / "repo/dists/bookworm/InRelease").exists()
    pkgkmod("publish", package, "--apt", "repo", *signed(), cwd=tmp_path)
    for file in ("InRelease", "Release.gpg"):
        assert (tmp_path / "repo/dists/bookworm" / file).exists()


def test_a_reader_under_way_finds_what_the_old_index_names(apt, tmp_path):
    """With apt itself between InRelease and the rest: its InRelease is the old one."""
    repo, root = apt
    text = (root.folder / "etc/apt/sources.list.d/test.sources").read_text()
    old = (repo / "dists/bookworm/InRelease").read_bytes()
    pkgkmod("publish", deb(tmp_path / "in", version="2.0-1"), "--suite", "bookworm", "--apt", "repo", *signed(),
            cwd=tmp_path)  # fmt: skip
    frozen = tmp_path / "frozen"
    shutil.copytree(repo, frozen, symlinks=True)
    (frozen / "dists/bookworm/InRelease").unlink()
    (frozen / "dists/bookworm/InRelease").write_bytes(old)
    with serve(frozen) as server:
        web = AptRoot(tmp_path / "web", re.sub("URIs: .*", f"URIs: {server.url}", text))
        web.update()
        assert any("by-hash" in path for path, status in server.answers if status == 200)
        web.install("hello-modules")
    assert web.installed() == {"hello-modules": "1.0-1~deb12"}


# --- what is refused, and how it is said ------------------------------------------------------------


def test_the_same_version_with_other_content_is_refused(apt, tmp_path):
    repo, _ = apt
    before = (repo / "dists/bookworm").readlink()
    other = make_deb(tmp_path / "in", Package="hello-modules", Version="1.0-1~deb12", Section="misc")
    done = pkgkmod("publish", other, "--apt", "repo", *signed(), cwd=tmp_path, code=19)
    assert "hello-modules 1.0-1~deb12 amd64" in done.err
    assert "raise project.release" in done.err
    assert (repo / "dists/bookworm").readlink() == before


def test_hostile_file_names_are_only_names(tmp_path):
    place = tmp_path / "in" / "$(touch pwned); \n\x1b[31m"
    place.mkdir(parents=True)
    package = deb(tmp_path / "in")
    package.rename(place / "../../../etc --help.deb".replace("/", "_"))
    done = pkgkmod("publish", "in", "--apt", "repo", *signed(), cwd=tmp_path)
    assert "\x1b[31m" not in done.out + done.err
    (found,) = (tmp_path / "repo/pool").rglob("*.deb")
    assert found.name == "hello-modules_1.0-1~deb12_amd64.deb"
    assert not list(tmp_path.rglob("pwned"))


def test_a_broken_file_with_a_hostile_name_is_an_error(tmp_path):
    (tmp_path / "a\x1b[31m\nb.deb").write_text("nothing")
    done = pkgkmod("publish", "a\x1b[31m\nb.deb", "--apt", "repo", cwd=tmp_path, code=17)
    assert "\x1b[31m" not in done.err
    assert not (tmp_path / "repo").exists()


def test_unsigned_modules_are_refused_where_they_are_to_be_signed(tmp_path):
    need("openssl")
    pkgkmod("sign", "--new-key", "keys", cwd=tmp_path)
    pkgkmod("init", "--name", "hello", "--distro", "debian12", "--kernel", "newest", cwd=tmp_path)
    files = {"lib/modules/6.1.0/updates/hello.ko": "no signature"}
    package = make_deb(tmp_path, files, Package="hello-modules", Version="1-1~deb12")
    settings = ("-C", "signing.module_key=keys/mok.key", "-C", "signing.module_certificate=keys/mok.pem")
    done = pkgkmod("publish", package, "--apt", "repo", *settings, cwd=tmp_path, code=20)
    assert "lib/modules/6.1.0/updates/hello.ko: the module is not signed" in done.err
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "publish where to?"),
        (("--apt", "r", "--suite", "x"), "--suite goes with FILES"),
        (("x.deb", "--apt", "r", "--target", "x"), "--target does not go with FILES"),
        (("x.deb", "--apt", "r", "--gpg-home", "g"), "gpg_home needs package_key"),
        (("x.deb", "--apt", "r", "--component", "../x"), "component"),
        (("x.deb", "--apt", "r", "--origin", "a\nSigned-By: x"), "origin"),
    ],
)
def test_words_that_do_not_go_together(tmp_path, words, said):
    done = pkgkmod("publish", *words, cwd=tmp_path, code=2)
    assert said in done.err


def test_a_dry_run_says_what_would_be_and_touches_nothing(tmp_path):
    done = pkgkmod("publish", deb(tmp_path / "in"), "--apt", "repo", "-n", cwd=tmp_path)
    assert "  + hello-modules 1.0-1~deb12 amd64\n" in done.out
    assert "it would hold 1 package\n" in done.out
    assert not (tmp_path / "repo").exists()


def test_json_says_the_same(tmp_path):
    done = pkgkmod(
        "publish", deb(tmp_path / "in"), "--apt", "repo", "--url", "https://x.org/r/", "--json", cwd=tmp_path
    )
    events = {event["event"]: event for event in done.events}
    assert events["published"]["series"] == "bookworm"
    assert events["published"]["added"] == ["hello-modules 1.0-1~deb12 amd64"]
    (text,) = events["repository"]["files"].values()
    assert "URIs: https://x.org/r\n" in text


def test_the_results_of_a_project_are_published(tmp_path):
    """The build is a stand-in: a result of build_deb with a package of the test's own."""
    pkgkmod("init", "--name", "hello", "--vendor", "acme", "--distro", "debian12", "--kernel", "newest", cwd=tmp_path)
    package = deb(tmp_path / "in")
    made = result(Workspace(tmp_path), "build_deb", "debian12", "x.deb")
    shutil.copyfile(package, made.folder / "x.deb")
    done = pkgkmod("publish", "--apt", "repo", *signed(), cwd=tmp_path)
    assert "bookworm: 1 added" in done.out
    assert "Origin: acme\nLabel: hello\n" in (tmp_path / "repo/dists/bookworm/Release").read_text()
    assert pkgkmod("publish", "--apt", "repo", *signed(), cwd=tmp_path).out.startswith("bookworm: nothing new")


# --- kills, and others at the same time --------------------------------------------------------------


def consistent(root, suite="bookworm"):
    """Return the versions that a suite offers; all that its Release names must be there and fit."""
    place = root / "dists" / suite
    if not place.exists():
        return set()
    (release,) = Deb822.iter_paragraphs((place / "Release").read_text(), use_apt_pkg=False)
    for line in release["SHA256"].strip().splitlines():
        sha256, _, name = line.split()
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() == sha256
        assert (place / name).parent.joinpath("by-hash/SHA256", sha256).exists()
    packages = list(Deb822.iter_paragraphs((place / "main/binary-amd64/Packages").read_text(), use_apt_pkg=False))
    for package in packages:
        assert hashlib.sha256((root / package["Filename"]).read_bytes()).hexdigest() == package["SHA256"]
    return {package["Version"] for package in packages}


_MOMENTS = ("os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.chmod")


def killed_at(moment, root, packages, keep):
    """Publish in a child that kills itself before its n-th change of the file system; tell whether it came to that."""
    child = os.fork()
    if child == 0:
        left = moment

        def audit(event, arguments):
            nonlocal left
            if event in _MOMENTS or (event == "open" and arguments[1] and "w" in str(arguments[1])):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(audit)
        try:
            repository.publish(root, STYLE, packages, keep, Progress())
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def listing(root):
    """Return all files of a repository that anybody may read."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if ".publish" not in path.parts)


def test_a_kill_at_any_moment_leaves_the_old_state_or_the_new(tmp_path):
    old = {"bookworm": read_packages([deb(tmp_path, version=v) for v in ("1-1", "2-1")], "bookworm", "main")}
    new = {"bookworm": read_packages([deb(tmp_path, version="3-1"), deb(tmp_path, "aa", "3-1")], "bookworm", "main")}
    start = tmp_path / "start"
    repository.publish(start, STYLE, old, 0, Progress())
    finished = tmp_path / "finished"
    shutil.copytree(start, finished, symlinks=True)
    repository.publish(finished, STYLE, new, 1, Progress())
    seen = []
    for moment in range(200):
        root = tmp_path / f"r{moment}"
        shutil.copytree(start, root, symlinks=True)
        if not killed_at(moment, root, new, 1):
            break
        seen.append(consistent(root))
        # The same command goes on from there, and leaves nothing behind.
        repository.publish(root, STYLE, new, 1, Progress())
        assert consistent(root) == {"3-1"}
        assert listing(root) == listing(finished)
        assert not list((root / ".publish/new").iterdir())
        shutil.rmtree(root)
    else:
        pytest.fail("it never came to an end")
    assert len(seen) > 30
    changes = [one for one, before in zip(seen, [None, *seen], strict=False) if one != before]
    assert changes == [{"1-1", "2-1"}, {"3-1"}]


def test_what_a_killed_first_run_left_is_removed_though_the_packages_are_others_now(tmp_path):
    root = tmp_path / "r"
    first = {"bookworm": read_packages([deb(tmp_path)], "bookworm", "main")}
    moment = 0
    while not list(root.rglob("*.deb")):
        shutil.rmtree(root, ignore_errors=True)
        assert killed_at(moment, root, first, 0)
        moment += 1
    other = make_deb(tmp_path, Package="hello-modules", Version="1.0-1~deb12", Section="misc")
    repository.publish(root, STYLE, {"bookworm": read_packages([other], "bookworm", "main")}, 0, Progress())
    assert consistent(root) == {"1.0-1~deb12"}


def test_several_publishers_at_once_all_get_in(tmp_path):
    packages = [deb(tmp_path / "in", f"hello-{number}", "1-1~deb12") for number in range(4)]

    def call(package):
        return pkgkmod("publish", package, "--apt", "repo", cwd=tmp_path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, packages))
    text = (tmp_path / "repo/dists/bookworm/main/binary-amd64/Packages").read_text()
    assert set(re.findall(r"^Package: (\S+)", text, re.MULTILINE)) == {f"hello-{number}" for number in range(4)}
    assert consistent(tmp_path / "repo") == {"1-1~deb12"}


class Waiting(Progress):
    def __init__(self):
        self.said = threading.Event()

    def info(self, text):
        assert text.startswith("waiting for another run that publishes into")
        self.said.set()


def test_a_second_publisher_waits_and_says_so(tmp_path):
    root = tmp_path / "repo"
    packages = {"bookworm": read_packages([deb(tmp_path / "in")], "bookworm", "main")}
    (root / ".publish").mkdir(parents=True)
    waiting = Waiting()
    with (root / ".publish/lock").open("a") as other, ThreadPoolExecutor(1) as pool:
        fcntl.flock(other, fcntl.LOCK_EX)
        done = pool.submit(repository.publish, root, STYLE, packages, 0, waiting)
        assert waiting.said.wait(60)
        assert not done.done()
        assert not (root / "dists").exists()
        fcntl.flock(other, fcntl.LOCK_UN)
        done.result(60)
    assert consistent(root) == {"1.0-1~deb12"}


# --- dnf and zypper ----------------------------------------------------------------------------------


def rpms(folder, *names, version="1.0-1.el9", arch="x86_64", with_key="rpm"):
    need("rpmbuild", "rpmsign", "createrepo_c")
    built = [build_rpm(folder, name, version, arch=arch) for name in names]
    if with_key:
        sign(key(with_key), *built)
    return built


def repo_of(finished):
    """Return the text of the .repo file that the command prints."""
    (text,) = re.findall(r"^\S+\.repo, in .*\n((?:  .*\n)+)", finished.out, re.MULTILINE)
    return re.sub(r"^  ", "", text, flags=re.MULTILINE)


@pytest.fixture
def rpm_md(tmp_path):
    """A signed repository for EL 9, its .repo file, and a root."""
    shell = build_rpm(tmp_path / "in", "shell", "1-1.el9", provides=("/bin/sh",))
    sign(key("rpm"), shell)
    files = [*rpms(tmp_path / "in", "kmod-hello"), *rpms(tmp_path / "in", "kmod-hello-common", arch="noarch"), shell]
    done = pkgkmod("publish", *files, "--rpm-md", "repo", *signed("rpm"), cwd=tmp_path)
    (tmp_path / "repos").mkdir()
    (tmp_path / "repos/hello.repo").write_text(repo_of(done))
    return tmp_path / "repo", ScratchRoot(tmp_path / "root")


def dnf(root, *words):
    need("dnf")
    state = root.folder.with_name("dnf")
    argv = ["dnf", "-y", "--refresh", f"--installroot={root.folder}", "--releasever=9", "--forcearch=x86_64"]
    argv += [f"--setopt=reposdir={root.folder.with_name('repos')}"]
    for name in ("logdir", "cachedir", "persistdir"):
        (state / name).mkdir(parents=True, exist_ok=True)
        argv.append(f"--setopt={name}={state / name}")
    return rpmroots._solved(root, [*argv, *words])


def zypper(root, repo_file, *words):
    need("zypper")
    whole = ["zypper", "--non-interactive", "--gpg-auto-import-keys", "--root", str(root.folder)]
    rpmroots._solved(root, [*whole, "addrepo", str(repo_file)])
    refreshed = rpmroots._solved(root, [*whole, "refresh", "--force"])
    return rpmroots._solved(root, [*whole, *words]) if refreshed.accepted else refreshed


def test_dnf_installs_and_upgrades_with_both_signatures_checked(rpm_md, tmp_path):
    _, root = rpm_md
    done = dnf(root, "install", "kmod-hello", "kmod-hello-common")
    assert done.accepted, done.text
    assert done.names() >= {"kmod-hello", "kmod-hello-common"}
    more = rpms(tmp_path / "in", "kmod-hello", version="1.1-1.el9")
    pkgkmod("publish", *more, "--rpm-md", "repo", *signed("rpm"), cwd=tmp_path)
    done = dnf(root, "upgrade")
    assert "kmod-hello-1.1-1.el9.x86_64" in done.installed, done.text


def test_dnf_refuses_an_index_that_was_changed(rpm_md):
    repo, root = rpm_md
    rewrite(repo / "el9/x86_64/repodata/repomd.xml", b"<revision>", b"<revision>1")
    done = dnf(root, "install", "kmod-hello")
    assert not done.accepted
    assert "GPG verification" in done.text or "repomd" in done.text, done.text


def test_zypper_installs_with_both_signatures_checked(rpm_md, tmp_path):
    _, root = rpm_md
    done = zypper(root, tmp_path / "repos/hello.repo", "install", "kmod-hello")
    assert done.accepted, done.text
    assert "kmod-hello" in done.names()


def test_zypper_refuses_an_index_that_was_changed(rpm_md, tmp_path):
    repo, root = rpm_md
    rewrite(repo / "el9/x86_64/repodata/repomd.xml", b"<revision>", b"<revision>1")
    done = zypper(root, tmp_path / "repos/hello.repo", "install", "kmod-hello")
    assert not done.accepted
    assert "Signature verification failed" in done.text, done.text


def test_an_rpm_without_the_signature_is_refused(tmp_path):
    files = rpms(tmp_path / "in", "kmod-hello", with_key=None)
    done = pkgkmod("publish", *files, "--rpm-md", "repo", *signed("rpm"), cwd=tmp_path, code=20)
    assert "kmod-hello-1.0-1.el9.x86_64.rpm: digests OK" in done.err
    assert not (tmp_path / "repo").exists()


def test_an_rpm_with_the_signature_of_another_key_is_refused(tmp_path):
    files = rpms(tmp_path / "in", "kmod-hello", with_key="other")
    pkgkmod("publish", *files, "--rpm-md", "repo", *signed("rpm"), cwd=tmp_path, code=20)


def test_the_metadata_is_of_a_kind_that_old_releases_read(rpm_md):
    repo, _ = rpm_md
    names = {path.name.partition("-")[2] for path in (repo / "el9/x86_64/repodata").iterdir() if "-" in path.name}
    assert names == {"primary.xml.gz", "filelists.xml.gz", "other.xml.gz"}


def test_a_reader_of_the_old_repodata_finds_the_rest_of_it(rpm_md, tmp_path):
    repo, _ = rpm_md
    old = {path.name for path in (repo / "el9/x86_64/repodata").iterdir() if "-" in path.name}
    more = rpms(tmp_path / "in", "kmod-hello", version="1.1-1.el9")
    pkgkmod("publish", *more, "--rpm-md", "repo", *signed("rpm"), cwd=tmp_path)
    new = {path.name for path in (repo / "el9/x86_64/repodata").iterdir() if "-" in path.name}
    assert old < new


def test_a_package_for_all_machines_goes_to_those_that_are_there_already(rpm_md, tmp_path):
    later = rpms(tmp_path / "in", "kmod-later", arch="noarch")
    done = pkgkmod("publish", *later, "--rpm-md", "repo", *signed("rpm"), cwd=tmp_path)
    assert "el9/x86_64: 1 added" in done.out


def test_files_of_others_in_the_folder_are_not_in_the_index(rpm_md, tmp_path):
    repo, root = rpm_md
    (stray,) = rpms(tmp_path / "stray", "stray")
    shutil.copyfile(stray, repo / "el9/x86_64/Packages" / stray.name)
    more = rpms(tmp_path / "in", "kmod-hello", version="1.1-1.el9")
    pkgkmod("publish", *more, "--rpm-md", "repo", *signed("rpm"), "--prune", "1", cwd=tmp_path)
    done = dnf(root, "repoquery", "--qf", "%{name}-%{version}-%{release}.%{arch}")
    assert set(re.findall(r"^\S+\.el9\.\w+$", done.text, re.MULTILINE)) == {
        "shell-1-1.el9.x86_64",
        "kmod-hello-1.1-1.el9.x86_64",
        "kmod-hello-common-1.0-1.el9.noarch",
    }
    assert (repo / "el9/x86_64/Packages" / stray.name).exists()
    assert Path(repo, "el9/x86_64/Packages/kmod-hello-1.0-1.el9.x86_64.rpm").exists()
