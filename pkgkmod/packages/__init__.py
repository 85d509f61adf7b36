"""Recipes: what a kmod package says, in RPM's and in DEB's words."""
