"""Booting kernels in an emulated machine, to see what loads."""
