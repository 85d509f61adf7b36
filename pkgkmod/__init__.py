"""Package Linux kernel modules for many kernels: RPM, DEB and driver disks from one git hash."""

__version__ = "0.1.0"
