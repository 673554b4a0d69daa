"""Make each peer's model from one checkpoint, in the format that the peer wants.

Everything is written below one folder and kept: a second run finds it there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def plain_checkpoint(checkpoint: Path, folder: Path) -> Path:
    """Return the same checkpoint under the name of the architecture that peers know."""
    folder.mkdir(exist_ok=True)
    for file in checkpoint.iterdir():
        if file.name != "config.json" and not (folder / file.name).exists():
            (folder / file.name).symlink_to(file.resolve())
    config = json.loads((checkpoint / "config.json").read_text())
    config["architectures"] = ["Qwen2ForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def gguf_q4_0(checkpoint: Path, out: Path, threads: int) -> None:
    """Write Q4_0 for llama.cpp; the tied table in Q8_0, as its own quantizer stores it."""
    import gguf
    import torch
    from gguf import GGMLQuantizationType as Kind
    from safetensors import safe_open

    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    theta = config.get("rope_theta") or config.get("rope_parameters", {}).get("rope_theta", 1e6)
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                target = names.get(name)
                if name.startswith("model.layers."):
                    _, _, index, rest = name.split(".", 3)
                    part, _, kind = rest.rpartition(".")
                    target = f"blk.{index}.{parts[part]}.{kind}"
                if target is None:
                    continue
                values = tensors.get_tensor(name).to(torch.float32).numpy()
                if values.ndim == 1:
                    writer.add_tensor(target, values)
                    continue
                stored = Kind.Q8_0 if target == "token_embd.weight" else Kind.Q4_0
                data = gguf.quants.quantize(values, stored)
                writer.add_tensor(target, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def genai_int4(checkpoint: Path, out: Path, threads: int) -> None:
    """Write int4 for onnxruntime-genai by its own builder (blocks of 32, its default)."""
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    words = ["-i", str(checkpoint), "-o", str(out), "-p", "int4", "-e", "cpu"]
    words += ["-c", str(out.parent / "cache"), "--extra_options", "int4_accuracy_level=4"]
    subprocess.run([*builder, *words], check=True)
    path = out / "genai_config.json"
    config = json.loads(path.read_text())
    # Without this it takes half of the CPUs.
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    path.write_text(json.dumps(config, indent=1))


def _openvino_plain(checkpoint: Path, folder: Path) -> Path:
    """Return OpenVINO's own export of the checkpoint, made once for all precisions."""
    from optimum.exporters.openvino import main_export

    if not folder.exists():
        part = folder.with_name(f"part-{folder.name}")
        main_export(
            str(checkpoint), part, task="text-generation-with-past", convert_tokenizer=False
        )
        part.rename(folder)
    return folder


def _openvino(bits: int) -> Callable[[Path, Path, int], None]:
    def make(checkpoint: Path, out: Path, threads: int) -> None:
        import nncf
        import openvino

        plain = _openvino_plain(checkpoint, out.parent / "openvino-plain") / "openvino_model.xml"
        model = openvino.Core().read_model(plain)
        if bits == 4:
            mode = nncf.CompressWeightsMode.INT4_SYM
            model = nncf.compress_weights(model, mode=mode, group_size=32, ratio=1.0)
        else:
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        out.mkdir()
        openvino.save_model(model, out / plain.name)
        # The exporter's own options have left weights as they were, without a word.
        share = _data_bytes(out) / _data_bytes(plain.parent)
        if share > (bits + 4) / 16:  # the tables stay in 8 bit
            raise RuntimeError(f"its weights have {share:.0%} of their size in 16 bit, not {bits}")

    return make


def _data_bytes(folder: Path) -> int:
    return (folder / "openvino_model.bin").stat().st_size


openvino_int4 = _openvino(4)
openvino_int8 = _openvino(8)
