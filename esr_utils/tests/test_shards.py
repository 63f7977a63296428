"""Several processes make one study: killed, started again, cut otherwise; the result is a single worker's."""

import multiprocessing
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from esr_utils import detection, latents, shard, study
from esr_utils.catalogue import CATALOGUE, StrengthPrior
from esr_utils.detection import Detection
from esr_utils.engines.ndif_checks import NDIFError
from esr_utils.engines.vllm_server import LostError, ServerError
from esr_utils.hub import HubError
from esr_utils.journal import locked
from esr_utils.judging import Attempt, Verdict
from esr_utils.machine import MachineError
from esr_utils.neuronpedia import LabelsError
from esr_utils.records import Judgement, Run, Trial, open_run, read_of
from esr_utils.scales import DETECTION
from esr_utils.shards import Shard, read_shard
from esr_utils.study import JUDGE, READER
from esr_utils.tests.conftest import tiny_pair
from esr_utils.tests.test_kill_and_resume import Company, Slow
from esr_utils.tests.test_records import PLAN
from esr_utils.wheels import WeightsError

SCALE = replace(
    DETECTION["quick"],
    n_latents=10,
    n_questions=5,
    levels=(0.0, 0.25, 0.5, 0.75, 1.0),
    n_repeats=2,
    n_steps=2,
    n_samples=2,
    n_verify=2,
    n_placebo=4,
    max_new_tokens=4,
)
PRIOR = StrengthPrior(mean=4.0, sd=2.0, upper=8.0)  # of the tiny model
N_TRIALS = 500
PAUSE_S = 0.005  # before each response
SHORTEST_S = N_TRIALS / 4 * PAUSE_S
FORKS = multiprocessing.get_context("forkserver")


class Judging(Company):
    """Scores depend on the company of a response, so they tell if another worker put it together otherwise."""

    name = JUDGE

    def __init__(self, reader, *, way, name):
        self.name = name

    def scores(self, questions, texts):
        return np.zeros(len(texts))


def prepare(folder: Path, patch) -> None:
    """A study of the tiny model in ``folder``; ``patch`` replaces attributes, as ``setattr`` or a test's patch does."""
    torch.set_num_threads(1)
    labels = pd.DataFrame({"label": "x", "topics": "y", "concreteness": 50.0}, index=pd.RangeIndex(63, name="latent"))
    asked = {name: [f"{name.capitalize()} question {i}?" for i in range(6)] for name in ("calibration", "evaluation")}
    engine = Slow(tiny_pair("llama"))
    patch(study, "load_engine", lambda subject: engine)
    patch(study, "results_dir", lambda subject, run, scale: folder / run)
    patch(detection, "load_prompts", lambda split, stimuli: asked[split])
    patch(latents, "load_labels", lambda subject: labels)
    patch(latents, "N_DROPPED_PER_QUESTION", 1)
    patch(detection, "find_entry", lambda name: replace(CATALOGUE[READER], prior=PRIOR))
    patch(shard, "STUDIES", {"detection": replace(shard.STUDIES["detection"], scales={"quick": SCALE})})


def work(folder: Path, part: str, begun) -> None:
    """What the command line does, in a process of its own."""
    from esr_utils.judges import offline
    from esr_utils.tests import test_kill_and_resume

    test_kill_and_resume.PAUSE_S = PAUSE_S
    prepare(folder, setattr)
    offline.offline_judge = Judging
    begun.set()
    sys.exit(shard.main(["detection", READER, "quick", part]))


def start(folder: Path, n: int) -> list:
    events = [FORKS.Event() for _ in range(n)]
    workers = [FORKS.Process(target=work, args=(folder, f"{k}/{n}", events[k - 1])) for k in range(1, n + 1)]
    for worker in workers:
        worker.start()
    for event in events:
        assert event.wait(120)
    return workers


def finish(folder: Path, n: int) -> None:
    workers = start(folder, n)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * n


