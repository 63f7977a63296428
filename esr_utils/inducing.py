"""ESR induced by fine-tuning: examples made, adapters trained, every arm measured on the same latents and questions.

As in ``detection``, every step reads what the run holds and makes the rest.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression
from tqdm.auto import tqdm

from esr_utils import corrections, latents
from esr_utils.config import ROOT
from esr_utils.corrections import TrainingExample
from esr_utils.detection import Detection
from esr_utils.engines.hf import HFEngine
from esr_utils.files import digest
from esr_utils.fine_tuning import TrainingSettings, encode, masked_text, train
from esr_utils.judging import first_scores
from esr_utils.models import ADAPTER_WEIGHTS, Pair, adapted
from esr_utils.prompts import load_prompts
from esr_utils.records import PlannedTrial, Run
from esr_utils.sae import SAE
from esr_utils.scales import DETECTION, FineTuningScale
from esr_utils.shards import refuse_unfinished
from esr_utils.study import JUDGE, Study
from esr_utils.trials import plan_trials
from esr_utils.wheels import sha256

NEAR = 0.3  # cosine above which two latents count as one subject
PROBE = "probe"  # condition of the trials that find an arm's own strength; counted in no rate
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
class FineTuning(Study):
    """Of notebook 06: the sweep over fine-tunings of one subject. A shard trains and measures whole arms."""

    shared_by: ClassVar[str] = "subject"
    scale: FineTuningScale

    @cached_property
    def run(self) -> Run:
        prompts = [load_prompts(split) for split in ("fine_tuning", "evaluation", "calibration")]
        return self._open(
            "fine_tuning",
            texts_sha256=digest([*prompts, corrections.load_restarts()]),
            base_run=asdict(self.detection.scale),
            strengths_sha256=digest(sorted(self._strengths().items())),
        )

    @cached_property
    def detection(self) -> Detection:
        """The run of notebook 02, whose latents and strengths are evaluated here."""
        return Detection(self.subject, self.scale_name, DETECTION[self.scale_name], is_read_only=self.shard is not None)

    def parts(self) -> list[str]:
        return [BASE, *(arm.name for arm in self.arms())]

    def arms(self) -> list[Arm]:
        """Every share and, at one share, the controls; each with every seed."""
        swept = [Arm(share=share, seed=seed) for share in self.scale.shares for seed in range(self.scale.n_seeds)]
        sources: tuple[Source, ...] = ("pasted", "shuffled")
        share = self.scale.control_share
        return swept + [Arm(share=share, source=s, seed=seed) for s in sources for seed in range(self.scale.n_seeds)]

    def answers(self) -> pd.DataFrame:
        """Unsteered answers to the training questions. See ``corrections.unsteered_answers``."""

        def make() -> pd.DataFrame:
            questions, n = load_prompts("fine_tuning"), self.scale.n_answers
            return corrections.unsteered_answers(
                self.engine, questions, n_per_question=n, sampling=self.sampling, seed=self.scale.seed
            )

        return self.run.frame("answers", make).astype({"ends": bool})

    def steered_starts(self) -> pd.DataFrame:
        """Beginnings of steered responses, those that stayed on topic included. See ``corrections.steered_starts``."""

        def make() -> pd.DataFrame:
            n_tokens = min(3 * self.scale.drift_words[1], self.scale.max_new_tokens)
            return corrections.steered_starts(
                self.engine,
                first_scores(self.judges[JUDGE]),
                load_prompts("fine_tuning"),
                self._drift_strengths(),
                n_per_latent=self.scale.n_drifts,
                n_words=self.scale.drift_words,
                sampling=replace(self.sampling, max_new_tokens=n_tokens),
                seed=self.scale.seed,
            )

        return self.run.frame("steered_starts", make).astype({"is_derailed": bool})

    def drifts(self, source: Source) -> pd.DataFrame:
        """Off-topic beginnings: real ones (``steered``, ``shuffled``) or ``pasted``, of which there are as many."""
        derailed = self.steered_starts().query("is_derailed").reset_index(drop=True)
        if source != "pasted":
            return derailed
        n_words, seed = self.scale.drift_words, self.scale.seed
        return corrections.pasted_drifts(self.answers(), n=len(derailed), n_words=n_words, seed=seed)

    def _drift_strengths(self) -> dict[int, float]:
        labels = latents.load_labels(self.subject)
        concrete = labels[latents.is_concrete(labels)]
        evaluated = self.detection.latents().index.tolist()
        apart = far_from(self.engine.pair.sae, concrete.index.tolist(), evaluated, near=NEAR)
        chosen = latents.sample_latents(labels.loc[apart], self.scale.n_drift_latents, seed=self.scale.seed)
        low, high = self.scale.drift_strengths
        strengths = np.random.default_rng(self.scale.seed).uniform(low, high, len(chosen)).round(1)
        return dict(zip(chosen, strengths.tolist(), strict=True))

    def examples(self, arm: Arm, recipe: FineTuningScale | None = None) -> list[TrainingExample]:
        """The mix of an arm; ``recipe`` says how many examples and how long, by default the sweep's own scale."""
        recipe = recipe or self.scale
        short = corrections.shortened(self.answers(), recipe.correction_words)
        normals = corrections.normal_examples(corrections.shortened(self.answers(), recipe.normal_words))
        restarts, is_shuffled = corrections.load_restarts(), arm.source == "shuffled"
        made = corrections.make_corrections(self.drifts(arm.source), short, restarts, is_shuffled=is_shuffled)
        return corrections.mix(made, normals, share=arm.share, n=recipe.n_examples, seed=arm.seed)

    def masked_examples(self, arm: Arm) -> pd.DataFrame:
        """The first example of each kind in an arm's mix: kind, strength, text with what carries loss in ``[[ ]]``."""

        def make() -> pd.DataFrame:
            first = {example.kind: example for example in reversed(self.examples(arm))}
            lines = [
                (kind, e.strength, masked_text(encode(e, self.engine.pair, max_tokens=4096), self.engine.pair))
                for kind, e in sorted(first.items())
            ]
            return pd.DataFrame(lines, columns=["kind", "strength", "text"])

        return self.run.frame(f"masked_examples.{arm.name}", make)

    def train(self, arm: Arm) -> Path:
        """Train an arm unless it is trained; its folder, where git does not look."""
        folder = ROOT / "runs" / "adapters" / self.scale_name / self.subject / arm.name
        settings = training_settings(self.scale, seed=arm.seed)
        return train(self.engine.pair, self.examples(arm), settings, folder)

    def pair(self, arm: Arm) -> Pair:
        """The fine-tuned pair of an arm.

        Raises:
            ValueError: the run holds trials of another adapter of this arm.
        """
        folder = self.train(arm)
        self._bind(arm.name, sha256(folder / ADAPTER_WEIGHTS))
        return adapted(self.engine.pair, folder, name=arm.name)

    def _bind(self, name: str, digest: str) -> None:
        """Write down which adapter answers for an arm; trained again elsewhere it is another one."""
        journal = self.run.journal("adapters", "arm")
        known = {record["arm"]: record["sha256"] for record in journal.read()}
        if known.get(name, digest) != digest:
            raise ValueError(
                f"the adapter of {name} is not the one whose trials this run holds: it was trained again since; "
                f"put the first one back, or delete the run folder and measure anew"
            )
        if name not in known:
            journal.append([{"arm": name, "sha256": digest}])

    def _strengths(self) -> dict[int, float]:
        return self.detection.strengths(self.scale.n_latents)

    def _plan(self, name: str, condition: str, levels: Sequence[float]) -> list[PlannedTrial]:
        is_probe = condition == PROBE
        plans = plan_trials(
            name,
            self._strengths(),
            questions=load_prompts("calibration" if is_probe else "evaluation"),
            n_questions=1 if is_probe else self.scale.n_questions,
            levels=levels,
            seed=self.scale.seed,
        )
        return [replace(plan, condition=condition if plan.level else "baseline") for plan in plans]

    def fixed_plan(self, name: str) -> list[PlannedTrial]:
        """Trials of one arm without steering and at the strengths that were calibrated on the base model."""
        return self._plan(name, "fixed", (0.0, 1.0))

    def probe_plan(self, name: str) -> list[PlannedTrial]:
        """Trials, on calibration questions, that find an arm's own strength."""
        return self._plan(name, PROBE, self.scale.probed)

    def recalibrated_level(self, name: str) -> float:
        """Share of the base's strengths at which an arm's first attempts score near the target; NaN before all probes.

        An arm whose scores lie beyond the target at all levels probed gets the nearest of them.

        Differs from the paper, which calibrates every latent of every fine-tuned model again: one share for all latents
        takes a fraction of the responses, and leaves the latents' strengths relative to each other as they were.
        """
        if not self.is_complete(self.probe_plan(name)):
            return float("nan")
        probes = self.judged(self.probe_plan(name))
        return level_at_target(probes["level"], probes["first_score"], target=self.detection.search().target)

    def plan(self, name: str) -> list[PlannedTrial]:
        """Every trial of one arm that is counted. The base was calibrated on itself already."""
        if name == BASE:
            return self.fixed_plan(name)
        return self.fixed_plan(name) + self._plan(name, "recalibrated", (self.recalibrated_level(name),))

    def measure(self) -> "FineTuning":
        """Train and measure whatever is missing, arm after arm.

        Raises:
            ValueError: too few corrections or answers for some arm, or no weights here; told before any training.
            UnfinishedError: the sweep is made in shards, and some arms are not finished.
        """
        missing = [name for name in self.own_parts() if not self._is_measured(name)]
        if self.is_merging:
            self.run.warn_of_differing()
            refuse_unfinished("trials", missing, len(self.parts()), kind="arm")
        todo = [arm for arm in self.arms() if arm.name in missing]
        if todo and not self.engine.capabilities().has_weights:
            raise ValueError(
                f"{self.subject} runs on a server ({self.engine.name}), and trainings need its weights here; unset "
                "ESR_SERVERS and ESR_NNSIGHT for notebook 06"
            )
        for arm in todo:
            self.examples(arm)
        self.complete(self.plan(BASE))
        for arm in tqdm(todo, desc="arms"):
            engine = HFEngine(self.pair(arm))
            self.complete(self.probe_plan(arm.name), engine=engine)
            self.complete(self.plan(arm.name), engine=engine)
        return self

    def _is_measured(self, name: str) -> bool:
        is_probed = name == BASE or self.is_complete(self.probe_plan(name))
        return is_probed and self.is_complete(self.plan(name))

    def trials(self) -> pd.DataFrame:
        """One line a planned trial of every arm, with its ``share`` (NaN: base), ``source`` and ``training_seed``."""
        arms = {arm.name: arm for arm in self.arms()}
        frame = self.judged([plan for name in (BASE, *arms) for plan in self.plan(name)])
        its_arm = [arms.get(name) for name in frame["subject"]]
        return frame.assign(
            share=[arm.share if arm else np.nan for arm in its_arm],
            source=[arm.source if arm else BASE for arm in its_arm],
            training_seed=[arm.seed if arm else 0 for arm in its_arm],
        )


