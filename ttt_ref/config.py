"""Shapes, ids and options as frozen dataclasses. Standard library only.

Every configuration refuses unknown keys and checks its values when it is made, so that a wrong
file stops at the line that reads it and not somewhere inside the mathematics. The runtime without
torch imports this module; keep it free of other imports.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from ttt_ref.bounded import shown
from ttt_ref.errors import ConfigError
from ttt_ref.ranges import (
    Blocks,
    Context,
    Heads,
    Layers,
    Positive,
    Temperature,
    TokenId,
    Tokens,
    Vocabulary,
    Width,
)
from ttt_ref.schema import OneOf, Range, build, check

ARCHITECTURE = "Qwen2ForARDiffLM"

AUDIO_MARKER = "<|audio|>"
MASK_TOKEN = "<|mask_token|>"
BEGIN_OF_AUDIO = "<|begin_of_audio|>"
END_OF_AUDIO = "<|end_of_audio|>"
BEGIN_OF_QUAD = "<|begin_of_quad|>"
END_OF_AUDIO_NEW = "<|end_of_audio_new|>"
END_OF_AUDIO_SPAN_LAST = "<|end_of_audio_span_last|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
PAD = "<|endoftext|>"


def code_token(code: int) -> str:
    """Return the token text of one speech code, such as ``<|audio_17|>``."""
    return f"<|audio_{code}|>"


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the Qwen2 decoder; names as in the released ``config.json``."""

    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Heads
    num_key_value_heads: Heads
    vocab_size: Vocabulary
    rope_theta: Positive = 10000.0
    rms_norm_eps: Positive = 1e-6
    tie_word_embeddings: bool = False
    max_position_embeddings: Context = 32768
    initializer_range: Positive = 0.02

    def __post_init__(self) -> None:
        check(self, "model config")
        _require(
            self.hidden_size % self.num_attention_heads == 0,
            f"model config: hidden_size {self.hidden_size} is not divisible by "
            f"num_attention_heads {self.num_attention_heads}",
        )
        _require(
            self.num_attention_heads % self.num_key_value_heads == 0,
            f"model config: num_attention_heads {self.num_attention_heads} is not divisible by "
            f"num_key_value_heads {self.num_key_value_heads}",
        )
        _require(
            self.head_dim % 2 == 0,
            f"model config: head size {self.head_dim} is odd; rotary positions need pairs",
        )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Read our own flat form (strict) or a Hugging Face ``config.json`` dictionary.

        A Hugging Face file is known by ``model_type`` or ``architectures``. Its keys that do not
        touch the mathematics are passed over; one that would change it is refused.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"model config: expected a table, got {type(data).__name__}")
        if "model_type" not in data and "architectures" not in data:
            return build(cls, data, "model config")
        _refuse_other_mathematics(data)
        names = {field.name for field in dataclasses.fields(cls)}
        picked = {name: data[name] for name in names if name in data}
        rope = data.get("rope_parameters")  # where transformers 5 keeps the base
        if "rope_theta" not in picked and isinstance(rope, Mapping) and "rope_theta" in rope:
            picked["rope_theta"] = rope["rope_theta"]
        picked.setdefault("num_key_value_heads", picked.get("num_attention_heads"))
        config = build(cls, picked, "config.json")
        head_dim = data.get("head_dim")
        _require(
            head_dim is None or head_dim == config.head_dim,
            f"config.json: head_dim {head_dim!r} differs from hidden_size / num_attention_heads "
            f"= {config.head_dim}, which is not supported",
        )
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the flat form that :meth:`from_dict` reads back."""
        return dataclasses.asdict(self)


def _refuse_other_mathematics(data: Mapping[str, Any]) -> None:
    """Refuse a Hugging Face configuration that asks for a computation we do not implement."""
    architectures = data.get("architectures") or []
    if not isinstance(architectures, list):
        raise ConfigError(
            f"config.json: architectures is {shown(architectures)}; expected a list of names"
        )
    if architectures and ARCHITECTURE not in architectures:
        raise ConfigError(
            f"config.json: architecture {', '.join(map(str, architectures))} is not supported; "
            f"expected {ARCHITECTURE}"
        )
    if data.get("model_type", "qwen2") != "qwen2":
        raise ConfigError(
            f"config.json: model_type {data['model_type']!r} is not supported; expected 'qwen2'"
        )
    rope_type = None
    for key in ("rope_scaling", "rope_parameters"):
        rope = data.get(key)
        if isinstance(rope, Mapping):
            rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in (None, "default"):
        raise ConfigError(f"config.json: rotary scaling {rope_type!r} is not supported")
    if data.get("use_sliding_window"):
        raise ConfigError("config.json: use_sliding_window is true; only full attention exists")
    if data.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"config.json: hidden_act {data['hidden_act']!r}; expected 'silu'")
    if data.get("attention_dropout"):
        raise ConfigError(
            f"config.json: attention_dropout {data['attention_dropout']!r} is not supported; "
            "set it to 0"
        )


@dataclass(frozen=True)
class TokenLayout:
    """Which id means what. Made from tokenizer and config; nothing else knows an id.

    Audio side: every id from ``audio_start`` (the ``<|audio|>`` marker) up: marker, codes, mask,
    both end tokens, and embedding rows above them. All other ids, begin tokens included, are text.
    """

    vocab_size: Vocabulary
    audio_start: TokenId
    code_offset: TokenId
    num_codes: Vocabulary
    mask_id: TokenId
    begin_of_audio_id: TokenId
    end_of_audio_id: TokenId
    begin_of_quad_id: TokenId
    end_of_audio_new_id: TokenId
    end_of_audio_span_last_id: TokenId
    im_start_id: TokenId
    im_end_id: TokenId
    pad_id: TokenId

    def __post_init__(self) -> None:
        tags = ("begin_of_audio_id", "end_of_audio_id", "begin_of_quad_id")
        text = (*tags, "im_start_id", "im_end_id", "pad_id")
        audio = ("mask_id", "end_of_audio_new_id", "end_of_audio_span_last_id")
        what = "token layout"
        check(self, what)
        for name in (*text, *audio):
            value = getattr(self, name)
            _require(
                value < self.vocab_size,
                f"{what}: {name} {value} is outside the {self.vocab_size} embedding rows",
            )
            _require(
                (name in audio) == (value >= self.audio_start),
                f"{what}: {name} {value} must lie {'at or above' if name in audio else 'below'} "
                f"the audio start {self.audio_start}",
            )
            _require(not self.is_code(value), f"{what}: {name} {value} lies among the speech codes")
        last_code = self.code_offset + self.num_codes - 1
        _require(
            last_code < self.vocab_size,
            f"{what}: the last speech code has id {last_code}, outside the {self.vocab_size} "
            "embedding rows",
        )
        _require(
            self.code_offset >= self.audio_start,
            f"{what}: code_offset {self.code_offset} must lie at or above the audio start "
            f"{self.audio_start}",
        )
        singles = [getattr(self, name) for name in (*text, *audio)]
        _require(len(set(singles)) == len(singles), f"{what}: two special tokens share an id")

    @property
    def begin_ids(self) -> tuple[int, int]:
        """Text ids that start a span when generated."""
        return (self.begin_of_audio_id, self.begin_of_quad_id)

    @property
    def end_ids(self) -> tuple[int, int]:
        """Audio-side ids that end a span."""
        return (self.end_of_audio_new_id, self.end_of_audio_span_last_id)

    def is_audio(self, token_id: int) -> bool:
        """Tell whether an id lies on the audio side."""
        return token_id >= self.audio_start

    def is_code(self, token_id: int) -> bool:
        """Tell whether an id is a speech code."""
        return self.code_offset <= token_id < self.code_offset + self.num_codes

    def code_to_id(self, code: int) -> int:
        """Return the token id of a codec's speech token; ConfigError outside the code book."""
        _require(
            0 <= code < self.num_codes,
            f"speech code {code} is outside the code book of {self.num_codes}",
        )
        return self.code_offset + code

    def id_to_code(self, token_id: int) -> int:
        """Return the codec's speech token of a token id; ConfigError if it is not a code."""
        _require(self.is_code(token_id), f"token id {token_id} is not a speech code")
        return token_id - self.code_offset

    @classmethod
    def from_vocab(cls, vocab: Mapping[str, int], config: Mapping[str, Any]) -> TokenLayout:
        """Find all ids by name in the tokenizer's vocabulary and check them with config.json.

        Args:
            vocab: token text -> id, added tokens included.
            config: the checkpoint's config.json; ``vocab_size`` is needed,
                ``audio_token_id_start`` and ``mask_token`` must agree with the names if there.

        Raises:
            ConfigError: a special token is missing, codes are not contiguous, an id is out of
                range, or config and tokenizer disagree.
        """

        def find(token: str) -> int:
            if token not in vocab:
                raise ConfigError(f"tokenizer has no {token} token; this is not a TtT checkpoint")
            return vocab[token]

        code_offset = find(code_token(0))
        num_codes = 1
        while (token_id := vocab.get(code_token(num_codes))) is not None:
            if token_id != code_offset + num_codes:
                raise ConfigError(
                    f"tokenizer: {code_token(num_codes)} has id {token_id}, expected "
                    f"{code_offset + num_codes}; speech codes must be contiguous"
                )
            num_codes += 1
        for key, token in (("audio_token_id_start", AUDIO_MARKER), ("mask_token", MASK_TOKEN)):
            if key in config and config[key] != find(token):
                raise ConfigError(
                    f"config.json: {key} is {config[key]!r}, but the tokenizer's {token} is "
                    f"{vocab[token]}"
                )
        if not _is_int(config.get("vocab_size")):
            raise ConfigError(
                f"config.json: vocab_size must be an integer, got {config.get('vocab_size')!r}"
            )
        return cls(
            vocab_size=config["vocab_size"],
            audio_start=find(AUDIO_MARKER),
            code_offset=code_offset,
            num_codes=num_codes,
            mask_id=find(MASK_TOKEN),
            begin_of_audio_id=find(BEGIN_OF_AUDIO),
            end_of_audio_id=find(END_OF_AUDIO),
            begin_of_quad_id=find(BEGIN_OF_QUAD),
            end_of_audio_new_id=find(END_OF_AUDIO_NEW),
            end_of_audio_span_last_id=find(END_OF_AUDIO_SPAN_LAST),
            im_start_id=find(IM_START),
            im_end_id=find(IM_END),
            pad_id=find(PAD),
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TokenLayout:
        """Read what :meth:`to_dict` wrote; unknown keys are refused."""
        return build(cls, data, "token layout")

    def to_dict(self) -> dict[str, int]:
        """Return all ids as a flat dictionary (goes into bundles)."""
        return dataclasses.asdict(self)


REMASKING = ("low_confidence", "random")

_PRESETS: dict[str, dict[str, Any]] = {
    # The values that the released inference script runs with: 100 blocks, 2 steps each.
    "script": {
        "max_gen_len": 2048,
        "diffusion_steps": 200,
        "diffusion_gen_length": 2600,
        "block_length": 26,
        "cfg_scale": 0.1,
        "top_k": 10,
        "top_p": 0.95,
    },
    # The values that the paper states: 200 steps over a span of 640, blocks of 32, 10 steps each.
    "paper": {
        "max_gen_len": 2048,
        "diffusion_steps": 200,
        "diffusion_gen_length": 640,
        "block_length": 32,
    },
}


@dataclass(frozen=True)
class GenerationConfig:
    """Options of generation, under their released names and with the released defaults.

    Attributes:
        max_gen_len: generated tokens after which nothing new is started. Tested before a text
            token and before a run of up to ``diffusion_gen_length`` span tokens, so the output
            may be longer.
        diffusion_steps: denoising steps for ``diffusion_gen_length`` tokens.
        diffusion_gen_length: span tokens of one run; a longer span is simply continued.
        block_length: tokens denoised together.
        ar_temperature: temperature of text sampling; 0 means argmax, unless ``top_k`` or
            ``top_p`` is set, which samples with temperature 1.
        diffusion_temperature: strength of the Gumbel noise on speech ids; 0 means argmax.
        cfg_scale: guidance s in u + (s + 1)(c - u); 0 means no second row.
        remasking: which positions a step reveals: ``low_confidence`` keeps the most confident,
            ``random`` draws them.
        top_k: text ids kept before sampling; None or 0 means all.
        top_p: probability mass kept before sampling; None, 0 or 1 means all.
        min_text_tokens_after_audio: text tokens after a span during which ``<|im_end|>`` is
            forbidden.
    """

    max_gen_len: Tokens = 512
    diffusion_steps: Blocks = 128
    diffusion_gen_length: Blocks = 256
    block_length: Blocks = 32
    ar_temperature: Temperature = 0.0
    diffusion_temperature: Temperature = 0.0
    cfg_scale: Annotated[float, Range(0, 1000)] = 0.0
    remasking: Annotated[str, OneOf(*REMASKING)] = "low_confidence"
    top_k: Tokens | None = None
    top_p: Annotated[float, Range(0, 1)] | None = None
    min_text_tokens_after_audio: Tokens = 0

    def __post_init__(self) -> None:
        check(self, "generation")

    @property
    def filters_text(self) -> bool:
        """True when ``top_k`` or ``top_p`` narrows the text distribution."""
        return bool(self.top_k) or (self.top_p is not None and 0.0 < self.top_p < 1.0)

    @property
    def samples_text(self) -> bool:
        """True when text ids are drawn, false when they are the argmax."""
        return self.ar_temperature > 0 or self.filters_text

    def steps_per_block(self) -> int:
        """Return the denoising steps of one block; ConfigError if the lengths do not divide.

        Called when a span starts, not before: a text-only answer never meets this error.
        """
        if self.diffusion_gen_length % self.block_length != 0:
            raise ConfigError(
                f"generation: diffusion_gen_length {self.diffusion_gen_length} must be divisible "
                f"by block_length {self.block_length}"
            )
        blocks = self.diffusion_gen_length // self.block_length
        if self.diffusion_steps % blocks != 0:
            raise ConfigError(
                f"generation: diffusion_steps {self.diffusion_steps} must be divisible by the "
                f"{blocks} blocks of diffusion_gen_length / block_length"
            )
        return self.diffusion_steps // blocks

    @classmethod
    def preset(cls, name: str, **changes: Any) -> GenerationConfig:
        """Return a named preset (``script`` or ``paper``), with single values replaced."""
        if name not in _PRESETS:
            raise ConfigError(f"unknown preset {name!r}; known: {', '.join(_PRESETS)}")
        return cls.from_dict({**_PRESETS[name], **changes})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GenerationConfig:
        """Read a dictionary of options; absent ones keep their default, unknown are refused."""
        return build(cls, data, "generation")

    def to_dict(self) -> dict[str, Any]:
        """Return all options as a flat dictionary."""
        return dataclasses.asdict(self)
