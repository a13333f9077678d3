"""What people come with, at full size: one command each, and an answer that stands."""

import json
from typing import Any

import pytest

from planner.cli import main
from planner.units import GIB

FITTING = ("yes", "slow")


def answer(capsys: pytest.CaptureFixture[str], words: str, code: int = 0) -> Any:
    """The JSON that the command prints."""
    assert main([*words.split(), "--format", "json"]) == code
    out, _ = capsys.readouterr()
    return json.loads(out)


def needs(choice: dict[str, Any], resource: str) -> int:
    return next(demand["at_least_bytes"] for demand in choice["demands"] if demand["resource"] == resource)


# (a) an RTX 4090 and 64 GB of RAM
@pytest.mark.parametrize("model", ["llama-3.3-70b", "qwen3-32b", "mixtral-8x7b"])
def test_gptq_on_a_4090_with_64_gb_of_ram_is_told_to_leave_weights_on_the_disk(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = answer(capsys, f"fit {model} -r gptq_w4a16 --gpu rtx4090 --ram 64GB --samples 256")
    assert told["fits"] == "no"
    assert [demand["resource"] for demand in told["answer"]["demands"] if demand["outcome"] == "over"] == ["RAM"]
    assert told["fixes"]
    for fix in told["fixes"]:
        assert fix["changes"]["weights"] == "disk"
        assert needs(fix, "RAM") <= 64 * 10**9
        assert needs(fix, "GPU") <= told["machine"]["gpu_memory_bytes"]


# (b) the cheapest machine for DeepSeek-R1 in W4A16
def test_deepseek_r1_is_rented_on_the_cheapest_machine_that_holds_it(capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, "rent deepseek-r1 -r gptq_w4a16 --samples 64 --linearized --cloud aws --gpu h200")
    assert told["offers"]
    prices = [(offer["machine"]["price"] or {"amount": float("inf")})["amount"] for offer in told["offers"]]
    assert prices == sorted(prices)
    for offer in told["offers"]:
        assert offer["choice"]["fits"] in FITTING
        assert needs(offer["choice"], "RAM") <= offer["machine"]["ram_bytes"]


# (c) out of memory at 1,024 samples of 4,096 tokens
def test_too_many_long_samples_are_told_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    job = "llama-3-8b -r gptq_w4a16 --samples 1024 --seq-len 4096 --gpu 24GB --ram 64GB"
    told = answer(capsys, f"fit {job} --max samples")
    assert told["fits"] == "no"
    assert needs(told["answer"], "RAM") > 64 * 10**9
    assert told["fixes"]
    (largest,) = told["largest"]
    assert 0 < largest["value"] < 1024
    fewer = job.replace("--samples 1024", f"--samples {largest['value']}")
    assert answer(capsys, f"plan {fewer} --check")["fits"] in FITTING
    more = job.replace("--samples 1024", f"--samples {largest['value'] + 1}")
    assert answer(capsys, f"plan {more} --check", code=1)["fits"] == "no"


# (d) FP8 against GPTQ against NVFP4, to be served on an L40S
def test_three_recipes_for_one_model_are_compared_by_what_people_choose_by(capsys: pytest.CaptureFixture[str]) -> None:
    recipes = "-r rtn_fp8_dynamic -r gptq_w4a16 -r rtn_nvfp4"
    plans = answer(capsys, f"compare qwen3-30b-a3b {recipes} --linearized --samples 64 --gpu l40s --ram 256GiB")[
        "plans"
    ]
    assert [plan["recipe"] for plan in plans] == ["rtn_fp8_dynamic", "gptq_w4a16", "rtn_nvfp4"]
    for plan in plans:
        assert plan["fits"] in FITTING
        assert plan["host"]["peak_resident_bytes"] > plan["model"]["bytes"]
        assert plan["gpu"]["smallest_card_bytes"] <= plan["machine"]["gpu_memory_bytes"]
        assert plan["result"]["serving_bytes"] < plan["machine"]["gpu_memory_bytes"]
    fp8, gptq, nvfp4 = (plan["result"]["file_bytes"] for plan in plans)
    assert gptq < nvfp4 < fp8


# (e) disk offload, two GPUs, torchrun
def test_disk_a_second_gpu_and_ranks_take_from_ram_what_they_promise(capsys: pytest.CaptureFixture[str]) -> None:
    job = "llama-3-8b -r gptq_w4a16 --samples 256 --gpu rtx4090 --gpus 4 --ram 256GiB"
    plain = answer(capsys, f"plan {job}")
    disk = answer(capsys, f"plan {job} --weights disk")
    second = answer(capsys, f"plan {job} --offload-device gpu:1")
    ranks = answer(capsys, f"plan {job} --ranks 4")
    assert needs(plain, "RAM") - needs(disk, "RAM") > 10 * GIB
    assert disk["weights_on_disk"]["weights_bytes"] == plain["model"]["bytes"]
    assert needs(plain, "RAM") - needs(second, "RAM") > 2 * GIB
    assert needs(second, "second GPU") > 6 * GIB
    assert ranks["ranks"]["shared_bytes"] > plain["model"]["bytes"]
    assert needs(ranks, "RAM") > needs(plain, "RAM")
    assert all(each["fits"] in FITTING for each in (plain, disk, second, ranks))
    one_card = job.replace("--gpus 4", "--gpus 1")
    assert answer(capsys, f"plan {one_card} --ranks 4 --check", code=1)["fits"] == "no"


# (f) CI
@pytest.mark.parametrize(("gpu", "code"), [("24GiB", 0), ("5GiB", 1)])
def test_ci_gets_an_exit_code(gpu: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, f"plan llama-3-8b -r gptq_w4a16 --layers 4 --gpu {gpu} --check", code=code)
    assert (told["fits"] in FITTING) is (code == 0)
