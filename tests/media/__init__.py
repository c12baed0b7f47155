"""Tests of percepta.media."""
