"""The configuration that mock is given for one build: the one that the project names, and what is added to it.

mock's configurations are Python. It replaces a line `include(...)` by the file's text, and then executes the whole with
`config_opts`, a dictionary, in it (mockbuild/config.py); all that is put in here is therefore written as Python's own
literals. Afterwards mock takes some values for Jinja templates, so braces may not be in them.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from pkgkmod.errors import ConfigError, SandboxError, UsageError, did_you_mean
from pkgkmod.model.packaging import Mock, MockRepository

CONFIGS = Path("/etc/mock")
GROUP = "mock"
LOCAL = "pkgkmod-kernels"
"""Name of the repository with the job's kernels."""
_NO_ROOTS = ("site-defaults", "chroot-aliases")
_ENDING = ".cfg"
_PLAIN = re.compile(r"[A-Za-z0-9/._+:@~,=-]+")
"""What dnf, mock, Jinja and a shell leave as it is."""
_REMOTE = re.compile(r"(?:https?|ftp|file)://[!-z|~]+")
# The same bytes wherever and whenever it is built, as the builder local does.
_MACROS = {
    "%_buildhost": "reproducible",
    "%use_source_date_epoch_as_buildtime": "1",
    "%clamp_mtime_to_source_date_epoch": "1",
    "%_srcdefattr": "(-,root,root)",
}


def words(options: Iterable[str]) -> list[str]:
    """Return the words of options, each of which may hold several (`-O '--isolation=simple -v'`)."""
    try:
        return [word for option in options for word in shlex.split(option)]
    except ValueError as error:
        raise UsageError("the options for mock have an open quotation mark", details=str(error)) from None


def who_builds(settings: Mock) -> pwd.struct_passwd:
    """Return the user who runs mock; raise SandboxError if mock would refuse."""
    if os.geteuid():
        user = pwd.getpwuid(os.geteuid())
    elif not settings.user or settings.user == "root":
        raise SandboxError(
            "mock does not run as root",
            hint=f"run pkgkmod as a user of the group {GROUP}, or name one: user = 'NAME' in the table [mock]",
        )
    else:
        try:
            user = pwd.getpwnam(settings.user)
        except KeyError:
            raise SandboxError(f"there is no user {settings.user}, who would run mock", hint="see mock.user") from None
    _check_group(user)
    return user


def _check_group(user: pwd.struct_passwd) -> None:
    """Raise SandboxError for a user who is not in mock's group; mock's own refusal asks for root's password first."""
    try:
        group = grp.getgrnam(GROUP)
    except KeyError:
        return  # its configuration may name another one
    mine = {user.pw_gid, *(os.getgroups() if user.pw_uid == os.geteuid() else ())}
    if group.gr_gid in mine or user.pw_name in group.gr_mem:
        return
    raise SandboxError(
        f"the user {user.pw_name} is not in the group {GROUP}, and may not run mock",
        hint=f"as root: usermod -a -G {GROUP} {user.pw_name}; then log in anew",
    )


def find_config(settings: Mock, target: str, base: Path, user: pwd.struct_passwd) -> Path:
    """Return the configuration's file, as mock itself finds it; raise ConfigError if there is none."""
    name = _named(settings, target)
    if name.endswith(_ENDING):
        file = base / Path(name).expanduser()
        if not file.is_file():
            raise ConfigError(
                f"mock.config: there is no file {file}", hint="a relative name begins at the project file"
            )
        return _plain(file.resolve())
    if "/" in name:
        raise ConfigError(f"mock.config: '{name}' is neither a name nor a file that ends with {_ENDING}")
    folders = (Path(user.pw_dir, ".config/mock"), _configdir(settings))
    for folder in folders:
        if (file := folder / f"{name}{_ENDING}").is_file():
            return _plain(file)
    raise _unknown(name, folders)


def _named(settings: Mock, target: str) -> str:
    if not isinstance(settings.config, Mapping):
        return settings.config or "default"
    if found := settings.config.get(target):
        return found
    raise ConfigError(
        f"mock.config names no configuration for {target}",
        hint=f"add it to the table [mock.config]: {target} = 'NAME'; `mock --list-chroots` lists them",
    )


