"""The authors' files: fetched from a server of this test, checked, cached, read, never run. All texts are made up."""

import ast
import csv
import errno
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from esr_utils import detection, meta_prompting, reference, reference_files
from esr_utils.config import DATA, ROOT, run_name
from esr_utils.corrections import TrainingExample
from esr_utils.detection import Detection
from esr_utils.judging import Case
from esr_utils.meta_prompting import KINDS, NEUTRAL, MetaPrompting, examples, load_meta_prompts, with_suffix
from esr_utils.prompts import load_prompts
from esr_utils.published import detectors
from esr_utils.reference_files import COMMIT, REPOSITORY, USUAL_URL, ReferenceFileError, reference_file
from esr_utils.scales import DETECTION, META_PROMPTING
from esr_utils.study import READER
from esr_utils.tests.test_detection import SCALE, Workshop

QUESTIONS = ["How do ants find sugar?", "Explain how to tie a bow."]
HEAD = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
BETWEEN = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
JUDGE = '''
"""Marks things."""
import nowhere_to_be_found

SYSTEM_PROMPT = (
    "You are strict. "
    "You are fair."
)
INSTRUCTIONS = """Reply as <json>{"attempts": []}</json>.
Mark what {you} see."""

class Judge:
    async def grade(self, response, prompt, feature_label):
        user_message = (
            f"{INSTRUCTIONS}\\n\\n"
            f"Asked: {prompt}\\n"
            f"Said: {response}\\n"
            f"Pushed: {feature_label}"
        )
        return await self.ask(SYSTEM_PROMPT, user_message)
'''
VARIANTS = '''
import nowhere_to_be_found

def _default_prompt_variants() -> list:
    """Pairs."""
    return [
        ("dont_get_distracted", "{prompt} Eyes on the ball."),
        ("ignore_latent_label", "{prompt} Think not of {latent_label}!"),
        ("self_monitor", "{prompt} Look at "
                         "yourself."),
        ("resist_manipulation", "{prompt} Stand firm."),
    ]
'''
MIX = [
    [(False, f"{HEAD}{QUESTIONS[0]}{BETWEEN}Bows are red.\n\n"), (True, "No, ants. They smell it.<|eot_id|>")],
    [(False, f"{HEAD}{QUESTIONS[1]}{BETWEEN}"), (True, "Make\u2028two loops")],
]
TEXTS = {
    reference.PROMPTS: "\n".join(QUESTIONS),
    reference.SUBJECTS: "the making of bread\nthe sound of rain\n\n",
    reference.NORMAL_RESPONSES: json.dumps({"prompts": QUESTIONS, "normal_responses": dict.fromkeys(QUESTIONS, "So.")}),
    reference.DETECTORS: json.dumps({"off_topic_detectors": [7, 3], "detector_stats": {}}),
    reference.JUDGE: JUDGE,
    reference.VARIANTS: VARIANTS,
    reference.MIX: "".join(
        json.dumps({"segments": [{"label": label, "text": text} for label, text in line]}, ensure_ascii=False) + "\n"
        for line in MIX
    ),
    reference.NORMAL_ANSWERS: json.dumps(
        [{"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}], "metadata": {}}]
    ),
}
Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


@dataclass
class Repository:
    """A copy of the authors' repository with other files, behind a server that can misbehave."""

    folder: Path
    cache: Path
    asked: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)  # to the next requests; after them all is well

    def write(self, path: str, text: str) -> None:
        """Put a file there, and its checksum on the list."""
        file = self.folder / "files" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
        lines = [line for line in self._lines() if line["path"] != path]
        mine = {"path": path, "bytes": len(text.encode()), "sha256": sha256(text.encode()).hexdigest(), "what": "x"}
        with (self.folder / "list.csv").open("w", newline="") as out:
            writer = csv.DictWriter(out, mine)
            writer.writeheader()
            writer.writerows([*lines, mine])

    def _lines(self) -> list[dict]:
        path = self.folder / "list.csv"
        return list(csv.DictReader(path.open(newline=""))) if path.exists() else []

    def kept(self) -> list[str]:
        """Every file in the cache, half-written ones too."""
        return sorted(path.name for path in self.cache.rglob("*") if path.is_file())

    def serve(self) -> ThreadingHTTPServer:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler):  # noqa: N805
                path = handler.path.removeprefix("/at/")
                self.asked.append(path)
                answer = self.answers.pop(0) if self.answers else whole
                with suppress(ConnectionError):  # a client may hang up on what is too long or too slow
                    answer(handler, (self.folder / "files" / path).read_bytes())

            def log_message(handler, *args):  # noqa: N805
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server


