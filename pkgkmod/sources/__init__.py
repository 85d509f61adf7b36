"""The driver's sources: imported from git, patched, verified, and packed into archives."""
