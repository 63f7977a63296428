"""Responses begun with tokens of others: cut before restarts, alike in all but what is compared, scored where meant."""

import json
from dataclasses import fields, replace
from itertools import product

import pandas as pd
import pytest

from esr_utils import following, following_tables, prefixes, study
from esr_utils.config import SCALE_NAMES
from esr_utils.detection import Detection, committed_detection
from esr_utils.following import CELLS, CONTINUATIONS, Following
from esr_utils.prefixes import ARMS, FIT, SOURCES
from esr_utils.scales import DETECTION, FOLLOWING, FollowingScale
from esr_utils.study import JUDGE, READER
from esr_utils.tests import test_detection
from esr_utils.tests.test_detection import ASKED, RESTART, SCALE, Workshop, score_of, sentences
from esr_utils.tests.test_prefixes import BYTES, restarts_by_text

MAIN = replace(SCALE, n_latents=4, n_questions=4)  # of the detection run
TINY = replace(
    FOLLOWING["quick"],
    n_prefixes=2,
    n_repeats=2,
    max_new_tokens=160,
    min_new_tokens=20,
    n_episodes=2,
    segment_tokens=12,
    continued_tokens=5,
)


def begun(row) -> str:
    """What the workshop's engine writes, after the tokens that the row begins with."""
    if row.prefill:
        return " ".join([BYTES.decode(list(row.prefill)), sentences(row)])
    return ("Ships sail. " if row.steer else "Tea boils. ") + sentences(row)


def patched(folder, patch: pytest.MonkeyPatch) -> Workshop:
    workshop = Workshop(folder).patch(patch)
    patch.setattr(test_detection, "sentences", begun)
    patch.setattr(prefixes, "find_restarts", restarts_by_text)
    patch.setattr(following, "committed_detection", lambda subject, scale_name: Detection(subject, "quick", MAIN))
    return workshop


