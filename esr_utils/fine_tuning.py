"""LoRA fine-tuning on training examples, with loss on what is taught alone and steering on where it was on.

Kept in a folder: the adapter in peft's format, ``training.json`` (settings, base, digest of the examples, losses) and,
until training has ended, a checkpoint from which it goes on to the very same end.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.helpers import disable_input_dtype_casting
from torch import Tensor
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from esr_utils.corrections import TrainingExample
from esr_utils.files import digest, write_whole
from esr_utils.hooks import editing
from esr_utils.models import Pair
from esr_utils.steering import Row, Steer, steering_delta

IGNORED = -100  # label of a token without loss
RECORD, CHECKPOINT = "training.json", "checkpoint.pt"


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Of one fine-tuning.

    Attributes:
        rank, alpha, dropout: of the LoRA on all linear layers of all blocks.
        warmup_steps: at most a tenth of all steps are warm-up.
        max_tokens: of an example; longer ones are cut at their end.
        checkpoint_steps: steps between checkpoints.

    Source: paper, appendix (rank 32, alpha 16, dropout 0.05, rate 2e-4 cosine, 10 warm-up steps, 4 passes, batch 8).
    """

    rank: int = 32
    alpha: int = 16
    dropout: float = 0.05
    learning_rate: float = 2e-4
    n_passes: int = 4
    batch_size: int = 8
    warmup_steps: int = 10
    max_tokens: int = 4096
    checkpoint_steps: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rank, self.n_passes, self.batch_size, self.max_tokens, self.checkpoint_steps) < 1:
            raise ValueError("rank, n_passes, batch_size, max_tokens and checkpoint_steps must be positive")


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """An example in tokens; ``labels`` are the tokens that carry loss, ``IGNORED`` elsewhere."""

    ids: list[int]
    labels: list[int]


def encode(example: TrainingExample, pair: Pair, *, max_tokens: int) -> Encoded:
    """The example in the pair's chat template, as the model would have written it.

    Raises:
        ValueError: nothing that is taught is left within ``max_tokens``.
    """
    prompt = pair.chat_ids([{"role": "user", "content": example.question}])
    drift, taught = pair.text_ids(example.drift), pair.text_ids(example.taught)
    if example.ends:
        taught = (*taught, pair.end_of_turn)
    ids = [*prompt, *drift, *taught][:max_tokens]
    n_given = len(prompt) + len(drift)
    if len(ids) <= n_given:
        raise ValueError(
            f"an example of {n_given + len(taught)} tokens has nothing to learn within max_tokens {max_tokens}; "
            "raise max_tokens"
        )
    return Encoded(ids=ids, labels=[IGNORED] * n_given + ids[n_given:])


def masked_text(encoded: Encoded, pair: Pair) -> str:
    """The example as text, what carries loss between ``[[`` and ``]]``: to look at a mask."""
    n_given = sum(label == IGNORED for label in encoded.labels)
    return f"{pair.tokenizer.decode(encoded.ids[:n_given])}[[{pair.tokenizer.decode(encoded.ids[n_given:])}]]"


def train(pair: Pair, examples: Sequence[TrainingExample], settings: TrainingSettings, folder: Path) -> Path:
    """Fine-tune the pair's model and save the adapter in ``folder``; what is there already is not made again.

    The pair's own model is not touched: a copy is trained. A training that was stopped goes on from its checkpoint and
    ends as if it had not been.

    Raises:
        ValueError: no examples, an example with nothing to learn from, or ``folder`` holds another training.
    """
    if not examples:
        raise ValueError("there is nothing to train on; make examples first")
    record = _described(pair, examples, settings)
    if not _check_same(folder, record):
        _Training(pair, examples, settings).run(folder, record)
    return folder


