#!/usr/bin/env python3
"""Jobs whose GPU memory somebody published, run again over the pretended driver with the code of their day.

    run.sh --python published.py CONFIG KIND LAYERS SAMPLES TOKENS

KIND: gptq, gptq-distributed, awq, awq-cpu. PYTHONPATH must lead to that day's llmcompressor (its src/ folder at the
commit) and compressed-tensors (a nightly of the day: `pip install --no-deps --target DIR
compressed-tensors==0.13.1a20260127`), over torch 2.9.1 and transformers 4.57.6. README.md has the table: figure
published, figure here.
"""

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.update(TOKENIZERS_PARALLELISM="false", LLM_COMPRESSOR_LOG_LEVEL="ERROR", TQDM_DISABLE="1")
warnings.filterwarnings("ignore")

import datasets
import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_utils import no_init_weights


def build(path: str, layers: int):
    """The model on the CPU in bfloat16, its weights addresses without values."""
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    values.pop("torch_dtype", None), values.pop("dtype", None)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == config.num_hidden_layers:
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"), no_init_weights():
        model = AutoModelForCausalLM.from_config(config)
    model.to_empty(device="cpu")
    model.tie_weights()
    torch.set_default_dtype(torch.float32)
    folder = tempfile.mkdtemp()
    config.save_pretrained(folder)
    model.config._name_or_path = model.name_or_path = folder
    return model.eval()


def recipe(kind: str):
    if kind.startswith("gptq"):
        from llmcompressor.modifiers.quantization import GPTQModifier

        return GPTQModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"])
    from llmcompressor.modifiers.awq import AWQModifier

    offload = {"offload_device": torch.device("cpu")} if kind == "awq-cpu" else {}
    return [AWQModifier(ignore=["lm_head"], scheme="W4A16_ASYM", targets=["Linear"], duo_scaling="both", **offload)]


def one_rank() -> None:
    """The distributed path with one rank. Reductions do nothing; their work keeps its tensor for a round, as NCCL's."""
    import collections

    import torch.distributed as dist

    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29517", rank=0, world_size=1)
    works = collections.deque(maxlen=14)  # two reductions for each of a layer's seven Linears

    class Work:
        def __init__(self, tensor):
            self.tensor = tensor

        def wait(self):
            pass

    def reduce(tensor, *_args, **_kwargs):
        works.append(Work(tensor))
        return works[-1]

    dist.reduce, dist.broadcast = reduce, lambda *_args, **_kwargs: Work(None)


def healthy(function):
    """A verdict over a device tensor reads zeros here, so False; in a healthy run it is True."""

    def verdict(*args, **kwargs):
        result = function(*args, **kwargs)
        return (
            torch.tensor(True) if isinstance(result, torch.Tensor) and result.is_cuda and result.dim() == 0 else result
        )

    return verdict


def main(config: str, kind: str, layers: str, samples: str, tokens: str) -> None:
    from llmcompressor import oneshot

    try:
        import llmcompressor.modifiers.quantization.gptq.gptq_quantize as gptq

        gptq.tensor_sparsity = lambda _weight: torch.zeros(())  # weights of zeros would count as sparse
    except ImportError:
        pass
    torch.Tensor.all, torch.all, torch.Tensor.__eq__ = (
        healthy(torch.Tensor.all),
        healthy(torch.all),
        healthy(torch.Tensor.__eq__),
    )
    if kind == "gptq-distributed":
        one_rank()
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
    row = [1] * int(tokens)
    data = datasets.Dataset.from_dict({"input_ids": [row] * int(samples), "attention_mask": [row] * int(samples)})
    model = build(config, int(layers))
    torch.cuda.reset_peak_memory_stats()
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=data,
        recipe=recipe(kind),
        max_seq_length=int(tokens),
        num_calibration_samples=int(samples),
    )
    stats = torch.cuda.memory_stats()
    print(json.dumps({name: stats[f"{name}_bytes.all.peak"] for name in ("requested", "allocated", "reserved")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
