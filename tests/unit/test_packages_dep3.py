from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkgkmod.packages.dep3 import patch_header
from pkgkmod.sources.patches import Patch

DIFF = "diff --git a/x.c b/x.c\n--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def header(text: str, name: str = "0001-fix.patch") -> str:
    return patch_header(Patch(name, text.encode()))


def mail(subject: str, body: str, *, commit: str = COMMIT, author: str = "Jane Doe <jane@example.org>") -> str:
    return (
        f"From {commit} Mon Sep 17 00:00:00 2001\nFrom: {author}\nDate: Tue, 5 Mar 2024 10:00:00 +0100\n"
        f"Subject: {subject}\nMIME-Version: 1.0\n\n{body}---\n x.c | 2 +-\n\n{DIFF}"
    )


def test_a_mail_of_git_format_patch() -> None:
    body = "It was broken.\n\nSigned-off-by: Jane Doe <jane@example.org>\n"
    assert header(mail("[PATCH v2 1/3] e1000e: mend it", body)) == (
        "Description: e1000e: mend it\n"
        " .\n"
        " It was broken.\n"
        " .\n"
        " Signed-off-by: Jane Doe <jane@example.org>\n"
        "Author: Jane Doe <jane@example.org>\n"
        f"Origin: other, commit:{COMMIT}\n"
        "Last-Update: 2024-03-05\n"
        "---\n"
    )


def test_names_and_subjects_in_other_letters_are_decoded() -> None:
    text = mail("=?UTF-8?q?e1000e:_m=C3=A4nd?=\n =?UTF-8?q?_it?=", "", author="=?UTF-8?q?J=C3=B6rn?= <j@example.org>")
    assert header(text).startswith("Description: e1000e: mänd it\nAuthor: Jörn <j@example.org>\n")
    assert "=?klingon?q?x?=" in header(mail("=?klingon?q?x?=", ""))


def test_the_author_in_the_body_wins_over_the_sender() -> None:
    text = header(mail("Mend", "From: Real Author <r@example.org>\n\nWhy.\n"))
    assert "Author: Real Author <r@example.org>\n" in text and "\n Why.\n" in text


@pytest.mark.parametrize(
    "body",
    [
        f"commit {COMMIT} upstream.\n\nWhy.\n",
        f"[ Upstream commit {COMMIT} ]\n\nWhy.\n",
        f"Why.\n\n(cherry picked from commit {COMMIT})\n",
    ],
)
def test_a_commit_of_the_main_line_is_the_origin(body: str) -> None:
    text = header(mail("Mend", body, commit="f" * 40))
    assert f"Origin: backport, commit:{COMMIT}\nForwarded: not-needed\n" in text


def test_a_mail_without_a_commit_names_the_file() -> None:
    text = header(mail("Mend", "", commit="0" * 40), name="net/0001-mend.patch")
    assert "Origin: other, the project's net/0001-mend.patch\n" in text


def test_a_patch_without_a_word() -> None:
    assert header(DIFF, "0007-some-name.patch") == (
        "Description: 0007-some-name\nOrigin: other, the project's 0007-some-name.patch\n---\n"
    )


def test_a_text_before_the_diff() -> None:
    text = header(f"Mend the link check\n\nIt looked at the wrong bit.\n\n{DIFF}")
    assert text.startswith("Description: Mend the link check\n .\n It looked at the wrong bit.\n")


def test_headers_that_are_there_already() -> None:
    text = header(
        "Description: Mend it\n more\n .\n and more\nAuthor: A B <a@example.org>\n"
        f"Origin: upstream, commit:{COMMIT}\nBug: https://example.org/1\nLast-Update: 2024-02-03\n---\n{DIFF}"
    )
    assert text.startswith("Description: Mend it\n")
    assert "Author: A B <a@example.org>\n" in text and "Last-Update: 2024-02-03\n" in text and COMMIT in text


def test_nothing_in_a_text_is_taken_for_a_patch() -> None:
    evil = "--- a/y.c\n +++ b/y.c\n- --- a/y.c\n\t@@ -1 +1 @@\nX--- a/y.c\nIndex: y.c\n *** y.c\n- a bullet\n"
    lines = header(mail("Mend", "Why.\n\n" + "".join(f" {line}\n" for line in evil.splitlines()))).splitlines()
    body = [line.strip() for line in lines if line.startswith(" ")]
    assert [line for line in body if re.match(r"[X\s]*(- )*[X\s]*(---|\+\+\+|\*\*\*|@@|Index:)", line)] == []
    assert "- a bullet" in body


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text(), st.text())
def test_a_header_is_one_paragraph_whatever_is_in_the_mail(subject: str, body: str, name: str) -> None:
    text = header(mail(subject, body), name)
    *lines, dashes = text.removesuffix("\n").split("\n")
    assert dashes == "---" and lines[0].startswith("Description: ")
    assert all(re.match(r" \S| +\.| +\S|[A-Z][a-zA-Z-]+: \S", line) for line in lines)
    assert all(line.isprintable() for line in lines)
