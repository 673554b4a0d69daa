"""The quality report of an export: how far its choices are from the checkpoint's, and the gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttt_quant.recipe import Gates
from ttt_quant.scheme import Float32Array
from ttt_ref.errors import ExportError

NEAR = 10  # places that can still become the first


@dataclass(frozen=True)
class Choices:
    """How one kind of choice (next text token, revealed speech token) came out.

    Attributes:
        count: choices compared.
        kl_mean: mean KL(checkpoint || export) in nats.
        kl_max: largest of them.
        agreement: share of equal choices.
        max_diff: largest difference of a logit.
        mean_diff: mean difference of a logit.
    """

    count: int
    kl_mean: float
    kl_max: float
    agreement: float
    max_diff: float
    mean_diff: float


@dataclass(frozen=True)
class EndTags:
    """Where the end tags rank among the speech rows at masked positions.

    Attributes:
        count: ranks compared.
        same: share of equal ranks.
        crossed: share in which the tag became, or ceased to be, the best row.
        mean_shift: mean number of places moved.
        near: share of equal ranks where the checkpoint has the tag among its first ten; far down,
            where most ranks lie, places are lost and won by nothing.
    """

    count: int
    same: float
    crossed: float
    mean_shift: float
    near: float = 1.0


@dataclass(frozen=True)
class QualityReport:
    """Everything that an export says about its quality and size."""

    recipe: str
    sequences: str
    text: Choices
    speech: Choices
    end_tags: EndTags
    gates: Gates
    schemes: Mapping[str, int] = field(default_factory=dict)
    file_bytes: Mapping[str, int] = field(default_factory=dict)
    checks: Sequence[Mapping[str, Any]] = ()
    codec: Mapping[str, Any] = field(default_factory=dict)
    block_body: QualityReport | None = None  # the same of a second decoder, for blocks
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # recordings put to the bundle

    def failures(self) -> list[str]:
        """Return one line for each gate that is not reached."""
        lines = []
        for name, choices in (("text", self.text), ("speech", self.speech)):
            if not choices.kl_mean <= self.gates.max_kl:
                lines.append(
                    f"{name} KL {choices.kl_mean:.2e} is above --max-kl {self.gates.max_kl:g}"
                )
            if not choices.agreement >= self.gates.min_agreement:
                lines.append(
                    f"{name} agreement {choices.agreement:.4f} is below "
                    f"--min-agreement {self.gates.min_agreement:g}"
                )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "failures": self.failures()}

    def table(self) -> str:
        """Return the report as text, one fact a line."""
        lines = [
            f"recipe {self.recipe}; held against the checkpoint on {self.sequences}",
            f"{'choice':<22}{'count':>7}{'KL mean':>11}{'KL max':>11}{'equal':>9}"
            f"{'max diff':>11}{'mean diff':>11}",
        ]
        lines += self._choice_lines()
        lines += self._graph_lines()
        lines += [f"matrices in {scheme}: {count}" for scheme, count in self.schemes.items()]
        total = sum(self.file_bytes.values())
        lines.append(f"bytes: {total} ({total / 2**20:.1f} MiB)")
        lines += [f"  {name}: {size}" for name, size in sorted(self.file_bytes.items())]
        lines += self._codec_lines()
        if self.block_body is not None:
            lines += [f"decoder for blocks: {line}" for line in self.block_body._choice_lines()]
        lines += self._evaluation_lines()
        verdict = "; ".join(self.failures()) or "all reached"
        lines.append(
            f"gates (max_kl {self.gates.max_kl:g}, min_agreement {self.gates.min_agreement:g}): "
            f"{verdict}"
        )
        return "\n".join(lines)

    def _choice_lines(self) -> list[str]:
        lines = [
            f"{name:<22}{c.count:>7}{c.kl_mean:>11.2e}{c.kl_max:>11.2e}{c.agreement:>9.4f}"
            f"{c.max_diff:>11.2e}{c.mean_diff:>11.2e}"
            for name, c in (("next text token", self.text), ("revealed speech token", self.speech))
        ]
        tags = self.end_tags
        lines.append(
            f"end tags: {tags.count} ranks, {tags.same:.4f} equal ({tags.near:.4f} of those among "
            f"the first {NEAR}), {tags.crossed:.4f} crossed the first place, "
            f"{tags.mean_shift:.2f} places moved on average"
        )
        return lines

    def _graph_lines(self) -> list[str]:
        """Return each graph's differences from the reference on the weights that it stores."""
        lines = []
        for graph in ("decoder", "text_head", "speech_head"):
            mine = [check for check in self.checks if str(check["name"]).startswith(graph)]
            if mine:
                worst = max(float(check["max_diff"]) for check in mine)
                mean = sum(float(check["mean_diff"]) for check in mine) / len(mine)
                lines.append(f"{graph} against ttt_ref: max diff {worst:.2e}, mean {mean:.2e}")
        return lines

    def _codec_lines(self) -> list[str]:
        """Return what the codec's own exporter measured; it has held its gates already."""
        if not self.codec:
            return []
        figures = ", ".join(f"{k} {v:.4g}" for k, v in self.codec["difference"].items())
        solver = self.codec["solver"]
        return [
            f"codec in {self.codec['precision']}, against torch: {figures}",
            f"codec solver: {solver['steps']} steps of {solver['name']}",
        ]

    def _evaluation_lines(self) -> list[str]:
        """Return what the bundle made of spoken questions, if any were put to it."""
        if not self.evaluation:
            return []
        count = self.evaluation["recordings"]
        lines = [f"put {count} recordings to it; voices heard in training | others"]
        return lines + [
            f"  {name}: {known} | {new}" for name, known, new in self.evaluation["rows"]
        ]


