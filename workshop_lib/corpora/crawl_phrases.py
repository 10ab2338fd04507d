"""The words of the web around an article: what ``crawl`` mixes into clean documents.

Constants only. Every name, address and number is invented: domains end in ``.example`` (RFC 2606), so nothing
here can reach a real site or person. Slots in braces are filled by ``crawl``.
"""

DOMAINS = ("haneul-blog.example", "dalbit.example", "www.saebyeok-news.example", "cafe.norannabi.example",
           "m.bomnal.example", "sarangbang.example", "old.hanmaru.example", "story.byeolsok.example")
SITES = ("하늘 블로그", "달빛 게시판", "새벽일보", "노란나비 카페", "봄날 모바일", "사랑방", "한마루", "별속이야기")
SURNAMES = "김이박최정강조윤장임한오서신권황안송류홍"
GIVEN = ("하늘", "바다", "지우", "서윤", "도현", "민재", "예린", "수아", "준서", "다온", "가람", "은별", "태오", "나래")
MAIL_USERS = ("haneul", "bada", "jiwoo.kim", "seoyun", "dohyun_p", "minjae88", "yerin.lee", "sua-choi", "junseo7",
              "daon", "garam.han", "eunbyeol", "taeo_j", "narae21", "help", "contact", "library")
MAIL_HOSTS = ("dalbit.example", "mail.bomnal.example", "haneul-blog.example", "saebyeok-news.example",
              "norannabi.example", "byeolsok.example")

# --- boilerplate -------------------------------------------------------------------------------------------
MENUS = ("홈 | 뉴스 | 연예 | 스포츠 | 날씨 | 로그인", "전체메뉴 열기", "본문 바로가기", "주메뉴 바로가기",
         "로그인 | 회원가입 | 고객센터 | 사이트맵", "홈 > 게시판 > 자유게시판", "홈 > 문화 > 책·이야기",
         "카테고리 열기", "검색어를 입력하세요", "이전글 | 다음글 | 목록", "글쓰기 | 수정 | 삭제 | 답글",
         "최신순 | 추천순 | 댓글순", "구독하기 | 이웃추가 | 알림설정", "메인메뉴 정치 경제 사회 문화 세계 오피니언",
         "MY페이지 | 장바구니 | 주문조회", "글자 크기 작게 크게", "프린트 | 스크랩 | 신고")
BYLINES = ("입력 {date} {time} | 수정 {date} {time}", "기사입력 {date} {time}", "작성자 {nick} | 조회 {count} | 추천 {small}",
           "{date} {time} · 댓글 {small}개", "[{site}={name} 기자]", "등록일 {date} 조회수 {count}", "글쓴이 : {nick}")
LEADS = ("({city}={site}) {name} 기자 = ", "[{site}={name} 기자] ", "[{site} {name}] ")
THREAD = ("{nick} | {day}", "{nick} {day} 신고", "별점 {small} · {nick}")
SHARES = ("공유하기 페이스북 트위터 카카오톡 URL복사", "이 글을 공유하기", "카카오스토리 밴드 라인으로 보내기",
          "좋아요 {small} 공감 {small} 댓글 {small}",
          "이 기사를 추천합니다 {small}", "URL 복사 | 이메일 보내기 | 인쇄", "공감 {small} 비공감 {small} 신고",
          "구독 버튼을 누르면 새 글을 가장 먼저 받아 볼 수 있습니다.")
REPORTERS = ("{name} 기자 {mail}", "{name} 기자 ({mail})", "글·사진 {name} 기자 {mail}", "{site} {name} 기자  {mail}",
             "제보 및 문의 : {mail}")
COPYRIGHTS = ("저작권자 ⓒ {site}, 무단 전재 및 재배포 금지", "Copyright ⓒ {year} {site}. All rights reserved.",
              "ⓒ {site} 무단전재 및 재배포, AI 학습 및 활용 금지", "본 콘텐츠의 저작권은 {site}에 있으며 무단 복제를 금합니다.",
              "이 글의 무단 복사와 배포를 금합니다.")
FOOTERS = ("이용약관 | 개인정보처리방침 | 청소년보호정책 | 고객센터", "상호 : {site} | 대표 : {name} | 사업자등록번호 : {business}",
           "통신판매업신고 제{year}-별빛-{small}호", "회사소개 | 광고문의 | 제휴제안 | 이용약관", "PC버전으로 보기 | 맨 위로",
           "로그인 후 댓글을 작성할 수 있습니다.", "댓글 {small} | 로그인이 필요합니다.",
           "이 사이트는 쿠키를 사용합니다. 모두 동의 | 설정",
           "다른 글 더 보기 >", "광고 | 이 배너를 7일간 보지 않기")
