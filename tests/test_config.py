"""Experiments: strict to load, complete to dump, and everything in them overridden by name."""

from __future__ import annotations

import inspect
import json
import shutil

import pytest
import yaml

from braid import config, recipes
from braid.config import DataConfig, Experiment, StrandConfig
from braid.errors import BraidError
from braid.modalities.codecs.folder import ASSETS
from braid.paradigms import PARADIGMS, with_sound
from braid.recipes import RECIPES, resolve
from braid.settings import load, load_run, override

ASSIGNED = [n for n, r in RECIPES.items() if "paradigm" in inspect.signature(r).parameters]
"""Recipes that take a paradigm."""


def toy(*settings: str) -> Experiment:
    """Return the toy recipe with settings."""
    return resolve("toy", settings)


def refused(message: str, recipe: str = "toy", *settings: str) -> None:
    """Claim that settings are refused in one line that holds a message."""
    with pytest.raises(BraidError) as e:
        resolve(recipe, settings)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("paradigm", PARADIGMS)
@pytest.mark.parametrize("recipe", ASSIGNED)
def test_an_experiment_survives_dumping_and_loading(recipe, paradigm, beside_codecs):
    if recipe in ("omni", "speech") and "audio" not in with_sound(paradigm).processes:
        return  # refused; see the laws
    made = resolve(recipe, [f"paradigm={paradigm}"])
    dumped = made.model_dump(mode="json")
    again = load(json.loads(json.dumps(dumped)))
    assert again == made
    assert again.model_dump(mode="json") == dumped


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_an_experiment_survives_a_json_and_a_yaml_file(paradigm, tmp_path):
    made = resolve("digits", [f"paradigm={paradigm}"])
    made.save(tmp_path / "a.json")
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(made.model_dump(mode="json")))
    assert load(tmp_path / "a.json") == load(tmp_path / "a.yaml") == made
    assert resolve(str(tmp_path / "a.json")) == made


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_the_processes_of_a_paradigm_arrive_in_its_experiment(paradigm):
    made, assigned = toy(f"paradigm={paradigm}"), PARADIGMS[paradigm]()
    for name, strand in made.strands.items():
        assert config.make_process(strand) == assigned.processes[name]
        assert config.make_sampler(strand) == assigned.samplers.get(name)


def test_overrides_change_what_they_name_and_nothing_else():
    made = toy("train.steps=7", "transformer.width=32", "strands.text.weight=2", "data.drop=0")
    assert (made.train.steps, made.transformer.width, made.data.drop) == (7, 32, 0)
    assert made.strands["text"].weight == 2
    undone = override(
        made, ["train.steps=300", "transformer.width=64", "strands.text.weight=1", "data.drop=0.1"]
    )
    assert undone == toy()


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("train.learning_rate=1e-3", "train.learning_rate", 1e-3),
        ("train.minutes=2", "train.minutes", 2.0),
        ("train.minutes=null", "train.minutes", None),
        ("train.minutes=", "train.minutes", None),
        ("train.compile=true", "train.compile", True),
        ("train.betas=[0.5, 0.6]", "train.betas", (0.5, 0.6)),
        ("train.betas=[5e-1, 0.6]", "train.betas", (0.5, 0.6)),
        ("data.path=[a.csv, b.csv]", "data.path", ["a.csv", "b.csv"]),
        ("data.path='1e3'", "data.path", "1e3"),
        ("name=a=b", "name", "a=b"),
        ("data.tasks.infill_image=2", "data.tasks", {**toy().data.tasks, "infill_image": 2.0}),
        ("data.tasks={image: 1}", "data.tasks", {"image": 1.0}),
        ("data.columns={image: picture}", "data.columns", {"image": "picture"}),
    ],
)
def test_a_value_is_read_as_yaml(setting, path, value):
    found = toy("data.source=files", setting)  # which reads paths and columns
    for key in path.split("."):
        found = getattr(found, key)
    assert found == value
    assert type(found) is type(value)


