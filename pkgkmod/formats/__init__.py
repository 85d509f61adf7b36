"""Reading and writing package formats: the only imports of `rpm` and `debian`."""
