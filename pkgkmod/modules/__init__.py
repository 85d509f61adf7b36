"""Compiling modules: makefiles, kernel options, kbuild."""
