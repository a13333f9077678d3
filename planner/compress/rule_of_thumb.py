"""The rule of thumb that LLM Compressor documents, as it is: a yardstick beside the simulation."""

from planner.compress.schema import RuleOfThumb


def rule_of_thumb(
    *,
    checkpoint_parameters: int,
    text_layer_parameters: int,
    vision_tower_parameters: int,
    has_hessians: bool,
    bytes_per_parameter: int = 2,
) -> RuleOfThumb:
    """What the documentation's guide "Memory requirements for LLM Compressor" says a job needs.

    CPU: the whole model, which there means everything the checkpoint holds (DeepSeek-R1's unused
    multi-token-prediction layer too). GPU: the larger of one text decoder layer (the largest one) and the whole
    vision tower; twice that for GPTQ and SparseGPT. Nothing else counts: no data, no embedding.

    The numbers printed in the guide are rounder than the rule. Its CPU figures start from rounded
    model sizes (8B, 684B, 7B). Its layers of 0.5 GB (Llama-3-8B) and 22.4 GB (DeepSeek-R1) are that total divided
    by the number of layers (32, 61), embeddings spread over them; the exact layers are 0.436 GB and, for the largest,
    23.0 GB. Its 0.4 and 1.3 GB for Qwen2.5-VL-7B are the exact 0.466 and 1.353 GB cut off after
    one digit. Exact counts go in here, so results differ from the guide's by that rounding alone.
    """
    gpu = max(text_layer_parameters, vision_tower_parameters) * bytes_per_parameter
    return RuleOfThumb(
        cpu_bytes=checkpoint_parameters * bytes_per_parameter,
        gpu_bytes=2 * gpu if has_hessians else gpu,
    )
