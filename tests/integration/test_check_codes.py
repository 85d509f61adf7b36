"""Each code of `check`, found in a real module: compiled by kbuild with the fault in it, or edited afterwards.

Where a kernel of that kind is not to be had (as with control-flow integrity), its build tree is a stand-in: the real
one with another .config or Module.symvers. Those cases are called stand_in_....
"""

from __future__ import annotations

import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest

from pkgkmod.config.load import load_settings
from pkgkmod.kernels.select import local_kernels
from pkgkmod.model.verdict import Verdict
from pkgkmod.modules.checks.codes import CODES
from pkgkmod.modules.ownmodules import own_modules
from pkgkmod.packages import checkpackages
from pkgkmod.packages.fetched import compare
from pkgkmod.signing.keys import load_key
from pkgkmod.signing.modules import sign_module
from tests.fixtures.archive_modules import image_modules
from tests.fixtures.checkbench import NEW, OLD, Bench
from tests.fixtures.flawedmodules import flawed_modules, kernel_of
from tests.fixtures.machine import lacking, need
from tests.fixtures.signing import new_key
from tests.fixtures.smallrpms import kmod_rpm

Case = Callable[[Bench], Verdict]
CASES: dict[str, tuple[Case, frozenset[str]]] = {}


def case(code: str, *others: str) -> Callable[[Case], Case]:
    """Register a case; `others` are further errors and warnings that the same fault makes."""

    def register(function: Case) -> Case:
        assert code not in CASES
        CASES[code] = function, frozenset({code, *others})
        return function

    return register


@pytest.fixture(scope="module")
def kernels():
    need("make", "gcc")
    return {one.uname_r: one for one in local_kernels(load_settings((), {}), Path("/"))}


@pytest.fixture
def bench(kernels, tmp_path):
    return Bench(tmp_path, kernels)


def test_every_code_has_its_case():
    assert sorted(CASES) == sorted(CODES)


@pytest.mark.parametrize("code", CODES)
def test_the_code_is_found_and_nothing_else_that_is_wrong(code, bench):
    look, expected = CASES[code]
    verdict = look(bench)
    found = {one.code for one in verdict.findings}
    assert code in found, verdict.findings
    worse = {one.code for one in verdict.findings if one.severity != "note"}
    assert worse <= expected, [one for one in verdict.findings if one.code not in expected]


@pytest.mark.parametrize("series", [OLD, NEW])
def test_a_module_as_it_should_be_has_notes_only(series, bench):
    findings = bench.check(bench.module("fine", series)).findings
    assert {one.severity for one in findings} == {"note"}
    assert {one.code for one in findings} <= {"KMOD053", "KMOD055", "KMOD063"}


# --- the file


@case("KMOD001")
def truncated(bench):
    file = bench.module("fine")
    file.write_bytes(file.read_bytes()[:3000])
    return bench.check(file)


@case("KMOD002")
def an_object_file(bench):
    need("gcc")
    source = flawed_modules(kernel_of(OLD)) / "fine.o"
    return bench.check(Path(shutil.copyfile(source, bench.folder / "fine.ko")), kernel=kernel_of(OLD))


@case("KMOD003")
def of_another_machine(bench):
    file = bench.module("fine")
    content = bytearray(file.read_bytes())
    struct.pack_into("<H", content, 18, 183)
    file.write_bytes(content)
    return bench.check(file)


@case("KMOD004")
def twice(bench):
    return bench.check(bench.module("fine", to="a/fi-ne.ko"), bench.module("fine", to="b/fi_ne.ko"))


# --- what it says of itself


@case("KMOD010")
def without_vermagic(bench):
    return bench.check(bench.edited("fine", b"vermagic=", b"vermagix="), kernel=kernel_of(OLD))


@case("KMOD011", "KMOD031", "KMOD036", "KMOD042")
def in_another_folder(bench):
    return bench.check(bench.module("fine", to=f"lib/modules/{kernel_of(NEW)}/updates/fine.ko"))


@case("KMOD012")
def without_licence(bench):
    return bench.check(bench.edited("fine", b"license=", b"licenze="))


@case("KMOD013")
def without_version(bench):
    return bench.check(bench.module("nameless"))


@case("KMOD014")
def without_srcversion(bench):
    return bench.check(bench.edited("fine", b"srcversion=", b"srcversiox="))


