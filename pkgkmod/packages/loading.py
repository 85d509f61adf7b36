"""The modules of packages and files beside kernels: which build of each goes to which kernel, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pkgkmod.errors import InputError
from pkgkmod.model.prediction import Prediction
from pkgkmod.modules.kernelside import KernelSide
from pkgkmod.modules.kmod_deps import Module, ModuleError
from pkgkmod.modules.predict import predict
from pkgkmod.modules.weakupdates import linked
from pkgkmod.packages.modulefiles import ModuleFile

_ORDER = {"loads": 2, "unknown": 1, "refused": 0}


@dataclass(frozen=True)
class Candidate:
    """A module that may be loaded."""

    module: Module
    package: str
    """File name of its package; empty for a bare module."""
    signed: bool
    """Whether it has a signature that is to be taken for a good one."""


@dataclass(frozen=True)
class WeakUpdate:
    """A package whose modules weak-modules links into a kernel that they were not built for."""

    package: str
    built_for: str
    kernel: str
    modules: tuple[str, ...]
    complete: bool
    """Whether it links all of the package's modules."""


def read_candidates(files: Iterable[ModuleFile], is_signed: Callable[[bytes], bool]) -> tuple[Candidate, ...]:
    """Read modules one after the other; `is_signed` is asked with their plain bytes.

    Raise InputError for one that is damaged.
    """
    return tuple(_candidates(files, is_signed))


def _candidates(files: Iterable[ModuleFile], is_signed: Callable[[bytes], bool]) -> Iterator[Candidate]:
    for file in files:
        try:
            package = file.package.name if file.package else ""
            yield Candidate(file.module, package, is_signed(file.plain))
        except ModuleError as error:
            raise InputError(f"{file.shown} cannot be read: {error.reason}", hint="no kernel would load it") from None


def predict_all(
    candidates: Sequence[Candidate], kernels: Sequence[KernelSide], providers: Sequence[Candidate] = ()
) -> Mapping[str, tuple[Prediction, ...]]:
    """Return, by kernel, what comes of each of the candidates, in their order."""
    signed = {id(one.module): one.signed for one in (*candidates, *providers)}
    modules, others = [one.module for one in candidates], [one.module for one in providers]
    found = {}
    for kernel in kernels:
        predictions = predict(modules, kernel, others, signed=lambda module: signed[id(module)])
        pairs = zip(predictions, candidates, strict=True)
        found[kernel.uname_r] = tuple(one.model_copy(update={"package": from_.package}) for one, from_ in pairs)
    return found


def chosen(predictions: Sequence[Prediction]) -> tuple[Prediction, ...]:
    """Return one prediction for each module: of the build for this very kernel, or else of the one that does best.

    Of several that do as well, the last one counts.
    """
    found: dict[str, Prediction] = {}
    for one in predictions:
        before = found.get(one.module)
        if before is None or _rank(one) >= _rank(before):
            found[one.module] = one
    return tuple(found[name] for name in sorted(found))


def _rank(prediction: Prediction) -> tuple[bool, int]:
    return prediction.built_for == prediction.kernel, _ORDER[prediction.verdict]


def weak_updates(predictions: Mapping[str, Sequence[Prediction]]) -> tuple[WeakUpdate, ...]:
    """Return what weak-modules makes of the RPMs among the packages: of those with modules below extra/."""
    found = []
    for kernel, ones in predictions.items():
        groups: dict[tuple[str, str], list[Prediction]] = {}
        for one in ones:
            if one.package.endswith(".rpm") and PurePosixPath(one.path).parts[4:5] == ("extra",):
                groups.setdefault((one.package, one.built_for), []).append(one)
        for (package, built_for), group in groups.items():
            if built_for != kernel and (names := linked(group)):
                found.append(WeakUpdate(package, built_for, kernel, names, len(names) == len(group)))
    return tuple(found)
