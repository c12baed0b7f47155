"""Results in the formats of other programs, one file a format; pure functions over plain values."""
