"""TensorRT's names of element types, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DTYPES: Final[Mapping[str, str]] = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
