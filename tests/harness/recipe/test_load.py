"""A recipe is read strictly: what is wrong is refused with its line and the nearest valid name, never a traceback.

Covers `load`, `errors`, `fields`, `schema`, `data`, `launch` and `models`.
"""

import json
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from minimal_recipe import MINIMAL

from harness import sweep
from harness.recipe.errors import RecipeError
from harness.recipe.load import json_schema, load, to_yaml

ROOT = Path(__file__).parents[3]
SCALING = ROOT / "recipes" / "scaling.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(path, "laptop", overrides)
    return str(caught.value)


# One wrong override for each kind of field: what is given, and what the message must say.
BAD_OVERRIDES = [
    ("train.epocs=3", "did you mean 'epochs'"),
    ("trian.epochs=3", "did you mean 'train'"),
    ("train.epochs=0", "train.epochs: input should be greater than 0"),
    ("train.epochs=2.5", "train.epochs"),
    ("train.epochs=many", "train.epochs"),
    ("train.epochs={other: 3}", "has no value for 'all'"),
    ("train.batch=-4", "greater than 0"),
    ("train.batch=null", "train.batch"),
    ("train.learning_rate=0", "train.learning_rate"),
    ("train.learning_rate=.nan", "train.learning_rate"),
    ("train.learning_rate={all: 1e-4}", "has no value for 'vit_s16'"),
    ("train.optimiser.name=adam", "'lion', 'adamw', 'sgd' or 'muon'"),
    ("train.optimiser.betas=[0.9]", "train.optimiser.betas"),
    ("train.optimiser.betas=[a, b]", "train.optimiser.betas"),
    ("train.optimiser.weight_decay=-1", "greater than or equal to 0"),
    ("train.schedule.warmup=1.5", "less than 1"),
    ("train.schedule.name=linear", "one_cycle_cosine"),
    ("train.schedule.cycle_momentum=0.9", "train.schedule.cycle_momentum"),
    ("train.schedule.momentum_range=[0.95, 0.85]", "train.schedule"),
    ("launch.engine=horovod", "'hsdp', 'fsdp' or 'deepspeed'"),
    ("launch.zero_stage=4", "launch.zero_stage"),
    ("launch.recompute=some", "'none', 'selective' or 'full'"),
    ("launch.compile=fast", "'none', 'blocks', 'whole' or 'reduce-overhead'"),
    ("launch.attention=cuda", "'efficient' or 'math'"),
    ("launch.crops_per_gpu_step=0", "greater than 0"),
    ("launch.crops_per_gpu_step={all: 8}", "has no value for 'vit_s16'"),
    ("train.early_stopping={patience: 0}", "train.early_stopping.patience"),
    ("train.early_stopping={patienc: 3}", "train.early_stopping.patienc: unknown field; did you mean 'patience'?"),
    ("train.early_stopping={patience: null}", "train.early_stopping.patience: input should be a valid integer"),
    ("train.early_stopping={all: {patience: 0}}", "train.early_stopping.all.patience: input should be greater than 0"),
    ("train.early_stopping={all: {patienc: 3}}", "train.early_stopping.all.patienc: unknown field; did you mean"),
    ("train.early_stopping={all: {patience: {a: 1}}}", "train.early_stopping.all.patience: input should be a valid"),
    ("train.early_stopping={al: {patience: 3}}", "train.early_stopping.al: 'al' is not known; did you mean 'all'?"),
    ("train.early_stopping={all: {}, patience: 3}", "train.early_stopping.patience: input should be a valid dict"),
    ("train.precision=fp16", "'fp32' or 'bf16'"),
    ("grid.models=[vit_s61]", "did you mean 'vit_s16'"),
    ("grid.models=vit_s16", "grid.models: input should be a valid list"),
    ("grid.models=[]", "grid.models"),
    ("grid.models=[vit_s16, vit_s16]", "names an entry twice"),
    ("grid.datasets=[al]", "did you mean 'all'"),
    ("grid.seeds=[-1]", "grid.seeds.0"),
    ("grid.exclude=[{modell: vit_s16}]", "grid.exclude.0.modell: is not an axis of this grid"),
    ("grid.untrained=perhaps", "grid.untrained"),
    ("models.vit_s16.patch=7", "7 does not divide the crop of 64"),
    ("models.vit_s16.heads=5", "not a multiple of heads"),
    ("models.vit_s16.size=3", "string"),
    ("models.vit_s16.drop_path=1", "less than 1"),
    ("models.vit_s16.wdith=48", "did you mean 'width'"),
    ("models={}", "models"),
    ("datasets.all.fraction=0", "greater than 0"),
    ("datasets.all.fraction=1.1", "less than or equal to 1"),
    ("datasets.all.shards=3", "datasets.all.shards"),
    ("mae.mask_ratio=1", "less than 1"),
    ("mae.channels=six", "mae.channels"),
    ("mae.decoder_heads=7", "7 does not divide mae.decoder_width"),
    ("evaluate={relationships: {a: b.csv}}", "needs an `embed` section"),
    ("evaluate={relationships: {}}", "evaluate.relationships"),
    ("evaluate={relationships: {a: b.csv}, tails: [0.9, 0.1]}", "two increasing fractions"),
    ("embed={shards: x, pool: max}", "'mean', 'class', 'std' or 'mean_std'"),
    ("fit.convention=flops", "'touvron', 'dense_forward' or 'mae_train'"),
    ("launch.executor=cloud", "'slurm' or 'local'"),
    ("launch.gpus_per_node=-1", "launch.gpus_per_node"),
    ("launch.slurm.hours=0", "launch.slurm.hours"),
    ("launch.slurm.setup=module load", "launch.slurm.setup"),
    ("hardware.mfu=2", "hardware.mfu"),
    ("prepare.build=[{layout: rxrx3}]", "prepare.build.0.root: is required"),
    ("name=two words", "name: string should match pattern"),
    ("output=null", "output"),
    ("train=3", "train"),
    ("mae.crop.deep=3", "mae.crop is a value"),
    ("grid.models.4=vit_s16", "is a list of 1"),
    ("train.epochs", "written field.path=value"),
    ("=3", "written field.path=value"),
    ("train.epochs=[1, ", "not valid YAML"),
]


