"""Particles, conjugation and numbers against tables of certain forms, an independent reading of jamo, and Kiwi."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workshop_lib import WorkshopError
from workshop_lib.corpora import grammar
from workshop_lib.corpora.grammar import attach, conjugate, count, has_final, native, ordinal, sino

ATTACHED = """
고양이 은/는 고양이는|곰 은/는 곰은|사과 을/를 사과를|연필 을/를 연필을|숲 으로/로 숲으로|교실 으로/로 교실로|학교 으로/로 학교로
물 과/와 물과|나무 과/와 나무와|민준 아/야 민준아|토리 아/야 토리야|눈 이나/나 눈이나|비 이나/나 비나|별 이라/라 별이라
친구 이에요/예요 친구예요|선물 이에요/예요 선물이에요|다람쥐 이었다/였다 다람쥐였다|여름 이었다/였다 여름이었다
나 이/가 내가|저 이/가 제가|너 이/가 네가|누구 이/가 누가|하나 이/가 하나가|꽃 은/는 꽃은|곰 는/은 곰은|곰 에게 곰에게
교실 으로부터/로부터 교실로부터|붓 으로써/로써 붓으로써|칼 으로써/로써 칼로써
3 을/를 3을|2 은/는 2는|10 이/가 10이|100 으로/로 100으로|1000 은/는 1000은|7 으로/로 7로|1,000 은/는 1,000은|3.14 은/는 3.14는|0 을/를 0을
2,000,000,000,000 은/는 2,000,000,000,000는|3kg 을/를 3kg을|50% 이/가 50%가
GPT 은/는 GPT는|LLM 을/를 LLM을|vLLM 은/는 vLLM은|JSONL 을/를 JSONL을|Python 은/는 Python은|Google 은/는 Google은|cat 이/가 cat이
token 은/는 token은|Transformer 을/를 Transformer를|BERT 과/와 BERT와|H100 은/는 H100은|X 으로/로 X로|L 으로/로 L로
토크나이저(tokenizer) 은/는 토크나이저(tokenizer)는|“사과” 이라고/라고 “사과”라고|(곰) 은/는 (곰)은|ㄱ 은/는 ㄱ은|ㅏ 은/는 ㅏ는
漢 은/는 漢은(는)|漢 으로/로 漢(으)로|漢 이/가 漢이(가)
"""


@pytest.mark.parametrize("row", ATTACHED.strip().replace("\n", "|").split("|"))
def test_attach_table(row):
    word, particle, expected = row.split(" ")
    assert attach(word, particle) == expected


@given(st.text(alphabet=st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), min_size=1, max_size=6))
def test_attach_agrees_with_unicode_decomposition(word):
    closed = "ᆨ" <= unicodedata.normalize("NFD", word)[-1] <= "ᇂ"
    liquid = unicodedata.normalize("NFD", word)[-1] == "ᆯ"
    assert has_final(word) == closed
    for pair in grammar.PARTICLES:
        if word in ("나", "저", "너", "누구") and pair == "이/가":
            continue
        after_consonant, after_vowel = pair.split("/")
        vowel_form = not closed or (liquid and pair.startswith("으로"))
        assert attach(word, pair) == word + (after_vowel if vowel_form else after_consonant)
        assert attach(unicodedata.normalize("NFD", word), pair).endswith(after_vowel if vowel_form else after_consonant)


@given(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3))
def test_compose_inverts_decompose(syllable):
    assert grammar.compose(*grammar.decompose(syllable)) == syllable


@given(st.integers(min_value=1, max_value=10**13), st.sampled_from(["은/는", "을/를", "으로/로"]))
def test_digits_sound_like_their_reading(number, particle):
    assert attach(str(number), particle)[len(str(number)) :] == attach(sino(number), particle)[len(sino(number)) :]


def test_unreadable_word_is_named():
    with pytest.raises(WorkshopError, match="漢"):
        has_final("漢")
    with pytest.raises(WorkshopError, match="예쁨"):
        conjugate("예쁨", "고")


ENDINGS = ("고", "아서", "았다", "으면", "은", "을", "으니", "습니다", "네", "으셨다")
CONJUGATED = """
가다 가고 가서 갔다 가면 간 갈 가니 갑니다 가네 가셨다
오다 오고 와서 왔다 오면 온 올 오니 옵니다 오네 오셨다
서다 서고 서서 섰다 서면 선 설 서니 섭니다 서네 서셨다
마시다 마시고 마셔서 마셨다 마시면 마신 마실 마시니 마십니다 마시네 마시셨다
하다 하고 해서 했다 하면 한 할 하니 합니다 하네 하셨다
조용하다 조용하고 조용해서 조용했다 조용하면 조용한 조용할 조용하니 조용합니다 조용하네 조용하셨다
배우다 배우고 배워서 배웠다 배우면 배운 배울 배우니 배웁니다 배우네 배우셨다
주다 주고 줘서 줬다 주면 준 줄 주니 줍니다 주네 주셨다
되다 되고 돼서 됐다 되면 된 될 되니 됩니다 되네 되셨다
보내다 보내고 보내서 보냈다 보내면 보낸 보낼 보내니 보냅니다 보내네 보내셨다
세다 세고 세서 셌다 세면 센 셀 세니 셉니다 세네 세셨다
켜다 켜고 켜서 켰다 켜면 켠 켤 켜니 켭니다 켜네 켜셨다
뛰다 뛰고 뛰어서 뛰었다 뛰면 뛴 뛸 뛰니 뜁니다 뛰네 뛰셨다
쉬다 쉬고 쉬어서 쉬었다 쉬면 쉰 쉴 쉬니 쉽니다 쉬네 쉬셨다
피다 피고 피어서 피었다 피면 핀 필 피니 핍니다 피네 피셨다
먹다 먹고 먹어서 먹었다 먹으면 먹은 먹을 먹으니 먹습니다 먹네 먹으셨다
잡다 잡고 잡아서 잡았다 잡으면 잡은 잡을 잡으니 잡습니다 잡네 잡으셨다
좁다 좁고 좁아서 좁았다 좁으면 좁은 좁을 좁으니 좁습니다 좁네 좁으셨다
수줍다 수줍고 수줍어서 수줍었다 수줍으면 수줍은 수줍을 수줍으니 수줍습니다 수줍네 수줍으셨다
웃다 웃고 웃어서 웃었다 웃으면 웃은 웃을 웃으니 웃습니다 웃네 웃으셨다
좋다 좋고 좋아서 좋았다 좋으면 좋은 좋을 좋으니 좋습니다 좋네 좋으셨다
믿다 믿고 믿어서 믿었다 믿으면 믿은 믿을 믿으니 믿습니다 믿네 믿으셨다
얇다 얇고 얇아서 얇았다 얇으면 얇은 얇을 얇으니 얇습니다 얇네 얇으셨다
만들다 만들고 만들어서 만들었다 만들면 만든 만들 만드니 만듭니다 만드네 만드셨다
놀다 놀고 놀아서 놀았다 놀면 논 놀 노니 놉니다 노네 노셨다
길다 길고 길어서 길었다 길면 긴 길 기니 깁니다 기네 기셨다
돕다 돕고 도와서 도왔다 도우면 도운 도울 도우니 돕습니다 돕네 도우셨다
춥다 춥고 추워서 추웠다 추우면 추운 추울 추우니 춥습니다 춥네 추우셨다
아름답다 아름답고 아름다워서 아름다웠다 아름다우면 아름다운 아름다울 아름다우니 아름답습니다 아름답네 아름다우셨다
부드럽다 부드럽고 부드러워서 부드러웠다 부드러우면 부드러운 부드러울 부드러우니 부드럽습니다 부드럽네 부드러우셨다
걷다 걷고 걸어서 걸었다 걸으면 걸은 걸을 걸으니 걷습니다 걷네 걸으셨다
듣다 듣고 들어서 들었다 들으면 들은 들을 들으니 듣습니다 듣네 들으셨다
알아듣다 알아듣고 알아들어서 알아들었다 알아들으면 알아들은 알아들을 알아들으니 알아듣습니다 알아듣네 알아들으셨다
깨닫다 깨닫고 깨달아서 깨달았다 깨달으면 깨달은 깨달을 깨달으니 깨닫습니다 깨닫네 깨달으셨다
짓다 짓고 지어서 지었다 지으면 지은 지을 지으니 짓습니다 짓네 지으셨다
낫다 낫고 나아서 나았다 나으면 나은 나을 나으니 낫습니다 낫네 나으셨다
부르다 부르고 불러서 불렀다 부르면 부른 부를 부르니 부릅니다 부르네 부르셨다
모르다 모르고 몰라서 몰랐다 모르면 모른 모를 모르니 모릅니다 모르네 모르셨다
따르다 따르고 따라서 따랐다 따르면 따른 따를 따르니 따릅니다 따르네 따르셨다
들르다 들르고 들러서 들렀다 들르면 들른 들를 들르니 들릅니다 들르네 들르셨다
다다르다 다다르고 다다라서 다다랐다 다다르면 다다른 다다를 다다르니 다다릅니다 다다르네 다다르셨다
푸르다 푸르고 푸르러서 푸르렀다 푸르면 푸른 푸를 푸르니 푸릅니다 푸르네 푸르셨다
푸다 푸고 퍼서 펐다 푸면 푼 풀 푸니 풉니다 푸네 푸셨다
쓰다 쓰고 써서 썼다 쓰면 쓴 쓸 쓰니 씁니다 쓰네 쓰셨다
바쁘다 바쁘고 바빠서 바빴다 바쁘면 바쁜 바쁠 바쁘니 바쁩니다 바쁘네 바쁘셨다
예쁘다 예쁘고 예뻐서 예뻤다 예쁘면 예쁜 예쁠 예쁘니 예쁩니다 예쁘네 예쁘셨다
모으다 모으고 모아서 모았다 모으면 모은 모을 모으니 모읍니다 모으네 모으셨다
담그다 담그고 담가서 담갔다 담그면 담근 담글 담그니 담급니다 담그네 담그셨다
빨갛다 빨갛고 빨개서 빨갰다 빨가면 빨간 빨갈 빨가니 빨갛습니다 빨갛네 빨가셨다
하얗다 하얗고 하얘서 하얬다 하야면 하얀 하얄 하야니 하얗습니다 하얗네 하야셨다
뻘겋다 뻘겋고 뻘게서 뻘겠다 뻘거면 뻘건 뻘걸 뻘거니 뻘겋습니다 뻘겋네 뻘거셨다
그렇다 그렇고 그래서 그랬다 그러면 그런 그럴 그러니 그렇습니다 그렇네 그러셨다
커다랗다 커다랗고 커다래서 커다랬다 커다라면 커다란 커다랄 커다라니 커다랗습니다 커다랗네 커다라셨다
있다 있고 있어서 있었다 있으면 있은 있을 있으니 있습니다 있네 있으셨다
"""


@pytest.mark.parametrize("row", CONJUGATED.strip().split("\n"))
def test_conjugate_table(row):
    word, *forms = row.split(" ")
    assert [conjugate(word, ending) for ending in ENDINGS] == forms


@pytest.mark.parametrize(
    "word, ending, options, expected",
    [
        ("묻다", "어서", {"irregular": ""}, "묻어서"),
        ("묻다", "어서", {}, "물어서"),
        ("이르다", "아서", {"irregular": "러"}, "이르러서"),
        ("굽다", "은", {"irregular": ""}, "굽은"),
        ("보다", "았다", {"contract": False}, "보았다"),
        ("오다", "았다", {"contract": False}, "왔다"),
        ("마시다", "았다", {"contract": False}, "마셨다"),
        ("되다", "았다", {"contract": False}, "되었다"),
        ("하다", "아", {"contract": False}, "하여"),
        ("가다", "는다", {}, "간다"),
        ("먹다", "는다", {}, "먹는다"),
        ("만들다", "는다", {}, "만든다"),
        ("만들다", "는", {}, "만드는"),
        ("만들다", "으려고", {}, "만들려고"),
        ("만들다", "지", {}, "만들지"),
        ("살다", "음", {}, "삶"),
        ("걷다", "음", {}, "걸음"),
        ("가다", "읍시다", {}, "갑시다"),
        ("놀다", "읍시다", {}, "놉시다"),
        ("돕다", "읍시다", {}, "도웁시다"),
        ("앉다", "으세요", {}, "앉으세요"),
        ("주다", "으세요", {}, "주세요"),
        ("줍다", "으세요", {}, "주우세요"),
        ("이다", "아요", {}, "이에요"),
        ("아니다", "어요", {}, "아니에요"),
        ("가다", "았지만", {}, "갔지만"),
        ("크다", "아요", {}, "커요"),
        ("뜨겁다", "은데", {}, "뜨거운데"),
    ],
)
def test_conjugate_special(word, ending, options, expected):
    assert conjugate(word, ending, **options) == expected


def test_conjugate_agrees_with_kiwi():
    """Kiwi joins morphemes by its own rules; it writes 봐서 where we do, so contracted forms are compared."""
    kiwi = pytest.importorskip("kiwipiepy").Kiwi()
    verbs = "가다 오다 마시다 하다 배우다 만들다 놀다 먹다 잡다 듣다 걷다 짓다 부르다 모르다 쓰다 모으다 줍다 돕다 뛰다 웃다"
    adjectives = "춥다 아름답다 예쁘다 바쁘다 빨갛다 하얗다 그렇다 길다 좋다 작다 푸르다 다르다 빠르다 가볍다"
    mapped = {"고": "고", "아서": "어서", "으면": "으면", "은": "은", "을": "을", "습니다": "습니다"}
    wrong = []
    for tag, words in (("VV", verbs), ("VA", adjectives)):
        for word in words.split():
            regular = "" if grammar.irregular_class(word) in ("", "르", "러", "우") else "-I"
            for ending, form in mapped.items():
                joined = kiwi.join([(word[:-1], tag + regular), (form, "ETM" if ending in "은을" else "EC")])
                if joined != conjugate(word, ending):
                    wrong.append((word, ending, joined, conjugate(word, ending)))
    assert not wrong


def test_numbers():
    assert [native(n) for n in (1, 3, 11, 20, 99)] == ["하나", "셋", "열하나", "스물", "아흔아홉"]
    assert [native(n, before_noun=True) for n in (1, 4, 14, 20, 21)] == ["한", "네", "열네", "스무", "스물한"]
    assert sino(0) == "영" and sino(25) == "이십오" and sino(10000) == "만" and sino(2026) == "이천이십육"
    assert sino(123400) == "십이만 삼천사백" and sino(100010000) == "일억 일만"
    assert count(3, "마리") == "세 마리" and count(20, "살") == "스무 살" and count(3, "층") == "삼 층"
    assert count(25, "분") == "이십오 분" and count(7, "시") == "일곱 시" and count(6, "월") == "유월"
    assert count(101, "마리") == "백한 마리" and count(200, "명") == "이백 명"
    assert ordinal(1) == "첫 번째" and ordinal(2) == "두 번째" and ordinal(20) == "스무 번째"
    for bad in (lambda: sino(-1), lambda: native(0)):
        with pytest.raises(WorkshopError):
            bad()


def test_familiar_names():
    assert grammar.familiar("민준") == "민준이" and grammar.familiar("토리") == "토리"
