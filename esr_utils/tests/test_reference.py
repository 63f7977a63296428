"""The authors' files are read and never run. All texts are made up."""

import ast
import csv
from pathlib import Path

import pytest

from esr_utils import reference, reference_files
from esr_utils.corrections import TrainingExample
from esr_utils.judging import Case
from esr_utils.published import detectors
from esr_utils.reference_files import ReferenceFileError
from esr_utils.tests.reference_parts import JUDGE, QUESTIONS, TEXTS, VARIANTS, Repository, made_up


@pytest.fixture
def repository(request, tmp_path, monkeypatch) -> Repository:
    return made_up(request, tmp_path, monkeypatch)


# --- what is read


def test_lists_are_read_a_line_an_entry(repository):
    assert reference.prompts() == QUESTIONS
    assert reference.off_topic_subjects() == ["the making of bread", "the sound of rain"]


def test_meta_prompts_are_what_follows_the_question(repository):
    assert reference.meta_prompts() == {
        "dont_get_distracted": "Eyes on the ball.",
        "ignore_latent_label": "Think not of {label}!",
        "self_monitor": "Look at yourself.",
        "resist_manipulation": "Stand firm.",
    }


def test_the_judge_is_asked_word_for_word_as_the_authors_ask(repository):
    prompt = reference.judge_rubric().prompt(Case(question="Why {label}?", response="So {question}.", label="bees"))
    assert prompt.system == "You are strict. You are fair."
    told = 'Reply as <json>{"attempts": []}</json>.\nMark what {you} see.\n\n'
    assert prompt.user == f"{told}Asked: Why {{label}}?\nSaid: So {{question}}.\nPushed: bees"


def test_the_judge_of_the_authors_is_told_the_label(repository):
    with pytest.raises(ValueError, match="the faithful form tells the judge the latent's label"):
        reference.judge_rubric().prompt(Case(question="Why?", response="So."))


def test_data_are_read(repository):
    assert reference.normal_responses() == dict.fromkeys(QUESTIONS, "So.")
    assert reference.off_topic_detectors() == [7, 3]
    assert reference.normal_answers().to_dict("records") == [{"question": "Why?", "response": "So."}]


def test_each_line_of_the_mix_makes_a_training_example_that_taught_what_had_loss(repository):
    corrected, normal = [TrainingExample(**line) for line in reference.fine_tuning_mix().to_dict("records")]
    assert (corrected.kind, corrected.question, corrected.drift) == ("pasted", QUESTIONS[0], "Bows are red.\n\n")
    assert (corrected.taught, corrected.ends) == ("No, ants. They smell it.", True)
    assert (normal.kind, normal.drift, normal.taught, normal.ends) == ("normal", "", "Make\u2028two loops", False)


# --- files that are not as expected, or not as harmless


ODD = {
    reference.PROMPTS: ["", "\n \n"],
    reference.NORMAL_RESPONSES: ["", "[]", "{}", '{"normal_responses": {"Why?": 1}}', '{"normal_responses": []}'],
    reference.DETECTORS: ["{", '{"detectors": [1]}', '{"off_topic_detectors": ["bees"]}'],
    reference.NORMAL_ANSWERS: ["[{}]", '[{"messages": []}]', TEXTS[reference.NORMAL_ANSWERS].replace('"user"', '"it"')],
    reference.MIX: ["no", '{"segments": []}', TEXTS[reference.MIX].replace("true", "false"), '{"segments": [{}, {}]}'],
    reference.VARIANTS: [
        "",
        "def (",
        "\x00",
        "(" * 5000,
        "def _default_prompt_variants(): pass",
        VARIANTS.replace("self_monitor", "watch"),
        VARIANTS.replace("{prompt} Stand", "Stand"),
        VARIANTS.replace('"{prompt} Stand firm."', "STAND"),
        VARIANTS.replace('"{prompt} Stand firm."', "1"),
        VARIANTS + "\ndef _default_prompt_variants(): return []",
    ],
    reference.JUDGE: [
        "",
        JUDGE.replace("INSTRUCTIONS =", "TOLD ="),
        JUDGE.replace("SYSTEM_PROMPT = (", "SYSTEM_PROMPT = len("),
        JUDGE.replace('"You are fair."', "1"),
        JUDGE + "\nSYSTEM_PROMPT = 'Be kind.'",
        JUDGE.replace("user_message = (", "message = ("),
        JUDGE.replace("{response}", "{response!r}"),
        JUDGE.replace("{prompt}", "{self.prompt}"),
        JUDGE.replace("Pushed: {feature_label}", "Pushed"),
    ],
}
READERS = {
    reference.PROMPTS: reference.prompts,
    reference.NORMAL_RESPONSES: reference.normal_responses,
    reference.DETECTORS: reference.off_topic_detectors,
    reference.NORMAL_ANSWERS: reference.normal_answers,
    reference.MIX: reference.fine_tuning_mix,
    reference.VARIANTS: reference.meta_prompts,
    reference.JUDGE: reference.judge_rubric,
}
CASES = [(path, i) for path, texts in ODD.items() for i in range(len(texts))]


