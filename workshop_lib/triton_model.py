"""The model of a Triton repository: runs inside the server's own Python, which has numpy, onnxruntime and tokenizers, but not this package.

`workshop_lib.triton.write_repository` copies this file beside model.onnx and tokenizer.json. Each request is answered from start to end
before the next one of the same instance: Triton's Python back end batches requests, but not the single tokens of requests under way.
"""

import json
import time
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The three calls that Triton makes: initialize, execute, finalize."""

    def initialize(self, args: dict) -> None:
        """Load graph and tokenizer from the version's folder."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self.settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.settings["threads"]
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        caches = self.session.get_inputs()[1:]
        self.empty = {cache.name: np.zeros((1, cache.shape[1], 0, cache.shape[3]), np.float32) for cache in caches}

    def execute(self, requests: list) -> list:
        """A response to each request, one after another."""
        return [self.answer(request) for request in requests]

    def finalize(self) -> None:
        """Let go of the graph."""
        del self.session

    def answer(self, request):
        """The response to one request, or the error that names what is wrong with it."""
        def given(name, default):
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            return default if tensor is None else tensor.as_numpy().ravel()[0]

        started = time.perf_counter()
        ids = self.tokenizer.encode(given("prompt", b"").decode("utf-8"), add_special_tokens=False).ids
        if ids[:1] != [self.settings["bos"]]:
            ids = [self.settings["bos"], *ids]
        wanted, temperature, seed = int(given("max_tokens", 64)), float(given("temperature", 0.0)), int(given("seed", 0))
        wrong = self.wrong(len(ids), wanted, temperature)
        if wrong:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(wrong, pb_utils.TritonError.INVALID_ARG))
        new = self.generate(ids, wanted, temperature, np.random.default_rng(seed))
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        milliseconds = 1000 * (time.perf_counter() - started)
        outputs = [
            pb_utils.Tensor("text", np.array([text.encode("utf-8")], np.object_)),
            pb_utils.Tensor("tokens", np.array([len(new)], np.int32)),
            pb_utils.Tensor("milliseconds", np.array([milliseconds], np.float32)),
        ]
        return pb_utils.InferenceResponse(outputs)

    def wrong(self, read: int, wanted: int, temperature: float) -> str:
        """What is wrong with a request, or nothing."""
        context = self.settings["context"]
        if wanted < 1:
            return f"max_tokens {wanted}은(는) 1 이상이어야 한다."
        if not 0 <= temperature < float("inf"):
            return f"temperature {temperature}은(는) 0 이상이어야 한다."
        if read + wanted > context:
            return f"이 모델의 문맥 길이는 {context}토큰인데, 프롬프트 {read}토큰과 답 {wanted}토큰을 더하면 {read + wanted}토큰이다."
        return ""

    def generate(self, ids: list, wanted: int, temperature: float, random) -> list:
        """New tokens, each read once; ends early at a token that ends a text."""
        new, cache = [], self.empty
        while len(new) < wanted:
            logits, *present = self.session.run(None, {"input_ids": np.array([ids], np.int64), **cache})
            cache = dict(zip(cache, present))
            # The largest of logits + temperature · Gumbel noise is a draw from softmax(logits / temperature); at 0, the likeliest.
            last = logits[0, -1]
            token = int((last + temperature * random.gumbel(size=last.shape)).argmax())
            if token in self.settings["ends"]:
                break
            new.append(token)
            ids = [token]
        return new
