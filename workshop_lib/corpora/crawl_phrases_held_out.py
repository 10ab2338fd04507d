"""The same tables as ``crawl_phrases``, in wording that occurs nowhere there: the web of ``split="validation"``.

A cleaner's rules are written while looking at one set of pages. Its precision and recall mean something only on pages
that say the same things in other words, from other sites.
"""

from workshop_lib.corpora.crawl_phrases import LAUGH_CHARS, MASH, MASH_RUNS, TITLES  # noqa: F401  letters, not wording

DOMAINS = ("ggotdam.example", "www.hanbit-ilbo.example", "talk.solbaram.example", "note.eunhasu.example", "maru24.example")
SITES = ("꽃담", "한빛신문", "솔바람 톡", "은하수 노트", "마루24")

MENUS = ("처음으로 | 새소식 | 묻고 답하기 | 자료실", "☰ 메뉴", "콘텐츠로 건너뛰기", "내 정보 | 쪽지 0 | 나가기",
         "HOME > 이야기마당 > 읽을거리",
         "분야별 보기 ▼", "통합검색", "◀ 이전 | 위로 | 다음 ▶", "등록순 정렬 | 답변순 정렬", "팔로우 | 알림 받기",
         "아이디 저장 | 비밀번호 찾기",
         "종합 | 지역 | 살림 | 여행 | 사람들", "가+ 가-", "북마크 | 오류 제보")
BYLINES = ("승인 {date} {time}", "{nick} 님의 글 · {date}", "{name} 객원기자 | {date} {time}",
           "읽음 {count} | 하트 {small}", "최종업데이트 {date} {time}",
           "올린 날 {date}, 본 사람 {count}")
LEADS = ("【한빛신문 {name} 인턴기자】 ", "{name} 통신원= ")
SHARES = ("SNS로 퍼가기", "하트 {small} 스크랩 {small}", "링크 복사하기 | 메신저로 보내기",
          "이 글이 마음에 들면 하트를 눌러 주세요 {small}", "응원하기 {small} · 답글 {small}",
          "새 글 알림을 켜 두세요.")
REPORTERS = ("{name} 통신원 {mail}", "취재 {name} / {mail}", "{site} 편집부 {mail}")
COPYRIGHTS = ("이 기사의 모든 권리는 {site}에 있습니다. 퍼가기를 금합니다.", "All contents (c) {year} {site}",
              "허락 없는 전재와 데이터 수집을 금지합니다.",
              "{site} 콘텐츠를 허가 없이 옮길 수 없습니다.")
FOOTERS = ("약관 및 정책 | 도움말 | 운영원칙", "발행인 {name} 편집인 {name} 등록번호 별빛-{small}",
           "모바일 화면 | 데스크톱 화면", "회원만 의견을 남길 수 있습니다.",
           "앱에서 열기", "의견 {small}개 모두 펼치기", "ADVERTISEMENT", "창 닫기 | 오늘 그만 보기",
           "계속 이용하면 쿠키 정책에 동의한 것으로 봅니다.")
RELATED = ("이어서 읽기", "에디터 추천", "이 글과 비슷한 글", "지금 뜨는 글", "주간 조회 상위")
RELATED_TITLES = ("처음 만드는 나무 의자", "여름밤 옥상 음악회", "동네 목욕탕의 변신", "장마철 빨래 말리기",
                  "혼자 떠난 섬 여행", "오래된 라디오 고치기", "골목 화분 지도",
                  "밤기차 시간표", "할머니의 수제비 비법")
THREAD = ("{nick} {day} {time} 답글달기", "★★★★☆ {nick} | {day}")