def kill_at(workers: list, moments: np.ndarray) -> int:
    """Kill each worker at its moment; how many were at work."""
    begun, n_killed = time.monotonic(), 0
    for at in np.argsort(moments):
        time.sleep(max(0.0, begun + moments[at] - time.monotonic()))
        n_killed += workers[at].is_alive()
        workers[at].kill()
        workers[at].join()
    return n_killed


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("esr_utils.tests.test_kill_and_resume.PAUSE_S", 0.0)
    monkeypatch.setattr("esr_utils.judges.offline.offline_judge", Judging)
    prepare(tmp_path / "many", monkeypatch.setattr)
    return tmp_path / "many"


def a_detection() -> Detection:
    return Detection(subject=READER, scale_name="quick", scale=SCALE)


def lines(folder: Path, name: str) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in folder.glob(f"esr_detection/**/{name}.jsonl"))


def test_four_workers_killed_at_random_end_as_one_that_was_not(folder, monkeypatch):
    rng = np.random.default_rng(0)
    assert kill_at(start(folder, 4), rng.random(4) * SHORTEST_S) == 4  # none was over before
    finish(folder, 3)  # cut otherwise: what is done is done, whoever did it
    many = a_detection().measure()
    assert lines(folder, "trials") == lines(folder, f"judgements.{JUDGE}") == N_TRIALS  # none was made twice
    monkeypatch.setattr(study, "results_dir", lambda subject, run, scale: folder.parent / "one" / run)
    one = a_detection().measure()
    assert many.run.folder != one.run.folder
    assert not one.run.has_shards
    assert len(one.plan()) == N_TRIALS
    assert many.run.trials() == one.run.trials()
    assert many.run.judgements(JUDGE) == one.run.judgements(JUDGE)
    for name in ("calibration", "trials", "placebo_parts"):
        pd.testing.assert_frame_equal(getattr(many, name)(), getattr(one, name)(), check_exact=True)


def test_shards_made_on_machines_that_share_nothing_are_one_run_when_copied_together(folder, monkeypatch):
    for k in (1, 2):
        monkeypatch.setattr(study, "results_dir", lambda subject, run, scale, k=k: folder / str(k) / run)
        a_detection().sharded(f"{k}/2").measure()
    copied = folder / "1" / "esr_detection" / "shards" / "2of2"
    monkeypatch.setattr(study, "results_dir", lambda subject, run, scale: folder / "1" / run)
    chosen = a_detection().latents().index.tolist()
    with pytest.raises(RuntimeError, match=f"calibrations of 5 of 10 latents are not there yet \\({chosen[1]}, .*1/1"):
        a_detection().measure()
    assert not (copied.parent.parent / "calibration.csv").exists()
    shutil.copytree(folder / "2" / "esr_detection" / "shards" / "2of2", copied)
    assert set(a_detection().measure().trials()["status"]) == {"judged", "empty"}
    (copied / "trials.jsonl").unlink()
    with pytest.raises(RuntimeError, match="trials of 5 of 10 latents are not there yet"):
        a_detection().measure()


def test_a_shard_made_with_other_settings_is_refused(folder):
    a_detection().sharded("1/2").latents()
    other = replace(a_detection(), scale=replace(SCALE, n_latents=8))
    for refused in (other, other.sharded("2/2")):
        with pytest.raises(ValueError, match=r"1of2 was made with other settings \(n_latents: 10 there, 8 now\)"):
            _ = refused.run


def test_shards_that_chose_other_latents_are_refused(folder):
    run = a_detection().sharded("1/2").run
    a_detection().sharded("1/2").latents()
    (run.folder / "shards" / "2of2").mkdir()
    (run.folder / "shards" / "2of2" / "latents.csv").write_text('"latent"\n1\n')
    with pytest.raises(ValueError, match=r"latents.csv differs between 1of2 and 2of2, .* keep one of them"):
        a_detection().latents()


@pytest.mark.parametrize("text", ["5/4", "0/4", "x", "", "1/0", "-1/4", "1 / 4", "1/4/2"])
def test_what_names_no_shard_is_refused(text):
    with pytest.raises(ValueError, match=f"'{text}' names no shard; say which of how many, from 1/4 to 4/4 for four"):
        read_shard(text)


@pytest.mark.parametrize("n", [1, 3, 4, 20])
def test_shards_share_nothing_and_miss_nothing(n):
    parts = [Shard(k, n).part(range(10)) for k in range(1, n + 1)]
    assert sorted(sum(parts, [])) == list(range(10))


