"""A model folder's Llama and its tokenizer as a GGUF file for llama.cpp, and the way back.

Notable choices
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

GGUF_KINDS = {"f32": "F32", "f16": "F16", "q8_0": "Q8_0"}
PRE_TOKENIZER = "smollm"  # llama.cpp's name for the course's way to cut text: single digits, then GPT-2's pattern
_PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


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
        raise WorkshopError(f"GGUF 파일 {path}을(를) 읽을 수 없다({error}). gguf_export.to_gguf로 다시 만든다.") from error
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
                "llama.cpp가 없다. `pip install llama-cpp-python`이 소스에서 지으며, 오래 걸린다. "
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
            raise WorkshopError(f"llama.cpp가 {path}을(를) 읽을 수 없다({error}). gguf_export.to_gguf로 다시 만든다.") from error
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
