"""The environment, read once: what is missing is named."""

import dataclasses

import pytest

from keyvigil.errors import SettingMissingError
from keyvigil.settings import Settings

ENVIRON = {
    "AWS_REGION": "us-west-2",
    "KEYVIGIL_TABLE_NAME": "keyvigil-table",
    "KEYVIGIL_CONFIRMATION_PROBES": "3",
    "KEYVIGIL_EMPTY": "",
    "SECRET_OF_SOMEBODY_ELSE": "not ours",
}


def test_only_keyvigils_own_variables_are_kept() -> None:
    settings = Settings.from_env(ENVIRON)

    assert settings.region == "us-west-2"
    assert set(settings.values) == {"KEYVIGIL_TABLE_NAME", "KEYVIGIL_CONFIRMATION_PROBES", "KEYVIGIL_EMPTY"}


def test_the_region_may_be_told_in_either_variable() -> None:
    assert Settings.from_env({"AWS_DEFAULT_REGION": "eu-west-1"}).region == "eu-west-1"
    assert Settings.from_env({"AWS_REGION": "us-west-2", "AWS_DEFAULT_REGION": "eu-west-1"}).region == "us-west-2"


@pytest.mark.parametrize("environ", [{}, {"AWS_REGION": ""}, {"AWS_DEFAULT_REGION": ""}])
def test_a_missing_region_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(SettingMissingError, match="AWS_REGION"):
        Settings.from_env(environ)


def test_the_processs_environment_is_read_if_no_other_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "ap-southeast-1")
    monkeypatch.setenv("KEYVIGIL_TABLE_NAME", "from the process")

    settings = Settings.from_env()

    assert (settings.region, settings.text("TABLE_NAME")) == ("ap-southeast-1", "from the process")


def test_a_setting_is_asked_for_without_its_prefix() -> None:
    assert Settings.from_env(ENVIRON).text("TABLE_NAME") == "keyvigil-table"


@pytest.mark.parametrize("name", ["MISSING", "EMPTY"])
def test_a_setting_that_is_missing_or_empty_is_named_with_its_prefix(name: str) -> None:
    with pytest.raises(SettingMissingError, match=f"KEYVIGIL_{name} is not set; template.yaml sets it"):
        Settings.from_env(ENVIRON).text(name)


def test_an_optional_setting_may_be_missing_or_empty() -> None:
    settings = Settings.from_env(ENVIRON)

    assert settings.optional("MISSING") is None
    assert settings.optional("EMPTY") is None
    assert settings.optional("TABLE_NAME") == "keyvigil-table"


def test_a_number_is_a_number() -> None:
    assert Settings.from_env(ENVIRON).number("CONFIRMATION_PROBES") == 3


@pytest.mark.parametrize("text", ["three", "3.5", "-3", " 3", "3\n", "0x3"])
def test_what_is_not_a_whole_number_is_named_with_its_value(text: str) -> None:
    settings = Settings.from_env({**ENVIRON, "KEYVIGIL_CONFIRMATION_PROBES": text})

    with pytest.raises(SettingMissingError, match=r"KEYVIGIL_CONFIRMATION_PROBES is .*, not a whole number"):
        settings.number("CONFIRMATION_PROBES")


def test_a_missing_number_is_named_too() -> None:
    with pytest.raises(SettingMissingError, match="KEYVIGIL_MISSING is not set"):
        Settings.from_env(ENVIRON).number("MISSING")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings.from_env(ENVIRON).region = "eu-west-1"  # type: ignore[misc]  # what the test is about
