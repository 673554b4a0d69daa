"""Train the speech decoder: ``python -m recipes.tiny.train_decoder DATA --out OUT``.

The teacher voice's answers are encoded by the finished tokenizer; crops of codes are rendered
with the teacher's pitch and compared with the recording by its spectra and, with ``--hearing``, by
what the tokenizer hears in both: the short burst that tells a ``k`` from a ``t`` weighs little in a
spectrum and much in the ear. Crops begin 8 codes before the part that is scored, except at the
start of an utterance, which is scored from the first code on: an edge that is not trained is heard.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.tiny.corpus import Audio, Corpus, Utterance
from recipes.tiny.encode import encode_corpus
from recipes.tiny.options import add_options, read_options
from recipes.tiny.pitch import Track, cached_tracks, fill_unvoiced
from recipes.tiny.spectral_loss import SpectralLoss
from recipes.tiny.training import BudgetConfig, TrainingRun
from ttt_ref.codec.builtin.checkpoint import load_tokenizer, save_decoder, save_tokenizer
from ttt_ref.codec.builtin.config import DecoderConfig
from ttt_ref.codec.builtin.decoder import SpeechDecoder, pitch_to_unit, unit_to_pitch
from ttt_ref.codec.builtin.source import render
from ttt_ref.codec.builtin.tokenizer import SpeechTokenizer
from ttt_ref.errors import ConfigError, exit_on_error


@dataclass(frozen=True)
class DecoderRecipe:
    """What is tuned in this training."""

    engine: str = "kokoro"
    voice: str = "af_heart"
    rows: int = 16
    crop_codes: int = 30
    early_codes: int = 8
    start_share: float = 0.2
    digit_noise: float = 0.03
    mel: float = 2.0
    pitch: float = 0.3
    hearing: float = 0.0
    valid_every: int = 40
    samples: int = 8


def is_teacher(u: Utterance, recipe: DecoderRecipe) -> bool:
    """Whether the utterance is the assistant's own voice."""
    return u.engine == recipe.engine and u.voice == recipe.voice and u.kind in ("answer", "speak")


@dataclass(frozen=True)
class Teacher:
    """One utterance, silence included: codes [S], audio [S * 640], pitch 0 = unvoiced [4 S]."""

    id: str
    codes: Tensor
    audio: Audio
    f0_hz: Track


