from __future__ import annotations

import time
from pathlib import Path

import pytest
from debian.copyright import Copyright
from hypothesis import given, settings
from hypothesis import strategies as st

from pkgkmod.packages.copyright import Claims, missing_texts, read_claim, read_claims, shown_holders
from pkgkmod.packages.deb import write_debian
from pkgkmod.packages.spdx import parse_spdx
from tests.fixtures.packaging import GOLDEN, HOSTILE, check_golden, make_facts, make_job, make_project


def written(folder: Path, claims: Claims, **info: str) -> str:
    facts = make_facts(make_job("debian12", ("6.1.0-56-amd64",), make_project(**info)))
    write_debian(facts, folder / "debian", None, claims=claims)
    return (folder / "debian" / "copyright").read_text(encoding="utf-8")


def tree(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / "tree" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "tree"


@pytest.mark.parametrize(
    "text, debian",
    [
        ("GPL-2.0", "GPL-2"),
        ("GPL-2.0-only", "GPL-2"),
        ("GPL-2.0+", "GPL-2+"),
        ("GPL-2.0-or-later", "GPL-2+"),
        ("LGPL-2.1", "LGPL-2.1"),
        ("MIT", "Expat"),
        ("(GPL-2.0 OR BSD-3-Clause)", "GPL-2 or BSD-3-clause"),
        ("GPL-2.0 OR GPL-2.0", "GPL-2"),
        ("((GPL-2.0 WITH Linux-syscall-note) OR MIT)", "GPL-2 with Linux-syscall-note exception or Expat"),
        ("GPL-2.0 OR MIT AND ISC", "GPL-2 or Expat and ISC"),
        ("(GPL-2.0 OR MIT) AND ISC", "GPL-2 or Expat, and ISC"),
    ],
)
def test_expressions(text: str, debian: str) -> None:
    found = parse_spdx(text)
    assert found and found.debian == debian


@pytest.mark.parametrize("text", ["", "GPL-2.0 OR", "(MIT", "MIT)", "MIT ISC", "OR", "WITH x", "%(id)", "(" * 5000])
def test_what_is_no_expression(text: str) -> None:
    assert parse_spdx(text) is None


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="()AORNDWITH GPL-2.0+", max_size=300))
def test_any_text_is_an_expression_or_not(text: str) -> None:
    assert parse_spdx(text) is None or parse_spdx(text) == parse_spdx(text)


@pytest.mark.parametrize(
    "line, shown",
    [
        ("/* Copyright(c) 1999 - 2018 Intel Corporation. */", "1999-2018 Intel Corporation"),
        (" * Copyright (c) 2006 Intel Corporation", "2006 Intel Corporation"),
        (
            " * Copyright (C) 2006, 2007, 2010-12 Red Hat, Inc. All rights reserved.",
            "2006-2007, 2010-2012 Red Hat, Inc.",
        ),
        ("// SPDX-FileCopyrightText: 2021 Jane Doe <jane@example.org>", "2021 Jane Doe <jane@example.org>"),
        ("# © 2020 Jürgen Müller", "2020 Jürgen Müller"),
        (" * (c) Copyright 2001 by Foo Ltd., Bar", "2001 Foo Ltd., Bar"),
        (" * Copyright Jane Doe 2003-2005", "2003-2005 Jane Doe"),
        (" * (C) 1998 John Doe", "1998 John Doe"),
        ('static const char c[] = "Copyright (c) 2006 Intel Corporation.";', "2006 Intel Corporation"),
    ],
)
def test_holders(line: str, shown: str) -> None:
    assert shown_holders(read_claim(line).holders) == [shown]


@pytest.mark.parametrize(
    "line",
    [
        " * The above copyright notice and this permission notice shall be included",
        " * IN NO EVENT SHALL THE COPYRIGHT HOLDERS BE LIABLE",
        " * Copyright (c) 2006",
        " * see the file COPYRIGHT",
    ],
)
def test_sentences_about_copyright_name_nobody(line: str) -> None:
    assert read_claim(line).holders == {}


def test_files_are_grouped_by_licence_and_holders(tmp_path: Path) -> None:
    intel = "/* SPDX-License-Identifier: GPL-2.0 */\n/* Copyright (c) {} Intel Corporation */\n"
    claims = read_claims(
        tree(
            tmp_path,
            drv__a_dot_c=intel.format("2006"),
            drv__b_dot_c=intel.format("2007 - 2010"),
            drv__Makefile="# SPDX-License-Identifier: GPL-2.0\n",
            drv__hw__x_dot_h="/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */\n/* Copyright (c) 2009 Foo */\n",
            drv__hw__y_dot_h="/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */\n",
            drv__odd_dot_c="int x;\n",
            LICENSES__preferred__MIT="Valid-License-Identifier: MIT\nLicense-Text:\n\nBe free.\n\n.\nAs is.\n",
        ),
        "default",
    )
    assert missing_texts(claims) == ()
    assert missing_texts(Claims(claims.files)) == ("MIT",)
    text = written(tmp_path, claims)
    parsed = Copyright(text, strict=True)
    paragraphs = {paragraph.files: paragraph for paragraph in parsed.all_files_paragraphs()}
    assert paragraphs[("*",)].copyright == "2006-2010 Intel Corporation"
    assert paragraphs[("*",)].license.synopsis == "GPL-2"
    assert paragraphs[("drv/hw/*",)].copyright == "2009 Foo"
    assert paragraphs[("drv/hw/*",)].license.synopsis == "GPL-2 or Expat"
    texts = {paragraph.license.synopsis: paragraph.license.text for paragraph in parsed.all_license_paragraphs()}
    assert "common-licenses/GPL-2" in texts["GPL-2"] and "Be free." in texts["Expat"]
    assert "taken to be the project's, GPL-2:\n  drv/odd.c\n" in text
    assert "drv/a.c\n" not in text.partition("Files: *")[0]


