"""Meta-prompts: arms that pair off, a judge that does not see them, and tables that say which less which."""

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from esr_utils import meta_prompting, meta_tables, study
from esr_utils.config import META_PROMPTING
from esr_utils.frames import score_measures
from esr_utils.meta_prompting import KINDS, NEUTRAL, MetaPrompting, load_meta_prompts, with_suffix
from esr_utils.published import META_PROMPTS, meta_prompt_rates
from esr_utils.study import JUDGE, READER
from esr_utils.tests.test_detection import ASKED, SCALE, Workshop

TINY = replace(META_PROMPTING["quick"], n_latents=2, n_questions=2, max_new_tokens=6)


def patched(folder, patch: pytest.MonkeyPatch) -> Workshop:
    workshop = Workshop(folder).patch(patch)
    patch.setattr(meta_prompting, "load_prompts", ASKED.__getitem__)
    patch.setattr(meta_prompting, "DETECTION", {"quick": SCALE})
    return workshop


@pytest.fixture(scope="module")
def measured(request, tmp_path_factory) -> tuple[MetaPrompting, Workshop]:
    """A run measured once, and what was used for it. Read only."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)  # noqa: PT021 - the import hook of jaxtyping keeps yield fixtures from running
    workshop = patched(tmp_path_factory.mktemp("meta"), patch)
    return MetaPrompting(READER, "quick", TINY).measure(), workshop


def test_every_kind_answers_the_same_trials_with_and_without_steering(measured):
    trials = measured[0].trials()
    assert (trials["status"] == "judged").all()
    assert len(trials) == len(KINDS) * 2 * TINY.n_latents * TINY.n_questions
    keys = ["latent", "question", "level", "seed", "strength"]
    arms = {kind: mine[keys].to_numpy().tolist() for kind, mine in trials.groupby("condition")}
    assert set(arms) == set(KINDS)
    assert all(arm == arms["none"] for arm in arms.values())


def test_arms_take_turns(measured):
    conditions = [plan.condition for plan in measured[0].plan()]
    assert all(conditions[i : i + len(KINDS)] == list(KINDS) for i in range(0, len(conditions), len(KINDS)))


def test_the_suffix_reaches_the_model_in_the_users_turn_and_not_the_judge(measured):
    run, workshop = measured
    texts = load_meta_prompts()
    for plan in run.plan():
        row = run.row(plan, run.sampling)
        assert row.messages.startswith(plan.question)
        suffix = row.messages[len(plan.question) :].strip()
        assert bool(suffix) == (plan.condition != "none")
        if plan.condition not in ("none", "label"):
            assert suffix in texts[plan.condition]
    seen = {case.question for case in workshop.judges[JUDGE].seen}
    assert seen <= set(ASKED["evaluation"]) | set(ASKED["calibration"])


def test_one_trial_has_the_same_number_of_wording_steered_or_not(measured):
    run = measured[0]
    asked = {}
    for plan in run.plan():
        asked.setdefault((plan.latent, plan.question, plan.condition), set()).add(run.asked(plan))
    assert all(len(texts) == 1 for texts in asked.values())


def test_the_label_of_the_latent_is_named():
    text = with_suffix("How?", "label", wording=4, label="bees and hives")
    assert text.startswith("How? ")
    assert "bees and hives" in text
    assert "{" not in text


def test_wordings_are_taken_in_turn():
    texts = [with_suffix("How?", "focus", wording=i, label="") for i in range(6)]
    assert texts[:3] == texts[3:]
    assert len(set(texts)) == 3


def test_a_neutral_suffix_has_as_many_words_as_the_others():
    n_words = {kind: np.mean([len(text.split()) for text in texts]) for kind, texts in load_meta_prompts().items()}
    assert all(abs(n - n_words[NEUTRAL]) <= 3 for n in n_words.values()), n_words


def test_an_unknown_kind_and_a_missing_label_are_told():
    with pytest.raises(ValueError, match="unknown kind of meta-prompt 'shout'; choose one of none, neutral"):
        with_suffix("How?", "shout", wording=0, label="bees")
    with pytest.raises(ValueError, match="names the latent's label, and this latent has none"):
        with_suffix("How?", "label", wording=0, label=" ")


def test_measuring_again_loads_nothing_and_changes_nothing(measured, monkeypatch):
    before = {path: path.read_bytes() for path in measured[0].run.folder.iterdir()}
    monkeypatch.setattr(study, "load_engine", None)
    again = MetaPrompting(READER, "quick", TINY).measure()
    assert {path: path.read_bytes() for path in again.run.folder.iterdir()} == before


def test_a_changed_suffix_is_refused_by_the_folder(measured, monkeypatch):
    changed = load_meta_prompts() | {"focus": ["Think of the question."]}
    monkeypatch.setattr(meta_prompting, "load_meta_prompts", lambda: changed)
    with pytest.raises(ValueError, match=r"was made with other settings \(texts_sha256: .* delete the folder"):
        _ = MetaPrompting(READER, "quick", TINY).run


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    """Steered and told to monitor themselves, half of the trials restart and recover; no other trial does."""
    lines = []
    for kind, level, latent, question in product(KINDS, (0.0, 1.0), range(4), ("a?", "b?", "c?")):
        restarts = kind == "self_monitor" and level and latent < 2
        known = {"subject": "ours", "condition": kind, "level": level, "latent": latent, "question": question}
        scores = [20.0, 60.0] if restarts else [30.0 if level else 60.0]
        lines.append(known | {"repeat": 0, "status": "judged"} | score_measures(scores, recovery=8.0 * restarts))
    return pd.DataFrame(lines)


def test_kinds_stand_in_one_order_with_their_counts(trials):
    table = meta_tables.by_kind(trials)
    several = table[(table["quantity"] == "multi_attempt") & (table["level"] == 1.0)]
    assert several["kind"].tolist() == list(KINDS)
    assert several.set_index("kind")["n_events"].to_dict() == dict.fromkeys(KINDS, 0) | {"self_monitor": 6}


def test_a_contrast_is_the_kind_less_the_neutral_suffix(trials):
    table = meta_tables.contrasts(trials).set_index(["level", "kind", "less", "quantity"])
    assert table.loc[(1.0, "self_monitor", "neutral", "multi_attempt"), "difference"] == 0.5
    assert table.loc[(0.0, "self_monitor", "neutral", "multi_attempt"), "difference"] == 0
    assert table.loc[(1.0, "neutral", "none", "minimum_gain_esr"), "difference"] == 0
    assert ("none", "none") not in {(kind, less) for _, kind, less, _ in table.index}


def test_beside_the_paper_stand_its_five_models_and_our_steered_trials(trials):
    table = meta_tables.beside_paper(trials, level=1.0)
    paper = table[table["origin"] == "paper"]
    assert paper.groupby("who").size().to_dict() == dict.fromkeys(meta_prompt_rates()["who"].unique(), 8)
    assert paper["who"].nunique() == 5
    ours = table[table["origin"] == "ours"].set_index(["kind", "quantity"])["value"]
    assert ours["self_monitor", "restart"] == ours["self_monitor", "recovery"] == 0.5
    assert set(ours.index.get_level_values("kind")) == set(META_PROMPTS)


def test_published_rates_are_those_of_the_file():
    rates = meta_prompt_rates().set_index(["who", "kind", "quantity"])["value"]
    assert rates["Llama-3.3-70B-Instruct", "self_monitor", "restart"] == pytest.approx(0.165)
    assert rates["Gemma-2-2B-it", "focus", "recovery"] == pytest.approx(0.22)


def test_every_kind_has_three_wordings_and_only_one_names_the_label():
    texts = load_meta_prompts()
    assert set(texts) == set(KINDS) - {"none"}
    assert all(len(set(wordings)) == 3 for wordings in texts.values())
    assert {kind for kind, wordings in texts.items() if re.search(r"\{label\}", "".join(wordings))} == {"label"}