def test_options_of_parts_are_overridden_too():
    made = toy(
        "strands.image.process.path.c=7",
        "strands.image.sampler.steps=3",
        "strands.text.modality.length=8",
        "strands.text.process=masked",
        "strands.text.sampler=confidence",
        "strands.text.process.weighting=maskgit",
    )
    image, text = made.strands["image"], made.strands["text"]
    assert config.make_process(image).path["c"] == 7
    assert config.make_sampler(image).steps == 3
    assert config.make_modality("text", text).length == 8
    assert config.make_process(text).weighting == "maskgit"
    assert type(config.make_sampler(text)).__name__ == "Confidence"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.stepz=3", "unknown setting 'train.stepz'; did you mean 'train.steps'?"),
        ("trian.steps=3", "unknown setting 'trian'; did you mean 'train'?"),
        ("strands.imag.weight=3", "did you mean 'strands.image'?"),
        ("strands.image.wieght=3", "did you mean 'strands.image.weight'?"),
        ("train.steps.more=3", "unknown setting 'train.steps.more'"),
        ("train.steps", "expected key.path=value, as in train.steps=100"),
        ("=3", "expected key.path=value"),
        ("train.steps=0", "train.steps"),
        ("train.steps=many", "train.steps"),
        ("train.steps=[1", "is not a YAML value; quote it"),
        ("train.precision=float16", "train.precision"),
        ("data.drop=1", "data.drop"),
        ("seed=-1", "seed"),
        ("train={stepz: 3}", "did you mean 'steps'?"),
        ("transformer={widht: 3}", "did you mean 'width'?"),
        ("transformer.width=30", "a head of width 15 cannot be rotated"),
        ("transformer.hidden=-3", "transformer.hidden -3 must be at least 1, or none"),
        ("transformer.key_heads=0", "transformer.key_heads 0 must be at least 1"),
        ("transformer.rope_sections=[0, 0, 0]", "at least one above 0"),
        ("train.betas=[2, 3]", "train.betas.0"),
        ("seed=99999999999999999999", "seed"),
        ("transformer.heads=3", "not a multiple of transformer.heads 3"),
        ("rule=span", "unknown attention rule 'span'; did you mean 'spans'?"),
        ("paradigm=chamelion", "unknown paradigm 'chamelion'; did you mean 'chameleon'?"),
        ("strands.image.process=maskd", "unknown process 'maskd'; did you mean 'masked'?"),
        ("strands.image.sampler=jmup", "unknown sampler 'jmup'; did you mean 'jump'?"),
        ("strands.image.modality.kind=imge", "unknown modality 'imge'; did you mean 'image'?"),
        (
            "strands.image.modality.pach=2",
            "unknown option of modality 'image' 'pach'; did you mean 'patch'?",
        ),
        (
            "strands.image.process.objectiv=kl",
            "unknown option of process 'discrete_flow' 'objectiv'; did you mean 'objective'?",
        ),
        ("strands.image.sampler.stepz=2", "did you mean 'steps'?"),
        ("strands.image.process.path.kind=metrik", "unknown path 'metrik'; did you mean 'metric'?"),
        ("strands.image.process.path.pwoer=2", "did you mean 'power'?"),
        ("strands.image.process.objective=l2", "unknown objective 'l2'"),
        ("strands.image.sampler=euler", "sampler Euler cannot run DiscreteFlow; valid: jump"),
        ("strands.image.modality.patch=3", "is not a multiple of patch 3"),
        ("strands.image.sampler.steps=0", "steps 0 must be at least 1"),
        ("strands.image.process.latest=2", "latest 2.0 must lie between 0 and 1"),
        (
            "strands.image.sampler.steps=four",
            "sampler 'jump': steps: Input should be a valid integer",
        ),
        ("strands.text.modality.vocabulary=many", "vocabulary: Input should be a valid integer"),
        ("strands.image.process.latest=soon", "latest: Input should be a valid number"),
        ("strands={}", "strands"),
        ("strands.image=null", "strands.image"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_nearest_valid_name(setting, message):
    refused(message, "toy", setting)


def test_an_option_of_an_empty_part_is_refused():
    refused("strands.vision.process is empty; set it as a whole first", "toy", "paradigm=llava",
            "strands.vision.process.shift=1")  # fmt: skip


def test_unknown_recipes_are_refused_with_the_nearest():
    refused("unknown recipe 'digit'; did you mean 'digits'?", "digit")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "holds no experiment"),
        ("{", "is not readable YAML or JSON"),
        ("", "holds no experiment"),
        ("{}", "name: Field required"),
        ("\x00", "is not readable YAML or JSON"),
    ],
)
def test_a_file_that_holds_no_experiment_is_refused(text, message, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    refused(message, str(tmp_path / "a.yaml"))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    refused("is not readable YAML or JSON", str(tmp_path / "a.json"))


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    refused("does not exist; give a recipe, or the path of", str(tmp_path / "a.yaml"))


def test_a_folder_without_an_experiment_is_refused(tmp_path):
    refused("does not exist", str(tmp_path))


def test_an_experiment_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        toy().seed = 3


def test_every_recipe_is_described():
    assert set(recipes.describe()) == set(RECIPES)
    assert all(recipes.describe().values())


def test_a_paradigm_of_ones_own_is_an_assignment():
    own = recipes.strands.processes(
        PARADIGMS["showo"](), image=PARADIGMS["dfm_fm"]().processes["image"]
    )
    own = type(own)(own.processes, own.rule, {"text": own.samplers["text"]})
    made = recipes.toy(own)
    assert made.strands["image"].process["kind"] == "gaussian_flow"
    assert made.strands["image"].modality["continuous"] is True
    assert load(made.model_dump(mode="json")) == made


def test_a_folder_beside_a_run_is_for_the_strand_of_its_whole_name(tmp_path):
    coded = StrandConfig(modality={"kind": "coded_image"})
    made = toy("paradigm=llava")
    strands = {**made.strands, "image": coded, "image-b": coded}
    made.model_copy(update={"strands": strands}).save(tmp_path / "experiment.json")
    for name in ("image-b-codec", "image-notes", "text-codec", "checkpoints"):
        shutil.copytree(ASSETS / "mini" / "image-codec", tmp_path / name)
    loaded = load_run(tmp_path).strands
    assert loaded["image-b"].modality["codec"] == str(tmp_path / "image-b-codec")
    assert loaded["image"].modality == coded.modality
    assert loaded["text"].modality == made.strands["text"].modality


@pytest.mark.parametrize("name", PARADIGMS)
def test_a_recipe_writes_down_the_processes_of_its_paradigm(name):
    paradigm, experiment = PARADIGMS[name](), recipes.resolve("toy", [f"paradigm={name}"])
    for modality, strand in experiment.strands.items():
        assert config.make_process(strand) == paradigm.processes[modality]


def test_a_setting_of_data_that_would_be_ignored_is_refused():
    with pytest.raises(BraidError, match="path is read only with source 'files', not 'toy'"):
        toy("data.path=a.csv")
    with pytest.raises(BraidError, match="partner and agree_on belong together"):
        toy("data.agree_on={label: digit}")
    with pytest.raises(BraidError, match="partners 3 is not read without a partner; give data.pa"):
        toy("data.partners=3")
    with pytest.raises(BraidError, match="hold_out 0.1 is not read beside source 'toy', which"):
        toy("data.hold_out=0.1")
    with pytest.raises(BraidError, match="hold_out 0.1 is not read beside validation, which has"):
        files = ["data.source=files", "data.path=a.csv", "data.validation=b.csv"]
        toy(*files, "data.hold_out=0.1")


MIX = "data.mix={a: {source: toy, weight: 2}, b: {source: digits}}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.path=a.csv"], "path 'a.csv' is not read beside mix; give it to a part, as data.mi"),
        (["data.tasks={image: 1}"], "tasks {'image': 1.0} is not read beside mix"),
        (["data.source=scenes"], "data.mix.a.source, or leave it out"),
        (["data.drop=0.2"], "drop 0.2 is not read beside mix"),
        (["data.match=[text, image]"], "match ('text', 'image') is not read beside mix"),
        (["data.weight=2"], "weight 2.0 is not read beside mix"),
        (
            ["data.mix.a.row=32"],
            "mix.a.row 32 is not read, as it is of the whole mixture; set data",
        ),
        (["data.mix.b.workers=2"], "mix.b.workers 2 is not read"),
        (["data.mix.b.bad_limit=0.5"], "set data.bad_limit beside data.mix"),
    ],
)
def test_what_a_mixture_does_not_read_is_refused(settings, message):
    refused(message, "toy", MIX, *settings)
    refused(message, "toy", *(s for s in settings if ".mix." not in s), MIX, *settings)


