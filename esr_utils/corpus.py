"""The text the embedded SAE learns from: the embedded model's own answers to many prompts on many topics.

``python -m esr_utils.corpus`` makes it, shard by shard, in the cache folder; run it again to continue.
"""

import json
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from esr_utils import embedded, wheels
from esr_utils.config import DATA
from esr_utils.models import Pair, load_model
from esr_utils.sae import SAE
from esr_utils.steering import Row, Sampling

LAYERS = (16, 18, 20)
PROMPTS_PER_TOPIC = 5
SHARD_ROWS = 256
HELD_OUT_EVERY = 20  # prompts whose index is a multiple of this are never trained on
SAMPLING = Sampling(max_new_tokens=208, temperature=0.8, repetition_penalty=1.05)
N_SHARDS = 44  # a little over two million response tokens
N_WORKERS = 2


@dataclass(frozen=True, kw_only=True)
class CorpusPrompt:
    """One prompt with the topic it asks about."""

    text: str
    topic: str
    group: str


def corpus_prompts() -> list[CorpusPrompt]:
    """Every topic in five of the templates, in a fixed shuffled order."""
    source = json.loads((DATA / "embedded" / "corpus_prompts.json").read_text())
    rng = random.Random(0)
    prompts = [
        CorpusPrompt(text=template.format(t=topic), topic=topic, group=group)
        for group, topics in source["topics"].items()
        for topic in topics
        for template in rng.sample(source["templates"], PROMPTS_PER_TOPIC)
    ]
    rng.shuffle(prompts)
    return prompts


def corpus_rows(shard: int) -> list[tuple[int, Row]]:
    """The rows of one shard with the index of each one's prompt: passes over all prompts, new seeds each pass."""
    prompts = corpus_prompts()
    numbers = range(shard * SHARD_ROWS, (shard + 1) * SHARD_ROWS)
    return [
        (
            number % len(prompts),
            Row(messages=prompts[number % len(prompts)].text, seed=number, sampling=SAMPLING, record_resid=LAYERS),
        )
        for number in numbers
    ]


def corpus_dir() -> Path:
    return wheels.cache_dir() / "corpus"


@dataclass(frozen=True, eq=False, kw_only=True)
class Shard:
    """Response tokens of some rows, one after the other, with the residual stream at each."""

    tokens: Int[Tensor, " token"]
    row: Int[Tensor, " token"]
    prompt: Int[Tensor, " token"]
    resid: Float[Tensor, "token d_model"] | None


def load_shard(path: Path, layer: int | None) -> Shard:
    """Read one shard; ``layer`` None leaves the residual stream on disk."""
    with safe_open(path, framework="pt") as file:
        resid = None if layer is None else file.get_tensor(f"resid.{layer}")
        return Shard(**{name: file.get_tensor(name) for name in ("tokens", "row", "prompt")}, resid=resid)


def shard_path(shard: int) -> Path:
    return corpus_dir() / f"shard_{shard:03d}.safetensors"


def shard_paths() -> list[Path]:
    return sorted(corpus_dir().glob("shard_*.safetensors"))


def make_shard(engine, shard: int) -> Path:
    """Generate one shard; the file appears only when it is complete."""
    rows = corpus_rows(shard)
    responses = engine.generate([row for _, row in rows])
    tensors: dict[str, list[Tensor]] = {"tokens": [], "row": [], "prompt": []}
    for i, ((prompt, _), response) in enumerate(zip(rows, responses, strict=True)):
        n_read = len(response.resid[LAYERS[0]]) if response.resid else 0
        tensors["tokens"].append(torch.tensor(response.token_ids[:n_read], dtype=torch.int32))
        tensors["row"].append(torch.full((n_read,), shard * SHARD_ROWS + i, dtype=torch.int32))
        tensors["prompt"].append(torch.full((n_read,), prompt, dtype=torch.int32))
        for layer in LAYERS:
            tensors.setdefault(f"resid.{layer}", []).append(response.resid[layer])
    path = shard_path(shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: torch.cat(parts).contiguous() for name, parts in tensors.items()}, partial)
    partial.replace(path)
    return path


def model_alone() -> Pair:
    """The embedded model with an empty SAE, for work that comes before there is one."""
    model, tokenizer = load_model(embedded.model_dir(), "bfloat16", local_files_only=True)
    d_model = model.config.hidden_size
    empty = SAE(
        name="empty SAE",
        architecture="standard",
        W_enc=torch.zeros(d_model, 1),
        b_enc=torch.zeros(1),
        W_dec=torch.zeros(1, d_model),
        b_dec=torch.zeros(d_model),
    )
    return Pair(name="smollm2-135m", model=model, tokenizer=tokenizer, sae=empty, steering_layer=0, reading_layer=0)


def _make_missing(worker: int) -> None:
    """One worker's share of the shards; two single-threaded workers are a fifth faster than one of two threads."""
    from esr_utils.engines.hf import HFEngine

    torch.set_num_threads(1)
    engine = HFEngine(model_alone(), batch_size=SHARD_ROWS // 2)
    for shard in tqdm(range(worker, N_SHARDS, N_WORKERS), desc=f"worker {worker}", position=worker):
        if not shard_path(shard).exists():
            make_shard(engine, shard)


def main() -> None:
    embedded.model_dir()  # converted once, before the workers start
    with ProcessPoolExecutor(N_WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_make_missing, range(N_WORKERS)))
    n_tokens = sum(len(load_shard(path, None).tokens) for path in shard_paths())
    tqdm.write(f"{n_tokens:,} response tokens in {corpus_dir()}")


if __name__ == "__main__":
    main()
