"""What the explorer is set to: one frozen record, kept as a short string or as JSON."""

import base64
import binascii
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from esr_utils.scales.meta_prompting import KINDS, NONE

VERSION = 1
PREFIX = "esr"
MAX_STRING = 20_000  # characters of a state string, and bytes of what it unpacks to
MAX_PICKS = 32
LARGEST = 2**53  # whole number: beyond it a browser cannot tell neighbours apart
MAX_STRENGTH = 1e6  # raw units: no answer survives a thousandth of it, and sums of it stay finite in any format


class StateError(ValueError):
    """A state cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A latent that is steered along, ablated, or both.

    Attributes:
        strength: of its decoder direction, in raw units; 0 adds nothing.
        share: of its contribution that is taken away, 0 to 1, after the steering; 0 takes nothing.
    """

    latent: int
    strength: float = 0.0
    share: float = 0.0

    def __post_init__(self) -> None:
        _check_whole("latent", self.latent)
        if not abs(self.strength) <= MAX_STRENGTH:
            raise StateError(
                f"strength {self.strength:g} of latent {self.latent} is beyond {MAX_STRENGTH:g}, where nothing of the "
                "answer is left; choose one of the size of the calibrated strength"
            )
        if not 0.0 <= self.share <= 1.0:
            raise StateError(
                f"share {self.share:g} of latent {self.latent} is outside 0 (nothing) to 1 (zero-ablation)"
            )


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything that an answer depends on, and how it is coloured.

    Attributes:
        pair: the subject, by its name in the catalogue.
        prompt: the question, without a meta-prompt.
        meta_prompt: kind of the suffix, one of ``scales.meta_prompting.KINDS``.
        wording: number of the suffix's wording; wordings are taken in turn.
        share: of the detectors' contribution that the third answer loses.
        scope: which tokens are edited: ``all`` (question and answer) or ``generated``.
        colour: name of the series that colours the tokens, such as ``latent 12`` or ``topicality``; empty for the
            first picked latent.
    """

    pair: str
    prompt: str
    meta_prompt: str = NONE
    wording: int = 0
    picks: tuple[Pick, ...] = ()
    share: float = 1.0
    seed: int = 0
    temperature: float = 0.6
    max_new_tokens: int = 96
    scope: Literal["all", "generated"] = "all"
    colour: str = ""

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise StateError("the prompt is empty; ask the model something")
        _check_choice("meta_prompt", self.meta_prompt, KINDS)
        _check_choice("scope", self.scope, ("all", "generated"))
        for name in ("wording", "seed", "max_new_tokens"):
            _check_whole(name, getattr(self, name))
        self._check_ranges()

    def _check_ranges(self) -> None:
        if not self.max_new_tokens:
            raise StateError("max_new_tokens is 0, so there would be no answer; choose at least 1")
        if not 0.0 <= self.temperature <= 10.0:
            raise StateError(f"temperature {self.temperature:g} is outside 0 (greedy) to 10")
        if not 0.0 <= self.share <= 1.0:
            raise StateError(f"share {self.share:g} of the detectors is outside 0 (nothing) to 1 (zero-ablation)")
        latents = [pick.latent for pick in self.picks]
        if len(latents) > MAX_PICKS:
            raise StateError(f"{len(latents)} latents are picked, and {MAX_PICKS} is the most; drop some")
        if twice := sorted({latent for latent in latents if latents.count(latent) > 1}):
            raise StateError(f"latent {twice[0]} is picked twice; give it one line")

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, ensure_ascii=False, indent=1)

    def to_string(self) -> str:
        """A string of one line without spaces: version, pair, and everything that is not as by default, packed.

        Other defaults need another version.
        """
        plain = _unusual(self) | {"picks": [_unusual(pick) for pick in self.picks]}
        packed = zlib.compress(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode(), 9)
        return f"{PREFIX}{VERSION}.{self.pair}.{base64.urlsafe_b64encode(packed).decode().rstrip('=')}"

    @classmethod
    def from_json(cls, text: str, *, pairs: Sequence[str]) -> "State":
        """The state that ``to_json`` wrote, if it is of one of ``pairs``.

        Raises:
            StateError: not JSON, another version, another pair, an unknown field, or a value out of range.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise StateError(f"{_short(text)} is not JSON; paste the whole file that was saved") from None
        if not isinstance(found, dict):
            raise StateError("a state is one JSON object with a field for each setting; this is something else")
        _check_version(found.pop("version", None))
        return cls._built(found, pairs)

    @classmethod
    def from_string(cls, text: str, *, pairs: Sequence[str]) -> "State":
        """The state that ``to_string`` wrote, if it is of one of ``pairs``.

        Raises:
            StateError: not a state string, a damaged one, another version, or another pair.
        """
        text = text.strip()
        head, _, rest = text.partition(".")
        if not head.startswith(PREFIX) or not rest or len(text) > MAX_STRING:
            raise StateError(f"{_short(text)} is not a state; it begins with {PREFIX}{VERSION}, a point and a pair")
        _check_version(head.removeprefix(PREFIX))
        pair, _, packed = rest.rpartition(".")
        found = _unpacked(packed)
        if found.get("pair") != pair:
            raise StateError(f"the state names two pairs, {pair!r} and {found.get('pair')!r}; copy it again")
        return cls._built(found, pairs)

    @classmethod
    def _built(cls, found: dict, pairs: Sequence[str]) -> "State":
        _check_pair(found.get("pair"), pairs)
        picks = found.pop("picks", [])
        if not isinstance(picks, list) or not all(isinstance(pick, dict) for pick in picks):
            raise StateError("picks is not a list of latents with their strengths")
        made = tuple(Pick(**_typed(Pick, pick, needed=("latent",))) for pick in picks)
        return cls(**_typed(cls, found, needed=("pair", "prompt")), picks=made)


