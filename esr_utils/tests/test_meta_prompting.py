"""Meta-prompts: arms that pair off, a judge that does not see them, and tables that say which less which."""

import re
from dataclasses import fields, replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from esr_utils import latents, meta_prompting, meta_tables, study
from esr_utils.config import SCALE_NAMES
from esr_utils.engines.hf import HFEngine
from esr_utils.frames import score_measures
from esr_utils.meta_prompting import MetaPrompting, load_meta_prompts, with_suffix
from esr_utils.plots import meta_prompting as figures
from esr_utils.published import META_PROMPTS, main_rates, meta_prompt_rates, self_monitor_rates
from esr_utils.scales import DETECTION, META_PROMPTING, MetaPromptingScale
from esr_utils.scales.meta_prompting import KINDS, NEUTRAL
from esr_utils.study import JUDGE, READER
from esr_utils.tests.test_detection import ASKED, SCALE, Workshop

TINY = replace(META_PROMPTING["quick"], n_latents=2, n_questions=2, max_new_tokens=6)


def patched(folder, patch: pytest.MonkeyPatch) -> Workshop:
    workshop = Workshop(folder).patch(patch)
    patch.setattr(meta_prompting, "load_prompts", lambda split, stimuli: ASKED[split])
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
    assert {case.label for case in workshop.judges[JUDGE].seen} == {None}


def test_the_model_reads_the_question_and_the_suffix_as_one_turn_of_the_user(measured):
    run, workshop = measured
    plan = next(plan for plan in run.plan() if plan.condition == "resist" and plan.level)
    (response,) = HFEngine.generate(workshop.engine, [run.row(plan, run.sampling)])
    read = workshop.engine.pair.tokenizer.decode(response.prompt_ids)
    assert read == f"<|im_start|>user\n{run.asked(plan)}<|im_end|>\n<|im_start|>assistant\n"


def test_one_trial_has_the_same_number_of_wording_steered_or_not(measured):
    run = measured[0]
    asked = {}
    for plan in run.plan():
        asked.setdefault((plan.latent, plan.question, plan.condition), set()).add(run.asked(plan))
    assert all(len(texts) == 1 for texts in asked.values())


def test_lines_tell_the_kind_and_the_wording_that_was_asked(measured):
    run, texts = measured[0], load_meta_prompts()
    trials = run.trials().set_index("trial_id")
    for plan in run.plan():
        kind, wording = trials.loc[plan.id, ["kind", "wording"]]
        assert kind == plan.condition
        suffix = "" if kind == "none" else " " + texts[kind][wording - 1].replace("{label}", "x")
        assert (wording == 0) == (kind == "none")
        assert run.asked(plan) == plan.question + suffix


def test_each_latent_is_named_by_its_own_label_steered_or_not(measured, monkeypatch):
    labels = pd.DataFrame({"label": [f"thing {i};" for i in range(63)]}, index=pd.RangeIndex(63, name="latent"))
    run = MetaPrompting(READER, "quick", TINY)
    plans = [plan for plan in run.plan() if plan.condition == "label"]
    monkeypatch.setattr(latents, "load_labels", lambda subject: labels)
    assert {plan.level for plan in plans} == {0.0, 1.0}
    assert all(f"thing {plan.latent};" in run.asked(plan) for plan in plans)


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
    monkeypatch.setattr(meta_prompting, "load_meta_prompts", lambda stimuli: changed)
    with pytest.raises(ValueError, match=r"was made with other settings \(texts_sha256: .* delete the folder"):
        _ = MetaPrompting(READER, "quick", TINY).run


@pytest.mark.parametrize("name", [field.name for field in fields(MetaPromptingScale)])
def test_a_folder_made_at_another_scale_is_refused_by_the_field_that_differs(measured, name):
    smaller_or_other = 1 if getattr(TINY, name) != 1 else 2
    with pytest.raises(ValueError, match=rf"was made with other settings \({name}: .* there, .* now"):
        _ = MetaPrompting(READER, "quick", replace(TINY, **{name: smaller_or_other})).run


def test_other_strengths_and_other_labels_are_refused(measured, monkeypatch):
    strengths = {latent: strength + 0.5 for latent, strength in measured[0]._strengths().items()}
    with monkeypatch.context() as patch:
        patch.setattr(MetaPrompting, "_strengths", lambda self: strengths)
        with pytest.raises(ValueError, match=r"other settings \(strengths_sha256: "):
            _ = MetaPrompting(READER, "quick", TINY).run
    monkeypatch.setattr(MetaPrompting, "_labels", lambda self: dict.fromkeys(strengths, "other"))
    with pytest.raises(ValueError, match=r"other settings \(texts_sha256: "):
        _ = MetaPrompting(READER, "quick", TINY).run


