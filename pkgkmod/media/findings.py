"""What can be found wrong with a driver disk: the codes, their severity, and what each one means."""

from __future__ import annotations

from pkgkmod.model.finding import Finding, Meaning

CODES: dict[str, Meaning] = {
    "DISK001": Meaning(
        "error",
        "A module cannot be read",
        "No kernel loads it; one such module makes anaconda give up the whole disk.",
    ),
    "DISK002": Meaning("error", "No module for a machine", "An installer on that machine finds nothing to load."),
    "DISK003": Meaning(
        "error", "A module is not signed", "With Secure Boot, installers refuse modules without a signature."
    ),
    "DISK004": Meaning("error", "A package is not signed", "Installers ask, or refuse, before they install it."),
    "DISK005": Meaning("note", "Debug information is left out", "No installer reads it."),
    "DISK006": Meaning("note", "Source packages", "They are left out, or put on the disk: disk.include_srpm."),
    "DISK007": Meaning(
        "error",
        "A file for unattended installation lies at the root",
        "Installers that find ks.cfg or autoinst.xml on a disk labelled OEMDRV install unattended with it.",
    ),
    "DISK008": Meaning("error", "Two packages have the same name", "Only one of them can be on the disk."),
    "DISK009": Meaning("error", "A module is for another machine than its package", "No kernel there loads it."),
    "DISK010": Meaning(
        "error",
        "A module was built for another kernel than the one in whose folder it lies",
        "Without matching symbol versions, the kernel refuses it.",
    ),
    "DISK011": Meaning(
        "error",
        "The installer named with disk.installers takes no package",
        "Its driver would be missing, without any message.",
    ),
    "DISK012": Meaning("error", "The disk holds a package that no installer reads", "It would be of no use there."),
    "DISK013": Meaning(
        "error",
        "An installer takes a package whose modules its kernel refuses",
        "Nothing would be loaded. It is told for kernels that are named with disk.installers, or known as those of a "
        "release, if their headers are installed or in the store.",
    ),
    "DISK014": Meaning(
        "warning",
        "A module needs another driver's module that is not on the disk",
        "No installer loads it without the other one.",
    ),
    "DISK020": Meaning(
        "error",
        "anaconda skips a package with modules",
        "It takes packages by what they provide: kernel-modules, with a version.",
    ),
    "DISK021": Meaning(
        "warning",
        "No installer that is known takes a package",
        "anaconda compares the package's version of kernel-modules with its kernel; it says nothing where they differ.",
    ),
    "DISK022": Meaning(
        "warning",
        "Installers of another release take a package",
        "anaconda searches all folders of a disk, and `>=` has no upper end: the module does not load there, and the "
        "package cannot be installed.",
    ),
    "DISK023": Meaning(
        "note",
        "Packages are for installers with exactly their kernel",
        "Respun installers, and those of rebuilds, may have another kernel than the release.",
    ),
    "DISK024": Meaning(
        "error",
        "anaconda does not load a module below /usr",
        "It looks for modules in /lib/modules only, though it lists the package.",
    ),
    "DISK025": Meaning("error", "anaconda does not read a compressed module", "It extracts the others only."),
    "DISK026": Meaning(
        "warning", "Older anacondas do not read a compressed module", "Only later ones extract more than .ko files."
    ),
    "DISK027": Meaning("error", "anaconda cannot unpack a package", "Its reader does not know that compression."),
    "DISK028": Meaning(
        "warning",
        "anaconda does not put firmware where the kernel finds it",
        "It copies /lib/firmware/FILE to /lib/firmware/updates/FILE of the running installer, and nothing else; in the "
        "installed system all is in its place.",
    ),
    "DISK029": Meaning(
        "warning",
        "anaconda does not unpack a package with firmware",
        "A package that provides no kernel-modules is installed, but not there for the installer itself.",
    ),
    "DISK030": Meaning(
        "warning",
        "Packages of one name and kernel have several versions",
        "All of them are unpacked, and the newest is installed.",
    ),
    "DISK031": Meaning(
        "error",
        "A package has modules for another kernel than it says",
        "anaconda puts all modules of a package that it takes to those of its own kernel, whichever they are for.",
    ),
    "DISK032": Meaning(
        "warning",
        "An installer takes several packages with the same module",
        "anaconda puts all of them into the same folder: chance decides which one is loaded.",
    ),
    "DISK033": Meaning(
        "error",
        "A package has a module for several kernels",
        "anaconda puts all of them into the same folder: chance decides which one is loaded.",
    ),
    "DISK034": Meaning(
        "error",
        "Packages for all machines are on no machine's folder",
        "anaconda reads rpms/MACHINE, and no package of the release says for which machine it is.",
    ),
    "DISK040": Meaning(
        "warning",
        "No module is for the kernel that SUSE's installers run",
        "Their kernel is of the flavour default; nothing would be loaded.",
    ),
    "DISK041": Meaning(
        "warning",
        "A package is for a kernel that SUSE's installers do not run",
        "YaST installs the packages of an update together: one that does not fit keeps out the others.",
    ),
    "DISK042": Meaning(
        "warning", "Two modules for SUSE's installers have the same name", "All modules lie in one folder there."
    ),
    "DISK043": Meaning(
        "warning",
        "A module has a file name that SUSE's installers cannot load",
        "They read names from a list, one word a line.",
    ),
    "DISK044": Meaning(
        "note", "linuxrc asks before it takes a .dud file", "It has no signature that the installer knows."
    ),
    "DISK045": Meaning(
        "warning", "Agama is given a file, not a disk", "Nothing is found by the disk's label, or by the release."
    ),
    "DISK046": Meaning(
        "warning",
        "Agama takes the modules of one kernel only",
        "An update has one folder of modules, and no script that chooses.",
    ),
    "DISK047": Meaning(
        "error",
        "Agama takes no module for the installer named with disk.installers",
        "The modules on the disk are those for another kernel.",
    ),
    "DISK048": Meaning(
        "warning",
        "Agama does not choose a package by itself",
        "It installs what the system's hardware asks for, and what was chosen; the driver would be missing later.",
    ),
    "DISK049": Meaning(
        "warning", "Agama asks before it installs an unsigned package", "Unattended installations stop there."
    ),
    "DISK050": Meaning(
        "warning",
        "SUSE's installers do not see the firmware of a package",
        "An update brings modules; its packages are unpacked in the installed system only.",
    ),
    "DISK060": Meaning("error", "The label is not the one that Debian's installer looks for", "It ignores the disk."),
    "DISK061": Meaning("error", "Debian's installer does not look in a package's folder", "It skips the package."),
    "DISK062": Meaning(
        "error",
        "Debian's installer cannot read a package's control file",
        "It reads the architecture with `ar` and `tar z`, and skips the package without a message.",
    ),
    "DISK063": Meaning(
        "error",
        "Debian's installer cannot unpack a package",
        "udpkg knows gzip and xz; dpkg-deb on Ubuntu packs with zstd.",
    ),
    "DISK064": Meaning("note", "A package is packed anew for Debian's installer", "What is in it stays the same."),
    "DISK065": Meaning(
        "error",
        "Debian's installer cannot read a compressed module",
        "Its depmod knows xz only: nothing loads the module.",
    ),
    "DISK066": Meaning("error", "Two packages for Debian have the same file name", "All releases share one folder."),
    "DISK067": Meaning(
        "warning",
        "Installers of other Debian releases install a package, too",
        "All releases share one folder, and dpkg refuses only what depends on something that is not there.",
    ),
    "DISK068": Meaning(
        "note",
        "Debian's installer unpacks modules for all kernels",
        "Its kernel finds its own ones; dpkg refuses packages whose kernel is not installed.",
    ),
    "DISK069": Meaning(
        "warning",
        "A package for Debian depends on one that is not on the disk",
        "dpkg installs packages without fetching what they depend on; one that fails is removed.",
    ),
    "DISK070": Meaning(
        "warning",
        "A package for Debian depends on one that is installed after it",
        "Packages are installed one by one, in the order of their files' names; one that fails is removed.",
    ),
    "DISK071": Meaning("warning", "A dkms package is on a disk for Debian", "Nothing can be built at that time."),
    "DISK072": Meaning(
        "warning",
        "There are several versions of a package for Debian",
        "Each one is installed over the one before; one that fails is removed by its name.",
    ),
    "DISK073": Meaning(
        "error",
        "Debian's installer does not find a module below /usr",
        "Until Debian 13, /lib and /usr/lib are two folders in the installer.",
    ),
    "DISK074": Meaning(
        "note", "Ubuntu's installer reads no driver disk", "Answers for an unattended installation make it take one."
    ),
    "DISK075": Meaning("warning", "The answers for Ubuntu's installer have another label", "They would find no disk."),
    "DISK080": Meaning("error", "A package on the disk cannot be read", "An installer that comes upon it fails."),
    "DISK081": Meaning(
        "warning",
        "The disk has another label than OEMDRV",
        "Installers do not look for it by themselves; they have to be told.",
    ),
    "DISK082": Meaning(
        "warning",
        "For which release a folder of the disk is is not known",
        "What depends on the release is not checked, such as the kernel of its installer.",
    ),
    "DISK083": Meaning("error", "No installer takes anything from the disk", "It has no folder that they look for."),
    "DISK084": Meaning(
        "note",
        "An image lies at the disk's root",
        "anaconda offers the images on a disk labelled OEMDRV as driver disks, too; each is checked by itself.",
    ),
}


def finding(code: str, subject: str, text: str, cure: str = "") -> Finding:
    """Return a finding, with the severity of its code."""
    return Finding(code=code, severity=CODES[code].severity, subject=subject, text=text, cure=cure)
