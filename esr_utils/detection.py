"""One subject measured from end to end: latents chosen, strengths calibrated, trials made and judged."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd

from esr_utils import latents
from esr_utils.calibration import (
    PROBE_KEY,
    CalibrationSettings,
    calibrate,
    calibration_table,
    measured_prior,
    recorded,
)
from esr_utils.catalogue import StrengthPrior, find_entry
from esr_utils.columns import attempt_columns, trial_columns
from esr_utils.config import KIT, check_stimuli, run_name
from esr_utils.files import as_read, digest
from esr_utils.judging import first_scores
from esr_utils.nulls import matched_cuts
from esr_utils.prompts import load_prompts
from esr_utils.records import PlannedTrial, Run
from esr_utils.scales import DETECTION, DetectionScale
from esr_utils.shards import UnfinishedError, refuse_unfinished
from esr_utils.study import JUDGE, MAIN_LEVEL, SECOND_JUDGE, Study
from esr_utils.trials import plan_trials

MIDDLE = 0.5  # share of the length at which placebo responses are split if no restart shows where


@dataclass(frozen=True, eq=False)
class Detection(Study):
    """Of notebook 02: how often a subject that is steered withdraws what it said, and returns.

    ``stimuli="paper"`` asks the paper's 38 questions, in calibration as in evaluation, in a run of its own.

    Differs from the paper, also then: the offline judge, whose scale was fitted on answers to the kit's questions.
    """

    scale: DetectionScale
    stimuli: str = field(default=KIT, kw_only=True)

    def __post_init__(self) -> None:
        check_stimuli(self.stimuli)

    @cached_property
    def run(self) -> Run:
        asked = digest([self.questions("calibration"), self.questions("evaluation")])
        name = run_name("esr_detection", self.stimuli)
        return self._open(name, search=asdict(self.search()), questions_sha256=asked)

    def questions(self, split: str) -> list[str]:
        return load_prompts(split, stimuli=self.stimuli)

    def search(self, *, n_samples: int | None = None) -> CalibrationSettings:
        """Settings of the calibration; ``n_samples`` other than the scale's for a comparison."""
        scale, prior = self.scale, self.prior()
        return CalibrationSettings(
            upper=prior.upper,
            prior_mean=prior.mean,
            prior_sd=prior.sd,
            n_steps=scale.n_steps,
            n_samples=n_samples or scale.n_samples,
            n_verify=scale.n_verify,
            sampling=self.sampling,
            seed=scale.seed,
        )

    def prior(self) -> StrengthPrior:
        """Of the pair; measured where the catalogue knows none, and kept in a run of its own."""
        if known := find_entry(self.subject).prior:
            return known
        run, questions = self._open("strength_prior"), self.questions("calibration")
        (line,) = run.frame("prior", lambda: measured_prior(self.engine, questions)).to_dict("records")
        return StrengthPrior(**line)

    def latents(self) -> pd.DataFrame:
        """The latents steered: unrelated to every question asked, concrete, then drawn by seed. Indexed by latent.

        A fine-tuned subject is steered along those of its base: chosen anew, some could be near ones it was trained on.
        """
        if base := find_entry(self.subject).base:
            return replace(self, subject=base, shard=None).latents()
        labels = latents.load_labels(self.subject)
        questions = list(dict.fromkeys(self.questions("calibration") + self.questions("evaluation")))

        def choose() -> pd.DataFrame:
            filters = latents.filter_table(self.engine, labels, questions, self.sampling)
            fit = labels.loc[latents.survivors(filters, "paper")]
            return pd.DataFrame({"latent": latents.sample_latents(fit, self.scale.n_latents, seed=self.scale.seed)})

        return labels.loc[self.run.frame("latents", choose)["latent"]]

    def calibration(self, *, n_samples: int | None = None) -> pd.DataFrame:
        """One line a latent: its strength and the verified first-attempt score. See ``calibration_table``.

        In a shard, of its own latents.

        Raises:
            UnfinishedError: the run is made in shards, and some latents are not calibrated.
        """
        search = self.search(n_samples=n_samples)
        name = "calibration" if n_samples is None else f"calibration_{n_samples}_sample"

        def make() -> pd.DataFrame:
            journal = self.run.journal(name.replace("calibration", "probes"), *PROBE_KEY)
            chosen, questions = self.own_parts(), self.questions("calibration")
            probes, missing = recorded(chosen, questions, search, journal)
            if missing and self.is_merging:
                refuse_unfinished("calibrations", missing, len(chosen))
            if missing:
                score = first_scores(self.judges[JUDGE])
                self.run.bind_engine(self.engine.name)
                probes = calibrate(self.engine, score, chosen, questions, search, journal=journal)
            return calibration_table(probes, search)

        table = as_read(make()) if self.shard else self.run.frame(name, make)
        return table.set_index("latent", drop=False)

    def strengths(self, n: int | None = None) -> dict[int, float]:
        """Calibrated strength of each latent, in raw units: of the first ``n``, by default of all.

        Raises:
            ValueError: fewer than ``n`` are calibrated.
        """
        calibrated = self.calibration()["strength"]
        if n is not None and n > len(calibrated):
            raise ValueError(f"{n} latents asked for, and notebook 02 calibrates {len(calibrated)}; ask for fewer")
        return calibrated.iloc[:n].to_dict()

    def parts(self) -> list[int]:
        return self.latents().index.tolist()

    def plan(self) -> Sequence[PlannedTrial]:
        """Every trial of the run, all arms; in a shard, of its own latents. The same object as long as nothing that it
        depends on is another."""
        strengths = tuple(self.strengths().items())
        counts = {name: getattr(self.scale, name) for name in ("n_questions", "levels", "n_repeats", "seed")}
        return _planned(self.subject, strengths, tuple(self.questions("evaluation")), **counts)

    def measure(self) -> "Detection":
        """Calibrate, make and judge what is missing, and the placebo, which a shard leaves to who reads them all."""
        self.complete(self.plan())
        if not self.shard:
            self.placebo_parts()
        return self

    def check_methods(self) -> "Detection":
        """What says how far the methods can be trusted: a calibration with less effort, and the second judge, of a
        sample of all trials, which a shard leaves to who reads them all."""
        self.calibration(n_samples=1)
        if not self.shard:
            self.judge(SECOND_JUDGE, self._compared(self.plan()))
        return self

    def trials(self, judge: str = JUDGE) -> pd.DataFrame:
        """One line a planned trial, as ``frames.judged_frame`` makes it."""
        return self.judged(self.plan(), judge=judge)

    def finished(self, *levels: float) -> pd.DataFrame:
        """``trials`` at these levels, for a run that is made from them.

        Raises:
            UnfinishedError: some are not made or judged yet, so that others would be taken later.
        """
        trials = self.trials()
        trials = trials[trials["level"].isin(levels)]
        if n := int(trials["status"].isin(["missing", "unjudged"]).sum()):
            raise UnfinishedError(
                f"this is made from the detection run of {self.subject} at {self.scale_name}, and {n} of its "
                f"{len(trials)} trials are not made or judged; call its measure() first (notebook 02)"
            )
        return trials

    def placebo_parts(self) -> pd.DataFrame:
        """Both parts of single-attempt responses at the main level, split where real restarts stand, and their scores.

        Columns: trial_id, index (0 or 1), score.

        Raises:
            RuntimeError: some trials are not made or judged yet, so that others would be drawn later.
        """

        def make() -> pd.DataFrame:
            trials = self.trials()
            if trials["status"].isin(["missing", "unjudged"]).any():
                raise RuntimeError(
                    "the placebo is drawn from judged trials, and some are missing; call measure() first"
                )
            rng = np.random.default_rng(self.scale.seed)
            whole = trials[(trials["level"] == MAIN_LEVEL) & (trials["n_attempts"] == 1)]
            whole = whole[whole["response"].str.split().str.len() > 1]
            whole = whole.sample(min(self.scale.n_placebo, len(whole)), random_state=self.scale.seed)
            shares = self._restart_shares()
            cuts = matched_cuts(shares, len(whole), rng) if len(shares) else np.full(len(whole), MIDDLE)
            parts = [
                (trial.trial_id, index, trial.question, part)
                for trial, cut in zip(whole.itertuples(), cuts, strict=True)
                for index, part in enumerate(_split(trial.response, float(cut)))
            ]
            frame = pd.DataFrame(parts, columns=["trial_id", "index", "question", "text"])
            scores = self.judges[JUDGE].scores(frame["question"].tolist(), frame["text"].tolist())
            return frame[["trial_id", "index"]].assign(score=scores)

        return self.run.frame("placebo_parts", make)

    def _restart_shares(self) -> np.ndarray:
        """Where the second attempt begins in multi-attempt responses, as a share of their length."""
        second = attempt_columns(self.run, JUDGE).query("index == 1").set_index("trial_id")["start"]
        length = trial_columns(self.run).set_index("trial_id")["response"].str.len()
        return (second / length[second.index]).sort_index().to_numpy(dtype=float)  # in no order of who came first

    def _compared(self, plans: Sequence[PlannedTrial]) -> list[PlannedTrial]:
        """Trials that both judges grade: drawn by seed, the same number at each level."""
        rng = np.random.default_rng(self.scale.seed)
        of_level = {level: [plan for plan in plans if plan.level == level] for level in self.scale.levels}
        n = self.scale.n_compared // len(of_level)
        return [
            part[i]
            for part in of_level.values()
            for i in sorted(rng.choice(len(part), min(n, len(part)), replace=False))
        ]


@lru_cache(maxsize=2)  # a million take seconds
def _planned(
    subject: str,
    strengths: tuple[tuple[int, float], ...],
    questions: tuple[str, ...],
    **counts: int | tuple[float, ...],
) -> tuple[PlannedTrial, ...]:
    return tuple(plan_trials(subject, dict(strengths), questions=questions, **counts))


def committed_detection(subject: str, scale_name: str) -> Detection:
    """The detection run whose trials other notebooks take up: at ``quick`` that of ``standard``, which is committed."""
    taken = "standard" if scale_name == "quick" else scale_name
    return Detection(subject, taken, DETECTION[taken])


def _split(text: str, share: float) -> tuple[str, str]:
    """``text`` in two between words: at the first end of a sentence after ``share`` of it, or else close to it."""
    at = len(text.strip()) * share
    gaps = list(re.finditer(r"(?<=\S)\s+(?=\S)", text.strip()))
    after = [gap for gap in gaps if at <= gap.start() < at + len(text) / 6 and text.strip()[gap.start() - 1] in ".!?"]
    gap = after[0] if after else min(gaps, key=lambda gap: abs(gap.start() - at))
    return text.strip()[: gap.start()], text.strip()[gap.end() :]