RELATED = ("관련 기사", "많이 본 뉴스", "이 카테고리의 다른 글", "함께 보면 좋은 글", "인기글 TOP 5", "추천 기사")
RELATED_TITLES = ("가을 산책길 열 곳을 걷다", "우리 동네 작은 책방 이야기", "올겨울 첫눈은 언제 올까",
                  "김장철 배춧값 한눈에 보기", "바다가 보이는 마을 도서관",
                  "주말 나들이 도시락 싸는 법", "고양이와 함께 사는 법 7가지", "새 학기 준비물 총정리",
                  "별자리 관찰 모임 모집", "전통시장 맛집 지도",
                  "버스 노선 개편, 무엇이 달라지나", "비 오는 날 듣기 좋은 노래")

# --- personal data: the sentence stays, the value is masked -------------------------------------------------------
PII_SENTENCES = {
    "phone": ("연락처는 {v} 입니다.", "문의 : {v}", "궁금한 점은 {v} 번으로 전화 주세요.", "문자는 {v} 여기로 보내 주시면 됩니다.",
              "물건을 찾으신 분은 {v} 번으로 알려 주세요.", "예약 전화 {v} (오전 9시부터 오후 6시까지)"),
    "email": ("메일은 {v} 입니다.", "신청서는 {v} 주소로 보내 주세요.", "자세한 내용은 {v} 앞으로 물어봐 주세요.", "이메일: {v}"),
    "resident": ("주민등록번호 : {v}", "신청자 주민번호는 {v} 입니다.", "본인 확인 번호 {v} 맞나요?"),
    "card": ("카드번호 {v} 결제가 두 번 되었어요.", "결제 카드 : {v}", "제 카드 번호는 {v} 인데 취소가 안 됩니다."),
}
LOOKALIKES = {
    "article_id": ("기사 번호 {v} 에서 옮겨 왔습니다.", "원문 글번호는 {v} 입니다.", "게시물 번호 {v}"),
    "years": ("이 이야기를 처음 모은 사람은 {v} 사이에 살았다고 합니다.", "전시 기간으로 다룬 시대는 {v} 년입니다.",
              "연표에는 ({v}) 라고만 적혀 있습니다."),
    "isbn": ("책 번호는 ISBN {v} 입니다.", "ISBN: {v}"),
    "price": ("책값은 {v}원입니다.", "할인해서 {v}원에 샀습니다.", "모두 더하니 {v}원이었습니다."),
    "barcode": ("상자 뒷면의 바코드는 {v} 이었습니다.", "바코드 {v} 상품을 찾고 있어요."),
    "order_number": ("주문번호 {v} 는 어제 도착했습니다.", "접수번호는 {v} 입니다."),
    "angle_bracket": ("요즘 <{title}> 보는 재미로 삽니다 >_<", "<{title}> 다들 보셨나요?", "별점은 5 > 4 > 3 순서로 보시면 됩니다."),
    "abbreviation": ("ㅇㅇ 저도 그렇게 봤어요.", "ㄹㅇ 마음이 따뜻해지는 글이네요.", "ㄱㅅ합니다 잘 읽었어요.",
                     "ㅇㅋ 다음 글도 기다릴게요."),
    "library_loan": ("대출한 책은 2주 안에 도서관에 돌려주면 됩니다.", "도서 대출은 오후 여섯 시까지입니다."),
    "casino_story": ("드라마에서는 주인공이 카지노에서 전 재산을 잃습니다.", "영화 속 사채업자의 대출 장면이 무서웠어요."),
    "login_story": ("로그인이 안 돼서 고객센터에 전화했던 날이 떠올랐습니다.",),
    "english_quote": ('제목 옆에는 "Every small door opens to a garden."이라고 적혀 있었습니다.',
                      'She said, "Please read this page slowly." 이 한 줄이 오래 남습니다.'),
}
TITLES = ("달빛 우체국", "바람의 계단", "일곱 번째 여름", "고래가 사는 골목", "마지막 정류장")

# --- net speak ---------------------------------------------------------------------------------------------
LAUGHS = ("너무 재미있어요{run}", "마지막에 빵 터졌네요 {run}", "읽다가 울었어요{run}",
          "다음 편도 꼭 올려 주세요{run}", "와 이걸 이제 봤네{run}",
          "우리 애가 또 읽어 달래요 {run}", "퇴근길에 읽고 혼자 웃음 {run}", "이거 실화인가요{run}")
LAUGH_CHARS = "ㅋㅋㅋㅎㅠㅜ!?~"
MASH = "ㅁㄴㅇㄹㅎㅗㅓㅏㅣㅂㅈㄷㄱㅅㅛㅕㅑㅐㅔㅌㅊㅍㅡ"
MASH_RUNS = ("ㅁㄴㅇㄹ", "ㅁㄴㅇㄻㄴㅇㄹ", "ㅂㅈㄷㄱ", "ㅋㅌㅊㅍ", "ㅁㄴㅇㄹㅁㄴㅇㄹ", "ㅏㅓㅏㅣㅗㅓ", "ㄴㅇㄹㄴㅇㄹㅎ")