def _unusual(record: "State | Pick") -> dict:
    """The fields that are not as by default."""
    return {f.name: getattr(record, f.name) for f in fields(record) if getattr(record, f.name) != f.default}


def _unpacked(packed: str) -> dict:
    try:
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        unpacker = zlib.decompressobj()
        found = json.loads(unpacker.decompress(data, MAX_STRING))
        if not unpacker.eof or not isinstance(found, dict):
            raise ValueError
    except (binascii.Error, zlib.error, ValueError, RecursionError):
        raise StateError("the state is damaged: a part of it is missing or changed; copy the whole string") from None
    return found


def _check_version(version: object) -> None:
    if str(version) != str(VERSION):
        raise StateError(
            f"the state is of version {_short(version)}, and this kit reads version {VERSION}; set it up anew"
        )


def _check_pair(pair: object, pairs: Sequence[str]) -> None:
    if pair not in pairs:
        raise StateError(
            f"the state is of the pair {_short(pair)}, whose latents are not those here ({', '.join(pairs)}); "
            "open the explorer with that pair"
        )


def _typed(cls: type, found: dict, *, needed: Sequence[str]) -> dict:
    """The fields as their types want them; a whole number will do for one with a point."""
    known = {field.name: field.type for field in fields(cls)}
    name = cls.__name__.lower()
    if unknown := sorted(found.keys() - known.keys()):
        raise StateError(f"a {name} has no field {unknown[0]!r}; it has {', '.join(known)}")
    if missing := [field for field in needed if field not in found]:
        raise StateError(f"a {name} needs the field {missing[0]!r}")
    return {field: _read(field, value, known[field]) for field, value in found.items()}


def _read(name: str, value: object, kind: object) -> object:
    if kind is float:
        return _number(name, value)
    if kind is int:
        _check_whole(name, value)
    elif not isinstance(value, str):
        raise StateError(f"{name} {_short(value)} is not a text")
    elif kind is not str:
        _check_choice(name, value, get_args(kind))
    return value


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise StateError(f"{name} {value!r} is not one of {', '.join(choices)}")


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
        raise StateError(f"{name} {_short(value)} is not a whole number from 0 up")


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise StateError(f"{name} is {_short(value)}, which is not a finite number")
    return float(value)


def _short(value: object) -> str:
    told = repr(value)
    return told if len(told) <= 40 else f"{told[:37]}..."