class _Training:
    """One training on its way: the model, what moves it, and the examples in tokens with their steering."""

    def __init__(self, pair: Pair, examples: Sequence[TrainingExample], settings: TrainingSettings):
        self.pair, self.settings = pair, settings
        self.model = _with_lora(_trainable_copy(pair), pair, settings)
        self.encoded = [encode(example, pair, max_tokens=settings.max_tokens) for example in examples]
        self.deltas = [_delta(example, pair) for example in examples]
        self.batches = list(_batches(self.encoded, settings))
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.learning_rate, weight_decay=0.0)
        n_steps = len(self.batches)
        n_warmup = min(settings.warmup_steps, n_steps // 10)
        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, n_warmup, n_steps)
        self.losses: list[float] = []

    def run(self, folder: Path, record: dict) -> None:
        """All steps that are not made yet; the adapter is saved in ``folder`` at the end."""
        self.losses = self._resumed(folder, record)
        self.model.train()
        with tqdm(total=len(self.batches), initial=len(self.losses), desc="fine-tune", unit="step") as bar:
            while len(self.losses) < len(self.batches):
                self.losses.append(round(self._step(len(self.losses)), 4))
                bar.update()
                bar.set_postfix(loss=f"{np.mean(self.losses[-10:]):.3f}")
                if len(self.losses) % self.settings.checkpoint_steps == 0:
                    self._save_checkpoint(folder, record)
        self._save(folder, record)

    def _step(self, step: int) -> float:
        torch.manual_seed(self.settings.seed * 1_000_003 + step)  # dropout alike after a stop
        part = self.batches[step]
        with _steered(self.model, self.pair, [self.deltas[i] for i in part]), _in_own_dtype(self.model, self.pair):
            loss = _loss(self.model, self.pair, [self.encoded[i] for i in part])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return loss.item()

    def _save(self, folder: Path, record: dict) -> None:
        self.model.peft_config["default"].base_model_name_or_path = self.pair.name
        self.model.to(self.pair.model.dtype)  # in which it is merged and run; float32 would double the file for nothing
        self.model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink()  # an empty model card
        write_whole(folder / RECORD, json.dumps(record | {"losses": self.losses}, indent=1) + "\n")
        (folder / CHECKPOINT).unlink(missing_ok=True)

    def _save_checkpoint(self, folder: Path, record: dict) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{CHECKPOINT}.partial"
        state = {
            "record": json.dumps(record),
            "adapter": get_peft_model_state_dict(self.model),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "losses": self.losses,
        }
        torch.save(state, partial)
        partial.replace(folder / CHECKPOINT)

    def _resumed(self, folder: Path, record: dict) -> list[float]:
        """Losses of the steps already made; model and optimizer are brought to where they were."""
        path = folder / CHECKPOINT
        if not path.exists():
            return []
        try:
            state = torch.load(path, weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError):
            raise ValueError(f"{path} is damaged; delete it and train again from the start") from None
        found = json.loads(state["record"])
        if differing := [name for name in record if found.get(name) != record[name]]:
            raise ValueError(
                f"{path} is of another training ({', '.join(differing)} differ); delete it to train from the start"
            )
        set_peft_model_state_dict(self.model, state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        return list(state["losses"])


def _trainable_copy(pair: Pair) -> torch.nn.Module:
    """A copy of the pair's model. On a CPU the fused attention goes back through so slowly that the plain one wins."""
    model = copy.deepcopy(pair.model)
    if model.device.type == "cpu":
        model.set_attn_implementation("eager")
    return model


@contextmanager
def _in_own_dtype(model: PeftModel, pair: Pair) -> Iterator[None]:
    """Adapters are kept in float32 and used in the model's dtype; peft would cast every activation up instead."""
    device, dtype = pair.model.device.type, pair.model.dtype
    with torch.autocast(device, dtype, enabled=dtype != torch.float32), disable_input_dtype_casting(model):
        yield


def _with_lora(model, pair: Pair, settings: TrainingSettings) -> PeftModel:
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(settings.seed)
    return get_peft_model(model, config)


def _described(pair: Pair, examples: Sequence[TrainingExample], settings: TrainingSettings) -> dict:
    kinds = [example.kind for example in examples]
    return {
        "base": pair.name,
        "settings": asdict(settings),
        "examples_sha256": digest([asdict(example) for example in examples]),
        "n_examples": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
    }


def _check_same(folder: Path, record: dict) -> bool:
    """Whether the training is done. Raises ValueError if another one was done there."""
    path = folder / RECORD
    if not path.exists():
        return False
    found = json.loads(path.read_text())
    differing = [name for name, value in record.items() if found.get(name) != value]
    if differing:
        raise ValueError(
            f"{folder} holds an adapter of another training ({', '.join(differing)} differ); "
            "delete the folder or restore them"
        )
    return True


def _batches(encoded: Sequence[Encoded], settings: TrainingSettings) -> Iterator[list[int]]:
    """Numbers of the examples of each step: every pass in a new order, those of about equal length together."""
    rng = np.random.default_rng(settings.seed)
    size = settings.batch_size
    for _ in range(settings.n_passes):
        order = rng.permutation(len(encoded))
        groups = [
            sorted(order[i : i + 8 * size], key=lambda j: len(encoded[j].ids)) for i in range(0, len(order), 8 * size)
        ]
        parts = [group[i : i + size] for group in groups for i in range(0, len(group), size)]
        yield from ([int(j) for j in parts[i]] for i in rng.permutation(len(parts)))


def _delta(example: TrainingExample, pair: Pair) -> Tensor | None:
    if example.latent is None or not example.strength:
        return None
    row = Row(messages=example.question, steer=(Steer(latent=example.latent, strength=example.strength),))
    return steering_delta(row, pair)[pair.steering_layer]


def _steered(model: PeftModel, pair: Pair, deltas: Sequence[Tensor | None]) -> AbstractContextManager[None]:
    """Add each example's steering at every token, as the engine does in evaluation."""
    if all(delta is None for delta in deltas):
        return nullcontext()
    added = torch.stack([torch.zeros(pair.d_model) if delta is None else delta.cpu() for delta in deltas])[:, None, :]

    def add(resid: Tensor) -> Tensor:
        return (resid.float() + added.to(resid.device)).to(resid.dtype)

    return editing(_decoder(model).layers[pair.steering_layer], add)


def _decoder(model: PeftModel) -> torch.nn.Module:
    decoder = model.get_base_model().model
    return getattr(decoder, "language_model", decoder)


def _loss(model: PeftModel, pair: Pair, part: Sequence[Encoded]) -> Tensor:
    """Mean negative log-likelihood of what is taught. Only those positions meet the head and its large vocabulary."""
    longest = max(len(example.ids) for example in part)
    ids = torch.zeros(len(part), longest, dtype=torch.long)
    labels = torch.full((len(part), longest), IGNORED)
    for i, example in enumerate(part):
        ids[i, : len(example.ids)] = torch.tensor(example.ids)
        labels[i, : len(example.ids)] = torch.tensor(example.labels)
    ids, labels = ids.to(pair.model.device), labels.to(pair.model.device)
    # padding stands on the right, where a causal model does not look
    hidden = _decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
    is_taught = labels[:, 1:] != IGNORED
    logits = pair.soft_capped(model.get_base_model().lm_head(hidden[:, :-1][is_taught])).float()
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:][is_taught])
