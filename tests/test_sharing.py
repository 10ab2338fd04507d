"""Sharing: what leaves the machine runs without this package, its card tells only what was measured, and the Hub gets exactly that."""

import base64
import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from workshop_lib import WorkshopError, cli, model_card, sharing
from workshop_lib.architectures.transformer import Transformer, TransformerConfig
from workshop_lib.checkpoints import load_model, save_instruct
from workshop_lib.gguf_export import load_gguf
from workshop_lib.profile import get_profile
from workshop_lib.tokenization import SPECIAL_TOKENS, train_whole_char_bpe, wrap
from workshop_lib.workspace import Workspace

TEXTS = ["도서관은 아침 9시에 문을 엽니다.", "옛날 어느 마을에 고양이가 살았어요.", "네, 회원증을 보여 주세요."] * 4
MEASURED = {
    "corpus": {"docs_in": 9123.0, "docs_out": 8001.0},
    "tokenizer": {"vocab_size": 400},
    "base_model": {"params": 123456, "train_tokens": 777000, "val_bpc": 0.8123, "ngram_bpc": 0.93, "val_bpc_story": 0.5,
                   "val_bpc_news": 5.25},
    "evaluation": {"nli_items": 240, "nli_accuracy": 0.61, "nli_ci_low": 0.54, "nli_ci_high": 0.67, "nli_zero_shot_accuracy": 0.34},
    "alignment": {"preferred_before": 0.3, "preferred_after": 0.625, "preferred_after_low": 0.56, "preferred_after_high": 0.69,
                  "refusal_rate_own_after": 0.125},
}  # fmt: skip
INPUTS = {"corpus": [], "tokenizer": ["corpus"], "base_model": ["corpus", "tokenizer"], "evaluation": ["base_model"],
          "alignment": ["corpus", "base_model"]}  # fmt: skip
TABLE = "| 출처 | 들어온 문서 | 남은 문서 | 글자 |\n| --- | --- | --- | --- |"
DATASHEET = "# 말뭉치 데이터시트\n\n- 출처: {origin}\n\n## 구성\n\n" + TABLE + "\n{rows}\n\n## 한계\n"


