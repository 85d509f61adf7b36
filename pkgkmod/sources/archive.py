"""Source archives that are the same, byte for byte, wherever and whenever they are made of the same files."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from pkgkmod.model.fields import ArchiveContent
from pkgkmod.sources.unpack import folders_above, walk_files

# Fixed: another preset, or more threads, give other bytes.
_PRESET = 6
_SMALLEST, _LARGEST = 64 * 1024, 8 * 1024 * 1024  # bytes; the largest is that of the preset
_PACKING = threading.Lock()
"""Held while an archive is compressed, so that those who want the same one wait for it."""
_KBUILD_NAMES = ("Kbuild", "Kconfig", "Makefile")
_KBUILD_SUFFIXES = (".c", ".h")


def write_archive(
    folder: Path,
    destination: Path,
    *,
    prefix: str,
    epoch: int,
    content: ArchiveContent,
    whole: Collection[str] = (),
    shelf: Path | None = None,
) -> None:
    """Pack the files of `folder`, as folder `prefix`, into the .tar.xz `destination`; all times are `epoch`
    (seconds).

    `content` chooses among the files in sub-folders: `default` leaves out names that start with a dot,
    `kbuild` takes only Kbuild, Kconfig, Makefile, *.c and *.h, `all` takes all. Files at the top of `folder`, and
    those in its sub-folders, or files, named in `whole`, are always packed. Finished archives are kept in the folder
    `shelf`: the recipes of many kernels hold the same one, and compressing it takes longer than all the rest of a
    recipe.
    """
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as name:
        aside = Path(name)
        plain = aside / "plain.tar"
        _write_tar(plain, folder, prefix, epoch, lambda path: belongs(path, content, whole))
        finished = aside / "packed.tar.xz"
        if shelf:
            with plain.open("rb") as file:
                kept = shelf / f"{hashlib.file_digest(file, 'sha256').hexdigest()}.tar.xz"
            with _PACKING:
                if not kept.exists():
                    _compress(plain, finished)
                    shutil.copyfile(finished, shelf / f".{kept.name}")
                    (shelf / f".{kept.name}").replace(kept)
            shutil.copyfile(kept, finished)
        else:
            _compress(plain, finished)
        finished.chmod(0o644)
        finished.replace(destination)


def _write_tar(plain: Path, folder: Path, prefix: str, epoch: int, belongs: Callable[[str], bool]) -> None:
    paths = sorted(path for path in walk_files(folder) if belongs(path))
    folders = folders_above(paths)
    with tarfile.open(plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(_member(prefix, tarfile.DIRTYPE, epoch))
        for path in sorted([*paths, *folders]):
            _add(archive, folder / path, f"{prefix}/{path}", epoch, is_folder=path in folders)


def _compress(plain: Path, packed: Path) -> None:
    """Compress with a dictionary no larger than what is packed, since it takes twelve times its size of memory."""
    dictionary = min(max(1 << plain.stat().st_size.bit_length(), _SMALLEST), _LARGEST)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": _PRESET, "dict_size": dictionary}]
    with plain.open("rb") as source, lzma.open(packed, "wb", filters=filters) as sink:
        shutil.copyfileobj(source, sink, 1024 * 1024)


def belongs(path: str, content: ArchiveContent, whole: Collection[str]) -> bool:
    """Tell whether the file `path` of a folder is packed; see write_archive."""
    parts = path.split("/")
    if len(parts) == 1 or content == "all" or parts[0] in whole or path in whole:
        return True
    if content == "kbuild":
        return parts[-1] in _KBUILD_NAMES or parts[-1].endswith(_KBUILD_SUFFIXES)
    return not any(part.startswith(".") for part in parts)


def _add(archive: tarfile.TarFile, file: Path, name: str, epoch: int, *, is_folder: bool) -> None:
    if is_folder:
        archive.addfile(_member(name, tarfile.DIRTYPE, epoch))
    elif file.is_symlink():
        member = _member(name, tarfile.SYMTYPE, epoch)
        member.linkname = os.fspath(file.readlink())
        archive.addfile(member)
    else:
        data = file.read_bytes()
        member = _member(name, tarfile.REGTYPE, epoch)
        member.size = len(data)
        member.mode = 0o755 if file.stat().st_mode & 0o100 else 0o644
        archive.addfile(member, io.BytesIO(data))


def _member(name: str, kind: bytes, epoch: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode = {tarfile.DIRTYPE: 0o755, tarfile.SYMTYPE: 0o777}.get(kind, 0o644)
    member.mtime = epoch
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
