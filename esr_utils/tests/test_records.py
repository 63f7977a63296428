"""Run folders: made once, whole or not at all, and never mixed. Plans: an id for each, a seed for each comparison."""

import json
from dataclasses import dataclass, fields, replace

import jaxtyping
import pandas as pd
import pytest

from esr_utils.files import write_whole
from esr_utils.judging import Attempt, Verdict
from esr_utils.records import Judgement, PlannedTrial, Run, Trial, open_run
from esr_utils.shards import Shard


@dataclass(frozen=True)
class Settings:
    n: int = 3
    strengths: tuple[float, ...] = (0.0, 1.0)


PLAN = PlannedTrial(subject="s", condition="steered", question="Why?", latent=3, level=1.0, strength=65.25)
CHANGES = {
    "subject": "other",
    "condition": "baseline",
    "question": "Why ?",
    "latent": 4,
    "level": 0.5,
    "strength": 65.26,
    "repeat": 1,
    "run_seed": 1,
}
SHARED = ("subject", "condition", "level", "strength")  # arms that are compared differ in these
JUDGED = Verdict(status="judged", attempts=(Attempt(start=0, end=4, score=12.5), Attempt(start=5, end=9, score=80.0)))
UGLY = ["a\rb", "a\nb", "a\r\nb", 'say "a", b', " a ", "☕", "None", "NA", ""]


def a_trial(**changes: object) -> Trial:
    outcome = {"response": "No. Yes.\n", "n_tokens": 4, "stop_reason": "stop"}
    return Trial(plan=replace(PLAN, **{k: v for k, v in changes.items() if k in CHANGES}), **outcome)


def test_a_result_is_made_once_and_then_read(tmp_path):
    made = []
    for _ in range(2):
        run = open_run(tmp_path / "run", Settings())
        frame = run.frame("numbers", lambda: made.append(1) or pd.DataFrame({"x": [1, 2]}))
        assert frame["x"].tolist() == [1, 2]
    assert made == [1]


@pytest.mark.parametrize("text", UGLY)
def test_text_in_a_result_is_read_as_it_was_made(tmp_path, text):
    run = open_run(tmp_path / "run", Settings())
    frame = run.frame("texts", lambda: pd.DataFrame({"response": [text, "told"], "n": [1, 2]}))
    assert frame.to_dict("list") == {"response": [text, "told"], "n": [1, 2]}


def test_other_settings_are_refused_by_name(tmp_path):
    open_run(tmp_path / "run", Settings())
    with pytest.raises(ValueError, match=r"other settings \(n: 3 there, 4 now\)"):
        open_run(tmp_path / "run", replace(Settings(), n=4))


def test_every_setting_that_differs_is_named_with_what_to_do(tmp_path):
    open_run(tmp_path / "run", {"n": 3, "dropped": 1, "same": [1, 2]})
    told = (
        r"run was made with other settings \(added: None there, 2 now; dropped: 1 there, None now; n: 3 there, 4 now\)"
        "; delete the folder or restore them"
    )
    with pytest.raises(ValueError, match=told):
        open_run(tmp_path / "run", {"n": 4, "added": 2, "same": (1, 2)})


def test_a_run_folder_says_its_version_and_one_that_does_not_is_of_the_first(tmp_path):
    path = open_run(tmp_path / "run", Settings()).folder / "run.json"
    description = json.loads(path.read_text())
    assert description.pop("version") == 1
    path.write_text(json.dumps(description))
    open_run(tmp_path / "run", Settings())
    assert "version" not in json.loads(path.read_text())


@pytest.mark.parametrize("shard", [None, Shard(1, 2)])
def test_a_run_folder_of_a_newer_kit_is_refused(tmp_path, shard):
    path = open_run(tmp_path / "run", Settings(), shard=shard).own / "run.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match=f"{path.parent.name} is a run folder of version 2, .* 1; update the kit to"):
        open_run(tmp_path / "run", Settings())


def test_a_folder_that_is_refused_stays_as_it_was(tmp_path):
    run = open_run(tmp_path / "run", Settings())
    run.add_trials([a_trial()])
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(ValueError, match="other settings"):
        open_run(tmp_path / "run", replace(Settings(), strengths=(0.0, 2.0)))
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


@pytest.mark.parametrize("content", ["x\n", b"x\n", lambda file: file.write(b"x\n")], ids=["text", "bytes", "function"])
def test_a_full_disk_leaves_no_half_written_file(tmp_path, monkeypatch, content):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_whole(tmp_path / "a.csv", content)
        assert list(tmp_path.iterdir()) == []
    write_whole(tmp_path / "a.csv", content)
    assert (tmp_path / "a.csv").read_bytes() == b"x\n"


