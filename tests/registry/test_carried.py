"""What registered models carry: the same bytes always, left alone by whoever loads them, never mixed."""

import dataclasses
import hashlib
import io
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import mlflow
import pytest
import synthetic
import yaml
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import ColSpec, DataType, Map, Schema
from serving import COLUMNS, GROUP, TASK, serving

from metashot.lineage.document import Document
from metashot.project import closure
from metashot.registry import carried

LOAD = """
import sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
table = pandas.read_parquet(sys.argv[2])
for address in sys.argv[3:]:
    model = mlflow.pyfunc.load_model(address)
    print(model.predict(table)["label"].tolist(), type(model._model_impl).__module__)
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    import pandas as pd

    path = tmp_path_factory.mktemp("task") / "task.parquet"
    pd.DataFrame(TASK, columns=COLUMNS).to_parquet(path)
    return path


def plain_environment(home: Path) -> dict[str, str]:
    """As a user has it: no variable that tells Python to leave its bytecode unwritten."""
    return {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LANG": "C.UTF-8"}


def load(root: Path, task: Path, home: Path, *addresses: str) -> list[str]:
    uri = f"sqlite:///{root}/mlruns/mlflow.db"
    command = [sys.executable, "-c", LOAD, uri, str(task), *addresses]
    done = subprocess.run(command, cwd=home, env=plain_environment(home), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def state(folder: Path) -> dict[str, tuple[int, str]]:
    """Every path below a folder, with mode and content; of the file that MLflow rewrites the path alone."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mode,
            "" if path.is_dir() or path.name == carried.META else hashlib.md5(path.read_bytes()).hexdigest(),
        )
        for path in folder.rglob("*")
    }


@pytest.mark.slow
def test_a_model_stays_as_it_was_registered_however_it_is_loaded(registered, task, tmp_path):
    artifacts = registered / "mlruns/artifacts"
    uri = f"sqlite:///{registered}/mlruns/mlflow.db"
    version = mlflow.MlflowClient(uri, uri).get_model_version_by_alias(GROUP, "champion")
    named = f"models:/{GROUP}/{version.version}"
    before = state(artifacts)
    written = Path(version.source.removeprefix("file://"), carried.META)
    for uris in (
        [version.source],
        [named, named],
        [f"models:/{GROUP}@champion"],
        [f"models:/{version.source.split('/')[-2]}"],
    ):
        assert len(set(load(registered, task, tmp_path, *uris))) == 1
        assert state(artifacts) == before
        assert written.read_bytes() in carried.metas(GROUP, version.version)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        with serving(registered, {"served": named}, tmp_path):
            pass
    assert state(artifacts) == before


def test_models_with_other_code_are_not_mixed_in_one_process(registered, task, tmp_path):
    """Each answers with its own code, whichever is loaded first, and beside an installed metashot."""
    uri = f"sqlite:///{registered}/mlruns/mlflow.db"
    client = mlflow.MlflowClient(uri, uri)
    version = client.get_model_version_by_alias(GROUP, "champion")
    run = client.get_run(version.run_id)
    path = Path(run.info.artifact_uri.removeprefix("file://"), "lineage.json")
    lineage = Document.parse(path.read_bytes(), "lineage.json")
    code, first = synthetic.carries(method="prototypical"), Path(version.source.removeprefix("file://"))
    source = code.files["registry/pyfunc_model.py"].replace(
        b"names[best] for best", b"names[best].upper() for best"
    )
    other = dataclasses.replace(code, files={**code.files, "registry/pyfunc_model.py": source})
    second = tmp_path / "second"
    (second / "artifacts").mkdir(parents=True)
    for name in ("model.json", "model.safetensors"):
        (second / "artifacts" / name).write_bytes((first / "artifacts" / name).read_bytes())
    for name, content in carried.described(other, lineage, "m-1", "1", 0).items():
        (second / name).write_bytes(content)
    answers = load(registered, task, tmp_path, str(first), str(second), str(first))
    assert answers[0] == answers[2] != answers[1]
    labels, modules = zip(*(answer.rsplit(" ", 1) for answer in answers), strict=True)
    assert labels[1] == labels[0].upper() != labels[0]
    assert modules == tuple(f"{each.package}.registry.pyfunc_model" for each in (code, other, code))


def test_the_same_code_gives_the_same_zip_anywhere(tmp_path, monkeypatch):
    code = synthetic.carries()
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    shuffled = dataclasses.replace(code, files=dict(reversed(code.files.items())))
    assert shuffled.zip == code.zip
    monkeypatch.undo()
    time.tzset()
    with zipfile.ZipFile(io.BytesIO(code.zip)) as held:
        entries = held.infolist()
        assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
        for entry in entries:
            about = entry.date_time, entry.create_system, entry.external_attr, entry.compress_type
            assert about == ((1980, 1, 1, 0, 0, 0), 3, 0o100644 << 16, zipfile.ZIP_STORED)
        names = {entry.filename.removeprefix(f"{code.package}/") for entry in entries}
        texts = {name: held.read(f"{code.package}/{name}") for name in names}
    assert names == code.files.keys()
    for name, text in texts.items():  # but for the name of the package it is the very source
        assert text.replace(code.package.encode(), b"metashot") == code.files[name]
        assert b"from metashot." not in text
        assert b"import metashot" not in text


