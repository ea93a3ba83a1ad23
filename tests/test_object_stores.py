"""Runs, models and data in a bucket: what is there equals what a local folder would hold, whatever interrupts it."""

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from interrupting import stopped_in_update
from object_store import FolderStore, use_bucket
from small import dialogue_tokenizer, small_recipe

from rxt_jax import paths, run_stage
from rxt_jax import run as runs
from rxt_jax.checkpoint import CheckpointStore
from rxt_jax.cli.main import main
from rxt_jax.data.config import DataConfig, DialogueData, FileData
from rxt_jax.data.preparing import prepare
from rxt_jax.data.readers import data_files, read_raw
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation import EvaluationConfig
from rxt_jax.export import export_model
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.paths import LineFile, Outbox, as_path, files_below, files_matching, is_remote, local_copy, replace_file
from rxt_jax.report import read_run
from rxt_jax.run import run_recipe
from rxt_jax.run_evaluation import evaluate_run
from rxt_jax.run_folder import load
from rxt_jax.run_session import open_session
from rxt_jax.sharding import make_mesh
from rxt_jax.stages import JointPretraining
from rxt_jax.train import tracker
from rxt_jax.train.profiling import Profile, Profiler

BUCKET = "gs://bucket"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """`gs://bucket`; give the local folder that its objects are in."""
    use_bucket(monkeypatch, tmp_path / "stores")
    monkeypatch.chdir(tmp_path)  # a path that was not understood would show here
    yield tmp_path / "stores" / "bucket"
    assert {each.name for each in tmp_path.iterdir()} <= {"stores", "local"}


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(runs, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))


def flat(folder):
    params = flat_parameters(nnx.split(load(folder).model)[1])
    return {path: np.asarray(variable[...]) for path, variable in params.items()}


def lines_of(folder):
    """The lines of `metrics.jsonl` without what a clock decides."""
    lines = [json.loads(line) for line in (as_path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in ("stage", "split", "update", "loss") if name in line} for line in lines]


def in_bucket(recipe):
    return replace(recipe, folder=f"{BUCKET}/runs/mine")


@pytest.mark.slow
def test_a_run_that_is_stopped_in_a_bucket_and_goes_on_is_that_of_a_local_folder(finished_run, bucket, one_device):
    recipe = in_bucket(finished_run)
    with stopped_in_update(3):
        assert not run_recipe(recipe, quiet=True)
    assert [line["update"] for line in lines_of(recipe.folder)] == [1, 2, 3]
    assert run_recipe(recipe, quiet=True)
    expected = flat(finished_run.run_folder)
    for path, value in flat(recipe.folder).items():
        np.testing.assert_array_equal(value, expected.pop(path), err_msg=path)
    assert not expected
    assert lines_of(recipe.folder) == lines_of(finished_run.folder)
    assert len(list((bucket / "runs" / "mine" / "tensorboard").iterdir())) == 2  # one file for each sitting
    assert len(read_run(recipe.folder).account["stages"]["sft"]) == 2


@pytest.mark.slow
def test_a_run_that_is_killed_loses_no_line_that_a_checkpoint_has_behind_it(
    finished_run, bucket, one_device, monkeypatch
):
    """Killed while the second checkpoint was written: nothing is closed, and what marks it as whole is missing."""
    recipe = in_bucket(finished_run)

    class Killed(BaseException):
        pass

    save, saved = run_stage.StageInFolder._save, []

    def save_once(self, update, *arguments):
        save(self, update, *arguments)
        self.store.wait()
        saved.append(update)
        if update == 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_stage.StageInFolder, "_save", save_once)
        patch.setattr(tracker.Tracker, "close", lambda self: None)
        with pytest.raises(Killed):
            run_recipe(recipe, quiet=True)
    assert saved == [2, 4]
    (bucket / "runs" / "mine" / "stages" / "sft" / "4" / "commit_success.txt").unlink()
    assert run_recipe(recipe, quiet=True)
    updates = [line["update"] for line in lines_of(recipe.folder)]
    assert updates == [1, 2, 3, 4, 3, 4]
    expected = flat(finished_run.run_folder)
    found = flat(recipe.folder)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_checkpoints_are_kept_in_a_bucket(bucket):
    """The newest ones stay, one that was not written to its end is none, and another takes its place."""
    folder = f"{BUCKET}/stages/sft"
    store = CheckpointStore(folder, keep_last=2)
    for update in (1, 2, 3):
        store.save(update, {"w": jax.numpy.full(3, update)}, {}, {"update": update})
    store.close()
    there = bucket / "stages" / "sft"
    assert {each.name for each in there.iterdir() if (each / "commit_success.txt").is_file()} == {"2", "3"}
    (there / "3" / "commit_success.txt").unlink()
    store = CheckpointStore(folder, keep_last=2)
    wanted = {"w": jax.numpy.zeros(3, int)}
    found = store.restore(wanted, None)
    assert found is not None and found.update == 2 and found.params["w"].tolist() == [2, 2, 2]
    store.save(3, {"w": jax.numpy.full(3, 7)}, {}, {"update": 3})
    store.close()
    store = CheckpointStore(folder)
    found = store.restore(wanted, None)
    store.close()
    assert found is not None and found.update == 3 and found.params["w"].tolist() == [7, 7, 7]


