import gzip
import os

import pytest

from pkgkmod.modules.hardware import DeviceLine, DeviceNames, decode, describe, device_lines

# Made up, in the form of the real ones.
PCI = """# Vendors first
8086  Chips of Intel
	10d3  Gigabit Connection
		8086 a01f  Desktop Adapter
	10d4  Other Connection
1028  Box Maker
	0001  Box
1af4  Virtual Maker
	1041  Virtual network
C 01  Storage
	06  SATA controller
		01  AHCI 1.0
C 03  Display
"""
USB = """046d  Mouse Maker
	c52b  Receiver
		00  an interface
C 03  Human
	01  Boot
		02  Mouse
HID 21  HID
L 0009  German
	01  German
"""
E1000E = "pci:v00008086d000010D3sv*sd*bc*sc*i*"


@pytest.fixture
def names(tmp_path):
    (tmp_path / "pci.ids").write_text(PCI)
    (tmp_path / "usb.ids").write_text(USB)
    return DeviceNames((tmp_path,))


def test_an_alias_of_pci_is_taken_apart():
    found = decode("pci:v00001028d0000ABCDsv00008086sd*bc02sc00i*")
    assert (found.bus, found.vendor, found.device, found.subvendor, found.subdevice) == (
        *("pci", "1028", "abcd", "8086"),
        None,
    )
    assert (found.base, found.sub, found.interface) == ("02", "00", None)
    assert found.ids == "1028:abcd (8086:*) class 0200"


def test_an_alias_of_usb_is_taken_apart():
    found = decode("usb:v0421p0492d0[5-9]*dc02dsc*dp*ic*isc*ip*in*")
    assert (found.bus, found.vendor, found.device, found.revision) == ("usb", "0421", "0492", "0[5-9]*")
    assert (found.base, found.ids) == ("02", "0421:0492 class 02")
    # Where both are given, the interface is what the driver takes.
    assert decode("usb:v03F0p2101d*dc02dsc*dp*icFFisc*ip02in*").ids == "03f0:2101 class ff**02"
    assert decode("usb:v03F0p2101d*dc*dsc*dp*ic*isc*ip*in03*").ids == "03f0:2101"


@pytest.mark.parametrize(
    ("alias", "bus", "ids"),
    [
        ("hid:b0003g*v0000046Dp0000C52B", "hid", "046d:c52b"),
        ("virtio:d00000001v*", "virtio", "*:0001"),
        ("vfio_pci:v000015B3d0000101Dsv*sd*bc*sc*i*", "vfio_pci", "15b3:101d"),
        ("pci:v*d*sv*sd*bc*sc*i*", "pci", "*:*"),
        ("of:N*T*Cad,ad7414", "of", "ad,ad7414"),
        ("of:N*T*Cad,ad7414C*", "of", "ad,ad7414"),
        ("of:NcpuT*Cx", "of", "NcpuT*Cx"),
        ("acpi*:INT33A1:*", "acpi", "INT33A1"),
        ("platform:dw-apb-uart", "platform", "dw-apb-uart"),
        ("mdio:0000000000000110000111000101????", "mdio", "0000000000000110000111000101????"),
        ("dmi*:bvnIBM:*:rn9228*:", "dmi", "bvnIBM:*:rn9228"),
        ("scsi:t-0x00*", "scsi", "t-0x00"),
        # Not as file2alias.c writes them: as they are.
        ("pci:v8086d10D3sv*sd*bc*sc*i*", "pci", "v8086d10D3sv*sd*bc*sc*i"),
        ("usb:v046DpC52B", "usb", "v046DpC52B"),
        ("of:", "of", "*"),
        ("wmi:\x1b[2J\n", "wmi", "\\x1b[2J\\n"),
    ],
)
def test_each_bus_has_its_form(alias, bus, ids):
    found = decode(alias)
    assert (found.bus, found.ids) == (bus, ids)


