"""The names of devices, as the programs that name those of the machine itself give them."""

import re
import subprocess
from pathlib import Path

import pytest

from pkgkmod.modules.hardware import DeviceNames, decode
from tests.fixtures.archive_modules import image_modules
from tests.fixtures.machine import lacking, need, series_and_kernel

PCI_IDS = Path("/usr/share/misc/pci.ids")
USB_IDS = Path("/usr/share/misc/usb.ids")


@pytest.fixture(scope="module")
def aliases():
    """All aliases of every 25th module of a real kernel."""
    need("modinfo")
    _, kernel = series_and_kernel()
    modules = sorted(image_modules(kernel).rglob("*.ko*"))
    done = subprocess.run(["modinfo", "-F", "alias", *modules], capture_output=True, text=True, check=True)
    return sorted(set(done.stdout.split("\n")) - {""})


def machine_with(devices):
    """Return what lspci -x would print on a machine with these devices: their configuration registers."""
    lines = []
    for number, device in enumerate(devices):
        registers = bytearray(64)
        words = {0x00: device.vendor, 0x02: device.device, 0x2C: device.subvendor, 0x2E: device.subdevice}
        words[0x09] = "".join(part or "00" for part in (device.base, device.sub, device.interface))
        for place, digits in words.items():
            value = bytes.fromhex(digits or "ffff")[::-1]
            registers[place : place + len(value)] = value
        lines.append(f"{number >> 16:04x}:{number >> 8 & 255:02x}:{number >> 3 & 31:02x}.{number & 7} device")
        lines += [f"{at:02x}: {registers[at : at + 16].hex(' ')}" for at in range(0, 64, 16)] + [""]
    return "\n".join(lines)


def lspci(devices, folder):
    """Return the fields that lspci shows for each device, from the same list and nothing else."""
    need("lspci")
    if not PCI_IDS.exists():
        lacking(f"{PCI_IDS} is missing")
    (folder / "machine").write_text(machine_with(devices))
    words = ["lspci", "-O", "hwdb.disable=1", "-i", PCI_IDS, "-F", folder / "machine", "-D", "-vmm"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [dict(line.split(":\t", 1) for line in one.splitlines()) for one in done.stdout.strip().split("\n\n")]


def test_devices_of_pci_have_the_names_that_lspci_gives_them(aliases, tmp_path):
    devices = [one for one in map(decode, aliases) if one.bus == "pci" and one.vendor and one.device]
    names = DeviceNames((PCI_IDS.parent,))
    compared = 0
    for device, shown in zip(devices, lspci(devices, tmp_path), strict=True):
        vendor, name, card = shown["Vendor"], shown["Device"], shown.get("SDevice", "")
        if vendor == f"Vendor {device.vendor}":
            assert device.base or names.name(device) == ""
            continue
        if name == f"Device {device.device}":
            wanted = f"{vendor}, unknown device"
        elif card in ("", name, f"Device {device.subdevice}"):
            # lspci calls a card that has the numbers of the device itself like the device.
            wanted = f"{vendor} {name}"
        else:
            wanted = f"{vendor} {name} ({card})"
        # No vendor has number 0: lspci takes it for no card.
        if not device.subvendor or (device.subdevice and device.subvendor != "0000"):
            assert names.name(device) == wanted
            compared += 1
    assert compared > 100


def test_classes_of_pci_have_the_names_that_lspci_gives_them(tmp_path):
    numbers = re.findall(r"^(?:C ([0-9a-f]{2})|\t([0-9a-f]{2}))  ", PCI_IDS.read_text("utf-8").split("\nC 00")[1], re.M)
    base, classes = "00", []
    for top, below in numbers:
        base = top or base
        if below:
            classes.append(f"pci:v*d*sv*sd*bc{base.upper()}sc{below.upper()}i*")
    devices = [decode(alias) for alias in classes]
    names = DeviceNames((PCI_IDS.parent,))
    with_ids = [decode(f"pci:v00000001d00000001sv*sd*{alias.partition('sd*')[2]}") for alias in classes]
    shown = lspci(with_ids, tmp_path)
    assert len(shown) > 50
    assert [names.name(device) for device in devices] == [one["Class"] for one in shown]


def test_devices_of_usb_have_the_names_that_udev_gives_them(aliases):
    """Udev's list is another one of nearly the same age: a few names differ."""
    need("systemd-hwdb")
    if not USB_IDS.exists():
        lacking(f"{USB_IDS} is missing")
    listed, vendor = [], ""
    for top, below in re.findall(r"^(?:([0-9a-f]{4})|\t([0-9a-f]{4}))  ", USB_IDS.read_text("utf-8", "replace"), re.M):
        vendor = top or vendor
        if below:
            listed.append(f"usb:v{vendor.upper()}p{below.upper()}d*dc*dsc*dp*ic*isc*ip*in*")
    names = DeviceNames((USB_IDS.parent,))
    compared = different = 0
    for alias in [*(alias for alias in aliases if re.match("usb:v[0-9A-F]{4}p[0-9A-F]", alias)), *listed[::50]]:
        done = subprocess.run(["systemd-hwdb", "query", alias], capture_output=True, text=True, check=True)
        shown = dict(line.split("=", 1) for line in done.stdout.splitlines())
        if maker := shown.get("ID_VENDOR_FROM_DATABASE"):
            model = shown.get("ID_MODEL_FROM_DATABASE")
            compared += 1
            different += names.name(decode(alias)) != (f"{maker} {model}" if model else f"{maker}, unknown device")
    assert compared > 100
    assert different < compared / 20, f"{different} of {compared}"
