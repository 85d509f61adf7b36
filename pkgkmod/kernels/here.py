"""The kernels whose build trees are here, whoever brought them: no archive is asked, and nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pkgkmod.kernels.select import in_order, local_kernels
from pkgkmod.kernels.store import Store
from pkgkmod.model.kernel import Compiler, Kernel, KernelRelease, Mount
from pkgkmod.model.project import Project


def kernels_here(project: Project, base: Path) -> tuple[Kernel, ...]:
    """Return the kernels on this machine and in the store, oldest first; one that is installed goes before."""
    found = {kernel.uname_r: kernel for kernel in stored_kernels()}
    return in_order({**found, **{kernel.uname_r: kernel for kernel in local_kernels(project, base)}}.values())


def stored_kernels(store: Store | None = None) -> Iterator[Kernel]:
    """Yield the kernels of the store, whichever archive they are from; of one release, the last that was read is last.

    They are good for reading: no offer says how a damaged one could be mended.
    """
    folder = (store or Store()).folder
    records = sorted((folder / "known").glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    for record in records:
        try:
            facts = json.loads(record.read_text(encoding="utf-8"))
            places = [(folder / "packages" / source, Path(target)) for source, target in facts["mounts"]]
            kernel = Kernel(
                release=KernelRelease(facts["release"]),
                arch=facts["arch"],
                tree=Path(facts["tree"]),
                source="store",
                identity=record.stem,
                compiler=Compiler(**facts["compiler"]) if facts["compiler"] else None,
                also_needs=tuple(Path(path) for path in facts["also_needs"]),
                mounts=tuple(Mount(source, target) for source, target in places),
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue  # as if it were not there: the store reads it anew
        if (kernel.place / ".config").is_file():
            yield kernel
