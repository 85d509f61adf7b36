"""What can be found wrong with a finished module: the codes, their severity, and what each one means."""

from __future__ import annotations

from pkgkmod.model.finding import Finding, Meaning

GROUPS = {
    1: "The file",
    10: "What the module says of itself",
    30: "Symbols",
    40: "How it was compiled",
    50: "What the build left in it",
    60: "Signature and compression",
    70: "The kernel that it is for",
    80: "What a farm made",
}
"""Headings, by the number of the first code."""

_LONGEST = 2000
"""Characters of what is wrong."""

CODES: dict[str, Meaning] = {
    # --- the file
    "KMOD001": Meaning(
        "error", "A module cannot be read", "It is damaged, truncated, or no module; no kernel loads it."
    ),
    "KMOD002": Meaning(
        "error",
        "A file is no finished module",
        "The section .gnu.linkonce.this_module is missing, which modpost adds: what was packaged is an object file on "
        "the way to a module, and the kernel refuses it.",
    ),
    "KMOD003": Meaning("error", "A module is for another machine than its kernel", "The kernel refuses it."),
    "KMOD004": Meaning(
        "warning",
        "Two modules for a kernel have the same name",
        "depmod takes one of them, by its folder; the other one is never loaded. `-` and `_` are the same in names.",
    ),
    # --- what it says of itself
    "KMOD010": Meaning(
        "error", "A module does not say for which kernel it was built", "Without vermagic, the kernel refuses it."
    ),
    "KMOD011": Meaning(
        "error",
        "A module was built for another kernel than the one in whose folder it lies",
        "That kernel refuses it, unless all its symbols have the same versions there; it belongs into the folder of "
        "its own.",
    ),
    "KMOD012": Meaning(
        "warning",
        "A module has no licence",
        "The kernel counts it as proprietary: it is tainted when it loads it, and refuses it the symbols that are "
        "for modules under the GPL.",
    ),
    "KMOD013": Meaning(
        "note",
        "A module has no version",
        "dkms, weak-modules and whoever reads a bug report cannot tell which one of two is newer (MODULE_VERSION).",
    ),
    "KMOD014": Meaning(
        "note",
        "A module has no srcversion",
        "modpost computes it for modules that have a version, or with CONFIG_MODULE_SRCVERSION_ALL; dkms compares it.",
    ),
    "KMOD015": Meaning(
        "note", "Parameters of a module have no description", "`modinfo` shows their names only (MODULE_PARM_DESC)."
    ),
    "KMOD016": Meaning(
        "note",
        "A module drives devices of a bus, and has no aliases",
        "Nothing loads it when such a device appears: MODULE_DEVICE_TABLE is missing, or it is to be loaded by name.",
    ),
    "KMOD017": Meaning(
        "note",
        "A module may load firmware that is not packaged with it",
        "Where nobody else has installed the file, the device does not work.",
    ),
    "KMOD018": Meaning(
        "note",
        "A module names another one to be loaded with it that is not there",
        "modprobe passes over a soft dependency that it does not find; what the driver wants it for is missing.",
    ),
    "KMOD019": Meaning(
        "note", "A module cannot be unloaded", "It has a function for loading and none for unloading (module_exit)."
    ),
    # --- symbols
    "KMOD030": Meaning(
        "error",
        "Nobody has a symbol that a module needs",
        "Neither the kernel, nor a module packaged with it, nor a driver that it requires exports it: modprobe says "
        "`Unknown symbol in module`. kbuild lets this pass with KBUILD_MODPOST_WARN=1, as some drivers' makefiles do.",
    ),
    "KMOD031": Meaning(
        "error",
        "A symbol has another version than the module was built with",
        "The kernel refuses it with `disagrees about version of symbol`: something in its declaration, or in a "
        "structure that it takes, is another one.",
    ),
    "KMOD032": Meaning(
        "error",
        "A module uses symbols that are for modules under the GPL",
        "The kernel hides them from a module with another licence, as if they were not there.",
    ),
    "KMOD033": Meaning(
        "error",
        "A module uses symbols of a namespace that it does not import",
        "The kernel refuses it: MODULE_IMPORT_NS is missing.",
    ),
    "KMOD034": Meaning(
        "error",
        "A module uses symbols that are for certain other modules alone",
        "The kernel, from Linux 6.16 on, hides them from all others.",
    ),
    "KMOD035": Meaning(
        "error",
        "A module lacks versions of symbols, and its kernel wants them",
        "It was built against a tree without Module.symvers or CONFIG_MODVERSIONS; the kernel refuses it.",
    ),
    "KMOD036": Meaning(
        "error",
        "The kernel refuses a module",
        "Its vermagic has other words than the kernel's (as of preemption), or a module that it needs is refused.",
    ),
    # --- how it was compiled
    "KMOD040": Meaning(
        "warning",
        "A module was not compiled with retpolines",
        "The kernel says so when it loads it, and counts the machine as vulnerable to Spectre v2 from then on.",
    ),
    "KMOD041": Meaning(
        "warning",
        "Functions of a module return without the return thunk",
        "The kernel rewrites returns where a processor needs that (Retbleed, SRSO); a plain RET stays as it is.",
    ),
    "KMOD042": Meaning(
        "warning",
        "A module does not begin with ENDBR",
        "On processors with indirect branch tracking, the kernel stops with an exception when it calls the module.",
    ),
    "KMOD043": Meaning(
        "error",
        "A module has no types for control-flow integrity",
        "The kernel checks them at each call through a pointer, and stops at the first one into the module.",
    ),
    "KMOD044": Meaning(
        "warning",
        "objtool did not look at a module",
        "It calls or returns by thunks, and has no list of these places: the kernel cannot rewrite them for the "
        "processor that it runs on, and cannot trace its stack.",
    ),
    "KMOD045": Meaning(
        "warning",
        "A module was compiled by another compiler than its kernel",
        "gcc and clang lay out some structures and call some functions differently, with options that kernels use.",
    ),
    "KMOD046": Meaning(
        "note",
        "A module was compiled by another version of the kernel's compiler",
        "Plugins and mitigations may differ; distributions ship the one that built the kernel.",
    ),
    "KMOD047": Meaning(
        "warning",
        "A module has a compiler's intermediate code",
        "Link-time optimization was begun and not finished; the kernel has no use for it.",
    ),
    # --- what the build left
    "KMOD050": Meaning(
        "warning",
        "A module has its debug information",
        "It is many times as large; it belongs into a package of its own.",
    ),
    "KMOD051": Meaning(
        "warning",
        "A module has paths of somebody's home",
        "They tell who built it and where, and make its bytes depend on that.",
    ),
    "KMOD052": Meaning(
        "note",
        "A module has paths of the folder it was built in",
        "The same sources built elsewhere make other bytes (-ffile-prefix-map leaves them out).",
    ),
    "KMOD053": Meaning(
        "note",
        "A module has no type information (BTF), and those of its kernel have it",
        "bpf programs cannot look into it. kbuild leaves it out where the build tree has no vmlinux, as is usual.",
    ),
    "KMOD054": Meaning(
        "error",
        "A module's type information (BTF) is damaged",
        "A kernel with CONFIG_DEBUG_INFO_BTF_MODULES refuses it, unless it has CONFIG_MODULE_ALLOW_BTF_MISMATCH.",
    ),
    "KMOD055": Meaning(
        "note",
        "A module's type information (BTF) fits one build of its kernel only",
        "It counts on the types of that very vmlinux: another build of the release refuses it, or the module. With "
        ".BTF.base (Linux 6.11 on), it fits all.",
    ),
    "KMOD056": Meaning(
        "warning",
        "A module's type information (BTF) is for another build of its kernel",
        "It counts on the types of another vmlinux than the one in the build tree: the kernel ignores it, and without "
        "CONFIG_MODULE_ALLOW_BTF_MISMATCH it refuses the module.",
    ),
    # --- signature and compression
    "KMOD060": Meaning(
        "error",
        "A module is not signed, though it should be",
        "The project, or --certificate, says who signs; strip and objcopy remove signatures.",
    ),
    "KMOD061": Meaning(
        "error", "A module's signature is wrong", "It is another key's, or the module was changed after it was signed."
    ),
    "KMOD062": Meaning(
        "error",
        "A module is not signed, and its kernel takes signed ones only",
        "It was built with CONFIG_MODULE_SIG_FORCE.",
    ),
    "KMOD063": Meaning("note", "A module is not signed", "With Secure Boot, most distributions' kernels refuse it."),
    "KMOD065": Meaning(
        "error",
        "A module is compressed in a way that its kernel does not read",
        "The kernel decompresses modules itself (CONFIG_MODULE_DECOMPRESS), and knows less than xz, zstd and gzip do: "
        "of xz, CRC32 only.",
    ),
    "KMOD066": Meaning(
        "warning",
        "A module's name does not say how it is compressed",
        "depmod, dracut and weak-modules go by the ending of its name.",
    ),
    "KMOD067": Meaning(
        "note",
        "A module is compressed in another way than those of its kernel",
        "Whether it can be loaded depends on how that system's kmod was built.",
    ),
    # --- the kernel
    "KMOD070": Meaning(
        "note",
        "A kernel is not here",
        "What it exports and how it was configured is not known: symbols, mitigations and compression are not checked.",
    ),
    "KMOD071": Meaning(
        "note",
        "The kernel has a module of the same name",
        "Which of the two is loaded depends on depmod's order of folders: the packages that pkgkmod makes have an "
        "override for it (depmod.d).",
    ),
    "KMOD072": Meaning(
        "warning",
        "The kernel has the driver built in",
        "modprobe takes the module for loaded and does nothing, and an insmod of it fails where both register the same "
        "names.",
    ),
    # --- what a farm made
    "KMOD080": Meaning(
        "error",
        "A farm has made no modules for a kernel that they were asked for",
        "It has built against another kernel, or not on all the machines that were meant.",
    ),
    "KMOD081": Meaning(
        "error",
        "A package of a farm is not of the source package that it was given",
        "Its name or version is another one, so that it may be of older sources. A farm may change the release.",
    ),
}


def finding(code: str, subject: str, text: str, cure: str = "") -> Finding:
    """Return a finding, with the severity of its code; a text that a hostile module made too long is cut."""
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return Finding(code=code, severity=CODES[code].severity, subject=subject, text=text, cure=cure)
