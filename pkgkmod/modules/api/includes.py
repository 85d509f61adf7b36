"""Headers that sources got because others included them, and that these do not include in another kernel."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pkgkmod.modules.api.headerindex import HeaderIndex
from pkgkmod.modules.api.use import Place, SourceUses, Use

_FOLDERS = re.compile(r"^(arch/[^/]+/)?include/((generated/)?uapi/|generated/)?")


def lost_headers(
    uses: Mapping[Use, Sequence[Place]], sources: SourceUses, old: HeaderIndex, new: HeaderIndex
) -> dict[str, dict[str, list[Place]]]:
    """Return the headers that are read with the old kernel and not with the new one, as they are to be included.

    With each, what is used of it, and where. Only what the new kernel still declares, in a header that no file reads
    by itself or through others, is looked for. Headers of the sources are left out: what those need, they may get from
    the file that includes them.
    """
    owners = {use.owner.rpartition(" ")[2] for use in uses if use.kind == "member"}
    read = {
        file: tuple(side.reached(filter(None, map(side.included, names))) for side in (old, new))
        for file, names in sources.includes.items()
        if not file.endswith(".h")
    }
    needed: dict[str, dict[str, list[Place]]] = {}
    for use, places in uses.items():
        # A struct can be pointed at without its definition: then it is enough that somebody names it.
        if use.kind != "name" and not (use.kind == "type" and use.name in owners):
            continue
        before, after = ({one.file for one in side.find(use.name)} for side in (old, new))
        for place in places if before and after else ():
            was_read, is_read = read.get(place.file, (frozenset(), frozenset()))
            if before & was_read and not after & is_read:
                best = min(after, key=lambda path: (not path.startswith("include/linux/"), path))
                needed.setdefault(_FOLDERS.sub("", best), {}).setdefault(use.name, []).append(place)
    return needed
