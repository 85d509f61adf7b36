"""publish: what goes into a repository, what stays, what is refused, and what the indexes say."""

import gzip
import hashlib
import json
import lzma
import os
import subprocess

import pytest
from debian.deb822 import Deb822

from pkgkmod.errors import DifferentError, InputError, SigningError, UsageError
from pkgkmod.formats.debindex import (
    compare_versions,
    packages_paragraph,
    read_deb_control,
    read_source_control,
)
from pkgkmod.model.artifacts import Package, PackageSet
from pkgkmod.model.packaging import Signing
from pkgkmod.model.project import Project, ProjectInfo, Target
from pkgkmod.progress import Progress
from pkgkmod.publish import collect, repository, rpmmd
from pkgkmod.publish.apt import AptStyle, read_packages, sources_file
from pkgkmod.publish.entries import Entry, Incoming, StoredFile, merge, newest
from pkgkmod.publish.rpmmd import repo_file
from pkgkmod.workspace import Workspace
from tests.fixtures.aptrepo import key, make_deb
from tests.fixtures.machine import need

STYLE = AptStyle("Acme", "drivers", "main", None)


def entry(name="x", version="1.0-1", *, kind="binary", sha="0" * 64, counted="", source=("", ""), file=""):
    return Entry(
        kind=kind,
        name=name,
        version=version,
        counted_as=counted or version,
        arch="amd64",
        source=source,
        files=(StoredFile(path=file or f"pool/{name}_{version}", size=1, sha256=sha),),
    )


def incoming(one):
    return Incoming(one, ())


def put(root, *debs, suite="bookworm", keep=0, style=STYLE):
    return repository.publish(root, style, {suite: read_packages(debs, suite, "main")}, keep, Progress())


def index(root, path="main/binary-amd64/Packages", suite="bookworm"):
    return (root / "dists" / suite / path).read_text()


def deb(folder, name="hello-modules", version="1.0-1~deb12", **fields):
    need("dpkg-deb")
    return make_deb(folder, Package=name, Version=version, **fields)


def paragraphs_of(text):
    return [dict(paragraph) for paragraph in Deb822.iter_paragraphs(text, use_apt_pkg=False)]


# --- entries ---------------------------------------------------------------------------------------


def test_packages_are_added_in_a_fixed_order():
    old = merge((), [incoming(entry("b")), incoming(entry("a"))])
    assert [one.name for one in merge(old, [incoming(entry("aa"))])] == ["a", "aa", "b"]
    assert merge(old, [incoming(entry("a"))]) == old


def test_a_package_with_other_content_is_refused_and_all_are_named():
    old = [entry("a"), entry("b"), entry("c")]
    with pytest.raises(DifferentError, match="2 of the packages") as caught:
        merge(old, [incoming(entry(name, sha="1" * 64)) for name in ("a", "b")])
    assert caught.value.details.splitlines() == ["a 1.0-1 amd64", "b 1.0-1 amd64"]


def test_two_packages_that_come_together_must_agree_as_well():
    with pytest.raises(DifferentError):
        merge((), [incoming(entry()), incoming(entry(sha="1" * 64))])


def test_one_file_of_two_source_packages_must_be_the_same():
    old = [entry("a", "1.0-1", kind="source", file="pool/a.orig.tar.xz")]
    same = entry("a", "1.0-2", kind="source", file="pool/a.orig.tar.xz")
    assert len(merge(old, [incoming(same)])) == 2
    with pytest.raises(DifferentError) as caught:
        merge(old, [incoming(entry("a", "1.0-2", kind="source", file="pool/a.orig.tar.xz", sha="1" * 64))])
    assert caught.value.details == "a 1.0-2 amd64: a.orig.tar.xz"


def test_the_newest_versions_stay_in_the_order_of_the_format():
    versions = ["1.0~rc1-1", "1.0-1", "1.0-10", "1.0-9"]
    kept = newest([entry(version=version) for version in versions], 2, compare_versions)
    assert [one.version for one in kept] == ["1.0-10", "1.0-9"]
    assert len(newest([entry(version=version) for version in versions], 0, compare_versions)) == 4


def test_the_source_of_what_stays_stays():
    binary = [entry("m", version, source=("s", version)) for version in ("1-1", "2-1")]
    sources = [entry("s", version, kind="source") for version in ("1-1", "2-1", "3-1")]
    kept = newest([*binary, *sources], 1, compare_versions)
    assert [(one.name, one.version) for one in kept] == [("m", "2-1"), ("s", "2-1"), ("s", "3-1")]


