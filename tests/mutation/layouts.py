"""Rewriting what transformers 5 saves to what vLLM 0.32 takes, and to what transformers 4 saved."""

from pathlib import Path
from typing import Any

from tests.mutation.mutation import WEIGHTS, drop_files, read_json, rename_tensors, write_json

_TEXT_KEYS_OF_4 = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "vocab_size",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "attention_dropout",
    "initializer_range",
    "use_cache",
)
_WRAPPER_KEYS = (
    "image_token",
    "num_additional_image_tokens",
    "patch_size",
    "processor_class",
    "vision_feature_select_strategy",
)


def _restore_tower_level(directory: Path) -> None:
    """Put back the level that transformers 5 drops from a LLaVA's tower."""
    rename_tensors(directory / WEIGHTS, r"^vision_tower\.", "vision_tower.vision_model.")


def as_qwen_4(directory: Path, version: str) -> None:
    """Make a Qwen2-VL or Qwen2.5-VL look as transformers 4 before 4.52 saved it: flat."""
    config = read_json(directory / "config.json")
    text, vision = config["text_config"], config["vision_config"]
    rope = text["rope_parameters"]
    width = "embed_dim" if config["model_type"] == "qwen2_vl" else "hidden_size"
    flat = {
        "architectures": config["architectures"],
        **{key: text[key] for key in _TEXT_KEYS_OF_4},
        "image_token_id": config["image_token_id"],
        "max_window_layers": text["num_hidden_layers"],
        "model_type": config["model_type"],
        "rope_scaling": {
            "mrope_section": rope["mrope_section"],
            "rope_type": "default",
            "type": "default",
        },
        "rope_theta": rope["rope_theta"],
        "sliding_window": 4096,
        "tie_word_embeddings": config["tie_word_embeddings"],
        "torch_dtype": config["dtype"],
        "transformers_version": version,
        "use_sliding_window": False,
        "video_token_id": config["video_token_id"],
        "vision_config": {
            **{key: value for key, value in vision.items() if key not in _VISION_KEYS_OF_5},
            "in_chans": vision["in_channels"],
            "spatial_patch_size": vision["patch_size"],
        },
        "vision_end_token_id": config["vision_end_token_id"],
        "vision_start_token_id": config["vision_start_token_id"],
    }
    assert width in flat["vision_config"]
    write_json(directory / "config.json", flat)
    size = _split_processor(directory, wrapper=False)["size"]
    preprocessor = directory / "preprocessor_config.json"
    pixels = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    write_json(preprocessor, {**read_json(preprocessor), **pixels})
    _split_tokenizer(directory, byte_level=True)
    _set_version(directory, version)


def as_llava_4(directory: Path, version: str) -> None:
    """Make a LLaVA look as transformers 4 before 4.52 saved it."""
    config = read_json(directory / "config.json")
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    config["text_config"] = {**text, "rope_theta": rope["rope_theta"], "torch_dtype": "float32"}
    config["torch_dtype"] = config.pop("dtype")
    write_json(directory / "config.json", {**config, "transformers_version": version})
    _restore_tower_level(directory)
    _split_processor(directory, wrapper=True)
    _split_tokenizer(directory, byte_level=False)
    _set_version(directory, version)


_VISION_KEYS_OF_5 = ("in_channels", "rope_parameters")


def _split_processor(directory: Path, *, wrapper: bool) -> dict[str, Any]:
    """Put the image processor into its own file; returns its settings."""
    whole = read_json(directory / "processor_config.json")
    image: dict[str, Any] = {
        **whole["image_processor"],
        "processor_class": whole["processor_class"],
    }
    write_json(directory / "preprocessor_config.json", image)
    if wrapper:
        kept = {key: whole[key] for key in _WRAPPER_KEYS if key in whole}
        write_json(directory / "processor_config.json", kept)
    else:
        drop_files(directory, "processor_config.json")
    return image


def _split_tokenizer(directory: Path, *, byte_level: bool) -> None:
    """Move the template into JSON, and spell the added tokens out where 4.x kept them."""
    template = (directory / "chat_template.jinja").read_text(encoding="utf-8")
    drop_files(directory, "chat_template.jinja")
    write_json(directory / "chat_template.json", {"chat_template": template})
    content = read_json(directory / "tokenizer.json")
    added = content["added_tokens"]
    config = read_json(directory / "tokenizer_config.json")
    config.pop("backend")
    roles = {key: config[key] for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    extra = [token["content"] for token in added if token["content"] not in roles.values()]
    write_json(
        directory / "tokenizer_config.json",
        {
            **config,
            "add_prefix_space": False if byte_level else None,
            "added_tokens_decoder": {
                str(token["id"]): {key: value for key, value in token.items() if key != "id"}
                for token in added
            },
            "additional_special_tokens": extra,
            "chat_template": template,
            "clean_up_tokenization_spaces": False,
        },
    )
    write_json(
        directory / "special_tokens_map.json",
        {"additional_special_tokens": extra}
        | {key: value for key, value in roles.items() if value is not None},
    )
    write_json(directory / "added_tokens.json", {token["content"]: token["id"] for token in added})
    if byte_level:
        write_json(directory / "vocab.json", content["model"]["vocab"])
        merges = [" ".join(merge) for merge in content["model"]["merges"]]
        text = "\n".join(["#version: 0.2", *merges]) + "\n"
        (directory / "merges.txt").write_text(text, encoding="utf-8")


def _set_version(directory: Path, version: str) -> None:
    path = directory / "generation_config.json"
    write_json(path, {**read_json(path), "transformers_version": version})
