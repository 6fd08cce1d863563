"""What `moe-harness list` shows: backends and what they can do here, or one model's anatomy."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from moe_harness.implementations import families, registry
from moe_harness.implementations.checkpoint.checkpoint import CONFIG, parse_config, read_config
from moe_harness.implementations.families.weights import parameter_counts
from moe_harness.implementations.interface import Capabilities, ModelConfig, RoutingSpec
from moe_harness.judge.verdict import grade


def describe_backends() -> None:
    """One row per backend: availability, execution, grade, dtypes, families, features; then what each says that it leaves out."""
    table = Table("backend", "here", "runs on", "grade", "variants", "dtypes", "families", "features", box=None, header_style="bold")
    left_out: list[str] = []
    for name in registry.names():
        found = _capabilities(name)
        table.add_row(name, *_backend_row(found))
        sentences = getattr(found, "left_out", ())
        left_out += [f"\n{name} leaves out", *(f"- {sentence}" for sentence in sentences)] if sentences else []
    Console().print(table, *left_out, sep="\n")


def _capabilities(name: str) -> Capabilities | Exception:
    """A broken plug-in is shown; it does not hide the others."""
    try:
        return registry.backend(name).capabilities()
    except Exception as error:
        return error


def _backend_row(found: Capabilities | Exception) -> list[str]:
    if isinstance(found, Exception):
        return [f"broken: {found}", *[""] * 6]
    runs_on = " | ".join(found.devices) or found.execution
    runs_on += f" ({found.execution_note})" if found.execution_note else ""
    lists = (found.variants, found.dtypes, found.families, found.features)
    return [found.unavailable or "yes", runs_on, grade(found), *(", ".join(values) for values in lists)]


def describe_model(what: str) -> None:
    """Family, parameters and routing of a config.json, an HF directory or a known model; of a known router its routing. Raises
    CheckpointError, FileNotFoundError."""
    routers = {name: family.parse(raw) for family in families.routing_families().values() for name, raw in family.public.items()}
    rows = {"experts": describe_routing(routers[what]), "described": "its router alone"} if what in routers else _model_rows(what)
    table = Table(box=None, show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


def _model_rows(what: str) -> dict[str, str]:
    config = read_model(what)
    total, active = parameter_counts(config)
    return {
        "architecture": f"{config.architecture} (family {config.family})",
        "parameters": f"{_count(total)} total, {_count(active)} active per token",
        "layers": f"{config.num_hidden_layers}, of which {len(config.moe_layers)} with experts",
        "experts": describe_routing(config.routing),
        "shared expert": _shared(config),
        "dimensions": f"hidden {config.hidden_size}, expert FFN {config.moe_intermediate_size}, vocabulary {config.vocab_size}",
        "attention": f"{config.num_attention_heads} heads of {config.head_dim}, {config.num_key_value_heads} key/value heads"
        + ("" if config.qk_norm == "none" else f", QK-norm over each {config.qk_norm}"),
        "positions": f"{config.max_position_embeddings}, RoPE base {config.rope_theta:g}, window {config.sliding_window or 'none'}",
        "weights": f"{config.dtype}, head {'tied to the embedding' if config.tie_word_embeddings else 'of its own'}",
    }


def describe_routing(spec: RoutingSpec) -> str:
    """A RoutingSpec in words, in the order in which it is applied."""
    parts = [f"{spec.num_experts}, top-{spec.top_k}", "logits biased" if spec.router_bias else "", spec.scoring]
    parts += ["correction bias" if spec.correction_bias else ""]
    parts += [f"{spec.top_groups} of {spec.num_groups} groups" if spec.num_groups > 1 else ""]
    parts += ["renormalised" if spec.normalize_topk else "not renormalised"]
    parts += [f"times {spec.scaling_factor:g}" if spec.scaling_factor != 1 else ""]
    return ", ".join(filter(None, parts))


def _shared(config: ModelConfig) -> str:
    if config.shared_expert == "none":
        return "none"
    return f"{config.shared_expert}, FFN {config.shared_expert_intermediate_size}"


def read_model(what: str) -> ModelConfig:
    """The config of a known model's name, an HF directory or a config.json. Raises CheckpointError, FileNotFoundError."""
    public = {name: raw for family in families.families().values() for name, raw in family.public.items()}
    if what in public:
        return parse_config(public[what], what)[1]
    path = Path(what)
    if not path.exists():
        raise FileNotFoundError(f"{what}: no such file, directory or known model ({', '.join(sorted(public))})")
    return parse_config(read_config(path if path.is_dir() else path.parent, CONFIG if path.is_dir() else path.name), path)[1]


def _count(parameters: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if parameters >= size:
            return f"{parameters / size:.2f} {unit}"
    return str(parameters)