def test_a_finished_run_in_a_bucket_is_not_run_again(finished_run, run_in_bucket, one_device, monkeypatch):
    monkeypatch.setattr(run_stage, "run_loop", None)  # nothing trains
    assert run_recipe(in_bucket(finished_run), quiet=True)
    assert lines_of(run_in_bucket) == lines_of(finished_run.folder)


@pytest.fixture
def run_in_bucket(finished_run, bucket):
    """The finished run, copied to the bucket object by object, as `gcloud storage cp -r` does."""
    for file in finished_run.run_folder.rglob("*"):
        if file.is_file():
            copy = bucket / "runs" / "mine" / file.relative_to(finished_run.run_folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    for folder in [each.parent for each in (bucket / "runs" / "mine").rglob("_CHECKPOINT_METADATA")]:
        for part in (folder, folder / "params", folder / "optimizer", folder / "meta"):
            (part / "commit_success.txt").touch()
    return f"{BUCKET}/runs/mine"


def test_a_model_is_exported_to_a_bucket_and_used_from_there(finished_run, run_in_bucket, bucket, tmp_path):
    local = tmp_path / "local"
    export_model(finished_run.run_folder, local)
    assert main(["export", run_in_bucket, f"{BUCKET}/models/mine"]) == 0
    there = bucket / "models" / "mine"
    assert {file.name for file in there.iterdir()} == {file.name for file in local.iterdir()}
    assert (there / "model.safetensors").read_bytes() == (local / "model.safetensors").read_bytes()
    expected, found = flat(local), flat(f"{BUCKET}/models/mine")
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
    with pytest.raises(FileExistsError, match=r"gs://bucket/models/mine has a recipe\.json already"):
        export_model(run_in_bucket, f"{BUCKET}/models/mine")


@pytest.mark.slow
def test_results_are_written_into_a_run_in_a_bucket(run_in_bucket, bucket):
    few = EvaluationConfig(episodes=2, batch_size=2, splits=("iid",), max_new_tokens=2)
    found = evaluate_run(run_in_bucket, evaluation=few)
    names = {file.name for file in (bucket / "runs/mine/evaluation").iterdir()}
    assert names == {"recall.json", "recall.md", "recall.png"}
    assert read_run(run_in_bucket).evaluations[""] == json.loads(json.dumps(found.report.summary()))


def test_what_a_run_in_a_bucket_says_is_read_and_reported(run_in_bucket, finished_run, bucket, capsys):
    (bucket / "runs/mine/evaluation/other").mkdir(parents=True)
    (bucket / "runs/mine/evaluation/other/recall.json").write_text("{}", encoding="utf-8")
    found, local = read_run(run_in_bucket), read_run(finished_run.run_folder)
    assert found == local._replace(name="mine", evaluations={"other": {}})
    assert main(["inspect", run_in_bucket]) == 0
    assert "checkpoints of updates 2, 4" in capsys.readouterr().out
    assert main(["report", run_in_bucket, "-o", f"{BUCKET}/report.html"]) == 0
    assert "mine" in (bucket / "report.html").read_text(encoding="utf-8")


def test_a_memory_is_kept_in_a_bucket(run_in_bucket):
    loaded = load(run_in_bucket)
    session, other = open_session(loaded), open_session(loaded)
    session.memory = session.memory + 1
    session.export_memory(f"{BUCKET}/memory.npz")
    assert not np.array_equal(other.memory, session.memory)
    other.import_memory(f"{BUCKET}/memory.npz")
    np.testing.assert_array_equal(other.memory, session.memory)


def records(folder, count=6):
    """Conversations in several files and formats."""
    import pyarrow
    from pyarrow import parquet

    source = open_source(DialogueData())
    rows = [{"interactions": [{"query": f"q {n}", "answer": source.text(n)[:20]}]} for n in range(count)]
    (folder / "deep").mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows[:2])
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    (folder / "deep" / "b.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(r) + "\n" for r in rows[2:4]).encode())
    )
    parquet.write_table(pyarrow.Table.from_pylist(rows[4:]), folder / "deep" / "c.parquet")
    (folder / "_ignored.jsonl").write_text("not json", encoding="utf-8")
    return rows


