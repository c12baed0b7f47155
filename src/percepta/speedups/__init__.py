"""Fewer tokens and cheaper attention in models that are trained already."""
