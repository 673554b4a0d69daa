"""An assistant without weights: the toy transformer, a byte tokenizer, and a codec of tones."""

from __future__ import annotations

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.runtime.toy import ToyModel, ToyRunner
from ttt_ref.config import GenerationConfig, TokenLayout
from ttt_runtime.backends.base import HeadBest
from ttt_runtime.codec.base import Audio, Codes
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.dialogue.assistant import Assistant
from ttt_runtime.dialogue.prompt import PromptBuilder, Prompts

CODES = 8
SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_audio|>",
    "<|end_of_audio|>",
    "<|begin_of_quad|>",
    "<|audio|>",
    *(f"<|audio_{i}|>" for i in range(CODES)),
    "<|mask_token|>",
    "<|end_of_audio_new|>",
    "<|end_of_audio_span_last|>",
)
RATE_HZ, FRAME_SAMPLES = 16000, 640
CONFIG = GenerationConfig(max_gen_len=40, diffusion_steps=2, diffusion_gen_length=8, block_length=4)


def byte_tokenizer() -> Tokenizer:
    """256 bytes without merges, then the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIALS])
    return tokenizer


def byte_layout() -> TokenLayout:
    vocab = byte_tokenizer().get_vocab()
    return TokenLayout.from_vocab(vocab, {"vocab_size": len(vocab)})


class ToneTokenizer:
    """A code a frame: how loud it is."""

    sample_rate_hz, frame_rate_hz, num_codes = RATE_HZ, 25.0, CODES

    def encode(self, audio: Audio) -> Codes:
        frames = -(-len(audio) // FRAME_SAMPLES)
        padded = np.pad(audio, (0, frames * FRAME_SAMPLES - len(audio)))
        loudness = np.abs(padded.reshape(frames, FRAME_SAMPLES)).mean(1)
        return np.minimum(loudness * CODES, CODES - 1).astype(np.int64)

    def stream(self) -> ToneTokenizerStream:
        return ToneTokenizerStream(self)


class ToneTokenizerStream:
    def __init__(self, tokenizer: ToneTokenizer) -> None:
        self._tokenizer = tokenizer
        self._rest = np.zeros(0, np.float32)

    def push(self, audio: Audio) -> Codes:
        audio = np.concatenate([self._rest, audio])
        whole = len(audio) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = audio[whole:]
        return self._tokenizer.encode(audio[:whole])

    def finish(self) -> Codes:
        return self._tokenizer.encode(self._rest)


class ToneDecoder:
    """A tone a code; one code of look-ahead."""

    sample_rate_hz = RATE_HZ

    def decode(self, codes: Codes) -> Audio:
        stream = self.stream()
        return np.concatenate([stream.push(codes), stream.finish()])

    def stream(self) -> ToneStream:
        return ToneStream()


class ToneStream:
    def __init__(self) -> None:
        self._held: list[int] = []

    def push(self, codes: Codes) -> Audio:
        codes_now = [*self._held, *(int(c) for c in codes)]
        self._held = codes_now[-1:]
        return self._tones(codes_now[:-1])

    def finish(self) -> Audio:
        held, self._held = self._held, []
        return self._tones(held)

    @staticmethod
    def _tones(codes: list[int]) -> Audio:
        time = np.arange(FRAME_SAMPLES) / RATE_HZ
        tones = [0.1 * np.sin(2 * np.pi * 200 * (1 + c) * time) for c in codes]
        return np.concatenate([np.zeros(0), *tones]).astype(np.float32)


def toy_assistant(
    seed: int = 3,
    *,
    tasks: tuple[str, ...] = ("answer", "transcribe", "speak"),
    transcript_first: bool = False,
    working_mark: str = "",
    single_turn: bool = False,
    runner: ToyRunner | None = None,
    config: GenerationConfig = CONFIG,
) -> Assistant:
    """Random weights whose taste for begin and end tokens makes it speak."""
    layout = byte_layout()
    runner = runner or ToyRunner(ToyModel(layout, seed, taste=8.0), capacity=2048)
    prompts = Prompts({task: task for task in tasks}, transcript_first, working_mark, single_turn)
    builder = PromptBuilder(byte_tokenizer(), layout, prompts)
    engine = SpeechEngine(runner, layout)
    return Assistant(engine, builder, ToneTokenizer(), ToneDecoder(), config)


class ScriptedRunner(ToyRunner):
    """Says what it is told: text ids in order, and blocks of codes."""

    def __init__(self, text_ids: list[int], blocks: list[list[int]]) -> None:
        super().__init__(ToyModel(byte_layout(), 0), capacity=2048)
        self.text_ids, self.blocks = list(text_ids), [list(b) for b in blocks]

    def _best(self, logits: np.ndarray, offset: int):  # type: ignore[no-untyped-def]
        layout = self.model.layout
        best = super()._best(logits, offset)
        is_text = offset == 0
        if len(logits) == 1 and self._is_text_step:
            if is_text:
                token = self.text_ids[0]
                best = HeadBest(np.array([token]), np.array([1e3]), best.sum_exp)
            else:
                self.text_ids.pop(0)
        elif not is_text:
            block = self.blocks.pop(0)
            ids = np.array([i if i > layout.audio_start else layout.code_offset + i for i in block])
            best = HeadBest(ids[: len(logits)], np.full(len(logits), 1e3), best.sum_exp)
        return best

    def forward(self, ids, start, *, positions=None, scratch=False):  # type: ignore[no-untyped-def]
        self._is_text_step = self.model.layout.mask_id not in ids
        return super().forward(ids, start, positions=positions, scratch=scratch)