@case("KMOD015")
def with_a_bare_parameter(bench):
    return bench.check(bench.module("terse"))


@case("KMOD016")
def without_aliases(bench):
    return bench.check(bench.module("driver"))


@case("KMOD017")
def without_its_firmware(bench):
    need("dpkg-deb")
    bench.module("blob", to=f"root/lib/modules/{kernel_of(OLD)}/updates/blob.ko")
    control = bench.folder / "root/DEBIAN/control"
    control.parent.mkdir()
    control.write_text("Package: x\nVersion: 1\nArchitecture: amd64\nMaintainer: A <a@example.org>\nDescription: x\n")
    other = bench.folder / "root/lib/firmware/acme/other.bin"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"1")
    deb = bench.folder / "x.deb"
    subprocess.run(
        ["dpkg-deb", "-b", "--root-owner-group", bench.folder / "root", deb], check=True, capture_output=True
    )
    verdict = bench.check(deb)
    other.rename(other.with_name("blob.bin.xz"))
    subprocess.run(
        ["dpkg-deb", "-b", "--root-owner-group", bench.folder / "root", deb], check=True, capture_output=True
    )
    assert "KMOD017" not in {one.code for one in bench.check(deb).findings}, "it is there, compressed"
    return verdict


@case("KMOD018")
def without_its_friend(bench):
    # The kernel's own lists, which are there where it is installed.
    root = bench.folder / "modules"
    root.mkdir()
    (root / kernel_of(NEW)).symlink_to(image_modules(kernel_of(NEW)))
    with patch.object(checkpackages, "own_modules", partial(own_modules, root=root)):
        return bench.check(bench.module("friend", NEW), bench.module("fine", NEW))


@case("KMOD019")
def without_exit(bench):
    return bench.check(bench.module("sticky"))


# --- symbols


@case("KMOD030")
def with_a_symbol_of_nobody(bench):
    return bench.check(bench.module("lonely"))


@case("KMOD031")
def with_another_version(bench):
    file = bench.module("fine")
    content = bytearray(file.read_bytes())
    at = content.index(b"_printk\0".ljust(56, b"\0")) - 8  # its record in __versions
    content[at] ^= 1
    file.write_bytes(content)
    return bench.check(file)


@case("KMOD032")
def under_another_licence(bench):
    return bench.check(bench.edited("gpl", b"license=GPL\0", b"license=MIT\0"))


@case("KMOD033")
def without_the_namespace(bench):
    return bench.check(bench.edited("spaced", b"import_ns=DMA_BUF", b"import_ns=XMA_BUF"))


@case("KMOD034")
def stand_in_symbol_for_others(bench):
    def reserved(text: str) -> str:
        lines = [line + "module:kvm,vfio-*" if "\t_printk\t" in line else line for line in text.splitlines()]
        return "\n".join(lines) + "\n"

    bench.stand_in(OLD, {}, symvers=reserved)
    return bench.check(bench.module("fine"))


@case("KMOD035")
def without_symbol_versions(bench):
    return bench.check(bench.objcopied("fine", "-R", "__versions"))


@case("KMOD036")
def with_another_vermagic(bench):
    return bench.check(bench.edited("fine", b" preempt mod_unload", b" prrempt mod_unload"))


# --- how it was compiled


@case("KMOD040")
def without_retpolines(bench):
    return bench.check(bench.edited("fine", b"retpoline=Y", b"retpoline=N"))


@case("KMOD041")
def with_plain_returns(bench):
    return bench.check(bench.module("naked"))


@case("KMOD042")
def without_endbr(bench):
    return bench.check(bench.module("unmarked", NEW))


@case("KMOD043")
def stand_in_kernel_with_cfi(bench):
    bench.stand_in(NEW, {"CFI_CLANG": "y"})
    return bench.check(bench.module("fine", NEW))


@case("KMOD044")
def without_objtool(bench):
    return bench.check(bench.module("unseen"))


@case("KMOD045")
def by_clang(bench):
    comment = bench.data(b"\0Debian clang version 16.0.6 (27+b1)\0")
    return bench.check(bench.objcopied("fine", "--update-section", f".comment={comment}"))


@case("KMOD046")
def by_another_gcc(bench):
    comment = bench.data(b"\0GCC: (Debian 12.2.0-14) 9.4.0\0")
    return bench.check(bench.objcopied("fine", "--update-section", f".comment={comment}"))