@pytest.mark.parametrize(("override", "expected"), BAD_OVERRIDES, ids=[o for o, _ in BAD_OVERRIDES])
def test_a_wrong_override_is_refused_by_name(tmp_path: Path, override: str, expected: str) -> None:
    message = refusal(write(tmp_path, MINIMAL), override)
    assert expected in message
    assert "argument" in message  # where it was written


# Whole files that are wrong: text, what the message says, and the line it names.
BAD_FILES = [
    ("", "a recipe is a mapping", 1),
    ("- a\n- b\n", "a recipe is a mapping", 1),
    ("just text", "a recipe is a mapping", 1),
    ("name: [1, 2\n", "not valid YAML", 2),
    ("name: !!python/object:os.system {}\n", "not valid YAML", 1),
    ("\tname: x", "not valid YAML", 1),
    (MINIMAL + "name: again\n", "given twice", 11),
    (MINIMAL.replace("crop: 64", "crops: 64"), "mae.crops: unknown field; did you mean 'crop'", 7),
    (MINIMAL.replace("[all]", "[third]"), "grid.datasets.0: 'third' is not known; known: all", 8),
    (MINIMAL.replace("depth: 2", "depth: two"), "models.vit_s16.depth", 6),
    (MINIMAL.replace("laptop: {}", "laptop: {mae: {crop: 30}}"), "16 does not divide the crop of 30", 6),
    (
        MINIMAL.replace("laptop: {}", "laptop: {datasets: {all: {order: stream, stream: {lanes: 3}}}}"),
        "datasets.all.stream.lanes: 3 does not divide train.batch, 4096 crops",
        10,
    ),
    (MINIMAL.replace("laptop: {}", "laptop: {train: {epoch: 3}}"), "did you mean 'epochs'", 10),
    (MINIMAL.replace("laptop: {}", "laptop: 3"), "must map a profile's name", 9),
    (MINIMAL.replace("laptop: {}", "laptop: {}\n  other: {nme: x}"), "did you mean 'name'", 11),
    ("a: &a {b: *a}\n", "", None),
    ("a: " + "[" * 3000 + "\n", "", None),
]


