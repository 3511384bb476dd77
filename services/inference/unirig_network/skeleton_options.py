"""What a skeleton request may ask for, as JSON."""

import json
from dataclasses import dataclass
from typing import Any

from services.inference.unirig_network.generation import DecodingSettings
from services.inference.unirig_network.grammar import SHORTEST, Rule
from services.inference.unirig_network.serving_errors import InvalidRequestError
from services.inference.unirig_network.serving_settings import ServingSettings
from services.inference.unirig_network.tokenizer import CLASS_TOKENS

# The class that the official weights were trained on.
_DEFAULT_CLASS = "articulationxl"
_MAX_SEED = 2**63 - 1
_MAX_JOINTS = 256


@dataclass(frozen=True)
class SkeletonOptions:
    """class_name: of CLASS_TOKENS. seed: of the request's random numbers."""

    class_name: str
    seed: int
    decoding: DecodingSettings


def read_options(text: str, settings: ServingSettings) -> SkeletonOptions:
    """text: a JSON object with any of seed, skeleton_class, beams, temperature, top_k, top_p,
    repetition_penalty, max_tokens, max_joints. What is left out is as in the reference, or the
    server's own limit; a skeleton always decodes, whatever is asked.

    Raises InvalidRequestError where a name is unknown or a value is out of bounds.
    """
    try:
        asked = json.loads(text)
    except ValueError as error:
        raise InvalidRequestError(f"the options are no JSON: {error}") from error
    if not isinstance(asked, dict):
        raise InvalidRequestError("the options are no JSON object")
    options = _Options(asked)
    reference = DecodingSettings()
    read = SkeletonOptions(
        class_name=options.word("skeleton_class", _DEFAULT_CLASS, tuple(CLASS_TOKENS)),
        seed=options.whole("seed", 0, 0, _MAX_SEED),
        decoding=DecodingSettings(
            beams=options.whole("beams", settings.beams, 1, settings.beams),
            temperature=options.number("temperature", reference.temperature, 0.1, 2),
            top_k=options.whole("top_k", reference.top_k, 1, 50),
            top_p=options.number("top_p", reference.top_p, 0.1, 1),
            repetition_penalty=options.number(
                "repetition_penalty", reference.repetition_penalty, 1, 5
            ),
            max_tokens=options.whole(
                "max_tokens", settings.max_tokens, SHORTEST, settings.max_tokens
            ),
            max_joints=options.whole("max_joints", 0, 2, _MAX_JOINTS) or None,
            rule=Rule.STRICT,
        ),
    )
    options.refuse_unread()
    return read


class _Options:
    """The values of a JSON object, each taken once and within its bounds, or the default."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = dict(asked)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        if name not in self._asked:
            return default
        value = self._asked.pop(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidRequestError(
                f"{name} must be a whole number from {low} to {high}, not {value!r}"
            )
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        if name not in self._asked:
            return default
        value = self._asked.pop(name)
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not low <= value <= high
        ):
            raise InvalidRequestError(
                f"{name} must be a number from {low} to {high}, not {value!r}"
            )
        return float(value)

    def word(self, name: str, default: str, words: tuple[str, ...]) -> str:
        value = self._asked.pop(name, default)
        if value not in words:
            raise InvalidRequestError(f"{name} must be one of {', '.join(words)}, not {value!r}")
        return str(value)

    def refuse_unread(self) -> None:
        if self._asked:
            raise InvalidRequestError(f"there is no option {next(iter(self._asked))!r}")