@case("KMOD047")
def with_intermediate_code(bench):
    return bench.check(bench.objcopied("fine", "--add-section", f".gnu.lto_.decls={bench.data(b'code')}"))


# --- what the build left


@case("KMOD050", "KMOD051")
def not_stripped(bench):
    return bench.check(bench.module("fine", whole=True))


@case("KMOD051")
def with_paths_of_a_home(bench):
    return bench.check(bench.module("home"))


@case("KMOD052")
def with_paths_of_the_build(bench):
    return bench.check(bench.module("folder"))


@case("KMOD053")
def without_types(bench):
    return bench.check(bench.module("fine"))


@case("KMOD054")
def stand_in_kernel_that_minds_wrong_types(bench):
    bench.stand_in(NEW, {"MODULE_ALLOW_BTF_MISMATCH": "n"})
    return bench.check(
        bench.objcopied("fine", "-R", ".BTF", "--add-section", f".BTF={bench.data(b'x' * 99)}", series=NEW)
    )


@case("KMOD055")
def with_types_of_one_build(bench):
    return bench.check(bench.module("fine", NEW))


@case("KMOD056", "KMOD031")
def with_types_of_another_build(bench):
    cloud = kernel_of(NEW).replace("-amd64", "-cloud-amd64")
    if cloud not in bench.kernels:
        lacking(f"the headers of {cloud} are not installed")
    return bench.check(bench.module("driver", NEW), kernel=cloud)


# --- signature and compression


@case("KMOD060")
def without_a_signature_that_should_be(bench):
    bench.certificate = new_key(bench.folder).certificate
    return bench.check(bench.module("fine"))


@case("KMOD061")
def with_the_signature_of_another(bench):
    other, bench.certificate = _signed(bench)
    return bench.check(other)


@case("KMOD062")
def stand_in_kernel_that_wants_signatures(bench):
    bench.stand_in(OLD, {"MODULE_SIG_FORCE": "y"})
    return bench.check(bench.module("fine"))


@case("KMOD063")
def not_signed(bench):
    return bench.check(bench.module("fine"))


@case("KMOD065")
def compressed_by_plain_xz(bench):
    return bench.check(_packed(bench, NEW, lzma.CHECK_CRC64))


@case("KMOD066")
def compressed_and_called_otherwise(bench):
    return bench.check(_packed(bench, NEW, lzma.CHECK_CRC32, ".ko"))


@case("KMOD067")
def compressed_for_a_kernel_that_does_not(bench):
    return bench.check(_packed(bench, OLD, lzma.CHECK_CRC32))


def _packed(bench: Bench, series: str, check: int, ending: str = ".ko.xz") -> Path:
    file = bench.module("fine", series)
    packed = bench.folder / f"packed/fine{ending}"
    packed.parent.mkdir()
    packed.write_bytes(lzma.compress(file.read_bytes(), check=check))
    return packed


def _signed(bench: Bench) -> tuple[Path, Path]:
    """Return a module that was signed, and the certificate of another key."""
    (bench.folder / "one").mkdir()
    (bench.folder / "two").mkdir()
    made, other = new_key(bench.folder / "one", "one"), new_key(bench.folder / "two", "two")
    file = bench.module("fine")
    file.write_bytes(sign_module(file.read_bytes(), load_key(str(made.key), made.certificate, bench.folder), "sha256"))
    return file, other.certificate


# --- the kernel


@case("KMOD070")
def for_a_kernel_that_is_not_here(bench):
    return bench.check(bench.module("fine"), kernel="6.1.0-1-nowhere")


@case("KMOD071")
def called_like_one_of_the_kernel(bench):
    return bench.check(bench.module("fine", to="e1000e.ko"))


@case("KMOD072")
def called_like_something_built_in(bench):
    return bench.check(bench.module("fine", to="binfmt_elf.ko"))


# --- what a farm made


@case("KMOD080")
def not_made_by_the_farm(bench):
    checked = bench.check(bench.module("fine"))
    return Verdict(findings=tuple(compare("x-1-1.src.rpm", ["6.1.0-1-nowhere"], (), checked.modules)))


@case("KMOD081")
def made_of_other_sources(bench):
    package = kmod_rpm(bench.folder, "kmod-fine", [bench.module("fine")], f"lib/modules/{kernel_of(OLD)}/extra")
    return Verdict(findings=tuple(compare("kmod-fine-2-1.src.rpm", (), [package], ())))
