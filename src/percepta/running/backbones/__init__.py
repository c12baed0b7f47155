"""Any vision model by name as one thing: pictures → one vector of each layer, of the output, and of the classifier.

Ours, and those of timm, torchvision and transformers. Every vector comes from one pass of the model's own forward, so
all layers cost what one forward costs, and a map of features is averaged over its places as soon as it is there.
"""

from percepta.running.backbones.backbone import OUTPUT, PROBABILITIES, Backbone, multiply_adds, parameters_of
from percepta.running.backbones.naming import expand, open_backbone

__all__ = ["OUTPUT", "PROBABILITIES", "Backbone", "expand", "multiply_adds", "open_backbone", "parameters_of"]
