import hashlib
import json

import pytest

from cast.artefacts import artefact_folder, digest
from cast.errors import CastError


def test_folder_appears_whole_with_its_manifest(tmp_path):
    source = tmp_path / "labels.json"
    source.write_text("{}")
    out = tmp_path / "made"
    with artefact_folder(out, "evaluate", {"b": 1}, [source], seed=3) as folder:
        (folder / "metrics.json").write_text("1")
        assert not out.exists()
    manifest = json.loads((out / "manifest.json").read_text())
    assert (out / "metrics.json").read_text() == "1"
    assert manifest["stage"] == "evaluate" and manifest["seed"] == 3 and manifest["settings"] == {"b": 1}
    assert manifest["inputs"][str(source)] == hashlib.sha256(b"{}").hexdigest()
    assert manifest["wall_seconds"] >= 0 and manifest["peak_memory_mb"] > 0
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def write_and_fail(path):
    path.write_text("new")
    raise RuntimeError


def test_failure_leaves_nothing_and_keeps_the_older_artefact(tmp_path):
    out = tmp_path / "made"
    with artefact_folder(out, "evaluate", {}, []) as folder:
        (folder / "file").write_text("old")
    with pytest.raises(RuntimeError), artefact_folder(out, "evaluate", {}, []) as folder:
        write_and_fail(folder / "file")
    assert (out / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_replaces_an_older_artefact_completely(tmp_path):
    for name in ("first", "second"):
        with artefact_folder(tmp_path / "made", "evaluate", {}, []) as folder:
            (folder / name).write_text("")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["manifest.json", "second"]


def test_digest_of_a_folder_is_that_of_its_manifest(tmp_path):
    (tmp_path / "manifest.json").write_text("x")
    assert digest(tmp_path) == hashlib.sha256(b"x").hexdigest()
    with pytest.raises(CastError, match="absent"):
        digest(tmp_path / "absent")