def test_an_interrupt_while_making_a_result_leaves_the_others(tmp_path):
    run = open_run(tmp_path / "run", Settings())
    run.frame("first", lambda: pd.DataFrame({"x": [1]}))

    def interrupted() -> pd.DataFrame:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.frame("second", interrupted)
    assert sorted(path.name for path in run.folder.iterdir()) == ["first.csv", "run.json"]


def test_run_json_tells_versions_but_no_names_of_machines_or_folders(tmp_path):
    text = (open_run(tmp_path / "run", Settings()).folder / "run.json").read_text()
    assert '"torch"' in text
    assert str(tmp_path) not in text


def test_the_id_of_a_plan_depends_on_every_field():
    assert CHANGES.keys() == {field.name for field in fields(PlannedTrial)}
    ids = {replace(PLAN, **{name: value}).id for name, value in CHANGES.items()}
    assert len(ids | {PLAN.id}) == len(CHANGES) + 1


def test_equal_plans_have_equal_ids(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it: 1 is accepted for 1.0
    assert replace(PLAN, level=1) == PLAN
    assert replace(PLAN, level=1).id == PLAN.id


@pytest.mark.parametrize("name", CHANGES)
def test_arms_that_are_compared_share_their_seed_and_nothing_else_does(name):
    changed = replace(PLAN, **{name: CHANGES[name]})
    assert (changed.seed == PLAN.seed) == (name in SHARED)


def test_ids_and_seeds_stay_as_published_records_have_them():
    assert (PLAN.id, PLAN.seed) == ("8a3c1f300f9f9be3", 2429034219)


def test_trials_come_back_as_they_were(tmp_path):
    trials = [a_trial(repeat=i, question="¿Por qué? \n☕") for i in range(3)]
    run = open_run(tmp_path / "run", Settings())
    run.add_trials(trials[:1])
    run.add_trials(trials[1:])
    found = open_run(tmp_path / "run", Settings()).trials()
    assert found == {trial.plan.id: trial for trial in trials}
    assert [trial.plan.id for trial in found.values()] == list(found)


def test_judgements_come_back_as_they_were(tmp_path):
    verdicts = [JUDGED, replace(JUDGED, recovery=3.5, note="mended\n"), Verdict(status="unparsed", note="not JSON")]
    judgements = [Judgement(trial_id=f"t{i}", verdict=v, repeat=i % 2) for i, v in enumerate(verdicts)]
    run = Run(folder=tmp_path)
    run.add_judgements("offline", judgements)
    assert run.judgements("offline") == {(j.trial_id, j.repeat): j for j in judgements}


def test_each_judge_has_a_file_of_its_own(tmp_path):
    run = Run(folder=tmp_path)
    assert run.judges() == []
    run.add_judgements("offline", [Judgement(trial_id="a", verdict=JUDGED)])
    before = run.judgements("offline")
    run.add_judgements("claude-4.5.beta", [Judgement(trial_id="a", verdict=Verdict(status="empty"))])
    assert run.judges() == ["claude-4.5.beta", "offline"]
    assert run.judgements("offline") == before
    assert run.judgements("claude-4.5.beta")["a", 0].verdict.status == "empty"


def test_one_engine_makes_all_of_a_run(tmp_path):
    ours, theirs = (open_run(tmp_path / name, Settings()) for name in ("ours", "theirs"))
    ours.bind_engine("hf")
    ours.add_trials([a_trial()])
    ours.bind_engine("hf")
    with pytest.raises(ValueError, match="ours was begun with the engine hf, and this is vllm; set the environment"):
        ours.bind_engine("vllm")
    theirs.bind_engine("vllm")
    theirs.add_trials([a_trial()])
    theirs.bind_engine("vllm")
    with pytest.raises(ValueError, match="theirs was begun with the engine vllm, and this is hf"):
        theirs.bind_engine("hf")


def test_shards_of_a_run_are_made_by_one_engine(tmp_path):
    first = open_run(tmp_path / "run", Settings(), shard=Shard(1, 2))
    first.bind_engine("vllm")
    first.add_trials([a_trial()])
    with pytest.raises(ValueError, match="1of2 was begun with the engine vllm"):
        open_run(tmp_path / "run", Settings(), shard=Shard(2, 2)).bind_engine("hf")
