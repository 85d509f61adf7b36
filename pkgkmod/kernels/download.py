"""Fetching files of archives: over HTTP, or from a folder (file://)."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import IO

from pkgkmod import __version__
from pkgkmod.errors import KernelError
from pkgkmod.model.kernel import PackageFile
from pkgkmod.network import HINT, is_offline
from pkgkmod.progress import Progress

_PIECE = 256 * 1024
_PATIENCE = 60  # seconds without a byte
_SCHEMES = ("http", "https", "file")


def fetch_package(package: PackageFile, destination: Path, progress: Progress) -> None:
    """Fetch a package into the file `destination`; raise KernelError if it cannot be had, or is another one."""
    digest = hashlib.sha256()
    done = 0
    with opened(package.url) as stream, destination.open("wb") as file:
        for piece in _pieces(stream, package.url):
            digest.update(piece)
            file.write(piece)
            done += len(piece)
            if done > package.size:
                break
            progress.amount(done, package.size)
    if done != package.size or digest.hexdigest() != package.sha256:
        raise KernelError(
            f"{package.name} {package.version} is not the file that the archive's index describes",
            details=f"{package.url}\nexpected {package.size} bytes, sha256 {package.sha256}\n"
            f"got {done} bytes, sha256 {digest.hexdigest()}",
            hint="the archive may be changing just now: `pkgkmod kernels list` reads its index again",
        )


def fetch_index(url: str, destination: Path, *, ask: bool, wanted: bool = True) -> bool:
    """Bring the index file `url` up to date in `destination`; return True if it is there.

    Without `ask`, a file that is there is taken as it is; otherwise the server is asked whether it has a
    newer one. A file that the server does not have is an error if it is `wanted`; one that is there stays
    when the server cannot be reached only if nobody asked.
    """
    if destination.exists() and not ask:
        return True
    since = destination.stat().st_mtime if destination.exists() else 0
    try:
        with opened(url, since=since) as stream:
            changed = stream.headers.get("Last-Modified")
            _save(b"".join(_pieces(stream, url)), destination, changed)
    except NotModified:
        return True
    except NotFound:
        if wanted:
            raise
        destination.unlink(missing_ok=True)
        return False
    return True


class NotFound(KernelError):
    """The server answered that it has no such file."""


class NotModified(Exception):
    """The server has nothing newer."""


@contextmanager
def opened(url: str, *, since: float = 0) -> Iterator[http.client.HTTPResponse]:
    """Open `url` for reading; proxies and certificates are those of the environment.

    Raise NotFound or KernelError; NotModified if it was not changed after `since` (seconds since 1970; 0: not asked).
    """
    if url.partition("://")[0].lower() not in _SCHEMES or not url.isprintable():
        raise KernelError(f"{url} is not an address that can be read", hint=f"it starts with {', '.join(_SCHEMES)}")
    if is_offline() and not url.lower().startswith("file:"):
        raise KernelError(f"{url} is not asked for", hint=HINT)
    request = urllib.request.Request(url, headers={"User-Agent": f"pkgkmod/{__version__}"})
    if since:
        request.add_header("If-Modified-Since", formatdate(since, usegmt=True))
    try:
        response = urllib.request.urlopen(request, timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.NOT_MODIFIED:
            raise NotModified from None
        kind = NotFound if error.code in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE) else KernelError
        raise kind(f"{url} cannot be had: {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        kind = NotFound if isinstance(error.reason, FileNotFoundError) or "No such file" in str(error) else KernelError
        hint = "" if url.lower().startswith("file:") else "is the network there?"
        raise kind(f"{url} cannot be had: {error.reason}", hint=hint) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise KernelError(f"{url} cannot be had: {error}") from None
    with response:
        yield response


def _pieces(stream: IO[bytes] | http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    try:
        while piece := stream.read(_PIECE):
            yield piece
    except (OSError, http.client.HTTPException) as error:
        raise KernelError(f"{url} broke off: {error}", hint="run the same command again") from None


def _save(content: bytes, destination: Path, changed: str | None) -> None:
    """Write a file in one step, with the server's time of change: it is what the next question names."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    moment = _moment(changed)
    os.utime(name, (moment, moment))
    Path(name).replace(destination)


def _moment(changed: str | None) -> float:
    """Return a server's time of change in seconds since 1970.

    It is 0, so that the next question is not conditional, where the server does not tell the time: the time here says
    nothing about a mirror that lags behind.
    """
    try:
        return parsedate_to_datetime(changed).timestamp() if changed else 0
    except (ValueError, OverflowError):
        return 0
