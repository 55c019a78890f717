import pytest

from vlmserve.config.base import load_config
from vlmserve.config.hosts import HostRule, why_refused
from vlmserve.config.serve import ServeConfig
from vlmserve.errors import ConfigError


@pytest.mark.parametrize(
    ("rule", "host", "port", "allowed"),
    [
        ("example.org", "example.org", 443, True),
        ("Example.org", "EXAMPLE.ORG", 80, True),
        ("example.org", "example.org", 8080, False),
        ("example.org", "a.example.org", 443, False),
        ("example.org", "example.org.evil.net", 443, False),
        ("*.example.org", "a.b.example.org", 443, True),
        ("*.example.org", "example.org", 443, False),
        ("*.example.org", "evilexample.org", 443, False),
        ("*", "anything", 80, True),
        ("*", "anything", 22, False),
        ("media.lan:8080", "media.lan", 8080, True),
        ("media.lan:8080", "media.lan", 80, False),
        ("[::1]:8080", "::1", 8080, True),
        ("[::1]", "::1", 80, True),
        ("::1", "::1", 80, True),
    ],
)
def test_rule(rule: str, host: str, port: int, allowed: bool) -> None:
    assert HostRule.parse(rule).allows(host, port) == allowed


@pytest.mark.parametrize(
    ("host", "port", "setting"),
    [
        ("a.org", 443, "media.allowed_hosts: [a.org]"),
        ("a.org", 8080, "media.allowed_hosts: ['a.org:8080']"),
        ("::1", 8080, "media.allowed_hosts: ['[::1]:8080']"),
    ],
)
def test_refusal_names_the_setting_that_allows(host: str, port: int, setting: str) -> None:
    refusal = why_refused([], host, port)

    assert refusal is not None
    assert setting in refusal
    rule = setting.partition("[")[2][:-1].strip("'")
    assert why_refused([HostRule.parse(rule)], host, port) is None


@pytest.mark.parametrize(
    "rule", ["", " ", "http://example.org", "example.org/path", "a@b", "a:0", "a:x", "a:70000"]
)
def test_what_is_no_host_is_refused_in_a_configuration(rule: str) -> None:
    with pytest.raises(ConfigError, match=r"media\.allowed_hosts"):
        load_config(None, ServeConfig, overrides={"media.allowed_hosts": [rule]})


def test_networks_are_read() -> None:
    config = load_config(None, ServeConfig, settings=["media.allowed_networks=[10.0.0.0/8, '::1']"])

    assert [str(network) for network in config.media.allowed_networks] == ["10.0.0.0/8", "::1/128"]
    assert config.model_dump(mode="json")["media"]["allowed_networks"] == ["10.0.0.0/8", "::1/128"]
