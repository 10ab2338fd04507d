"""A model folder's Llama as an ONNX graph, and the graph in ONNX Runtime on the CPU.

Notable choices
- The graph is written operator by operator from the weights: a Llama is a dozen operators, nothing has to be traced, and what the
  file holds is what this page says. `torch.onnx.export` reaches the same logits in fifty times the time.
- The graph reads new tokens and the keys and values of the tokens before them, and gives the longer keys and values back, under the
  names other tools expect (`past_key_values.0.key` → `present.0.key`). One graph serves prompt and decoding; nothing is recomputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workshop_lib import WorkshopError

OPSET = 23  # the first with RMSNormalization, RotaryEmbedding and Attention as operators of their own


def to_onnx(folder: Path, out: Path, int8: bool = False) -> Path:
    """Write the Llama of `folder` to `out` as an ONNX graph; with `int8` its linear layers hold 8-bit weights.

    Inputs: input_ids (batch, time) int64, past_key_values.N.key and .value (batch, kv heads, past, head) float32.
    Outputs: logits (batch, time, vocabulary), present.N.key and .value (batch, kv heads, past + time, head).
    int8: one scale an output channel for the weights, one an activation tensor, found as it runs ("dynamic"); the embedding and
    the output layer, which may be the same matrix, stay float32.
    """
    import onnx

    model = _LlamaGraph(folder).model()
    if int8:
        _quantize(model, out)
    else:
        onnx.save(model, out)
    return out


class _LlamaGraph:
    """Collects the nodes and weights of one Llama. A value is known by its name."""

    def __init__(self, folder: Path):
        from workshop_lib.checkpoints import load_model

        model = load_model(folder)
        self.config = model.config
        self.weights = {name: weight.detach().numpy() for name, weight in model.state_dict().items()}
        self.nodes: list = []
        self.constants: list = []

    def model(self):
        """The finished onnx.ModelProto."""
        from onnx import TensorProto, helper

        config, layers = self.config, range(self.config.num_hidden_layers)
        # (max position, head / 2): what position p turns dimension j by (Su et al. 2021, eq. 15)
        angle = np.arange(config.max_position_embeddings)[:, None] * config.rope_theta ** -(
            np.arange(0, config.head_dim, 2) / config.head_dim
        )
        self.constant("cos", np.cos(angle).astype(np.float32))
        self.constant("sin", np.sin(angle).astype(np.float32))
        self.constant("heads", np.array([0, 0, -1, config.head_dim]))  # (batch, time, width) → (batch, time, heads, head)
        self.constant("width", np.array([0, 0, -1]))
        self.constant("zero", np.array(0))
        self.constant("one", np.array(1))
        self.constant("rows", np.array([0]))

        # The positions of the new tokens: past, past + 1, … past + time − 1, the same for each row of the batch.
        past = self.node("Squeeze", self.node("Shape", "past_key_values.0.key", start=2, end=3))
        time = self.node("Squeeze", self.node("Shape", "input_ids", start=1, end=2))
        positions = self.node("Range", past, self.node("Add", past, time), "one")
        positions = self.node("Expand", self.node("Unsqueeze", positions, "rows"), self.node("Shape", "input_ids"))

        x = self.node("Gather", self.weight("model.embed_tokens.weight"), "input_ids")
        for layer in layers:
            x = self.node("Add", x, self.attention(layer, self.norm(x, f"model.layers.{layer}.input_layernorm"), positions))
            x = self.node("Add", x, self.mlp(layer, self.norm(x, f"model.layers.{layer}.post_attention_layernorm")))
        x = self.norm(x, "model.norm")
        if config.tie_word_embeddings:
            self.node("MatMul", x, self.node("Transpose", "model.embed_tokens.weight", perm=[1, 0]), to="logits")
        else:
            self.linear(x, "lm_head", to="logits")

        def cache(prefix: str, length: str) -> list:
            shape = ["batch", config.num_key_value_heads, length, config.head_dim]
            names = [f"{prefix}.{layer}.{kind}" for layer in layers for kind in ("key", "value")]
            return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]

        inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "time"]), *cache("past_key_values", "past")]
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "time", config.vocab_size])
        outputs = [logits, *cache("present", "total")]
        graph = helper.make_graph(self.nodes, "llama", inputs, outputs, self.constants)
        context = helper.make_opsetid("", OPSET)
        made = helper.make_model(graph, opset_imports=[context], ir_version=10, producer_name="workshop_lib")
        helper.set_model_props(made, {"context": str(config.max_position_embeddings)})
        return made

    def node(self, operator: str, *inputs: str, to: str | Sequence[str] | None = None, **attributes) -> str:
        """Add one operator; returns the name of its first result."""
        from onnx import helper

        outputs = [to] if isinstance(to, str) else list(to or [f"{operator.lower()}_{len(self.nodes)}"])
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, name=f"{operator}_{len(self.nodes)}", **attributes))
        return outputs[0]

    def constant(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def linear(self, x: str, name: str, to: str | None = None) -> str:
        """x · Wᵀ: ONNX wants the matrix as (in, out)."""
        return self.node("MatMul", x, self.constant(f"{name}.weight", self.weights[f"{name}.weight"].T), to=to)

    def norm(self, x: str, name: str) -> str:
        return self.node("RMSNormalization", x, self.weight(f"{name}.weight"), axis=-1, epsilon=self.config.rms_norm_eps)

    def attention(self, layer: int, x: str, positions: str) -> str:
        name, config = f"model.layers.{layer}.self_attn", self.config

        def heads(part: str, turned: bool) -> str:  # (batch, heads, time, head)
            y = self.node("Reshape", self.linear(x, f"{name}.{part}"), "heads")
            y = self.node("Transpose", y, perm=[0, 2, 1, 3])
            return self.node("RotaryEmbedding", y, "cos", "sin", positions) if turned else y

        q, k, v = heads("q_proj", True), heads("k_proj", True), heads("v_proj", False)
        past = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
        y = self.node(
            "Attention", q, k, v, "", *past, to=[f"mixed_{layer}", f"present.{layer}.key", f"present.{layer}.value"],
            is_causal=1, scale=config.head_dim**-0.5,
        )  # fmt: skip
        return self.linear(self.node("Reshape", self.node("Transpose", y, perm=[0, 2, 1, 3]), "width"), f"{name}.o_proj")

    def mlp(self, layer: int, x: str) -> str:
        name = f"model.layers.{layer}.mlp"
        gate = self.linear(x, f"{name}.gate_proj")
        gate = self.node("Mul", gate, self.node("Sigmoid", gate))
        return self.linear(self.node("Mul", gate, self.linear(x, f"{name}.up_proj")), f"{name}.down_proj")


def _quantize(model, out: Path) -> None:
    """Write `model` (onnx.ModelProto) with its linear layers in dynamic INT8; the embedding and the output layer stay as they are."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    add_pre_process_metadata(model)  # there is nothing to prepare in this graph; without the mark it advises to
    weights = {constant.name for constant in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.output[0] != "logits"]
    quantize_dynamic(
        model, out, op_types_to_quantize=["MatMul"], nodes_to_quantize=[node.name for node in products if node.input[1] in weights],
        per_channel=True, weight_type=QuantType.QInt8,
    )  # fmt: skip


