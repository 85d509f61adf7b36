"""Whether a module may use a symbol that a kernel, or another module, exports: licences and namespaces."""

from __future__ import annotations

import re

from pkgkmod.modules.kmod_deps import Export, Module

# include/linux/license.h: what may use symbols that are exported as GPL.
GPL_LICENSES = frozenset({"GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"})


def license_of(module: Module) -> str:
    """Return the licence that counts; empty if it has none. The kernel reads the first (kernel/module/main.c)."""
    return (module.info("license") or [""])[0]


def is_gpl(module: Module) -> bool:
    """Tell whether a module may use symbols that are exported as GPL."""
    return license_of(module) in GPL_LICENSES


def gpl_only(export: Export, module: Module) -> str:
    """Say why a symbol is not there for a module, by its licence; nothing if it is."""
    if not export.kind.endswith("_GPL") or is_gpl(module):
        return ""
    return f"it is for modules under the GPL, and this one is under '{license_of(module) or 'no licence'}'"


def reserved(export: Export, module: Module) -> str:
    """Say for which modules alone a symbol is; nothing if this is one of them (Linux 6.16 on)."""
    if not export.namespace.startswith("module:"):
        return ""
    names = export.namespace.removeprefix("module:").split(",")
    if any(_is_called(module.name, name) for name in names):
        return ""
    return f"it is for the modules {', '.join(names)} alone"


def not_imported(export: Export, module: Module) -> str:
    """Say which namespace a module does not import; nothing if it imports it, or the symbol is in none."""
    name = export.namespace
    if not name or name.startswith("module:") or name in module.info("import_ns"):
        return ""
    return f"it is in the namespace {name}, which the module does not import"


def forbidden(export: Export, module: Module) -> str:
    """Say why a module may not use a symbol; nothing if it may (kernel/module/main.c: resolve_symbol)."""
    return gpl_only(export, module) or reserved(export, module) or not_imported(export, module)


def _is_called(name: str, pattern: str) -> bool:
    return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\-", "_"), name))