def test_a_version_for_several_kernels_is_one_version():
    versions = {"1.0-1.k5.14.0_427.el9": "1.0-1", "1.0-1.k5.14.0_503.el9": "1.0-1", "1.1-1.k5.14.0_427.el9": "1.1-1"}
    old = [entry(version=version, counted=counted) for version, counted in versions.items()]
    assert [one.version for one in newest(old, 1, rpmmd.RpmMdStyle(None, None).compare)] == ["1.1-1.k5.14.0_427.el9"]
    assert len(newest(old, 2, rpmmd.RpmMdStyle(None, None).compare)) == 3


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "pool/../../x", "", "pool//x", "pool/a\nb", "./pool"])
def test_a_list_of_files_cannot_lead_out_of_the_repository(path):
    with pytest.raises(ValueError, match="plain path"):
        StoredFile(path=path, size=0, sha256="")


# --- reading packages ------------------------------------------------------------------------------


def test_a_package_has_no_say_in_what_the_index_says_of_its_file(tmp_path):
    control = read_deb_control(deb(tmp_path, Filename="/etc/shadow", SHA256="0" * 64, Size="1"))
    text = packages_paragraph(control, "pool/x.deb", 7, "a" * 64)
    assert "/etc/shadow" not in text
    assert paragraphs_of(text) == [
        {
            "Architecture": "amd64",
            "Maintainer": "T <t@example.org>",
            "Description": "test",
            "Package": "hello-modules",
            "Version": "1.0-1~deb12",
            "Filename": "pool/x.deb",
            "Size": "7",
            "SHA256": "a" * 64,
        }
    ]