@pytest.mark.parametrize(
    ("alias", "text"),
    [
        (E1000E, "8086:10d3  Chips of Intel Gigabit Connection"),
        (
            "pci:v00008086d000010D3sv00008086sd0000A01Fbc*sc*i*",
            "8086:10d3 (8086:a01f)  Chips of Intel Gigabit Connection (Desktop Adapter)",
        ),
        (
            "pci:v00008086d000010D3sv00001028sd*bc*sc*i*",
            "8086:10d3 (1028:*)  Chips of Intel Gigabit Connection (Box Maker)",
        ),
        ("pci:v00008086d0000FFFFsv*sd*bc*sc*i*", "8086:ffff  Chips of Intel, unknown device"),
        ("pci:v00008086d*sv*sd*bc*sc*i*", "8086:*  Chips of Intel, any device"),
        ("pci:v00008086d*sv*sd*bc03sc80i*", "8086:* class 0380  Chips of Intel, any Display"),
        ("pci:v0000FFFEd00000001sv*sd*bc*sc*i*", "fffe:0001"),
        ("pci:v*d*sv*sd*bc01sc06i01*", "class 010601  SATA controller (AHCI 1.0)"),
        ("pci:v*d*sv*sd*bc01sc06i*", "class 0106  SATA controller"),
        ("pci:v*d*sv*sd*bcFEsc*i*", "class fe"),
        ("pci:v*d*sv*sd*bc*sc*i*", "*:*  any device"),
        ("usb:v046DpC52Bd*dc*dsc*dp*ic*isc*ip*in*", "046d:c52b  Mouse Maker Receiver"),
        ("usb:v*p*d*dc*dsc*dp*ic03isc01ip02in*", "class 030102  Human (Boot, Mouse)"),
        ("hid:b0005g*v0000046Dp0000C52B", "046d:c52b  Mouse Maker Receiver"),
        ("virtio:d00000001v*", "*:0001  Virtual network"),
        ("platform:dw-apb-uart", "dw-apb-uart"),
    ],
)
def test_devices_are_named(names, alias, text):
    assert describe(alias, names) == text


def test_the_devices_of_a_module_are_sorted_and_each_is_there_once(names):
    usb = "usb:v046DpC52Bd{}dc*dsc*dp*ic*isc*ip*in*"
    lines = device_lines(
        [usb.format("01*"), usb.format("0200"), "fs-xfs", E1000E, "of:N*T*Ca,b", "of:N*T*Ca,bC*"], names
    )
    assert lines == (
        DeviceLine("of", "a,b", ""),
        DeviceLine("pci", "8086:10d3", "Chips of Intel Gigabit Connection"),
        DeviceLine("usb", "046d:c52b", "Mouse Maker Receiver"),
    )


def test_without_lists_there_are_numbers_and_a_hint(tmp_path):
    names = DeviceNames((tmp_path, tmp_path / "none"))
    assert describe(E1000E, names) == "8086:10d3"
    assert "pci.ids" in names.hint(["pci", "of"]) or "hwdata" in names.hint(["pci", "of"])
    assert names.hint(["of", ""]) == ""


def test_no_hint_where_the_list_is(names):
    assert names.hint(["pci", "usb", "hid", "virtio"]) == ""


def test_a_packed_list_and_the_first_of_several_are_read(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a/pci.ids.gz").write_bytes(gzip.compress(PCI.encode(), mtime=0))
    (tmp_path / "b/pci.ids").write_text(PCI.replace("Gigabit", "Megabit"))
    folders = (tmp_path / "a", tmp_path / "b")
    assert describe(E1000E, DeviceNames(folders)).endswith("Gigabit Connection")
    assert describe(E1000E, DeviceNames(folders[::-1])).endswith("Megabit Connection")


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b\x08broken", gzip.compress(PCI.encode(), mtime=0)[:60], b"no archive"]
)
def test_a_packed_list_that_is_damaged_is_none(tmp_path, content):
    (tmp_path / "pci.ids.gz").write_bytes(content)
    assert describe(E1000E, DeviceNames((tmp_path,))) == "8086:10d3"


def test_what_blows_up_or_never_ends_is_none(tmp_path):
    (tmp_path / "pci.ids.gz").write_bytes(gzip.compress(bytes(33 << 20), 1, mtime=0))
    os.mkfifo(tmp_path / "pci.ids")
    assert describe(E1000E, DeviceNames((tmp_path,))) == "8086:10d3"


def test_a_list_cannot_drive_a_terminal(tmp_path):
    (tmp_path / "pci.ids").write_bytes(b"8086  \x1b[31mIntel\xff\r\n\t10d3  " + b"x" * 5000 + b"\n")
    text = describe(E1000E, DeviceNames((tmp_path,)))
    assert text.isprintable()
    assert text.startswith("8086:10d3  \\x1b[31mIntel\ufffd x")
    assert len(text) < 300
