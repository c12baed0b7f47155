"""SAM 2 and 2.1: points, boxes and masks to objects in pictures and videos (arXiv 2408.00714)."""

from percepta.models.sam2.bank import Recollection, Remembered, TrackedObject, pointer_reach, recollect
from percepta.models.sam2.config import Sam2Config
from percepta.models.sam2.decoder import MaskDecoder, TwoWayTransformer
from percepta.models.sam2.layouts import layouts, subtrees
from percepta.models.sam2.memory import MemoryAttention, MemoryEncoder, nearest_frames
from percepta.models.sam2.model import Features, Heads, ImageEncoder, Prediction, Sam2, build
from percepta.models.sam2.prompts import PromptEncoder
from percepta.models.sam2.session import FrameMasks, Session

__all__ = [
    "Features",
    "FrameMasks",
    "Heads",
    "ImageEncoder",
    "MaskDecoder",
    "MemoryAttention",
    "MemoryEncoder",
    "Prediction",
    "PromptEncoder",
    "Recollection",
    "Remembered",
    "Sam2",
    "Sam2Config",
    "Session",
    "TrackedObject",
    "TwoWayTransformer",
    "build",
    "layouts",
    "nearest_frames",
    "pointer_reach",
    "recollect",
    "subtrees",
]