def test_a_killed_run_goes_on_and_makes_nothing_twice(measured, tmp_path, monkeypatch):
    workshop = patched(tmp_path, monkeypatch)
    run = MetaPrompting(READER, "quick", TINY)
    plans, generate, asked = run.plan(), workshop.engine.generate, []

    def killed(rows, **rest):
        generate(rows[:7], **rest)
        raise KeyboardInterrupt

    def counted(rows, **rest):
        asked.extend(rows)
        return generate(rows, **rest)

    workshop.engine.generate = killed
    with pytest.raises(KeyboardInterrupt):
        run.measure()
    workshop.engine.generate = counted
    trials = MetaPrompting(READER, "quick", TINY).measure().trials()
    assert len(asked) == len(plans) - 7
    pd.testing.assert_frame_equal(trials, measured[0].trials())


def test_more_latents_than_were_calibrated_are_refused(measured):
    with pytest.raises(ValueError, match="3 latents asked for, and notebook 02 calibrates 2; ask for fewer"):
        MetaPrompting(READER, "quick", replace(TINY, n_latents=3)).plan()


@pytest.mark.parametrize("name", SCALE_NAMES)
def test_no_scale_asks_for_more_latents_than_notebook_02_calibrates(name):
    assert META_PROMPTING[name].n_latents <= DETECTION[name].n_latents


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
    assert paper.groupby("who").size().to_dict() == dict.fromkeys(main_rates()["model"].unique(), 2 * len(META_PROMPTS))
    ours = table[table["origin"] == "ours"].set_index(["kind", "quantity"])
    assert set(ours.index) == set(product(KINDS, ("restart", "recovery")))
    assert ours.loc[("self_monitor", "restart"), ["value", "n_events", "n"]].tolist() == [0.5, 6, 12]
    assert ours.loc[("self_monitor", "recovery"), "value"] == 0.5
    assert ours.loc[("none", "restart"), "value"] == 0 < ours.loc[("none", "restart"), "ci_high"]


def test_published_rates_are_those_of_the_file():
    rates = meta_prompt_rates().set_index(["who", "kind", "quantity"])["value"]
    assert rates.index.is_unique
    assert rates["Llama-3.3-70B-Instruct", "self_monitor", "restart"] == pytest.approx(0.165)
    assert rates["Llama-3.3-70B-Instruct", "none", "restart"] == pytest.approx(0.03)
    assert rates["Gemma-2-2B-it", "focus", "recovery"] == pytest.approx(0.22)
    without = main_rates().query("quantity == 'recovery'").set_index("model")["rate"]
    assert rates.xs(("none", "recovery"), level=("kind", "quantity")).to_dict() == without.to_dict()


def test_published_rates_by_attempts_are_those_of_the_file():
    rates = self_monitor_rates().set_index(["who", "quantity"])
    told = rates.loc[("Llama-3.3-70B-Instruct", "multi_attempt"), ["none", "self_monitor"]].astype(float)
    assert told.tolist() == pytest.approx([0.074, 0.317])
    assert rates.loc[("Llama-3.3-70B-Instruct", "multi_attempt"), "note"] == ""
    assert "third party" in rates.loc[("Gemma-2-9B-it", "multi_attempt"), "note"]


def test_ratios_stand_beside_their_counts_and_none_is_given_over_zero(trials):
    table = meta_tables.with_and_without(trials, level=1.0).set_index(["who", "quantity"])
    assert table.loc[("ours", "multi_attempt"), ["none", "self_monitor", "note"]].tolist() == [0, 0.5, "0/12, 6/12"]
    assert np.isnan(table.loc[("ours", "multi_attempt"), "ratio"])
    published = table.loc[("Llama-3.3-70B-Instruct", "esr")]
    assert published["ratio"] == pytest.approx(0.148 / 0.038)


def test_figures_show_every_kind_with_its_counts(trials):
    both = pd.concat([trials, trials.assign(subject="ours-corrector")])
    for figure, told in (
        (figures.kinds(meta_tables.by_kind(both)), {"6/12": 4, "n = 12": 24}),
        (figures.beside_paper(meta_tables.beside_paper(both, level=1.0)), {"6/12": 4, "0/12": 20}),
    ):
        texts = [text.get_text() for axes in figure.axes for text in axes.texts]
        assert {count: texts.count(count) for count in told} == told
        shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert shown == [figures.KIND_NAMES[kind] for kind in KINDS]
        figures.plt.close(figure)


def test_every_kind_has_three_wordings_and_only_one_names_the_label():
    texts = load_meta_prompts()
    assert set(texts) == set(KINDS) - {"none"}
    assert all(len(set(wordings)) == 3 for wordings in texts.values())
    assert {kind for kind, wordings in texts.items() if re.search(r"\{label\}", "".join(wordings))} == {"label"}
