"""The firmware that a project ships beside its modules: which files, and how a spec names them."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.errors import ConfigError
from pkgkmod.model.packaging import Firmware

# A %files line is expanded twice, so no spelling of a percent sign is safe; and quotes keep globbing
# characters literal only since rpm 4.19. A wildcard for one character means the same to every rpm.
_NOT_LITERAL = re.compile(r"[^A-Za-z0-9._+,=@:/\x80-\U0010ffff-]")


@dataclass(frozen=True)
class FirmwareFile:
    """A file to be installed below the distribution's folder of firmware."""

    path: str
    """Its place below the folder, as the kernel's request_firmware() names it."""
    size: int
    """Bytes."""
    sha256: str
    source: Path
    """Where it is now."""


def find_firmware(base: Path, settings: Firmware) -> tuple[FirmwareFile, ...]:
    """Return the firmware of a project, sorted by path; nothing if the folder, beside `base`, is not there.

    Names that start with a dot are left out. Raise ConfigError for what is no file or leads out of the folder, for
    names that packages cannot carry, and for a pattern of files to include that none matches.
    """
    folder = base / settings.directory
    if not folder.is_dir():
        return ()
    names = list(_walk(folder))
    unused_pattern("firmware", settings.include, names)
    wanted = [name for name in names if chosen(name, settings.include) and not chosen(name, settings.exclude)]
    return tuple(_file(folder, name) for name in wanted)


def chosen(path: str, patterns: Iterable[str]) -> bool:
    """Tell whether one of `patterns` matches a path: a pattern with * ? [], or the name of a folder above it."""
    return any(
        fnmatch.fnmatchcase(path, pattern) or path.startswith(pattern.rstrip("/") + "/") or pattern == "."
        for pattern in patterns
    )


def unused_pattern(table: str, patterns: Iterable[str], paths: Sequence[str]) -> None:
    """Raise ConfigError if one of `patterns` matches none of `paths`: most likely it is misspelled."""
    for pattern in patterns:
        if pattern != "*" and not any(chosen(path, (pattern,)) for path in paths):
            raise ConfigError(
                f"[{table}]: no file matches '{pattern}'",
                details=f"there are: {', '.join(sorted(paths)[:8]) or 'none'}",
                hint="patterns are for whole paths; the name of a folder stands for all that is below it",
            )


def write_firmware(files: Iterable[FirmwareFile], destination: Path) -> None:
    """Copy firmware into the folder `destination`; raise ConfigError if a file changed meanwhile."""
    for file in files:
        place = destination / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.source, place)
        place.chmod(0o644)
        if _digest(place) != file.sha256:
            raise ConfigError(f"the firmware file {file.path} changed while it was packed", hint="start again")


def rpm_files_entry(path: str) -> str:
    """Return the line of %files for an installed file: `path`, with a wildcard for what rpm would understand.

    The line may match other files of the same length in the same folder; `rpm_files_entries` sees to it that none is
    listed twice.
    """
    return _NOT_LITERAL.sub("?", path)


def rpm_files_entries(paths: Iterable[str]) -> list[str]:
    """Return the lines of %files for several installed files."""
    lines = {path: rpm_files_entry(path) for path in paths}
    patterns = {line for path, line in lines.items() if line != path}
    literal = {line for path, line in lines.items() if line == path}
    covered = {line for line in literal for pattern in patterns if fnmatch.fnmatchcase(line, pattern)}
    return sorted(patterns | (literal - covered))


def _walk(folder: Path) -> Iterator[str]:
    """Give the paths of all files below `folder`, sorted; refuse what is no file."""
    found = []
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in [*files, *links]:
            if not name.startswith("."):
                found.append(os.path.relpath(os.path.join(place, name), folder))  # noqa: PTH118 (thousands of files)
    yield from sorted(found)


def _refuse(error: OSError) -> None:
    raise ConfigError(f"the firmware folder {error.filename} cannot be read", details=error.strerror or "") from None


def _file(folder: Path, name: str) -> FirmwareFile:
    """Describe a file; raise ConfigError if it cannot be shipped."""
    if not name.isprintable() or '"' in name or "\\" in name:
        raise ConfigError(
            f"the firmware file {name!a} cannot be packaged",
            details="its name holds a control character, a quote, a backslash, or is not UTF-8",
            hint="rename it, or leave it out with firmware.exclude",
        )
    # Not Path.resolve(), which raises RuntimeError for a link that leads to itself.
    source = Path(os.path.realpath(folder / name))
    if not source.is_relative_to(os.path.realpath(folder)):
        raise ConfigError(
            f"the firmware file {name} is a link that leads out of {folder.name}/",
            details=f"it leads to {source}",
            hint="copy the file to where the link is, or leave it out with firmware.exclude",
        )
    try:
        status = source.stat()
    except OSError as error:
        raise ConfigError(f"the firmware file {name} cannot be read", details=error.strerror or "") from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(
            f"the firmware file {name} is no regular file",
            hint="leave it out with firmware.exclude, or name files one by one",
        )
    return FirmwareFile(name, status.st_size, _digest(source), source)


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"the firmware file {file} cannot be read", details=error.strerror or "") from None
