"""The protocols of `evaluate` by name. A new one is one entry here: how it is made, run, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from percepta import evaluation
from percepta.datasets.picture_sets import are_synsets, open_captioned, open_labelled, parts_of
from percepta.evaluation import Evaluation, Protocol
from percepta.evaluation.scenes_answers import scenes_answers_protocol
from percepta.tasks.evaluating.batches import Batches
from percepta.tasks.evaluating.clicks import run_clicks, run_scenes_clicks
from percepta.tasks.evaluating.dense import on_scenes, run_davis, run_segmentation
from percepta.tasks.evaluating.moments import run_scenes_moments, scenes_moments
from percepta.tasks.evaluating.nothing_here import run_cifar10_nothing_here, run_scenes_nothing_here
from percepta.tasks.evaluating.pictures import by_layer, by_resize
from percepta.tasks.evaluating.videobench import DATA, run_answering, videobench_protocol
from percepta.tasks.evaluating.vos import VIDEOS, run_scenes_vos, run_vos, run_vos_interactive
from percepta.tasks.evaluating.words import run_scenes_words
from percepta.tasks.prompts import class_names, templates_of

Data = Mapping[str, Path]
"""Where the data lie: "data", and "train" where the training part lies elsewhere."""


@dataclass(frozen=True, slots=True)
class Evaluator:
    """One row of the table.

    Attributes:
        make: the protocol with its default settings; `evaluate(settings=...)` replaces those that it names.
        run: (protocol, batches, data) to figures; everything that shapes them comes from the protocol's settings.
        line: what it measures, in one line.
        data: the data that it cannot do without, in words; empty for none.
        words: whether the model needs a text tower.
        prompts: whether it is for models that take prompts, such as SAM 2, instead of encoders.
        answers: whether it is for models that answer questions, such as PLM; these are run together.
    """

    make: Callable[[], Protocol]
    run: Callable[[Protocol, Batches, Data], Evaluation]
    line: str
    data: str = ""
    words: bool = True
    prompts: bool = False
    answers: bool = False


def _cifar10(protocol: Protocol, batches: Batches, data: Data) -> Evaluation:
    from percepta.datasets.cifar import read_cifar10

    return evaluation.evaluate_cifar10(read_cifar10(data["data"]), batches.pictures, batches.texts, protocol)


def _zero_shot(protocol: Protocol, batches: Batches, data: Data) -> Evaluation:
    labelled = open_labelled(_tested(data))
    if protocol.settings["classes"] is None and are_synsets(labelled.keys):
        labelled = labelled.renamed(class_names("imagenet"))
    pictures = by_resize(batches, protocol.settings["resizes"])
    return evaluation.evaluate_zero_shot(labelled, pictures, batches.texts, protocol)


def _retrieval(protocol: Protocol, batches: Batches, data: Data) -> Evaluation:
    pictures = by_resize(batches, [protocol.settings["resize"]])
    return evaluation.evaluate_retrieval(open_captioned(_tested(data)), pictures, batches.texts, protocol)


def _probe(protocol: Protocol, batches: Batches, data: Data) -> Evaluation:
    settings = protocol.settings
    pictures = by_layer(batches, settings["layers"], settings["pooling"], settings["norm"])
    parts = (data["train"], data["data"]) if "train" in data else parts_of(data["data"])
    if parts is None:
        train, test = evaluation.divided(open_labelled(data["data"]))
    else:
        train, test = (open_labelled(part) for part in parts)
    return evaluation.evaluate_probe(train, test, pictures, protocol)


def _tested(data: Data) -> Path:
    """The test part where the data are divided, else all of it."""
    parts = parts_of(data["data"])
    return data["data"] if parts is None else parts[1]


def _promptable(
    make: Callable[[], Protocol], run: Callable[[Protocol, Batches, Data], Evaluation], line: str, data: str = ""
) -> Evaluator:
    return Evaluator(make, run, line, data, words=False, prompts=True)


def _answering(make: Callable[[], Protocol], line: str, data: str = "") -> Evaluator:
    """One for models that answer: `run_answering` runs it, not an encoder's batches."""

    def run(protocol: Protocol, batches: Batches, data: Data) -> Evaluation:
        return next(run_answering([protocol], batches.encoder.model, None, data))

    return Evaluator(make, run, line, data, words=False, answers=True)


