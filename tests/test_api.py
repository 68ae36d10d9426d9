"""What users may rely on: one list, one page, loaded when it is asked for."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import relabel

_ROOT = Path(__file__).parents[1]


def test_the_page_lists_what_the_package_lists():
    rows = re.findall(r"^\| (`.*?) \|", (_ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == relabel.__all__ == dir(relabel)


def test_every_name_is_there_and_documented():
    for name in relabel.__all__:
        assert (getattr(relabel, name).__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        relabel.nonsense  # noqa: B018


def _printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True).stdout


def test_a_name_is_loaded_when_it_is_asked_for():
    heavy = {"torch", "click", "matplotlib", "numcodecs", "timm", "webdataset", "zarr"}
    for asked, loaded in (
        ("TeacherSpec, relabel.GenerateOptions", ""),
        ("open, relabel.collate, relabel.published", "torch"),
    ):
        code = f"import sys, relabel; relabel.{asked}; print(*sorted({heavy} & set(sys.modules)))"
        assert _printed(code) == f"{loaded}\n"


@pytest.mark.parametrize(
    "imports",
    [
        "import sys, relabel",
        "import sys, relabel; from relabel.generate import GenerateOptions",
        "from relabel.generate.options import GenerateOptions; import sys, relabel",
    ],
)
def test_generate_is_the_function_whatever_was_imported_before(imports):
    assert (
        _printed(f"{imports}; print(callable(relabel.generate), callable(sys.modules['relabel.generate']))")
        == "True True\n"
    )
    with pytest.raises(relabel.SourceError, match=r"no such file: absent\."):
        relabel.generate("absent/", "absent.zarr", relabel.TeacherSpec(name="x"))


def test_generate_may_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(relabel.generate)) is relabel.generate
    assert pickle.loads(pickle.dumps(relabel.verify_shards)) is relabel.verify_shards
