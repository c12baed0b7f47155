"""SAM 2 and 2.1: points, boxes and masks to objects in pictures and videos (arXiv 2408.00714)."""

from percepta.models.sam2.bank import Recollection, Remembered, TrackedObject, pointer_reach, recollect
from percepta.models.sam2.config import Sam2Config
from percepta.models.sam2.decoder import MaskDecoder, TwoWayTransformer
from percepta.models.sam2.everything import Everything, EverythingSettings, FoundMask, crop_boxes, point_grid
from percepta.models.sam2.layouts import layouts, subtrees
from percepta.models.sam2.memory import MemoryAttention, MemoryEncoder, nearest_frames
from percepta.models.sam2.model import Features, Heads, ImageEncoder, Prediction, Sam2, build
from percepta.models.sam2.pictures import PictureMasks, predict_picture
from percepta.models.sam2.prompts import PromptEncoder
from percepta.models.sam2.session import FrameMasks, Session

__all__ = [
    "Everything",
    "EverythingSettings",
    "Features",
    "FoundMask",
    "FrameMasks",
    "Heads",
    "ImageEncoder",
    "MaskDecoder",
    "MemoryAttention",
    "MemoryEncoder",
    "PictureMasks",
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
    "crop_boxes",
    "layouts",
    "nearest_frames",
    "point_grid",
    "pointer_reach",
    "predict_picture",
    "recollect",
    "subtrees",
]
