"""How a target names kernels: releases, patterns, `newest ...`, `all`, and what is left out."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from pkgkmod.errors import KernelError
from pkgkmod.kernels.select import in_order, select_kernels, with_named
from pkgkmod.model.fields import KERNEL_CHOICE, KernelChoice
from pkgkmod.model.kernel import Kernel, KernelRelease

DEBIAN = (
    *("5.10.0-9-amd64", "6.1.0-9-amd64", "6.1.0-10-amd64", "6.1.0-10-cloud-amd64", "6.1.0-10-rt-amd64"),
    *("6.1.0-55-cloud-amd64", "6.1.0-56-amd64", "6.1.0-56-cloud-amd64", "6.12.115+deb12-amd64"),
    *("6.12.117+deb12-amd64", "6.12.117+deb12-cloud-amd64", "6.12.9+deb12-amd64"),
)
OTHERS = (
    *("5.14.0-427.13.1.el9_4.x86_64", "5.14.0-427.9.1.el9_4.x86_64", "5.14.0-427.13.1.el9_4.x86_64+rt"),
    *("6.4.0-150600.23.47-default", "6.4.0-150600.23.7-default", "6.8.0-40-generic", "6.8.0-100-generic"),
    *("6.8.0-40-lowlatency", "7.2.0-rc1-00012-gabc"),
)


def kernels(*releases: str) -> tuple[Kernel, ...]:
    return in_order(Kernel(KernelRelease(r), "x86_64", Path("/x"), "folder", "0", None) for r in releases)


def chosen(wanted: str | list[str], releases: tuple[str, ...] = DEBIAN) -> list[str]:
    words = [wanted] if isinstance(wanted, str) else wanted
    for word in words:
        TypeAdapter(KernelChoice).validate_python(word)
    return [kernel.uname_r for kernel in select_kernels(words, kernels(*releases))]


def test_the_oldest_comes_first_and_plain_flavours_last():
    assert [k.uname_r for k in kernels(*reversed(DEBIAN))] == [
        *("5.10.0-9-amd64", "6.1.0-9-amd64", "6.1.0-10-cloud-amd64", "6.1.0-10-rt-amd64", "6.1.0-10-amd64"),
        *("6.1.0-55-cloud-amd64", "6.1.0-56-cloud-amd64", "6.1.0-56-amd64", "6.12.9+deb12-amd64"),
        *("6.12.115+deb12-amd64", "6.12.117+deb12-cloud-amd64", "6.12.117+deb12-amd64"),
    ]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("6.1.0-56-amd64", ["6.1.0-56-amd64"]),
        ("6.1.0-1*-amd64", ["6.1.0-10-cloud-amd64", "6.1.0-10-rt-amd64", "6.1.0-10-amd64"]),
        ("6.1.0-??-amd64", ["6.1.0-10-amd64", "6.1.0-56-amd64"]),
        ("6.12.*-cloud-amd64", ["6.12.117+deb12-cloud-amd64"]),
        ("6.1.0-5[56]-cloud-amd64", ["6.1.0-55-cloud-amd64", "6.1.0-56-cloud-amd64"]),
        ("newest", ["6.12.117+deb12-amd64"]),
        ("newest 2", ["6.12.117+deb12-cloud-amd64", "6.12.117+deb12-amd64"]),
        ("newest per flavour", ["6.1.0-10-rt-amd64", "6.12.117+deb12-cloud-amd64", "6.12.117+deb12-amd64"]),
        (
            "newest 2 per flavour",
            [
                *("6.1.0-10-rt-amd64", "6.1.0-56-cloud-amd64"),
                *("6.12.115+deb12-amd64", "6.12.117+deb12-cloud-amd64", "6.12.117+deb12-amd64"),
            ],
        ),
        ("newest per series", ["5.10.0-9-amd64", "6.1.0-56-amd64", "6.12.117+deb12-amd64"]),
        ("newest of 6.1.*", ["6.1.0-56-amd64"]),
        ("newest 2 per flavour of 6.1.0-*-cloud-amd64", ["6.1.0-55-cloud-amd64", "6.1.0-56-cloud-amd64"]),
        ("newest 99 of 6.1.0-?-*", ["6.1.0-9-amd64"]),
        ("all", [k.uname_r for k in kernels(*DEBIAN)]),
        ("*", [k.uname_r for k in kernels(*DEBIAN)]),
    ],
)
def test_what_is_meant(wanted, expected):
    assert chosen(wanted) == expected


def test_several_words_add_up_each_kernel_once():
    assert chosen(["newest", "6.12.117*", "5.10.0-9-amd64"]) == [
        *("5.10.0-9-amd64", "6.12.117+deb12-cloud-amd64", "6.12.117+deb12-amd64"),
    ]


def test_exclamation_takes_out_of_what_was_named_before():
    assert chosen(["6.1.*", "!*-cloud-*", "! *-rt-*", "!5*"]) == ["6.1.0-9-amd64", "6.1.0-10-amd64", "6.1.0-56-amd64"]
    assert chosen(["!6.1.0-56-amd64", "6.1.0-56-amd64"]) == ["6.1.0-56-amd64"]
    with pytest.raises(KernelError, match="no kernel is left of all, !\\*"):
        chosen(["all", "!*"])


def test_releases_of_other_distributions():
    assert chosen("newest 2 of 5.14.*", OTHERS) == ["5.14.0-427.13.1.el9_4.x86_64+rt", "5.14.0-427.13.1.el9_4.x86_64"]
    assert chosen("newest of *-default", OTHERS) == ["6.4.0-150600.23.47-default"]
    assert chosen("newest per flavour of 6.8.*", OTHERS) == ["6.8.0-40-lowlatency", "6.8.0-100-generic"]
    assert chosen("5.14.0-427.13.1.el9_4.x86_64+rt", OTHERS) == ["5.14.0-427.13.1.el9_4.x86_64+rt"]
    assert chosen("newest", OTHERS) == ["7.2.0-rc1-00012-gabc"]


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("6.1.0-65-amd64", "nearest: 6.1.0-56-amd64"),
        ("6.99.*", "there are: .*6.12.117"),
        ("newest of 9.*", "pkgkmod kernels list"),
    ],
)
def test_a_word_that_means_nothing_is_an_error_with_a_hint(wanted, hint):
    with pytest.raises(KernelError, match="not found") as caught:
        chosen(wanted)
    assert wanted in caught.value.brief
    assert re.search(hint, caught.value.hint)


def test_no_kernels_at_all():
    with pytest.raises(KernelError, match="no kernel build tree found") as caught:
        chosen("newest", ())
    assert "plugin.apt.archives" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        *("newest 0", "newest -1", "newest 2 per", "newest per arch", "newest 2 per flavor", "newest  2", "newest of"),
        *("newest of a b", "", " ", "6.1.0;id", "$(id)", "6.1/*", "6.1.0-56-amd64\n", "6.1 6.2", "!", "!!x y", "a\x1b"),
    ],
)
def test_what_the_project_file_refuses(text):
    with pytest.raises(ValidationError, match="must be a kernel release, a pattern"):
        TypeAdapter(KernelChoice).validate_python(text)


def test_the_grammar_names_its_parts():
    found = KERNEL_CHOICE.fullmatch("newest 3 per series of 6.*-amd64")
    assert found and found.groupdict() == {"number": "3", "group": "series", "pattern": "6.*-amd64"}


@pytest.mark.parametrize(
    ("text", "arch"),
    [
        ("5.14.0-503.11.1.el9_5.x86_64", "x86_64"),
        ("5.14.0-503.11.1.el9_5.aarch64+64k", "aarch64"),
        ("6.1.0-66-arm64", "aarch64"),
        ("6.12.117+deb12-cloud-amd64", "x86_64"),
        ("6.4.0-150600.23.50-default", os.uname().machine),
        ("6.8.0-101-generic", os.uname().machine),
    ],
)
def test_a_release_that_nobody_has_is_taken_at_its_word(text: str, arch: str):
    known = kernels("6.1.0-9-amd64")
    (found,) = (one for one in with_named([text, "6.1.0-9-amd64", text], known) if one not in known)
    assert (found.uname_r, found.arch) == (text, arch)


@pytest.mark.parametrize(
    "text", ["newest", "all", "6.1*", "6.1.0-?-amd64", "!6.1.0-7-amd64", "6.1", "6.1.0", "6.1.0..1-x", "linux-6.1"]
)
def test_what_is_no_release_means_what_there_is(text: str):
    known = kernels("6.1.0-9-amd64")
    assert with_named([text], known) == known
