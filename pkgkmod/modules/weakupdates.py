"""Which other kernels a package of modules serves where weak-modules links its modules into them.

weak-modules (kmod, on Red Hat's distributions) makes a link below /lib/modules/KERNEL/weak-updates/ to each module of
which `depmod -e -E` says neither that it needs an unknown symbol nor that it disagrees about the version of one.
Modules that need each other are linked together, or not at all. It looks at nothing else: not at licences, namespaces
or signatures, over which the kernel may still refuse a module.
"""

from __future__ import annotations

from collections.abc import Sequence

from pkgkmod.model.prediction import Prediction

_SEEN_BY_DEPMOD = ("missing", "other crc")


def linked(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    """Return the names of the modules that weak-modules links into the kernel of these predictions."""
    names = {one.module for one in predictions}
    group = {name: {name} for name in names}
    for one in predictions:
        for needed in names.intersection(one.needs):
            if group[needed] is not group[one.module]:
                group[one.module] |= group[needed]
                for name in group[needed]:
                    group[name] = group[one.module]
    unfit = {one.module for one in predictions if any(trouble.kind in _SEEN_BY_DEPMOD for trouble in one.troubles)}
    return tuple(sorted(name for name in names if not unfit & group[name]))