def make_workspace(home, data="bundled", rows="| story | 3 | 2 | 100 |"):
    for week, (stage, metrics) in enumerate(MEASURED.items(), 2):
        folder = home / stage
        folder.mkdir(parents=True)
        meta = {
            "stage": stage, "week": week, "hash": f"{stage}-hash-0123456789", "fingerprint": "f", "bytes": 1, "seconds": 10.5,
            "peak_rss_mb": 321,
            "inputs": {name: f"{name}-hash-0123456789" for name in INPUTS[stage]}, "profile": "tiny", "seed": 0, "data": data,
            "settings": {"context": 32, "steps": 7} if stage == "base_model" else {"dpo_beta": 0.1}, "versions": {"torch": "0"},
        }  # fmt: skip
        (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (home / "corpus" / "DATASHEET.md").write_text(DATASHEET.format(origin=data, rows=rows), encoding="utf-8")
    return Workspace(home, get_profile("tiny"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    workspace = make_workspace(tmp_path_factory.mktemp("share") / "runs")
    tokenizer = wrap(train_whole_char_bpe(TEXTS, 400, SPECIAL_TOKENS), 32)
    config = TransformerConfig(len(tokenizer), 64, 96, 2, 4, 2, max_position_embeddings=32, initializer_range=0.2, rope_theta=5000.0)
    for seed, stage in enumerate(("base_model", "alignment")):
        save_instruct(Transformer(config, seed=seed), tokenizer, workspace.path(stage))
    return workspace


@pytest.fixture(scope="module")
def shared(workspace, tmp_path_factory):
    return sharing.export(workspace, tmp_path_factory.mktemp("out") / "model", repo="hong/desk")


@pytest.fixture
def quick(monkeypatch):
    """Without the process that loads the folder: one test stands for it."""
    monkeypatch.setattr(sharing, "runs_alone", lambda folder, question="": ("네.", ""))


# --- the folder ------------------------------------------------------------------------------------------------------------


def test_a_stranger_loads_the_folder_and_lets_it_write(shared):
    checks = sharing.inspect(shared)
    assert [check.name for check in checks if not check.ok] == [] and len(checks[-1].detail) > 2
    blocked = sharing.ALONE.replace("import torch\n", "import workshop_lib\n")
    done = subprocess.run([sys.executable, "-I", "-c", blocked, str(shared), ""], capture_output=True, text=True, check=False)
    assert done.returncode and "workshop_lib is not here" in done.stderr


def test_the_folder_holds_the_models_own_logits_template_and_ends(workspace, shared):
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    ids = torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(shared)(ids).logits
        assert torch.allclose(theirs, load_model(workspace.path("alignment"))(ids), atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(shared)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "안녕"}], tokenize=False, add_generation_prompt=True)
    assert asked == "<s><|user|>안녕<|end|><|assistant|>"
    settings = GenerationConfig.from_pretrained(shared)
    assert set(settings.eos_token_id) == set(tokenizer.convert_tokens_to_ids(["</s>", "<|end|>"])) and settings.top_k == 50


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_a_gguf_file_lies_beside_and_holds_the_same_model(workspace, tmp_path, kind):
    folder = sharing.export(workspace, tmp_path / "out", gguf=kind)
    theirs, _ = load_gguf(folder / f"model-{kind}.gguf")
    ids = torch.arange(8)[None]
    with torch.no_grad():
        gap = (theirs(ids) - load_model(workspace.path("alignment")).eval()(ids)).abs().max()
    assert gap < {"f32": 1e-5, "f16": 0.05, "q8_0": 0.5}[kind]
    assert f"model-{kind}.gguf" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_gguf_that_reads_back_differently_is_not_shared(workspace, tmp_path, monkeypatch):
    from workshop_lib import gguf_export

    true = gguf_export.read_gguf
    monkeypatch.setattr(gguf_export, "read_gguf", lambda path: (true(path)[0], {k: np.zeros_like(v) for k, v in true(path)[1].items()}))
    with pytest.raises(WorkshopError, match="처음과 다르다"):
        sharing.export(workspace, tmp_path / "out", gguf="f16")
    assert not (tmp_path / "out").exists()


def test_a_second_export_replaces_the_first_and_nothing_else(workspace, tmp_path):
    sharing.export(workspace, tmp_path / "out", gguf="f16")
    again = sharing.export(workspace, tmp_path / "out")
    assert not list(again.glob("*.gguf")) and [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(WorkshopError, match="덮어쓰지 않는다"):
        sharing.export(workspace, tmp_path / "photos")
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"x"


def test_only_a_model_that_writes_is_exported(workspace, tmp_path):
    classifier = '{"architectures": ["LlamaForSequenceClassification"]}'
    for text, words in ((None, "모델이 없다"), ("{", "깨졌다"), (classifier, "글을 쓰는 모델")):
        folder = tmp_path / words[:2]
        folder.mkdir()
        if text:
            (folder / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(WorkshopError, match=words):
            sharing.export(workspace, tmp_path / "out", model=folder)
    with pytest.raises(WorkshopError, match="모델이 없다"):
        sharing.export(Workspace(tmp_path / "empty", get_profile("tiny")), tmp_path / "out")


@pytest.mark.parametrize("name, content, failing", [
    ("weights.pt", b"x", "파일"), ("run.py", b"print()", "파일"), ("README.md", b"hello", "모델 카드"),
    ("lineage.json", b'["hf_abcdefghijklmnopqrstuvwxyz0123"]', "비밀과 경로"), ("lineage.json", str(Path.cwd()).encode(), "비밀과 경로"),
])  # fmt: skip
def test_a_folder_with_something_wrong_is_not_uploaded(shared, tmp_path, quick, name, content, failing):
    import shutil

    folder = Path(shutil.copytree(shared, tmp_path / "bad"))
    (folder / name).write_bytes(content)
    assert [check.name for check in sharing.inspect(folder) if not check.ok] == [failing]
    with pytest.raises(WorkshopError, match=failing):
        sharing.push(folder, "hong/desk", token="hf_x", endpoint="http://127.0.0.1:9", say=lambda line: None)


# --- the card ----------------------------------------------------------------------------------------------------------------


def test_the_hub_reads_the_cards_header(shared):
    from huggingface_hub import ModelCard

    data = ModelCard.load(shared / "README.md").data.to_dict()
    assert data["language"] == "ko" and data["pipeline_tag"] == "text-generation" and data["library_name"] == "transformers"
    assert data["license"] == "cc-by-4.0" and "dpo" in data["tags"]


def test_every_number_of_the_card_was_measured_and_the_rest_says_so(workspace):
    card = model_card.model_card(workspace, "hong/desk")
    for said in ("123,456", "777,000", "0.8123", "62.5% [56.0%, 69.0%]", "61.0% [54.0%, 67.0%]", "34.0%", "12.5%", "5.25", "alignment-ha"):
        assert said in card, said
    rows = {line.split("|")[1].strip(): line for line in card.splitlines() if line.startswith("|")}
    assert "측정 안 함" in rows["기사 주제"] and "측정 안 함" in rows["맞는 답 ↑"] and "측정 안 함" in rows["전력, 탄소 배출"]

    blank = {stage: dict.fromkeys(values, 0.123) for stage, values in MEASURED.items()}
    silent = replace(workspace, home=workspace.home)
    object.__setattr__(silent, "metrics", lambda stage: blank.get(stage, {}))
    percents = set(re.findall(r"\d+\.\d+%", model_card.model_card(silent, "hong/desk")))
    assert percents == {"12.3%"}  # no share in the card comes from anywhere else


def test_a_bare_workspace_gives_a_card_without_numbers(tmp_path):
    card = model_card.model_card(Workspace(tmp_path, get_profile("tiny")))
    assert card.count("측정 안 함") > 20 and not re.search(r"\d%", card.replace("95 %", ""))


def test_what_was_measured_on_another_base_model_is_not_told(tmp_path):
    workspace = make_workspace(tmp_path / "runs")
    path = workspace.path("evaluation") / "meta.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(meta | {"inputs": {"base_model": "an older one"}}), encoding="utf-8")
    assert "61.0%" not in model_card.model_card(workspace) and "62.5%" in model_card.model_card(workspace)


def test_a_card_of_real_data_names_its_licences_and_no_path(tmp_path):
    rows = "| nsmc | 3 | 2 | 100 |\n| petitions | 3 | 2 | 100 |\n| klue | 3 | 0 | 0 |"
    card = model_card.model_card(make_workspace(tmp_path / "runs", "/home/hong/비밀 자료", rows))
    assert "license: other" in card and "e9t/nsmc" in card and "CC0 1.0" in card and "확인한다" in card
    assert "klue/klue" not in card and "/home/hong" not in card and "비밀" not in card


def test_nothing_is_told_of_a_model_from_elsewhere(workspace, tmp_path):
    import shutil

    other = Path(shutil.copytree(workspace.path("alignment"), tmp_path / "other"))
    card = (sharing.export(workspace, tmp_path / "out", model=other) / "README.md").read_text(encoding="utf-8")
    assert "내력을 모른다" in card and "0.8123" not in card and "license: other" in card


# --- the Hub -----------------------------------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as `HfApi` needs to make a repository and to upload a folder to it."""

    def do_GET(self):
        self._answer()

    do_POST = do_PUT = do_GET

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub, route = self.server.state, self.path.partition("?")[0]
        hub["asked"].append(f"{self.command} {route}")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        here = f"http://127.0.0.1:{self.server.server_port}"
        if route.startswith("/lfs/"):
            if hub["break"] == "put":
                return self._say(400, {"error": "broken"})
            hub["stored"][route.removeprefix("/lfs/")] = body
            return self._say(200, {})
        if token not in ("hf_write", "hf_read"):
            return self._say(401, {"error": "Invalid token"})
        if route == "/api/whoami-v2":
            return self._say(200, {"name": "hong", "type": "user", "orgs": [{"name": "lab"}]})
        if route == "/api/repos/create":
            if token == "hf_read":
                return self._say(403, {"error": "Forbidden"})
            hub["repos"].append(json.loads(body))
            return self._say(200, {"url": f"{here}/hong/desk"})
        if route == "/api/validate-yaml":
            return self._say(200, {"errors": [], "warnings": []})
        if "/preupload/" in route:
            large = (".safetensors", ".gguf")
            modes = {f["path"]: "lfs" if f["path"].endswith(large) else "regular" for f in json.loads(body)["files"]}
            files = [{"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None} for path, mode in modes.items()]
            return self._say(200, {"files": files})
        if route.endswith("/info/lfs/objects/batch"):
            objects = [{"oid": o["oid"], "size": o["size"]} | ({} if o["oid"] in hub["stored"] else
                       {"actions": {"upload": {"href": f"{here}/lfs/{o['oid']}"}}}) for o in json.loads(body)["objects"]]  # fmt: skip
            return self._say(200, {"transfer": "basic", "objects": objects})
        if "/commit/" in route:
            if hub["break"] == "commit":
                return self._say(400, {"error": "broken"})
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    hub["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    hub["files"][line["value"]["path"]] = hub["stored"][line["value"]["oid"]]
            return self._say(200, {"success": True, "commitOid": "c0ffee", "commitUrl": f"{here}/hong/desk/commit/c0ffee"})
        return self._say(404, {"error": route})

    def _say(self, status, value):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # the fake stores large files the plain way
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.state = {"asked": [], "repos": [], "stored": {}, "files": {}, "break": ""}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.state | {"url": f"http://127.0.0.1:{server.server_port}", "state": server.state}
    server.shutdown()
    server.server_close()


def upload(shared, hub, token="hf_write", repo="hong/desk", **more):
    said = []
    try:
        return sharing.push(shared, repo, token, endpoint=hub["url"], say=said.append, **more), "\n".join(said)
    except WorkshopError as error:
        return None, str(error)


def test_the_hub_gets_the_folder_byte_for_byte_in_a_private_repository(shared, hub, quick):
    address, said = upload(shared, hub)
    assert address.endswith("/hong/desk") and "올렸다" in said
    assert hub["state"]["files"] == {path.name: path.read_bytes() for path in shared.iterdir()}
    assert hub["state"]["repos"][0]["visibility"] == "private"
    upload(shared, hub, private=False)
    assert hub["state"]["repos"][1]["visibility"] == "public"


def test_an_upload_that_broke_off_goes_on_where_it_stopped(shared, hub, quick):
    for broken in ("put", "commit"):
        hub["state"]["break"] = broken
        address, said = upload(shared, hub)
        assert address is None and "올리다가 끊겼다" in said and "400" in said
    hub["state"]["break"] = ""
    puts = sum(line.startswith("PUT") for line in hub["state"]["asked"])
    assert upload(shared, hub)[0] and sum(line.startswith("PUT") for line in hub["state"]["asked"]) == puts
    assert "model.safetensors" in hub["state"]["files"]


@pytest.mark.parametrize("token, repo, words", [
    ("hf_wrong", "hong/desk", "토큰이 틀렸거나"), ("hf_read", "hong/desk", "쓰기 권한"), ("hf_write", "kim/desk", "hong, lab"),
])  # fmt: skip
def test_a_wrong_token_or_owner_is_told(shared, hub, quick, token, repo, words):
    address, said = upload(shared, hub, token, repo)
    assert address is None and words in said and not hub["state"]["files"]


WRONG_NAMES = ("desk", "a/b/c", "hong/", "/desk", "홍/모델", "hong/de sk", "hong/-x", "hong/a--b", "hong/a.git", "../etc")


@pytest.mark.parametrize("repo", WRONG_NAMES)
def test_a_wrong_name_is_told_before_anything_is_made(repo, tmp_path, capsys):
    assert cli.main(["push", repo, "--home", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "저장소 이름" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_without_a_network_it_says_so(shared, quick, monkeypatch):
    nowhere = {"url": "http://127.0.0.1:9"}
    assert "HF_HUB_OFFLINE" in upload(shared, nowhere)[1]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert "네트워크 연결" in upload(shared, nowhere)[1]


def test_without_a_token_the_command_exports_shows_and_uploads_nothing(workspace, tmp_path, quick, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    out = tmp_path / "공유"
    assert cli.main(["push", "hong/desk", "--home", str(workspace.home), "--out", str(out), "--gguf"]) == 0
    said = capsys.readouterr().out
    assert "모의 실행" in said and "hf auth login" in said and "비공개" in said
    assert all(path.name in said for path in out.iterdir()) and (out / "model-f16.gguf").is_file()


def test_a_dry_run_asks_the_hub_nothing(shared, hub, quick):
    address, said = upload(shared, hub, dry_run=True, private=False)
    assert address is None and "모의 실행" in said and "공개" in said and hub["state"]["asked"] == []
