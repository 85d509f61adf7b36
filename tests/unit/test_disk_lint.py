"""What is said of a driver disk before it is written, whatever the installer."""

from pathlib import Path

import pytest

from pkgkmod.data.distros import find_distro, known_distros
from pkgkmod.errors import DiskError, InputError
from pkgkmod.media.disk import DiskOrder, make_images, sort_out
from pkgkmod.media.findings import CODES
from pkgkmod.media.lint import check_root, in_order, refuse_errors
from pkgkmod.media.matching import matches
from pkgkmod.model.disk import DiskPackage, DiskRelease, ModuleFacts, PackageFacts, Provide
from pkgkmod.model.finding import Finding
from pkgkmod.model.packaging import Disk, Signing
from pkgkmod.plugins import LAYOUTS, DiskDraft, load, registered

KERNEL = "5.14.0-427.el9.x86_64"


def module(**facts):
    path = f"/lib/modules/{KERNEL}/extra/hello/hello.ko"
    known = {"path": path, "name": "hello", "uname_r": KERNEL, "vermagic": KERNEL, "machine": "x86_64"}
    return ModuleFacts(**{**known, **facts})


def package(name="kmod-hello", path=None, modules=None, **facts):
    known = {
        "format": "rpm",
        "kind": "binary",
        "name": name,
        "version": "1.0-1.el9",
        "arch": "x86_64",
        "machine": "x86_64",
        "size": 1000,
        "build_time": 1_700_000_000,
        "payload": "xz",
        "provides": (Provide(name="kernel-modules", relation="=", version=KERNEL),),
        "modules": (module(),) if modules is None else modules,
    }
    return DiskPackage(path or Path(f"/nowhere/{name}-1.0-1.el9.x86_64.rpm"), PackageFacts(**{**known, **facts}))


def checked(*packages, distro="el9", disk=None, **signing):
    release = DiskRelease(find_distro(distro), packages)
    values = {"module_key": "k", "module_certificate": "c"} if signing.get("modules") else {}
    values |= {"package_key": "k"} if signing.get("packages") else {}
    order, findings = sort_out("hello-1.0", [release], disk or Disk(), Signing(**values), Path())
    return order, findings


def codes(findings, *severities):
    return {one.code for one in findings if one.severity in (severities or ("error", "warning", "note"))}


def test_a_package_as_it_should_be_has_no_errors():
    _, findings = checked(package())
    assert codes(findings, "error") == set()


@pytest.mark.parametrize(
    ("code", "facts"),
    [
        ("DISK001", {"modules": (module(fault="not an ELF file"),)}),
        ("DISK002", {"modules": ()}),
        ("DISK009", {"modules": (module(machine="aarch64"),)}),
        ("DISK010", {"modules": (module(vermagic="5.14.0-503.el9.x86_64"),)}),
    ],
)
def test_each_fault_is_an_error_with_a_cure(code, facts):
    _, findings = checked(package(**facts))
    (found,) = [one for one in findings if one.code == code]
    assert found.severity == "error"
    assert found.cure
    assert found.text[-1] != "."


def test_a_machine_without_modules_is_named_though_another_has_some():
    arm = package("kmod-hello-arm", arch="aarch64", machine="aarch64", modules=())
    _, findings = checked(package(), arm)
    assert [one.subject for one in findings if one.code == "DISK002"] == ["el9 aarch64"]


def test_signatures_are_missed_only_where_they_were_asked_for():
    assert not codes(checked(package())[1]) & {"DISK003", "DISK004"}
    _, findings = checked(package(), modules=True, packages=True)
    assert {"DISK003", "DISK004"} <= codes(findings, "error")
    signed = package(modules=(module(signed=True),), signed=True)
    assert not codes(checked(signed, modules=True, packages=True)[1]) & {"DISK003", "DISK004"}


def test_debug_information_is_left_out_and_sources_as_asked():
    debug = package("kmod-hello-debuginfo", kind="debuginfo", modules=())
    source = package("hello", kind="source", arch="src", machine="", modules=())
    order, findings = checked(package(), debug, source)
    assert {"DISK005", "DISK006"} <= codes(findings, "note")
    assert [one.facts.name for release in order.releases for one in release.packages] == ["kmod-hello"]
    assert order.sources == ()
    order, _ = checked(package(), source, disk=Disk(include_srpm=True))
    assert order.sources == (source,)


def test_without_a_binary_package_there_is_no_disk():
    with pytest.raises(InputError, match="no binary package"):
        checked(package(kind="source", arch="src", machine="", modules=()))