@pytest.fixture(scope="module")
def measured(request, tmp_path_factory) -> tuple[Following, Workshop]:
    """A run measured once, and what was used for it. Read only."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)  # noqa: PT021 - the import hook of jaxtyping keeps yield fixtures from running
    workshop = patched(tmp_path_factory.mktemp("following"), patch)
    Detection(READER, "quick", MAIN).measure()
    return Following(READER, "quick", TINY).measure(), workshop


def fit(run: Following) -> pd.DataFrame:
    found = run.prefixes()
    return found[found["status"] == FIT]


def test_a_beginning_stands_before_the_restart_and_beside_an_unsteered_one_as_long(measured):
    run, trials = measured[0], measured[0].source.run.trials()
    found = fit(run)
    assert set(found["source"]) == set(SOURCES)
    for line in found.itertuples():
        steered, unsteered = json.loads(line.steered), json.loads(line.unsteered)
        assert len(steered) == len(unsteered) == line.n_tokens > 0
        response = trials[line.trial_id].response
        assert (RESTART in response) == (line.source == "restarted")
        assert response.startswith(BYTES.decode(steered))
        assert RESTART not in BYTES.decode(steered)
        assert trials[line.unsteered_id].response.startswith(BYTES.decode(unsteered))
        if line.source == "restarted":
            assert line.n_tokens == response.index(RESTART)


def test_both_beginnings_answer_one_question_with_one_seed(measured):
    run, trials = measured[0], measured[0].source.run.trials()
    for line in fit(run).itertuples():
        steered, unsteered = trials[line.trial_id].plan, trials[line.unsteered_id].plan
        assert (steered.level, unsteered.level) == (1.0, 0.0)
        assert (steered.latent, steered.question, steered.seed) == (
            unsteered.latent,
            unsteered.question,
            unsteered.seed,
        )


def test_uncorrected_beginnings_are_cut_where_the_matched_ones_are(measured):
    lengths = fit(measured[0]).groupby("source")["n_tokens"].apply(sorted)
    assert set(lengths["uncorrected"]) <= set(lengths["restarted"])


def test_cells_differ_in_the_beginning_and_in_the_steering_alone(measured):
    run = measured[0]
    rows = {plan: run.cell_row(plan, run.sampling) for plan in run.cell_plan()}
    trials, n = run.source.run.trials(), 0
    for line, repeat in product(fit(run).itertuples(), range(TINY.n_repeats)):
        origin = trials[line.trial_id].plan
        mine = {
            CELLS[plan.condition]: row
            for plan, row in rows.items()
            if (plan.latent, plan.question) == (origin.latent, origin.question) and plan.repeat % 1000 == repeat
        }
        assert set(mine) == set(CELLS.values())
        n += len(mine)
        assert {row.seed for row in mine.values()} == {next(iter(mine.values())).seed}
        assert {row.messages for row in mine.values()} == {origin.question}
        for (begun_with, continued), row in mine.items():
            assert row.prefill == tuple(json.loads(getattr(line, begun_with)))
            assert len(row.prefill) + row.sampling.max_new_tokens == TINY.max_new_tokens
            assert [(s.latent, s.strength) for s in row.steer] == (
                [(origin.latent, origin.strength)] if continued == "steered" else []
            )
    assert n == len(rows) == 4 * TINY.n_repeats * len(fit(run))


def test_no_seed_is_one_that_made_a_beginning(measured):
    run = measured[0]
    plans = run.cell_plan() + run.arm_plan()
    assert not {plan.seed for plan in plans} & {trial.plan.seed for trial in run.source.run.trials().values()}
    of_repeat = {(plan.latent, plan.question, plan.repeat): plan.seed for plan in plans}
    assert len(set(of_repeat.values())) == len(of_repeat)


def test_the_judge_reads_the_beginning_and_what_follows_with_the_question_alone(measured):
    run, workshop = measured
    seen = {(case.question, case.response) for case in workshop.judges[JUDGE].seen}
    for plan in run.cell_plan():
        response = run.run.trials()[plan.id].response
        assert response.startswith(BYTES.decode(list(run.cell_row(plan, run.sampling).prefill)))
        assert (plan.question, response) in seen
    assert {question for question, _ in seen} <= set(ASKED["evaluation"]) | set(ASKED["calibration"])


def test_lines_tell_their_source_cell_and_length(measured):
    run = measured[0]
    cells, found = run.cells(), fit(run)
    assert (cells["status"] == "judged").all()
    assert cells.groupby(["prefix", "continuation"]).size().eq(TINY.n_repeats * len(found)).all()
    counts = cells.groupby("source").size() / (4 * TINY.n_repeats)
    assert counts.to_dict() == found["source"].value_counts().to_dict()
    of_pair = cells.groupby(["latent", "question"])["n_prefix_tokens"].agg(["min", "max"])
    assert (of_pair["min"] == of_pair["max"]).all()
    assert sorted(of_pair["min"]) == sorted(found["n_tokens"])


def test_arms_begin_with_as_many_tokens_of_what_they_name(measured):
    run, trials = measured[0], measured[0].source.run.trials()
    segments = run.segments()
    for (trial_id, unsteered_id), mine in segments[segments["status"] == FIT].groupby(["trial_id", "unsteered_id"]):
        texts = mine.set_index("arm")["text"]
        response, n = trials[trial_id].response, TINY.segment_tokens
        at = response.index(RESTART)
        assert texts["own"] == response[at : at + n]
        assert texts["off_topic"] == response[:n]
        assert texts["generic"] == trials[unsteered_id].response[:n]
        assert texts["none"] == ""
        ids = {arm: json.loads(ids) for arm, ids in mine.set_index("arm")["token_ids"].items()}
        assert {arm: len(tokens) for arm, tokens in ids.items()} == {"own": n, "off_topic": n, "generic": n, "none": 0}
        assert all(BYTES.decode(ids[arm]) == texts[arm] for arm in ARMS)


def test_every_arm_is_steered_and_gets_as_many_new_tokens(measured):
    run = measured[0]
    rows = [run.arm_row(plan, run.sampling) for plan in run.arm_plan()]
    assert {row.sampling.max_new_tokens for row in rows} == {TINY.continued_tokens}
    assert all(len(row.steer) == 1 for row in rows)
    for at in range(0, len(rows), len(ARMS)):
        four = rows[at : at + len(ARMS)]
        assert len({(row.seed, row.messages, row.steer[0].latent, row.steer[0].strength) for row in four}) == 1
        assert len({row.prefill for row in four}) == len(ARMS)


def test_only_the_continuation_is_scored(measured):
    run, workshop = measured
    arms = run.arms()
    assert (arms["status"] == "judged").all()
    for plan, line in zip(run.arm_plan(), arms.itertuples(), strict=True):
        row = run.arm_row(plan, run.sampling)
        continuation = line.response[len(BYTES.decode(list(row.prefill))) :].strip()
        assert continuation == (sentences(row) if row.prefill else f"Ships sail. {sentences(row)}")
        assert continuation in workshop.judges[JUDGE].scored
        assert line.first_score == score_of(continuation)
        assert line.arm == plan.condition
    assert not {case.response for case in workshop.judges[JUDGE].seen} & set(arms["response"])


def test_measuring_again_loads_nothing_and_changes_nothing(measured, monkeypatch):
    before = {path: path.read_bytes() for path in measured[0].run.folder.iterdir()}
    monkeypatch.setattr(study, "load_engine", None)
    again = Following(READER, "quick", TINY).measure()
    assert {path: path.read_bytes() for path in again.run.folder.iterdir()} == before


@pytest.mark.parametrize("n_killed", [3, 40])
def test_a_killed_run_goes_on_and_makes_nothing_twice(measured, tmp_path, monkeypatch, n_killed):
    workshop = patched(tmp_path, monkeypatch)
    Detection(READER, "quick", MAIN).measure()
    run, generate, asked = Following(READER, "quick", TINY), workshop.engine.generate, []
    n_cells, n_arms = len(run.cell_plan()), len(run.arm_plan())

    def killed(rows, **rest):
        n = n_killed - len(asked)
        asked.extend(rows[:n])
        generate(rows[:n], **rest)
        if n < len(rows):
            raise KeyboardInterrupt

    workshop.engine.generate = killed
    with pytest.raises(KeyboardInterrupt):
        run.measure()
    workshop.engine.generate = lambda rows, **rest: (asked.extend(rows), generate(rows, **rest))[1]
    again = Following(READER, "quick", TINY).measure()
    assert len(asked) == n_cells + n_arms
    pd.testing.assert_frame_equal(again.cells(), measured[0].cells())
    pd.testing.assert_frame_equal(again.arms(), measured[0].arms())


def test_a_kill_between_scores_loses_one_batch(measured, tmp_path, monkeypatch):
    patched(tmp_path, monkeypatch)
    Detection(READER, "quick", MAIN).measure()
    monkeypatch.setattr("esr_utils.trials.JUDGED_AT_ONCE", 4)
    run, batches = Following(READER, "quick", TINY), []
    reader, scored = run.judges[JUDGE], Following._scored

    def killed(self, trials):
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(trials)
        return scored(self, trials)

    with monkeypatch.context() as patch:
        patch.setattr(Following, "_scored", killed)
        with pytest.raises(KeyboardInterrupt):
            run.measure()
    assert len(run.run.judgements(CONTINUATIONS)) == 8
    reader.scored.clear()
    again = Following(READER, "quick", TINY).measure()
    assert len(reader.scored) == len(again.arm_plan()) - 8
    pd.testing.assert_frame_equal(again.arms(), measured[0].arms())


def test_a_continuation_that_says_nothing_is_lost_and_counted(measured, monkeypatch, tmp_path):
    patched(tmp_path, monkeypatch)
    Detection(READER, "quick", MAIN).measure()
    monkeypatch.setattr(
        test_detection, "sentences", lambda row: BYTES.decode(list(row.prefill)) + " " if row.prefill else "Tea."
    )
    arms = Following(READER, "quick", TINY).measure().arms()
    assert set(arms.loc[arms["arm"] == "own", "status"]) == {"empty"}
    assert set(arms.loc[arms["arm"] == "none", "status"]) == {"judged"}
    table = following_tables.sustained_table(arms).set_index("arm")
    assert table.loc["own", ["n_planned", "n"]].tolist() == [table.loc["none", "n_planned"], 0]


@pytest.mark.parametrize("name", [field.name for field in fields(FollowingScale)])
def test_a_folder_made_at_another_scale_is_refused_by_the_field_that_differs(measured, name):
    other = getattr(TINY, name) + 1
    with pytest.raises(ValueError, match=rf"was made with other settings \({name}: .* there, .* now"):
        _ = Following(READER, "quick", replace(TINY, **{name: other})).run


def test_other_trials_are_refused(measured):
    run = Following(READER, "quick", TINY)
    trial_id = run._responses["trial_id"].iloc[0]
    changed = dict(run._source_trials)
    changed[trial_id] = replace(changed[trial_id], response="Other words.")
    run.__dict__["_source_trials"] = changed
    with pytest.raises(ValueError, match=r"was made with other settings \(trials_sha256: "):
        _ = run.run


def test_an_unfinished_detection_run_is_told(tmp_path, monkeypatch):
    patched(tmp_path, monkeypatch)
    with pytest.raises(
        RuntimeError, match="32 of its 32 trials are not made or judged; call its measure\\(\\) first \\(notebook 02\\)"
    ):
        Following(READER, "quick", TINY).measure()


def test_nothing_to_begin_with_is_told(measured):
    with pytest.raises(ValueError, match="no segment can be taken .* none fits .*'short': .* take a subject that"):
        Following(READER, "quick", replace(TINY, segment_tokens=150))._checked(
            pd.DataFrame({"status": ["short", "short"]}), "segment"
        )


def test_a_scale_without_room_for_a_beginning_is_refused():
    with pytest.raises(ValueError, match="min_new_tokens 160 must lie between 0 and max_new_tokens 160"):
        replace(TINY, min_new_tokens=160)


@pytest.mark.parametrize("name", SCALE_NAMES)
def test_beginnings_of_every_scale_come_from_responses_no_longer_than_its_budget(name):
    source = committed_detection("smollm2-135m-corrector", name)
    assert source.scale == DETECTION["standard" if name == "quick" else name]
    assert source.scale.max_new_tokens == FOLLOWING[name].max_new_tokens