@pytest.mark.parametrize(("text", "expected", "line"), BAD_FILES)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, expected: str, line: int | None) -> None:
    path = write(tmp_path, text)
    message = refusal(path)
    assert expected in message
    assert (f"{path}:{line}: " if line else str(path)) in message


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "once its anchors are expanded" in refusal(write(tmp_path, "\n".join(lines)))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "missing.yaml")
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00name")
    assert "not UTF-8" in refusal(tmp_path / "bytes.yaml")


def test_an_unknown_profile_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no profile 'cluster'; its profiles: laptop"):
        load(write(tmp_path, MINIMAL), "cluster")


def test_the_command_line_shows_one_screen_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path, MINIMAL.replace("mae: {crop: 64}", "mae: {" + ", ".join(f"f{i}: 1" for i in range(40)) + "}")
    )
    assert sweep.main([str(path), "--profile", "laptop"]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert "... and 28 more" in message
    assert message.count("\n") < 24


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(string.printable, max_size=12))
keys = st.text(max_size=6)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(keys, v, max_size=3))
FIELDS = (
    "train train.epochs train.optimiser.betas mae.crop models models.vit_s16 models.vit_s16.patch datasets "
    "datasets.all grid grid.seeds grid.exclude embed evaluate launch.nodes prepare.build hardware.mfu name output fit"
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(field=st.sampled_from(FIELDS.split()), value=values)
def test_any_value_is_taken_or_refused_cleanly(tmp_path_factory, field: str, value: object) -> None:
    path = write(tmp_path_factory.getbasetemp(), MINIMAL)
    message = ""
    try:
        load(path, "laptop", [f"{field}={json.dumps(value)}"])
    except RecipeError as error:
        message = str(error)
    assert len(message.splitlines()) <= 16


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.sampled_from("abn:{}[]-&*!|>'\" \n\t0.#%@,?"), max_size=60))
def test_any_text_is_taken_or_refused_cleanly(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = write(tmp_path_factory.getbasetemp(), text)
    with pytest.raises(RecipeError):
        load(path, "laptop")


def test_an_override_reaches_its_field(tmp_path: Path) -> None:
    recipe = load(
        write(tmp_path, MINIMAL), "laptop", ["train.epochs=2", "train.learning_rate=1e-3", "grid.seeds=[0, 7]"]
    )
    assert (recipe.train.epochs, recipe.train.learning_rate, recipe.grid.seeds) == (2, 0.001, [0, 7])


def test_the_printed_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load(SCALING, "laptop")
    text = to_yaml(recipe) + "profiles: {laptop: {}}\n"
    assert load(write(tmp_path, text), "laptop") == recipe


def test_the_schema_for_editors_is_that_of_the_code() -> None:
    stored = json.loads((ROOT / "recipes" / "recipe.schema.json").read_text())
    assert stored == json_schema(), "run: python -m harness.sweep --json-schema > recipes/recipe.schema.json"


def test_the_recipe_states_the_papers_study() -> None:
    """Supplement A.2, A.2.3 and A.3: the values printed there."""
    recipe = load(SCALING, "slurm")
    shapes = {name: (m.width, m.depth, m.heads, m.patch, m.drop_path) for name, m in recipe.models.items()}
    assert shapes["vit_s16"] == (384, 12, 6, 16, 0.1)
    assert shapes["vit_b8"] == (768, 12, 12, 8, 0.1)
    assert shapes["vit_l8_plus"] == (1024, 24, 16, 8, 0.3)
    assert recipe.models["vit_l8_plus"].fourier_weight == 0.01
    assert recipe.train.epochs == {"rxrx1": 100, "rxrx1_2m": 100, "rxrx3": 50, "rpi_52m": 50, "rpi_93m": 50}
    assert isinstance(recipe.train.batch, dict)
    assert (recipe.train.batch["rxrx3"], recipe.train.batch["rpi_93m"]) == (4096, 16384)
    assert isinstance(recipe.train.learning_rate, dict)
    assert {recipe.train.learning_rate[m] for m in ("vit_s16", "vit_b8")} == {1e-4}
    assert {recipe.train.learning_rate[m] for m in ("vit_l16", "vit_l8_plus")} == {3e-5}
    assert recipe.train.optimiser.identity() == {"name": "lion", "betas": [0.9, 0.95], "weight_decay": 0.05}
    assert (recipe.mae.crop, recipe.mae.channels, recipe.mae.mask_ratio) == (256, 6, 0.75)


def test_the_miniature_is_the_same_grid() -> None:
    recipe = load(SCALING, "laptop")
    cells = {(recipe.models[m].size, recipe.models[m].patch) for m in recipe.grid.models}
    assert cells == {(size, patch) for size in "SBL" for patch in (8, 4)}
    assert len(recipe.grid.datasets) >= 3


def test_yaml_reads_exponents_as_people_write_them(tmp_path: Path) -> None:
    assert yaml.safe_load("1e-4") == "1e-4"  # the trap that the loader closes
    recipe = load(write(tmp_path, MINIMAL), "laptop", ["train.learning_rate=1e-4"])
    assert recipe.train.learning_rate == 1e-4


# One value for each kind of number, list and text that no study has: what is given, and what the message must say.
OUT_OF_BOUNDS = [
    ("train.batch=1000000000000000", "train.batch: ", "above 0, at most 16,777,216"),
    ("train.batch={all: 1000000000000000}", "train.batch.all: ", "above 0, at most 16,777,216"),
    ("train.batch=-1", "train.batch: ", "above 0, at most 16,777,216"),
    ("train.epochs=1000000000000", "train.epochs: ", "above 0, at most 1,000,000"),
    ("train.learning_rate=1e300", "train.learning_rate: ", "above 0, at most 1,000"),
    ("train.learning_rate=1e400", "train.learning_rate: ", "finite"),
    ("train.learning_rate=.inf", "train.learning_rate: ", "finite"),
    ("train.optimiser.betas=[0.9, 7]", "train.optimiser.betas.1: ", "at least 0, below 1"),
    ("train.optimiser.weight_decay=1e99", "train.optimiser.weight_decay: ", "at least 0, at most 1,000"),
    ("models.vit_s16.width=4000000000000", "models.vit_s16.width: ", "above 0, at most 1,000,000"),
    ("models.vit_s16.depth=1000000000", "models.vit_s16.depth: ", "above 0, at most 1,000,000"),
    ("mae.channels=1000000000", "mae.channels: ", "at most 1,000,000"),
    ("mae.position_temperature=1e200", "mae.position_temperature: ", "above 1, at most"),
    ("datasets.all.images=99999999999999999", "datasets.all.images: ", "at most 1,000,000,000,000"),
    ("grid.seeds=[99999999999]", "grid.seeds.0: ", "at least 0, at most 4,294,967,295"),
    ("launch.loader_workers=1000000000", "launch.loader_workers: ", "at least 0, at most 1,024"),
    ("launch.nodes={vit_s16: 1000000000}", "launch.nodes.vit_s16: ", "above 0, at most 100,000"),
    ("launch.slurm.hours=1e30", "launch.slurm.hours: ", "above 0, at most 8,784"),
    ("remote.options={a: .nan}", "remote.options", "finite"),
    ("remote.options={a: [{b: 1e400}]}", "remote.options", "finite"),
    ("prepare.assay={output: x, options: {plates: 1e300}}", "prepare.assay.options.plates: ", "at most"),
    ("name=" + "a" * 300, "name: ", "at most 64 characters"),
    ("output=" + "a" * 300, "output: ", "is longer than a path can be"),
    ("output=" + "a/" * 3000, "output: ", "is longer than a path can be"),
    ("output=", "output: ", "valid"),
    ("output=''", "output: ", "should be a path"),
    ("embed={shards: '" + "x" * 20_000 + "'}", "embed.shards: ", "is longer than a path can be"),
    ('embed={shards: "s3://b/a\\nb"}', "embed.shards: ", "control character '\\n'"),
    ("hardware.gpu='" + "x" * 20_000 + "'", "hardware.gpu: ", "at most 256 characters"),
    ("launch.slurm.setup=['" + "x" * 20_000 + "']", "launch.slurm.setup.0: ", "at most 10000 characters"),
    ("models.vit_s16.width=true", "models.vit_s16.width: ", "valid integer"),
]


@pytest.mark.parametrize(("override", "field", "permitted"), OUT_OF_BOUNDS, ids=[o[:60] for o, _, _ in OUT_OF_BOUNDS])
def test_a_value_out_of_bounds_is_refused_with_field_and_range(
    tmp_path: Path, override: str, field: str, permitted: str
) -> None:
    message = refusal(write(tmp_path, MINIMAL), override)
    assert field in message
    assert permitted in message
    assert len(message) < 800


def test_a_value_out_of_bounds_in_another_profile_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "  other:\n    train:\n      batch: 1000000000000000\n")
    message = refusal(path)
    assert f"{path}:13: train.batch: input should be less than or equal to 16777216" in message
    assert "permitted: above 0, at most 16,777,216" in message