def forged(folder, **fields):
    """Make a .deb by hand, since dpkg-deb refuses such a control file."""
    import io
    import tarfile

    text = "".join(f"{name}: {value}\n" for name, value in fields.items()).encode()
    control, data = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=control, mode="w:gz") as archive:
        member = tarfile.TarInfo("./control")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    tarfile.open(fileobj=data, mode="w:gz").close()
    parts = {"debian-binary": b"2.0\n", "control.tar.gz": control.getvalue(), "data.tar.gz": data.getvalue()}
    content = b"!<arch>\n"
    for name, part in parts.items():
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(part):<10}`\n".encode()
        content += head + part + b"\n" * (len(part) % 2)
    path = folder / "forged.deb"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "fields",
    [
        {"Package": "../../x", "Version": "1", "Architecture": "amd64"},
        {"Package": "x" * 3, "Version": "1/../../y", "Architecture": "amd64"},
        {"Package": "xx", "Version": "1", "Architecture": "../all"},
        {"Package": "xx", "Version": "1"},
        {"Package": "xx", "Version": "1", "Architecture": "all", "Source": "../../etc (1)"},
        {"Package": "xx", "Version": "1", "Architecture": "all", "Source": "a b c"},
    ],
)
def test_names_that_would_be_paths_are_refused(tmp_path, fields):
    with pytest.raises(InputError, match="cannot be read as a Debian package"):
        read_deb_control(forged(tmp_path, **fields))


def test_a_forged_package_is_read_where_it_says_nothing_wrong(tmp_path):
    found = read_deb_control(forged(tmp_path, Package="xx", Version="2:1-1", Architecture="all", Source="yy (1-1)"))
    assert (found.name, found.version, found.arch, found.source) == ("xx", "2:1-1", "all", ("yy", "1-1"))


@pytest.mark.parametrize("content", [b"", b"!<arch>\n", b"!<arch>\nrubbish", b"\x00" * 200])
def test_what_is_no_package_is_an_error(tmp_path, content):
    (tmp_path / "x.deb").write_bytes(content)
    with pytest.raises(InputError):
        read_deb_control(tmp_path / "x.deb")


def dsc(folder, listed="hello_1.0.tar.xz", content=b"sources"):
    folder.mkdir(exist_ok=True)
    (folder / "hello_1.0.tar.xz").write_bytes(content)
    sums = {name: hashlib.new(name, b"sources").hexdigest() for name in ("md5", "sha256")}
    path = folder / "hello_1.0.dsc"
    path.write_text(
        "Format: 3.0 (native)\nSource: hello\nBinary: hello-modules\nArchitecture: any\nVersion: 1.0~deb12\n"
        f"Checksums-Sha256:\n {sums['sha256']} 7 {listed}\nFiles:\n {sums['md5']} 7 {listed}\n"
    )
    return path


def test_a_source_package_brings_its_archives(tmp_path):
    put(tmp_path / "r", dsc(tmp_path / "in"))
    text = index(tmp_path / "r", "main/source/Sources")
    (found,) = paragraphs_of(text)
    assert found["Package"] == "hello"
    assert found["Directory"] == "pool/bookworm/main/hello"
    assert [line.split()[2] for line in found["Files"].strip().splitlines()] == [
        "hello_1.0~deb12.dsc",
        "hello_1.0.tar.xz",
    ]
    assert (tmp_path / "r/pool/bookworm/main/hello/hello_1.0.tar.xz").read_bytes() == b"sources"


def test_the_signature_of_a_source_package_is_no_part_of_the_index(tmp_path):
    need("gpg")
    path = dsc(tmp_path / "in")
    key().sign(path, tmp_path / "signed")
    (tmp_path / "signed").replace(path)
    assert "BEGIN PGP" in path.read_text()
    put(tmp_path / "r", path)
    text = index(tmp_path / "r", "main/source/Sources")
    assert "PGP" not in text
    (found,) = paragraphs_of(text)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in found["Checksums-Sha256"]


@pytest.mark.parametrize("compression", ["none", "gzip", "xz", "zstd"])
def test_packages_of_all_compressions_are_read(tmp_path, compression):
    need("dpkg-deb", "zstd")
    (tmp_path / "root/DEBIAN").mkdir(parents=True)
    (tmp_path / "root/DEBIAN/control").write_text(
        "Package: hello\nVersion: 1\nArchitecture: all\nMaintainer: T <t@example.org>\nDescription: x\n"
    )
    argv = ["dpkg-deb", f"-Z{compression}", "--build", tmp_path / "root", tmp_path / "x.deb"]
    subprocess.run(argv, check=True, capture_output=True)
    assert read_deb_control(tmp_path / "x.deb").name == "hello"


def test_a_source_package_must_fit_its_archives(tmp_path):
    with pytest.raises(InputError, match="does not fit the file hello_"):
        put(tmp_path / "r", dsc(tmp_path / "in", content=b"other!!"))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a b", ".hidden"])
def test_an_archive_of_a_source_package_lies_beside_it(tmp_path, name):
    with pytest.raises(InputError):
        read_source_control(dsc(tmp_path / "in", listed=name))


# --- the repository --------------------------------------------------------------------------------


def test_the_index_says_what_the_files_are(tmp_path):
    one = deb(tmp_path, Source="hello (1.0-1)")
    put(tmp_path / "r", one, deb(tmp_path, "hello-dkms", "1:1.0-1", Architecture="all"))
    paragraphs = {found["Package"]: found for found in paragraphs_of(index(tmp_path / "r"))}
    assert set(paragraphs) == {"hello-modules", "hello-dkms"}
    found = paragraphs["hello-modules"]
    assert found["Filename"] == "pool/bookworm/main/hello/hello-modules_1.0-1~deb12_amd64.deb"
    assert (tmp_path / "r" / found["Filename"]).read_bytes() == one.read_bytes()
    assert found["SHA256"] == hashlib.sha256(one.read_bytes()).hexdigest()
    assert found["Size"] == str(one.stat().st_size)
    assert paragraphs["hello-dkms"]["Filename"].endswith("/hello-dkms_1.0-1_all.deb")
    assert "hello-dkms" in index(tmp_path / "r", "main/binary-all/Packages")


def test_release_lists_every_form_by_name_and_by_digest(tmp_path):
    put(tmp_path / "r", deb(tmp_path))
    suite = tmp_path / "r/dists/bookworm"
    (release,) = paragraphs_of((suite / "Release").read_text())
    assert {name: release[name] for name in ("Origin", "Label", "Suite", "Codename", "Acquire-By-Hash")} == {
        "Origin": "Acme",
        "Label": "drivers",
        "Suite": "bookworm",
        "Codename": "bookworm",
        "Acquire-By-Hash": "yes",
    }
    assert release["Architectures"] == "amd64"
    listed = [line.split() for line in release["SHA256"].strip().splitlines()]
    assert len(listed) == 6
    for sha256, size, name in listed:
        content = (suite / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (sha256, int(size))
        assert ((suite / name).parent / "by-hash/SHA256" / sha256).read_bytes() == content
    plain = (suite / "main/binary-amd64/Packages").read_bytes()
    assert gzip.decompress((suite / "main/binary-amd64/Packages.gz").read_bytes()) == plain
    assert lzma.decompress((suite / "main/binary-amd64/Packages.xz").read_bytes()) == plain
    assert not (suite / "InRelease").exists()


def test_publishing_again_changes_nothing(tmp_path):
    root = tmp_path / "r"
    put(root, deb(tmp_path))
    before = (root / "dists/bookworm").readlink()
    (change,) = put(root, deb(tmp_path))
    assert not change.is_new_index
    assert (root / "dists/bookworm").readlink() == before


def test_other_settings_make_a_new_index(tmp_path):
    put(tmp_path / "r", deb(tmp_path))
    (change,) = put(tmp_path / "r", style=AptStyle("Other", "drivers", "main", None))
    assert change.is_new_index
    assert len(change.entries) == 1
    assert "Origin: Other" in index(tmp_path / "r", "Release")


def test_another_component_does_not_take_the_first_one_away(tmp_path):
    root = tmp_path / "r"
    put(root, deb(tmp_path))
    extra = AptStyle("Acme", "drivers", "extra", None)
    repository.publish(
        root, extra, {"bookworm": read_packages([deb(tmp_path, "more")], "bookworm", "extra")}, 0, Progress()
    )
    assert "Components: extra main\n" in index(root, "Release")
    assert [found["Package"] for found in paragraphs_of(index(root))] == ["hello-modules"]
    (found,) = paragraphs_of(index(root, "extra/binary-amd64/Packages"))
    assert found["Filename"].startswith("pool/bookworm/extra/more/")


def test_a_new_version_is_added_and_readers_of_the_old_index_find_it(tmp_path):
    root = tmp_path / "r"
    put(root, deb(tmp_path))
    old = hashlib.sha256(index(root).encode()).hexdigest()
    put(root, deb(tmp_path, version="1.1-1~deb12"))
    assert index(root).count("Package:") == 2
    for version in ("1.2-1", "1.3-1", "1.4-1"):
        assert (root / "dists/bookworm/main/binary-amd64/by-hash/SHA256" / old).exists() == (version != "1.4-1")
        put(root, deb(tmp_path, version=version))


def test_pruned_packages_leave_the_index_at_once_and_the_pool_a_generation_later(tmp_path):
    root = tmp_path / "r"
    pool = root / "pool/bookworm/main/hello-modules"
    put(root, deb(tmp_path, version="1-1"), deb(tmp_path, version="2-1"))
    (change,) = put(root, deb(tmp_path, version="3-1"), keep=1)
    assert [one.version for one in change.removed] == ["1-1", "2-1"]
    assert index(root).count("Package:") == 1
    assert len(list(pool.iterdir())) == 3
    put(root, deb(tmp_path, version="4-1"), keep=1)
    assert sorted(path.name.split("_")[1] for path in pool.iterdir()) == ["3-1", "4-1"]


def test_an_older_package_than_those_that_stay_is_not_copied(tmp_path):
    root = tmp_path / "r"
    put(root, deb(tmp_path, version="3-1"))
    (change,) = put(root, deb(tmp_path, version="2-1"), keep=1)
    assert not change.added
    assert not list(root.rglob("*2-1*"))


def test_what_somebody_else_put_there_is_left_alone(tmp_path):
    root = tmp_path / "r"
    other = root / "pool/bookworm/main/hello-modules/other.deb"
    other.parent.mkdir(parents=True)
    other.write_text("not ours")
    (root / "index.html").write_text("hello")
    put(root, deb(tmp_path, version="1-1"))
    for version in ("2-1", "3-1", "4-1"):
        put(root, deb(tmp_path, version=version), keep=1)
    assert other.read_text() == "not ours"
    assert (root / "index.html").read_text() == "hello"
    assert "other.deb" not in index(root)


def test_a_suite_of_another_tool_is_refused(tmp_path):
    (tmp_path / "r/dists/bookworm").mkdir(parents=True)
    with pytest.raises(InputError, match="was not made by pkgkmod"):
        put(tmp_path / "r", deb(tmp_path))


def test_a_file_in_the_way_is_refused_and_nothing_is_left(tmp_path):
    root = tmp_path / "r"
    place = root / "pool/bookworm/main/hello-modules/hello-modules_1.0-1~deb12_amd64.deb"
    place.parent.mkdir(parents=True)
    place.write_text("not ours")
    with pytest.raises(InputError, match="is not what is to be published"):
        put(root, deb(tmp_path), deb(tmp_path, "aa"))
    assert place.read_text() == "not ours"
    assert not (root / "dists").exists()
    assert [path.name for path in (root / "pool").rglob("*.deb")] == [place.name]


class Failing(AptStyle):
    def write(self, draft):
        if draft.series == "trixie":
            raise KeyboardInterrupt
        return super().write(draft)


def test_a_run_that_is_interrupted_takes_back_all_suites(tmp_path):
    root = tmp_path / "r"
    put(root, deb(tmp_path))
    before = sorted(root.rglob("*"))
    packages = {suite: read_packages([deb(tmp_path, "more")], suite, "main") for suite in ("bookworm", "trixie")}
    with pytest.raises(KeyboardInterrupt):
        repository.publish(root, Failing("Acme", "drivers", "main", None), packages, 0, Progress())
    assert sorted(root.rglob("*")) == before


def test_a_link_in_the_place_of_a_package_is_not_followed(tmp_path):
    root = tmp_path / "r"
    one = deb(tmp_path)
    place = root / "pool/bookworm/main/hello-modules" / one.name
    place.parent.mkdir(parents=True)
    place.symlink_to(one)
    with pytest.raises(InputError):
        put(root, one)
    assert place.is_symlink()


def test_a_package_that_was_changed_in_the_pool_is_noticed(tmp_path):
    root = tmp_path / "r"
    put(root, deb(tmp_path))
    next((root / "pool").rglob("*.deb")).write_bytes(b"")
    with pytest.raises(InputError, match="was changed since it was published"):
        put(root, deb(tmp_path, version="2-1"))


def test_a_plan_touches_nothing(tmp_path):
    packages = {"bookworm": read_packages([deb(tmp_path)], "bookworm", "main")}
    (change,) = repository.plan(tmp_path / "r", STYLE, packages, 0)
    assert len(change.added) == 1
    assert not (tmp_path / "r").exists()


def test_others_can_read_it_whatever_the_umask(tmp_path):
    one = deb(tmp_path)
    before = os.umask(0o077)
    try:
        put(tmp_path / "r", one)
    finally:
        os.umask(before)
    for path in (tmp_path / "r").rglob("*"):
        assert path.stat().st_mode & 0o044 == 0o044, path


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "-x", "pool", "a\nb", "é"])
def test_a_suite_is_a_folder_of_its_own(name):
    with pytest.raises(InputError):
        repository.checked_series(name)


@pytest.mark.parametrize("text", ["{", "[1]", '["../../etc/passwd"]', '["/etc/passwd"]', "5"])
def test_a_spoiled_journal_removes_nothing_elsewhere(tmp_path, text):
    root = tmp_path / "r"
    put(root, deb(tmp_path))
    (root / ".publish/pending.json").write_text(text)
    with pytest.raises(InputError, match="is damaged"):
        put(root, deb(tmp_path, version="2-1"))


def test_a_place_that_is_no_folder_is_an_error(tmp_path):
    (tmp_path / "r").write_text("a file")
    with pytest.raises(InputError, match="cannot be made"):
        put(tmp_path / "r", deb(tmp_path))


def test_a_spoiled_state_is_an_error_not_a_new_beginning(tmp_path):
    root = tmp_path / "r"
    put(root, deb(tmp_path))
    (state,) = root.rglob("state.json")
    facts = json.loads(state.read_text())
    facts["entries"][0]["files"][0]["path"] = "../../etc/passwd"
    state.write_text(json.dumps(facts))
    with pytest.raises(InputError, match="was not made by pkgkmod"):
        put(root, deb(tmp_path, version="2-1"))


# --- what is published -----------------------------------------------------------------------------


def project(**more):
    targets = (Target(distro="debian12"), Target(distro="debian13"), Target(distro="el9"))
    return Project(project=ProjectInfo(name="hello"), target=targets, **more)


def result(workspace, stage, target, *names, format="deb"):
    with workspace.draft() as draft:
        packages = []
        for name in names:
            (draft.folder / name).write_text(stage)
            packages.append(Package(file=name, name="x", version="1", arch="amd64", kind="binary", size=1))
        made = PackageSet(format=format, packages=tuple(packages), kernels=(), source_date_epoch=0)
        return workspace.save(
            draft,
            key=(stage, target, "_"),
            fingerprint=stage.ljust(16, "0"),
            ingredients={},
            inputs={},
            state="ok",
            artifact=made.model_dump(),
        )


def test_the_packages_of_a_project_go_into_the_suites_of_their_targets(tmp_path):
    workspace = Workspace(tmp_path)
    result(workspace, "build_deb", "debian12", "a.deb", "a.dsc", "a.orig.tar.xz", "a.changes")
    result(workspace, "build_deb", "debian13", "b.deb")
    result(workspace, "build_rpm", "el9", "c.rpm", format="rpm")
    result(workspace, "build_deb", "gone", "d.deb")

    def names(format, targets=()):
        found = collect.of_project(workspace, project(), format, targets, Progress())
        return {suite: [path.name for path in paths] for suite, paths in found.items()}

    assert names("deb") == {"bookworm": ["a.deb", "a.dsc"], "trixie": ["b.deb"]}
    assert names("deb", ("debian13",)) == {"trixie": ["b.deb"]}
    assert names("rpm") == {"el9": ["c.rpm"]}
    with pytest.raises(UsageError, match="no finished RPM packages"):
        names("rpm", ("debian12",))


def test_signed_packages_are_taken_where_signatures_are_asked_for(tmp_path):
    workspace = Workspace(tmp_path)
    signing = project(signing=Signing(package_key="x"))
    result(workspace, "build_rpm", "el9", "c.rpm", format="rpm")
    with pytest.raises(SigningError, match="are to be signed"):
        collect.of_project(workspace, signing, "rpm", (), Progress())
    result(workspace, "sign", "el9", "c.rpm", format="rpm")
    (path,) = collect.of_project(workspace, signing, "rpm", (), Progress())["el9"]
    assert path.read_text() == "sign"
    (path,) = collect.of_project(workspace, project(), "rpm", (), Progress())["el9"]
    assert path.read_text() == "build_rpm"


class Said(Progress):
    def __init__(self):
        self.warnings = []

    def warning(self, text):
        self.warnings.append(text)


def test_packages_that_were_built_after_they_were_signed_are_mentioned(tmp_path):
    workspace, said = Workspace(tmp_path), Said()
    result(workspace, "sign", "el9", "c.rpm", format="rpm")
    result(workspace, "build_rpm", "el9", "c.rpm", format="rpm")
    collect.of_project(workspace, project(signing=Signing(package_key="x")), "rpm", (), said)
    assert len(said.warnings) == 1
    assert "built anew" in said.warnings[0]


def test_the_suite_of_a_file_is_what_its_version_says(tmp_path):
    files = [deb(tmp_path, version=version) for version in ("1-1~deb12", "1-1~deb13")]
    assert collect.by_suite(files, "deb", None) == {"bookworm": files[:1], "trixie": files[1:]}
    assert collect.by_suite(files, "deb", "sid") == {"sid": files}
    with pytest.raises(UsageError, match="for which distribution"):
        collect.by_suite([deb(tmp_path, version="1-1~deb123")], "deb", None)


def test_files_that_are_no_packages_are_refused(tmp_path):
    (tmp_path / "x.txt").touch()
    (tmp_path / "empty").mkdir()
    for path in ("x.txt", "empty", "gone"):
        with pytest.raises(InputError):
            collect.find_files([tmp_path / path], ["deb"])
    with pytest.raises(InputError, match="not for apt"):
        read_packages([tmp_path / "x.txt"], "bookworm", "main")


def test_what_users_write_names_the_key_or_says_that_there_is_none():
    assert sources_file("https://x/r", "bookworm", "main", "/k.asc").splitlines()[-1] == "Signed-By: /k.asc"
    assert sources_file("https://x/r", "bookworm", "main", None).splitlines()[-1] == "Trusted: yes"
    assert "repo_gpgcheck=1\ngpgkey=https://x/k" in repo_file("a", "b", "https://x/$basearch", "https://x/k")
    assert "gpgcheck=0" in repo_file("a", "b", "https://x/$basearch", None)
