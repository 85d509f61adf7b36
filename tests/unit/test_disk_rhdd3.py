"""The layout that anaconda reads: where packages lie, which kernels they are for, and what is wrong with them."""

import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkgkmod.command import Completed
from pkgkmod.data.distros import find_distro, known_distros
from pkgkmod.errors import PackageError
from pkgkmod.media.findings import CODES
from pkgkmod.media.layouts.rhdd3 import AnacondaLayout, trees
from pkgkmod.media.matching import matches
from pkgkmod.model.disk import DiskListing, DiskPackage, DiskRelease, ModuleFacts, PackageFacts, Provide
from pkgkmod.model.packaging import Disk
from pkgkmod.plugins import LAYOUTS, DiskDraft, load
from tests.fixtures.machine import need

GA = "5.14.0-427.13.1.el9_4.x86_64"
OLDER = "5.14.0-362.8.1.el9_3.x86_64"
NEWER = "5.14.0-503.11.1.el9_5.x86_64"
LAYOUT = AnacondaLayout()


def module(kernel=GA, name="hello", folder="/lib/modules", ending="", **facts):
    path = f"{folder}/{kernel}/extra/{name}/{name}.ko{ending}"
    known = {"path": path, "name": name, "uname_r": kernel, "vermagic": kernel, "machine": "x86_64"}
    return ModuleFacts(**{**known, **facts})


def package(name="kmod-hello", kernel=GA, version="1.0-1.el9", provides=None, path=None, **facts):
    """A package of a module for a kernel; without a kernel, one that has no module."""
    arch = facts.get("arch", "x86_64")
    provides = provides or ([("=", kernel)] if kernel else [])
    known = {
        "format": "rpm",
        "kind": "binary",
        "name": name,
        "version": version,
        "arch": arch,
        "machine": "" if arch == "noarch" else arch,
        "size": 1000,
        "build_time": 1_700_000_000,
        "payload": "xz",
        "provides": [Provide(name="kernel-modules", relation=r, version=v) for r, v in provides],
        "modules": (module(kernel, machine=arch),) if kernel else (),
    }
    return DiskPackage(path or Path(f"/nowhere/{name}-{version}.{arch}.rpm"), PackageFacts(**{**known, **facts}))


def release(*packages, distro="el9"):
    return DiskRelease(find_distro(distro), packages)


def findings(*releases, **disk):
    return list(LAYOUT.check(releases, Disk(**disk)))


def codes(*releases, **disk):
    return {one.code for one in findings(*releases, **disk)} - {"DISK023"}


def layout_of(*releases):
    return {tree.place: [one.path.name for one in tree.packages] for tree in trees(releases)}


KERNELS = ["5.14.0-427.el9", "5.14.0-427.13.1.el9_4", "5.14.0-362.el9", "5.14.0-503.el9_5", "6.12.0-55.el10"]
TAKEN = {"=": [True, False, False, False, False], ">=": [True, True, False, True, True]}


@pytest.mark.parametrize("relation", TAKEN)
def test_which_installers_take_a_package_by_its_kernel_modules(relation):
    (wanted,) = LAYOUT.kernels(package(provides=[(relation, "5.14.0-427.el9.x86_64")]))
    assert wanted == f"{relation} 5.14.0-427.el9.x86_64"
    assert [matches(wanted, f"{kernel}.x86_64") for kernel in KERNELS] == TAKEN[relation]


def test_rpm_itself_compares_these_kernels_in_the_same_way_in_both_directions():
    """The library, and the program: rpm.vercmp is rpmvercmp, which anaconda calls."""
    need("rpm")
    import rpm

    pairs = [(f"{a}.x86_64", f"{b}.x86_64") for a in KERNELS for b in KERNELS]
    words = "".join(f'%{{lua: print(rpm.vercmp("{a}", "{b}") .. " ")}}' for a, b in pairs)
    said = subprocess.run(["rpm", "--eval", words], capture_output=True, text=True, check=True).stdout
    order = [int(word) for word in said.split()]
    assert order == [rpm.labelCompare(("0", a, ""), ("0", b, "")) for a, b in pairs]
    for (a, b), sign in zip(pairs, order, strict=True):
        assert matches(f"= {b}", a) == (sign == 0)
        assert matches(f">= {b}", a) == (sign >= 0)
        assert matches(f"< {b}", a) == (sign < 0)
    first = [sign for (_, other), sign in zip(pairs, order, strict=True) if other == f"{KERNELS[0]}.x86_64"]
    assert first == [0, 1, -1, 1, 1]


