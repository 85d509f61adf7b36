"""The driver updates of SUSE's installers: what is put where, what is said of it, and what is found on a disk."""

import subprocess
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from pkgkmod import data
from pkgkmod.data.distros import find_distro
from pkgkmod.media.findings import CODES
from pkgkmod.media.layouts.dud import AgamaLayout, LinuxrcLayout
from pkgkmod.media.layouts.dudtrees import Span, chosen, kernels_of, load_order, plan, stem_of
from pkgkmod.model.disk import DiskListing, DiskPackage, DiskRelease, ModuleFacts, PackageFacts
from pkgkmod.model.packaging import Disk
from pkgkmod.plugins import DiskDraft

SP6, SP6_NEXT, SP7 = "6.4.0-150600.21-default", "6.4.0-150600.23.47-default", "6.4.0-150700.51-default"
TW, TW_NEXT = "6.12.1-1-default", "6.12.10-1-default"
SLES16, SLES16_NEXT = "6.12.0-160000.5-default", "6.12.0-160000.20-default"


def module(kernel, name="hello", **facts):
    path = f"/lib/modules/{kernel}/updates/hello/{name}.ko"
    known = {"path": path, "name": name.replace("-", "_"), "uname_r": kernel, "vermagic": kernel, "machine": "x86_64"}
    known["aliases"] = ("pci:v00008086d*",)
    return ModuleFacts(**{**known, **facts})


def package(*modules, name="hello-kmp-default", path=None, **facts):
    known = {
        "format": "rpm",
        "kind": "binary",
        "name": name,
        "version": "1.0-1",
        "arch": "x86_64",
        "machine": "x86_64",
        "size": 1000,
        "build_time": 1_700_000_000,
        "signed": True,
        "modules": modules,
    }
    return DiskPackage(path or Path(f"/nowhere/{name}-1.0-1.rpm"), PackageFacts(**{**known, **facts}))


def kmp(*kernels, **facts):
    return package(*(module(kernel) for kernel in kernels), name=f"hello-{'-'.join(kernels)}", **facts)


def release(distro, *packages):
    return DiskRelease(find_distro(distro), packages)


def tree(*modules, kernel=SP6):
    (made,) = plan([release("sle15sp6", package(*modules))])
    assert made.kernel == kernel
    return made


def places(*releases):
    return {one.place: (one.kernel, [file.facts.name for file in one.packages]) for one in plan(releases)}


def test_one_release_has_one_folder_with_the_modules_and_whatever_goes_with_them():
    tools = package(name="hello-tools", arch="noarch", machine="")
    made = places(release("sle15sp6", kmp(SP6), tools))
    assert made == {"linux/suse/x86_64-sles15": (SP6, ["hello-6.4.0-150600.21-default", "hello-tools"])}


def test_machines_have_folders_of_their_own_called_as_suse_does():
    small = replace(kmp(TW), facts=kmp(TW).facts.model_copy(update={"machine": "i686"}))
    assert set(places(release("tumbleweed", kmp(TW), small))) == {"linux/suse/x86_64-tw", "linux/suse/i386-tw"}


def test_service_packs_that_share_a_name_are_numbered_and_each_is_for_its_own_kernels():
    one, two = plan([release("sle15sp7", kmp(SP7)), release("sle15sp6", kmp(SP6))])
    assert (one.place, one.span) == ("01/linux/suse/x86_64-sles15", Span("6.4.0-150600", "0", "-"))
    assert (two.place, two.span) == ("02/linux/suse/x86_64-sles15", Span("6.4.0-150700", "0", "-"))


def test_several_kernels_of_a_service_pack_are_updates_from_one_to_the_next():
    made = plan([release("sle15sp6", kmp(SP6_NEXT), kmp(SP6))])
    assert [(one.number, one.kernel, one.span) for one in made] == [
        (1, SP6, Span("6.4.0-150600", "0", "23.47")),
        (2, SP6_NEXT, Span("6.4.0-150600", "23.47", "-")),
    ]
    assert [file.kernels for one in made for file in one.packages] == [(SP6,), (SP6_NEXT,)]


