"""Predictions beside what depmod, modinfo and kbuild say of real modules and real kernels."""

import json
import re
import shutil
import struct
import subprocess
import tomllib
from pathlib import Path

import pytest

from pkgkmod.kernels.tree import read_options
from pkgkmod.modules.kernelside import KernelSide, read_exports
from pkgkmod.modules.kmod_deps import module_name, read_module
from pkgkmod.modules.predict import predict
from pkgkmod.modules.vermagic import compared_words, expected_words
from pkgkmod.modules.weakupdates import linked
from pkgkmod.signing.modules import unsigned
from tests.fixtures.aptrepo import Archive, key, make_deb
from tests.fixtures.archive_modules import archive_driver, image_modules
from tests.fixtures.machine import CHECKOUT, need, pkgkmod
from tests.fixtures.signing import new_key, signed_by_kernel
from tests.fixtures.smallrpms import kmod_rpm

ARCH = "x86_64"


def side(uname_r):
    tree = Path(f"/lib/modules/{uname_r}/build")
    return KernelSide(uname_r, ARCH, read_exports(tree, uname_r), read_options(tree.resolve()))


@pytest.fixture(scope="module")
def sides():
    """What all installed kernels have."""
    return {place.parent.name: side(place.parent.name) for place in sorted(Path("/lib/modules").glob("*/build"))}


@pytest.fixture
def jool(kernel):
    return archive_driver("jool-dkms", kernel).modules


def neighbour(kernel, sides, *, compatible):
    """Return another installed kernel that has all symbols as this one has them, or one that has not."""
    exports = sides[kernel].exports
    for name, other in sides.items():
        if name != kernel and (dict(other.exports) == dict(exports)) == compatible:
            return name
    return pytest.skip(f"no other kernel is installed that is {'' if compatible else 'not '}like {kernel}")


def depmods_words(modules, uname_r, folder):
    """Return what depmod says of modules: (module, symbol, kind).

    It takes no symbol from Module.symvers but those of vmlinux; for it, all of them are, since the kernel's own modules
    are not there.
    """
    need("depmod")
    place = folder / "lib/modules" / uname_r
    shutil.rmtree(folder, ignore_errors=True)
    (place / "extra").mkdir(parents=True)
    for module in modules:
        shutil.copy2(module, place / "extra")
    lines = Path(f"/lib/modules/{uname_r}/build/Module.symvers").read_text().splitlines()
    rows = ["\t".join([*line.split("\t")[:2], "vmlinux", *line.split("\t")[3:]]) for line in lines]
    (folder / "symvers").write_text("\n".join(rows) + "\n")
    command = ["depmod", "-n", "-e", "-E", folder / "symvers", "-b", folder, uname_r]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kinds = {"needs unknown symbol": "missing", "disagrees about version of symbol": "other crc"}
    said = re.findall(rf"WARNING: (\S+) ({'|'.join(kinds)}) (\S+)", done.stderr)
    return {(module_name(path), symbol, kinds[words]) for path, words, symbol in said}


@pytest.mark.parametrize("package", ["jool-dkms", "digimend-dkms", "tp-smapi-dkms", "acpi-call-dkms"])
def test_depmod_says_the_same_of_all_installed_kernels(package, kernel, sides, tmp_path):
    files = archive_driver(package, kernel).modules
    modules = [read_module(str(file)) for file in files]
    some = False
    for uname_r, kernels_side in sides.items():
        ours = {
            (one.module, trouble.symbol, trouble.kind)
            for one in predict(modules, kernels_side)
            for trouble in one.troubles
        }
        assert ours == depmods_words(files, uname_r, tmp_path / "root")
        some = some or bool(ours)
    assert some or len(sides) == 1


def test_a_kernel_loads_its_own_modules_with_what_modinfo_says_they_need(kernel):
    kernels_side = side(kernel)
    files = sorted(image_modules(kernel).rglob("*.ko*"))
    assert len(files) > 50
    for file in files:
        module = read_module(str(file))
        (found,) = predict([module], kernels_side)
        assert (found.verdict, found.troubles, found.reasons) == ("loads", (), ())
        depends = [name for name in ",".join(module.info("depends")).split(",") if name]
        assert sorted(found.needs) == sorted(name.replace("-", "_") for name in depends)