def test_only_kernel_modules_with_a_version_count():
    provides = [("", ""), (">=", "4.18.0-80.el8.x86_64"), ("=", GA)]
    one = package(provides=provides)
    assert LAYOUT.kernels(one) == (">= 4.18.0-80.el8.x86_64", f"= {GA}")
    tool = Provide(name="installer-enhancement", relation="=", version="19.0")
    assert LAYOUT.kernels(package(provides=[("", "")])) == ()
    assert LAYOUT.kernels(DiskPackage(Path("x.rpm"), one.facts.model_copy(update={"provides": (tool,)}))) == ()


def test_one_release_lies_at_the_root():
    assert layout_of(release(package(), package("kmod-x-firmware", None, arch="noarch"))) == {
        "": ["kmod-hello-1.0-1.el9.x86_64.rpm", "kmod-x-firmware-1.0-1.el9.noarch.rpm"]
    }


def test_several_releases_have_a_folder_each():
    old = package(kernel="4.18.0-553.el8_10.x86_64", version="1.0-1.el8")
    assert list(layout_of(release(old, distro="el8"), release(package()))) == ["el8", "el9"]


def test_packages_of_one_name_for_several_kernels_have_a_folder_for_each_kernel():
    a, b = package(version="1.0-1.a"), package(kernel=NEWER, version="1.0-1.b")
    firmware = package("kmod-x-firmware", None, version="2.0-1", arch="noarch")
    assert layout_of(release(a, b, firmware)) == {
        f"el9/{GA}": [a.path.name, firmware.path.name],
        f"el9/{NEWER}": [b.path.name, firmware.path.name],
    }


def test_packages_for_several_kernels_with_names_of_their_own_stay_together():
    a = package(f"kmod-hello-{GA}")
    b = package(f"kmod-hello-{NEWER}", kernel=NEWER)
    assert list(layout_of(release(a, b))) == [""]


def test_several_versions_of_what_has_no_kernel_stay_together():
    """The newest is the right one."""
    firmware = [package("kmod-x-firmware", None, version=version, arch="noarch") for version in ("1-1", "2-1")]
    assert list(layout_of(release(package(), package("kmod-other", kernel=NEWER), *firmware))) == [""]


def test_what_has_no_kernel_goes_with_the_packages_of_its_own_version():
    """Those of one source package have one version; a kernel's devel package is of no use for another kernel."""
    packages = [package(kernel=kernel, version=version) for kernel, version in ((GA, "1-1.a"), (NEWER, "1-1.b"))]
    packages += [package("kmod-hello-devel", None, version=version) for version in ("1-1.a", "1-1.b")]
    places = {tree.place: [one.facts.version for one in tree.packages] for tree in trees([release(*packages)])}
    assert places == {f"el9/{GA}": ["1-1.a", "1-1.a"], f"el9/{NEWER}": ["1-1.b", "1-1.b"]}


def test_a_package_for_two_kernels_has_a_folder_of_its_own_beside_that_of_the_first():
    """In both kernels' folders it would bring the other packages there to the installed system, too."""
    both = package(provides=[("=", GA), ("=", NEWER)], version="2-1")
    one = package(version="1-1")
    assert layout_of(release(one, both)) == {f"el9/{GA}": [one.path.name], f"el9/{GA}-2": [both.path.name]}


@pytest.mark.parametrize("kernel", ["../../etc", "/etc/x", "a b\n%{nil}", ".", "..", "-rf", "x" * 300, "\N{SNOWMAN}"])
def test_folders_of_hostile_kernels_are_plain_names_below_the_release(kernel):
    ones = package(kernel=kernel, version="1-1"), package(version="2-1")
    places = [tree.place for tree in trees([release(*ones)])]
    assert len({place.lower() for place in places}) == 2
    for place in places:
        top, name = place.split("/")
        assert top == "el9"
        assert name.strip(".-") and name.isascii() and name.isprintable() and " " not in name and len(name) < 70


def test_kernels_that_differ_in_case_only_have_folders_that_fat_tells_apart():
    ones = package(kernel="1.0-A.x86_64", version="1-1"), package(kernel="1.0-a.x86_64", version="2-1")
    assert [tree.place for tree in trees([release(*ones)])] == ["el9/1.0-A.x86_64", "el9/1.0-a.x86_64-2"]


