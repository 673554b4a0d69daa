"""The fuzzing targets on their seeds and a few hundred mutations; `make fuzz` goes on from here."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import kernels
from tests.fuzz.targets import TARGETS, run_one, seeds
from ttt_ref.errors import CodecError, ConfigError, TttError
from ttt_runtime.backends.native import library
from ttt_runtime.bundle.folder import Bundle


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_taken(name):
    """A seed that is refused at once would lead a fuzzer nowhere."""
    refused = 0
    for seed in seeds(name):
        try:
            TARGETS[name](seed)
        except TttError:
            refused += 1
    # Neither are all edits of a manifest harmless, nor is a record the state of a run.
    assert refused == 0 or name in ("manifest", "record")
    assert refused < len(seeds(name)) or name == "record"


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_are_refused_in_one_line(name):
    chance = random.Random(20)
    found = seeds(name)
    for _ in range(150):
        data = bytearray(chance.choice(found) or b"\0" * 9)
        for _ in range(chance.choice((1, 2, 9))):
            at = chance.randrange(len(data) + 1)
            what = chance.randrange(3)
            if what == 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            elif what == 1:
                del data[at : at + chance.randrange(9)]
            else:
                data[at:at] = data[max(0, at - 5) : at]
        run_one(name, bytes(data))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_manifests_with_any_values(edits):
    run_one("manifest", edits)


# Not the smallest: libraries in this process may flush them to zero, which hypothesis refuses.
_FLOATS = st.floats(allow_subnormal=False)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | _FLOATS | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_JSON, max_size=3))
def test_records_of_any_values(records):
    import json

    run_one("record", "\n".join(json.dumps(entry) for entry in records).encode())


def test_marks_of_marks_in_a_pickle_take_no_memory():
    """Found by fuzzing: each STACK_GLOBAL doubled the text of the one before."""
    nested = b"\x80\x04" + b"\x8c\x01'" * 80 + b"\x93" * 79 + b"."
    TARGETS["pickle"](seeds("pickle")[0])  # imports
    tracemalloc.start()
    with pytest.raises(CodecError, match="no text"):
        TARGETS["pickle"](nested)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def test_a_finding_is_one(monkeypatch):
    """What the targets may not do is told apart from our errors."""

    def wrong(data):
        raise ConfigError("two\nlines")

    monkeypatch.setitem(TARGETS, "json", wrong)
    with pytest.raises(AssertionError, match="no line"):
        run_one("json", b"")
    monkeypatch.setitem(TARGETS, "json", lambda data: [][0])
    with pytest.raises(IndexError):
        run_one("json", b"")


@pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))
def test_mutated_bundles_on_the_kernels(tmp_path):
    runs, findings = kernels.fuzz_kernels(1, tmp_path / "findings")
    assert runs > 0
    assert findings == []
    kernels.run_bundle(kernels.SHIPPED)
    assert Bundle.open(kernels.SHIPPED, "hashes")