def test_what_mlflow_reads_is_what_it_would_write(registered):
    """MLmodel is one to MLflow; conda.yaml and python_env.yaml are YAML of the packages alone."""
    uri = f"sqlite:///{registered}/mlruns/mlflow.db"
    version = mlflow.MlflowClient(uri, uri).get_model_version_by_alias(GROUP, "champion")
    folder = Path(version.source.removeprefix("file://"))
    model = Model.load(folder)
    columns = [
        ColSpec(DataType.string, "label"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Map(DataType.double), "probabilities"),
    ]
    assert model.signature == ModelSignature(outputs=Schema(columns))
    assert model.mlflow_version == mlflow.__version__
    assert (model.run_id, model.model_id) == (version.run_id, folder.parent.name)
    pins = (folder / "requirements.txt").read_text().splitlines()
    conda = yaml.safe_load((folder / "conda.yaml").read_text())
    assert conda["channels"] == ["conda-forge"]
    assert conda["dependencies"] == ["python=3.11.9", "pip", {"pip": pins}]  # that of the training
    python = yaml.safe_load((folder / "python_env.yaml").read_text())
    assert python["python"] == "3.11.9"
    assert python["dependencies"] == ["-r requirements.txt"]


def test_a_kind_of_samples_with_packages_of_its_own_needs_them_too():
    pictures, texts = synthetic.carries(), synthetic.carries("sentences", backbone="dense")
    names = [{pin.split("==")[0] for pin in code.requirements} for code in (pictures, texts)]
    assert names[1] - names[0] == {"sentence-transformers", "transformers"}
    assert names[0] - names[1] == {"pillow", "torchvision"}
    assert texts.digest != pictures.digest


def test_a_model_carries_its_own_parts_and_no_others():
    """So that a method, backbone or kind that is added leaves registered models as they are."""
    code = synthetic.carries()
    parts = {path for path in code.files if re.search(r"(methods|backbones|kinds)/", path)}
    assert {path.rpartition("/")[2] for path in parts} == {
        *("__init__.py", "adaptation.py", "base.py", "maml.py", "conv4.py", "images.py")
    }
    for path, name in (
        ("learning/models/methods/__init__.py", b"maml"),
        ("learning/models/backbones/__init__.py", b"conv4"),
        ("data/kinds/__init__.py", b"images"),
    ):
        listed = [match[1] for line in code.files[path].splitlines() if (match := closure.PART.match(line))]
        assert listed == [name]


def test_the_digest_is_of_the_files_and_the_packages():
    code = synthetic.carries()
    for path in code.files:
        other = dataclasses.replace(code, files={**code.files, path: b"other"})
        assert other.digest != code.digest
    assert dataclasses.replace(code, requirements=code.requirements[1:]).digest != code.digest
    assert dataclasses.replace(code, files=dict(reversed(code.files.items()))).digest == code.digest


def test_what_pyproject_listed_earlier_is_carried_as_it_was():
    """The layout of before modules lay in packages: patterns in pyproject.toml, pins among dependencies."""
    files = {name: name.encode() for name in ("__init__.py", "pyfunc_model.py", "methods/maml.py", "cli.py")}
    project = {
        "project": {
            "dependencies": ["torch==2.15.0", "mlflow==3.17.2; python_version > '3'", "dvc==3"],
            "optional-dependencies": {"sentences": ["sentence-transformers==6.2.0"]},
        },
        "tool": {
            "metashot": {
                "model": {
                    "code": ["__init__.py", "methods/*.py", "pyfunc_model.py"],
                    "packages": ["mlflow", "torch"],
                }
            }
        },
    }
    code = carried.Code.earlier(files, project, "images")
    assert code.files == {name: content for name, content in files.items() if name != "cli.py"}
    assert code.requirements == ["torch==2.15.0", "mlflow==3.17.2"]
    assert code.loader == "pyfunc_model"
    assert (
        carried.Code.earlier(files, project, "sentences").requirements[-1] == "sentence-transformers==6.2.0"
    )


def test_a_publish_that_was_killed_before_a_version_was_whole_is_completed(tmp_path, monkeypatch):
    from metashot.registry import publish, tracking, versions

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = synthetic.make(tmp_path / "repository", {"matching": 0.9})
    synthetic.give_database(root)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(carried, "meta", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        publish.publish_all(root)
    publish.publish_all(root)
    with tracking.connect(root) as client:
        version = versions.resolve(client, GROUP)
        assert (version.folder / carried.META).read_bytes() == carried.meta(GROUP, "1")
        assert tracking.FILES in version.entry.tags
