"""Which engines two checkpoints get, and under which keys their answers are kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from vlmserve.checkpoint.fingerprint import fingerprint
from vlmserve.checkpoint.provenance import parse_train_env
from vlmserve.checkpoint.source import Checkpoint, load_checkpoint
from vlmserve.cli.main import main
from vlmserve.cli.sides import Served, checkpoint_sides
from vlmserve.config.engine import EngineConfig
from vlmserve.config.serve import ServeConfig
from vlmserve.config.server import ServerConfig
from vlmserve.engine.scripted import ScriptedEngine
from vlmserve.evals.answering import Side

CONFIG = ServeConfig()


def pair_of_sides(
    old: Checkpoint, new: Checkpoint, config: ServeConfig, **more: Any
) -> tuple[Side, Side]:
    sides = checkpoint_sides(
        {"baseline": Served(old, config), "candidate": Served(new, config)}, **more
    )
    return sides["baseline"], sides["candidate"]


def test_an_adapter_and_its_base_share_an_engine(write: Any) -> None:
    base = write.model()
    adapter = load_checkpoint(write.adapter(base))
    baseline, candidate = pair_of_sides(load_checkpoint(base), adapter, CONFIG)
    engine = ScriptedEngine(lambda _: "", models=("base", "adapter"))

    assert baseline.source is candidate.source
    assert (baseline.model(engine), candidate.model(engine)) == ("base", "adapter")
    assert baseline.fingerprint == fingerprint(load_checkpoint(base))
    assert candidate.fingerprint == fingerprint(adapter) != baseline.fingerprint
    assert baseline.settings == candidate.settings


def test_full_checkpoints_have_an_engine_each(write: Any) -> None:
    old, new = (load_checkpoint(write.model(name)) for name in ("old", "new"))
    baseline, candidate = pair_of_sides(old, new, CONFIG)
    engine = ScriptedEngine(lambda _: "", models=("only",))

    assert baseline.source is not candidate.source
    assert (baseline.model(engine), candidate.model(engine)) == ("only", "only")
    assert (baseline.name, candidate.name) == ("old", "new")


def test_an_adapter_and_another_model_have_an_engine_each(write: Any) -> None:
    base, other = write.model("base"), write.model("other")
    adapter = load_checkpoint(write.adapter(base))
    baseline, candidate = pair_of_sides(load_checkpoint(other), adapter, CONFIG)

    assert baseline.source is not candidate.source
    # Beside an adapter other kernels compute, so these answers are other answers.
    assert baseline.settings != candidate.settings


@pytest.mark.parametrize(
    "config",
    [
        ServeConfig(engine=EngineConfig(dtype="float32")),
        ServeConfig(engine=EngineConfig(mm_processor_kwargs={"max_pixels": 50176})),
        ServeConfig(server=ServerConfig(chat_template="{{ messages }}")),
    ],
)
def test_settings_that_change_answers_change_their_key(write: Any, config: ServeConfig) -> None:
    old, new = (load_checkpoint(write.model(name)) for name in ("old", "new"))
    _, before = pair_of_sides(old, new, CONFIG)
    _, after = pair_of_sides(old, new, config)

    assert before.answerer.checkpoint == after.answerer.checkpoint
    assert before.answerer != after.answerer


@pytest.mark.parametrize("adapted", [False, True])
def test_what_training_took_from_its_environment_changes_both_keys(
    write: Any, adapted: bool
) -> None:
    old = write.model("old")
    pair = (
        load_checkpoint(old),
        load_checkpoint(write.adapter(old) if adapted else write.model("new")),
    )
    plain = pair_of_sides(*pair, CONFIG)
    limited = pair_of_sides(*pair, CONFIG, train_env=parse_train_env(["MAX_PIXELS=50176"]))

    for before, after in zip(plain, limited, strict=True):
        assert before.answerer != after.answerer
        assert "50176" in str(after.settings["mm_processor_kwargs"])


def test_a_mistyped_task_is_told_before_checkpoints_are_hashed(
    write: Any, suites: Any, colors: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    suites.task("color", colors(1))
    old, new = write.model("old"), write.model("new")
    arguments = ["--ckpt", str(new), "--baseline", str(old)]

    assert main(["eval", *arguments, "--suite", str(suites.suite("colour"))]) == 2
    said = capsys.readouterr().err
    assert "no task 'colour'" in said
    assert "reading the checkpoints" not in said


def test_a_template_file_counts_by_its_content(write: Any, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    old, new = (load_checkpoint(write.model(name)) for name in ("old", "new"))
    config = ServeConfig(server=ServerConfig(chat_template=str(template)))
    keys = set()
    for text in ("{{ messages }}", "{{ messages[0] }}"):
        template.write_text(text)
        keys.add(pair_of_sides(old, new, config)[1].answerer)

    assert len(keys) == 2


def test_a_checkpoint_of_unknown_origin_needs_a_baseline(
    write: Any, suites: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = suites.suite("color")

    assert main(["eval", "--ckpt", str(write.model()), "--suite", str(suite)]) == 2
    said = capsys.readouterr().err
    assert "nothing says what it was trained from, so there is no baseline" in said
    assert "--baseline DIR" in said


def test_a_broken_checkpoint_is_refused_before_tasks_are_loaded(
    write: Any, suites: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write.model("broken", edit=lambda tensors: tensors.pop(sorted(tensors)[0]))
    arguments = ["--ckpt", str(broken), "--baseline", str(write.model("old"))]

    assert main(["eval", *arguments, "--suite", str(suites.suite("color"))]) == 4
    assert "broken cannot be served" in capsys.readouterr().err


def test_an_adapter_is_the_baseline_of_another_and_the_base_is_the_anchor(write: Any) -> None:
    base = write.model()
    old = load_checkpoint(write.adapter(base))
    new = load_checkpoint(write.adapter(base, config={"lora_alpha": 8}))
    sides = checkpoint_sides(
        {
            "candidate": Served(new, CONFIG),
            "baseline": Served(old, CONFIG),
            "anchor": Served(load_checkpoint(base), CONFIG),
        }
    )
    engine = ScriptedEngine(lambda _: "", models=("base", "old", "new"))

    assert len({id(side.source) for side in sides.values()}) == 1
    assert {name: side.model(engine) for name, side in sides.items()} == {
        "candidate": "new",
        "baseline": "old",
        "anchor": "base",
    }
    assert len({side.fingerprint for side in sides.values()}) == 3
    # Last week it was asked beside its base alone: the same room for an adapter, the same answers.
    _, alone = pair_of_sides(load_checkpoint(base), old, CONFIG)
    assert alone.answerer == sides["baseline"].answerer


def test_adapters_that_want_other_pixels_have_an_engine_each(write: Any) -> None:
    base = write.model()
    old, new = (load_checkpoint(write.adapter(base)) for _ in range(2))
    config = ServeConfig(engine=EngineConfig(mm_processor_kwargs={"max_pixels": 50176}))
    sides = checkpoint_sides({"candidate": Served(new, config), "baseline": Served(old, CONFIG)})

    assert sides["candidate"].source is not sides["baseline"].source


def test_a_base_that_is_judged_shares_the_engine_of_its_adapter(write: Any) -> None:
    base = write.model()
    adapter = load_checkpoint(write.adapter(base))
    baseline, candidate = pair_of_sides(adapter, load_checkpoint(base), CONFIG)
    engine = ScriptedEngine(lambda _: "", models=("base", "adapter"))

    assert baseline.source is candidate.source
    assert (baseline.model(engine), candidate.model(engine)) == ("adapter", "base")


def plan(suites: Any, colors: Any, *arguments: str) -> int:
    suites.task("color", colors(3))
    suite = suites.suite("color", gate={"margin": 0.1})
    return main(["eval", "--suite", str(suite), "--plan", *arguments])


def test_the_same_weights_served_differently_are_two_sides(
    write: Any, suites: Any, colors: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "side.yaml"
    path.write_text("engine: {dtype: float32, mm_processor_kwargs: {max_pixels: 50176}}\n")
    model = str(write.model())
    sides = ["--ckpt", model, "--baseline", model]
    assert plan(suites, colors, *sides, "--candidate-config", str(path)) == 0
    said = " ".join(capsys.readouterr().out.split())

    assert (
        'served differently (baseline | candidate), as declared: dtype: "auto" | "float32"; '
        "mm_processor_kwargs.max_pixels: unset | 50176"
    ) in said
    assert "in all 6 requests" in said
    assert plan(suites, colors, *sides) == 0
    assert "served differently" not in capsys.readouterr().out


def test_limits_of_a_training_are_told_and_not_refused(
    write: Any, suites: Any, colors: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = write.model("old"), write.model("new")
    settings = {"swift_version": "4.6.0", "max_pixels": 50176}
    (new / "args.json").write_text(json.dumps(settings))

    assert plan(suites, colors, "--ckpt", str(new), "--baseline", str(old)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "as the checkpoints bring it: mm_processor_kwargs.max_pixels: unset | 50176" in said


def test_what_adapters_lie_on_is_given_once_for_both(
    write: Any, suites: Any, colors: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write.model()
    old = write.adapter(None)
    new = write.adapter(None, config={"lora_alpha": 8})
    sides = ["--ckpt", str(new), "--baseline", str(old), "--base-model", str(base)]

    assert plan(suites, colors, *sides, "--anchor", str(base)) == 0
    said = capsys.readouterr().out
    assert "baseline adapter: 3 requests" in said
    assert "anchor model: 3 requests" in said
