"""Train the speech tokenizer: ``python -m recipes.tiny.train_speech_tokenizer DATA --out OUT``.

Two views of every utterance go through the encoder, a mildly and a heavily degraded one, aligned
in time. Both are read by CTC (phonemes, letters) through the quantised codes; a consistency loss
pulls the values before rounding together and away from the rounding boundaries, so that noise
does not flip codes.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.tiny.augment import (
    MILD,
    AugmentConfig,
    NoisePools,
    change_speed,
    degrade,
    pad_silence,
)
from recipes.tiny.corpus import SAMPLE_RATE_HZ, Audio, Corpus, LengthBuckets
from recipes.tiny.labels import LETTERS, Labels
from recipes.tiny.mel_augment import mask_spectrum, warp_frequency
from recipes.tiny.options import add_options, read_options
from recipes.tiny.speech_tokenizer_eval import evaluate
from recipes.tiny.training import BudgetConfig, TrainingRun, stored_facts
from ttt_ref.codec.builtin.checkpoint import save_tokenizer
from ttt_ref.codec.builtin.config import TokenizerConfig
from ttt_ref.codec.builtin.layers import digits_to_ids
from ttt_ref.codec.builtin.tokenizer import CtcHead, SpeechTokenizer, quantise
from ttt_ref.errors import ConfigError, exit_on_error


@dataclass(frozen=True)
class TokenizerRecipe:
    """What is tuned in this training."""

    rows: int = 16
    budget_s: float = 36.0
    max_seconds: float = 9.0
    soft_share: float = 0.08
    easy_steps: int = 250
    ramp_steps: int = 700
    consistency: float = 2.0
    margin: float = 0.5
    letters: float = 0.5
    speed_range: float = 0.2
    warp_range: float = 0.12
    mask_share: float = 0.5
    valid_per_engine: int = 40
    engine_weights: str = ""
    noise_share: float = 0.75
    noise_low_db: float = 3.0
    noise_high_db: float = 35.0
    optimizer: str = "adamw"

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "muon"):
            raise ConfigError(f"optimizer is {self.optimizer!r}; expected adamw or muon")
        if not 0.0 <= self.noise_share <= 1.0:
            raise ConfigError(f"noise-share is {self.noise_share}; expected 0 to 1")
        if not -100.0 <= self.noise_low_db <= self.noise_high_db <= 100.0:
            raise ConfigError(
                f"noise-low-db is {self.noise_low_db}, noise-high-db {self.noise_high_db}; "
                "expected low <= high, both within -100 to 100"
            )

    @property
    def heavy(self) -> AugmentConfig:
        """How the second view of an utterance is degraded."""
        return AugmentConfig(
            noise_share=self.noise_share,
            noise_low_db=self.noise_low_db,
            noise_high_db=self.noise_high_db,
        )


def engine_weights(text: str) -> dict[str, float]:
    """Parse "kokoro=2,espeak=0.5" into sampling weights by engine."""
    weights = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            weights[name] = float(value)
        except ValueError as error:
            raise ConfigError(f"--engine-weights has {part!r}; write engine=number") from error
    return weights


def ctc(logits: Tensor, counts: Tensor, targets: list[list[int]]) -> Tensor:
    """CTC per label, mean over the rows that have labels and room for them."""
    lengths = torch.tensor([len(t) for t in targets])
    usable = ((lengths > 0) & (lengths <= counts)).float()
    flat = torch.tensor([i for t in targets for i in t], dtype=torch.long)
    losses = F.ctc_loss(
        F.log_softmax(logits.float(), dim=2).transpose(0, 1),
        flat,
        counts,
        lengths,
        reduction="none",
        zero_infinity=True,
    )
    return (losses / lengths.clamp(min=1) * usable).sum() / usable.sum().clamp(min=1)


def make_optimizers(modules: dict[str, nn.Module], name: str) -> list[torch.optim.Optimizer]:
    """AdamW for all weights, or Muon for the matrices inside the blocks and AdamW for the rest.

    The training run sets the learning rates.
    """
    named = [item for module in modules.values() for item in module.named_parameters()]
    inner = [p for n, p in named if name == "muon" and p.ndim == 2 and ".blocks." in f".{n}"]
    taken = {id(p) for p in inner}
    rest = [p for _, p in named if id(p) not in taken]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.02)
    ]
    if inner:
        muon = torch.optim.Muon(inner, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    return optimizers


class TokenizerTraining:
    """Data, modules and one training step.

    ``start`` is an earlier training whose weights and labels a new one begins with.
    """

    def __init__(
        self,
        data: Path,
        out: Path,
        recipe: TokenizerRecipe,
        budget: BudgetConfig,
        config: TokenizerConfig,
        start: Path | None = None,
    ):
        limit = int(recipe.max_seconds * SAMPLE_RATE_HZ)
        self.corpus = Corpus(data, lambda u: u.split == "train" and 1600 < u.samples <= limit)
        if len(self.corpus) < 8:
            raise ConfigError(f"{data} has {len(self.corpus)} training utterances; need 8 or more")
        unseen = Corpus(data, lambda u: u.split in ("valid", "heldout") and u.samples <= limit)
        self.valid = unseen if len(unseen) else self.corpus
        self.recipe, self.config, self.out, self.budget = recipe, config, out, budget
        self.start = start
        us = self.corpus.utterances
        # A resumed training keeps its labels, even if the data has grown.
        stored = (stored_facts(out) or stored_facts(start or out)).get("phones")
        self.labels = Labels(stored) if stored else Labels.of(us)
        self.targets = [self.labels.encode(u) for u in us]
        by_engine = engine_weights(recipe.engine_weights)
        self.buckets = LengthBuckets(
            [u.samples for u in us],
            [by_engine.get(u.engine, 1.0) for u in us],
            recipe.budget_s,
            recipe.rows,
            budget.seed,
        )
        rng = np.random.default_rng((budget.seed, 2))
        some = rng.choice(len(us), min(len(us), 200), replace=False)
        self.pools = NoisePools([self.corpus.audio(int(i)) for i in some], seed=budget.seed)
        torch.manual_seed(budget.seed)
        self.tokenizer = SpeechTokenizer(config)
        self.head = CtcHead(config.code_digits, len(self.labels.phones) + 1, len(LETTERS) + 1)
        modules: dict[str, nn.Module] = {"tokenizer": self.tokenizer, "head": self.head}
        facts = {"config": config.to_dict(), "phones": self.labels.phones}
        self.run = TrainingRun(
            out, modules, make_optimizers(modules, recipe.optimizer), budget, facts
        )

    def views(self, rows: list[int], rng: np.random.Generator, ramp: float) -> list[Audio]:
        """Two degraded, aligned versions of each utterance: all mild ones, then all heavy ones."""
        speed = self.recipe.speed_range * min(1.0, ramp)
        mild, heavy = [], []
        for i in rows:
            audio = change_speed(self.corpus.audio(i), float(np.exp(rng.uniform(-speed, speed))))
            pads = (rng.random(2) * 0.25 * SAMPLE_RATE_HZ).astype(int)
            audio = pad_silence(audio, int(pads[0]), int(pads[1]))
            mild.append(audio if rng.random() < 0.5 else degrade(audio, rng, self.pools, MILD))
            heavy.append(
                degrade(audio, rng, self.pools, self.recipe.heavy)
                if rng.random() < ramp
                else degrade(audio, rng, self.pools, MILD)
            )
        return mild + heavy

    def step(self) -> dict[str, float]:
        """One optimizer step; returns the parts of the loss."""
        run, recipe = self.run, self.recipe
        run.begin_step()
        rng = np.random.default_rng((self.budget.seed, 3, run.step))
        easy = run.step < recipe.easy_steps
        ramp = min(1.0, max(0.0, (run.step - recipe.easy_steps) / recipe.ramp_steps))
        rows = self.buckets.batch(run.step, 0.4 if easy else 1.0)
        self.tokenizer.train()
        self.head.train()
        with torch.no_grad():
            audio, counts = self.tokenizer.pad_batch(
                [torch.from_numpy(a) for a in self.views(rows, rng, ramp)]
            )
            mel = self.tokenizer.mel(audio)
            if ramp > 0:
                half = len(rows)
                spread = recipe.warp_range * ramp
                factors = np.exp(rng.uniform(-spread, spread, 2 * half))
                factors[:half] **= 0.4
                mel = warp_frequency(mel, torch.from_numpy(factors).float(), self.config)
                heavy = mask_spectrum(mel[half:], rng, recipe.mask_share * ramp)
                mel = torch.cat([mel[:half], heavy])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.budget.bf16):
            u = self.tokenizer.encoder(mel, counts)
            noise = torch.rand_like(u) - 0.5 if run.progress < recipe.soft_share else None
            phones, letters = self.head(quantise(u, noise), counts)
        targets = [self.targets[i] for i in rows] * 2
        phone_loss = ctc(phones, 2 * counts, [t[0] for t in targets])
        letter_loss = ctc(letters, 2 * counts, [t[1] for t in targets])
        agree, margin = self.consistency(u, counts)
        weight = ramp * min(1.0, run.progress / 0.3)
        loss = phone_loss + recipe.letters * letter_loss
        loss = loss + weight * (recipe.consistency * agree + recipe.margin * margin)
        run.apply(loss)
        return {
            "phone": phone_loss.item(),
            "letter": letter_loss.item(),
            "agree": agree.item(),
            "margin": margin.item(),
            "equal": self.equal_share(u, counts),
        }

    def consistency(self, u: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """How far the two views lie apart, and how far both lie from the mild view's codes."""
        half = len(u) // 2
        mask = (torch.arange(u.shape[1]) < counts[:half, None]).float().unsqueeze(2)
        total = mask.sum() * u.shape[2]
        a, b = u[:half], u[half:]
        agree = (((b - a.detach()).square() + 0.3 * (a - b.detach()).square()) * mask).sum() / total
        code = a.detach().round()
        margin = (((a - code).square() + (b - code).square()) * mask).sum() / total
        return agree, margin

    @torch.no_grad()
    def equal_share(self, u: Tensor, counts: Tensor) -> float:
        """Share of tokens that are the same in both views."""
        half = len(u) // 2
        ids = digits_to_ids(u.detach())
        valid = torch.arange(u.shape[1]) < counts[:half, None]
        return float((ids[:half] == ids[half:])[valid].float().mean())

    def train(self, evaluate_every_s: float) -> None:
        """Until the budget is spent; then write the codec folder."""
        if not self.run.resume() and self.start is not None:
            self.run.start_from(self.start)
        print(
            f"{len(self.corpus)} utterances, {len(self.labels.phones)} phonemes, "
            f"from step {self.run.step}",
            flush=True,
        )
        last = time.monotonic()
        self.run.restart_clock()
        while not self.run.finished:
            self.run.end_step(self.step())
            if time.monotonic() - last > evaluate_every_s:
                self.report()
                last = time.monotonic()
        self.run.save()
        self.report()

    def report(self) -> None:
        """Write the codec folder as it is now, evaluate and log."""
        save_tokenizer(self.out / "codec", self.tokenizer)
        report = evaluate(
            self.tokenizer,
            self.head,
            self.labels,
            self.valid,
            self.pools,
            self.recipe.valid_per_engine,
        )
        for name, result in report.items():
            self.run.log({"step": self.run.step, "set": name, **result})
            print(f"  {name}: " + "  ".join(f"{k} {v}" for k, v in result.items()), flush=True)
        self.run.restart_clock()


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the speech tokenizer; resumes by itself.")
    parser.add_argument("data", type=Path, help="folder with audio.i16 and manifest.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="state, log and codec folder")
    parser.add_argument("--start", type=Path, help="earlier --out whose weights to begin with")
    parser.add_argument("--evaluate-every", type=float, default=300.0, metavar="SECONDS")
    add_options(parser, BudgetConfig(), TokenizerRecipe())
    values = vars(parser.parse_args(argv))
    with exit_on_error():
        budget = read_options(values, BudgetConfig)
        recipe = read_options(values, TokenizerRecipe)
        training = TokenizerTraining(
            values["data"], values["out"], recipe, budget, TokenizerConfig(), values["start"]
        )
        training.train(values["evaluate_every"])


if __name__ == "__main__":
    main()
