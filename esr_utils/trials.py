"""Trials of one run: planned as a whole, made in any order, judged; each step goes on where it stopped."""

from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from esr_utils.engines.base import Engine, Response
from esr_utils.judging import Case, Judge, Verdict
from esr_utils.records import Judgement, PlannedTrial, Run, Trial, read_of
from esr_utils.steering import Row, Sampling, Steer

JUDGED_AT_ONCE = 64


def plan_trials(
    subject: str,
    strengths: Mapping[int, float],
    *,
    questions: Sequence[str],
    n_questions: int,
    levels: Sequence[float],
    n_repeats: int = 1,
    seed: int = 0,
) -> list[PlannedTrial]:
    """The same latents, questions and seeds at every level.

    Args:
        strengths: calibrated strength of each latent, in raw units.
        n_questions: how many of ``questions`` each latent gets, drawn without replacement by ``seed`` and latent.
        levels: shares of the calibrated strength; 0 is the unsteered arm.

    Raises:
        ValueError: fewer questions than ``n_questions``.
    """
    if n_questions > len(questions):
        raise ValueError(f"{n_questions} questions a latent asked for, and there are {len(questions)}; ask for fewer")
    plans = []
    for latent, strength in strengths.items():
        rng = np.random.default_rng([seed, latent])
        drawn = [questions[i] for i in rng.choice(len(questions), n_questions, replace=False)]
        for level, question, repeat in product(levels, drawn, range(n_repeats)):
            plans.append(
                PlannedTrial(
                    subject=subject,
                    condition="steered" if level else "baseline",
                    question=question,
                    latent=int(latent),
                    level=float(level),
                    strength=round(float(level * strength), 4),
                    repeat=repeat,
                    run_seed=seed,
                )
            )
    return plans


def make_row(plan: PlannedTrial, sampling: Sampling) -> Row:
    """What the engine is asked for one trial."""
    steer = (Steer(latent=plan.latent, strength=plan.strength),) if plan.strength else ()
    return Row(messages=plan.question, steer=steer, seed=plan.seed, sampling=sampling)


def run_trials(
    engine: Engine,
    run: Run,
    plans: Sequence[PlannedTrial],
    sampling: Sampling,
    *,
    row_of: Callable[[PlannedTrial, Sampling], Row] = make_row,
) -> None:
    """Make the trials that ``run`` does not hold yet; each is on disk as soon as it ends.

    ``row_of``: what the engine is asked for a trial.
    """
    done = run.trials()
    todo = [plan for plan in plans if plan.id not in done]
    with tqdm(total=len(plans), initial=len(plans) - len(todo), desc="trials", unit="trial") as bar:

        def keep(index: int, response: Response) -> None:
            run.add_trials([finished(todo[index], response)])
            bar.update()

        engine.generate([row_of(plan, sampling) for plan in todo], on_response=keep)


def finished(plan: PlannedTrial, response: Response) -> Trial:
    n_tokens = len(response.token_ids)
    return Trial(plan=plan, response=response.text, n_tokens=n_tokens, stop_reason=response.stop_reason)


def judge_trials(
    judge: Judge, run: Run, plans: Sequence[PlannedTrial], *, labels: pd.Series | None = None, repeat: int = 0
) -> None:
    """Have the finished trials judged, a batch at a time; each batch is on disk before the next.

    Batches are cut from the plan, whatever is done already and whoever does it (see ``batches``), so that a judge
    whose last digits depend on the company of a case (as matrix products do) says the same after a kill, in a shard,
    and when arms are added to the plan.

    The judge sees question and response. ``labels`` (by latent) is for the paper's own form, which shows the label.
    A judge that could not be reached (``failed``) leaves no record, so it is asked again in the next run.
    """
    trials, judged = run.trials(), {trial_id for trial_id, n in run.judgements(judge.name) if n == repeat}
    done = [trials[plan.id] for plan in plans if plan.id in trials and trials[plan.id].status == "done"]
    n_before = sum(trial.plan.id in judged for trial in done)
    with tqdm(total=len(done), initial=n_before, desc=f"judge {judge.name}", unit="trial") as bar:
        for batch in _batches(judge, done, judged):
            verdicts = judge.judge([_case(trial, labels) for trial in batch])
            judgements = [
                Judgement(trial_id=trial.plan.id, verdict=verdict, repeat=repeat, read=read_of(trial.response))
                for trial, verdict in zip(batch, verdicts, strict=True)
                if verdict.status != "failed" and trial.plan.id not in judged
            ]
            run.add_judgements(judge.name, judgements)
            bar.update(len(judgements))
            bar.set_postfix_str(_told_failures(verdicts))


def _batches(judge: Judge, done: Sequence[Trial], judged: Container[str]) -> list[list[Trial]]:
    """What is judged at once: trials of one latent, arm and level; from judges that read each case alone
    (``READS_ALONE``, remote ones) any that are not judged yet."""
    if getattr(judge, "READS_ALONE", False):
        return batches([trial for trial in done if trial.plan.id not in judged], judged, key=lambda plan: None)
    return batches(done, judged, key=lambda plan: (plan.subject, plan.latent, plan.condition, plan.level))


def batches(
    done: Sequence[Trial], judged: Container[str], *, key: Callable[[PlannedTrial], Hashable]
) -> list[list[Trial]]:
    """Trials that have one ``key``, at most ``JUDGED_AT_ONCE`` of them; whole batches, if any of one is not judged."""
    groups: dict[Hashable, list[Trial]] = {}
    for trial in done:
        groups.setdefault(key(trial.plan), []).append(trial)
    cut = [group[i : i + JUDGED_AT_ONCE] for group in groups.values() for i in range(0, len(group), JUDGED_AT_ONCE)]
    return [batch for batch in cut if any(trial.plan.id not in judged for trial in batch)]


def _case(trial: Trial, labels: pd.Series | None) -> Case:
    label = None if labels is None else str(labels[trial.plan.latent])
    return Case(question=trial.plan.question, response=trial.response, label=label)


def _told_failures(verdicts: Sequence[Verdict]) -> str:
    notes = [verdict.note for verdict in verdicts if verdict.status == "failed"]
    return f"{len(notes)} failed: {notes[0]}" if notes else ""
