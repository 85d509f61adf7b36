"""Benchmarks: each measures pkgkmod side by side with a floor or a peer, in one run."""
