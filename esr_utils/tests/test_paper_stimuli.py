"""The paper's questions and meta-prompts in place of the kit's, in runs of their own."""

import subprocess
from dataclasses import replace

import pytest

from esr_utils import detection, meta_prompting, reference
from esr_utils.config import DATA, ROOT, run_name
from esr_utils.detection import Detection
from esr_utils.meta_prompting import MetaPrompting, examples, load_meta_prompts, with_suffix
from esr_utils.prompts import load_prompts
from esr_utils.scales import DETECTION, META_PROMPTING
from esr_utils.scales.meta_prompting import KINDS, NEUTRAL
from esr_utils.study import READER
from esr_utils.tests.reference_parts import QUESTIONS, VARIANTS, Repository, made_up
from esr_utils.tests.test_detection import SCALE, Workshop


@pytest.fixture
def repository(request, tmp_path, monkeypatch) -> Repository:
    return made_up(request, tmp_path, monkeypatch)


@pytest.mark.parametrize("split", ["calibration", "evaluation", "discovery", "fine_tuning"])
def test_the_papers_questions_are_the_same_for_all(repository, split):
    assert load_prompts(split, stimuli="paper") == QUESTIONS


def test_a_split_that_the_paper_lacks_and_unknown_stimuli_are_told(repository):
    with pytest.raises(ValueError, match="the paper's stimuli have no split 'held_out'; they serve for calibration, "):
        load_prompts("held_out", stimuli="paper")
    with pytest.raises(ValueError, match="unknown stimuli 'mine'; choose one of kit, paper"):
        load_prompts("evaluation", stimuli="mine")
    for study, scales in ((Detection, DETECTION), (MetaPrompting, META_PROMPTING)):
        with pytest.raises(ValueError, match="unknown stimuli 'mine'; choose one of kit, paper"):
            study(READER, "quick", scales["quick"], stimuli="mine")


def test_the_kits_own_stimuli_need_no_repository(repository):
    assert load_prompts("evaluation") == (DATA / "prompts" / "evaluation.txt").read_text().splitlines()
    assert Detection(READER, "quick", DETECTION["quick"]).questions("evaluation") == load_prompts("evaluation")
    assert load_meta_prompts()["focus"]
    assert repository.asked == []


def test_the_papers_meta_prompts_take_the_places_of_the_kits(repository):
    theirs, ours = load_meta_prompts("paper"), load_meta_prompts()
    assert theirs["focus"] == ["Eyes on the ball."]
    assert theirs["resist"] == ["Stand firm."]
    assert theirs[NEUTRAL] == ours[NEUTRAL]
    assert set(theirs) == set(ours) == set(KINDS) - {"none"}
    asked = with_suffix("Why?", "label", wording=5, label="bees", stimuli="paper")
    assert asked == "Why? Think not of bees!"
    assert load_meta_prompts() == ours
    assert all(len(texts) == 3 for texts in ours.values())


@pytest.fixture
def asking(repository, tmp_path, monkeypatch) -> MetaPrompting:
    """The tiny pair on the paper's questions and meta-prompts, as the repository of this test has them."""
    Workshop(tmp_path / "results").patch(monkeypatch)
    monkeypatch.setattr(detection, "load_prompts", load_prompts)
    monkeypatch.setattr(meta_prompting, "DETECTION", {"quick": replace(SCALE, n_questions=2)})
    scale = replace(META_PROMPTING["quick"], n_latents=2, n_questions=2, max_new_tokens=6)
    return MetaPrompting(READER, "quick", scale, stimuli="paper")


def test_the_papers_stimuli_are_asked_in_a_run_of_their_own(asking, repository):
    trials = asking.measure().trials()
    assert (trials["status"] == "judged").all()
    assert set(trials["question"]) == set(QUESTIONS)
    asked = {plan.condition: asking.asked(plan).removeprefix(plan.question) for plan in asking.plan()}
    assert asked["self_monitor"] == " Look at yourself."
    assert asked["label"] == " Think not of x!"
    shown = examples([asking]).set_index("kind")["asked"]
    assert shown["focus"].endswith(" Eyes on the ball.")
    detected = asking.detection
    assert set(detected.latents().index) == set(trials["latent"])
    probed = {record["question"] for record in detected.run.journal("probes", "latent", "stage", "seed").read()}
    assert probed <= set(QUESTIONS)
    assert (asking.run.folder.name, detected.run.folder.name) == (
        "meta_prompting_paper_stimuli",
        "esr_detection_paper_stimuli",
    )


def test_a_run_is_bound_to_the_papers_questions_and_meta_prompts(asking, repository):
    asking.measure()
    repository.write(reference.VARIANTS, VARIANTS.replace("Stand firm", "Give way"))
    load_meta_prompts.cache_clear()
    again = replace(asking)
    with pytest.raises(ValueError, match=r"meta_prompting_paper_stimuli was made with other settings \(texts_sha256: "):
        again.measure()
    repository.write(reference.PROMPTS, "Why?\nHow?")
    with pytest.raises(ValueError, match=r"esr_detection_paper_stimuli was .* other settings \(questions_sha256: "):
        _ = replace(asking.detection).run


@pytest.mark.parametrize("run", ["esr_detection", "meta_prompting"])
def test_a_run_with_the_papers_stimuli_lies_where_git_does_not_look(run):
    folder = DATA / "results" / READER
    ignored = [
        subprocess.run(["git", "check-ignore", "-q", str(folder / name / "trials.jsonl")], cwd=ROOT).returncode == 0
        for name in (run_name(run, "paper"), run_name(run, "kit"))
    ]
    assert ignored == [True, False]
