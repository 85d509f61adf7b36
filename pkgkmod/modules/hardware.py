"""The devices that a module is for: its aliases taken apart, and named by the lists of PCI and USB ids.

The aliases are those that kbuild writes (scripts/mod/file2alias.c); the lists are pci.ids and usb.ids, which
distributions package.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pkgkmod.data import package_of_tool
from pkgkmod.progress import escape_controls

FOLDERS = tuple(map(Path, ("/usr/share/hwdata", "/usr/share/misc", "/var/lib/usbutils", "/usr/share")))
"""Where distributions have the lists: Fedora and openSUSE, Debian, Debian's usb.ids, SLE 12."""
_SIZE_LIMIT = 32 << 20
"""Bytes of a list; the real ones have two million at most."""
_NAME_LIMIT = 200

# file2alias.c writes a number in as many digits as its field has, and * where anything matches.
_PATTERNS = (
    re.compile(
        r"(?P<bus>pci|vfio_pci):v(?P<vendor>\*|[0-9A-F]{8})d(?P<device>\*|[0-9A-F]{8})"
        r"sv(?P<subvendor>\*|[0-9A-F]{8})sd(?P<subdevice>\*|[0-9A-F]{8})"
        r"bc(?P<base>\*|[0-9A-F]{2})sc(?P<sub>\*|[0-9A-F]{2})i(?P<interface>\*|[0-9A-F]{2})\*?",
        re.IGNORECASE,
    ),
    re.compile(
        r"(?P<bus>usb):v(?P<vendor>\*|[0-9A-F]{4})p(?P<device>\*|[0-9A-F]{4})d(?P<revision>[][0-9A-F*?-]{1,30}?)"
        r"dc(?P<device_base>\*|[0-9A-F]{2})dsc(?P<device_sub>\*|[0-9A-F]{2})dp(?P<device_interface>\*|[0-9A-F]{2})"
        r"ic(?P<base>\*|[0-9A-F]{2})isc(?P<sub>\*|[0-9A-F]{2})ip(?P<interface>\*|[0-9A-F]{2})(in(\*|[0-9A-F]{2}))?\*?",
        re.IGNORECASE,
    ),
    re.compile(
        r"(?P<bus>hid):b(\*|[0-9A-F]{4})g(\*|[0-9A-F]{4})v(?P<vendor>\*|[0-9A-F]{8})p(?P<device>\*|[0-9A-F]{8})",
        re.IGNORECASE,
    ),
    re.compile(r"(?P<bus>virtio):d(?P<device>\*|[0-9A-F]{8})v(?P<vendor>\*|[0-9A-F]{8})\*?", re.IGNORECASE),
)
_COMPATIBLE = re.compile(r"N\*T\*C(?P<name>.+?)(C\*)?")
_VIRTIO = 0x1040
"""Device N of virtio is 1af4:1040+N on PCI (Virtual I/O Device 1.2, section 4.1.2.1)."""

List = Literal["pci", "usb"]
# Drivers of HID compare the numbers that USB gives to vendors on every bus (drivers/hid/hid-ids.h).
_LISTS: Mapping[str, List] = {"pci": "pci", "vfio_pci": "pci", "virtio": "pci", "usb": "usb", "hid": "usb"}


@dataclass(frozen=True)
class Device:
    """What an alias matches. Numbers are hexadecimal digits, in lower case; None matches any."""

    bus: str
    """pci, usb, hid, virtio, of, acpi, platform, ...; empty if the alias names no device."""
    text: str
    """The alias behind the bus, without the ends that match anything."""
    vendor: str | None = None
    device: str | None = None
    subvendor: str | None = None
    """Vendor of the card that the device is on (PCI)."""
    subdevice: str | None = None
    revision: str | None = None
    """The pattern of the revision (USB)."""
    base: str | None = None
    """The class: of the device (PCI), of the interface, or else of the device (USB)."""
    sub: str | None = None
    interface: str | None = None
    """Programming interface (PCI) or protocol (USB) within the class."""
    numbered: bool = False
    """Whether the alias consists of numbers; otherwise only the text counts."""

    @property
    def ids(self) -> str:
        """The numbers with * for any: `VENDOR:DEVICE (SUBVENDOR:SUBDEVICE) class DIGITS`; or the text."""
        if not self.numbered:
            return self.text
        kind = "".join(part or "**" for part in (self.base, self.sub, self.interface))
        parts = []
        if self.vendor or self.device or kind == "******":
            parts.append(_pair(self.vendor, self.device))
        if self.subvendor or self.subdevice:
            parts.append(f"({_pair(self.subvendor, self.subdevice)})")
        if kind != "******":
            parts.append(f"class {kind.rstrip('*')}")
        return " ".join(parts)