def test_vermagic_is_what_the_config_makes_of_it(kernel, sides):
    """Each kernel's own modules say it, where they are installed."""
    own = {name: Path(f"/lib/modules/{name}/kernel") for name in sides} | {kernel: image_modules(kernel)}
    for uname_r, place in own.items():
        for module in sorted(place.rglob("*.ko*"))[:1]:
            assert compared_words(read_module(str(module)), ARCH) in expected_words(sides[uname_r].options, ARCH)


def test_what_a_crc_covers_is_what_the_headers_declare(kernel, sides):
    structs = tomllib.loads((CHECKOUT / "pkgkmod/data/symbolstructs.toml").read_text())["structs"]
    assert set(structs) <= set(sides[kernel].exports)
    assert structs.pop("module_layout") == "struct module"  # declared beside the module loader alone
    headers = Path(f"/lib/modules/{kernel}/source/include")
    files = [file for folder in ("acpi", "linux", "media", "net") for file in headers.glob(f"{folder}/*.h")]
    lines = [line for file in files for line in file.read_text().splitlines() if "(" in line and "*" in line]
    for symbol, covered in structs.items():
        assert any(f"{symbol}(" in line and f"{covered} *" in line for line in lines), symbol


def test_a_module_that_no_kernel_can_load(kernel, sides):
    modules = [read_module(str(file)) for file in archive_driver("dahdi-dkms", kernel).modules]
    refused = [one for one in predict(modules, sides[kernel]) if one.verdict != "loads"]
    (oslec,) = refused
    assert oslec.module == "dahdi_echocan_oslec"
    assert {trouble.symbol for trouble in oslec.troubles} == {"oslec_create", "oslec_free", "oslec_update"}


def test_weak_modules_would_link_into_a_neighbour_with_the_same_symbols(jool, kernel, sides):
    modules = [read_module(str(file)) for file in jool]
    found = {name: linked(predict(modules, side)) for name, side in sides.items()}
    names = ("jool", "jool_common", "jool_siit")
    assert found[neighbour(kernel, sides, compatible=True)] == names
    assert found[neighbour(kernel, sides, compatible=False)] == ()


# --- the command -------------------------------------------------------------------------------------


def test_the_table(jool, kernel, sides, tmp_path):
    done = pkgkmod("predict", *jool, "--kernel", kernel, cwd=tmp_path)
    assert re.search(rf"^{kernel} +needs 4 +loads +needs 2$", done.out, re.MULTILINE)
    assert "jool needs nf_defrag_ipv4, nf_defrag_ipv6, x_tables, jool_common\n" in done.out
    bad = neighbour(kernel, sides, compatible=False)
    done = pkgkmod("predict", *jool, "--kernel", kernel, "--kernel", bad, cwd=tmp_path, code=19)
    assert re.search(rf"^{re.escape(bad)} +refused +refused +refused$", done.out, re.MULTILINE)
    assert f"jool: refused by {bad}\n" in done.out
    assert "symbols with another CRC (module_layout: struct module, ...)" in done.out
    assert "error: 1 kernel of 2 would not load jool, jool_common, jool_siit" in done.err
    assert f"all is well with {kernel}" in done.err
    assert max(map(len, done.out.splitlines())) <= 80
    in_full = pkgkmod("predict", *jool, "--kernel", bad, "--why", cwd=tmp_path, code=19).out
    assert re.search(r"^  module_layout: CRC 0x\w{8} is needed, 0x\w{8} is there", in_full, re.MULTILINE)
    assert len(in_full.splitlines()) > 50


