"""The bench gives every contender the same work, and says so when a figure is missed."""

import json
from dataclasses import asdict, replace

import pandas as pd
import pytest

from esr_utils import bench, contenders
from esr_utils.contenders import BenchSettings, Contender, Heat
from esr_utils.engines.nnsight import NNsightEngine
from esr_utils.models import Pair

SETTINGS = BenchSettings(
    batches=(1, 3), n_tokens=5, mixed_tokens=(2, 6), n_latents=4, strengths=(2.0, 6.0), min_rounds=2, max_rounds=2
)
SPEEDS = ["contender", "batch", "tokens", "n_rounds", "seconds_median", "seconds_min", "seconds_max", "tokens_per_s"]
RATIOS = ["ratio", "measured", "measured_min", "measured_max", "target", "reached"]


@pytest.fixture(scope="module")
def heats(tiny_llama: Pair) -> list[Heat]:
    return contenders.schedule(tiny_llama, SETTINGS)


@pytest.fixture(scope="module")
def timings(heats: list[Heat], tiny_llama: Pair) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "schedule", lambda pair, settings: heats)
        return bench.measure(tiny_llama, SETTINGS)


@pytest.fixture
def made_up() -> pd.DataFrame:
    """Two rounds in which every contender takes one second for 100 tokens, and the second is slower for all."""
    names = [
        contenders.STEERED,
        contenders.ABLATING,
        contenders.GENERATE,
        contenders.BRIDGE,
        contenders.MIXED_STEERED,
        contenders.MIXED_GENERATE,
    ]
    keys = [
        *((name, 64) for name in names),
        (contenders.ALONE, 1),
        (contenders.FIRST_TOKEN, 1),
        (contenders.FIRST_TOKEN, 3),
    ]
    return pd.DataFrame(
        {
            "contender": name,
            "batch": batch,
            "round": n,
            "tokens": 1 if name == contenders.FIRST_TOKEN else 100,
            "seconds": s,
        }
        for n, s in enumerate((1.0, 3.0))
        for name, batch in keys
    )


def with_seconds(timings: pd.DataFrame, name: str, factor: float) -> pd.DataFrame:
    return timings.assign(seconds=timings["seconds"].where(timings["contender"] != name, timings["seconds"] * factor))


def test_every_contender_gives_exactly_the_tokens_asked_for(heats):
    for heat in heats:
        lengths = [len(tokens) for tokens in heat.contender.call(heat.rows)]
        asked = [1] if heat.contender.name == contenders.FIRST_TOKEN else [r.sampling.max_new_tokens for r in heat.rows]
        assert lengths == asked, heat.contender.name
        assert sum(lengths) == heat.n_tokens


def test_lengths_do_not_depend_on_the_end_of_turn(tiny_llama):
    rows = contenders.bench_rows(tiny_llama, SETTINGS, [60] * 3)
    stopping = contenders.with_engine(contenders.HFEngine(tiny_llama), rows)
    assert min(map(len, stopping)) < 60  # some letters end a turn of the tiny model
    assert [len(tokens) for tokens in contenders.with_generate(tiny_llama, rows)] == [60] * 3


def test_greedy_contenders_draw_the_same_tokens(heats):
    calls = {heat.contender.name: heat.contender.call for heat in heats}
    rows = [replace(row, sampling=replace(row.sampling, temperature=0.0)) for row in _largest(heats)]
    steered = calls[contenders.STEERED](rows)
    for name in (contenders.ALONE, contenders.BRIDGE, contenders.NNSIGHT):
        assert calls[name](rows) == steered, name
    unsteered = calls[contenders.UNSTEERED](rows)
    assert calls[contenders.GENERATE](rows) == unsteered
    assert steered != unsteered
    assert calls[contenders.ABLATING](rows) != steered


def _largest(heats: list[Heat]) -> list:
    return next(heat.rows for heat in heats if heat.contender.name == contenders.STEERED and heat.batch == 3)


def test_contenders_leave_the_model_as_it_was(heats, tiny_llama):
    def state() -> list[tuple[int, object]]:
        return [(len(module._forward_hooks), vars(module).get("forward")) for module in tiny_llama.model.modules()]

    before = state()
    NNsightEngine(tiny_llama)  # nnsight replaces each module's forward, in a copy
    for heat in heats:
        heat.contender.call(heat.rows)
    assert state() == before


def test_rows_differ_in_prompt_latent_and_strength(heats):
    rows = _largest(heats)
    steers = [row.steer[0] for row in rows]
    assert len({row.messages for row in rows}) == len({s.latent for s in steers}) == len({s.strength for s in steers})


def test_a_contender_that_gives_less_is_not_timed(tiny_llama):
    rows = contenders.bench_rows(tiny_llama, SETTINGS, [5, 5])
    lazy = Heat(Contender("lazy", lambda rows: [[1, 2], [3]]), 2, rows, 10)
    with pytest.raises(RuntimeError, match="lazy gave 3 tokens at batch 2; 10 were asked for"):
        bench.seconds_of(lazy)


