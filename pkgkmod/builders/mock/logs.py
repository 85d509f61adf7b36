"""What mock's exit codes and logs say, in words of our own.

The codes are those of mockbuild/exception.py. `root.log` has what the package manager said, each line behind its level
and the place in mock that wrote it (`DEBUG util.py:446:  `); `build.log` is rpmbuild's, as it is (logging.ini).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pkgkmod.errors import (
    ConfigError,
    KernelError,
    PackageError,
    PkgkmodError,
    SandboxError,
    TimeLimitError,
    UsageError,
)
from pkgkmod.modules.compile import first_error

LOGS = ("build.log", "root.log", "installed_pkgs.log")
"""What of mock's logs becomes part of ours; the compiler's errors come first."""
_MOST = 8  # lines shown
_ERROR = "ERROR: "
_PREFIX = re.compile(r"^(?:DEBUG|INFO|WARNING|ERROR) \S+:\d+:\s+")
# dnf 4's builddep and install, dnf 5, yum-builddep, and the solver of both dnfs.
_MISSING = (
    re.compile(r"^No matching package to install: '(?P<what>[^']+)'"),
    re.compile(r"^Error: Unable to find a match: (?P<what>.+)$"),
    re.compile(r"^No match for argument: (?P<what>.+)$"),
    re.compile(r"^(?:Error: )?No Package found for (?P<what>.+)$", re.IGNORECASE),
    re.compile(r"nothing provides (?:requested )?(?P<what>\S+(?: [<>=]+ \S+)?)(?: needed by (?P<by>\S+))?"),
)
_KERNEL = re.compile(r"kernel-(?:[A-Za-z0-9_+]+-)*devel(?:-uname-r)?(?:\((?P<inside>[^)]+)\)| = (?P<release>\S+))")
_NO_CACHE = re.compile(r"Cache-only enabled but no cache for '(?P<repo>[^']+)'")
_UNREACHABLE = re.compile(
    r"Failed to download metadata for repo '(?P<repo>[^']+)'|"
    r"Failed to download metadata \(.*\) for repository \"(?P<repo5>[^\"]+)\"|"
    r"Cannot download repomd\.xml|Error downloading packages:|\[Errno 256\] No more mirrors to try"
)
_UNSIGNED = re.compile(r"GPG check FAILED|^Public key for \S+ is not installed|^Package \S+ is not signed")
_LOCKED = "Build root is locked by another process"
_AS_ROOT = "mock will not run from the root account"
_NOT_MEMBER = re.compile(r"Must be member of '(?P<group>[^']+)' group to run mock")
_NO_CONFIG = re.compile(r"Could not find (?:required|included) config file|Non-existing Mock config|Config error")
_NO_REPOSITORY_HINT = (
    "name a repository that has it in mock.repositories, or another configuration with -r; `mock -r CONFIG --pm-cmd "
    "repolist` shows what the root has"
)
_MEANINGS = {
    2: "it was not started by its wrapper: /usr/bin/mock is to be in PATH before /usr/libexec/mock",
    3: "its configuration is wrong",
    5: "it does not understand its options",
    6: "the root's machine is not this one's",
    20: "the root cannot be made",
    25: "its LVM volumes cannot be used",
    30: "the package manager failed",
    31: "an external dependency cannot be had",
    40: "the source package cannot be built",
    50: "a command of it failed",
    65: "its LVM pool is in use",
    70: "it cannot write its results",
    80: "this machine gives it no namespaces",
    90: "the root with the package manager (bootstrap) cannot be made",
    110: "it lost count of its own states",
    120: "dnf's command builddep is not installed",
    129: "its terminal was closed",
    141: "nobody read what it wrote",
    143: "somebody stopped it",
}
_USAGE, _CONFIG, _TIMEOUT, _LOCK = 5, 3, 11, 60
_OF_RPMBUILD = (1, 10)


def explain(lines: Sequence[str], returncode: int) -> PkgkmodError | None:
    """Return the error that stands for a failed mock; None where the compiler's own error says it all."""
    said = [_PREFIX.sub("", line).strip() for line in lines]
    if known := _refusal(said, returncode):
        return known
    if returncode == _TIMEOUT:
        return TimeLimitError(
            "rpmbuild ran longer in mock's root than it may, and was stopped",
            hint="raise build.time_limit in the project file if it needs longer",
        )
    if returncode in _OF_RPMBUILD:
        if first_error(lines):
            return None
        if "RPM build errors:" in said:
            start = said.index("RPM build errors:") + 1
            return PackageError("rpmbuild failed", details="\n".join(said[start : start + _MOST]))
    if known := _packages(said):
        return known
    if meaning := _MEANINGS.get(returncode):
        kind = {_USAGE: UsageError, _CONFIG: ConfigError}.get(returncode, PackageError)
        return kind(f"mock: {meaning} (exit code {returncode})", details="\n".join(list(_errors(lines))[:_MOST]))
    return None


