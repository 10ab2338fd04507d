"""Exercises of week 2: spelling, rules, personal data, duplicates, measures."""

from __future__ import annotations

import math
import re
import unicodedata

import numpy as np

from workshop_lib.cleaning import corpus, decoding, near_duplicates, privacy, quality
from workshop_lib.exercises import Exercise, Mistake, checker

# ------------------------------------------------------------------------------------------------ fold_width


def _nfkc(text):
    return unicodedata.normalize("NFKC", text)


def _no_wide_space(text):
    return "".join(chr(ord(c) - 0xFEE0) if "！" <= c <= "～" else c for c in text)


def _range_too_long(text):
    return "".join(" " if c == "\u3000" else chr((ord(c) - 0xFEE0) % 0x110000) if "\uff01" <= c <= "\uffef" else c for c in text)


def _off_by_one(text):
    return "".join(" " if c == "\u3000" else chr(ord(c) - 0xFEDF) if "！" <= c <= "～" else c for c in text)


# ------------------------------------------------------------------------------------------------ hangul_ratio


def _over_all_characters(text):
    return len(re.findall("[가-힣]", text)) / len(text) if text else 0.0


def _jamo_as_hangul(text):
    hangul = len(re.findall("[가-힣ㄱ-ㅎㅏ-ㅣ]", text))
    letters = sum(map(str.isalpha, text))
    return hangul / letters if letters else 0.0


def _jamo_as_foreign(text):
    letters = sum(map(str.isalpha, text))
    return len(re.findall("[가-힣]", text)) / letters if letters else 0.0


def _no_letters_divides_by_zero(text):
    letters = sum(map(str.isalpha, text)) - len(re.findall("[ㄱ-ㆎ]", text))
    return len(re.findall("[가-힣]", text)) / letters


# ------------------------------------------------------------------------------------------------ repeated_ngram_ratio


def _ngrams(text, size):
    words = text.split()
    return words, [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


def _covered(text, size, mark, length=len):
    words, grams = _ngrams(text, size)
    covered = [0] * len(words)
    for start in mark(grams):
        for place in range(start, start + size):
            covered[place] += 1
    total = sum(map(length, words))
    return words, covered, total


def _later(grams):
    return [i for i, gram in enumerate(grams) if gram in grams[:i]]


def _counted_twice(text, size=3):
    words, covered, total = _covered(text, size, _later)
    return sum(len(word) * hits for word, hits in zip(words, covered)) / total if total else 0.0


def _first_too(text, size=3):
    words, covered, total = _covered(text, size, lambda grams: [i for i, gram in enumerate(grams) if grams.count(gram) > 1])
    return sum(len(word) for word, hits in zip(words, covered) if hits) / total if total else 0.0


def _words_not_characters(text, size=3):
    words, covered, _ = _covered(text, size, _later)
    return sum(map(bool, covered)) / len(words) if words else 0.0


# ------------------------------------------------------------------------------------------------ mask_mobile


def _mobile(pattern):
    return lambda text: re.sub(pattern, privacy.MASKS["phone"], text)


# ------------------------------------------------------------------------------------------------ resident_checksum, luhn


def _resident(weights, modulus_twice=True, foreign=True):
    def checksum(digits):
        if len(digits) != 13 or not (digits.isascii() and digits.isdigit()):
            return False
        total = sum(int(digit) * weight for digit, weight in zip(digits, weights))
        check = 11 + (2 if foreign and digits[6] in "5678" else 0) - total % 11
        return (check % 10 if modulus_twice else check) == int(digits[12])

    return checksum


_WEIGHTS = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)


def _from_the_left(digits):
    return bool(digits) and sum(_twice(int(d), i % 2 == 0) for i, d in enumerate(digits)) % 10 == 0


def _twice(value, double):
    value *= 2 if double else 1
    return value - 9 if value > 9 else value


def _without_minus_nine(digits):
    return bool(digits) and sum(int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits))) % 10 == 0


def _last_doubled(digits):
    return bool(digits) and sum(_twice(int(d), i % 2 == 0) for i, d in enumerate(reversed(digits))) % 10 == 0


# ------------------------------------------------------------------------------------------------ drop_exact_duplicates


def _raw_comparison(texts):
    return [i for i, text in enumerate(texts) if text not in texts[:i]]