def decode(alias: str) -> Device:
    """Take an alias of a module (`modinfo -F alias`) apart; one of an unknown form has its bus and its text only."""
    bus, colon, rest = alias.partition(":")
    if not colon:
        return Device("", escape_controls(alias, keep=""))
    compatible = _COMPATIBLE.fullmatch(rest) if bus == "of" else None
    text = escape_controls(compatible["name"] if compatible else rest.rstrip("*:") or "*", keep="")
    for pattern in _PATTERNS:
        if found := pattern.fullmatch(alias):
            return _numbered(text, found.groupdict())
    return Device(escape_controls(bus.rstrip("*"), keep=""), text)


class DeviceNames:
    """Names of devices, from the lists of this machine; they are read when the first name is asked for."""

    def __init__(self, folders: Sequence[Path] = FOLDERS) -> None:
        self._folders = folders

    def name(self, device: Device) -> str:
        """Return what a device, or a class of devices, is called; empty if the lists do not say it."""
        if not device.numbered:
            return ""
        ids = self._list(_LISTS[device.bus])
        if device.bus == "virtio":
            return ids.device("1af4", f"{_VIRTIO + int(device.device, 16):04x}") if device.device else "any device"
        kind = ids.kind(device.base, device.sub, device.interface)
        if device.vendor is None:
            return "" if device.device else kind or ("" if device.base else "any device")
        if not (vendor := ids.vendor(device.vendor)):
            return kind
        if device.device is None:
            return f"{vendor}, any {kind or 'device'}"
        if not (name := ids.device(device.vendor, device.device)):
            return f"{vendor}, unknown device"
        return f"{vendor} {name}{_card(device, ids)}"

    def hint(self, buses: Iterable[str]) -> str:
        """Return how to install the lists that are missing for devices of these buses; empty if none is."""
        wanted = dict.fromkeys(_LISTS[bus] for bus in buses if bus in _LISTS)
        hints = (package_of_tool(f"{name}.ids") for name in wanted if not self._list(name).found)
        return "; ".join(dict.fromkeys(hint for hint in hints if hint))

    def _list(self, name: List) -> _IdsFile:
        return self._usb if name == "usb" else self._pci

    @cached_property
    def _pci(self) -> _IdsFile:
        return _IdsFile(_read(self._folders, "pci.ids"), joined=False)

    @cached_property
    def _usb(self) -> _IdsFile:
        return _IdsFile(_read(self._folders, "usb.ids"), joined=True)


@dataclass(frozen=True, order=True)
class DeviceLine:
    """A line of a table of devices."""

    bus: str
    ids: str
    name: str
    """Empty if it is not known."""


def describe(alias: str, names: DeviceNames) -> str:
    """Return an alias in words: `8086:10d3  Intel Corporation 82574L Gigabit Network Connection`."""
    device = decode(alias)
    return f"{device.ids}  {names.name(device)}".rstrip()


def device_lines(aliases: Iterable[str], names: DeviceNames) -> tuple[DeviceLine, ...]:
    """Return the devices of a module, sorted, each once; what is no device, such as `fs-xfs`, is left out."""
    found = {device.bus and (device.bus, device.ids): device for device in map(decode, aliases)}
    return tuple(sorted(DeviceLine(d.bus, d.ids, names.name(d)) for key, d in found.items() if key))


def _pair(first: str | None, second: str | None) -> str:
    return f"{first or '*'}:{second or '*'}"


def _numbered(text: str, groups: Mapping[str, str | None]) -> Device:
    """Return the device of an alias whose numbers are known by their names."""
    found = {key: None if value in (None, "*") else value.lower() for key, value in groups.items() if value}
    kind = {part: found.get(part) for part in ("base", "sub", "interface")}
    if not any(kind.values()):
        kind = {part: found.get(f"device_{part}") for part in kind}
    ids = {}
    for part in ("vendor", "device", "subvendor", "subdevice"):
        value = found.get(part)
        # The field has 32 bits, a number on these buses 16.
        ids[part] = value[4:] if value and len(value) == 8 and value.startswith("0000") else value
    return Device(found["bus"] or "", text, revision=found.get("revision"), numbered=True, **ids, **kind)