def level_at_target(levels: pd.Series, scores: pd.Series, *, target: float) -> float:
    """Level at which scores, falling with the level and noisy, cross ``target``: between the means of an isotonic fit.

    Responses without a score (NaN) are left out. A target that is not reached gives the highest level, one that is
    passed from the start the lowest.
    """
    frame = pd.DataFrame({"level": levels, "score": scores}).dropna()
    fit = IsotonicRegression(increasing=False).fit(frame["level"], frame["score"])
    at = np.unique(frame["level"])
    falling = fit.predict(at)
    return round(float(np.interp(-target, -falling, at)), 3)


def training_settings(scale: FineTuningScale, *, seed: int) -> TrainingSettings:
    """Settings of a training at ``scale``."""
    shared = {field.name for field in fields(TrainingSettings)} & {field.name for field in fields(scale)} - {"seed"}
    return TrainingSettings(seed=seed, **{name: getattr(scale, name) for name in shared})


def far_from(sae: SAE, candidates: Sequence[int], others: Sequence[int], *, near: float) -> list[int]:
    """Those candidates whose decoder direction has a cosine below ``near`` with every one of ``others``."""
    directions = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
    nearest = (directions[list(candidates)] @ directions[list(others)].T).max(dim=1).values
    return [latent for latent, cosine in zip(candidates, nearest.tolist(), strict=True) if cosine < near]
