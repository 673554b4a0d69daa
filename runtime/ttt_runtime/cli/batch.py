"""Several inputs of one command: an item that fails is recorded, the rest is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TextIO

from ttt_ref.errors import TttError, line_of, report
from ttt_ref.streams import escaped, print_json

EXIT_PARTLY_FAILED: Final = 1


@dataclass
class Batch:
    """The inputs of one call.

    A single input that fails ends the program as any error does (exit code 2). Of several, each
    error is one line on stderr; after the last input the exit code is 1.

    Args:
        task: the command's name, for the records.
        inputs: names as they were given.
        records: with `--json`, where a record with the key `error` goes; None without.
    """

    task: str
    inputs: Sequence[str]
    records: TextIO | None = None
    failed: dict[int, str] = field(default_factory=dict)

    def attempt(self, number: int, work: Callable[[], None]) -> None:
        """Do the work of one input, unless that has failed already."""
        if number in self.failed:
            return
        try:
            work()
        except BrokenPipeError:
            raise  # nobody reads the rest
        except (TttError, OSError, MemoryError) as error:
            self._record(number, error)
            if len(self.inputs) == 1:
                raise

    def _record(self, number: int, error: Exception) -> None:
        source, line = self.inputs[number], line_of(error)
        self.failed[number] = line
        if self.records is not None:
            record = {"task": self.task, "input": source, "error": line}
            print_json(record, self.records)
        if len(self.inputs) > 1:
            report(line if source in line else f"{escaped(source)}: {line}")

    def check(self, checked: Callable[[str], None]) -> None:
        """Check every input before the long work; raise if none can be used."""
        for number, source in enumerate(self.inputs):
            self.attempt(number, lambda source=source: checked(source))  # type: ignore[misc]
        if len(self.failed) == len(self.inputs):
            self.finish()

    def finish(self) -> None:
        """Leave with exit code 1 if an input failed."""
        if self.failed:
            report(f"{len(self.failed)} of {len(self.inputs)} inputs failed; the rest is done")
            raise SystemExit(EXIT_PARTLY_FAILED)
