"""One model behind two servers: `workshop serve` (continuous batching) and Triton (ONNX Runtime in its Python back end).

    python benchmarks/serving.py MODEL_FOLDER [--requests 48] [--at-once 1 4 8] [--tokens 48] [--instances 1 2]

The same greedy requests go to both, a given number at once, after a warm-up. Prints requests/s, tokens/s, and the nearest-rank p50 and
p95 of a request's time. Triton is left out where it is not installed (see `workshop doctor`).
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from workshop_lib import display, local_server, triton
from workshop_lib.corpora.stories import stories
from workshop_lib.inference import percentile


def load(name: str, ask: Callable[[str], int], prompts: list[str], at_once: int) -> dict[str, object]:
    """Send all prompts with `at_once` under way at any time. ask: prompt → number of tokens written."""

    def timed(prompt: str) -> tuple[int, float]:
        begun = time.perf_counter()
        return ask(prompt), time.perf_counter() - begun

    for prompt in prompts[:3]:
        ask(prompt)
    begun = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(timed, prompts))
    seconds = time.perf_counter() - begun
    times = [1000 * spent for _, spent in answers]
    written = sum(tokens for tokens, _ in answers)
    return {
        "서버": name, "동시 요청": at_once, "요청/초": len(prompts) / seconds, "토큰/초": written / seconds,
        "p50 (ms)": percentile(times, 0.5), "p95 (ms)": percentile(times, 0.95), "토큰": written,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--instances", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    prompts = [story["text"][:12] for story in stories(options.requests, split="validation")]
    rows = []
    with local_server.running(options.model, max_batch=max(options.at_once)) as server, server.client() as client:

        def ask(prompt: str) -> int:
            answer = client.completions.create(model=server.model, prompt=prompt, max_tokens=options.tokens, temperature=0)
            return answer.usage.completion_tokens

        rows += [load("workshop serve", ask, prompts, at_once) for at_once in options.at_once]
    for instances in options.instances if triton.find() else ():
        with tempfile.TemporaryDirectory() as folder:
            repository = triton.write_repository(options.model, Path(folder), instances=instances)
            with triton.running(repository) as server:
                for at_once in options.at_once:
                    name = f"Triton, 인스턴스 {instances}개"
                    rows.append(load(name, lambda prompt: server.generate(prompt, options.tokens)["tokens"], prompts, at_once))
    print(display.table(rows))


if __name__ == "__main__":
    main()
