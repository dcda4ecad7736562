"""The settings of a model and of a run: frozen dataclasses, checked on creation, written as strict JSON. No torch."""

from vitrail.config.compute import CheckpointConfig, ComputeConfig, ParallelConfig
from vitrail.config.preprocessing import Preprocessing
from vitrail.config.run import (
    AugmentConfig,
    DataConfig,
    DistillConfig,
    EvaluationConfig,
    InitConfig,
    OptimConfig,
    PretrainConfig,
    ProbeConfig,
    RunConfig,
    ScheduleConfig,
)
from vitrail.config.strict_json import from_json, to_json
from vitrail.config.vit import ArchitectureConfig, ViTConfig

__all__ = [
    "ArchitectureConfig",
    "AugmentConfig",
    "CheckpointConfig",
    "ComputeConfig",
    "DataConfig",
    "DistillConfig",
    "EvaluationConfig",
    "InitConfig",
    "OptimConfig",
    "ParallelConfig",
    "Preprocessing",
    "PretrainConfig",
    "ProbeConfig",
    "RunConfig",
    "ScheduleConfig",
    "ViTConfig",
    "from_json",
    "to_json",
]
