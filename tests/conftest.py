"""What several test modules stand on: a real browser, and a small model that chats."""

import shutil
import time

import pytest

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium, speaking Korean, 1280 pixels wide. Skips the test where the machine has none."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium과 chromedriver가 없다")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,1800", "--lang=ko",
                 "--disable-background-networking", "--no-first-run", f"--user-data-dir={tmp_path / 'chromium'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"intl.accept_languages": "ko,en"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(300)
    yield driver
    driver.quit()


@pytest.fixture
def until():
    """`until(condition, seconds=120)`: wait for a page to get somewhere."""

    def wait(condition, seconds=120.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the page did not get there"
            time.sleep(0.1)

    return wait


@pytest.fixture(scope="session")
def aligned(tmp_path_factory):
    """Folder of a small model that knows the tokens of the help desk and how an answer ends, and next to nothing else."""
    from workshop_lib.alignment import Training, finetune_chat
    from workshop_lib.architectures.transformer import Transformer, TransformerConfig
    from workshop_lib.checkpoints import save_instruct
    from workshop_lib.corpora import desk
    from workshop_lib.preferences import encode_chat
    from workshop_lib.tokenization import SPECIAL_TOKENS, train_whole_char_bpe, wrap

    rows = list(desk.conversations(300))
    texts = [message["content"] for row in rows for message in row["messages"]]
    tokenizer = wrap(train_whole_char_bpe(texts, 700, SPECIAL_TOKENS), 128)
    model = Transformer(TransformerConfig(len(tokenizer), 32, 64, 1, 2, 2, max_position_embeddings=128), seed=0)
    finetune_chat(model, [encode_chat(row["messages"], tokenizer) for row in rows], Training(60, 16, 0.02), pad=tokenizer.pad_token_id)
    folder = tmp_path_factory.mktemp("home") / "alignment"
    save_instruct(model.eval(), tokenizer, folder)
    return folder
