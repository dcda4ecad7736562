"""The names that `import vitrail` offers: taking one away, or adding one, is a line in CHANGELOG.md."""

import vitrail

PUBLIC = {
    "BatchPredictor",
    "Card",
    "ConfigError",
    "DataConfig",
    "DataError",
    "EngineOptions",
    "Evaluation",
    "Explanation",
    "ExportOptions",
    "Exported",
    "ExportedPredictor",
    "Explanations",
    "Faithfulness",
    "ImageError",
    "ImageSet",
    "InputError",
    "Interrupted",
    "Prediction",
    "Predictor",
    "Preprocessing",
    "RankLost",
    "Ranked",
    "RunConfig",
    "RunError",
    "RunResult",
    "SaveError",
    "ViT",
    "ViTConfig",
    "VitrailError",
    "WeightsError",
    "calibrate",
    "check_data",
    "compare",
    "evaluate",
    "explain",
    "export",
    "features",
    "finetune",
    "load",
    "load_data",
    "predict",
    "pretrain",
    "recipes",
    "record_attention",
    "report",
    "save",
    "train",
}


def test_the_public_names_are_the_listed_ones() -> None:
    assert set(vitrail.__all__) == PUBLIC


def test_each_name_is_there_under_its_own_name() -> None:
    for name in PUBLIC:
        value = getattr(vitrail, name)
        assert value.__name__.removeprefix("vitrail.") == name


def test_a_wrong_name_is_an_attribute_error() -> None:
    assert not hasattr(vitrail, "ViTT")
