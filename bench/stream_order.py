"""The order of a streamed set of 100 million examples in 2.5 million chunks: time and memory, in a fresh process.

    .venv/bin/python bench/stream_order.py [--examples 100_000_000] [--smoke]

The process holds a chunk table (34 bytes a chunk) and the orders of two epochs, as training does. About two minutes.
Out: Markdown on stdout, bench/results/stream_order.json. Linux.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

CHUNK_IMAGES, BATCH_SIZE, LANES, WINDOW, RANKS = 40, 4096, 64, 64, 64
HELD = """
import json, sys
from bench.stream_order import held
print(json.dumps(held(int(sys.argv[1]))))
"""
SORTED = """
import json, sys
from bench.stream_order import sorted_words
print(json.dumps(sorted_words(int(sys.argv[1]))))
"""


def held(num_examples: int) -> dict[str, float]:
    """Times and peak memory of the orders."""
    import numpy as np

    from vitrail.bench.fresh import peak_memory_mib
    from vitrail.data.streaming.order import ExactOrder, StreamOrder

    generator = np.random.default_rng(0)
    num_chunks = num_examples // CHUNK_IMAGES
    answer = {"imported_mib": peak_memory_mib()}
    table = np.ones((num_chunks, 34), dtype=np.uint8)
    counts = generator.integers(CHUNK_IMAGES // 2, CHUNK_IMAGES * 3 // 2 + 1, num_chunks, dtype=np.uint16)
    answer["with_the_table_mib"] = peak_memory_mib()

    def ms(function, times: int) -> float:
        taken = []
        for number in range(times):
            start = time.perf_counter()
            function(number)
            taken.append((time.perf_counter() - start) * 1e3)
        return round(float(np.median(taken)), 3)

    start = time.perf_counter()
    order = StreamOrder(counts, 1, 0, lanes=LANES, window=WINDOW)
    answer["set_up_s"] = round(time.perf_counter() - start, 3)
    start = time.perf_counter()
    order.batch(0, BATCH_SIZE)
    loads = order.loads(rank=3, num_ranks=RANKS)
    next(loads)
    answer["first_batch_and_first_load_s"] = round(time.perf_counter() - start, 3)
    start = time.perf_counter()
    following = order.of_epoch(1)
    answer["next_epoch_s"] = round(time.perf_counter() - start, 3)
    last = len(order) // BATCH_SIZE
    answer["batch_ms"] = ms(lambda k: order.batch(k, BATCH_SIZE), 200)
    answer["batch_anywhere_ms"] = ms(lambda k: following.batch(int(generator.integers(last)), BATCH_SIZE), 200)
    anywhere = generator.integers(0, len(order), (50, BATCH_SIZE))
    answer["positions_anywhere_ms"] = ms(lambda k: order.ids(anywhere[k]), 50)
    exact = ExactOrder(len(order), 1, 0)
    answer["exact_batch_ms"] = ms(lambda k: exact.batch(int(generator.integers(last)), BATCH_SIZE), 200)
    start = time.perf_counter()
    num_loads = sum(1 for _ in loads) + 1
    answer["us_a_load"] = round((time.perf_counter() - start) / num_loads * 1e6, 2)
    answer["loads_of_a_rank"] = num_loads
    answer["core_share_at_10000_images_a_s"] = round(answer["batch_ms"] / 1e3 / BATCH_SIZE * 1e4, 4)
    answer["peak_mib"] = peak_memory_mib()
    answer["table_mib"] = round(table.nbytes / 2**20, 1)
    return answer


def sorted_words(num_examples: int) -> dict[str, float]:
    """The permutation that sets which fit into memory have."""
    from vitrail.bench.fresh import peak_memory_mib
    from vitrail.data.order import epoch_order

    before = peak_memory_mib()
    start = time.perf_counter()
    epoch_order(1, 0, num_examples)
    return {"set_up_s": round(time.perf_counter() - start, 3), "mib": round(peak_memory_mib() - before, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100_000_000)
    parser.add_argument("--smoke", action="store_true", help="a million examples, nothing saved")
    args = parser.parse_args()
    from bench.results_file import Results
    from vitrail.bench import in_fresh_process

    results = Results("stream_order", keep=not args.smoke)
    num_examples = 1_000_000 if args.smoke else args.examples
    settings = {"examples": num_examples, "batch_size": BATCH_SIZE, "lanes": LANES, "window": WINDOW, "ranks": RANKS}
    results.answer["settings"] = settings
    print(json.dumps(settings))
    for name, code, length in (
        ("streamed and exact order", HELD, num_examples),
        ("sorted words, a tenth of the examples", SORTED, num_examples // 10),
    ):
        with results.part(name) as answer:
            answer[name] = in_fresh_process(code, str(length))[0]
            print(f"\n| {name} | |\n|---|---|")
            for what, value in answer[name].items():
                print(f"| {what} | {value:,} |")
    results.end()


if __name__ == "__main__":
    main()