def test_a_mixture_has_settings_as_a_whole_and_takes_the_place_of_a_source():
    made = toy(MIX, "data.row=32", "data.workers=2", "data.bad_limit=0.1")
    assert (made.data.row, made.data.workers, made.data.bad_limit) == (32, 2, 0.1)
    assert toy().data.source == "toy" and made.data.source == DataConfig().source
    assert load(made.model_dump(mode="json")) == made == override(made, [])


def test_a_model_that_was_trained_when_a_mixture_ignored_settings_is_loaded(tmp_path):
    made = toy(MIX, "data.row=32")
    tree = made.model_dump(mode="json")
    tree["data"] |= {"source": "toy", "drop": 0.5}
    tree["data"]["mix"]["a"]["workers"] = 3
    (tmp_path / "experiment.json").write_text(json.dumps(tree))
    assert load_run(tmp_path) == made
    refused("source 'toy' is not read beside mix", str(tmp_path))


@pytest.mark.parametrize(
    "folder", sorted({p.parent for p in ASSETS.rglob("experiment.json")}), ids=lambda p: p.name
)
def test_the_experiments_that_are_shipped_load(folder):
    tree = json.loads((folder / "experiment.json").read_text())
    assert load_run(folder).data == DataConfig.model_validate(tree["data"])  # nothing is left out


