"""Greedy generation under torchrun, where every process runs the whole program on its part of the model:

    torchrun --nproc-per-node 4 -m moe_harness.implementations.neuron.torchrun CHECKPOINT --tp 2 --ep 2 --prompt 5 6 7

Process 0 prints the new ids as JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
import torch.distributed as dist

from moe_harness.implementations.interface import GenerationSpec, LoadSpec
from moe_harness.implementations.neuron.layers import connected
from moe_harness.implementations.neuron.loading import make_plan
from moe_harness.implementations.neuron.settings import Variant
from moe_harness.implementations.neuron.start import part


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    dist.init_process_group("gloo")
    try:
        if dist.get_world_size() != asked.tp * asked.ep:
            raise SystemExit(f"tp {asked.tp} times ep {asked.ep} processes are needed, torchrun started {dist.get_world_size()}")
        spec = LoadSpec(dtype=asked.dtype, max_batch=1, max_length=len(asked.prompt) + asked.tokens)
        model = part(asked.checkpoint, make_plan(Variant(asked.tp, asked.ep), spec), connected(asked.tp, asked.ep))
        found = model.generate(np.array([asked.prompt]), np.array([len(asked.prompt)]), GenerationSpec(asked.tokens))
        if dist.get_rank() == 0:
            print(json.dumps(found[0]), flush=True)
    finally:
        dist.destroy_process_group()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="moe_harness.implementations.neuron.torchrun", description="Greedy generation, under torchrun.")
    parser.add_argument("checkpoint", help="HF or Neuron directory")
    parser.add_argument("--tp", type=int, default=1, help="processes that split every expert, attention and the head")
    parser.add_argument("--ep", type=int, default=1, help="groups of processes that hold different experts")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=8, help="how many to generate at most")
    parser.add_argument("--prompt", type=int, nargs="+", required=True, help="token ids")
    return parser


if __name__ == "__main__":
    main()
