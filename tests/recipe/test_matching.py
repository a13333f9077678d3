"""Which modules a recipe touches, worked out by hand."""

from dataclasses import replace

import pytest

from planner.compress.modifiers.gptq import GPTQSpec
from planner.compress.modifiers.reap import REAPSpec
from planner.compress.modifiers.rtn import QuantizationSpec
from planner.compress.recipes import load_recipe
from planner.errors import RecipeError
from planner.recipe.files import list_recipes
from planner.recipe.matching import PRECAUTIONS
from planner.recipe.specs import ModuleRef, Scheme
from tests.recipe.matched import bits, checked, group, llama, ref, sparse, spec, states, taken, weights


class TestQuantizationTargets:
    def test_a_class_takes_its_subclasses_and_leaves_containers_and_ignored_modules(self) -> None:
        modules = [*llama(1), ref("router", ("Llama4Router", "Linear", "Module", "object"))]
        found = taken(spec(group("Linear"), ignore=("re:.*lm_head", "re:.*mlp.gate$")), modules)
        assert list(found) == [
            *(f"model.layers.0.self_attn.{part}_proj" for part in "qkvo"),
            "model.layers.0.mlp.down_proj",
            "router",
        ]

    def test_a_whole_name_beats_a_regular_expression_which_beats_a_class(self) -> None:
        name = "model.layers.0.mlp.down_proj"
        found = taken(spec(group("Linear", bits=2), group(r"re:.*down_proj$", bits=3), group(name, bits=4)), llama(2))
        assert bits(found)[name] == 4
        assert bits(found)["model.layers.1.mlp.down_proj"] == 3
        assert bits(found)["model.layers.1.self_attn.q_proj"] == 2

    def test_of_two_regular_expressions_the_alphabetically_first_decides_not_the_first_group(self) -> None:
        found = taken(spec(group("re:model.*", bits=2), group("re:.*mlp", bits=3)), llama(1))
        assert bits(found)["model.layers.0.mlp.down_proj"] == 3
        assert bits(found)["model.layers.0.self_attn.q_proj"] == 2

    def test_a_target_in_two_groups_belongs_to_the_last(self) -> None:
        assert set(bits(taken(spec(group("Linear", bits=2), group("Linear", bits=3)), llama(1))).values()) == {3}

    def test_a_regular_expression_is_anchored_at_the_start_only(self) -> None:
        assert "lm_head" not in taken(spec(group("Linear"), ignore=("re:lm_",)), llama(1))
        below = [ref("language_model.lm_head")]
        assert taken(spec(group("Linear"), ignore=("re:lm_head", "lm_head")), below)

    def test_ignoring_a_container_leaves_nothing_inside_it_out(self) -> None:
        assert len(taken(spec(group("Linear"), ignore=("LlamaMLP", "model.layers.0.mlp")), llama(1))) == 7

    def test_an_empty_group_keeps_modules_out_of_a_wider_one_and_is_listed(self) -> None:
        empty = Scheme(targets=("re:.*o_proj$",))
        found = taken(spec(group("Linear"), empty), llama(1))
        assert found["model.layers.0.self_attn.o_proj"] is empty

    def test_embeddings_are_quantized_when_targeted(self) -> None:
        assert list(taken(spec(group("Embedding")), llama(1))) == ["model.embed_tokens"]

    def test_linears_of_the_library_itself_are_never_touched(self) -> None:
        assert not taken(spec(group("Linear")), [ref("x", ("QuantLinear", "Linear", "InternalModule", "Module"))])

    def test_naming_an_attention_module_itself_is_refused_as_the_library_does(self) -> None:
        with pytest.raises(RecipeError, match=r"re:\.\*self_attn\$ names model.layers.0.self_attn.*no weight"):
            taken(spec(group("re:.*self_attn$")), llama(1))

    def test_naming_attention_and_what_is_in_it_quantizes_what_is_in_it(self) -> None:
        assert len(taken(spec(group("re:.*self_attn")), llama(1))) == 4


