"""What is wrong with finished modules: the file, what it says of itself, its signature, and its place."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from pkgkmod.model.finding import Finding
from pkgkmod.modules.checks.codes import finding
from pkgkmod.modules.checks.compressed import ENDINGS, Compression
from pkgkmod.modules.checks.opened import Beside, Kernels, Opened
from pkgkmod.modules.kabifiles import machine_name
from pkgkmod.modules.kernelside import KernelSide
from pkgkmod.modules.kmod_deps import module_name
from pkgkmod.modules.ownmodules import OwnModules
from pkgkmod.modules.symboluse import license_of

_LONGEST = 300
"""Characters of a name."""
_NAMED = 6
"""Symbols, files and parameters that are named in a sentence."""

# Functions that register a driver, and the bus of its devices (include/linux/).
_BUSES = {
    "__pci_register_driver": "PCI",
    "usb_register_driver": "USB",
    "usb_serial_register_drivers": "USB",
    "i2c_register_driver": "I2C",
    "__spi_register_driver": "SPI",
    "__hid_register_driver": "HID",
    "acpi_bus_register_driver": "ACPI",
    "__acpi_bus_register_driver": "ACPI",
    "register_virtio_driver": "virtio",
    "__register_virtio_driver": "virtio",
    "pnp_register_driver": "PnP",
    "sdio_register_driver": "SDIO",
    "__vmbus_driver_register": "VMBus",
    "__wmi_driver_register": "WMI",
    "__serio_register_driver": "serio",
}


def listed(names: Iterable[str]) -> str:
    """Return some names as a part of a sentence, the first ones only where they are many."""
    known = [name[:_LONGEST] for name in names]
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more


def check_files(opened: Sequence[Opened], kernels: Kernels, beside: Beside) -> Iterator[Finding]:
    """Yield what is wrong with modules, apart from their symbols and how they were compiled."""
    yield from _same_names(opened)
    names = {module.name for module in opened}
    for module in opened:
        release = kernels.of(module)
        for check in _CHECKS:
            yield from check(module)
        yield from _firmware(module, beside)
        if side := kernels.sides.get(release):
            yield from _machine(module, side)
            yield from _compression_for(module, side)
            yield from _signature_for(module, side)
        if own := kernels.own.get(release):
            yield from _beside_own(module, own)
            others = names | {one.name for one in beside.providers.get(release, ())}
            yield from _softdeps(module, own, others)


def _same_names(opened: Sequence[Opened]) -> Iterator[Finding]:
    first: dict[tuple[str, str, str], Opened] = {}
    for module in opened:
        # An RPM and a DEB with the same module are for two systems.
        key = (module.kernel, module.name, module.package.rpartition(".")[2])
        other = first.setdefault(key, module)
        if other is not module and (other.package, other.path) != (module.package, module.path):
            yield finding(
                "KMOD004",
                module.subject,
                f"{module.name} for {module.kernel or 'the same kernel'} is also {other.subject}",
                "leave one of them out, or give it another name",
            )


# --- the file, and what it says of itself -------------------------------------------------------------


def _vermagic(module: Opened) -> Iterator[Finding]:
    release = module.module.release
    if not release:
        yield finding("KMOD010", module.subject, "it has no vermagic", "let kbuild make it: modpost adds vermagic")
    elif module.folder_kernel not in ("", release):
        yield finding(
            "KMOD011",
            module.subject,
            f"it was built for {release}, and lies in the folder of {module.folder_kernel}",
            "build it for the kernel in whose folder it is to lie",
        )


def _license(module: Opened) -> Iterator[Finding]:
    if not license_of(module.module):
        yield finding("KMOD012", module.subject, "it has no licence", 'add MODULE_LICENSE("GPL"), or the one it has')


def _versions(module: Opened) -> Iterator[Finding]:
    if not any(module.module.info("version")):
        yield finding("KMOD013", module.subject, "it has no version", "add MODULE_VERSION")
    elif not any(module.module.info("srcversion")):
        yield finding("KMOD014", module.subject, "it has no srcversion", "let kbuild make it: modpost computes it")


def _parameters(module: Opened) -> Iterator[Finding]:
    described = {text.partition(":")[0] for text in module.module.info("parm") if text.partition(":")[2].strip()}
    bare = sorted({text.partition(":")[0] for text in module.module.info("parmtype")} - described)
    if bare:
        yield finding("KMOD015", module.subject, f"not described: {listed(bare)}", "add MODULE_PARM_DESC for each")


def _aliases(module: Opened) -> Iterator[Finding]:
    buses = sorted({_BUSES[symbol] for symbol in module.module.undefined if symbol in _BUSES})
    if buses and not any(":" in alias for alias in module.module.info("alias")):
        yield finding(
            "KMOD016",
            module.subject,
            f"it registers a driver for {' and '.join(buses)}, and names no devices",
            "add MODULE_DEVICE_TABLE; if it is to be loaded by name, name it in modules-load.d",
        )


def _unloading(module: Opened) -> Iterator[Finding]:
    if module.inside.has_init and not module.inside.has_exit:
        yield finding("KMOD019", module.subject, "it cannot be unloaded", "add module_exit, if it may be")


def _leftovers(module: Opened) -> Iterator[Finding]:
    inside = module.inside
    if size := inside.debug_size:
        amount = f"{size / (1 << 20):.1f} MiB" if size >= 1 << 20 else f"{size / 1024:.0f} KiB"
        yield finding(
            "KMOD050",
            module.subject,
            f"{amount} of debug information",
            "strip it (`strip --strip-debug`, before it is signed), or have it in a package: rpm.debuginfo, deb.dbgsym",
        )
    if homes := [one.path for one in inside.paths if one.kind == "home"]:
        cure = "build it with `pkgkmod build`, or with -ffile-prefix-map; debug information can be stripped"
        yield finding("KMOD051", module.subject, f"{_paths_text(homes)} of somebody's home", cure)
    if folders := [one.path for one in inside.paths if one.kind == "build"]:
        cure = "build it with `pkgkmod build`, or with -ffile-prefix-map"
        yield finding("KMOD052", module.subject, f"{_paths_text(folders)} of its build", cure)


def _paths_text(paths: Sequence[str]) -> str:
    """Name a path, or the folder that many have in common."""
    if len(paths) == 1:
        return f"the path {paths[0]}"
    return f"{len(paths)} paths below {posixpath.commonpath(paths)}"


def _ending(module: Opened) -> Iterator[Finding]:
    ending = ENDINGS[module.compression.kind]
    if not module.path.endswith(ending):
        yield finding(
            "KMOD066",
            module.subject,
            f"it is {_kind(module.compression)}, and its name does not end with {ending}",
            f"call it {module.name}{ending}",
        )


def _kind(compression: Compression) -> str:
    return f"compressed with {compression.kind}" if compression.kind else "not compressed"


def _signature(module: Opened) -> Iterator[Finding]:
    signature = module.signature
    if signature.expected and not signature.is_there:
        yield finding(
            "KMOD060",
            module.subject,
            f"it is not signed, where {signature.expected} is expected",
            "sign it: `pkgkmod sign`; was it stripped after that?",
        )
    elif signature.fault:
        yield finding("KMOD061", module.subject, signature.fault, "sign it again: `pkgkmod sign`")


_CHECKS: tuple[Callable[[Opened], Iterator[Finding]], ...] = (
    _vermagic,
    _license,
    _versions,
    _parameters,
    _aliases,
    _unloading,
    _leftovers,
    _ending,
    _signature,
)


# --- beside what is around it --------------------------------------------------------------------------


def _firmware(module: Opened, beside: Beside) -> Iterator[Finding]:
    if beside.firmware is None:
        return
    absent = [name for name in dict.fromkeys(module.module.info("firmware")) if not _has(beside.firmware, name)]
    if absent:
        yield finding(
            "KMOD017",
            module.subject,
            f"not packaged: {listed(absent)}",
            "package it ([firmware]), or require the package that has it",
        )


def _has(files: frozenset[str], name: str) -> bool:
    """Tell whether a firmware file is there, also compressed (CONFIG_FW_LOADER_COMPRESS); it may be a pattern."""
    if any(mark in name for mark in "*?["):
        return any(fnmatchcase(file, name) or fnmatchcase(file, f"{name}.*") for file in files)
    return any(f"{name}{ending}" in files for ending in ("", ".xz", ".zst"))


def _softdeps(module: Opened, own: OwnModules, others: set[str]) -> Iterator[Finding]:
    # platform:leds_gpio is an alias of a device: whether a driver has it is seen on the machine only.
    words = [word for text in module.module.info("softdep") for word in text.split() if ":" not in word]
    wanted = dict.fromkeys(module_name(word) for word in words)
    absent = [name for name in wanted if name not in others and not own.has(name)]
    if own.complete and absent:
        yield finding("KMOD018", module.subject, f"not there: {listed(absent)}", "correct MODULE_SOFTDEP")


def _machine(module: Opened, side: KernelSide) -> Iterator[Finding]:
    machine = machine_name(module.module.machine, little_endian=module.module.little_endian)
    if side.arch and machine != side.arch:
        yield finding(
            "KMOD003",
            module.subject,
            f"it is for {machine}, and {side.uname_r} is for {side.arch}",
            "build it with the compiler and kernel tree of that machine",
        )


def _compression_for(module: Opened, side: KernelSide) -> Iterator[Finding]:
    options, compression = side.options, module.compression
    if options is None or not compression.kind:
        return
    chosen = next(
        (kind for kind in ("gzip", "xz", "zstd") if options.get(f"MODULE_COMPRESS_{kind.upper()}") == "y"), ""
    )
    if chosen != compression.kind:
        yield finding(
            "KMOD067",
            module.subject,
            f"it is {_kind(compression)}; the modules of {side.uname_r} are "
            + (f"compressed with {chosen}" if chosen else "not compressed"),
        )
    elif options.get("MODULE_DECOMPRESS") == "y" and compression.refused:
        yield finding(
            "KMOD065",
            module.subject,
            f"{side.uname_r} does not decompress it: {compression.refused}",
            "compress it as kbuild does: xz --check=crc32 --lzma2=dict=1MiB, zstd, or gzip -n",
        )


def _signature_for(module: Opened, side: KernelSide) -> Iterator[Finding]:
    if module.signature.is_there or module.signature.expected or side.options is None:
        return
    if side.options.get("MODULE_SIG_FORCE") == "y":
        text = f"{side.uname_r} takes signed modules only, and it is not signed"
        yield finding("KMOD062", module.subject, text, "sign it: `pkgkmod sign`")
    elif side.options.get("MODULE_SIG") == "y":
        yield finding("KMOD063", module.subject, "it is not signed", "sign it: `pkgkmod sign`")


def _beside_own(module: Opened, own: OwnModules) -> Iterator[Finding]:
    if "/kernel/" in module.path:  # it is the kernel's own
        return
    if module.name in own.builtin:
        yield finding(
            "KMOD072",
            module.subject,
            f"the kernel has {module.name} built in",
            "it is of no use for this kernel: leave that out ([only]), or call the module otherwise",
        )
    elif module.name in own.modules:
        yield finding(
            "KMOD071",
            module.subject,
            f"the kernel brings a module {module.name}, too",
            "an override in depmod.d says which one counts",
        )
