"""A subject is measured once: every step is kept, and every setting is part of the folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
import pytest

from esr_utils import detection, latents, study
from esr_utils.catalogue import CATALOGUE, StrengthPrior
from esr_utils.detection import Detection
from esr_utils.engines.hf import HFEngine
from esr_utils.judging import Attempt, Case, Verdict
from esr_utils.metrics import LOST, flow
from esr_utils.scales import DETECTION, DetectionScale
from esr_utils.study import JUDGE, MAIN_LEVEL, READER, SECOND_JUDGE
from esr_utils.tests.conftest import tiny_pair

SCALE = replace(
    DETECTION["quick"],
    n_latents=2,
    n_questions=3,
    levels=(0.0, 0.5, 1.0),
    n_steps=2,
    n_samples=2,
    n_verify=2,
    n_compared=7,
    n_placebo=4,
    max_new_tokens=6,
)
PRIOR = StrengthPrior(mean=4.0, sd=2.0, upper=8.0)  # of the tiny model, in place of the real ones'
ASKED = {name: [f"{name.capitalize()} question {i}?" for i in range(4)] for name in ("calibration", "evaluation")}
WORDS = ["bees", "tea", "maps", "rain", "seas", "salt", "bread", "stars", "owls", "clay"]
RESTART = "Wait, that is wrong."
TEXT = "Bees find home by the sun. They dance for others. Rain keeps them in! Who knows why? Some never come back."


class Writing(HFEngine):
    """The tiny model with readable sentences in place of its text; steered responses of odd seeds restart."""

    def generate(self, rows, *, on_response=None, **rest):
        def rewritten(i, response):
            return replace(response, text=sentences(rows[i]))

        def kept(i, response):
            if on_response:
                on_response(i, rewritten(i, response))

        responses = super().generate(rows, on_response=kept, **rest)
        return [rewritten(i, response) for i, response in enumerate(responses)]


def sentences(row) -> str:
    rng = np.random.default_rng(row.seed)
    parts = [" ".join(rng.choice(WORDS, 5)).capitalize() + "." for _ in range(4)]
    if row.steer and row.seed % 2:
        parts.insert(2, RESTART)
    return " ".join(parts)


@dataclass
class Reading:
    """A judge that knows a restart when it sees one, and gives any text a score of its own."""

    name: str
    scored: list[str] = field(default_factory=list)
    seen: list[Case] = field(default_factory=list)

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        self.seen += cases
        verdicts = []
        for case in cases:
            at = case.response.find(RESTART)
            spans = [(0, at), (at, len(case.response))] if at > 0 else [(0, len(case.response))]
            attempts = [Attempt(start=a, end=b, score=score_of(case.response[a:b])) for a, b in spans]
            verdicts.append(Verdict(status="judged", attempts=tuple(attempts)))
        return verdicts

    def scores(self, questions: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        self.scored += texts
        return np.array([score_of(text) for text in texts])


def score_of(text: str) -> float:
    return crc32(text.encode()) % 1001 / 10


def writing_engine() -> Writing:
    pair = tiny_pair("llama")
    pair.model.generation_config.eos_token_id = [2]  # so that no response is empty
    return Writing(pair)


@dataclass
class Workshop:
    """Everything that a detection takes from outside: engines and judges, with what was loaded, and a folder."""

    folder: Path
    loaded: list[str] = field(default_factory=list)
    judges: dict[str, Reading] = field(default_factory=dict)
    engine: Writing = field(default_factory=writing_engine)

    def load(self, subject: str) -> Writing:
        self.loaded.append(subject)
        return self.engine

    def judge(self, reader: HFEngine, *, way: str, name: str) -> Reading:
        self.loaded.append(name)
        return self.judges.setdefault(name, Reading(name=name))

    def patch(self, patch: pytest.MonkeyPatch) -> "Workshop":
        labels = pd.DataFrame(
            {"label": "x", "topics": "y", "concreteness": 50.0}, index=pd.RangeIndex(63, name="latent")
        )
        for name, entry in list(CATALOGUE.items()):
            patch.setitem(CATALOGUE, name, replace(entry, prior=PRIOR))
        patch.setattr(study, "load_engine", self.load)
        patch.setattr("esr_utils.judges.offline.offline_judge", self.judge)
        patch.setattr(study, "results_dir", lambda subject, run, scale: self.folder / scale / subject / run)
        patch.setattr(detection, "load_prompts", lambda split, stimuli: ASKED[split])
        patch.setattr(latents, "load_labels", lambda subject: labels)
        patch.setattr(latents, "N_DROPPED_PER_QUESTION", 3)
        return self


@pytest.fixture
def workshop(tmp_path, monkeypatch) -> Workshop:
    return Workshop(tmp_path).patch(monkeypatch)


@pytest.fixture(scope="module")
def measured(request, tmp_path_factory) -> tuple[Detection, Workshop]:
    """A subject measured once, and what was used for it. Read only."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)  # noqa: PT021 - the import hook of jaxtyping keeps yield fixtures from running
    workshop = Workshop(tmp_path_factory.mktemp("detection")).patch(patch)
    return a_detection().measure().check_methods(), workshop


