"""Directions from files and topics: every format gives the same numbers, every bad file is told in one sentence."""

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import save_file

from esr_utils.directions import ASKED, DirectionsError, load_directions, topic_directions, with_directions
from esr_utils.engines.hf import HFEngine
from esr_utils.steering import Row, Sampling, Steer
from esr_utils.tests.conftest import tiny_pair

ONE = torch.tensor([1.0, -2.0, 0.5])
TWO = torch.stack([ONE, 3 * ONE])
TOPICS = ("bees", "the tides of the sea", "old maps")


def write_gguf(path: Path, tensors: dict[str, np.ndarray]) -> None:
    writer = GGUFWriter(path, "controlvector")
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(path: Path, value: object) -> Path:
    """``value``, a tensor or tensors by name, in the format that the file's ending says."""
    if path.suffix == ".npy":
        np.save(path, np.asarray(value))
    elif path.suffix in (".pt", ".pth"):
        torch.save(value, path)
    elif path.suffix == ".safetensors":
        save_file(value, path)
    else:
        write_gguf(path, {name: tensor.numpy() for name, tensor in value.items()})
    return path


def same(found: dict, expected: dict) -> bool:
    return list(found) == list(expected) and all(
        found[name].dtype == torch.float32 and torch.equal(found[name], expected[name]) for name in expected
    )


@pytest.mark.parametrize("name", ["bees.npy", "bees.pt", "bees.pth", "bees.PT"])
def test_what_has_no_name_is_called_as_its_file(tmp_path, name):
    path = tmp_path / name.lower()
    found = load_directions(write(path, ONE).rename(tmp_path / name))
    assert same(found, {"bees": ONE})
    assert same(load_directions(write(path, TWO)), {"bees.0": TWO[0], "bees.1": TWO[1]})


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
def test_tensors_keep_their_names(tmp_path, ending):
    path = write(tmp_path / f"x{ending}", {"joy": ONE, "layers": TWO})
    assert same(load_directions(str(path)), {"joy": ONE, "layers.0": TWO[0], "layers.1": TWO[1]})


def test_control_vectors_are_read_and_other_tensors_are_not(tmp_path):
    path = write(tmp_path / "x.gguf", {"direction.7": ONE, "other": 5 * ONE, "direction.12": (2 * ONE).half()})
    assert same(load_directions(path), {"direction.7": ONE, "direction.12": 2 * ONE})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_any_kind_of_real_number_becomes_float32(tmp_path, dtype):
    value = torch.tensor([1, -2, 3], dtype=dtype)
    assert same(load_directions(write(tmp_path / "x.pt", value)), {"x": value.float()})


def test_a_parameter_is_a_direction_without_a_gradient(tmp_path):
    found = load_directions(write(tmp_path / "x.pt", torch.nn.Parameter(ONE)))
    assert not found["x"].requires_grad


BAD = {
    "three axes": ("x.npy", torch.zeros(2, 2, 2), "x in x.npy has 3 axes; a direction has one"),
    "no axis": ("x.pt", torch.tensor(1.0), "x in x.pt has 0 axes"),
    "nan": ("x.safetensors", {"joy": ONE * float("nan")}, "joy in x.safetensors has entries that are not finite"),
    "infinite": ("x.gguf", {"direction.1": ONE / 0}, "direction.1 in x.gguf has entries that are not finite"),
    "too large": ("x.npy", np.array([1e300]), "x in x.npy has entries that are not finite float32 numbers"),
    "a number": ("x.pt", {"joy": 3}, r"joy in x.pt is not a tensor of real numbers \(int\)"),
    "a list": ("x.pt", [1.0, 2.0], r"x in x.pt is not a tensor of real numbers \(list\)"),
    "text": ("x.npy", np.array(["a", "b"]), r"x in x.npy is not a tensor of real numbers \(<U1\)"),
    "complex": ("x.pt", ONE * 1j, r"x in x.pt is not a tensor of real numbers \(torch.complex64\)"),
    "nothing": ("x.pt", {}, "x.pt holds no direction; save at least one"),
    "one name twice": ("x.pt", {"a": TWO, "a.1": ONE}, "x.pt has two directions called a.1"),
    "no direction": ("x.gguf", {"blk.0.weight": ONE}, "x.gguf has no tensor called direction.<layer>"),
    "pickled array": ("x.npy", np.array([{}], dtype=object), "x.npy .*holds pickled objects, which can be code"),
}


@pytest.mark.parametrize(("name", "value", "told"), BAD.values(), ids=BAD.keys())
def test_what_is_no_direction_is_refused(tmp_path, name, value, told):
    with pytest.raises(DirectionsError, match=f"^{told}") as error:
        load_directions(write(tmp_path / name, value))
    assert is_one_sentence(error)


def is_one_sentence(error: pytest.ExceptionInfo) -> bool:
    return "\n" not in str(error.value) and ". " not in str(error.value)


def test_a_missing_file_and_another_ending_are_told(tmp_path):
    with pytest.raises(DirectionsError, match=r"there is no file .*bees.npy; check the path"):
        load_directions(tmp_path / "bees.npy")
    with pytest.raises(
        DirectionsError, match=r"bees.csv ends in none of .npy, .pt \(or .pth\), .safetensors and .gguf"
    ):
        load_directions(tmp_path / "bees.csv")


GOOD = {".npy": TWO, ".pt": TWO, ".pth": TWO, ".safetensors": {"a": TWO}, ".gguf": {"direction.1": torch.ones(64)}}


