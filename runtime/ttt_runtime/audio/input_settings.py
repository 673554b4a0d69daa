"""How a codec wants recordings before it hears them: which stages of the input chain run.

A bundle says it under `audio_front_end` among its codec's params, any of the keys below; what it
leaves out, and a bundle that says nothing, takes its codec type's defaults. The built-in codec
learnt speech of about one level with little silence around it, so it gets the whole chain; the
GLM-4-Voice codec keeps what the released code does, which is to take the first channel as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from ttt_ref.bounded import shown
from ttt_ref.errors import BundleError, ConfigError
from ttt_ref.schema import Range, check
from ttt_runtime.bundle.manifest import CodecEntry

KEY: Final = "audio_front_end"


@dataclass(frozen=True)
class InputSettings:
    """Stages of `input_chain.InputChain`.

    Attributes:
        mix_channels: hear all channels, and one where they cancel; False takes the first.
        level_db: level of the speech in dB of full scale; None leaves it.
        fill_band: put soft noise under a recording without high frequencies.
        trim: cut silence before and after the speech, found by voice activity.
        shortest_s: less sound than this is nothing.
        longest_s: most seconds that the model hears at once; None follows from its cache.
    """

    mix_channels: bool = True
    level_db: Annotated[float, Range(-60, 0)] | None = -26.0
    fill_band: bool = True
    trim: bool = True
    shortest_s: Annotated[float, Range(0, 10)] = 0.1
    longest_s: Annotated[float, Range(0.1, 3600)] | None = None

    def __post_init__(self) -> None:
        """Refuse what no recording could meet."""
        try:
            check(self, f"the bundle's {KEY}")
        except ConfigError as error:
            raise BundleError(f"{error}; export it again") from None

    @classmethod
    def of_codec(cls, entry: CodecEntry | None) -> InputSettings:
        """Return what a bundle's codec asks for; BundleError for unknown keys or values."""
        kind = "builtin" if entry is None else entry.type
        defaults = DEFAULTS.get(kind, AS_RECORDED)
        asked = {} if entry is None else entry.params.get(KEY, {})
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(asked, Mapping) or set(asked) - known:
            raise BundleError(
                f"the bundle's {KEY} is {shown(asked)}; expected a table of {', '.join(known)}; "
                "export it again or update ttt-edge"
            )
        return dataclasses.replace(defaults, **asked)


# First channel, level and silence as they are: what the GLM-4-Voice tokenizer was trained on.
AS_RECORDED: Final = InputSettings(
    mix_channels=False, level_db=None, fill_band=False, trim=False, shortest_s=0.0
)
DEFAULTS: Final[Mapping[str, InputSettings]] = {
    "builtin": InputSettings(),
    "glm4voice": AS_RECORDED,
}