def test_two_files_of_one_name_must_be_the_same(tmp_path):
    paths = [tmp_path / folder / "kmod-hello.rpm" for folder in ("a", "b", "c")]
    for path, content in zip(paths, (b"1", b"1", b"2"), strict=True):
        path.parent.mkdir()
        path.write_bytes(content)
    same = [package(path=path) for path in paths[:2]]
    assert "DISK008" not in codes(checked(*same)[1])
    (found,) = [one for one in checked(*same, package(path=paths[2]))[1] if one.code == "DISK008"]
    assert str(paths[0]) in found.text
    assert str(paths[2]) in found.text


def test_an_installer_that_must_take_it_and_does_not_is_an_error():
    taken = Disk(installers=("5.14.0-427.el9.x86_64",))
    assert "DISK011" not in codes(checked(package(), disk=taken)[1])
    missed = Disk(installers=("5.14.0-503.11.1.el9_5.x86_64", "5.14.0-427.el9.x86_64"))
    found = [one for one in checked(package(), disk=missed)[1] if one.code == "DISK011"]
    assert [one.subject for one in found] == ["5.14.0-503.11.1.el9_5.x86_64"]


@pytest.mark.parametrize("name", ["ks.cfg", "KS.CFG", "autoinst.xml"])
def test_files_for_unattended_installation_must_not_lie_at_the_root(name, tmp_path):
    assert codes(check_root(["README.txt", name])) == {"DISK007"}
    (tmp_path / name).touch()
    _, findings = checked(package(), disk=Disk(extra=str(tmp_path)))
    assert "DISK007" in codes(findings, "error")


def test_files_of_the_project_take_the_place_of_nothing_on_the_disk(tmp_path):
    for name in ("extra", "disk", "scratch", "made"):
        (tmp_path / name).mkdir()
    (tmp_path / "extra/README.txt").write_text("mine\n")
    bare = find_distro("el9").model_copy(update={"installers": {}})
    order = DiskOrder("hello-1.0", (DiskRelease(bare, (package(),)),), (), Disk(extra="extra"), tmp_path)
    draft = DiskDraft(tmp_path / "disk", tmp_path / "scratch", order.name, order.epoch, pytest.fail)
    with pytest.raises(InputError, match="would be written over"):
        make_images(order, tmp_path / "made", draft)


def test_errors_end_the_run_unless_they_are_only_to_be_said():
    errors = [Finding(code="DISK001", severity="error", subject="a.rpm", text="it is broken", cure="mend it")]
    with pytest.raises(DiskError) as caught:
        refuse_errors(errors, Disk())
    assert caught.value.exit_code == 21
    assert "a.rpm: it is broken" in caught.value.details
    assert "--ignore DISK001" in caught.value.hint
    refuse_errors(errors, Disk(check="warn"))
    refuse_errors(errors, Disk(check="off"))
    assert in_order(errors, Disk(ignore=("DISK001",))) == ()


def test_the_worst_comes_first_and_nothing_twice():
    severities = {"DISK005": "note", "DISK021": "warning", "DISK001": "error"}
    found = [Finding(code=c, severity=s, subject="x", text="t", cure="") for c, s in severities.items()]
    assert [one.code for one in in_order([*found, *found], Disk())] == ["DISK001", "DISK021", "DISK005"]


# FORMATS of anaconda's comparison, as measured with its dd_list.
@pytest.mark.parametrize(
    ("relation", "taken"),
    [("=", [True, False, False, False, False]), (">=", [True, True, False, True, True])],
)
def test_kernels_are_compared_as_anaconda_does(relation, taken):
    kernels = ["427.el9", "427.13.1.el9_4", "362.el9", "503.el9_5"]
    installers = [f"5.14.0-{kernel}.x86_64" for kernel in kernels] + ["6.12.0-55.el10.x86_64"]
    assert [matches(f"{relation} {KERNEL}", kernel) for kernel in installers] == taken


def test_without_a_relation_only_the_kernel_itself_matches():
    assert matches("6.1.0-56-amd64", "6.1.0-56-amd64")
    assert not matches("6.1.0-56-amd64", "6.1.0-57-amd64")


def test_every_layout_that_data_names_is_there():
    named = {name for distro in known_distros() for name in find_distro(distro).installers}
    assert named == set(registered(LAYOUTS))
    for name in named:
        layout = load(LAYOUTS, name)
        assert layout.name == name
        assert {find_distro(d).format for d in known_distros() if name in find_distro(d).installers} == {layout.format}


def test_every_code_has_words():
    assert all(facts.title and facts.why.endswith(".") and not facts.title.endswith(".") for facts in CODES.values())