def test_a_package_for_several_kernels_is_in_the_update_of_each():
    made = plan([release("sle15sp6", kmp(SP6, SP6_NEXT))])
    assert [(one.kernel, len(one.packages)) for one in made] == [(SP6, 1), (SP6_NEXT, 1)]


@pytest.mark.parametrize(("distro", "kernels", "taken"), [("sles16", (SLES16_NEXT, SLES16), SLES16), ("leap", (), "")])
def test_agama_which_runs_no_scripts_gets_one_update_with_what_later_kernels_of_the_release_take(
    distro, kernels, taken
):
    (made,) = plan([release(distro, package(name="hello-tools"), *map(kmp, kernels))])
    assert (made.number, made.kernel, made.span) == (0, taken, None)


def test_where_modules_are_for_one_kernel_the_newest_is_taken():
    (made,) = plan([release("tumbleweed", kmp(TW_NEXT), kmp(TW))])
    assert made.kernel == TW_NEXT
    assert chosen(find_distro("tumbleweed"), (TW, TW_NEXT)) == TW_NEXT
    assert made.names == ("x86_64-tw", "x86_64-opensuse-tumbleweed")


def test_packages_for_other_flavours_are_in_no_update():
    other = kmp("6.4.0-150600.21-rt")
    assert places(release("sle15sp6", kmp(SP6), other)) == places(release("sle15sp6", kmp(SP6)))
    assert places(release("sle15sp6", other)) == {}
    assert LinuxrcLayout().kernels(other) == ()
    assert LinuxrcLayout().kernels(kmp(SP6_NEXT, SP6)) == (SP6, SP6_NEXT)


@pytest.mark.parametrize("kernel", ["$(reboot)-default", "6.4.0-1;reboot-default", "6.4.0 1-default", "../../etc"])
def test_what_is_no_release_of_a_kernel_gets_nowhere(kernel):
    assert kernels_of([kmp(kernel)]) == ()
    assert plan([release("sle15sp6", kmp(kernel))]) == ()


def test_modules_are_loaded_after_what_they_need_and_the_kernels_own_before_them():
    made = tree(
        module(SP6, "a-siit", depends=("common", "nf_defrag_ipv4")),
        module(SP6, "common", depends=("x_tables",)),
        module(SP6, "b", depends=("a_siit",)),
    )
    assert load_order(made) == ["x_tables", "common", "nf_defrag_ipv4", "a-siit", "b"]


def test_modules_that_need_each_other_are_loaded_once_each():
    made = tree(module(SP6, "a", depends=("b",)), module(SP6, "b", depends=("c",)), module(SP6, "c", depends=("a",)))
    assert load_order(made) == ["c", "b", "a"]
    assert load_order(tree(module(SP6, "a", depends=("a",)))) == ["a"]


def test_a_chain_of_ten_thousand_modules_has_an_order():
    names = [f"m{number:05}" for number in range(10_000)]
    made = tree(*(module(SP6, name, depends=names[at + 1 : at + 2]) for at, name in enumerate(names)))
    assert load_order(made) == names[::-1]


def test_words_that_are_no_names_of_modules_are_not_in_the_list():
    assert load_order(tree(module(SP6, depends=("a b", "x\ny", "-r", "", "../z", "ok")))) == ["ok", "hello"]


def test_modules_that_cannot_be_read_or_loaded_are_left_out():
    made = tree(module(SP6), module(SP6, "bad", fault="not an ELF file"), module(SP6, "with space"))
    assert list(made.modules) == ["hello"]
    assert [stem_of(name) for name in ("a.ko", "/b/a-b.ko.zst", "a.ko.bz2", "a.o", ".ko", "-x.ko")] == (
        ["a", "a-b", "", "", "", ""]
    )


