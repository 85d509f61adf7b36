"""Modules of other people: the readers agree about them, and nothing is found wrong where nothing is."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from pkgkmod.command import run
from pkgkmod.config.load import load_settings
from pkgkmod.kernels.select import local_kernels
from pkgkmod.modules.checks.btf import kernel_texts
from pkgkmod.modules.checks.inside import THIS_MODULE, look_inside
from pkgkmod.modules.checks.opened import Signature
from pkgkmod.modules.kmod_deps import ModuleError, parse_module
from pkgkmod.packages.checkpackages import CheckSettings, check_packages
from pkgkmod.packages.modulefiles import ModuleFile
from pkgkmod.progress import Progress
from tests.fixtures.archive_modules import archive_driver, image_modules
from tests.fixtures.flawedmodules import flawed_modules, kernel_of
from tests.fixtures.machine import lacking

DRIVERS = ("acpi-call-dkms", "jool-dkms", "tp-smapi-dkms", "v4l2loopback-dkms")


def own_modules(series: str, flavour: str) -> list[Path]:
    """Return some of a kernel's own modules."""
    kernel = kernel_of(series).removesuffix("amd64") + flavour
    return sorted(image_modules(kernel).rglob("*.ko*"))[::3]


def findings(files, tmp_path):
    kernels = {one.uname_r: one for one in local_kernels(load_settings((), {}), Path("/"))}
    return check_packages(
        files,
        lambda command: run(command, log=tmp_path / "log", progress=Progress()),
        lambda content: Signature(is_there=True),
        lambda wanted: [kernels[name] for name in wanted if name in kernels],
        CheckSettings(),
    )


@pytest.mark.parametrize("flavour", ["amd64", "cloud-amd64"])
def test_the_modules_of_a_distributions_own_kernel_have_notes_only(flavour, tmp_path):
    verdict = findings(own_modules("6.12", flavour), tmp_path)
    assert [one for one in verdict.findings if one.severity != "note"] == []
    assert len(verdict.modules) > 5 and verdict.unchecked == ()


def test_so_have_those_of_another_series(kernel, tmp_path):
    verdict = findings(sorted(image_modules(kernel).rglob("*.ko*")), tmp_path)
    assert [one for one in verdict.findings if one.severity != "note"] == []
    assert {module.kernel for module in verdict.modules} == {kernel} and verdict.unchecked == ()


@pytest.mark.parametrize("package", DRIVERS)
def test_both_readers_say_the_same_of_a_module(package, kernel):
    for file in archive_driver(package, kernel).modules:
        own = ModuleFile(str(file), file.read_bytes()).module
        with file.open("rb") as opened:
            elf = ELFFile(opened)
            symbols = list(elf.get_section_by_name(".symtab").iter_symbols())
            outside = [one for one in symbols if one["st_shndx"] == "SHN_UNDEF" and one.name]
            weak = {one.name for one in outside if one["st_info"]["bind"] == "STB_WEAK"}
            assert own.undefined | own.weak == {one.name for one in outside} - {"_GLOBAL_OFFSET_TABLE_"}
            assert own.weak == weak
            versions = elf.get_section_by_name("__versions").data()
            records = struct.iter_unpack("<Q56s", versions)
            assert own.versions == {name.partition(b"\0")[0].decode(): crc for crc, name in records}
            words = elf.get_section_by_name(".modinfo").data().split(b"\0")
            assert [f"{key}={value}" for key, value in own.modinfo] == [word.decode() for word in words if b"=" in word]
            exported = {one.name.removeprefix("__ksymtab_") for one in symbols if one.name.startswith("__ksymtab_")}
            assert set(own.exports) == exported
            inside = look_inside(file.read_bytes(), own)
            assert set(inside.sections) == {one.name for one in elf.iter_sections()}
            names = {one.name for one in symbols if one["st_shndx"] != "SHN_UNDEF"}
            assert (inside.has_init, inside.has_exit) == ("init_module" in names, "cleanup_module" in names)


def test_the_build_of_the_kernel_is_read_off_a_modules_types():
    kernel = kernel_of("6.12")
    texts = kernel_texts(Path("/lib/modules", kernel, "build"))
    if texts is None:
        lacking(f"the headers of {kernel} have no vmlinux")
    known = [read(file).types for file in own_modules("6.12", "amd64")]
    bases = {types.base for types in known if types and types.base is not None}
    assert bases == {texts} and len(bases) == 1
    assert kernel_texts(Path("/lib/modules", kernel_of("6.1"), "build")) is None


def read(file):
    opened = ModuleFile(str(file), file.read_bytes())
    return look_inside(opened.plain, opened.module)


def test_damaged_modules_are_refused_in_words_whatever_is_damaged(kernel):
    """Bytes of headers, tables and texts of a real module are exchanged, by a fixed seed."""
    chance = random.Random(4)
    content = (flawed_modules(kernel) / "fine.ko").read_bytes()
    table = struct.unpack_from("<Q", content, 40)[0]
    numbers = [0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(content), table]
    outcomes = set()
    for _ in range(600):
        edited = bytearray(content)
        for _ in range(chance.choice((1, 2, 9))):
            at = chance.choice((chance.randrange(table, len(content)), chance.randrange(64), chance.randrange(table)))
            new = struct.pack("<Q", chance.choice(numbers)) if chance.random() < 0.5 else bytes([chance.randrange(256)])
            edited[at : at + len(new)] = new[: len(content) - at]
        try:
            module = parse_module(bytes(edited), "m.ko")
        except ModuleError:
            outcomes.add("refused by the first reader")
            continue
        try:
            look_inside(bytes(edited), module)
            outcomes.add("read")
        except ModuleError as error:
            outcomes.add("refused by the second reader")
            assert "\n" not in error.reason
    assert len(outcomes) == 3


def test_sections_that_outgrow_the_file_or_lead_to_themselves_are_refused(kernel):
    content = (flawed_modules(kernel) / "fine.ko").read_bytes()
    module = parse_module(content, "m.ko")
    elf = ELFFile(io.BytesIO(content))
    start, size = elf["e_shoff"], elf["e_shentsize"]
    places = {section.name: start + size * number for number, section in enumerate(elf.iter_sections())}
    for name, offset, layout, value in (
        (".comment", 32, "<Q", 2**64 - 1),
        (".comment", 24, "<Q", 2**63),
        (".symtab", 40, "<I", elf.get_section_index(".symtab")),
        (".symtab", 56, "<Q", 0),
        (f".rela{THIS_MODULE}", 56, "<Q", 0),
        (f".rela{THIS_MODULE}", 56, "<Q", 1),
    ):
        edited = bytearray(content)
        struct.pack_into(layout, edited, places[name] + offset, value)
        with pytest.raises(ModuleError):
            look_inside(bytes(edited), module)
