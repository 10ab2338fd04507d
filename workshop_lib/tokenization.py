"""Week 3: train tokenizers on Korean, compare them, and make the one that the rest of the course uses.

The from-scratch algorithms are in `subwords`, Hangul in `hangul`, the measures in `segmentation`; this module drives the
libraries and holds the stage.

Notable choices of the course's tokenizer (`build`):
- Byte-level BPE: the 256 bytes are in the vocabulary, so nothing is unknown and `decode(encode(x)) == x` for any text.
- Merges (`whole_characters`, on in every profile) respect the borders of characters: at equal vocabulary 1.5-3 % more characters per
  token and 0.4-1.8 % fewer bits per character for a 5-gram, on stories, reviews and prose alike; the tiny base model on the
  bundled corpus goes from 0.776 to 0.755 bits per character at equal steps (one seed).
- Pieces are cut as SmolLM cuts them: every numeral by itself, then GPT-2's pattern (space + letters | space + signs |
  space). llama.cpp knows this pre-tokenizer by name, so week 8 can export to GGUF.
- No normaliser: composing to NFC is the cleaning stage's work (week 2); a tokenizer must not lose what it is given.
- `tokenizer(text)` adds nothing, whatever `add_special_tokens` says. Packing writes `<s> ... </s>` and the chat template
  writes its own marks, each in one visible place.
- `<think>` and `</think>` are single tokens but not "special": `skip_special_tokens=True` keeps them.
"""

import io
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from workshop_lib import WorkshopError, display
from workshop_lib.corpora.reading import read_documents
from workshop_lib.segmentation import Segmenter, compare, from_pretrained, from_sentencepiece, from_tokenizers

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from workshop_lib.workspace import Job

SPECIAL_TOKENS = (
    "<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<think>", "</think>",
)  # fmt: skip
NOT_SPECIAL = ("<think>", "</think>")  # one token each, but part of the text that a reader may want to see

