"""Made-up run folders of any size: ``python -m esr_utils.tests.large_runs FOLDER N_TRIALS`` writes one and loads it."""

import json
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from esr_utils import frames, metrics
from esr_utils.columns import attempt_columns, trial_columns, verdict_columns
from esr_utils.records import PlannedTrial, Run
from esr_utils.study import JUDGE
from esr_utils.trials import plan_trials

SUBJECT = "llama-3.3-70b"  # by name alone; nothing of it is in these texts
N_LATENTS, N_QUESTIONS = 1000, 5
QUESTIONS = [f"What is there to know about number {i} of the many things that one may ask?" for i in range(38)]
STRENGTHS = {latent: 40 + latent / 100 for latent in range(N_LATENTS)}
WORDS = ["bees", "find", "home", "by", "the", "sun", "and", "dance", "for", "others", "while", "rain", "keeps", "them"]


def large_plan(n_trials: int) -> list[PlannedTrial]:
    """1,000 latents x 5 questions at two levels, in as many repeats as ``n_trials`` takes."""
    n_repeats = n_trials // (N_LATENTS * N_QUESTIONS * 2)
    counts = {"questions": QUESTIONS, "n_questions": N_QUESTIONS, "levels": (0.0, 1.0), "n_repeats": n_repeats}
    return plan_trials(SUBJECT, STRENGTHS, **counts)


def write_run(folder: Path, plans: Sequence[PlannedTrial]) -> Run:
    """A whole run of made-up responses of about 400 characters and one or two scores each."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "trials.jsonl").open("w") as trials, (folder / "judgements.offline.jsonl").open("w") as judgements:
        trials.writelines(trial_lines(plans))
        judgements.writelines(judged_lines(plans))
    return Run(folder=folder)


def trial_lines(plans: Sequence[PlannedTrial]) -> Iterator[str]:
    for plan, response in responses(plans):
        outcome = {"response": response, "n_tokens": 128, "stop_reason": "length"}
        yield json.dumps({"id": plan.id, **vars(plan), **outcome}) + "\n"


def judged_lines(plans: Sequence[PlannedTrial]) -> Iterator[str]:
    rng = np.random.default_rng(1)
    for plan, response in responses(plans):
        yield json.dumps(_judgement(plan, response, rng)) + "\n"


def responses(plans: Sequence[PlannedTrial]) -> Iterator[tuple[PlannedTrial, str]]:
    """Every plan with a text of its own, the same whenever asked."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 85)) for _ in range(1000)]
    for plan in plans:
        yield plan, f"{plan.level:g} of {plan.seed}: {texts[plan.seed % len(texts)]}"


def _judgement(plan: PlannedTrial, response: str, rng: np.random.Generator) -> dict:
    edges = [0, len(response)] if rng.random() < 0.9 else [0, len(response) // 2, len(response)]
    scores = np.round(rng.uniform(0, 100, len(edges) - 1), 1).tolist()
    spans = zip(edges, edges[1:], scores, strict=False)
    attempts = [{"start": start, "end": end, "score": score} for start, end, score in spans]
    verdict = {"status": "judged", "attempts": attempts, "recovery": round(10 * rng.random(), 1), "note": ""}
    return {"trial_id": plan.id, "repeat": 0, **verdict}


def main(folder: Path, n_trials: int) -> None:
    plans = large_plan(n_trials)
    with timed("written"):
        run = Run(folder=folder) if folder.exists() else write_run(folder, plans)
    with timed("columns"):
        trials, verdicts, attempts = trial_columns(run), verdict_columns(run, JUDGE), attempt_columns(run, JUDGE)
    with timed("judged frame"):
        frame = frames.judged_frame(plans, trials, verdicts)
    with timed(f"{len(attempts)} attempts"):
        frames.attempt_frame(trials, attempts)
    with timed("rates"):
        metrics.rates(frame, ["condition"])


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Tell how long it takes, by the clock and of the processor, and the peak of memory so far."""
    begun, used = time.perf_counter(), time.process_time()
    yield
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(f"{what:<20}{seconds:7.1f} s, {cpu:.1f} of the processor, peak {peak:.2f} GiB\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