def written(folder, layouts, *releases, title="hello 1.0"):
    folder.mkdir()
    for layout in layouts:
        mine = [one for one in releases if layout.name in one.distro.installers]
        layout.write(mine, DiskDraft(folder, folder.parent, title, 1_700_000_000, lambda command: pytest.fail("run")))
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def tools(tmp_path):
    """Return a package without modules, whose file has some bytes."""
    path = tmp_path / "hello-tools-1.0-1.noarch.rpm"
    path.write_bytes(b"an RPM")
    return package(name="hello-tools", path=path)


def test_both_layouts_write_the_same_in_any_order(tmp_path, tools):
    both = [LinuxrcLayout(), AgamaLayout()]
    disks = [release("tumbleweed", tools), release("sles16", tools), release("sle15sp6", tools)]
    one = written(tmp_path / "one", both, *disks)
    assert one == written(tmp_path / "two", both[::-1], *disks[::-1])
    links = {path: content for path, content in one.items() if isinstance(content, str)}
    others = find_distro("sle15sp6").installers["dud"][1:]
    assert "sled15" in others
    assert links == {
        "linux/suse/x86_64-opensuse-tumbleweed": "x86_64-tw",
        **{f"linux/suse/x86_64-{tag}": "x86_64-sles15" for tag in others},
    }
    assert one["linux/suse/x86_64-sles16.0/install/hello-tools-1.0-1.noarch.rpm"] == b"an RPM"


def test_each_update_has_an_id_of_its_content(tmp_path, tools):
    """linuxrc skips an update whose id it has seen."""
    other = tmp_path / "other.rpm"
    other.write_bytes(b"another RPM")
    ids = []
    for number, file in enumerate([tools, tools, package(name="hello-tools", path=other)]):
        made = written(tmp_path / str(number), [LinuxrcLayout()], release("sle15sp6", file))
        lines = made["linux/suse/x86_64-sles15/dud.config"].decode().splitlines()
        assert lines[1:] == ["UpdateName:\thello 1.0"]
        ids.append(lines[0].removeprefix("UpdateID:\t"))
    assert ids[0] == ids[1] != ids[2]


def test_a_title_of_many_lines_stays_one_line_of_the_configuration(tmp_path, tools):
    made = written(tmp_path / "it", [LinuxrcLayout()], release("sle15sp6", tools), title="a\nExec:\treboot ☃")
    assert made["linux/suse/x86_64-sles15/dud.config"].endswith(b"UpdateName:\ta?Exec:?reboot ?\n")


