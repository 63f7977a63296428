"""The authors' result files, read and written; the files are made here in their schema."""

import json

import numpy as np
import pandas as pd
import pytest

from esr_utils.authors import export_authors, import_authors
from esr_utils.judging import Attempt, Verdict
from esr_utils.metrics import check_trials, rates
from esr_utils.records import Judgement, PlannedTrial, Trial
from esr_utils.tests.test_frames import attempts_of, judged_of

RESPONSE = "Ships need ballast. Wait, you asked about bread. Knead the dough for ten minutes."
TWICE = [
    {"attempt_text": "Ships need ballast.", "score": 10},
    {"attempt_text": "Knead the dough for ten minutes.", "score": 80},
]


def trial(attempts: list[dict] | None = None, *, response: str = RESPONSE, threshold=8.0, seed=1, **fields) -> dict:
    score = {"raw_response": "", "attempts": attempts} if attempts is not None else None
    named = {"prompt": "How do you bake bread?", "feature_index_in_sae": 7, "feature_label": "ships"}
    return {**named, "threshold": threshold, "seed": seed, "response": response, "score": score, "error": None} | fields


def write(path, trials: list[dict], *, config: dict | None = None, **feature):
    named = {"feature_index_in_sae": 7, "feature_label": "ships", "threshold": 8.0, "error": None}
    content = {"experiment_config": config or {}, "results_by_feature": [named | {"trials": trials} | feature]}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "experiment_results_llama.json"


