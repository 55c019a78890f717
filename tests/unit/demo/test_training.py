import math
from pathlib import Path
from typing import Any

import pytest
import torch

from vlmserve.demo.encoding import SampleEncoder
from vlmserve.demo.finetuning import TUNE_RECIPES, TuneRecipe, tune
from vlmserve.demo.model import create_model, load_shipped_model
from vlmserve.demo.optimizer import Muon
from vlmserve.demo.recipe import load_shipped
from vlmserve.demo.reproduce import Settings, train_variants
from vlmserve.demo.training import BaseRecipe, Validation, lr_scale, train_base
from vlmserve.errors import ConfigError

TINY = BaseRecipe(steps=3, shard_samples=4)
QUICK = Validation(every_steps=2, samples=1)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_one_and_two_processes_train_the_same_weights() -> None:
    """Bit for bit, whatever is observed on the way."""
    steps: list[int] = []
    alone, log = train_base(TINY, processes=1, validation=QUICK)
    together, _ = train_base(TINY, processes=2, observe=lambda step, _loss: steps.append(step))

    assert_same(weights(alone), weights(together))
    assert steps == [1, 2, 3]
    assert [point["step"] for point in log.points] == [2, 3]
    assert log.wall_s > 0
    assert log.cpu_s > 0


def test_another_seed_trains_other_weights(tokenizer: Any) -> None:
    one, other = (weights(create_model(tokenizer, seed)) for seed in (0, 1))

    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_processes_must_fit_the_shards() -> None:
    with pytest.raises(ConfigError, match="number of shards, 2; not 3"):
        train_base(TINY, processes=3)


@pytest.mark.parametrize("change", [{"steps": 0}, {"shards": 0}, {"shard_samples": -1}])
def test_nothing_to_train_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        BaseRecipe(**change)


def test_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    rates = [lr_scale(step, 100, warmup_steps=10, final_fraction=0.1) for step in range(101)]

    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(0.98, abs=0.02)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_muon_steps_along_the_nearest_orthogonal_matrix() -> None:
    """One step from zero momentum: the gradient's U V^T, scaled to AdamW's RMS."""
    torch.manual_seed(0)
    for shape in ((8, 16), (16, 8), (8, 8)):
        gradient = torch.randn(shape) + 4 * torch.eye(*shape)
        matrix = torch.nn.Parameter(torch.zeros(shape))
        matrix.grad = gradient.clone()
        Muon([matrix], lr=1.0).step()

        u, _, v = torch.linalg.svd(gradient, full_matrices=False)
        step = -matrix.detach() / (0.2 * math.sqrt(max(shape)))
        singular = torch.linalg.svdvals(step)
        assert ((singular > 0.6) & (singular < 1.3)).all()
        alignment = (step * (u @ v)).sum() / (step.norm() * (u @ v).norm())
        assert alignment > 0.95


def test_muon_decays_weights_and_leaves_those_without_gradient() -> None:
    still, moved = (torch.nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    moved.grad = torch.zeros(2, 3)

    Muon([still, moved], lr=0.5, weight_decay=0.1).step()

    assert torch.equal(still, torch.ones(2, 3))
    torch.testing.assert_close(moved.detach(), torch.full((2, 3), 0.95))


def test_muon_takes_no_closure() -> None:
    with pytest.raises(ValueError, match="closure"):
        Muon([torch.nn.Parameter(torch.ones(2, 2))], lr=1.0).step(lambda: 0.0)


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_tuning_is_deterministic_and_changes_only_what_it_may(tuner: Any, tokenizer: Any) -> None:
    recipe = TuneRecipe(tuner=tuner, steps=2, lr=1e-3, replay=0.5, batch=4)
    encoder = SampleEncoder(tokenizer)

    one, log = tune(load_shipped_model("base"), encoder, recipe)
    other, _ = tune(load_shipped_model("base"), encoder, recipe)

    assert_same(weights(one), weights(other))
    assert log["first_loss"] > 0
    before = weights(load_shipped_model("base"))
    if tuner == "lora":
        after = {n.removeprefix("base_model.model."): w for n, w in weights(one).items()}
        kept = {n.replace(".base_layer", ""): w for n, w in after.items() if "lora_" not in n}
        assert_same(before, kept)
        assert all("language_model" in n for n in after if "lora_" in n)
        assert any(w.any() for n, w in after.items() if "lora_B" in n)
    else:
        assert all(not torch.equal(before[n], w) for n, w in weights(one).items() if w.ndim > 1)


def test_training_writes_what_is_shipped(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def progress(name: str, steps: int) -> Any:
        seen.append((name, steps))
        return lambda _step, _loss: None

    names = ("good-lora", "wrong-template")
    settings = Settings(steps=1, samples=1, heldout=True)
    train_variants(names, tmp_path, settings=settings, progress=progress)

    assert seen == [("good-lora", 1), ("wrong-template", 1)]
    for name in names:
        mine, shipped = load_shipped(name, tmp_path), load_shipped(name)
        files = {path.name for path in mine.folder.iterdir()}
        assert files == {path.name for path in shipped.folder.iterdir()}
        assert mine.recipe.keys() == shipped.recipe.keys()
        assert mine.recipe["settings"] == shipped.recipe["settings"] | {"steps": 1}


def test_a_fine_tune_starts_from_the_base_trained_beside_it(tmp_path: Path) -> None:
    settings = Settings(seed=3, steps=1, processes=1, samples=1, heldout=True)

    train_variants(("forgetful", "base"), tmp_path, settings=settings)

    base = load_shipped("base", tmp_path)
    assert base.recipe["settings"]["seed"] == 3
    assert base.recipe.keys() == load_shipped("base").recipe.keys()
    files = {path.name for path in base.folder.iterdir()}
    assert files == {path.name for path in load_shipped("base").folder.iterdir()}
    digest = base.recipe["weights"]["sha256"]
    assert digest != load_shipped("base").recipe["weights"]["sha256"]
    assert load_shipped("forgetful", tmp_path).recipe["base_sha256"] == digest


def test_shipped_recipes_are_the_ones_in_the_code() -> None:
    import dataclasses
    import json

    assert load_shipped("base").recipe["settings"] == dataclasses.asdict(BaseRecipe())
    for name, recipe in TUNE_RECIPES.items():
        as_read = json.loads(json.dumps(dataclasses.asdict(recipe)))
        assert load_shipped(name).recipe["settings"] == as_read


def test_training_never_writes_over_strangers(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "mine.txt").write_text("", encoding="utf-8")

    with pytest.raises(ConfigError, match="good is not empty"):
        train_variants(("good",), tmp_path)


def test_unknown_variants_and_no_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'best'"):
        train_variants(("best",), tmp_path)
    with pytest.raises(ConfigError, match="at least 1"):
        Settings(steps=0)
    with pytest.raises(ConfigError, match="samples must be at least 1"):
        Settings(samples=0)
