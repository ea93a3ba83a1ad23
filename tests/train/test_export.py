"""Exported models: a run as a small folder, loaded like a run; the one that the package ships, by name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import dialogue_tokenizer, small_config, small_model, small_recipe

import rxt_jax
from rxt_jax import shipped
from rxt_jax.cli.main import main
from rxt_jax.export import export_model
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.run import run_recipe
from rxt_jax.run_folder import load, write_recipe, write_run
from rxt_jax.stages import InteractionSft
from rxt_jax.weights import WEIGHTS_FILE


def flat(model):
    return {path: np.asarray(variable[...]) for path, variable in flat_parameters(nnx.split(model)[1]).items()}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """An untrained model as a run."""
    tokenizer = dialogue_tokenizer()
    folder = tmp_path_factory.mktemp("runs") / "first"
    write_run(folder, small_model(small_config(vocab_size=tokenizer.vocab_size, max_length=40)), tokenizer)
    return folder


@pytest.fixture(scope="module")
def exported(run_folder):
    folder = run_folder.parent / "exported"
    export_model(run_folder, folder)
    return folder


@pytest.fixture
def companion(exported, tmp_path, monkeypatch):
    """A build that ships the exported model, used from an empty folder."""
    package = tmp_path / "package"
    shutil.copytree(exported, package / "companion")
    monkeypatch.setattr(shipped, "_PACKAGE", package)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return package / "companion"


def files_of(folder):
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_an_exported_model_is_the_run_in_bfloat16(run_folder, exported):
    run, model = load(run_folder), load(exported)
    assert sorted(file.name for file in exported.iterdir()) == [
        "README.md",
        "model.safetensors",
        "recipe.json",
        "tokenizer.model",
    ]
    before, after = flat(run.model), flat(model.model)
    assert before.keys() == after.keys()
    for path, value in before.items():
        assert after[path].dtype == np.float32
        np.testing.assert_array_equal(after[path], value.astype(jnp.bfloat16).astype(np.float32))
    assert model.tokenizer.fingerprint == run.tokenizer.fingerprint
    assert model.recipe.model == run.recipe.model
    size = (exported / WEIGHTS_FILE).stat().st_size
    assert size < 2 * sum(value.size for value in before.values()) + 20_000


def test_exports_keep_what_the_run_says_about_itself_but_not_its_place(run_folder, exported):
    stored, original = (json.loads((folder / "recipe.json").read_text()) for folder in (exported, run_folder))
    assert original["recipe"]["folder"] == str(run_folder)
    assert stored["recipe"].pop("folder") is None
    original["recipe"].pop("folder")
    assert stored == original
    assert str(run_folder.parent) not in (exported / "README.md").read_text()


def test_float32_exports_lose_nothing_and_one_run_always_makes_one_file(run_folder, exported, tmp_path, capsys):
    assert main(["export", str(run_folder / "stages" / "imported"), str(tmp_path / "a"), "--dtype", "float32"]) == 0
    assert "MB; talk to it: rxt chat" in capsys.readouterr().out
    before, after = flat(load(run_folder).model), flat(load(tmp_path / "a").model)
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value)
    again = export_model(exported, tmp_path / "b")
    assert again.read_bytes().partition(b"}}}")[2] == (exported / WEIGHTS_FILE).read_bytes().partition(b"}}}")[2]


def test_the_mean_of_two_runs_is_exported_and_of_two_models_refused(run_folder, tmp_path):
    tokenizer = dialogue_tokenizer()
    config = small_config(vocab_size=tokenizer.vocab_size, max_length=40)
    write_run(tmp_path / "second", small_model(config, seed=5), tokenizer)
    command = ["export", str(tmp_path / "second"), str(tmp_path / "mean"), "--dtype", "float32"]
    assert main([*command, "--average-with", str(run_folder)]) == 0
    first, second, mean = (flat(load(folder).model) for folder in (run_folder, tmp_path / "second", tmp_path / "mean"))
    assert any((first[path] != second[path]).any() for path in first)
    for path, value in mean.items():
        np.testing.assert_allclose(value, (first[path] + second[path]) / 2, rtol=1e-6, atol=1e-7)
    command[2] = str(tmp_path / "quarter")
    assert main([*command, "--average-with", str(run_folder), "--average-share", "0.25"]) == 0
    for path, value in flat(load(tmp_path / "quarter").model).items():
        np.testing.assert_allclose(value, 0.25 * first[path] + 0.75 * second[path], rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="average_share must lie between 0 and 1, got 1"):
        export_model(run_folder, tmp_path / "mixed", average_with=tmp_path / "second", average_share=1.0)
    write_run(tmp_path / "other", small_model(replace(config, num_layers=config.num_layers + 1)), tokenizer)
    with pytest.raises(ValueError, match=r"is another model: .* there and .* here"):
        export_model(run_folder, tmp_path / "mixed", average_with=tmp_path / "other")
    assert not (tmp_path / "mixed" / "model.safetensors").exists()


def test_nothing_is_written_over_and_a_model_card_stays(run_folder, exported, tmp_path):
    with pytest.raises(FileExistsError, match=r"recipe\.json already; name another folder"):
        export_model(run_folder, exported)
    with pytest.raises(FileExistsError, match=r"recipe\.json already"):
        export_model(run_folder, run_folder)
    (tmp_path / "README.md").write_text("written by hand")
    export_model(run_folder, tmp_path)
    assert (tmp_path / "README.md").read_text() == "written by hand"


def test_the_model_card_has_the_figures_of_the_run(run_folder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    (folder / "evaluation").mkdir()
    blank = {"recall_by_bucket": {"1": 0.95, "2": None}, "answer_perplexity": 1.25}
    recalls = {"memory": blank | {"recall": 0.913, "made_up_rate": 0.04}, "zeroed": blank | {"recall": None}}
    (folder / "evaluation" / "recall.json").write_text(json.dumps({"iid": {"conditions": recalls}}))
    export_model(folder, tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "| split | memory | 1 | all | two of a type | wrong | absent | made up | perplexity |" in card
    assert "| iid | memory | 95 | 91 |  |  |  | 4 | 1.25 |" in card
    assert "| iid | zeroed | 95 |  |  |  |  |  | 1.25 |" in card
    assert "| `imported` | 1 | 1 |" in card


def test_the_card_of_an_earlier_stage_leaves_out_what_came_after_it(run_folder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    recipe = load(folder).recipe
    (done,) = recipe.stages.values()
    write_recipe(replace(recipe, stages=recipe.stages | {"later": done}), folder)
    export_model(folder / "stages" / "imported", tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| `imported` | 1 | 1 |" in card
    assert "later" not in card


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"recipe": {"type": "Recipe", "na', "is no JSON: "),
        ("[]", "holds no recipe"),
        ("{}", "holds no recipe"),
        ('{"recipe": {"name": "x"}}', 'its field `recipe` must have the type "Recipe"'),
        ('{"recipe": {"type": "Recipe", "name": "x"}}', "missing 2 required keyword-only arguments"),
        ('{"recipe": {"type": "Recipe", "nane": "x"}}', "Recipe has no field nane"),
    ],
)
def test_a_damaged_recipe_is_named(exported, tmp_path, content, message, capsys):
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    (folder / "recipe.json").write_text(content)
    with pytest.raises(ValueError, match=r"model/recipe\.json") as caught:
        load(folder)
    assert message in str(caught.value)
    assert main(["inspect", str(folder)]) == 2
    assert message in capsys.readouterr().err


def test_damaged_and_foreign_files_are_named(exported, tmp_path):
    def copy(name):
        shutil.copytree(exported, tmp_path / name)
        return tmp_path / name

    half = copy("half")
    content = (half / WEIGHTS_FILE).read_bytes()
    (half / WEIGHTS_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"half/model\.safetensors is damaged .* copy it again"):
        load(half)
    other = copy("other")
    recipe = json.loads((other / "recipe.json").read_text())
    recipe["recipe"]["model"]["num_slots"] = 7
    (other / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match=r"learned_memory/slots has the shape \[2, 4, 16\] instead of \[2, 7, 16\]"):
        load(other)
    recipe["recipe"]["model"]["initial_memory"] = "zeros"
    (other / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match="another model than the recipe beside it: it also has learned_memory/slots"):
        load(other)
    speaks = copy("speaks")
    (speaks / WEIGHTS_FILE).write_bytes(content.replace(dialogue_tokenizer().fingerprint.encode(), b"0" * 64))
    with pytest.raises(ValueError, match="every id would mean something else"):
        load(speaks)


def test_the_shipped_model_is_loaded_by_name(companion):
    assert rxt_jax.load("companion").recipe.model == load(companion).recipe.model
    for path in ("./companion", Path("companion")):
        with pytest.raises(FileNotFoundError, match="companion is no run folder"):
            load(path)


def test_a_run_of_that_name_goes_first_and_other_folders_hide_nothing(companion, exported):
    Path("companion").mkdir()
    (Path("companion") / "evaluation").mkdir()
    assert shipped.named_folder("companion") == companion
    shutil.copytree(exported, "companion", dirs_exist_ok=True)
    assert shipped.named_folder("companion") == Path("companion")


def test_a_build_without_the_model_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="this build of rxt_jax ships no companion"):
        rxt_jax.load("companion")
    for command in ("chat", "evaluate"):
        assert main([command, "companion"]) == 2
        assert f"rxt {command}: this build of rxt_jax ships no companion. Name the folder" in capsys.readouterr().err
    # It is a preset as well.
    assert main(["inspect", "companion", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoints"] == {}


def test_inspecting_the_shipped_model_counts_its_parameters(companion, capsys):
    assert main(["inspect", "companion", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)["parameters"]
    assert sum(counted.values()) == sum(value.size for value in flat(load(companion).model).values())


@pytest.mark.slow
def test_a_run_starts_from_the_shipped_model(companion, tmp_path, capsys):
    recipe = small_recipe(tmp_path / "next", {"sft": InteractionSft()}, start_from="companion")
    assert run_recipe(recipe)
    said = " ".join(capsys.readouterr().out.split())
    count = len(flat(load(companion).model))
    assert f"begins with {count} of {count} parameter arrays of companion" in said
    assert load(tmp_path / "next").tokenizer.fingerprint == dialogue_tokenizer().fingerprint


def test_evaluating_the_shipped_model_writes_into_the_working_folder(companion, tmp_path, capsys):
    turns = [{"query": "My cat is Tom.", "answer": "Noted."}, {"query": "My cat?", "answer": "Tom."}]
    turns[1]["recall"] = [{"slot": "cat", "value": "Tom", "distance": 1}]
    file = tmp_path / "said.jsonl"
    file.write_text("".join(json.dumps({"id": number, "interactions": turns}) + "\n" for number in range(2)))
    before = files_of(companion)
    options = ["--data", str(file), "--evaluation.episodes", "2", "--evaluation.batch-size", "2"]
    options += ["--evaluation.max-new-tokens", "4"]
    assert main(["evaluate", "companion", *options]) == 0
    assert Path("runs/companion/evaluation/said/recall.json").is_file()
    assert main(["evaluate", "companion", *options, "--output", "elsewhere"]) == 0
    assert Path("elsewhere/evaluation/said/recall.json").is_file()
    assert files_of(companion) == before


def test_the_shipped_model_of_this_build_is_small_and_has_a_card():
    folder = Path(shipped.__file__).parent / "companion"
    assert (folder / WEIGHTS_FILE).stat().st_size <= 10e6
    assert len((folder / "README.md").read_text(encoding="utf-8")) > 1000
    assert load("companion").model.config.vocab_size == load("companion").tokenizer.vocab_size