class TestAttention:
    def test_a_target_that_names_attention_itself_quantizes_its_states(self) -> None:
        modifier = spec(states("re:.*self_attn$"))
        assert not taken(modifier, llama(2))
        found = modifier.select(llama(2)).attention
        assert list(found) == ["model.layers.0.self_attn", "model.layers.1.self_attn"]
        assert all(scheme.queries and scheme.is_observed for scheme in found.values())

    def test_an_ignored_one_is_left_alone(self) -> None:
        assert not spec(states("re:.*self_attn$"), ignore=("re:.*self_attn",)).select(llama(1)).attention

    def test_one_without_a_cache_is_passed_over(self) -> None:
        modules = [replace(one, takes_cache=False) for one in llama(1)]
        assert not spec(states("re:.*self_attn$")).select(modules).attention

    def test_no_linear_takes_a_scale_for_each_head(self) -> None:
        heads = states("re:.*self_attn.*", strategy="attn_head")
        with pytest.raises(RecipeError, match="a Linear cannot have the strategy attn_head"):
            taken(spec(heads), llama(1))

    @pytest.mark.parametrize("strategy", ["channel", "token", "group"])
    def test_states_have_one_scale_or_one_for_each_head(self, strategy: str) -> None:
        with pytest.raises(RecipeError, match=r"input_activations.strategy: .*tensor.*attn_head"):
            spec(states("re:.*self_attn$", strategy=strategy)).select(llama(1))

    def test_kv_cache_scheme_takes_every_cache_and_observes_those_that_are_not_ignored(self) -> None:
        cache = weights(strategy="tensor")
        modifier = replace(spec(ignore=("re:.*layers.1.self_attn",)), kv_cache=cache)
        found = modifier.select(llama(2)).attention
        assert [(scheme.args, scheme.queries, scheme.is_observed) for scheme in found.values()] == [
            (cache, False, True),
            (cache, False, False),
        ]
        (note,) = checked(replace(modifier, groups=(group("Linear"),)), llama(2))
        assert "model.layers.1.self_attn gets scales for its cache that nobody computes" in note

    def test_a_group_that_names_attention_goes_before_kv_cache_scheme(self) -> None:
        modifier = replace(spec(states("re:.*self_attn$")), kv_cache=weights(strategy="tensor"))
        (found,) = modifier.select(llama(1)).attention.values()
        assert found.args.strategy == "attn_head"

    def test_that_queries_get_no_scales_is_told(self) -> None:
        (note,) = checked(spec(states("re:.*self_attn$")), llama(1))
        assert "those of queries are not" in note


class TestSparseTargets:
    def test_a_targeted_linear_is_compared_with_a_dot_behind_its_name(self) -> None:
        assert "lm_head" in taken(sparse("Linear", ignore=("lm_head",)), llama(1))
        assert "lm_head" in taken(sparse("Linear", ignore=("re:.*lm_head$",)), llama(1))
        assert "lm_head" not in taken(sparse("Linear", ignore=("re:.*lm_head",)), llama(1))

    def test_below_a_targeted_layer_names_are_plain(self) -> None:
        found = taken(sparse("LlamaDecoderLayer", ignore=("re:.*gate$", "model.layers.1.mlp.down_proj")), llama(2))
        assert "model.layers.0.mlp.gate" not in found
        assert "model.layers.1.mlp.down_proj" not in found
        assert len(found) == 9

    def test_one_way_to_reach_a_module_is_enough_to_prune_it(self) -> None:
        found = taken(sparse("Linear", "LlamaMLP", ignore=("re:.*down_proj$",)), llama(1))
        assert "model.layers.0.mlp.down_proj" in found

    def test_only_prunable_classes_count_and_each_module_once_in_model_order(self) -> None:
        found = taken(sparse("re:.*"), llama(1))
        assert list(found) == [one.name for one in llama(1) if "Linear" in one.classes]

    def test_the_shipped_recipes_leave_head_gates_and_towers_alone(self) -> None:
        modules = [*llama(1), ref("model.visual.blocks.0.attn.qkv"), ref("model.multi_modal_projector.linear_1")]
        for info in list_recipes():
            *_, modifier = load_recipe(info.name).modifiers
            if info.name in ("reap_25", "spinquant_w4a16"):  # whole experts; for models without a tower
                continue
            found = taken(modifier, modules)
            assert [name.rpartition(".")[2] for name in found] == ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]


