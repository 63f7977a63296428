"""What follows from the text alone: restarts after given beginnings, and the topic after given segments.

Two controls of the same kind. A response is begun with tokens of another one, of the detection run, and continued
under steering or without it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import pandas as pd

from esr_utils import prefixes
from esr_utils.detection import Detection, committed_detection
from esr_utils.files import digest
from esr_utils.judging import Attempt, Verdict
from esr_utils.prefixes import ARMS, FIT, STEERED, UNSTEERED, continuation_span
from esr_utils.records import Judgement, PlannedTrial, Run, Trial
from esr_utils.scales import FollowingScale
from esr_utils.steering import Row, Sampling
from esr_utils.study import JUDGE, MAIN_LEVEL, Study
from esr_utils.trials import batches, make_row

KINDS = (STEERED, UNSTEERED)
CELLS = {f"{begun}_then_{continued}": (begun, continued) for begun in KINDS for continued in KINDS}
FRESH = 1000  # repeats are numbered from here on, so no seed is one that made a beginning
CONTINUATIONS = f"{JUDGE}-continuation"  # name of the judgements that see the continuation alone


@dataclass(frozen=True, eq=False)
class Following(Study):
    """Of notebook 04: the controls "prefill 2x2" and "sustained resistance" of one subject.

    The ``condition`` of a trial names its cell (one of ``CELLS``) or its arm (one of ``ARMS``). Steering covers the
    question and the beginning too wherever the continuation is steered.

    Differs from the paper: its prefill control has the steered beginning and the unsteered continuation alone, cuts
    after a number of characters, which may lie behind a restart, and gives every continuation 512 more tokens. Of its
    second control no code was found.
    """

    scale: FollowingScale

    @cached_property
    def run(self) -> Run:
        """Bound to every response that a beginning is taken from, and to its judgement."""
        judgements = self.source.run.judgements(JUDGE)
        told = [
            (trial_id, self._source_trials[trial_id].response, asdict(judgements[trial_id, 0].verdict))
            for trial_id in sorted(self._responses["trial_id"])
        ]
        return self._open("following", base_run=asdict(self.source.scale), trials_sha256=digest(told))

    @cached_property
    def source(self) -> Detection:
        """The detection run that beginnings are taken from; at ``quick`` the committed one, a quick run restarts too
        seldom."""
        return replace(committed_detection(self.subject, self.scale_name), is_read_only=self.shard is not None)

    def parts(self) -> list[int]:
        return list(dict.fromkeys(plan.latent for plan in self.cell_plan() + self.arm_plan()))

    @cached_property
    def _responses(self) -> pd.DataFrame:
        """Judged trials of the detection run at the main level and without steering.

        Raises:
            UnfinishedError: some are not made or judged yet.
        """
        trials = self.source.finished(0.0, MAIN_LEVEL)
        return trials[trials["status"] == "judged"]

    @cached_property
    def _attempts(self) -> pd.DataFrame:
        attempts = self.source.attempts()
        return attempts[attempts["trial_id"].isin(self._responses["trial_id"])]

    def prefixes(self) -> pd.DataFrame:
        """Every candidate for a beginning with what became of it: see ``prefixes.find_prefixes``.

        Raises:
            ValueError: none fits.
        """

        def make() -> pd.DataFrame:
            return prefixes.find_prefixes(
                self.engine.pair.tokenizer,
                self._responses,
                self._attempts,
                n=self.scale.n_prefixes,
                max_tokens=self.scale.max_new_tokens - self.scale.min_new_tokens,
                seed=self.scale.seed,
            )

        return self._checked(self.run.frame("prefixes", make), "beginning")

    def segments(self) -> pd.DataFrame:
        """What every arm of every episode is begun with: see ``prefixes.find_segments``.

        Raises:
            ValueError: none fits.
        """

        def make() -> pd.DataFrame:
            return prefixes.find_segments(
                self.engine.pair.tokenizer,
                self._responses,
                self._attempts,
                n=self.scale.n_episodes,
                n_tokens=self.scale.segment_tokens,
                seed=self.scale.seed,
            )

        return self._checked(self.run.frame("segments", make), "segment")

    def _checked(self, found: pd.DataFrame, what: str) -> pd.DataFrame:
        if (found["status"] == FIT).any():
            return found
        n = int(self._responses.query("level > 0")["is_multi"].sum())
        raise ValueError(
            f"no {what} can be taken from the detection run of {self.subject} at {self.source.scale_name}: {n} steered "
            f"responses restart and none fits ({found['status'].value_counts().to_dict()}); take a subject that "
            "restarts more often, such as smollm2-135m-corrector, or a scale that allows other lengths"
        )

    def cell_plan(self) -> list[PlannedTrial]:
        """Every trial of the prefill 2x2; cells take turns and share their seeds."""
        found = self.prefixes()
        return [
            self._plan(trial_id, cell, repeat, is_steered=continued == STEERED)
            for trial_id in found.loc[found["status"] == FIT, "trial_id"]
            for repeat in range(self.scale.n_repeats)
            for cell, (_, continued) in CELLS.items()
        ]

    def arm_plan(self) -> list[PlannedTrial]:
        """Every trial of sustained resistance, all steered; arms take turns and share their seeds."""
        found = self.segments()
        return [
            self._plan(trial_id, arm, repeat, is_steered=True)
            for trial_id in found.loc[found["status"] == FIT, "trial_id"].unique()
            for repeat in range(self.scale.n_repeats)
            for arm in ARMS
        ]

    def _plan(self, trial_id: str, condition: str, repeat: int, *, is_steered: bool) -> PlannedTrial:
        plan = self._source_trials[trial_id].plan
        fresh = replace(plan, condition=condition, repeat=FRESH * (1 + plan.repeat) + repeat, run_seed=self.scale.seed)
        return fresh if is_steered else replace(fresh, level=0.0, strength=0.0)

    @cached_property
    def _source_trials(self) -> dict[str, Trial]:
        return self.source.run.trials()

    @cached_property
    def _cell_prefills(self) -> dict[tuple, tuple[int, ...]]:
        """Token ids that a trial begins with, by latent, question, repeat of its source, and kind of beginning."""
        found = self.prefixes()
        return {
            (*self._origin(line.trial_id), kind): tuple(json.loads(getattr(line, kind)))
            for line in found[found["status"] == FIT].itertuples()
            for kind in KINDS
        }

    @cached_property
    def _arm_prefills(self) -> dict[tuple, tuple[tuple[int, ...], str]]:
        """Token ids that a trial begins with and their text, by latent, question, repeat of its source, and arm."""
        found = self.segments()
        return {
            (*self._origin(line.trial_id), line.arm): (tuple(json.loads(line.token_ids)), line.text)
            for line in found[found["status"] == FIT].itertuples()
        }

    def _origin(self, trial_id: str) -> tuple[int, str, int]:
        plan = self._source_trials[trial_id].plan
        return plan.latent, plan.question, plan.repeat

    def cell_row(self, plan: PlannedTrial, sampling: Sampling) -> Row:
        """A beginning of its cell's kind, then as many new tokens as fill the budget that all cells share."""
        ids = self._cell_prefills[(*_origin_of(plan), CELLS[plan.condition][0])]
        rest = replace(sampling, max_new_tokens=self.scale.max_new_tokens - len(ids))
        return replace(make_row(plan, rest), prefill=ids)

    def arm_row(self, plan: PlannedTrial, sampling: Sampling) -> Row:
        """Its arm's segment, then the same number of new tokens in every arm."""
        ids, _ = self._arm_prefills[(*_origin_of(plan), plan.condition)]
        return replace(make_row(plan, replace(sampling, max_new_tokens=self.scale.continued_tokens)), prefill=ids)

    def measure(self) -> "Following":
        """Make, judge and score whatever is missing."""
        self.complete(self.cell_plan(), row_of=self.cell_row)
        self.make(self.arm_plan(), row_of=self.arm_row)
        self.score_continuations(self.arm_plan())
        return self

    def score_continuations(self, plans: Sequence[PlannedTrial]) -> None:
        """Score what follows the segment, and nothing else, of every trial that has no score yet.

        Trials of one latent are scored together, and each batch is on disk before the next, as in
        ``trials.judge_trials``.
        """
        self.check_merged(plans, "unjudged", judge=CONTINUATIONS)
        trials, known = self.run.trials(), {trial_id for trial_id, _ in self.run.judgements(CONTINUATIONS)}
        done = [trials[plan.id] for plan in self.own(plans) if trials[plan.id].status == "done"]
        for batch in batches(done, known, key=lambda plan: plan.latent):
            judgements = self._scored(batch)
            self.run.add_judgements(CONTINUATIONS, [j for j in judgements if j.trial_id not in known])

    def _scored(self, trials: Sequence[Trial]) -> list[Judgement]:
        spans = [continuation_span(trial.response, self._segment_text(trial.plan)) for trial in trials]
        written = [(trial, span) for trial, span in zip(trials, spans, strict=True) if span[0] < span[1]]
        texts = [trial.response[start:end] for trial, (start, end) in written]
        scores = self.judges[JUDGE].scores([trial.plan.question for trial, _ in written], texts)
        score_of = {trial.plan.id: score for (trial, _), score in zip(written, scores.tolist(), strict=True)}
        return [
            Judgement(trial_id=trial.plan.id, verdict=_verdict(span, score_of.get(trial.plan.id)))
            for trial, span in zip(trials, spans, strict=True)
        ]

    def _segment_text(self, plan: PlannedTrial) -> str:
        return self._arm_prefills[(*_origin_of(plan), plan.condition)][1]

    def cells(self) -> pd.DataFrame:
        """One line a planned trial of the prefill 2x2, as ``frames.judged_frame`` makes it, with its ``source``,
        ``prefix`` and ``continuation`` (both steered or unsteered), ``n_prefix_tokens`` and ``ends_sentence``."""
        found = self.prefixes().query("status == @FIT").set_index("trial_id")
        about = {self._origin(trial_id): line for trial_id, line in found.iterrows()}
        plans = self.cell_plan()
        lines = [about[_origin_of(plan)] for plan in plans]
        return self.judged(plans).assign(
            source=[line["source"] for line in lines],
            prefix=[CELLS[plan.condition][0] for plan in plans],
            continuation=[CELLS[plan.condition][1] for plan in plans],
            n_prefix_tokens=[line["n_tokens"] for line in lines],
            ends_sentence=[line["ends_sentence"] for line in lines],
        )

    def arms(self) -> pd.DataFrame:
        """One line a planned trial of sustained resistance, with its ``arm``; the continuation is its one attempt."""
        plans = self.arm_plan()
        frame = self.judged(plans, judge=CONTINUATIONS)
        return frame.assign(arm=frame["condition"])


def _origin_of(plan: PlannedTrial) -> tuple[int, str, int]:
    """Latent, question and repeat of the trial that a plan takes its beginning from."""
    return plan.latent, plan.question, plan.repeat // FRESH - 1


def _verdict(span: tuple[int, int], score: float | None) -> Verdict:
    """Of a continuation that stands at these characters of its response; without a score it is ``empty``."""
    if score is None:
        return Verdict(status="empty")
    return Verdict(status="judged", attempts=(Attempt(start=span[0], end=span[1], score=score),))