def _configdir(settings: Mock) -> Path:
    """Return where configurations lie; the options may say another place."""
    found = [*words((*settings.options, *settings.more_options)), ""]
    for word, after in pairwise(found):
        name, equals, value = word.partition("=")
        if name == "--configdir" and (value if equals else after):
            return Path(value if equals else after)
    return CONFIGS


def _unknown(name: str, folders: Sequence[Path]) -> ConfigError:
    known = sorted({file.stem for folder in folders for file in folder.glob(f"*{_ENDING}")} - {*_NO_ROOTS})
    if name == "default":
        hint = "name one: -r NAME, or config = 'NAME' in the table [mock]; `mock --list-chroots` lists them"
    else:
        hint = did_you_mean(name, known) or "`mock --list-chroots` lists them"
    return ConfigError(
        f"mock has no configuration '{name}'", details=f"looked in {folders[0]}, {folders[1]}", hint=hint
    )


def _plain(path: Path) -> Path:
    """Refuse a path that dnf, mock or Jinja would read as something else."""
    if not _PLAIN.fullmatch(str(path)) or ".." in path.parts:
        raise UsageError(f"mock cannot take a path such as {str(path)!r}", hint="move it: no spaces, no braces, no %")
    return path


def config_text(settings: Mock, include: Path, *, extension: str, local: Path | None, keys: Mapping[str, str]) -> str:
    """Return the configuration of a build, in a root with a name of its own (`extension`).

    `local` is the repository of its kernels, `keys` are the addresses of the keys of the project's repositories, by
    what the project calls them.
    """
    own = (settings.macros or {}).items()
    macros = {**_MACROS, **{f"%{name.removeprefix('%')}": _macro(name, body) for name, body in own}}
    stanzas = list(_stanzas(settings.repositories, keys))
    if local:
        # Its packages are those whose digests were checked a moment ago.
        stanzas.insert(0, _stanza(LOCAL, f"file://{_plain(local)}"))
    lines = [
        "# Written by pkgkmod for one build.",
        f"include({str(include)!a})",
        # It would wait for somebody to press Enter.
        "config_opts['dnf_warning'] = False",
        f"config_opts['unique-ext'] = {extension!a}",
        *(f"config_opts['macros'][{name!a}] = {body!a}" for name, body in macros.items()),
    ]
    if stanzas:
        # mock before 2.0 knows the one or the other, by the distribution.
        lines.append("_key = 'dnf.conf' if 'dnf.conf' in config_opts else 'yum.conf'")
        lines += [f"config_opts[_key] += {stanza!a}" for stanza in stanzas]
    return "\n".join((*lines, ""))


def _macro(name: str, body: str) -> str:
    if not body:
        raise ConfigError(f"mock.macros.{name}: mock takes no empty macro", hint="write '%{nil}'")
    if "{{" in body or "{%" in body or "{#" in body:
        raise ConfigError(f"mock.macros.{name}: mock would take {body!r} for a template", hint="write no {{, {% or {#")
    return body


def _stanzas(repositories: Sequence[MockRepository], keys: Mapping[str, str]) -> Iterator[str]:
    seen = {LOCAL}
    for number, one in enumerate(repositories, start=1):
        name = one.name or f"extra-{number}"
        if name in seen:
            raise ConfigError(f"mock.repositories: two are called '{name}'")
        seen.add(name)
        yield _stanza(name, one.baseurl, keys[one.gpgkey] if one.gpgkey else None)


def _stanza(name: str, baseurl: str, key: str | None = None) -> str:
    trust = f"gpgcheck=1\ngpgkey={key}" if key else "gpgcheck=0"
    return f"\n[{name}]\nname={name}\nbaseurl={baseurl}\nenabled=1\nskip_if_unavailable=0\n{trust}\n"


def is_address(key: str) -> bool:
    """Tell whether a key is named by an address that dnf can read."""
    return _REMOTE.fullmatch(key) is not None