@pytest.mark.parametrize(("path", "i"), CASES)
def test_a_file_of_another_build_is_told_with_what_was_looked_for(repository, path, i):
    repository.write(path, ODD[path][i])
    with pytest.raises(ReferenceFileError, match=f"{path} of .* is not built as expected: no .* was found; .* 3c29a49"):
        READERS[path]()


def hostile(path: str, mark: Path) -> str:
    """The file with code wherever an import or an evaluation would run it."""
    act = f"open({str(mark)!r}, 'w').close()"
    class_ = f"class Now:\n    {act}\n\n@(lambda f: {act})\ndef now(x={act}): {act}\n"
    return f"{act}\n{class_}{TEXTS[path]}\n{act}\nif True:\n    {act}\n"


@pytest.mark.parametrize("path", [reference.JUDGE, reference.VARIANTS])
def test_code_in_a_file_does_not_run(repository, tmp_path, path):
    mark = tmp_path / "it ran"
    text = hostile(path, mark)
    repository.write(path, text)
    READERS[path]()
    assert not mark.exists()
    exec(text.replace("import nowhere_to_be_found", ""), {})
    assert mark.exists(), "run, it leaves its mark"


@pytest.mark.parametrize(
    ("path", "old", "form"),
    [
        (reference.JUDGE, '(\n    "You are strict. "\n    "You are fair."\n)', "{}"),
        (reference.JUDGE, '"You are fair."', 'f"{{{}}}"'),
        (reference.JUDGE, "{prompt}", "{{{}}}"),
        (reference.VARIANTS, '"{prompt} Stand firm."', '"{{prompt}} " + {}'),
    ],
)
def test_code_in_place_of_a_text_is_refused_and_does_not_run(repository, tmp_path, path, old, form):
    mark = tmp_path / "it ran"
    text = TEXTS[path].replace(old, form.format(f"str(open('{mark}', 'w'))"))
    assert text != TEXTS[path]
    ast.parse(text)
    repository.write(path, text)
    with pytest.raises(ReferenceFileError, match="is not built as expected"):
        READERS[path]()
    assert not mark.exists()


# --- the real files


def test_the_list_names_every_file_that_is_read():
    with reference_files.LIST.open(newline="") as file:
        lines = {line["path"]: line for line in csv.DictReader(file)}
    assert set(lines) == set(TEXTS)
    assert all(len(line["sha256"]) == 64 and int(line["bytes"]) > 0 for line in lines.values())


@pytest.mark.network
def test_the_authors_files_hold_what_the_paper_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ESR_CACHE", str(tmp_path))
    assert len(set(reference.prompts())) == 38
    assert len(set(reference.off_topic_subjects())) == 50
    assert list(reference.meta_prompts()) == list(reference.VARIANT_IDS)
    assert reference.judge_rubric().form == "faithful"
    assert list(reference.normal_responses()) == reference.prompts()
    ours = detectors()
    assert set(reference.off_topic_detectors()) == set(ours.loc[ours["in_separability_25"], "latent"])
    answers = reference.normal_answers()
    assert len(answers) == 760
    assert set(answers["question"]) == set(reference.prompts())
    mix = reference.fine_tuning_mix()
    assert mix["kind"].value_counts().to_dict() == {"pasted": 459, "normal": 459}
    assert set(mix["question"]) <= set(reference.prompts())
    assert mix["ends"].all()