def _keeps_the_last(texts):
    return sorted({near_duplicates.content_key(text): i for i, text in enumerate(texts)}.values())


def _drops_all_copies(texts):
    keys = [near_duplicates.content_key(text) for text in texts]
    return [i for i, key in enumerate(keys) if keys.count(key) == 1]


def _neighbours_only(texts):
    keys = [near_duplicates.content_key(text) for text in texts]
    return [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]


# ------------------------------------------------------------------------------------------------ shingles, jaccard


def _last_shingle_lost(text, size=5):
    text = "".join(text.split())
    return {text[i : i + size] for i in range(max(1, len(text) - size))} if text else set()


def _spaces_kept(text, size=5):
    return {text[i : i + size] for i in range(max(1, len(text) - size + 1))} if text.strip() else set()


def _short_text_empty(text, size=5):
    text = "".join(text.split())
    return {text[i : i + size] for i in range(len(text) - size + 1)}


def _cut_in_blocks(text, size=5):
    text = "".join(text.split())
    return {text[i : i + size] for i in range(0, len(text), size)}


def _dice(a, b):
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0


def _over_the_smaller(a, b):
    return len(a & b) / min(len(a), len(b)) if a and b else float(not a and not b)


def _sum_of_sizes(a, b):
    return len(a & b) / (len(a) + len(b)) if a or b else 1.0


def _two_empty_are_different(a, b):
    return len(a & b) / len(a | b) if a | b else 0.0


# ------------------------------------------------------------------------------------------------ minhash_signature


def _values(hashes, a, b):
    return hashes[None, :] * a[:, None] + b[:, None]


def _maximum(hashes, a, b):
    return (_values(hashes, a, b) >> np.uint64(32)).max(axis=1).astype(np.uint32)


def _over_functions(hashes, a, b):
    return (_values(hashes, a, b) >> np.uint64(32)).min(axis=0).astype(np.uint32)


def _low_bits(hashes, a, b):
    return _values(hashes, a, b).astype(np.uint32).min(axis=1)


def _no_offset(hashes, a, b):
    return ((hashes[None, :] * a[:, None]) >> np.uint64(32)).min(axis=1).astype(np.uint32)


# ------------------------------------------------------------------------------------------------ candidate_pairs


def _pairs(signatures, agree):
    found = [(i, j) for j in range(len(signatures)) for i in range(j) if agree(signatures[i], signatures[j])]
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


def _every_band(signatures, bands, rows):
    return _pairs(signatures, lambda x, y: bool((x[: bands * rows] == y[: bands * rows]).all()))


def _any_row(signatures, bands, rows):
    return _pairs(signatures, lambda x, y: bool((x[: bands * rows] == y[: bands * rows]).any()))


def _bands_mixed(signatures, bands, rows):
    def parts(x):
        return {tuple(x[start : start + rows].tolist()) for start in range(0, bands * rows, rows)}

    return _pairs(signatures, lambda x, y: bool(parts(x) & parts(y)))


def _with_repeats(signatures, bands, rows):
    parts = [near_duplicates.candidate_pairs(signatures[:, start : start + rows], 1, rows) for start in range(0, bands * rows, rows)]
    joined = np.concatenate(parts)
    return joined[np.lexsort((joined[:, 1], joined[:, 0]))]


# ------------------------------------------------------------------------------------------------ word_ngrams


def _punctuation_kept(text, size):
    words = text.casefold().split()
    return [" ".join(words[i : i + size]) for i in range(len(words) - size + 1)]


def _case_kept(text, size):
    words = re.findall(r"\w+", text)
    return [" ".join(words[i : i + size]) for i in range(len(words) - size + 1)]


def _last_ngram_lost(text, size):
    return near_duplicates.word_ngrams(text, size)[:-1]


def _characters(text, size):
    letters = "".join(re.findall(r"\w+", text.casefold()))
    return [letters[i : i + size] for i in range(len(letters) - size + 1)]


# ------------------------------------------------------------------------------------------------ precision_recall


def _swapped(has, said):
    return corpus.precision_recall(said, has)


def _over_union(has, said):
    share = len(has & said) / len(has | said) if has | said else math.nan
    return share, share