def test_many_groups_of_one_licence_become_one(tmp_path: Path) -> None:
    files = {
        f"d__f{n}_dot_c": f"// SPDX-License-Identifier: MIT\n// Copyright (c) 20{n} Holder {n}\n" for n in range(10, 40)
    }
    parsed = Copyright(written(tmp_path, read_claims(tree(tmp_path, **files), "default")), strict=True)
    (sources,) = [p for p in parsed.all_files_paragraphs() if p.files == ("*",)]
    assert len(sources.copyright.splitlines()) == 30


def test_hostile_names_and_texts_stay_in_their_fields(tmp_path: Path) -> None:
    odd = tmp_path / "tree" / "a b\n\nFiles: *\\" / "x?*.c"
    odd.parent.mkdir(parents=True)
    odd.write_bytes(
        b"/* SPDX-License-Identifier: MIT\x00 */\n"
        b"/* Copyright (c) 2001 Evil\x0b\x0cLicense: x\x85\xe2\x80\xa8Files: y */\n// Copyright (c) 2002 \xff\xfe<&>\n"
    )
    (tmp_path / "tree" / "plain.c").write_text(
        "// SPDX-License-Identifier: MIT; rm -rf /\n// Copyright (c) 2002 .\n// Copyright (c) 2003 ${Source} $(id)\n"
    )
    (tmp_path / "tree" / "second.c").write_text("// SPDX-License-Identifier: MIT\n// Copyright (c) 2003 A\u2028B: c\n")
    (tmp_path / "tree" / "link.c").symlink_to("/etc/shadow")
    text = written(tmp_path, read_claims(tmp_path / "tree", "default"), **HOSTILE)
    parsed = Copyright(text, strict=True)
    assert {p.license.synopsis for p in parsed.all_files_paragraphs()} <= {
        "Expat",
        "GPL-2+",
        "LicenseRef-GPL-2.0-only-AND-touch-tmp-pkgkmod-pwned",
    }
    assert "root:" not in text and "2003 ${Source} $(id)" in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_line_without_end_takes_no_time() -> None:
    start = time.monotonic()
    read_claim("SPDX-License-Identifier:" + " " * 32768)
    read_claim("copyright (c) " * 3000 + " " * 20000)
    read_claim(" ".join(["Copyright 2001,"] * 2000))
    assert time.monotonic() - start < 2


def test_only_what_is_packed_is_named(tmp_path: Path) -> None:
    folder = tree(tmp_path, d__a_dot_c="", d___dot_gitignore="", d__notes_dot_txt="")
    assert set(read_claims(folder, "kbuild").files) == {"d/a.c"}
    assert set(read_claims(folder, "kbuild", ["d/notes.txt"]).files) == {"d/a.c", "d/notes.txt"}
    assert set(read_claims(folder, "all").files) == {"d/a.c", "d/.gitignore", "d/notes.txt"}


def test_golden_copyright(tmp_path: Path) -> None:
    """A golden file, to be read by a person."""
    folder = tree(
        tmp_path,
        drv__main_dot_c="// SPDX-License-Identifier: GPL-2.0-only\n/* Copyright (c) 2006 - 2010 Intel Corporation */\n",
        drv__phy_dot_c="// SPDX-License-Identifier: GPL-2.0-only\n/* Copyright (c) 2012 Intel Corporation. */\n",
        drv__ptp_dot_c="// SPDX-License-Identifier: GPL-2.0-only\n/* Copyright (C) 2011 Jane Doe <j@example.org> */\n",
        drv__Makefile="# SPDX-License-Identifier: GPL-2.0-only\n",
        drv__fw__fw_dot_h="/* SPDX-License-Identifier: (GPL-2.0 OR BSD-3-Clause) */\n/* (c) 2009 Foo, Inc. */",
        include__uapi__drv_dot_h="/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */\n",
        drv__table_dot_h="/* generated */\n",
    )
    made = tmp_path / "made"
    made.mkdir()
    (made / "copyright").write_text(written(tmp_path, read_claims(folder, "default")), encoding="utf-8")
    check_golden(made, GOLDEN / "debian-copyright")