@pytest.mark.parametrize(
    ("settings", "path", "value"),
    [
        (["data={source: toy}", "data.workers=3"], "data.workers", 3),
        (["data={path: a.csv}", "data.source=files"], "data.path", "a.csv"),
        ([MIX, "data.mix.b.weight=3"], "data.mix.b.weight", 3.0),
        ([MIX, "data.mix.c={source: scenes}", "data.mix.c.drop=0"], "data.mix.c.drop", 0.0),
        (["data.mix.c={source: scenes}", "data.mix.c.tasks.image=3"], "data.mix.c.tasks.image", 3),
        (["train.lora={rank: 4}", "train.lora.alpha=2"], "train.lora.alpha", 2.0),
        (["train={steps: 4}", "train.batch=2", "train.betas=[0.5, 0.6]"], "train.batch", 2),
        (
            ["transformer={width: 32, depth: 2, heads: 2}", "transformer.dropout=0.5"],
            "transformer.dropout",
            0.5,
        ),
        (["strands.text={modality: text}", "strands.text.weight=2"], "strands.text.weight", 2.0),
    ],
)
def test_what_replaces_a_part_may_be_set_further(settings, path, value):
    found: object = toy(*settings)
    for key in path.split("."):
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    assert found == value


def test_a_part_that_is_replaced_has_defaults_for_what_it_leaves_out():
    assert toy("data={source: toy}").data == DataConfig(source="toy")
    refused("unknown setting 'data.worker'; did you mean 'data.workers'?", "toy",
            "data={source: toy}", "data.worker=3")  # fmt: skip