def test_a_grid_of_too_many_cells_is_refused(tmp_path: Path) -> None:
    """40 models on 40 datasets and without one, each with 100 seeds: 40 × 41 × 100 cells."""
    path = write(tmp_path, MINIMAL)
    model = "{size: S, width: 48, depth: 2, heads: 3, patch: 16}"
    models = "models={" + ", ".join(f"m{i}: {model}" for i in range(40)) + "}"
    datasets = "datasets={" + ", ".join(f"d{i}: {{shards: x}}" for i in range(40)) + "}"
    grid = (
        f"grid={{models: [{', '.join(f'm{i}' for i in range(40))}], datasets: [{', '.join(f'd{i}' for i in range(40))}]"
    )
    assert "up to 164,000 cells; permitted: at most 20,000" in refusal(
        path, models, datasets, f"{grid}, seeds: {list(range(100))}}}"
    )
    assert len(load(path, "laptop", [models, datasets, f"{grid}, seeds: {list(range(10))}}}"]).grid.seeds) == 10


@pytest.mark.parametrize("name", ["..", "a/b", "a\\nb", "-rf", "a b", "", "x" * 300, "a\\0b", "é", "a.b"])
@pytest.mark.parametrize("field", ["models", "datasets"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, field: str, name: str) -> None:
    assert field in refusal(write(tmp_path, MINIMAL), f'{field}={{"{name}": {{}}}}')


@pytest.mark.parametrize("name", ["'a b'", "'-x'", '"a\\nb"', "7", "'../x'", "x" * 300])
def test_a_profile_of_another_name_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, MINIMAL + (f"  {name}: {{}}\n" if len(name) < 100 else f"  ? {name}\n  : {{}}\n"))
    assert f"{path}:11: profiles: " in refusal(path)


