"""The kernel source `rpm-md`: local repositories of real RPMs, made by rpmbuild, rpmsign and createrepo_c.

No packages of Red Hat or SUSE are in reach: their kernels are stand-ins, see tests/fixtures/rpmrepo.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import pytest

from pkgkmod.errors import KernelError, PluginError
from pkgkmod.formats.rpm import compare_evr
from pkgkmod.kernels import rpmmd
from pkgkmod.kernels.repodata import RpmPackage
from pkgkmod.kernels.rpmmd import RpmMdKernels
from pkgkmod.kernels.store import Store
from pkgkmod.model.kernel import PackageFile
from pkgkmod.plugins import KernelArchive
from pkgkmod.progress import Progress
from tests.fixtures.aptrepo import key, serve
from tests.fixtures.machine import need
from tests.fixtures.rpmrepo import (
    EL,
    SUSE,
    build_rpm,
    compiled,
    kernels,
    member,
    publish,
    rewrite_primary,
    sign,
    small_kernel,
    suse_pair,
)

SCRIPTLET = Path("/tmp/pkgkmod-scriptlet-ran")


def offers(*repositories, base=Path("/"), ask=True, progress=None):
    """Return what is offered, by release."""
    tables = [{"baseurl": one} if isinstance(one, str) else one for one in repositories]
    found = RpmMdKernels().offers({"repositories": tables}, base, ask=ask, progress=progress or Progress())
    return {offer.uname_r: offer for offer in found}


def fetch(folder, offer):
    return Store(folder / "store").fetch(offer, RpmMdKernels(), Progress())


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """An EL-shaped kernel-devel without files, not signed."""
    need("rpmbuild", "createrepo_c")
    return small_kernel(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """A repository of the stand-ins, with signed packages and repodata."""
    made = kernels()
    folder = tmp_path_factory.mktemp("real")
    url = publish(folder, made.el, *made.suse, signer=made.key)
    return {"baseurl": url, "gpgkey": str(made.key.armored), "repo_gpgcheck": True}


def test_el_shaped_and_suse_shaped_stand_ins_are_offered(real):
    assert isinstance(RpmMdKernels(), KernelArchive)
    made = kernels()
    found = offers(real)
    assert sorted(found) == sorted([EL, SUSE])
    assert {(o.source, o.arch, o.archive, o.keys) for o in found.values()} == {
        ("rpm-md", "x86_64", real["baseurl"], (real["gpgkey"],))
    }
    (el,) = found[EL].packages
    assert el == PackageFile(
        "kernel-devel",
        "5.14.0-427.13.1.el9_4",
        f"{real['baseurl']}/Packages/{made.el.name}",
        hashlib.sha256(made.el.read_bytes()).hexdigest(),
        made.el.stat().st_size,
    )
    # The kernel's own first; the counts of rebuilds differ.
    assert [(p.name, p.version) for p in found[SUSE].packages] == [
        ("kernel-default-devel", "6.4.0-150600.23.47.2"),
        ("kernel-devel", "6.4.0-150600.23.47.1"),
    ]


def test_an_el_shaped_stand_in_is_fetched_and_compiled_for(tmp_path, real):
    kernel = fetch(tmp_path, offers(real)[EL])
    assert kernel.uname_r == EL
    assert kernel.tree == Path("/usr/src/kernels", EL)
    assert [mount.target for mount in kernel.mounts] == [kernel.tree]
    assert kernel.place == kernel.mounts[0].source
    assert kernel.offer and kernel.compiler
    assert compiled(kernel, tmp_path / "module").startswith(f"{EL} SMP ")
    assert not SCRIPTLET.exists()
    # The package itself is kept for mock's root.
    entry = kernel.place.parents[4]
    assert sorted(path.name for path in entry.iterdir()) == ["entry.json", "package", "root"]
    assert hashlib.sha256((entry / "package").read_bytes()).hexdigest() == entry.name


def test_a_suse_shaped_stand_in_is_fetched_and_compiled_for(tmp_path, real):
    kernel = fetch(tmp_path, offers(real)[SUSE])
    assert kernel.uname_r == SUSE
    assert kernel.tree == Path("/usr/src/linux-6.4.0-150600.23.47-obj/x86_64/default")
    assert {str(mount.target) for mount in kernel.mounts} == {
        "/usr/src/linux-6.4.0-150600.23.47",
        "/usr/src/linux-6.4.0-150600.23.47-obj/x86_64/default",
    }
    assert compiled(kernel, tmp_path / "module").startswith(f"{SUSE} SMP ")


def test_flavours_and_other_packages_of_el_shaped_stand_ins(tmp_path):
    version = "5.14.0-427.13.1.el9_4"
    made = [
        build_rpm(tmp_path, "kernel-rt-devel", version, provides=(f"kernel-devel-uname-r = {version}.x86_64+rt",)),
        build_rpm(
            tmp_path, "kernel-debug-devel", version, provides=(f"kernel-devel-uname-r = {version}.x86_64+debug",)
        ),
        build_rpm(tmp_path, "kernel-devel-matched", version, requires=(f"kernel-devel = {version}",)),
        build_rpm(tmp_path, "kernel-headers", version),
        build_rpm(
            tmp_path,
            "kernel-64k-devel",
            version,
            arch="aarch64",
            provides=(f"kernel-devel-uname-r = {version}.aarch64+64k",),
        ),
    ]
    url = publish(tmp_path / "repository", *made)
    found = offers({"baseurl": url, "arch": "x86_64"})
    assert sorted(found) == [f"{version}.x86_64+debug", f"{version}.x86_64+rt"]
    assert found[f"{version}.x86_64+rt"].release.flavour == "rt"
    assert found[f"{version}.x86_64+rt"].keys == ()
    assert list(offers({"baseurl": url, "arch": "aarch64"})) == [f"{version}.aarch64+64k"]


@pytest.mark.parametrize("compress", ["xz", "zst", "bz2"])
def test_other_compressions_of_the_index_with_an_el_shaped_stand_in(tmp_path, small, compress):
    need("zstd")
    url = publish(tmp_path / "repository", small, compress=compress)
    assert list(offers(url)) == ["5.14.0-1.el9.x86_64"]


def test_an_unchanged_index_asked_again_costs_no_download_el_shaped(tmp_path, small):
    folder = tmp_path / "repository"
    publish(folder, small)
    with serve(folder) as server:
        first = offers(server.url)
        assert list(first) == ["5.14.0-1.el9.x86_64"]
        assert server.asked("repomd.xml") == [200]
        assert server.asked("-primary.xml.gz") == [200]
        assert offers(server.url) == first
        assert server.asked("repomd.xml") == [200, 304]
        assert server.asked("-primary.xml.gz") == [200]
        assert offers(server.url, ask=False) == first
        assert len(server.answers) == 3
        url = server.url
    assert offers(url, ask=False) == first  # nobody is there
    with pytest.raises(KernelError) as caught:
        offers(url)
    assert caught.value.brief == f"the repository {url} cannot be read"


def test_a_changed_index_is_read_again_el_shaped(tmp_path, small):
    folder = tmp_path / "repository"
    url = publish(folder, small)
    assert list(offers(url)) == ["5.14.0-1.el9.x86_64"]
    publish(folder, small_kernel(tmp_path, 2))
    assert list(offers(url, ask=False)) == ["5.14.0-1.el9.x86_64"]
    assert sorted(offers(url)) == ["5.14.0-1.el9.x86_64", "5.14.0-2.el9.x86_64"]


def test_a_damaged_package_is_refused_el_shaped(tmp_path, small):
    url = publish(tmp_path / "repository", small)
    (offer,) = offers(url).values()
    file = tmp_path / "repository/Packages" / small.name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(KernelError, match="is not the file that the archive's index describes"):
        fetch(tmp_path, offer)
    assert list((tmp_path / "store/packages").iterdir()) == []


def test_packages_must_be_signed_with_the_given_key_el_shaped(tmp_path, small):
    signed = tmp_path / small.name
    shutil.copyfile(small, signed)
    sign(key("rpm"), signed)
    cases = {"signed": (signed, key("rpm")), "unsigned": (small, key("rpm")), "other": (signed, key("rpm-other"))}
    briefs = {}
    for name, (package, believed) in cases.items():
        url = publish(tmp_path / name, package)
        (offer,) = offers({"baseurl": url, "gpgkey": str(believed.armored)}).values()
        with pytest.raises(KernelError) as caught:
            fetch(tmp_path / f"{name}-store", offer)
        briefs[name] = (caught.value.brief, str(believed.armored) in caught.value.hint)
    refused = ("kernel-devel 5.14.0-1.el9 is not signed with a key to believe", True)
    assert briefs["unsigned"] == briefs["other"] == refused
    offer = dataclasses.replace(offer, keys=(str(key("rpm").public),))
    with pytest.raises(KernelError, match="cannot be used") as caught:
        fetch(tmp_path, offer)
    assert "armored" in caught.value.hint
    # It has no files, so that is what is wrong with the one whose signature is right.
    assert "hold no build tree" in briefs["signed"][0]


def test_the_repodata_must_be_signed_with_the_given_key_el_shaped(tmp_path, small):
    folder = tmp_path / "repository"
    right = {"baseurl": publish(folder, small), "gpgkey": ["key.asc"], "repo_gpgcheck": True}
    shutil.copyfile(key("rpm").armored, tmp_path / "key.asc")
    with pytest.raises(KernelError, match="is not signed"):
        offers(right, base=tmp_path)
    publish(folder, small, signer=key("rpm-other"))
    with pytest.raises(KernelError, match=r"signature of the repository .* is not one to believe") as caught:
        offers(right, base=tmp_path)
    assert str(tmp_path / "key.asc") in caught.value.hint
    key("rpm").sign(key("rpm").armored, folder / "repodata/repomd.xml.asc")  # a text of its own, not a signature
    with pytest.raises(KernelError, match="is not one to believe"):
        offers(right, base=tmp_path)
    publish(folder, small, signer=key("rpm"))
    (offer,) = offers(right, base=tmp_path).values()
    assert offer.keys == (str(tmp_path / "key.asc"),)
    both = tmp_path / "both.asc"
    both.write_text(key("rpm-other").armored.read_text() + key("rpm").armored.read_text())
    assert offers(right | {"gpgkey": f"file://{both}"})
    repomd = folder / "repodata/repomd.xml"
    repomd.write_text(repomd.read_text() + "\n")
    with pytest.raises(KernelError, match="is not one to believe"):
        offers(right, base=tmp_path)
    # What was believed before stays known to those who do not ask.
    assert list(offers(right, base=tmp_path, ask=False).values()) == [offer]


def test_what_was_kept_unchecked_is_not_believed_when_signatures_are_asked_for_el_shaped(tmp_path, small):
    url = publish(tmp_path / "repository", small)
    assert offers(url)
    with pytest.raises(KernelError, match="is not signed"):
        offers({"baseurl": url, "gpgkey": str(key("rpm").armored), "repo_gpgcheck": True}, ask=False)


def test_a_primary_index_with_a_wrong_checksum_is_refused_el_shaped(tmp_path, small):
    folder = tmp_path / "repository"
    url = publish(folder, small)
    (primary,) = (folder / "repodata").glob("*-primary.xml.gz")
    content = bytearray(primary.read_bytes())
    content[20] ^= 1
    primary.write_bytes(content)
    with pytest.raises(KernelError, match=r"primary.xml.gz of .* is not the file that the archive's index describes"):
        offers(url)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('href="Packages/', 'href="../Packages/', "leads out of the repository"),
        ('href="Packages/', 'href="/etc/Packages/', "leads out of the repository"),
        ('href="Packages/', 'xml:base="http://example.org/" href="Packages/', "does not lie in the repository"),
        ('type="sha256"', 'type="sha"', "not named with its sha256, but: sha"),
        ("<metadata ", '<!DOCTYPE metadata [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><metadata ', "type definition"),
        ("</metadata>", "", "no element found"),
        ('rel="1.el9"', 'rel="1&#10;el9"', "is no part of a package's name"),
    ],
)
def test_a_hostile_or_broken_index_is_refused_el_shaped(tmp_path, small, old, new, reason):
    folder = tmp_path / "repository"
    url = publish(folder, small)
    rewrite_primary(folder, old, new)
    with pytest.raises(KernelError, match=reason) as caught:
        offers(url)
    assert caught.value.brief.startswith(f"the index of {url} is malformed")


@pytest.mark.parametrize("compress", ["gz", "zst"])
def test_an_index_that_unpacks_to_more_than_it_tells_is_refused_el_shaped(tmp_path, small, compress):
    folder = tmp_path / "repository"
    url = publish(folder, small, compress=compress)
    repomd = folder / "repodata/repomd.xml"
    begin, data, end = repomd.read_text().partition('<data type="primary">')
    before, tag, rest = end.partition("<open-size>")
    repomd.write_text(f"{begin}{data}{before}{tag}100{rest[rest.index('<') :]}")
    with pytest.raises(KernelError, match=r"longer than 100 bytes|into the 100 bytes"):
        offers(url)


def test_a_special_character_in_a_file_name_is_quoted_el_shaped(tmp_path):
    package = small_kernel(tmp_path, "1~2+3")
    (offer,) = offers(publish(tmp_path / "repository", package)).values()
    assert offer.packages[0].url.endswith("/Packages/kernel-devel-5.14.0-1~2%2B3.el9.x86_64.rpm")
    with pytest.raises(KernelError, match="hold no build tree"):  # so it was fetched
        fetch(tmp_path, offer)


def test_an_unreachable_repository_is_named_with_a_hint(tmp_path):
    for url in ("http://127.0.0.1:1/repository", f"file://{tmp_path}/absent"):
        with pytest.raises(KernelError) as caught:
            offers(url, ask=False)  # it never was asked
        assert caught.value.brief == f"the repository {url} cannot be read"
        assert "repodata/repomd.xml cannot be had" in caught.value.details
        assert caught.value.hint


def test_a_package_of_another_name_or_version_is_refused_el_shaped(tmp_path, small):
    folder = tmp_path / "repository"
    url = publish(folder, small)
    rewrite_primary(folder, 'rel="1.el9"', 'rel="2.el9"')
    (offer,) = offers(url).values()
    with pytest.raises(KernelError, match=r"the package of kernel-devel 5.14.0-2.el9 is another one"):
        fetch(tmp_path, offer)


def test_a_file_that_is_no_rpm_is_refused(tmp_path, small):
    (offer,) = offers(publish(tmp_path / "repository", small)).values()
    (tmp_path / "package").write_text("nothing")
    with pytest.raises(KernelError, match="is not an RPM package"):
        RpmMdKernels().unpack(tmp_path / "package", offer.packages[0], offer, tmp_path / "root")


def test_the_newest_rebuild_of_a_suse_shaped_stand_in_is_offered(tmp_path):
    made = [*suse_pair(tmp_path, "6.4.0-150600.9", (9, 2)), *suse_pair(tmp_path, "6.4.0-150600.9", (10, 11))]
    found = offers(publish(tmp_path / "repository", *made))
    assert list(found) == ["6.4.0-150600.9-default"]
    (offer,) = found.values()
    assert [p.version for p in offer.packages] == ["6.4.0-150600.9.10", "6.4.0-150600.9.11"]


def test_the_common_part_of_a_suse_shaped_stand_in_may_lie_in_another_repository_with_the_same_keys(tmp_path):
    own, common = suse_pair(tmp_path, "6.4.0-150600.9", (1, 1))
    one, other = publish(tmp_path / "one", own), publish(tmp_path / "other", common)
    (offer,) = offers(one, other).values()
    assert [p.url.rpartition("/Packages/")[0] for p in offer.packages] == [one, other]
    said = []
    progress = Progress()
    progress.info = said.append  # type: ignore[method-assign]
    keyed = {"baseurl": other, "gpgkey": str(key("rpm").armored)}
    assert offers(one, keyed, progress=progress) == {}
    assert said == [
        "6.4.0-150600.9-default is left out: "
        "kernel-default-devel 6.4.0-150600.9.1 needs kernel-devel = 6.4.0-150600.9, which is nowhere"
    ]


def test_a_release_candidate_of_a_suse_shaped_stand_in(tmp_path):
    made = suse_pair(tmp_path, "6.12~rc1-1", (1, 1))
    assert list(offers(publish(tmp_path / "repository", *made))) == ["6.12.0-rc1-1-default"]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({}, r"plugin.rpm-md.repositories.0.baseurl: Field required"),
        ({"baseurl": "ftp://example.org"}, "repositories.0.baseurl: is not an address"),
        ({"baseurl": "https://example.org/$basearch"}, r"baseurl: holds a variable such as \$basearch"),
        ({"baseurl": "file:///r", "gpgcheck": True}, "repositories.0.gpgcheck: Extra inputs"),
        ({"baseurl": "file:///r", "gpgkey": "absent.asc"}, "gpgkey: there is no file /.*/absent.asc"),
        ({"baseurl": "file:///r", "repo_gpgcheck": True}, "repo_gpgcheck: it needs a gpgkey"),
    ],
)
def test_settings_that_are_refused(tmp_path, table, reason):
    with pytest.raises(PluginError, match=reason) as caught:
        offers(table, base=tmp_path)
    assert caught.value.hint


def test_a_package_whose_link_climbs_out_is_refused_el_shaped(tmp_path):
    tree = tmp_path / "tree/usr/src/kernels/5.14.0-1.el9.x86_64"
    tree.mkdir(parents=True)
    (tree / "include").symlink_to("../../../../../../../../etc")
    (offer,) = offers(publish(tmp_path / "repository", small_kernel(tmp_path, tree=tmp_path / "tree"))).values()
    with pytest.raises(KernelError, match="a link leads out of the package"):
        fetch(tmp_path, offer)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([member("../../evil")], "a file leads out"),
        ([member("/etc/evil")], "a file leads out"),
        ([member("./usr/src/a", tarfile.SYMTYPE, "/tmp"), member("./usr/src/a/evil")], "a file leads out"),
        ([member("./usr/src/a", tarfile.SYMTYPE, "../../../tmp")], "a link leads out"),
        ([member("./usr/src", tarfile.SYMTYPE, "/tmp")], "a link leads out"),
        ([member("./usr", tarfile.SYMTYPE, "tmp")], "a link leads out"),
        ([member("./usr/src/a", tarfile.LNKTYPE, "../../etc/shadow")], "a hard link leads out"),
        ([member("./usr/a", tarfile.SYMTYPE, "/etc"), member("./usr/b", tarfile.LNKTYPE, "./usr/a/b")], "a hard link"),
        ([member("./dev/sda", tarfile.BLKTYPE)], "it holds a device"),
        ([member("./usr/src/a", tarfile.SYMTYPE, "../../usr/src/b"), member("./usr/src/b/c")], ""),
        ([member("./lib/modules/1/build", tarfile.SYMTYPE, "/usr/src/kernels/1")], ""),
    ],
)
def test_members_of_an_archive_that_lead_out_are_refused(tmp_path, members, reason):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for one in members:
            archive.addfile(one, io.BytesIO())
    file = PackageFile("kernel-devel", "1-1", "file:///x.rpm", "0" * 64, 1)
    if not reason:
        rpmmd.check_members(tmp_path / "a.tar", file)
        return
    with pytest.raises(KernelError, match=f"kernel-devel 1-1 is refused: {reason}"):
        rpmmd.check_members(tmp_path / "a.tar", file)


def test_versions_are_ordered_as_rpm_does():
    versions = [
        "1.0~rc1",
        "1.0",
        "1.0^git1",
        "1.0a",
        "1.0.a",
        "1.0.1",
        "1.0.1.el9",
        "1.0.1.el9_4",
        "1.0.10",
        "2~a",
        "2",
    ]

    def age(text):
        return RpmPackage("n", 0, text, "1", "noarch", "", "", 0, (), ()).age

    for one in versions:
        for other in versions:
            real = compare_evr(f"{one}-1", f"{other}-1")
            assert ((age(one) > age(other)) - (age(one) < age(other))) == real, (one, other)
