from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samples import encode, picture, write_cifar

from percepta.errors import BadMedia, PerceptaError
from percepta.training.data import Batch, Mixture, batches, shares
from percepta.training.recipe import DataRecipe, make_recipe


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("cifar") / "train.parquet")


def data(**fields: Any) -> DataRecipe:
    values = {"model": "tiny", "steps": 1, "batch_size": 1, "learning_rate": 1, "data": {"workers": 0, **fields}}
    return make_recipe(values).data


def equal(first: Batch, second: Batch) -> bool:
    return first.step == second.step and all(
        np.array_equal(one.pictures, other.pictures)
        and one.captions == other.captions
        and one.hard_negatives == other.hard_negatives
        for one, other in zip(first.parts, second.parts, strict=True)
    )


def test_shares_follow_the_weights() -> None:
    assert shares([1, 1], 8) == [4, 4]
    assert shares([3, 1], 10) == [8, 2] or shares([3, 1], 10) == [7, 3]
    assert sum(shares([0.2, 0.5, 0.9], 17)) == 17
    assert shares([1, 1e-9], 4) == [4, 0]


def test_batches_are_functions_of_seed_and_step(cifar: Path) -> None:
    recipe = data(scenes={"size": 32}, cifar10={"path": str(cifar), "holdout": 50})
    one, other = Mixture(recipe, 12, seed=3), Mixture(recipe, 12, seed=3)
    for _ in range(2):
        one.batch(0)
    assert equal(one.batch(5), other.batch(5))
    assert not equal(one.batch(5), one.batch(6))
    assert not equal(one.batch(5), Mixture(recipe, 12, seed=4).batch(5))
    assert [len(part.captions) for part in one.batch(0).parts] == [6, 6]


def test_a_pool_gives_the_same_scenes_again() -> None:
    recipe = data(scenes={"size": 32, "pool": 6})
    mixture = Mixture(recipe, 6, seed=0)
    first, second = mixture.batch(0).parts[0], mixture.batch(1).parts[0]
    assert sorted(first.captions) == sorted(second.captions)
    assert first.captions != second.captions
    assert equal(Mixture(recipe, 6, seed=0).batch(1), mixture.batch(1))


def test_hard_negatives_can_be_left_out() -> None:
    part = Mixture(data(scenes={"size": 32, "hard_negatives": False}), 4, 0).batch(0).parts[0]
    assert part.hard_negatives is None


def test_every_row_is_seen_once_a_pass_and_held_out_rows_never(cifar: Path) -> None:
    mixture = Mixture(data(cifar10={"path": str(cifar), "holdout": 100}), 30, seed=0)
    seen = [row.tobytes() for step in range(10) for row in mixture.batch(step).parts[0].pictures]
    assert len(set(seen)) == 300
    held = mixture.heldout()[0]
    assert len(held.captions) == 100
    assert not {row.tobytes() for row in held.pictures} & set(seen)


def test_equal_classes_have_equal_captions_within_a_batch(cifar: Path) -> None:
    mixture = Mixture(data(cifar10={"path": str(cifar), "holdout": 10}), 64, seed=0)
    captions = [set(mixture.batch(step).parts[0].captions) for step in range(4)]
    assert all(len(found) <= 10 for found in captions)
    assert len(set.union(*captions)) > 10


def test_second_process_gives_the_same_batches(cifar: Path) -> None:
    inline = data(scenes={"size": 32}, cifar10={"path": str(cifar), "holdout": 50})
    with (
        batches(Mixture(replace(inline, workers=1), 8, 0), 3, 7) as (made, heldout),
        batches(Mixture(inline, 8, 0), 3, 7) as (plain, kept),
    ):
        assert [part.source for part in heldout] == [part.source for part in kept] == ["scenes", "cifar10"]
        pairs = list(zip(made, plain, strict=True))
    assert [first.step for first, _ in pairs] == [3, 4, 5, 6]
    assert all(equal(first, second) for first, second in pairs)


def test_errors_of_the_second_process_reach_the_first(tmp_path: Path) -> None:
    recipe = replace(data(cifar10={"path": str(tmp_path / "none.parquet")}), workers=1)
    with pytest.raises(PerceptaError, match=r"there is no file .*none.parquet"), batches(Mixture(recipe, 8, 0), 0, 2):
        pass


def test_second_process_starts_without_torch_and_ends_with_its_input() -> None:
    code = "from percepta.training.data import serve; serve(); import sys; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, env=environment, timeout=60, check=False
    )
    assert done.returncode == 0


def test_folder_source_reads_classes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label, name in enumerate(("red_thing", "green thing")):
        (tmp_path / name).mkdir()
        for number in range(6):
            Image.fromarray(picture(label, random, 40)).save(tmp_path / name / f"{number}.png")
    recipe = data(folder={"path": str(tmp_path), "size": 24, "holdout": 0.25, "prompts": ["a {}"]})
    mixture = Mixture(recipe, 9, seed=0)
    part = mixture.batch(0).parts[0]
    assert part.pictures.shape == (9, 24, 24, 3)
    assert set(part.captions) == {"a red thing", "a green thing"}
    assert part.augment.area == (1, 1)
    assert part.augment.flip == 0.5
    assert len(mixture.heldout()[0].captions) == 3
    assert equal(Mixture(recipe, 9, seed=0).batch(2), mixture.batch(2))


def test_shards_source_reads_pairs(tmp_path: Path) -> None:
    import webdataset

    random = np.random.default_rng(0)
    for shard in range(3):
        with webdataset.TarWriter(str(tmp_path / f"{shard}.tar")) as sink:
            for number in range(4):
                jpg = encode(picture(number, random, 30), "JPEG")
                sink.write({"__key__": f"{shard}{number}", "jpg": jpg, "txt": f"picture {shard} {number}"})
    recipe = data(shards={"path": str(tmp_path / "*.tar"), "size": 16, "validation": str(tmp_path / "0.tar")})
    mixture = Mixture(recipe, 12, seed=1)
    part = mixture.batch(0).parts[0]
    assert part.pictures.shape == (12, 16, 16, 3)
    assert len(set(part.captions)) == 12
    assert [caption[:9] for caption in mixture.heldout()[0].captions] == ["picture 0"] * 4


def test_a_holdout_that_leaves_nothing_is_refused(cifar: Path) -> None:
    with pytest.raises(BadMedia, match="must leave some"):
        Mixture(data(cifar10={"path": str(cifar), "holdout": 400}), 8, 0).batch(0)