def _refusal(said: Sequence[str], returncode: int) -> PkgkmodError | None:
    """Return why mock did not even begin; what a build prints counts for nothing."""
    errors = [line for line in said if line.startswith(_ERROR)]
    whole = "\n".join(errors)
    if returncode == _LOCK or _LOCKED in whole:
        return SandboxError(
            "another mock is at work in the same root",
            hint="wait for it, or give this one a root of its own: -A '--uniqueext=NAME'",
        )
    if _AS_ROOT in whole:
        return SandboxError("mock does not run as root", hint="run pkgkmod as a user of the group mock")
    if found := _NOT_MEMBER.search(whole):
        return SandboxError(
            f"mock is for members of the group {found['group']} only",
            hint=f"as root: usermod -a -G {found['group']} USER; then log in anew",
        )
    if returncode in (_CONFIG, 1) and _NO_CONFIG.search(whole):
        wrong = [line.removeprefix(_ERROR) for line in errors if _NO_CONFIG.search(line)]
        return ConfigError("mock cannot read its configuration", details="\n".join(wrong[:_MOST]))
    return None


def _packages(said: Sequence[str]) -> PkgkmodError | None:
    """Return what is wrong with the packages of the root, or with the repositories."""
    if found := next((match for line in said if (match := _NO_CACHE.search(line))), None):
        return PackageError(
            f"mock without network has nothing of the repository '{found['repo']}'",
            hint="build once with network: mock keeps what it fetched, for as long as its cache lives",
        )
    if unsigned := [line for line in said if _UNSIGNED.search(line)]:
        return PackageError(
            "mock refuses packages that are not signed with the key of their repository",
            details=_shown(unsigned),
            hint="see gpgkey in mock.repositories, and in mock's configuration",
        )
    lines, missing = _missing(said)
    if missing:
        return _cannot_have(missing, _shown(lines))
    if unreachable := [line for line in said if _UNREACHABLE.search(line)]:
        return PackageError(
            "mock cannot read a repository of its root", details=_shown(unreachable), hint="is the network there?"
        )
    return None


def _missing(said: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the lines that say what is missing, and what it is."""
    lines, missing = [], []
    for line in said:
        for pattern in _MISSING:
            if found := pattern.search(line):
                lines.append(line)
                missing.append(found["what"])
                break
    return lines, list(dict.fromkeys(missing))


def _cannot_have(missing: Sequence[str], details: str) -> PkgkmodError:
    releases = [found["inside"] or found["release"] for one in missing if (found := _KERNEL.search(one))]
    if releases:
        return KernelError(
            f"mock's root cannot have the headers of {', '.join(dict.fromkeys(releases))}",
            details=details,
            hint="take the kernel from a repository of [[plugin.rpm-md.repositories]], which pkgkmod then gives to "
            "mock, name one in mock.repositories, or build with the builder local",
        )
    return PackageError(f"mock's root cannot have {', '.join(missing)}", details=details, hint=_NO_REPOSITORY_HINT)


def _shown(lines: Sequence[str]) -> str:
    return "\n".join(list(dict.fromkeys(line[:300] for line in lines))[:_MOST])


def _errors(lines: Sequence[str]) -> Iterator[str]:
    """Give what mock itself said was wrong, without its accounts of commands and times."""
    for line in lines:
        said = line.removeprefix(_ERROR)
        if said != line and not said.startswith(("Exception(", "Command failed")):
            yield said[:300]
