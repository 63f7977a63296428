"""``python -m esr_utils.embedded_corrector``: train the shipped corrector and measure it beside its base.

The corrector is the embedded model with a LoRA adapter in ``data/embedded/corrector/``, fine-tuned on corrections of
its own derailments. It is measured on the latents, strengths, questions and seeds of the base model's run in notebook
02, so trials pair off; results go to ``data/results/smollm2-135m-corrector/corrector/``.
"""

from dataclasses import asdict

import numpy as np
import pandas as pd

from esr_utils.config import DETECTION, FINE_TUNING, results_dir
from esr_utils.corrections import (
    TrainingExample,
    load_restarts,
    make_corrections,
    mix,
    normal_examples,
    unsteered_answers,
)
from esr_utils.cuts import first_sentences
from esr_utils.detection import JUDGE, MAIN_LEVEL, Detection
from esr_utils.engines.hf import HFEngine
from esr_utils.fine_tuning import TrainingSettings, train
from esr_utils.frames import judged_frame
from esr_utils.inducing import FineTuning
from esr_utils.models import CATALOGUE, load_pair
from esr_utils.prompts import load_prompts
from esr_utils.records import Run, digest, open_run
from esr_utils.steering import Row, Sampling
from esr_utils.trials import judge_trials, plan_trials, run_trials
from esr_utils.wheels import sha256

BASE, CORRECTOR = "smollm2-135m", "smollm2-135m-corrector"
SETTINGS = TrainingSettings(
    rank=16, alpha=32, dropout=0.0, blocks="after_steering", learning_rate=2e-3, n_passes=2, warmup_steps=10
)
SHARE, N_EXAMPLES = 0.6, 900
CORRECTION_WORDS, NORMAL_WORDS = 45, 80  # of an answer, before its sentence ends: short examples, more of them
LEVELS = (0.0, MAIN_LEVEL, 1.5)
N_HELD_OUT = 2  # unsteered answers a held-out question, on which the perplexity is measured


def examples(source: FineTuning) -> list[TrainingExample]:
    """The mix that the corrector is trained on."""
    answers = source.answers()
    corrections = make_corrections(source.drifts("steered"), _shortened(answers, CORRECTION_WORDS), load_restarts())
    normals = normal_examples(_shortened(answers, NORMAL_WORDS))
    return mix(corrections, normals, share=SHARE, n=N_EXAMPLES)


def _shortened(answers: pd.DataFrame, n_words: int) -> pd.DataFrame:
    short = [first_sentences(text, n_words) for text in answers["response"]]
    whole = [len(a) == len(b.rstrip()) for a, b in zip(short, answers["response"], strict=True)]
    return answers.assign(response=short, ends=answers["ends"] & np.array(whole))


def perplexities(engines: dict[str, HFEngine], answers: pd.DataFrame) -> pd.DataFrame:
    """Perplexity of each engine's model on unsteered answers of the base: subject, perplexity, n_tokens."""
    rows = [
        Row(messages=answer.question, prefill=answer.response, sampling=Sampling(max_new_tokens=0))
        for answer in answers.itertuples()
        if answer.response.strip()
    ]
    lines = []
    for name, engine in engines.items():
        read = np.concatenate(engine.log_likelihoods(rows))
        lines.append({"subject": name, "perplexity": float(np.exp(-read.mean())), "n_tokens": len(read)})
    return pd.DataFrame(lines)


def measure() -> Run:
    """Make and judge the corrector's trials, and its perplexity beside the base's."""
    base = Detection(BASE, "standard", DETECTION["standard"])
    scale = base.scale
    strengths = base.calibration()["strength"].to_dict()
    settings = {
        "adapter_sha256": sha256(CATALOGUE[CORRECTOR].adapter / "adapter_model.safetensors"),
        "base_run": asdict(scale),
        "strengths_sha256": digest(sorted(strengths.items())),
        "questions_sha256": digest([load_prompts("evaluation"), load_prompts("held_out")]),
        "judge": JUDGE,
    }
    run = open_run(results_dir(CORRECTOR, "corrector", "standard"), settings)
    engine = HFEngine(load_pair(CORRECTOR))
    plans = plan_trials(
        CORRECTOR,
        strengths,
        questions=load_prompts("evaluation"),
        n_questions=scale.n_questions,
        levels=LEVELS,
        seed=scale.seed,
    )
    run_trials(engine, run, plans, base.sampling)
    source = FineTuning(BASE, "standard", FINE_TUNING["standard"])
    judge_trials(source.judge, run, plans)
    own = judged_frame(plans, run.trials(), run.judgements(JUDGE))
    its_base = base.trials().query("level in @LEVELS")
    run.table("trials", pd.concat([its_base, own], ignore_index=True).drop(columns=["response"]))

    def held_out() -> pd.DataFrame:
        questions = load_prompts("held_out")
        return unsteered_answers(
            source.engine, questions, n_per_question=N_HELD_OUT, sampling=base.sampling, seed=scale.seed + 7
        )

    answers = run.frame("held_out_answers", held_out)
    run.frame("perplexity", lambda: perplexities({BASE: source.engine, CORRECTOR: engine}, answers))
    return run


def main() -> None:
    source = FineTuning(BASE, "standard", FINE_TUNING["standard"])
    folder = CATALOGUE[CORRECTOR].adapter
    train(source.engine.pair, examples(source), SETTINGS, folder)
    measure()


if __name__ == "__main__":
    main()
