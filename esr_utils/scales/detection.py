"""Scales of notebook 02."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class DetectionScale:
    """Amount of work in notebook 02.

    Attributes:
        n_latents: latents steered, drawn from those that pass the filters.
        n_questions: evaluation questions a latent; each is answered at every level.
        levels: shares of the latent's calibrated strength; 0 is the unsteered arm, 1 the main one.
        n_repeats: responses that differ in the seed alone.
        n_steps, n_samples, n_verify: of each calibration.
        n_compared: trials that the second judge grades as well.
        n_placebo: single-attempt responses that are split as if they had restarted.
        n_sims, simulated_rates: of the check that intervals cover.
        max_new_tokens: of every response, in the calibration as in the trials.
        seed: of latents, questions, search and responses.
    """

    n_latents: int
    n_questions: int
    levels: tuple[float, ...]
    n_repeats: int = 1
    n_steps: int
    n_samples: int
    n_verify: int
    n_compared: int
    n_placebo: int
    n_sims: int
    max_new_tokens: int
    simulated_rates: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    seed: int = 0


_DETECTION = DetectionScale(
    n_latents=60,
    n_questions=6,
    levels=(0.0, 0.5, 0.75, 1.0, 1.25, 1.5),
    n_steps=10,
    n_samples=4,
    n_verify=20,
    n_compared=300,
    n_placebo=300,
    n_sims=1000,
    max_new_tokens=128,
)
DETECTION = {
    "quick": DetectionScale(
        n_latents=6,
        n_questions=3,
        levels=(0.0, 0.5, 1.0),
        n_steps=4,
        n_samples=2,
        n_verify=4,
        n_compared=12,
        n_placebo=12,
        n_sims=25,
        simulated_rates=(0.1,),
        max_new_tokens=48,
    ),
    "standard": _DETECTION,
    "paper": replace(_DETECTION, n_latents=1000, n_questions=5, levels=(0.0, 1.0), n_samples=5, max_new_tokens=512),
}
