"""A real kernel that enforces signatures loads what we sign, and nothing else.

The kernel is booted twice in an emulated machine: first it puts our certificate into the firmware's list `db`, which
the firmware allows as long as nobody owns it; then it trusts that certificate. With Secure Boot switched off, as
here, a kernel reads `db`, but not the list of MOK keys.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import uuid
from pathlib import Path

import pytest

from pkgkmod.signing import detached, keys, modules
from pkgkmod.signing.detached import ToSign
from tests.fixtures.machine import lacking, need
from tests.fixtures.signing import call, cloud_kernel, new_key

FIRMWARE = Path("/usr/share/OVMF")

INIT = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sysfs /sys; $b mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
$b insmod /efivarfs.ko && $b mount -t efivarfs vars /sys/firmware/efi/efivars
db=/sys/firmware/efi/efivars/db-d719b2cb-3d3a-4596-a3bc-dad00e67656f
if ! [ -e $db ]; then $b dd if=/db of=$db bs=64k; echo "enrolled: $?"; $b reboot -f; fi
for module in /modules/*.ko; do
    $b insmod $module 2>/dev/null && { echo "loaded: ${module##*/}"; $b rmmod dummy; } || echo "refused: ${module##*/}"
done
$b dmesg | $b grep "Loaded X.509"
$b poweroff -f
"""


def enrolment(certificate: bytes) -> bytes:
    """Return what efivarfs takes to set `db`: attributes, a descriptor nobody signed, and a list of one certificate."""
    owner = uuid.uuid5(uuid.NAMESPACE_DNS, "pkgkmod.example").bytes_le
    x509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le
    pkcs7 = uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7").bytes_le
    size = len(owner) + len(certificate)
    date = struct.pack("<HBBBBBBIhBB", 2024, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    descriptor = date + struct.pack("<IHH", 24, 0x0200, 0x0EF1) + pkcs7
    entry = x509 + struct.pack("<III", 28 + size, 0, size) + owner + certificate
    return struct.pack("<I", 0x27) + descriptor + entry


def initramfs(folder: Path, kernel: Path, signed: dict[str, bytes], certificate: bytes) -> Path:
    root = folder / "root"
    for name in ("bin", "proc", "sys", "dev", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    shutil.copy(kernel / "efivarfs.ko", root)
    for name, content in signed.items():
        (root / f"modules/{name}.ko").write_bytes(content)
    (root / "db").write_bytes(enrolment(certificate))
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(), capture_output=True, check=True
    )
    (folder / "initrd").write_bytes(packed.stdout)
    return folder / "initrd"


def boot(kernel: Path, initrd: Path, variables: Path) -> str:
    """Boot a machine until it ends, and return what it says."""
    code = FIRMWARE / "OVMF_CODE_4M.fd"
    argv = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "512", "-net", "none"]
    argv += ["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]
    argv += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"]
    argv += ["-drive", f"if=pflash,format=raw,unit=1,file={variables}"]
    argv += ["-kernel", kernel / "vmlinuz", "-initrd", initrd]
    argv += ["-append", "console=ttyS0 quiet panic=-1 module.sig_enforce=1"]
    done = subprocess.run(argv, capture_output=True, timeout=240, check=True, stdin=subprocess.DEVNULL)
    return done.stdout.decode("utf-8", "replace")


@pytest.mark.slow
def test_a_kernel_that_enforces_signatures_loads_what_we_sign_and_nothing_else(tmp_path):
    need("qemu-system-x86_64", "busybox", "cpio", "openssl")
    if not (FIRMWARE / "OVMF_CODE_4M.fd").exists():
        lacking("the firmware OVMF is not installed")
    kernel = cloud_kernel()
    (file,) = kernel.glob("dummy.ko*")
    dummy = modules.unsigned(modules.plain(file.name, file.read_bytes()))
    ours, strangers = new_key(tmp_path / "ours", "Boot test"), new_key(tmp_path / "strangers", "Other")
    key = keys.load_key(str(ours.key), ours.certificate, tmp_path)
    signed = modules.sign_module(dummy, key, "sha256")
    detached.export([ToSign("p.rpm", "/lib/dummy.ko", dummy, "sha256")], tmp_path / "out")
    name = detached.digest_of(dummy, "sha256")
    argv = ("openssl", "pkeyutl", "-sign", "-inkey", ours.key, "-pkeyopt", "digest:sha256")
    call(*argv, "-in", f"{name}.sha256", "-out", f"{name}.sig", cwd=tmp_path / "out")
    signatures = detached.load_signatures(tmp_path / "out", ours.certificate)
    other = keys.load_key(str(strangers.key), strangers.certificate, tmp_path)
    changed = signed[:5000] + bytes([signed[5000] ^ 1]) + signed[5001:]
    variants = {
        "good": signed,
        "detached": detached.sign_with(dummy, "sha256", signatures),
        "unsigned": dummy,
        "other-key": modules.sign_module(dummy, other, "sha256"),
        "changed": changed,
    }
    initrd = initramfs(tmp_path, kernel, variants, ours.certificate_der.read_bytes())
    variables = tmp_path / "variables.fd"
    shutil.copy(FIRMWARE / "OVMF_VARS_4M.fd", variables)
    assert "enrolled: 0" in boot(kernel, initrd, variables)
    said = boot(kernel, initrd, variables)
    assert "Loaded X.509 cert 'Boot test: " in said
    ends = {name: end for end, name in re.findall(r"(loaded|refused): (\S+)", said)}
    assert ends == {
        "good.ko": "loaded",
        "detached.ko": "loaded",
        "unsigned.ko": "refused",
        "other-key.ko": "refused",
        "changed.ko": "refused",
    }
