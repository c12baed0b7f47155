"""Boxes and masks as COCO detection JSON, and back.

Unusual: masks are written as compressed run lengths whatever their shape, so that nothing is lost. Run lengths as text
or as lists, and polygons, are read just as COCO's own tools read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from percepta.errors import BadInput
from percepta.results.boxes import Boxes
from percepta.results.formats.polygons import counts_of_polygons
from percepta.results.masks import Counts, Masks, counts_of


def to_coco(results: Sequence[Boxes | Masks]) -> dict[str, Any]:
    """A COCO data set of one entry per picture; categories are numbered from 1 in order of appearance.

    Raises:
        BadInput: a result without a size.
    """
    categories: dict[str, int] = {}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, result in enumerate(results, start=1):
        if result.size is None:
            raise BadInput(f"COCO needs the size of every picture; Boxes of {result.source!r} have none.")
        height, width = result.size
        images.append({"id": number, "file_name": result.source, "height": height, "width": width})
        boxes = result.boxes() if isinstance(result, Masks) else result
        strings = result.to_strings() if isinstance(result, Masks) else None
        areas = result.area
        for row, xywh in enumerate(boxes.xywh.tolist()):
            category = categories.setdefault(result.names[row], len(categories) + 1)
            entry: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": category,
                "iscrowd": 0,
            }
            entry |= {"bbox": xywh, "area": float(areas[row])}
            if strings is not None:
                entry["segmentation"] = {"size": [height, width], "counts": strings[row]}
            if result.scores is not None:
                entry["score"] = float(result.scores[row])
            annotations.append(entry)
    named = [{"id": number, "name": name} for name, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": named}


def boxes_from_coco(data: Mapping[str, Any]) -> list[Boxes]:
    """One Boxes per picture, in the order of the file. Raises BadInput for a table that is not COCO's."""
    return [
        Boxes.from_xywh(
            image["file_name"], [row["bbox"] for row in rows], names, scores=_scores(rows), size=_size(image)
        )
        for image, rows, names in _pictures(data)
    ]


def masks_from_coco(data: Mapping[str, Any]) -> list[Masks]:
    """One Masks per picture. Raises BadInput for annotations without masks, and for a table that is not COCO's."""
    results = []
    for image, rows, names in _pictures(data):
        size = _size(image)
        counts = tuple(_counts(row.get("segmentation"), size, str(image["file_name"])) for row in rows)
        results.append(Masks(image["file_name"], size, counts, names, _scores(rows)))
    return results


def _counts(code: Any, size: tuple[int, int], source: str) -> Counts:
    """Run lengths of one annotation: text or a list of counts, or polygons."""
    if isinstance(code, Mapping) and "counts" in code:
        return counts_of(code["counts"])
    if isinstance(code, Sequence) and not isinstance(code, str) and code:
        return counts_of_polygons(code, size)
    raise BadInput(f"masks of {source!r} must be run lengths or polygons; got {str(code)[:40]!r}.")


def _pictures(data: Mapping[str, Any]) -> list[tuple[dict[str, Any], list[dict[str, Any]], tuple[str, ...]]]:
    try:
        names = {category["id"]: category["name"] for category in data["categories"]}
        rows: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            rows[annotation["image_id"]].append(annotation)
        return [
            (image, rows[image["id"]], tuple(names[row["category_id"]] for row in rows[image["id"]]))
            for image in data["images"]
        ]
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"COCO data must hold images, annotations and categories that fit; {error} is missing."
        ) from None


def _scores(rows: Sequence[Mapping[str, Any]]) -> Any:
    return [row["score"] for row in rows] if rows and all("score" in row for row in rows) else None


def _size(image: Mapping[str, Any]) -> tuple[int, int]:
    return int(image["height"]), int(image["width"])
