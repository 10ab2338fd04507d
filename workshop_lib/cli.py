"""`workshop …`: run the course, read its report card, keep the notebooks in step, talk to the model."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from workshop_lib import WorkshopError, __version__

# argparse speaks English; these are its words that a learner meets.
KOREAN = {
    "usage: ": "사용법: ",
    "options": "선택 사항",
    "positional arguments": "인자",
    "show this help message and exit": "이 도움말을 보여 준다",
    "show program's version number and exit": "판 번호를 보여 준다",
    "%(prog)s: error: %(message)s\n": "%(prog)s: 오류: %(message)s\n",
    "argument %(argument_name)s: %(message)s": "%(argument_name)s: %(message)s",
    "the following arguments are required: %s": "빠진 인자: %s",
    "unrecognized arguments: %s": "모르는 인자: %s",
    "expected one argument": "값이 하나 필요하다",
    "invalid choice: %(value)r (choose from %(choices)s)": "%(value)s은(는) 고를 수 없다. 고를 수 있는 것: %(choices)s",
    "invalid %(type)s value: %(value)r": "%(value)r은(는) %(type)s이(가) 아니다",
}
argparse._ = lambda text: KOREAN.get(text, text)


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 a mistake that the message names, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal of another encoding (CP949) has no ✅
    options = _parser().parse_args(arguments)
    return reported(lambda: options.command(options), "완성된 산출물은 그대로 있다. 같은 명령을 다시 실행하면 멈춘 곳에서 이어 간다.")


def reported(command: Callable[[], int | None], interrupted: str) -> int:
    """The exit code of a command, and its mistake in a Korean line. `interrupted`: what Ctrl-C leaves. For `python -m` modules too."""
    try:
        return command() or 0
    except WorkshopError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _fail(f"중단했다. {interrupted}")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(f"디스크가 가득 찼다({error.filename or '임시 파일'}). 공간을 비우고 같은 명령을 다시 실행한다. "
                         "완성된 산출물은 그대로 있다.")
        if isinstance(error, PermissionError):
            return _fail(f"{error.filename}을(를) 읽거나 쓸 권한이 없다. 권한을 고치거나 --home으로 다른 폴더를 쓴다.")
        return _fail(f"파일을 다루지 못했다: {error}")


def _fail(message: str) -> int:
    print(f"오류: {message}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="workshop", description="LLM From Scratch 워크숍의 명령")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="명령")

    def command(name: str, function, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        return added

    run = command("run", _run, "과정의 단계를 차례로 실행한다")
    run.add_argument("--weeks", type=_weeks, default=(1, 10), metavar="2-5", help="실행할 주차 (기본: 전부)")
    _workspace_options(run)
    _workspace_options(command("report", _report, "측정한 값으로 성적표를 만들고 보여 준다"))
    command("doctor", _doctor, "이 기계에 과정의 도구가 준비되었는지 본다")
    chat = command("chat", _chat, "내가 만든 모델과 이어쓰기를 주고받는다")
    chat.add_argument("--temperature", type=_temperature, default=0.8, metavar="T", help="0이면 가장 그럴듯한 토큰만 (기본: 0.8)")
    chat.add_argument("--max-tokens", type=_count, default=120, metavar="N", help="이어 쓸 토큰 수 (기본: 120)")
    _workspace_options(chat)
    serve = command("serve", _serve, "모델을 OpenAI 형식의 서버로 띄운다 (Ctrl-C로 멈춘다)")
    serve.add_argument("--model", type=Path, metavar="DIR", help="모델 폴더 (기본: 작업 폴더의 base_model)")
    serve.add_argument("--host", default="127.0.0.1", metavar="H", help="주소. 0.0.0.0이면 다른 기계도 부를 수 있다 (기본: 127.0.0.1)")
    serve.add_argument("--port", type=_port, default=8000, metavar="P", help="포트. 0이면 빈 포트 (기본: 8000)")
    serve.add_argument("--max-batch", type=_count, default=8, metavar="N", help="한꺼번에 답할 요청 수 (기본: 8)")
    serve.add_argument("--queue", type=_count, default=64, metavar="N", help="그 밖에 기다리게 할 요청 수 (기본: 64)")
    serve.add_argument("--timeout", type=_seconds, default=60.0, metavar="초", help="요청 하나에 쓸 시간 (기본: 60)")
    serve.add_argument("--name", metavar="이름", help="요청에 쓸 모델 이름 (기본: 폴더 이름)")
    serve.add_argument("--end-with-stdin", action="store_true", help=argparse.SUPPRESS)
    _workspace_options(serve)
    demo = command("demo", _demo, "브라우저에서 모델과 이야기한다 (Ctrl-C로 멈춘다)")
    demo.add_argument("--url", metavar="URL", help="OpenAI 형식 서버의 주소, /v1까지 (기본: 내 모델의 서버를 함께 띄운다)")
    demo.add_argument("--model", metavar="M", help="--url과 함께: 모델 이름. 혼자: 모델 폴더 (기본: 정렬한 모델, 없으면 기본 모델)")
    demo.add_argument("--compare", action="append", metavar="W", help="견줄 다른 모델의 폴더나 서버 주소. 여러 번 쓸 수 있다")
    demo.add_argument("--tokenizer", type=Path, metavar="DIR", help="--url의 모델의 토크나이저 폴더 (없으면 서버가 보낸 조각을 보인다)")
    demo.add_argument("--host", default="127.0.0.1", metavar="H", help="페이지의 주소 (기본: 127.0.0.1)")
    demo.add_argument("--port", type=_port, default=7860, metavar="P", help="페이지의 포트. 0이면 빈 포트 (기본: 7860)")
    _workspace_options(demo)
    feedback = command("feedback", _feedback, "데모에서 모은 표를 보고, 내보내고, 그것으로 모델을 다시 맞춘다")
    feedback.add_argument("action", nargs="?", default="show", choices=("show", "export", "train"),
                          help="show: 세어 보기 (기본), export: 선호 쌍을 파일로, train: DPO로 다시 맞추기")
    feedback.add_argument("file", nargs="?", type=Path, metavar="FILE", help="export할 .jsonl 파일")
    _workspace_options(feedback)
    data = command("data", _data, "공개 데이터를 내려받거나 폴더를 살펴본다")
    data.add_argument("action", choices=("get", "check"), help="get: 내려받기, check: 읽어 보기")
    data.add_argument("folder", type=Path, help="데이터 폴더")
    notebooks = command("notebooks", _notebooks, "두 판의 노트북을 맞춘다")
    notebooks.add_argument("action", choices=("build", "check", "execute"),
                           help="build: 학생판 만들기, check: 두 판 대조, execute: 풀이판 다시 실행")
    notebooks.add_argument("only", nargs="?", metavar="week03", help="execute할 노트북")
    notebooks.add_argument("--to", type=Path, help="execute 결과(ipynb와 html)를 둘 폴더. 없으면 제자리에 쓴다")
    recipes = command("recipes", _recipes, "설정을 NeMo·Megatron·vLLM의 레시피로, 데이터를 그 도구의 꼴로 쓴다")
    recipes.add_argument("folder", type=Path, metavar="DIR", help="레시피를 쓸 폴더")
    _workspace_options(recipes)
    grade = command("grade", _grade, "학생들의 노트북이 든 폴더를 채점해 CSV와 HTML을 만든다")
    grade.add_argument("folder", type=Path, metavar="DIR", help="학생마다 하위 폴더 하나, 또는 이름이 붙은 노트북들")
    grade.add_argument("--weeks", type=_weeks, metavar="2-5", help="채점할 주차 (기본: 한 명이라도 낸 주)")
    grade.add_argument("--timeout", type=_seconds, default=120.0, metavar="초", help="노트북 하나에 쓸 시간 (기본: 120)")
    grade.add_argument("--jobs", type=_count, default=1, metavar="N", help="한꺼번에 채점할 노트북 (기본: 1)")
    grade.add_argument("--out", type=Path, default=Path("grades"), metavar="DIR", help="결과를 둘 폴더 (기본: grades)")
    push = command("push", _push, "모델을 카드와 함께 내보내고 허깅페이스 허브에 올린다 (토큰이 없으면 모의 실행)")
    push.add_argument("repo", metavar="사용자/이름", help="허브의 저장소. 예: hong/korean-desk")
    push.add_argument("--model", type=Path, metavar="DIR", help="모델 폴더 (기본: 9주차의 모델, 없으면 5주차의 모델)")
    push.add_argument("--dry-run", action="store_true", help="올리지 않고 무엇을 올릴지만 본다")
    push.add_argument("--public", action="store_true", help="새 저장소를 공개로 만든다 (기본: 비공개)")
    push.add_argument("--gguf", nargs="?", const="f16", choices=("f32", "f16", "q8_0"), help="llama.cpp용 파일도 넣는다 (기본 꼴: f16)")
    push.add_argument("--out", type=Path, metavar="DIR", help="내보낼 폴더 (기본: 작업 폴더의 share)")
    _workspace_options(push)
    return parser


def _workspace_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", metavar="tiny", help="규모: tiny, small, gpu (기본: WORKSHOP_PROFILE 또는 tiny)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="실제 데이터 폴더 (기본: 함께 실린 말뭉치)")
    parser.add_argument("--home", type=Path, metavar="DIR", help="산출물을 둘 폴더 (기본: WORKSHOP_HOME 또는 runs/default)")


def _weeks(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= 10:
        raise argparse.ArgumentTypeError(f"'{text}'은(는) 주차가 아니다. 3 또는 2-5처럼 쓴다")
    return first, last


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"온도 '{text}'은(는) 0에서 100 사이의 수가 아니다")
    return value


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"'{text}'은(는) 1 이상의 정수가 아니다")
    return int(text)


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"포트 '{text}'은(는) 0에서 65535 사이의 정수가 아니다")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"'{text}'은(는) 0보다 크고 86400 이하인 초가 아니다")
    return value


def _workspace(options: argparse.Namespace):
    from workshop_lib.profile import get_profile
    from workshop_lib.workspace import current

    if options.profile:
        os.environ["WORKSHOP_PROFILE"] = options.profile
    workspace = current()
    if options.profile:
        workspace = replace(workspace, profile=get_profile(options.profile))
    if options.home:
        workspace = replace(workspace, home=options.home.expanduser().absolute())
    if options.data:
        workspace = replace(workspace, data=options.data.expanduser().absolute())
    return workspace


def _run(options: argparse.Namespace) -> None:
    from workshop_lib.course import run

    run(_workspace(options), options.weeks)


def _report(options: argparse.Namespace) -> None:
    from workshop_lib.report_card import write

    path = write(_workspace(options))
    print(path.with_suffix(".md").read_text(encoding="utf-8"))
    print(f"그림이 있는 성적표: {path}")


def _doctor(options: argparse.Namespace) -> None:
    from workshop_lib.environment import doctor, doctor_table

    print(doctor_table(doctor()))


def _finished_model(options: argparse.Namespace) -> Path:
    workspace = _workspace(options)
    if workspace.status("base_model") == "missing":
        raise WorkshopError("아직 모델이 없다. `workshop run --weeks 1-5`로 먼저 만든다.")
    if name := workspace.damaged("base_model"):
        raise WorkshopError(f"{workspace.path('base_model') / name} 파일이 없어졌거나 잘렸다. `workshop run --weeks 1-5`로 다시 만든다.")
    return workspace.path("base_model")


def _serve(options: argparse.Namespace) -> None:
    from workshop_lib import serving

    folder = options.model.expanduser() if options.model else _finished_model(options)
    serving.serve(folder, options.host, options.port, max_batch=options.max_batch, queue=options.queue, timeout=options.timeout,
                  name=options.name, end_with_stdin=options.end_with_stdin)  # fmt: skip
    print("서버를 멈추었다.")


def _demo(options: argparse.Namespace) -> None:
    import threading

    from workshop_lib import demo, talkers

    home, folder, others = _workspace(options).home, None, {}
    if not options.url:
        others = talkers.of_workspace(home)
        if options.model:
            folder = Path(options.model).expanduser()
            others = {options.model: folder} | {label: path for label, path in others.items() if path.resolve() != folder.resolve()}
        elif talkers.ALIGNED not in others:
            folder = _finished_model(options)
    others |= {where: talkers.source(where) for where in options.compare or []}
    key = os.environ.get("OPENAI_API_KEY", "none")
    try:
        with demo.running(options.url, options.model if options.url else None, tokenizer=options.tokenizer, key=key, home=home,
                          others=others, complete=folder is not None and folder.name == talkers.BASE, host=options.host,
                          port=options.port or None) as address:  # fmt: skip
            print(f"준비됨: {address}", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        print("데모를 멈추었다.")


def _feedback(options: argparse.Namespace) -> None:
    from workshop_lib import feedback

    if (options.action == "export") != bool(options.file):
        raise WorkshopError("`workshop feedback export FILE`처럼 쓴다. 다른 동작에는 파일이 없다.")
    feedback.run(_workspace(options), options.action, options.file)


def _chat(options: argparse.Namespace) -> None:
    folder = _finished_model(options)
    if not sys.stdin.isatty():
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    from workshop_lib.checkpoints import load_model
    from workshop_lib.pretraining import complete
    from workshop_lib.tokenization import load

    model, tokenizer = load_model(folder), load(folder)
    print("첫 문장을 쓰면 모델이 이어 쓴다. 그만두려면 빈 줄 또는 Ctrl-D.")
    turn = 0
    while True:
        try:
            prompt = input("> ").strip()
        except EOFError:
            prompt = ""
        if not prompt:
            return
        # Another seed each turn: the same opening may go on in another way.
        print(*complete(model, tokenizer, [prompt], options.max_tokens, seed=turn, temperature=options.temperature))
        turn += 1


def _data(options: argparse.Namespace) -> int:
    from workshop_lib.corpora import hub, public

    if options.action == "get":
        for path in hub.download(options.folder):
            print(path)
        return 0
    return 0 if public.check(options.folder) else 1


def _push(options: argparse.Namespace) -> None:
    from workshop_lib import sharing

    workspace = _workspace(options)
    sharing.check_name(options.repo)
    out = options.out.expanduser() if options.out else workspace.home / "share"
    folder = sharing.export(workspace, out, options.model and options.model.expanduser(), options.gguf, options.repo)
    print(f"{folder}에 내보냈다.")
    sharing.push(folder, options.repo, dry_run=options.dry_run, private=not options.public)


def _recipes(options: argparse.Namespace) -> None:
    from workshop_lib.recipe_folder import write

    folder = options.folder.expanduser()
    for missing in write(_workspace(options), folder):
        print(f"{missing}.")
    print(f"{folder / 'README.md'}에 무엇을 어떻게 돌리는지 있다.")


def _grade(options: argparse.Namespace) -> None:
    from workshop_lib.grading import grade

    folder, out = options.folder.expanduser(), options.out.expanduser()
    book = grade(folder, out, options.weeks, options.timeout, options.jobs)
    print(f"학생 {len(book.students)}명, 같은 답이 있는 쌍 {len(book.pairs)}개. {out}에 grades.html, grades.csv, totals.csv를 썼다.")


def _notebooks(options: argparse.Namespace) -> int:
    from workshop_lib import notebooks

    if options.action == "execute":
        for path in notebooks.sources(options.only):
            print(f"{path.name} 실행 중")
            notebooks.execute(path, to=options.to, html_too=options.to is not None)
        return 0
    problems = notebooks.build(check_only=options.action == "check")
    if options.action == "build":
        print(f"노트북 {len(notebooks.sources())}개, 고쳐 쓴 것 {len(problems)}개")
        return 0
    problems += [line for path in notebooks.sources() for line in notebooks.problems_in(path)]
    print("\n".join(problems) or "두 판이 맞는다.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
