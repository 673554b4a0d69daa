"""onnxruntime on a GPU: how its provider is asked for, and whether it really does the work.

onnxruntime runs on the CPU whatever a provider does not take, and says so in its log only. So
after a session was made, the nodes that ended up on the CPU are looked through: shapes may be
computed there, products and the cache may not.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any, Final

from ttt_ref.errors import DeviceError
from ttt_runtime.machine.device import Device

CUDA: Final = "CUDAExecutionProvider"
RECORD_NODES: Final = "session.record_ep_graph_assignment_info"

# Operators that carry a model's work. One of them on the CPU means that tensors travel to it and
# back in every run, the whole cache among them.
WORK: Final = frozenset(
    {
        "ArgMax",
        "Attention",
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "DequantizeLinear",
        "DynamicQuantizeMatMul",
        "GRU",
        "Gemm",
        "LSTM",
        "LayerNormalization",
        "MatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QLinearConv",
        "QLinearMatMul",
        "RMSNormalization",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "Softmax",
        "TensorScatter",
    }
)


def provider_entry(provider: str, device: Device) -> Any:
    """Return a provider as `InferenceSession` takes it, with our options.

    The arena grows by what is asked for, not by doubling: an 8 GB board shares its memory with
    the system. TF32 is off, since a float32 bundle promises more than 10 bits of mantissa.
    """
    if provider != CUDA:
        return provider
    options = {
        "device_id": str(device.index),
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
    }
    if device.graphs:
        options["enable_cuda_graph"] = "1"
    return (provider, options)


def preload_cuda(ort: Any) -> None:
    """Load the CUDA and cuDNN libraries that pip installed; quietly, since they may be elsewhere.

    Without this onnxruntime finds only libraries on the system's path.
    """
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            preload()


@contextlib.contextmanager
def quiet_log(ort: Any) -> Any:
    """Keep onnxruntime from printing pages about a provider that fails: we say it in one line."""
    change = getattr(ort, "set_default_logger_severity", None)
    if change is not None:
        change(4)
    try:
        yield
    finally:
        if change is not None:
            change(2)  # onnxruntime's own default, which cannot be asked for


def check_provider_assignment(session: Any, graph: str, device: Device) -> None:
    """Refuse a session some of whose work onnxruntime gave to the CPU.

    Args:
        session: made with the option RECORD_NODES.
        graph: its name, for the message.
        device: where it was to run.

    Raises:
        DeviceError: names the operators.
    """
    tell = getattr(session, "get_provider_graph_assignment_info", None)
    if tell is None:  # before onnxruntime 1.24
        return
    left = {
        node.op_type
        for part in tell()
        if part.ep_name == "CPUExecutionProvider"
        for node in part.get_nodes()
        if node.op_type in WORK
    }
    if left:
        raise DeviceError(
            f"graph {graph}: device {device.name!r} cannot run {', '.join(sorted(left))}, and "
            "onnxruntime would do it on the CPU; update onnxruntime, or choose --device cpu (for a "
            f"graph of the codec: --device {device.name}/cpu)"
        )
