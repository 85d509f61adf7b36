"""What a kernel would refuse of finished modules, and whether they were compiled as it was: beside its exports and its
.config.

What objtool reported while a module was built is gone; these checks read what it, and the compiler, leave in a module
that they were let at. They say nothing of a module whose code gives no sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from pkgkmod.model.finding import Finding
from pkgkmod.model.prediction import Prediction, TroubleKind
from pkgkmod.modules.checks.codes import finding
from pkgkmod.modules.checks.file import listed
from pkgkmod.modules.checks.opened import Opened
from pkgkmod.modules.kabifiles import machine_name
from pkgkmod.modules.kernelside import KernelSide
from pkgkmod.modules.kmod_deps import Module
from pkgkmod.modules.predict import predict

_TROUBLES: Mapping[TroubleKind, tuple[str, str]] = {
    "missing": ("KMOD030", "package the module that exports it, too, or require its driver ([[requires]], --with)"),
    "other crc": ("KMOD031", "build it for this kernel"),
    "gpl only": ("KMOD032", "use other symbols; a licence that is not true helps nobody"),
    "namespace": ("KMOD033", "add MODULE_IMPORT_NS"),
    "reserved": ("KMOD034", "use other symbols"),
    "no crc": ("KMOD035", "build it against the kernel's headers, with their Module.symvers"),
}
_INTERMEDIATE = (".gnu.lto_", ".llvmbc", ".llvm.lto")


def check_with_kernel(
    opened: Sequence[Opened], side: KernelSide, providers: Sequence[Module] = (), texts: int | None = None
) -> Iterator[Finding]:
    """Yield what a kernel refuses of the modules that are for it, and how they were compiled otherwise than it.

    `texts` is what kernel_texts says of its vmlinux.
    """
    fitting = [module for module in opened if _is_for(module, side)]
    answers = predict([module.module for module in fitting], side, providers)
    for module, prediction in zip(fitting, answers, strict=True):
        yield from _symbols(module, prediction, side)
        if side.options is not None:
            yield from _compiler(module, side.options)
            yield from _type_information(module, side.options, texts)
            if side.arch == "x86_64":
                yield from _mitigations(module, side.options)


def _is_for(module: Opened, side: KernelSide) -> bool:
    machine = machine_name(module.module.machine, little_endian=module.module.little_endian)
    return not side.arch or machine == side.arch


# --- symbols ------------------------------------------------------------------------------------------


def _symbols(module: Opened, prediction: Prediction, side: KernelSide) -> Iterator[Finding]:
    """Yield a finding for each kind of trouble: symbols of one kind have one cure."""
    kinds: dict[TroubleKind, list[str]] = {}
    for trouble in prediction.troubles:
        kinds.setdefault(trouble.kind, []).append(f"{trouble.symbol} ({trouble.text})")
    for kind, texts in kinds.items():
        code, cure = _TROUBLES[kind]
        yield finding(code, module.subject, f"for {side.uname_r}: {listed(texts)}", cure)
    if module.module.versions is None and side.has_crcs:
        code, cure = _TROUBLES["no crc"]
        yield finding(code, module.subject, f"for {side.uname_r}: it has no versions of symbols at all", cure)
    elif module.module.release:
        for reason in prediction.reasons if prediction.verdict == "refused" else ():
            yield finding("KMOD036", module.subject, f"{side.uname_r} refuses it: {reason}", "build it for this kernel")


# --- how it was compiled ------------------------------------------------------------------------------


def _is_on(options: Mapping[str, str], *names: str) -> bool:
    return any(options.get(name) == "y" for name in names)


def _mitigations(module: Opened, options: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is missing of the kernel's protections; their options were renamed in Linux 6.9."""
    inside = module.inside
    cure = "build it with the kernel's own build system, and no flags that take these away"
    if _is_on(options, "RETPOLINE", "MITIGATION_RETPOLINE") and "Y" not in module.module.info("retpoline"):
        yield finding("KMOD040", module.subject, "it does not say that it has retpolines", cure)
    # A module that returns by the thunk in one place was compiled for it: what else ends so is hand-written.
    if _is_on(options, "RETHUNK", "MITIGATION_RETHUNK") and inside.naked_returns and not inside.returns_by_thunk:
        yield finding("KMOD041", module.subject, f"plain returns in {listed(inside.naked_returns)}", cure)
    if _is_on(options, "X86_KERNEL_IBT") and inside.endbr is False:
        yield finding("KMOD042", module.subject, "its init function begins without ENDBR64", cure)
    if _is_on(options, "CFI_CLANG", "CFI") and inside.has_init and not inside.has_cfi:
        yield finding("KMOD043", module.subject, "its functions have no types (__cfi_NAME)", "build it with clang")
    if _is_on(options, "OBJTOOL"):
        lists = {".return_sites": inside.returns_by_thunk, ".retpoline_sites": inside.calls_by_thunk}
        missing = [name for name, wanted in lists.items() if wanted and name not in inside.sections]
        if missing:
            yield finding("KMOD044", module.subject, f"it has no {' and no '.join(missing)}", cure)