# --- pages to be removed -----------------------------------------------------------------------------------
TOO_SHORT = ("페이지를 찾을 수 없습니다.", "로딩 중입니다.", "첫 글입니다.", "잘 보고 갑니다.", "출석합니다.",
             "삭제된 게시물입니다.", "비밀글입니다.", "내용 없음",
             "좋은 하루 되세요.", "퍼가요", "등업 신청합니다.", "점검 중입니다. 잠시 후 다시 들러 주세요.",
             "권한이 없습니다.", "1등", "테스트입니다.", "감사합니다.")
REPEATS = ("오늘의 특가 상품을 확인하세요", "사진을 누르면 크게 볼 수 있습니다", "이벤트 당첨을 축하드립니다",
           "새 글이 등록되었습니다", "자동 등록 글입니다",
           "무료 배송 무료 배송", "맛있는 빵 파는 집", "안녕하세요 반갑습니다", "더보기 더보기", "좋아요 눌러 주세요")
SPAM = {
    "gambling": ("안전한 {name}카지노 신규 가입 첫 충전 {pct}% 지급",
                 "바카라 슬롯 실시간 스포츠 배팅 한곳에서 즐기세요", "먹튀 없는 안전 놀이터 {name} 추천인 코드 {code}",
                 "토토 사다리 게임 매일 환전 무제한", "오늘 가입하면 꽁머니 {won}만 원 바로 지급",
                 "검증된 메이저 사이트 평생 주소 안내", "롤링 없이 바로 출금되는 {name}카지노"),
    "loan": ("무직자 당일 대출 최대 {won}만 원 가능", "신용 등급 상관없이 {num}분 만에 입금",
             "누구나 가능한 소액 대출 24시간 상담", "기존 대출 있어도 추가 대출 OK",
             "{name}금융 무서류 무방문 비대면 대출", "카카오톡 {code} 로 문의하면 한도 조회 무료", "연체자 회생자 환영 당일 송금"),
    "adult": ("성인 인증 후 입장하는 {name} 만남 채팅", "외로운 밤 {num}분 무료 성인 채팅",
              "19세 이상만 입장 가능 비밀 상담방", "지금 접속 중인 회원 {count}명 조건 없는 만남",
              "성인 전용 영상 무료 체험 쿠폰 {num}장", "{name} 성인 사이트 새 주소 안내", "전국 어디나 출장 만남 문의 카톡 {code}"),
}
SPAM_NAMES = ("골드", "로얄", "에이스", "다이아", "럭키", "황금", "천국", "제우스", "비너스", "엠파이어")

_EN_WHO = ("The old library", "Our small team", "A local baker", "The town council", "My neighbor", "The new train line")
_EN_DO = ("opened a second room", "announced a change of plan", "planted forty apple trees", "wrote a long letter",
          "fixed the broken clock", "started selling warm bread")
_EN_WHEN = ("last Monday", "in early spring", "after the storm", "before the holidays", "for the first time")
_EN_END = ("and many people came to see it", "although nobody had asked for it", "because the weather was kind",
           "so the street felt alive again", "and the children were delighted")
_JA_WHO = ("古い図書館は", "私たちの町は", "駅前のパン屋は", "隣の家の猫は", "新しい先生は", "港の灯台は")
_JA_WHEN = ("先週の月曜日に", "春の初めに", "雨が上がったあとで", "初めて", "夕方になると")
_JA_DO = ("小さな庭を開きました", "長い手紙を書きました", "みんなに笑顔を見せました", "静かに門を閉めました", "新しい地図を作りました")
_JA_END = ("。たくさんの人が見に来ました。", "。とても良い一日でした。", "。誰もその理由を知りません。", "。明日もまた続きます。")
_ZH_WHO = ("老图书馆", "我们的小镇", "车站旁的面包店", "邻居家的猫", "新来的老师", "港口的灯塔")
_ZH_WHEN = ("上个星期一", "初春的时候", "雨停以后", "第一次", "到了傍晚")
_ZH_DO = ("打开了一座小花园", "写了一封很长的信", "给大家带来了笑容", "悄悄地关上了门", "画了一张新的地图")
_ZH_END = ("，许多人都来参观。", "，那是美好的一天。", "，没有人知道为什么。", "，明天还会继续。")
# language -> (sentence parts in order, what joins the parts, what ends the sentence)
FOREIGN = {"en": ((_EN_WHO, _EN_DO, _EN_WHEN, _EN_END), " ", ". "),
           "ja": ((_JA_WHO, _JA_WHEN, _JA_DO, _JA_END), "", ""),
           "zh": ((_ZH_WHO, _ZH_WHEN, _ZH_DO, _ZH_END), "", "")}
STYLES = ("modern", "blog", "table", "forum")
