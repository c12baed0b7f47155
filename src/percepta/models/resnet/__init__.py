"""The small residual networks of CIFAR-10 (arXiv 1512.03385, section 4.2), with which merging is studied."""

from percepta.models.resnet.config import ResNetConfig
from percepta.models.resnet.keys import layouts, subtrees
from percepta.models.resnet.model import ResNet, build

__all__ = ["ResNet", "ResNetConfig", "build", "layouts", "subtrees"]
