"""ESR induced by fine-tuning: examples made, adapters trained, every arm measured on the same latents and questions.

As in ``detection``, every step reads what the run holds and makes the rest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from esr_utils import frames, latents
from esr_utils.calibration import calibrate, calibration_table
from esr_utils.config import DETECTION, ROOT, FineTuningScale, results_dir
from esr_utils.corrections import (
    TrainingExample,
    load_restarts,
    make_corrections,
    mix,
    normal_examples,
    pasted_drifts,
    steered_drifts,
    unsteered_answers,
)
from esr_utils.detection import JUDGE, READER, Detection, load_engine
from esr_utils.engines.hf import HFEngine
from esr_utils.fine_tuning import TrainingSettings, train
from esr_utils.judging import first_scores
from esr_utils.models import Pair, adapted
from esr_utils.prompts import load_prompts
from esr_utils.records import PlannedTrial, Run, digest, open_run
from esr_utils.sae import SAE
from esr_utils.steering import Sampling
from esr_utils.trials import is_judged, is_made, judge_trials, plan_trials, run_trials

NEAR = 0.3  # cosine above which two latents count as one subject
Source = Literal["steered", "pasted", "shuffled"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One fine-tuning of the sweep: the share of corrections, where their drifts come from, and its seed."""

    share: float
    source: Source = "steered"
    seed: int = 0

    @property
    def name(self) -> str:
        kind = "normal" if self.share == 0 else f"{self.source}-{self.share:.0%}"
        return f"{kind}-seed{self.seed}"


BASE = "base"  # the arm that is not fine-tuned


