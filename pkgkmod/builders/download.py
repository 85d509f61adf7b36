"""Fetching what a farm publishes: over HTTP, not more than is expected."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from pathlib import Path

from pkgkmod.errors import FarmError

_CHUNK = 4 * 1024 * 1024
_MOST = 4 * 1024**3
"""Bytes of a file of which the farm does not say the size."""
_PATIENCE = 120.0


def save(url: str, destination: Path, size: int | None = None, context: ssl.SSLContext | None = None) -> None:
    """Write a file of at most `size` bytes; raise FarmError if it is not there or larger, OSError for an outage."""
    left = _MOST if size is None else size
    if not url.startswith(("https://", "http://")):
        raise FarmError("the farm does not say where it publishes a file", details=url[:200])
    try:
        source = urllib.request.urlopen(url, timeout=_PATIENCE, context=context)
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise
        raise FarmError(f"the farm does not publish {url.rpartition('/')[2]}", details=f"{url}: {error}") from None
    with source, destination.open("wb") as stream:
        expected = source.headers.get("Content-Length", "")
        while content := source.read(min(_CHUNK, left + 1)):
            left -= len(content)
            if left < 0:
                raise FarmError(f"{destination.name} is larger than the farm says", details=url)
            stream.write(content)
    if expected.isdecimal() and destination.stat().st_size != int(expected):
        raise FarmError(f"{destination.name} did not arrive whole", details=url, hint="fetch it again", passing=True)
