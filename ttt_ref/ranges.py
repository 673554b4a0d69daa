"""The range of every kind of number that a file may state, in one place.

A number outside its range is refused where it is read, before memory is asked for or a loop is
begun because of it. The limits lie well above every published model; what must also fit another
number of the same file (codes of a vocabulary, rows of a table) is checked where both are known.
"""

from __future__ import annotations

from typing import Annotated

from ttt_ref.schema import Length, Printable, Range

# A model's shape.
Width = Annotated[int, Range(1, 1 << 17)]
Layers = Annotated[int, Range(1, 1024)]
Heads = Annotated[int, Range(1, 4096)]
Vocabulary = Annotated[int, Range(1, 1 << 24)]
Context = Annotated[int, Range(1, 1 << 24)]
TokenId = Annotated[int, Range(0, (1 << 24) - 1)]
Positive = Annotated[float, Range(above=0, most=1e12)]

# Generation: tokens and denoising steps of one answer.
Tokens = Annotated[int, Range(0, 1 << 20)]
Blocks = Annotated[int, Range(1, 1 << 20)]
# Logits divided by less than this overflow float32, and their softmax is NaN.
Temperature = Annotated[float, Range(1e-4, 1000, or_zero=True)]

# A codec's framing.
RateHz = Annotated[int, Range(1000, 192_000)]
WindowSamples = Annotated[int, Range(1, 1 << 16)]
ContextTokens = Annotated[int, Range(0, 4096)]
PadSamples = Annotated[int, Range(0, 1 << 24)]
CodeBook = Annotated[int, Range(1, 1 << 20)]
Seed = Annotated[int, Range(0, (1 << 32) - 1)]

# Files, names and text.
Bytes = Annotated[int, Range(0, 1 << 50)]
Name = Annotated[str, Length(1, 200), Printable()]
Path = Annotated[str, Length(1, 1000)]
Word = Annotated[str, Length(0, 200), Printable()]
Dimension = Annotated[int, Range(1, 1 << 31)]

# Training.
Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, below=1)]
AnyAmount = Annotated[float, Range(0, 1e9)]
Steps = Annotated[int, Range(0, 1 << 40)]
SomeSteps = Annotated[int, Range(1, 1 << 40)]
SequenceTokens = Annotated[int, Range(2, 1 << 20)]
BatchTokens = Annotated[int, Range(2, 1 << 24)]
Threads = Annotated[int, Range(0, 1024)]
