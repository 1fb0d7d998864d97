"""The options of a training: flags of `mail-ris train`, arguments for whoever trains in Python."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from mail import addresses
from pipelines.options import Address, HubName, ModelAddress, Options, Target
from pipelines.training.shares import Workers


@dataclass(kw_only=True)
class ModelOverrides:
    """Changes to the preset's network (see `mail.model.MailConfig`); what is not given stays the preset's."""

    tower: Literal["vilt", "beit3"] | None = None
    """Which encoder it is built as: ViLT's blocks, or BEiT-3's with an expert for each modality."""
    image_size: int | None = None
    """Side of the square canvas in pixels."""
    patch_size: int | None = None
    """Side of a patch in pixels."""
    hidden_size: int | None = None
    """Width of the encoder."""
    num_hidden_layers: int | None = None
    """Layers of the encoder."""
    num_attention_heads: int | None = None
    """Attention heads."""
    intermediate_size: int | None = None
    """Width of the feed-forward layers."""
    max_text_length: int | None = None
    """Word pieces that are kept of an expression."""
    mask_stride: int | None = None
    """Canvas pixels per cell of instance masks, targets and outputs."""
    mask_modality: Literal["none", "channels", "tokens"] | None = None
    """How instance masks enter the network."""
    max_instances: int | None = None
    """Instance slots; the best-scored proposals are kept."""
    attention: Literal["joint", "one_way"] | None = None
    """Whether words and patches attend to instances as well (joint), or instances to them only (one_way)."""
    coverage_bias: bool | None = None
    """Attention bias between an instance and the patches that it covers."""
    paste: bool | None = None
    """Add instances to the pixels that they cover, before the decoder."""
    selection: bool | None = None
    """Head and loss that say which proposal the expression means."""
    choice: Literal["one", "many"] | None = None
    """Whether one proposal is chosen, or each that belongs to what is meant."""
    direct: bool | None = None
    """Selected masks feed the mask logits directly."""
    pixel_share: float | None = None
    """Share of the mask losses that goes to the pixel decoder without the direct path."""
    decoder_dim: int | None = None
    """Channels of the decoder."""
    stem_dim: int | None = None
    """Channels of the shallow pixel stem."""
    loss_mask_bce: float | None = None
    """Weight of the mask's cross-entropy."""
    loss_mask_dice: float | None = None
    """Weight of the mask's Dice loss."""
    loss_selection: float | None = None
    """Weight of the selection loss."""
    loss_no_target: float | None = None
    """Weight of the no-target loss."""

    def given(self) -> dict[str, Any]:
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclass(kw_only=True)
class TrainConfig(Options):
    """What to train on what, how long and where."""

    preset: str | None = None
    """Network and recipe: tiny (CPU, minutes); vilt-b32 (the real size) and vilt-b16 (finer patches), which begin with
    dandelin/vilt-b32-mlm, fetched from the Hugging Face hub; beit3-base, beit3-base-480 and beit3-large, which begin
    with the file of their authors that --pretrained names. --pretrained FOLDER or none does without fetching."""

    from_: Annotated[ModelAddress | None, tyro.conf.arg(name="from")] = None
    """Instead of a preset: MODEL to go on from (folder, runs:/ID, models:/NAME@ALIAS), with its network, vocabulary and
    recipe: fine-tuning. For a few hundred photos; the defaults are 400 steps at half of the model's learning rate."""

    data: Address
    """Data store (local folder or s3://)."""

    masks: Address | None = None
    """Mask table that `precompute` filled for this data store. Not needed with --proposals none."""

    name: str
    """Name of the run."""

    out: Target | None = None
    """Folder of the run (default: runs/NAME)."""

    resume: bool = False
    """Go on with the run of this name from its newest checkpoint; starts it if there is none."""

    workers: Workers = 1
    """Train workers (one GPU each where there are GPUs); MIN..MAX to start with what there is and grow when nodes join.
    0: in this process, without Ray. Never changes the result."""

    proposals: Literal["table", "none"] = "table"
    """`none` trains the same network without the instance-mask modality (an ablation)."""

    proposer: Address | None = None
    """PROPOSER folder to bundle with the model, so that a photo alone is enough to predict."""

    proposer_id: str | None = None
    """Which proposer's masks to use, where the mask table has several."""

    split: str = "train"
    """Split to train on."""

    validation_split: str | None = None
    """Split to validate on at every checkpoint (default: `val`, if there is one). The checkpoint that it likes best is
    kept: name no split whose figures you want to report."""

    validation_expressions: int = 128
    """Expressions to validate on, evenly spread over the split; 0 leaves validation out."""

    rehearse: Address | None = None
    """With --from: data store of which a share is trained on as well, so that it is not forgotten: the one that the
    model was trained on."""

    rehearse_masks: Address | None = None
    """Its mask table (default: the one that the model was trained with)."""

    share: float = 0.3
    """Share of every step's expressions that is rehearsed, with --rehearse."""

    steps: int | None = None
    """Optimizer steps (default: the preset's; 400 with --from)."""

    patience: int | None = None
    """Validations without a better one after which the training ends; the best checkpoint becomes the model then
    (default: 6 with --from, else 0, for a training to the last step and its model)."""

    global_batch_size: int | None = None
    """Expressions in a step over all workers (default: the preset's)."""

    micro_batch_size: int | None = None
    """Expressions a worker computes in one pass at most; more are accumulated. Lower it when memory runs out."""

    learning_rate: float | None = None
    """Peak learning rate (default: the preset's; with --from, half of what the model was first trained with)."""

    optimizer: Literal["adamw", "muon"] | None = None
    """AdamW; or Muon for the matrices and AdamW for the rest (default: the preset's)."""

    because: str | None = None
    """Why --resume goes on with another --learning-rate; recorded in the model's lineage."""

    decay: Literal["cosine", "poly", "constant"] = "cosine"
    """Shape of the learning rate after the warm-up."""

    rule: Literal["all", "one-per-ref"] = "all"
    """What an epoch is: all expressions, or one random expression of every ref."""

    proposal_dropout: float | None = None
    """Share of images whose proposals are withheld in a step (default: the preset's)."""

    seed: int = 0
    """Seed of weights, data order and everything else that is random."""

    pretrained: HubName | None = None
    """Weights of the tower to start from: local folder (ViLT) or file (BEiT-3: beit3_base_patch16_224.pth), which every
    worker must see, or a name on the Hugging Face hub, which every worker fetches; `none` for none (default: the
    preset's). The vocabulary beside them is taken as well."""

    tokenizer: HubName | None = None
    """Vocabulary: vocab.txt, beit3.spm, folder or a name on the Hugging Face hub; `none` makes one from the training
    texts (default: the preset's)."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on GPUs that have it, fp32 elsewhere."""

    checkpoint_every: int | None = None
    """Steps between checkpoints (default: a tenth of the run, a twentieth with a --patience; at most 1000)."""

    keep_checkpoints: int = 2
    """Newest checkpoints to keep; the best on validation stays as well."""

    log_every: int = 10
    """Steps between records to MLflow; every step is recorded."""

    overlay_every: int | None = None
    """Validations from one set of four pictures of answers to the next; the last one always has them (default: about
    ten sets in the run; 0: none). The pictures are in OUT/overlays and in MLflow."""

    grow_every: float = 60.0
    """Seconds between two looks for room for more workers, with --workers MIN..MAX."""

    max_failures: int = 3
    """How often a lost worker is replaced, from the newest checkpoint, before the run gives up."""

    threads: int | None = None
    """Torch threads of a worker without GPU (default: its share of the CPUs)."""

    input_cpus: float | None = None
    """CPUs for the input tasks of each worker (default: what the workers leave free, shared)."""

    compile: Literal["auto", "no", "yes", "required"] = "auto"
    """Compile the network (torch.compile), which needs a C++ compiler and about a minute at a start; auto: on GPUs,
    where there are steps enough to earn that back. Where it fails the training goes on without; required: it ends."""

    allow_leaky: bool = False
    """Train although the proposer saw evaluation images; the model is labelled leaky for good."""

    parent_run: str | None = None
    """MLflow run that this one is shown under (`mail-ris tune` sets it)."""

    register: bool = True
    """Register the finished model in MLflow as `mail-ris`."""

    model: ModelOverrides = field(default_factory=ModelOverrides)

    @property
    def folder(self) -> str:
        """Address of the run."""
        return self.out or addresses.join("runs", self.name)


@dataclass(kw_only=True)
class StudyConfig(TrainConfig):
    """What to vary in a training, how often, and when a trial ends early."""

    space: tuple[str, ...]
    """What to vary: OPTION=A,B,C (one of them), OPTION=LOW:HIGH or OPTION=log:LOW:HIGH, with the options of `train`."""

    trials: int = 8
    """Number of trials."""

    metric: Literal["oIoU", "mIoU", "prec_50"] = "oIoU"
    """Validation score to compare by."""

    grace: float = 0.25
    """Share of the steps that every trial is given before it can be ended."""

    reduction: int = 3
    """Of so many trials at the same step, one goes on."""

    concurrent: int | None = None
    """Trials at the same time at most (default: as many as the cluster has room for)."""

    trial_cpus: float = 1.0
    """CPUs of a trial that trains in its own process (--workers 0)."""

    workers: Workers = 0
    """Train workers of each trial. 0: a trial trains in its own process, on one GPU where there are GPUs."""

    register: bool = False
    """Register every trial's model that is trained to the end."""