def test_data_are_read_from_a_bucket(bucket, tmp_path):
    rows = records(bucket / "data")
    source = open_source(FileData(path=f"{BUCKET}/data"))
    read = [source.episode(number)["interactions"][0]["query"] for number in range(source.size or 0)]
    assert read == [row["interactions"][0]["query"] for row in rows]
    local = open_source(FileData(path=str(bucket / "data")))
    assert source.fingerprint == local.fingerprint
    assert [place for place, _ in read_raw(f"{BUCKET}/data/*.jsonl")] == [
        f"{BUCKET}/data/_ignored.jsonl, line 1",
        f"{BUCKET}/data/a.jsonl, line 1",
        f"{BUCKET}/data/a.jsonl, line 2",
    ]
    assert [str(each) for each in data_files(f"{BUCKET}/data/deep/*.parquet")] == [f"{BUCKET}/data/deep/c.parquet"]
    (bucket / "stories").mkdir()
    story = "1 Tom went to the garden.\n2 Where is Tom?\tgarden\t1\n"
    (bucket / "stories" / "qa1.txt").write_text(story, encoding="utf-8")
    (place, read_story), *others = read_raw(f"babi:{BUCKET}/stories")
    assert f"{BUCKET}/stories/qa1.txt" in place and "garden" in json.dumps(read_story) and not others
    with pytest.raises(FileNotFoundError, match=r"gs://bucket/nothing does not exist and matches no file"):
        data_files(f"{BUCKET}/nothing")
    with pytest.raises(ValueError, match=r"not searched for \*\*; name the folder"):
        files_matching(f"{BUCKET}/**/a.jsonl")


def test_what_has_to_be_on_a_disk_says_so(bucket, run_in_bucket, tmp_path, capsys):
    records(bucket / "data")
    local = tmp_path / "local"
    encoder = RowEncoder(dialogue_tokenizer(), DataConfig())
    with pytest.raises(ValueError, match=r"gs://bucket/ready is on an object store.*Prepare it in a local folder"):
        prepare(FileData(path=f"{BUCKET}/data"), encoder, f"{BUCKET}/ready")
    prepare(FileData(path=f"{BUCKET}/data"), encoder, local)
    for file in local.iterdir():
        (bucket / "ready").mkdir(exist_ok=True)
        (bucket / "ready" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"mapped into memory\. Copy the folder to a local disk of every host"):
        open_source(FileData(path=f"{BUCKET}/ready"))
    assert main(["train", f"{BUCKET}/toy.py"]) == 2
    assert "gs://bucket/toy.py is on an object store, but a recipe is a Python program" in capsys.readouterr().err
    assert main(["serve", run_in_bucket]) == 2
    assert "gs://bucket/runs/mine/serving is on an object store" in capsys.readouterr().err


