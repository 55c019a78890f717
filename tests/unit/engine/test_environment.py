import pytest

from vlmserve.engine import environment
from vlmserve.engine.environment import prepare_vllm
from vlmserve.errors import ConfigError, EngineError


@pytest.fixture
def cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "is_cpu_build", lambda: True)


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "is_cpu_build", lambda: False)


@pytest.mark.usefixtures("cpu_build")
@pytest.mark.engine
def test_batch_invariance_is_refused_on_cpus() -> None:
    with pytest.raises(ConfigError, match="VLLM_BATCH_INVARIANT") as caught:
        prepare_vllm({"VLLM_BATCH_INVARIANT": "1"})

    assert caught.value.exit_code == 2


@pytest.mark.usefixtures("gpu_build")
@pytest.mark.engine
def test_batch_invariance_is_left_to_gpus() -> None:
    environ = {"VLLM_BATCH_INVARIANT": "1"}

    prepare_vllm(environ)

    assert environ["VLLM_BATCH_INVARIANT"] == "1"


@pytest.mark.usefixtures("cpu_build")
@pytest.mark.engine
def test_settings_that_would_skip_our_plugins_are_mended() -> None:
    environ = {"VLLM_PLUGINS": "other", "VLLM_TARGET_DEVICE": "cpu"}

    prepare_vllm(environ)

    assert environ["VLLM_PLUGINS"] == "other,vlmserve"
    assert "VLLM_TARGET_DEVICE" not in environ
    assert environ["VLLM_MEDIA_CONNECTOR"] == "vlmserve"
    assert environ["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"


@pytest.mark.usefixtures("cpu_build")
@pytest.mark.engine
def test_what_the_user_chose_stays() -> None:
    environ = {
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "VLLM_PLUGINS": "vlmserve",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "7",
    }

    prepare_vllm(environ)

    assert environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert environ["VLLM_PLUGINS"] == "vlmserve"


def test_missing_vllm_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(EngineError, match="not installed") as caught:
        prepare_vllm({})

    assert caught.value.hint is not None
    assert "vlmserve[cpu]" in caught.value.hint