REFUSED = {
    "five of four": (["detection", READER, "quick", "5/4"], "'5/4' names no shard"),
    "a scale": (["detection", READER, "huge", "1/4"], "unknown scale 'huge'"),
    "a pair": (["detection", "smollm", "quick", "1/4"], "unknown pair 'smollm'"),
    "a study": (["dreaming", READER, "quick", "1/4"], "names no part of a study; say STUDY PAIR SCALE PART"),
    "no words": ([], "names no part of a study"),
    "what has no trials to share": (["discovery", READER, "quick", "1/4"], "discovery is not made in shards: its"),
}


@pytest.mark.parametrize(("words", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_a_line_that_cannot_be_started_is_answered_in_a_sentence(capsys, words, told):
    assert shard.main(words) == 2
    assert told in capsys.readouterr().err


def test_the_command_is_there():
    done = subprocess.run([sys.executable, "-m", "esr_utils.shard", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"'x' names no part of a study; {shard.USAGE}\n"


def test_two_processes_on_one_shard_are_told_apart(folder, capsys):
    own = a_detection().sharded("1/2").run.own
    with (own / "lock").open("w") as file, locked(file.fileno(), own):
        assert shard.main(["detection", READER, "quick", "1/2"]) == 1
    assert f"another process is writing {own}; wait until it has ended" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [MachineError, ServerError, LostError, NDIFError, HubError, LabelsError, WeightsError])
def test_what_a_model_or_a_server_lacks_is_told_in_a_sentence(folder, capsys, monkeypatch, kind):
    def fail(subject: str):
        raise kind("it does not fit; take another")

    monkeypatch.setattr(study, "load_engine", fail)
    assert shard.main(["detection", READER, "quick", "1/2"]) == 1
    assert capsys.readouterr().err == "it does not fit; take another\n"


@pytest.mark.parametrize(
    ("number", "told"),
    [(28, "No space left on device; what was finished is kept"), (13, "Permission denied; what was finished is kept")],
)
def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(folder, capsys, monkeypatch, number, told):
    def fail(self, *args, **kwargs):
        raise OSError(number, told.split(";")[0], str(self))

    monkeypatch.setattr(Path, "mkdir", fail)
    assert shard.main(["detection", READER, "quick", "1/2"]) == 1
    assert told in capsys.readouterr().err


def a_trial(response: str) -> Trial:
    return Trial(plan=PLAN, response=response, n_tokens=4, stop_reason="stop")


def scored(response: str, score: float) -> Judgement:
    attempts = (Attempt(start=0, end=len(response), score=score),)
    verdict = Verdict(status="judged", attempts=attempts)
    return Judgement(trial_id=PLAN.id, verdict=verdict, read=read_of(response))


@pytest.fixture
def twice(tmp_path) -> Run:
    """One trial made by two shards that rounded differently, each judged by its own."""
    for k, response in ((2, "The second."), (1, "The first one.")):
        run = open_run(tmp_path / "run", {}, shard=Shard(k, 2))
        Run(folder=tmp_path / "run" / "shards" / run.own.name).add_trials([a_trial(response)])
        if k == 2:
            run.add_judgements("offline", [scored(response, 50.0)])
    return open_run(tmp_path / "run", {})


def test_of_two_responses_to_one_trial_the_first_shards_counts(twice):
    assert twice.trials() == {PLAN.id: a_trial("The first one.")}
    with pytest.warns(UserWarning, match="1 trials of run were made by two shards or more"):
        twice.warn_of_differing()


def test_a_judgement_of_the_response_that_does_not_count_is_left_out_and_made_again(twice):
    assert twice.judgements("offline") == {}
    twice.add_judgements("offline", [scored("The first one.", 10.0)])
    assert twice.judgements("offline") == {(PLAN.id, 0): scored("The first one.", 10.0)}


def test_the_same_record_in_two_shards_is_one_and_no_difference(tmp_path):
    for k in (1, 2):
        Run(folder=tmp_path / "shards" / f"{k}of2").add_trials([a_trial("The same.")])
    assert Run(folder=tmp_path).trials() == {PLAN.id: a_trial("The same.")}
    assert Run(folder=tmp_path).n_differing() == 0