class OnnxModel:
    """An exported graph in ONNX Runtime on the CPU, with the keys and values of what it has read."""

    def __init__(self, path: Path, threads: int = 0):
        """threads: for one operator, 0 = all cores. Raises WorkshopError for a missing or damaged file."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads would starve PyTorch's beside them
        try:
            self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a kind of its own for each way a file can be wrong
            raise WorkshopError(f"ONNX 파일 {path}을(를) 읽을 수 없다({str(error)[:200]}). onnx_export.to_onnx로 다시 만든다.") from error
        self.context = int(self.session.get_modelmeta().custom_metadata_map.get("context", 0))
        inputs = self.session.get_inputs()[1:]
        self.empty = {value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32) for value in inputs}

    def extend(self, ids: Sequence[int], cache: dict[str, np.ndarray] | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits of the new tokens, (time, vocabulary), and the cache with them in it."""
        cache = cache or self.empty
        total = len(ids) + next(iter(cache.values())).shape[2]
        if not ids or (self.context and total > self.context):
            raise WorkshopError(f"입력이 {total}토큰이다. 1토큰부터 모델의 문맥 {self.context}토큰까지 읽을 수 있다.")
        logits, *present = self.session.run(None, {"input_ids": np.array([ids], np.int64), **cache})
        return logits[0], dict(zip(cache, present))

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """(time, vocabulary) of a whole text."""
        return self.extend(list(ids))[0]

    def generate(self, ids: Sequence[int], n: int, stop: int | None = None) -> list[int]:
        """The `n` likeliest next tokens, one after another, each read once; ends early at `stop`, which is left out."""
        new: list[int] = []
        logits, cache = self.extend(list(ids)) if n > 0 else (None, None)
        while len(new) < n:
            token = int(logits[-1].argmax())
            if token == stop:
                break
            new.append(token)
            if len(new) < n:
                logits, cache = self.extend([token], cache)
        return new