@pytest.mark.parametrize(
    ("given", "status", "n_attempts"),
    [
        (trial(TWICE), "judged", 2),
        (trial([{"attempt_text": "Ships", "score": "40"}]), "judged", 1),
        (trial([{"attempt_text": "Ships", "score": None}, TWICE[1]]), "judged", 1),
        (trial([{"attempt_text": "Ships"}]), "unparsed", 0),
        (trial([{"attempt_text": "Ships", "score": "good"}]), "unparsed", 0),
        (trial([{"attempt_text": "Ships", "score": float("nan")}]), "unparsed", 0),
        (trial([]), "no_attempt", 0),
        (trial([], response=" "), "empty", 0),
        (trial(None), "unjudged", 0),
        (trial(TWICE, error="timeout"), "failed", 0),
        (trial(TWICE) | {"score": {"attempts": TWICE, "error": "no JSON"}}, "failed", 0),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_every_trial_becomes_a_line_with_a_status(path, given, status, n_attempts):
    found = import_authors(write(path, [given])).trials
    assert found[["status", "n_attempts"]].to_numpy().tolist() == [[status, n_attempts]]


def test_an_improvement_is_counted_as_the_paper_counts_it(path):
    one = import_authors(write(path, [trial(TWICE)], config={"model_name": "llama"})).trials.iloc[0]
    assert (one["subject"], one["condition"], one["latent"], one["level"], one["seed"]) == ("llama", "steered", 7, 1, 1)
    assert (one["first_score"], one["last_score"], one["gain"]) == (10, 80, 70)
    assert one["is_multi"]
    assert one["is_improved"]


def test_attempts_stand_where_the_response_holds_them(path):
    attempts = import_authors(write(path, [trial(TWICE)])).attempts
    assert [RESPONSE[a.start : a.end] for a in attempts.itertuples()] == [a["attempt_text"] for a in TWICE]


def test_a_misquoted_attempt_keeps_its_score_and_has_no_place(path):
    misquoted = [TWICE[0], {"attempt_text": "Knead it for an hour.", "score": 80}]
    results = import_authors(write(path, [trial(misquoted)]))
    assert results.attempts[["start", "end"]].to_numpy().tolist() == [[-1, -1]] * 2
    assert results.trials["gain"].tolist() == [70]


def test_a_sweep_tells_its_levels_and_a_latent_without_threshold_none(path):
    swept = import_authors(write(path, [trial(TWICE, threshold=t) for t in (0.0, 4.0, 12.0)])).trials
    assert swept["level"].tolist() == [0.0, 0.5, 1.5]
    assert swept["condition"].tolist() == ["baseline", "steered", "steered"]
    without = import_authors(write(path, [trial(TWICE, threshold=4.0)], threshold=None)).trials
    assert np.isnan(without["level"]).all()


def test_equal_trials_are_repeats_with_ids_of_their_own(path):
    trials = import_authors(write(path, [trial(TWICE, seed=i) for i in range(3)])).trials
    assert trials["repeat"].tolist() == [0, 1, 2]
    assert trials["trial_id"].is_unique


def test_a_latent_that_failed_whole_is_named(path):
    assert import_authors(write(path, [], error="calibration did not end")).lost_latents == [7]
    failed = import_authors(write(path, [trial(TWICE)], error="calibration did not end"))
    assert failed.lost_latents == []
    assert failed.trials["status"].tolist() == ["failed"]


@pytest.mark.parametrize(
    ("told", "condition"),
    [
        ({"experiment_config": {"prompt_variant_id": "self_monitor"}}, "self_monitor"),
        ({"ablated_latents": [1, 2], "num_ablated_latents": 2}, "ablated"),
    ],
)
def test_the_condition_is_read_from_the_file(path, told, condition):
    content = json.loads(write(path, [trial(TWICE)]).read_text()) | told
    path.write_text(json.dumps(content))
    assert import_authors(path).trials["condition"].tolist() == [condition]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"results_by', "not whole JSON"),
        ("[]", "no list results_by_feature"),
        ('{"results_by_feature": 3}', "no list results_by_feature"),
        ('{"results_by_feature": [{"feature_index_in_sae": 7, "trials": [{"threshold": 1}]}]}', "trial 0 of feature 0"),
        ('{"results_by_feature": [3]}', "trial 0 of feature 0"),
        ('{"results_by_feature": [{"trials": [{"prompt": "q", "score": [1]}]}]}', "trial 0 of feature 0"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(path, text, told):
    path.write_text(text)
    with pytest.raises(ValueError, match=told):
        import_authors(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        import_authors(tmp_path / "none.json")


@pytest.fixture
def records(tmp_path) -> tuple[pd.DataFrame, pd.DataFrame]:
    common = {"subject": "m", "condition": "meta_prompted", "question": "How do you bake bread?"}
    plans = [
        PlannedTrial(**common, latent=latent, level=level, strength=round(level * 8.333, 4))
        for latent in (7, 9)
        for level in (0.75, 1.0, 1.5)
    ]
    made = {p.id: Trial(plan=p, response=RESPONSE, n_tokens=20, stop_reason="end") for p in plans}
    first, last = RESPONSE.index("Ships"), RESPONSE.index("Knead")
    attempts = (Attempt(start=first, end=19, score=10.0), Attempt(start=last, end=len(RESPONSE), score=80.0))
    verdicts = [Verdict(status="judged", attempts=attempts), Verdict(status="no_attempt"), Verdict(status="failed")]
    judgements = {
        (p.id, 0): Judgement(trial_id=p.id, verdict=verdicts[i % 3]) for i, p in enumerate(plans) if p is not plans[-1]
    }
    return judged_of(tmp_path / "run", plans, made, judgements), attempts_of(tmp_path / "run", made, judgements)


def test_what_is_exported_comes_back_with_the_same_counts(path, records):
    trials, attempts = records
    export_authors(path, trials, attempts, labels={7: "ships"}, config={"judge": "offline"})
    back = import_authors(path)
    same = ["subject", "condition", "question", "latent", "level", "strength", "seed", "response", "first_score"]
    pd.testing.assert_frame_equal(back.trials[same], trials[same], check_dtype=False)
    assert back.trials["status"].tolist() == ["judged", "no_attempt", "failed"] * 2  # one was unjudged: an error there
    assert back.trials["label"].tolist() == ["ships"] * 3 + [""] * 3
    assert back.config == {"model_name": "m", "condition": "meta_prompted", "judge": "offline"}
    pd.testing.assert_frame_equal(back.attempts.drop(columns="trial_id"), attempts.drop(columns="trial_id"))


def test_rates_are_counted_of_an_imported_file(path):
    trials = import_authors(write(path, [trial(TWICE), trial([TWICE[0]]), trial(TWICE, error="timeout")])).trials
    check_trials(trials)
    esr = rates(trials, by=["subject"]).query("quantity == 'esr'").iloc[0]
    assert (esr["n_events"], esr["n"]) == (1, 2)


def test_attempts_of_another_judge_are_not_exported(path, records):
    trials, attempts = records
    with pytest.raises(ValueError, match="attempts of 2 trials are missing or too many"):
        export_authors(path, trials, attempts.head(0), labels={})


@pytest.mark.parametrize("column", ["subject", "condition"])
def test_a_mixture_is_not_exported(path, records, column):
    trials, attempts = records
    trials.loc[0, column] = "other"
    with pytest.raises(ValueError, match="export each on its own"):
        export_authors(path, trials, attempts, labels={})
    assert not path.exists()