@dataclass(frozen=True, eq=False)
class FineTuning:
    """The sweep of one subject: ``scale_name`` says where it is kept, ``scale`` how much is done."""

    subject: str
    scale_name: str
    scale: FineTuningScale

    @cached_property
    def run(self) -> Run:
        """Its folder, bound to every setting that a result depends on."""
        prompts = [load_prompts(split) for split in ("fine_tuning", "evaluation", "calibration")]
        texts = digest([*prompts, load_restarts()])
        settings = asdict(self.scale) | {
            "judge": JUDGE,
            "texts_sha256": texts,
            "base_run": asdict(self.detection.scale),
        }
        return open_run(results_dir(self.subject, "fine_tuning", self.scale_name), settings)

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_new_tokens=self.scale.max_new_tokens)

    @cached_property
    def detection(self) -> Detection:
        """The run of notebook 02, whose latents and strengths are evaluated here."""
        return Detection(self.subject, self.scale_name, DETECTION[self.scale_name])

    @cached_property
    def engine(self) -> HFEngine:
        return load_engine(self.subject)

    @cached_property
    def judge(self):
        """The offline judge, read by the embedded model whatever is fine-tuned."""
        from esr_utils.judges.offline import offline_judge

        reader = self.engine if self.subject == READER else load_engine(READER)
        return offline_judge(reader, way="embedding", name=JUDGE)

    def arms(self) -> list[Arm]:
        """Every share and, at one share, the controls; each with every seed."""
        swept = [Arm(share=share, seed=seed) for share in self.scale.shares for seed in range(self.scale.n_seeds)]
        sources: tuple[Source, ...] = ("pasted", "shuffled")
        share = self.scale.control_share
        return swept + [Arm(share=share, source=s, seed=seed) for s in sources for seed in range(self.scale.n_seeds)]

    def answers(self) -> pd.DataFrame:
        """Unsteered answers to the training questions. See ``unsteered_answers``."""

        def make() -> pd.DataFrame:
            questions, n = load_prompts("fine_tuning"), self.scale.n_answers
            return unsteered_answers(
                self.engine, questions, n_per_question=n, sampling=self.sampling, seed=self.scale.seed
            )

        return self.run.frame("answers", make).astype({"ends": bool})

    def drifts(self, source: Source) -> pd.DataFrame:
        """Off-topic beginnings: real ones (``steered``, ``shuffled``) or ``pasted``."""
        if source == "pasted":
            n = round(self.scale.n_examples * self.scale.control_share)
            return self.run.frame("drifts_pasted", lambda: pasted_drifts(self.answers(), n=n, seed=self.scale.seed))

        def make() -> pd.DataFrame:
            return steered_drifts(
                self.engine,
                first_scores(self.judge),
                load_prompts("fine_tuning"),
                self._drift_strengths(),
                n_per_latent=self.scale.n_drifts,
                sampling=replace(self.sampling, max_new_tokens=min(80, self.scale.max_new_tokens)),
                seed=self.scale.seed,
            )

        return self.run.frame("drifts_steered", make)

    def _drift_strengths(self) -> dict[int, float]:
        labels = latents.load_labels(self.subject)
        concrete = labels[latents.is_concrete(labels)]
        evaluated = self.detection.latents().index.tolist()
        apart = far_from(self.engine.pair.sae, concrete.index.tolist(), evaluated, near=NEAR)
        chosen = latents.sample_latents(labels.loc[apart], self.scale.n_drift_latents, seed=self.scale.seed)
        low, high = self.scale.drift_strengths
        strengths = np.random.default_rng(self.scale.seed).uniform(low, high, len(chosen)).round(1)
        return dict(zip(chosen, strengths.tolist(), strict=True))

    def examples(self, arm: Arm) -> list[TrainingExample]:
        """The mix that an arm is trained on."""
        corrections = make_corrections(
            self.drifts(arm.source), self.answers(), load_restarts(), is_shuffled=arm.source == "shuffled"
        )
        return mix(
            corrections, normal_examples(self.answers()), share=arm.share, n=self.scale.n_examples, seed=arm.seed
        )

    def training(self, arm: Arm) -> TrainingSettings:
        """Settings of an arm's training."""
        scale = self.scale
        return TrainingSettings(
            rank=scale.rank,
            alpha=scale.alpha,
            dropout=scale.dropout,
            blocks=scale.blocks,
            learning_rate=scale.learning_rate,
            n_passes=scale.n_passes,
            batch_size=scale.batch_size,
            seed=arm.seed,
        )

    def pair(self, arm: Arm) -> Pair:
        """The fine-tuned pair of an arm. Adapters stay where git does not look; results are kept."""
        folder = ROOT / "runs" / "adapters" / self.scale_name / self.subject / arm.name
        train(self.engine.pair, self.examples(arm), self.training(arm), folder)
        return adapted(self.engine.pair, folder, name=arm.name)

    def fixed_plan(self, name: str) -> list[PlannedTrial]:
        """Trials of one arm without steering and at the strength that was calibrated on the base model."""
        return self._plan(name, self.detection.calibration()["strength"].head(self.scale.n_latents).to_dict(), "fixed")

    def _plan(self, name: str, strengths: dict[int, float], condition: str) -> list[PlannedTrial]:
        levels = (0.0, 1.0) if condition == "fixed" else (1.0,)
        plans = plan_trials(
            name,
            strengths,
            questions=load_prompts("evaluation"),
            n_questions=self.scale.n_questions,
            levels=levels,
            seed=self.scale.seed,
        )
        return [replace(plan, condition=condition if plan.level else "baseline") for plan in plans]

    def recalibration(self, name: str, engine: HFEngine | None = None) -> pd.DataFrame:
        """Strengths calibrated again on one arm: columns of ``calibration_table``."""
        scale = self.scale
        effort = {"n_steps": scale.n_steps, "n_samples": scale.n_samples, "n_verify": scale.n_verify}
        settings = replace(self.detection.search(), sampling=self.sampling, seed=scale.seed, **effort)

        def make() -> pd.DataFrame:
            if engine is None:
                raise RuntimeError(f"arm {name} is not calibrated again yet; call measure() first")
            journal = self.run.journal(f"probes.{name}", "latent", "stage", "seed")
            chosen = self.detection.calibration().index[: self.scale.n_recalibrated].tolist()
            score, questions = first_scores(self.judge), load_prompts("calibration")
            return calibration_table(calibrate(engine, score, chosen, questions, settings, journal=journal), settings)

        return self.run.frame(f"calibration.{name}", make).set_index("latent", drop=False)

    def plan(self, name: str) -> list[PlannedTrial]:
        """Every trial of one arm. The base was calibrated on itself already."""
        if name == BASE:
            return self.fixed_plan(name)
        return self.fixed_plan(name) + self._plan(name, self.recalibration(name)["strength"].to_dict(), "recalibrated")

    def measure(self) -> "FineTuning":
        """Train and measure whatever is missing, arm after arm.

        Raises:
            ValueError: too few corrections or answers for some arm; told before the first training.
        """
        for arm in self.arms() if not all(self._is_measured(name) for name in self._names()) else ():
            self.examples(arm)
        for name, pair in self._pairs():
            engine = HFEngine(pair())
            if name != BASE:
                self.recalibration(name, engine)
            plans = self.plan(name)
            if not is_made(self.run, plans):
                run_trials(engine, self.run, plans, self.sampling)
            judge_trials(self.judge, self.run, plans)
        return self

    def _pairs(self) -> Iterator[tuple[str, object]]:
        """Names of the arms that are not wholly measured, each with a way to get its pair."""
        if not self._is_measured(BASE):
            yield BASE, lambda: self.engine.pair
        for arm in self.arms():
            if not self._is_measured(arm.name):
                yield arm.name, lambda arm=arm: self.pair(arm)

    def _is_measured(self, name: str) -> bool:
        if name != BASE and not (self.run.folder / f"calibration.{name}.csv").exists():
            return False
        plans = self.plan(name)
        return is_made(self.run, plans) and is_judged(self.run, JUDGE, plans)

    def _names(self) -> list[str]:
        return [BASE, *(arm.name for arm in self.arms())]

    def trials(self) -> pd.DataFrame:
        """One line a planned trial of every arm, with its ``share``, ``source`` and ``training_seed``."""
        plans = {BASE: self.plan(BASE)} | {arm.name: self.plan(arm.name) for arm in self.arms()}
        trials, judgements = self.run.trials(), self.run.judgements(JUDGE)
        frame = frames.judged_frame([plan for part in plans.values() for plan in part], trials, judgements)
        arms = {arm.name: arm for arm in self.arms()}
        known = [
            (arms[name].share, arms[name].source, arms[name].seed) if name in arms else (np.nan, BASE, 0)
            for name in frame["subject"]
        ]
        return frame.assign(**dict(zip(("share", "source", "training_seed"), zip(*known, strict=True), strict=True)))


def far_from(sae: SAE, candidates: Sequence[int], others: Sequence[int], *, near: float) -> list[int]:
    """Those candidates whose decoder direction has a cosine below ``near`` with every one of ``others``."""
    directions = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
    nearest = (directions[list(candidates)] @ directions[list(others)].T).max(dim=1).values
    return [latent for latent, cosine in zip(candidates, nearest.tolist(), strict=True) if cosine < near]
