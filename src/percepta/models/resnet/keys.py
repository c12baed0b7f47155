"""Foreign layouts: none. Our names are those of the published CIFAR networks (conv1, layer1.0.bn1, linear)."""

from __future__ import annotations

from collections.abc import Mapping

from percepta.checkpoints.keymap import KeyMap
from percepta.models.resnet.config import ResNetConfig


def layouts(config: ResNetConfig) -> Mapping[str, KeyMap]:
    """No layout but the native one."""
    return {}


def subtrees(config: ResNetConfig) -> Mapping[str, KeyMap]:
    """No part is published by itself."""
    return {}
