"""Repositories that package managers install from: apt's and rpm-md, in a folder that a web server serves."""
