"""The words of a module's vermagic that a kernel compares with its own, and those that its .config makes."""

from __future__ import annotations

from collections.abc import Mapping

from pkgkmod.modules.kmod_deps import Module

# include/linux/vermagic.h, in its order. Which of the two comes first where both options are set is another thing from
# one kernel to the next: PREEMPT_BUILD until Linux 6.12 (Debian's 6.12-rt says `preempt`), later PREEMPT_RT.
_PREEMPT = (("preempt", ("PREEMPT_BUILD", "PREEMPT")), ("preempt_rt", ("PREEMPT_RT",)))
_PLAIN = {"mod_unload": "MODULE_UNLOAD", "modversions": "MODVERSIONS"}
# arch/*/include/asm/vermagic.h. x86_64 and s390x have none; the others' is the machine, which is compared by itself.
_ARCH = {"ppc64le": {"mprofile-kernel": "MPROFILE_KERNEL", "relocatable": "RELOCATABLE"}}
_RANDSTRUCT = ("RANDSTRUCT", "GCC_PLUGIN_RANDSTRUCT")


def expected_words(options: Mapping[str, str], arch: str) -> tuple[tuple[str, ...], ...]:
    """Return what may follow the release in the vermagic of a kernel with these options: one text, or two."""
    first = ("SMP",) if options.get("SMP") == "y" else ()
    preempt = [word for word, names in _PREEMPT if any(options.get(name) == "y" for name in names)]
    words = {**_PLAIN, **_ARCH.get(arch, {})}
    last = tuple(word for word, name in words.items() if options.get(name) == "y")
    return tuple((*first, word, *last) for word in preempt) or ((*first, *last),)


def compared_words(module: Module, arch: str) -> tuple[str, ...]:
    """Return the words of a module's vermagic that `expected_words` knows, in their order."""
    known = {"SMP", *(word for word, _ in _PREEMPT), *_PLAIN, *_ARCH.get(arch, {})}
    return tuple(word for word in _words(module)[1:] if word in known)


def vermagic_trouble(module: Module, uname_r: str, options: Mapping[str, str] | None, arch: str) -> str:
    """Say why a kernel refuses a module's vermagic; nothing if it takes it (kernel/module/version.c: same_magic)."""
    words = _words(module)
    if not words:
        return "" if _forces(options) else "it has no vermagic"
    compares_crcs = options is None or options.get("MODVERSIONS") == "y"
    if (module.versions is None or not compares_crcs) and words[0] != uname_r:
        side = "the kernel" if module.versions is not None else "it"
        return f"{side} has no CRCs: it loads into {words[0]} alone, which it was built for"
    if options is None:
        return ""
    said, wanted = compared_words(module, arch), expected_words(options, arch)
    if said in wanted:
        return ""
    return f"its vermagic says '{' '.join(said)}', and the kernel's '{' '.join(wanted[0])}'"


def unknown_layout(module: Module, uname_r: str, options: Mapping[str, str] | None) -> bool:
    """Tell whether nobody can say if structures lie in the same order: the kernel's seed is in no .config."""
    randomized = options is not None and any(options.get(name) == "y" for name in _RANDSTRUCT)
    return randomized and module.release != uname_r


def _words(module: Module) -> list[str]:
    return (module.info("vermagic") or [""])[0].split()


def _forces(options: Mapping[str, str] | None) -> bool:
    return options is not None and options.get("MODULE_FORCE_LOAD") == "y"
