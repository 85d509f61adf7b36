"""Running git on one git folder, with an environment in which nothing of the caller's project can interfere.

GitPython drives git. It is imported only when a command runs, since importing it costs more than most
commands.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Thread
from typing import IO, TYPE_CHECKING

from pkgkmod.errors import DiskFullError, PkgkmodError, SourceError, ToolError
from pkgkmod.programs import capture, find_tool
from pkgkmod.progress import Progress

if TYPE_CHECKING:
    from git.cmd import Git

# What of the caller's GIT_* variables is about reaching a server; all others could point git elsewhere.
_KEPT = re.compile(r"GIT_(SSH|SSH_COMMAND|SSH_VARIANT|ASKPASS|PROXY_COMMAND|SSL_.*|HTTP_.*)")
# Transport helpers such as ext:: run any program: never from a project file.
_PROTOCOLS = "file:git:http:https:ssh"
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_RECEIVING = re.compile(r"Receiving objects:\s+\d+% \((\d+)/(\d+)\)")
_VERSION = re.compile(r"git version (\d+)\.(\d+)")
_OLDEST = (2, 18)
"""Reads repositories of this machine."""
_OLDEST_WITH_SETTINGS = (2, 31)
"""Takes settings by GIT_CONFIG_COUNT, and fetches with --no-write-fetch-head and --stdin (both from 2.29 on)."""
_PIPE_SIZE = 1 << 20  # bytes: what Linux allows everybody

_SETTINGS = {
    "advice.detachedHead": "false",
    "core.hooksPath": os.devnull,
    "core.logAllRefUpdates": "false",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "gc.auto": "0",
    "log.showSignature": "false",
    "maintenance.auto": "false",
}


def without_credentials(text: str) -> str:
    """Return `text` with user names and passwords taken out of its URLs."""
    return _CREDENTIALS.sub("", text)


@dataclass(frozen=True)
class GitFailure:
    """How a git command ended that was allowed to fail: its status and what it said."""

    status: int
    message: str


@dataclass(frozen=True)
class GitFolder:
    """A git folder (`.git`, or a bare repository) and how to run git on it.

    `settings` are configuration values that are handed over in the environment, where neither a list of
    processes nor a file shows them.
    """

    path: Path
    progress: Progress
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def text(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Return what a git command prints, without the last line end; raise SourceError if it fails."""
        result = self.attempt(*arguments, stdin=stdin)
        if isinstance(result, GitFailure):
            raise git_failed(arguments, result.message)
        return result

    def attempt(self, *arguments: str, stdin: bytes | None = None) -> str | GitFailure:
        """Return what a git command prints, or how it failed."""
        with self._running(arguments, stdin) as process:
            out, errors = process.communicate()
        if process.returncode:
            return GitFailure(process.returncode, without_credentials(errors.decode(errors="replace")))
        return os.fsdecode(out).removesuffix("\n")

    @contextmanager
    def stream(self, *arguments: str, stdin: bytes | None = None) -> Iterator[IO[bytes]]:
        """Give the standard output of a running git command; raise SourceError if it fails in the end."""
        errors: list[bytes] = []
        with self._running(arguments, stdin) as process:
            assert process.stdout
            # Room for git to work ahead while its output is dealt with.
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            # Read beside the output, so that git never waits for room in the pipe.
            reader = Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
            reader.start()
            yield process.stdout
            status = process.wait()
            reader.join()
        if status:
            raise git_failed(arguments, b"".join(errors).decode(errors="replace"))

    def fetch(
        self, *arguments: str, stdin: bytes | None = None, heard: Callable[[str], None] | None = None
    ) -> GitFailure | None:
        """Run `git fetch`, showing how far it is; return how it failed, if so.

        `heard` gets each line that git says; if it raises, the fetch is stopped.
        """
        said: list[str] = []
        with self._running(("fetch", "--progress", "--no-write-fetch-head", *arguments), stdin) as process:
            assert process.stderr
            for line in _lines(process.stderr):
                if match := _RECEIVING.search(line):
                    self.progress.amount(int(match[1]), int(match[2]))
                elif line:
                    said.append(line)
                    if heard:
                        heard(line)
            status = process.wait()
        return GitFailure(status, "\n".join(said)) if status else None

    @contextmanager
    def _running(self, arguments: Sequence[str], stdin: bytes | None) -> Iterator[subprocess.Popen[bytes]]:
        """Start git; whatever happens, leave no process behind."""
        _check_version(_OLDEST_WITH_SETTINGS if self.settings else _OLDEST)
        argv = self._argv(arguments)
        with tempfile.TemporaryFile() as source:
            # A file: with a pipe, git could wait for its output to be read while we wait for it to read.
            source.write(stdin or b"")
            source.seek(0)
            wrapper = _git().execute(argv, istream=source.fileno(), as_process=True, env=self._environment())
        process: subprocess.Popen[bytes] = wrapper.proc  # type: ignore[assignment]
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()

    def _argv(self, arguments: Sequence[str]) -> list[str]:
        ours = self._environment()
        unwanted = [n for n in os.environ if n.startswith("GIT_") and n not in ours and not _KEPT.fullmatch(n)]
        unset = ["env", *(f"--unset={name}" for name in unwanted)] if unwanted else []
        argv = [str(find_tool("git", needed_for="importing sources")), f"--git-dir={self.path}", *arguments]
        self.progress.command(argv, None)
        return [*unset, *argv]

    def _environment(self) -> dict[str, str]:
        settings = {**_SETTINGS, **self.settings}
        variables = {
            "LC_ALL": "C.UTF-8",
            "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "1" if sys.stdin and sys.stdin.isatty() else "0",
            "GIT_CONFIG_COUNT": str(len(settings)),
        }
        for number, (key, value) in enumerate(settings.items()):
            variables[f"GIT_CONFIG_KEY_{number}"] = key
            variables[f"GIT_CONFIG_VALUE_{number}"] = value
        return {**variables, **self.environment}


@cache
def _git() -> Git:
    find_tool("git", needed_for="importing sources")
    # GitPython would run `git version` as it is imported, and complain in its own words.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from git.cmd import Git

    return Git("/")


@cache
def _check_version(needed: tuple[int, int]) -> None:
    """Raise ToolError for a git that is too old: it would pass over what it does not know, or complain of an option."""
    find_tool("git", needed_for="importing sources")
    found = _VERSION.match(capture("git", "version"))
    if found is None or (int(found[1]), int(found[2])) >= needed:
        return
    local = f"; git {_shown_version(_OLDEST)} and later read a repository on this machine, given as a folder"
    raise ToolError(
        f"git {found[1]}.{found[2]} is too old: {_shown_version(needed)} is needed",
        hint="install a newer one" + ("" if needed == _OLDEST else local),
    )


def _shown_version(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Split at line ends and at the carriage returns with which git rewrites its progress."""
    rest = b""
    while chunk := os.read(stream.fileno(), 65536):
        *lines, rest = re.split(rb"[\r\n]", rest + chunk)
        yield from (_shown(line) for line in lines)
    yield _shown(rest)


def _shown(line: bytes) -> str:
    return without_credentials(line.decode(errors="replace")).strip()


def git_failed(arguments: Sequence[str], message: str) -> PkgkmodError:
    """Return the error for a git command that failed with `message`."""
    message = without_credentials(message).strip()
    if "No space left on device" in message:
        return DiskFullError("no space left on the disk while git was running", details=message)
    return SourceError(f"git {arguments[0]} failed", details=message)