def a_detection(subject: str = READER, **changes: object) -> Detection:
    return Detection(subject=subject, scale_name="quick", scale=replace(SCALE, **changes))


def test_the_plan_covers_every_level_of_every_latent_with_the_same_questions(measured):
    detected, _ = measured
    plans, chosen = detected.plan(), detected.latents().index.tolist()
    assert len(chosen) == len(set(chosen)) == SCALE.n_latents
    assert len(plans) == len({p.id for p in plans}) == SCALE.n_latents * SCALE.n_questions * len(SCALE.levels)
    for latent in chosen:
        asked = [{p.question for p in plans if (p.latent, p.level) == (latent, level)} for level in SCALE.levels]
        assert asked[0] == asked[1] == asked[2] <= set(ASKED["evaluation"])
        assert len(asked[0]) == SCALE.n_questions


def test_strengths_are_shares_of_what_the_calibration_found(measured):
    detected, _ = measured
    found = detected.calibration()["strength"]
    assert {(p.latent, p.level): p.strength for p in detected.plan()} == {
        (latent, level): round(level * strength, 4) for latent, strength in found.items() for level in SCALE.levels
    }


def test_every_trial_is_made_and_judged(measured):
    (line,) = flow(measured[0].trials(), []).to_dict("records")
    assert {way: line[way] for way in LOST} == dict.fromkeys(LOST, 0)
    assert line["judged"] == line["planned"] == 18


def test_a_reader_that_is_also_the_subject_is_loaded_once(measured):
    assert measured[1].loaded == [READER, JUDGE, SECOND_JUDGE]


def test_another_subject_is_read_by_the_reader(workshop, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "other", replace(CATALOGUE[READER], name="other"))
    a_detection("other").calibration()
    assert workshop.loaded.count("other") == workshop.loaded.count(READER) == 1


def test_a_fine_tuned_subject_is_steered_along_the_latents_of_its_base(workshop):
    tuned = next(entry for entry in CATALOGUE.values() if entry.base == READER)
    assert a_detection(tuned.name).latents().index.tolist() == a_detection().latents().index.tolist()
    assert tuned.name not in workshop.loaded


def test_measuring_again_loads_nothing_and_changes_nothing(measured):
    detected, workshop = measured
    files = {path.name: path.read_bytes() for path in detected.run.folder.iterdir()}
    before, workshop.loaded[:] = list(workshop.loaded), []
    again = a_detection().measure().check_methods()
    loaded, workshop.loaded[:] = list(workshop.loaded), before
    assert loaded == []
    assert {path.name: path.read_bytes() for path in again.run.folder.iterdir()} == files
    for name in ("trials", "attempts", "calibration", "placebo_parts"):
        pd.testing.assert_frame_equal(getattr(again, name)(), getattr(detected, name)())


