"""What mock's exit codes and logs mean.

mock is not packaged for Debian: the logs are written in the shape that its sources, and those of dnf, give them.
"""

from __future__ import annotations

import pytest

from pkgkmod.builders.mock.logs import explain
from pkgkmod.errors import (
    ConfigError,
    KernelError,
    PackageError,
    PkgkmodError,
    SandboxError,
    TimeLimitError,
    UsageError,
)

EL = "5.14.0-427.13.1.el9_4.x86_64"
ROOT_LOG = "DEBUG util.py:446:  "


@pytest.mark.parametrize(
    ("lines", "code", "kind", "brief", "hint"),
    [
        (
            [
                f"{ROOT_LOG}No matching package to install: 'kernel-devel-uname-r = {EL}'",
                f"{ROOT_LOG}Not all dependencies satisfied",
                f"{ROOT_LOG}Error: Some packages could not be found.",
            ],
            30,
            KernelError,
            f"mock's root cannot have the headers of {EL}",
            "plugin.rpm-md.repositories",
        ),
        (
            [f"{ROOT_LOG}No matching package to install: 'kernel-devel-uname-r(6.4.0-150600.23-default)'"],
            30,
            KernelError,
            "cannot have the headers of 6.4.0-150600.23-default",
            "mock.repositories",
        ),
        (
            [f"{ROOT_LOG}No matching package to install: 'acme-macros >= 2'"],
            30,
            PackageError,
            "mock's root cannot have acme-macros >= 2",
            "mock.repositories",
        ),
        ([f"{ROOT_LOG}No match for argument: acme-macros"], 30, PackageError, "cannot have acme-macros", "repolist"),
        ([f"{ROOT_LOG}Error: No Package found for acme-macros"], 10, PackageError, "cannot have acme-macros", ""),
        (
            [
                f"{ROOT_LOG} Problem: conflicting requests",
                f"{ROOT_LOG}  - nothing provides libx needed by tool-1-1.x86_64",
            ],
            30,
            PackageError,
            "mock's root cannot have libx",
            "",
        ),
        (
            [
                f"{ROOT_LOG}Errors during downloading metadata for repository 'baseos':",
                f"{ROOT_LOG}  - Curl error (6): Couldn't resolve host name for https://h/ [Could not resolve host: h]",
                f"{ROOT_LOG}Error: Failed to download metadata for repo 'baseos': Cannot prepare internal mirrorlist",
            ],
            30,
            PackageError,
            "mock cannot read a repository of its root",
            "is the network there?",
        ),
        (
            [f"{ROOT_LOG}Error: Cache-only enabled but no cache for 'pkgkmod-kernels'"],
            30,
            PackageError,
            "has nothing of the repository 'pkgkmod-kernels'",
            "build once with network",
        ),
        ([f"{ROOT_LOG}Error: GPG check FAILED"], 30, PackageError, "not signed with the key", "gpgkey"),
        (
            ["ERROR: Build root is locked by another process."],
            60,
            SandboxError,
            "another mock is at work",
            "--uniqueext",
        ),
        (
            ["ERROR: mock will not run from the root account (needs an unprivileged uid so it can drop privs)"],
            1,
            SandboxError,
            "mock does not run as root",
            "the group mock",
        ),
        (
            ["ERROR: Must be member of 'mock' group to run mock! (jane, users)"],
            1,
            SandboxError,
            "members of the group mock only",
            "usermod -a -G mock",
        ),
        (
            ["ERROR: Config error: /b/x.cfg: invalid syntax (<string>, line 1)"],
            3,
            ConfigError,
            "cannot read its conf",
            "",
        ),
        (
            ["ERROR: Timeout(5) expired for command:", " # bash --login -c /usr/bin/rpmbuild -bb"],
            11,
            TimeLimitError,
            "ran longer in mock's root",
            "build.time_limit",
        ),
        (
            [
                "error: Bad exit status",
                "",
                "RPM build errors:",
                "    File not found: /x",
                "ERROR: Command failed: ",
                " # x",
            ],
            10,
            PackageError,
            "rpmbuild failed",
            "",
        ),
        (["ERROR: Bad option for '--isolation'"], 5, UsageError, "it does not understand its options", ""),
        (["ERROR: Call to C library unshare(2) syscall failed."], 80, PackageError, "no namespaces", ""),
        (["ERROR: Exception(x.src.rpm) Config(c) 0 minutes 1 seconds"], 40, PackageError, "(exit code 40)", ""),
    ],
)
def test_failures_with_logs_in_mocks_shape(
    lines: list[str], code: int, kind: type[PkgkmodError], brief: str, hint: str
) -> None:
    found = explain(["INFO: mock.py version 5.6 starting (python version = 3.12.4)...", *lines], code)
    assert found is not None
    assert type(found) is kind and brief in found.brief and hint in found.hint


def test_what_stands_below_an_error_in_mocks_shape() -> None:
    lines = ["--- build.log", "RPM build errors:", "    File not found: /x", "    Installed (but unpackaged) file(s)"]
    found = explain(lines, 10)
    assert found and found.details == "File not found: /x\nInstalled (but unpackaged) file(s)"
    found = explain(["ERROR: Command failed: ", "ERROR: no space in the pool"], 65)
    assert found and found.details == "no space in the pool"


def test_the_compilers_own_error_in_mocks_shape_is_left_to_the_stage() -> None:
    lines = [
        "--- build.log",
        "/builddir/build/BUILD/e/main.c:3:9: error: 'x' undeclared (first use in this function)",
        "Build root is locked by another process",
        "RPM build errors:",
        "--- root.log",
        f"{ROOT_LOG}No match for argument: something",
    ]
    assert explain(lines, 10) is None
    assert explain(["something else"], 77) is None
