"""The learning-rate schedules of the Perception Language Model's official training code, and as textbooks have them.

Two quirks are reproduced by the rule "official". Its cosine flips its sign in every odd cycle, so that the rate jumps
to the peak at the last step. Its "wsd" begins the stable phase anew at the end of each cycle and measures the decay
against all steps so far instead of the decay's own, so that it ends above the lowest rate. Both rules warm up by t / W:
the first update has the rate 0 (`percepta.training.schedules` moves at once).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from percepta.errors import BadInput, one_of, out_of_range

SCHEDULERS = ("constant", "linear", "inv_sqrt", "cosine", "wsd")
RULES = ("official", "textbook")


@dataclass(frozen=True, slots=True)
class Rate:
    """A schedule of the peak rate's factor, a function of the step.

    Attributes:
        scheduler: "constant", "linear", "inv_sqrt", "cosine" or "wsd".
        steps: of the whole run, n >= 1.
        warmup: steps W of the rise, 0 or more; "constant" has none.
        lowest: factor that the curves fall to, above 0 for "wsd" and 0 to 1.
        cycle: length of a cycle as a share of the run, above 0: of "cosine" half a wave, of "wsd" a stable phase and
            its decay.
        theta: power of the time in "cosine"; 1 is the plain one.
        decay: share of a cycle that "wsd" decays for.
        power: of "inv_sqrt": (W / t) ** power.
        rule: "official" with the quirks, or "textbook".

    Raises: BadInput.
    """

    scheduler: str
    steps: int
    warmup: int = 0
    lowest: float = 0.1
    cycle: float = 1.0
    theta: float = 1.0
    decay: float = 0.1
    power: float = 0.5
    rule: str = "official"

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise one_of("scheduler", self.scheduler, SCHEDULERS, owner="Rate")
        if self.rule not in RULES:
            raise one_of("rule", self.rule, RULES, owner="Rate")
        if not 0 <= self.warmup < max(self.steps, 1) or self.steps < 1:
            raise BadInput(f"warmup of Rate must be 0 or more and below steps; got {self.warmup} of {self.steps}.")
        if not 0 <= self.lowest <= 1 or (self.scheduler == "wsd" and self.lowest == 0):
            raise out_of_range("lowest", self.lowest, "0 to 1, for wsd above 0", owner="Rate")
        if not self.cycle > 0 or int(self.steps * self.cycle) < 1:
            raise out_of_range("cycle", self.cycle, "above 0 and at least one step", owner="Rate")
        if self.scheduler == "wsd" and not 0 <= self.decay < self.cycle:
            raise out_of_range("decay", self.decay, "0 or more and below cycle", owner="Rate")

    def __call__(self, step: int) -> float:
        """Factor of the peak rate for update number `step`, from 0. Raises: BadInput for a negative one."""
        if step < 0:
            raise out_of_range("step", step, "0 or more", owner="Rate")
        if self.scheduler == "constant":
            return 1.0
        if step < self.warmup:
            return step / self.warmup
        curves = {"linear": self._linear, "inv_sqrt": self._inverse, "cosine": self._cosine, "wsd": self._wsd}
        return curves[self.scheduler](step)

    def _linear(self, step: int) -> float:
        passed = min(1.0, self._passed(step))
        return passed * self.lowest + (1 - passed)

    def _inverse(self, step: int) -> float:
        return max(self.warmup**self.power / step**self.power, self.lowest) if step else 1.0

    def _cosine(self, step: int) -> float:
        if step > self.steps:
            return self.lowest
        flipped = self.rule == "official" and step // (self.steps * self.cycle) % 2 == 1
        wave = math.cos(math.pi * self._passed(step) ** self.theta / self.cycle)
        return self.lowest + 0.5 * (1 - self.lowest) * (1 + (-wave if flipped else wave))

    def _wsd(self, step: int) -> float:
        length = int(self.steps * self.cycle)
        end = length * (step // length + 1)
        decaying = int(end * self.decay)
        into = step - (end - decaying)
        if into <= 0:
            return 1.0
        share = into / (end if self.rule == "official" else decaying)
        return 1 / (share / self.lowest + 1 - share)

    def _passed(self, step: int) -> float:
        return (step - self.warmup) / (self.steps - self.warmup)


def plm_cosine(step: int, total: int, warmup: int, decay: int) -> float:
    """The published schedule of all three stages, in the form of `SCHEDULES`: warm-up from 0, half a cosine to 1 %."""
    return Rate("cosine", total, warmup, lowest=0.01, rule="textbook")(step)