@pytest.fixture
def written(tmp_path):
    """Write packages whose content is their name; createrepo_c is a stand-in that notes its calls."""

    def write(*releases, code=0):
        disk, calls = tmp_path / "disk", []
        disk.mkdir(exist_ok=True)

        def run(command):
            calls.append(command)
            return Completed(command, code, ("it said so",), tmp_path / "log")

        real = []
        for one in releases:
            packages = []
            for each in one.packages:
                path = tmp_path / each.path.name
                path.write_text(each.path.name)
                packages.append(DiskPackage(path, each.facts))
            real.append(DiskRelease(one.distro, tuple(packages)))
        LAYOUT.write(real, DiskDraft(disk, tmp_path, "hello 1.0", 1_700_000_000, run))
        return {str(path.relative_to(disk)) for path in disk.rglob("*") if path.is_file()}, calls

    return write


def test_each_machine_has_a_folder_and_what_is_for_all_lies_in_each_stand_in_createrepo(written, tmp_path):
    arm = package(arch="aarch64")
    files, calls = written(release(package(), arm, package("kmod-x-firmware", None, arch="noarch")))
    assert files == {
        "rhdd3",
        "rpms/aarch64/kmod-hello-1.0-1.el9.aarch64.rpm",
        "rpms/aarch64/kmod-x-firmware-1.0-1.el9.noarch.rpm",
        "rpms/x86_64/kmod-hello-1.0-1.el9.x86_64.rpm",
        "rpms/x86_64/kmod-x-firmware-1.0-1.el9.noarch.rpm",
    }
    assert (tmp_path / "disk/rhdd3").read_text() == "Driver Update Disk version 3\n"
    assert [call.cwd.name for call in calls] == ["aarch64", "x86_64"]
    for call in calls:
        assert call.argv == (
            "createrepo_c",
            "--quiet",
            "--no-database",
            "--simple-md-filenames",
            "--general-compress-type=gz",
            "--set-timestamp-to-revision",
            "--revision",
            "1700000000",
            str(call.cwd),
        )
        assert {path.stat().st_mtime for path in call.cwd.iterdir()} == {1_700_000_000}


def test_packages_for_all_machines_alone_make_no_folder_stand_in_createrepo(written):
    only = release(package("hello-dkms", None, arch="noarch"))
    assert written(only) == (set(), [])
    assert codes(only) == {"DISK034"}


def test_a_failing_createrepo_is_an_error_with_its_words_stand_in_createrepo(written):
    with pytest.raises(PackageError) as caught:
        written(release(package()), code=3)
    assert caught.value.brief == "createrepo_c failed (3)"
    assert caught.value.details == "it said so"


@pytest.mark.parametrize(
    ("code", "one"),
    [
        ("DISK020", package(provides=[("", "")])),
        ("DISK021", package(kernel="5.14.0-427.16.1.el9_4.x86_64")),
        ("DISK024", package(modules=(module(folder="/usr/lib/modules"),))),
        ("DISK026", package(modules=(module(ending=".xz", compression="xz"),))),
        ("DISK027", package(payload="zstd")),
        ("DISK031", package(modules=(module(NEWER),))),
        ("DISK033", package(provides=[("=", GA), ("=", NEWER)], modules=(module(), module(NEWER)))),
    ],
)
def test_each_fault_of_a_package_is_found_alone_and_has_a_cure(code, one):
    found = [each for each in findings(release(one)) if each.code != "DISK023"]
    assert [each.code for each in found] == [code]
    assert found[0].cure
    assert found[0].text[-1] != "."
    assert found[0].severity == CODES[code].severity


def test_a_package_as_it_should_be_has_one_note():
    (note,) = findings(release(package()))
    assert (note.code, note.severity, note.subject) == ("DISK023", "note", "el9")
    assert note.text == "only installers with exactly their kernel take kmod-hello-1.0-1.el9.x86_64.rpm"
    assert note.cure == 'rpm.installer_kernels = "later" serves later ones, too'


@pytest.mark.parametrize(
    ("distro", "compression", "code"),
    [
        ("el8", "xz", {"DISK025"}),
        ("el8", "none", set()),
        ("el9", "zst", {"DISK026"}),
        ("el10", "zst", set()),
        ("el10", "bz2", {"DISK025"}),
        ("fedora", "xz", set()),
    ],
)
def test_compressed_modules_are_for_those_who_read_them(distro, compression, code):
    known = find_distro(distro).installer_kernels.values()
    kernel = f"{next(iter(known), '7.0.0-1.fc45')}.x86_64"
    one = package(kernel=kernel, modules=(module(kernel, compression=compression),))
    assert codes(release(one, distro=distro)) == code