def test_the_compared_trials_are_spread_over_the_levels(measured):
    detected, _ = measured
    level = {plan.id: plan.level for plan in detected.plan()}
    compared = [level[trial_id] for trial_id, _ in detected.run.judgements(SECOND_JUDGE)]
    assert pd.Series(compared).value_counts().to_dict() == dict.fromkeys(SCALE.levels, SCALE.n_compared // 3)
    assert set(detected.trials(SECOND_JUDGE)["status"]) == {"judged", "unjudged"}


def test_placebo_trials_are_single_attempts_at_the_main_level(measured):
    detected, _ = measured
    trials, parts = detected.trials().set_index("trial_id"), detected.placebo_parts()
    chosen = trials.loc[parts["trial_id"].unique()]
    assert set(chosen["level"]) == {MAIN_LEVEL}
    assert set(chosen["n_attempts"]) == {1}
    n_whole = ((trials["level"] == MAIN_LEVEL) & (trials["n_attempts"] == 1)).sum()
    assert len(chosen) == min(SCALE.n_placebo, n_whole) > 0


def test_placebo_parts_are_two_a_trial_and_cover_its_text(measured):
    detected, workshop = measured
    parts, trials = detected.placebo_parts(), detected.trials().set_index("trial_id")
    texts = workshop.judges[JUDGE].scored
    assert parts["score"].tolist() == [score_of(text) for text in texts]
    assert all(text.strip() for text in texts)
    for trial_id, mine in parts.assign(text=texts).groupby("trial_id"):
        assert mine["index"].tolist() == [0, 1]
        assert " ".join(mine["text"]) == trials.loc[trial_id, "response"]


def test_placebo_cuts_stand_at_the_middle_if_no_trial_restarts(workshop, monkeypatch):
    monkeypatch.setitem(globals(), "sentences", lambda row: TEXT)
    detected = a_detection().measure()
    assert detected.attempts()["index"].eq(0).all()
    assert workshop.judges[JUDGE].scored[:2] == [TEXT[: TEXT.index(" Who")], TEXT[TEXT.index("Who") :]]


ENDS = {
    "sentences": TEXT,
    "no sentence ends": "bees find home by the sun and dance for the others while rain keeps them in",
    "a last newline": TEXT + "\n",
    "a first newline": "\n\n" + TEXT,
    "lines": TEXT.replace(" ", "\n"),
    "two words": "Bees hum",
    "two letters": "a b",
}


@pytest.mark.parametrize("share", [0.02, 0.25, 0.5, 0.75, 0.9, 0.98])
@pytest.mark.parametrize("text", ENDS.values(), ids=ENDS.keys())
def test_a_placebo_cut_leaves_whole_words_on_both_sides(text, share):
    first, second = detection._split(text, share)
    assert first
    assert second
    assert first.split() + second.split() == text.split()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
def test_a_placebo_cut_stands_where_it_is_asked_to(share):
    first, _ = detection._split(TEXT * 4, share)
    assert share <= len(first) / len(TEXT * 4) < share + 1 / 6


@pytest.mark.parametrize("name", [f.name for f in fields(DetectionScale)])
def test_a_folder_made_at_another_scale_is_refused_by_the_field_that_differs(workshop, name):
    value = getattr(SCALE, name)
    changed = (*value, 1.75) if isinstance(value, tuple) else value + type(value)(1)
    told = rf"was made with other settings \((.*; )?{name}: .* there, .* now"
    assert a_detection().run.folder.exists()
    with pytest.raises(ValueError, match=told):
        _ = a_detection(**{name: changed}).run


def test_a_missing_step_alone_is_made_again(workshop):
    detected = a_detection().measure()
    expected, files = detected.placebo_parts(), {p.name: p.read_bytes() for p in detected.run.folder.iterdir()}
    (detected.run.folder / "placebo_parts.csv").unlink()
    workshop.engine.generate = lambda *rows, **settings: pytest.fail("a response is made again")
    pd.testing.assert_frame_equal(a_detection().measure().placebo_parts(), expected)
    assert {p.name: p.read_bytes() for p in detected.run.folder.iterdir()} == files
