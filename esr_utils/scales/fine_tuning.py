"""Scales of notebook 06."""

from dataclasses import dataclass, replace


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
        rank, alpha, dropout, learning_rate, n_passes, batch_size: of each training.
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
