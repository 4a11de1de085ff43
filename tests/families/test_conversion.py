"""Released folders come in tensor by tensor, go out bit for bit, and are refused by name."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import braid
from braid import Hole, Part, convert_commands
from braid.errors import BraidError
from braid.families import FAMILIES, reading
from braid.families.family import Family, Rule, plan
from braid.families.transforms import (
    Batched,
    Constant,
    Interleaved,
    MaskRow,
    Rows,
    Same,
    Split,
    Transform,
    Transposed,
)
from braid.modalities import ReleasedText, Symbol
from tests.families.made import (
    CONFIGS,
    dream,
    edited,
    llada,
    released,
    tensors_of,
    tokenizer_json,
    with_tokenizer,
)

pytest.importorskip("transformers")


def family(name: str):
    """A writer of one small model of a family."""
    writers = {"llada": llada, "dream": dream}
    return writers.get(name, lambda folder: released(folder, name))


def converted(source: Path, folder: Path) -> list[str]:
    return list(convert_commands.convert(str(source), folder))


@pytest.mark.parametrize("name", [*CONFIGS, "llada", "dream"])
def test_export_after_convert_is_equal_to_the_bit(tmp_path, name):
    source, _ = family(name)(tmp_path / "source")
    converted(source, tmp_path / "braid")
    convert_commands.export(str(tmp_path / "braid"), tmp_path / "back")
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys() and len(before) > 10
    for key, tensor in before.items():
        assert after[key].dtype == tensor.dtype and torch.equal(after[key], tensor), key
    for text in ("config.json", "tokenizer.json"):
        assert (source / text).read_text() == (tmp_path / "back" / text).read_text()


def test_every_family_is_tested():
    made = {CONFIGS[name][0].lower() for name in CONFIGS} | {"llada", "dream"}
    assert made >= FAMILIES.keys() & {"llama", "qwen2", "qwen3", "llada", "dream"}


def test_shards_and_their_types_are_kept(tmp_path):
    folder, model = released(tmp_path / "one", "qwen3, tied, grouped")
    source = tmp_path / "source"
    model.to(torch.bfloat16).save_pretrained(source, max_shard_size="20KB")
    with_tokenizer(source)
    shard = sorted(source.glob("*.safetensors"))[0]
    tensors = load_file(shard)
    first = min(tensors)
    save_file(tensors | {first: tensors[first].float()}, shard, {"format": "pt"})
    pipe = braid.load(source, "cpu")
    assert {p.dtype for p in pipe.braid.parameters()} == {torch.float32}  # the widest of all
    pipe.save(tmp_path / "braid")
    convert_commands.export(str(tmp_path / "braid"), tmp_path / "back")
    shards = sorted(p.name for p in source.iterdir() if p.suffix == ".safetensors")
    assert len(shards) > 2
    for name in [*shards, "model.safetensors.index.json"]:
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes(), name


def test_a_model_in_bfloat16_stays_so(tmp_path):
    source, model = released(tmp_path / "source", "llama", dtype=torch.bfloat16)
    model.to(torch.bfloat16).save_pretrained(source)
    converted(source, tmp_path / "braid")
    for place in (source, tmp_path / "braid"):
        pipe = braid.load(place, "cpu")
        assert {p.dtype for p in pipe.braid.parameters()} == {torch.bfloat16}
        assert isinstance(pipe(["the cat", Hole("text", 4)])[1], str)
        wide = braid.load(place, "cpu", dtype=torch.float32)
        assert {p.dtype for p in wide.braid.parameters()} == {torch.float32}


def test_a_converted_folder_is_the_released_one(tmp_path):
    source, _ = released(tmp_path / "source", "llama, tied")
    said = converted(source, tmp_path / "braid")
    assert said[-1] == str(tmp_path / "braid") and "llama: 0.0 million parameters" in said[-2]
    pipes = [braid.load(source, "cpu"), braid.load(tmp_path / "braid", "cpu")]
    first, second = (dict(p.braid.state_dict()) for p in pipes)
    assert all(torch.equal(first[key], second[key]) for key in first | second)
    parts = ["the cat sat", Hole("text", 16)]
    assert pipes[0](parts, temperature=0) == pipes[1](parts, temperature=0)
    strand = pipes[1].braid.strand("text")
    assert strand.head.linear.weight is strand.embedder.table.weight


def test_a_trained_model_is_exported_with_what_it_learned(tmp_path):
    source, _ = released(tmp_path / "source", "llama")
    pipe = braid.load(source, "cpu")
    with torch.no_grad():
        pipe.braid.transformer.norm.weight += 1
    pipe.save(tmp_path / "braid")
    convert_commands.export(str(tmp_path / "braid"), tmp_path / "back")
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert changed == ["model.norm.weight"]


def test_what_the_layout_has_no_place_for_is_not_lost_in_silence(tmp_path):
    source, _ = released(tmp_path / "source", "llama")
    pipe = braid.load(source, "cpu")
    with torch.no_grad():
        pipe.braid.strand("text").kind += 1
    pipe.save(tmp_path / "braid")
    with pytest.raises(BraidError, match=r"strands\.text\.kind cannot be exported.*freeze"):
        convert_commands.export(str(tmp_path / "braid"), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_fetched(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(reading, "find", lambda *_, **__: pytest.fail("it is fetched"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for place, told in {
        "full": "it holds other files, such as 'thesis.tex'; choose another folder",
        "file": "it is a file; choose another folder",
        "file/below": "cannot write.* choose another folder",
    }.items():
        with pytest.raises(BraidError, match=told):
            list(convert_commands.convert("owner/name", tmp_path / place))


@pytest.mark.slow
def test_a_converted_folder_may_be_written_again(tmp_path):
    source, _ = released(tmp_path / "source", "llama")
    for _ in range(2):
        assert converted(source, tmp_path / "braid")[-1] == str(tmp_path / "braid")


def test_only_what_was_released_is_exported(tmp_path):
    with pytest.raises(BraidError, match="does not come from a released one"):
        convert_commands.export("mini", tmp_path / "back")


def test_a_tied_head_that_is_written_is_kept_and_has_to_agree(tmp_path):
    source, _ = released(tmp_path / "source", "llama, tied")
    file = source / "model.safetensors"
    tensors = load_file(file)
    head = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors | {"lm_head.weight": head}, file)
    converted(source, tmp_path / "braid")
    convert_commands.export(str(tmp_path / "braid"), tmp_path / "back")
    assert torch.equal(tensors_of(tmp_path / "back")["lm_head.weight"], head)
    head[0, 0] += 1
    save_file(tensors | {"lm_head.weight": head}, file)
    with pytest.raises(BraidError, match=r"head\.linear\.weight' differs from .* tied"):
        braid.load(source, "cpu")


def test_buffers_that_hold_nothing_learned_are_passed_over(tmp_path):
    source, _ = released(tmp_path / "source", "llama")
    tensors = load_file(source / "model.safetensors")
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(tensors | extra, source / "model.safetensors")
    converted(source, tmp_path / "braid")
    convert_commands.export(str(tmp_path / "braid"), tmp_path / "back")
    assert tensors_of(tmp_path / "back").keys() == tensors.keys()


# -- the command line, the Hub, and folders without a tokenizer


def test_from_the_command_line_to_a_continued_text(tmp_path, capsys):
    from braid.cli import main

    source, model = released(tmp_path / "source", "qwen2")
    edited(source, auto_map={"AutoModel": "evil.Model"})
    (source / "evil.py").write_text("raise SystemExit('code of a release ran')")
    for arguments in (
        ["convert", str(source), str(tmp_path / "braid")],
        ["sample", str(tmp_path / "braid"), "the cat sat", "--to", "text", "--temperature", "0"],
        ["export", str(tmp_path / "braid"), str(tmp_path / "back")],
    ):
        with pytest.raises(SystemExit) as e:
            main(arguments)
        assert not e.value.code
    said = capsys.readouterr().out
    assert "auto_map in config.json is ignored" in said
    expected = braid.load(source, "cpu")(["the cat sat", Hole("text")], temperature=0)[1]
    assert expected in said
    assert (tmp_path / "back" / "model.safetensors").is_file()


def test_without_a_tokenizer_it_works_on_symbols_and_says_what_is_missing(tmp_path):
    source, model = released(tmp_path / "source", "llama")
    (source / "tokenizer.json").unlink()
    assert any("no tokenizer.json" in line for line in converted(source, tmp_path / "braid"))
    pipe = braid.load(tmp_path / "braid", "cpu")
    assert len(tensors_of(tmp_path / "braid")) > 10
    with pytest.raises(BraidError, match="no tokenizer.*convert again"):
        pipe(["the cat", Hole("text", 4)])
    convert_commands.export(str(tmp_path / "braid"), tmp_path / "back")
    assert tensors_of(source).keys() == tensors_of(tmp_path / "back").keys()


def test_special_symbols_in_a_users_text_are_plain_characters(tmp_path):
    source, _ = released(tmp_path / "source", "llama")
    tree = json.loads((source / "tokenizer.json").read_text())
    for token in tree["added_tokens"]:
        token["special"] = False  # as some releases write them
    (source / "tokenizer.json").write_text(json.dumps(tree))
    text = braid.load(source, "cpu").braid.strand("text").modality
    raw = "a </s> b <s>"
    tokens = text.encode(raw)
    assert tokens[-1] == 1 and not {0, 1} & {*tokens[:-1].tolist()}
    assert text.decode(tokens) == raw
    assert text.encode(raw, "text").tolist() == tokens[:-1].tolist()


def test_documents_begin_as_the_tokenizer_begins_them(tmp_path):
    begins = {}
    for name, settings in {"template": {}, "set": {"add_bos_token": False}}.items():
        source, _ = released(tmp_path / name, "llama")
        (source / "tokenizer_config.json").write_text(json.dumps(settings))
        begins[name] = braid.load(source, "cpu").braid.strand("text").modality.begin
    source, _ = released(tmp_path / "bare", "llama", begins=False)
    (source / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True}))
    begins["told"] = braid.load(source, "cpu").braid.strand("text").modality.begin
    assert begins == {"template": (0,), "set": (), "told": (0,)}


def test_a_model_of_the_hub_comes_from_the_cache_when_offline(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "1" * 40
    cached = tmp_path / "cache" / "models--someone--small"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "v2").write_text(commit)
    made, _ = released(cached / "snapshots" / commit, "llama")
    pipe = braid.load("someone/small", "cpu", revision="v2", cache_dir=tmp_path / "cache")
    assert torch.equal(pipe.braid.transformer.norm.weight, tensors_of(made)["model.norm.weight"])
    with pytest.raises(BraidError, match="'someone/small'.*HF_HUB_OFFLINE"):
        braid.load("someone/small", "cpu", revision="v3", cache_dir=tmp_path / "cache")


def test_a_revision_is_refused_where_there_is_none(tmp_path):
    source, _ = released(tmp_path / "model", "llama")
    for here in ("mini", source):
        with pytest.raises(BraidError, match="revision 'v2' is of a Hub id.*leave it out"):
            braid.load(here, "cpu", revision="v2")


# -- refusals name the culprit


def damage_shard(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def rewritten(change):
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def lose_a_shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    where = dict.fromkeys(tensors, "model-00001-of-00002.safetensors")
    where["lm_head.weight"] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def promise_too_much(folder: Path) -> None:
    where = dict.fromkeys([*load_file(folder / "model.safetensors"), "x.y"], "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def point_to(file: str):
    def damage(folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"lm_head.weight": file}})
        )

    return damage


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never read")


NORM = "model.norm.weight"
REFUSED = {
    "a truncated file": (damage_shard, r"model\.safetensors' is truncated.*fetch"),
    "a lost shard": (lose_a_shard, r"shard 'model-00002-of-00002\.safetensors'.*missing"),
    "an index that promises too much": (promise_too_much, r"promises tensor 'x\.y' in 'model"),
    "an index that leads elsewhere": (point_to("../model.safetensors"), "not of its folder"),
    "an index of pickles": (point_to("pytorch_model.bin"), r"pytorch_model\.bin.*runs code"),
    "a missing tensor": (rewritten(lambda t: t.pop(NORM)), rf"lacks 1 tensors.*'{NORM}'"),
    "an unknown tensor": (
        rewritten(lambda t: t.update({"model.layers.7.mlp.gate_proj.weight": torch.ones(2)})),
        r"holds 1 tensors.*'model\.layers\.7\.mlp\.gate_proj\.weight'",
    ),
    "a tensor of another shape": (
        rewritten(lambda t: t.update({NORM: torch.ones(31)})),
        rf"'{NORM}'.*\(31,\).*\(32,\)",
    ),
    "quantised weights": (
        rewritten(lambda t: t.update({NORM: torch.ones(32, dtype=torch.int8)})),
        rf"'{NORM}'.*type I8",
    ),
    "a quantised configuration": (
        lambda f: edited(f, quantization_config={"quant_method": "gptq"}),
        "quantization_config",
    ),
    "only a pickle": (only_a_pickle, r"only pytorch_model\.bin.*save_pretrained"),
    "another architecture": (
        lambda f: edited(f, architectures=["LlamaForCausalML"]),
        "unknown architecture 'LlamaForCausalML'; did you mean 'LlamaForCausalLM'",
    ),
    "no architecture": (lambda f: edited(f, architectures=None), "names no architectures"),
    "another activation": (lambda f: edited(f, hidden_act="gelu"), "hidden_act to 'gelu'"),
    "another scaling": (
        lambda f: edited(f, rope_parameters={"rope_type": "yarn", "factor": 2.0}),
        "'yarn'; known are default, linear, llama3",
    ),
    "a scaling beside another": (
        lambda f: edited(f, rope_scaling={"rope_type": "yarn", "factor": 2.0}),
        "rope_type to 'default' in rope_parameters and to 'yarn' in rope_scaling",
    ),
    "a factor beside another": (
        lambda f: edited(
            f,
            rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
            rope_scaling={"type": "linear", "factor": 2.0},
        ),
        "factor to 4.0 in rope_parameters and to 2.0 in rope_scaling",
    ),
    "a scaling for each kind of layer": (
        lambda f: edited(f, rope_parameters={"full_attention": {"rope_type": "yarn"}}),
        "rope_parameters to .* expected one scaling",
    ),
    "half-rotated heads": (
        lambda f: edited(f, rope_parameters={"partial_rotary_factor": 0.5}),
        "partial_rotary_factor to 0.5",
    ),
    "a size that is missing": (lambda f: edited(f, hidden_size=None), "lacks 'hidden_size'"),
    "a tokenizer of another model": (
        lambda f: edited(f, vocab_size=200),
        "symbol 289.*only 200 rows",
    ),
    "a damaged tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "no tokenizer.json"),
}


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("held", "told"),
    [
        (b'{"eos_token_id": ', "{file} of the release is damaged"),
        (b"[1]", "{file} of the release holds a list, expected a mapping"),
        (b'{"a": "\xff"}', "{file} of .* cannot be read as UTF-8"),
    ],
)
def test_damaged_small_files_are_refused_by_name(tmp_path, file, held, told):
    source, _ = released(tmp_path / "source", "llama")
    (source / file).write_bytes(held)
    with pytest.raises(BraidError, match=told.format(file=file)):
        converted(source, tmp_path / "braid")


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("llama", {"hidden_size": "32"}, "hidden_size to '32', expected an integer"),
        ("llama", {"num_hidden_layers": 2.0}, "num_hidden_layers to 2.0, expected an integer"),
        ("llama", {"num_attention_heads": True}, "num_attention_heads to True, expected an int"),
        ("llama", {"num_key_value_heads": "4"}, "num_key_value_heads to '4', expected an integer"),
        ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps to '1e-5', expected a number"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps to nan, expected a finite number"),
        ("llama", {"eos_token_id": "1"}, r"eos_token_id to \['1'\], expected integers"),
        ("llama", {"architectures": "LlamaForCausalLM"}, "architectures to .*, expected a list"),
        ("qwen3", {"head_dim": [8]}, r"head_dim to \[8\], expected an integer"),
        ("llada", {"d_model": "32"}, "d_model to '32', expected an integer"),
        ("dream", {"mask_token_id": "2"}, "mask_token_id to '2', expected an integer"),
    ],
)
def test_values_of_another_type_are_refused_by_name(tmp_path, name, change, told):
    source, _ = family(name)(tmp_path / "source")
    (source / "generation_config.json").unlink(missing_ok=True)
    edited(source, **change)
    with pytest.raises(BraidError, match=told):
        converted(source, tmp_path / "braid")


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_a_model_that_sees_what_comes_after_is_refused(tmp_path, name):
    source, _ = released(tmp_path / "source", name)
    with pytest.raises(BraidError, match="is_causal to False; only True"):
        braid.load(edited(source, is_causal=False), "cpu")


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_refused_by_name(tmp_path, case):
    source, _ = released(tmp_path / "source", "llama")
    damage, message = REFUSED[case]
    damage(source)
    with pytest.raises(BraidError, match=message):
        converted(source, tmp_path / "braid")
    assert not (tmp_path / "braid").exists()


def test_a_scaling_that_is_told_twice_alike_is_read(tmp_path):
    source, _ = released(tmp_path / "source", "llama, linear rope")
    edited(source, rope_scaling={"type": "linear", "factor": 4.0})
    sizes = braid.load(source, "cpu").experiment.transformer
    assert sizes.rope_theta == 100.0 and sizes.rope_scaling.factor == 4.0


def test_attention_to_a_window_is_refused(tmp_path):
    source, _ = released(tmp_path / "source", "qwen2")
    edited(source, layer_types=["full_attention", "sliding_attention"])
    with pytest.raises(BraidError, match="sliding_attention"):
        braid.load(source, "cpu")


def test_a_folder_of_something_else_is_no_released_model(tmp_path):
    with pytest.raises(BraidError, match="is no released model"):
        converted(tmp_path, tmp_path / "braid")


# -- transforms and plans

WAYS: dict[str, tuple[Transform, list[tuple[int, ...]], list[tuple[int, ...]]]] = {
    "same": (Same(), [(3, 2), (2,)], [(3, 2), (2,)]),
    "split": (Split(), [(9, 2)], [(5, 2), (2, 2), (2, 2)]),
    "split columns": (Split(axis=1), [(2, 9)], [(2, 4), (2, 5)]),
    "batched": (Batched(), [(1, 3, 2)], [(3, 2)]),
    "transposed": (Transposed(), [(3, 2)], [(2, 3)]),
    "interleaved": (Interleaved(width=4), [(8, 3), (8,)], [(8, 3), (8,)]),
    "mask row": (MaskRow(2), [(5, 3)], [(6, 3)]),
    "rows": (Rows((4, 1)), [(5, 3)], [(5, 3), (2, 3)]),
    "constant": (Constant(), [], [(4,)]),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_transform_leads_there_and_back(name):
    way, given, shapes = WAYS[name]
    tensors = [torch.randn(shape) for shape in given]
    made = way.read(tensors, shapes)
    assert [tuple(t.shape) for t in made] == shapes
    back = way.write(made)
    assert all(torch.equal(a, b) for a, b in zip(tensors, back, strict=True))
    with torch.device("meta"):
        shadows = way.read([torch.empty(shape) for shape in given], shapes)
    assert [tuple(t.shape) for t in shadows] == shapes and all(t.is_meta for t in shadows)


def test_interleaved_pairs_become_halves():
    (made,) = Interleaved(width=4).read([torch.arange(8)], [(8,)])
    assert made.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_rows_that_two_tables_hold_are_written_from_the_second():
    tables = Rows((2, 0)).read([torch.tensor([[0.0], [1.0], [2.0]])], [(3, 1), (2, 1)])
    assert tables[1].tolist() == [[2.0], [0.0]]
    (back,) = Rows((2, 0)).write([tables[0], tables[1] + 5])
    assert back.tolist() == [[5.0], [1.0], [7.0]]


def test_what_has_no_place_is_refused_by_a_constant():
    with pytest.raises(BraidError, match="other than 0"):
        Constant().write([torch.tensor([0.0, 1e-8])])


def test_a_family_that_forgets_a_tensor_is_refused():
    forgetful = Family("x", ("X",), lambda c, f: None, lambda c: [Rule("a.{}", "b.{}")], ())  # type: ignore[arg-type,return-value]
    steps = plan(forgetful, {}, ["b.0", "b.11"]).steps
    assert [(s.released, s.own) for s in steps] == [(("a.0",), ("b.0",)), (("a.11",), ("b.11",))]
    with pytest.raises(BraidError, match=r"family 'x' maps 1 tensors.*'c\.0'"):
        plan(forgetful, {}, ["b.0", "c.0"])


# -- the text modality of a release


def test_frame_symbols_close_a_text_before_another_modality():
    text = ReleasedText(size=300, ends=(1,), frames={"image": 3})
    text.load_state({"files": {"tokenizer.json": tokenizer_json()}})
    plain = text.symbols("the cat")
    assert text.encode("the cat", "image").tolist() == [*plain, 3]
    assert text.encode("the cat", "text").tolist() == plain
    assert text.encode("the cat").tolist() == [*plain, 1]
    assert text.finished(torch.tensor([[5, 3], [5, 1], [5, 6]])).tolist() == [True, True, False]


def test_special_symbols_are_given_by_name_and_never_by_text(tmp_path):
    source, _ = released(tmp_path / "source", "llama")
    pipe = braid.load(source, "cpu")
    text = pipe.braid.strand("text").modality
    parts = [Symbol("<image>"), "the cat </s>", Symbol("</s>")]
    assert text.encode(parts, "text").tolist() == [3, *text.symbols("the cat </s>"), 1]
    assert text.encode(Symbol("<image>"), "text").tolist() == [3]
    assert len(text.encode([Symbol("<image>"), "\n"], "text")) == 2
    assert isinstance(pipe([Part("text", parts), Hole("text", 4)])[1], str)
    with pytest.raises(BraidError, match="unknown symbol '<imge>'; did you mean '<image>'"):
        text.encode([Symbol("<imge>")])
    for wrong in ([], [7], 7):
        with pytest.raises(BraidError, match="expected a string"):
            text.encode(wrong)


@pytest.mark.parametrize(
    "options", [{"begin": (300,)}, {"ends": (-1,)}, {"frames": {"image": 999}}, {"length": 0}]
)
def test_symbols_out_of_range_are_refused(options):
    with pytest.raises(BraidError, match="out of range|at least 1"):
        ReleasedText(size=300, **options)


def test_a_text_without_an_end_says_so():
    text = ReleasedText(size=300)
    text.load_state({"files": {"tokenizer.json": tokenizer_json()}})
    assert len(text.encode("the cat", "text")) > 0
    with pytest.raises(BraidError, match="eos_token_id"):
        text.encode("the cat")


# -- memory

MEASURED = """
import sys
from pathlib import Path
from braid import convert_commands, loading

