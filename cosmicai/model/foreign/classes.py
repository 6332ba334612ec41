"""The classes that a network may be made of, and what each attribute of their objects means.

A pickled module is complete: every attribute is in the file. For each class there is an
entry here that names every attribute which the class may have, in one of these ways:

read      a value that the network is built from
must      one that has to have this value, because that is what we compute
ignored   one that changes no result in inference
needed    of those above, what has to be there, because another version of the class lacks it

and the same for its tensors and its children. Anything else is refused by name. What a class computes with them
is in its code, which a pickle does not hold; it was read in torch 1.13 to 2.13, timm 0.4.12 to 1.0.31 and
AstroMAE's public code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
MUST_BE_EMPTY = frozenset(_HOOKS)
MODULE_IGNORED = frozenset(
    {
        "training",  # inference calls eval()
        "_backward_hooks",
        "_backward_pre_hooks",
        "_is_full_backward_hook",
        "_non_persistent_buffers_set",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
        "_version",
        "_compiled_call_impl",
        "_is_torch_compile",  # what torch.compile sets on a module that it has compiled
    }
)
"""What torch.nn.Module gives every object (its __init__), and what changes no result of it."""

Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class Kind:
    """A class of stored objects. role: what it is in a network; classes of one role are read alike."""

    role: str
    names: tuple[str, ...]
    read: frozenset[str] = frozenset()
    must: Mapping[str, Scalar | tuple[Scalar, ...]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()
    tensors: frozenset[str] = frozenset()
    unused_tensors: frozenset[str] = frozenset()
    children: frozenset[str] = frozenset()
    idle: frozenset[str] = frozenset()  # children that must compute nothing: dropout, identity
    unused: frozenset[str] = frozenset()  # children that its forward does not call
    any_child: bool = False  # a container
    any_attribute: bool = False  # a wrapper, whose attributes do not matter

    @property
    def is_wrapper(self) -> bool:
        return self.role == "wrapper"


def _kind(role: str, names: str, **parts: object) -> Kind:
    """Names and parts as words of a text."""
    words = {key: frozenset(value.split()) if isinstance(value, str) else value for key, value in parts.items()}
    return Kind(role, tuple(names.split()), **words)  # type: ignore[arg-type]


_NN = "torch.nn.modules"

WRAPPERS = (
    _kind("wrapper", "torch.nn.parallel.data_parallel.DataParallel", any_attribute=True, children="module"),
    _kind(
        "wrapper",
        "torch.nn.parallel.distributed.DistributedDataParallel",
        any_attribute=True,
        children="module",
    ),
    _kind("wrapper", "torch._dynamo.eval_frame.OptimizedModule", any_attribute=True, children="_orig_mod"),
    _kind(
        "wrapper",
        "torch.optim.swa_utils.AveragedModel",
        any_attribute=True,
        children="module",
        unused_tensors="n_averaged",
    ),
    _kind(
        "wrapper",
        "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.CheckpointWrapper",
        any_attribute=True,
        children="_checkpoint_wrapped_module",
    ),
)

_LAYERS = (
    _kind("container", f"{_NN}.container.Sequential {_NN}.container.ModuleList", any_child=True),
    _kind("linear", f"{_NN}.linear.Linear", ignored="in_features out_features", tensors="weight bias"),
    _kind(
        "convolution",
        f"{_NN}.conv.Conv2d",
        read="stride padding dilation groups",
        must={"padding_mode": "zeros"},
        # the weight's shape says all that these do; padding that is repeated is of other modes than zeros
        ignored="in_channels out_channels kernel_size output_padding transposed "
        "_reversed_padding_repeated_twice",
        needed="stride padding dilation groups",
        tensors="weight bias",
    ),
    _kind(
        "layer norm",
        f"{_NN}.normalization.LayerNorm timm.layers.norm.LayerNorm",
        read="eps normalized_shape",
        ignored="elementwise_affine _fast_norm",
        needed="eps normalized_shape",
        tensors="weight bias",
    ),
    _kind(
        "batch norm",
        f"{_NN}.batchnorm.BatchNorm2d {_NN}.batchnorm.SyncBatchNorm",
        read="eps",
        # in inference the statistics are used wherever there are any, whatever track_running_stats says
        ignored="num_features momentum affine track_running_stats process_group",
        needed="eps",
        tensors="weight bias running_mean running_var",
        unused_tensors="num_batches_tracked",
    ),
    _kind(
        "idle",
        f"{_NN}.dropout.Dropout {_NN}.dropout.Dropout1d {_NN}.dropout.Dropout2d {_NN}.dropout.AlphaDropout "
        f"{_NN}.dropout.FeatureAlphaDropout {_NN}.linear.Identity "
        "timm.models.layers.drop.DropPath timm.layers.drop.DropPath",
        ignored="p inplace drop_prob scale_by_keep",
    ),
    _kind(
        "average pool",
        f"{_NN}.pooling.AvgPool2d",
        read="kernel_size stride padding",
        must={"ceil_mode": False, "count_include_pad": True, "divisor_override": None},
        needed="kernel_size stride padding",
    ),
    _kind(
        "max pool",
        f"{_NN}.pooling.MaxPool2d",
        read="kernel_size stride padding dilation",
        must={"ceil_mode": False, "return_indices": False},
        needed="kernel_size stride padding dilation",
    ),
    _kind(
        "flatten", f"{_NN}.flatten.Flatten", must={"start_dim": 1, "end_dim": -1}, needed="start_dim end_dim"
    ),
    _kind("relu", f"{_NN}.activation.ReLU", ignored="inplace"),
    _kind("silu", f"{_NN}.activation.SiLU", ignored="inplace"),
    _kind("gelu", f"{_NN}.activation.GELU", read="approximate"),  # torch before 1.12 has no other than 'none'
    _kind("tanh", f"{_NN}.activation.Tanh"),
    _kind("sigmoid", f"{_NN}.activation.Sigmoid"),
    _kind(
        "leaky_relu",
        f"{_NN}.activation.LeakyReLU",
        read="negative_slope",
        needed="negative_slope",
        ignored="inplace",
    ),
    _kind("elu", f"{_NN}.activation.ELU", read="alpha", needed="alpha", ignored="inplace"),
)
ACTIVATIONS = ("relu", "silu", "gelu", "tanh", "sigmoid", "leaky_relu", "elu")

_TIMM = "timm.models.vision_transformer"

_NETWORK = (
    _kind(
        "astromae",
        "blocks.model_vit_inception.ViT_Astro",
        ignored="embed_dim",
        tensors="cls_token pos_embed",
        children="patch_embed blocks fc_norm head vit_block inception_model concat_block",
    ),
    _kind(
        "inception model",
        "blocks.photoz.Input_Mix_Model",
        must={"Inception_only": False, "magnitude": True, "uk_paper": False},
        needed="Inception_only magnitude uk_paper",
        ignored="embed_dim device config",
        children="vis_inception magnitude_block conv2d_init",
        unused="avgpool avgpool2",  # used through vis_inception alone
    ),
    _kind(
        "inception block",
        "blocks.photoz.InceptionBlock",
        read="is_custom",
        needed="is_custom",
        children="branch1 branch2 branch3 branch4",
    ),
    _kind("unit", "blocks.photoz.ConvBlock", children="conv bn"),
    _kind(
        "cell",
        "NormalCell.NormalCell",
        must={"class_token": True},
        needed="class_token",
        children="norm1 attn norm2 mlp PCM",
        idle="drop_path",
    ),
    _kind(
        "block",
        f"{_TIMM}.Block",
        children="norm1 attn norm2 mlp ls1 ls2",
        idle="drop_path drop_path1 drop_path2",
    ),
    _kind(
        "scale",
        f"{_TIMM}.LayerScale timm.layers.layer_scale.LayerScale",
        ignored="inplace init_values",
        tensors="gamma",
    ),
    _kind(
        "attention",
        f"NormalCell.Attention {_TIMM}.Attention timm.layers.attention.Attention",
        read="num_heads scale fused_attn head_dim",
        must={"gate": None},
        ignored="attn_dim",
        needed="num_heads scale",
        tensors="q_bias v_bias",
        children="qkv proj",
        idle="attn_drop proj_drop q_norm k_norm norm",
    ),
    _kind(
        "mlp",
        f"NormalCell.Mlp timm.models.layers.mlp.Mlp timm.layers.mlp.Mlp {_TIMM}.Mlp",
        ignored="hidden_features",
        children="fc1 act fc2",
        idle="drop drop1 drop2 norm",
    ),
    _kind(
        "patches",
        "timm.models.layers.patch_embed.PatchEmbed timm.layers.patch_embed.PatchEmbed " + f"{_TIMM}.PatchEmbed",
        read="img_size grid_size",
        must={"flatten": True, "dynamic_img_pad": False},
        ignored="patch_size num_patches strict_img_size output_fmt",  # the convolution's stride counts
        children="proj",
        idle="norm",
    ),
)

KINDS: dict[str, Kind] = {name: kind for kind in (*WRAPPERS, *_LAYERS, *_NETWORK) for name in kind.names}

_OWN = (
    "astromae",
    "inception model",
    "inception block",
    "unit",
    "cell",
    "block",
    "attention",
    "mlp",
    "patches",
)
_BY_NAME = {name.rpartition(".")[2]: kind for kind in _NETWORK if kind.role in _OWN for name in kind.names}


def kind_of(dotted: str, by_name: bool = False) -> Kind | None:
    """A class's entry, by its dotted name; `__main__` is where a notebook has its classes.

    by_name: by its last part alone, for those of AstroMAE's code and timm that have been moved.
    """
    module, _, name = dotted.rpartition(".")
    known = KINDS.get(dotted)
    if known is None and (by_name or module == "__main__"):
        return _BY_NAME.get(name)
    return known