class GateError(ExportError):
    """A report that does not reach its gates; `report` has all of it."""

    def __init__(self, report: QualityReport) -> None:
        self.report = report
        super().__init__(
            f"the export is not published: {'; '.join(report.failures())}; choose a finer recipe "
            "or other gates"
        )


class ChoiceMeter:
    """Accumulates `Choices` over chunks of logits."""

    def __init__(self) -> None:
        self._kl: list[NDArray[np.float64]] = []
        self._equal: list[NDArray[np.bool_]] = []
        self._max_diff = 0.0
        self._diff_sum = 0.0
        self._diff_count = 0

    def add(self, want: Float32Array, got: Float32Array) -> None:
        """Take in logits [N, V] of the checkpoint and of the export; -inf marks forbidden ids."""
        self._kl.append(kl_divergence(want, got))
        self._equal.append(want.argmax(axis=1) == got.argmax(axis=1))
        finite = np.isfinite(want)
        diff = np.abs(want[finite] - got[finite])
        self._max_diff = max(self._max_diff, float(diff.max()))
        self._diff_sum += float(diff.sum(dtype=np.float64))
        self._diff_count += diff.size

    def result(self) -> Choices:
        """Return the summary; with nothing added every figure is 0 and agreement 1."""
        if not self._kl:
            return Choices(0, 0.0, 0.0, 1.0, 0.0, 0.0)
        kl, equal = np.concatenate(self._kl), np.concatenate(self._equal)
        return Choices(
            len(kl),
            float(kl.mean()),
            float(kl.max()),
            float(equal.mean()),
            self._max_diff,
            self._diff_sum / max(self._diff_count, 1),
        )


def log_softmax(logits: Float32Array) -> NDArray[np.float64]:
    """Return log-probabilities [N, V]; -inf stays -inf."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


def kl_divergence(want: Float32Array, got: Float32Array) -> NDArray[np.float64]:
    """Return KL(want || got) in nats for each row of logits [N, V]."""
    p, q = log_softmax(want), log_softmax(got)
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q))
    divergence: NDArray[np.float64] = np.maximum(terms.sum(axis=1), 0.0)
    return divergence


def end_tag_ranks(logits: Float32Array, columns: Sequence[int]) -> NDArray[np.int64]:
    """Return the rank (0 = best) of some columns among all of logits [N, V], as [N, tags]."""
    tags = logits[:, list(columns)]
    ranks: NDArray[np.int64] = (logits[:, None, :] > tags[:, :, None]).sum(axis=2)
    return ranks


def summarize_ranks(want: NDArray[np.int64], got: NDArray[np.int64]) -> EndTags:
    """Compare ranks [N, tags]."""
    if not want.size:
        return EndTags(0, 1.0, 0.0, 0.0)
    return EndTags(
        int(want.size),
        float((want == got).mean()),
        float(((want == 0) != (got == 0)).mean()),
        float(np.abs(want - got).mean()),
        float((want == got)[want < NEAR].mean()) if (want < NEAR).any() else 1.0,
    )
