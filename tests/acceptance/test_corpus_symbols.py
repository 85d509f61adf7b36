"""What is read of real modules, beside what kmod's tools, nm, readelf and pyelftools say of them."""

from __future__ import annotations

import lzma
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from pkgkmod.modules.checks.inside import look_inside
from pkgkmod.modules.kmod_deps import Module, read_module
from tests.fixtures.archive_modules import archive_driver, driver_packages, image_modules
from tests.fixtures.foreignmodules import MACHINES, NEWER, foreign_modules, modpost
from tests.fixtures.machine import need
from tests.fixtures.otherroots import run_in, trixie

SMALL = ("acpi-call-dkms", "jool-dkms", "v4l2loopback-dkms")
LINKERS = {"_GLOBAL_OFFSET_TABLE_", ".TOC."}
PACKERS = {".gz": ("gzip", "-nfk"), ".xz": ("xz", "-fk", "--check=crc32"), ".zst": ("zstd", "-qfk")}


def lines(*argv: object, may_fail: str = "") -> list[str]:
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
    assert done.returncode == 0 or (may_fail and may_fail in done.stderr), done.stderr
    return done.stdout.splitlines()


def crcs(*argv: object, may_fail: str) -> dict[str, int]:
    rows = [line.split("\t") for line in lines(*argv, may_fail=may_fail)]
    return {name: int(crc, 16) for crc, name in rows}


def plain(module: Path, folder: Path) -> Path:
    """Return a module that is not compressed."""
    if module.suffix != ".xz":
        return module
    (folder / module.stem).write_bytes(lzma.decompress(module.read_bytes()))
    return folder / module.stem


def check_symbols(read: Module, file: Path, bare: Path) -> None:
    wanted = crcs("modprobe", "--dump-modversions", file, may_fail="could not get modversions")
    assert (read.versions or {}) == wanted
    offered = crcs("modprobe", "--show-exports", file, may_fail="could not get symbols")
    assert {name: crc or 0 for name, crc in read.exports.items()} == offered
    kinds: dict[str, set[str]] = {"U": set(), "w": set(), "v": set()}
    for kind, name in map(str.split, lines("nm", "--undefined-only", bare)):
        kinds[kind].add(name)
    own = {name for name in kinds["w"] | kinds["v"] if name.startswith("__crc_")}
    assert read.undefined == kinds["U"] - LINKERS
    assert read.weak == (kinds["w"] | kinds["v"]) - own
    if wanted:
        assert read.undefined <= wanted.keys()


def check_modinfo(read: Module, file: Path) -> None:
    assert read.info("vermagic")
    for key in {*dict(read.modinfo), "parm"} - {"parmtype"}:
        done = subprocess.run(["modinfo", "-0", "-F", key, file], capture_output=True, text=True, check=True)
        said = done.stdout.split("\0")[:-1]
        if key != "parm":
            assert read.info(key) == said, key
            continue
        # modinfo puts both halves together.
        texts = dict(text.split(":", 1) for text in read.info("parm"))
        types = dict(text.split(":", 1) for text in read.info("parmtype"))
        ends = {name: f" ({types[name]})" if name in types else "" for name in texts | types}
        assert {f"{name}:{texts.get(name, '')}{end}" for name, end in ends.items()} == set(said)


def check_pyelftools(read: Module, bare: Path) -> None:
    """The library reads a module as our own reader does, and finds the sections that readelf finds."""
    inside = look_inside(bare.read_bytes(), read)
    with bare.open("rb") as file:
        symbols = list(ELFFile(file).get_section_by_name(".symtab").iter_symbols())
    absent = [one for one in symbols if one["st_shndx"] == "SHN_UNDEF" and one.name and one.name not in LINKERS]
    absent = [one for one in absent if not one.name.startswith("__crc_")]
    assert read.undefined == {one.name for one in absent if one["st_info"]["bind"] != "STB_WEAK"}
    assert read.weak == {one.name for one in absent if one["st_info"]["bind"] == "STB_WEAK"}
    defined = {one.name for one in symbols if one["st_shndx"] != "SHN_UNDEF"}
    offered = {name[10:] for name in defined if name.startswith("__ksymtab_")}
    assert read.exports.keys() == offered
    functions = [one.split()[-1] for one in lines("nm", "--defined-only", bare)]
    assert inside.has_init == any(re.fullmatch(r"init_module(\.cfi_jt)?", name) for name in functions)
    assert inside.has_exit == any(re.fullmatch(r"cleanup_module(\.cfi_jt)?", name) for name in functions)
    sizes: dict[str, int] = {}
    for line in lines("readelf", "-SW", bare):
        if found := re.match(r" +\[ *\d+\] (\S+) +[A-Z_0-9]+ +[0-9a-f]+ [0-9a-f]+ ([0-9a-f]+) ", line):
            sizes.setdefault(found[1], int(found[2], 16))
    assert {name: one.size for name, one in inside.sections.items() if name} == sizes


def check(modules: Sequence[Path], folder: Path) -> int:
    need("modprobe", "modinfo", "nm", "readelf")
    folder.mkdir(exist_ok=True)
    for file in modules:
        read, bare = read_module(str(file)), plain(file, folder)
        check_symbols(read, file, bare)
        check_modinfo(read, file)
        check_pyelftools(read, bare)
    return len(modules)


