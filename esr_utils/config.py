"""Where things are, and how much work a notebook does: one frozen settings object for each scale."""

from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
SCALE_NAMES = ("quick", "standard", "paper")


def check_scale(scale: str) -> str:
    """``scale`` itself, or a ValueError that names the three."""
    if scale not in SCALE_NAMES:
        raise ValueError(f"unknown scale {scale!r}; choose one of {', '.join(SCALE_NAMES)}")
    return scale


def results_dir(pair: str, run: str, scale: str) -> Path:
    """Folder of a run. ``standard`` is committed; the other scales go where git does not look."""
    folder = DATA / "results" if check_scale(scale) == "standard" else ROOT / "runs" / scale
    return folder / pair / run


def figures_dir(scale: str) -> Path:
    """Folder of the figures of a scale; the committed ones are those of ``standard``."""
    return ROOT / "figures" if check_scale(scale) == "standard" else ROOT / "figures" / scale


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
        upper, prior_mean, prior_sd: of the search, in raw units of the decoder direction.
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
    upper: float = 300.0
    prior_mean: float = 65.0
    prior_sd: float = 30.0
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


@dataclass(frozen=True, kw_only=True)
class FineTuningScale:
    """Amount of work in notebook 06.

    Attributes:
        shares: of corrections in the mix.
        control_share: share at which the controls (pasted drifts, shuffled answers) are trained.
        n_seeds: trainings of each kind.
        n_examples: in a mix, all kinds together.
        n_answers: unsteered answers a training question.
        n_drift_latents, n_drifts: latents that derail training answers, and answers of each.
        drift_strengths: in raw units of the decoder direction; each latent draws one between them.
        drift_words: of a drift, from and below, before its sentence ends.
        correction_words, normal_words: of an answer in a correction and of a normal one, before its sentence ends.
        rank, alpha, dropout, blocks, learning_rate, n_passes, batch_size: of each training.
        n_latents, n_questions: evaluation latents of notebook 02, and questions of each.
        probed: shares of the base's calibrated strength at which an arm is probed to find its own.
        max_new_tokens: of every response.
    """

    shares: tuple[float, ...]
    control_share: float
    n_seeds: int
    n_examples: int
    n_answers: int
    n_drift_latents: int
    n_drifts: int
    drift_strengths: tuple[float, float] = (55.0, 95.0)
    drift_words: tuple[int, int] = (8, 24)
    correction_words: int = 40
    normal_words: int = 60
    rank: int
    alpha: int
    dropout: float
    blocks: str
    learning_rate: float
    n_passes: int
    batch_size: int = 8
    n_latents: int
    n_questions: int
    probed: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5)
    max_new_tokens: int
    seed: int = 0


_FINE_TUNING = FineTuningScale(
    shares=(0.0, 0.2, 0.4, 0.6, 0.8),
    control_share=0.4,
    n_seeds=2,
    n_examples=240,
    n_answers=20,
    n_drift_latents=150,
    n_drifts=6,
    rank=8,
    alpha=16,
    dropout=0.0,
    blocks="all",
    learning_rate=2e-3,
    n_passes=2,
    n_latents=24,
    n_questions=4,
    max_new_tokens=128,
)
FINE_TUNING = {
    "quick": replace(
        _FINE_TUNING,
        shares=(0.0, 0.4),
        n_seeds=1,
        n_examples=24,
        n_answers=1,
        n_drift_latents=12,
        n_drifts=2,
        n_passes=1,
        n_latents=4,
        n_questions=2,
        probed=(1.0, 2.0),
        max_new_tokens=48,
    ),
    "standard": _FINE_TUNING,
    "paper": replace(
        _FINE_TUNING,
        shares=(0.0, *(i / 10 for i in range(1, 10))),
        control_share=0.5,
        n_seeds=3,
        n_examples=918,
        n_answers=24,
        n_drifts=12,
        drift_words=(40, 100),
        correction_words=200,
        normal_words=400,
        rank=32,
        alpha=16,
        dropout=0.05,
        learning_rate=2e-4,
        n_passes=4,
        n_latents=285,
        n_questions=5,
        max_new_tokens=512,
    ),
}


@dataclass(frozen=True, kw_only=True)
class MetaPromptingScale:
    """Amount of work in notebook 05.

    Attributes:
        n_latents, n_questions: evaluation latents of notebook 02, and questions of each; every kind of suffix answers
            all of them, with and without steering.
        max_new_tokens: of every response.
    """

    n_latents: int
    n_questions: int
    max_new_tokens: int
    seed: int = 0


META_PROMPTING = {
    "quick": MetaPromptingScale(n_latents=4, n_questions=2, max_new_tokens=48),
    "standard": MetaPromptingScale(n_latents=16, n_questions=4, max_new_tokens=128),
    "paper": MetaPromptingScale(n_latents=1000, n_questions=5, max_new_tokens=512),
}


@dataclass(frozen=True, kw_only=True)
class FollowingScale:
    """Amount of work in the controls of notebook 04.

    Attributes:
        n_prefixes: most steered beginnings of each source (restarted, uncorrected); each fills four cells.
        n_repeats: responses of a cell or arm that differ in the seed alone.
        max_new_tokens: of every response in a cell, its beginning included.
        min_new_tokens: that a beginning leaves at least for the continuation.
        n_episodes: most responses that restarted whose segments are used; each fills four arms.
        segment_tokens: with which a response is begun.
        continued_tokens: new ones after a segment.
    """

    n_prefixes: int
    n_repeats: int
    max_new_tokens: int
    min_new_tokens: int
    n_episodes: int
    segment_tokens: int
    continued_tokens: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_new_tokens < self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens {self.min_new_tokens} must lie between 0 and max_new_tokens {self.max_new_tokens}, "
                "so that there is room for a beginning; lower it"
            )


_FOLLOWING = FollowingScale(
    n_prefixes=60,
    n_repeats=3,
    max_new_tokens=128,
    min_new_tokens=32,
    n_episodes=60,
    segment_tokens=24,
    continued_tokens=48,
)
FOLLOWING = {
    "quick": replace(_FOLLOWING, n_prefixes=3, n_repeats=1, n_episodes=4, continued_tokens=24),
    "standard": _FOLLOWING,
    "paper": replace(
        _FOLLOWING,
        n_prefixes=200,
        n_repeats=1,
        max_new_tokens=512,
        min_new_tokens=256,
        n_episodes=200,
        segment_tokens=48,
        continued_tokens=256,
    ),
}