PII_SENTENCES = {
    "phone": ("급하시면 {v} 로 걸어 주세요.", "담당자 직통 {v}", "주인 되시는 분은 {v} 쪽으로 연락 바랍니다."),
    "email": ("파일은 {v} 로 부탁드려요.", "답장은 {v} 에서 받습니다."),
    "resident": ("등본에 적힌 번호는 {v} 입니다.", "가입자 {v} 확인 부탁드립니다."),
    "card": ("환불은 {v} 카드로 해 주세요.", "할부로 긁은 {v} 승인 취소 바랍니다."),
}
LOOKALIKES = {
    "article_id": ("문서 고유번호 {v}", "이 글은 {v} 번 문서를 고쳐 쓴 것입니다."),
    "years": ("그 화가({v})의 그림을 다시 보았습니다.", "{v} 시기의 지도를 펼쳐 놓았습니다."),
    "isbn": ("도서번호는 {v} 입니다.",),
    "price": ("입장료가 {v}원이나 했습니다.", "{v}원짜리 찻잔을 샀습니다."),
    "barcode": ("봉지에 찍힌 숫자는 {v} 이네요.",),
    "order_number": ("배송 조회 번호 {v} 를 적어 두었습니다.",),
    "angle_bracket": ("어제 <{title}> 1화를 보고 잠을 못 잤어요.", "평점 2 < 3 이면 볼 만하다는 뜻입니다."),
    "abbreviation": ("ㅎㅇ 처음 글 남겨요.", "ㅊㅋ 드립니다, 오래 연재해 주세요."),
    "english_quote": ('표지에는 "The river remembers every boat."라는 문장이 찍혀 있었습니다.',),
    "library_loan": ("새로 들어온 책은 한 사람이 다섯 권까지 대출합니다.", "상호대차로 대출한 책이 오늘 왔습니다."),
    "casino_story": ("소설 속 아버지는 카지노에서 딴 돈을 모두 돌려줍니다.", "도박을 끊은 사람의 고백이라 더 와닿았습니다."),
    "login_story": ("주인공이 회원가입을 하려다 포기하는 대목에서 웃었습니다.",),
}
LAUGHS = ("첫 줄부터 반칙이네요 {run}", "댓글 보러 또 왔습니다{run}", "이 작가님 천재 아닌가요{run}", "아침부터 눈물 나네 {run}")

TOO_SHORT = ("주소를 다시 확인해 주세요.", "준비 중인 화면입니다.", "지워진 글이에요.", "회원 공개 글입니다.",
             "방가방가", "인사드려요.", "스크랩해 갈게요.", "연결이 끊어졌습니다.", "제곧내",
             "글이 없습니다.")
REPEATS = ("지금 바로 신청하세요", "사진 크게 보기", "새 댓글이 달렸습니다", "오늘도 출석 완료",
           "품절 임박 상품입니다", "좋은 아침입니다 여러분", "바로가기 바로가기")
SPAM = {
    "gambling": ("라이브 블랙잭 {name} 오픈 기념 입플 이벤트", "가입만 해도 {won}만 포인트 증정 홀짝 게임",
                 "당첨금 즉시 환급 {name}벳 공식 총판 모집", "파워볼 분석방 무료 입장 적중률 {pct}프로",
                 "룰렛 돌리고 보너스 {pct}퍼센트 받기"),
    "loan": ("급전 필요하신 분 {num}분이면 통장에 {won}만", "휴대폰 하나로 비상금 빌려드립니다",
             "소득 증빙 없이 한도 {won}만 즉시 승인", "타사 부결도 진행 가능 {name}캐피탈",
             "카드 한도 현금으로 바꿔 드려요 수수료 최저"),
    "adult": ("심심한 {name} 회원님 1대1 비밀 대화 {num}분 공짜", "오늘 밤 번개 만남 주선 회원 {count}명 대기",
              "미성년자 출입 금지 은밀한 방 {name}", "애인 대행 지역별 상담 텔레 {code}",
              "19금 동영상 모음 회원 전용 입장권"),
}
SPAM_NAMES = ("마카오", "포세이돈", "킹스", "스타", "레드", "올인", "문라이트")

_EN = (("The river museum", "A retired sailor", "The evening class", "Our football club", "The hotel kitchen"),
       ("lost its only key", "painted the whole wall blue", "invited every visitor to tea", "counted the boats again"),
       ("during the long summer", "on a quiet Sunday", "without telling anyone"),
       ("which surprised the mayor", "until the lights went out", "and nobody minded at all"))
_JA = (("山の旅館では", "若い漁師は", "町の時計屋が", "図工の先生は"), ("冬の朝に", "誰にも言わずに", "三年ぶりに"),
       ("青い船を直しました", "古い歌を歌いました", "窓を全部開けました"), ("。とても静かでした。", "。皆が驚きました。"))
_ZH = (("山里的旅店", "年轻的渔夫", "镇上的钟表匠", "美术老师"), ("在冬天的早晨", "没有告诉任何人", "时隔三年"),
       ("修好了蓝色的船", "唱起了老歌", "打开了所有的窗户"), ("，四周非常安静。", "，大家都很惊讶。"))
FOREIGN = {"en": (_EN, " ", ". "), "ja": (_JA, "", ""), "zh": (_ZH, "", "")}
STYLES = ("press", "table", "note")