def test_addresses_that_are_none_are_refused(bucket, monkeypatch):
    with pytest.raises(ValueError, match=r"ftp://host/x is no place for files; expected a local path, gs://, s3://"):
        as_path("ftp://host/x")
    with pytest.raises(ValueError, match=r"went through pathlib\.Path.*hand over a string, gs://"):
        load(Path(f"{BUCKET}/runs/mine"))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    paths._check_reachable.cache_clear()
    with pytest.raises(ValueError, match=r"s3:// needs s3fs .*: pip install 'rxt-jax\[s3\]'"):
        as_path("s3://bucket/x")


def test_stores_that_orbax_does_not_write_to_are_refused_before_anything_is_done(monkeypatch):
    recipe = small_recipe("s3://bucket/runs/mine", {"joint": JointPretraining()})
    monkeypatch.setattr(paths, "_check_reachable", lambda scheme: None)
    with pytest.raises(ValueError, match=r"s3://bucket/runs/mine: checkpoints go to local folders and to gs:// alone"):
        run_recipe(recipe, quiet=True)
    with pytest.raises(ValueError, match="checkpoints go to local folders"):
        CheckpointStore("s3://bucket/runs/mine/stages/joint")


@given(st.text("ab:/.~*", max_size=12))
def test_what_pathlib_takes_stays_what_it_was(text):
    if "://" not in text:
        assert as_path(text) == Path(text)
        assert type(as_path(text)) is type(Path(text))
        assert not is_remote(Path(text))


@pytest.mark.parametrize("place", ["local", f"{BUCKET}/x"])
def test_files_that_grow_and_files_that_are_replaced(place, bucket, tmp_path):
    folder = as_path(place)
    folder.mkdir(parents=True, exist_ok=True)
    for text in ("old", "new ✓"):
        replace_file(folder / "whole.json", text)
        assert (folder / "whole.json").read_bytes().decode() == text
    for sitting in range(2):
        lines = LineFile(folder / "lines.jsonl")
        lines.write(f"{sitting} a ✓")
        lines.flush()
        assert (folder / "lines.jsonl").read_bytes().decode().splitlines()[-1] == f"{sitting} a ✓"
        lines.write(f"{sitting} b")
        lines.close()
    assert (folder / "lines.jsonl").read_bytes().decode() == "0 a ✓\n0 b\n1 a ✓\n1 b\n"
    assert sorted(file.name for file in files_below(folder)) == ["lines.jsonl", "whole.json"]
    with local_copy(folder / "whole.json") as copy:
        assert copy.read_text(encoding="utf-8") == "new ✓"
        assert (copy == folder / "whole.json") is (place == "local")


def test_an_outbox_sends_what_changed_and_nothing_twice(bucket):
    outbox = Outbox(as_path(f"{BUCKET}/box"))
    (outbox.folder / "deep").mkdir()
    (outbox.folder / "deep" / "a").write_text("1")
    outbox.send()
    outbox.send()
    (outbox.folder / "b").write_text("2")
    (outbox.folder / "deep" / "a").write_text("11")
    outbox.close()
    assert FolderStore.uploads == ["a", "b", "a"]
    assert (bucket / "box" / "deep" / "a").read_text() == "11"
    assert not outbox.folder.exists()


def test_a_trace_arrives_in_the_bucket(bucket):
    profiler = Profiler(Profile(0, 1), as_path(f"{BUCKET}/tensorboard"))
    with profiler.update(0):
        pending = jax.numpy.ones(3) + 1
    profiler.finish(0, pending)
    names = {file.name for file in (bucket / "tensorboard").rglob("*") if file.is_file()}
    assert "perfetto_trace.json.gz" in names
    assert any(name.endswith(".xplane.pb") for name in names)


def test_metrics_arrive_once_a_minute(bucket, monkeypatch):
    monkeypatch.setattr(tracker, "_SECONDS", 0.0)
    kept = tracker.Tracker(f"{BUCKET}/run")
    kept.write("sft", "train", 1, {"loss": 2.0})
    assert [line["update"] for line in lines_of(f"{BUCKET}/run")] == [1]
    monkeypatch.setattr(tracker, "_SECONDS", 60.0)
    kept.write("sft", "train", 2, {"loss": 1.0})
    assert len(lines_of(f"{BUCKET}/run")) == 1
    kept.close()
    assert len(lines_of(f"{BUCKET}/run")) == 2
