"""The same model for other programs: an ONNX graph for ONNX Runtime, a GGUF file for llama.cpp, a folder for vLLM and TensorRT-LLM.

Notable choices
- The graph is written operator by operator from the weights (`to_onnx`): a Llama is a dozen operators, nothing has to be traced,
  and what the file holds is what this page says. `torch.onnx.export` reaches the same logits in fifty times the time.
- The graph reads new tokens and the keys and values of the tokens before them, and gives the longer keys and values back, under the
  names other tools expect (`past_key_values.0.key` → `present.0.key`). One graph serves prompt and decoding; nothing is recomputed.
- llama.cpp turns neighbouring dimensions of a query or key, the folder's weights turn halves: `to_gguf` reorders their rows, and
  `read_gguf` puts them back.
- `read_gguf` returns the folder's own names and shapes, so file and folder can be compared tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from workshop_lib import WorkshopError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from workshop_lib.architectures.transformer import Transformer

OPSET = 23  # the first with RMSNormalization, RotaryEmbedding and Attention as operators of their own
GGUF_KINDS = {"f32": "F32", "f16": "F16", "q8_0": "Q8_0"}
PRE_TOKENIZER = "smollm"  # llama.cpp's name for the course's way to cut text: single digits, then GPT-2's pattern
_PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


# ---------------------------------------------------------------------------------------------- ONNX


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
            raise WorkshopError(f"ONNX 파일 {path}을(를) 읽을 수 없다({str(error)[:200]}). exporting.to_onnx로 다시 만든다.") from error
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


# ---------------------------------------------------------------------------------------------- GGUF


def to_gguf(folder: Path, out: Path, kind: Literal["f32", "f16", "q8_0"] = "f32") -> Path:
    """Write the Llama of `folder` and its tokenizer to `out` as GGUF (version 3), which llama.cpp runs.

    kind: how matrices are stored; the norms' vectors stay float32. "q8_0": blocks of 32 int8 with a float16 scale, so the
    width must be a multiple of 32.
    """
    import gguf
    from transformers import AutoTokenizer

    from workshop_lib.checkpoints import load_model

    if kind not in GGUF_KINDS:
        raise WorkshopError(f"GGUF 저장 형식 '{kind}'을(를) 모른다. {', '.join(GGUF_KINDS)} 가운데 하나를 쓴다.")
    model = load_model(folder)
    config, tokenizer = model.config, AutoTokenizer.from_pretrained(folder)
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name(Path(folder).name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[kind])
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp reads the embedding twice where there is no output matrix
        values = tensor.detach().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _to_neighbours(values, config.head_dim)
        stored = gguf.GGMLQuantizationType[GGUF_KINDS[kind] if values.ndim == 2 else "F32"]
        if kind == "q8_0" and values.ndim == 2 and values.shape[1] % 32:
            raise WorkshopError(f"{name}의 너비 {values.shape[1]}은(는) 32의 배수가 아니라 q8_0으로 저장할 수 없다. f16을 쓴다.")
        writer.add_tensor(_gguf_name(name), gguf.quants.quantize(np.ascontiguousarray(values), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def read_gguf(path: Path) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Metadata (key → value) and tensors of a GGUF file.

    A Llama's tensors come under the names and in the row order of its Hugging Face folder, as float32.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError) as error:
        raise WorkshopError(f"GGUF 파일 {path}을(를) 읽을 수 없다({error}). exporting.to_gguf로 다시 만든다.") from error
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    head = metadata.get("llama.rope.dimension_count")
    tensors = {}
    for tensor in reader.tensors:
        name = _folder_name(tensor.name)
        values = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _to_halves(values, head)
        tensors[name] = values
    return metadata, tensors


def load_gguf(path: Path) -> tuple[Transformer, Tokenizer]:
    """Model and tokenizer from the file alone: what llama.cpp does, in a few lines."""
    import torch

    from workshop_lib.architectures.transformer import Transformer, TransformerConfig

    metadata, tensors = read_gguf(path)
    if metadata.get("general.architecture") != "llama":
        raise WorkshopError(f"{path}은(는) llama 구조의 GGUF가 아니다({metadata.get('general.architecture')}).")
    config = TransformerConfig(
        vocab_size=tensors["model.embed_tokens.weight"].shape[0],
        hidden_size=metadata["llama.embedding_length"],
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=metadata["llama.attention.head_count"],
        num_key_value_heads=metadata["llama.attention.head_count_kv"],
        max_position_embeddings=metadata["llama.context_length"],
        rope_theta=float(metadata["llama.rope.freq_base"]),
        rms_norm_eps=float(metadata["llama.attention.layer_norm_rms_epsilon"]),
        tie_word_embeddings="lm_head.weight" not in tensors,
    )
    model = Transformer(config)
    weights = {name: torch.from_numpy(values) for name, values in tensors.items()}
    model.load_state_dict(weights, strict=not config.tie_word_embeddings)
    return model.eval(), gguf_tokenizer(metadata)


def gguf_tokenizer(metadata: dict[str, object]) -> Tokenizer:
    """The tokenizer that a file of `to_gguf` describes: pieces, merges, and how text is cut before merging."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    if metadata.get("tokenizer.ggml.model") != "gpt2" or metadata.get("tokenizer.ggml.pre") != PRE_TOKENIZER:
        raise WorkshopError("이 GGUF의 토크나이저는 바이트 BPE(gpt2, smollm)가 아니다. llama.cpp로 읽는다.")
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # CONTROL (3) and USER_DEFINED (4) are found in a text before anything is cut; only the first kind is hidden when decoding.
    marked = [(token, kind) for token, kind in zip(tokens, kinds) if kind in (3, 4)]
    tokenizer.add_tokens([AddedToken(token, special=kind == 3, normalized=False) for token, kind in marked])
    return tokenizer