def test_kernels_that_the_modules_were_not_built_for_do_not_count_unless_they_are_named(jool, kernel, sides, tmp_path):
    bad = neighbour(kernel, sides, compatible=False)
    said = pkgkmod("predict", *jool, cwd=tmp_path).out
    assert re.search(rf"^{re.escape(bad)} +refused", said, re.MULTILINE)
    pkgkmod("predict", *jool, "--kernel", "all", cwd=tmp_path, code=19)


def test_many_modules_are_a_list(kernel, sides, tmp_path):
    modules = archive_driver("dahdi-dkms", kernel).modules
    done = pkgkmod("predict", modules[0].parent, "--kernel", kernel, cwd=tmp_path, code=19)
    assert done.out.splitlines() == [
        f"{kernel}: loads {len(modules) - 1} of {len(modules)} modules",
        "  dahdi_echocan_oslec: 3 symbols not there (oslec_create, ...)",
    ]
    bad = neighbour(kernel, sides, compatible=False)
    done = pkgkmod("predict", modules[0].parent, "--kernel", bad, cwd=tmp_path, code=19)
    assert "  all of them: module_layout: CRC" in done.out
    assert len(done.out.splitlines()) < 8


def test_for_programs(jool, kernel, sides, tmp_path):
    bad = neighbour(kernel, sides, compatible=False)
    done = pkgkmod("predict", *jool, "--kernel", kernel, "--kernel", bad, "--json", cwd=tmp_path, code=19)
    found = [event for event in done.events if event["event"] == "prediction"]
    assert {(one["kernel"], one["verdict"]) for one in found} == {(kernel, "loads"), (bad, "refused")}
    assert next(one for one in found if one["module"] == "jool")["needs"][-1] == "jool_common"
    assert {trouble["kind"] for one in found for trouble in one["troubles"]} >= {"other crc"}
    assert all(one["counts"] for one in found)


def test_packages_that_need_another_one(jool, kernel, tmp_path):
    need("rpmbuild")
    place = f"lib/modules/{kernel}/extra"
    common = [file for file in jool if file.name == "jool_common.ko"]
    base = kmod_rpm(tmp_path, "kmod-common", common, place)
    user = kmod_rpm(tmp_path, "kmod-user", [file for file in jool if file not in common], place)
    done = pkgkmod("predict", user, "--kernel", kernel, cwd=tmp_path, code=19)
    assert "symbols not there (" in done.out
    assert "--with PACKAGE" in done.err
    pkgkmod("predict", user, "--with", base, "--kernel", kernel, cwd=tmp_path)
    done = pkgkmod("explain", user, "--kernel", kernel, cwd=tmp_path, code=19)
    assert "not there" in done.out
    assert "--with PACKAGE" in done.err
    said = pkgkmod("explain", user, "--with", base, "--kernel", kernel, cwd=tmp_path).out
    assert f"It would load into {kernel}." in said
    assert "of the packages with it" in " ".join(said.split())


def test_what_weak_modules_would_link(jool, kernel, sides, tmp_path):
    good = neighbour(kernel, sides, compatible=True)
    base = kmod_rpm(tmp_path, "kmod-common", jool, f"lib/modules/{kernel}/extra")
    done = pkgkmod("predict", base, "--kernel", kernel, "--kernel", good, cwd=tmp_path)
    said = " ".join(done.out.split())
    assert f"{base.name}, built for {kernel}: weak-modules links it into {good}" in said
    done = pkgkmod("predict", base, "--kernel", good, "--json", cwd=tmp_path)
    (event,) = [event for event in done.events if event["event"] == "weak_update"]
    assert (event["kernel"], event["modules"], event["complete"]) == (good, ["jool", "jool_common", "jool_siit"], True)


