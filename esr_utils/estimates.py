"""What a study costs, told before it is started: responses, tokens, judge calls; hours and dollars at given rates.

Imports no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from esr_utils.config import check_scale
from esr_utils.scales import (
    ABLATION,
    DETECTION,
    FINE_TUNING,
    META_PROMPTING,
    AblationScale,
    DetectionScale,
    FineTuningScale,
    MetaPromptingScale,
)
from esr_utils.scales.meta_prompting import KINDS

N_LEVELS = 2  # of ``meta_prompting``
N_ARMS, N_HELD_OUT_ARMS = 6, 3  # of ``ablation``, without matched sets and random directions
N_CONTROLS = 2  # sources of drifts in ``inducing`` beside the steered ones


@dataclass(frozen=True, kw_only=True)
class Part:
    """``calls`` of a judge: by default one a response."""

    name: str
    responses: int
    calls: int | None = None


def _detection(scale: DetectionScale) -> list[Part]:
    n, n_levels = scale.n_latents, len(scale.levels)
    of_level = n * scale.n_questions * scale.n_repeats
    return [
        Part(name="calibration", responses=n * scale.n_steps * scale.n_samples),
        Part(name="verification", responses=n * scale.n_verify),
        Part(name="calibration, one sample a step", responses=n * (scale.n_steps + scale.n_verify)),
        Part(name="trials", responses=of_level * n_levels),
        Part(name="second judge", responses=0, calls=n_levels * min(scale.n_compared // n_levels, of_level)),
        Part(name="placebo, both parts", responses=0, calls=2 * min(scale.n_placebo, of_level)),
    ]


def _meta_prompting(scale: MetaPromptingScale) -> list[Part]:
    return [Part(name="trials", responses=scale.n_latents * scale.n_questions * len(KINDS) * N_LEVELS)]


def _ablation(scale: AblationScale) -> list[Part]:
    n, n_drawn = scale.n_latents, min(scale.n_set_questions, scale.n_questions)
    return [
        Part(name="single arms", responses=n * scale.n_questions * N_ARMS),
        Part(name="matched sets", responses=n * n_drawn * scale.n_sets),
        Part(name="random directions", responses=n * n_drawn * scale.n_directions),
        Part(name="held-out questions", responses=n * scale.n_held_out * N_HELD_OUT_ARMS),
    ]


def _fine_tuning(scale: FineTuningScale) -> list[Part]:
    n_arms = (len(scale.shares) + N_CONTROLS) * scale.n_seeds
    asked = scale.n_latents * scale.n_questions
    return [
        Part(name="base", responses=2 * asked),
        Part(name="arms, unsteered and at the base's strengths", responses=n_arms * 2 * asked),
        Part(name="probes for their own strengths", responses=n_arms * scale.n_latents * len(scale.probed)),
        Part(name="arms at their own strengths", responses=n_arms * asked),
    ]


STUDIES: dict[str, tuple[dict, Callable[..., list[Part]]]] = {
    "detection": (DETECTION, _detection),
    "meta_prompting": (META_PROMPTING, _meta_prompting),
    "ablation": (ABLATION, _ablation),
    "fine_tuning": (FINE_TUNING, _fine_tuning),
}


def estimate(
    study: str, scale_name: str, *, tokens_per_s: float | None = None, usd_per_call: float | None = None
) -> pd.DataFrame:
    """One line a part, then ``all``: responses, tokens_at_most, judge_calls, hours, usd. Of one subject.

    Hours are those of generation; without ``tokens_per_s`` they are NaN, as dollars are without ``usd_per_call``.
    Left out: choosing latents and measuring a prior; what only reads (profiles, damage); the controls of notebook 04
    beside the ablations; examples and training of notebook 06. All but detection take up the trials or strengths of
    detection, whose cost comes first. The placebo's calls are the most there can be.

    Raises:
        ValueError: an unknown study or scale, or a rate of tokens that is not positive.
    """
    if study not in STUDIES:
        raise ValueError(f"no estimate for study {study!r}; choose one of {', '.join(STUDIES)}")
    if tokens_per_s is not None and not tokens_per_s > 0:
        raise ValueError(f"tokens_per_s is {tokens_per_s}; give a positive rate, or None for no hours")
    scales, parts_of = STUDIES[study]
    scale = scales[check_scale(scale_name)]
    lines = [(p.name, p.responses, p.responses if p.calls is None else p.calls) for p in parts_of(scale)]
    table = pd.DataFrame(lines, columns=["part", "responses", "judge_calls"]).set_index("part")
    table.loc["all"] = table.sum()
    table.insert(1, "tokens_at_most", table["responses"] * scale.max_new_tokens)
    hours = table["tokens_at_most"] / ((tokens_per_s or float("nan")) * 3600)
    usd = table["judge_calls"] * (float("nan") if usd_per_call is None else usd_per_call)
    return table.assign(hours=hours, usd=usd)