@pytest.mark.parametrize("path", ["²=3", "grid.models.²=x", "grid.models." + "9" * 5000 + "=x", "a." * 5000 + "b=1"])
def test_an_odd_path_of_an_override_is_refused(tmp_path: Path, path: str) -> None:
    message = refusal(write(tmp_path, MINIMAL), path)
    assert message.startswith(("argument", "recipe refused"))
    assert len(message) < 1000


def unbounded(schema: object, path: str = "") -> Iterator[str]:
    """The numbers, lists and texts of a JSON schema that have no upper bound."""
    if isinstance(schema, list):
        for i, inner in enumerate(schema):
            yield from unbounded(inner, f"{path}/{i}")
    if not isinstance(schema, dict):
        return
    upper = {"integer": "maximum", "number": "maximum", "array": "maxItems", "string": "maxLength"}
    bound = upper.get(str(schema.get("type")))
    if bound and not {bound, "exclusiveMaximum", "const", "enum"} & schema.keys() and schema.get("format") != "path":
        yield path
    for key, inner in schema.items():
        yield from unbounded(inner, f"{path}/{key}")


def test_every_number_list_and_text_of_a_recipe_is_bounded() -> None:
    """Paths are bounded by a check of their own, as what counts are bytes; the profiles are recipes again."""
    assert list(unbounded(json_schema())) == []


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ("true", "blocks"),
        ("false", "none"),
        ("none", "none"),
        ("whole", "whole"),
        ("reduce-overhead",) * 2,
        ("null", None),
    ],
)
def test_true_and_false_mean_ways_to_compile(given: str, mode: str | None) -> None:
    """Recipes from before there were several ways say true or false."""
    assert load(SCALING, "laptop", [f"launch.compile={given}"]).launch.compile == mode