@pytest.mark.parametrize("package", SMALL)
def test_drivers_of_the_archive(package: str, kernel: str, tmp_path: Path) -> None:
    driver = archive_driver(package, kernel)
    assert driver.modules, driver.log.read_text()[-3000:]
    assert check(driver.modules, tmp_path) > 0


@pytest.mark.slow
def test_every_driver_of_the_archive_that_can_be_built(kernel: str, tmp_path: Path) -> None:
    built = [archive_driver(package, kernel) for package in driver_packages()]
    count = sum(check(driver.modules, tmp_path / driver.package) for driver in built)
    # 96 modules of 26 packages when this was written (bookworm, 6.1.0-56).
    assert count >= 80, [driver.package for driver in built if not driver.modules]


@pytest.mark.slow
def test_the_kernels_own_modules(kernel: str, tmp_path: Path) -> None:
    assert check([*image_modules(kernel).rglob("*.ko*")], tmp_path) > 100


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_modules_say_the_same(suffix: str, kernel: str, tmp_path: Path) -> None:
    need("gzip", "xz", "zstd", "modprobe")
    for package in SMALL:
        for module in archive_driver(package, kernel).modules:
            bare = tmp_path / module.name
            bare.write_bytes(module.read_bytes())
            lines(*PACKERS[suffix], bare)
            packed = Path(f"{bare}{suffix}")
            assert read_module(str(packed))._replace(path=str(bare)) == read_module(str(bare))
            if suffix != ".gz":  # Debian's kmod was built without zlib
                check_symbols(read_module(str(packed)), packed, bare)


@pytest.mark.parametrize("machine", MACHINES)
def test_modules_for_other_machines(machine: str, tmp_path: Path) -> None:
    modules = foreign_modules(machine)
    assert check(modules, tmp_path) == 12
    read = [read_module(str(module)) for module in modules]
    assert all(module.versions for module in read)
    assert any(module.exports for module in read) and {module.little_endian for module in read} == {machine != "s390x"}


# What modpost writes is compiled without a kernel's headers.
_HEADERS = {
    "linux/module.h": """
        #define __used __attribute__((used))
        #define __visible
        #define __section(name) __attribute__((section(name)))
        #define MODULE_INFO(key, text) static const char key[] __used __section(".modinfo") = #key "=" text
        #define MODULE_ARCH_INIT 0
        typedef unsigned u32;
        struct modversion_info { unsigned long crc; char name[56]; };
        struct module { const char *name; int (*init)(void); int arch; };
        int init_module(void);
    """,
    "linux/export-internal.h": "",
    "linux/compiler.h": "",
}
LONG = "_RNv_a_name_that_is_longer_than_the_fifty_six_bytes_which_the_old_table_has"
_DRIVER = f"""
static const char license[] __attribute__((used, section(".modinfo"))) = "license=GPL";
static const char description[] __attribute__((used, section(".modinfo"))) = "description=odd";
int {LONG}(void);
int kfree(void *);
int init_module(void) {{ return {LONG}() + kfree(0); }}
char place[64] __attribute__((section(".gnu.linkonce.this_module")));
"""


def test_extended_versions_of_a_real_modpost_compiled_with_standin_headers(tmp_path: Path) -> None:
    need("gcc", "ld")
    for name, text in {**{f"include/{name}": text for name, text in _HEADERS.items()}, "odd.c": _DRIVER}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "odd.mod").touch()
    (tmp_path / "modules.order").write_text("odd.o\n")
    wanted = {"kfree": 0x12345678, LONG: 0xFFFFFFFE, "module_layout": 7}
    rows = (f"0x{crc:08x}\t{name}\tvmlinux\tEXPORT_SYMBOL\t\n" for name, crc in wanted.items())
    (tmp_path / "Module.symvers").write_text("".join(rows))
    compiled = ("gcc", "-c", "-ffreestanding", "-fno-pic", "-I", tmp_path / "include", '-DKBUILD_MODNAME="odd"')
    lines(*compiled, "-o", tmp_path / "odd.o", tmp_path / "odd.c")
    (tmp_path / "modpost").write_bytes(modpost().read_bytes())
    (tmp_path / "modpost").chmod(0o755)
    options = ("-m", "-b", "-x", "-e", "-i", "Module.symvers", "-o", "out.symvers", "-T", "modules.order")
    run_in(trixie(), ["/build/modpost", *options], tmp_path)
    lines(*compiled, "-o", tmp_path / "odd.mod.o", tmp_path / "odd.mod.c")
    lines("ld", "-r", "-o", tmp_path / "odd.ko", tmp_path / "odd.o", tmp_path / "odd.mod.o")
    assert read_module(str(tmp_path / "odd.ko")).versions == wanted
    # Without the new tables, the old one counts, which has no room for the long name.
    sections = ("__version_ext_crcs", "__version_ext_names")
    lines("objcopy", *(f"--remove-section={name}" for name in sections), tmp_path / "odd.ko", tmp_path / "old.ko")
    del wanted[LONG]
    assert read_module(str(tmp_path / "old.ko")).versions == wanted


@pytest.mark.parametrize("machine", ["amd64", "s390x"])
def test_modules_of_kernels_that_have_no_crcs(machine: str, tmp_path: Path) -> None:
    """Debian's kernels have none from 7.0 on: their modules are for one release alone."""
    modules = foreign_modules(machine, NEWER)
    assert check(modules, tmp_path) == 12
    for module in map(read_module, map(str, modules)):
        assert module.versions is None and module.undefined
        assert set(module.exports.values()) <= {None}
        assert "modversions" not in module.info("vermagic")[0]