def test_a_file_of_symbols_and_bad_input(jool, kernel, tmp_path):
    symvers = f"/lib/modules/{kernel}/build/Module.symvers"
    assert symvers in pkgkmod("predict", *jool, "--symvers", symvers, cwd=tmp_path).out
    for words, code, reason in (
        ((*jool, "--symvers", symvers, "--kernel", kernel), 2, "do not go together"),
        ((*jool, "--kernel", f"{kernel}x"), 6, f"nearest: {kernel}"),
        ((*jool, "--target", "el9"), 2, "does not go with FILES"),
        ((*jool, "--certificate", "/etc/passwd"), 20, "certificate"),
        (("/etc/passwd",), 17, "is neither a package nor a module"),
        ((), 2, "predict of what?"),
    ):
        assert reason in pkgkmod("predict", *words, cwd=tmp_path, code=code).err
    damaged = tmp_path / "damaged.ko"
    damaged.write_bytes(jool[0].read_bytes()[:5000])
    said = pkgkmod("predict", damaged, "--kernel", kernel, cwd=tmp_path, code=17).err
    assert "damaged.ko cannot be read: damaged or truncated" in said


def test_what_would_be_looked_at(jool, kernel, tmp_path):
    said = pkgkmod("predict", *jool, "-n", "--kernel", kernel, cwd=tmp_path).out
    assert said == f"{kernel}: here\n"


