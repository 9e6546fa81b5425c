"""Makers of images: one module a vendor."""

HELPERS = frozenset({"sizes"})