def is_kept(folder, kernel, *words):
    """Run the script of an update where `uname -r` says KERNEL; tell whether the update is still there."""
    install = folder / "000/install"
    install.mkdir(parents=True)
    script = install / "pkgkmod.sh"
    script.write_text((files(data) / "disk/for-kernel.sh").read_text())
    (folder / "000/modules").mkdir()
    (folder / "bin").mkdir()
    (folder / "bin/uname").write_text(f"#!/bin/sh\necho {kernel}\n")
    (folder / "bin/uname").chmod(0o755)
    (folder / "001").mkdir()
    done = subprocess.run(
        ["bash", script, *words],
        env={"PATH": f"{folder}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert (folder / "001").is_dir()
    left = [path.name for path in (folder / "000").iterdir()]
    assert len(left) in (0, 2)
    return bool(left)


@pytest.mark.parametrize(
    ("kernel", "words", "kept"),
    [
        (SP6, "6.4.0-150600 default 0 -", True),
        (SP7, "6.4.0-150600 default 0 -", False),
        ("6.4.0-150600.21-rt", "6.4.0-150600 default 0 -", False),
        ("6.4.0-1506001.2-default", "6.4.0-150600 default 0 -", False),
        ("6.4.0-150600.9-default", "6.4.0-150600 default 0 23.47", True),
        (SP6_NEXT, "6.4.0-150600 default 0 23.47", False),
        (SP6_NEXT, "6.4.0-150600 default 23.47 23.50", True),
        ("6.4.0-150600.23.47.2-default", "6.4.0-150600 default 23.47 23.50", True),
        ("6.4.0-150600.23.5-default", "6.4.0-150600 default 23.47 23.50", False),
        ("6.4.0-150600.23.50-default", "6.4.0-150600 default 23.47 23.50", False),
        ("6.4.0-150600.100-default", "6.4.0-150600 default 23.47 -", True),
        (TW, "6.12.1-1 default 0 -", True),
        (TW_NEXT, "6.12.1-1 default 0 -", False),
    ],
)
def test_the_script_keeps_an_update_for_the_running_kernel_and_empties_any_other(tmp_path, kernel, words, kept):
    assert is_kept(tmp_path, kernel, *words.split()) is kept


@pytest.mark.parametrize("running", [SP6, "6.4.0-150600.22-default", SP6_NEXT, "6.4.0-150600.99-default", SP7])
def test_of_all_updates_of_a_name_the_script_keeps_one(tmp_path, running):
    made = plan([release("sle15sp6", kmp(SP6), kmp(SP6_NEXT)), release("sle15sp7", kmp(SP7))])
    spans = {one.kernel: (one.span.series, "default", one.span.first, one.span.next) for one in made}
    kept = [kernel for kernel, words in spans.items() if is_kept(tmp_path / kernel, running, *words)]
    assert kept == [max(kernel for kernel in spans if kernel <= running)]


def found(layout, *releases, **disk):
    return {(one.code, one.subject) for one in layout.check(releases, Disk(**disk))}


def test_what_is_as_it_should_be_is_not_spoken_of():
    assert found(LinuxrcLayout(), release("sle15sp6", kmp(SP6))) == set()
    assert found(AgamaLayout(), release("sles16", kmp(SLES16)), carriers=("iso", "dud")) == set()


def test_packages_for_kernels_that_no_installer_runs_are_left_out():
    other = kmp("6.4.0-150600.21-rt")
    assert found(LinuxrcLayout(), release("sle15sp6", kmp(SP6), other)) == {("DISK041", other.shown)}
    wrong = found(LinuxrcLayout(), release("sle15sp6", other))
    assert wrong == {("DISK041", other.shown), ("DISK040", "sle15sp6 x86_64")}


def test_modules_that_cannot_lie_or_be_loaded_together_are_named():
    twice = package(module(SP6, path=f"/lib/modules/{SP6}/extra/hello.ko.xz"), name="other")
    dashes = package(module(SP6, "a-b"), module(SP6, "a_b"), module(SP6, "c d"), name="dashes")
    names = f"{twice.shown}: /lib/modules/{SP6}/extra/hello.ko.xz"
    assert found(LinuxrcLayout(), release("sle15sp6", kmp(SP6), twice)) == {("DISK042", names)}
    folder = f"{dashes.shown}: /lib/modules/{SP6}/updates/hello"
    assert found(LinuxrcLayout(), release("sle15sp6", dashes)) == {
        ("DISK042", f"{folder}/a_b.ko"),
        ("DISK043", f"{folder}/c d.ko"),
    }


def test_linuxrc_asks_before_it_takes_a_file():
    assert found(LinuxrcLayout(), release("sle15sp6", kmp(SP6)), carriers=("dud",)) == {("DISK044", "sle15sp6")}


def test_agama_is_given_a_file():
    assert found(AgamaLayout(), release("sles16", kmp(SLES16)), carriers=("initrd",)) == {("DISK045", "sles16")}
    # It lies on every other disk.
    assert found(AgamaLayout(), release("sles16", kmp(SLES16)), carriers=("iso",)) == set()


def test_kernels_for_which_agama_takes_nothing_are_named_and_an_error_if_they_were_asked_for():
    two, disk = release("sles16", kmp(SLES16), kmp(SLES16_NEXT)), {"carriers": ("dud",)}
    assert found(AgamaLayout(), two, **disk) == {("DISK046", "sles16 x86_64")}
    assert found(AgamaLayout(), two, **disk, installers=(SLES16,)) == {("DISK046", "sles16 x86_64")}
    assert found(AgamaLayout(), two, **disk, installers=(SLES16_NEXT,)) == {("DISK047", "sles16 x86_64")}


def test_packages_that_agama_would_not_install_by_itself_are_named():
    silent = package(module(SLES16, aliases=("fs-hello",)), name="silent")
    tools = package(name="tools", signed=False)
    assert found(AgamaLayout(), release("sles16", silent, tools), carriers=("dud",)) == {
        ("DISK048", silent.shown),
        ("DISK049", tools.shown),
    }


def test_every_finding_has_a_cure_and_says_the_same_for_both_installers():
    bad = release("tumbleweed", kmp("6.12.1-1-rt"), package(module(TW), module(TW, path="/x/hello.ko"), name="twice"))
    one, two = (list(layout.check([bad], Disk())) for layout in (LinuxrcLayout(), AgamaLayout()))
    assert [finding for finding in two if finding.code != "DISK045"] == one  # which is about Agama
    assert all(finding.cure and not finding.text.endswith(".") for finding in two)
    assert {finding.code for finding in two} <= set(CODES)


def listing(*paths, **links):
    names = set(paths)
    folders = {"/".join(path.split("/")[:depth]) for path in names for depth in range(1, path.count("/") + 1)}
    return DiskListing(names, folders, links, lambda path: pytest.fail(path))


def test_updates_are_found_on_any_disk_under_all_their_names():
    place = "01/linux/suse/x86_64-sles15"
    disk = listing(
        f"{place}/install/hello.rpm",
        f"{place}/install/deeper/no.rpm",
        f"{place}/install/update.post",
        f"{place}/modules/hello.ko.xz",
        f"{place}/modules/module.order",
        "linux/suse/i386-tw/modules/hello.ko",
        "linux/suse/aarch64-sles16.0/dud.config",
        "linux/suse/x86_64-leap16.1/dud.config",
        "linux/suse/README-x",
        **{
            "01/linux/suse/x86_64-micro5.5": "x86_64-sles15",
            "linux/suse/i386-opensuse-tumbleweed": "./i386-tw",
            "linux/suse/x86_64-a": "../../../../etc",
            "linux/suse/x86_64-b": "x86_64-b",
            "linux/suse/x86_64-c": "/etc",
        },
    )
    found = {one.place: one for one in LinuxrcLayout().recognize(disk)}
    assert {path: (one.release, one.machine) for path, one in found.items()} == {
        place: ("sles15", "x86_64"),
        "01/linux/suse/x86_64-micro5.5": ("micro5.5", "x86_64"),
        "linux/suse/i386-tw": ("tumbleweed", "i686"),
    }
    for one in (found[place], found["01/linux/suse/x86_64-micro5.5"]):
        assert one.packages == (f"{place}/install/hello.rpm",)
        assert one.modules == (f"{place}/modules/hello.ko.xz",)
    assert {one.place: one.release for one in AgamaLayout().recognize(disk)} == {
        "linux/suse/aarch64-sles16.0": "sles16",
        "linux/suse/x86_64-leap16.1": "leap16.1",
        "linux/suse/i386-opensuse-tumbleweed": "tumbleweed",
    }


def test_what_is_to_be_told_the_installers_names_the_files_of_each_release():
    names = {"iso": ("hello-1.0.iso",), "dud": ("hello-1.0-sle15sp6.dud", "hello-1.0-sles16.dud")}
    told = LinuxrcLayout().instructions([release("sle15sp6")], names)
    assert "hello-1.0.iso" in told
    assert "dud=disk:/hello-1.0-sle15sp6.dud insecure=1" in told
    assert "sles16" not in told
    told = AgamaLayout().instructions([release("sles16")], names)
    assert "inst.dud=label://OEMDRV/hello-1.0-sles16.dud" in told
    assert "mkmedia --create NEW.iso --initrd hello-1.0-sles16.dud OLD.iso" in told
    assert "hello-1.0.iso" not in told


def test_what_is_told_fits_a_terminal():
    names = {"iso": ("a.iso",), "usb": ("a.img",), "dud": ("a-tumbleweed.dud",)}
    for layout in (LinuxrcLayout(), AgamaLayout()):
        told = layout.instructions([release("tumbleweed")], names)
        assert max(map(len, told.splitlines())) <= 78
        assert "openSUSE Tumbleweed" in told
