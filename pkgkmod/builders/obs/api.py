"""The Open Build Service's HTTP interface, spoken with osc's library; all that it answers is taken for hostile."""

from __future__ import annotations

import contextlib
import socket
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from pkgkmod.errors import FarmError, ToolError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_LARGEST_ANSWER = 64 * 1024 * 1024
_CHUNK = 1024 * 1024
_PATIENCE = 120.0
"""Seconds without a byte after which the server is taken for dead."""
_PASSING = (408, 429, 500, 502, 503, 504)
"""Answers of a server, or of what stands before it, that is not well."""
Query = Mapping[str, str | int] | Sequence[tuple[str, str | int]]


class NotFoundError(FarmError):
    """OBS knows nothing of that name."""


def connect(apiurl: str | None) -> ObsApi:
    """Read osc's configuration; raise FarmError if it does not say who we are there."""
    try:
        import osc.conf
        import osc.oscerr
        import osc.oscssl
    except ImportError:
        raise ToolError(
            "osc's library is not installed", hint="pip install 'pkgkmod[obs]', or your distribution's osc"
        ) from None
    # It would ask on the terminal, in the middle of a run.
    setattr(osc.oscssl.TrustedCertStore, "prompt_trust", _refuse_certificate)  # noqa: B010
    # Where the farm does not answer, the engine waits and tells, not the library in silence.
    overrides = {"http_retries": "0"}
    try:
        osc.conf.get_config(override_apiurl=apiurl, overrides=overrides)
        found = str(osc.conf.config["apiurl"])
        user = str(osc.conf.config["api_host_options"][found].username or "")
    except (osc.oscerr.OscBaseError, OSError, ValueError, KeyError, EOFError) as error:
        user, said = "", _line(error)
    else:
        said = f"it has no user for {found}"
    if not user:
        command = f"osc -A {apiurl} whois" if apiurl else "osc whois"
        raise FarmError("osc has no user there", details=said, hint=f"`{command}` asks for one, and keeps it")
    return ObsApi(found.rstrip("/"), user)


def _refuse_certificate(_: Any, __: Any, reason: object) -> None:
    raise FarmError(
        "the server's certificate is not trusted",
        details=str(reason),
        hint="`osc whois` shows the certificate, and remembers that you trust it",
    )


class ObsApi:
    """A server that one is known to."""

    def __init__(self, url: str, user: str) -> None:
        self.url = url
        self.user = user

    def xml(self, path: Sequence[str], query: Query = (), *, method: str = "GET", body: bytes | None = None) -> Element:
        """Ask, and read the answer; raise NotFoundError, or FarmError for what OBS refuses."""
        return read_xml(self.read(path, query, method=method, body=body))

    def read(self, path: Sequence[str], query: Query = (), *, method: str = "GET", body: bytes | None = None) -> bytes:
        """Ask, and return what is answered."""
        with self._asked(method, path, query, body=body) as answer:
            content: bytes = answer.read(_LARGEST_ANSWER + 1)
        if len(content) > _LARGEST_ANSWER:
            raise FarmError(f"OBS answers {'/'.join(path)} with more than {_LARGEST_ANSWER} bytes")
        return content

    def put_file(self, path: Sequence[str], query: Query, file: Path) -> None:
        """Send a file."""
        with self._asked("PUT", path, query, file=file) as answer:
            answer.read(_LARGEST_ANSWER)

    def save(self, path: Sequence[str], query: Query, destination: Path, most: int | None) -> None:
        """Write what is answered, `most` bytes of it and one more."""
        left = None if most is None else most + 1
        with self._asked("GET", path, query) as answer, destination.open("wb") as file:
            while left is None or left > 0:
                content = answer.read(_CHUNK if left is None else min(_CHUNK, left))
                if not content:
                    return
                file.write(content)
                left = None if left is None else left - len(content)

    @contextlib.contextmanager
    def _asked(
        self, method: str, path: Sequence[str], query: Query, *, body: bytes | None = None, file: Path | None = None
    ) -> Iterator[Any]:
        url = f"{self.url}/{'/'.join(quote(part, safe=':+~@') for part in path)}"
        if query:
            url += f"?{urlencode(list(query.items()) if isinstance(query, Mapping) else list(query))}"
        import osc.connection

        with _explained(), _patience():
            answer = osc.connection.http_request(method, url, data=body, file=str(file) if file else None)
            try:
                yield answer
            finally:
                answer.close()


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Let no request wait for ever: osc's library sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Raise what the library raises as FarmError."""
    import osc.oscerr
    import urllib3.exceptions

    try:
        yield
    except urllib.error.HTTPError as error:
        raise _refusal(error) from None
    except (osc.oscerr.OscBaseError, EOFError) as error:
        raise FarmError("OBS does not let you in", details=_line(error), hint="`osc whois` tries the same") from None
    except (OSError, urllib3.exceptions.HTTPError) as error:
        # urllib3 puts the reason behind what was tried how often.
        reason = getattr(error, "reason", None)
        details = _line(reason if isinstance(reason, Exception) else error)
        raise FarmError(
            "OBS does not answer", details=details, hint="the same command goes on later", passing=True
        ) from None


def _refusal(error: urllib.error.HTTPError) -> FarmError:
    """Return the error that stands for an answer that is not what was asked for."""
    details = f"{error.code} {_summary(error) or error.reason}"
    if error.code == 404:
        return NotFoundError("OBS does not know what it is asked about", details=details)
    if error.code == 401:
        return FarmError("OBS does not let you in", details=details, hint="`osc whois` tries the same")
    if error.code == 403:
        return FarmError("OBS does not let you do that", details=details, hint="`osc maintainer` shows who may")
    if error.code in _PASSING:
        return FarmError("OBS is not well", details=details, hint="the same command goes on later", passing=True)
    return FarmError("OBS refuses what it is asked", details=details)


def _summary(error: urllib.error.HTTPError) -> str:
    """Return what OBS says about it, in its own words."""
    try:
        status = read_xml(error.read(_CHUNK))
    except (OSError, ValueError, FarmError):
        return ""
    return " ".join((status.findtext("summary") or "").split())[:500]


def read_xml(content: bytes) -> Element:
    """Read XML; raise FarmError if it is none, or defines entities."""
    from xml.etree.ElementTree import ParseError

    import defusedxml
    import defusedxml.ElementTree

    try:
        found: Element = defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
    except (ParseError, defusedxml.DefusedXmlException, ValueError, LookupError) as error:
        raise FarmError("OBS answers what cannot be read", details=_line(error)) from None
    return found


def _line(error: BaseException) -> str:
    text = str(getattr(error, "msg", "") or error).strip() or type(error).__name__
    return text.splitlines()[0][:500]
