"""Copr's own client library: its configuration, logging in, and what it raises, in our words."""

from __future__ import annotations

import configparser
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from pkgkmod.errors import FarmError, ToolError

_PATIENCE = 120.0
"""Seconds without an answer; the library itself would wait for ever."""
_PROXIES = ("base_proxy", "project_proxy", "build_proxy", "build_chroot_proxy")


@dataclass(frozen=True)
class Frontend:
    """A frontend that knows us."""

    copr: Any
    """The library, copr.v3."""
    client: Any
    url: str
    user: str
    """Name that our builds are under."""
    way_in: str
    """What helps who is not let in."""

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Raise what the library raises as FarmError."""
        with _explained(self.copr, self.way_in):
            yield


def connect() -> Frontend:
    """Read ~/.config/copr and log in; raise FarmError, ToolError without the library."""
    try:
        from copr import v3
        from copr.v3.requests import Request
    except ImportError:
        raise ToolError(
            "copr's client library is not installed",
            hint="pip install 'pkgkmod[copr]', or your distribution's python3-copr",
        ) from None

    class PatientRequest(Request):  # type: ignore[misc]
        """One that does not wait for ever."""

        def _request_params(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return {**super()._request_params(*args, **kwargs), "timeout": _PATIENCE}

    config = _configuration(v3)
    url = str(config["copr_url"]).rstrip("/")
    by_ticket = bool(config["gssapi"]) and not config["token"]
    way_in = "klist shows your ticket, kinit gets one" if by_ticket else f"{url}/api renews the token in ~/.config/copr"
    client = v3.Client(config)
    for name in _PROXIES:
        proxy = getattr(client, name)
        # A login by ticket is kept for hours (~/.cache/copr); one that ended before is noticed by the first question.
        attempts = 2 if by_ticket and name == "base_proxy" else 1
        proxy.request = PatientRequest(api_base_url=proxy.api_base_url, connection_attempts=attempts)
    with _explained(v3, way_in):
        client.base_proxy.home()  # needs no login, so that an outage is told from a refusal
        user = str(client.base_proxy.auth_check().get("name", ""))
    return Frontend(v3, client, url, user, way_in)


def _configuration(copr: Any) -> Any:
    try:
        config = copr.config_from_file()
        if not config["copr_url"]:
            raise KeyError("copr_url")
    except (copr.CoprConfigException, configparser.Error, KeyError, ValueError, OSError, AttributeError) as error:
        raise FarmError(
            "copr's configuration cannot be used",
            details=f"{copr.DEFAULT_CONFIG_PATH}: {line(error)}",
            hint="the frontend's page /api shows what belongs into it, once you are logged in there",
        ) from None
    return config


@contextlib.contextmanager
def _explained(copr: Any, way_in: str) -> Iterator[None]:
    try:
        yield
    except copr.CoprNoResultException as error:  # where that may be so, it was looked for before
        raise FarmError("Copr has not what it is asked for", details=line(error)) from None
    except copr.CoprException as error:
        status = _status(error)
        if status in (401, 403) or isinstance(error, copr.CoprAuthException):
            raise FarmError(
                "Copr does not let you in" if status != 403 else "Copr does not allow that",
                details=line(error),
                hint=way_in if status != 403 else "",
            ) from None
        # Where nothing was answered, the library says so without an answer; others are of the server's own making.
        if status is None or status >= 500:
            raise _outage(error) from None
        raise FarmError("Copr refuses what it is asked", details=line(error)) from None
    except (OSError, HTTPException) as error:  # those of requests, and of urllib, are OSErrors
        raise _outage(error) from None


def _status(error: Any) -> int | None:
    """Return the HTTP status that an error is about; None if nothing was answered."""
    response = error.result.get("__response__")
    return None if response is None else int(response.status_code)


def _outage(error: BaseException) -> FarmError:
    return FarmError("Copr does not answer", details=line(error), hint="the same command goes on later", passing=True)


def line(error: BaseException) -> str:
    """Return the text of an error in one line, not longer than 500 characters."""
    return " ".join(str(error).split())[:500] or type(error).__name__
