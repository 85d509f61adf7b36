"""What a dkms.conf says, as dkms hears it: evaluated for one kernel each, with the places of this machine taken out.

A dkms.conf is a shell script. What it says may differ from kernel to kernel, and names the folders in which dkms builds
(dkms(8), "DKMS.CONF"; the script dkms 3.0.10, read_conf and prepare_build).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

DKMS_TREE = "/var/lib/dkms"
SOURCE_TREE = "/usr/src"
ONLY_KERNELS, ONLY_NEWEST = "pkgkmod_only_kernels", "pkgkmod_only_newest"
"""What an export says of kernels besides what dkms has words for: only.kernels and only.newest."""
VARIABLES = (
    *("PACKAGE_NAME", "PACKAGE_VERSION", "MAKE", "MAKE_MATCH", "CLEAN", "PATCH", "PATCH_MATCH", "STRIP"),
    *("BUILT_MODULE_NAME", "BUILT_MODULE_LOCATION", "DEST_MODULE_NAME", "DEST_MODULE_LOCATION"),
    *("BUILD_EXCLUSIVE_KERNEL", "BUILD_EXCLUSIVE_KERNEL_MIN", "BUILD_EXCLUSIVE_KERNEL_MAX"),
    *("BUILD_EXCLUSIVE_ARCH", "BUILD_EXCLUSIVE_CONFIG", "BUILD_DEPENDS", "OBSOLETE_BY", "AUTOINSTALL"),
    *("PRE_BUILD", "POST_BUILD", "PRE_INSTALL", "POST_INSTALL", "POST_ADD", "POST_REMOVE"),
    *("NO_WEAK_MODULES", "MODPROBE_ON_INSTALL", "REMAKE_INITRD", "MODULES_CONF", "MODULES_CONF_OBSOLETES"),
    *("MODULES_CONF_ALIAS_TYPE", "MODULES_CONF_OBSOLETE_ONLY"),
    *(ONLY_KERNELS, ONLY_NEWEST),
)
"""Those that dkms reads, and those of a file that pkgkmod wrote; any other is the script's own."""


@dataclass(frozen=True)
class DkmsModule:
    """A module that a dkms.conf has built."""

    name: str
    """As the build makes it, without .ko."""
    location: str
    """Its folder below the sources; empty for the sources' own."""
    installed_name: str
    destination: str
    strip: bool

    def same_build(self, other: DkmsModule) -> bool:
        """Tell whether both are the same file of the build, under the same name."""
        own = (self.name, self.location, self.installed_name)
        return own == (other.name, other.location, other.installed_name)