class TestChecks:
    @pytest.mark.parametrize(
        ("target", "hint"),
        [
            ("q_proj", "names are compared whole, write model.layers.0.self_attn.q_proj or re:.*q_proj$"),
            ("Liner", "did you mean Linear?"),
            ("re:.*qproj$", "did you mean q_proj?"),
            ("xyz", "it has down_proj, embed_tokens, gate"),
        ],
    )
    def test_a_target_that_matches_nothing_is_an_error_that_names_what_is_there(self, target: str, hint: str) -> None:
        with pytest.raises(RecipeError) as caught:
            checked(spec(group(target)), llama(1))
        assert str(caught.value).startswith(f"r.yaml: s.m.Q.config_groups.group_0.targets: {target} matches no module")
        assert hint in str(caught.value)
        with pytest.raises(RecipeError, match=r"r.yaml: s.m.S.targets: .* matches no module"):
            checked(sparse(target), llama(1))

    def test_beside_others_that_match_it_is_told_with_the_same_hint(self) -> None:
        (note,) = checked(spec(group("Linear"), group("re:.*qproj$")), llama(1))
        (pruned,) = checked(sparse("Linear", "re:.*qproj$"), llama(1))
        for text in (note, pruned):
            assert text.endswith("targets: re:.*qproj$ matches no module of this model; did you mean q_proj?")

    def test_an_ignored_name_that_leaves_nothing_out_is_told_with_the_way_to_write_it(self) -> None:
        modules = [*llama(1)[:-1], ref("language_model.lm_head")]
        (note,) = checked(spec(group("Linear"), ignore=("lm_head",)), modules)
        assert note == (
            "r.yaml: s.m.Q.ignore: lm_head leaves nothing out; "
            "it is compared with language_model.lm_head as a whole, write re:.*lm_head$"
        )

    @pytest.mark.parametrize("written", ["lm_head", "re:.*lm_head$"])
    def test_sparsegpt_users_learn_that_a_plain_name_ignores_nothing(self, written: str) -> None:
        (note,) = checked(sparse("Linear", ignore=(written, r"re:.*mlp\.gate\.?$")), llama(1))
        assert note == (
            f"r.yaml: s.m.S.ignore: {written} leaves nothing out; "
            r"it is compared with lm_head. as a whole, write re:.*lm_head\.?$"
        )
        assert "lm_head" not in taken(sparse("Linear", ignore=(r"re:.*lm_head\.?$",)), llama(1))

    def test_common_precautions_are_not_worth_a_note(self) -> None:
        for info in list_recipes():
            *_, modifier = load_recipe(info.name).modifiers
            if isinstance(modifier, REAPSpec):  # it takes whole experts
                continue
            assert set(modifier.ignore) <= PRECAUTIONS
            assert checked(modifier, llama(1)) == ()

    def test_a_target_without_weights_is_told(self) -> None:
        (note,) = checked(spec(group("Linear"), group("LlamaMLP")), llama(2))
        assert "LlamaMLP quantizes nothing: model.layers.0.mlp and 1 more holds no weight" in note

    def test_ignoring_everything_stops_gptq_and_is_told_otherwise(self) -> None:
        (note,) = checked(spec(group("Linear"), ignore=("Linear",)), llama(1))
        assert "leaves this model as it is" in note
        for modifier in (
            spec(group("Linear"), ignore=("Linear",), kind=GPTQSpec),
            spec(group("Embedding"), kind=GPTQSpec),
        ):
            with pytest.raises(RecipeError, match="finds nothing to quantize"):
                checked(modifier, llama(1))


def wide(columns: int) -> list[ModuleRef]:
    """A model all of whose matrices have as many columns."""
    return [replace(one, columns=columns) for one in llama(1)]


class TestGroupSizes:
    def scheme(self, size: int, strategy: str = "group") -> Scheme:
        where = "gptq.yaml: s.m.G.config_groups.group_0"
        return Scheme(targets=("Linear",), weights=weights(4, strategy, size), where=where)

    def test_groups_that_do_not_divide_are_refused_with_path_and_modules(self) -> None:
        modifier = spec(self.scheme(96))
        modules = [replace(one, columns=14336 if "down" in one.name else 4096) for one in llama(2)]
        with pytest.raises(RecipeError) as caught:
            checked(modifier, modules)
        assert str(caught.value) == (
            "gptq.yaml: s.m.G.config_groups.group_0.weights.group_size: 96 does not divide "
            "4096 (model.layers.0.self_attn.q_proj and 10 more), 14336 (model.layers.0.mlp.down_proj and 1 more); "
            "add them to ignore, or take a group_size that divides"
        )

    @pytest.mark.parametrize(("size", "columns"), [(128, 4096), (128, 64), (128, 128)])
    def test_dividing_groups_and_weights_narrower_than_one_group_pass(self, size: int, columns: int) -> None:
        modifier = spec(self.scheme(size, "tensor_group"))
        assert checked(modifier, wide(columns)) == ()

    def test_the_bypass_is_heeded(self) -> None:
        modifier = QuantizationSpec(groups=(self.scheme(96),), bypass_divisibility_checks=True)
        assert checked(modifier, wide(4096)) == ()

    def test_other_strategies_have_no_such_rule(self) -> None:
        modifier = spec(group("Linear"))
        assert checked(modifier, wide(4099)) == ()


def test_forty_five_thousand_modules_are_all_resolved() -> None:
    modules = [
        ref(f"model.layers.{i}.mlp.experts.{e}.{p}") for i in range(58) for e in range(256) for p in ("a", "b", "c")
    ]
    modifiers = [load_recipe("gptq_w4a16").modifiers[0], load_recipe("sparsegpt_2of4").modifiers[0]]
    assert len(taken(modifiers[0], modules)) == len(taken(modifiers[1], modules)) == len(modules)