def test_tables_have_their_columns_and_a_line_for_each_heat(timings, heats):
    speeds, ratios = bench.speeds(timings), bench.ratios(timings)
    assert list(speeds) == SPEEDS
    assert list(ratios) == RATIOS
    assert len(speeds) == len(heats)
    assert set(speeds["n_rounds"]) == {2}
    assert len(ratios) == len(bench.targets(3))
    assert not ratios.isna().any(axis=None)


def test_rounds_are_interleaved(timings, heats):
    names = [heat.contender.name for heat in heats]
    assert timings["contender"].tolist() == names * 2
    assert timings["round"].tolist() == [0] * len(names) + [1] * len(names)


@pytest.mark.parametrize(
    ("name", "factor", "line", "measured", "reached"),
    [
        (contenders.GENERATE, 1.3, 0, 1.3, True),
        (contenders.GENERATE, 1.1, 0, 1.1, False),
        (contenders.MIXED_GENERATE, 1.4, 1, 1.4, False),
        (contenders.ALONE, 9.0, 2, 9.0, True),
        (contenders.BRIDGE, 1.0, 3, 1.0, False),
        (contenders.ABLATING, 1.04, 4, 0.04, True),
        (contenders.ABLATING, 1.06, 4, 0.06, False),
        (contenders.FIRST_TOKEN, 0.25, 5, 0.5, True),
        (contenders.FIRST_TOKEN, 1.0, 6, 2.0, False),
    ],
)
def test_a_missed_figure_is_reported_as_missed(made_up, name, factor, line, measured, reached):
    row = bench.ratios(with_seconds(made_up, name, factor)).iloc[line]
    assert row["measured"] == pytest.approx(measured)
    assert row["reached"] == reached


def test_a_ratio_is_taken_within_each_round(made_up):
    """A machine that gets three times slower moves no ratio."""
    row = bench.ratios(with_seconds(made_up, contenders.GENERATE, 2.0)).iloc[0]
    assert (row["measured_min"], row["measured"], row["measured_max"]) == pytest.approx((2.0, 2.0, 2.0))


def test_result_file_round_trips(timings, tmp_path):
    path = bench.save(timings, SETTINGS, tmp_path)
    again = pd.DataFrame(json.loads(path.read_text())["timings"])
    pd.testing.assert_frame_equal(again, timings)
    pd.testing.assert_frame_equal(pd.read_csv(path.with_suffix(".csv")), bench.speeds(timings), rtol=1e-5)
    content = json.loads(path.read_text())
    assert content["ratios"] == bench.ratios(timings).to_dict("records")
    assert content["settings"] == json.loads(json.dumps(asdict(SETTINGS)))


def test_machine_names_no_host_and_no_path():
    described = bench.machine()
    assert set(described) == {
        *("cpu", "n_cores", "n_threads", "cpu_capability", "has_amx", "has_avx512_bf16", "memory_gib", "gpu"),
        *("versions", "date", "commit"),
    }
    assert str(bench.DATA.parent) not in json.dumps(described)


def test_slug_is_a_file_name():
    described = {"cpu": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "n_cores": 2, "gpu": None}
    assert bench.slug(described) == "intel-xeon-platinum-8481c-cpu-2-70ghz-2-cores"


@pytest.mark.parametrize(("budget_s", "n_rounds"), [(0.0, 2), (1e6, 4)])
def test_rounds_stop_at_the_budget(budget_s, n_rounds):
    settings = BenchSettings(min_rounds=2, max_rounds=4, budget_s=budget_s)
    assert len(list(bench._rounds(settings))) == n_rounds


@pytest.mark.parametrize("wrong", [{"batches": ()}, {"batches": (0,)}, {"min_rounds": 3, "max_rounds": 2}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match="positive numbers|range from 1"):
        BenchSettings(**wrong)


def test_the_log_and_the_readme_tell_the_measured_speeds():
    (path,) = (bench.DATA / "results" / "bench").glob("amd-epyc-2-cores.csv")
    speed = pd.read_csv(path).set_index(["contender", "batch"])["tokens_per_s"]
    told = (bench.DATA / "LOG.md").read_text().split("## Bench\n")[1].split("\n## ")[0]
    for name in (contenders.STEERED, contenders.ABLATING, contenders.GENERATE, contenders.NNSIGHT, contenders.BRIDGE):
        assert f"| {speed[name, 64]:.0f} |" in told
    assert f"| {speed[contenders.ALONE, 1]:.0f} |" in told
    for name in (contenders.MIXED_STEERED, contenders.MIXED_GENERATE):
        assert f"| {speed[name, 64]:.0f} |" in told
    readme = " ".join((bench.DATA.parent / "README.md").read_text().split())
    assert f"its own latent and strength {speed[contenders.STEERED, 64]:.0f};" in readme
    assert f"unsteered {speed[contenders.GENERATE, 64]:.0f};" in readme
    assert f"with a hook {speed[contenders.ALONE, 1]:.0f}." in readme
