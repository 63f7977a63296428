"""Fine-tuning: where the loss falls, that training goes on after a stop to the same end, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from esr_utils import fine_tuning
from esr_utils.corrections import TrainingExample
from esr_utils.engines.hf import HFEngine
from esr_utils.fine_tuning import IGNORED, TrainingSettings, encode, masked_text, train
from esr_utils.models import AdapterError, adapted, load_pair
from esr_utils.steering import Row, Sampling

TINY = TrainingSettings(
    rank=4, alpha=8, dropout=0.1, learning_rate=5e-3, n_passes=2, batch_size=2, warmup_steps=1, checkpoint_steps=3
)
CORRECTION = TrainingExample(
    kind="steered", question="Boil rice?", drift="Ships sail", taught=" No. Boil it.", latent=3, strength=4.0
)
EXAMPLES = [CORRECTION] + [
    TrainingExample(kind="normal", question=f"Cook {food}?", taught=f"Boil the {food}.", ends=i % 2 == 0)
    for i, food in enumerate(["oats", "peas", "eggs", "corn", "figs"])
]


def tokens(pair, text: str) -> list[int]:
    return pair.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_loss_falls_on_what_is_taught_and_on_the_end_of_the_turn(tiny_llama):
    encoded = encode(CORRECTION, tiny_llama, max_tokens=200)
    print(masked_text(encoded, tiny_llama))
    taught = [*tokens(tiny_llama, " No. Boil it."), tiny_llama.tokenizer.eos_token_id]
    n_given = len(encoded.ids) - len(taught)
    assert encoded.labels == [IGNORED] * n_given + taught
    assert encoded.ids[n_given:] == taught
    assert masked_text(encoded, tiny_llama) == (
        "<|im_start|>user\nBoil rice?<|im_end|>\n<|im_start|>assistant\nShips sail[[ No. Boil it.<|im_end|>]]"
    )


def test_an_answer_that_was_cut_off_carries_no_end(tiny_llama):
    example = TrainingExample(kind="normal", question="Q?", taught="Boil", ends=False)
    assert masked_text(encode(example, tiny_llama, max_tokens=200), tiny_llama).endswith("assistant\n[[Boil]]")


def test_a_long_example_is_cut_at_its_end_and_one_with_nothing_left_is_refused(tiny_llama):
    whole = encode(CORRECTION, tiny_llama, max_tokens=200)
    n = len(whole.ids)
    assert encode(CORRECTION, tiny_llama, max_tokens=n - 3).ids == whole.ids[:-3]
    n_given = sum(label == IGNORED for label in whole.labels)
    with pytest.raises(ValueError, match="nothing to learn within max_tokens"):
        encode(CORRECTION, tiny_llama, max_tokens=n_given)


@pytest.fixture(scope="module")
def trained(tiny_llama, tmp_path_factory):
    return train(tiny_llama, EXAMPLES, TINY, tmp_path_factory.mktemp("whole") / "adapter")


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_the_adapter_learns_and_its_record_says_from_what(trained):
    record = json.loads((trained / "training.json").read_text())
    assert len(record["losses"]) == 6
    assert record["losses"][-1] < record["losses"][0]
    assert record["base"] == "tiny-llama"
    assert record["n_examples"] == {"normal": 5, "steered": 1}
    assert record["settings"]["rank"] == 4
    assert sorted(path.name for path in trained.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    ]


def test_the_pair_itself_is_left_as_it_was(tiny_llama, trained):
    names = [name for name, _ in tiny_llama.model.named_parameters()]
    assert not any("lora" in name for name in names)


def test_the_same_training_is_not_made_again(tiny_llama, trained, monkeypatch):
    monkeypatch.setattr(fine_tuning, "_loss", None)
    assert train(tiny_llama, EXAMPLES, TINY, trained) == trained


@pytest.mark.parametrize(("n_steps", "n_left"), [(1, 6), (3, 3), (4, 3), (5, 3)])
def test_a_stopped_training_goes_on_to_the_same_end(tiny_llama, trained, tmp_path, monkeypatch, n_steps, n_left):
    loss, n = fine_tuning._loss, 0

    def stopping(*args):
        nonlocal n
        n += 1
        if n > n_steps:
            raise KeyboardInterrupt
        return loss(*args)

    monkeypatch.setattr(fine_tuning, "_loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_llama, EXAMPLES, TINY, tmp_path / "adapter")
    n, n_steps = 0, 100
    resumed = weights(train(tiny_llama, EXAMPLES, TINY, tmp_path / "adapter"))
    assert n == n_left  # what stood in the checkpoint was not made again
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in weights(trained).items())


def stopped(pair, folder, monkeypatch):
    """A training that was stopped after its first checkpoint."""
    loss, n = fine_tuning._loss, 0

    def stopping(*args):
        nonlocal n
        n += 1
        if n > 4:
            raise KeyboardInterrupt
        return loss(*args)

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning, "_loss", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(pair, EXAMPLES, TINY, folder)
    assert (folder / "checkpoint.pt").exists()


def test_a_checkpoint_of_another_training_is_refused(tiny_llama, tmp_path, monkeypatch):
    stopped(tiny_llama, tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"another training \(examples_sha256, n_examples differ\); delete it"):
        train(tiny_llama, EXAMPLES[:3], TINY, tmp_path)


def test_a_damaged_checkpoint_is_told(tiny_llama, tmp_path, monkeypatch):
    stopped(tiny_llama, tmp_path, monkeypatch)
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="is damaged; delete it"):
        train(tiny_llama, EXAMPLES, TINY, tmp_path)


def test_a_folder_with_another_adapter_is_refused(tiny_llama, trained):
    with pytest.raises(ValueError, match=r"another training \(settings differ\)"):
        train(tiny_llama, EXAMPLES, TrainingSettings(rank=2), trained)


def test_without_examples_there_is_no_training(tiny_llama, tmp_path):
    with pytest.raises(ValueError, match="nothing to train on"):
        train(tiny_llama, [], TINY, tmp_path)


def test_steering_is_on_while_steered_examples_are_read(tiny_llama):
    model = fine_tuning._with_lora(fine_tuning.copy.deepcopy(tiny_llama.model), tiny_llama, TINY).eval()
    encoded = [encode(example, tiny_llama, max_tokens=200) for example in EXAMPLES[:2]]
    delta = fine_tuning._delta(CORRECTION, tiny_llama)
    plain = fine_tuning._loss(model, tiny_llama, encoded).item()
    with fine_tuning._steered(model, tiny_llama, [delta, None]):
        steered = fine_tuning._loss(model, tiny_llama, encoded).item()
    assert abs(steered - plain) > 1e-3
    assert fine_tuning._delta(EXAMPLES[1], tiny_llama) is None


def test_training_without_steering_gives_another_adapter(tiny_llama, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "_delta", lambda example, pair: None)
    unsteered = weights(train(tiny_llama, EXAMPLES, TINY, tmp_path))
    assert not all(torch.equal(tensor, unsteered[name]) for name, tensor in weights(trained).items())


def test_a_pair_in_bfloat16_is_trained_in_float32_adapters_and_saved_in_its_own_dtype(tiny_llama, tmp_path):
    pair = replace(tiny_llama, model=fine_tuning.copy.deepcopy(tiny_llama.model).bfloat16())
    training = fine_tuning._Training(pair, EXAMPLES, TINY)
    assert {parameter.dtype for parameter in training.parameters} == {torch.float32}
    folder = train(pair, EXAMPLES, TINY, tmp_path)
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.bfloat16}
    losses = json.loads((folder / "training.json").read_text())["losses"]
    assert losses[-1] < losses[0]


def test_the_loss_is_the_engines_log_likelihood(tiny_llama):
    """The same tokens under the same steering, by two roads."""
    model = fine_tuning._with_lora(fine_tuning.copy.deepcopy(tiny_llama.model), tiny_llama, TINY).eval()
    encoded = encode(CORRECTION, tiny_llama, max_tokens=200)
    with fine_tuning._steered(model, tiny_llama, [fine_tuning._delta(CORRECTION, tiny_llama)]):
        loss = fine_tuning._loss(model, tiny_llama, [encoded]).item()
    n_prompt = len(tiny_llama.chat_ids([{"role": "user", "content": CORRECTION.question}]))
    n_taught = sum(label != IGNORED for label in encoded.labels)
    row = Row(
        token_ids=tuple(encoded.ids[:n_prompt]),
        prefill=tuple(encoded.ids[n_prompt:]),
        steer=(fine_tuning.Steer(latent=3, strength=4.0),),
        sampling=Sampling(max_new_tokens=0),
    )
    [read] = HFEngine(tiny_llama).log_likelihoods([row])
    assert loss == pytest.approx(-read[-n_taught:].mean(), rel=1e-4)


def test_an_adapted_pair_answers_otherwise_and_its_base_as_before(tiny_llama, trained):
    row = Row(messages="Cook oats?", seed=1, sampling=Sampling(max_new_tokens=20, temperature=0.0))
    [before] = HFEngine(tiny_llama).generate([row])
    pair = adapted(tiny_llama, trained, name="tiny-tuned")
    [tuned] = HFEngine(pair).generate([row])
    assert pair.name == "tiny-tuned"
    assert tuned.text != before.text
    assert HFEngine(tiny_llama).generate([row])[0].text == before.text


def test_an_adapter_of_another_base_is_refused(tiny_llama, trained, embedded_pair):
    with pytest.raises(AdapterError, match="belongs to tiny-llama, not to smollm2-135m"):
        adapted(embedded_pair, trained, name="x")


def test_a_missing_and_a_damaged_adapter_are_told(tiny_llama, trained, tmp_path):
    with pytest.raises(AdapterError, match="there is no adapter in"):
        adapted(tiny_llama, tmp_path, name="x")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match="there is no adapter in"):
        adapted(tiny_llama, tmp_path, name="x")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(AdapterError, match="is damaged"):
        adapted(tiny_llama, tmp_path, name="x")


def test_the_shipped_corrector_is_a_pair_of_the_catalogue():
    pair = load_pair("smollm2-135m-corrector")
    assert pair.name == "smollm2-135m-corrector"
    assert pair.sae is load_pair("smollm2-135m").sae


@pytest.mark.parametrize("settings", [{"rank": 0}, {"batch_size": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="neither 'all' nor|must be positive"):
        TrainingSettings(**settings)
