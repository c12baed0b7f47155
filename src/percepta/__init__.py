"""Percepta."""