def now(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

for work in (
    lambda: list(convert_commands.convert(sys.argv[1], Path(sys.argv[2]))),
    lambda: loading.load(sys.argv[2], "cpu"),
):
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = now("VmRSS")
    work()
    print(now("VmHWM") - before)
"""


def sparse(file: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """Write safetensors of zeros that take no time and no room; return their bytes."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(file, 8 + len(text) + end)
    return end


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_stays_below_one_model_and_a_fifth(tmp_path):
    """A checkpoint of 1 GB in shards; measured in a process of its own."""
    width, depth, rows = 1024, 12, 32000
    block = {f"self_attn.{x}_proj.weight": (width, width) for x in "qkvo"}
    block |= {f"mlp.{x}_proj.weight": (4 * width, width) for x in ("gate", "up")}
    block |= {"mlp.down_proj.weight": (width, 4 * width)}
    block |= {"input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,)}
    shards: list[dict[str, tuple[int, ...]]] = [
        {
            "model.embed_tokens.weight": (rows, width),
            "model.norm.weight": (width,),
            "lm_head.weight": (rows, width),
        }
    ]
    for i in range(0, depth, 4):
        layers = range(i, i + 4)
        shards.append(
            {f"model.layers.{k}.{n}": shape for k in layers for n, shape in block.items()}
        )
    source = tmp_path / "source"
    source.mkdir()
    size, where = 0, {}
    for number, shapes in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        size += sparse(source / file, shapes)
        where |= dict.fromkeys(shapes, file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": 8,
        "vocab_size": rows,
        "eos_token_id": 2,
    }
    (source / "config.json").write_text(json.dumps(config))
    assert size > 1e9 * 0.95
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(source), str(tmp_path / "braid")],
        capture_output=True,
        text=True,
        cwd=Path(braid.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    for what, peak in zip(("convert", "load"), done.stdout.split(), strict=True):
        assert 0.9 * size < int(peak) <= 1.2 * size, f"{what}: {int(peak) / size:.2f} of the model"