def test_the_first_installer_that_reads_compressed_modules_is_named():
    one = package(modules=(module(compression="xz"),))
    (text,) = [each.text for each in findings(release(one)) if each.code == "DISK026"]
    assert text == "installers before 9.6 do not read modules that are compressed with xz"


def test_payloads_matter_only_where_the_installer_unpacks():
    assert codes(release(package("kmod-x-firmware", None, payload="zstd"), package())) == set()
    fedora = package(kernel="7.0.0-1.fc45.x86_64", payload="zstd")
    assert codes(release(fedora, distro="fedora")) == set()


def test_the_nearest_installer_is_named_where_none_takes_a_package():
    one = package(kernel="5.14.0-427.16.1.el9_4.x86_64")
    (found,) = [each for each in findings(release(one)) if each.code == "DISK021"]
    assert found.subject == "el9"
    assert found.text == "no installer that is known takes kmod-hello-1.0-1.el9.x86_64.rpm"
    assert found.cure.endswith("the nearest is that of 9.4 (5.14.0-427.13.1.el9_4)")
    assert codes(release(one), installers=["5.14.0-427.16.1.el9_4.x86_64"]) == set()
    many = [package(f"kmod-{n}", kernel=f"5.14.0-1.{n}.el9.x86_64") for n in range(5)]
    (found,) = [each for each in findings(release(*many)) if each.code == "DISK021"]
    assert found.text.endswith("kmod-2-1.0-1.el9.x86_64.rpm and 2 more")
    assert found.cure.endswith("9.0 (5.14.0-70.13.1.el9_0)")


def test_of_a_release_whose_installers_are_not_known_nothing_is_said():
    one = package(kernel="7.0.0-1.fc45.x86_64")
    assert codes(release(one, distro="fedora")) == set()
    assert codes(release(one, distro="fedora"), installers=["7.0.1-1.fc45.x86_64"]) == {"DISK021"}


def test_later_kernels_are_those_of_the_next_release_too():
    found = findings(release(package(provides=[(">=", GA)])))
    assert [one.code for one in found] == ["DISK022"]
    assert "Red Hat Enterprise Linux 10" in found[0].text
    assert "Red Hat Enterprise Linux 8" not in found[0].text
    assert 'rpm.installer_kernels = "same"' in found[0].cure


def test_of_several_packages_with_one_module_chance_loads_one():
    packages = package(provides=[(">=", GA)]), package(kernel=NEWER, version="1.0-2", provides=[(">=", NEWER)])
    (found,) = [one for one in findings(release(*packages)) if one.code == "DISK032"]
    shown = "takes kmod-hello-1.0-2.x86_64.rpm, too, with the same module hello"
    assert found.text == f"the installer of 9.5 (5.14.0-503.11.1.el9_5) {shown}"
    assert "DISK032" not in codes(release(package(), package(kernel=NEWER, version="1.0-2")))
    other = package("kmod-other", modules=(module(name="other"),))
    assert "DISK032" not in codes(release(package(), other))


def test_an_installer_that_is_named_is_looked_at_too():
    packages = package(provides=[(">=", GA)]), package(kernel=OLDER, version="0.9-1", provides=[(">=", OLDER)])
    quiet = [one.model_copy(update={"installer_kernels": {}}) for one in (find_distro("el9"),)]
    alone = DiskRelease(quiet[0], packages)
    assert "DISK032" not in codes(alone)
    assert "DISK032" in codes(alone, installers=["5.14.0-687.10.1.el9_8.x86_64"])
    assert "DISK032" not in codes(alone, installers=["5.14.0-687.10.1.el9_8.aarch64"])


def test_two_versions_for_one_kernel_are_too_many():
    assert "DISK030" in codes(release(package(version="1-1"), package(version="1-2")))
    assert "DISK030" not in codes(release(package(version="1-1"), package(version="1-2", kernel=NEWER)))


def test_the_kernels_of_releases_are_in_order_and_of_their_release():
    number = 0
    for name in known_distros():
        distro = find_distro(name)
        kernels = list(distro.installer_kernels.values()) if "rhdd3" in distro.installers else []
        assert all(distro.version_suffix in kernel for kernel in kernels)
        for older, newer in pairwise(kernels):
            assert matches(f"< {newer}", older)
        number += len(kernels)
        for major, minor in (release.split(".") for release in distro.installer_kernels if kernels):
            assert distro.version_suffix == f".el{major}"
            assert f"el{major}" in distro.installer_kernels[f"{major}.{minor}"]
    assert number > 20


