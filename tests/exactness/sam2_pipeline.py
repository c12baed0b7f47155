"""Handler of the kind sam2/pipeline: from a photograph to masks, and all masks of a photograph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from percepta.media import Preprocess
from percepta.models.sam2.everything import Everything, EverythingSettings, everything
from percepta.models.sam2.pictures import predict_picture
from tests.exactness.golden import Golden
from tests.exactness.sam2_cases import check_outputs, sam2_model


class Pictures:
    """A model with the photographs of a case; each is prepared and encoded once."""

    def __init__(self, golden: Golden) -> None:
        self.model = sam2_model(golden)
        self.predictor = golden.content["predictor"]
        assert self.predictor["antialias"]
        self.prepare = Preprocess(
            self.model.config.image_size,
            "squash",
            tuple(self.predictor["mean"]),
            tuple(self.predictor["std"]),
            filter=self.predictor["resize"],
            arithmetic="floats",
        )
        self.photos: dict[str, np.ndarray] = golden.inputs
        self.prepared: dict[str, torch.Tensor] = {}
        self.features: dict[str, Any] = {}

    def see(self, image: str) -> Any:
        if image not in self.features:
            self.prepared[image] = self.prepare(self.photos[image])
            self.features[image] = self.model.encode_image(self.prepared[image][None])
        return self.features[image]

    def set_image(self, image: str) -> dict[str, Any]:
        embedding = self.model.unconditioned(self.see(image))
        return {"transformed": self.prepared[image], "image_embedding": embedding}

    def predict(
        self, image: str, points: Any, labels: Any, box: Any, mask: Any, multimask: bool, normalize: bool
    ) -> dict[str, Any]:
        assert mask is None
        size = self.photos[image].shape[:2]
        scale = torch.tensor([1.0, 1.0] if normalize else [size[1], size[0]])
        boxes = None if box is None else torch.tensor(box).view(-1, 2, 2).mul(scale).view(-1, 4)
        found = predict_picture(
            self.model,
            self.see(image),
            size,
            points=None if points is None else torch.tensor(points).view(-1, len(labels), 2) * scale,
            labels=None if points is None else torch.tensor(labels).view(-1, len(labels)),
            boxes=boxes,
            multimask=multimask,
            holes=self.predictor["max_hole_area"],
            specks=self.predictor["max_sprinkle_area"],
        )
        many = boxes is not None and np.ndim(box) == 2 and len(boxes) > 1
        logits, iou, small = (part if many else part[0] for part in found[:3])
        area = (logits > self.predictor["mask_threshold"]).sum(dim=(-2, -1))
        return {"logits": logits, "iou": iou, "low_res_logits": small, "area": area}

    def generate_masks(self, image: str, **parameters: Any) -> tuple[Everything, str]:
        output = parameters.pop("output_mode")
        if parameters["point_grids"] is not None:
            parameters["point_grids"] = tuple(np.array(grid) for grid in parameters["point_grids"])
        settings = EverythingSettings(**{OURS.get(name, name): value for name, value in parameters.items()})
        pixels = torch.from_numpy(self.photos[image]).permute(2, 0, 1)
        return everything(self.model, pixels, settings, self.prepare), output


OURS = {
    "pred_iou_thresh": "iou_threshold",
    "stability_score_thresh": "stability_threshold",
    "stability_score_offset": "stability_offset",
    "box_nms_thresh": "box_nms_threshold",
    "crop_n_layers": "crop_layers",
    "crop_nms_thresh": "crop_nms_threshold",
    "crop_overlap_ratio": "crop_overlap",
    "crop_n_points_downscale_factor": "crop_points_divisor",
    "min_mask_region_area": "min_region_area",
    "use_m2m": "refine",
    "multimask_output": "multimask",
}
"""Official parameters that have another name here."""


def sam2_pipeline(golden: Golden) -> None:
    pictures = Pictures(golden)
    with torch.inference_mode():
        for call in golden.content["calls"]:
            arguments = call["args"]
            if call["call"] != "generate_masks":
                check_outputs(
                    golden,
                    call,
                    {"set_image": pictures.set_image, "predict": pictures.predict}[call["call"]](**arguments),
                )
                continue
            found, output = pictures.generate_masks(**arguments)
            records = found.records(output)
            assert len(records) == call["records"]
            names = {entry["result"] for entry in call["outputs"]}
            check_outputs(golden, call, {name: np.array([record[name] for record in records]) for name in names})


HANDLERS = {"sam2/pipeline": sam2_pipeline}
