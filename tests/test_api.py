"""`import metashot` as a person uses it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

import metashot
from metashot import api

PAGE = (ROOT / "docs/python.md").read_text()


def test_public_names_are_those_that_can_be_imported() -> None:
    assert metashot.__all__ == sorted(metashot.__all__) == api.__all__
    for name in metashot.__all__:
        assert getattr(metashot, name) is getattr(api, name)
        assert name in dir(metashot)
    stub = (ROOT / "metashot/__init__.pyi").read_text()
    assert re.findall(r"(\w+) as \1", stub) == metashot.__all__
    assert re.fullmatch(r"\d+\.\d+\.\d+", metashot.__version__)
    with pytest.raises(AttributeError, match="module 'metashot' has no attribute 'nothing'"):
        metashot.nothing  # noqa: B018


def test_import_is_light_and_needs_none_of_the_pipeline() -> None:
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'dvc', 'prefect', 'mlflow'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import metashot\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "metashot.build, metashot.make_samples, metashot.load_registered\n"
        "print(metashot.__version__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_program_of_the_page_trains(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = map(float, re.findall(r"([\d.]+)% (?:untrained|±)", done.stdout))
    assert before + 20 < after
    loaded = metashot.load(tmp_path / "work/model")
    test = metashot.load_samples(tmp_path / "work/samples.parquet", "test")
    asked = metashot.draw_episodes(test, n_way=5, k_shot=1, n_query=15, episodes=200)
    assert f"{metashot.evaluate(loaded, test, asked).accuracy:.1%}" == f"{after}%"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: metashot.load_samples(path / "no.parquet", "test"), "no such file"),
        (lambda path: metashot.load(path), "not a saved model"),
        (lambda path: metashot.make_samples("klingon", path, raw={}, prepare={}), "unknown source 'klingon'"),
    ],
)
def test_a_mistake_is_one_line(call, message: str, tmp_path: Path) -> None:
    with pytest.raises(metashot.MetashotError, match=message):
        call(tmp_path)
