# ruff: noqa: D102 (the methods are documented in the protocol `work.Engine`)
"""An engine in a process of its own: `python -m benchmarks.peers.worker KIND MODEL THREADS`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.work import BLOCK, LONGEST, Engine, serve, token

# Every engine imports its own library late: a process must not hold the libraries of the others.


class Ours:
    """This project's runner: text rows for a text step, speech rows for a block."""

    def __init__(self, model: Path, threads: int, *, way: str, block_body: bool) -> None:
        from ttt_runtime.backends.load import cpu_runner
        from ttt_runtime.bundle.folder import Bundle
        from ttt_runtime.bundle.gqa_spec import BLOCK_DECODER

        bundle = Bundle.open(model)
        if not block_body:
            graphs = {n: g for n, g in bundle.config.graphs.items() if n != BLOCK_DECODER}
            bundle.config = replace(bundle.config, graphs=graphs)
        self._runner = cpu_runner(bundle, way=way, threads=threads, capacity=LONGEST)
        self._mask = bundle.config.layout.mask_id
        self._tokens = 0

    def context(self, tokens: int) -> None:
        ids = [token(i) for i in range(tokens)]
        for start in range(0, tokens, 256):
            self._runner.forward(ids[start : start + 256], start)
        self._tokens = tokens

    def text(self) -> None:
        hidden = self._runner.forward([token(self._tokens)], self._tokens)
        self._runner.text_best(hidden, forbid_end=False)

    def block(self) -> None:
        hidden = self._runner.forward([self._mask] * BLOCK, self._tokens)
        _ = self._runner.speech_best(hidden).sum_exp

    def restore(self) -> None:
        """Nothing: the next forward writes over the rows."""


class Llama:
    """llama.cpp by its own C functions, as llama-cpp-python offers them."""

    def __init__(self, model: Path, threads: int) -> None:
        import llama_cpp

        self._c: Any = llama_cpp
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(model).encode(), settings)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = LONGEST, 512, 512
        options.n_threads = options.n_threads_batch = threads
        options.flash_attn_type = 1
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)
        self._tokens = 0

    def _decode(self, first: int, count: int, logits: str) -> None:
        batch = self._batch
        batch.n_tokens = count
        for i in range(count):
            batch.token[i] = token(first + i)
            batch.pos[i] = first + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = logits == "all" or i == count - 1
        if self._c.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama_decode failed")

    def context(self, tokens: int) -> None:
        self._c.llama_memory_seq_rm(self._memory, 0, -1, -1)
        for start in range(0, tokens, 256):
            self._decode(start, min(256, tokens - start), "last")
        self._tokens = tokens

    def text(self) -> None:
        self._decode(self._tokens, 1, "last")
        self._c.llama_get_logits(self._context)

    def block(self) -> None:
        self._c.llama_set_causal_attn(self._context, False)
        self._decode(self._tokens, BLOCK, "all")
        self._c.llama_get_logits(self._context)
        self._c.llama_set_causal_attn(self._context, True)

    def restore(self) -> None:
        self._c.llama_memory_seq_rm(self._memory, 0, self._tokens, -1)


class Genai:
    """onnxruntime-genai. Its attention is causal, so a block costs what it should and says less."""

    def __init__(self, model: Path, threads: int) -> None:
        import onnxruntime_genai

        self._model = onnxruntime_genai.Model(str(model))
        options = onnxruntime_genai.GeneratorParams(self._model)
        options.set_search_options(max_length=LONGEST)
        self._generator = onnxruntime_genai.Generator(self._model, options)
        self._tokens = 0

    def context(self, tokens: int) -> None:
        self._generator.rewind_to(0)
        for start in range(0, tokens, 256):
            ids = [token(i) for i in range(start, min(start + 256, tokens))]
            self._generator.append_tokens(np.array(ids, np.int32))
        self._tokens = tokens

    def text(self) -> None:
        self._generator.append_tokens(np.array([token(self._tokens)], np.int32))
        self._generator.get_logits()

    def block(self) -> None:
        ids = [token(self._tokens + i) for i in range(BLOCK)]
        self._generator.append_tokens(np.array(ids, np.int32))
        self._generator.get_logits()

    def restore(self) -> None:
        self._generator.rewind_to(self._tokens)


class OpenVino:
    """OpenVINO by a stateful model, whose cache cannot be cut: it is filled anew after four blocks.

    Its attention is causal, so a block costs what it should and says less.
    """

    def __init__(self, model: Path, threads: int) -> None:
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        compiled = core.compile_model(str(model / "openvino_model.xml"), "CPU", settings)
        self._request = compiled.create_infer_request()
        self._inputs = {i.get_any_name() for i in compiled.inputs}
        self._tokens = self._done = 0

    def _run(self, count: int) -> None:
        first = self._done
        total = first + count
        feeds = {
            "input_ids": np.array([[token(first + i) for i in range(count)]], np.int64),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(first, total, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self._request.infer({k: v for k, v in feeds.items() if k in self._inputs})
        self._done = total

    def context(self, tokens: int) -> None:
        self._request.reset_state()
        self._done = 0
        while self._done < tokens:
            self._run(min(256, tokens - self._done))
        self._tokens = tokens

    def text(self) -> None:
        self._run(1)

    def block(self) -> None:
        self._run(BLOCK)

    def restore(self) -> None:
        # Four blocks in a row lengthen the context by 39 tokens on average.
        if self._done - self._tokens >= 4 * BLOCK:
            self.context(self._tokens)


class Torch:
    """transformers on torch in bfloat16, eager."""

    def __init__(self, model: Path, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, DynamicCache

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._torch, self._cache_class = torch, DynamicCache
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
        self._model = loaded.eval()
        self._cache: Any = None
        self._tokens = 0

    def _run(self, first: int, count: int, keep: int) -> None:
        ids = self._torch.tensor([[token(first + i) for i in range(count)]])
        self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=keep)

    def context(self, tokens: int) -> None:
        self._cache = self._cache_class()
        for start in range(0, tokens, 256):
            self._run(start, min(256, tokens - start), 1)
        self._tokens = tokens

    def text(self) -> None:
        self._run(self._tokens, 1, 1)

    def block(self) -> None:
        self._run(self._tokens, BLOCK, BLOCK)

    def restore(self) -> None:
        self._cache.crop(self._tokens)


ENGINES: dict[str, Callable[[Path, int], Engine]] = {
    "ours": lambda model, threads: Ours(model, threads, way="native", block_body=False),
    "ours-int8-block": lambda model, threads: Ours(model, threads, way="native", block_body=True),
    "ours-ort": lambda model, threads: Ours(model, threads, way="onnxruntime", block_body=False),
    "ours-ort-int8-block": lambda model, threads: Ours(
        model, threads, way="onnxruntime", block_body=True
    ),
    "llama": Llama,
    "genai": Genai,
    "openvino": OpenVino,
    "torch": Torch,
}


if __name__ == "__main__":
    serve(ENGINES[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3])))
