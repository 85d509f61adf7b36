"""Why keys of ddiskit have no place in a project file."""

from __future__ import annotations

from collections.abc import Mapping

_OWN_TEXTS = "texts of this package are made of the driver's name and what it is for"
_HERE = "where ddiskit's own files lie; pkgkmod has files of its own"
_RUN = "about one run of ddiskit: the command has an option for it"

MADE_UP = "{name} module for Driver Update Program"
"""What ddiskit says of a driver that nobody describes."""

PACKAGING_TEXTS = frozenset(
    ("spec_file", f"{part}_{kind}")
    for part in ("firmware", "devel")
    for kind in ("summary", "description", "description_suffix", "description_content")
)

LEFT_OUT: Mapping[tuple[str, str], str] = {
    **dict.fromkeys(PACKAGING_TEXTS, _OWN_TEXTS),
    ("spec_file", "module_description_content"): "the description's words are put together anyway",
    ("spec_file", "module_install_subdir"): "modules lie in extra/NAME, where weak-modules and depmod look for them",
    ("spec_file", "module_author"): "[global] has it",
    ("spec_file", "module_author_email"): "[global] has it",
    ("spec_file", "module_vendor"): "[global] has it",
    ("global", "module_author_email"): "there is no module_author that it belongs to",
    ("spec_file", "description_suffix"): "the description ends in module_description_suffix",
    ("spec_file", "date"): "changelogs have the date of the commit",
    ("spec_file", "kernel_requires"): "rpm.kernel_requires says it in a word",
    ("rpm_gpg_check", "use_keyring"): "signatures of packages for a disk are not checked here",
    ("rpm_gpg_check", "keyring_dir"): "signatures of packages for a disk are not checked here",
    ("defaults", "profile"): "the profile's values are in this file",
    ("defaults", "src_patterns"): "source.archive = 'kbuild' has patterns of its own",
    ("defaults", "spec_template"): "pkgkmod's specs are made of other values: rpm.templates names templates for it",
    **{("defaults", key): _HERE for key in ("res_dir", "template_dir", "profile_dir", "config_template")},
    **{("defaults", key): _RUN for key in ("config", "verbosity", "dump_config", "dump_config_name")},
    **{("defaults", key): _RUN for key in ("git_dir", "git_revision", "git_src_directory", "major", "minor")},
}