def listing(*files, links=(), folders=()):
    parents = {str(parent) for file in files for parent in Path(file).parents} - {"."}
    return DiskListing(set(files), {*parents, *folders}, dict(links), lambda path: b"")


def test_trees_of_any_disk_are_recognized():
    found = LAYOUT.recognize(
        listing(
            "rhdd3",
            "rpms/x86_64/a.rpm",
            "rpms/x86_64/.hidden.rpm",
            "rpms/x86_64/repodata/repomd.xml",
            "rpms/x86_64/deeper/b.rpm",
            f"drivers/el9/{GA}/rhdd3",
            f"drivers/el9/{GA}/rpms/aarch64/c.rpm",
            "no/rpms/x86_64/d.rpm",
            "RHDD3/rhdd3",
        )
    )
    assert [(one.place, one.release, one.machine, one.packages) for one in found] == [
        ("rpms/x86_64", "", "x86_64", ("rpms/x86_64/a.rpm",)),
        (f"drivers/el9/{GA}/rpms/aarch64", "el9", "aarch64", (f"drivers/el9/{GA}/rpms/aarch64/c.rpm",)),
    ]


def test_an_empty_folder_of_a_machine_is_a_tree_without_packages():
    (found,) = LAYOUT.recognize(listing("rhdd3", folders=("rpms", "rpms/s390x")))
    assert (found.machine, found.packages) == ("s390x", ())


def test_links_are_followed_and_lead_neither_out_nor_in_circles():
    links = {"el9/rpms": "../common/packages", "round": "round", "out": "../../etc", "all/rpms": "/etc"}
    files = ("el9/rhdd3", "common/packages/x86_64/a.rpm", "round/rhdd3", "out/rhdd3", "all/rhdd3")
    (found,) = LAYOUT.recognize(listing(*files, links=links.items()))
    assert (found.place, found.packages) == ("el9/rpms/x86_64", ("common/packages/x86_64/a.rpm",))


PARTS = st.sampled_from(["rhdd3", "rpms", "x86_64", "a.rpm", "el9", "..", "."])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


@given(files=st.sets(PATHS), links=st.dictionaries(PATHS, PATHS | st.just("/rpms")))
def test_only_packages_of_the_disk_are_found_whatever_its_links_are(files, links):
    files = {file for file in files if not {".", ".."} & set(file.split("/"))}
    for tree in LAYOUT.recognize(listing(*files, links=links.items())):
        assert set(tree.packages) <= files | set(links)
        assert tree.machine


def test_the_instructions_name_the_images_that_there_are_and_the_kernels():
    text = LAYOUT.instructions([release(package())], {"iso": ["hello-1.0.iso"], "initrd": ["hello-1.0-initrd.img"]})
    assert all(len(line) <= 78 for line in text.splitlines())
    for word in (
        "inst.dd=hd:LABEL=OEMDRV",
        "inst.dd=http://SERVER/hello-1.0.iso",
        "inst.dd=/dd.img",
        f"        {GA}\n",
    ):
        assert word in text
    without = LAYOUT.instructions([release(package())], {"usb": ["hello-1.0.img"]})
    assert "http" not in without and "/dd.img" not in without and "hello-1.0.img" in without


def test_the_instructions_list_a_dozen_kernels_of_many():
    many = [package(f"kmod-{n}", kernel=f"5.14.0-{n}.el9.x86_64") for n in range(20)]
    lines = LAYOUT.instructions([release(*many)], {"iso": ["x.iso"]}).splitlines()
    assert "        and 8 more" in lines
    assert LAYOUT.instructions([release()], {"iso": ["x.iso"]}).count("        none\n") == 1


def test_kernels_are_called_as_they_call_themselves():
    debian = "6.1.0-56-amd64"
    one = package(kernel=debian, version="1-1", provides=[("=", "6.1.0-56_amd64")])
    assert f"        {debian}\n" in LAYOUT.instructions([release(one)], {"iso": ["x.iso"]})
    assert f"el9/{debian}" in layout_of(release(one, package(version="1-2")))


def test_the_layout_is_a_plugin():
    loaded = load(LAYOUTS, "rhdd3")
    assert isinstance(loaded, AnacondaLayout)
    assert (loaded.name, loaded.title, loaded.format) == ("rhdd3", "anaconda", "rpm")
    assert loaded.carriers == ("iso", "usb", "initrd")
