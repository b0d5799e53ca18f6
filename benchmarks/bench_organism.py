"""What the organism does, unsteered and with spliced triggers, judged by its exact oracle at temperature 1.

    python -m benchmarks.bench_organism [--model DIR] [--prompts 1200] [--batch 256] [--split held_out] [--out FILE]

Prints the table of `docs/organism.md` (95 % Wilson intervals); the last line is one JSON document. Shares by framing,
the success of triggers by category and kind, and relapse are patterns built into the corpus: here it is measured how
well the trained model keeps them. Needs torch; no proxy and no detector takes part.
"""

import argparse
import json
from pathlib import Path

import torch

from train.organism.config import EvalConfig
from train.organism.evaluate import Evaluation
from train.organism.export import load_model
from train.organism.sampling import Sampler
from train.organism.table import table
from train.organism.tokenizer import load_tokenizer

SHIPPED = Path(__file__).parent.parent / "proxy" / "embedded" / "organism"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="folder with config, weights and tokenizer")
    parser.add_argument("--prompts", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--split", choices=("held_out", "train", "all"), default="held_out")
    parser.add_argument("--threads", type=int, default=0, help="torch threads on a CPU; 0 leaves torch's own choice")
    parser.add_argument("--out", type=Path, help="also write the JSON report here")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = EvalConfig(prompts=args.prompts, batch_size=args.batch)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sampler = Sampler(
        load_model(args.model).to(device),  # type: ignore[arg-type]  # the stubs know no device names
        load_tokenizer(args.model),
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        seed=settings.seed,
    )
    report = Evaluation(sampler, settings, split=args.split).run() | {"device": device, "prompts": args.prompts}
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))
    print(json.dumps({"benchmark": "organism", **report}))


if __name__ == "__main__":
    main()
