"""Exercises of week 3: Hangul, BPE, WordPiece, Unigram, measures and the chat format."""

from __future__ import annotations

import math
import unicodedata

from workshop_lib import hangul, segmentation, subwords, tokenization
from workshop_lib.exercises import Exercise, Mistake, checker
from workshop_lib.subwords import BYTES, best_pair, count_pairs, merge_pair

# ---------------------------------------------------------------------------------------------- decompose


def _no_empty_final(syllable):
    index = ord(syllable) - 0xAC00
    return hangul.INITIALS[index // 588], hangul.VOWELS[index % 588 // 28], hangul.FINALS[1:][index % 28 - 1]


def _by_21(syllable):
    index = ord(syllable) - 0xAC00
    return hangul.INITIALS[index // 21 % 19], hangul.VOWELS[index % 21], hangul.FINALS[index % 28]


def _vowel_not_reduced(syllable):
    index = ord(syllable) - 0xAC00
    return hangul.INITIALS[index // 588], hangul.VOWELS[index // 28], hangul.FINALS[index % 28]


def _conjoining(syllable):
    parts = unicodedata.normalize("NFD", syllable)
    return parts[0], parts[1], parts[2:]


# ---------------------------------------------------------------------------------------------- count_pairs, merge_pair


def _no_frequency(words):
    return count_pairs(dict.fromkeys(words, 1))


def _once_a_word(words):
    counts = {}
    for ids, frequency in words.items():
        for pair in set(zip(ids, ids[1:])):
            counts[pair] = counts.get(pair, 0) + frequency
    return counts


def _unordered(words):
    counts = {}
    for ids, frequency in words.items():
        for pair in zip(ids, ids[1:]):
            pair = tuple(sorted(pair))
            counts[pair] = counts.get(pair, 0) + frequency
    return counts


def _last_pair_lost(words):
    return count_pairs({ids[:-1]: frequency for ids, frequency in words.items()})


def _overlapping(ids, pair, new_id):
    merged, position = [], 0
    while position < len(ids):
        if tuple(ids[position : position + 2]) == pair:
            merged.append(new_id)
        elif not (position and tuple(ids[position - 1 : position + 1]) == pair):
            merged.append(ids[position])
        position += 1
    return merged


def _from_the_right(ids, pair, new_id):
    return merge_pair(list(ids)[::-1], pair[::-1], new_id)[::-1]


def _first_only(ids, pair, new_id):
    for position, found in enumerate(zip(ids, ids[1:])):
        if found == pair:
            return [*ids[:position], new_id, *ids[position + 2 :]]
    return list(ids)


def _last_id_lost(ids, pair, new_id):
    merged, position = [], 0
    while position < len(ids) - 1:
        if (ids[position], ids[position + 1]) == pair:
            merged.append(new_id)
            position += 2
        else:
            merged.append(ids[position])
            position += 1
    return merged


def _right_stays(ids, pair, new_id):
    following = [*ids[1:], None]
    return [new_id if (left, right) == pair else left for left, right in zip(ids, following)]


def _right_stays_last_lost(ids, pair, new_id):
    return [new_id if found == pair else found[0] for found in zip(ids, ids[1:])]


def _in_place(ids, pair, new_id):
    position = 0
    while position < len(ids) - 1:
        if (ids[position], ids[position + 1]) == pair:
            ids[position : position + 2] = [new_id]
        position += 1
    return ids


# ---------------------------------------------------------------------------------------------- train_bpe_naive


def _train(pieces, merges, *, first_id=BYTES, choose=best_pair, least=2, to_ids=lambda piece: piece.encode("utf-8"), apply=True):
    words = {tuple(to_ids(piece)): n for piece, n in pieces.items()}
    learned = []
    while len(learned) < merges:
        counts = count_pairs(words)
        if not counts or counts[pair := choose(counts)] < least:
            break
        if apply:
            words = {tuple(merge_pair(ids, pair, first_id + len(learned))): n for ids, n in words.items()}
        learned.append(pair)
    return learned


def _larger_pair_on_ties(pieces, merges):
    return _train(pieces, merges, choose=lambda counts: max(counts, key=lambda pair: (counts[pair], pair)))


def _first_counted_on_ties(pieces, merges):
    return _train(pieces, merges, choose=lambda counts: max(counts, key=counts.get))


def _ids_from_zero(pieces, merges):
    return _train(pieces, merges, first_id=0)


def _never_merged(pieces, merges):
    return _train(pieces, merges, apply=False)


def _code_points(pieces, merges):
    return _train(pieces, merges, to_ids=lambda piece: map(ord, piece))


def _single_pairs_too(pieces, merges):
    return _train(pieces, merges, least=1)


# ---------------------------------------------------------------------------------------------- encode_piece, decode


def _leftmost_pair(data, ranks):
    ids = list(data)
    while known := [pair for pair in zip(ids, ids[1:]) if pair in ranks]:
        ids = merge_pair(ids, known[0], ranks[known[0]])
    return ids


def _latest_merge(data, ranks):
    ids = list(data)
    while known := [pair for pair in zip(ids, ids[1:]) if pair in ranks]:
        pair = max(known, key=ranks.get)
        ids = merge_pair(ids, pair, ranks[pair])
    return ids


def _one_merge(data, ranks):
    ids = list(data)
    known = [pair for pair in zip(ids, ids[1:]) if pair in ranks]
    if known:
        pair = min(known, key=ranks.get)
        ids = merge_pair(ids, pair, ranks[pair])
    return ids


def _longest_token(data, ranks):
    tokens = subwords.vocabulary([pair for pair, _ in sorted(ranks.items(), key=lambda item: item[1])])
    ids, start = [], 0
    while start < len(data):
        token = max((t for t in range(len(tokens)) if data.startswith(tokens[t], start)), key=lambda t: len(tokens[t]))
        ids.append(token)
        start += len(tokens[token])
    return ids


def _token_by_token(ids, tokens):
    return "".join(tokens[token].decode("utf-8", errors="replace") for token in ids)


def _token_by_token_strict(ids, tokens):
    return "".join(tokens[token].decode("utf-8") for token in ids)


def _ignoring(ids, tokens):
    return b"".join(tokens[token] for token in ids).decode("utf-8", errors="ignore")


def _strict(ids, tokens):
    return b"".join(tokens[token] for token in ids).decode("utf-8")


def _with_spaces(ids, tokens):
    return b" ".join(tokens[token] for token in ids).decode("utf-8", errors="replace")


def _small_tokens():
    return [bytes([value]) for value in range(256)] + ["한".encode(), "국".encode(), "국".encode()[:2], "국".encode()[2:], " 글".encode()]


# ---------------------------------------------------------------------------------------------- wordpiece, viterbi


def _keeps_known_part(word, tokens, unknown="[UNK]", prefix="##"):
    found, start = [], 0
    while start < len(word):
        fits = [end for end in range(len(word), start, -1) if (prefix if start else "") + word[start:end] in tokens]
        if not fits:
            return [*found, unknown]
        found.append((prefix if start else "") + word[start : fits[0]])
        start = fits[0]
    return found


def _shortest(word, tokens, unknown="[UNK]", prefix="##"):
    found, start = [], 0
    while start < len(word):
        fits = [end for end in range(start + 1, len(word) + 1) if (prefix if start else "") + word[start:end] in tokens]
        if not fits:
            return [unknown]
        found.append((prefix if start else "") + word[start : fits[0]])
        start = fits[0]
    return found


def _no_prefix(word, tokens, unknown="[UNK]", prefix="##"):
    return subwords.wordpiece(word, tokens, unknown, "")


def _prefix_dropped(word, tokens, unknown="[UNK]", prefix="##"):
    return [piece.removeprefix(prefix) for piece in subwords.wordpiece(word, tokens, unknown, prefix)]


def _greedy(text, log_probs):
    pieces, start = [], 0
    while start < len(text):
        end = next(e for e in range(len(text), start, -1) if text[start:e] in log_probs)
        pieces.append(text[start:end])
        start = end
    return pieces, sum(log_probs[piece] for piece in pieces)


def _fewest_pieces(text, log_probs):
    pieces, _ = subwords.viterbi(text, dict.fromkeys(log_probs, -1.0))
    return pieces, sum(log_probs[piece] for piece in pieces)


def _last_piece_only(text, log_probs):
    best, cut = [0.0] + [-math.inf] * len(text), [0] * (len(text) + 1)
    for end in range(1, len(text) + 1):
        for start in range(end):
            if best[start] > -math.inf and log_probs.get(text[start:end], -math.inf) > best[end]:
                best[end], cut[end] = log_probs[text[start:end]], start
    pieces, end = [], len(text)
    while end:
        pieces.append(text[cut[end] : end])
        end = cut[end]
    return pieces[::-1], best[-1]


def _backwards(text, log_probs):
    pieces, score = subwords.viterbi(text, log_probs)
    return pieces[::-1], score


# ---------------------------------------------------------------------------------------------- measures, chat


def _mean_of_ratios(texts, encode):
    return sum(len(text) / len(encode(text)) for text in texts) / len(texts)


def _bytes_instead(texts, encode):
    return sum(len(text.encode("utf-8")) for text in texts) / sum(len(encode(text)) for text in texts)


def _upside_down(texts, encode):
    return 1 / segmentation.chars_per_token(texts, encode)


def _joined(texts, encode):
    return sum(map(len, texts)) / len(encode(" ".join(texts)))


def _without_spaces(texts, encode):
    return sum(len(text.replace(" ", "")) for text in texts) / sum(len(encode(text)) for text in texts)


def _by_length(texts, encode, decode):
    return [text for text in texts if len(decode(encode(text))) != len(text)]


def _stripped(texts, encode, decode):
    return [text for text in texts if " ".join(decode(encode(text)).split()) != " ".join(text.split())]


def _normalised(texts, encode, decode):
    return [text for text in texts if hangul.nfc(decode(encode(text))) != hangul.nfc(text)]


def _how_many(texts, encode, decode):
    return len(segmentation.roundtrip_failures(texts, encode, decode))


def _no_end_mark(messages, add_generation_prompt=False):
    return tokenization.render_chat(messages, add_generation_prompt).replace("<|end|>", "")


def _always_prompting(messages, add_generation_prompt=False):
    return tokenization.render_chat(messages, True)


def _start_each_turn(messages, add_generation_prompt=False):
    text = "".join(tokenization.render_chat([message]) for message in messages)
    return text + "<|assistant|>" if add_generation_prompt else text


def _closes_each_turn(messages, add_generation_prompt=False):
    text = "<s>" + "".join(f"<|{m['role']}|>{m['content']}<|end|></s>" for m in messages)
    return text + "<|assistant|>" if add_generation_prompt else text


def _on_lines(messages, add_generation_prompt=False):
    text = "<s>" + "\n".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages)
    return text + "<|assistant|>" if add_generation_prompt else text


def _ends_the_prompt(messages, add_generation_prompt=False):
    return tokenization.render_chat(messages, add_generation_prompt) + ("<|end|>" if add_generation_prompt else "")


# ---------------------------------------------------------------------------------------------- cases


def _word_counts():
    return [
        ({(1, 2, 3): 1},),
        ({(1, 2, 1, 2): 3, (2, 1): 5},),
        ({(7, 7, 7): 2, (7,): 9},),
        ({},),
    ]


def _merges():
    return [
        ([1, 2, 3, 1, 2], (1, 2), 9),
        ([1, 1, 1, 2], (1, 1), 9),
        ([5, 5, 5, 5, 5], (5, 5), 256),
        ([3, 4], (4, 3), 9),
        ([3, 4, 5], (3, 4), 9),
        ([], (1, 2), 9),
    ]


def _corpora():
    return [
        ({"aab": 4, "ab": 3, "b": 9}, 2),
        ({"ba": 3, "ab": 3, "cd": 3}, 3),
        ({"학교": 5, "학생": 4, " 학교": 2}, 6),
        ({"abc": 1, "xy": 2}, 10),
        ({"ㅋㅋㅋㅋ": 3}, 4),
    ]


def _to_encode():
    plain = {(97, 98): 256, (98, 99): 257, (256, 257): 258, (97, 257): 259, (256, 99): 260}
    return [
        (b"abc", {(98, 99): 256, (97, 98): 257}),
        (b"abcbc", {(98, 99): 256, (97, 98): 257, (257, 99): 258}),
        (b"abbc", plain),
        (b"xabab", plain),
        (b"abc", {(97, 98): 256, (98, 99): 257, (97, 257): 258}),
        (b"abcd", {(97, 98): 256, (99, 100): 257, (98, 99): 258}),
        (b"", plain),
        (b"zz", plain),
    ]


def _to_decode():
    return [
        ([256, 257], _small_tokens()),
        ([256, 258, 259, 260], _small_tokens()),
        ([256, 258], _small_tokens()),
        ([259, 256], _small_tokens()),
        ([104, 105], _small_tokens()),
        ([], _small_tokens()),
    ]


def _words():
    tokens = ["학교", "학", "##교", "##에", "##서", "##에서", "먹", "##었", "##다", "에", "서", "다", "었"]
    return [
        ("학교에서", tokens),
        ("학교", tokens),
        ("먹었다", tokens),
        ("학교까지", tokens),
        ("교", tokens),
        ("", tokens),
    ]


def _sentences():
    names = {"학교": -3.0, "학": -6.0, "교": -6.0, "에": -3.0, "서": -4.0, "에서": -2.5, "학교에": -7.0, "가": -3.0, "가방": -5.0,
             "방": -5.5, "방에": -6.5, "가방에": -9.0}  # fmt: skip
    return [
        ("학교에서", dict(names)),
        ("가방에서", dict(names)),
        ("가방에", dict(names)),
        ("가", dict(names)),
        ("", dict(names)),
    ]


def _texts_to_measure():
    words, halves = str.split, lambda text: list(range((len(text) + 1) // 2))
    return [
        (["나는 밥을 먹었다", "네"], words),
        (["가나다라", "가", "밥 먹자"], halves),
        (["고양이", "강아지는"], lambda text: [text[i : i + 3] for i in range(0, len(text), 3)]),
        (["hello world"], words),
    ]


def _codecs():
    drop_tabs = lambda text: list(text.replace("\t", " "))  # noqa: E731
    texts = ["한글", "두  칸", "한글".encode().decode(), unicodedata.normalize("NFD", "한글"), " 앞 빈칸", "탭\t문자"]
    return [
        (list(texts), list, "".join),
        (list(texts), lambda text: text.split(), " ".join),
        (list(texts), lambda text: list(unicodedata.normalize("NFC", text)), "".join),
        (list(texts), drop_tabs, "".join),
        (list(texts), list, lambda pieces: "".join(pieces)[::-1]),
    ]


def _chats():
    one = [{"role": "user", "content": "안녕"}]
    two = [{"role": "system", "content": "짧게 답한다."}, *one, {"role": "assistant", "content": "반갑습니다.\n무엇을 도울까요?"}]
    return [(list(one),), (list(one), True), (list(two),), ([*two, *one], True), ([], False)]


# ---------------------------------------------------------------------------------------------- the exercises

EXERCISES = [
    Exercise(
        name="decompose", title="음절을 자모로", difficulty=2, minutes=10, reference=hangul.decompose,
        cases=lambda: [("한",), ("가",), ("힣",), ("글",), ("왜",), ("닭",)],
        hints=(
            "음절 번호는 `ord(syllable) - 0xAC00`이다. 이 번호를 (초성, 중성, 종성) 세 자리 수로 읽는다.",
            "종성 28가지가 가장 빨리 돈다. 번호를 28로 나눈 나머지가 종성이고, 몫을 다시 21로 나눈다.",
            "`divmod`를 두 번 쓴다. `FINALS[0]`이 빈 문자열이므로 받침이 없을 때를 따로 다루지 않아도 된다.",
        ),
        mistakes=(
            Mistake(_no_empty_final, "받침 목록이 한 칸 밀렸다. 받침 번호 0은 '받침 없음'이고 `FINALS[0]`이 그 빈 문자열이다."),
            Mistake(_by_21, "나누는 수의 순서가 바뀌었다. 가장 빨리 도는 자리는 중성(21)이 아니라 종성(28)이다."),
            Mistake(_vowel_not_reduced, "28로 나눈 몫에는 초성이 아직 섞여 있다. 중성은 그 몫을 21로 나눈 나머지이다."),
            Mistake(_conjoining, "NFD의 조합용 자모(U+1100대)가 나왔다. 글쇠로 치는 자모를 `INITIALS`, `VOWELS`, `FINALS`에서 고른다."),
        ),
    ),
    Exercise(
        name="count_pairs", title="이웃한 쌍 세기", difficulty=1, minutes=8, reference=subwords.count_pairs, cases=_word_counts,
        hints=(
            "이웃한 쌍은 `zip(ids, ids[1:])`로 얻는다.",
            "낱말이 말뭉치에 몇 번 나오는지는 `words.items()`의 값에 있다. 쌍 하나를 볼 때 1이 아니라 그 값을 더한다.",
            "`counts.get(pair, 0)`에 더해 다시 넣는다.",
        ),
        mistakes=(
            Mistake(_no_frequency, "낱말의 횟수를 곱하지 않았다. 세 번 나온 낱말의 쌍은 세 번 센다."),
            Mistake(_once_a_word, "한 낱말 안에서 되풀이되는 쌍을 한 번만 셌다. `set`을 거치지 않는다."),
            Mistake(_unordered, "(1, 2)와 (2, 1)은 다른 쌍이다. 순서를 바꾸지 않는다."),
            Mistake(_last_pair_lost, "마지막 쌍이 빠졌다. 길이가 n이면 쌍은 n-1개이다."),
        ),
    ),
    Exercise(
        name="merge_pair", title="쌍 합치기", difficulty=2, minutes=10, reference=subwords.merge_pair, cases=_merges,
        hints=(
            "왼쪽에서 오른쪽으로 한 번 훑으며 새 목록을 만든다.",
            "쌍을 만나면 `new_id`를 넣고 두 칸, 아니면 그대로 옮기고 한 칸 나아간다. `for`보다 `while`이 편하다.",
            "마지막 자리에서는 오른쪽 이웃이 없다. 그때도 남은 번호 하나는 옮겨야 한다.",
        ),
        mistakes=(
            Mistake(_overlapping, "겹치는 쌍을 두 번 합쳤다. 합친 뒤에는 두 칸을 건너뛴다."),
            Mistake(_right_stays, "합친 쌍의 오른쪽 번호가 그대로 남았다. 합친 뒤에는 두 칸을 나아간다. `for`로는 건너뛰기 어렵다."),
            Mistake(_right_stays_last_lost, "합친 쌍의 오른쪽 번호가 남았고 마지막 번호는 사라졌다. `while`로 자리를 직접 옮긴다."),
            Mistake(_from_the_right, "오른쪽부터 합쳤다. 1 1 1에서 (1, 1)은 왼쪽 둘이 먼저 합쳐진다."),
            Mistake(_first_only, "첫 번째 쌍에서 멈췄다. 나오는 쌍을 모두 합친다."),
            Mistake(_last_id_lost, "마지막 번호가 사라졌다. 이웃이 없는 마지막 자리도 옮겨 담는다."),
            Mistake(_in_place, "받은 목록을 직접 고쳤다. 부른 쪽의 목록까지 바뀌므로 새 목록을 만들어 돌려준다."),
        ),
    ),
    Exercise(
        name="train_bpe_naive", title="BPE 학습", difficulty=3, minutes=20, reference=subwords.train_bpe_naive, cases=_corpora,
        hints=(
            "준비는 한 줄이다. 각 조각을 `piece.encode('utf-8')`의 튜플로 바꾸고 횟수를 그대로 물려준다.",
            "되풀이한다: 모든 쌍을 세고, 가장 많은 쌍을 고르고(`best_pair`), 모든 낱말에서 합치고, 그 쌍을 기록한다.",
            "k번째(0부터) 병합의 새 번호는 `256 + k`이다. 고른 쌍의 횟수가 2보다 작으면 멈춘다.",
        ),
        mistakes=(
            Mistake(_larger_pair_on_ties, "횟수가 같을 때 더 큰 쌍을 골랐다. 같으면 번호가 작은 쌍을 고르도록 `best_pair`를 쓴다."),
            Mistake(_first_counted_on_ties, "횟수가 같을 때 먼저 센 쌍을 골랐다. 말뭉치의 차례가 결과를 바꾼다. `best_pair`를 쓴다."),
            Mistake(_ids_from_zero, "새 번호가 바이트 번호와 겹친다. 0~255는 바이트의 것이고 병합은 256부터이다."),
            Mistake(_never_merged, "고른 쌍을 낱말에 적용하지 않아 같은 쌍을 되풀이해 골랐다. 합친 낱말로 바꾸어 놓고 다시 센다."),
            Mistake(_code_points, "글자 번호(ord)에서 시작했다. 여기서는 UTF-8 바이트에서 시작한다."),
            Mistake(_single_pairs_too, "한 번밖에 나오지 않는 쌍까지 합쳤다. 횟수가 2보다 작으면 멈춘다."),
        ),
    ),
    Exercise(
        name="encode_piece", title="배운 병합으로 인코딩하기", difficulty=3, minutes=15, reference=subwords.encode_piece, cases=_to_encode,
        hints=(
            "바이트 번호의 목록에서 시작한다. `ranks`에 있는 이웃 쌍이 하나도 없을 때까지 합친다.",
            "여러 쌍이 가능하면 먼저 배운 병합부터 쓴다. 먼저 배운 쌍일수록 `ranks`의 값이 작다.",
            "`min`에 `key`로 `ranks.get(쌍, math.inf)`를 준다. 고른 쌍이 `ranks`에 없으면 끝이다.",
        ),
        mistakes=(
            Mistake(_leftmost_pair, "왼쪽에 있는 쌍부터 합쳤다. 위치가 아니라 배운 차례(`ranks`의 값)가 먼저이다."),
            Mistake(_latest_merge, "나중에 배운 병합부터 썼다. `ranks`의 값이 가장 작은 쌍을 고른다."),
            Mistake(_one_merge, "한 번만 합치고 멈췄다. 합쳐서 생긴 새 쌍도 다시 본다."),
            Mistake(_longest_token, "가장 긴 토큰을 왼쪽부터 골랐다. 그것은 WordPiece의 방식이고, BPE는 배운 차례대로 합친다."),
        ),
    ),
    Exercise(
        name="decode", title="토큰을 글자로", difficulty=2, minutes=8, reference=subwords.decode, cases=_to_decode,
        hints=(
            "토큰 하나는 글자가 아니라 바이트열이다. 글자 하나가 토큰 둘에 나뉘어 있을 수 있다.",
            "먼저 모든 토큰의 바이트를 이어 붙이고, 한 번에 UTF-8로 읽는다.",
            "읽을 수 없는 바이트가 남으면 `errors='replace'`가 그 자리에 �를 넣는다.",
        ),
        mistakes=(
            Mistake(_token_by_token, "토큰을 하나씩 글자로 바꾸었다. 두 토큰에 나뉜 글자가 깨진다. 이어 붙인 뒤에 바꾼다."),
            Mistake(_token_by_token_strict, "토큰 하나를 글자로 바꾸다가 멈췄다. 토큰은 글자의 일부일 수 있다. 먼저 이어 붙인다."),
            Mistake(_ignoring, "깨진 바이트를 말없이 버렸다. 무엇이 빠졌는지 보이도록 �로 남긴다."),
            Mistake(_strict, "글자 가운데서 끊긴 토큰에서 멈췄다. 모델은 그런 토큰도 내놓으므로 errors를 정해 준다."),
            Mistake(_with_spaces, "토큰 사이에 빈칸이 들어갔다. 빈칸은 토큰 안에 이미 있다."),
        ),
    ),
    Exercise(
        name="wordpiece", title="WordPiece: 가장 긴 조각부터", difficulty=3, minutes=15, reference=subwords.wordpiece, cases=_words,
        hints=(
            "시작 자리에서 낱말 끝까지를 먼저 보고, 어휘에 없으면 끝을 한 글자씩 당긴다.",
            "낱말의 처음이 아닌 조각은 앞에 `prefix`를 붙인 이름으로 찾고, 그 이름으로 내놓는다.",
            "어느 자리에서든 맞는 조각이 하나도 없으면 지금까지 찾은 것을 버리고 `[unknown]`만 돌려준다.",
        ),
        mistakes=(
            Mistake(_keeps_known_part, "앞에서 찾은 조각을 남겨 두었다. 한 자리라도 막히면 낱말 전체가 [UNK] 하나이다."),
            Mistake(_shortest, "가장 짧은 조각을 골랐다. 끝을 낱말 끝에서부터 당겨 온다."),
            Mistake(_no_prefix, "낱말 가운데의 조각도 ## 없이 찾았다. 처음이 아닌 조각은 `prefix`를 붙여 찾는다."),
            Mistake(_prefix_dropped, "결과에서 ##이 빠졌다. 찾은 이름을 그대로 내놓아야 되돌릴 수 있다."),
        ),
    ),
    Exercise(
        name="viterbi", title="Unigram: 가장 그럴듯한 분할", difficulty=4, minutes=20, reference=subwords.viterbi, cases=_sentences,
        hints=(
            "`best[i]`를 앞 i글자의 가장 높은 점수라고 하자. `best[0]`은 0이고 나머지는 `-inf`에서 시작한다.",
            "`best[end]`는 모든 `start`에 대해 `best[start] + log_probs[text[start:end]]` 가운데 가장 큰 값이다.",
            "가장 좋았던 `start`를 `end`마다 적어 두고, 마지막 자리에서 거꾸로 따라간 뒤 순서를 뒤집는다.",
        ),
        mistakes=(
            Mistake(_greedy, "왼쪽부터 가장 긴 조각을 골랐다. 점수의 합이 가장 큰 분할은 모든 끝 자리를 보아야 나온다."),
            Mistake(_fewest_pieces, "조각 수가 가장 적은 분할을 골랐다. 비교할 것은 로그 확률의 합이다."),
            Mistake(_last_piece_only, "마지막 조각의 점수만 비교했다. 거기까지 온 점수 `best[start]`를 더한다."),
            Mistake(_backwards, "조각의 순서가 거꾸로이다. 뒤에서부터 따라왔으므로 마지막에 뒤집는다."),
        ),
    ),
    Exercise(
        name="chars_per_token", title="토큰당 글자 수", difficulty=1, minutes=5, reference=segmentation.chars_per_token,
        cases=_texts_to_measure,
        hints=(
            "글자 수는 `len(text)`, 토큰 수는 `len(encode(text))`이다.",
            "모든 글의 글자 수를 더하고, 모든 글의 토큰 수를 더한 다음, 한 번만 나눈다.",
        ),
        mistakes=(
            Mistake(_mean_of_ratios, "글마다 비율을 구해 평균했다. 짧은 글이 긴 글만큼 셈에 든다. 합을 합으로 나눈다."),
            Mistake(_bytes_instead, "바이트를 셌다. 한글 한 글자는 3바이트이다. `len(text)`를 쓴다."),
            Mistake(_upside_down, "나누는 순서가 뒤집혔다. 토큰 하나가 글자 몇 개를 맡는지가 답이다."),
            Mistake(_joined, "글을 이어 붙여 한 번에 인코딩했다. 글의 경계에서 토큰이 달라진다. 글마다 인코딩해 토큰 수를 더한다."),
            Mistake(_without_spaces, "빈칸을 빼고 셌다. 빈칸도 토큰이 나타내야 할 글자이다."),
        ),
    ),
    Exercise(
        name="roundtrip_failures", title="되돌아오지 않는 글 찾기", difficulty=2, minutes=8, reference=segmentation.roundtrip_failures,
        cases=_codecs,
        hints=(
            "글 하나를 인코딩하고 다시 디코딩해 처음과 비교한다.",
            "조금이라도 다르면 실패이다. 다듬거나 정규화한 다음 비교하지 않는다.",
        ),
        mistakes=(
            Mistake(_by_length, "길이만 비교했다. 길이가 같아도 글자가 다를 수 있다."),
            Mistake(_stripped, "빈칸을 다듬고 비교했다. 빈칸이 사라진 것도 실패이다."),
            Mistake(_normalised, "정규화한 뒤 비교했다. 눈에 같아 보여도 코드 포인트가 다르면 실패이다."),
            Mistake(_how_many, "개수를 돌려주었다. 무엇이 실패했는지 볼 수 있게 글의 목록을 돌려준다."),
        ),
    ),
    Exercise(
        name="render_chat", title="대화를 한 줄로", difficulty=2, minutes=10, reference=tokenization.render_chat, cases=_chats,
        hints=(
            "글 전체의 앞에 `<s>` 하나, 그 뒤로 메시지마다 `<|역할|>내용<|end|>`를 잇는다.",
            "`add_generation_prompt`가 참일 때만 끝에 `<|assistant|>`를 붙여 모델이 말할 차례임을 알린다.",
        ),
        mistakes=(
            Mistake(_no_end_mark, "`<|end|>`가 없다. 모델은 이 토큰을 배워야 말을 멈춘다."),
            Mistake(_always_prompting, "언제나 `<|assistant|>`로 끝난다. `add_generation_prompt`가 참일 때만 붙인다."),
            Mistake(_start_each_turn, "메시지마다 `<s>`가 있다. `<s>`는 대화의 맨 앞에 한 번만 온다."),
            Mistake(_closes_each_turn, "메시지마다 `</s>`가 붙었다. 말의 끝은 `<|end|>`이고, `</s>`는 문서의 끝이라 여기에는 없다."),
            Mistake(_on_lines, "메시지 사이에 줄 바꿈이 있다. 정해진 틀에는 없다. 한 글자만 달라도 모델이 배운 틀과 어긋난다."),
            Mistake(_ends_the_prompt, "`<|assistant|>`를 열자마자 닫았다. 닫는 `<|end|>`는 모델이 쓸 몫이다."),
        ),
    ),
]  # fmt: skip

check = checker(week=3, exercises=EXERCISES)
