"""Tests of percepta.results."""
