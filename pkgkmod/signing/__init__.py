"""Signatures of kernel modules: keys, the message a kernel checks, and keys that never leave their vault."""