# The assistant's words and the mark that ends them lie between generation markers: these are the tokens that fine-tuning
# learns from (`apply_chat_template(..., return_assistant_tokens_mask=True)`).
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('대화의 role은 system, user, assistant 가운데 하나다: ' + message['role']) -}}
{%- endif -%}
{{- '<|' + message['role'] + '|>' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] + '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""

MORPHEME_CHARS = 60_000  # characters of held-out text that the morpheme analyser reads in `build`
HELD_OUT_CHARS = 300_000
MOST_PIECES = 200_000
SENTENCEPIECE_CHARS = 400_000  # its Unigram trainer is slow (7 s for a million characters); more changes little at 2k-32k


# ---------------------------------------------------------------------------------------------- trainers


def _all(texts: Iterable[str]) -> list[str]:
    kept = [text for text in texts if text.strip()]
    if not kept:
        raise WorkshopError("말뭉치가 비어 있어 토크나이저를 학습할 수 없다. 2주차 말뭉치(train.jsonl)를 확인한다.")
    return kept


def _require_room(vocab_size: int, needed: int, what: str) -> None:
    if vocab_size < needed:
        raise WorkshopError(
            f"어휘 크기 {vocab_size}은(는) 알파벳보다 작다. {what} 때문에 적어도 {needed}이어야 한다. vocab_size를 늘린다."
        )


def _frequent_chars(texts: Sequence[str], limit: int) -> list[str]:
    # Chosen here, for the library's own choice among equally frequent characters differs from run to run.
    counts = Counter(char for text in texts for char in text if char != " ")
    return sorted(counts, key=lambda char: (-counts[char], char))[:limit]


def train_byte_bpe(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()) -> "Tokenizer":
    """Byte-level BPE by Hugging Face `tokenizers`. Special tokens get the first ids, then the 256 bytes, then merges.

    The vocabulary may come out smaller than asked when the corpus has no pair left that occurs twice.
    Raises WorkshopError for an empty corpus or a vocabulary without room for bytes and special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    _require_room(vocab_size, 256 + len(special_tokens), f"바이트 256개와 특수 토큰 {len(special_tokens)}개")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_all(texts), trainer)
    return tokenizer


def train_whole_char_bpe(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()) -> "Tokenizer":
    """Byte-level BPE whose merges never glue a part of a character to something else, by the course's own trainer.

    At equal vocabulary it spends fewer tokens on fragments of characters. Everything else is as in `train_byte_bpe`. Of a
    large corpus only the most frequent `MOST_PIECES` pieces are learned from: the index of the trainer lies in memory.
    """
    from workshop_lib import subwords

    room = vocab_size - 256 - len(special_tokens)
    _require_room(vocab_size, 256 + len(special_tokens), f"바이트 256개와 특수 토큰 {len(special_tokens)}개")
    counts = subwords.count_pieces(_all(texts))
    kept = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_PIECES]
    return subwords.to_huggingface(subwords.train_bpe(dict(kept), room, whole_characters=True), special_tokens)


def train_char_bpe(texts: Iterable[str], vocab_size: int) -> "Tokenizer":
    """BPE over characters, as Sennrich et al. (2016) had it. At most half of the vocabulary is alphabet; the rest of the
    characters become [UNK]."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    _require_room(vocab_size, 4, "[UNK]와 글자 몇 개")
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    kept = _all(texts)
    alphabet = ["▁", *_frequent_chars(kept, vocab_size // 2 - 1)]  # ▁ stands for the space
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=["[UNK]"],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(kept, trainer)
    return tokenizer


def train_wordpiece(texts: Iterable[str], vocab_size: int) -> "Tokenizer":
    """BERT's WordPiece: words and punctuation first, then the longest known piece from the left; inner pieces carry ##.

    Half of the vocabulary at most is alphabet (each letter may need two entries, 가 and ##가).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    _require_room(vocab_size, 4, "[UNK]와 글자 몇 개")
    kept = _all(texts)
    alphabet = _frequent_chars(kept, vocab_size // 4)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        # The library numbers the inner letters in an order that differs from run to run, unless they are named here.
        special_tokens=["[UNK]", *(f"##{char}" for char in alphabet)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    learner.train_from_iterator(kept, trainer)
    # A fresh tokenizer with the same vocabulary: in the learner ##가 would also be found in plain text.
    tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


def train_unigram(texts: Iterable[str], vocab_size: int) -> "Tokenizer":
    """Unigram language model (Kudo 2018, arXiv:1804.10959) by Hugging Face `tokenizers`, over characters.

    At most half of the vocabulary is alphabet; the rest of the characters become [UNK]. This trainer adds floating-point
    numbers in an order that changes from run to run: the last digits of the scores, and rarely a piece, do too.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    _require_room(vocab_size, 4, "[UNK]와 글자 몇 개")
    kept = _all(texts)
    alphabet = set(_frequent_chars(kept, vocab_size // 2))
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=["[UNK]"], unk_token="[UNK]", show_progress=False
    )
    # This trainer has no limit of its own and fails when the alphabet alone fills the vocabulary.
    common = ("".join(char if char in alphabet else " " for char in text) for text in kept)
    tokenizer.train_from_iterator(common, trainer)
    return tokenizer


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, model_type: str = "unigram", byte_fallback: bool = True
):
    """SentencePiece (Kudo & Richardson 2018, arXiv:1808.06226), `model_type` "unigram" or "bpe".

    Settings that keep the text as it is: identity normalisation, no space added or removed, rare characters as bytes.
    Returns a `sentencepiece.SentencePieceProcessor`. Raises WorkshopError when the vocabulary is too small.
    """
    import sentencepiece

    lines = [line for text in _all(texts) for line in text.split("\n") if line.strip()]
    reserved = (256 if byte_fallback else 0) + 4
    _require_room(vocab_size, reserved, "바이트 256개와 특수 토큰 3개" if byte_fallback else "특수 토큰 3개")
    # This trainer fails when the alphabet alone fills the vocabulary, and refuses to cover less than 98 % of the text. So
    # where the frequent characters that leave room for pieces cover less than it will ask for, the others are hidden from it.
    counts = Counter(char for line in lines for char in line)
    alphabet = set(_frequent_chars(lines, (vocab_size - reserved) * 3 // 4)) | {" "}
    if sum(counts[char] for char in alphabet) < 0.995 * counts.total():
        lines = ["".join(char if char in alphabet else " " for char in line) for line in lines]
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=model_type,
            byte_fallback=byte_fallback,
            character_coverage=0.995,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            hard_vocab_limit=False,
            max_sentence_length=1 << 20,
            num_threads=1,  # more threads give other rounding, and so now and then another vocabulary
            minloglevel=2,
        )
    except RuntimeError as error:
        raise WorkshopError(f"SentencePiece가 어휘 {vocab_size}개를 학습하지 못했다. vocab_size를 바꾼다: {error}") from error
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@cache
def english_text() -> tuple[str, ...]:
    """English prose that every Python carries: the reference text of `pydoc` (about 0.7 MB; PSF License 2).

    It is used to train a tokenizer that has never seen Korean, as the contrast. Raises WorkshopError where a
    distribution has left it out.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise WorkshopError("이 파이썬에는 pydoc_data가 없다. 표준 라이브러리가 온전한 파이썬을 쓴다.") from error
    return tuple(topics[name] for name in sorted(topics))


def from_hub(*repositories: str) -> list[Segmenter]:
    """Published tokenizers ("openai-community/gpt2", ...) for comparison, from the local copy or the Hub.

    Those that cannot be had here are left out, and one printed line says so.
    """
    import socket

    from transformers import AutoTokenizer

    try:
        socket.create_connection(("huggingface.co", 443), timeout=2).close()
        local_only = False
    except OSError:
        local_only = True  # asked here, for the Hub's client would try again for a long time
    found, missing = [], []
    for repository in repositories:
        try:
            found.append(from_pretrained(repository, AutoTokenizer.from_pretrained(repository, local_files_only=local_only)))
        except (OSError, ValueError, ImportError):
            missing.append(repository)
    if missing:
        print(f"여기서는 내려받을 수 없어 건너뛴다: {', '.join(missing)}. 네트워크가 있는 곳에서 다시 실행하면 표에 나온다.")
    return found


# ---------------------------------------------------------------------------------------------- the stage


def wrap(tokenizer: "Tokenizer", max_length: int) -> "PreTrainedTokenizerFast":
    """Dress a trained byte-level `Tokenizer` for `transformers`: roles of the special tokens, chat template.

    max_length: tokens that the model will read at once; longer input is cut only when truncation is asked for.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["content"] not in NOT_SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def render_chat(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False) -> str:
    """`CHAT_TEMPLATE` in plain Python, to be read: <s>, then <|role|>content<|end|> for each message, and the opening
    <|assistant|> if the model is to speak next."""
    text = "<s>" + "".join(f"<|{message['role']}|>{message['content']}<|end|>" for message in messages)
    return text + "<|assistant|>" if add_generation_prompt else text


def sweep(
    texts: Sequence[str],
    held_out: Sequence[str],
    sizes: Sequence[int],
    hidden_size: int,
    body_parameters: int,
    order: int = 3,
    train: Callable[[Iterable[str], int, Sequence[str]], "Tokenizer"] = train_byte_bpe,
) -> list[dict[str, float]]:
    """What the vocabulary size does: one row a size.

    chars_per_token rises, and so do the embedding (vocabulary x hidden_size parameters, input and output tied), its share of
    the model, and rare_share, the share of tokens seen fewer than 100 times in `texts`. bits_per_char is that of an
    interpolated n-gram model of `order` over the tokens of `texts`, on `held_out`. Bits per *token* could not be compared:
    their unit changes with the vocabulary. `</s>` costs bits, but is no character.
    """
    import numpy as np

    from workshop_lib import ngram

    def stream(tokenizer: "Tokenizer", documents: Sequence[str]) -> np.ndarray:
        encoded = tokenizer.encode_batch(list(documents), add_special_tokens=False)
        return np.concatenate([np.array([1, *document.ids, 2]) for document in encoded])  # <s> ... </s>

    rows: list[dict[str, float]] = []
    characters = sum(map(len, held_out))
    for size in sizes:
        tokenizer = train(texts, size, SPECIAL_TOKENS)
        found = tokenizer.get_vocab_size()
        tokens, training = stream(tokenizer, held_out), stream(tokenizer, texts)
        model = ngram.fit(training, order, found, bos=1)
        seen = np.bincount(training, minlength=found)
        embedding = found * hidden_size
        rows.append({
            "vocab_size": found,
            "chars_per_token": characters / (len(tokens) - 2 * len(held_out)),
            "embedding_parameters": embedding,
            "embedding_share": embedding / (embedding + body_parameters),
            "rare_share": float((seen < 100).mean()),
            "bits_per_char": model.bits_per_char(tokens, characters),
        })  # fmt: skip
    return rows


def load(folder: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer that `build` saved in `folder`. Raises WorkshopError if there is none."""
    from transformers import PreTrainedTokenizerFast

    if not (Path(folder) / "tokenizer.json").is_file():
        raise WorkshopError(f"{folder}에 tokenizer.json이 없다. `workshop run --weeks 3`으로 토크나이저를 만든다.")
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # of Rust, JSON or transformers
        raise WorkshopError(f"{folder}의 토크나이저를 읽을 수 없다({error}). "
                            "폴더를 지우고 `workshop run --weeks 3`으로 다시 만든다.") from error


def read_texts(path: Path, max_chars: int | None = None) -> Iterator[str]:
    """Texts of a documents file (JSON lines with "id" and "text"), all or an even sample of about `max_chars` characters.

    The sample is drawn by a hash of the id, so it takes from every source, and always the same documents.
    Raises WorkshopError for a missing file or a broken line, with its number.
    """
    share = 1.0
    if max_chars is not None:
        total = sum(len(document["text"]) for document in read_documents(path))
        share = max_chars / total if total > max_chars else 1.0
    for document in read_documents(path):
        if share >= 1 or zlib.crc32(str(document.get("id", document["text"])).encode("utf-8")) < share * 2**32:
            yield document["text"]


def build(job: "Job") -> dict[str, float]:
    """Train the course's tokenizer on the cleaned corpus, save it to `job.out`, and measure it beside four others.

    Reads `job.inputs["corpus"]/{train,validation}.jsonl`. The others have the same vocabulary size and are trained on the
    same text (WordPiece, BPE over characters), a sample of it (SentencePiece Unigram), or English (byte-level BPE); their
    metrics carry their name in front.
    """
    corpus, settings = job.inputs["corpus"], job.settings
    texts = _all(read_texts(corpus / "train.jsonl", settings.train_chars))
    held_out = [text for text in read_texts(corpus / "validation.jsonl", HELD_OUT_CHARS) if text.strip()] or texts
    started = time.perf_counter()
    train = train_whole_char_bpe if settings.whole_characters else train_byte_bpe
    trained = train(texts, settings.vocab_size, SPECIAL_TOKENS)
    seconds = time.perf_counter() - started
    tokenizer = wrap(trained, settings.max_length)
    tokenizer.save_pretrained(job.out)

    sample = list(read_texts(corpus / "train.jsonl", min(settings.train_chars, SENTENCEPIECE_CHARS)))
    others: dict[str, Callable[[], Segmenter]] = {
        "char_bpe": lambda: from_tokenizers("char_bpe", train_char_bpe(texts, settings.vocab_size)),
        "wordpiece": lambda: from_tokenizers("wordpiece", train_wordpiece(texts, settings.vocab_size)),
        "unigram": lambda: from_sentencepiece("unigram", train_sentencepiece(sample, settings.vocab_size)),
        "english": lambda: from_tokenizers("english", train_byte_bpe(english_text(), settings.vocab_size)),
    }
    segmenters = [from_pretrained("", tokenizer)]
    for name in display.progress(others, desc="비교할 토크나이저"):
        segmenters.append(others[name]())
    metrics: dict[str, float] = {"train_chars": sum(map(len, texts)), "train_seconds": seconds}
    for row in compare(segmenters, held_out, _openings(held_out, MORPHEME_CHARS)):
        prefix = f"{row.pop('name')}_".removeprefix("_")
        metrics |= {prefix + key: value for key, value in row.items()}
    return metrics


def _openings(texts: Sequence[str], chars: int) -> list[str]:
    """The beginnings (up to 300 characters) of evenly spaced texts, about `chars` characters in all."""
    openings = [text[:300] for text in texts]
    return openings[:: max(1, sum(map(len, openings)) // chars)]
