"""Training to answer: rows equal to single conversations, what trains, resuming, low-rank changes, nothing to learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import percepta
from percepta.errors import BadInput, CheckpointMismatch
from percepta.models.perception_lm import MediaLayout
from percepta.models.perception_lm.chat import Message, training_example
from percepta.training import make_recipe, read_records, run
from percepta.training.answering import Answer, AnswerLearner, answer_logits, examples_of, gather, inputs_of
from percepta.training.answering_rows import Branches, branch_mask, document_of, joined_row
from percepta.training.answering_start import adopt, begin_from, chat_for
from percepta.training.data import Mixture
from percepta.training.data_recipe import AugmentRecipe
from percepta.training.loop import MODEL_FILE, STATE_FILE, make_model
from percepta.training.ranks import Ranks
from percepta.training.recipe import Recipe
from percepta.training.sources import Dialogue, Part

TOWER = {"width": 48, "depth": 1, "heads": 2, "layer_scale": None}
TEXT = {"vocabulary": 928, "width": 48, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 96, "max_length": 1024}
SMALL = {"vision": TOWER, "text": TEXT}
SOURCES = {"scene_questions": {"questions": 4}, "clip_questions": {"questions": 3, "frames": 4}}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(out: Path | str = "unused", sources: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    values = {
        "model": "plm-nano",
        "model_overrides": SMALL,
        "objective": "answer",
        "out": str(out),
        "steps": 4,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "optimiser": "muon",
        "gradient_clip": 1.0,
        "schedule": "constant",
        "log_every": 2,
        "save_every": 2,
        "evaluate_every": 2,
        "answer": {"length": 1024},
        "data": {"workers": 0, "validation_samples": 2, **(sources or SOURCES)},
    }
    return make_recipe({**values, **changes})


def small_model(**changes: Any) -> Any:
    torch.manual_seed(0)
    return percepta.build("plm-nano", **{**SMALL, **changes}).eval()


@pytest.fixture(scope="module")
def parts() -> tuple[Part, ...]:
    return Mixture(recipe().data, 4, seed=0).batch(0).parts


def test_a_row_equals_single_conversations(parts: tuple[Part, ...]) -> None:
    model, settings = small_model(), recipe().answer
    assert settings is not None
    template = chat_for(model, "plm-nano", settings)
    inputs = inputs_of(gather(template, parts, 64, 1024))
    together = answer_logits(model, inputs)
    alone: list[Tensor] = []
    targets: list[int] = []
    at = 0
    for part in parts:
        for index in range(len(part)):
            chunks = inputs.chunks[at : at + part.frames]
            at += part.frames
            for example in examples_of(template, part, index, 1024)[0]:
                tokens = torch.from_numpy(example.tokens[None, :-1])
                place = torch.from_numpy(np.where(example.pictures[:-1], 0, -1))[None]
                layout = MediaLayout(place, (len(chunks),), (example.kind,))
                logits = model(tokens, chunks, layout)[0]
                alone.append(logits[torch.from_numpy(example.supervised[1:])])
                targets += example.tokens[1:][example.supervised[1:]].tolist()
    assert inputs.row.targets.tolist() == targets
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=2e-5)
    singles = sum(
        len(each.tokens) for part in parts for i in range(len(part)) for each in examples_of(template, part, i, 1024)[0]
    )
    assert inputs.row.tokens.shape[1] < 0.6 * singles  # pictures are there once


def test_questions_of_a_picture_do_not_see_each_other(parts: tuple[Part, ...]) -> None:
    model, settings = small_model(), recipe().answer
    assert settings is not None
    template = chat_for(model, "plm-nano", settings)
    part = replace(parts[0], pictures=parts[0].pictures[:1], dialogues=parts[0].dialogues[:1], total=0)
    first = answer_logits(model, inputs_of(gather(template, [part], 64, 1024)))
    (dialogues,) = part.dialogues
    changed = replace(part, dialogues=((Dialogue("colour", (("what?", "green"),)), *dialogues[1:]),))
    second = answer_logits(model, inputs_of(gather(template, [changed], 64, 1024)))
    own = len(examples_of(template, part, 0, 1024)[0][0].supervised.nonzero()[0])
    other = len(examples_of(template, changed, 0, 1024)[0][0].supervised.nonzero()[0])
    torch.testing.assert_close(first[own:], second[other:], rtol=1e-4, atol=1e-5)


def test_branches_see_the_beginning_and_themselves() -> None:
    mask = branch_mask(2, (2, 1), torch.device("cpu"))
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    way = Branches([(2, (2, 1)), (0, (3,))], torch.device("cpu"))
    query, key, value = (torch.randn(1, heads, 8, 4) for heads in (4, 2, 2))
    mixed = way.attend(0, query, key, value, 0.5)
    changed = value.clone()
    changed[:, :, 2:4] += 1  # the first branch of the first document
    other = way.attend(0, query, key, changed, 0.5)
    assert not torch.equal(mixed[:, :, 2:4], other[:, :, 2:4])
    torch.testing.assert_close(mixed[:, :, [0, 1, 4, 5, 6, 7]], other[:, :, [0, 1, 4, 5, 6, 7]])


def test_positions_go_on_from_the_beginning(parts: tuple[Part, ...]) -> None:
    template = chat_for(small_model(), "plm-nano", recipe().answer)
    examples = examples_of(template, parts[0], 0, 1024)[0]
    document = document_of(examples)
    shown = int(examples[0].pictures.nonzero()[0][-1])
    assert document.beginning == shown + 1
    starts = document.beginning + np.cumsum([0, *document.branches[:-1]])
    assert document.positions[starts].tolist() == [document.beginning] * len(examples)
    assert document.positions.max() == max(each.inputs for each in examples) - 1
    assert not document.supervised[: document.beginning].any()


def test_loss_is_the_mean_over_all_supervised_tokens(parts: tuple[Part, ...]) -> None:
    model = small_model()
    objective = Answer(recipe(), model, Ranks())
    whole = objective.learner(inputs_of(gather(objective.template, parts, 64, 1024)))
    pieces = [objective.learner(inputs_of(gather(objective.template, [part], 64, 1024))) for part in parts]
    counts = torch.stack([losses[2] for losses in pieces])
    assert whole[2] == counts.sum()
    torch.testing.assert_close(whole[0], (torch.stack([each[0] for each in pieces]) * counts).sum() / counts.sum())


def test_two_processes_weigh_tokens_alike(parts: tuple[Part, ...]) -> None:
    """Each divides by the mean number of tokens, so that the mean over processes is the mean over tokens."""

    class Half(Ranks):
        def mean(self, own: Tensor) -> Tensor:
            return torch.tensor(mean)

    model, settings = small_model(), recipe()
    template = chat_for(model, "plm-nano", settings.answer)
    made = [inputs_of(gather(template, [part], 64, 1024)) for part in parts]
    mean = sum(len(each.row.targets) for each in made) / 2
    halves = [AnswerLearner(model, settings, Half(0, 2), None)(each)[0] for each in made]
    together = AnswerLearner(model, settings, Ranks(), None)(inputs_of(gather(template, parts, 64, 1024)))[0]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, together)


def test_nothing_to_learn_is_left_out_and_counted() -> None:
    model = small_model()
    said = Dialogue("caption", (("describe " * 300, "a red star"),))
    short = Dialogue("caption", (("describe", "a red star"),))
    pictures = np.zeros((2, 64, 64, 3), np.uint8)
    objective = Answer(recipe(answer={"length": 200}), model, Ranks())
    part = Part("scene_questions", pictures, [], AugmentRecipe(), dialogues=((said,), (said, short)))
    found = gather(objective.template, [part], 64, 200)
    assert (found.skipped, len(found.documents), len(found.chunks)) == (2, 1, 1)
    nothing = inputs_of(gather(objective.template, [replace(part, dialogues=((said,), (said,)))], 64, 200))
    losses = objective.learner(nothing)
    losses[0].backward()
    assert losses.tolist() == [0.0, 0.0, 0.0]
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_words_alone_train_beside_pictures() -> None:
    model = small_model()
    objective = Answer(recipe(), model, Ranks())
    said = (Dialogue("text", (("what is red?", "a colour"), ("and a star?", "a shape"))),)
    pictures = np.zeros((1, 64, 64, 3), np.uint8)
    part = Part("talk", pictures, [], AugmentRecipe(), dialogues=(said, said), chunks=(1, 0), media=("image", "text"))
    inputs = inputs_of(gather(objective.template, [part], 64, 1024))
    assert len(inputs.row.shapes) == 2
    assert len(inputs.chunks) == 1
    assert torch.isfinite(objective.learner(inputs)).all()


def test_a_source_without_conversations_is_refused() -> None:
    objective = Answer(recipe(), small_model(), Ranks())
    part = Part("scenes", np.zeros((1, 64, 64, 3), np.uint8), ["a"], AugmentRecipe())
    with pytest.raises(BadInput, match="needs conversations; the source scenes"):
        gather(objective.template, [part], 64, 1024)


def test_a_part_that_stays_evaluates_and_modes_change_no_gradients(parts: tuple[Part, ...]) -> None:
    """Officially the mode of the model decides which weights learn, against whatever was chosen before."""
    model = small_model(vision={**TOWER, "drop_path": 0.5})
    objective = Answer(recipe(answer={"length": 1024, "train": ["projector"]}), model, Ranks())
    before = {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert {name.split(".")[0] for name, trains in before.items() if trains} == {"projector"}
    modes = (model.vision.training, model.projector.training, model.decoder.training)
    assert modes == (False, True, False)
    objective.validate(
        model,
        [replace(part, pictures=part.pictures[:1], dialogues=part.dialogues[:1]) for part in parts[:1]],
        64,
        torch.device("cpu"),
    )
    assert (model.vision.training, model.projector.training, model.decoder.training) == modes
    inputs = inputs_of(gather(objective.template, parts[:1], 64, 1024))
    assert torch.equal(objective.learner(inputs), objective.learner(inputs))  # the tower drops nothing
    for _ in range(2):
        model.eval().train()
        assert {name: weight.requires_grad for name, weight in model.named_parameters()} == before


@pytest.mark.parametrize("trained", [("projector",), ("projector", "decoder"), ("vision", "projector", "decoder")])
def test_a_stage_changes_the_named_parts_alone(tmp_path: Path, trained: tuple[str, ...]) -> None:
    settings = recipe(
        tmp_path, steps=2, evaluate_every=0, answer={"length": 1024, "train": list(trained)}, optimiser="adamw"
    )
    torch.manual_seed(settings.seed)
    before = make_model(settings).state_dict()
    run(settings)
    after = load_file(tmp_path / MODEL_FILE)
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == set(trained)


def test_killed_and_resumed_gives_the_same_weights_and_counts(tmp_path: Path) -> None:
    whole = recipe(tmp_path / "whole", evaluate_every=0, answer={"length": 72})
    run(whole)
    half = replace(whole, out=str(tmp_path / "half"))

    def stop(step: int, *_: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(half, progress=stop)
    assert (tmp_path / "half" / STATE_FILE).is_file()
    assert run(half).finished
    first, second = (load_file(tmp_path / name / MODEL_FILE) for name in ("whole", "half"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    counts = [[record["skipped"] for record in read_records(tmp_path / name)] for name in ("whole", "half")]
    assert counts[0] == counts[1]
    assert counts[0][-1] > counts[0][0] > 0


def test_low_rank_changes_are_in_what_is_saved_and_nowhere_else(tmp_path: Path) -> None:
    lora = {"rank": 2, "alpha": 4.0, "layers": ["decoder.layers.*.q_proj", "decoder.layers.*.down_proj"]}
    answer = {"length": 1024, "train": [], "lora": lora}
    settings = recipe(tmp_path, steps=3, evaluate_every=0, answer=answer, optimiser="adamw", learning_rate=0.05)
    torch.manual_seed(settings.seed)
    before = make_model(settings)
    objective = Answer(settings, make_model(settings), Ranks())
    trained = [name for name, weight in objective.learner.named_parameters() if weight.requires_grad]
    assert trained
    assert all(name.startswith("low_rank.") for name in trained)
    run(settings)
    after = load_file(tmp_path / MODEL_FILE)
    state = load_file(tmp_path / STATE_FILE)
    changed = [name for name, value in before.state_dict().items() if not torch.equal(value, after[name])]
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "down_proj"}
    for name in changed:
        assert torch.equal(state[f"learner.model.{name}"], before.state_dict()[name])
        assert torch.linalg.matrix_rank(after[name] - before.state_dict()[name], rtol=1e-3) <= 2
    saved = percepta.load(tmp_path / MODEL_FILE)
    live = make_model(settings).eval()
    objective = Answer(settings, live, Ranks())
    objective.learner.load_state_dict(
        {n.removeprefix("learner."): v for n, v in state.items() if n.startswith("learner.")}
    )
    inputs = objective.inputs(Mixture(settings.data, 4, 0).batch(0), 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            answer_logits(live.eval(), inputs), answer_logits(saved, inputs), rtol=1e-3, atol=1e-4
        )


def test_layer_scale_is_inserted_between_stages(tmp_path: Path) -> None:
    first = recipe(tmp_path, steps=1, evaluate_every=0, optimiser="adamw")
    run(first)
    scaled = small_model(vision={**TOWER, "layer_scale": 0.1})
    begin_from(scaled, [str(tmp_path / MODEL_FILE)])
    stage = load_file(tmp_path / MODEL_FILE)
    assert all(torch.equal(value, stage[name]) for name, value in scaled.state_dict().items() if name in stage)
    gammas = [value for name, value in scaled.state_dict().items() if name not in stage]
    assert len(gammas) == 2
    assert all((value == 0.1).all() for value in gammas)


def test_the_tower_may_begin_with_the_first_blocks_of_another() -> None:
    model = percepta.build("plm-nano", vision={"depth": 3, "layer_scale": None}, text=TEXT)
    begin_from(model, ["pe-core-nano"])
    tower = percepta.load("pe-core-nano").vision
    assert torch.equal(model.vision.blocks[2].mlp.expand.weight, tower.blocks[2].mlp.expand.weight)
    with pytest.raises(CheckpointMismatch, match="pe-core-nano"):
        adopt(small_model().vision, tower.state_dict(), "pe-core-nano")


def test_a_chat_that_does_not_fit_is_refused() -> None:
    model = small_model(text={**TEXT, "vocabulary": 100})
    with pytest.raises(BadInput, match="has 100"):
        chat_for(model, "plm-nano", recipe().answer)
    with pytest.raises(BadInput, match="plm-1b has no packaged chat"):
        chat_for(model, "plm-1b", recipe().answer)


def test_tokens_are_those_of_the_chat(parts: tuple[Part, ...]) -> None:
    template = chat_for(small_model(), "plm-nano", recipe().answer)
    ((question, answer),) = parts[0].dialogues[0][0].turns
    example = training_example(template, [Message("human", question), Message("assistant", answer)], 1, "image", 1024)
    row = joined_row([document_of([example])])
    assert row.tokens[0].tolist() == example.tokens[:-1].tolist()
    assert template.decode(row.targets.tolist()).endswith(f"{answer}<|eot_id|><|end_of_text|>")


@pytest.mark.slow
def test_loss_falls_and_answers_beat_guessing(tmp_path: Path) -> None:
    """The colour of one thing among things of other colours: one of eight, and with distractors no constant does it."""
    sources = {"scene_questions": {"questions": 0, "kinds": ["colour"], "choices": 0.0, "dialogues": 0.0}}
    settings = recipe(
        tmp_path, sources, steps=60, batch_size=12, log_every=10, evaluate_every=60, save_every=60,
        answer={"length": 1024, "begin": ["pe-core-nano"]},
        model_overrides={"vision": {"depth": 3}, "text": {**TEXT, "width": 96, "hidden": 192}},
        data={"workers": 0, "validation_samples": 60, **sources},
    )  # fmt: skip
    run(settings)
    records = read_records(tmp_path)
    losses = [float(record["loss"]) for record in records if "loss" in record]
    (exact,) = (float(record[key]) for record in records for key in record if key.endswith("scene_questions.exact"))
    assert losses[-1] < 0.2 * losses[0]
    assert exact > 0.25, "twice what guessing one of eight colours gets"
