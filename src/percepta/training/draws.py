"""Numbers that stand for places in a run: seeds of random generators, the same on every machine."""

from __future__ import annotations

import hashlib


def number_of(*parts: object) -> int:
    """A number of 63 bits that stands for its arguments, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
