"""Koji's own client library: its profiles, logging in, and what it raises, in our words."""

from __future__ import annotations

import configparser
import contextlib
import logging
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from pkgkmod.errors import FarmError, ToolError, did_you_mean

_PLACES = ("/etc/koji.conf.d", "/etc/koji.conf", "~/.koji/config.d", "~/.koji/config")
"""Where the library reads profiles (koji.read_config)."""
_AUTHTYPES = ("kerberos", "ssl", "password", "noauth")
_GOES_ON = "the same command goes on later"


@dataclass(frozen=True)
class Hub:
    """A hub that one is logged in at."""

    koji: Any
    """The library."""
    session: Any
    profile: Mapping[str, Any]
    """The profile's keys, with the library's defaults."""

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Raise what the library raises as FarmError."""
        with explained(self.koji, str(self.profile["profile"])):
            yield

    @contextlib.contextmanager
    def together(self) -> Iterator[Any]:
        """Give what collects calls, and makes them in as few requests as the hub can bear; their `result` raises."""
        with self.session.multicall(batch=_TOGETHER) as calls:
            yield calls

    def certificates(self) -> ssl.SSLContext:
        """Return what files of the hub's are fetched with: the system's authorities, and the profile's."""
        context = ssl.create_default_context()
        if self.profile["serverca"]:
            context.load_verify_locations(self.profile["serverca"])
        return context


_TOGETHER = 100
"""Calls in one request; koji's own command line sends as many."""


def connect(name: str) -> Hub:
    """Log in as a profile of koji's own configuration says; raise FarmError, ToolError without the library."""
    try:
        import koji
    except ImportError:
        raise ToolError(
            "koji's client library is not installed",
            hint="pip install 'pkgkmod[koji]', or your distribution's python3-koji",
        ) from None
    # What went wrong we say ourselves; nobody set up logging, so that Python would write it to the terminal.
    logging.getLogger("koji").addHandler(logging.NullHandler())
    profile = _profile(koji, name)
    with explained(koji, name):
        # Where the farm does not answer, the engine waits and tells, not the library for ten minutes in silence.
        options = {**koji.grab_session_options(profile), "max_retries": 2, "retry_interval": 1}
        session = koji.ClientSession(profile["server"], options)
        session.getAPIVersion()  # needs no login, so that an outage is told from a refusal
        _log_in(koji, session, profile)
    return Hub(koji, session, profile)


def _profile(koji: Any, name: str) -> Mapping[str, Any]:
    try:
        profile: dict[str, Any] = koji.read_config(name)
    except (configparser.Error, ValueError, OSError) as error:
        raise FarmError("koji's configuration cannot be read", details=str(error)[:500]) from None
    except koji.ConfigurationError as error:
        known = _profiles(koji)
        if name in known:
            raise FarmError(f"koji's profile '{name}' cannot be used", details=str(error)) from None
        raise FarmError(
            f"koji has no profile '{name}'",
            details=f"profiles that it has: {', '.join(known) or 'none'}",
            hint=did_you_mean(name, known) or f"profiles are sections of *.conf in {_PLACES[0]} or {_PLACES[2]}",
        ) from None
    for key in _MISSING if profile["authtype"] == "ssl" else ("serverca",):
        if profile[key] and not Path(profile[key]).is_file():
            raise FarmError(
                f"koji's profile '{name}' names a file that is not there",
                details=f"{key} = {profile[key]}",
                hint=_MISSING[key],
            )
    if profile["authtype"] not in (None, *_AUTHTYPES):
        raise FarmError(
            f"koji's profile '{name}' has an authtype '{profile['authtype']}'",
            hint=f"it may be {', '.join(_AUTHTYPES)}",
        )
    return profile


_MISSING = {
    "serverca": "the certificate of who signed the hub's; /etc/ssl/certs/ca-certificates.crt or "
    "/etc/pki/tls/certs/ca-bundle.crt has the system's",
    "cert": "your certificate, with its key; the farm's own pages say how to get one (CentOS: centos-cert)",
}


def _profiles(koji: Any) -> list[str]:
    with contextlib.suppress(configparser.Error, ValueError, OSError):
        return sorted(koji.read_config_files([str(Path(place).expanduser()) for place in _PLACES]).sections())
    return []


def _log_in(koji: Any, session: Any, profile: Mapping[str, Any]) -> None:
    """Log in as koji's own command line does (koji_cli.lib.activate_session)."""
    way = profile["authtype"]
    has_certificate = bool(profile["cert"]) and Path(profile["cert"]).is_file()
    if way == "noauth":
        return
    if way == "ssl" or (way is None and has_certificate):
        session.ssl_login(profile["cert"], None, profile["serverca"])
    elif way == "password":
        session.login()
    else:
        more = {"principal": profile["principal"]} if profile["principal"] else {}
        more |= {"keytab": profile["keytab"]} if profile["principal"] and profile["keytab"] else {}
        try:
            session.gssapi_login(**more)
        except koji.GSSAPIAuthError as error:
            lacking = f"; or get the profile's certificate: {profile['cert']} is not there" if profile["cert"] else ""
            raise FarmError(
                "Koji does not let you in with Kerberos",
                details=line(error),
                hint=f"klist shows your ticket, kinit gets one{'' if way else lacking}",
            ) from None


@contextlib.contextmanager
def explained(koji: Any, name: str) -> Iterator[None]:
    """Raise what the library raises as FarmError."""
    try:
        yield
    except koji.PythonImportError as error:
        raise ToolError(
            f"koji's profile '{name}' logs in with Kerberos, and a library for that is not installed",
            details=line(error),
            hint="pip install requests-gssapi, or your distribution's python3-requests-gssapi",
        ) from None
    except koji.AuthError as error:
        raise FarmError(
            "Koji does not let you in", details=line(error), hint=f"`koji -p {name} hello` tries the same"
        ) from None
    except koji.ServerOffline as error:
        raise _outage(error) from None
    except koji.GenericError as error:
        raise FarmError("Koji refuses what it is asked", details=line(error)) from None
    except (OSError, HTTPException, ExpatError) as error:  # those of requests, and of urllib, are OSErrors
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise FarmError(
                "the Koji hub's certificate is not trusted",
                details=line(error),
                hint=f"serverca in koji's profile '{name}' names the certificate of who signed it",
            ) from None
        raise _outage(error) from None


def _outage(error: BaseException) -> FarmError:
    return FarmError("the Koji hub does not answer", details=line(error), hint=_GOES_ON, passing=True)


def line(error: BaseException) -> str:
    """Return the first line of an error, not longer than 500 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]
