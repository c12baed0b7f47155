"""The processes of a run: who starts them, how they find each other, how they end.

With `devices` above 1 the calling process becomes the first and starts the others as `torchrun` would, by environment
variables; under `torchrun` itself nothing is started. Unusual: the others are plain subprocesses that get the recipe
through a pipe, so that no script is run twice and no main module need be guarded. They end when the first one ends,
even by a kill, and what goes wrong in one of them is raised in the first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as distributed

from percepta.errors import BadInput, MissingExtra, PerceptaError
from percepta.training.ranks import Ranks
from percepta.training.recipe import Recipe
from percepta.training.sharding import shared_out, strategy_of

RUN_ID = "TORCHELASTIC_RUN_ID"
"""Set by `torchrun`, and here: the sign by which Fabric and we recognise that processes were started from outside."""
PATIENCE = 60.0
"""Seconds that the first process waits for the others to end after a finished run."""


@contextlib.contextmanager
def processes(recipe: Recipe, model: Any, resume: bool) -> Iterator[Ranks]:
    """This process's place among those of a run; starts the others where the recipe asks for them and nobody did.

    Raises:
        BadInput: a batch that cannot be dealt out evenly, or a `model` that cannot be sent to another process.
        PerceptaError: what went wrong in another process.
    """
    started_outside = RUN_ID in os.environ
    size = int(os.environ["WORLD_SIZE"]) if started_outside else recipe.devices
    if recipe.batch_size % (size * recipe.accumulate):
        passes = "" if recipe.accumulate == 1 else f" times the {recipe.accumulate} passes of accumulate"
        raise BadInput(
            f"batch_size must be a multiple of the {size} devices that share it{passes}; got {recipe.batch_size}."
        )
    if started_outside:
        with _group():
            yield Ranks(int(os.environ["RANK"]), size)
    elif size == 1:
        yield Ranks()
    else:
        with _Others(recipe, model, resume), _group():
            yield Ranks(0, size)


def make_fabric(recipe: Recipe, ranks: Ranks) -> Any:
    """Fabric for this process, joined with the others.

    Raises:
        MissingExtra: Lightning is not installed. BadInput: no such accelerator, or not that many devices.
    """
    try:
        from lightning.fabric import Fabric
        from lightning.fabric.utilities.exceptions import MisconfigurationException
    except ImportError as error:
        raise MissingExtra("lightning", "train", "Training") from error
    for name in ("lightning.fabric", "lightning.pytorch"):  # they announce the settings of every run
        logging.getLogger(name).setLevel(logging.WARNING)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if ranks.size > 1 else 1
    strategy: Any = "ddp" if ranks.size > 1 else "auto"
    if shared_out(recipe, ranks):
        strategy = strategy_of(ranks)
    try:
        fabric = Fabric(accelerator=recipe.accelerator, devices=here, num_nodes=ranks.size // here, strategy=strategy)
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise BadInput(
            f"accelerator must be cpu, cuda, mps or auto, with {here} of them at hand; got {recipe.accelerator!r}."
        ) from error
    fabric.launch()
    return fabric


@contextlib.contextmanager
def _group() -> Iterator[None]:
    """Whatever group of processes is joined inside is left at the end."""
    joined = distributed.is_initialized()
    try:
        yield
    finally:
        if distributed.is_initialized() and not joined:
            distributed.destroy_process_group()


class _Others:
    """The other processes, seen from the first."""

    def __init__(self, recipe: Recipe, model: Any, resume: bool) -> None:
        try:
            self.order = pickle.dumps((recipe, model, resume))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise BadInput(f"model must be picklable to train on {recipe.devices} devices; {error}.") from error
        self.size = recipe.devices
        self.running: list[subprocess.Popen[bytes]] = []
        self.before: dict[str, str | None] = {}

    def __enter__(self) -> None:
        shared = {
            RUN_ID: "percepta",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "WORLD_SIZE": str(self.size),
            "LOCAL_WORLD_SIZE": str(self.size),
            "GROUP_RANK": "0",
        }
        search = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-c", "from percepta.training.launching import serve; serve()"]
        own = {**shared, "RANK": "0", "LOCAL_RANK": "0"}
        self.before = {name: os.environ.get(name) for name in own}
        try:
            for rank in range(1, self.size):
                place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                environment = {**os.environ, **search, **shared, **place}
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
                self.running.append(process)
                assert process.stdin is not None
                process.stdin.write(self.order)
                process.stdin.flush()
            for process in self.running:
                self._await(process)
        except BaseException:
            self._end()
            raise
        os.environ.update(own)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        told = self._told() if isinstance(error, RuntimeError) else None
        if error is None:
            for process in self.running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)
        self._end()
        if told is not None:
            raise told from error

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a process is about to join; from then on, losing one breaks the connection of all."""
        answer = _read(process)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            raise PerceptaError("a process of the training ended while it started; see what it wrote above.")

    def _told(self) -> Exception | None:
        """What another process said before it ended: the cause, where the first one saw only a lost connection."""
        for process in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            if process.poll() is not None and isinstance(answer := _read(process), Exception):
                return answer
        return None

    def _end(self) -> None:
        for process in self.running:
            process.kill()
            process.communicate()


def serve() -> None:
    """One of the other processes: reads (recipe, model, resume), and trains."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the first process, which then tells all to stop
        signal.signal(number, signal.SIG_IGN)
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not mix with the answers
    recipe, model, resume = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(answer: object) -> None:
        pickle.dump(answer, output)
        output.flush()

    try:
        from percepta.training.loop import make_model, run

        torch.manual_seed(recipe.seed)  # the first weights of all processes are the same
        model = make_model(recipe) if model is None else model
        tell("ready")
        run(recipe, model=model, resume=resume)
    except (PerceptaError, ImportError, OSError, ValueError, RuntimeError, TypeError) as error:
        # As plain text: an error class may need more than its message to be rebuilt on the other side.
        tell(PerceptaError(str(error) if isinstance(error, PerceptaError) else f"{type(error).__name__}: {error}"))
        os._exit(1)


def _end_with_parent() -> None:
    told = b"more"
    while told:  # not read through the buffer, whose lock would disturb an ordinary end
        told = os.read(sys.stdin.fileno(), 1024)
    os._exit(1)


def _read(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    try:
        return pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError):
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def share_threads(recipe: Recipe, ranks: Ranks) -> None:
    """Set the number of CPU threads: the recipe's, or with several processes on one machine a share each."""
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    elif ranks.size > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