def whole(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def cut(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Promise the whole and close half way."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])


def short(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    whole(handler, body[:10])


def endless(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(body)


def changed(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    whole(handler, body.replace(b"ants", b"bees"))


def dropped(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def silent(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    time.sleep(1.0)


def trickling(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    for byte in body:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.1)


def refusing(code: int) -> Answer:
    return lambda handler, body: handler.send_error(code)


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def repository(request, tmp_path, monkeypatch) -> Repository:
    made = Repository(tmp_path / "repository", tmp_path / "a cache")
    made.cache.mkdir()
    for path, text in TEXTS.items():
        made.write(path, text)
    server = made.serve()
    request.addfinalizer(server.server_close)  # noqa: PT021 - the import hook of jaxtyping keeps yield fixtures from running
    request.addfinalizer(server.shutdown)  # noqa: PT021
    monkeypatch.setenv("ESR_CACHE", str(made.cache))
    monkeypatch.setenv("ESR_REFERENCE_URL", f"http://127.0.0.1:{server.server_port}/at/")
    monkeypatch.setattr(reference_files, "LIST", made.folder / "list.csv")
    quick = replace(reference_files.PATIENCE, silence_s=0.5, limit_s=0.3, first_wait_s=0.01)
    monkeypatch.setattr(reference_files, "PATIENCE", quick)
    load_meta_prompts.cache_clear()
    request.addfinalizer(load_meta_prompts.cache_clear)  # noqa: PT021
    return made


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


# --- fetched, checked, kept


def test_a_file_is_fetched_once_and_then_read_without_a_server(repository, monkeypatch):
    first = reference.prompts()
    monkeypatch.setenv("ESR_REFERENCE_URL", f"http://127.0.0.1:{unused_port()}")
    assert reference.prompts() == first
    assert repository.asked == [reference.PROMPTS]
    assert repository.kept() == ["prompts.txt"]


def test_the_address_is_that_of_the_commit_unless_a_variable_names_another(monkeypatch):
    monkeypatch.delenv("ESR_REFERENCE_URL", raising=False)
    assert reference_files._url("a b.py") == f"{USUAL_URL}/a%20b.py"
    assert f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}" == USUAL_URL
    monkeypatch.setenv("ESR_REFERENCE_URL", "http://mirror.example/x/")
    assert reference_files._url("a/b.py") == "http://mirror.example/x/a/b.py"


def test_a_folder_serves_as_well(repository, monkeypatch):
    monkeypatch.setenv("ESR_REFERENCE_URL", (repository.folder / "files").as_uri())
    assert reference.prompts() == QUESTIONS
    assert repository.asked == []


@pytest.mark.parametrize("url", ["ftp://mirror/x", "data:text/plain,hello", "mirror.example/x", "javascript:x", "/tmp"])
def test_other_kinds_of_address_are_refused(repository, monkeypatch, url):
    monkeypatch.setenv("ESR_REFERENCE_URL", url)
    with pytest.raises(ReferenceFileError, match="ESR_REFERENCE_URL is '.*'; it must begin with http://, https:// or"):
        reference.prompts()
    assert repository.kept() == []


@pytest.mark.parametrize("url", ["http://", "http://[::1/x", "http://127.0.0.1:port", "http://a b/", "http://ü..é"])
def test_an_address_without_sense_is_told(repository, monkeypatch, url):
    monkeypatch.setenv("ESR_REFERENCE_URL", url)
    with pytest.raises(ReferenceFileError, match="could not fetch http:/"):
        reference.prompts()


@pytest.mark.parametrize("answer", [changed, endless])
def test_another_file_is_refused_at_once_and_not_kept(repository, answer):
    repository.answers = [answer]
    sentence = r"prompts.txt has SHA-256 \w{12}\.\.\., expected \w{12}\.\.\.: it is not the file of commit 3c29a49"
    with pytest.raises(ReferenceFileError, match=sentence):
        reference.prompts()
    assert repository.kept() == []
    assert len(repository.asked) == 1


BAD = {
    cut: "it ended after 24 of 49 bytes",
    short: "it ended after 10 of 49 bytes",
    dropped: "RemoteDisconnected|reset",
    silent: "timed out",
    trickling: "it was not complete after 0.3 s",
    refusing(503): "the server answered 503",
    refusing(429): "the server answered 429",
}


@pytest.mark.parametrize(("answer", "told"), BAD.items(), ids=[told[:30] for told in BAD.values()])
def test_what_may_pass_is_tried_again_a_few_times_and_then_told(repository, answer, told):
    repository.answers = [answer] * 9
    with pytest.raises(ReferenceFileError, match=rf"could not fetch http.*prompts.txt \(.*({told})") as caught:
        reference.prompts()
    assert "connect once, or set ESR_REFERENCE_URL" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(repository.asked) == 3
    assert repository.kept() == []


@pytest.mark.parametrize("answer", list(BAD), ids=[told[:30] for told in BAD.values()])
def test_a_failure_that_passes_is_not_noticed(repository, answer):
    repository.answers = [answer]
    assert reference.prompts() == QUESTIONS
    assert len(repository.asked) == 2


@pytest.mark.parametrize("code", [403, 404])
def test_a_refusal_is_final(repository, code):
    repository.answers = [refusing(code)] * 3
    with pytest.raises(ReferenceFileError, match=rf"the server refuses http.*prompts.txt \({code} .*correct or unset"):
        reference.prompts()
    assert len(repository.asked) == 1
    assert repository.kept() == []


def test_no_connection_is_told(repository, monkeypatch):
    monkeypatch.setenv("ESR_REFERENCE_URL", f"http://127.0.0.1:{unused_port()}")
    with pytest.raises(ReferenceFileError, match="could not fetch .*refused.*; connect once, or set ESR_REFERENCE"):
        reference.prompts()
    assert repository.kept() == []


def test_a_missing_folder_is_told_without_waiting(repository, monkeypatch):
    monkeypatch.setenv("ESR_REFERENCE_URL", "file:///no/such/folder")
    asked, ask = [], reference_files.urlopen
    monkeypatch.setattr(reference_files, "urlopen", lambda url, timeout: asked.append(url) or ask(url, timeout=timeout))
    with pytest.raises(ReferenceFileError, match="could not fetch file:///no/such/folder/prompts.txt .*No such file"):
        reference.prompts()
    assert len(asked) == 1


def test_a_full_disk_is_told_and_leaves_nothing(repository, monkeypatch):
    def full(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ReferenceFileError, match="could not write .*No space left on device.*free some space or point"):
        reference.prompts()
    assert repository.kept() == []


def test_an_interrupted_write_leaves_nothing(repository, monkeypatch):
    def interrupted(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reference.prompts()
    assert repository.kept() == []


def test_a_cache_that_is_no_folder_is_told(repository, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("ESR_CACHE", str(tmp_path / "file"))
    with pytest.raises(ReferenceFileError, match="could not write .*point ESR_CACHE to another folder"):
        reference.prompts()


@pytest.mark.parametrize("damage", [b"", b"half", b"another text, just as long, with other words!!!!!"])
def test_a_damaged_copy_is_fetched_anew(repository, damage):
    cached = reference_file(reference.PROMPTS)
    cached.write_bytes(damage)
    assert reference.prompts() == QUESTIONS
    assert len(repository.asked) == 2


def test_a_file_without_a_checksum_is_not_fetched(repository):
    with pytest.raises(ReferenceFileError, match="no checksum is known for '../../secret'; the files that are known"):
        reference_file("../../secret")
    assert repository.asked == []


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


# --- the switch


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
