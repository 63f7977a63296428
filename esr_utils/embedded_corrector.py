"""``python -m esr_utils.embedded_corrector``: train the shipped corrector and measure it beside its base.

The corrector is the embedded model with a LoRA adapter in ``data/embedded/corrector/``, fine-tuned on corrections of
its own derailments. It is measured on the latents, strengths, questions and seeds of the base model's run in notebook
02, so trials pair off; results go to ``data/results/smollm2-135m-corrector/corrector/``.
"""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from esr_utils.catalogue import CATALOGUE
from esr_utils.columns import trial_columns, verdict_columns
from esr_utils.config import results_dir
from esr_utils.corrections import TrainingExample, unsteered_answers
from esr_utils.detection import Detection
from esr_utils.engines.hf import HFEngine
from esr_utils.files import digest
from esr_utils.fine_tuning import TrainingSettings, train
from esr_utils.frames import judged_frame
from esr_utils.inducing import Arm, FineTuning, training_settings
from esr_utils.models import ADAPTER_WEIGHTS, load_pair
from esr_utils.prompts import load_prompts
from esr_utils.records import Run, open_run
from esr_utils.scales import DETECTION, FINE_TUNING
from esr_utils.steering import READING, Row
from esr_utils.study import JUDGE, MAIN_LEVEL
from esr_utils.trials import judge_trials, plan_trials, run_trials
from esr_utils.wheels import sha256

BASE, CORRECTOR = "smollm2-135m", "smollm2-135m-corrector"
ARM = Arm(share=0.5)  # trained as an arm of the sweep is, on more and longer examples and at half the rate
RECIPE = replace(FINE_TUNING["standard"], n_examples=900, normal_words=100, learning_rate=1e-3)
LEVELS = (0.0, MAIN_LEVEL, 1.5)
N_HELD_OUT = 2  # unsteered answers a held-out question, on which the perplexity is measured


def sweep() -> FineTuning:
    """The sweep whose training texts the corrector shares."""
    return FineTuning(BASE, "standard", FINE_TUNING["standard"])


def examples(source: FineTuning) -> list[TrainingExample]:
    """The mix that the corrector is trained on."""
    return source.examples(ARM, RECIPE)


def settings() -> TrainingSettings:
    """Of the corrector's training."""
    return training_settings(RECIPE, seed=ARM.seed)


def perplexities(engines: dict[str, HFEngine], answers: pd.DataFrame) -> pd.DataFrame:
    """Perplexity of each engine's model on unsteered answers of the base: subject, perplexity, n_tokens."""
    rows = [
        Row(messages=answer.question, prefill=answer.response, sampling=READING)
        for answer in answers.itertuples()
        if answer.response.strip()
    ]
    lines = []
    for name, engine in engines.items():
        read = np.concatenate(engine.log_likelihoods(rows))
        lines.append({"subject": name, "perplexity": float(np.exp(-read.mean())), "n_tokens": len(read)})
    return pd.DataFrame(lines)


def open_corrector_run() -> Run:
    """The run in which the corrector is measured, bound to its adapter and to the base's run."""
    base = _base()
    described = {
        "adapter_sha256": sha256(CATALOGUE[CORRECTOR].adapter / ADAPTER_WEIGHTS),
        "base_run": asdict(base.scale),
        "strengths_sha256": digest(sorted(base.strengths().items())),
        "questions_sha256": digest([load_prompts("evaluation"), load_prompts("held_out")]),
        "judge": JUDGE,
    }
    return open_run(results_dir(CORRECTOR, "corrector", "standard"), described)


def _base() -> Detection:
    return Detection(BASE, "standard", DETECTION["standard"])


def measure() -> Run:
    """Make and judge the corrector's trials, at its base's strengths, and its perplexity beside the base's."""
    base, source, run = _base(), sweep(), open_corrector_run()
    engine = HFEngine(load_pair(CORRECTOR))
    plans = plan_trials(
        CORRECTOR,
        base.strengths(),
        questions=load_prompts("evaluation"),
        n_questions=base.scale.n_questions,
        levels=LEVELS,
        seed=base.scale.seed,
    )
    run_trials(engine, run, plans, base.sampling)
    judge_trials(source.judges[JUDGE], run, plans)
    own = judged_frame(plans, trial_columns(run), verdict_columns(run, JUDGE))
    its_base = base.trials().query("level in @LEVELS")
    run.table("trials", pd.concat([its_base, own], ignore_index=True).drop(columns=["response"]))

    def held_out() -> pd.DataFrame:
        questions, seed = load_prompts("held_out"), base.scale.seed + 7
        return unsteered_answers(source.engine, questions, n_per_question=N_HELD_OUT, sampling=base.sampling, seed=seed)

    answers = run.frame("held_out_answers", held_out)
    run.frame("perplexity", lambda: perplexities({BASE: source.engine, CORRECTOR: engine}, answers))
    return run


def main() -> None:
    source = sweep()
    train(source.engine.pair, examples(source), settings(), CATALOGUE[CORRECTOR].adapter)
    measure()


if __name__ == "__main__":
    main()