@dataclass(frozen=True)
class DkmsConf:
    """A dkms.conf, evaluated for one kernel."""

    uname_r: str
    machine: str
    kernel_tree: str
    """The kernel's build tree, as the script saw it."""
    folder: str
    """The folder of the sources, as the script saw it."""
    values: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """The elements of each variable that is set; a plain variable is its element 0."""
    make_number: int | None = 0
    """Which MAKE is run for this kernel; None for dkms's own."""
    patch_numbers: tuple[int, ...] = ()
    """Which PATCHes are applied for this kernel."""
    excluded: str = ""
    """The variable that keeps dkms from building for this kernel; empty if it builds."""
    options: frozenset[str] = frozenset()
    """The kernel's options that are y or m, without CONFIG_."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Folders of other drivers, as the script saw them, and their names beside the sources."""
    said: str = ""
    """What the script wrote to the terminal."""

    def get(self, name: str) -> str:
        """Return a variable; empty if it is not set."""
        return self.values.get(name, {}).get(0, "")

    @property
    def modules(self) -> tuple[DkmsModule, ...]:
        """The modules, in the order of the file."""
        names = ("BUILT_MODULE_NAME", "BUILT_MODULE_LOCATION", "DEST_MODULE_NAME", "DEST_MODULE_LOCATION")
        numbers = sorted({number for name in names for number in self.values.get(name, {})})
        return tuple(module for number in numbers if (module := self._module(number)))

    def _module(self, number: int) -> DkmsModule | None:
        def element(name: str) -> str:
            return self.values.get(name, {}).get(number, "")

        # Of one module, the package's name is the default.
        only = len(self.values.get("DEST_MODULE_LOCATION", {})) == 1
        name = element("BUILT_MODULE_NAME") or (self.get("PACKAGE_NAME") if only else "")
        if not name:
            return None
        strip = element("STRIP") or self.get("STRIP")
        place = element("BUILT_MODULE_LOCATION").strip("/")
        return DkmsModule(
            name,
            "" if self._is_of_kernel(place) else place,
            element("DEST_MODULE_NAME") or name,
            element("DEST_MODULE_LOCATION"),
            not strip.lower().startswith("n"),
        )

    def _is_of_kernel(self, place: str) -> bool:
        """Tell whether a folder of built modules is called after the kernel; `commands` copy them from there."""
        return self.uname_r in place.split("/")

    @property
    def make(self) -> str:
        """The command that builds for this kernel, as dkms runs it; dkms's own if the file has none."""
        command = "" if self.make_number is None else self.values.get("MAKE", {}).get(self.make_number, "")
        command = command.replace("\t", " ").strip() or f"make -C {self.kernel_tree} M={self.folder}"
        # dkms puts its words behind a `make` at the beginning, and only there.
        return re.sub(r"^make\b", f"make KERNELRELEASE={self.uname_r}", command)

    @property
    def patches(self) -> tuple[str, ...]:
        """The patches that are applied for this kernel, in order."""
        given = self.values.get("PATCH", {})
        return tuple(given[number] for number in self.patch_numbers if number in given)

    @property
    def commands(self) -> str:
        """What builds the modules, for a shell in the sources' folder; the places are $KERNEL_TREE and so on."""
        lines = []
        if before := self.get("PRE_BUILD").split():
            # dkms starts it without a shell: only spaces mean something.
            lines.append(" ".join([_word(f"./{before[0]}"), *map(_word, before[1:])]))
        lines.append(self.make)
        places = self.values.get("BUILT_MODULE_LOCATION", {})
        names = self.values.get("BUILT_MODULE_NAME", {})
        for number, place in sorted(places.items()):
            if self._is_of_kernel(place) and names.get(number):
                file = f"{names[number]}.ko"
                lines.append(f"cp {_word(place.strip('/'))}/{_word(file)} {_word(file)}")
        return "\n".join(self.without_places(line) for line in lines)

    def without_places(self, command: str) -> str:
        """Return a shell command with variables for the kernel's release, its build tree, and the sources' folder."""
        known = self.get("PACKAGE_NAME"), self.get("PACKAGE_VERSION")
        places = {
            f"/lib/modules/{self.uname_r}/build": "KERNEL_TREE",
            self.kernel_tree: "KERNEL_TREE",
            self.folder: "SOURCES",
            f"{DKMS_TREE}/{known[0]}/{known[1]}/build": "SOURCES",
            f"{DKMS_TREE}/{known[0]}/{known[1]}/source": "SOURCES",
            f"{SOURCE_TREE}/{known[0]}-{known[1]}": "SOURCES",
            self.uname_r: "KERNEL",
            **{path: f"SOURCES/../{name}" for path, name in self.beside.items()},
        }
        return with_variables(command, places)


def _word(text: str) -> str:
    """Return a word that a shell takes as it is; single quotes would keep the places from being found."""
    return text if re.fullmatch(r"[A-Za-z0-9@%+=:,./_-]+", text) else "'" + text.replace("'", "'\"'\"'") + "'"


def with_variables(command: str, places: Mapping[str, str]) -> str:
    """Return a shell command in which variables stand for texts, quoted as each place in the command needs it.

    `places` are names of variables by text; a path below the variable's may follow the name.
    """
    return "".join(_replaced(command, sorted(places.items(), key=lambda place: -len(place[0]))))


def _replaced(command: str, places: Sequence[tuple[str, str]]) -> Iterator[str]:
    quote, position = "", 0
    while position < len(command):
        rest = command[position:]
        text, name = next(((t, n) for t, n in places if t and _stands_alone(command, position, t)), ("", ""))
        if text:
            name, slash, below = name.partition("/")
            yield {"": f'"${name}"', '"': f"${{{name}}}", "'": f"'\"${name}\"'"}[quote] + slash + below
            position += len(text)
        elif rest[0] == "\\" and quote != "'":
            yield rest[:2]
            position += 2
        else:
            if rest[0] in "'\"" and quote in ("", rest[0]):
                quote = "" if quote else rest[0]
            yield rest[0]
            position += 1


def _stands_alone(command: str, position: int, text: str) -> bool:
    """Tell whether `text` begins here and is no part of a longer name: 6.1.0-56-amd64 is none of 6.1.0-56-amd64x."""
    if not command.startswith(text, position):
        return False
    behind = command[position + len(text) : position + len(text) + 1]
    before = command[max(0, position - 2) : position]
    inside = text[0] == "/" and re.search(r"[A-Za-z0-9_.+~-]$", before) and before not in ("-I", "-L")
    return not re.match(r"[A-Za-z0-9_.+~-]", behind) and not inside