def _card(device: Device, ids: _IdsFile) -> str:
    """Return the name of the card that a device is on, in brackets, behind a space."""
    if not device.vendor or not device.device or not device.subvendor:
        return ""
    if device.subdevice:
        name = ids.device(device.vendor, device.device, f"{device.subvendor} {device.subdevice}")
    else:
        name = ids.vendor(device.subvendor)
    return f" ({name})" if name else ""


class _IdsFile:
    """A list of ids. Lines of the first level begin blocks; only the blocks that are asked for are read further."""

    # ID  NAME for vendors, C ID  NAME for classes, and other letters for what is of no use here.
    _TOP = re.compile(r"^(?:(?P<section>[A-Z]+) )?(?P<id>[0-9A-Fa-f]+) {1,8}(?P<name>\S.*)$", re.M)
    _BELOW = re.compile(r"^\t(?P<deeper>\t?)(?P<id>[0-9A-Fa-f]{2,4}(?: [0-9A-Fa-f]{4})?) {1,8}(?P<name>\S.*)$", re.M)

    def __init__(self, text: str, *, joined: bool) -> None:
        """Take the text of a list; `joined` if a class has to be named with the one above it (USB)."""
        self.found = bool(text)
        self._text = text
        self._joined = joined
        self._blocks: dict[str, dict[str, str]] = {}

    def vendor(self, vendor: str) -> str:
        """Return the name of a vendor; empty if it has none."""
        return self._block(vendor).get("", "")

    def device(self, vendor: str, device: str, card: str = "") -> str:
        """Return the name of a device, or of a card with it; empty if it has none."""
        return self._block(vendor).get(f"{device}/{card}" if card else device, "")

    def kind(self, base: str | None, sub: str | None, interface: str | None) -> str:
        """Return the name of a class, with the narrower one in brackets; empty if it has none."""
        block = self._block(f"C {base}") if base else {}
        names = [block.get("", ""), block.get(sub or "-", ""), block.get(f"{sub}/{interface}", "")]
        # PCI's names of the second level say it all: SATA controller.
        first, *more = [name for name in (names if self._joined or not names[1] else names[1:]) if name] or [""]
        return f"{first} ({', '.join(more)})" if more else first

    @cached_property
    def _places(self) -> dict[str, tuple[str, int, int]]:
        """The blocks: their names, where they begin, and where they end."""
        found = list(self._TOP.finditer(self._text))
        ends = [*(one.start() for one in found[1:]), len(self._text)]
        places: dict[str, tuple[str, int, int]] = {}
        for one, end in zip(found, ends, strict=False):
            key = one["id"].lower()
            places.setdefault(f"{one['section']} {key}" if one["section"] else key, (one["name"], one.end(), end))
        return places

    def _block(self, key: str) -> dict[str, str]:
        """Return the names in a block, its own under an empty key, and those of the third level under `2ND/3RD`."""
        if key not in self._blocks:
            name, begin, end = self._places.get(key, ("", 0, 0))
            names = {"": _printable(name)}
            above = ""
            for one in self._BELOW.finditer(self._text, begin, end):
                below = one["id"].lower()
                if not one["deeper"]:
                    above = below
                names.setdefault(f"{above}/{below}" if one["deeper"] else below, _printable(one["name"]))
            self._blocks[key] = names
        return self._blocks[key]


def _printable(name: str) -> str:
    return escape_controls(name.strip()[:_NAME_LIMIT], keep="")


def _read(folders: Sequence[Path], name: str) -> str:
    """Return the text of the first list that can be read; empty if there is none."""
    for path in (folder / file for folder in folders for file in (name, f"{name}.gz")):
        try:
            if not path.is_file():
                continue
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
                content = stream.read(_SIZE_LIMIT + 1)
        except (OSError, EOFError, zlib.error):
            continue
        if content and len(content) <= _SIZE_LIMIT:
            return content.decode("utf-8", "replace")
    return ""