def test_a_stand_in_for_a_kernel_that_takes_signed_modules_only(jool, kernel, tmp_path):
    """The tree is that of the real kernel, with another option and another name."""
    tree, headers = tmp_path / "tree", Path(f"/lib/modules/{kernel}/build")
    for name in ("Makefile", ".config", "Module.symvers", "include/generated/utsrelease.h"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(headers / name, tree / name)
    with (tree / ".config").open("a") as config:
        config.write("CONFIG_MODULE_SIG_FORCE=y\n")
    (tree / "include/generated/utsrelease.h").write_text('#define UTS_RELEASE "6.1.0-99-enforcing"\n')
    words = ("--kernel", "6.1.0-99-enforcing", "-C", f'plugin.folder.paths=["{tree}"]')
    copies = [tmp_path / file.name for file in jool]
    for copy, file in zip(copies, jool, strict=True):
        copy.write_bytes(unsigned(file.read_bytes()))  # dkms signs, with a key that it made itself
    done = pkgkmod("predict", *copies, *words, cwd=tmp_path, code=19)
    assert "the kernel takes signed modules only (MODULE_SIG_FORCE)" in done.out
    owner = new_key(tmp_path / "keys")
    for copy in copies:
        copy.write_bytes(signed_by_kernel(copy.read_bytes(), owner.key, owner.certificate, "sha256", tmp_path))
    pkgkmod("predict", *copies, *words, cwd=tmp_path)
    pkgkmod("predict", *copies, *words, "--certificate", owner.certificate, cwd=tmp_path)
    other = new_key(tmp_path / "others", "Another")
    pkgkmod("predict", *copies, *words, "--certificate", other.certificate, cwd=tmp_path, code=19)


def test_a_kernel_of_an_archive_is_fetched_and_stays_in_the_store(jool, kernel, tmp_path):
    """The archive's package has what the real header package has for this, under another release."""
    need("apt-ftparchive", "dpkg-deb", "gpg", "gpgv")
    release, tree = "6.1.0-1-amd64", Path(f"/lib/modules/{kernel}/build")
    texts = {name: (tree / name).read_text() for name in (".config", "Module.symvers")}
    texts |= {"Makefile": "all:\n", "include/generated/utsrelease.h": f'#define UTS_RELEASE "{release}"\n'}
    place = f"usr/src/linux-headers-{release}"
    package = {"Package": f"linux-headers-{release}", "Version": "1"}
    archive = Archive(tmp_path / "debian")
    archive.add(make_deb(tmp_path, {f"{place}/{name}": text for name, text in texts.items()}, **package))
    archive.publish()
    entry = archive.entry(f"signed-by={key().public}")
    asked = ("predict", *jool, "--kernel", release)
    settings = ("-C", f"plugin.apt.archives=[{json.dumps(entry)}]")
    pkgkmod("kernels", "list", *settings, cwd=tmp_path)
    assert re.search(rf"^{release}: to be fetched, ", pkgkmod(*asked, "-n", *settings, cwd=tmp_path).out)
    assert "not found" in pkgkmod(*asked, "--no-fetch", *settings, cwd=tmp_path, code=6).err
    said = pkgkmod(*asked, *settings, cwd=tmp_path).out
    assert re.search(rf"^{release} +needs 4 +loads +needs 2$", said, re.MULTILINE)
    assert pkgkmod(*asked, cwd=tmp_path).out == said
    assert pkgkmod(*asked, "--no-fetch", *settings, cwd=tmp_path).out == said
    assert f"{release}: here\n" in pkgkmod("predict", *jool, "-n", cwd=tmp_path).out


# --- stand-ins for kernels that are not in reach --------------------------------------------------------


def test_a_stand_in_for_the_extended_table_of_versions(jool, kernel, sides, tmp_path):
    """objcopy adds the tables of Linux 6.14 to a module of 6.1: where they are, the older one is not looked at."""
    need("objcopy")
    module = next(file for file in jool if file.name == "jool_common.ko")
    versions = dict(read_module(str(module)).versions)
    for change, verdict in (({}, "loads"), ({"kfree": 1}, "refused")):
        table = {**versions, **change}
        (tmp_path / "crcs").write_bytes(struct.pack(f"<{len(table)}I", *table.values()))
        (tmp_path / "names").write_bytes(b"".join(name.encode() + b"\0" for name in table))
        made = tmp_path / "jool_common.ko"
        sections = ("--add-section", "__version_ext_crcs=crcs", "--add-section", "__version_ext_names=names")
        subprocess.run(["objcopy", *sections, module, made], cwd=tmp_path, check=True)
        (found,) = predict([read_module(str(made))], sides[kernel])
        assert found.verdict == verdict
        assert [trouble.symbol for trouble in found.troubles] == list(change)


def test_a_stand_in_for_a_kernel_without_crcs(kernel, sides, tmp_path):
    """objcopy takes the CRCs out of a module; the kernel is the real one without the option."""
    need("objcopy")
    (module,) = archive_driver("acpi-call-dkms", kernel).modules
    info = subprocess.run(
        ["objcopy", "-O", "binary", "--only-section=.modinfo", module, "/dev/stdout"], check=True, capture_output=True
    ).stdout
    (tmp_path / "info").write_bytes(info.replace(b" modversions", b""))
    made = tmp_path / "acpi_call.ko"
    words = ("--remove-section", "__versions", "--update-section", ".modinfo=info")
    subprocess.run(["objcopy", *words, module, made], cwd=tmp_path, check=True)
    real = sides[kernel]
    options = {name: value for name, value in real.options.items() if name != "MODVERSIONS"}
    plain = read_module(str(made))
    assert plain.versions is None
    (found,) = predict([plain], KernelSide(kernel, ARCH, real.exports, options))
    assert found.verdict == "loads"
    (found,) = predict([plain], KernelSide("6.1.0-999-amd64", ARCH, real.exports, options))
    assert found.reasons == (f"it has no CRCs: it loads into {kernel} alone, which it was built for",)
    (found,) = predict([plain], real)
    assert "its vermagic says 'SMP preempt mod_unload'" in found.reasons[0]


def test_a_stand_in_for_symbols_in_namespaces(jool, kernel, sides):
    """The kernel is the real one; what it exports is put into namespaces."""
    module = read_module(str(next(file for file in jool if file.name == "jool_common.ko")))
    real = sides[kernel]
    for namespace, kinds in (("SOME", ["namespace"]), ("module:other", ["reserved"]), ("module:jool-*", [])):
        exports = {**real.exports, "kfree": real.exports["kfree"]._replace(namespace=namespace)}
        (found,) = predict([module], KernelSide(kernel, ARCH, exports, real.options))
        assert [trouble.kind for trouble in found.troubles] == kinds


def test_events_are_single_lines(jool, kernel, tmp_path):
    done = pkgkmod("predict", *jool, "--kernel", kernel, "--json", cwd=tmp_path)
    assert [json.loads(line)["event"] for line in done.out.splitlines()].count("prediction") == 3