@pytest.mark.parametrize("ending", GOOD)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_file_that_was_cut_off_is_told(tmp_path, ending, share):
    path = write(tmp_path / f"x{ending}", GOOD[ending])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DirectionsError, match=rf"^x{ending} is damaged, cut off or no {ending} file") as error:
        load_directions(path)
    assert is_one_sentence(error)


@pytest.mark.parametrize("ending", GOOD)
def test_a_file_of_another_kind_is_told(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    path.write_text("This is a letter to a friend, and no tensor stands in it. " * 20)
    with pytest.raises(DirectionsError, match=rf"^x{ending} is damaged"):
        load_directions(path)


class Trap:
    """Leaves a mark if it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_file_is_told_and_not_run(tmp_path, save):
    path, mark = tmp_path / "x.pt", tmp_path / "mark"
    save({"joy": Trap(mark)}, path)
    with pytest.raises(DirectionsError, match=r"holds pickled objects, which can be code, and is not loaded") as error:
        load_directions(path)
    assert is_one_sentence(error)
    assert not mark.exists()


def test_a_loaded_direction_steers_and_one_of_another_length_is_refused(tmp_path, tiny_llama):
    engine = HFEngine(tiny_llama)
    direction = tiny_llama.sae.direction(3)
    sampling = Sampling(max_new_tokens=5, temperature=0.0)
    rows = [
        Row(messages="How?", steer=(Steer(strength=4.0, **way),), record_resid=(2,), sampling=sampling)
        for way in ({"latent": 3}, load_and_name(tmp_path, direction))
    ]
    ours, loaded = engine.generate(rows)
    assert ours.token_ids == loaded.token_ids
    assert torch.equal(ours.resid[2], loaded.resid[2])
    with pytest.raises(ValueError, match=r"direction has shape \(3,\), but tiny-llama has d_model 32"):
        engine.generate([replace(rows[0], steer=(Steer(strength=4.0, **load_and_name(tmp_path, ONE)),))])


def load_and_name(folder: Path, direction: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"direction": load_directions(write(folder / "x.npy", direction))["x"]}


@pytest.mark.parametrize("layer", [0, 2])
def test_topic_directions_are_what_a_plain_forward_pass_reads_at_the_last_prompt_token(tiny, layer):
    found = topic_directions(HFEngine(tiny), TOPICS, layer=layer)
    read, kept = [], []
    handle = tiny.blocks()[layer].register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.inference_mode():
        for topic in TOPICS:
            text = f"<|im_start|>user\n{ASKED.format(topic=topic)}<|im_end|>\n<|im_start|>assistant\n"
            tiny.model(**tiny.tokenizer(text, return_tensors="pt", return_token_type_ids=False))
            output = kept.pop()
            read.append((output[0] if isinstance(output, tuple) else output).reshape(-1, tiny.d_model)[-1])
    handle.remove()
    expected = torch.stack(read) - torch.stack(read).mean(dim=0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert expected.norm(dim=1).min() > 0.01  # the topics are told apart
    torch.testing.assert_close(found.sum(dim=0), torch.zeros(tiny.d_model), atol=1e-4, rtol=0)


@pytest.mark.parametrize("topics", [[], ["bees"], ["bees", "tea", "bees"]])
def test_topics_that_cannot_be_told_apart_are_refused(tiny_llama, topics):
    told = rf"{len(topics)} topics, {len(set(topics))} of them different; give two or more"
    with pytest.raises(ValueError, match=told):
        topic_directions(HFEngine(tiny_llama), topics, layer=2)


def test_the_number_of_a_direction_steers_as_the_direction_does(tiny):
    directions = torch.randn(3, tiny.d_model, generator=torch.Generator().manual_seed(0))
    pair = with_directions(tiny, directions, name="three")
    row = Row(messages="How?", prefill="So", record_resid=(2,), sampling=Sampling(max_new_tokens=5, temperature=0.0))
    steered = [replace(row, steer=(Steer(latent=1, strength=2.0),))]
    given = [replace(row, steer=(Steer(direction=directions[1], strength=2.0),)), row]
    (numbered,), (plain, unsteered) = HFEngine(pair).generate(steered), HFEngine(tiny).generate(given)
    assert numbered.token_ids == plain.token_ids
    assert torch.equal(numbered.resid[2], plain.resid[2])
    assert not torch.equal(numbered.resid[2][0], unsteered.resid[2][0])


def test_a_pair_of_directions_shares_the_model_and_never_fires(tiny_llama):
    pair = with_directions(tiny_llama, torch.ones(2, 32), name="two")
    assert pair.model is tiny_llama.model
    assert (pair.sae.name, pair.sae.d_sae, pair.steering_layer) == ("two", 2, tiny_llama.steering_layer)
    assert not pair.sae.encode(torch.randn(50, 32) * 100).any()
    assert tiny_llama.sae.d_sae == tiny_pair("llama").sae.d_sae


def test_numbers_and_lengths_that_do_not_exist_are_told(tiny_llama):
    pair = with_directions(tiny_llama, torch.ones(2, 32), name="two")
    with pytest.raises(ValueError, match=re.escape("latent 2 is not in two: it has 2 latents (0 to 1)")):
        pair.sae.direction(2)
    with pytest.raises(ValueError, match="directions of 5 numbers do not fit tiny-llama, which has d_model 32"):
        with_directions(tiny_llama, torch.ones(2, 5), name="two")
