import sys

import pytest

from ascl_lightning.__main__ import main
from ascl_lightning.commands.dashboard import workspace

REQUEST = ["dashboard", "--entity", "somebody", "--project", "ascl-lightning"]


def test_the_layout_is_what_the_public_interface_sends():
    model = workspace("somebody", "ascl-lightning", "AsCL")._to_model()
    assert (model.entity, model.project, model.display_name) == ("somebody", "ascl-lightning", "AsCL")
    assert "val/rsum" in model.model_dump_json(by_alias=True)


def test_without_an_account_the_error_names_the_remedy(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert main(REQUEST) == 2
    assert "wandb login" in capsys.readouterr().err.splitlines()[-1]


def test_without_the_package_the_error_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert main(REQUEST) == 2
    assert "pip install 'ascl-lightning[dashboard]'" in capsys.readouterr().err.splitlines()[-1]


def test_a_rejection_is_one_line(monkeypatch, capsys):
    import wandb
    from wandb_workspaces import workspaces

    def refuse(view):
        raise wandb.errors.CommError("no such project")

    monkeypatch.setattr(wandb, "login", lambda prompt: True)
    monkeypatch.setattr(workspaces.Workspace, "save_as_new_view", refuse)
    assert main(REQUEST) == 2
    assert "somebody/ascl-lightning: no such project" in capsys.readouterr().err.splitlines()[-1]


def test_entity_and_project_are_required(capsys):
    assert main(["dashboard", "--entity", "somebody"]) == 2
    assert "project" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ["AsCL", "mine"])
def test_the_view_is_saved_under_its_name(name, monkeypatch, capsys):
    import wandb
    from wandb_workspaces import workspaces

    saved = []
    monkeypatch.setattr(wandb, "login", lambda prompt: True)
    monkeypatch.setattr(workspaces.Workspace, "save_as_new_view", lambda view: saved.append(view))
    monkeypatch.setattr(workspaces.Workspace, "url", "https://host/view")
    assert main([*REQUEST, "--name", name]) == 0
    assert [(view.entity, view.project, view.name) for view in saved] == [("somebody", "ascl-lightning", name)]
    assert "https://host/view" in capsys.readouterr().out