class GgufModel:
    """A GGUF file in llama.cpp (package llama-cpp-python, built from source: minutes, so it is not in the course's environment)."""

    def __init__(self, path: Path, threads: int | None = None):
        try:
            import llama_cpp
        except ImportError as error:
            raise WorkshopError(
                "llama.cpp가 없다. `pip install llama-cpp-python`이 소스에서 짓는다(코어 두 개로 10분 남짓). "
                "없어도 이 파일은 read_gguf와 load_gguf로 읽는다."
            ) from error
        defaults = llama_cpp.llama_cpp.llama_model_default_params

        def without_repacking():
            """Weights as the file holds them: llama.cpp's rearrangement for AMX crashes on virtual machines that do not allow AMX."""
            parameters = defaults()
            parameters.use_extra_bufts = False
            return parameters

        llama_cpp.llama_cpp.llama_model_default_params = without_repacking
        try:
            self.model = llama_cpp.Llama(str(path), n_ctx=0, n_threads=threads, n_threads_batch=threads, verbose=False)
        except (ValueError, OSError) as error:
            raise WorkshopError(f"llama.cpp가 {path}을(를) 읽을 수 없다({error}). exporting.to_gguf로 다시 만든다.") from error
        finally:
            llama_cpp.llama_cpp.llama_model_default_params = defaults

    def tokenize(self, text: str) -> list[int]:
        """Token ids as llama.cpp cuts the text, marks such as <s> read as marks."""
        return self.model.tokenize(text.encode("utf-8"), add_bos=False, special=True)

    def generate(self, ids: Sequence[int], n: int, stop: int | None = None) -> list[int]:
        """The `n` likeliest next tokens; ends early at `stop`, which is left out."""
        self.model.reset()
        new: list[int] = []
        for token in self.model.generate(list(ids), temp=0.0, top_k=1, repeat_penalty=1.0):
            if len(new) == n or token == stop:
                break
            new.append(token)
        return new[:n]


# ---------------------------------------------------------------------------------------------- vLLM, TensorRT-LLM