class DecoderTraining:
    """Data, modules and one training step."""

    def __init__(
        self,
        data: Path,
        out: Path,
        tokenizer: SpeechTokenizer,
        cache: Path,
        recipe: DecoderRecipe,
        budget: BudgetConfig,
        config: DecoderConfig,
    ):
        self.recipe, self.budget, self.config, self.out = recipe, budget, config, out
        self.tokenizer = tokenizer.requires_grad_(requires_grad=False)
        torch.set_num_threads(budget.threads)
        corpus = Corpus(data, lambda u: u.split == "train" and is_teacher(u, recipe))
        if len(corpus) < 4:
            raise ConfigError(
                f"{data} has {len(corpus)} utterances of {recipe.engine} {recipe.voice}; "
                "need 4 or more"
            )
        every = self.load(corpus, cache)
        self.valid = every[:: recipe.valid_every]
        self.train_set = [t for i, t in enumerate(every) if i % recipe.valid_every]
        self.lengths = np.array([len(t.codes) for t in self.train_set], dtype=np.float64)
        torch.manual_seed(budget.seed)
        self.decoder = SpeechDecoder(config)
        self.distance = SpectralLoss()
        optimizer = torch.optim.AdamW(
            self.decoder.parameters(),
            lr=budget.learning_rate,
            betas=(0.8, 0.99),
            weight_decay=0.01,
        )
        facts = {"config": config.to_dict()}
        self.run = TrainingRun(out, {"decoder": self.decoder}, [optimizer], budget, facts)

    def load(self, corpus: Corpus, cache: Path) -> list[Teacher]:
        """Encode, pad and track the pitch of every utterance."""
        pad, size = self.tokenizer.config.pad_samples, self.config.code_samples
        tracks = cached_tracks(cache, corpus, pad, size)
        codes = {e.index: e.codes for e in encode_corpus(self.tokenizer, corpus)}
        teachers = []
        for i, u in enumerate(corpus.utterances):
            ids = torch.from_numpy(codes[i].astype(np.int64))
            audio = np.pad(corpus.audio(i), pad)
            audio = np.pad(audio, (0, len(ids) * size - len(audio)))
            teachers.append(Teacher(u.id, ids, audio, tracks[u.id]))
        return teachers

    def crop(
        self, t: Teacher, first: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Cut codes ``first`` .. of one utterance.

        Returns:
            ids [N + ahead] for the network, teacher pitch [4 (N + ahead), 2], audio [N * 640],
            mask over the audio, mask over the frames of the network's output.
        """
        recipe, config = self.recipe, self.config
        size, ahead, count = config.code_samples, config.look_ahead_tokens, len(t.codes)
        length = recipe.crop_codes + recipe.early_codes
        ids = torch.full((length + ahead,), config.num_codes)
        part = t.codes[first : first + length + ahead].clone()
        digits = torch.from_numpy(rng.random((len(part), config.code_digits)))
        powers = 3 ** torch.arange(config.code_digits)
        wrong = torch.from_numpy(rng.integers(0, 3, (len(part), config.code_digits)))
        kept = torch.where(digits < recipe.digit_noise, wrong, part[:, None] // powers % 3)
        ids[: len(part)] = (kept * powers).sum(1)
        # The network's output is late: its frame 0 speaks of the code first - ahead.
        frame = 4 * (first - ahead) + np.arange(4 * (length + ahead))
        inside = (frame >= 0) & (frame < 4 * count)
        place = np.clip(frame, 0, 4 * count - 1)
        filled = fill_unvoiced(t.f0_hz, 180.0)[place]
        unit = pitch_to_unit(torch.from_numpy(filled)) * torch.from_numpy(inside)
        voiced = torch.from_numpy((t.f0_hz[place] > 0) & inside).float()
        audio = torch.zeros(length * size)
        piece = t.audio[first * size : (first + length) * size]
        audio[: len(piece)] = torch.from_numpy(piece)
        scored = torch.zeros(length * size)
        scored[(0 if first == 0 else recipe.early_codes * size) : len(piece)] = 1.0
        frames = torch.from_numpy(frame < 4 * count).float()
        if first > 0:
            frames[: 4 * (recipe.early_codes + ahead)] = 0.0
        return ids, torch.stack([unit.float(), voiced], 1), audio, scored, frames

    def batch(self, rng: np.random.Generator) -> list[Tensor]:
        """A batch of crops, utterances drawn by length."""
        share = self.lengths / self.lengths.sum()
        rows = []
        for i in rng.choice(len(self.train_set), self.recipe.rows, p=share):
            teacher = self.train_set[int(i)]
            last = max(0, len(teacher.codes) - self.recipe.early_codes - 8)
            at_start = rng.random() < self.recipe.start_share
            first = 0 if at_start else int(rng.integers(0, last + 1))
            rows.append(self.crop(teacher, first, rng))
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def losses(
        self, columns: list[Tensor], rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Total loss and its parts for a batch of crops."""
        ids, pitch, audio, scored, frames = columns
        with torch.autocast("cpu", torch.bfloat16, enabled=self.budget.bf16):
            unit, logit, filters, _ = self.decoder.network(ids, pitch)
        skip = 4 * self.config.look_ahead_tokens
        phase = torch.from_numpy(rng.uniform(0, 2 * math.pi, len(ids)))
        noise = torch.from_numpy(rng.standard_normal(tuple(audio.shape), dtype=np.float32))
        made = render(
            unit_to_pitch(pitch[:, skip:, 0]),
            pitch[:, skip:, 1],
            filters[:, skip:],
            self.config,
            noise,
            phase,
        )
        stft, mel = self.distance(made * scored, audio * scored)
        unit, logit, voiced = unit.float(), logit.float(), pitch[..., 1]
        weight = frames * (0.1 + 0.9 * voiced)
        f0 = ((unit - pitch[..., 0]).abs() * weight).sum() / weight.sum().clamp(min=1)
        crossed = F.binary_cross_entropy_with_logits(logit, voiced, reduction="none")
        voicing = (crossed * frames).sum() / frames.sum().clamp(min=1)
        loss = stft + self.recipe.mel * mel + self.recipe.pitch * (f0 + voicing)
        parts = {"stft": stft.item(), "mel": mel.item(), "f0": f0.item(), "voicing": voicing.item()}
        if self.recipe.hearing:
            heard = self.hearing(made * scored, audio * scored, rng)
            parts["heard"] = heard.item()
            loss = loss + self.recipe.hearing * heard
        return loss, parts

    def hearing(self, made: Tensor, true: Tensor, rng: np.random.Generator) -> Tensor:
        """Mean squared distance of what the tokenizer hears in both, [B, T] each.

        Under the same faint noise: what only a network would notice drowns in it.
        """
        level = true.square().mean().sqrt() * 10 ** (-rng.uniform(15, 40) / 20)
        noise = level * torch.from_numpy(rng.standard_normal(tuple(true.shape), dtype=np.float32))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.budget.bf16):
            with torch.no_grad():
                wanted = self.tokenizer.encoder.features(self.tokenizer.mel(true + noise))
            got = self.tokenizer.encoder.features(self.tokenizer.mel(made + noise))
        return F.mse_loss(got.float(), wanted.float())

    def step(self) -> dict[str, float]:
        """One optimizer step; returns the parts of the loss."""
        self.run.begin_step()
        rng = np.random.default_rng((self.budget.seed, 5, self.run.step))
        self.decoder.train()
        loss, parts = self.losses(self.batch(rng), rng)
        self.run.apply(loss)
        return parts

    @torch.no_grad()
    def report(self) -> None:
        """Write the codec folder as it is now, the validation losses and a few sounds."""
        self.decoder.eval()
        save_decoder(self.out / "codec", self.decoder)
        save_tokenizer(self.out / "codec", self.tokenizer)
        rng = np.random.default_rng(3)
        sums: dict[str, float] = {}
        picked = self.valid[: 4 * self.recipe.rows]
        for start in range(0, len(picked), self.recipe.rows):
            rows = picked[start : start + self.recipe.rows]
            columns = [
                torch.stack(c) for c in zip(*(self.crop(t, 0, rng) for t in rows), strict=True)
            ]
            for name, value in self.losses(columns, rng)[1].items():
                sums[name] = sums.get(name, 0.0) + value * len(rows) / len(picked)
        folder = self.out / "samples"
        folder.mkdir(exist_ok=True)
        for t in self.valid[: self.recipe.samples]:
            made = self.decoder.decode(t.codes).numpy()
            rate = self.config.sample_rate_hz
            soundfile.write(folder / f"{t.id}.wav", np.clip(made, -1, 1), rate)
            soundfile.write(folder / f"{t.id}.true.wav", np.clip(t.audio, -1, 1), rate)
        values = {k: round(v, 4) for k, v in sums.items()}
        self.run.log({"step": self.run.step, "set": "valid", **values})
        print("  valid: " + "  ".join(f"{k} {v}" for k, v in values.items()), flush=True)
        self.run.restart_clock()

    def train(self, evaluate_every_s: float) -> None:
        """Until the budget is spent; then write the codec folder."""
        self.run.resume()
        print(f"{len(self.train_set)} utterances, from step {self.run.step}", flush=True)
        last = time.monotonic()
        self.run.restart_clock()
        while not self.run.finished:
            self.run.end_step(self.step())
            if time.monotonic() - last > evaluate_every_s:
                self.report()
                last = time.monotonic()
        self.run.save()
        self.report()


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the speech decoder; resumes by itself.")
    parser.add_argument("data", type=Path, help="folder with audio.i16 and manifest.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="state, log and codec folder")
    parser.add_argument("--tokenizer", type=Path, help="codec folder with the trained tokenizer")
    parser.add_argument("--cache", type=Path, help="pitch cache (default: OUT/pitch.npz)")
    parser.add_argument("--prepare-only", action="store_true", help="track pitch, then stop")
    parser.add_argument("--evaluate-every", type=float, default=300.0, metavar="SECONDS")
    add_options(parser, BudgetConfig(threads=1), DecoderRecipe())
    values = vars(parser.parse_args(argv))
    with exit_on_error():
        budget = read_options(values, BudgetConfig)
        recipe = read_options(values, DecoderRecipe)
        config = DecoderConfig()
        out: Path = values["out"]
        out.mkdir(parents=True, exist_ok=True)
        cache = values["cache"] or out / "pitch.npz"
        if values["prepare_only"]:
            corpus = Corpus(values["data"], lambda u: u.split == "train" and is_teacher(u, recipe))
            cached_tracks(cache, corpus, 3200, config.code_samples)
            return
        if values["tokenizer"] is None:
            raise ConfigError("no --tokenizer given; name the trained tokenizer's codec folder")
        tokenizer = load_tokenizer(values["tokenizer"])
        training = DecoderTraining(values["data"], out, tokenizer, cache, recipe, budget, config)
        training.train(values["evaluate_every"])


if __name__ == "__main__":
    main()
