"""The distributions that pkgkmod knows, one data file each."""

from __future__ import annotations

import functools

from pydantic import ValidationError

from pkgkmod import data
from pkgkmod.errors import ConfigError, did_you_mean
from pkgkmod.model.distro import Distro


def known_distros() -> tuple[str, ...]:
    """Return the names of all distributions that `target.distro` may say."""
    return data.names("distros")


@functools.cache
def find_distro(name: str) -> Distro:
    """Return the facts about a distribution; raise ConfigError if there is none of that name."""
    known = known_distros()
    if name not in known:
        raise ConfigError(
            f"the distribution '{name}' is not known",
            hint=did_you_mean(name, known) or f"known: {', '.join(known)}",
        )
    try:
        return Distro.model_validate({"id": name, **data.load(f"distros/{name}.toml")})
    except ValidationError as error:
        raise ConfigError(f"the data file of '{name}' is wrong", details=str(error)) from None