LABELLED = "labelled pictures: a folder of classes, webdataset tar files, or parquet or arrow with a column of labels"
DIVIDED = f"{LABELLED}; a training part from --train or a sub-folder train, else four fifths of them"
CAPTIONED = "pictures with captions: a folder, webdataset tar files, or parquet or arrow with a column of captions"
PROTOCOLS: dict[str, Evaluator] = {
    "zero-shot": Evaluator(
        lambda: evaluation.zero_shot_protocol(templates_of("imagenet")),
        _zero_shot,
        "accuracy of pictures against the names of their classes, the maximum of squash and centre crop",
        LABELLED,
    ),
    "retrieval": Evaluator(
        evaluation.retrieval_protocol,
        _retrieval,
        "captions to pictures and back, R@1, R@5, R@10, with and without dual softmax",
        CAPTIONED,
    ),
    "knn": Evaluator(
        evaluation.knn_protocol,
        _probe,
        "accuracy of the 20 nearest training pictures, on any layers",
        DIVIDED,
        words=False,
    ),
    "linear-probe": Evaluator(
        evaluation.linear_probe_protocol,
        _probe,
        "accuracy of logistic regression on frozen features of any layers",
        DIVIDED,
        words=False,
    ),
    "ridge-probe": Evaluator(
        evaluation.ridge_probe_protocol,
        _probe,
        "accuracy of ridge regression in closed form on frozen features of any layers",
        DIVIDED,
        words=False,
    ),
    "cifar10-zero-shot": Evaluator(
        evaluation.cifar10_protocol,
        _cifar10,
        "accuracy on the CIFAR-10 test photographs, the classes named in words",
        "the CIFAR-10 test photographs as a parquet file of the columns img and label",
    ),
    "scenes-retrieval": Evaluator(
        evaluation.scenes_retrieval_protocol,
        lambda protocol, batches, _: evaluation.evaluate_scenes_retrieval(batches.pictures, batches.texts, protocol),
        "captions to generated scenes and back, R@1, R@5, R@10",
    ),
    "scenes-hard-negatives": Evaluator(
        evaluation.scenes_hard_negatives_protocol,
        lambda protocol, batches, _: evaluation.evaluate_scenes_hard_negatives(
            batches.pictures, batches.texts, protocol
        ),
        "the true caption of a generated scene against one with swapped attributes or relations",
    ),
    "scenes-video-retrieval": Evaluator(
        evaluation.scenes_video_retrieval_protocol,
        lambda protocol, batches, _: evaluation.evaluate_scenes_video_retrieval(
            batches.videos, batches.texts, protocol
        ),
        "captions to generated clips and back, R@1, R@5, R@10",
    ),
    "scenes-moments": Evaluator(
        scenes_moments,
        lambda protocol, batches, _: run_scenes_moments(protocol, batches),
        "captions to the interval of their clip in joined videos, beside fixed steps",
    ),
    "scenes-nothing-here": Evaluator(
        evaluation.scenes_nothing_here_protocol,
        lambda protocol, batches, _: run_scenes_nothing_here(protocol, batches),
        "how often a search of generated scenes stays empty when it should, and finds what is there",
    ),
    "cifar10-nothing-here": Evaluator(
        evaluation.cifar10_nothing_here_protocol,
        run_cifar10_nothing_here,
        "the same for folders of CIFAR-10 test photographs and the names of their classes",
        "the CIFAR-10 test photographs as a parquet file of the columns img and label",
    ),
    "segmentation": Evaluator(
        evaluation.segmentation_protocol,
        run_segmentation,
        "mIoU of a linear probe on pictures with masks, on any layers",
        "a folder with images and masks (PNG of class numbers); the training part from --train, or sub-folders train "
        "and test",
        words=False,
    ),
    "scenes-segmentation": Evaluator(
        evaluation.scenes_segmentation_protocol,
        on_scenes(evaluation.evaluate_scenes_segmentation),
        "mIoU of a linear probe that names the shape at each pixel of generated scenes, on any layers",
        words=False,
    ),
    "scenes-depth": Evaluator(
        evaluation.scenes_depth_protocol,
        on_scenes(evaluation.evaluate_scenes_depth),
        "error in metres of a linear probe of depth on generated scenes, on any layers",
        words=False,
    ),
    "scenes-position": Evaluator(
        evaluation.scenes_position_protocol,
        on_scenes(evaluation.evaluate_scenes_position),
        "error of a linear probe that tells from one patch where its object's centre is, on any layers",
        words=False,
    ),
    "scenes-tracking": Evaluator(
        evaluation.scenes_tracking_protocol,
        on_scenes(evaluation.evaluate_scenes_tracking),
        "J&F of masks handed on from the first frame of generated clips, zero-shot, on any layers",
        words=False,
    ),
    "scenes-objects": Evaluator(
        evaluation.scenes_objects_protocol,
        on_scenes(evaluation.evaluate_scenes_objects),
        "the share of a generated scene's objects that the mean of its tokens names, on any layers",
        words=False,
    ),
    "davis-tracking": Evaluator(
        evaluation.davis_tracking_protocol,
        run_davis,
        "J&F of masks handed on from the first frame of the DAVIS 2017 videos, zero-shot, on any layers",
        "the folder of DAVIS 2017 with JPEGImages, Annotations and ImageSets",
        words=False,
    ),
    "vos": _promptable(
        evaluation.vos_protocol,
        run_vos,
        "J&F of objects followed through videos from their mask (or box, or clicks) in the first frame",
        VIDEOS,
    ),
    "vos-interactive": _promptable(
        evaluation.vos_interactive_protocol,
        run_vos_interactive,
        "J&F and annotation time when objects are clicked again where they go wrong, offline or online",
        VIDEOS,
    ),
    "clicks": _promptable(
        evaluation.clicks_protocol,
        run_clicks,
        "mIoU of objects in pictures after 1 to 5 clicks",
        VIDEOS,
    ),
    "scenes-vos": _promptable(
        evaluation.scenes_vos_protocol,
        lambda protocol, batches, _: run_scenes_vos(protocol, batches),
        "J&F of objects in generated clips that hide them, and whether the model knows when it cannot see them",
    ),
    "scenes-words": _promptable(
        evaluation.scenes_words_protocol,
        lambda protocol, batches, _: run_scenes_words(protocol, batches),
        "whether words find the right object of a generated scene, and nothing where nothing fits",
    ),
    "scenes-clicks": _promptable(
        evaluation.scenes_clicks_protocol,
        lambda protocol, batches, _: run_scenes_clicks(protocol, batches),
        "mIoU of objects in generated scenes after 1 to 5 clicks",
    ),
    "videobench": _answering(
        videobench_protocol,
        "PLM-VideoBench: fine-grained and smart-glasses questions, captions and times of regions, and all they do",
        DATA,
    ),
    "scenes-videobench": _answering(
        evaluation.scenes_videobench_protocol,
        "the five tasks of PLM-VideoBench on generated clips, beside the right, the usual and blind answers",
    ),
    "scenes-answers": _answering(
        scenes_answers_protocol,
        "questions about generated scenes and clips: exact answers, whole captions, times, beside blind answers",
    ),
}
GROUPS: dict[str, tuple[str, ...]] = {
    "nano": ("cifar10-zero-shot", "scenes-retrieval", "scenes-hard-negatives", "scenes-video-retrieval"),
}
"""Protocols by one name: "nano" are those of the nano model's card."""