def _compiler(module: Opened, options: Mapping[str, str]) -> Iterator[Finding]:
    inside = module.inside
    wanted = _kernel_compiler(options)
    used = [found for text in inside.compilers if (found := compiler_of(text))]
    families = sorted({family for family, _ in used})
    if wanted and used and wanted[0] not in families:
        yield finding(
            "KMOD045",
            module.subject,
            f"it was compiled by {' and '.join(families)}, and its kernel by {wanted[0]}",
            "build it with the kernel's compiler",
        )
    elif wanted and used and wanted not in used:
        majors = ", ".join(sorted({f"{family} {major}" for family, major in used}))
        yield finding("KMOD046", module.subject, f"by {majors}, and its kernel by {wanted[0]} {wanted[1]}")
    if left := sorted(name for name in inside.sections if name.startswith(_INTERMEDIATE)):
        yield finding("KMOD047", module.subject, f"sections {listed(left)}", "build it without -flto of its own")


def compiler_of(text: str) -> tuple[str, int] | None:
    """Return family and major version of a compiler by what it writes into .comment; None for other programs."""
    family = "gcc" if text.startswith("GCC:") else "clang" if "clang version" in text else ""
    # GCC: (Debian 12.2.0-14+deb12u1) 12.2.0; Debian clang version 14.0.6; in parentheses is the packager's own.
    plain = re.sub(r"\([^()]*\)", "", text)
    found = re.search(r"(\d+)\.\d+", plain)
    return (family, int(found[1])) if family and found else None


def _kernel_compiler(options: Mapping[str, str]) -> tuple[str, int] | None:
    """Return family and major version of the compiler that a .config names (GCC_VERSION=120200)."""
    for family in ("gcc", "clang"):
        number = options.get(f"{family.upper()}_VERSION", "")
        if options.get(f"CC_IS_{family.upper()}") == "y" and number.isdigit():
            return family, int(number) // 10_000
    return None


def _type_information(module: Opened, options: Mapping[str, str], texts: int | None) -> Iterator[Finding]:
    if not _is_on(options, "DEBUG_INFO_BTF_MODULES"):
        return
    types, has_base = module.inside.types, ".BTF.base" in module.inside.sections
    again = "build it again, for this very build of the kernel; or leave it out: objcopy -R .BTF"
    if types is None:
        yield finding("KMOD053", module.subject, "it has no type information (BTF)")
    elif types.fault and not _is_on(options, "MODULE_ALLOW_BTF_MISMATCH"):
        yield finding("KMOD054", module.subject, f"its .BTF: {types.fault}", again)
    elif not has_base and None not in (types.base, texts) and types.base != texts:
        yield finding("KMOD056", module.subject, "its type information is for another build of the kernel", again)
    elif not has_base and "/kernel/" not in module.path:
        yield finding("KMOD055", module.subject, "its type information is for one build of the kernel only")
