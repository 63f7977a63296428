"""The authors' stimuli and data, read from their files: questions, meta-prompts, judge wording, fine-tuning data.

Python files are parsed and their string constants evaluated as literals; nothing is imported or run. What is made
with these texts holds the authors' sentences, so it belongs where git does not look.
"""

import ast
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd

from esr_utils.judges.rubric import Rubric, faithful
from esr_utils.reference_files import COMMIT, ReferenceFileError, reference_file

PROMPTS = "prompts.txt"
NORMAL_RESPONSES = "data/normal_responses.json"
DETECTORS = "data/off_topic_detectors.json"
JUDGE = "judge.py"
VARIANTS = "experiment_05_prompt_variants/__init__.py"
SUBJECTS = "experiment_04_finetuning/off_topic_subjects.txt"
MIX = "experiment_04_finetuning/dataset_masked_ratio_50pct_train.jsonl"
NORMAL_ANSWERS = "experiment_04_finetuning/dataset_normal_responses.json"

VARIANT_IDS = ("dont_get_distracted", "ignore_latent_label", "self_monitor", "resist_manipulation")
_PLACES = {"prompt": "{question}", "response": "{response}", "feature_label": "{label}"}
_END = "<|eot_id|>"
_TURNS = re.compile(
    r"<\|start_header_id\|>user<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>"
    r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n(.*)",
    re.DOTALL,
)


def prompts() -> list[str]:
    """The paper's 38 questions, in order. The authors use them for calibration, evaluation, discovery and fine-tuning.

    Raises (this and all below):
        ReferenceFileError: the file could not be had, or is not built as expected.
    """
    return _lines(PROMPTS)


def off_topic_subjects() -> list[str]:
    """The 50 subjects that the off-topic passages of the authors' fine-tuning data are about."""
    return _lines(SUBJECTS)


def meta_prompts() -> dict[str, str]:
    """The paper's meta-prompts by the authors' id: what follows the question and a blank; ``{label}`` is the latent's.

    Source: paper, section 3.3. Its text names two more, which the repository does not hold.
    """
    with _looking_for("function _default_prompt_variants that returns pairs of an id and a template", VARIANTS):
        functions = [node for node in _tree(VARIANTS).body if isinstance(node, ast.FunctionDef)]
        (function,) = [node for node in functions if node.name == "_default_prompt_variants"]
        (returned,) = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
        templates = {name: _suffix(template) for name, template in ast.literal_eval(returned)}
    with _looking_for(f"templates called {', '.join(VARIANT_IDS)}", VARIANTS):
        return {name: templates[name] for name in VARIANT_IDS}


def judge_rubric() -> Rubric:
    """The paper's own wording for a remote judge, for ``AnthropicJudge(rubric=...)`` or ``OpenAIJudge(rubric=...)``.

    It is of the faithful form, so the judge is told the label of the steered latent: pass ``labels`` to
    ``judge_trials``. It neither fences off the response nor gives anchors for the scores, as the kit's rubrics do.
    """
    tree, texts = _tree(JUDGE), {}
    for name in ("SYSTEM_PROMPT", "INSTRUCTIONS"):
        with _looking_for(f"one constant text {name}", JUDGE):
            (value,) = [node.value for node in tree.body if isinstance(node, ast.Assign) and _is_named(node, name)]
            texts[name] = _text(ast.literal_eval(value))
    with _looking_for("one text user_message put together from instructions, prompt, response and label", JUDGE):
        assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and _is_named(node, "user_message")]
        (parts,) = [node.value.values for node in assigned]
        template = "".join(_part(part, _PLACES | {"INSTRUCTIONS": texts["INSTRUCTIONS"]}) for part in parts)
        return faithful(template, system=texts["SYSTEM_PROMPT"])


def normal_responses() -> dict[str, str]:
    """Llama-3.3-70B's unsteered response to each of the 38 questions."""
    with _looking_for("object normal_responses of texts by question", NORMAL_RESPONSES):
        responses = json.loads(_read(NORMAL_RESPONSES))["normal_responses"]
        return {question: _text(response) for question, response in responses.items()}


def off_topic_detectors() -> list[int]:
    """The 25 latents that the authors chose by separability; ``published.detectors`` has these and the paper's 26."""
    with _looking_for("list off_topic_detectors of whole numbers", DETECTORS):
        return [int(latent) for latent in json.loads(_read(DETECTORS))["off_topic_detectors"]]


def normal_answers() -> pd.DataFrame:
    """The 760 normal answers of the authors' fine-tuning data (by Claude Sonnet 4.5): question, response."""
    with _looking_for("list of messages of a user and an assistant", NORMAL_ANSWERS):
        lines = []
        for example in json.loads(_read(NORMAL_ANSWERS)):
            asked, answered = example["messages"]
            if (asked["role"], answered["role"]) != ("user", "assistant"):
                raise ValueError(asked["role"], answered["role"])
            lines.append((_text(asked["content"]), _text(answered["content"])))
    return pd.DataFrame(lines, columns=["question", "response"])


def fine_tuning_mix() -> pd.DataFrame:
    """The authors' mix of half self-corrections and half normal answers: kind, question, drift, taught, ends.

    The columns are fields of ``corrections.TrainingExample``: each line makes one. The kind is ``pasted`` where a
    drift was written in front. Differs from the paper: the chat template is left out, the subject's own is put on.
    """
    with _looking_for("lines of two segments, without and with loss, in Llama's chat template", MIX):
        return pd.DataFrame([_example(json.loads(line)["segments"]) for line in _read(MIX).strip("\n").split("\n")])


def _example(segments: list[dict]) -> dict[str, object]:
    given, taught = segments
    if (given["label"], taught["label"]) != (False, True):
        raise ValueError("labels")
    question, drift = _TURNS.search(given["text"]).groups()
    return {
        "kind": "pasted" if drift else "normal",
        "question": question,
        "drift": drift,
        "taught": taught["text"].removesuffix(_END),
        "ends": taught["text"].endswith(_END),
    }


# Reading without running


@contextmanager
def _looking_for(what: str, path: str) -> Iterator[None]:
    try:
        yield
    except (SyntaxError, ValueError, TypeError, LookupError, AttributeError, RecursionError, MemoryError) as error:
        raise ReferenceFileError(
            f"{path} of the authors' repository is not built as expected: no {what} was found; this kit reads it as of "
            f"commit {COMMIT[:7]}"
        ) from error


def _read(path: str) -> str:
    return reference_file(path).read_text(encoding="utf-8")


def _lines(path: str) -> list[str]:
    with _looking_for("text of one entry a line", path):
        lines = [line.strip() for line in _read(path).splitlines() if line.strip()]
        if not lines:
            raise ValueError("empty")
    return lines


def _tree(path: str) -> ast.Module:
    with _looking_for("Python", path):
        return ast.parse(_read(path))


def _is_named(node: ast.Assign, name: str) -> bool:
    return [target.id for target in node.targets if isinstance(target, ast.Name)] == [name]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _suffix(template: str) -> str:
    """What a template adds to the question, with this kit's name for the label."""
    before, suffix = template.split("{prompt} ")
    if before or not suffix:
        raise ValueError(template)
    return suffix.replace("{latent_label}", "{label}")


def _part(node: ast.expr, values: dict[str, str]) -> str:
    """A piece of an f-string: a constant, or the value of a name that stands alone."""
    if isinstance(node, ast.FormattedValue):
        if node.conversion != -1 or node.format_spec:
            raise ValueError("a formatted value")
        return values[node.value.id]
    return _text(ast.literal_eval(node))
