"""Scales of notebook 01."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class SteeringScale:
    """Amount of work in notebook 01. Strengths are in raw decoder units.

    Attributes:
        n_questions: evaluation questions per latent and strength of a sweep.
        n_grid_latents: latents in the grid.
        n_calibrated: latents calibrated.
        n_steps, n_samples, n_verify: of each calibration.
    """

    n_questions: int
    n_grid_latents: int
    n_calibrated: int
    n_steps: int
    n_samples: int
    n_verify: int
    max_new_tokens: int
    strengths: tuple[float, ...]


_STANDARD = SteeringScale(
    n_questions=8,
    n_grid_latents=8,
    n_calibrated=6,
    n_steps=10,
    n_samples=5,
    n_verify=20,
    max_new_tokens=96,
    strengths=(0.0, 40.0, 60.0, 80.0, 100.0, 120.0, 160.0),
)
STEERING = {
    "quick": SteeringScale(
        n_questions=3,
        n_grid_latents=4,
        n_calibrated=3,
        n_steps=5,
        n_samples=2,
        n_verify=4,
        max_new_tokens=48,
        strengths=(0.0, 70.0, 120.0),
    ),
    "standard": _STANDARD,
    "paper": replace(_STANDARD, n_questions=38, n_grid_latents=100, n_calibrated=100, max_new_tokens=256),
}
