"""The README.md of a model folder, with the hub's metadata header."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from unified_sess.model_io.model_folder import ONNX, ModelConfig
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path, read_text
from unified_sess.utils.metric_names import metric_label
from unified_sess.utils.yaml_files import read_yaml

LARGEST_CARD = 1_000_000  # bytes

MEASURES = "test_results.json"  # what the evaluation of a training leaves in its results folder
BODY = """
# {title}

One network that cleans a noisy mixture and separates its {num_spks} speakers, trained with gradient modulation
([Hu et al. 2023](https://arxiv.org/abs/2302.11131)); {parameters:.3g} M parameters, audio at {sample_rate} Hz.

{results}

## Use

Safe for untrusted models, nothing in this folder is executed:

```python
from unified_sess.inference import UnifiedSeparation

model = UnifiedSeparation.from_pretrained("FOLDER OR HUB ID")
sources = model.separate_file("mixture.wav")  # [1, time, {num_spks}] at {sample_rate} Hz
```

```
unified-sess separate mixture.wav --model "FOLDER OR HUB ID" --output-dir separated
```
"""
WITHOUT_TORCH = """
Without torch, `model.onnx` (opset 17) takes `mixture` `[batch, time]` at {sample_rate} Hz, float32 of any length, and gives `sources`
`[batch, time, {num_spks}]` and `enhanced` `[batch, time]`; its metadata say the rest.

```
unified-sess separate mixture.wav --model model.onnx --output-dir separated
```
"""
SPEECHBRAIN = """
With SpeechBrain, which runs this folder's `hyperparams.yaml`, `custom.py` and checkpoints:

```python
from speechbrain.inference.interfaces import foreign_class
from speechbrain.inference.separation import SepformerSeparation

model = SepformerSeparation.from_hparams(source="FOLDER OR HUB ID")  # needs unified_sess installed
model = foreign_class(source="FOLDER OR HUB ID", pymodule_file="custom.py", classname="CustomInterface")
```
"""


def write_model_card(
    folder: str | Path,
    config: ModelConfig,
    modules: Mapping[str, nn.Module],
    evaluations: Sequence[EvalResult] = (),
    title: str = "Speech enhancement and separation",
    notes: str = "",
) -> None:
    """Write `README.md`.

    Arguments
    ---------
    folder : str or Path
        The model folder.
    config : ModelConfig
        Speakers and sample rate.
    modules : mapping of torch.nn.Module
        For the number of parameters.
    evaluations : list of EvalResult
        Of the test part, from `evaluations_of` or `read_evaluations`; empty for a model that was not measured.
    title : str
        First heading.
    notes : str
        Text of the model's own, at the end.
    """
    data = ModelCardData(
        library_name="unified_sess",
        pipeline_tag="audio-to-audio",
        tags=["speech-separation", "speech-enhancement", "speechbrain", "unified_sess"],
        model_name=title if evaluations else None,
        eval_results=list(evaluations) or None,
    )
    text = BODY.format(
        title=title,
        num_spks=config.num_spks,
        sample_rate=config.sample_rate,
        parameters=sum(p.numel() for module in modules.values() for p in module.parameters()) / 1e6,
        results=_table(evaluations),
    )
    if (Path(folder) / ONNX).is_file():
        text += WITHOUT_TORCH.format(num_spks=config.num_spks, sample_rate=config.sample_rate)
    if (Path(folder) / "hyperparams.yaml").is_file():
        text += SPEECHBRAIN
    with atomic_path(Path(folder) / "README.md") as temporary:
        Path(temporary).write_text(f"---\n{data.to_yaml()}\n---\n{text}{notes}", encoding="utf-8")


def evaluations_of(results: str | Path) -> list[EvalResult]:
    """What the evaluation of a training measured, as the hub's records; none where it was not measured.

    Raises
    ------
    UserError
        Naming the summary in the results folder that cannot be read.
    """
    path = Path(results) / MEASURES
    if not path.is_file():
        return []
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        measured = {name: entry for name, entry in summary["metrics"].items() if entry["mean"] is not None}
        return [
            EvalResult(
                task_type="audio-to-audio",
                task_name="Speech separation",
                dataset_type="test",
                dataset_name=f"{entry['count']} mixtures of the test part",  # those where it is defined
                metric_type=name,
                metric_name=metric_label(name),
                metric_value=entry["mean"],
            )
            for name, entry in measured.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is no summary of results: evaluate again") from None


def read_evaluations(folder: str | Path) -> list[EvalResult]:
    """The records in the card of a model folder; none where there is no card or it cannot be read."""
    try:
        # The hub's own reader follows a header's aliases without end; this one bounds them.
        read_yaml(read_text(Path(folder) / "README.md", LARGEST_CARD).split("---")[1], folder)
        return ModelCard.load(Path(folder) / "README.md").data.eval_results or []
    except Exception:  # noqa: BLE001 - a card of any kind, also of an untrusted model, must not keep its model from loading
        return []


def _table(evaluations):
    if not evaluations:
        return "It was not measured on a test part."
    lines = ["| measure | mean | over |", "|---|---|---|"]
    lines += [f"| {e.metric_name or e.metric_type} | {e.metric_value} | {e.dataset_name} |" for e in evaluations]
    return "\n".join(lines)
