"""The fields of control files that are made of the modules: symbols and hardware."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from pkgkmod.modules.kmod_deps import Module, main, modaliases, symbols


def module(
    name: str,
    *aliases: str,
    versions: dict[str, int] | None = None,
    undefined: tuple[str, ...] = (),
    exports: dict[str, int | None] | None = None,
) -> Module:
    modinfo = tuple(("alias", alias) for alias in aliases)
    return Module(f"/x/{name}.ko", modinfo, versions, frozenset(undefined), frozenset(), exports or {})


def test_symbols_of_several_modules_without_those_of_their_own() -> None:
    common = module("common", versions={"module_layout": 0x12, "kfree": 0xABCDEF01}, exports={"ours": 7})
    user = module("user", versions={"module_layout": 0x12, "ours": 7, "_printk": 3})
    assert symbols([user, common]) == ["0x00000003\t_printk", "0xabcdef01\tkfree", "0x00000012\tmodule_layout"]


def test_symbols_without_crcs() -> None:
    assert symbols([module("plain", undefined=("kfree", "_printk"))]) == ["0x00000000\t_printk", "0x00000000\tkfree"]


def test_modaliases_in_the_form_of_ubuntu_drivers() -> None:
    one = module(
        "b-one", "pci:v00008086d00001533sv*", "pci:v00008086d0000153[3]", "net-pf-10", "pci:v00008086d00001533sv*"
    )
    other = module("a", "of:N*T*Cintel,x540C*")
    silent = module("silent")
    assert modaliases([one, silent, other]) == (
        "a(of:N*T*Cintel?x540C*), b_one(pci:v00008086d00001533sv*, pci:v00008086d0000153[3])"
    )
    assert modaliases([silent]) == ""


def test_hostile_aliases_stay_within_their_field() -> None:
    odd = module("x", "pci:a)\nDepends: evil (", "usb:${Source}", "acpi:\tñ,b")
    said = modaliases([odd])
    assert said == "x(acpi:??b, pci:a??Depends:?evil??, usb:?{Source})".replace("acpi:??b", "acpi:???b")
    assert said.isprintable() and said.count("(") == 1 and said.count(")") == 1 and "${" not in said


def test_a_file_that_is_no_module_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "debian/hello/x.ko"
    path.parent.mkdir(parents=True)
    path.write_text("nothing of the kind")
    monkeypatch.chdir(tmp_path)
    for name, reason in (("debian/hello/x.ko", "not an ELF file"), (str(path), "not in debian/PACKAGE/")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{name}\n".encode())))
        assert main(["debian"]) == 1
        out, err = capsys.readouterr()
        assert out == "" and reason in err
    assert not (tmp_path / "debian/hello.substvars").exists()