def _empty_is_zero(has, said):
    return tuple(0.0 if math.isnan(value) else value for value in corpus.precision_recall(has, said))


# ------------------------------------------------------------------------------------------------ cases


def _minhash_cases():
    texts = ["고양이가 담장 위에서 낮잠을 잔다.", "가", "비가 오는 날에는 개구리가 더 크게 운다고 할머니가 말했다."]
    return [
        (near_duplicates.shingle_hashes([text])[0], *near_duplicates.hash_functions(count, seed))
        for seed, (text, count) in enumerate(zip(texts, (8, 4, 16)))
    ]


def _pair_cases():
    rng = np.random.default_rng(2)
    return [
        (np.array([[1, 2, 3, 4], [1, 2, 9, 9], [7, 7, 3, 4], [1, 5, 3, 6]], dtype=np.uint32), 2, 2),
        (np.array([[1, 2, 3, 4], [3, 4, 1, 2], [5, 6, 7, 8]], dtype=np.uint32), 2, 2),
        (rng.integers(0, 3, (8, 6), dtype=np.uint32), 3, 2),
        (np.zeros((3, 4), dtype=np.uint32), 2, 2),
    ]


EXERCISES = [
    Exercise(
        name="fold_width",
        title="전각 문자 되돌리기",
        difficulty=2,
        minutes=10,
        reference=decoding.fold_width,
        cases=lambda: [
            ("ＡＢＣ１２３！",),
            ("전화　０２",),
            ("ㅋㅋㅋ ㅠㅠ ①②",),
            ("￦１，０００",),
            ("이미 보통 글자 ABC!",),
            ("～",),
            ("",),
        ],
        hints=(
            "전각 ASCII는 U+FF01에서 U+FF5E까지 94글자이고, 보통 ASCII와 순서가 같다.",
            "두 구역의 번호 차이는 언제나 0xFEE0이다. 전각 빈칸 U+3000만 규칙에서 벗어난다.",
            "글자마다 ord를 보고, 구역 안이면 chr(번호 - 0xFEE0), U+3000이면 보통 빈칸, 나머지는 그대로 이어 붙인다.",
        ),
        mistakes=(
            Mistake(_nfkc, "NFKC는 전각뿐 아니라 ㅋ, ①까지 다른 글자로 바꾼다. 바꿀 구역을 직접 정한다."),
            Mistake(_no_wide_space, "전각 빈칸 U+3000이 남았다. 이 글자는 전각 ASCII 구역 밖에 있다."),
            Mistake(_range_too_long, "구역을 너무 길게 잡았다. 전각 ASCII는 U+FF5E(～)에서 끝나고, ￦ 같은 글자는 그대로 둔다."),
            Mistake(_off_by_one, "한 글자씩 밀렸다. U+FF01(！)이 U+0021(!)로 가야 하니 차이는 0xFEE0이다."),
        ),
    ),
    Exercise(
        name="hangul_ratio",
        title="한글 비율",
        difficulty=2,
        minutes=10,
        reference=quality.hangul_ratio,
        cases=lambda: [
            ("한글만 있다",),
            ("한글 half",),
            ("재밌다 ㅋㅋㅋㅋ",),
            ("good 영화 ㅋㅋㅋㅋ",),
            ("123 !?",),
            ("",),
            ("漢字와 한글",),
            ("only English",),
        ],
        hints=(
            "분자는 완성된 음절(가~힣)의 수, 분모는 모든 문자 체계의 글자 수이다. 빈칸, 숫자, 기호는 세지 않는다.",
            "글자인지는 str.isalpha로 안다. 낱자모(ㄱ~ㆎ)도 isalpha가 참이므로 분모에서 뺀다.",
            "re.findall로 음절과 낱자모를 세고, isalpha의 합에서 낱자모 수를 뺀 값으로 나눈다. 분모가 0이면 0.0이다.",
        ),
        mistakes=(
            Mistake(_over_all_characters, "빈칸과 숫자까지 분모에 넣었다. 띄어쓰기를 많이 한 글이 한국어가 아닌 것처럼 된다."),
            Mistake(_jamo_as_hangul, "낱자모 ㅋㅋㅋ를 한글 음절로 세었다. 낱자모는 분자에도 분모에도 넣지 않는다."),
            Mistake(_jamo_as_foreign, "낱자모가 분모에 남아 외국 글자처럼 세어졌다. isalpha의 합에서 낱자모 수를 뺀다."),
            Mistake(_no_letters_divides_by_zero, "글자가 하나도 없는 글에서 0으로 나누었다. 그때는 0.0을 돌려준다."),
        ),
    ),
    Exercise(
        name="repeated_ngram_ratio",
        title="되풀이 비율(Gopher 규칙)",
        difficulty=3,
        minutes=15,
        reference=quality.repeated_ngram_ratio,
        cases=lambda: [
            ("가 나 다 라 가 나 다", 3),
            ("무료 배송 무료 배송 무료 배송 무료 배송", 2),
            ("한 번씩만 나오는 말로 된 글", 2),
            ("", 3),
            ("짧다", 3),
            ("기나긴낱말 나 기나긴낱말 나 끝", 2),
        ],
        hints=(
            "앞에서부터 n-그램을 하나씩 보며, 이미 나온 적이 있는지 집합에 적어 둔다.",
            "이미 나온 n-그램이면 그 자리의 낱말 n개에 표시한다. 여러 번 덮여도 표시는 하나이다.",
            "covered = [False] * len(words)를 두고 covered[start:start+size]를 참으로 만든다. "
            "답은 표시된 낱말의 글자 수 / 모든 낱말의 글자 수.",
        ),
        mistakes=(
            Mistake(_counted_twice, "겹친 n-그램이 덮은 낱말을 여러 번 세었다. 그러면 비율이 1을 넘을 수 있다. 낱말마다 표시는 한 번이다."),
            Mistake(_first_too, "처음 나온 n-그램까지 되풀이로 세었다. 두 번째부터가 되풀이이다."),
            Mistake(_words_not_characters, "낱말의 수로 나누었다. 이 규칙은 글자의 수로 잰다: 긴 낱말의 되풀이가 더 무겁다."),
        ),
    ),
    Exercise(
        name="mask_mobile",
        title="휴대 전화 번호 가리기",
        difficulty=3,
        minutes=15,
        reference=privacy.mask_mobile,
        cases=lambda: [
            ("연락은 010-1234-5678로 주세요",),
            ("01012345678",),
            ("010.1234.5678 또는 010 1234 5678",),
            ("옛 번호 016-3456-7890",),
            ("옛 번호 011-123-4567",),
            ("계좌 3010123456789 입니다",),
            ("2010-1234-5678",),
            ("번호가 없는 글",),
            ("016-345-6789, 019-876-5432",),
        ],
        hints=(
            "정규식의 뼈대는 세 토막이다: 01로 시작하는 세 자리, 서너 자리, 네 자리.",
            "토막 사이에는 하이픈, 점, 빈칸이 있거나 아무것도 없다: [-. ]? 셋째 자리는 0만이 아니라 1, 6~9도 있다.",
            r"앞뒤에 다른 숫자가 붙으면 전화번호가 아니다. (?<!\d)와 (?!\d)로 막고 re.sub로 '[전화번호]'를 넣는다.",
        ),
        mistakes=(
            Mistake(
                _mobile(r"01[016-9][-. ]?\d{3,4}[-. ]?\d{4}"), "더 긴 숫자의 가운데를 전화번호로 보았다. 앞뒤에 숫자가 없는지 확인한다."
            ),
            Mistake(_mobile(r"(?<!\d)01[016-9]-\d{3,4}-\d{4}(?!\d)"), "하이픈이 있는 번호만 가렸다. 점, 빈칸, 아무것도 없는 번호도 있다."),
            Mistake(_mobile(r"(?<!\d)010[-. ]?\d{3,4}[-. ]?\d{4}(?!\d)"), "010만 가렸다. 011, 016, 019 같은 옛 번호도 글에 남아 있다."),
            Mistake(_mobile(r"(?<!\d)01[016-9][-. ]?\d{4}[-. ]?\d{4}(?!\d)"), "가운데가 세 자리인 번호(011-123-4567)를 놓쳤다."),
        ),
    ),
    Exercise(
        name="resident_checksum",
        title="주민등록번호의 검증 숫자",
        difficulty=2,
        minutes=10,
        reference=privacy.resident_checksum,
        cases=lambda: [
            ("9001011234568",),
            ("9001011234567",),
            ("0502284000006",),
            ("8801017000000",),
            ("8801017000002",),
            ("9001011000080",),
            ("9001011000171",),
            *((f"90010110000{i}{j}",) for i in range(3) for j in range(10)),
            *((f"90010150000{i}{j}",) for i in range(2) for j in range(10)),
            ("900101123456",),
            ("900101-123456",),
        ],
        hints=(
            "앞 열두 자리에 2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5를 차례로 곱해 더한다.",
            "(11 - 합 % 11) % 10이 마지막 자리와 같아야 한다. 외국인(일곱째 자리가 5~8)은 11 대신 13이다.",
            "열세 자리 숫자가 아니면 바로 False. zip으로 곱해 더한다. 뺀 값이 10이나 11이면 한 자리가 아니므로 마지막에 % 10을 한다.",
        ),
        mistakes=(
            Mistake(
                _resident(_WEIGHTS, modulus_twice=False), "11에서 뺀 값이 10이나 11일 때를 놓쳤다. 마지막에 10으로 나눈 나머지를 쓴다."
            ),
            Mistake(_resident(tuple(range(2, 14))), "가중치가 2에서 9까지 가면 다시 2로 돌아온다: 2…9, 2, 3, 4, 5."),
            Mistake(_resident(_WEIGHTS, foreign=False), "외국인등록번호를 놓쳤다. 일곱째 자리가 5~8이면 11 대신 13에서 뺀다."),
        ),
    ),
    Exercise(
        name="luhn",
        title="카드 번호의 룬(Luhn) 검사",
        difficulty=2,
        minutes=10,
        reference=privacy.luhn,
        cases=lambda: [
            ("4111111111111111",),
            ("4111111111111112",),
            ("378282246310005",),
            ("79927398713",),
            ("18",),
            ("81",),
            ("00",),
            ("",),
            ("5555555555554444",),
            ("59",),
            ("67",),
            ("26",),
        ],
        hints=(
            "오른쪽 끝에서부터 센다. 끝자리는 그대로, 그다음 자리는 두 배, 이렇게 번갈아 간다.",
            "두 배 한 값이 9를 넘으면 9를 뺀다(두 자리 수의 숫자 합과 같다).",
            "enumerate(reversed(digits))로 자리를 세고, 합이 10의 배수인지 본다. 빈 문자열은 False이다.",
        ),
        mistakes=(
            Mistake(_from_the_left, "왼쪽에서부터 두 배 했다. 자릿수가 홀수이거나 짝수이거나 같게 하려면 오른쪽 끝에서 센다."),
            Mistake(_without_minus_nine, "두 배 한 값이 9를 넘을 때 9를 빼지 않았다."),
            Mistake(_last_doubled, "끝자리(검증 숫자)를 두 배 했다. 끝자리는 그대로 두고 그 왼쪽부터 두 배 한다."),
        ),
    ),
    Exercise(
        name="drop_exact_duplicates",
        title="똑같은 글 지우기",
        difficulty=2,
        minutes=10,
        reference=near_duplicates.drop_exact_duplicates,
        cases=lambda: [
            (["가나다", "라마바", "가나다"],),
            (["오늘 날씨", "오늘날씨!", "내일 날씨", "오늘 날씨."],),
            (["Korea", "korea", "한국"],),
            ([],),
            (["한 글"],),
        ],
        hints=(
            "content_key(글)는 띄어쓰기와 문장 부호, 대소문자만 다른 글에 같은 수를 준다.",
            "이미 본 열쇠의 집합을 두고, 처음 보는 열쇠일 때만 그 자리 번호를 적는다.",
            "for index, text in enumerate(texts)로 돌며 key가 seen에 없으면 kept.append(index), seen.add(key).",
        ),
        mistakes=(
            Mistake(_raw_comparison, "글자 그대로 비교했다. 띄어쓰기나 마침표만 다른 글도 같은 글이다. content_key로 비교한다."),
            Mistake(_keeps_the_last, "마지막 글을 남겼다. 먼저 나온 글을 남겨야 흐름을 한 번만 훑고 끝낼 수 있다."),
            Mistake(_drops_all_copies, "되풀이된 글을 모두 지웠다. 하나는 남겨야 한다."),
            Mistake(_neighbours_only, "바로 앞 글과만 비교했다. 복사본은 멀리 떨어져 있을 수 있다."),
        ),
    ),
    Exercise(
        name="shingles",
        title="글을 조각내기",
        difficulty=1,
        minutes=5,
        reference=near_duplicates.shingles,
        cases=lambda: [("가나 다라마", 3), ("가나다", 3), ("가", 3), ("가 나\n", 5), ("", 3), ("나나나나", 2)],
        hints=(
            "띄어쓰기는 사람마다 다르므로 먼저 빈칸과 줄바꿈을 없앤다.",
            "길이 n인 글에는 크기 k인 조각이 n - k + 1개 있다. 집합에 담으니 되풀이는 하나가 된다.",
            "글이 k보다 짧으면 글 전체가 조각 하나이다. max(1, n - k + 1)번 돌면 따로 다루지 않아도 된다.",
        ),
        mistakes=(
            Mistake(_last_shingle_lost, "마지막 조각이 빠졌다. 시작 자리는 0에서 n - k까지, 모두 n - k + 1개이다."),
            Mistake(_spaces_kept, "빈칸이 조각에 남았다. 띄어쓰기만 다른 글이 서로 다른 글이 된다."),
            Mistake(_short_text_empty, "크기보다 짧은 글에서 조각이 하나도 나오지 않았다. 글 전체를 조각 하나로 삼는다."),
            Mistake(_cut_in_blocks, "조각이 겹치지 않게 잘랐다. 한 글자만 밀려도 모든 조각이 달라진다. 한 글자씩 옮기며 자른다."),
        ),
    ),
    Exercise(
        name="jaccard",
        title="자카드 유사도",
        difficulty=1,
        minutes=5,
        reference=near_duplicates.jaccard,
        cases=lambda: [({1, 2, 3}, {2, 3, 4}), ({1}, {2}), (set(), set()), ({1, 2}, set()), ({1, 2, 3, 4}, {1, 2}), ({"가"}, {"가"})],
        hints=(
            "두 집합에 함께 있는 것의 수를, 어느 한쪽에라도 있는 것의 수로 나눈다.",
            "파이썬 집합에서 함께 있는 것은 a & b, 어느 쪽에든 있는 것은 a | b이다.",
            "둘 다 비었으면 같은 글이므로 1.0이다. 0으로 나누지 않게 먼저 가른다.",
        ),
        mistakes=(
            Mistake(_dice, "2|A∩B| / (|A|+|B|)는 다이스 계수이다. 자카드는 합집합의 크기로 나눈다."),
            Mistake(_over_the_smaller, "작은 집합의 크기로 나누었다. 그러면 짧은 글이 긴 글에 들어 있기만 해도 1이 된다."),
            Mistake(_sum_of_sizes, "두 크기의 합으로 나누었다. 함께 있는 것을 두 번 세게 된다. 합집합으로 나눈다."),
            Mistake(_two_empty_are_different, "빈 집합 둘은 같은 글이다. 1.0을 돌려준다."),
        ),
    ),
    Exercise(
        name="minhash_signature",
        title="MinHash 서명",
        difficulty=3,
        minutes=15,
        reference=near_duplicates.minhash_signature,
        cases=_minhash_cases,
        hints=(
            "해시 함수 하나를 모든 조각에 쓰고 가장 작은 값을 남긴다. 이것을 함수 k개로 되풀이한다.",
            "hashes[None, :]와 a[:, None]를 곱하면 (k, n) 표가 한 번에 나온다. uint64 곱셈은 2⁶⁴에서 저절로 잘린다.",
            "(표 + b[:, None]) >> np.uint64(32)로 윗자리 32비트를 얻고, axis=1로 최솟값을 구해 uint32로 바꾼다.",
        ),
        mistakes=(
            Mistake(_maximum, "가장 큰 값을 남겼다. 다른 글의 서명과 비교하려면 모두가 같은 쪽, 최솟값이어야 한다."),
            Mistake(_over_functions, "최솟값을 조각마다 구했다. 함수마다(axis=1) 하나씩, 모두 k개가 나와야 한다."),
            Mistake(_low_bits, "아랫자리 32비트를 썼다. 곱셈 해시의 아랫자리는 잘 섞이지 않는다. 오른쪽으로 32비트 민다."),
            Mistake(_no_offset, "b를 더하지 않았다. 모든 함수가 0을 0으로 보내게 된다."),
        ),
    ),
    Exercise(
        name="candidate_pairs",
        title="LSH: 같은 띠를 가진 쌍",
        difficulty=4,
        minutes=25,
        reference=near_duplicates.candidate_pairs,
        cases=_pair_cases,
        hints=(
            "서명을 rows개씩 bands토막으로 나눈다. 한 토막이라도 통째로 같으면 후보이다.",
            "토막마다 사전을 하나 두고, 토막의 값(tuple)을 열쇠로 글 번호를 모은다. 같은 칸에 모인 번호끼리 쌍을 만든다.",
            "쌍은 집합에 모아 되풀이를 없애고, 정렬해서 (쌍의 수, 2) 모양의 int64 배열로 만든다. 쌍이 없으면 reshape(-1, 2).",
        ),
        mistakes=(
            Mistake(_every_band, "모든 띠가 같은 쌍만 찾았다. 한 띠만 같아도 후보이다."),
            Mistake(_any_row, "숫자 하나만 같아도 후보로 삼았다. 띠 안의 rows개가 모두 같아야 한다."),
            Mistake(_bands_mixed, "첫째 띠와 둘째 띠의 값을 서로 비교했다. 띠마다 사전을 따로 둔다."),
            Mistake(_with_repeats, "같은 쌍이 여러 번 나왔다. 여러 띠에서 만난 쌍도 한 번만 적는다."),
        ),
    ),
    Exercise(
        name="word_ngrams",
        title="평가 문제와 겹치는 말 찾기",
        difficulty=2,
        minutes=10,
        reference=near_duplicates.word_ngrams,
        cases=lambda: [("고래는 물고기가 아니다, 그렇다.", 2), ("AI가 Seoul에서", 2), ("하나 둘", 3), ("하나 둘 셋", 3), ("", 1)],
        hints=(
            "문장 부호와 대소문자만 바꾼 문제도 같은 문제이다. 그래서 낱말만 남기고 소문자로 만든다.",
            r"re.findall(r'\w+', text.casefold())가 낱말의 목록이다.",
            "시작 자리 0부터 len(words) - size까지 ' '.join(words[i:i+size])를 모은다. 낱말이 모자라면 빈 목록이 된다.",
        ),
        mistakes=(
            Mistake(_punctuation_kept, "문장 부호가 낱말에 붙어 남았다. 쉼표 하나로 겹침을 놓친다."),
            Mistake(_case_kept, "대소문자를 가렸다. casefold로 먼저 맞춘다."),
            Mistake(_last_ngram_lost, "마지막 n-그램이 빠졌다. 시작 자리는 len(words) - size까지이다."),
            Mistake(_characters, "글자 n-그램을 만들었다. 여기서는 낱말을 센다."),
        ),
    ),
    Exercise(
        name="precision_recall",
        title="정밀도와 재현율",
        difficulty=1,
        minutes=5,
        reference=corpus.precision_recall,
        cases=lambda: [({1, 2, 3, 4}, {3, 4, 5}), ({1}, {1, 2, 3, 4}), ({1, 2}, set()), (set(), {1}), (set(), set()), ({1, 2}, {1, 2})],
        hints=(
            "맞힌 것은 두 집합에 함께 있는 것이다.",
            "정밀도는 '있다고 한 것' 가운데, 재현율은 '정말 있는 것' 가운데 맞힌 몫이다.",
            "나눌 것이 없으면(빈 집합) 재지 못한 것이므로 math.nan을 돌려준다. 0과는 다르다.",
        ),
        mistakes=(
            Mistake(_swapped, "정밀도와 재현율이 바뀌었다. 정밀도는 '있다고 한 것'(said)의 수로 나눈다."),
            Mistake(_over_union, "합집합으로 나누었다. 그것은 자카드 유사도이다."),
            Mistake(_empty_is_zero, "재지 못한 것을 0으로 적었다. 하나도 없던 결함의 재현율은 0이 아니라 '측정 안 함'(nan)이다."),
        ),
    ),
]

check = checker(week=2, exercises=EXERCISES)
