"""Where checkpoints are found, and that their SHA-256 is what the user can compute."""

from __future__ import annotations

import hashlib
import subprocess

import huggingface_hub.constants
import pytest

from cast.config import PretrainedModel
from cast.errors import CastError
from cast.teacher.checkpoints import locate, weights_digest, weights_files


def checkpoint(folder, content=b"weights"):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    return folder


def test_a_folder_is_taken_as_it_is(tmp_path):
    folder = checkpoint(tmp_path / "model")
    digest = hashlib.sha256(b"weights").hexdigest()
    for sha256 in (None, digest, digest.upper()):
        assert locate(PretrainedModel(pretrained=str(folder), sha256=sha256), "detector") == folder


def test_other_weights_than_the_sha256_says_are_one_line(tmp_path):
    folder = checkpoint(tmp_path / "model")
    with pytest.raises(CastError) as error:
        locate(PretrainedModel(pretrained=str(folder), sha256="0" * 64), "segmenter")
    found = hashlib.sha256(b"weights").hexdigest()
    assert (
        f"{folder}/model.safetensors: its SHA-256 is {found}, but segmenter.sha256 says {'0' * 64};"
        in str(error.value)
    )
    assert "\n" not in str(error.value)


def test_the_digest_of_several_files_is_the_one_of_the_documented_command(tmp_path):
    for number in (2, 1):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(bytes([number]))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        '{"weight_map": {"b": "model-00002-of-00002.safetensors", "a": "model-00001-of-00002.safetensors"}}'
    )
    # sha256sum model-*.safetensors | sha256sum
    files = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    listing = subprocess.run(["sha256sum", *files], cwd=tmp_path, capture_output=True, check=True).stdout
    printed = subprocess.run(["sha256sum"], input=listing, capture_output=True, check=True).stdout.decode()
    before = weights_digest(tmp_path)
    assert before == printed.split()[0]
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"other")
    assert weights_digest(tmp_path) != before
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CastError, match=r"model-00002-of-00002\.safetensors: is missing"):
        weights_digest(tmp_path)
    index.write_text("{}")
    with pytest.raises(CastError, match=r"index\.json: not a readable index"):
        weights_files(tmp_path)


def test_a_revision_of_a_folder_is_an_error(tmp_path):
    settings = PretrainedModel(pretrained=str(checkpoint(tmp_path / "model")), revision="main")
    with pytest.raises(CastError, match=r"detector\.revision: .*is a folder; remove it"):
        locate(settings, "detector")


@pytest.mark.parametrize("name", ["/absent/folder", "models/sam2/absent", "absent", "../absent", "~/absent"])
def test_what_can_only_be_a_folder_is_not_looked_for_on_the_hub(name):
    with pytest.raises(CastError, match=f"detector.pretrained: '{name}' is no folder"):
        locate(PretrainedModel(pretrained=name), "detector")


def test_a_hub_id_is_found_in_the_cache_by_its_revision(tmp_path, monkeypatch):
    """The layout of the hub's cache, as `hf download` leaves it; no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--someone--model"
    folder = checkpoint(cached / "snapshots" / ("a" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "v2").write_text("a" * 40)
    settings = PretrainedModel(pretrained="someone/model", revision="v2")
    assert locate(settings, "detector") == folder
    with pytest.raises(CastError, match=r"segmenter\.sha256 says"):
        locate(settings.model_copy(update={"sha256": "0" * 64}), "segmenter")
    with pytest.raises(CastError, match=r"hf download someone/model --revision v3 --local-dir models/model`"):
        locate(settings.model_copy(update={"revision": "v3"}), "detector")
