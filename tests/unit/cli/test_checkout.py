from pathlib import Path

import pytest

from keyvigil_cli.checkout import Checkout, CheckoutNotFoundError, ToolMissingError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("template.yaml", "samconfig.toml"):
        (tmp_path / name).touch()
    return tmp_path.resolve()


def make_program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


def test_checkout_is_found_from_a_folder_inside_it(root: Path) -> None:
    inside = root / "docs" / "decisions"
    inside.mkdir(parents=True)
    assert Checkout.find(inside).root == root


def test_checkout_is_found_from_the_current_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert Checkout.find().root == root


def test_a_folder_with_only_a_template_is_no_checkout(tmp_path: Path) -> None:
    (tmp_path / "template.yaml").touch()
    with pytest.raises(CheckoutNotFoundError, match=r"template\.yaml and samconfig\.toml"):
        Checkout.find(tmp_path)


def test_tools_are_found_in_the_checkout(root: Path) -> None:
    program = make_program(root / ".tools/cloud/bin/ministack")
    assert Checkout(root).ministack({}) == program


def test_a_variable_names_another_tool(root: Path, tmp_path: Path) -> None:
    program = make_program(tmp_path / "elsewhere" / "sam")
    assert Checkout(root).sam({"KEYVIGIL_SAM": str(program)}) == program


def test_a_missing_tool_says_what_to_run(root: Path) -> None:
    with pytest.raises(ToolMissingError, match=r"\.tools/sam/bin/sam.*make install"):
        Checkout(root).sam({})


def test_a_missing_tool_that_was_named_says_by_what(root: Path) -> None:
    with pytest.raises(ToolMissingError, match="named by KEYVIGIL_SAM"):
        Checkout(root).sam({"KEYVIGIL_SAM": str(root / "nothing")})


def test_python_of_a_virtual_environment_is_not_followed_out_of_it(root: Path, tmp_path: Path) -> None:
    real = make_program(tmp_path / "real" / "python3.13")
    link = root / ".venv/bin/python"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    assert Checkout(root).python({}) == link
