"""Quirks of the official code, by name.

`OFFICIAL` answers as the official generator does for one prompt: greedy, at most 256 tokens, and a stop token that
comes first does not end the answer. (Its batches of several prompts see each other's keys; nobody needs that.)
"""

from __future__ import annotations

from percepta.models.perception_lm.sampling import GenerationSettings

OFFICIAL = GenerationSettings(stop_on_first_token=False)
