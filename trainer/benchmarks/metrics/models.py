"""Settings of the models that metrics of images need."""

from pydantic import Field

from pipelines.images.text_match import MatchSettings
from pipelines.settings import Settings


class ModelPath(Settings):
    """Weights of a model that a metric needs; nothing is downloaded."""

    weights: str = Field(description="file of the weights; for box_iou the folder of a detector in transformers' form")
    model: str | None = Field(None, description="of dino: name of the model in timm; null: vit_small_patch16_224.dino")


class MetricModels(Settings):
    """The models of metrics that need one."""

    clip_t: MatchSettings | None = Field(None, description="CLIP of clip_t (Emu2: ViT-B)")
    clip_i: MatchSettings | None = Field(None, description="CLIP of clip_i (Emu2: ViT-L)")
    dino: ModelPath | None = Field(None, description="DINO (DreamBooth: ViT-S/16)")
    fid: ModelPath | None = Field(None, description="Inception: pt_inception-2015-12-05-6726825d.pth of pytorch-fid")
    box_iou: ModelPath | None = Field(None, description="detector of phrases (OWL-ViT, Grounding DINO)")