def to_serving(folder: Path, out: Path, dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16") -> Path:
    """Write the Llama of `folder` to `out` as engines with an older transformers (4.x) want it: weights, settings, tokenizer.

    Transformers 5 keeps the base of the rotation in `rope_parameters` and names its own tokenizer class; version 4 looks for
    `rope_theta`, and for `PreTrainedTokenizerFast`. What is written here both read.
    """
    import json

    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    from workshop_lib.checkpoints import load_model

    if dtype not in ("bfloat16", "float16", "float32"):
        raise WorkshopError(f"'{dtype}'(으)로는 내보내지 않는다. bfloat16, float16, float32 가운데 하나를 쓴다.")
    model, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    _rewrite(out / "tokenizer_config.json", lambda settings: _older_tokenizer(settings, tokenizer))

    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]  # either ends an answer
    config = json.loads(model.config.to_hf(**special, architectures=["LlamaForCausalLM"]).to_json_string(use_diff=False))
    kept = ("architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings",
            "attention_bias", "mlp_bias", "initializer_range", *special)  # fmt: skip
    settings = {name: config[name] for name in kept if name in config}
    settings |= {"rope_theta": model.config.rope_theta, "torch_dtype": dtype}
    _write(out / "config.json", settings)
    _write(out / "generation_config.json", special | {"eos_token_id": [end for end in ends if end is not None], "do_sample": True})
    weights = {name: weight.detach().to(getattr(torch, dtype)).contiguous() for name, weight in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def _older_tokenizer(settings: dict, tokenizer) -> dict:
    kept = ("bos_token", "eos_token", "pad_token", "model_max_length", "clean_up_tokenization_spaces")
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    template = tokenizer.chat_template.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
    return {name: settings[name] for name in kept if name in settings} | {
        "tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": list(extra), "chat_template": template,
    }  # fmt: skip


def _rewrite(path: Path, change) -> None:
    import json

    _write(path, change(json.loads(path.read_text(encoding="utf-8"))))


def _write(path: Path, settings: dict) -> None:
    import json

    path.write_text(json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8")


def _add_tokenizer(writer, tokenizer, vocab_size: int) -> None:
    import json

    from gguf import TokenType

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    if model["type"] != "BPE":
        raise WorkshopError(f"토크나이저가 {model['type']}이다. GGUF로는 바이트 BPE(3주차의 토크나이저)만 내보낸다.")
    marks = {token["id"]: token for token in described["added_tokens"]}
    pieces = {number: piece for piece, number in model["vocab"].items()} | {number: mark["content"] for number, mark in marks.items()}
    tokens, kinds = [], []
    for number in range(vocab_size):
        tokens.append(pieces.get(number, f"[PAD{number}]"))
        if number not in pieces:
            kinds.append(TokenType.UNUSED)
        elif number in marks:
            kinds.append(TokenType.CONTROL if marks[number]["special"] else TokenType.USER_DEFINED)
        else:
            kinds.append(TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)  # the chat template and packing write <s> where it belongs
    writer.add_add_eos_token(False)
    if isinstance(tokenizer.chat_template, str):
        # `generation` markers are transformers' own; llama.cpp's template reader does not know them.
        writer.add_chat_template(tokenizer.chat_template.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", ""))


def _gguf_name(name: str) -> str:
    """model.layers.3.mlp.up_proj.weight → blk.3.ffn_up.weight"""
    if name in _OUTER:
        return _OUTER[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{_PARTS[part]}.weight"


def _folder_name(name: str) -> str:
    for folder_name, gguf_name in _OUTER.items():
        if name == gguf_name:
            return folder_name
    block, _, rest = name.partition(".")
    layer, _, part = rest.removesuffix(".weight").partition(".")
    for folder_part, gguf_part in _PARTS.items():
        if block == "blk" and part == gguf_part:
            return f"model.layers.{layer}.{folder_part}.weight"
    raise WorkshopError(f"GGUF의 텐서 '{name}'은(는) llama 구조에 없는 이름이다.")


def _to_neighbours(weight: np.ndarray, head: int) -> np.ndarray:
    """Rows (heads · head, in): of each head, row j and row j + head/2 become neighbours."""
    return weight.reshape(-1, 2, head // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _to_halves(weight: np.ndarray, head: int) -> np.ndarray:
    """The way back of `_to_neighbours`."""
    return weight.reshape(-1, head // 2, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
